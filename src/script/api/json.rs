//! `relay.json`: JSON text straight to tables and back, with no tree in between.

use std::{ffi::c_void, rc::Rc};

use mlua::{Error, IntoLuaMulti, Lua, LuaString, Result, Table, Value};

use crate::script::{
    Context,
    api::{Safepoint, refusal},
    args,
    plain::{NotPlain, Problem, is_json_array_mark, json_array_mark},
};

/// The largest magnitude up to which a Lua number holds every integer: ±2^53.
const INTEGER_MAX: f64 = 9_007_199_254_740_992.0;
/// Of one encoded value. A small table that is reachable on many ways could otherwise fill the memory, which here
/// is the process's and not the VM's.
const ENCODED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Nested values are read by recursion: a larger `limits.json_depth` must not reach the end of the stack.
pub const DEPTH_MAX: usize = 256;

pub fn register(lua: &Lua, relay: &Table, context: &Rc<Context>) -> Result<()> {
    let json = lua.create_table()?;
    let depth_max = context.app.limits.json_depth;

    let encode = lua.create_function(move |lua, (value, options): (Value, Value)| {
        const NAME: &str = "relay.json.encode(value)";
        let big = big_as_string(NAME, &options)?;
        let mut out = Vec::with_capacity(128);
        match Encoder::new(depth_max, big, &mut out).encode(&value) {
            Ok(()) => lua.create_string(out)?.into_lua_multi(lua),
            Err(EncodeError::World(why)) => refusal(lua, why),
            Err(EncodeError::Mistake(problem)) => Err(args::mistake(NAME, &problem.to_string())),
            Err(EncodeError::Lua(error)) => Err(error),
        }
    })?;
    json.raw_set("encode", encode)?;

    let decode = lua.create_function(move |lua, (text, options): (Value, Value)| {
        const NAME: &str = "relay.json.decode(text)";
        let text = args::string(NAME, "text", &text)?;
        let big = big_as_string(NAME, &options)?;
        match decode(lua, &text, depth_max, big) {
            Ok(value) => value.into_lua_multi(lua),
            Err(DecodeError::Bad(why)) => refusal(lua, why),
            Err(DecodeError::Lua(error)) => Err(error),
        }
    })?;
    json.raw_set("decode", decode)?;

    let array = lua.create_function(|lua, table: Value| {
        const NAME: &str = "relay.json.array(t)";
        let Value::Table(table) = table else {
            return Err(args::wrong(NAME, "t", "a table", &table));
        };
        match table.metatable() {
            Some(metatable) if is_json_array_mark(&metatable) => return Ok(table),
            Some(_) => return Err(args::mistake(NAME, "t must not have a metatable")),
            None if table.is_readonly() => {
                return Err(args::mistake(NAME, "t must not be read-only"));
            }
            None => {}
        }
        table.set_metatable(Some(json_array_mark(lua)?))?;
        Ok(table)
    })?;
    json.raw_set("array", array)?;
    json.raw_set("null", Value::NULL)?;
    relay.raw_set("json", json)
}

/// The option `big`: whether integers beyond ±2^53 are strings.
fn big_as_string(function: &str, options: &Value) -> Result<bool> {
    let Some(options) = args::options(function, options, &["big"])? else {
        return Ok(false);
    };
    match options.raw_get("big")? {
        Value::Nil => Ok(false),
        Value::String(big) if *big.as_bytes() == *b"string" => Ok(true),
        _ => Err(args::mistake(function, "big must be \"string\"")),
    }
}

// ── encode ──

/// Why a value was not encoded.
#[derive(Debug)]
pub enum EncodeError {
    /// It holds what JSON has no word for, at the path that the text names: the script's mistake.
    Mistake(NotPlain),
    /// Its data do not fit (too deep, NaN, not UTF-8, too large): `nil, why`.
    World(String),
    Lua(Error),
}

/// Appends `value` to `out` as JSON, at most `depth_max` tables deep. After an error the new part of `out` is useless.
pub fn encode_into(value: &Value, depth_max: usize, out: &mut Vec<u8>) -> std::result::Result<(), EncodeError> {
    Encoder::new(depth_max, false, out).encode(value)
}

struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    bytes_max: usize,
    depth_max: usize,
    big_as_string: bool,
    /// The tables around the present value, to tell a cycle from what is merely deep.
    around: Vec<*const c_void>,
    safepoint: Option<Safepoint>,
}

enum Fault {
    Mistake(Problem),
    World(Problem),
    Lua(Error),
}

impl Fault {
    fn mistake(what: impl Into<String>) -> Fault {
        Fault::Mistake(Problem::new(what))
    }

    fn world(what: impl Into<String>) -> Fault {
        Fault::World(Problem::new(what))
    }

    fn inside(self, key: &Value) -> Fault {
        match self {
            Fault::Mistake(problem) => Fault::Mistake(problem.inside(key)),
            Fault::World(problem) => Fault::World(problem.inside(key)),
            Fault::Lua(error) => Fault::Lua(error),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Lua(error)
    }
}

impl<'a> Encoder<'a> {
    fn new(depth_max: usize, big_as_string: bool, out: &'a mut Vec<u8>) -> Encoder<'a> {
        let bytes_max = out.len() + ENCODED_BYTES_MAX;
        let depth_max = depth_max.min(DEPTH_MAX);
        Encoder { out, bytes_max, depth_max, big_as_string, around: Vec::new(), safepoint: None }
    }

    fn encode(&mut self, value: &Value) -> std::result::Result<(), EncodeError> {
        self.value(value).map_err(|fault| match fault {
            Fault::Mistake(problem) => EncodeError::Mistake(problem.under("value")),
            Fault::World(problem) => EncodeError::World(problem.under("value").to_string()),
            Fault::Lua(error) => EncodeError::Lua(error),
        })
    }

    fn value(&mut self, value: &Value) -> std::result::Result<(), Fault> {
        match value {
            Value::Nil => self.out.extend(b"null"),
            Value::Boolean(true) => self.out.extend(b"true"),
            Value::Boolean(false) => self.out.extend(b"false"),
            Value::Integer(i) => self.number(*i as f64)?,
            Value::Number(n) => self.number(*n)?,
            Value::String(s) => self.string(s)?,
            Value::Table(t) => self.table(t)?,
            null if null.is_null() => self.out.extend(b"null"),
            other => {
                return Err(Fault::mistake(format!("is a {}, which JSON cannot hold", args::type_name(other))));
            }
        }
        Ok(())
    }

    fn number(&mut self, number: f64) -> std::result::Result<(), Fault> {
        if !number.is_finite() {
            return Err(Fault::world(format!("is {number}, which JSON has no number for")));
        }
        if number.fract() != 0.0 {
            return serde_json::to_writer(&mut *self.out, &number).map_err(|error| Fault::world(error.to_string()));
        }
        if number.abs() <= INTEGER_MAX {
            self.out.extend(itoa::Buffer::new().format(number as i64).as_bytes());
        } else if self.big_as_string {
            self.out.extend(format!("\"{number:.0}\"").as_bytes());
        } else {
            return Err(Fault::world(format!(
                "is {number:e}, beyond ±2^53, where numbers stop being exact ({{ big = \"string\" }} makes it a string)"
            )));
        }
        Ok(())
    }

    fn string(&mut self, text: &LuaString) -> std::result::Result<(), Fault> {
        let bytes = text.as_bytes();
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| Fault::world(format!("is not UTF-8 (at its byte {})", error.valid_up_to() + 1)))?;
        if self.out.len() + text.len() > self.bytes_max {
            return Err(self.too_large());
        }
        serde_json::to_writer(&mut *self.out, text).map_err(|error| Fault::world(error.to_string()))
    }

    fn too_large(&self) -> Fault {
        Fault::world(format!("makes more than {ENCODED_BYTES_MAX} bytes of JSON"))
    }

    fn table(&mut self, table: &Table) -> std::result::Result<(), Fault> {
        let here = table.to_pointer();
        if self.around.len() >= self.depth_max {
            return Err(if self.around.contains(&here) {
                Fault::mistake("is a table that holds itself")
            } else {
                Fault::world(format!("is deeper than limits.json_depth ({})", self.depth_max))
            });
        }
        if self.out.len() > self.bytes_max {
            return Err(self.too_large());
        }
        self.around.push(here);
        let result = self.pairs(table);
        self.around.pop();
        result
    }

