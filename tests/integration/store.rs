//! `relay.store` and `relay.shared`: what they give, what a wrong argument raises, what a bad disk does, and that nothing
//! which was acknowledged is ever lost.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use moonwire::harness::{self, Transcript, check, check_with};

use crate::support::{Relay, configure_app, real, soon};

/// Both have the same calls: runs the same script and transcript with each.
fn both(script: &str, transcript: &str) {
    for name in ["relay.store", "relay.shared"] {
        check(&script.replace("STORE", name), transcript);
    }
}

/// Runs Lua in `on_message` and shows what it returns.
const RUN: &str = r#"
local show
show = function(v)
  if type(v) ~= "table" then return tostring(v) end
  local parts = {}
  for k, x in pairs(v) do table.insert(parts, (type(k) == "number" and "" or k .. "=") .. show(x)) end
  table.sort(parts)
  return "{" .. table.concat(parts, ",") .. "}"
end
local steps = { BODY }
local at = 0
function app.on_message(conn)
  at += 1
  local values = table.pack(pcall(steps[at]))
  while values.n > 2 and values[values.n] == nil do values.n -= 1 end
  local texts = {}
  for n = 2, values.n do texts[n - 1] = show(values[n]) end
  conn:send(table.concat(texts, " "))
end
"#;

/// Each step's Lua, and what it must return.
fn steps(cases: &[(&str, &str)]) -> (String, String) {
    let bodies: Vec<String> = cases.iter().map(|(body, _)| format!("function() {body} end")).collect();
    let transcript: Vec<String> = cases.iter().map(|(_, expected)| format!("ann > go\nann < {expected}")).collect();
    (RUN.replace("BODY", &bodies.join(",")).replace('\n', " "), format!("ann opens\n{}", transcript.join("\n")))
}

#[test]
fn a_key_is_set_read_and_deleted() {
    let (script, transcript) = steps(&[
        ("return STORE.get('k')", "nil"),
        ("return STORE.set('k', { a = { 1, 2 }, b = 'x' })", "true"),
        ("return STORE.get('k')", "{a={1,2},b=x}"),
        ("return STORE.set('k', false)", "true"),
        ("return STORE.get('k')", "false"),
        ("return STORE.set('k', 1, { if_absent = true })", "false"),
        ("return STORE.set('l', 1, { if_absent = true })", "true"),
        ("return STORE.delete('k')", "true"),
        ("return STORE.delete('k')", "false"),
        ("return STORE.get('k')", "nil"),
        ("return STORE.set('j', relay.json.null), STORE.get('j') == relay.json.null", "true true"),
    ]);
    both(&script, &transcript);
}

#[test]
fn a_list_has_pages_in_byte_order() {
    let (script, transcript) = steps(&[
        ("for _, k in { 'b.2', 'a', 'b.10', 'b.1', 'c', 'b' } do STORE.set(k, k) end return 'ok'", "ok"),
        ("return STORE.list()[1], #STORE.list()", "{key=a,value=a} 6"),
        (
            "local t = {} for _, e in STORE.list({ prefix = 'b.' }) do table.insert(t, e.key) end return table.concat(t, ' ')",
            "b.1 b.10 b.2",
        ),
        ("return STORE.list({ prefix = 'b', limit = 1, after = 'b.10' })", "{{key=b.2,value=b.2}}"),
        ("return STORE.list({ prefix = 'x' })", "{}"),
        (
            "for n = 1, 150 do STORE.set(string.format('n%03d', n), n) end return #STORE.list(), #STORE.list({ limit = 1000 })",
            "100 156",
        ),
    ]);
    both(&script, &transcript);
}

#[test]
fn incr_counts_and_refuses_what_is_no_number() {
    let (script, transcript) = steps(&[
        ("return STORE.incr('n')", "1"),
        ("return STORE.incr('n', 2.5)", "3.5"),
        ("return STORE.incr('n', -3.5)", "0"),
        ("STORE.set('s', 'text') return STORE.incr('s')", "nil not_a_number"),
        ("return STORE.get('s')", "text"),
    ]);
    both(&script, &transcript);
}

