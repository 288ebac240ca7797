//! `relay.password`, as scripts use it. What is a hash and what is none is tested beside the code.

use std::time::Duration;

use moonwire::harness::{check, check_with};

use crate::support::{self, real};

#[test]
fn a_password_is_hashed_and_verified_while_other_connections_go_on() {
    check(
        r#"
        local stored
        function app.on_message(conn, text)
          local what, password = text:match("(%a+) ?(.*)")
          if what == "keep" then
            local others = false
            relay.spawn(function() others = true end)
            stored = relay.password.hash(password)
            assert(others)
            conn:send(stored:match("^%$argon2id%$v=19%$m=19456,t=2,p=1%$") and "kept" or stored)
          elseif what == "try" then
            conn:send(tostring(relay.password.verify(password, stored)))
          else
            conn:send("here")
          end
        end
        "#,
        "
        alice opens
        bob opens
        alice > keep s3cret
        bob > hello
        bob < here
        alice < kept
        alice > try s3cret
        alice < true
        alice > try S3cret
        alice < false
        ",
    );
}

#[test]
fn more_passwords_than_turns_are_hashed_one_after_the_other() {
    check_with(
        |app| app.limits.password_jobs = 1,
        r#"
        function app.on_message(conn)
          local first
          local done = 0
          for _ = 1, 5 do
            relay.spawn(function()
              local hash = relay.password.hash("x")
              assert(hash ~= first)
              first = first or hash
              done += 1
              if done == 5 then conn:send("five") end
            end)
          end
        end
        "#,
        "
        alice opens
        alice > go
        alice < five
        ",
    );
}

#[test]
fn what_is_no_hash_or_too_long_a_password_is_nil_and_why() {
    check(
        r#"
        local LONG = string.rep("x", 1025)
        function app.on_message(conn)
          local function tell(result, why) conn:send(`{result}, {why}`) end
          tell(relay.password.verify("x", "not a hash"))
          tell(relay.password.hash(LONG))
          tell(relay.password.verify(LONG, "$argon2id$"))
          conn:send(tostring(relay.password.hash(string.rep("x", 1024)) ~= nil))
        end
        "#,
        r#"
        alice opens
        alice > go
        alice < nil, this is not a password hash ($argon2id$…)
        alice < nil, the password is longer than 1024 bytes: 1025
        alice < nil, the password is longer than 1024 bytes: 1025
        alice < true
        "#,
    );
}

#[test]
fn a_wrong_argument_raises_and_so_does_a_hash_while_loading() {
    check(
        r#"
        local loading = select(2, pcall(relay.password.hash, "x"))
        function app.on_message(conn)
          local function why(f, ...) return (select(2, pcall(f, ...)):gsub("^.-lua:%d+: ", "")) end
          conn:send(why(relay.password.hash))
          conn:send(why(relay.password.verify, "x", nil))
          conn:send(why(relay.password.verify, {}, "x"))
          conn:send((loading:gsub("^.-lua:%d+: ", "")))
        end
        "#,
        "
        alice opens
        alice > go
        alice < relay.password.hash(password): password must be a string, got nil
        alice < relay.password.verify(password, hash): hash must be a string, got nil
        alice < relay.password.verify(password, hash): password must be a string, got table
        alice < relay.password.hash(password): not while a script loads or in on_load: that is for set-up only; use on_start
        ",
    );
}

#[test]
fn a_hash_works_in_authenticate() {
    check(
        r#"
        local stored
        function app.on_start() stored = relay.password.hash("s3cret") end
        function app.authenticate(request)
          if not stored then return relay.refuse(503, "not yet") end
          return relay.password.verify(request.query.password or "", stored) and { id = request.query.name }
        end
        function app.on_open(conn) conn:send(conn.user.id) end
        "#,
        "
        1s pass
        alice opens /app/lobby?name=alice&password=s3cret
        alice < alice
        eve is refused 401
        ",
    );
}

#[test]
fn workers_share_the_turns_and_a_relay_stops_amid_the_work() {
    real(async {
        let relay = support::Relay::with(
            "function app.on_open(conn) conn:send('in') end
             function app.on_message(conn, text)
               conn:send(tostring(relay.password.verify(text, relay.password.hash(text))))
             end",
            |config| {
                config.limits.password_jobs = 1;
                support::configure_app(config, |app| app.instances = 2);
            },
        )
        .await;
        let (mut ann, mut bob) = (relay.member("/app/a").await, relay.member("/app/b").await);
        for peer in [&mut ann, &mut bob] {
            peer.send("one").await;
            peer.send("two").await;
        }
        for peer in [&mut ann, &mut bob] {
            assert_eq!((peer.text().await, peer.text().await), ("true".to_owned(), "true".to_owned()));
            peer.send("and one more").await;
        }
        relay.stop().await;
    });
}

#[test]
fn a_callback_that_waits_too_long_for_its_turn_is_cancelled_and_the_turn_goes_on() {
    real(async {
        let relay = support::Relay::with(
            "function app.on_open(conn) conn:send('in') end
             function app.on_message(conn, text)
               local ok, why = pcall(relay.password.hash, text)
               conn:send(if ok then 'hashed' else why:match('cancelled: .*'))
             end",
            |config| {
                config.limits.password_jobs = 1;
                support::configure_app(config, |app| app.limits.callback_timeout = Duration::from_millis(1));
            },
        )
        .await;
        let mut ann = relay.member("/app/a").await;
        for _ in 0..3 {
            assert_eq!(ann.ask("x").await, "cancelled: it took longer than limits.callback_timeout");
        }
        relay.stop().await;
    });
}
