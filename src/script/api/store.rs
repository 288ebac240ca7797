//! `relay.store`: what the scripts of an app keep on disk. Its calls wait.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, hash_map::Entry},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use mlua::{Function, IntoLuaMulti, Lua, Result, Table, Value};

use crate::{
    plain::{Plain, PlainTable},
    script::{
        args,
        host::Host,
        plain::{from_plain, to_plain},
        tasks::Waited,
    },
    store::{Asking, Held, KEY_MAX, Range, Store, Why, encode},
};

/// Entries of a list, if the script does not say, and at most.
const LIST: i64 = 100;
const LIST_MAX: i64 = 1_000;

/// The keys that updates of this generation hold.
#[derive(Default)]
struct Turns {
    held: RefCell<HashMap<u32, Held>>,
    last: Cell<u32>,
}

impl Turns {
    fn put(&self, held: Held) -> Plain {
        let mut all = self.held.borrow_mut();
        loop {
            self.last.set(self.last.get().wrapping_add(1));
            if let Entry::Vacant(free) = all.entry(self.last.get()) {
                free.insert(held);
                return Plain::Number(f64::from(self.last.get()));
            }
        }
    }
}

pub fn register(lua: &Lua, relay: &Table, host: &Rc<Host>, waits: &Function, update: &Function) -> Result<()> {
    let store = lua.create_table()?;
    let disk = host.context.stores.disk.clone();
    let asking = asking(host);

    let (of, to, ask) = (host.clone(), disk.clone(), asking.clone());
    let begin = lua.create_function(move |_, key: Value| {
        const NAME: &str = "relay.store.get(key)";
        of.running(NAME)?;
        let (key, ask, to) = (key_of(NAME, &key)?, ask(), to.clone());
        of.wait(async move { answer(to.get(ask, key).await.map(|value| value.unwrap_or(Plain::Nil)), Plain::Nil) })?;
        Ok(false)
    })?;
    store.set("get", waits.call::<Function>(("relay.store.get", begin))?)?;

    let (of, to, ask) = (host.clone(), disk.clone(), asking.clone());
    let begin = lua.create_function(move |lua, (key, value, options): (Value, Value, Value)| {
        const NAME: &str = "relay.store.set(key, value, options)";
        of.running(NAME)?;
        let options = SetOptions::read(NAME, &options, &["ttl", "if_absent"])?;
        let (key, value, ask, to) = (key_of(NAME, &key)?, value_of(NAME, &value)?, ask(), to.clone());
        let expires = options.expires(ask.now);
        let value = match encoded(&of, &value) {
            Ok(value) => value,
            Err(why) => return (true, false, why.to_string()).into_lua_multi(lua),
        };
        of.wait(async move {
            let set = to.set(ask, key, value, expires, options.if_absent).await;
            answer(set.map(Plain::Bool), Plain::Bool(false))
        })?;
        false.into_lua_multi(lua)
    })?;
    store.set("set", waits.call::<Function>(("relay.store.set", begin))?)?;

    let (of, to, ask) = (host.clone(), disk.clone(), asking.clone());
    let begin = lua.create_function(move |_, key: Value| {
        const NAME: &str = "relay.store.delete(key)";
        of.running(NAME)?;
        let (key, ask, to) = (key_of(NAME, &key)?, ask(), to.clone());
        of.wait(async move { answer(to.delete(ask, key).await.map(Plain::Bool), Plain::Bool(false)) })?;
        Ok(false)
    })?;
    store.set("delete", waits.call::<Function>(("relay.store.delete", begin))?)?;

    let (of, to, ask) = (host.clone(), disk.clone(), asking.clone());
    let begin = lua.create_function(move |_, options: Value| {
        const NAME: &str = "relay.store.list(options)";
        of.running(NAME)?;
        let (range, ask, to) = (range_of(NAME, &options)?, ask(), to.clone());
        let bytes_max = of.context.app.limits.store_page;
        of.wait(async move { answer(to.list(ask, range, bytes_max).await.map(list), Plain::Nil) })?;
        Ok(false)
    })?;
    store.set("list", waits.call::<Function>(("relay.store.list", begin))?)?;

    let (of, to, ask) = (host.clone(), disk.clone(), asking.clone());
    let begin = lua.create_function(move |_, (key, by, options): (Value, Value, Value)| {
        const NAME: &str = "relay.store.incr(key, n, options)";
        of.running(NAME)?;
        let options = SetOptions::read(NAME, &options, &["ttl"])?;
        let (key, by, ask, to) = (key_of(NAME, &key)?, step_of(NAME, &by)?, ask(), to.clone());
        let expires = options.expires(ask.now);
        of.wait(async move { answer(to.incr(ask, key, by, expires).await.map(Plain::Number), Plain::Nil) })?;
        Ok(false)
    })?;
    store.set("incr", waits.call::<Function>(("relay.store.incr", begin))?)?;

    store.set("update", update_function(lua, host, &disk, asking, update)?)?;
    relay.set("store", store)
}

