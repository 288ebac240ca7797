//! Tokens whose keys come from a key set, and how they reach a handshake.

use std::{cell::Cell, rc::Rc};

use moonwire::{
    handshake::bare::Bare,
    harness::{check, run},
};

use crate::{
    net::{allow, response, serve},
    scene::Scene,
    support::{Relay, configure_app, eventually, real},
};

/// Public keys of the pairs below; `old` is for encryption, `secret` a shared one: neither may be used.
const SET: &str = r#"{ "keys": [
    { "kty": "EC", "crv": "P-256", "kid": "ec", "alg": "ES256", "use": "sig",
      "x": "TXWmGpxwJI14XgzYgV0ygjCS4pXOwTW1tjKd375rw1w", "y": "C8xgZCwvBQ-67YHOnY5-HBrOFBGidgCQuwiUqRq_CWE" },
    { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": "47luWg0BudPtmQIx8RsgTNWAZy62GQPW7GbZte-g56A" },
    { "kty": "OKP", "crv": "Ed25519", "kid": "old", "use": "enc", "x": "47luWg0BudPtmQIx8RsgTNWAZy62GQPW7GbZte-g56A" },
    { "kty": "oct", "kid": "secret", "k": "c2VjcmV0" }
] }"#;

const KEYS: &str = r##"
    local ec = [[-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgLsU6evndVhq/LcIk
K6Vxzq6AeaVH6cGRlincCyHubZOhRANCAARNdaYanHAkjXheDNiBXTKCMJLilc7B
NbW2Mp3fvmvDXAvMYGQsLwUPuu2Bzp2OfhwazhQRonYAkLsIlKkavwlh
-----END PRIVATE KEY-----]]
    local ed = [[-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIOP1DL7SutUdKbA8C6/aNmv+bIgc6LHTdzP9wYeY88cM
-----END PRIVATE KEY-----]]
    local function token(key, algorithm, kid)
      return relay.jwt.sign({ sub = "ann", exp = relay.now() + 60 }, { key = key, algorithm = algorithm, kid = kid })
    end
    local function verify(token, jwks, algorithms)
      local claims, why = relay.jwt.verify(token, { jwks = jwks, algorithms = algorithms or { "ES256", "EdDSA" } })
      return claims and claims.sub or why
    end
"##;

async fn scene(body: &str) -> Scene {
    let scene = Scene::of("function app.on_open() end").await;
    std::fs::write(scene.script.with_file_name("keys.json"), SET).unwrap();
    scene.reloads(&format!("{KEYS}{body}")).await;
    scene
}

