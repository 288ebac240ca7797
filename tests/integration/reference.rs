//! What `docs/` says of names: it is what a script finds, both ways, and every example runs.

use std::{collections::BTreeSet, fs, path::PathBuf, sync::Arc};

use moonwire::{
    config,
    harness::run,
    script::{CALLBACKS, reference},
    testing,
};

use crate::scene::Scene;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The script that examples of tests are about.
const CHAT: &str = r#"
local app = {}
function app.authenticate(request) return request.query.name or true end
function app.on_open(conn) conn.state.room = "room." .. relay.token(conn.params.room) conn:join(conn.state.room) end
function app.on_message(conn, data, binary) conn:publish(conn.state.room, data, binary) end
return app
"#;

/// Runs `tests` against the script `chat`, at `path`; the failures.
pub fn failures(path: &str, secret: &str, chat: &str, tests: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write(
        "config.toml",
        &format!(
            "[[app]]\nname = \"chat\"\npath = \"{path}\"\nscript = \"chat.lua\"\nsettings = {{ secret = \"{secret}\" }}\nhttp.allow = [\"api.example.com\"]\n"
        ),
    );
    write("chat.lua", chat);
    write("chat_test.lua", tests);
    let config = Arc::new(config::load(Some(&folder.path().join("config.toml")), &[]).unwrap());
    let files = [folder.path().join("chat_test.lua")];
    let results =
        testing::run(&config, &files, &testing::Options { threads: 1, ..Default::default() }, |_| ()).unwrap();
    let ran: usize = results.iter().map(|result| result.cases.len()).sum();
    let mut failures: Vec<String> = results.iter().filter_map(|result| result.problem.clone()).collect();
    failures.extend(results.into_iter().flat_map(|result| result.cases).filter_map(|case| case.failure));
    if ran == 0 && failures.is_empty() {
        failures.push("it has no case".to_owned());
    }
    failures
}

/// Loads a script, opens a connection and sends it something; what goes wrong in it.
pub fn script_failures(path: &str, secret: &str, target: &str, script: &str) -> Vec<String> {
    let tests = format!(
        r#"
        local test = require("moonwire.test")
        local script = [====[
{script}]====]
        test.case("it runs", function()
          local app = test.app("chat")
          local ann = app:connect("{target}")
          if not ann.refused then
            if not ann.closed then ann:send("hello") end
            if not ann.closed then ann:send_json({{ type = "hello" }}) end
            app:advance(1)
            ann:close()
          end
          app:advance(1)
          -- What the script itself says that it raises is no failure.
          for _, line in app:log() do
            local raised = line.message:gsub("^[^\n]-:%d+: ", "")
            assert(line.level ~= "error" or script:find(raised, 1, true), line.message)
          end
        end)
        "#
    );
    failures(path, secret, script, &tests)
}

/// A block of Lua as a whole script.
pub fn whole(block: &str) -> String {
    if block.trim_end().ends_with("return app") {
        return block.to_owned();
    }
    if block.lines().any(|line| line.starts_with("function app.")) {
        return format!("local app = {{}}\n{block}\nreturn app\n");
    }
    format!("local app = {{}}\nfunction app.on_open(conn)\n{block}\nend\nreturn app\n")
}

#[test]
fn every_example_of_the_reference_runs() {
    let mut all = Vec::new();
    for group in &reference::GROUPS {
        for entry in group.entries {
            let failures = if group.title == "Tests" {
                failures(
                    "/chat/{room}",
                    "s",
                    CHAT,
                    &format!("local test = require(\"moonwire.test\")\n{}", entry.example),
                )
            } else {
                script_failures("/app/{room}", "s", "/app/lobby?name=ann", &whole(entry.example))
            };
            all.extend(failures.into_iter().map(|failure| format!("{}: {failure}\n{}", entry.name, entry.example)));
        }
    }
    assert!(all.is_empty(), "{} examples fail:\n\n{}", all.len(), all.join("\n\n"));
}

