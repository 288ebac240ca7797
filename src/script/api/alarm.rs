//! `relay.alarm`: a timer that belongs to the instance, and not to the generation that sets it.

use std::rc::Rc;

use mlua::{Lua, Table, Value};

use crate::script::{
    alarms::{Alarms, milliseconds},
    api::wait::time,
    args,
    host::Host,
    plain,
    tasks::Start,
};

/// Bytes of a key, and of the data, which no VM's memory limit counts. They are part of the contract with scripts.
const KEY_MAX: usize = 255;
const DATA_MAX: usize = 64 * 1_024;

pub fn register(lua: &Lua, relay: &Table, host: &Rc<Host>, alarms: &Rc<Alarms>) -> mlua::Result<()> {
    let (of, alarms) = (host.clone(), alarms.clone());
    let alarm = lua.create_function(move |_, (key, seconds, data): (Value, Value, Value)| {
        const NAME: &str = "relay.alarm(key, seconds, data)";
        of.running(NAME)?;
        let key = args::string(NAME, "key", &key)?;
        let key: &[u8] = &key.as_bytes();
        if key.is_empty() || key.len() > KEY_MAX {
            return Err(args::mistake(NAME, &format!("key must have 1 to {KEY_MAX} bytes, got {}", key.len())));
        }
        if seconds.is_nil() {
            alarms.cancel(key);
            return Ok(());
        }
        let delay = time(NAME, "seconds", &seconds)?;
        let data = plain::to_plain(&data, "data").map_err(|error| args::mistake(NAME, &error.to_string()))?;
        if data.bytes() > DATA_MAX {
            return Err(args::mistake(NAME, "data must be at most 64 KiB: keep what is larger in relay.state"));
        }
        let count = alarms.count();
        if count >= of.context.app.limits.timers && !alarms.has(key) {
            return Err(args::mistake(
                NAME,
                &format!("there are {count} alarms already, as many as limits.timers allows"),
            ));
        }
        let due = milliseconds(of.context.clock.unix() + delay);
        let cancel = alarms.set(key, data, due);
        of.tasks.start(Start::Alarm { id: alarms.id(key), delay, cancel });
        Ok(())
    })?;
    relay.set("alarm", alarm)
}
