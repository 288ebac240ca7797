//! `relay.user(id)`: all connections of one user, over all instances of the app.

use std::{cell::RefCell, rc::Rc};

use mlua::{Function, IntoLuaMulti, Lua, Table, UserDataMethods, UserDataRef, Value};

use crate::{
    hub::{Change, Computed, Hub, Turn},
    permission::{self, Rules},
    plain::Plain,
    script::{
        api::{
            Waiting,
            conn::{SendOptions, close_arguments, name_of, owned, sendable},
        },
        args,
        host::{Host, answer, json_text},
        plain::to_plain,
        tasks::Waited,
    },
};

struct UserRef(Box<str>);

fn id_of(function: &str, user: &Value) -> mlua::Result<Box<str>> {
    match user {
        Value::UserData(userdata) if userdata.is::<UserRef>() => Ok(userdata.borrow::<UserRef>()?.0.clone()),
        other => Err(args::wrong(function, "user", "what relay.user gave (call it with a colon)", other)),
    }
}

pub fn register(lua: &Lua, relay: &Table, host: &Rc<Host>, waiting: &Waiting) -> mlua::Result<()> {
    let waits = &waiting.waits;
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
    let set_allow = changes_rules(lua, host, waits, "set_allow", Change::Allow)?;
    let set_deny = changes_rules(lua, host, waits, "set_deny", Change::Deny)?;
    let update_allow = update_allow(lua, host, waits, &waiting.rounds)?;
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
        user.add_field("set_allow", set_allow);
        user.add_field("set_deny", set_deny);
        user.add_field("update_allow", update_allow);
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

/// A list of rules as a script gave it; one that cannot be read is its mistake.
fn rules_of(function: &str, list: &Value) -> mlua::Result<Rules> {
    let Value::Table(_) = list else {
        return Err(args::wrong(function, "list", "a list of rules such as \"join room.*\"", list));
    };
    let list = to_plain(list, "list").map_err(|problem| args::mistake(function, &problem.to_string()))?;
    permission::rules(&list).map_err(|why| args::mistake(function, &format!("list: {why}")))
}

/// `user:set_allow(list)` and `user:set_deny(list)`.
fn changes_rules(
    lua: &Lua,
    host: &Rc<Host>,
    waits: &Function,
    name: &str,
    change: fn(Rules) -> Change,
) -> mlua::Result<Function> {
    let (of, function) = (host.clone(), format!("user:{name}(list)"));
    let begin = lua.create_function(move |_, (user, list): (Value, Value)| {
        of.running(&function)?;
        let user = id_of(&function, &user)?;
        let change = change(rules_of(&function, &list)?);
        let hub = of.context.hub.clone();
        let turn = hub.turn(&user);
        of.wait(async move {
            let _turn = turn.await;
            hub.change_rules(&user, change).wait().await;
            Waited::Return(vec![Plain::Bool(true)])
        })?;
        Ok(false)
    })?;
    waits.call((format!("user:{name}"), begin))
}

/// `user:update_allow(fn)`: rounds of asking for lists and computing new ones, until no connection has one that `fn` has
/// not seen. The prelude calls `fn` in between.
fn update_allow(lua: &Lua, host: &Rc<Host>, waits: &Function, rounds: &Function) -> mlua::Result<Function> {
    const NAME: &str = "user:update_allow(fn)";
    let of = host.clone();
    let begin = lua.create_function(move |_, (user, compute): (Value, Value)| {
        of.running(NAME)?;
        let user = id_of(NAME, &user)?;
        let Value::Function(_) = compute else { return Err(args::wrong(NAME, "fn", "a function", &compute)) };
        let hub = of.context.hub.clone();
        let turn = hub.turn(&user);
        of.wait(async move {
            let turn = RefCell::new(Some(turn.await));
            let going_on = GoingOn { change: hub.new_change(), user, hub, turn };
            Waited::Make(Box::new(move |lua| lua.create_any_userdata(going_on)?.into_lua_multi(lua)))
        })?;
        Ok(false)
    })?;
    let begin: Function = waits.call(("user:update_allow", begin))?;
    let of = host.clone();
    let round = lua.create_function(move |lua, (change, computed): (UserDataRef<GoingOn>, Table)| {
        let computed = computed_of(NAME, &computed)?;
        let (unknown, answers) = of.context.hub.replace_allow(&change.user, change.change, computed);
        if answers.is_done() {
            return Ok((true, Value::Table(shown(lua, &unknown)?)));
        }
        of.wait(async move {
            let unknown = answers.add_to(unknown).await;
            Waited::Make(Box::new(move |lua| shown(lua, &unknown)?.into_lua_multi(lua)))
        })?;
        Ok((false, Value::Nil))
    })?;
    let end = lua.create_function(|_, change: UserDataRef<GoingOn>| {
        change.end();
        Ok(())
    })?;
    rounds.call(("user:update_allow", begin, round, end))
}

/// A change that is being computed. It ends at the latest when nobody holds it any more: `fn` may raise.
struct GoingOn {
    change: u64,
    user: Box<str>,
    hub: Rc<Hub>,
    /// None once it has ended.
    turn: RefCell<Option<Turn>>,
}

impl GoingOn {
    fn end(&self) {
        if self.turn.take().is_some() {
            self.hub.end_change(&self.user, self.change);
        }
    }
}

impl Drop for GoingOn {
    fn drop(&mut self) {
        self.end();
    }
}

/// Lists of rules as a script sees them; `false` where there is none.
fn shown(lua: &Lua, lists: &[Option<Rules>]) -> mlua::Result<Table> {
    let list = |rules: &Rules| lua.create_sequence_from(rules.iter().map(ToString::to_string)).map(Value::Table);
    let lists = lists.iter().map(|rules| rules.as_ref().map_or(Ok(Value::Boolean(false)), list));
    lua.create_sequence_from(lists.collect::<mlua::Result<Vec<_>>>()?)
}

/// Pairs of what was shown and what the script has made of it.
fn computed_of(function: &str, pairs: &Table) -> mlua::Result<Computed> {
    let pair = |pair: mlua::Result<Table>| {
        let pair = pair?;
        let before = match pair.raw_get::<Value>(1)? {
            Value::Boolean(_) => None,
            before => Some(rules_of(function, &before)?),
        };
        Ok((before, rules_of(function, &pair.raw_get(2)?)?))
    };
    pairs.sequence_values::<Table>().map(pair).collect()
}