/// With `WRITE_REFERENCE=1` the pages are written instead.
#[test]
fn the_pages_of_the_reference_are_those_of_the_tables() {
    let folder = root().join("docs/reference");
    let pages = reference::pages();
    if std::env::var_os("WRITE_REFERENCE").is_some() {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in &pages {
            fs::write(folder.join(name), text).unwrap();
        }
    }
    let there: BTreeSet<String> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let wanted: BTreeSet<String> = pages.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(there, wanted, "write them with WRITE_REFERENCE=1");
    for (name, text) in pages {
        let written = fs::read_to_string(folder.join(&name)).unwrap();
        assert!(written == text, "docs/reference/{name} is not what the tables say; write it with WRITE_REFERENCE=1");
    }
}

fn names(prefix: &str) -> BTreeSet<String> {
    let of = |entry: &reference::Entry| entry.name.strip_prefix(prefix).map(str::to_owned);
    reference::entries().filter_map(of).collect()
}

#[test]
fn a_script_finds_the_names_of_the_reference_and_no_others() {
    let found = run(async {
        let scene = Scene::of(
            r#"
            local function below(path, value, found)
              if type(value) ~= "table" or path == "config" or path == "state" or path == "instance" then
                table.insert(found, path)
              else
                for key, inner in value do below(path .. "." .. key, inner, found) end
              end
              return found
            end
            function app.on_open(conn)
              local found = {}
              for name, value in relay do below(name, value, found) end
              conn:send(table.concat(found, " "))
            end
            "#,
        )
        .await;
        scene.peer("ann").await.receive_text().unwrap()
    });
    let found: BTreeSet<String> = found.split(' ').map(str::to_owned).collect();
    assert_eq!(found, names("relay."));
    let mut callbacks: BTreeSet<String> = CALLBACKS.iter().map(|name| (*name).to_owned()).collect();
    callbacks.insert("version".to_owned());
    assert_eq!(callbacks, names("app."));
}

#[test]
fn a_request_has_the_fields_of_the_reference() {
    let found = run(async {
        let scene = Scene::of(
            r#"
            function app.on_request(request)
              local names = {}
              for name in request do table.insert(names, name) end
              return table.concat(names, " ")
            end
            "#,
        )
        .await;
        let bare = moonwire::handshake::bare::Bare {
            method: "POST".to_owned(),
            target: "/app/x?a=1".to_owned(),
            headers: vec![
                ("origin".to_owned(), "http://localhost".to_owned()),
                ("authorization".to_owned(), "Bearer t".to_owned()),
            ],
            body: "b".into(),
        };
        String::from_utf8(scene.relay.request(bare).await.body).unwrap()
    });
    let found: BTreeSet<String> = found.split(' ').map(str::to_owned).collect();
    assert_eq!(found, names("request."));
}

/// The names that the sources of `src/script/api/` give to values that scripts hold.
#[test]
fn what_scripts_hold_has_the_names_of_the_reference() {
    let of = |file: &str| {
        let text = fs::read_to_string(root().join("src/script/api").join(file)).unwrap();
        let mut names = BTreeSet::new();
        for start in ["add_method(", "add_field(", "add_field_method_get(", "add_field_function_get("] {
            for (at, _) in text.match_indices(start) {
                let rest = text[at + start.len()..].trim_start();
                if let Some(name) = rest.strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                    names.insert(name.to_owned());
                }
            }
        }
        names
    };
    let wanted = |owner: &str| -> BTreeSet<String> {
        let mine = |entry: &&reference::Entry| entry.owner() == owner;
        reference::entries().filter(mine).map(|entry| entry.last().to_owned()).collect()
    };
    // These are made from a list of facts.
    let mut conn = of("conn.rs");
    conn.extend(["params", "query", "headers", "cookies"].map(str::to_owned));
    assert_eq!(conn, wanted("conn"));
    assert_eq!(of("room.rs"), wanted("room"));
    assert_eq!(of("user.rs"), wanted("user"));
    assert_eq!(of("wait.rs"), wanted("timer"));
    assert_eq!(of("ws.rs"), wanted("socket"));
}

