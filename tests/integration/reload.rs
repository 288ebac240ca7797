//! Reload, without a socket: what a new generation gets, what an old one may still do, and what refuses one.

use std::time::Duration;

use moonwire::{
    harness::{Relay, alone, app, resident, run},
    reload::report::Outcome,
};

use crate::scene::{Scene, error_of};

#[test]
fn new_code_handles_the_next_message_with_the_state_that_was() {
    run(async {
        let scene = Scene::of(
            r#"
            function app.on_start() relay.state.total = 0 end
            function app.on_message(conn, text)
              relay.state.total += 1
              conn.state.mine = (conn.state.mine or 0) + 1
              conn:send("old " .. relay.state.total .. " " .. conn.state.mine)
            end
            "#,
        )
        .await;
        let (ann, bob) = (scene.peer("ann").await, scene.peer("bob").await);
        assert_eq!(scene.ask(&ann, "x").await, "old 1 1");
        assert_eq!(scene.ask(&bob, "x").await, "old 2 1");
        scene
            .reloads(
                r#"
                function app.on_message(conn, text)
                  conn:send(relay.generation .. " new " .. relay.state.total .. " " .. conn.state.mine)
                end
                "#,
            )
            .await;
        assert_eq!(scene.ask(&ann, "x").await, "2 new 2 1");
        assert_eq!(scene.ask(&bob, "x").await, "2 new 2 1");
        assert_eq!(ann.closed(), None);
    });
}

#[test]
fn a_reload_without_a_change_does_nothing() {
    run(async {
        let scene = Scene::of("function app.on_message(conn) conn:send(tostring(relay.generation)) end").await;
        assert_eq!(scene.relay.reload().await.outcome, Outcome::Unchanged);
        let ann = scene.peer("ann").await;
        assert_eq!(scene.ask(&ann, "x").await, "1");
    });
}

#[test]
fn a_change_in_a_required_module_is_a_change() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("app.lua");
        std::fs::create_dir(folder.path().join("lib")).unwrap();
        std::fs::write(folder.path().join("lib/words.lua"), "return { hello = 'hello' }").unwrap();
        std::fs::write(
            &script,
            "local words = require('lib.words') return { on_message = function(c) c:send(words.hello) end }",
        )
        .unwrap();
        let relay = Relay::start(app("app", &script)).await.unwrap();
        let ann = relay.connect("/app/x").await.unwrap();
        ann.send("x");
        relay.settle().await;
        assert_eq!(ann.receive_text().as_deref(), Some("hello"));
        std::fs::write(folder.path().join("lib/words.lua"), "return { hello = 'good day' }").unwrap();
        let report = relay.reload().await;
        let Outcome::Reloaded { files, .. } = report.outcome else { panic!("{report:#?}") };
        assert_eq!(files, [folder.path().join("lib/words.lua")]);
        ann.send("x");
        relay.settle().await;
        assert_eq!(ann.receive_text().as_deref(), Some("good day"));
    });
}

#[test]
fn a_script_that_cannot_be_used_is_refused_with_its_line_and_the_old_one_goes_on() {
    run(async {
        let scene = Scene::of("function app.on_message(conn) conn:send('old') end").await;
        let ann = scene.peer("ann").await;
        let cases = [
            ("function app.on_message(conn) conn:send( end", "app.lua:2: "),
            ("error('not now')", "app.lua:2: not now"),
            ("app.on_mesage = print", "app.lua:2: there is no callback `on_mesage`; did you mean `on_message`?"),
            ("app.on_message = 'x'", "app.lua:2: the callback `on_message` must be a function, got string"),
            ("app.version = 'two' function app.on_message() end", "`version` must be a whole number, got string"),
            ("", "the script has no callback"),
            ("function app.on_message() end app = nil", "must return a table with its callbacks"),
            ("function app.on_load() error('not ready') end", "app.lua:2: not ready"),
            ("function app.on_load() relay.broadcast('x') end", "relay.broadcast(data): not while a script loads"),
            ("function app.on_load() relay.after(1, print) end", "relay.after(seconds, fn): not while a script loads"),
            ("relay.sleep(1)", "relay.sleep(seconds): not while a script loads"),
            ("require('nowhere')", "require(\"nowhere\"): there is no "),
            ("while true do end", "stopped: it computed longer than limits.load_cpu"),
        ];
        for (body, expected) in cases {
            let error = scene.refuses(body).await;
            assert!(error.contains(expected), "{body}\ngives: {error}\nnot: {expected}");
            assert_eq!(scene.ask(&ann, "x").await, "old", "after {body}");
            assert_eq!(scene.relay.instance(0).generation(), 1);
        }
        std::fs::remove_file(&scene.script).unwrap();
        let error = error_of(scene.relay.reload().await);
        assert!(error.contains("app.lua: there is no such file"), "{error}");
        assert_eq!(scene.ask(&ann, "x").await, "old");
    });
}

