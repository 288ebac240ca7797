//! An app in several instances: rooms, users, broadcasts, events and kicks reach across.
//!
//! Peers go to the least loaded instance in turn, so the first three of each transcript live apart.

use moonwire::{config::ShardBy, harness::check_with};

fn in_three(script: &str, transcript: &str) {
    check_with(|app| app.instances = 3, script, transcript);
}

#[test]
fn a_room_is_one_over_all_instances() {
    in_three(
        r#"
        function app.on_open(conn) conn:join("r") end
        function app.on_message(conn, text)
          if text == "count" then return conn:send(relay.room("r"):count() .. " " .. #relay.room("r"):members() .. " " .. relay.count()) end
          conn:publish("r", text)
          relay.room("r"):publish("to all of " .. relay.instance.index, { except = conn.id })
        end
        "#,
        "
        ann opens
        bob opens
        cid opens
        ann > hi
        bob < hi
        bob < to all of 1
        cid < hi
        cid < to all of 1
        bob > count
        bob < 3 1 3
        cid closes
        bob > count
        bob < 2 1 2
        ",
    );
}

#[test]
fn a_pattern_hears_rooms_of_other_instances_once() {
    in_three(
        r#"
        function app.on_open(conn)
          if conn.query.name == "bob" then conn:join_pattern("room.*") conn:join_pattern("room.>") conn:join("room.1") end
        end
        function app.on_message(conn, text) conn:publish(text, "in " .. text) end
        "#,
        "
        ann opens
        bob opens
        ann > room.1
        bob < in room.1
        ann > room.2.x
        bob < in room.2.x
        ann > other
        ",
    );
}

#[test]
fn a_broadcast_reaches_every_connection_of_the_app() {
    in_three(
        r#"
        function app.on_message(conn, text)
          relay.broadcast(text)
          relay.broadcast_json({ but = "the sender" }, { except = conn })
        end
        "#,
        r#"
        ann opens
        bob opens
        cid opens
        bob > all
        ann < all
        ann < {"but":"the sender"}
        bob < all
        cid < all
        cid < {"but":"the sender"}
        "#,
    );
}

#[test]
fn a_user_is_reached_wherever_its_connections_are() {
    in_three(
        r#"
        function app.authenticate(request) return request.query.user or "nobody" end
        function app.on_message(conn, text)
          local user = relay.user("u")
          if text == "send" then conn:send(tostring(user:send("for u")))
          elseif text == "online" then conn:send(tostring(user:online()) .. tostring(relay.user("v"):online()) .. #user:connections())
          elseif text == "join" then conn:send(tostring(user:join("r"))) relay.room("r"):publish("in r")
          elseif text == "leave" then user:leave("r") conn:send(tostring(relay.room("r"):count()))
          elseif text == "kick" then conn:send(tostring(user:disconnect(4001, "out"))) end
        end
        "#,
        "
        ann opens /app/x?user=u
        bob opens /app/x?user=u
        cid opens /app/x?user=w
        cid > send
        ann < for u
        bob < for u
        cid < true
        cid > online
        cid < truefalse0
        cid > join
        cid < true
        ann < in r
        bob < in r
        cid > leave
        cid < 0
        cid > kick
        cid < true
        ann is closed 4001 out
        bob is closed 4001 out
        ",
    );
}

#[test]
fn a_room_can_be_closed_for_all_its_members() {
    in_three(
        r#"
        function app.on_open(conn) if conn.query.name ~= "cid" then conn:join("r") end end
        function app.on_message(conn) relay.room("r"):disconnect(4002, "over") conn:send("done") end
        "#,
        "
        ann opens
        bob opens
        cid opens
        cid > go
        cid < done
        ann is closed 4002 over
        bob is closed 4002 over
        ",
    );
}

#[test]
fn an_event_is_told_in_every_instance_with_its_source() {
    in_three(
        r#"
        function app.on_open(conn) conn:join("r." .. relay.instance.index) end
        function app.on_message(conn, text) relay.emit("news", { text = text, n = 1 }) end
        function app.on_event(name, data, source)
          relay.room("r." .. relay.instance.index):publish(name .. " " .. data.text .. " from " .. source.app .. " " .. source.instance)
        end
        "#,
        "
        ann opens
        bob opens
        cid opens
        bob > hi
        ann < news hi from app 2
        bob < news hi from app 2
        cid < news hi from app 2
        ",
    );
}

#[test]
fn a_connection_of_another_instance_is_a_handle() {
    in_three(
        r#"
        function app.on_open(conn) relay.emit("opened", { name = conn.query.name, id = conn.id }) end
        local ids = {}
        function app.on_event(_, data) ids[data.name] = data.id end
        function app.on_message(conn, text)
          local to = relay.conn(ids[text])
          conn:send(tostring(to.id == ids[text]) .. tostring(to:send("for " .. text)))
          if text == "cid" then to:close(4003, "by another") end
          conn:send(tostring(relay.conn("nonsense")))
        end
        "#,
        "
        ann opens
        bob opens
        cid opens
        ann > bob
        bob < for bob
        ann < truetrue
        ann < nil
        ann > cid
        cid < for cid
        cid is closed 4003 by another
        ann < truetrue
        ann < nil
        ",
    );
}

#[test]
fn equal_keys_go_to_the_same_instance() {
    check_with(
        |app| {
            app.instances = 3;
            app.shard_by = Some(ShardBy::Param("room".to_owned()));
        },
        r#"
        function app.on_open(conn) conn:join("room") end
        function app.on_message(conn, text) conn:send(tostring(#relay.room("room"):members() >= 3)) end
        "#,
        "
        ann opens /app/a
        bob opens /app/a
        cid opens /app/a
        ann > x
        ann < true
        bob > x
        bob < true
        cid > x
        cid < true
        ",
    );
}
