//! Holds the project to ARCHITECTURE.md, whose tables this reads, and to a few rules that no lint knows.
//!
//! When a test here fails, either the code has taken a way that it should not, or the page no longer says what is
//! true; the message says which line of which file it is about.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

// ── the code ──

#[test]
fn imports_are_those_of_the_table() {
    let page = read("ARCHITECTURE.md");
    let allowed = table(&page, "Allowed imports");
    let modules = modules();
    let rows: Vec<&str> = allowed.iter().map(|row| row[0][0].as_str()).collect();
    let mut wrong = Findings::default();
    for module in &modules {
        wrong
            .when(!rows.contains(&module.as_str()), || format!("ARCHITECTURE.md: the table has no row for `{module}`"));
    }
    for row in &rows {
        wrong.when(!modules.contains(*row), || format!("ARCHITECTURE.md: src/ has no module `{row}`"));
    }
    let real = imports(&modules);
    for row in &allowed {
        let module = &row[0][0];
        let (down, back) = (&row[1], &row[2]);
        let place = |name: &str| rows.iter().position(|row| *row == name);
        for name in down {
            wrong.when(place(name) <= place(module), || {
                format!("ARCHITECTURE.md: `{module}` imports `{name}`, which does not stand below it: such ones belong in the last column")
            });
        }
        for name in back {
            wrong.when(place(name) > place(module), || {
                format!("ARCHITECTURE.md: `{name}` stands below `{module}`: that is no way back")
            });
        }
        let of_module = real.get(module).cloned().unwrap_or_default();
        for (name, at) in &of_module {
            wrong.when(!down.contains(name) && !back.contains(name), || {
                format!("{at}: `{module}` may not import `{name}`")
            });
        }
        for name in down.iter().chain(back) {
            wrong.when(!of_module.contains_key(name), || {
                format!("ARCHITECTURE.md: `{module}` no longer imports `{name}`; take it out of the table")
            });
        }
    }
    wrong.none();
}

#[test]
fn outside_crates_have_the_doors_of_the_table() {
    let page = read("ARCHITECTURE.md");
    let mut wrong = Findings::default();
    for row in table(&page, "Doors of outside crates") {
        let (names, doors) = (&row[0], &row[1]);
        let mut used = BTreeSet::new();
        for source in sources("src") {
            for (name, line) in source.crates() {
                if !names.contains(&name) {
                    continue;
                }
                let door = doors
                    .iter()
                    .find(|door| source.path == **door || (door.ends_with('/') && source.path.starts_with(*door)));
                wrong.when(door.is_none(), || {
                    format!("{}:{line}: `{name}` is for {} only", source.path, doors.join(", "))
                });
                used.extend(door);
            }
        }
        for door in doors {
            wrong.when(!used.contains(door), || format!("ARCHITECTURE.md: {door} no longer uses {}", names.join(", ")));
        }
    }
    wrong.none();
}

#[test]
fn nothing_is_unsafe_unfinished_ignored_or_slept_through() {
    const SLEEPS: [(&str, &str); 2] = [
        ("src/script/budget.rs", "the ticker: to let time pass is what it is for"),
        ("src/control.rs", "a lock on a folder tells nobody when it is free"),
    ];
    let mut wrong = Findings::default();
    for source in sources("src").into_iter().chain(sources("tests")) {
        let path = &source.path;
        let tokens = &source.all;
        for (at, token) in tokens.iter().enumerate() {
            let follows = |texts: &[&str]| {
                texts.iter().enumerate().all(|(n, text)| tokens.get(at + 1 + n).is_some_and(|next| next.text == *text))
            };
            let line = token.line;
            match token.text.as_str() {
                "unsafe" if path != "src/script/raw.rs" => {
                    wrong.add(format!("{path}:{line}: unsafe code has its place in src/script/raw.rs"));
                }
                "todo" | "unimplemented" if follows(&["!"]) => wrong.add(format!("{path}:{line}: unfinished")),
                "#" if follows(&["[", "ignore"]) => {
                    wrong.add(format!("{path}:{line}: a test that does not run tests nothing"))
                }
                "thread" if is_path(tokens, at + 1) && !SLEEPS.iter().any(|(file, _)| file == path) => {
                    let mut names = Vec::new();
                    heads(tokens, at + 3, &mut names);
                    let sleeps = names.iter().any(|name| name == "sleep");
                    wrong.when(sleeps, || format!("{path}:{line}: wait for what you wait for, not for time to pass"));
                }
                _ => {}
            }
        }
    }
    wrong.none();
}

// ── the project ──

