//! The command line, run as a user runs it: what it says and its exit status.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

const ECHO: &str = "return { on_message = function(conn, data, binary) conn:send(data, binary) end }";

pub struct Folder(tempfile::TempDir);

impl Folder {
    /// A folder with a config that listens on `listen` and an echo.
    pub fn new(listen: &str) -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.write(
            "config.toml",
            &format!(
                "[server]\nlisten = \"{listen}\"\nworkers = 1\n[reload]\nwatch = false\n[[app]]\nname = \"echo\"\npath = \"/echo\"\nscript = \"echo.lua\"\n"
            ),
        );
        folder.write("echo.lua", ECHO);
        folder
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moonwire"));
        command.args(args).current_dir(self.path()).env_remove("RUST_BACKTRACE");
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that must end with `status` and say each of `expected`, and nothing that is not for people.
    #[track_caller]
    pub fn check(&self, args: &[&str], status: i32, expected: &[&str]) {
        let output = self.run(args);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(status), "moonwire {}\n{said}", args.join(" "));
        for expected in expected {
            assert!(said.contains(expected), "moonwire {}\n{said}\nlacks: {expected}", args.join(" "));
        }
        for foreign in ["panicked", "RUST_BACKTRACE", "Err(", "Some(", "Error {"] {
            assert!(!said.contains(foreign), "moonwire {}\n{said}", args.join(" "));
        }
    }
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A relay in a process of its own.
struct Running {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    /// `127.0.0.1:port`
    addr: String,
}

impl Running {
    fn start(folder: &Folder) -> Running {
        let mut child = folder.command(&[]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let line = next_line(&mut log, "listening");
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        let url = event["addresses"][0].as_str().unwrap().to_owned();
        let addr = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Running { child, log, addr }
    }

    fn signal(&self, name: &str) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let signal = match name {
            "TERM" => rustix::process::Signal::TERM,
            _ => rustix::process::Signal::HUP,
        };
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// The next line of the log that has `word` in it.
    fn line(&mut self, word: &str) -> String {
        next_line(&mut self.log, word)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended already
        let _ = self.child.wait();
    }
}

fn next_line(log: &mut impl BufRead, word: &str) -> String {
    let mut before = String::new();
    loop {
        let mut line = String::new();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "the log ended before \"{word}\":\n{before}");
        if line.contains(word) {
            return line;
        }
        before.push_str(&line);
    }
}

#[test]
fn check_tells_what_would_not_start_and_its_exit_status_tells_whose_mistake_it_is() {
    let folder = Folder::new("127.0.0.1:0");
    folder.check(&["check"], 0, &["config.toml: ok", "echo: ok", "on_message"]);
    folder.write("echo.lua", "return { on_message = function(conn) conn:send( end }");
    folder.check(&["check"], 1, &["echo: failed", "echo.lua:1:"]);
    folder.write("echo.lua", "error('not today')");
    folder.check(&["check"], 1, &["echo.lua:1: not today"]);
    folder.write("config.toml", "[server]\nlisten = \"127.0.0.1:0\"\nwrkers = 1\n");
    folder.check(&["check"], 2, &["config.toml:3:1", "wrkers = 1", "did you mean `workers`?"]);
    let output = folder.run(&["check", "--format", "json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &answer["ok"], &answer["problems"][0]["line"]),
        (Some(2), &false.into(), &3.into())
    );
}

#[test]
fn what_cannot_start_says_what_to_do() {
    let folder = Folder::new("127.0.0.1:0");
    folder.check(&["-c", "other.toml"], 2, &["other.toml", "there is no such file"]);
    folder.check(&["--wrong"], 2, &["--wrong"]);
    folder.check(&["--version"], 0, &["moonwire 0."]);
    folder.check(&["--help"], 0, &["serve", "check", "reload", "connect"]);
    folder.check(&["reload"], 1, &["no relay is running"]);

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    Folder::new(&addr).check(&["serve"], 1, &[&addr, "in use", "server.listen"]);

    folder.write("echo.lua", "return {}");
    folder.check(&["serve"], 1, &["echo.lua", "has no callback"]);
    fs::remove_file(folder.path().join("echo.lua")).unwrap();
    folder.check(&["serve"], 1, &["echo.lua: there is no such file", "`script`"]);
    folder.write("config.toml", "[limits]\nmessage = \"huge\"\n");
    folder.check(&["serve"], 2, &["config.toml:2:11", "limits.message", "\"huge\""]);
}

#[test]
fn a_relay_serves_reloads_and_stops_with_0() {
    let folder = Folder::new("127.0.0.1:0");
    let mut relay = Running::start(&folder);
    let url = format!("ws://{}/echo", relay.addr);

    let mut peer = folder.command(&["connect", &url]);
    let mut peer = peer.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = peer.stdin.take().unwrap();
    let mut output = BufReader::new(peer.stdout.take().unwrap());
    input.write_all(b"hello\n").unwrap();
    assert_eq!(next_line(&mut output, "hello"), "hello\n");

    folder.check(&["reload"], 0, &["echo: unchanged"]);
    folder.write("echo.lua", "return { on_message = function(conn, data) conn:send('new ' .. data) end }");
    folder.check(&["reload"], 0, &["echo: generation 1 → 2"]);
    input.write_all(b"hello\n").unwrap();
    assert_eq!(next_line(&mut output, "hello"), "new hello\n", "on the connection that was open before");

    folder.write("echo.lua", "return { on_message = function(conn, data) conn:send(data.x.y) }");
    folder.check(&["reload"], 1, &["echo: failed", "echo.lua:1:", "still serving generation 2"]);
    input.write_all(b"hello\n").unwrap();
    assert_eq!(next_line(&mut output, "hello"), "new hello\n");
    folder.write("echo.lua", "return { on_message = function(conn, data) conn:send('third ' .. data) end }");
    relay.signal("HUP");
    relay.line("\"generation\":3");
    input.write_all(b"hello\n").unwrap();
    assert_eq!(next_line(&mut output, "hello"), "third hello\n");

    folder.check(&["serve"], 1, &["another moonwire is running", "server.control"]);

    relay.signal("TERM");
    assert_eq!(relay.child.wait().unwrap().code(), Some(0));
    assert_eq!(peer.wait().unwrap().code(), Some(1), "a close by the relay is not a normal end");
    assert!(!folder.path().join("moonwire.sock").exists(), "the control socket is gone with it");
}

#[test]
fn the_environment_overrides_the_file_and_its_mistakes_are_told_by_name() {
    let folder = Folder::new("127.0.0.1:0");
    let run = |name: &str, value: &str| folder.command(&["check"]).env(name, value).output().unwrap();
    assert_eq!(run("MOONWIRE_LIMITS__MESSAGE", "2 MiB").status.code(), Some(0));
    let output = run("MOONWIRE_LIMITS__MESSAGE", "lots");
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("MOONWIRE_LIMITS__MESSAGE"), "{}", said(&output));
    let output = run("MOONWIRE_LIMITS__MESAGE", "1");
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("MOONWIRE_LIMITS__MESSAGE"), "{}", said(&output));
}

