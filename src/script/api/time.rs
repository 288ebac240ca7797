//! `relay.now` and `relay.monotonic`: the time, in seconds.

use std::rc::Rc;

use mlua::{Lua, Result, Table};

use crate::script::Context;

pub fn register(lua: &Lua, relay: &Table, context: &Rc<Context>) -> Result<()> {
    let clock = context.clock;
    relay.raw_set("now", lua.create_function(move |_, ()| Ok(clock.unix().as_secs_f64()))?)?;
    relay.raw_set("monotonic", lua.create_function(move |_, ()| Ok(clock.monotonic().as_secs_f64()))?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        clock::Clock,
        script::api::tests::{check_in, test_app, test_context_of, test_lua},
    };

    #[tokio::test(start_paused = true)]
    async fn scripts_see_the_virtual_clock() {
        let clock = Clock::virtual_from(Duration::from_secs(1_000));
        let lua = test_lua(&test_context_of(test_app(), clock));
        check_in(&lua, "assert(relay.now() == 1000) assert(relay.monotonic() == 0)");
        tokio::time::advance(Duration::from_millis(2_500)).await;
        check_in(&lua, "assert(relay.now() == 1002.5) assert(relay.monotonic() == 2.5)");
    }
}