/// `begin` waits for the key's turn and gives a token for it; `write` computes with it and waits for the disk. A key is given
/// back when its `Held` is dropped: by an error in the script, with the wait, or with the generation.
fn update_function(
    lua: &Lua,
    host: &Rc<Host>,
    disk: &Arc<Store>,
    asking: impl Fn() -> Asking + Clone + 'static,
    update: &Function,
) -> Result<Function> {
    const NAME: &str = "relay.store.update(key, fn, options)";
    let turns = Rc::new(Turns::default());

    let (of, to, ask, all) = (host.clone(), disk.clone(), asking.clone(), turns.clone());
    let begin = lua.create_function(move |_, (key, compute, options): (Value, Value, Value)| {
        of.running(NAME)?;
        SetOptions::read(NAME, &options, &["ttl"])?;
        let Value::Function(_) = compute else { return Err(args::wrong(NAME, "fn", "a function", &compute)) };
        let (key, ask, to, all) = (key_of(NAME, &key)?, ask(), to.clone(), all.clone());
        of.wait(async move { answer(to.hold(ask, key).await.map(|held| all.put(held)), Plain::Nil) })?;
        Ok(false)
    })?;

    let (of, to, ask, all) = (host.clone(), disk.clone(), asking, turns);
    let write = lua.create_function(move |lua, (token, compute, options): (u32, Function, Value)| {
        let Some(held) = all.held.borrow_mut().remove(&token) else {
            return Err(args::mistake(NAME, "its turn is over"));
        };
        let (ask, to, all) = (ask(), to.clone(), all.clone());
        let expires = SetOptions::read(NAME, &options, &["ttl"])?.expires(ask.now);
        let value = match held.value() {
            Ok(value) => from_plain(lua, &value)?,
            Err(why) => {
                to.complain(held.app(), &why);
                return (true, false, Value::Nil, why.to_string()).into_lua_multi(lua);
            }
        };
        let computed = compute.call::<Value>(value)?;
        let new = to_plain(&computed, "the value").map_err(|problem| args::mistake(NAME, &problem.to_string()))?;
        let bytes = match new {
            Plain::Nil => None,
            _ => match encoded(&of, &new) {
                Ok(bytes) => Some(bytes),
                Err(why) => return (true, false, Value::Nil, why.to_string()).into_lua_multi(lua),
            },
        };
        of.wait(async move {
            match to.finish(ask, held, bytes, expires).await {
                Ok(None) => Waited::Return(vec![Plain::Bool(false), new]),
                Ok(Some(again)) => Waited::Return(vec![all.put(again)]),
                Err(why) => Waited::Return(vec![Plain::Bool(false), Plain::Nil, Plain::string(why.to_string())]),
            }
        })?;
        false.into_lua_multi(lua)
    })?;
    update.call(("relay.store.update", begin, write))
}

/// Who asks, and at what time.
fn asking(host: &Rc<Host>) -> impl Fn() -> Asking + Clone + 'static {
    let (context, app) = (host.context.clone(), Arc::<str>::from(host.context.app.name.as_str()));
    move || Asking { app: app.clone(), now: now(context.clock.unix()), queue: context.app.limits.store_queue }
}