    /// The array part comes first and in order, so one walk tells a list from an object.
    fn pairs(&mut self, table: &Table) -> std::result::Result<(), Fault> {
        let start = self.out.len();
        let mut length = 0_i64;
        let mut is_object = false;
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair?;
            match &key {
                Value::Integer(i) if !is_object && *i == length + 1 => {
                    self.out.push(if length == 0 { b'[' } else { b',' });
                    length += 1;
                }
                Value::Integer(_) if !is_object => {
                    self.out.truncate(start);
                    return self.list_out_of_order(table);
                }
                Value::String(name) if length == 0 => {
                    self.out.push(if is_object { b',' } else { b'{' });
                    is_object = true;
                    self.string(name).map_err(|fault| fault.inside(&key))?;
                    self.out.push(b':');
                }
                Value::String(_) | Value::Integer(_) => return Err(mixed()),
                other => {
                    return Err(Fault::mistake(format!(
                        "has a {} as a key; JSON's keys are strings",
                        args::type_name(other)
                    )));
                }
            }
            self.value(&value).map_err(|fault| fault.inside(&key))?;
            self.step(table)?;
        }
        match (length, is_object) {
            (_, true) => self.out.push(b'}'),
            (0, false) if table.metatable().is_some_and(|metatable| is_json_array_mark(&metatable)) => {
                self.out.extend(b"[]")
            }
            (0, false) => self.out.extend(b"{}"),
            _ => self.out.push(b']'),
        }
        Ok(())
    }

