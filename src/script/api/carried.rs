//! What the libraries that the binary carries have and scripts do not: a way to wait for one another's callbacks.

use std::{rc::Rc, time::Duration};

use mlua::{AnyUserData, Function, Lua, Table, Value};
use tokio::sync::Notify;

use crate::{
    plain::Plain,
    script::{
        args,
        host::{ConnRef, Host},
        tasks::Waited,
    },
};

/// Something that one callback waits for and another one tells.
struct Signal(Rc<Notify>);

pub fn register(lua: &Lua, carried: &Table, host: &Rc<Host>, waits: &Function) -> mlua::Result<()> {
    carried.set("signal", lua.create_function(|lua, ()| lua.create_any_userdata(Signal(Rc::default())))?)?;
    carried.set(
        "tell",
        lua.create_function(|_, signal: AnyUserData| {
            // One that is told before anybody waits is not lost.
            signal.borrow::<Signal>()?.0.notify_one();
            Ok(())
        })?,
    )?;

    // Waits for a signal: true, or false when the time is over.
    let of = host.clone();
    let begin = lua.create_function(move |_, (signal, seconds): (AnyUserData, f64)| {
        let told = signal.borrow::<Signal>()?.0.clone();
        let time = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO);
        of.wait(async move {
            let told = tokio::time::timeout(time, told.notified()).await.is_ok();
            Waited::Return(vec![Plain::Bool(told)])
        })?;
        Ok(false)
    })?;
    carried.set("wait", waits.call::<Function>(("router:request", begin))?)?;

    // Whether a callback of this connection runs, so that no other one of it can until that ends.
    let of = host.clone();
    carried.set(
        "in_lane",
        lua.create_function(move |_, (function, conn): (String, Value)| {
            of.running(&function)?;
            let wrong = || args::wrong(&function, "conn", "a connection of this instance", &conn);
            let Value::UserData(userdata) = &conn else { return Err(wrong()) };
            let conn = userdata.borrow::<ConnRef>().map_err(|_| wrong())?;
            let current = of.context.current.borrow();
            Ok(current.as_ref().is_some_and(|current| Rc::ptr_eq(current, &conn.0)))
        })?,
    )?;

    // A duration in a script's words, in seconds.
    carried.set(
        "seconds",
        lua.create_function(|_, (function, argument, value): (String, String, Value)| {
            super::wait::time(&function, &argument, &value).map(|time| time.as_secs_f64())
        })?,
    )
}
