//! What scripts find under `relay`: one file for each name, each with one `register`.

pub mod alarm;
pub mod base64;
pub mod carried;
pub mod conn;
pub mod crypto;
pub mod hex;
pub mod http;
pub mod json;
pub mod jwt;
pub mod log;
pub mod password;
pub mod rate;
pub mod relay;
pub mod request;
pub mod room;
pub mod settings;
pub mod shared;
pub mod store;
pub mod time;
pub mod token;
pub mod user;
pub mod wait;
pub mod ws;

pub use jwt::KeySets;
pub use password::PasswordPool;
pub use rate::RateTable;

use std::{cell::RefCell, rc::Rc};

use mlua::{Function, IntoLua, IntoLuaMulti, Lua, MultiValue, Result, Table, Value};

use crate::{
    outgoing::Outgoing,
    script::{Context, Home, host::Host, reference},
};

/// The prelude's makers of functions that wait.
pub struct Waiting {
    /// Makes one out of a function that begins to wait.
    pub waits: Function,
    /// One that waits for its turn, computes and writes.
    pub update: Function,
    /// One that asks and computes in rounds.
    pub rounds: Function,
}

/// Everything that scripts see, and what `carried` libraries see besides.
pub(super) fn register(
    lua: &Lua,
    relay: &Table,
    carried: &Table,
    host: &Rc<Host>,
    home: &Home,
    waiting: &Waiting,
) -> Result<()> {
    let waits = &waiting.waits;
    register_data(lua, relay, &host.context, &home.kept.rates)?;
    carried::register(lua, carried, host, waits)?;
    alarm::register(lua, relay, host, &home.kept.alarms)?;
    password::register(lua, relay, host, &home.passwords, waits)?;
    conn::register(lua, host)?;
    conn::register_elsewhere(lua, host)?;
    room::register(lua, relay, host, waits)?;
    user::register(lua, relay, host, waiting)?;
    relay::register(lua, relay, host)?;
    wait::register(lua, relay, host, waits)?;
    let outgoing = Rc::new(Outgoing::new(&host.context.app, home.network.clone()));
    self::http::register(lua, relay, host, waits, &outgoing)?;
    ws::register(lua, relay, host, waits, &outgoing)?;
    jwt::register_waiting(lua, relay, host, waits, &outgoing, &home.kept.key_sets)?;
    store::register(lua, relay, host, waits, &waiting.update)?;
    shared::register(lua, relay, host)?;
    only_known(relay)
}

/// A name that the reference does not tell is not there: definitions and pages are made from the same tables.
fn only_known(relay: &Table) -> Result<()> {
    let unknown = |path: &str| {
        Err(mlua::Error::runtime(format!("relay.{path} is not in src/script/reference/, where every name is told")))
    };
    for pair in relay.pairs::<String, Value>() {
        let (name, value) = pair?;
        match value {
            Value::Table(table) if !reference::is_relay_name(&name) => {
                for pair in table.pairs::<String, Value>() {
                    let path = format!("{name}.{}", pair?.0);
                    if !reference::is_relay_name(&path) {
                        return unknown(&path);
                    }
                }
            }
            _ if !reference::is_relay_name(&name) => return unknown(&name),
            _ => {}
        }
    }
    Ok(())
}

/// The names that touch neither connections nor rooms. The buckets of `relay.rate` belong to the
/// instance: a reload must not refill them.
pub(super) fn register_data(
    lua: &Lua,
    relay: &Table,
    context: &Rc<Context>,
    rates: &Rc<RefCell<RateTable>>,
) -> Result<()> {
    json::register(lua, relay, context)?;
    base64::register(lua, relay, context)?;
    hex::register(lua, relay, context)?;
    crypto::register(lua, relay, context)?;
    jwt::register(lua, relay, context)?;
    rate::register(lua, relay, context, rates)?;
    log::register(lua, relay, context)?;
    token::register(lua, relay, context)?;
    time::register(lua, relay, context)?;
    settings::register(lua, relay, context)
}

/// What a call returns when the world did not do it: `nil, why`.
fn refusal(lua: &Lua, why: impl IntoLua) -> Result<MultiValue> {
    (Value::Nil, why).into_lua_multi(lua)
}

/// Lets a callback's CPU budget end a long host call: the interrupt fires in Lua code only, so every few
/// thousand steps an empty Lua function is called.
struct Safepoint {
    lua: Lua,
    function: Option<Function>,
    steps: u32,
}

impl Safepoint {
    const STEPS_BETWEEN: u32 = 4096;

    fn new(lua: &Lua) -> Safepoint {
        Safepoint { lua: lua.clone(), function: None, steps: Self::STEPS_BETWEEN }
    }

    /// One cheap step of the call's work.
    fn step(&mut self) -> Result<()> {
        self.steps -= 1;
        if self.steps == 0 { self.pass() } else { Ok(()) }
    }

    #[cold]
    fn pass(&mut self) -> Result<()> {
        self.steps = Self::STEPS_BETWEEN;
        if self.function.is_none() {
            self.function = Some(self.lua.load("").set_name("=[C]").into_function()?);
        }
        match &self.function {
            Some(function) => function.call(()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        clock::Clock,
        config,
        hub::Hub,
        plain::{Plain, PlainTable},
        script::{Phase, sandbox},
        store::Stores,
    };

    /// An app with these settings, alone in its process.
    pub fn test_app() -> config::App {
        config::App {
            settings: Plain::Table(Box::new(PlainTable {
                pairs: vec![(Plain::string("secret"), Plain::string("s"))],
                ..PlainTable::default()
            })),
            env: vec!["PATH".to_owned(), "MOONWIRE_TEST_UNSET".to_owned()],
            ..config::App::new("chat", "/chat", "chat.lua")
        }
    }

    pub fn test_context_of(app: config::App, clock: Clock) -> Rc<Context> {
        let hub = Hub::alone("boot", 128);
        Rc::new(Context {
            app: Arc::new(app),
            generation: 1,
            place: 0,
            instances: 1,
            clock,
            hub: Rc::new(hub),
            stores: Stores::nowhere(),
            env: None,
            phase: std::cell::Cell::new(Phase::Running),
            current: RefCell::default(),
        })
    }

    pub fn test_context() -> Rc<Context> {
        test_context_of(test_app(), Clock::system())
    }

    /// A closed VM with the names of `register`, as a script has it.
    pub fn test_lua(context: &Rc<Context>) -> Lua {
        let lua = sandbox::new_vm().unwrap();
        sandbox::trim(&lua, context.app.limits.script_memory).unwrap();
        let relay = lua.create_table().unwrap();
        let rates = Rc::default();
        register_data(&lua, &relay, context, &rates).unwrap();
        lua.globals().raw_set("relay", relay).unwrap();
        sandbox::close(&lua).unwrap();
        lua
    }

    /// Runs a script that asserts; a failure shows its error.
    pub fn check(source: &str) {
        check_in(&test_lua(&test_context()), source);
    }

    pub fn check_in(lua: &Lua, source: &str) {
        let environment = sandbox::environment(lua).unwrap();
        if let Err(error) = lua.load(source).set_name("=test").set_environment(environment).exec() {
            panic!("{error}");
        }
    }

    /// Checks that `source` raises, with `message` in the error.
    pub fn check_raises(source: &str, message: &str) {
        let lua = test_lua(&test_context());
        let environment = sandbox::environment(&lua).unwrap();
        match lua.load(source).set_name("=test").set_environment(environment).exec() {
            Ok(()) => panic!("{source} did not raise"),
            Err(error) => assert!(error.to_string().contains(message), "{source} raised {error}"),
        }
    }
}
