//! Ways out of a script that need a running relay: the values that it hands out, `require`, and what it waits for.
//! Those within the language are in `src/script/sandbox.rs`.

use moonwire::harness::run;

use crate::scene::Scene;

#[test]
fn the_values_of_the_relay_cannot_be_opened_or_changed() {
    run(async {
        let tries = [
            "return getmetatable(conn)",
            "return getmetatable(relay.room('a'))",
            "return getmetatable(relay.user('a'))",
            "return getmetatable(relay.after(1, print))",
            "return getmetatable(relay.refuse(403))",
            "getmetatable(conn).__index = function() end",
            "setmetatable(conn, {})",
            "rawset(conn, 'id', 'x')",
            "conn.id = 'x'",
            "conn.send = print",
            "conn.user = { id = 'root' }",
            "conn.headers.cookie = 'x'",
            "conn.params.room = 'x'",
            "conn.query.name = 'x'",
            "rawset(conn.query, 'name', 'x')",
            "setmetatable(conn.params, {})",
            "table.clear(conn.cookies)",
            "relay.state = 1",
            "relay.instance.index = 9",
            "relay.config.x = 1",
            "return rawget(relay, 'evil')",
            "return conn.__index or nil",
            "return conn.__gc or nil",
            "relay.json.null.x = 1",
            "return getmetatable(relay.json.null)",
            "coroutine.wrap(function() getmetatable(conn).x = 1 end)()",
            "return (next(conn))",
            "for k in pairs(conn) do return k end",
        ];
        let body: String = tries
            .iter()
            .map(|code| {
                format!(
                    "do local ok, got = pcall(function() {code} end) conn:send(ok and got and 'GOT ' .. tostring(got) or 'ok') end\n"
                )
            })
            .collect();
        let scene = Scene::of(&format!("function app.on_open(conn)\n{body}end")).await;
        let peer = scene.peer("ann").await;
        for code in tries {
            assert_eq!(peer.receive_text().as_deref(), Some("ok"), "{code}");
        }
    });
}

#[test]
fn require_stays_in_the_folder_of_the_script() {
    run(async {
        let scene = Scene::of("function app.on_open() end").await;
        let folder = scene.script.parent().unwrap().to_owned();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret.lua"), "return 'secret'").unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret.lua"), folder.join("link.lua")).unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.join("away")).unwrap();
        std::fs::create_dir(folder.join("inside")).unwrap();
        std::fs::write(folder.join("inside/helper.lua"), "return 'helped'").unwrap();
        std::fs::write(folder.join("bytes.lua"), b"\x1bLua\x00").unwrap();
        scene
            .reloads(
                r#"
                function app.on_message(conn, name)
                  local ok, got = pcall(require, name)
                  conn:send((ok and "GOT " or "no: ") .. tostring(got))
                end
                "#,
            )
            .await;
        let peer = scene.peer("ann").await;
        assert_eq!(scene.ask(&peer, "inside.helper").await, "GOT helped");
        let absolute = outside.path().join("secret").to_string_lossy().into_owned();
        for name in [
            "../secret",
            "..secret",
            "inside..helper",
            "inside/helper",
            "inside/../../secret",
            ".",
            "..",
            "",
            "/etc/passwd",
            "etc.passwd",
            &absolute,
            &absolute.replace('/', "."),
            "link",
            "away.secret",
            "Inside.helper",
            "INSIDE.HELPER",
            "inside.Helper",
            "inside.helper.lua",
            "helper\0",
            "inside\\helper",
            "file:secret",
            "http://x/y",
            "moonwire",
            "moonwire.test",
            "moonwire.os",
            "[moonwire]",
            "[moonwire.router]",
            "bytes",
            "io",
            "package",
        ] {
            let told = scene.ask(&peer, name).await;
            assert!(told.starts_with("no: "), "require({name:?}): {told}");
        }
    });
}

#[test]
fn a_coroutine_cannot_forge_a_wait_or_reach_another_callback() {
    run(async {
        let scene = Scene::of(
            r#"
            local kept
            function app.on_message(conn, text)
              if text == "yield" then coroutine.yield({}) end
              if text == "keep" then kept = coroutine.running() relay.sleep(1) return conn:send("slept") end
              if text == "resume" then return conn:send(tostring(select(2, coroutine.resume(kept, "forged")))) end
              if text == "close" then return conn:send(tostring(select(2, pcall(coroutine.close, kept)))) end
              if text == "wrap" then
                local ok, err = pcall(coroutine.wrap(function() coroutine.yield(nil) error("inner") end))
                return conn:send(tostring(ok))
              end
              conn:send("alive")
            end
            "#,
        )
        .await;
        let (ann, bob) = (scene.peer("ann").await, scene.peer("bob").await);
        ann.send("keep");
        scene.relay.settle().await;
        for text in ["resume", "close"] {
            let told = scene.ask(&bob, text).await;
            assert!(told.contains("cannot") || told == "false", "{text}: {told}");
        }
        assert_eq!(scene.ask(&bob, "yield").await, "nothing");
        assert_eq!(scene.ask(&bob, "wrap").await, "true");
        assert_eq!(scene.ask(&bob, "x").await, "alive");
        scene.relay.advance(std::time::Duration::from_secs(2)).await;
        assert_eq!(ann.receive_text().as_deref(), Some("slept"));
    });
}
