//! `relay.user(id)`: all connections of one user, over all instances of the app.

use std::rc::Rc;

use mlua::{Function, Lua, Table, UserDataMethods, Value};

use crate::script::{
    api::conn::{SendOptions, close_arguments, name_of, owned, sendable},
    args,
    host::{Host, answer, json_text},
};

struct UserRef(Box<str>);

fn id_of(function: &str, user: &Value) -> mlua::Result<Box<str>> {
    match user {
        Value::UserData(userdata) if userdata.is::<UserRef>() => Ok(userdata.borrow::<UserRef>()?.0.clone()),
        other => Err(args::wrong(function, "user", "what relay.user gave (call it with a colon)", other)),
    }
}

pub fn register(lua: &Lua, relay: &Table, host: &Rc<Host>, waits: &Function) -> mlua::Result<()> {
    let of = host.clone();
    let begin = lua.create_function(move |_, (user, room, options): (Value, Value, Value)| {
        const NAME: &str = "user:join(room)";
        of.running(NAME)?;
        let user = id_of(NAME, &user)?;
        let room = args::string(NAME, "room", &room)?;
        args::options("user:join(room, options)", &options, &[])?;
        match name_of(&room).and_then(|room| of.context.hub.user_join(&user, &room)) {
            Ok(applied) => {
                let done = of.wait_applied(applied)?;
                Ok((done, done, None))
            }
            Err(why) => Ok((true, false, Some(why.as_str()))),
        }
    })?;
    let join: Function = waits.call(("user:join", begin))?;
    let of = host.clone();
    let begin = lua.create_function(move |_, (user, room): (Value, Value)| {
        const NAME: &str = "user:leave(room)";
        of.running(NAME)?;
        let user = id_of(NAME, &user)?;
        let room = args::string(NAME, "room", &room)?;
        let done = of.wait_applied(of.context.hub.user_leave(&user, &name_of(&room).unwrap_or_default()))?;
        Ok((done, done))
    })?;
    let leave: Function = waits.call(("user:leave", begin))?;
    let of = host.clone();
    let begin = lua.create_function(move |_, (user, code, reason): (Value, Value, Value)| {
        const NAME: &str = "user:disconnect(code, reason)";
        of.running(NAME)?;
        let user = id_of(NAME, &user)?;
        let (code, reason) = close_arguments(NAME, &code, &reason)?;
        let done = of.wait_applied(of.context.hub.user_disconnect(&user, code, &reason))?;
        Ok((done, done))
    })?;
    let disconnect: Function = waits.call(("user:disconnect", begin))?;
    lua.register_userdata_type::<UserRef>(|user| {
        use mlua::UserDataFields;
        user.add_meta_field("__type", "user");
        user.add_field_method_get("id", |lua, user| lua.create_string(user.0.as_bytes()));
        let of = host.clone();
        user.add_method("send", move |_, user, (data, options): (Value, Value)| {
            of.running("user:send(data)")?;
            let data = args::string("user:send(data)", "data", &data)?;
            let options = SendOptions::read("user:send(data, options)", &options)?;
            sendable("user:send(data)", &data, options.binary)?;
            Ok(answer(of.context.hub.user_send(&user.0, &data.as_bytes(), options.binary, options.droppable)))
        });
        let of = host.clone();
        user.add_method("send_json", move |_, user, (value, options): (Value, Value)| {
            of.running("user:send_json(value)")?;
            let options = SendOptions::read("user:send_json(value, options)", &options)?;
            let text = match json_text(&of.context, &value)? {
                Ok(text) => text,
                Err(why) => return Ok((false, Some(why))),
            };
            Ok(owned(answer(of.context.hub.user_send(&user.0, &text, options.binary, options.droppable))))
        });
        let of = host.clone();
        user.add_method("connections", move |lua, user, ()| {
            let list = lua.create_table()?;
            for (place, conn) in of.context.hub.user_conns(&user.0).iter().enumerate() {
                list.raw_set(place + 1, of.conn(lua, conn)?)?;
            }
            Ok(list)
        });
        let of = host.clone();
        user.add_method("online", move |_, user, ()| Ok(of.context.hub.is_online(&user.0)));
        user.add_field("join", join);
        user.add_field("leave", leave);
        user.add_field("disconnect", disconnect);
    })?;
    relay.set(
        "user",
        lua.create_function(|lua, id: Value| {
            let id = args::string("relay.user(id)", "id", &id)?;
            if id.as_bytes().is_empty() {
                return Err(args::mistake("relay.user(id)", "id must not be empty"));
            }
            lua.create_any_userdata(UserRef(id.to_string_lossy().into()))
        })?,
    )
}
