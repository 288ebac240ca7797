//! `relay.hex`: bytes as hexadecimal text and back.

use std::rc::Rc;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use mlua::{IntoLuaMulti, Lua, Result, Table, Value};

use crate::script::{Context, api::refusal, args};

pub fn register(lua: &Lua, relay: &Table, _context: &Rc<Context>) -> Result<()> {
    let hex = lua.create_table()?;

    let encode = lua.create_function(|_, data: Value| {
        let data = args::string("relay.hex.encode(data)", "data", &data)?;
        Ok(HEXLOWER.encode(&data.as_bytes()))
    })?;
    hex.raw_set("encode", encode)?;

    let decode = lua.create_function(|lua, text: Value| {
        let text = args::string("relay.hex.decode(text)", "text", &text)?;
        match HEXLOWER_PERMISSIVE.decode(&text.as_bytes()) {
            Ok(data) => lua.create_string(data)?.into_lua_multi(lua),
            Err(_) => refusal(lua, "bad_hex"),
        }
    })?;
    hex.raw_set("decode", decode)?;

    relay.raw_set("hex", hex)
}

#[cfg(test)]
mod tests {
    use crate::script::api::tests::{check, check_raises};

    #[test]
    fn bytes_go_to_hex_and_back() {
        check(
            r#"
            assert(relay.hex.encode("\0\xabZ") == "00ab5a")
            assert(relay.hex.decode("00abAB") == "\0\xab\xab")
            for _, text in { "0", "0g", "00 " } do
                local data, why = relay.hex.decode(text)
                assert(data == nil and why == "bad_hex", text)
            end
            "#,
        );
        check_raises("relay.hex.encode(12)", "relay.hex.encode(data): data must be a string, got number");
    }
}
