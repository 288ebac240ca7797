//! `conn`: one connection, as its callbacks hold it.

use std::{borrow::Cow, rc::Rc};

use mlua::{Lua, LuaString, MetaMethod, Table, UserDataFields, UserDataMethods, UserDataRegistry, Value};

use crate::{
    connection_id::ConnectionId,
    hub::{Conn, Why},
    identity::Identity,
    name,
    script::{
        api::request,
        args,
        host::{ConnRef, Host, answer, json_text},
        plain,
    },
    wire,
};

type Answer = (bool, Option<&'static str>);

/// Makes a read-only table about a connection.
type Fact = fn(&Lua, &Conn) -> mlua::Result<Value>;

pub fn register(lua: &Lua, host: &Rc<Host>) -> mlua::Result<()> {
    lua.register_userdata_type::<ConnRef>(|conn| {
        fields(conn, host);
        methods(conn, host);
        conn.enable_namecall();
        conn.add_meta_field("__type", "conn");
        conn.add_meta_method(MetaMethod::ToString, |_, conn, ()| Ok(format!("conn {}", conn.0.text)));
    })
}

fn fields(conn: &mut UserDataRegistry<ConnRef>, host: &Rc<Host>) {
    conn.add_field_method_get("id", |lua, conn| lua.create_string(conn.0.text.as_bytes()));
    conn.add_field_method_get("path", |_, conn| Ok(conn.0.request.path.clone()));
    conn.add_field_method_get("remote_addr", |_, conn| Ok(conn.0.request.remote_addr.clone()));
    conn.add_field_method_get("subprotocol", |_, conn| Ok(conn.0.subprotocol.clone()));
    conn.add_field_method_get("opened_at", |_, conn| Ok(conn.0.opened_at));
    let of = host.clone();
    conn.add_field_method_get("user", move |lua, conn| {
        let Some(data) = conn.0.identity_data() else { return Ok(Value::Nil) };
        // A renewed identity is another table: what a script kept of the old one stays as it was.
        let (renewals, name) = (conn.0.renewals(), "user");
        let name = if renewals == 0 { Cow::Borrowed(name) } else { Cow::Owned(format!("{name} {renewals}")) };
        of.fact(lua, &conn.0, &name, || {
            let user = plain::from_plain(lua, &data)?;
            plain::freeze(lua, &user)?; // for good
            Ok(user)
        })
    });
    let facts: [(&str, Fact); 4] = [
        ("params", |lua, conn| request::params(lua, &conn.request).map(Value::Table)),
        ("query", |lua, conn| request::pairs(lua, &conn.request.query).map(Value::Table)),
        ("headers", |lua, conn| request::pairs(lua, &conn.request.headers).map(Value::Table)),
        ("cookies", |lua, conn| request::pairs(lua, &conn.request.cookies).map(Value::Table)),
    ];
    for (name, make) in facts {
        let host = host.clone();
        conn.add_field_method_get(name, move |lua, conn| host.fact(lua, &conn.0, name, || make(lua, &conn.0)));
    }
    let of = host.clone();
    conn.add_field_function_get("state", move |lua, userdata| {
        let conn = userdata.borrow::<ConnRef>()?.0.clone();
        of.state(lua, &userdata, &conn)
    });
    let of = host.clone();
    conn.add_field_function_set("state", move |_, userdata, state: Value| {
        let Value::Table(state) = state else { return Err(args::wrong("conn.state", "it", "a table", &state)) };
        let conn = userdata.borrow::<ConnRef>()?.0.clone();
        of.set_state(&conn, &state)
    });
}

fn methods(conn: &mut UserDataRegistry<ConnRef>, host: &Rc<Host>) {
    let of = host.clone();
    conn.add_method("send", move |_, conn, (data, options): (Value, Value)| -> mlua::Result<Answer> {
        of.running("conn:send(data)")?;
        let data = args::string("conn:send(data)", "data", &data)?;
        let options = SendOptions::read("conn:send(data, options)", &options)?;
        sendable("conn:send(data)", &data, options.binary)?;
        Ok(answer(of.context.hub.send(&conn.0, &data.as_bytes(), options.binary, options.droppable)))
    });
    let of = host.clone();
    conn.add_method(
        "send_json",
        move |_, conn, (value, options): (Value, Value)| -> mlua::Result<(bool, Option<String>)> {
            of.running("conn:send_json(value)")?;
            let options = SendOptions::read("conn:send_json(value, options)", &options)?;
            let text = match json_text(&of.context, &value)? {
                Ok(text) => text,
                Err(why) => return Ok((false, Some(why))),
            };
            Ok(owned(answer(of.context.hub.send(&conn.0, &text, options.binary, options.droppable))))
        },
    );
    let of = host.clone();
    conn.add_method("close", move |_, conn, (code, reason): (Value, Value)| {
        of.running("conn:close(code, reason)")?;
        let (code, reason) = close_arguments("conn:close(code, reason)", &code, &reason)?;
        conn.0.end(code, &reason);
        Ok(())
    });
    let of = host.clone();
    conn.add_method("join", move |_, conn, (room, options): (Value, Value)| {
        of.running("conn:join(room)")?;
        let room = args::string("conn:join(room)", "room", &room)?;
        args::options("conn:join(room, options)", &options, &[])?;
        Ok(answer(name_of(&room).and_then(|room| of.context.hub.join(&conn.0, &room))))
    });
    let of = host.clone();
    conn.add_method("leave", move |_, conn, room: Value| {
        of.running("conn:leave(room)")?;
        let room = args::string("conn:leave(room)", "room", &room)?;
        Ok(answer(name_of(&room).and_then(|room| of.context.hub.leave(&conn.0, &room))))
    });
    conn.add_method("rooms", |lua, conn, ()| {
        lua.create_sequence_from(conn.0.rooms().iter().map(|room| room.to_string()))
    });
    let of = host.clone();
    conn.add_method("join_pattern", move |_, conn, (pattern, options): (Value, Value)| {
        of.running("conn:join_pattern(pattern)")?;
        let pattern = args::string("conn:join_pattern(pattern)", "pattern", &pattern)?;
        args::options("conn:join_pattern(pattern, options)", &options, &[])?;
        Ok(answer(name_of(&pattern).and_then(|pattern| of.context.hub.join_pattern(&conn.0, &pattern))))
    });
    let of = host.clone();
    conn.add_method("leave_pattern", move |_, conn, pattern: Value| {
        of.running("conn:leave_pattern(pattern)")?;
        let pattern = args::string("conn:leave_pattern(pattern)", "pattern", &pattern)?;
        Ok(answer(name_of(&pattern).and_then(|pattern| of.context.hub.leave_pattern(&conn.0, &pattern))))
    });
    let of = host.clone();
    conn.add_method("publish", move |_, conn, (room, data, options): (Value, Value, Value)| -> mlua::Result<Answer> {
        const NAME: &str = "conn:publish(room, data)";
        of.running(NAME)?;
        let room = args::string(NAME, "room", &room)?;
        let data = args::string(NAME, "data", &data)?;
        let options = PublishOptions::read(&of, "conn:publish(room, data, options)", &options)?;
        sendable(NAME, &data, options.binary)?;
        Ok(publish(&of, &conn.0, &room, &data.as_bytes(), options))
    });
    let of = host.clone();
    conn.add_method("publish_json", move |_, conn, (room, value, options): (Value, Value, Value)| {
        const NAME: &str = "conn:publish_json(room, value)";
        of.running(NAME)?;
        let room = args::string(NAME, "room", &room)?;
        let options = PublishOptions::read(&of, "conn:publish_json(room, value, options)", &options)?;
        let text = match json_text(&of.context, &value)? {
            Ok(text) => text,
            Err(why) => return Ok((false, Some(why))),
        };
        Ok(owned(publish(&of, &conn.0, &room, &text, options)))
    });
    let of = host.clone();
    conn.add_method("identify", move |_, conn, identity: Value| -> mlua::Result<Answer> {
        const NAME: &str = "conn:identify(identity)";
        of.running(NAME)?;
        let identity = identity_of(NAME, &identity)?;
        if let Some(user) = conn.0.user().filter(|user| **user != identity.id) {
            let (is, other) = (user.escape_debug(), identity.id.escape_debug());
            return Err(args::mistake(NAME, &format!("the connection is \"{is}\" and stays so, got \"{other}\"")));
        }
        Ok(answer(of.context.hub.identify(&conn.0, identity)))
    });
    conn.add_method("can", |_, conn, (action, resource): (Value, Value)| {
        const NAME: &str = "conn:can(action, resource)";
        let action = args::string(NAME, "action", &action)?;
        let resource = args::string(NAME, "resource", &resource)?;
        if action.as_bytes().is_empty() {
            return Err(args::mistake(NAME, "action must not be empty"));
        }
        let Some(resource) = name_of(&resource).ok().filter(|name| name::is_exact(name.as_bytes())) else {
            return Ok((false, Why::BadName.as_str().to_owned()));
        };
        let reason = conn.0.permissions().decide(&action.to_string_lossy(), &resource);
        Ok((reason.permits(), reason.to_string()))
    });
    conn.add_method("buffered", |_, conn, ()| Ok(conn.0.outbox.buffered()));
}

/// The name of a room, which must be UTF-8: two names that differ are two rooms.
pub fn name_of(name: &LuaString) -> Result<String, Why> {
    name.to_str().map(|name| name.to_owned()).map_err(|_| Why::BadName)
}

/// To everyone in the room but the connection itself. One that is gone publishes nothing.
fn publish(host: &Host, conn: &Conn, room: &LuaString, data: &[u8], mut options: PublishOptions) -> Answer {
    options.except.push(conn.id);
    let hub = &host.context.hub;
    answer(name_of(room).and_then(|room| hub.publish_of(conn, &room, data, options.binary, &options.except)))
}

/// A table with a string `id`, or just that string.
fn identity_of(function: &str, identity: &Value) -> mlua::Result<Identity> {
    let read = match identity {
        Value::String(id) => Identity::of(&id.as_bytes()),
        Value::Table(_) => {
            plain::to_plain(identity, "identity").map_err(|problem| problem.to_string()).and_then(Identity::read)
        }
        other => return Err(args::wrong(function, "identity", "a table with a string `id`, or that string", other)),
    };
    read.map_err(|why| args::mistake(function, &why))
}

/// A peer would close the connection for a text message that is not UTF-8: better that the script hears of it.
pub fn sendable(function: &str, data: &LuaString, binary: bool) -> mlua::Result<()> {
    if binary || std::str::from_utf8(&data.as_bytes()).is_ok() {
        return Ok(());
    }
    Err(args::mistake(
        function,
        "data is not UTF-8, which a text message must be; give { binary = true } to send bytes",
    ))
}

pub fn owned((done, why): Answer) -> (bool, Option<String>) {
    (done, why.map(str::to_owned))
}

/// `{ binary=, droppable= }`, or just the boolean `binary`.
#[derive(Default)]
pub struct SendOptions {
    pub binary: bool,
    pub droppable: bool,
}

impl SendOptions {
    pub fn read(function: &str, value: &Value) -> mlua::Result<SendOptions> {
        let Some(table) = options_or_binary(function, value, &["binary", "droppable"])? else {
            return Ok(SendOptions { binary: value.as_boolean().unwrap_or(false), droppable: false });
        };
        Ok(SendOptions { binary: flag(function, &table, "binary")?, droppable: flag(function, &table, "droppable")? })
    }
}

/// `{ binary=, except= }`, or just the boolean `binary`.
#[derive(Default)]
pub struct PublishOptions {
    pub binary: bool,
    pub except: Vec<ConnectionId>,
}

impl PublishOptions {
    pub fn read(host: &Host, function: &str, value: &Value) -> mlua::Result<PublishOptions> {
        let Some(table) = options_or_binary(function, value, &["binary", "except"])? else {
            return Ok(PublishOptions { binary: value.as_boolean().unwrap_or(false), except: Vec::new() });
        };
        let mut except = Vec::new();
        match table.raw_get::<Value>("except")? {
            Value::Nil => {}
            Value::Table(list) => {
                for entry in list.sequence_values::<Value>() {
                    except.extend(connection_id(host, function, &entry?)?);
                }
            }
            one => except.extend(connection_id(host, function, &one)?),
        }
        Ok(PublishOptions { binary: flag(function, &table, "binary")?, except })
    }
}

fn options_or_binary(function: &str, value: &Value, known: &[&str]) -> mlua::Result<Option<Table>> {
    match value {
        Value::Boolean(_) => Ok(None),
        value => args::options(function, value, known),
    }
}

fn flag(function: &str, options: &Table, name: &str) -> mlua::Result<bool> {
    match options.raw_get::<Value>(name)? {
        Value::Nil => Ok(false),
        Value::Boolean(flag) => Ok(flag),
        other => Err(args::wrong(function, name, "a boolean", &other)),
    }
}

/// The id of a conn, or of the text of an id; None for an id that is not of this app.
fn connection_id(host: &Host, function: &str, value: &Value) -> mlua::Result<Option<ConnectionId>> {
    match value {
        Value::UserData(userdata) if userdata.is::<ConnRef>() => Ok(Some(userdata.borrow::<ConnRef>()?.0.id)),
        Value::UserData(userdata) if userdata.is::<ElsewhereRef>() => Ok(Some(userdata.borrow::<ElsewhereRef>()?.id)),
        Value::String(text) => Ok(host.context.hub.find_id(&text.to_string_lossy()).map(|(id, _)| id)),
        other => Err(args::wrong(function, "except", "a conn, an id or a list of them", other)),
    }
}

/// The code and reason of a close: 1000 and "" unless given.
pub fn close_arguments(function: &str, code: &Value, reason: &Value) -> mlua::Result<(u16, String)> {
    let code = match code {
        Value::Nil => wire::NORMAL,
        code => {
            let number = args::number(function, "code", code)?;
            let code = if (0.0..=65_535.0).contains(&number) && number.fract() == 0.0 { number as u16 } else { 0 };
            if !wire::is_sendable_close_code(code) {
                return Err(args::mistake(
                    function,
                    &format!(
                        "code {number} cannot be sent; take 1000, 1001, 1003, 1007 to 1009, 1011 to 1013, or one of 3000 to 4999"
                    ),
                ));
            }
            code
        }
    };
    let reason = match reason {
        Value::Nil => String::new(),
        reason => {
            let reason = args::string(function, "reason", reason)?;
            let text = reason.to_str().map_err(|_| args::mistake(function, "reason must be text in UTF-8"))?;
            if text.len() > wire::CLOSE_REASON_BYTES_MAX {
                return Err(args::mistake(function, &format!("reason must be at most 123 bytes, got {}", text.len())));
            }
            text.to_owned()
        }
    };
    Ok((code, reason))
}

/// A connection of another instance: what is sent to it is handed over.
pub struct ElsewhereRef {
    pub id: ConnectionId,
    pub place: u16,
    pub text: String,
}

pub fn register_elsewhere(lua: &Lua, host: &Rc<Host>) -> mlua::Result<()> {
    lua.register_userdata_type::<ElsewhereRef>(|conn| {
        conn.add_meta_field("__type", "conn");
        conn.add_field_method_get("id", |_, conn| Ok(conn.text.clone()));
        let of = host.clone();
        conn.add_method("send", move |_, conn, (data, options): (Value, Value)| {
            of.running("conn:send(data)")?;
            let data = args::string("conn:send(data)", "data", &data)?;
            let options = SendOptions::read("conn:send(data, options)", &options)?;
            sendable("conn:send(data)", &data, options.binary)?;
            Ok(answer(of.context.hub.send_elsewhere(
                conn.id,
                conn.place,
                &data.as_bytes(),
                options.binary,
                options.droppable,
            )))
        });
        let of = host.clone();
        conn.add_method("send_json", move |_, conn, (value, options): (Value, Value)| {
            of.running("conn:send_json(value)")?;
            let options = SendOptions::read("conn:send_json(value, options)", &options)?;
            let text = match json_text(&of.context, &value)? {
                Ok(text) => text,
                Err(why) => return Ok((false, Some(why))),
            };
            Ok(owned(answer(of.context.hub.send_elsewhere(
                conn.id,
                conn.place,
                &text,
                options.binary,
                options.droppable,
            ))))
        });
        let of = host.clone();
        conn.add_method("close", move |_, conn, (code, reason): (Value, Value)| {
            of.running("conn:close(code, reason)")?;
            let (code, reason) = close_arguments("conn:close(code, reason)", &code, &reason)?;
            of.context.hub.close_elsewhere(conn.id, conn.place, code, &reason);
            Ok(())
        });
    })
}