#[test]
fn a_key_of_a_set_is_found_by_its_id_alone() {
    run(async {
        let scene = scene(
            r#"
            function app.on_message(conn)
              local told = {
                verify(token(ec, "ES256", "ec"), "keys.json"),
                verify(token(ed, "EdDSA", "ed"), "keys.json"),
                verify(token(ed, "EdDSA"), "keys.json"),
                verify(token(ed, "EdDSA", "new"), "keys.json"),
                verify(token(ed, "EdDSA", "old"), "keys.json"),
                verify(token("secret", "HS256", "secret"), "keys.json"),
                verify(token(ed, "EdDSA", "ec"), "keys.json"),
                verify(token(ec, "ES256", "ec"), "keys.json", { "EdDSA" }),
              }
              conn:send(table.concat(told, " "))
            end
            "#,
        )
        .await;
        let peer = scene.peer("ann").await;
        let expected =
            "ann ann missing_kid unknown_kid unknown_kid bad_algorithm bad_algorithm bad_algorithm".to_owned();
        assert_eq!(scene.ask(&peer, "x").await, expected);
        // A file that has changed counts at once; one that cannot be read is why.
        let file = scene.script.with_file_name("keys.json");
        std::fs::write(&file, r#"{"keys":[]}"#).unwrap();
        assert!(scene.ask(&peer, "x").await.starts_with("unknown_kid unknown_kid missing_kid"));
        std::fs::write(&file, "{").unwrap();
        assert!(scene.ask(&peer, "x").await.starts_with("jwks: keys.json: it is no JSON Web Key Set"));
    });
}

#[test]
fn a_key_set_is_a_file_of_the_scripts_folder() {
    run(async {
        let scene =
            scene(r#"function app.on_message(conn, name) conn:send(verify(token(ec, "ES256", "ec"), name)) end"#).await;
        let folder = scene.script.parent().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.join("link.json")).unwrap();
        let peer = scene.peer("ann").await;
        let inside = "must be a file in the script's folder, or an https:// URL";
        for (name, why) in [
            ("keys.json", "ann"),
            ("../keys.json", inside),
            ("/etc/hostname", inside),
            ("link.json", "leads out of the script's folder"),
            ("none.json", "No such file or directory"),
            ("http://127.0.0.1:9/keys", "host \"127.0.0.1:9\" is not in app.http.allow"),
            ("file:///etc/hostname", "scheme \"file\" is not allowed"),
        ] {
            let told = scene.ask(&peer, name).await;
            assert!(told.contains(why), "{name}: {told}");
        }
    });
}

#[test]
fn keys_of_different_kinds_may_share_an_id() {
    run(async {
        let scene = scene(
            r#"
            function app.on_message(conn)
              conn:send(verify(token(ec, "ES256", "k"), "keys.json") .. " " .. verify(token(ed, "EdDSA", "k"), "keys.json"))
            end
            "#,
        )
        .await;
        let set = SET.replace("\"ec\"", "\"k\"").replace("\"ed\"", "\"k\"");
        std::fs::write(scene.script.with_file_name("keys.json"), set).unwrap();
        let peer = scene.peer("ann").await;
        assert_eq!(scene.ask(&peer, "x").await, "ann ann");
    });
}

#[test]
fn a_server_that_hangs_is_asked_once_and_locks_nobody_out() {
    real(async {
        let (asked, hangs) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let (count, is_hanging) = (asked.clone(), hangs.clone());
        let addr = serve(move |_, _| {
            count.set(count.get() + 1);
            if is_hanging.get() { None } else { response("200 OK", "", SET) }
        })
        .await;
        let body = format!(
            r#"{KEYS}
            function app.authenticate(request)
              relay.sleep(0.01)
              local who = verify(token(ec, "ES256", request.query.kid), "http://{addr}/keys")
              if who ~= "ann" then return nil, who end
              return {{ id = who }}
            end
            function app.on_message(conn) conn:send(conn.user.id) end
            "#
        );
        let relay = Relay::with(&body, |config| {
            configure_app(config, |app| {
                allow(app, addr);
                app.limits.jwks_cache = std::time::Duration::from_millis(200);
            });
        })
        .await;
        assert_eq!(relay.peer("/app/x?kid=ec").await.ask("who").await, "ann");
        hangs.set(true);
        let begun = std::time::Instant::now();
        eventually("the set is old", async || begun.elapsed() > std::time::Duration::from_millis(250)).await;
        let before = asked.get();
        // The old set serves at once, while one request is under way for all of them.
        let begun = std::time::Instant::now();
        for _ in 0..20 {
            assert_eq!(relay.peer("/app/x?kid=ec").await.ask("who").await, "ann");
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(asked.get(), before + 1);
        relay.stop().await;
    });
}

#[test]
fn mistakes_about_key_sets_raise() {
    check(
        r#"
        function app.on_open(conn)
          for _, options in {
            { jwks = "a", key = "b", algorithms = { "HS256" } }, { jwks = "a", algorithms = { "HS256", "RS256" } },
            { jwks = "", algorithms = { "RS256" } }, { jwks = {}, algorithms = { "RS256" } },
          } do
            local ok, err = pcall(relay.jwt.verify, "t", options)
            conn:send(err:match("options%): (.*)$"))
          end
        end
        "#,
        "
        ann opens
        ann < give either key or jwks, not both
        ann < a key set has public keys, which HS256, HS384, HS512 do not take: leave them out of algorithms
        ann < jwks must be a URL or a file, got an empty string
        ann < jwks must be a string, got table
        ",
    );
}

#[test]
fn a_key_set_of_a_server_is_kept_and_serves_while_the_server_is_away() {
    real(async {
        let (asked, up) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(true)));
        let (count, is_up) = (asked.clone(), up.clone());
        let addr = serve(move |_, _| {
            count.set(count.get() + 1);
            if is_up.get() { response("200 OK", "", SET) } else { response("503 Down", "", "") }
        })
        .await;
        let body = format!(
            r#"{KEYS}
            -- Keys are looked up before anybody is let in, and nobody else waits for it.
            function app.authenticate(request)
              local who = verify(token(ec, "ES256", request.query.kid), "http://{addr}/keys")
              if who ~= "ann" then return nil, who end
              return {{ id = who }}
            end
            function app.on_message(conn) conn:send(conn.user.id) end
            "#
        );
        let relay = Relay::with(&body, |config| {
            configure_app(config, |app| {
                allow(app, addr);
                app.limits.jwks_cache = std::time::Duration::from_millis(50);
            });
        })
        .await;
        for _ in 0..3 {
            assert_eq!(relay.peer("/app/x?kid=ec").await.ask("who").await, "ann");
        }
        assert!((1..=3).contains(&asked.get()), "{} requests", asked.get());
        up.set(false);
        eventually("the set is asked for again", async || {
            assert_eq!(relay.peer("/app/x?kid=ec").await.ask("who").await, "ann");
            asked.get() > 3
        })
        .await;
        let status = relay.try_peer("/app/x?kid=other", &[]).await.err();
        assert!(status.is_some_and(|error| error.to_string().contains("401")));
        relay.stop().await;
    });
}