#[test]
fn update_is_one_step_and_nil_deletes() {
    let (script, transcript) = steps(&[
        ("return (STORE.update('k', function(v) return { n = (v and v.n or 0) + 1 } end))", "{n=1}"),
        ("return (STORE.update('k', function(v) v.n += 1 return v end))", "{n=2}"),
        ("return STORE.get('k')", "{n=2}"),
        ("return (STORE.update('k', function() return nil end))", "nil"),
        ("return STORE.get('k')", "nil"),
        // What fn raises comes through, and the key is free again.
        (
            "return (select(2, pcall(STORE.update, 'k', function() error('mine') end)):match('app.lua:2: mine$'))",
            "app.lua:2: mine",
        ),
        (
            "return (select(2, pcall(STORE.update, 'k', function() relay.sleep(1) end)):match('cannot wait here'))",
            "cannot wait here",
        ),
        (
            "return (select(2, pcall(STORE.update, 'k', function() return print end)):match('the value is a function, which is not plain data'))",
            "the value is a function, which is not plain data",
        ),
        ("return STORE.set('k', 1), (STORE.update('k', function(v) return v + 1 end))", "true 2"),
    ]);
    both(&script, &transcript);
}

#[test]
fn a_key_lives_as_long_as_its_ttl() {
    let script = r#"
        function app.on_message(conn, text)
          if text == "set" then STORE.set("k", 1, { ttl = 10 }) STORE.incr("n", 1, { ttl = "10s" })
          elseif text == "incr" then STORE.incr("n") STORE.update("k", function(v) return v + 1 end)
          elseif text == "keep" then STORE.set("k", 5) end
          conn:send(tostring(STORE.get("k")) .. " " .. tostring(STORE.get("n")) .. " " .. #STORE.list())
        end
    "#;
    let transcript = "
        ann opens
        ann > set
        ann < 1 1 2
        5s pass
        ann > incr
        ann < 2 2 2
        4900ms pass
        ann > get
        ann < 2 2 2
        200ms pass
        ann > get
        ann < nil nil 0
        ann > keep
        ann < 5 nil 1
        20s pass
        ann > get
        ann < 5 nil 1
        ";
    both(script, transcript);
}

#[test]
fn a_wrong_argument_raises_in_the_words_of_the_script() {
    let cases = [
        ("get(nil)", "get(key): key must be a string, got nil"),
        ("get('')", "get(key): key must not be empty"),
        ("get(('x'):rep(1025))", "get(key): key must have at most 1024 bytes, got 1025"),
        ("delete(7)", "delete(key): key must be a string, got number"),
        ("set('k')", "set(key, value, options): value must not be nil; delete(key) removes a key"),
        ("set('k', { f = print })", "set(key, value, options): value.f is a function, which is not plain data"),
        ("set('k', 1, { ttl = 0 })", "set(key, value, options): ttl must be at least a millisecond"),
        ("set('k', 1, { tll = 1 })", "set(key, value, options): unknown option 'tll' (it takes ttl, if_absent)"),
        ("set('k', 1, { if_absent = 1 })", "set(key, value, options): if_absent must be true or false, got number"),
        ("incr('k', 'x')", "incr(key, n, options): n must be a number, got string"),
        ("incr('k', 1, { if_absent = true })", "incr(key, n, options): unknown option 'if_absent' (it takes ttl)"),
        ("list({ limit = 1001 })", "list(options): limit must be a whole number from 1 to 1000, got 1001"),
        ("list('b')", "list(options): options must be a table, got string"),
        ("list({ prefix = 1 })", "list(options): prefix must be a string, got number"),
        ("update('k')", "update(key, fn, options): fn must be a function, got nil"),
        ("update('k', print, { x = 1 })", "update(key, fn, options): unknown option 'x' (it takes ttl)"),
    ];
    for name in ["relay.store", "relay.shared"] {
        let calls = cases.map(|(call, _)| format!("function() {name}.{call} end")).join(", ");
        let script = format!(
            "local calls = {{ {calls} }} local at = 0 function app.on_message(conn) at += 1 conn:send((select(2, pcall(calls[at])):match(':2: (.*)'))) end"
        );
        let transcript: String = cases.iter().map(|(_, told)| format!("ann > x\nann < {name}.{told}\n")).collect();
        check(&script, &format!("ann opens\n{transcript}"));
    }
}

#[test]
fn a_script_that_only_loads_may_not_use_them() {
    for call in ["relay.store.get('k')", "relay.shared.set('k', 1)", "relay.shared.update('k', print)"] {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("app.lua");
        fs::write(&script, format!("{call} return {{ on_open = print }}")).unwrap();
        let report = harness::run(harness::Relay::start(harness::app("app", &script))).err().unwrap();
        assert!(format!("{report:?}").contains("not while a script loads"), "{report:?}");
    }
}

#[test]
fn what_is_too_much_is_refused_with_the_name_of_its_limit() {
    let (script, transcript) = steps(&[
        ("return relay.store.set('k', ('x'):rep(2000))", "false limits.store_value"),
        ("return relay.store.update('k', function() return ('x'):rep(2000) end)", "nil limits.store_value"),
        (
            "for n = 1, 3 do relay.store.set('k' .. n, ('x'):rep(900)) end return relay.store.list()",
            "nil limits.store_page",
        ),
        ("return #relay.store.list({ limit = 2 })", "2"),
        ("return relay.shared.set('k', ('x'):rep(5000))", "false limits.shared_memory"),
        ("return relay.shared.update('k', function() return ('x'):rep(5000) end)", "nil limits.shared_memory"),
        (
            "return relay.shared.set('k', ('x'):rep(3000)), relay.shared.incr(('n'):rep(900))",
            "true nil limits.shared_memory",
        ),
        ("return relay.shared.delete('k'), relay.shared.incr(('n'):rep(900))", "true 1"),
    ]);
    check_with(
        |app| {
            app.limits.store_value = 1_000;
            app.limits.store_page = 2_000;
            app.limits.shared_memory = 4_000;
        },
        &script,
        &transcript,
    );
}

#[test]
fn a_full_queue_is_busy() {
    let (script, transcript) =
        steps(&[("return relay.store.set('k', 1)", "false busy"), ("return relay.store.get('k')", "nil busy")]);
    check_with(|app| app.limits.store_queue = 0, &script, &transcript);
}

/// Plays a transcript with the store in `path`.
fn play(path: &Path, script: &str, transcript: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.lua");
    fs::write(&file, format!("local app = {{}}\n{script}\nreturn app\n")).unwrap();
    harness::run(async {
        let relay = harness::Relay::start_with(harness::app("app", &file), path).await.unwrap();
        let mut lines = Transcript::new(&relay);
        for line in transcript.lines().map(str::trim).filter(|line| !line.is_empty()) {
            lines.line(line).await.unwrap_or_else(|scene| panic!("{scene}"));
        }
        lines.end().await.unwrap_or_else(|scene| panic!("{scene}"));
    });
}

#[test]
fn it_is_there_after_a_restart_and_shared_memory_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let script = r#"
        function app.on_message(conn)
          conn:send(relay.store.incr("n") .. " " .. relay.shared.incr("n"))
        end
    "#;
    play(&path, script, "ann opens\nann > x\nann < 1 1\nann > x\nann < 2 2");
    play(&path, script, "ann opens\nann > x\nann < 3 1");
}

