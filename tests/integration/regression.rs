//! What once went wrong: each test is a scene that broke a promise.

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use crate::{
    scene::Scene,
    support::{self, eventually, module, real, soon},
};
use moonwire::{
    config,
    harness::{Peer, alone, check, resident, run},
    reload::report::Outcome,
};

/// What the relay logs, in a process that has one log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn of_this_process() -> Lines {
        let lines = Lines::default();
        let writer = lines.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
        lines
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

fn all(peer: &Peer) -> Vec<String> {
    std::iter::from_fn(|| peer.receive_text()).collect()
}

/// Runs a body that may never end, on a thread that is given up after a while.
fn within(patience: Duration, body: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        body();
        let _ = done.send(());
    });
    match ended.recv_timeout(patience) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("not within {patience:?}: the worker hangs"),
        _ => {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[test]
fn a_migrate_conn_that_never_ends_is_stopped_by_its_budget() {
    within(Duration::from_secs(8), || {
        run(async {
            let scene =
                Scene::of("function app.on_open(conn) conn.state.n = 1 end function app.on_message() end").await;
            let ann = scene.peer("ann").await;
            scene
                .reloads(
                    "app.version = 2 function app.migrate_conn() while true do end end
                     function app.on_message(conn) conn:send('new') end",
                )
                .await;
            scene.ask(&ann, "x").await;
        });
    });
}

#[test]
fn an_event_for_all_apps_at_the_start_harms_no_other_app() {
    real(async {
        let folder = tempfile::tempdir().unwrap();
        let b = folder.path().join("b.lua");
        std::fs::write(
            &b,
            module(
                "function app.on_open(conn) conn:send('in') end
                 function app.on_event(name) if name == 'now' then relay.broadcast('event') end end",
            ),
        )
        .unwrap();
        let a = "function app.on_start() relay.emit('hello', nil, { app = '*' }) end
                 function app.on_open(conn) conn:send('in') end
                 function app.on_message(conn, text) relay.emit('now', nil, { app = '*' }) conn:send('emitted') end";
        let relay = support::Relay::with(a, |config| {
            config.server.workers = 1;
            config.apps.push(config::App::new("b", "/b/{room}", &b).into());
        })
        .await;
        let mut ann = relay.member("/app/x").await;
        let mut bob = relay.member("/b/x").await;
        assert_eq!(ann.ask("x").await, "emitted");
        assert_eq!(bob.text().await, "event");
        relay.stop().await;
    });
}

#[test]
fn every_error_of_a_script_begins_with_its_place() {
    run(async {
        let scene = Scene::with(
            r#"
            function app.on_message(conn, text)
              if text == "memory" then local list while true do list = { list } end end
              if text == "endless" then while true do end end
              if text == "no level" then error("plain", 0) end
              if text == "table" then error({ code = 1 }) end
              if text == "yield" then coroutine.yield() end
            end
            function app.on_error(conn, err) conn:send(err.message .. "|" .. err.traceback) end
            "#,
            |config| config.limits.script_memory = 8 << 20,
        )
        .await;
        let ann = scene.peer("ann").await;
        let mut wrong = Vec::new();
        for what in ["memory", "endless", "no level", "table", "yield"] {
            let said = scene.ask(&ann, what).await;
            let message = said.split('|').next().unwrap_or_default();
            if !message.contains("app.lua:") {
                wrong.push(format!("{what}: {said}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

#[test]
fn a_new_generation_never_takes_one_connection_for_another() {
    run(async {
        let scene = Scene::of("function app.on_open(conn) conn:join('r') end").await;
        let (eve, ann) = (scene.peer("eve").await, scene.peer("ann").await);
        scene.edit(
            r#"
            function app.on_load()
              relay.connections()
              local sum = 0
              for i = 1, 3e6 do sum += i end
            end
            function app.on_message(conn, text) relay.room("r"):publish("from " .. conn.query.name) end
            "#,
        );
        let reload = scene.relay.reload_meanwhile();
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        assert!(!reload.is_finished());
        ann.vanish();
        let bob = scene.relay.connect("/app/lobby?name=bob").await.unwrap();
        let report = reload.await.unwrap();
        assert!(matches!(report.outcome, Outcome::Reloaded { .. }), "{report:#?}");
        scene.relay.settle().await;
        bob.send("x");
        scene.relay.settle().await;
        assert_eq!(all(&eve), ["from bob"]);
    });
}

/// Keeps the thread so busy that everybody else advances one step at a time.
fn slow_motion() -> Vec<tokio::task::JoinHandle<()>> {
    let spin = || async {
        loop {
            tokio::task::yield_now().await;
        }
    };
    (0..100).map(|_| tokio::task::spawn_local(spin())).collect()
}

#[test]
fn a_reload_whose_asker_is_gone_holds_nobody_up() {
    run(async {
        let scene = Scene::of("function app.on_message(conn) conn:send('ok') end").await;
        let ann = scene.peer("ann").await;
        for turns in 0..60 {
            scene.edit(&format!("-- {turns}\nfunction app.on_message(conn) conn:send('ok') end"));
            let slow = slow_motion();
            let reload = scene.relay.reload_meanwhile();
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            reload.abort();
            slow.iter().for_each(|task| task.abort());
            scene.relay.settle().await;
            assert_eq!(scene.ask(&ann, "x").await, "ok", "given up after {turns} turns");
        }
    });
}

#[test]
fn a_connection_whose_state_cannot_be_migrated_still_has_its_on_close() {
    run(async {
        let scene = Scene::of("function app.on_open(conn) conn:join('r') conn.state.n = conn.query.name end function app.on_message() end").await;
        let (ann, _bob) = (scene.peer("ann").await, scene.peer("bob").await);
        scene
            .reloads(
                r#"
                app.version = 2
                function app.migrate_conn(state) if state.n == "bob" then error("no") end return state end
                function app.on_message() end
                function app.on_close(conn, code) conn:publish("r", "closed " .. conn.query.name .. " " .. code) end
                "#,
            )
            .await;
        scene.relay.settle().await;
        assert_eq!(all(&ann), ["closed bob 1012"]);
    });
}

#[test]
fn a_raising_migrate_conn_is_told_to_on_error() {
    run(async {
        let scene = Scene::of("function app.on_open(conn) conn:join('r') conn.state.n = conn.query.name end function app.on_message() end").await;
        let (ann, _bob) = (scene.peer("ann").await, scene.peer("bob").await);
        scene
            .reloads(
                r#"
                app.version = 2
                function app.migrate_conn(state) if state.n == "bob" then error("no") end return state end
                function app.on_message() end
                function app.on_error(conn, err) relay.room("r"):publish(err.callback) end
                "#,
            )
            .await;
        scene.relay.settle().await;
        assert_eq!(all(&ann), ["migrate_conn"]);
    });
}

#[test]
fn a_cancelled_timer_leaves_nothing() {
    alone("regression::a_cancelled_timer_leaves_nothing", || {
        run(async {
            let scene = Scene::with(
                r#"
            function app.on_message(conn)
              for _ = 1, 10000 do relay.after("300d", function() return conn end):cancel() end
              conn:send("done")
            end
            "#,
                |config| {
                    config.limits.callback_cpu = Duration::from_secs(20);
                    config.limits.script_memory = 16 << 20;
                },
            )
            .await;
            let ann = scene.peer("ann").await;
            scene.ask(&ann, "x").await;
            let before = resident() / 1024;
            for _ in 0..10 {
                assert_eq!(scene.ask(&ann, "x").await, "done");
                // Ten thousand tasks have their turn, a few at a time.
                for _ in 0..1000 {
                    tokio::task::yield_now().await;
                }
            }
            let grown = (resident() / 1024).saturating_sub(before);
            assert!(grown < 16 * 1024, "100,000 cancelled timers have left {grown} KiB");
        });
    });
}

const HOG: &str = r#"
    local kept = {}
    local function hog() while true do kept[#kept + 1] = string.rep("x", 100000) .. #kept end end
"#;

#[test]
fn a_reload_during_a_rebuild_takes_effect_or_fails() {
    run(async {
        for turns in 0..12 {
            let scene = Scene::with(
                &format!(
                    "local sum = 0 for i = 1, 3e6 do sum += i end {HOG}
                    function app.on_message(conn, text) if text == 'hog' then hog() end conn:send('old') end"
                ),
                |config| {
                    config.limits.script_memory = 8 << 20;
                    config.limits.callback_cpu = Duration::from_secs(20);
                    config.limits.load_cpu = Duration::from_secs(20);
                },
            )
            .await;
            let ann = scene.peer("ann").await;
            scene.edit("function app.on_message(conn, text) conn:send('new') end");
            let slow = slow_motion();
            let reload = scene.relay.reload_meanwhile();
            ann.send("hog");
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            // One turn of what workers do: it reads the message.
            let mut settling = Box::pin(scene.relay.settle());
            std::future::poll_fn(|cx| {
                let _ = settling.as_mut().poll(cx);
                std::task::Poll::Ready(())
            })
            .await;
            drop(settling);
            let report = reload.await.unwrap();
            slow.iter().for_each(|task| task.abort());
            // A rebuild may be on its way.
            for _ in 0..20 {
                scene.relay.settle().await;
            }
            scene.relay.settle().await;
            all(&ann);
            let answer = scene.ask(&ann, "x").await;
            let expected = if matches!(report.outcome, Outcome::Reloaded { .. }) { "new" } else { "old" };
            assert_eq!(answer, expected, "{turns}: {report:?}");
        }
    });
}

#[test]
fn an_old_generation_out_of_memory_does_not_restart_the_new_one() {
    run(async {
        let scene = Scene::with(&format!("{HOG} function app.on_message(conn) relay.sleep(1) hog() end"), |config| {
            config.limits.script_memory = 8 << 20;
            config.limits.callback_cpu = Duration::from_secs(20);
        })
        .await;
        let (ann, bob) = (scene.peer("ann").await, scene.peer("bob").await);
        ann.send("x");
        scene.relay.settle().await;
        scene
            .reloads("local n = 0 local starts = function() end function app.on_message(conn) n += 1 conn:send(tostring(n)) end")
            .await;
        assert_eq!(scene.ask(&bob, "x").await, "1");
        scene.relay.advance(Duration::from_secs(2)).await;
        assert_eq!(scene.ask(&bob, "x").await, "2", "its locals are still there");
    });
}

#[test]
fn a_timer_out_of_memory_is_told_to_on_error() {
    run(async {
        let scene = Scene::with(
            r#"
            function app.on_open(conn) conn:join("r") end
            function app.on_message(conn)
              relay.after(1, function() local list = {} while true do list = { list } end end)
            end
            function app.on_error(conn, err) relay.room("r"):publish(err.callback) end
            "#,
            |config| {
                config.limits.script_memory = 8 << 20;
                config.limits.callback_cpu = Duration::from_secs(20);
            },
        )
        .await;
        let ann = scene.peer("ann").await;
        ann.send("x");
        scene.relay.advance(Duration::from_secs(2)).await;
        assert_eq!(all(&ann), ["relay.after"]);
    });
}

#[test]
fn no_message_is_handled_after_conn_close_even_if_the_peer_closed_first() {
    check(
        r#"
        function app.on_open(conn) conn:join("r") end
        function app.on_message(conn, text)
          if text == "slow" then relay.sleep(1) conn:close() end
          conn:publish("r", text)
        end
        "#,
        "
        bob opens
        alice opens
        alice > slow
        alice > never
        alice closes 1000
        2s pass
        bob < slow
        ",
    );
}

#[test]
fn a_droppable_message_to_a_user_closes_no_connection() {
    run(async {
        let scene = Scene::with(
            r#"
            function app.authenticate(request) return request.query.name end
            function app.on_message(conn)
              local big = string.rep("x", 600)
              relay.user("ann"):send(big, { droppable = true })
              relay.user("ann"):send(big, { droppable = true })
            end
            "#,
            |config| config.limits.outbox = 1000,
        )
        .await;
        let ann = scene.peer("ann").await;
        ann.send("x");
        scene.relay.settle().await;
        assert_eq!(ann.closed(), None);
    });
}

#[test]
fn rooms_with_different_names_are_different_rooms() {
    check(
        r#"
        function app.on_open(conn)
          local joined, why = conn:join("secret\xff")
          conn:send(tostring(joined) .. " " .. tostring(why))
        end
        function app.on_message(conn, text) relay.room("secret\xfe"):publish("leaked") end
        "#,
        "
        alice opens
        alice < false bad_name
        alice > x
        ",
    );
}

#[test]
fn a_reload_that_fails_for_want_of_memory_leaves_the_state_writable() {
    run(async {
        let scene = Scene::with(
            r#"
            function app.on_start()
              for i = 1, 40000 do relay.state[i] = { i } end
            end
            local kept = {}
            function app.on_message(conn, text)
              if text == "fill" then
                local reserve = buffer.create(700000)
                local head
                pcall(function() while true do head = { head } end end)
                kept[1], reserve = head, nil
                return conn:send("filled")
              end
              local ok, why = pcall(function() relay.state[1][1] = 5 relay.state[40000][1] = 5 end)
              conn:send(tostring(ok) .. " " .. tostring(why))
            end
            "#,
            |config| {
                config.limits.script_memory = 12 << 20;
                config.limits.callback_cpu = Duration::from_secs(20);
            },
        )
        .await;
        let ann = scene.peer("ann").await;
        assert_eq!(scene.ask(&ann, "x").await, "true nil");
        assert_eq!(scene.ask(&ann, "fill").await, "filled");
        let report = scene.reload("function app.on_message(conn) conn:send('new') end").await;
        let answer = scene.ask(&ann, "x").await;
        assert!(matches!(report.outcome, Outcome::Failed { .. }), "the scene is not set: {report:#?}");
        assert_eq!(answer, "true nil", "{report:#?}");
    });
}

#[test]
fn what_a_waiting_callback_spawns_after_a_reload_still_runs() {
    run(async {
        let scene = Scene::of(
            r#"
            function app.on_message(conn)
              relay.sleep(1)
              relay.spawn(function() conn:send("spawned") end)
              conn:send("ended")
            end
            "#,
        )
        .await;
        let ann = scene.peer("ann").await;
        ann.send("x");
        scene.relay.settle().await;
        scene.reloads("function app.on_message(conn) end").await;
        scene.relay.advance(Duration::from_secs(2)).await;
        assert_eq!(all(&ann), ["ended", "spawned"]);
    });
}

#[test]
fn on_close_and_on_stop_run_at_shutdown_though_a_callback_waits() {
    alone("regression::on_close_and_on_stop_run_at_shutdown_though_a_callback_waits", || {
        let lines = Lines::of_this_process();
        real(async {
            let relay = support::Relay::with(
                r#"
            function app.on_open(conn) conn:send("in") end
            function app.on_message(conn) conn:send("waiting") relay.sleep(50) end
            function app.on_close() print("told of the close") end
            function app.on_stop() print("told of the stop") end
            "#,
                |config| config.server.shutdown = Duration::from_secs(2),
            )
            .await;
            let mut ann = relay.member("/app/x").await;
            assert_eq!(ann.ask("x").await, "waiting");
            relay.stop().await;
            drop(ann);
        });
        let text = lines.text();
        assert!(text.contains("told of the close") && text.contains("told of the stop"), "{text}");
    });
}

#[test]
fn what_came_in_whole_is_handled_though_a_write_to_its_sender_fails() {
    real(async {
        let relay = support::Relay::with(
            r#"
            function app.on_open(conn) conn:join("r") conn:send("in") end
            function app.on_message(conn, text)
              if text == "busy" then
                local till = os.clock() + 0.3
                while os.clock() < till do end
              end
              conn:publish("r", text)
            end
            function app.on_close(conn, code) relay.room("r"):publish("closed " .. code) end
            "#,
            |config| {
                config.server.workers = 1;
                support::configure_app(config, |app| app.limits.callback_cpu = Duration::from_secs(20));
            },
        )
        .await;
        let mut ann = relay.member("/app/x").await;
        let mut eve = relay.member("/app/x").await;
        let mut bob = relay.member("/app/x").await;
        // Unread, so that his end is a reset.
        ann.send("unread").await;
        assert_eq!(eve.text().await, "unread");
        // Nobody can tell from outside that bytes lie unread in the kernel, or that the script is busy: these two
        // pauses make that likely, and without them the test would only show less.
        tokio::time::sleep(Duration::from_millis(50)).await;
        ann.send("busy").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        bob.send("last words").await;
        drop(bob);
        assert_eq!(eve.text().await, "busy");
        assert_eq!(eve.text().await, "last words");
        relay.stop().await;
    });
}

#[test]
fn an_old_callback_cannot_write_to_a_state_that_was_replaced() {
    run(async {
        let scene = Scene::of(
            r#"
            function app.on_open(conn) conn:join("r") conn.state.v = 1 end
            function app.on_message(conn, text)
              relay.sleep(1)
              conn:send(tostring((pcall(function() conn.state.v = 2 end))))
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
                  for _, member in relay.room("r"):members() do member.state = { v = 7 } end
                  conn:send("done")
                end
                "#,
            )
            .await;
        assert_eq!(scene.ask(&bob, "x").await, "done");
        scene.relay.advance(Duration::from_secs(2)).await;
        assert_eq!(ann.receive_text().as_deref(), Some("false"), "a write must raise rather than be lost");
    });
}

#[test]
fn a_handle_of_another_instance_closes_as_the_conn_itself_does() {
    run(async {
        let scene = Scene::with(
            r#"
            function app.on_open(conn) conn:join("r") end
            function app.on_message(conn, text)
              if text == "slow" then relay.sleep(1) return end
              if text:find('^test') then return relay.conn(text):close() end
              relay.room("r"):publish("handled " .. text)
            end
            "#,
            |config| config.instances = 2,
        )
        .await;
        let (ann, bob) = (scene.peer("ann").await, scene.peer("bob").await);
        ann.send("slow");
        ann.send("later");
        scene.relay.settle().await;
        bob.send(ann.id());
        scene.relay.advance(Duration::from_secs(2)).await;
        assert!(ann.closed().is_some());
        assert_eq!(all(&bob), Vec::<String>::new(), "none after conn:close");
    });
}

#[test]
fn a_module_that_a_refused_reload_has_named_is_watched_too() {
    real(async {
        let relay = support::Relay::with(
            "function app.on_open(conn) conn:send('in') end function app.on_message(conn) conn:send('old') end",
            |config| config.reload.watch = true,
        )
        .await;
        let mut ann = relay.member("/app/x").await;
        let lib = relay.folder.path().join("lib");
        std::fs::create_dir(&lib).unwrap();
        std::fs::write(lib.join("words.lua"), "return { hello = ").unwrap();
        relay.edit("local words = require('lib.words') function app.on_message(conn) conn:send(words.hello) end");
        assert!(!relay.handle.reload().await.ok());
        assert_eq!(ann.ask("x").await, "old");
        let ann = tokio::sync::Mutex::new(ann);
        soon("the corrected module to be loaded", async {
            loop {
                // Again and again: the first time its folder may not be watched yet.
                std::fs::write(lib.join("words.lua"), "return { hello = 'new' }").unwrap();
                let loaded = eventually("it to be loaded", || async { ann.lock().await.ask("x").await == "new" });
                if tokio::time::timeout(Duration::from_secs(2), loaded).await.is_ok() {
                    break;
                }
            }
        })
        .await;
        relay.stop().await;
    });
}

#[test]
fn on_close_is_told_the_first_close() {
    use futures_util::SinkExt;
    use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

    real(async {
        let relay = support::Relay::of(
            r#"
            function app.on_open(conn) conn:join("r") conn:send("in") end
            function app.on_message(conn, text) conn:close(4000, "mine") end
            function app.on_close(conn, code, reason) conn:publish("r", code .. " " .. reason) end
            "#,
        )
        .await;
        let mut ann = relay.member("/app/x").await;
        let mut bob = relay.member("/app/x").await;
        bob.socket.feed(Message::text("x")).await.unwrap();
        bob.socket.feed(Message::Close(Some(CloseFrame { code: 4001.into(), reason: "his".into() }))).await.unwrap();
        bob.socket.flush().await.unwrap();
        assert_eq!(ann.text().await, "4000 mine");
        assert_eq!(bob.closed().await, Some((4000, "mine".to_owned())));
        relay.stop().await;
    });
}

#[test]
fn no_callback_of_a_connection_begins_after_on_stop() {
    alone("regression::no_callback_of_a_connection_begins_after_on_stop", || {
        let lines = Lines::of_this_process();
        real(async {
            let mut relay = support::Relay::with(
                r#"
            function app.authenticate() print("asked") relay.sleep(0.4) return true end
            function app.on_open(conn) print("told of the open") end
            function app.on_close() print("told of the close") end
            function app.on_stop() print("told of the stop") relay.sleep(1) end
            "#,
                |_| (),
            )
            .await;
            let text = || lines.text();
            let url = relay.url("/app/x");
            let late = tokio::task::spawn_local(async move { tokio_tungstenite::connect_async(url).await.map(drop) });
            eventually("the handshake to be under way", || async { text().contains("asked") }).await;
            relay.begin_stop();
            let answer = late.await.unwrap();
            relay.stop().await;
            println!("the late peer got {answer:?}");
            let text = text();
            let stop = text.find("told of the stop").unwrap();
            assert!(!text[stop..].contains("told of the open"), "{text}");
        });
    });
}

#[test]
fn a_module_that_was_looked_for_in_vain_is_taken_when_it_comes() {
    real(async {
        let relay = support::Relay::of("local found = pcall(require, 'extra') function app.on_message() end").await;
        std::fs::write(relay.folder.path().join("extra.lua"), "return {}").unwrap();
        let report = relay.handle.reload().await;
        assert!(matches!(report.apps[0].outcome, Outcome::Reloaded { .. }), "{report:#?}");
        relay.stop().await;
    });
}

fn says(word: &str) -> String {
    module(&format!(
        "function app.on_open(conn) conn:send('in') end function app.on_message(conn) conn:send('{word}') end"
    ))
}

/// A relay that watches a folder of its own, whose script says "one".
async fn watched_folder() -> (support::Relay, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let scripts = folder.path().join("scripts");
    std::fs::create_dir(&scripts).unwrap();
    let script = scripts.join("app.lua");
    std::fs::write(&script, says("one")).unwrap();
    let mut config = support::config(&script);
    config.reload.watch = true;
    (support::Relay::start(config, folder).await, scripts)
}

#[test]
fn a_folder_that_was_replaced_is_watched_again() {
    real(async {
        let (relay, scripts) = watched_folder().await;
        let mut ann = relay.member("/app/x").await;
        // A deployment: the folder is another one of the same name.
        let next = relay.folder.path().join("next");
        std::fs::create_dir(&next).unwrap();
        std::fs::write(next.join("app.lua"), says("two")).unwrap();
        std::fs::rename(&scripts, relay.folder.path().join("old")).unwrap();
        std::fs::rename(&next, &scripts).unwrap();
        assert!(relay.handle.reload().await.ok());
        assert_eq!(ann.ask("x").await, "two");
        let ann = tokio::sync::Mutex::new(ann);
        soon("the edit to be seen", async {
            loop {
                // Again and again: the first time the new folder may not be watched yet.
                std::fs::write(scripts.join("app.lua"), says("three")).unwrap();
                let seen = eventually("it to be seen", || async { ann.lock().await.ask("x").await == "three" });
                if tokio::time::timeout(Duration::from_secs(2), seen).await.is_ok() {
                    break;
                }
            }
        })
        .await;
        relay.stop().await;
    });
}

#[test]
fn a_folder_that_was_away_for_a_while_is_watched_again() {
    real(async {
        let (relay, scripts) = watched_folder().await;
        let mut ann = relay.member("/app/x").await;
        let away = relay.folder.path().join("away");
        std::fs::rename(&scripts, &away).unwrap();
        assert!(!relay.handle.reload().await.ok(), "its script is not there");
        assert_eq!(ann.ask("x").await, "one");
        std::fs::write(away.join("app.lua"), says("two")).unwrap();
        std::fs::rename(&away, &scripts).unwrap();
        let ann = tokio::sync::Mutex::new(ann);
        eventually("its return to be seen", || async { ann.lock().await.ask("x").await == "two" }).await;
        relay.stop().await;
    });
}

#[test]
fn a_start_on_a_socket_whose_owner_is_busy_does_not_hang() {
    use socket2::{Domain, SockAddr, Socket, Type};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.sock");
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let mut peers = Vec::new();
    for _ in 0..3 {
        let peer = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        peer.set_nonblocking(true).unwrap();
        let _ = peer.connect(&SockAddr::unix(&path).unwrap());
        peers.push(peer);
    }
    let (told, answer) = mpsc::channel();
    let at: PathBuf = Path::new(&path).to_owned();
    std::thread::spawn(move || {
        let bound = moonwire::acceptor::Acceptor::bind(&[config::Listen::Unix(at)]);
        told.send(bound.is_err()).unwrap();
    });
    assert_eq!(answer.recv_timeout(Duration::from_secs(3)), Ok(true), "in use is told at once");
}

/// Messages of many senders to the members at another worker, whose queue is crowded now and again.
#[test]
fn a_crowded_bus_neither_stalls_a_connection_nor_loses_what_it_sent() {
    real(async {
        let relay = support::Relay::with(
            r#"
            function app.on_open(conn) conn:send("in") end
            function app.on_message(conn, text)
              relay.emit("e", text)
              conn:send(string.sub(text, 1, 8))
            end
            function app.on_event() end
            "#,
            |config| {
                config.limits.bus_pause = 2_000;
                support::configure_app(config, |app| {
                    app.instances = 2;
                    app.limits.outbox = 64 << 20;
                    app.limits.message_rate = 0;
                });
            },
        )
        .await;
        let begun = Instant::now();
        let mut tasks = Vec::new();
        for number in 0..16 {
            let mut peer = relay.member("/app/x").await;
            tasks.push(tokio::task::spawn_local(async move {
                let mut next = 0_u32;
                while begun.elapsed() < Duration::from_secs(3) {
                    for n in next..next + 64 {
                        peer.send(&format!("{n:08}{}", "x".repeat(1_000))).await;
                    }
                    let sent = Instant::now();
                    for n in next..next + 64 {
                        let answer = peer.text().await;
                        assert_eq!(answer, format!("{n:08}"), "peer {number}, after {:?}", sent.elapsed());
                    }
                    next += 64;
                }
                next
            }));
        }
        for task in tasks {
            assert!(task.await.unwrap() > 0);
        }
        relay.stop().await;
    });
}

#[test]
fn a_handshake_is_pending_though_a_plain_request_came_before_it() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    real(async {
        let relay = support::Relay::with(
            "function app.authenticate() relay.sleep(1) return true end function app.on_message() end",
            |config| config.limits.pending_handshakes = 2,
        )
        .await;
        let mut streams = Vec::new();
        for _ in 0..6 {
            let mut stream = tokio::net::TcpStream::connect(relay.addr).await.unwrap();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut answer = [0; 1024];
            assert!(stream.read(&mut answer).await.unwrap() > 0);
            streams.push(stream);
        }
        let mut welcome = 0;
        for stream in &mut streams {
            let request = "GET /app/x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                           Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            stream.write_all(request.as_bytes()).await.unwrap();
        }
        for stream in &mut streams {
            let mut answer = [0; 12];
            support::soon("an answer", stream.read_exact(&mut answer)).await.unwrap();
            welcome += usize::from(&answer == b"HTTP/1.1 101");
        }
        assert!(welcome <= 2, "{welcome} handshakes waited at one time; limits.pending_handshakes is 2");
        relay.stop().await;
    });
}

#[test]
fn on_stop_may_wait_though_reload_drain_is_short() {
    alone("regression::on_stop_may_wait_though_reload_drain_is_short", || {
        let lines = Lines::of_this_process();
        real(async {
            let relay = support::Relay::with(
                "function app.on_message() end function app.on_stop() relay.sleep(0.1) print('on_stop is through') end",
                |config| config.reload.drain = Duration::ZERO,
            )
            .await;
            relay.stop().await;
        });
        let text = lines.text();
        assert!(text.contains("on_stop is through"), "{text}");
    });
}

#[test]
fn a_report_does_not_call_a_config_unchanged_whose_settings_were_refused() {
    real(async {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("app.lua");
        std::fs::write(&script, support::module("local n = #relay.config.name function app.on_message() end")).unwrap();
        let of = |settings: &str| {
            let text = format!(
                "[server]\nlisten = \"127.0.0.1:0\"\nworkers = 1\n[[app]]\nname = \"app\"\npath = \"/app\"\n\
                 script = \"app.lua\"\n[app.settings]\n{settings}\n"
            );
            config::parse(&text, &folder.path().join("config.toml"), &[]).unwrap()
        };
        let (first, second) = (of("name = \"x\""), of("other = 1"));
        let server = moonwire::server::Server::start(first, Some(Box::new(move || Ok(second.clone()))), None).await;
        let server = server.unwrap_or_else(|error| panic!("{error}"));
        let report = server.handle().reload().await;
        assert!(!report.ok());
        let text = report.to_string();
        assert!(!text.contains("unchanged"), "{text}");
    });
}

/// A refused reload's release must not take the lock of a rebuild that has begun meanwhile.
#[test]
fn a_reload_that_says_reloaded_has_replaced_the_code_also_after_a_refused_one_and_a_rebuild() {
    use moonwire::harness::{Relay, app, run};
    const LONG: &str = "local sum = 0 for i = 1, 2e6 do sum += i end";
    run(async {
        let mut wrong = Vec::new();
        for turns in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let script = folder.path().join("app.lua");
            let edit = |body: &str| std::fs::write(&script, support::module(body)).unwrap();
            edit(&format!(
                "{LONG} local kept = {{}} function app.on_message(conn, text)
                 if text == 'hog' then while true do kept[#kept + 1] = string.rep('x', 100000) .. #kept end end
                 conn:send('old') end"
            ));
            let mut config = app("app", &script);
            config.limits.script_memory = 8 << 20;
            config.limits.callback_cpu = Duration::from_secs(20);
            config.limits.load_cpu = Duration::from_secs(20);
            let relay = Relay::start(config).await.unwrap_or_else(|report| panic!("{report:#?}"));
            let ann = relay.connect("/app/lobby").await.unwrap();
            relay.settle().await;
            edit(&format!("{LONG} error('no')"));
            let refused = relay.reload_meanwhile();
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            ann.send("hog");
            let mut settling = Box::pin(relay.settle());
            std::future::poll_fn(|cx| {
                let _ = settling.as_mut().poll(cx);
                std::task::Poll::Ready(())
            })
            .await;
            drop(settling);
            let first = refused.await.unwrap();
            edit("function app.on_message(conn, text) conn:send('new') end");
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            let report = relay.reload().await;
            for _ in 0..20 {
                relay.settle().await;
            }
            while ann.receive().is_some() {}
            ann.send("x");
            relay.settle().await;
            let answer = ann.receive().map(|sent| format!("{sent:?}")).unwrap_or_default();
            let reloaded = matches!(report.outcome, Outcome::Reloaded { .. });
            if reloaded != answer.contains("new") || !reloaded {
                wrong.push(format!(
                    "{turns}: answers {answer}, {:?}; first {:?}",
                    report.outcome,
                    matches!(first.outcome, Outcome::Failed { .. })
                ));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

#[test]
fn a_module_that_has_raised_can_be_required_again() {
    run(async {
        let scene = Scene::of("function app.on_message() end").await;
        std::fs::write(scene.script.with_file_name("bad.lua"), "error('not yet')").unwrap();
        let error = scene.refuses("pcall(require, 'bad') require('bad')").await;
        assert!(error.contains("bad.lua:1: not yet"), "{error}");
    });
}