    /// A list whose elements came in another order, or a table with holes.
    fn list_out_of_order(&mut self, table: &Table) -> std::result::Result<(), Fault> {
        let length = table.raw_len();
        let mut count = 0;
        for pair in table.pairs::<Value, Value>() {
            let (key, _) = pair?;
            match &key {
                Value::Integer(i) if usize::try_from(*i).is_ok_and(|i| (1..=length).contains(&i)) => count += 1,
                Value::Integer(i) => {
                    return Err(Fault::mistake(format!(
                        "has the key {i}, but is no list without holes (an object's keys are strings)"
                    )));
                }
                _ => return Err(mixed()),
            }
            self.step(table)?;
        }
        if count != length {
            return Err(Fault::mistake("is a list with holes"));
        }
        self.out.push(b'[');
        for index in 1..=length {
            if index > 1 {
                self.out.push(b',');
            }
            let value: Value = table.raw_get(index)?;
            self.value(&value).map_err(|fault| fault.inside(&Value::Integer(index as i64)))?;
            self.step(table)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn step(&mut self, table: &Table) -> std::result::Result<(), Fault> {
        let safepoint = self.safepoint.get_or_insert_with(|| Safepoint::new(&table.weak_lua().upgrade()));
        Ok(safepoint.step()?)
    }
}

fn mixed() -> Fault {
    Fault::mistake("has both list elements and named fields; JSON holds one or the other")
}

// ── decode ──

#[derive(Debug)]
pub(super) enum DecodeError {
    /// The text is not the JSON that was asked for: `nil, why`.
    Bad(String),
    Lua(Error),
}

impl From<Error> for DecodeError {
    fn from(error: Error) -> DecodeError {
        DecodeError::Lua(error)
    }
}

type Decoded<T> = std::result::Result<T, DecodeError>;

/// The value that a JSON text tells.
pub(super) fn decode(lua: &Lua, text: &LuaString, depth_max: usize, big_as_string: bool) -> Decoded<Value> {
    decode_bytes(lua, &text.as_bytes(), depth_max, big_as_string)
}

pub(super) fn decode_bytes(lua: &Lua, text: &[u8], depth_max: usize, big_as_string: bool) -> Decoded<Value> {
    let text = std::str::from_utf8(text)
        .map_err(|error| DecodeError::Bad(format!("bad JSON: not UTF-8 at byte {}", error.valid_up_to() + 1)))?;
    let mut decoder = Decoder {
        lua,
        text,
        at: 0,
        depth_left: depth_max.min(DEPTH_MAX),
        depth_max,
        big_as_string,
        unescaped: Vec::new(),
        safepoint: Safepoint::new(lua),
    };
    let value = decoder.value()?;
    decoder.space();
    match decoder.peek() {
        None => Ok(value),
        Some(_) => Err(decoder.expected("the end")),
    }
}

struct Decoder<'a> {
    lua: &'a Lua,
    text: &'a str,
    at: usize,
    depth_left: usize,
    depth_max: usize,
    big_as_string: bool,
    /// Where strings with escapes are put together.
    unescaped: Vec<u8>,
    safepoint: Safepoint,
}

impl<'a> Decoder<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn bad(&self, what: impl std::fmt::Display) -> DecodeError {
        DecodeError::Bad(format!("bad JSON at byte {}: {what}", self.at + 1))
    }

    fn expected(&self, what: &str) -> DecodeError {
        match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(found) => self.bad(format_args!("expected {what}, got {found:?}")),
            None => self.bad(format_args!("expected {what}, got the end")),
        }
    }

    fn value(&mut self) -> Decoded<Value> {
        self.space();
        self.safepoint.step()?;
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Boolean(true)),
            Some(b'f') => self.word("false", Value::Boolean(false)),
            Some(b'n') => self.word("null", Value::NULL),
            _ => Err(self.expected("a value")),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Decoded<Value> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(value)
        } else {
            Err(self.expected("a value"))
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Decoded<Table>) -> Decoded<Value> {
        if self.depth_left == 0 {
            return Err(self.bad(format_args!("deeper than limits.json_depth ({})", self.depth_max.min(DEPTH_MAX))));
        }
        self.depth_left -= 1;
        self.at += 1;
        self.space();
        let table = read(self)?;
        self.depth_left += 1;
        Ok(Value::Table(table))
    }

    fn array(&mut self) -> Decoded<Table> {
        let table = self.lua.create_table()?;
        if self.peek() == Some(b']') {
            self.at += 1;
            table.set_metatable(Some(json_array_mark(self.lua)?))?;
            return Ok(table);
        }
        let mut length = 0_i64;
        loop {
            let value = self.value()?;
            length += 1;
            table.raw_set(length, value)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.expected("',' or ']'")),
            }
        }
        self.at += 1;
        Ok(table)
    }

    fn object(&mut self) -> Decoded<Table> {
        let table = self.lua.create_table()?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(table);
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.expected("a string as a key"));
            }
            let key = self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.expected("':'"));
            }
            self.at += 1;
            let value = self.value()?;
            // Of equal keys the last wins.
            table.raw_set(key, value)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.expected("',' or '}'")),
            }
        }
        self.at += 1;
        Ok(table)
    }

    fn string(&mut self) -> Decoded<LuaString> {
        let bytes = self.text.as_bytes();
        self.at += 1;
        let start = self.at;
        self.plain_part();
        if self.peek() == Some(b'"') {
            let string = self.lua.create_string(&bytes[start..self.at])?;
            self.at += 1;
            return Ok(string);
        }
        self.unescaped.clear();
        self.unescaped.extend(&bytes[start..self.at]);
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                Some(_) => return Err(self.bad("a control character in a string must be escaped")),
                None => return Err(self.expected("'\"' at the end of a string")),
            }
            let start = self.at;
            self.plain_part();
            self.unescaped.extend(&bytes[start..self.at]);
        }
        self.at += 1;
        Ok(self.lua.create_string(&self.unescaped)?)
    }

    /// Passes over what stands for itself.
    fn plain_part(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)).unwrap_or(rest.len());
    }

    fn escape(&mut self) -> Decoded<()> {
        self.at += 1;
        let byte = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(self.expected("an escape that JSON knows")),
        };
        self.at += 1;
        self.unescaped.push(byte);
        Ok(())
    }

    fn unicode_escape(&mut self) -> Decoded<()> {
        let mut code = self.hex4()?;
        if (0xd800..0xdc00).contains(&code) && self.text.as_bytes()[self.at..].starts_with(b"\\u") {
            self.at += 1;
            let low = self.hex4()?;
            if !(0xdc00..0xe000).contains(&low) {
                return Err(self.bad("half of a surrogate pair"));
            }
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        let Some(character) = char::from_u32(code) else {
            return Err(self.bad("half of a surrogate pair"));
        };
        self.unescaped.extend(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    /// `uXXXX`.
    fn hex4(&mut self) -> Decoded<u32> {
        let digits = self.text.as_bytes().get(self.at + 1..self.at + 5).unwrap_or_default();
        let mut code = 0;
        for digit in digits {
            let Some(digit) = char::from(*digit).to_digit(16) else {
                return Err(self.bad("\\u takes four hexadecimal digits"));
            };
            code = code << 4 | digit;
        }
        if digits.len() < 4 {
            return Err(self.bad("\\u takes four hexadecimal digits"));
        }
        self.at += 5;
        Ok(code)
    }

    fn number(&mut self) -> Decoded<Value> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let leading_zero = self.peek() == Some(b'0');
        let integer_digits = self.digits()?;
        if leading_zero && integer_digits > 1 {
            return Err(self.bad("a number must not begin with 0"));
        }
        let mut is_integer = true;
        if self.peek() == Some(b'.') {
            is_integer = false;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            is_integer = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        if is_integer {
            const EXACT: std::ops::RangeInclusive<i64> = -(1 << 53)..=1 << 53;
            return match text.parse::<i64>() {
                Ok(integer) if EXACT.contains(&integer) => Ok(Value::Number(integer as f64)),
                _ if self.big_as_string => Ok(Value::String(self.lua.create_string(text)?)),
                _ => Err(self.bad("an integer beyond ±2^53 ({ big = \"string\" } gives such integers as strings)")),
            };
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Number(number)),
            _ => Err(self.bad("a number that is out of range")),
        }
    }

    /// At least one digit; how many there were.
    fn digits(&mut self) -> Decoded<usize> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.expected("a digit")) } else { Ok(self.at - start) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::script::{
        api::tests::{check, check_in, check_raises, test_app, test_context_of, test_lua},
        plain::{from_plain, to_plain},
    };
    use crate::{clock::Clock, plain::Plain};

    fn decoded(lua: &Lua, text: &str) -> std::result::Result<Plain, String> {
        match decode_bytes(lua, text.as_bytes(), 64, false) {
            Ok(value) => Ok(to_plain(&value, "value").unwrap()),
            Err(DecodeError::Bad(why)) => Err(why),
            Err(DecodeError::Lua(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn values_are_written_as_json_has_them() {
        check(
            r#"
            local function is(value, text) assert(relay.json.encode(value) == text, relay.json.encode(value)) end
            is({ 1, 2.5, -0.001, 1e-7, true, false, "a" }, '[1,2.5,-0.001,1e-7,true,false,"a"]')
            is(2^53, "9007199254740992")
            is(-2^53, "-9007199254740992")
            is({}, "{}")
            is(relay.json.array({}), "[]")
            is({ a = {} , }, '{"a":{}}')
            is({ relay.json.null }, "[null]")
            is(nil, "null")
            is('"\\/\n\0ü\127', '"\\"\\\\/\\n\\u0000ü\127"')
            is({ [3] = "c", [2] = "b", [1] = "a" }, '["a","b","c"]')
            is(relay.config, '{"secret":"s"}')
            assert(relay.json.encode(2^60, { big = "string" }) == '"1152921504606846976"')
            "#,
        );
    }

    #[test]
    fn a_list_filled_in_any_order_is_a_list() {
        check(
            r#"
            for length = 1, 40 do
                local t, expected = {}, {}
                for i = length, 1, -1 do t[i] = i expected[length - i + 1] = length - i + 1 end
                assert(relay.json.encode(t) == relay.json.encode(expected))
            end
            local t = { a = 1, b = 2, c = 3 }
            t.a, t.b, t.c = nil, nil, nil
            t[2] = "b" t[1] = "a"
            assert(relay.json.encode(t) == '["a","b"]')
            "#,
        );
    }

    #[test]
    fn null_is_a_truthy_value_of_its_own() {
        check(
            r#"
            local null = relay.json.null
            assert(null and null ~= nil and relay.json.decode("null") == null)
            local t = relay.json.decode('{"a":null,"b":[],"c":[null]}')
            assert(t.a == null and #t.b == 0 and t.c[1] == null)
            assert(relay.json.encode(t.b) == "[]" and relay.json.encode(relay.json.decode("{}")) == "{}")
            "#,
        );
    }

    #[test]
    fn a_mistake_in_the_data_raises_with_its_path() {
        check_raises(
            "relay.json.encode({ users = { { f = print } } })",
            "value.users[1].f is a function, which JSON cannot hold",
        );
        check_raises("relay.json.encode({ 1, a = 2 })", "value has both list elements and named fields");
        check_raises("relay.json.encode({ x = { [2] = 1 } })", "value.x has the key 2, but is no list without holes");
        check_raises("relay.json.encode({ 1, nil, 3 })", "value is a list with holes");
        check_raises("relay.json.encode({ [true] = 1 })", "value has a boolean as a key; JSON's keys are strings");
        check_raises("local t = {} t.t = { t } relay.json.encode(t)", "is a table that holds itself");
        check_raises("relay.json.encode(1, { large = 1 })", "unknown option 'large' (it takes big)");
        check_raises("relay.json.encode(1, { big = true })", "big must be \"string\"");
        check_raises("relay.json.decode({})", "relay.json.decode(text): text must be a string, got table");
        check_raises("relay.json.array(1)", "t must be a table, got number");
        check_raises("relay.json.array(relay.config)", "t must not be read-only");
        check_raises("relay.json.encode(buffer.create(1))", "value is a buffer, which JSON cannot hold");
    }

    #[test]
    fn what_depends_on_the_data_returns_nil_and_why() {
        check(
            r#"
            local function refused(value, part)
                local text, why = relay.json.encode(value)
                assert(text == nil and string.find(why, part, 1, true), why)
            end
            refused({ a = 0/0 }, "value.a is NaN, which JSON has no number for")
            refused({ -math.huge }, "value[1] is -inf")
            refused({ n = 2^53 + 2 }, "value.n is 9.007199254740994e15, beyond ±2^53")
            refused({ s = "a\xff" }, "value.s is not UTF-8 (at its byte 2)")
            refused({ ["\xff"] = 1 }, "is not UTF-8")
            local deep = {}
            for _ = 1, 100 do deep = { deep } end
            refused(deep, "is deeper than limits.json_depth (64)")
            local wide = { "0123456789abcdef" }
            for _ = 1, 40 do wide = { wide, wide } end
            refused(wide, "makes more than 67108864 bytes of JSON")
            "#,
        );
    }

    #[test]
    fn json_is_read_strictly() {
        let lua = Lua::new();
        for text in
            ["", " ", "[", "[1", "[1,]", "[,1]", "{", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,}", "{a:1}", "{1:1}"]
        {
            assert!(decoded(&lua, text).is_err(), "{text}");
        }
        for text in [
            "nul",
            "nulll",
            "True",
            "'a'",
            "\"a",
            "\"\t\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"\\ud800\"",
            "\"\\udc00\"",
        ] {
            assert!(decoded(&lua, text).is_err(), "{text}");
        }
        for text in [
            "\"\\ud800\\u0041\"",
            "01",
            "-",
            "+1",
            "1.",
            ".5",
            "1e",
            "1e+",
            "0x1",
            "NaN",
            "1e999",
            "1 2",
            "[1]]",
            "\u{a0}1",
        ] {
            assert!(decoded(&lua, text).is_err(), "{text}");
        }
        assert_eq!(decoded(&lua, "[1 2]").unwrap_err(), "bad JSON at byte 4: expected ',' or ']', got '2'");
        assert_eq!(decoded(&lua, "{\"a\":ü}").unwrap_err(), "bad JSON at byte 6: expected a value, got 'ü'");
        assert_eq!(decoded(&lua, "[").unwrap_err(), "bad JSON at byte 2: expected a value, got the end");
    }

    #[test]
    fn escapes_numbers_and_equal_keys_are_understood() {
        check(
            r#"
            local function is(text, value) assert(relay.json.decode(text) == value, text) end
            is([["\"\\\/\b\f\n\r\t\u0041\u00fc\ud83d\ude00"]], "\"\\/\b\f\n\r\tAü😀")
            is("-0.5e1", -5) is("1E2", 100) is("0", 0) is(" 12 ", 12) is("1.0", 1)
            is('"plain ü"', "plain ü")
            assert(relay.json.decode('{"a":1,"a":2}').a == 2)
            is("9007199254740992", 2^53)
            local value, why = relay.json.decode("[9007199254740993]")
            assert(value == nil and string.find(why, "beyond ±2^53", 1, true))
            local big = relay.json.decode("[9007199254740993,-123456789012345678901234567890,7]", { big = "string" })
            assert(big[1] == "9007199254740993" and big[2] == "-123456789012345678901234567890" and big[3] == 7)
            "#,
        );
    }

    #[test]
    fn depth_has_a_limit_and_no_text_overflows_the_stack() {
        let lua = Lua::new();
        assert!(decoded(&lua, &format!("{}{}", "[".repeat(64), "]".repeat(64))).is_ok());
        let why = decoded(&lua, &format!("{}{}", "[".repeat(65), "]".repeat(65))).unwrap_err();
        assert_eq!(why, "bad JSON at byte 65: deeper than limits.json_depth (64)");
        assert!(decoded(&lua, &"[".repeat(1_000_000)).is_err());
        assert!(decoded(&lua, &"{\"a\":".repeat(1_000_000)).is_err());

        let mut app = test_app();
        app.limits.json_depth = usize::MAX;
        let lua = test_lua(&test_context_of(app, Clock::system()));
        check_in(
            &lua,
            r#"
            assert(relay.json.decode(string.rep("[", 1000000)) == nil)
            local t = {}
            for _ = 1, 250 do t = { t } end
            assert(relay.json.decode(relay.json.encode(t)))
            "#,
        );
    }

    #[test]
    fn a_long_text_can_be_interrupted() {
        let lua = test_lua(&test_context_of(test_app(), Clock::system()));
        lua.set_interrupt(|_| Err(Error::runtime("over budget")));
        let decode: mlua::Function =
            lua.globals().get::<Table>("relay").unwrap().get::<Table>("json").unwrap().get("decode").unwrap();
        let text = format!("[{}1]", "1,".repeat(10_000));
        let error = decode.call::<Value>(text).unwrap_err();
        assert!(error.to_string().contains("over budget"), "{error}");
    }

    /// Data that JSON can hold.
    fn jsonable() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::{Value, json};
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(|b| json!(b)),
            (-(1_i64 << 53)..=1 << 53).prop_map(|i| json!(i)),
            any::<f64>().prop_filter("a fraction", |n| n.is_finite() && n.fract() != 0.0).prop_map(|n| json!(n)),
            any::<String>().prop_map(|s| json!(s)),
        ];
        leaf.prop_recursive(4, 40, 6, |element| {
            prop_oneof![
                prop::collection::vec(element.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), element, 1..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_goes_through_lua_unchanged(data in jsonable(), pretty in any::<bool>()) {
            let lua = Lua::new();
            let text = if pretty { serde_json::to_string_pretty(&data) } else { serde_json::to_string(&data) }.unwrap();
            // Read by the same reader as the results below, whose floats may be off by one bit.
            let data: serde_json::Value = serde_json::from_str(&text).unwrap();
            let value = decode_bytes(&lua, text.as_bytes(), 64, false).unwrap();
            let mut out = Vec::new();
            encode_into(&value, 64, &mut out).unwrap();
            prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).unwrap(), data.clone());
            // And as plain data, in another VM.
            let other = Lua::new();
            let value = from_plain(&other, &to_plain(&value, "value").unwrap()).unwrap();
            let mut out = Vec::new();
            encode_into(&value, 64, &mut out).unwrap();
            prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).unwrap(), data);
        }

        #[test]
        fn it_reads_what_serde_json_reads(text in "[\\[\\]{}:,\"\\\\0-9eE.+ntrufalse \\-]{0,12}") {
            let lua = Lua::new();
            let ours = decoded(&lua, &text).is_ok();
            let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            prop_assert_eq!(ours, theirs, "{}", text);
        }
    }
}