#[test]
fn what_is_not_plain_refuses_the_reload_by_its_path() {
    run(async {
        let keep = "function app.on_message(conn, text) ";
        let cases = [
            ("relay.state.users = { [3] = { cb = print } }", "relay.state.users[3].cb is a function"),
            ("local t = {} relay.state.a = t relay.state.b = t", "is a table that is reachable twice"),
            ("local t = {} relay.state.a = t conn.state.b = t", "is a table that is reachable twice"),
            (
                "conn.state.x = { y = coroutine.create(print) }",
                "conn.state.x.y is a thread, which is not plain data (connection ",
            ),
            ("relay.state.m = setmetatable({}, { __index = {} })", "relay.state.m has a metatable"),
        ];
        for (body, expected) in cases {
            let scene = Scene::of(&format!("{keep} {body} conn:send('done') end")).await;
            let ann = scene.peer("ann").await;
            assert_eq!(scene.ask(&ann, "x").await, "done", "{body}");
            let error = scene.refuses("function app.on_message(conn) conn:send('new') end").await;
            assert!(error.contains(expected), "{body}\ngives: {error}\nnot: {expected}");
            assert_eq!(scene.ask(&ann, "x").await, "done", "the old one goes on, and may write to its state");
        }
    });
}

#[test]
fn another_version_migrates_the_state_once_and_each_connection_when_it_is_touched() {
    run(async {
        let scene = Scene::of(
            r#"
            function app.on_start() relay.state.names = { "a" } end
            function app.on_open(conn) conn.state.name = conn.query.name end
            function app.on_message(conn) conn:send("v1") end
            "#,
        )
        .await;
        let (ann, bob) = (scene.peer("ann").await, scene.peer("bob").await);
        let v2 = r#"
            app.version = 2
            function app.migrate(state, from) return { count = #state.names, from = from } end
            function app.migrate_conn(state, from)
              if state.name == "bob" then error("bob cannot be moved") end
              return { title = state.name:upper() .. from }
            end
            function app.on_open(conn) conn.state.title = "NEW" end
            function app.on_message(conn, text) conn:send(relay.state.count .. relay.state.from .. conn.state.title) end
        "#;
        scene.reloads(v2).await;
        assert_eq!(scene.ask(&ann, "x").await, "11ANN1");
        scene.relay.settle().await;
        assert_eq!(
            bob.closed().map(|(code, _)| code),
            Some(1012),
            "a state that cannot be migrated ends its connection"
        );
        let eve = scene.peer("eve").await;
        assert_eq!(scene.ask(&eve, "x").await, "11NEW");
        let error =
            scene.refuses(&v2.replace("version = 2", "version = 3").replace("#state.names", "#state.nothing")).await;
        assert!(error.contains("attempt to get length of a nil value"), "{error}");
        assert_eq!(scene.ask(&eve, "x").await, "11NEW");
    });
}

#[test]
fn a_waiting_callback_ends_in_its_own_generation_and_may_not_write_to_what_has_moved() {
    run(async {
        let scene = Scene::of(
            r#"
            function app.on_start() relay.state.n = 1 end
            function app.on_message(conn, text)
              conn.state.seen = text
              relay.sleep(1)
              conn:send(relay.generation .. " " .. conn.state.seen .. " " .. relay.state.n)
              conn.state.seen = "still mine"
              local ok, why = pcall(function() relay.state.n = 2 end)
              conn:send(tostring(ok) .. " " .. why:match(":%d+: (.*)"))
              relay.state.n = 3
            end
            function app.on_error(conn, err) conn:send("1: " .. err.message:match(":%d+: (.*)")) end
            "#,
        )
        .await;
        let ann = scene.peer("ann").await;
        ann.send("first");
        ann.send("second");
        scene.relay.settle().await;
        scene
            .reloads(
                r#"
                function app.on_message(conn, text) conn:send(relay.generation .. " " .. text .. " " .. conn.state.seen .. relay.state.n) end
                function app.on_error(conn, err) conn:send("2: " .. err.message:match(":%d+: (.*)")) end
                "#,
            )
            .await;
        assert_eq!(ann.receive_text(), None, "the next message waits for the callback before it");
        scene.relay.advance(Duration::from_secs(2)).await;
        let expected = [
            "1 first 1",
            "false state has moved to generation 2",
            "2: state has moved to generation 2",
            "2 second still mine1",
        ];
        for line in expected {
            assert_eq!(ann.receive_text().as_deref(), Some(line));
        }
    });
}

#[test]
fn a_state_that_a_new_callback_reads_is_frozen_for_the_old_one() {
    run(async {
        let scene = Scene::of(
            r#"
            function app.on_open(conn) conn:join("r") conn.state.v = 1 end
            function app.on_message(conn, text)
              relay.sleep(1)
              local ok, why = pcall(function() conn.state.v = 2 end)
              conn:send(conn.state.v .. " " .. tostring(ok) .. " " .. why:match(":%d+: (.*)"))
            end
            "#,
        )
        .await;
        let (ann, bob) = (scene.peer("ann").await, scene.peer("bob").await);
        ann.send("x");
        scene.relay.settle().await;
        scene
            .reloads(
                r#"
                function app.on_message(conn)
                  local sum = 0
                  for _, member in relay.room("r"):members() do sum += member.state.v end
                  conn:send("sum " .. sum)
                end
                "#,
            )
            .await;
        assert_eq!(scene.ask(&bob, "x").await, "sum 2");
        scene.relay.advance(Duration::from_secs(2)).await;
        assert_eq!(ann.receive_text().as_deref(), Some("1 false state has moved to generation 2"));
    });
}

#[test]
fn a_callback_that_waits_longer_than_reload_drain_is_cancelled_and_cannot_wait_again() {
    run(async {
        let scene = Scene::of(
            r#"
            function app.on_message(conn, text)
              local ok, why = pcall(relay.sleep, 1000)
              local again, why2 = pcall(relay.sleep, 1)
              conn:send(tostring(ok) .. " " .. why .. " / " .. tostring(again) .. " " .. why2)
            end
            "#,
        )
        .await;
        let ann = scene.peer("ann").await;
        ann.send("x");
        scene.relay.settle().await;
        scene.reloads("function app.on_message(conn) conn:send('new') end").await;
        scene.relay.advance(Duration::from_secs(9)).await;
        assert_eq!(ann.receive_text(), None);
        scene.relay.advance(Duration::from_secs(2)).await;
        let line = ann.receive_text().unwrap();
        assert!(line.starts_with("false ") && line.contains("reload.drain is over"), "{line}");
        assert!(line.contains("/ false ") && line.contains("may not wait any more"), "{line}");
        assert_eq!(scene.ask(&ann, "x").await, "new");
    });
}

#[test]
fn timers_end_with_their_generation_and_on_start_begins_new_ones() {
    run(async {
        let script = |word: &str| {
            format!(
                r#"
                function app.on_open(conn) conn:join("r") end
                function app.on_start(previous)
                  local was = previous and previous.generation or 0
                  relay.every(1, function() relay.room("r"):publish("{word} after " .. was) end)
                end
                "#
            )
        };
        let scene = Scene::of(&script("old")).await;
        let ann = scene.peer("ann").await;
        scene.relay.advance(Duration::from_millis(1500)).await;
        assert_eq!(ann.receive_text().as_deref(), Some("old after 0"));
        scene.reloads(&script("new")).await;
        scene.relay.advance(Duration::from_millis(2100)).await;
        assert_eq!(ann.receive_text().as_deref(), Some("new after 1"));
        assert_eq!(ann.receive_text().as_deref(), Some("new after 1"));
        assert_eq!(ann.receive_text(), None);
    });
}

#[test]
fn rooms_and_members_stay_through_a_reload() {
    run(async {
        let scene = Scene::of("function app.on_open(conn) conn:join('r') conn:join_pattern('p.*') end").await;
        let (ann, bob) = (scene.peer("ann").await, scene.peer("bob").await);
        scene.reloads("function app.on_message(conn, room) conn:send(tostring(relay.room(room):count())) conn:publish(room, 'hi') end").await;
        assert_eq!(scene.ask(&ann, "r").await, "2");
        assert_eq!(bob.receive_text().as_deref(), Some("hi"));
        assert_eq!(scene.ask(&ann, "p.1").await, "0");
        assert_eq!(bob.receive_text().as_deref(), Some("hi"));
    });
}

#[test]
fn all_instances_switch_or_none() {
    run(async {
        let old = r#"
            function app.on_open(conn) conn:join("r") end
            function app.on_message(conn, text) conn:send("old " .. relay.instance.index) relay.state.bad = text == "spoil" and print or nil end
        "#;
        let scene = Scene::with(old, |config| config.instances = 3).await;
        let mut peers = Vec::new();
        for name in ["a", "b", "c"] {
            peers.push(scene.peer(name).await);
        }
        let mut seen = Vec::new();
        for peer in &peers {
            seen.push(scene.ask(peer, "x").await);
        }
        seen.sort();
        assert_eq!(seen, ["old 1", "old 2", "old 3"]);
        scene.ask(&peers[1], "spoil").await;
        let error = scene.refuses("function app.on_message(conn) conn:send('new') end").await;
        assert!(error.contains("relay.state.bad is a function"), "{error}");
        for peer in &peers {
            assert!(scene.ask(peer, "x").await.starts_with("old"));
        }
        scene.reloads("function app.on_message(conn) conn:send('newer') end").await;
        for peer in &peers {
            assert_eq!(scene.ask(peer, "x").await, "newer");
        }
    });
}

#[test]
fn changed_settings_come_with_a_new_generation() {
    run(async {
        let scene = Scene::of("function app.on_message(conn) conn:send(tostring(relay.config.word)) end").await;
        let ann = scene.peer("ann").await;
        assert_eq!(scene.ask(&ann, "x").await, "nil");
        let mut config = app("app", &scene.script);
        let mut settings = moonwire::plain::PlainTable::default();
        settings.pairs.push((moonwire::plain::Plain::string("word"), moonwire::plain::Plain::string("yes")));
        config.settings = moonwire::plain::Plain::Table(Box::new(settings));
        config.limits.outbox = 10;
        scene.relay.set_config(config);
        assert!(matches!(scene.relay.reload().await.outcome, Outcome::Reloaded { from: 1, to: 2, .. }));
        assert_eq!(scene.ask(&ann, "x").await, "yes");
    });
}

#[test]
fn ten_thousand_reloads_lose_nothing_and_leave_nothing() {
    alone("reload::ten_thousand_reloads_lose_nothing_and_leave_nothing", || {
        run(async {
            let script = |n: usize| {
                format!(
                    r#"
                -- {n}
                function app.on_open(conn) conn:join("r") conn.state.n = 0 end
                function app.on_message(conn, text)
                  conn.state.n += 1
                  conn:send(conn.state.n .. " " .. text)
                  conn:publish("r", text)
                end
                "#
                )
            };
            let scene = Scene::of(&script(0)).await;
            let (ann, bob) = (scene.peer("ann").await, scene.peer("bob").await);
            let mut memory = 0;
            for n in 1..=10_000 {
                scene.edit(&script(n));
                let reload = scene.relay.reload_meanwhile();
                ann.send(format!("{n}"));
                let report = reload.await.unwrap();
                assert!(
                    matches!(report.outcome, Outcome::Reloaded { from, to, .. } if from == n as u64 && to == from + 1),
                    "{report:?}"
                );
                scene.relay.settle().await;
                assert_eq!(ann.receive_text(), Some(format!("{n} {n}")), "reload {n}");
                assert_eq!(bob.receive_text(), Some(format!("{n}")), "reload {n}");
                if n == 1000 {
                    memory = resident() / 1024;
                }
            }
            let grown = (resident() / 1024).saturating_sub(memory);
            assert!(grown < 16 * 1024, "9,000 reloads have left {grown} KiB");
        });
    });
}