#[test]
fn a_token_comes_by_header_query_subprotocol_cookie_or_first_message() {
    run(async {
        let scene = Scene::of(
            r#"
            local options = { key = "s", algorithms = { "HS256" } }
            local good = relay.jwt.sign({ sub = "ann", exp = relay.now() + 600 }, { key = "s" })
            function app.on_request() return good end
            function app.authenticate(request)
              local token = request.bearer or request.query.token or request.cookies.token
              if not token then return true end -- it may still say who it is
              local claims, why = relay.jwt.verify(token, options)
              if not claims then return nil, why end
              return { id = claims.sub }
            end
            function app.on_message(conn, token)
              if not conn.user then
                local claims, why = relay.jwt.verify(token, options)
                if not claims then return conn:close(4401, why) end
                conn:identify({ id = claims.sub, expires_at = claims.exp })
              end
              conn:send(conn.user.id .. " " .. tostring(conn.subprotocol))
            end
            "#,
        )
        .await;
        let request = Bare { method: "GET".to_owned(), target: "/app/x".to_owned(), ..Bare::default() };
        let token = String::from_utf8(scene.relay.request(request).await.body).unwrap();
        let header = |name: &str, value: String| vec![(name.to_owned(), value)];
        let ways = [
            ("/app/x".to_owned(), header("authorization", format!("Bearer {token}")), "ann nil"),
            ("/app/x".to_owned(), header("cookie", format!("a=b; token={token}")), "ann nil"),
            ("/app/x".to_owned(), header("sec-websocket-protocol", format!("bearer, {token}")), "ann bearer"),
            (format!("/app/x?token={token}"), Vec::new(), "ann nil"),
        ];
        for (target, headers, expected) in ways {
            let peer = scene.relay.connect_with(&target, &headers).await.unwrap();
            assert_eq!(scene.ask(&peer, "who").await, expected, "{headers:?}");
            let bad: Vec<_> = headers.iter().map(|(name, value)| (name.clone(), format!("{value}x"))).collect();
            if !bad.is_empty() {
                let refused = scene.relay.connect_with(&target, &bad).await.err().unwrap();
                assert_eq!((refused.code, refused.reason.as_str()), (401, "bad_signature"), "{bad:?}");
            }
        }
        let late = scene.peer("late").await;
        assert_eq!(scene.ask(&late, &token).await, "ann nil");
        let guess = scene.peer("guess").await;
        guess.send("guess");
        scene.relay.settle().await;
        assert_eq!(guess.closed(), Some((4401, "bad_token".to_owned())));
    });
}
