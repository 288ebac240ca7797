//! `relay.base64`: bytes as base64 text and back.

use std::rc::Rc;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose},
};
use mlua::{IntoLuaMulti, Lua, Result, Table, Value};

use crate::script::{Context, api::refusal, args};

const EITHER_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, EITHER_PADDING);
const URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, EITHER_PADDING);

pub fn register(lua: &Lua, relay: &Table, _context: &Rc<Context>) -> Result<()> {
    let base64 = lua.create_table()?;

    let encode = lua.create_function(|_, (data, options): (Value, Value)| {
        const NAME: &str = "relay.base64.encode(data)";
        let data = args::string(NAME, "data", &data)?;
        // For a URL without padding, since `=` would have to be escaped there.
        let engine = if is_url(NAME, &options)? { &general_purpose::URL_SAFE_NO_PAD } else { &STANDARD };
        Ok(engine.encode(&*data.as_bytes()))
    })?;
    base64.raw_set("encode", encode)?;

    let decode = lua.create_function(|lua, (text, options): (Value, Value)| {
        const NAME: &str = "relay.base64.decode(text)";
        let text = args::string(NAME, "text", &text)?;
        let engine = if is_url(NAME, &options)? { &URL } else { &STANDARD };
        match engine.decode(&*text.as_bytes()) {
            Ok(data) => lua.create_string(data)?.into_lua_multi(lua),
            Err(_) => refusal(lua, "bad_base64"),
        }
    })?;
    base64.raw_set("decode", decode)?;

    relay.raw_set("base64", base64)
}

fn is_url(function: &str, options: &Value) -> Result<bool> {
    match args::options(function, options, &["url"])? {
        Some(options) => args::flag(function, "url", &options.raw_get("url")?),
        None => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use crate::script::api::tests::{check, check_raises};

    #[test]
    fn bytes_go_to_base64_and_back() {
        check(
            r#"
            local data = "\0\255\254~?>"
            assert(relay.base64.encode(data) == "AP/+fj8+")
            assert(relay.base64.encode("a") == "YQ==")
            assert(relay.base64.encode("a", { url = true }) == "YQ")
            assert(relay.base64.encode(data, { url = true }) == "AP_-fj8-")
            assert(relay.base64.decode("AP/+fj8+") == data)
            assert(relay.base64.decode("AP_-fj8-", { url = true }) == data)
            for _, text in { "YQ==", "YQ" } do
                assert(relay.base64.decode(text) == "a")
                assert(relay.base64.decode(text, { url = true }) == "a")
            end
            assert(relay.base64.decode("") == "")
            "#,
        );
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        check(
            r#"
            for _, text in { "Y", "Y*==", "AP_-", "YQ= =", "YQ==YQ==" } do
                local data, why = relay.base64.decode(text)
                assert(data == nil and why == "bad_base64", text)
            end
            "#,
        );
        check_raises("relay.base64.encode({})", "relay.base64.encode(data): data must be a string, got table");
        check_raises("relay.base64.encode('', { pad = true })", "unknown option 'pad' (it takes url)");
        check_raises("relay.base64.encode('', { url = 1 })", "url must be true or false, got number");
    }
}