#[test]
fn no_file_names_a_machine_or_a_registry() {
    // Put together here, so that this file does not contain them.
    let words = [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["static.crates", ".io"],
        ["index.crates", ".io"],
        ["//crates", ".io"],
        ["registry.npm", "js.org"],
        ["registry.yarn", "pkg.com"],
        ["py", "pi.org"],
        ["files.python", "hosted.org"],
        ["deb.deb", "ian.org"],
    ]
    .map(|parts| parts.concat());
    let mut wrong = Findings::default();
    for path in files("") {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in text.lines().enumerate() {
            for word in &words {
                wrong.when(line.contains(word.as_str()), || format!("{path}:{}: contains {word}", number + 1));
            }
        }
    }
    wrong.none();
}

#[test]
fn every_example_has_a_readme_and_a_script() {
    let mut examples: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in files("examples") {
        let mut parts = path.split('/').skip(1);
        if let (Some(example), Some(file)) = (parts.next(), parts.next()) {
            examples.entry(example.to_owned()).or_default().push(file.to_owned());
        }
    }
    let mut wrong = Findings::default();
    wrong.when(examples.is_empty(), || "examples/: there are none".to_owned());
    for (example, files) in examples {
        wrong.when(!files.iter().any(|file| file == "README.md"), || format!("examples/{example}: has no README.md"));
        let is_script = |file: &String| file.ends_with(".lua") || file.ends_with(".luau");
        wrong.when(!files.iter().any(is_script), || format!("examples/{example}: has no script"));
    }
    wrong.none();
}

// ── the documents ──

#[test]
fn the_scripts_in_the_readme_are_those_of_the_files_that_it_names() {
    const MARK: &str = "<!-- script: ";
    let readme = read("README.md");
    let mut wrong = Findings::default();
    let mut blocks = 0;
    let mut before = "";
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        if line == "```lua" {
            blocks += 1;
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            match before.strip_prefix(MARK).and_then(|rest| rest.strip_suffix(" -->")) {
                Some(path) => {
                    let file = read(path);
                    let code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("--");
                    let file: Vec<&str> = file.lines().filter(code).collect();
                    let block: Vec<&str> = block.into_iter().filter(code).collect();
                    wrong.when(file != block, || {
                        format!("README.md: its script is not that of {path} (comments apart)")
                    });
                }
                None => wrong.add(format!("README.md: a script without `{MARK}path -->` on the line before it")),
            }
        }
        before = line;
    }
    wrong.when(blocks == 0, || "README.md: has no script".to_owned());
    wrong.none();
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let mut wrong = Findings::default();
    for path in files("").into_iter().filter(|path| path.ends_with(".md")) {
        let text = read(&path);
        for (number, line) in text.lines().enumerate() {
            for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let (file, heading) = link.split_once('#').unwrap_or((link, ""));
                if link.contains("://") {
                    continue;
                }
                let target = match file {
                    "" => path.clone(),
                    file => lexical(&Path::new(&path).with_file_name(file)),
                };
                let at = format!("{path}:{}", number + 1);
                if !root().join(&target).exists() {
                    wrong.add(format!("{at}: there is no {target}"));
                } else if !heading.is_empty() {
                    wrong.when(!headings(&read(&target)).contains(heading), || {
                        format!("{at}: {target} has no heading #{heading}")
                    });
                }
            }
        }
    }
    wrong.none();
}

#[test]
fn what_holds_an_invariant_is_there() {
    let page = read("ARCHITECTURE.md");
    let (_, section) = page.split_once("\n## Invariants\n").expect("ARCHITECTURE.md has a section `Invariants`");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut wrong = Findings::default();
    let mut named = 0;
    for quoted in section.split('`').skip(1).step_by(2) {
        let Some((path, test)) = quoted.split_once(".rs::") else { continue };
        named += 1;
        let path = format!("{path}.rs");
        let text = fs::read_to_string(root().join(&path)).unwrap_or_default();
        wrong.when(!text.contains(&format!("fn {test}(")), || format!("ARCHITECTURE.md: {path} has no test {test}"));
    }
    wrong.when(named == 0, || "ARCHITECTURE.md: the invariants name no test".to_owned());
    wrong.none();
}

// ── what was found ──

#[derive(Default)]
struct Findings(String);

impl Findings {
    fn add(&mut self, what: String) {
        let _ = writeln!(self.0, "  {what}");
    }

    fn when(&mut self, condition: bool, what: impl FnOnce() -> String) {
        if condition {
            self.add(what());
        }
    }

    #[track_caller]
    fn none(&self) {
        assert!(self.0.is_empty(), "\n{}", self.0);
    }
}

