//! Each name that scripts see: what it gives, what a wrong argument raises, and what it does for a connection that
//! is gone. (The names that touch no connection have their tests beside their code.)

use moonwire::harness::check;

/// Runs each body in an `on_message`; it must raise with this message at its line.
fn raises(cases: &[(&str, &str)]) {
    for (body, expected) in cases {
        check(
            &format!(
                "function app.on_message(conn)
                   local ok, why = pcall(function() {body} end)
                   conn:send(tostring(ok) .. ' ' .. tostring(why):match(':2: (.*)') .. '')
                 end"
            )
            .replacen('\n', " ", 1),
            &format!("alice opens\nalice > x\nalice < false {expected}"),
        );
    }
}

#[test]
fn a_wrong_argument_raises_in_the_words_of_the_script() {
    raises(&[
        ("conn:send({})", "conn:send(data): data must be a string, got table"),
        ("conn:send(nil)", "conn:send(data): data must be a string, got nil"),
        ("conn:send(7)", "conn:send(data): data must be a string, got number"),
        ("conn:send('x', 7)", "conn:send(data, options): options must be a table, got number"),
        (
            "conn:send('x', { binray = true })",
            "conn:send(data, options): unknown option 'binray' (it takes binary, droppable)",
        ),
        ("conn:send('x', { binary = 1 })", "conn:send(data, options): binary must be a boolean, got number"),
        ("conn:send_json(print)", "value is a function, which JSON cannot hold"),
        ("conn:close('x')", "conn:close(code, reason): code must be a number, got string"),
        (
            "conn:close(1002)",
            "conn:close(code, reason): code 1002 cannot be sent; take 1000, 1001, 1003, 1007 to 1009, 1011 to 1013, or one of 3000 to 4999",
        ),
        (
            "conn:close(4000.5)",
            "conn:close(code, reason): code 4000.5 cannot be sent; take 1000, 1001, 1003, 1007 to 1009, 1011 to 1013, or one of 3000 to 4999",
        ),
        (
            "conn:close(4000, string.rep('x', 124))",
            "conn:close(code, reason): reason must be at most 123 bytes, got 124",
        ),
        ("conn:join(5)", "conn:join(room): room must be a string, got number"),
        ("conn:join('r', { sinc = 1 })", "conn:join(room, options): unknown option 'sinc' (it takes no options)"),
        ("conn:leave()", "conn:leave(room): room must be a string, got nil"),
        ("conn:join_pattern({})", "conn:join_pattern(pattern): pattern must be a string, got table"),
        ("conn:publish('r')", "conn:publish(room, data): data must be a string, got nil"),
        ("conn:publish(nil, 'x')", "conn:publish(room, data): room must be a string, got nil"),
        (
            "conn:publish('r', 'x', { except = 5 })",
            "conn:publish(room, data, options): except must be a conn, an id or a list of them, got number",
        ),
        ("conn.state = 5", "conn.state: it must be a table, got number"),
        ("relay.room('')", "relay.room(name): name must not be empty"),
        ("relay.room()", "relay.room(name): name must be a string, got nil"),
        ("relay.room('r'):publish(true)", "room:publish(data): data must be a string, got boolean"),
        (
            "relay.room('r'):disconnect(99)",
            "room:disconnect(code, reason): code 99 cannot be sent; take 1000, 1001, 1003, 1007 to 1009, 1011 to 1013, or one of 3000 to 4999",
        ),
        ("relay.user(nil)", "relay.user(id): id must be a string, got nil"),
        ("relay.user('u'):send()", "user:send(data): data must be a string, got nil"),
        ("relay.user('u'):join({})", "user:join(room): room must be a string, got table"),
        ("relay.conn(7)", "relay.conn(id): id must be a string, got number"),
        ("relay.broadcast({})", "relay.broadcast(data): data must be a string, got table"),
        ("relay.emit('')", "relay.emit(name, data, options): name must not be empty"),
        ("relay.emit('e', print)", "relay.emit(name, data, options): data is a function, which is not plain data"),
        (
            "relay.emit('e', 1, { app = 'other' })",
            "relay.emit(name, data, options): app must be \"*\" (all apps), or left out (this one), got string",
        ),
        (
            "relay.refuse(200)",
            "relay.refuse(code, reason): code must be an HTTP status of 400 to 599, or a close code: 1008, or 3000 to 4999; got 200",
        ),
        ("relay.refuse('x')", "relay.refuse(code, reason): code must be a number, got string"),
        (
            "relay.sleep('soon')",
            "relay.sleep(seconds): seconds must be seconds or a string such as \"30s\" or \"7d\", got \"soon\"",
        ),
        ("relay.sleep(-1)", "relay.sleep(seconds): seconds must not be negative, got -1"),
        ("relay.sleep(0/0)", "relay.sleep(seconds): seconds must be a finite number"),
        ("relay.after(1)", "relay.after(seconds, fn): fn must be a function, got nil"),
        ("relay.every(0, print)", "relay.every(seconds, fn): seconds must be more than 0"),
        ("relay.spawn('x')", "relay.spawn(fn): fn must be a function, got string"),
        (
            "require('../secret')",
            "require(\"../secret\"): a module's name is letters, digits, _ and - with dots between folders",
        ),
        (
            "require('moonwire.rooter')",
            "require(\"moonwire.rooter\"): this release of moonwire has no library of that name (it has moonwire.router, moonwire.shape)",
        ),
        ("relay.state = {}", "attempt to modify a readonly table"),
        ("conn.query.x = 1", "attempt to modify a readonly table"),
    ]);
}

