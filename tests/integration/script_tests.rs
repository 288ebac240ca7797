//! `moonwire test`: the tests of all scripts in the repository, and what the command does with tests of its users.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use moonwire::{config, testing};

use crate::command::{Folder, said};

/// Every config in the repository whose scripts have tests.
fn configs() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let examples = root.join("examples").read_dir().unwrap().map(|entry| entry.unwrap().path().join("config.toml"));
    std::iter::once(root.join("config.toml")).chain(examples).filter(|config| config.exists()).collect()
}

#[test]
fn the_tests_of_every_script_and_example_pass() {
    let configs = configs();
    assert!(configs.len() >= 4, "{configs:?}");
    for file in configs {
        let config = Arc::new(config::load(Some(&file), &[]).unwrap());
        for app in &config.apps {
            let name = app.script.file_stem().unwrap().to_string_lossy();
            let test = app.script.with_file_name(format!("{name}_test.lua"));
            assert!(test.exists(), "{} has no tests beside it", app.script.display());
        }
        let files = testing::files(&config).unwrap();
        let results = testing::run(&config, &files, &testing::Options::default(), |_| ()).unwrap();
        for result in &results {
            assert!(result.problem.is_none(), "{}: {}", result.file.display(), result.problem.as_deref().unwrap());
            assert!(!result.cases.is_empty(), "{} has no case", result.file.display());
            for case in &result.cases {
                let failure = case.failure.as_deref().unwrap_or_default();
                assert!(case.failure.is_none(), "{}: {}\n{failure}", result.file.display(), case.name);
            }
        }
    }
}

const CHAT: &str = r#"
local app = {}
function app.authenticate(request)
  if not request.query.name then return nil, "a name, please" end
  if request.query.name == "root" then return "root" end
  return { id = request.query.name, allow = { "join room.lobby", "publish room.*" } }
end
function app.on_open(conn)
  conn.state.room = "room." .. conn.params.room
  conn:join(conn.state.room)
end
function app.on_message(conn, text, binary)
  if text == "boom" then error("boom") end
  if text == "function" then conn.state.f = function() end return end
  if text == "sleep" then relay.sleep(30) return conn:send("slept") end
  if text == "sum" then return conn:send(relay.password.verify("p", relay.password.hash("p")) and "same" or "other") end
  local url = text:match("^get (.*)$")
  if url then
    local answer, why = relay.http.get(url)
    return conn:send(answer and answer.body or why)
  end
  if text == "store" then return conn:send(tostring(relay.store.incr("n"))) end
  if text == "big" then return conn:close(4000, "bye") end
  conn:publish(conn.state.room, text, binary)
end
function app.on_request(request) return { status = 201, headers = { ["x-a"] = request.headers["x-b"] }, body = request.method .. request.body } end
return app
"#;

fn folder(tests: &str) -> Folder {
    let folder = Folder::new("127.0.0.1:0");
    folder.write(
        "config.toml",
        "[[app]]\nname = \"chat\"\npath = \"/chat/{room}\"\nscript = \"chat.lua\"\nsubprotocols = [\"v1\"]\nsettings = { a = 1, b = 2 }\nhttp.allow = [\"api.example.com\"]\n",
    );
    folder.write("chat.lua", CHAT);
    folder.write("chat_test.lua", &format!("local test = require(\"moonwire.test\")\n{tests}\n"));
    folder
}

