//! `require("moonwire.router")`: what a peer may send, what it is answered, and what a script gets.

use moonwire::{
    harness::{Relay, app, check, run},
    reload::report::{AppReport, Outcome},
};

use serde_json::{Value, json};

use crate::support::module;

/// A script whose messages go through `router`.
fn routed(body: &str) -> String {
    // On one line, so that the lines of `body` keep their numbers after the first.
    format!("local router = require('moonwire.router').new() {body}\napp.on_message = router:handler()")
}

#[test]
fn a_message_goes_to_the_handler_of_its_type_with_the_declared_fields_alone() {
    check(
        &routed(
            r#"
            router:on("say", { text = { "string", max = 5 }, to = "string?" }, function(conn, message)
              conn:send_json({ message.text, message.to or "all", tostring(message.admin), message.type })
            end)
            "#,
        ),
        r#"
        alice opens
        alice > {"type":"say","text":"hi","admin":true}
        alice < ["hi","all","nil","say"]
        alice > {"type":"say","text":"hi","to":"bob"}
        alice < ["hi","bob","nil","say"]
        alice > {"type":"say","text":"hi","to":null}
        alice < ["hi","all","nil","say"]
        "#,
    );
}

#[test]
fn every_wrong_message_is_answered_in_one_form() {
    // JSON objects have no order, so each error is told as one line.
    check(
        &routed(
            r#"
            local shape = {
              s = { "string?", min = 2, max = 3 }, n = { "number?", min = 0 }, i = { "integer?", max = 9 }, b = "boolean?",
              l = { "array?", of = { "integer", min = 1 }, max = 2 }, o = { "object?", fields = { x = "number", y = "string?" } },
              t = "table?", e = { "enum?", "red", "green" }, any = "any?",
            }
            router:on("x", shape, function(conn, message) conn:send("ok") end)
            router:on("need", { text = "string" }, function() end)
            local real = router:handler()
            function app.on_open() end
            -- What the router sends, as a line.
            local lines = {}
            local function line(conn)
              return setmetatable({ id = conn.id, state = conn.state, send = function(_, text) conn:send(text) end,
                send_json = function(_, e) conn:send(`{e.type} {e.id} {e.error} {e.field}: {e.message}`) return true end }, {})
            end
            router.handler = function() return function(conn, data, binary) real(line(conn), data, binary) end end
            "#,
        ),
        r#"
        alice opens
        alice > {
        alice < error nil bad_json nil: bad JSON at byte 2: expected a string as a key, got the end
        alice > []
        alice < error nil bad_message nil: a message must be an object with a type
        alice > {"type":5}
        alice < error nil bad_message nil: a message must be an object with a type
        alice > {"type":"nothing","id":7}
        alice < error 7 unknown_type nil: there is no type "nothing"
        alice > {"type":"need","id":"a"}
        alice < error a bad_field text: text is missing
        alice > {"type":"need","id":{}}
        alice < error nil bad_field id: id must be a number or a string of at most 64 bytes
        alice > {"type":"x"}
        alice < ok
        alice > {"type":"x","s":5}
        alice < error nil bad_field s: s must be a string
        alice > {"type":"x","s":"a"}
        alice < error nil bad_field s: s must have at least 2 bytes
        alice > {"type":"x","s":"abcd"}
        alice < error nil bad_field s: s must have at most 3 bytes
        alice > {"type":"x","n":-1}
        alice < error nil bad_field n: n must be at least 0
        alice > {"type":"x","i":1.5}
        alice < error nil bad_field i: i must be a whole number
        alice > {"type":"x","i":10}
        alice < error nil bad_field i: i must be at most 9
        alice > {"type":"x","b":"true"}
        alice < error nil bad_field b: b must be a boolean
        alice > {"type":"x","l":{"a":1}}
        alice < error nil bad_field l: l must be an array
        alice > {"type":"x","l":[1,2,3]}
        alice < error nil bad_field l: l must have at most 2 elements
        alice > {"type":"x","l":[1,0]}
        alice < error nil bad_field l[2]: l[2] must be at least 1
        alice > {"type":"x","l":[]}
        alice < ok
        alice > {"type":"x","o":[1]}
        alice < error nil bad_field o: o must be an object
        alice > {"type":"x","o":{"y":"a"}}
        alice < error nil bad_field o.x: o.x is missing
        alice > {"type":"x","o":{"x":1,"y":2}}
        alice < error nil bad_field o.y: o.y must be a string
        alice > {"type":"x","t":1}
        alice < error nil bad_field t: t must be an object or an array
        alice > {"type":"x","e":"blue"}
        alice < error nil bad_field e: e must be one of red, green
        alice > {"type":"x","s":"ab","n":0.5,"i":9,"b":false,"l":[1],"o":{"x":1},"t":[],"e":"red","any":[1]}
        alice < ok
        "#,
    );
}

#[test]
fn an_id_is_acknowledged_and_handled_once() {
    check(
        &routed(
            r#"
            local count = 0
            router:on("add", { by = "integer" }, function(conn, message)
              if message.by > 5 then return false, "too much" end
              count += message.by
              return count
            end)
            router:on("tell", {}, function(conn) conn:send(tostring(count)) end)
            "#,
        ),
        r#"
        alice opens
        alice > {"type":"add","by":2,"id":"a"}
        alice < {"data":2,"id":"a","type":"ack"}
        alice > {"type":"add","by":2,"id":"a"}
        alice < {"duplicate":true,"id":"a","type":"ack"}
        alice > {"type":"add","by":2}
        alice > {"type":"tell"}
        alice < 4
        bob opens
        bob > {"type":"add","by":1,"id":"a"}
        bob < {"data":5,"id":"a","type":"ack"}
        "#,
    );
}

#[test]
fn the_peer_is_asked_and_its_reply_comes_to_who_waits() {
    check(
        &routed(
            r#"
            router:on("start", { timeout = "number?" }, function(conn, message)
              relay.spawn(function()
                local reply, why = router:request(conn, "name?", { formal = true }, { timeout = message.timeout or 5 })
                conn:send(`{if type(reply) == "table" then reply.name else reply}, {why}`)
              end)
            end)
            function app.on_close(conn) router:closed(conn) end
            "#,
        ),
        r#"
        alice opens
        alice > {"type":"start"}
        alice < {"formal":true,"id":"q1.1","type":"name?"}
        bob opens
        bob > {"type":"reply","id":"q1.1","data":{"name":"Mallory"}}
        alice > {"type":"reply","id":"q1.99","data":{"name":"nobody"}}
        alice > {"type":"reply"}
        alice > {"type":"reply","id":"q1.1","data":{"name":"Alice"}}
        alice < Alice, nil
        alice > {"type":"reply","id":"q1.1","data":{"name":"too late"}}
        alice > {"type":"start"}
        alice < {"formal":true,"id":"q1.2","type":"name?"}
        alice > {"type":"error","id":"q1.2","message":"I do not tell"}
        alice < nil, I do not tell
        alice > {"type":"start","timeout":2}
        alice < {"formal":true,"id":"q1.3","type":"name?"}
        1s pass
        2s pass
        alice < nil, timeout
        alice > {"type":"start"}
        alice < {"formal":true,"id":"q1.4","type":"name?"}
        alice > {"type":"reply","id":"q1.4"}
        alice < true, nil
        "#,
    );
}

#[test]
fn a_request_ends_when_its_connection_does() {
    check(
        &routed(
            r#"
            router:on("go", {}, function()
              for _, conn in relay.connections() do
                relay.spawn(function()
                  local reply, why = router:request(conn, "well?")
                  relay.broadcast(`{reply}, {why}`)
                end)
              end
            end)
            function app.on_close(conn) router:closed(conn) end
            "#,
        ),
        r#"
        alice opens
        bob opens
        alice > {"type":"go"}
        alice < {"id":"q1.1","type":"well?"}
        bob < {"id":"q1.2","type":"well?"}
        bob vanishes
        alice < nil, closed
        alice > {"type":"reply","id":"q1.1","data":"fine"}
        alice < fine, nil
        "#,
    );
}

#[test]
fn a_request_that_could_only_wait_for_itself_raises_at_the_line_of_the_script() {
    check(
        &routed(
            r#"
            router:on("ask", {}, function(conn)
              router:request(conn, "name?")
            end)
            router:on("try", {}, function(conn)
              conn:send((select(2, pcall(router.request, router, conn, "name?")):match("router:request.*")))
            end)
            function app.on_open(conn) if conn.query.name == "bob" then router:request(conn, "name?") end end
            function app.on_error(conn, err) relay.broadcast(err.message:match("app.lua.-:.-:.-:.-:")) end
            "#,
        ),
        r#"
        alice opens
        alice > {"type":"ask"}
        alice < {"error":"failed","message":"the relay could not handle this","type":"error"}
        alice < app.lua:4: router:request(conn, type, data, options):
        alice > {"type":"ask","id":1}
        alice < {"error":"failed","id":1,"message":"the relay could not handle this","type":"error"}
        alice < app.lua:4: router:request(conn, type, data, options):
        alice > {"type":"try"}
        alice < router:request(conn, type, data, options): a callback of this connection runs, and its reply could only come after that; call it in relay.spawn or a timer
        bob opens
        alice < app.lua:9: router:request(conn, type, data, options):
        bob is closed 1011
        "#,
    );
}

#[test]
fn a_handler_that_raises_is_told_with_its_own_lines_whether_there_is_an_id_or_not() {
    check(
        &routed(
            r#"
            local function deeper(message)
              return message.list.first.second
            end
            router:on("x", { list = "object" }, function(conn, message)
              relay.sleep(message.list.wait or 0)
              deeper(message)
            end)
            function app.on_error(conn, err)
              conn:send(err.message:match("app.lua.*"))
              for line in err.traceback:gmatch("[^\n]+") do conn:send(line:match("app.lua.*")) end
            end
            "#,
        ),
        r#"
        alice opens
        alice > {"type":"x","list":{}}
        alice < {"error":"failed","message":"the relay could not handle this","type":"error"}
        alice < app.lua:4: attempt to index nil with 'second'
        alice < app.lua:4: in function 'deeper'
        alice < app.lua:8
        alice > {"type":"x","list":{},"id":1}
        alice < {"error":"failed","id":1,"message":"the relay could not handle this","type":"error"}
        alice < app.lua:4: attempt to index nil with 'second'
        alice < app.lua:4: in function 'deeper'
        alice < app.lua:8
        "#,
    );
}

#[test]
fn a_mistake_in_a_declaration_is_told_at_its_line_and_refuses_the_load() {
    let cases = [
        (
            "router:on('x', { a = 'strin' }, print)",
            "router:on(type, fields, handler), x: a has the unknown type \"strin\" (there are string, number,",
        ),
        ("router:on('x', { a = 5 }, print)", "x: a must be a type such as \"string\""),
        ("router:on('x', { a = { 'string', mx = 5 } }, print)", "x: a is of the type string, which has no option mx"),
        (
            "router:on('x', { a = { 'boolean', max = 5 } }, print)",
            "x: a is of the type boolean, which has no option max",
        ),
        ("router:on('x', { a = { 'enum' } }, print)", "x: a must name its values: { \"enum\", \"red\", \"green\" }"),
        ("router:on('x', { a = { 'array', of = 'y' } }, print)", "x: a[] has the unknown type \"y\""),
        ("router:on('x', { id = 'string' }, print)", "x: type and id belong to the router, and are no fields"),
        ("router:on('x', {})", "handler must be a function, got nil"),
        ("router:on('x', print)", "handler must be a function, got nil"),
        ("router:on('ack', {}, print)", "type must be a new name, and not ack, error or reply; got ack"),
        ("router.on('x', {}, print)", "call it with a colon"),
        ("require('moonwire.router').new({ windw = 5 })", "unknown option 'windw' (it takes window, fallback, binary)"),
        ("require('moonwire.router').new({ window = -1 })", "window must be a whole number from 1 to 1024"),
        (
            "require('moonwire.routr')",
            "this release of moonwire has no library of that name (it has moonwire.router, moonwire.shape)",
        ),
    ];
    for (line, expected) in cases {
        run(async {
            let folder = tempfile::tempdir().unwrap();
            let script = folder.path().join("app.lua");
            let body = format!("local router = require('moonwire.router').new()\n\n{line}\nfunction app.on_open() end");
            std::fs::write(&script, module(&body)).unwrap();
            let Err(report) = Relay::start(app("app", &script)).await else { panic!("{line} was loaded") };
            let error = report_error(report);
            assert!(error.starts_with(&format!("{}:4: ", script.display())), "{line}: {error}");
            assert!(error.contains(expected), "{line}: {error}");
        });
    }
}

fn report_error(report: AppReport) -> String {
    match report.outcome {
        Outcome::Failed { error, .. } => error.message,
        other => panic!("it did not fail: {other:?}"),
    }
}

#[test]
fn a_shape_checks_what_did_not_come_through_a_router() {
    check(
        r#"
        local check = require("moonwire.shape").of({ text = "string", n = { "integer?", max = 5 } })
        function app.on_message(conn, text)
          local fields, field, why = check(relay.json.decode(text))
          conn:send(if fields then fields.text else `{field}: {why}`)
        end
        "#,
        r#"
        alice opens
        alice > {"text":"hi","more":1}
        alice < hi
        alice > {"text":"hi","n":6}
        alice < n: n must be at most 5
        alice > ["hi"]
        alice < : must be an object
        alice > {"
        alice < : must be an object
        "#,
    );
}

#[test]
fn a_script_that_overwrites_globals_does_not_break_a_library() {
    check(
        &format!(
            "type = nil pairs = nil relay2 = relay\n{}",
            routed("router:on('x', { a = 'string' }, function(conn, m) conn:send(m.a) end)")
        ),
        r#"
        alice opens
        alice > {"type":"x","a":"fine"}
        alice < fine
        "#,
    );
}

#[test]
fn unknown_types_go_to_the_fallback_and_the_oldest_id_is_forgotten_first() {
    check(
        "
        local router = require('moonwire.router').new({
          fallback = function(conn, message) return `{message.type} {message.extra}` end,
          window = 2,
        })
        local done = 0
        router:on('x', {}, function() done += 1 return done end)
        app.on_message = router:handler()
        ",
        r#"
        alice opens
        alice > {"type":"y","extra":5,"id":0}
        alice < {"data":"y 5","id":0,"type":"ack"}
        alice > {"type":"x","id":1}
        alice < {"data":1,"id":1,"type":"ack"}
        alice > {"type":"x","id":2}
        alice < {"data":2,"id":2,"type":"ack"}
        alice > {"type":"x","id":1}
        alice < {"duplicate":true,"id":1,"type":"ack"}
        alice > {"type":"x","id":3}
        alice < {"data":3,"id":3,"type":"ack"}
        alice > {"type":"x","id":1}
        alice < {"data":4,"id":1,"type":"ack"}
        "#,
    );
}

#[test]
fn binary_messages_are_refused_unless_the_script_wants_them() {
    let cases = [
        ("", r#"{"message":"a message must be JSON text","type":"error","error":"bad_message"}"#),
        ("{ binary = function(conn, data) conn:send(`{#data} bytes`) end }", "3 bytes"),
    ];
    for (options, expected) in cases {
        run(async {
            let folder = tempfile::tempdir().unwrap();
            let script = folder.path().join("app.lua");
            let body = format!("app.on_message = require('moonwire.router').new({options}):handler()");
            std::fs::write(&script, module(&body)).unwrap();
            let relay = Relay::start(app("app", &script)).await.unwrap_or_else(|report| panic!("{report:#?}"));
            let alice = relay.connect("/app/lobby").await.unwrap();
            alice.send_as([1, 2, 3], true);
            relay.settle().await;
            let got = alice.receive_text().unwrap();
            let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|_| json!(text));
            assert_eq!(parsed(&got), parsed(expected));
        });
    }
}

#[test]
fn a_reload_forgets_no_id_and_a_request_waits_in_vain() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("app.lua");
        let body = routed(
            "router:on('x', {}, function() return relay.generation end)
             router:on('ask', {}, function(conn)
               relay.spawn(function() relay.broadcast(tostring(select(2, router:request(conn, 'q', {}, { timeout = 3 })))) end)
             end)",
        );
        std::fs::write(&script, module(&body)).unwrap();
        let relay = Relay::start(app("app", &script)).await.unwrap_or_else(|report| panic!("{report:#?}"));
        let alice = relay.connect("/app/lobby").await.unwrap();
        let ask = async |text: &str| {
            alice.send(text);
            relay.settle().await;
            alice.receive_text().map(|text| serde_json::from_str::<Value>(&text).unwrap())
        };
        assert_eq!(ask(r#"{"type":"x","id":1}"#).await, Some(json!({"data":1,"id":1,"type":"ack"})));
        assert_eq!(ask(r#"{"type":"ask"}"#).await, Some(json!({"id":"q1.1","type":"q"})));
        std::fs::write(&script, module(&format!("{body}\nlocal changed = true"))).unwrap();
        assert!(matches!(relay.reload().await.outcome, Outcome::Reloaded { .. }));
        assert_eq!(ask(r#"{"type":"x","id":1}"#).await, Some(json!({"duplicate":true,"id":1,"type":"ack"})));
        assert_eq!(ask(r#"{"type":"x","id":2}"#).await, Some(json!({"data":2,"id":2,"type":"ack"})));
        assert_eq!(ask(r#"{"type":"reply","id":"q1.1","data":5}"#).await, None);
        relay.advance(std::time::Duration::from_secs(4)).await;
        assert_eq!(alice.receive_text().as_deref(), Some("timeout"));
    });
}