// ── files ──

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below `folder`, from the root of the project, without what is built or fetched.
fn files(folder: &str) -> Vec<String> {
    const NOT_OURS: [&str; 5] = [".git", "target", "node_modules", "__pycache__", "data"];
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let entry = entry.expect("a folder of the project can be read");
            let kind = entry.file_type().expect("and so can what is in it");
            if NOT_OURS.iter().any(|name| entry.file_name() == *name) {
                continue;
            } else if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path();
                let path = path.strip_prefix(root()).expect("it is below the root");
                found.push(path.to_str().expect("names of the project are UTF-8").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// `a/../b` is `b`.
fn lexical(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.to_str().expect("it comes from text").split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The names by which links reach the headings of a page.
fn headings(text: &str) -> BTreeSet<String> {
    let heading = |line: &str| {
        let title = line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' ')?;
        let kept = title.to_lowercase().replace(' ', "-");
        Some(kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect())
    };
    text.lines().filter_map(heading).collect()
}

/// The rows of the first table below a heading; of each cell, what is `quoted`.
fn table(page: &str, heading: &str) -> Vec<Vec<Vec<String>>> {
    let is_heading = |line: &&str| line.trim_start_matches('#').trim() == heading && line.starts_with('#');
    let lines = page.lines().skip_while(|line| !is_heading(line)).skip(1);
    let rows: Vec<_> = lines
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(quoted).collect())
        .collect();
    assert!(!rows.is_empty(), "ARCHITECTURE.md: no table below `{heading}`");
    rows
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

// ── Rust, as far as it concerns imports ──

/// The modules at the top of `src/`, with the binary as `main`.
fn modules() -> BTreeSet<String> {
    let lib = Source::new("src/lib.rs".to_owned());
    let declared = lib.code.windows(3).filter(|three| three[0].text == "mod" && three[2].text == ";");
    declared.map(|three| three[1].text.clone()).chain(["main".to_owned()]).collect()
}

/// What each module imports, with one place where it does. Tests are no part of it.
fn imports(modules: &BTreeSet<String>) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for source in sources("src") {
        let module = source.module();
        for (name, line) in source.reaches(modules) {
            if name != module {
                let of_module = all.entry(module.clone()).or_default();
                of_module.entry(name).or_insert(format!("{}:{line}", source.path));
            }
        }
    }
    all
}

struct Token {
    text: String,
    line: usize,
}

struct Source {
    path: String,
    /// Without comments and strings.
    all: Vec<Token>,
    /// The same without what is compiled for tests only.
    code: Vec<Token>,
    /// Modules in files of their own that are for tests only.
    test_files: Vec<String>,
}

/// The Rust files below a folder. Of those that are for tests only, `code` is empty.
fn sources(folder: &str) -> Vec<Source> {
    let paths = files(folder).into_iter().filter(|path| path.ends_with(".rs"));
    let mut sources: Vec<Source> = paths.map(Source::new).collect();
    let for_tests: BTreeSet<String> = sources.iter().flat_map(|source| source.test_files.clone()).collect();
    for source in &mut sources {
        if for_tests.contains(&source.path) {
            source.code.clear();
        }
    }
    sources
}

impl Source {
    fn new(path: String) -> Source {
        let all = tokens(&read(&path));
        let (code, modules) = without_tests(&all);
        let folder = match path.strip_suffix("/mod.rs").or(path.strip_suffix("/lib.rs")) {
            Some(folder) => folder.to_owned(),
            None => path.trim_end_matches(".rs").to_owned(),
        };
        let test_files =
            modules.iter().flat_map(|name| [format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")]);
        Source { test_files: test_files.collect(), path, all, code }
    }

    /// The module at the top of `src/` that it belongs to.
    fn module(&self) -> String {
        let below = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        below.split('/').next().unwrap_or(below).to_owned()
    }

    /// How many times `super` leads to the root of the crate.
    fn depth(&self) -> usize {
        let below = self.path.trim_start_matches("src/").trim_end_matches("/mod.rs");
        below.split('/').count()
    }

    /// The modules at the top of `src/` that it names a path to, with the lines.
    fn reaches(&self, modules: &BTreeSet<String>) -> Vec<(String, usize)> {
        let code = &self.code;
        let mut found = Vec::new();
        let mut at = 0;
        while at < code.len() {
            let begins = !is_path(code, at.wrapping_sub(2));
            let from_root = match code[at].text.as_str() {
                "crate" => true,
                "moonwire" => self.path == "src/main.rs",
                "super" => {
                    let mut supers = 1;
                    while is_path(code, at + 1) && code.get(at + 3).is_some_and(|next| next.text == "super") {
                        supers += 1;
                        at += 3;
                    }
                    // Within an inline module it leads less far; then the name is no module of the top.
                    supers >= self.depth()
                }
                _ => false,
            };
            let line = code[at].line;
            if begins && from_root {
                if is_path(code, at + 1) {
                    let mut names = Vec::new();
                    heads(code, at + 3, &mut names);
                    for name in names {
                        if modules.contains(&name) {
                            found.push((name, line));
                        } else if name == "*" || name == "self" {
                            panic!("{}:{line}: name what is imported of the root", self.path);
                        }
                    }
                } else if code.get(at + 1).is_some_and(|next| next.text == "as") {
                    panic!("{}:{line}: another name for the root would hide imports", self.path);
                }
            }
            at += 1;
        }
        found
    }

    /// The outside crates that it names a path to; every name at the start of a path, to be exact.
    fn crates(&self) -> Vec<(String, usize)> {
        let code = &self.code;
        let is_part = |text: &str| text != "use" && text.ends_with(|c: char| c.is_alphanumeric() || "_>".contains(c));
        let mut found = Vec::new();
        // Of each open `{`, whether it goes on with a path, as in `hyper::{http::Uri}`.
        let mut open = Vec::new();
        for (at, token) in code.iter().enumerate() {
            match token.text.as_str() {
                "{" => open.push(is_path(code, at.wrapping_sub(2))),
                "}" => drop(open.pop()),
                _ => {}
            }
            let goes_on = open.last() == Some(&true)
                || (is_path(code, at.wrapping_sub(2)) && is_part(before(code, at.wrapping_sub(2))));
            if !goes_on && (is_path(code, at + 1) || before(code, at) == "use") {
                found.push((token.text.clone(), token.line));
            }
        }
        found
    }
}

/// Whether `::` stands there.
fn is_path(code: &[Token], at: usize) -> bool {
    let colon = |at: usize| code.get(at).is_some_and(|token| token.text == ":");
    colon(at) && at.checked_add(1).is_some_and(colon)
}

fn before(code: &[Token], at: usize) -> &str {
    at.checked_sub(1).and_then(|at| code.get(at)).map_or("", |token| token.text.as_str())
}

/// The first names of a path, or of each path of a `{…}`.
fn heads(code: &[Token], at: usize, names: &mut Vec<String>) {
    match code.get(at) {
        Some(open) if open.text == "{" => {
            let mut depth = 0;
            for at in at..code.len() {
                match code[at].text.as_str() {
                    "{" => depth += 1,
                    "}" => depth -= 1,
                    name if depth == 1 && matches!(before(code, at), "{" | ",") => names.push(name.to_owned()),
                    _ => {}
                }
                if depth == 0 {
                    return;
                }
            }
        }
        Some(token) => names.push(token.text.clone()),
        None => {}
    }
}

/// Leaves out every item with `#[cfg(test)]`, and gives the names of those that are modules in other files.
fn without_tests(all: &[Token]) -> (Vec<Token>, Vec<String>) {
    let text = |at: usize| all.get(at).map_or("", |token| token.text.as_str());
    let is_cfg_test =
        |at: usize| ["#", "[", "cfg", "(", "test", ")", "]"].iter().enumerate().all(|(n, part)| text(at + n) == *part);
    let mut code = Vec::new();
    let mut modules = Vec::new();
    let mut at = 0;
    while at < all.len() {
        if !is_cfg_test(at) {
            code.push(Token { text: all[at].text.clone(), line: all[at].line });
            at += 1;
            continue;
        }
        // To the end of the item: a `;`, or the `}` of its first `{`, outside of all other brackets.
        let mut depth = 0;
        loop {
            match text(at) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" => depth -= 1,
                "}" => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                ";" if depth == 0 => {
                    if text(at - 2) == "mod" {
                        modules.push(text(at - 1).to_owned());
                    }
                    break;
                }
                "" => break,
                _ => {}
            }
            at += 1;
        }
        at += 1;
    }
    (code, modules)
}

/// Names and single characters, without comments, strings, character literals and white space.
fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
    let mut found = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while at < bytes.len() {
        let begin = at;
        let rest = &bytes[at..];
        if rest.starts_with(b"//") {
            at += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        } else if rest.starts_with(b"/*") {
            let mut depth = 0;
            while at < bytes.len() {
                if bytes[at..].starts_with(b"/*") {
                    depth += 1;
                    at += 2;
                } else if bytes[at..].starts_with(b"*/") {
                    depth -= 1;
                    at += 2;
                    if depth == 0 {
                        break;
                    }
                } else {
                    at += 1;
                }
            }
        } else if let Some(length) = string(rest) {
            at += length;
        } else if rest[0] == b'\'' {
            at += character(&text[at..]);
        } else if is_name(rest[0]) {
            at += rest.iter().position(|byte| !is_name(*byte)).unwrap_or(rest.len());
            found.push(Token { text: text[begin..at].to_owned(), line });
        } else {
            at += 1;
            if !rest[0].is_ascii_whitespace() {
                found.push(Token { text: text[begin..at].to_owned(), line });
            }
        }
        line += bytes[begin..at.min(bytes.len())].iter().filter(|byte| **byte == b'\n').count();
    }
    found
}

/// The length of a string literal of any kind, if one begins here.
fn string(rest: &[u8]) -> Option<usize> {
    let prefix = rest.iter().take_while(|byte| matches!(byte, b'b' | b'r' | b'c')).count().min(2);
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let raw = rest[..prefix].contains(&b'r');
    if hashes > 0 && !raw {
        return None;
    }
    let mut at = open + 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' if !raw => at += 2,
            b'"' if rest[at + 1..].iter().take_while(|byte| **byte == b'#').count() >= hashes => {
                return Some(at + 1 + hashes);
            }
            _ => at += 1,
        }
    }
    Some(rest.len())
}