#[test]
fn a_script_that_keeps_nothing_touches_no_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/store.db");
    play(
        &path,
        "function app.on_message(conn) conn:send(tostring(relay.shared.get('k'))) end",
        "ann opens\nann > x\nann < nil",
    );
    assert!(!path.parent().unwrap().exists());
}

#[test]
fn a_damaged_file_is_told_to_the_script_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    fs::write(&path, vec![b'#'; 20_000]).unwrap();
    let script = r#"
        function app.on_message(conn)
          local store = relay.store
          for _, call in { store.get, store.incr, store.delete, function(k) return store.set(k, 1) end,
              function() return store.list() end, function(k) return store.update(k, print) end } do
            local value, why = call("k")
            conn:send(tostring(value) .. " " .. why:match("^the store is damaged"))
          end
        end
    "#;
    let told = "the store is damaged";
    let transcript: String =
        ["nil", "nil", "false", "false", "nil", "nil"].iter().map(|value| format!("ann < {value} {told}\n")).collect();
    play(&path, script, &format!("ann opens\nann > x\n{transcript}"));
    assert_eq!(fs::read(&path).unwrap(), vec![b'#'; 20_000]);
}

#[test]
fn a_store_that_cannot_be_opened_is_no_end_of_the_relay() {
    let folder = tempfile::tempdir().unwrap();
    let script = "function app.on_message(conn) local v, why = relay.store.set('k', 1) conn:send(tostring(v) .. ' ' .. tostring(why ~= nil)) end";
    // A folder in its place; then a file where its folder should be.
    play(folder.path(), script, "ann opens\nann > x\nann < false true\nann > x\nann < false true");
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    play(&file.join("store.db"), script, "ann opens\nann > x\nann < false true");
}

