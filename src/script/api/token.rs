//! `relay.token`: any string as one token of a room's name.

use std::rc::Rc;

use mlua::{Lua, Result, Table, Value};

use crate::{
    name,
    script::{Context, args},
};

pub fn register(lua: &Lua, relay: &Table, _context: &Rc<Context>) -> Result<()> {
    let token = lua.create_function(|_, text: Value| {
        let text = args::string("relay.token(s)", "s", &text)?;
        Ok(name::token(&text.as_bytes()))
    })?;
    relay.raw_set("token", token)
}

#[cfg(test)]
mod tests {
    use crate::script::api::tests::{check, check_raises};

    #[test]
    fn a_token_holds_any_string() {
        check(
            "assert(relay.token('a.b ') == 'a=2Eb=20') assert(relay.token('') == '=') assert(relay.token('Ann-1') == 'Ann-1')",
        );
        check_raises("relay.token(nil)", "relay.token(s): s must be a string, got nil");
    }
}