/// The length of a character literal, or of the `'` of a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            let end = rest[3..].find('\'').map_or(rest.len(), |end| end + 4);
            end.min(rest.len())
        }
        _ => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
    }
}

mod tests {
    use super::*;

    fn reached(code: &str) -> Vec<String> {
        let (code, _) = without_tests(&tokens(code));
        let source = Source { path: "src/hub/room.rs".to_owned(), all: Vec::new(), code, test_files: Vec::new() };
        let modules = ["app", "bus", "config", "log"].map(str::to_owned).into();
        source.reaches(&modules).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn imports_are_found_wherever_they_are_named() {
        for (code, names) in [
            ("use crate::app;", &["app"][..]),
            ("use crate::{app::{self, Lane}, bus, peer::{log, Request}};", &["app", "bus"]),
            ("fn f() { crate::config::parse() }", &["config"]),
            ("fn f(of: &crate::app::App<crate::bus::Bus>) {}", &["app", "bus"]),
            ("use super::super::log::visible;", &["log"]),
            ("use super::app;", &[]),
            ("pub(in crate::app) fn f() {}", &["app"]),
            ("pub(crate) fn app() {}", &[]),
            ("// use crate::app;\n/* crate::bus /* */ crate::bus */", &[]),
            ("let text = \"crate::app\"; let raw = r#\"\"crate::bus\"#; let c = '\"'; crate::log::f('\\'');", &["log"]),
            ("fn f<'a>(x: &'a crate::app::App) {}", &["app"]),
            ("#[cfg(test)]\nmod tests { use crate::app; fn f() { { } } }\nuse crate::bus;", &["bus"]),
            ("#[cfg(test)]\n#[path = \"x.rs\"]\nmod tests;\nuse crate::bus;", &["bus"]),
            ("#[cfg(test)] fn f(x: [u8; 3]) -> u8 { crate::app::f() } fn g() { crate::bus::f() }", &["bus"]),
        ] {
            assert_eq!(reached(code), names, "{code}");
        }
    }

    #[test]
    fn outside_crates_are_found_at_the_start_of_a_path_only() {
        for (code, found) in [
            ("use mlua::Lua;", true),
            ("use mlua;", true),
            ("use mlua as lua;", true),
            ("fn f(x: ::mlua::Lua) {}", true),
            ("fn f(x: &mlua::Lua) {}", true),
            ("use {mlua::Lua, serde::Serialize};", true),
            ("fn f() { let x = mlua::f(); }", true),
            ("use crate::mlua::Lua;", false),
            ("use other::{mlua::Lua, a::{mlua::Table}};", false),
            ("fn f() { other::mlua::f() }", false),
            ("fn f(mlua: u8) {}", false),
        ] {
            let source = Source { path: String::new(), all: Vec::new(), code: tokens(code), test_files: Vec::new() };
            assert_eq!(source.crates().iter().any(|(name, _)| name == "mlua"), found, "{code}");
        }
    }

    #[test]
    fn the_root_of_a_path_may_not_be_hidden() {
        for code in ["use crate as moon;", "use crate::*;", "use crate::{self as moon};"] {
            assert!(std::panic::catch_unwind(|| reached(code)).is_err(), "{code}");
        }
    }
}
