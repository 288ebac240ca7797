//! What scripts are told, and what they can do: transcripts without a socket.

use moonwire::harness::check;

#[test]
fn a_message_goes_to_everyone_in_the_room_but_its_sender() {
    check(
        r#"
        function app.on_open(conn) conn:join("lobby") end
        function app.on_message(conn, text) conn:publish("lobby", text) end
        "#,
        "
        alice opens
        bob opens
        alice > hi
        bob < hi
        ",
    );
}

#[test]
fn an_echo_comes_back() {
    check(
        r#"
        function app.on_message(conn, data, binary) conn:send(data, binary) end
        "#,
        "
        alice opens
        alice > hi
        alice < hi
        ",
    );
}

#[test]
fn a_callback_that_waits_holds_back_its_own_connection_and_no_other() {
    check(
        r#"
        function app.on_message(conn, text)
          if text == "slow" then relay.sleep(2) end
          conn:send(text)
        end
        "#,
        "
        alice opens
        bob opens
        alice > slow
        alice > next
        bob > quick
        bob < quick
        2s pass
        alice < slow
        alice < next
        ",
    );
}

#[test]
fn a_scripts_own_coroutine_can_wait() {
    check(
        r#"
        function app.on_message(conn, text)
          local words = coroutine.wrap(function()
            relay.sleep(1)
            coroutine.yield("one")
            relay.sleep(1)
            coroutine.yield("two")
          end)
          conn:send(words())
          conn:send(words())
        end
        "#,
        "
        alice opens
        alice > go
        2s pass
        alice < one
        alice < two
        ",
    );
}

#[test]
fn a_raising_on_message_is_told_to_on_error_and_the_connection_stays() {
    check(
        r#"
        function app.on_message(conn, text)
          if text == "bad" then local x = nil; return x.y end
          conn:send(text)
        end
        function app.on_error(conn, err) conn:send(err.callback .. ": " .. err.message:match(":%d+: (.*)")) end
        "#,
        "
        alice opens
        alice > bad
        alice < on_message: attempt to index nil with 'y'
        alice > good
        alice < good
        ",
    );
}

#[test]
fn a_raising_on_open_closes_with_1011() {
    check(
        r#"
        function app.on_open(conn) error("no") end
        "#,
        "
        alice opens
        alice is closed 1011
        ",
    );
}

#[test]
fn conn_close_sends_what_is_queued_first_and_no_later_message_is_handled() {
    check(
        r#"
        function app.on_open(conn) conn:join("r") end
        function app.on_message(conn, text)
          if text == "bye" then conn:send("last") conn:close(4000, "done") else conn:send(text) end
        end
        function app.on_close(conn, code, reason)
          relay.room("r"):publish(code .. " " .. reason .. " " .. #conn:rooms() .. " " .. tostring(conn:send("x")))
        end
        "#,
        "
        bob opens
        alice opens
        alice > bye
        alice > never
        alice < last
        alice is closed 4000 done
        bob < 4000 done 1 false
        ",
    );
}

#[test]
fn a_peer_that_vanishes_is_told_of_as_1006() {
    check(
        r#"
        function app.on_open(conn) conn:join("r") end
        function app.on_close(conn, code, reason) conn:publish("r", code .. "/" .. reason) end
        "#,
        "
        alice opens
        bob opens
        alice vanishes
        bob < 1006/
        ",
    );
}

#[test]
fn a_refusal_by_status_or_by_close_code_keeps_a_peer_out() {
    check(
        r#"
        function app.authenticate(request)
          if request.query.name == "eve" then return relay.refuse(4403, "banned") end
          if request.query.name == "mal" then return nil, "who are you" end
          return { id = request.query.name, role = "member" }
        end
        function app.on_message(conn, text) conn:send(conn.user.id .. " " .. conn.user.role) end
        "#,
        "
        eve is refused 4403 banned
        mal is refused 401 who are you
        alice opens
        alice > who
        alice < alice member
        ",
    );
}

#[test]
fn timers_fire_in_order_and_can_be_cancelled() {
    check(
        r#"
        function app.on_message(conn, text)
          relay.after(2, function() conn:send("after") end)
          relay.after(1, function() conn:send("never") end):cancel()
          local n = 0
          local every
          every = relay.every(0.5, function(elapsed)
            n += 1
            conn:send(string.format("tick %d %.1f", n, elapsed))
            if n == 2 then every:cancel() end
          end)
          relay.spawn(function() conn:send("spawned") end)
          conn:send("started")
        end
        "#,
        "
        alice opens
        alice > go
        alice < started
        alice < spawned
        3s pass
        alice < tick 1 0.5
        alice < tick 2 0.5
        alice < after
        ",
    );
}

#[test]
fn a_text_that_is_not_utf_8_is_a_mistake_of_the_script() {
    check(
        r#"
        function app.on_message(conn, text)
          local ok, why = pcall(function() conn:send("\255") end)
          conn:send(why:match(":%d+: (.*)"))
          conn:send("\255", true)
        end
        "#,
        "
        alice opens
        alice > x
        alice < conn:send(data): data is not UTF-8, which a text message must be; give { binary = true } to send bytes
        alice < \u{fffd}
        ",
    );
}

#[test]
fn an_authenticate_that_takes_too_long_is_503() {
    check(
        r#"
        function app.authenticate(request) relay.sleep(100) return true end
        "#,
        "
        alice is refused 503
        ",
    );
}

#[test]
fn a_connection_ends_with_4401_when_its_identity_runs_out() {
    check(
        r#"
        function app.authenticate(request)
          local lasts = tonumber(request.query.lasts) or (request.query.name == "late" and -5)
          return { id = "x", expires_at = lasts and relay.now() + lasts or nil }
        end
        function app.on_open(conn) conn:join("r") end
        function app.on_message(conn, text) conn:send(text) end
        function app.on_close(conn, code, reason) conn:publish("r", code .. " " .. reason) end
        "#,
        "
        bob opens
        alice opens /app/lobby?lasts=10
        carol opens /app/lobby?lasts=1e300
        9s pass
        alice > still here
        alice < still here
        1s pass
        alice is closed 4401 the identity has expired
        bob < 4401 the identity has expired
        carol < 4401 the identity has expired
        late is refused 4401 the identity has expired
        ",
    );
}
