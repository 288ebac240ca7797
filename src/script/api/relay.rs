//! `relay` itself: finding connections, speaking to all of them, events, and refusals.

use std::rc::Rc;

use mlua::{Lua, Table, Value};

use crate::script::{
    api::conn::{ElsewhereRef, owned, sendable},
    args,
    host::{Host, answer, json_text},
    plain,
};

/// What `relay.refuse` returns; `authenticate` hands it to the host.
pub struct Refusal {
    pub code: u16,
    pub reason: String,
}

pub fn register(lua: &Lua, relay: &Table, host: &Rc<Host>) -> mlua::Result<()> {
    relay.set("app", host.context.app.name.as_str())?;
    relay.set("generation", host.context.generation)?;
    let instance = lua.create_table()?;
    instance.set("index", host.context.place + 1)?;
    instance.set("count", host.context.instances)?;
    instance.set_readonly(true);
    relay.set("instance", instance)?;
    finding(lua, relay, host)?;
    speaking(lua, relay, host)?;
    relay.set("refuse", lua.create_function(|lua, (code, reason): (Value, Value)| refuse(lua, &code, &reason))?)
}

fn finding(lua: &Lua, relay: &Table, host: &Rc<Host>) -> mlua::Result<()> {
    let of = host.clone();
    relay.set(
        "conn",
        lua.create_function(move |lua, id: Value| {
            let text = args::string("relay.conn(id)", "id", &id)?.to_string_lossy();
            let Some((id, place)) = of.context.hub.find_id(&text) else { return Ok(Value::Nil) };
            if place != of.context.place {
                return lua.create_any_userdata(ElsewhereRef { id, place, text }).map(Value::UserData);
            }
            match of.context.hub.conn(id) {
                Some(conn) => of.conn(lua, &conn).map(Value::UserData),
                None => Ok(Value::Nil),
            }
        })?,
    )?;
    let of = host.clone();
    relay.set(
        "connections",
        lua.create_function(move |lua, ()| {
            let list = lua.create_table()?;
            for (place, conn) in of.context.hub.conns().iter().enumerate() {
                list.raw_set(place + 1, of.conn(lua, conn)?)?;
            }
            Ok(list)
        })?,
    )?;
    let of = host.clone();
    relay.set("count", lua.create_function(move |_, ()| Ok(of.context.hub.count()))?)
}

fn speaking(lua: &Lua, relay: &Table, host: &Rc<Host>) -> mlua::Result<()> {
    let of = host.clone();
    relay.set(
        "broadcast",
        lua.create_function(move |_, (data, options): (Value, Value)| {
            of.running("relay.broadcast(data)")?;
            let data = args::string("relay.broadcast(data)", "data", &data)?;
            let options = super::conn::PublishOptions::read(&of, "relay.broadcast(data, options)", &options)?;
            sendable("relay.broadcast(data)", &data, options.binary)?;
            Ok(answer(of.context.hub.broadcast(&data.as_bytes(), options.binary, &options.except)))
        })?,
    )?;
    let of = host.clone();
    relay.set(
        "broadcast_json",
        lua.create_function(move |_, (value, options): (Value, Value)| {
            of.running("relay.broadcast_json(value)")?;
            let options = super::conn::PublishOptions::read(&of, "relay.broadcast_json(value, options)", &options)?;
            let text = match json_text(&of.context, &value)? {
                Ok(text) => text,
                Err(why) => return Ok((false, Some(why))),
            };
            Ok(owned(answer(of.context.hub.broadcast(&text, options.binary, &options.except))))
        })?,
    )?;
    let of = host.clone();
    relay.set(
        "emit",
        lua.create_function(move |_, (name, data, options): (Value, Value, Value)| {
            const NAME: &str = "relay.emit(name, data, options)";
            of.running(NAME)?;
            let name = args::string(NAME, "name", &name)?.to_string_lossy();
            if name.is_empty() {
                return Err(args::mistake(NAME, "name must not be empty"));
            }
            let to_all_apps = match args::options(NAME, &options, &["app"])? {
                None => false,
                Some(options) => match options.raw_get::<Value>("app")? {
                    Value::Nil => false,
                    Value::String(app) if app.as_bytes() == b"*" => true,
                    Value::String(app) if *app.as_bytes() == *of.context.app.name.as_bytes() => false,
                    other => return Err(args::wrong(NAME, "app", "\"*\" (all apps), or left out (this one)", &other)),
                },
            };
            let data = plain::to_plain(&data, "data").map_err(|error| args::mistake(NAME, &error.to_string()))?;
            Ok(answer(of.context.hub.emit(&name, data, to_all_apps)))
        })?,
    )
}

fn refuse(lua: &Lua, code: &Value, reason: &Value) -> mlua::Result<mlua::AnyUserData> {
    const NAME: &str = "relay.refuse(code, reason)";
    let number = args::number(NAME, "code", code)?;
    let code = if number.fract() == 0.0 && (0.0..=65_535.0).contains(&number) { number as u16 } else { 0 };
    if !matches!(code, 400..=599 | 1008 | 3000..=4999) {
        return Err(args::mistake(
            NAME,
            &format!("code must be an HTTP status of 400 to 599, or a close code: 1008, or 3000 to 4999; got {number}"),
        ));
    }
    let reason = match reason {
        Value::Nil => String::new(),
        reason => args::string(NAME, "reason", reason)?.to_string_lossy(),
    };
    lua.create_any_userdata(Refusal { code, reason })
}
