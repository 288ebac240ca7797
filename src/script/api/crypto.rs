//! `relay.crypto`: hashes, message authentication, randomness, and a comparison that tells no time.

use std::rc::Rc;

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use mlua::{Error, Lua, LuaString, Result, Table, Value};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::script::{
    Context,
    api::Safepoint,
    args::{self, integer, string},
};

const RANDOM_BYTES_MAX: i64 = 65_536;
/// What is hashed between two looks at the callback's budget: well below a millisecond's work.
const CHUNK: usize = 256 * 1024;

pub fn register(lua: &Lua, relay: &Table, _context: &Rc<Context>) -> Result<()> {
    let crypto = lua.create_table()?;
    hash::<Sha256>(lua, &crypto, "sha256", "relay.crypto.sha256(data)")?;
    hash::<Sha1>(lua, &crypto, "sha1", "relay.crypto.sha1(data)")?;
    hash::<Md5>(lua, &crypto, "md5", "relay.crypto.md5(data)")?;
    mac::<Hmac<Sha256>>(lua, &crypto, "hmac_sha256", "relay.crypto.hmac_sha256(key, data)")?;
    mac::<Hmac<Sha1>>(lua, &crypto, "hmac_sha1", "relay.crypto.hmac_sha1(key, data)")?;

    let random_bytes = lua.create_function(|lua, count: Value| {
        let count = integer("relay.crypto.random_bytes(n)", "n", &count, 0, RANDOM_BYTES_MAX)?;
        let mut bytes = vec![0; usize::try_from(count).unwrap_or_default()];
        fill(&mut bytes)?;
        lua.create_string(bytes)
    })?;
    crypto.raw_set("random_bytes", random_bytes)?;
    crypto.raw_set("uuid", lua.create_function(|_, ()| uuid())?)?;

    let equals = lua.create_function(|_, (a, b): (Value, Value)| {
        const NAME: &str = "relay.crypto.equals(a, b)";
        let (a, b) = (string(NAME, "a", &a)?, string(NAME, "b", &b)?);
        Ok(bool::from(a.as_bytes().ct_eq(&*b.as_bytes())))
    })?;
    crypto.raw_set("equals", equals)?;
    relay.raw_set("crypto", crypto)
}

fn hash<D: Digest + 'static>(lua: &Lua, crypto: &Table, name: &str, function: &'static str) -> Result<()> {
    let hash = lua.create_function(move |lua, data: Value| {
        let data = string(function, "data", &data)?;
        let mut digest = D::new();
        in_chunks(lua, &data, |chunk| digest.update(chunk))?;
        lua.create_string(digest.finalize())
    })?;
    crypto.raw_set(name, hash)
}

fn mac<M: Mac + KeyInit + 'static>(lua: &Lua, crypto: &Table, name: &str, function: &'static str) -> Result<()> {
    let mac = lua.create_function(move |lua, (key, data): (Value, Value)| {
        let (key, data) = (string(function, "key", &key)?, string(function, "data", &data)?);
        if key.as_bytes().is_empty() {
            return Err(args::mistake(function, "key must not be empty"));
        }
        let mut mac = <M as KeyInit>::new_from_slice(&key.as_bytes()).map_err(Error::external)?;
        in_chunks(lua, &data, |chunk| mac.update(chunk))?;
        lua.create_string(mac.finalize().into_bytes())
    })?;
    crypto.raw_set(name, mac)
}

fn in_chunks(lua: &Lua, data: &LuaString, mut take: impl FnMut(&[u8])) -> Result<()> {
    let data = data.as_bytes();
    let mut safepoint = Safepoint::new(lua);
    for (number, chunk) in data.chunks(CHUNK).enumerate() {
        if number > 0 {
            safepoint.pass()?;
        }
        take(chunk);
    }
    Ok(())
}

fn fill(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| Error::runtime(format!("the system gave no random bytes: {error}")))
}

/// A random UUID (version 4).
fn uuid() -> Result<String> {
    let mut bytes = [0; 16];
    fill(&mut bytes)?;
    let bits = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

#[cfg(test)]
mod tests {
    use crate::script::api::tests::{check, check_raises};

    #[test]
    fn hashes_are_raw_bytes_and_known_answers_hold() {
        check(
            r#"
            local function is(bytes, hex) assert(relay.hex.encode(bytes) == hex, relay.hex.encode(bytes)) end
            is(relay.crypto.sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
            is(relay.crypto.sha1("abc"), "a9993e364706816aba3e25717850c26c9cd0d89d")
            is(relay.crypto.md5("abc"), "900150983cd24fb0d6963f7d28e17f72")
            local key, data = "key", "The quick brown fox jumps over the lazy dog"
            is(relay.crypto.hmac_sha256(key, data), "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8")
            is(relay.crypto.hmac_sha1(key, data), "de7c9b85b8b78aa6bc8a7a36f70a90701c9db4d9")
            is(relay.crypto.sha1(string.rep("a", 1000000)), "34aa973cd4c4daa4f61eeb2bdbad27316534016f")
            "#,
        );
    }

    #[test]
    fn random_bytes_and_uuids_are_of_their_form() {
        check(
            r#"
            assert(#relay.crypto.random_bytes(0) == 0 and #relay.crypto.random_bytes(65536) == 65536)
            assert(relay.crypto.random_bytes(16) ~= relay.crypto.random_bytes(16))
            for _ = 1, 100 do
                local x = "%x%x%x%x"
                assert(relay.crypto.uuid():find(`^{x}{x}%-{x}%-4%x%x%x%-[89ab]%x%x%x%-{x}{x}{x}$`))
            end
            "#,
        );
        check_raises("relay.crypto.random_bytes(65537)", "n must be a whole number from 0 to 65536, got 65537");
        check_raises("relay.crypto.random_bytes(1.5)", "n must be a whole number");
    }

    #[test]
    fn equals_compares_whole_strings() {
        check(
            "assert(relay.crypto.equals('a', 'a')) assert(not relay.crypto.equals('a', 'b')) assert(not relay.crypto.equals('a', 'ab'))",
        );
        check_raises("relay.crypto.equals('a', nil)", "relay.crypto.equals(a, b): b must be a string, got nil");
        check_raises("relay.crypto.hmac_sha256('', 'x')", "key must not be empty");
    }
}