/// Every name of the contract with scripts.
const CONTRACT: &str = "
    app.authenticate app.on_open app.on_message app.on_close app.on_error app.on_request app.on_load app.on_start app.on_stop
    app.on_drain app.on_presence app.on_revoked app.on_alarm app.on_event app.on_document app.migrate app.migrate_conn
    app.migrate_back app.version
    request.method request.path request.params request.query request.raw_query request.headers request.cookies request.origin
    request.bearer request.remote_addr request.subprotocols request.body request.tls
    conn.id conn.user conn.state conn.path conn.params conn.query conn.headers conn.cookies conn.remote_addr conn.subprotocol
    conn.opened_at
    conn:send conn:send_json conn:close conn:join conn:leave conn:rooms conn:join_pattern conn:leave_pattern conn:publish
    conn:publish_json conn:identify conn:set_meta conn:can conn:buffered
    relay.room relay.user relay.conn relay.connections relay.count relay.broadcast relay.broadcast_json relay.emit relay.refuse
    relay.sleep relay.after relay.every timer:cancel relay.spawn relay.alarm
    relay.http.get relay.http.post relay.http.request relay.ws.connect socket:send socket:receive socket:close
    relay.json.encode relay.json.decode relay.json.null relay.json.array relay.base64.encode relay.base64.decode relay.hex.encode
    relay.hex.decode relay.crypto.sha256 relay.crypto.sha1 relay.crypto.md5 relay.crypto.hmac_sha256 relay.crypto.hmac_sha1
    relay.crypto.random_bytes relay.crypto.uuid relay.crypto.equals relay.jwt.verify relay.jwt.sign relay.password.hash
    relay.password.verify relay.rate relay.log.debug relay.log.info relay.log.warn relay.log.error
    relay.metrics.counter relay.metrics.gauge relay.metrics.histogram
    relay.config relay.env relay.now relay.monotonic relay.app relay.generation relay.instance relay.state relay.token require print
    room:publish room:publish_json room:count room:members room:users room:redact room:disconnect room:set_header room:history
    relay.define_rooms
    user:send user:send_json user:connections user:online user:join user:leave user:disconnect user:set_allow user:set_deny
    user:update_allow
    relay.doc doc:attach doc:detach doc:text doc:map doc:array doc:to_table doc:transact doc:snapshot doc:restore
    relay.store.get relay.store.set relay.store.delete relay.store.list relay.store.incr relay.store.update
    relay.shared.get relay.shared.set relay.shared.delete relay.shared.list relay.shared.incr relay.shared.update
    moonwire.test.case moonwire.test.equal moonwire.test.silent moonwire.test.app moonwire.test.play
    app:connect app:advance app:reload app:request
    peer:send peer:send_json peer:receive peer:receive_json peer:close peer:drop peer.closed peer.refused
";

/// Those of it that come later.
const LATER: &str = "
    app.on_drain app.on_presence app.on_document app.migrate_back conn:set_meta
    relay.metrics.counter relay.metrics.gauge relay.metrics.histogram
    room:users room:redact room:set_header room:history relay.define_rooms
    relay.doc doc:attach doc:detach doc:text doc:map doc:array doc:to_table doc:transact doc:snapshot doc:restore
";

/// What there is besides: names of what the contract tells in words, and the libraries.
const BESIDES: &str = "
    room.name user.id socket.subprotocol err.message err.traceback err.callback
    moonwire.router.new router:on router:handler router:request router:closed moonwire.shape.of
    moonwire.test.raises moonwire.test.matrix app:log peer:can peer:rooms peer.id peer.subprotocol
";

#[test]
fn the_names_are_those_of_the_contract() {
    let set = |text: &'static str| -> BTreeSet<&str> { text.split_whitespace().collect() };
    let (contract, later) = (set(CONTRACT), set(LATER));
    assert!(later.is_subset(&contract));
    let there: BTreeSet<&str> = reference::entries().map(|entry| entry.name).collect();
    assert_eq!(there.len(), reference::entries().count(), "a name is in the tables twice");
    let wanted: BTreeSet<&str> = contract.difference(&later).copied().chain(set(BESIDES)).collect();
    let missing: Vec<_> = wanted.difference(&there).collect();
    let unknown: Vec<_> = there.difference(&wanted).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing: {missing:?}, not in the contract: {unknown:?}");
}
