//! What takes time: `relay.sleep`, timers, and `relay.spawn`.

use std::{rc::Rc, time::Duration};

use mlua::{Function, Lua, Table, UserDataFields, UserDataMethods, Value};

use crate::script::{
    args,
    host::Host,
    tasks::{Cancel, Start, Waited},
};

/// The longest sleep and timer: a year, well within what the clock can count.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

struct Timer {
    cancel: Rc<Cancel>,
    host: Rc<Host>,
}

pub fn register(lua: &Lua, relay: &Table, host: &Rc<Host>, waits: &Function) -> mlua::Result<()> {
    let of = host.clone();
    let begin = lua.create_function(move |_, seconds: Value| {
        of.running("relay.sleep(seconds)")?;
        let time = time("relay.sleep(seconds)", "seconds", &seconds)?;
        of.wait(async move {
            tokio::time::sleep(time).await;
            Waited::Return(Vec::new())
        })?;
        Ok(false)
    })?;
    relay.set("sleep", waits.call::<Function>(("relay.sleep", begin))?)?;

    lua.register_userdata_type::<Timer>(|timer| {
        timer.add_meta_field("__type", "timer");
        timer.add_method("cancel", |_, timer, ()| {
            if timer.cancel.cancel() {
                timer.host.tasks.timers.set(timer.host.tasks.timers.get() - 1);
            }
            Ok(())
        });
    })?;
    let of = host.clone();
    relay.set(
        "after",
        lua.create_function(move |lua, (seconds, function): (Value, Value)| {
            const NAME: &str = "relay.after(seconds, fn)";
            let (delay, function, cancel) = timer(&of, NAME, &seconds, function)?;
            of.tasks.start(Start::After { delay, function, cancel: cancel.clone() });
            lua.create_any_userdata(Timer { cancel, host: of.clone() })
        })?,
    )?;
    let of = host.clone();
    relay.set(
        "every",
        lua.create_function(move |lua, (seconds, function): (Value, Value)| {
            const NAME: &str = "relay.every(seconds, fn)";
            let (period, function, cancel) = timer(&of, NAME, &seconds, function)?;
            if period.is_zero() {
                of.tasks.timers.set(of.tasks.timers.get() - 1);
                return Err(args::mistake(NAME, "seconds must be more than 0"));
            }
            of.tasks.start(Start::Every { period, function, cancel: cancel.clone() });
            lua.create_any_userdata(Timer { cancel, host: of.clone() })
        })?,
    )?;
    let of = host.clone();
    relay.set(
        "spawn",
        lua.create_function(move |_, function: Value| {
            of.running("relay.spawn(fn)")?;
            let Value::Function(function) = function else {
                return Err(args::wrong("relay.spawn(fn)", "fn", "a function", &function));
            };
            of.tasks.start(Start::Spawn(function));
            Ok(())
        })?,
    )
}

/// A time to wait.
pub fn time(function: &str, argument: &str, value: &Value) -> mlua::Result<Duration> {
    let time = args::duration(function, argument, value)?;
    if time > LONGEST {
        return Err(args::mistake(function, &format!("{argument} must be at most a year")));
    }
    Ok(time)
}

fn timer(host: &Host, name: &str, seconds: &Value, function: Value) -> mlua::Result<(Duration, Function, Rc<Cancel>)> {
    host.running(name)?;
    let delay = time(name, "seconds", seconds)?;
    let Value::Function(function) = function else { return Err(args::wrong(name, "fn", "a function", &function)) };
    let timers = host.tasks.timers.get();
    if timers >= host.context.app.limits.timers {
        return Err(args::mistake(
            name,
            &format!("there are {timers} timers already, as many as limits.timers allows"),
        ));
    }
    host.tasks.timers.set(timers + 1);
    Ok((delay, function, Rc::default()))
}