#[test]
fn a_value_that_cannot_be_read_is_not_written_over_by_what_builds_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let put = |bytes: &[u8]| {
        let connection = rusqlite::Connection::open(&path).unwrap();
        assert_eq!(connection.execute("UPDATE store SET value = ?1", [bytes]).unwrap(), 1);
    };
    let get = || -> Vec<u8> {
        rusqlite::Connection::open(&path).unwrap().query_row("SELECT value FROM store", [], |row| row.get(0)).unwrap()
    };
    play(
        &path,
        "function app.on_message(conn) conn:send(tostring(relay.store.set('k', 1))) end",
        "ann opens\nann > x\nann < true",
    );
    let mut bytes = get();
    *bytes.last_mut().unwrap() ^= 1;
    put(&bytes);
    let (script, transcript) = steps(&[
        ("return relay.store.get('k')", "nil the value of \"k\" cannot be read: its bytes have changed on disk"),
        ("return relay.store.list()", "nil the value of \"k\" cannot be read: its bytes have changed on disk"),
        ("return relay.store.incr('k')", "nil the value of \"k\" cannot be read: its bytes have changed on disk"),
        (
            "return relay.store.update('k', function() return 1 end)",
            "nil the value of \"k\" cannot be read: its bytes have changed on disk",
        ),
        ("return relay.store.set('k', 2, { if_absent = true })", "false"),
        ("return relay.store.set('other', 2), relay.store.get('other')", "true 2"),
    ]);
    play(&path, &script, &transcript);
    assert_eq!(
        rusqlite::Connection::open(&path)
            .unwrap()
            .query_row("SELECT value FROM store WHERE key = CAST('k' AS BLOB)", [], |row| row.get::<_, Vec<u8>>(0))
            .unwrap(),
        bytes
    );
}

#[test]
fn instances_share_memory_and_store() {
    check_with(
        |app| app.instances = 3,
        r#"
        function app.on_message(conn, text)
          for _ = 1, 5 do
            relay.store.update("n", function(n) return (n or 0) + 1 end)
            relay.shared.update("n", function(n) return (n or 0) + 1 end)
          end
          conn:send(relay.store.get("n") .. " " .. relay.shared.get("n"))
        end
        "#,
        "
        ann opens
        bob opens
        cid opens
        ann > x
        ann < 5 5
        bob > x
        bob < 10 10
        cid > x
        cid < 15 15
        ",
    );
}

#[test]
fn an_update_that_fails_frees_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.lua");
    let script = |version: u32| {
        format!(
            "-- {version}\nreturn {{ on_message = function(conn, text)
               if text == 'raise' then relay.store.update('k', function() error('no') end) end
               if text == 'loop' then relay.store.update('k', function() while true do end end) end
               conn:send(tostring(relay.store.update('k', function(v) return (v or 0) + 1 end)))
             end }}"
        )
    };
    fs::write(&file, script(1)).unwrap();
    harness::run(async {
        let relay = harness::Relay::start(harness::app("app", &file)).await.unwrap();
        let mut lines = Transcript::new(&relay);
        for line in ["ann opens", "bob opens", "ann > raise", "bob > loop", "ann > x", "ann < 1"] {
            lines.line(line).await.unwrap_or_else(|scene| panic!("{scene}"));
        }
        fs::write(&file, script(2)).unwrap();
        relay.reload().await;
        for line in ["bob > x", "bob < 2"] {
            lines.line(line).await.unwrap_or_else(|scene| panic!("{scene}"));
        }
    });
}

// ── over sockets ──

#[test]
fn apps_share_memory_if_they_say_so_and_never_the_store() {
    real(async {
        let relay = Relay::with(
            r#"
            function app.on_message(conn)
              conn:send(relay.shared.incr("n") .. " " .. relay.store.incr("n"))
            end
            "#,
            |config| {
                for (name, shared) in [("b", Some("games")), ("c", None)] {
                    let script = config.apps[0].script.clone();
                    let mut app = moonwire::config::App::new(name, &format!("/{name}/{{room}}"), script);
                    app.shared = shared.map(str::to_owned);
                    config.apps.push(app.into());
                }
                configure_app(config, |app| app.shared = Some("games".to_owned()));
            },
        )
        .await;
        for (target, expected) in [("/app/x", "1 1"), ("/b/x", "2 1"), ("/c/x", "1 1"), ("/app/x", "3 2")] {
            assert_eq!(relay.peer(target).await.ask("x").await, expected, "{target}");
        }
        relay.stop().await;
    });
}