#[test]
fn a_script_error_is_one_line_of_json_with_its_place() {
    let folder = Folder::new("127.0.0.1:0");
    folder.write("echo.lua", "return { on_message = function(conn, data)\n  local user\n  conn:send(user.name)\nend }");
    let mut relay = Running::start(&folder);
    let url = format!("ws://{}/echo?token=secret", relay.addr);
    let mut peer = folder.command(&["connect", &url]);
    let mut peer = peer.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    peer.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let line = relay.line("attempt to index nil");
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(event["message"], "echo.lua:3: attempt to index nil with 'name'");
    assert_eq!(
        (&event["app"], &event["generation"], &event["callback"]),
        (&"echo".into(), &1.into(), &"on_message".into())
    );
    assert!(event["connection"].is_string() && !line.contains("secret"), "{line}");
    peer.wait().unwrap();
}

// ── what helps to begin ──

#[test]
fn each_template_passes_its_checks_and_tests_and_overwrites_nothing() {
    let folder = Folder::new("127.0.0.1:0");
    for template in ["chat", "echo", "blank"] {
        folder.check(&["new", template, "--template", template], 0, &["moonwire test", "moonwire dev"]);
        let config = format!("{template}/config.toml");
        folder.check(&["check", "-c", &config], 0, &["ok"]);
        folder.check(&["test", "-c", &config], 0, &[" 0 failed"]);
    }
    folder.write("echo/scripts/echo.lua", "-- mine");
    folder.check(&["new", "echo", "--template", "echo"], 2, &["is there already, and nothing was written"]);
    assert_eq!(fs::read_to_string(folder.path().join("echo/scripts/echo.lua")).unwrap(), "-- mine");
    fs::remove_file(folder.path().join("echo/config.toml")).unwrap();
    folder.check(&["new", "echo", "--template", "echo"], 2, &["scripts/echo.lua is there already"]);
    assert!(!folder.path().join("echo/config.toml").exists());
    folder.check(&["new", "x", "--template", "game"], 2, &["invalid value 'game'"]);
}

