//! `relay.shared`: what the instances of an app share in memory. Its calls do not wait.

use std::rc::Rc;

use mlua::{IntoLuaMulti, Lua, Result, Table, Value};

use crate::{
    plain::Plain,
    script::{
        api::store::{SetOptions, key_of, now, range_of, step_of, value_of},
        args,
        host::Host,
        plain::{from_plain, to_plain},
    },
};

const FULL: &str = "limits.shared_memory";

pub fn register(lua: &Lua, relay: &Table, host: &Rc<Host>) -> Result<()> {
    let shared = lua.create_table()?;

    let of = host.clone();
    let get = move |lua: &Lua, key: Value| {
        const NAME: &str = "relay.shared.get(key)";
        of.running(NAME)?;
        match of.context.stores.shared.get(&key_of(NAME, &key)?, time(&of)) {
            Some(value) => from_plain(lua, &value),
            None => Ok(Value::Nil),
        }
    };
    shared.set("get", lua.create_function(get)?)?;

    let of = host.clone();
    let set = move |_: &Lua, (key, value, options): (Value, Value, Value)| {
        const NAME: &str = "relay.shared.set(key, value, options)";
        of.running(NAME)?;
        let options = SetOptions::read(NAME, &options, &["ttl", "if_absent"])?;
        let (key, value, now) = (key_of(NAME, &key)?, value_of(NAME, &value)?, time(&of));
        let (expires, max) = (options.expires(now), of.context.app.limits.shared_memory);
        match of.context.stores.shared.set(&key, value, expires, options.if_absent, now, max) {
            Ok(set) => Ok((set, None)),
            Err(_full) => Ok((false, Some(FULL))),
        }
    };
    shared.set("set", lua.create_function(set)?)?;

    let of = host.clone();
    let delete = move |_: &Lua, key: Value| {
        const NAME: &str = "relay.shared.delete(key)";
        of.running(NAME)?;
        Ok(of.context.stores.shared.delete(&key_of(NAME, &key)?, time(&of)))
    };
    shared.set("delete", lua.create_function(delete)?)?;

    let of = host.clone();
    let list = move |lua: &Lua, options: Value| {
        const NAME: &str = "relay.shared.list(options)";
        of.running(NAME)?;
        let entries = of.context.stores.shared.list(&range_of(NAME, &options)?, time(&of));
        let list = lua.create_table_with_capacity(entries.len(), 0)?;
        for (place, (key, value)) in entries.into_iter().enumerate() {
            let row = lua.create_table_with_capacity(0, 2)?;
            row.raw_set("key", lua.create_string(key)?)?;
            row.raw_set("value", from_plain(lua, &value)?)?;
            list.raw_set(place + 1, row)?;
        }
        Ok(list)
    };
    shared.set("list", lua.create_function(list)?)?;

    let of = host.clone();
    let incr = move |_: &Lua, (key, by, options): (Value, Value, Value)| {
        const NAME: &str = "relay.shared.incr(key, n, options)";
        of.running(NAME)?;
        let options = SetOptions::read(NAME, &options, &["ttl"])?;
        let (key, by, now) = (key_of(NAME, &key)?, step_of(NAME, &by)?, time(&of));
        let (expires, max) = (options.expires(now), of.context.app.limits.shared_memory);
        match of.context.stores.shared.incr(&key, by, expires, now, max) {
            Ok(Some(number)) => Ok((Some(number), None)),
            Ok(None) => Ok((None, Some("not_a_number"))),
            Err(_full) => Ok((None, Some(FULL))),
        }
    };
    shared.set("incr", lua.create_function(incr)?)?;

    let of = host.clone();
    let update = move |lua: &Lua, (key, compute, options): (Value, Value, Value)| {
        const NAME: &str = "relay.shared.update(key, fn, options)";
        of.running(NAME)?;
        let options = SetOptions::read(NAME, &options, &["ttl"])?;
        let key = key_of(NAME, &key)?;
        let Value::Function(compute) = compute else { return Err(args::wrong(NAME, "fn", "a function", &compute)) };
        let (shared, max) = (&of.context.stores.shared, of.context.app.limits.shared_memory);
        // Without a lock while the script computes; its CPU budget ends this too.
        loop {
            let now = time(&of);
            let seen = shared.see(&key, now);
            let value = match &seen.value {
                Some(value) => from_plain(lua, value)?,
                None => Value::Nil,
            };
            let computed = compute.call::<Value>(value)?;
            let new = to_plain(&computed, "the value").map_err(|problem| args::mistake(NAME, &problem.to_string()))?;
            let new = Some(new).filter(|new| *new != Plain::Nil);
            match shared.swap(&key, &seen, new, options.expires(now), now, max) {
                Ok(true) => return computed.into_lua_multi(lua),
                Ok(false) => {}
                Err(_full) => return (Value::Nil, FULL).into_lua_multi(lua),
            }
        }
    };
    shared.set("update", lua.create_function(update)?)?;
    relay.set("shared", shared)
}

fn time(host: &Host) -> i64 {
    now(host.context.clock.unix())
}