pub(super) fn now(unix: Duration) -> i64 {
    i64::try_from(unix.as_millis()).unwrap_or(i64::MAX)
}

/// `value`, or `failed, why`.
fn answer(result: std::result::Result<Plain, Why>, failed: Plain) -> Waited {
    Waited::Return(match result {
        Ok(value) => vec![value],
        Err(why) => vec![failed, Plain::string(why.to_string())],
    })
}

fn encoded(host: &Host, value: &Plain) -> std::result::Result<Vec<u8>, Why> {
    let max = host.context.app.limits.store_value;
    let bytes = encode(value);
    if bytes.len() > max { Err(Why::Value) } else { Ok(bytes) }
}

fn list(pairs: Vec<(Vec<u8>, Plain)>) -> Plain {
    Plain::Table(Box::new(PlainTable {
        array: pairs.into_iter().map(|(key, value)| row(Plain::string(key), value)).collect(),
        ..PlainTable::default()
    }))
}

pub(super) fn row(key: Plain, value: Plain) -> Plain {
    let pairs = vec![(Plain::string("key"), key), (Plain::string("value"), value)];
    Plain::Table(Box::new(PlainTable { pairs, ..PlainTable::default() }))
}

// ── arguments, which relay.shared has too ──

pub(super) fn key_of(function: &str, key: &Value) -> Result<Box<[u8]>> {
    let key = args::string(function, "key", key)?;
    match key.as_bytes().len() {
        0 => Err(args::mistake(function, "key must not be empty")),
        1..=KEY_MAX => Ok((*key.as_bytes()).into()),
        length => Err(args::mistake(function, &format!("key must have at most {KEY_MAX} bytes, got {length}"))),
    }
}

pub(super) fn value_of(function: &str, value: &Value) -> Result<Plain> {
    if value.is_nil() {
        return Err(args::mistake(function, "value must not be nil; delete(key) removes a key"));
    }
    to_plain(value, "value").map_err(|problem| args::mistake(function, &problem.to_string()))
}

/// The `n` of `incr`.
pub(super) fn step_of(function: &str, by: &Value) -> Result<f64> {
    if by.is_nil() { Ok(1.0) } else { args::number(function, "n", by) }
}

pub(super) fn range_of(function: &str, options: &Value) -> Result<Range> {
    let mut range = Range { limit: LIST as usize, ..Range::default() };
    let Some(options) = args::options(function, options, &["prefix", "after", "limit"])? else { return Ok(range) };
    let text = |name: &str| -> Result<Option<Vec<u8>>> {
        match options.raw_get::<Value>(name)? {
            Value::Nil => Ok(None),
            value => Ok(Some(args::string(function, name, &value)?.as_bytes().to_vec())),
        }
    };
    range.prefix = text("prefix")?.unwrap_or_default();
    range.after = text("after")?;
    let limit: Value = options.raw_get("limit")?;
    if !limit.is_nil() {
        range.limit = args::integer(function, "limit", &limit, 1, LIST_MAX)? as usize;
    }
    Ok(range)
}

#[derive(Default)]
pub(super) struct SetOptions {
    ttl: Option<Duration>,
    pub if_absent: bool,
}

impl SetOptions {
    pub fn read(function: &str, options: &Value, known: &[&str]) -> Result<SetOptions> {
        let Some(options) = args::options(function, options, known)? else { return Ok(SetOptions::default()) };
        let ttl = match options.raw_get::<Value>("ttl")? {
            Value::Nil => None,
            value => Some(args::duration(function, "ttl", &value)?),
        };
        if ttl.is_some_and(|ttl| ttl.as_millis() == 0) {
            return Err(args::mistake(function, "ttl must be at least a millisecond"));
        }
        Ok(SetOptions { ttl, if_absent: args::flag(function, "if_absent", &options.raw_get("if_absent")?)? })
    }

    /// In milliseconds since 1970.
    pub fn expires(&self, at: i64) -> Option<i64> {
        self.ttl.map(|ttl| at.saturating_add(now(ttl)))
    }
}