#[test]
fn definitions_for_editors_are_luau_and_annotations_of_every_name() {
    let folder = Folder::new("127.0.0.1:0");
    folder.check(&["types"], 0, &["types/moonwire.d.luau", ".luarc.json", "luau-lsp.types.definitionFiles"]);
    let read = |name: &str| fs::read_to_string(folder.path().join("types").join(name)).unwrap();
    let (luau, lua) = (read("moonwire.d.luau"), read("moonwire.d.lua"));
    // What declares is no Luau of a script, but its types are: `check` compiles them.
    let relay = luau.split("\ndeclare relay: ").nth(1).unwrap().split("\n}").next().unwrap();
    let types: Vec<&str> =
        luau.lines().filter(|line| line.starts_with("export type") && !line.ends_with('{')).collect();
    assert!(types.len() > 20, "{luau}");
    let classes: String = luau
        .lines()
        .filter_map(|line| line.strip_prefix("declare class "))
        .map(|class| format!("type {class} = any\n"))
        .collect();
    let methods: String = luau
        .lines()
        .filter_map(|line| line.strip_prefix("\tfunction "))
        .enumerate()
        .map(|(place, line)| {
            let (head, returns) = line.rsplit_once("): ").unwrap();
            let (_, params) = head.split_once("(self").unwrap();
            let params = params.replace("...: ", "...");
            format!("type M{place} = (self: any{params}) -> {returns}\n")
        })
        .collect();
    assert!(methods.lines().count() > 30, "{methods}");
    let script = format!(
        "{classes}{}\ntype Relay = {relay}\n}}\n{methods}return {{ on_open = function(conn) end }}",
        types.join("\n")
    );
    folder.write("echo.lua", &script);
    folder.check(&["check"], 0, &["echo: ok"]);
    for name in ["function Conn:send(data, options) end", "relay.json = {}", "---@field on_revoked?", "---@class Room"]
    {
        assert!(lua.contains(name), "{lua}\nlacks: {name}");
    }
    assert!(read("moonwire_test.d.lua").starts_with("---@meta moonwire.test"));
    // Settings that are there stay.
    folder.write(".luarc.json", "{}");
    folder.check(&["types"], 0, &[]);
    assert_eq!(fs::read_to_string(folder.path().join(".luarc.json")).unwrap(), "{}");
}

#[test]
fn shells_get_completions() {
    let folder = Folder::new("127.0.0.1:0");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        folder.check(&["completions", shell], 0, &["moonwire", "junit"]);
    }
    folder.check(&["completions", "tcsh"], 2, &["invalid value 'tcsh'"]);
}

#[test]
fn tokens_are_made_and_each_claim_that_fails_is_told() {
    let folder = Folder::new("127.0.0.1:0");
    let config = fs::read_to_string(folder.path().join("config.toml")).unwrap();
    folder.write(
        "config.toml",
        &format!("{config}settings = {{ secret = \"0123456789abcdef0123456789abcdef\", n = 1 }}\n"),
    );
    let made = |args: &[&str]| {
        let output = folder.run(&[&["token", "new"], args].concat());
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let token = made(&["--user", "ann", "--audience", "team", "--issuer", "me", "--claim", "role=\"admin\""]);
    folder.check(
        &["token", "check", &token],
        0,
        &["the token counts", "\"role\":\"admin\"", "not looked at without --audience"],
    );
    folder.check(
        &["token", "check", &token, "--audience", "other"],
        1,
        &["aud        bad_audience", "relay.jwt.verify returns nil, \"bad_audience\""],
    );
    folder.check(&["token", "check", &token, "--issuer", "you"], 1, &["iss        bad_issuer"]);
    folder.check(
        &["token", "check", &made(&["--user", "ann", "--ttl", "0s"]), "--leeway", "0s"],
        1,
        &["exp        expired", "ago"],
    );
    let odd = made(&["--user", "ann", "--claim", "exp=\"soon\"", "--claim", "nbf=99999999999"]);
    folder.check(
        &["token", "check", &odd],
        1,
        &["exp        bad_token", "it must be a number of seconds", "nbf        not_yet_valid"],
    );
    folder.check(&["token", "check", &format!("{token}x")], 1, &["signature  bad_signature", "made with another key"]);
    folder.check(&["token", "check", "Bearer x"], 1, &["leave the word Bearer out"]);
    folder.check(&["token", "check", "a.b"], 1, &["this has 1 dots"]);
    folder.check(&["token", "check", &token, "--algorithm", "HS512"], 1, &["signature  bad_algorithm"]);
    folder.write("key", "another key\n");
    let signed = made(&["--user", "ann", "--key-file", "key", "--kid", "k1"]);
    folder.check(&["token", "check", &signed, "--key-file", "key"], 0, &["kid k1"]);
    folder.check(&["token", "new", "--user", "a", "--setting", "n"], 2, &["no setting `n` that is a text"]);
    folder.check(&["token", "new", "--user", "a", "--app", "x"], 2, &["there is no app x (there are echo)"]);
    folder.check(
        &["token", "new", "--user", "a", "--claim", "role=admin"],
        2,
        &["the value is no JSON", "role=\"text\""],
    );
    folder.check(&["token", "new", "--user", "a", "--algorithm", "none"], 2, &["unknown algorithm 'none'"]);
    folder.check(&["token", "new", "--user", "a", "--algorithm", "ES256"], 2, &["ES256 takes a key in PEM"]);
    folder.check(
        &["token", "new", "--user", "a", "--key-env", "NOT_SET_HERE"],
        2,
        &["the variable NOT_SET_HERE is not set"],
    );
}

#[test]
fn a_function_that_looks_like_a_callback_is_told() {
    let folder = Folder::new("127.0.0.1:0");
    folder.write("echo.lua", "local app = {}\nfunction app.onMessage(conn) end\nreturn app");
    folder.check(
        &["check"],
        1,
        &["echo.lua:2: `onMessage` is no callback and is never called; did you mean `on_message`?"],
    );
    folder.write(
        "echo.lua",
        "local app = {}\nfunction app.autenticate(conn) end\nfunction app.on_open() end\nreturn app",
    );
    folder.check(&["check"], 0, &["it has no `authenticate`"]);
}
