//! Every block of code in `docs/`, run as its reader would: scripts and tests of scripts in the relay, configurations
//! read, commands parsed.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use moonwire::config;

use crate::reference::{failures, script_failures, whole};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

struct Block {
    kind: String,
    line: usize,
    text: String,
}

/// Blocks between fences, with what stands behind the opening one.
fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = None;
    for (number, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(kind), None) => {
                open = Some(Block { kind: kind.trim().to_owned(), line: number + 1, text: String::new() });
            }
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // The reference has its own test, from the tables that its pages are made of.
        if path.is_dir() && path.file_name().is_some_and(|name| name != "reference") {
            pages(&path, found);
        } else if path.extension().is_some_and(|end| end == "md") {
            found.push(path);
        }
    }
    found.sort();
}

fn toml(text: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let app = if text.contains("[[app]]") {
        ""
    } else {
        "\n[[app]]\nname = \"chat\"\npath = \"/chat/{room}\"\nscript = \"scripts/chat.lua\"\n"
    };
    let file = folder.path().join("config.toml");
    // A block that sets something of an app comes behind one.
    let text = if text.contains("[app.") && !text.contains("[[app]]") {
        format!("{app}{text}")
    } else {
        format!("{text}{app}")
    };
    fs::write(&file, text).unwrap();
    config::load(Some(&file), &[]).err().map(|error| error.to_string()).into_iter().collect()
}

/// Feeds `text` to a program; None if it is not on this machine.
fn fed(program: &str, args: &[&str], text: &str) -> Option<Vec<String>> {
    let child =
        Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.ok()?;
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    Some(if output.status.success() { Vec::new() } else { vec![said] })
}

fn shell(text: &str) -> Vec<String> {
    let mut wrong = fed("bash", &["-n"], text).expect("bash is on every machine that this runs on");
    for line in text.lines() {
        wrong.extend(command(line));
    }
    wrong
}

/// What a shell prints is not looked at; what is typed is.
fn console(text: &str) -> Vec<String> {
    let typed: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    if typed.is_empty() { vec!["no line begins with $".to_owned()] } else { shell(&typed.join("\n")) }
}

/// The words of a command, those in quotes whole.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => quote = Some(c),
            (c, None) if c.is_whitespace() => {
                words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()))
            }
            (c, _) => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

/// Whether `moonwire` takes a command: everything up to the shell's own signs, and then `--help` in the place of doing it.
fn command(line: &str) -> Option<String> {
    let mut words = words(line).into_iter().skip_while(|word| word.contains('=') || *word == "sudo");
    if words.next().as_deref() != Some("moonwire") {
        return None;
    }
    let ends = |word: &str| word.starts_with(['|', '>', '<', '&', '#', ';']) || word.starts_with("2>");
    let args: Vec<String> = words.take_while(|word| !ends(word)).collect();
    let output = Command::new(env!("CARGO_BIN_EXE_moonwire")).args(&args).arg("--help").output().unwrap();
    (!output.status.success()).then(|| format!("{line}\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// A unit file: sections, settings, and a command that there is.
fn unit(text: &str) -> Vec<String> {
    let is_line = |line: &&str| {
        let line = line.trim();
        !(line.is_empty()
            || line.starts_with('#')
            || line.starts_with('[') && line.ends_with(']')
            || line.contains('='))
    };
    let mut wrong: Vec<String> = text.lines().filter(is_line).map(|line| format!("no setting: {line}")).collect();
    for start in text.lines().filter_map(|line| line.strip_prefix("ExecStart=")) {
        let (_, args) = start.split_once("moonwire").unwrap_or(("", start));
        wrong.extend(command(&format!("moonwire{args}")));
    }
    wrong
}

/// A proxy's configuration: statements that end and blocks that close.
fn statements(text: &str) -> Vec<String> {
    let mut depth = 0i32;
    let mut wrong = Vec::new();
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        match line.chars().next_back() {
            None | Some(';') => {}
            Some('{') => depth += 1,
            Some('}') => depth -= 1,
            Some(_) => wrong.push(format!("this does not end: {line}")),
        }
    }
    if depth != 0 {
        wrong.push("its blocks do not close".to_owned());
    }
    wrong
}

#[test]
fn every_block_of_code_in_the_docs_runs() {
    let mut files = Vec::new();
    pages(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs"), &mut files);
    let (mut wrong, mut ran) = (Vec::new(), 0);
    for file in files {
        let mut script = String::new();
        for Block { kind, line, text } in blocks(&fs::read_to_string(&file).unwrap()) {
            let failures = match kind.as_str() {
                "lua" => {
                    let whole = whole(&text);
                    if text.trim_end().ends_with("return app") {
                        script = whole.clone();
                    }
                    script_failures("/chat/{room}", SECRET, "/chat/lobby?name=ann", &whole)
                }
                "lua test" if script.is_empty() => vec!["there is no whole script above it".to_owned()],
                "lua test" => failures("/chat/{room}", SECRET, &script, &text),
                "toml" => toml(&text),
                "json" => {
                    serde_json::from_str::<serde_json::Value>(&text).err().map(|e| e.to_string()).into_iter().collect()
                }
                "sh" => shell(&text),
                "console" => console(&text),
                "ini" => unit(&text),
                "nginx" => statements(&text),
                other => vec![format!("nothing runs blocks of the kind `{other}`")],
            };
            ran += 1;
            let file = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(&file).display();
            wrong.extend(failures.into_iter().map(|failure| format!("{file}:{line} ({kind}): {failure}\n{text}")));
        }
    }
    assert!(ran > 40, "only {ran} blocks were found");
    assert!(wrong.is_empty(), "{} of {ran} blocks fail:\n\n{}", wrong.len(), wrong.join("\n\n"));
}
