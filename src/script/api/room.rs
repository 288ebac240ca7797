//! `relay.room(name)`: a room over all instances of the app.

use std::rc::Rc;

use mlua::{Lua, Table, UserDataFields, UserDataMethods, Value};

use crate::script::{
    api::conn::{PublishOptions, close_arguments, name_of, owned, sendable},
    args,
    host::{Host, answer, json_text},
};

struct RoomRef(Box<str>);

pub fn register(lua: &Lua, relay: &Table, host: &Rc<Host>, waits: &mlua::Function) -> mlua::Result<()> {
    let of = host.clone();
    let begin = lua.create_function(move |_, (room, code, reason): (Value, Value, Value)| {
        const NAME: &str = "room:disconnect(code, reason)";
        of.running(NAME)?;
        let Value::UserData(room) = &room else { return Err(args::wrong(NAME, "room", "a room", &room)) };
        let (code, reason) = close_arguments(NAME, &code, &reason)?;
        let name = room.borrow::<RoomRef>()?.0.clone();
        let done = of.wait_applied(of.context.hub.room_disconnect(&name, code, &reason))?;
        Ok((done, done))
    })?;
    let disconnect: mlua::Function = waits.call(("room:disconnect", begin))?;
    lua.register_userdata_type::<RoomRef>(|room| {
        room.add_meta_field("__type", "room");
        room.add_field_method_get("name", |lua, room| lua.create_string(room.0.as_bytes()));
        let of = host.clone();
        room.add_method("publish", move |_, room, (data, options): (Value, Value)| {
            of.running("room:publish(data)")?;
            let data = args::string("room:publish(data)", "data", &data)?;
            let options = PublishOptions::read(&of, "room:publish(data, options)", &options)?;
            sendable("room:publish(data)", &data, options.binary)?;
            Ok(answer(of.context.hub.publish(&room.0, &data.as_bytes(), options.binary, &options.except)))
        });
        let of = host.clone();
        room.add_method("publish_json", move |_, room, (value, options): (Value, Value)| {
            of.running("room:publish_json(value)")?;
            let options = PublishOptions::read(&of, "room:publish_json(value, options)", &options)?;
            let text = match json_text(&of.context, &value)? {
                Ok(text) => text,
                Err(why) => return Ok((false, Some(why))),
            };
            Ok(owned(answer(of.context.hub.publish(&room.0, &text, options.binary, &options.except))))
        });
        let of = host.clone();
        room.add_method("count", move |_, room, ()| Ok(of.context.hub.room_count(&room.0)));
        let of = host.clone();
        room.add_method("members", move |lua, room, ()| {
            let members = lua.create_table()?;
            for (place, conn) in of.context.hub.members(&room.0).iter().enumerate() {
                members.raw_set(place + 1, of.conn(lua, conn)?)?;
            }
            Ok(members)
        });
        room.add_field("disconnect", disconnect);
    })?;
    relay.set(
        "room",
        lua.create_function(|lua, name: Value| {
            let name = args::string("relay.room(name)", "name", &name)?;
            if name.as_bytes().is_empty() {
                return Err(args::mistake("relay.room(name)", "name must not be empty"));
            }
            // A name that is not UTF-8 names no room: what is done with it is a bad name too.
            lua.create_any_userdata(RoomRef(name_of(&name).unwrap_or_default().into()))
        })?,
    )
}