/// Increments from four instances at once; `STORE_TEST_UPDATES` asks for another number.
fn updates() -> usize {
    std::env::var("STORE_TEST_UPDATES").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

#[test]
fn no_update_is_lost_from_four_instances_at_once() {
    const PEERS: usize = 100;
    real(async {
        let each = updates() / PEERS;
        let relay = Relay::with(
            &format!(
                r#"
                function app.on_message(conn, text)
                  if text == "get" then return conn:send(relay.store.get("n") .. " " .. relay.shared.get("n")) end
                  for _ = 1, {each} do
                    assert(relay.store.update("n", function(n) return (n or 0) + 1 end))
                    relay.shared.update("n", function(n) return (n or 0) + 1 end)
                  end
                  conn:send("done")
                end
                "#
            ),
            |config| {
                configure_app(config, |app| {
                    app.instances = 4;
                    app.limits.callback_timeout = Duration::from_secs(600);
                });
            },
        )
        .await;
        let mut peers = Vec::new();
        for _ in 0..PEERS {
            peers.push(relay.peer("/app/x").await);
        }
        for peer in &mut peers {
            peer.send("go").await;
        }
        for peer in &mut peers {
            let patience = Instant::now() + Duration::from_secs(300);
            while tokio::time::timeout(Duration::from_secs(5), futures_util::StreamExt::next(&mut peer.socket))
                .await
                .is_err()
            {
                assert!(Instant::now() < patience, "the updates do not end");
            }
        }
        let all = each * PEERS;
        assert_eq!(peers[0].ask("get").await, format!("{all} {all}"));
        relay.stop().await;
    });
}

#[test]
fn a_full_disk_is_told_to_the_script_and_the_relay_goes_on() {
    real(async {
        let relay = Relay::with(
            r#"
            function app.on_message(conn, text)
              local set, why = relay.store.set(text, string.rep("x", tonumber(text)))
              conn:send(tostring(set) .. " " .. tostring(why))
            end
            "#,
            |config| config.store.size = 64 * 4096,
        )
        .await;
        let mut peer = relay.peer("/app/x").await;
        assert_eq!(peer.ask("10").await, "true nil");
        assert_eq!(peer.ask("900000").await, "false the store is full: its disk, or store.size");
        assert_eq!(peer.ask("20").await, "true nil");
        relay.stop().await;
    });
}

const WRITES: &str = r#"
return {
  on_message = function(conn, text)
    if text == "count" then
      local n, after = 0, nil
      repeat
        local page = relay.store.list({ prefix = "w.", after = after, limit = 1000 })
        for _, entry in page do n += 1 after = entry.key end
      until #page == 0
      return conn:send(n .. " " .. tostring(relay.store.get("sum")))
    end
    if text:sub(1, 1) == "?" then return conn:send(tostring(relay.store.get("w." .. text:sub(2)))) end
    assert(relay.store.set("w." .. text, tonumber(text)))
    assert(relay.store.update("sum", function(n) return (n or 0) + 1 end))
    conn:send(text)
  end,
}
"#;

/// A relay in a process of its own, that can be killed.
struct Process {
    child: Child,
    url: String,
}

impl Process {
    fn start(folder: &Path) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moonwire"));
        command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening") {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the relay ended before it listened");
        }
        // Somebody must read the rest, or the relay stops at a full pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        let url = event["addresses"][0].as_str().unwrap().replace("http://", "ws://");
        Process { child, url: format!("{url}app") }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap(); // SIGKILL
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended already
        let _ = self.child.wait();
    }
}

fn folder_with(script: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("app.lua"), script).unwrap();
    fs::write(
        folder.path().join("config.toml"),
        "[server]\nlisten = \"127.0.0.1:0\"\nworkers = 2\n[reload]\nwatch = false\n\
         [[app]]\nname = \"app\"\npath = \"/app\"\nscript = \"app.lua\"\ninstances = 2\n",
    )
    .unwrap();
    let path = folder.path().to_owned();
    (folder, path)
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn socket(url: &str) -> Socket {
    soon("a handshake", tokio_tungstenite::connect_async(url)).await.unwrap().0
}

async fn say(socket: &mut Socket, text: &str) -> Option<String> {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    socket.send(Message::text(text)).await.ok()?;
    loop {
        match socket.next().await? {
            Ok(Message::Text(text)) => return Some(text.to_string()),
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            _ => return None,
        }
    }
}