#[track_caller]
fn passes(tests: &str) {
    let folder = folder(tests);
    let output = folder.run(&["test", "-v"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

#[track_caller]
fn fails(body: &str, expected: &[&str]) {
    let folder = folder(&format!("test.case(\"it\", function()\n{body}\nend)"));
    let output = folder.run(&["test"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for expected in expected {
        assert!(said.contains(expected), "{said}\nlacks: {expected}");
    }
}

#[test]
fn peers_time_reloads_requests_and_stubs_are_at_hand() {
    passes(
        r#"
        test.case("messages, time and silence", function()
          local app = test.app("chat", { settings = { a = 3 }, instances = 2 })
          local ann = app:connect("/chat/lobby?name=ann")
          local bob = app:connect("/chat/lobby?name=bob", { headers = { ["x-a"] = "b" }, subprotocols = { "v1" } })
          test.equal(bob.subprotocol, "v1")
          ann:send("hi")
          test.equal(bob:receive(), "hi")
          test.silent(ann)
          ann:send("\0\255", true)
          test.equal({ bob:receive() }, { "\0\255", true })
          bob:send_json({ a = { 1 } })
          test.equal(ann:receive_json(), { a = { 1 } })
          test.equal(ann:receive(), nil)
          ann:send("sleep")
          app:advance(29.5)
          test.silent(ann)
          app:advance(1)
          test.equal(ann:receive(), "slept")
          ann:send("store")
          ann:send("store")
          test.equal({ (ann:receive()), (ann:receive()) }, { "1", "2" })
          ann:send("sum")
          test.equal(ann:receive(), "same")
        end)

        test.case("closes from both sides", function()
          local app = test.app("chat")
          local ann, bob = app:connect("/chat/lobby?name=ann"), app:connect("/chat/lobby?name=bob")
          test.equal(ann.closed, nil)
          bob:close(4001, "gone")
          ann:send("big")
          test.equal(ann.closed, { code = 4000, reason = "bye" })
          test.equal(app:connect("/chat/lobby?name=eve"):drop(), nil)
        end)

        test.case("refusals say why", function()
          local app = test.app("chat")
          test.equal(app:connect("/chat/lobby").refused, { status = 401, reason = "a name, please" })
          test.equal(app:connect("/elsewhere").refused.status, 404)
          test.equal(app:connect("/chat/a?name=a", { headers = { origin = "https://evil.example" } }).refused.status, 403)
        end)

        test.case("a reload keeps connections, and a callback that waits ends in its generation", function()
          local app = test.app("chat")
          local ann = app:connect("/chat/lobby?name=ann")
          ann:send("sleep")
          local report = app:reload()
          test.equal({ report.ok, report.from, report.generation }, { true, 1, 2 })
          app:advance("9s")
          test.silent(ann)
          report = app:reload("broken.lua")
          test.equal(report.ok, false)
          assert(report.error:find("broken.lua"))
          test.equal(ann.closed, nil)
        end)

        test.case("requests", function()
          local app = test.app("chat")
          local answer = app:request({ method = "PUT", path = "/chat/x", headers = { ["x-b"] = "c" }, body = "body" })
          test.equal({ answer.status, answer.headers["x-a"], answer.body }, { 201, "c", "PUTbody" })
        end)

        test.case("stubs for http, and nothing beyond", function()
          local app = test.app("chat", { http = function(request)
            if request.url:find("/a$") then return { status = 200, body = request.method .. " a" } end
            return nil, "down"
          end })
          local ann = app:connect("/chat/lobby?name=ann")
          for url, expected in {
            ["https://api.example.com/a"] = "GET a", ["https://api.example.com/b"] = "down",
            ["https://other.example/a"] = 'host "other.example" is not in app.http.allow',
          } do
            ann:send("get " .. url)
            test.equal(ann:receive(), expected)
          end
          local bob = test.app("chat"):connect("/chat/lobby?name=bob")
          bob:send("get https://api.example.com/a")
          assert(bob:receive():find("no http stub in this test"))
        end)

        test.case("permissions as a matrix", function()
          local app = test.app("chat")
          local peers = { ann = app:connect("/chat/lobby?name=ann"), root = app:connect("/chat/lobby?name=root") }
          test.matrix(peers, [[
                                ann  root
            join room.lobby     yes  yes
            join room.secret    no   yes
            publish room.x      yes  yes
          ]])
          test.equal(peers.ann:rooms(), { "room.lobby" })
        end)

        test.case("transcripts go on where the last one ended", function()
          local app = test.app("chat")
          test.play(app, [[
            ann opens
            bob opens
            -- it stays silent for a while
            ann > hi
            bob < hi
            5s pass
            reload
          ]])
          test.play(app, "bob > ho\nann < ho\nbob closes 4000\neve opens /chat/lobby?name=eve\neve vanishes")
        end)

        test.case("what a script's mistake says", function()
          local app = test.app("chat")
          local ann = app:connect("/chat/lobby?name=ann")
          ann:send("boom")
          ann:send("function")
          local log = app:log()
          assert(log[1].level == "error" and log[1].message:find("chat.lua:13: boom"), log[1].message)
          assert(log[2].message:find("conn.state.*is a function, which is not plain data"), log[2].message)
          test.equal(test.raises(function() ann:send(1) end, "data must be a string, got number") ~= nil, true)
        end)
        "#,
    );
}

#[test]
fn a_failure_shows_the_line_the_difference_what_happened_and_the_log() {
    fails(
        "local app = test.app('chat')\nlocal ann = app:connect('/chat/lobby?name=ann')\nann:send('boom')\ntest.equal({ a = { 1, 2 } }, { a = { 1, 3 } })",
        &[
            "FAILED it  (chat_test.lua:2)",
            "chat_test.lua:6: the values differ",
            ".a[2]: got 2, expected 3",
            "> 6 | test.equal(",
            "ann > boom",
            "chat.lua:13: boom",
            "0 passed, 1 failed",
        ],
    );
    fails(
        "local app = test.app('chat')\ntest.play(app, [[\nann opens\nbob opens\nann > hi\nbob < ho\n]])",
        &["- bob < ho", "+ bob < hi", "> 4 | test.play("],
    );
    fails(
        "local app = test.app('chat')\ntest.play(app, 'ann opens\\nbob opens\\nann > hi')",
        &["+ bob < hi    (delivered, and not in it)"],
    );
    fails("local app = test.app('chat')\ntest.play(app, 'ann > hi')", &["ann has not opened"]);
    fails("test.app('nope')", &["the config has no app \"nope\" (there are chat)"]);
    fails(
        "test.app('chat', { instance = 2 })",
        &["unknown option 'instance' (it takes settings, instances, http, env)"],
    );
    fails("test.raises(function() end, 'x')", &["it did not raise"]);
    fails(
        "local app = test.app('chat')\nlocal a, b = app:connect('/chat/lobby?name=a'), app:connect('/chat/lobby?name=b')\na:send('hi')\ntest.silent(b)",
        &["b was to hear nothing, and received \"hi\""],
    );
    fails(
        "local app = test.app('chat')\ntest.matrix({ ann = app:connect('/chat/lobby?name=ann') }, 'ann\\njoin room.x yes')",
        &["ann may not join room.x (no_rule)"],
    );
    fails("while true do end", &["it computed longer than"]);
    fails("test.case('inner', function() error('x') end)", &["not inside of a case"]);
    fails(
        "local app = test.app('chat', { http = function(r) test.equal(r.method, 'POST') end })\napp:connect('/chat/a?name=a'):send('get https://api.example.com/')",
        &["the http stub, asked for https://api.example.com/: ", "the values differ"],
    );
    fails(
        "local app = test.app('chat', { http = function() return { stauts = 200 } end })\napp:connect('/chat/a?name=a'):send('get https://api.example.com/')",
        &["unknown option 'stauts'"],
    );
    fails("test.app('chat', { env = { HOME = '/' } })", &["\"HOME\" is not among the names"]);
    fails("test.app('chat'):connect('chat/a')", &["target is a path that begins with /"]);
    fails(
        "local ann = test.app('chat'):connect('/chat/a?name=a')\nann:close()\nann:send('x')",
        &["a is closed, with 1000"],
    );
    fails("test.play(test.app('chat'), 'ann opens\\nann dances')", &["this is no line of a transcript"]);
}

#[test]
fn files_that_cannot_be_run_and_nothing_to_run_are_failures() {
    let broken = folder("test.case(");
    broken.check(&["test"], 1, &["FAILED chat_test.lua: the file itself", "chat_test.lua:3"]);
    let doubled = folder("test.case('a', function() end)\ntest.case('a', function() end)");
    doubled.check(&["test"], 1, &["there is a case \"a\" already"]);
    let early = folder("test.app('chat')");
    early.check(
        &["test"],
        1,
        &["the file itself", "chat_test.lua:2: test.app(name, options): only inside of a test.case"],
    );
    let empty = folder("local x = 1");
    empty.check(&["test"], 1, &["the file itself", "it has no test.case"]);
    let none = folder("");
    std::fs::remove_file(none.path().join("chat_test.lua")).unwrap();
    none.check(&["test"], 1, &["there is no test: write one into a file *_test.lua beside a script"]);
    none.check(&["test", "-c", "none.toml"], 2, &["none.toml"]);
    none.write("chat.lua", "return require('moonwire.test')");
    none.check(&["check"], 1, &["that is for files of tests (*_test.lua), which `moonwire test` runs"]);
}

#[test]
fn a_filter_names_cases_or_files_and_junit_gets_all_that_ran() {
    let folder = folder(
        "test.case('one & only', function() end)\ntest.case('two', function() error('<no>') end)\ntest.case('three', function() end)",
    );
    folder.check(&["test", "one"], 0, &["1 passed, 0 failed"]);
    folder.check(&["test", "chat_test"], 1, &["2 passed, 1 failed"]);
    folder.check(&["test", "nothing"], 1, &["no case and no file has \"nothing\" in its name"]);
    folder.check(&["test", "--junit", "out.xml"], 1, &["FAILED two"]);
    let xml = std::fs::read_to_string(folder.path().join("out.xml")).unwrap();
    for expected in [
        "<testsuite name=\"chat_test.lua\" tests=\"3\" failures=\"1\"",
        "name=\"one &amp; only\"",
        "<failure message=\"chat_test.lua:3: &lt;no&gt;\">",
    ] {
        assert!(xml.contains(expected), "{xml}\nlacks: {expected}");
    }
}

#[test]
fn two_runs_of_the_same_tests_say_the_same() {
    let folder = folder(
        r#"
        test.case("who and when", function()
          local app = test.app("chat", { instances = 3 })
          local told = {}
          for n = 1, 9 do
            local peer = app:connect("/chat/lobby?name=p" .. n)
            peer:send("x" .. n)
            table.insert(told, peer.id .. " " .. relay.now())
            app:advance(0.25)
          end
          error(table.concat(told, ", "))
        end)
        "#,
    );
    let run = || {
        let said = said(&folder.run(&["test"]));
        said.lines().filter(|line| !line.contains(" passed, ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

/// A running `moonwire test --watch`, stopped at the end.
struct Watching(std::process::Child);

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn watching_runs_the_tests_again_at_each_save() {
    let folder = folder("test.case('it', function() test.equal(1, 2) end)");
    let mut child = folder.command(&["test", "--watch"]);
    let child = child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut watching = Watching(child);
    let (sender, lines) = std::sync::mpsc::channel();
    let out = watching.0.stdout.take().unwrap();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let _ = sender.send(line); // nobody listens any more
        }
    });
    let until = |part: &str| {
        let mut said = String::new();
        loop {
            let line = lines.recv_timeout(std::time::Duration::from_secs(20));
            let line = line.unwrap_or_else(|_| panic!("it never said {part}:\n{said}"));
            said.push_str(&format!("{line}\n"));
            if line.contains(part) {
                return;
            }
        }
    };
    until("0 passed, 1 failed");
    until("waiting for a change");
    folder.write("chat_test.lua", "require('moonwire.test').case('it', function() end)");
    until("1 passed, 0 failed");
    until("waiting for a change");
    folder.write("config.toml", "[[app]]");
    until("config.toml");
    until("waiting for a change");
}

#[test]
fn a_case_that_never_ends_fails_and_the_others_go_on() {
    let folder = folder(
        "test.case('endless', function()\nlocal ann = test.app('chat'):connect('/chat/a?name=a')\nwhile not ann:receive() do test.app('chat'):advance(1) end\nend)\ntest.case('other', function() end)",
    );
    folder.check(
        &["test", "--timeout", "300ms"],
        1,
        &["the case takes longer than --timeout (0.3 s of real time)", "1 passed, 1 failed"],
    );
    folder.check(&["test", "--timeout", "soon"], 2, &["--timeout"]);
}

#[test]
fn what_a_script_raised_in_a_case_that_passed_is_told_unless_it_was_asked_for() {
    let folder = folder(
        "test.case('raises', function() test.app('chat'):connect('/chat/a?name=a'):send('boom') end)\ntest.case('asks', function() local app = test.app('chat') app:connect('/chat/a?name=a'):send('boom') app:log() end)",
    );
    folder.check(
        &["test"],
        0,
        &["note: \"raises\" passed, and its script raised", "chat.lua:13: boom", "> 13 |", "2 passed"],
    );
    let said = said(&folder.run(&["test"]));
    assert!(!said.contains("note: \"asks\""), "{said}");
}

#[test]
fn a_case_whose_time_never_passes_ends_at_its_bound() {
    let folder = folder("");
    folder.write(
        "chat.lua",
        "local app = {}\nfunction app.on_start() relay.every(0.01, function() end) end\nreturn app\n",
    );
    folder.write(
        "chat_test.lua",
        "local test = require('moonwire.test')\ntest.case('week', function() test.app('chat'):advance('7d') end)\n",
    );
    let begun = std::time::Instant::now();
    folder.check(&["test", "--timeout", "300ms"], 1, &["the case takes longer than --timeout (0.3 s of real time)"]);
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

#[test]
fn time_that_passes_for_one_app_passes_for_all_apps_of_the_case() {
    let folder = folder("");
    folder.write(
        "config.toml",
        "[[app]]\nname = \"a\"\npath = \"/a\"\nscript = \"a.lua\"\n[[app]]\nname = \"b\"\npath = \"/b\"\nscript = \"a.lua\"\n",
    );
    folder.write(
        "a.lua",
        "local app = {}\nfunction app.on_message(conn) relay.after(5, function() conn:send('late') end) end\nreturn app\n",
    );
    folder.write(
        "chat_test.lua",
        "local test = require('moonwire.test')\ntest.case('two', function()\nlocal a, b = test.app('a'), test.app('b')\nlocal bob = b:connect('/b')\nbob:send('go') a:advance(6) test.equal(bob:receive(), 'late')\nend)\n",
    );
    folder.check(&["test"], 0, &["1 passed"]);
}