#[test]
fn a_wait_where_nothing_can_wait_says_so() {
    raises(&[
        (
            "table.sort({ 1, 2 }, function() relay.sleep(1) end)",
            "relay.sleep cannot wait here: inside a metamethod, a for iterator, table.sort, string.gsub or a function given to a host call",
        ),
        (
            "local _ = setmetatable({}, { __index = function() relay.sleep(1) end }).x",
            "relay.sleep cannot wait here: inside a metamethod, a for iterator, table.sort, string.gsub or a function given to a host call",
        ),
    ]);
}

#[test]
fn names_of_rooms_are_checked_and_what_the_world_refuses_is_false_and_why() {
    check(
        r#"
        function app.on_message(conn)
          local function say(...) conn:send(table.concat({ ... }, " ")) end
          local function two(done, why) say(tostring(done), tostring(why)) end
          two(conn:join("a.*"))
          two(conn:join("bad\nname"))
          two(conn:join(string.rep("n", 256)))
          two(conn:join_pattern("a.>.b"))
          two(conn:leave("never"))
          two(conn:leave_pattern("never.*"))
          two(relay.room("a.*"):publish("x"))
          two(conn:publish("a.>", "x"))
          two(conn:send_json(0 / 0))
          two(relay.user("nobody"):send("x"))
          for i = 1, 128 do assert(conn:join("r." .. i)) end
          two(conn:join("r.129"))
          two(conn:join("r.1"))
          say(#conn:rooms())
        end
        "#,
        "
        alice opens
        alice > x
        alice < false bad_name
        alice < false bad_name
        alice < false bad_name
        alice < false bad_name
        alice < false not_member
        alice < false not_member
        alice < false bad_name
        alice < false bad_name
        alice < false value is NaN, which JSON has no number for
        alice < false closed
        alice < false limits.rooms_per_connection
        alice < true nil
        alice < 128
        ",
    );
}

#[test]
fn a_conn_that_is_kept_after_its_close_is_inert_and_raises_nothing() {
    check(
        r#"
        local kept
        function app.on_open(conn)
          conn:join("r")
          if conn.query.name == "alice" then kept = conn conn.state.word = "remembered" end
        end
        function app.on_message(conn)
          local function say(...) conn:send(table.concat({ ... }, " ")) end
          say(tostring(kept:send("x")), select(2, kept:send("x")))
          say(tostring(kept:send_json({})), select(2, kept:send_json({})))
          say(tostring(kept:join("q")), select(2, kept:join("q")))
          say(tostring(kept:publish("r", "x")), select(2, kept:publish("r", "x")))
          kept:close(4000, "again")
          say(#kept:rooms(), kept:buffered(), kept.query.name, kept.state.word, tostring(kept.user), kept.path)
          say(tostring(relay.conn(kept.id)), relay.room("r"):count())
        end
        "#,
        "
        alice opens
        bob opens
        alice closes
        bob > x
        bob < false closed
        bob < false closed
        bob < false closed
        bob < false closed
        bob < 0 0 alice remembered nil /app/lobby
        bob < nil 1
        ",
    );
}

#[test]
fn a_conn_knows_its_handshake() {
    check(
        r#"
        function app.authenticate(request) return { id = "u" .. request.query.n, tags = { "a", "b" } } end
        function app.on_open(conn) conn.state = { n = tonumber(conn.query.n) } end
        function app.on_message(conn)
          conn:send_json({ conn.params.room, conn.path, conn.query.n, conn.user.id, conn.user.tags[2], conn.state.n, conn.remote_addr })
          conn:send(type(conn.id) .. type(conn.opened_at) .. type(conn.headers) .. type(conn.cookies) .. tostring(conn.subprotocol))
          conn:send(tostring(pcall(function() conn.user.id = "x" end)) .. tostring(pcall(function() conn.user.tags[1] = "x" end)))
        end
        "#,
        r#"
        alice opens /app/a%20b?n=7&n=8
        alice > x
        alice < ["a b","/app/a%20b","7","u7","b",7,"127.0.0.1"]
        alice < stringnumbertabletablenil
        alice < falsefalse
        "#,
    );
}

#[test]
fn a_droppable_message_is_left_out_for_a_slow_peer_and_another_closes_it() {
    moonwire::harness::check_with(
        |app| app.limits.outbox = 100,
        r#"
        function app.on_message(conn, text)
          local sent = {}
          for i = 1, 3 do sent[i] = tostring(conn:send(string.rep("x", 60), { droppable = true })) end
          if text == "more" then
            local ok, why = conn:send(string.rep("y", 60))
            relay.log.info("it was " .. why)
          end
        end
        "#,
        &format!(
            "alice opens\nalice > x\nalice < {0}\nalice > more\nalice < {0}\nalice is closed 1013",
            "x".repeat(60)
        ),
    );
}

#[test]
fn ten_errors_within_a_minute_close_a_connection_with_1011() {
    check(
        "function app.on_message(conn, text) error(text) end",
        "
        alice opens
        alice > 1
        alice > 2
        alice > 3
        61s pass
        alice > 4
        alice > 5
        alice > 6
        alice > 7
        alice > 8
        alice > 9
        alice > 10
        alice > 11
        alice > 12
        alice > 13
        alice is closed 1011 too many script errors: limits.script_errors
        ",
    );
}