/// Rounds of `kill -9`; `STORE_TEST_KILLS` asks for another number.
fn kills() -> u32 {
    std::env::var("STORE_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    const WRITERS: u32 = 8;
    let (_folder, path) = folder_with(WRITES);
    real(async {
        let (mut acknowledged, mut next) = (Vec::new(), 0_u32);
        for _ in 0..kills() {
            let mut relay = Process::start(&path);
            let mut random = [0; 1];
            getrandom::fill(&mut random).unwrap();
            let until = Instant::now() + Duration::from_millis(100 + u64::from(random[0]));
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let url = relay.url.clone();
                    let first = next + writer;
                    tokio::task::spawn_local(async move {
                        let mut socket = socket(&url).await;
                        let (mut number, mut heard) = (first, Vec::new());
                        while let Some(text) = say(&mut socket, &number.to_string()).await {
                            assert_eq!(text, number.to_string());
                            heard.push(number);
                            number += WRITERS;
                        }
                        (number, heard)
                    })
                })
                .collect();
            tokio::time::sleep_until(until.into()).await;
            relay.kill();
            for writer in writers {
                let (last, heard) = soon("a writer to notice", writer).await.unwrap();
                acknowledged.extend(heard);
                next = next.max(last + 1);
            }
            let relay = Process::start(&path);
            let mut socket = socket(&relay.url).await;
            let counted = say(&mut socket, "count").await.unwrap();
            let (count, sum) = counted.split_once(' ').unwrap();
            let (count, sum): (usize, f64) = (count.parse().unwrap(), sum.parse().unwrap_or_default());
            assert!(count >= acknowledged.len(), "{count} of {} are there", acknowledged.len());
            assert!(sum >= acknowledged.len() as f64 && sum <= count as f64, "{sum} of {}", acknowledged.len());
            for number in &acknowledged {
                assert_eq!(say(&mut socket, &format!("?{number}")).await.unwrap(), number.to_string());
            }
        }
        assert!(acknowledged.len() > 10, "only {} were written", acknowledged.len());
    });
}

#[test]
fn the_command_line_reads_writes_copies_and_checks_beside_a_running_relay() {
    let (_folder, path) = folder_with(WRITES);
    let run = |args: &[&str]| -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moonwire"));
        let output = command.arg("store").args(args).current_dir(&path).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    let told = |args: &[&str], status: i32, expected: &str| {
        let (code, said) = run(args);
        assert!(code == Some(status) && said.contains(expected), "{args:?}: {code:?} {said}");
    };
    told(&["list"], 1, "there is no store at");
    real(async {
        let relay = Process::start(&path);
        let mut socket = socket(&relay.url).await;
        assert_eq!(say(&mut socket, "7").await.unwrap(), "7");
        assert_eq!(run(&["get", "w.7"]), (Some(0), "7\n".to_owned()));
        assert_eq!(run(&["set", "w.8", "{\"a\":[1,null]}", "--ttl", "1h"]), (Some(0), String::new()));
        assert!(say(&mut socket, "?8").await.unwrap().starts_with("table"));
        assert_eq!(run(&["set", "--app", "other", "w.9", "true"]).0, Some(0));
        told(
            &["list", "--prefix", "w."],
            0,
            "{\"key\":\"w.7\",\"value\":7}\n{\"key\":\"w.8\",\"value\":{\"a\":[1,null]}}\n",
        );
        told(&["list", "--after", "sum", "--limit", "1"], 0, "w.7");
        told(&["get", "w.9"], 1, "has no key w.9");
        told(&["set", "w.9", "text"], 2, "no JSON");
        told(&["set", "", "1"], 2, "1 to 1024 bytes");
        told(&["delete", "w.8"], 0, "");
        told(&["delete", "w.8"], 1, "has no key");
        told(&["verify"], 0, "ok, 3 values");
        told(&["backup", "copy.db"], 0, "copied to copy.db");
        told(&["backup", "copy.db"], 1, "is there already");
    });
    fs::rename(path.join("copy.db"), path.join("data/moonwire.db")).unwrap();
    let _ = fs::remove_file(path.join("data/moonwire.db-wal"));
    let _ = fs::remove_file(path.join("data/moonwire.db-shm"));
    told(&["verify"], 0, "ok, 3 values");
    let connection = rusqlite::Connection::open(path.join("data/moonwire.db")).unwrap();
    connection.execute("UPDATE store SET value = x'01' WHERE app = 'other'", []).unwrap();
    told(&["verify"], 1, "other: the value of \"w.9\" cannot be read: it is too short");
}
