//! Between Lua values and plain data, and the freezing of what has been copied.

use std::{collections::HashSet, ffi::c_void, fmt};

use mlua::{Lua, Result, Table, Value};

use crate::{
    plain::{Plain, PlainTable},
    script::args::type_name,
};

/// How deep plain data may be. It is part of the contract with scripts, and so not a setting.
pub const DEPTH_MAX: usize = 64;

/// What of a value is not plain data, and where: `relay.state.users[3].callback is a function, which is not plain data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotPlain {
    pub path: String,
    pub what: String,
}

impl fmt::Display for NotPlain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.what)
    }
}

impl std::error::Error for NotPlain {}

/// A Lua value as plain data. `root` is what the script calls it.
pub fn to_plain(value: &Value, root: &str) -> std::result::Result<Plain, NotPlain> {
    Copier::default().copy(value, root)
}

/// Copies several values that must not share a table, such as `relay.state` and every `conn.state`.
#[derive(Debug, Default)]
pub struct Copier {
    /// Tables that were met before. They are compared by address, so they must stay alive between the copies.
    seen: HashSet<*const c_void>,
}

impl Copier {
    pub fn copy(&mut self, value: &Value, root: &str) -> std::result::Result<Plain, NotPlain> {
        self.value(value, 0).map_err(|problem| problem.under(root))
    }

    fn value(&mut self, value: &Value, depth: usize) -> std::result::Result<Plain, Problem> {
        Ok(match value {
            Value::Nil => Plain::Nil,
            Value::Boolean(b) => Plain::Bool(*b),
            Value::Integer(i) => Plain::Number(*i as f64),
            Value::Number(n) => Plain::Number(*n),
            Value::String(s) => Plain::String((*s.as_bytes()).into()),
            Value::Buffer(b) => Plain::Buffer(b.to_vec().into()),
            Value::Table(t) => Plain::Table(Box::new(self.table(t, depth + 1)?)),
            null if null.is_null() => Plain::JsonNull,
            other => {
                return Err(Problem::new(format!("is a {}, which is not plain data", type_name(other))));
            }
        })
    }

    fn table(&mut self, table: &Table, depth: usize) -> std::result::Result<PlainTable, Problem> {
        if depth > DEPTH_MAX {
            return Err(Problem::new(format!("is more than {DEPTH_MAX} tables deep")));
        }
        if !self.seen.insert(table.to_pointer()) {
            return Err(Problem::new("is a table that is reachable twice (a copy would make two of it)"));
        }
        let json_array = match table.metatable() {
            None => false,
            Some(metatable) if is_json_array_mark(&metatable) => true,
            Some(_) => return Err(Problem::new("has a metatable, which is not plain data")),
        };
        let mut copy = PlainTable { json_array, ..PlainTable::default() };
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair.map_err(|error| Problem::new(format!("cannot be read: {error}")))?;
            let element = self.value(&value, depth).map_err(|problem| problem.inside(&key))?;
            match &key {
                Value::Integer(i) if *i == copy.array.len() as i64 + 1 => copy.array.push(element),
                Value::Number(n) if !n.is_finite() => {
                    return Err(Problem::new(format!("has the key {n}, which is not plain data")));
                }
                Value::Integer(_) | Value::Number(_) | Value::String(_) | Value::Boolean(_) => {
                    copy.pairs.push((self.value(&key, depth)?, element));
                }
                other => {
                    return Err(Problem::new(format!("has a {} as a key, which is not plain data", type_name(other))));
                }
            }
        }
        Ok(copy)
    }
}

/// Plain data as a Lua value.
pub fn from_plain(lua: &Lua, plain: &Plain) -> Result<Value> {
    Ok(match plain {
        Plain::Nil => Value::Nil,
        Plain::Bool(b) => Value::Boolean(*b),
        Plain::Number(n) => Value::Number(*n),
        Plain::String(s) => Value::String(lua.create_string(s)?),
        Plain::Buffer(b) => Value::Buffer(lua.create_buffer(b)?),
        Plain::JsonNull => Value::NULL,
        Plain::Table(plain) => {
            let table = lua.create_table_with_capacity(plain.array.len(), plain.pairs.len())?;
            for (index, value) in (1_i64..).zip(&plain.array) {
                table.raw_set(index, from_plain(lua, value)?)?;
            }
            for (key, value) in &plain.pairs {
                table.raw_set(from_plain(lua, key)?, from_plain(lua, value)?)?;
            }
            if plain.json_array {
                table.set_metatable(Some(json_array_mark(lua)?))?;
            }
            Value::Table(table)
        }
    })
}

/// The tables that a `freeze` has made read-only, so that they can be released.
#[derive(Debug)]
pub struct Frozen {
    /// Kept in one Lua table: handles are scarce, and a state may have a million tables.
    tables: Table,
}

impl Frozen {
    pub fn thaw(self) -> Result<()> {
        for table in self.tables.sequence_values::<Table>() {
            table?.set_readonly(false);
        }
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.tables.raw_len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Makes every table that is reachable from `value` read-only, or none. What a script froze itself is not in the list.
pub fn freeze(lua: &Lua, value: &Value) -> Result<Frozen> {
    let frozen = Frozen { tables: lua.create_table()? };
    match freeze_into(lua, value, &frozen.tables) {
        Ok(()) => Ok(frozen),
        Err(error) => {
            frozen.thaw()?;
            Err(error)
        }
    }
}

fn freeze_into(lua: &Lua, value: &Value, frozen: &Table) -> Result<()> {
    // A work list in Lua instead of recursion: the data may be of any depth, and have cycles.
    let reached = lua.create_table()?;
    let mut already_frozen: HashSet<*const c_void> = HashSet::new();
    let mut reach = |value: &Value| -> Result<()> {
        let Value::Table(table) = value else { return Ok(()) };
        if !table.is_readonly() {
            // Listed first: what cannot be listed must stay as it is.
            frozen.raw_push(table)?;
            table.set_readonly(true);
            reached.raw_push(table)?;
        } else if already_frozen.insert(table.to_pointer()) {
            reached.raw_push(table)?;
        }
        Ok(())
    };
    reach(value)?;
    let mut next = 1;
    while let Some(table) = reached.raw_get::<Option<Table>>(next)? {
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair?;
            reach(&key)?;
            reach(&value)?;
        }
        next += 1;
    }
    // What was just frozen is met as read-only when it is reached again, and is then walked once more; no harm.
    Ok(())
}

const MARK: &str = "moonwire.json.array";

/// The metatable that marks an empty table as a JSON array.
pub fn json_array_mark(lua: &Lua) -> Result<Table> {
    if let Some(mark) = lua.named_registry_value::<Option<Table>>(MARK)? {
        return Ok(mark);
    }
    let mark = lua.create_table()?;
    mark.set_readonly(true);
    lua.set_named_registry_value(MARK, &mark)?;
    Ok(mark)
}

/// Whether a table's metatable is the mark of JSON arrays.
pub fn is_json_array_mark(metatable: &Table) -> bool {
    let lua = metatable.weak_lua().upgrade();
    json_array_mark(&lua).is_ok_and(|mark| mark.to_pointer() == metatable.to_pointer())
}

/// What is wrong, and on which keys it lies; the path is put together on the way out.
#[derive(Debug)]
pub(super) struct Problem {
    what: String,
    /// From the innermost outwards.
    steps: Vec<String>,
}

impl Problem {
    pub(super) fn new(what: impl Into<String>) -> Problem {
        Problem { what: what.into(), steps: Vec::new() }
    }

    pub(super) fn inside(mut self, key: &Value) -> Problem {
        const STEPS_SHOWN: usize = 12;
        if self.steps.len() < STEPS_SHOWN {
            self.steps.push(step(key));
        } else if self.steps.len() == STEPS_SHOWN {
            self.steps.push("…".to_owned());
        }
        self
    }

    pub(super) fn under(self, root: &str) -> NotPlain {
        let mut path = root.to_owned();
        path.extend(self.steps.into_iter().rev());
        NotPlain { path, what: self.what }
    }
}

/// A key as one step of a path: `.name`, `[3]`, `["a b"]`.
fn step(key: &Value) -> String {
    const TEXT_MAX: usize = 64;
    match key {
        Value::String(s) => {
            let text = s.to_string_lossy();
            let is_name = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && !text.bytes().next().is_none_or(|b| b.is_ascii_digit());
            if is_name && text.len() <= TEXT_MAX {
                format!(".{text}")
            } else {
                format!("[{:?}]", text.chars().take(TEXT_MAX).collect::<String>())
            }
        }
        Value::Integer(i) => format!("[{i}]"),
        Value::Number(n) => format!("[{n}]"),
        Value::Boolean(b) => format!("[{b}]"),
        other => format!("[{}]", type_name(other)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any plain data, not too large.
    pub fn plain() -> impl Strategy<Value = Plain> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..12);
        let leaf = prop_oneof![
            any::<bool>().prop_map(Plain::Bool),
            any::<i32>().prop_map(|n| Plain::Number(f64::from(n))),
            (-1e9..1e9).prop_map(Plain::Number),
            Just(Plain::JsonNull),
            bytes().prop_map(Plain::string),
            bytes().prop_map(|b| Plain::Buffer(b.into())),
        ];
        leaf.prop_recursive(4, 40, 6, |element| {
            let key = prop_oneof![
                "[a-z]{1,4}".prop_map(Plain::string),
                (-100_i32..0).prop_map(|n| Plain::Number(f64::from(n)))
            ];
            (prop::collection::vec(element.clone(), 0..5), prop::collection::vec((key, element), 0..5), any::<bool>())
                .prop_map(|(array, mut pairs, json_array)| {
                    pairs.sort_by_key(|(key, _)| format!("{key:?}"));
                    pairs.dedup_by(|a, b| a.0 == b.0);
                    Plain::Table(Box::new(PlainTable { array, pairs, json_array }))
                })
        })
    }

    /// The same data with its pairs in one order, to compare.
    fn sorted(plain: Plain) -> Plain {
        let Plain::Table(mut table) = plain else {
            return plain;
        };
        table.array = table.array.into_iter().map(sorted).collect();
        table.pairs = table.pairs.into_iter().map(|(key, value)| (key, sorted(value))).collect();
        table.pairs.sort_by_key(|(key, _)| format!("{key:?}"));
        Plain::Table(table)
    }

    proptest! {
        #[test]
        fn plain_data_comes_back_from_lua_as_it_went_in(data in plain()) {
            let lua = Lua::new();
            let value = from_plain(&lua, &data).unwrap();
            prop_assert_eq!(sorted(to_plain(&value, "data").unwrap()), sorted(data));
        }
    }

    fn refused(source: &str) -> String {
        let lua = Lua::new();
        let value: Value = lua.load(source).eval().unwrap();
        to_plain(&value, "relay.state").unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_plain_is_named_by_its_path() {
        assert_eq!(
            refused("return { users = { 1, 2, { callback = print } } }"),
            "relay.state.users[3].callback is a function, which is not plain data"
        );
        assert_eq!(
            refused("return { ['a b'] = coroutine.create(print) }"),
            "relay.state[\"a b\"] is a thread, which is not plain data"
        );
        assert_eq!(
            refused("return { a = setmetatable({}, {}) }"),
            "relay.state.a has a metatable, which is not plain data"
        );
        assert_eq!(
            refused("return { a = { [{}] = 1 } }"),
            "relay.state.a has a table as a key, which is not plain data"
        );
        assert_eq!(refused("return { [math.huge] = 1 }"), "relay.state has the key inf, which is not plain data");
        assert_eq!(
            refused("return { v = vector.create(1, 2, 3) }"),
            "relay.state.v is a vector, which is not plain data"
        );
        let twice = refused("local t = {} return { a = t, b = { t } }");
        assert!(twice.contains("is a table that is reachable twice"), "{twice}");
        let cycle = refused("local t = {} t.t = t return t");
        assert!(cycle.starts_with("relay.state.t is a table that is reachable twice"), "{cycle}");
    }

    #[test]
    fn data_may_be_64_tables_deep_and_no_deeper() {
        let lua = Lua::new();
        let nested = |depth: usize| -> Value {
            lua.load("local t = {} for _ = 2, ... do t = { t } end return t").call(depth).unwrap()
        };
        assert!(to_plain(&nested(64), "t").is_ok());
        let refused = to_plain(&nested(65), "t").unwrap_err();
        assert!(refused.to_string().ends_with("is more than 64 tables deep"), "{refused}");
        assert!(to_plain(&nested(100_000), "t").is_err());
    }

    #[test]
    fn two_roots_may_not_share_a_table() {
        let lua = Lua::new();
        let (a, b): (Value, Value) = lua.load("local t = {} return { t }, { x = t }").eval().unwrap();
        let mut copier = Copier::default();
        copier.copy(&a, "relay.state").unwrap();
        assert_eq!(copier.copy(&b, "conn.state").unwrap_err().path, "conn.state.x");
    }

    #[test]
    fn a_frozen_source_refuses_writes_until_it_is_thawed() {
        let lua = Lua::new();
        let value: Value = lua
            .load(
                "local own = table.freeze({ inner = {} }) local t = { a = { b = {} }, own = own } t.cycle = t return t",
            )
            .eval()
            .unwrap();
        lua.globals().set("t", &value).unwrap();
        let frozen = freeze(&lua, &value).unwrap();
        assert_eq!(frozen.len(), 4);
        for write in ["t.x = 1", "t.a.x = 1", "t.a.b.x = 1", "t.own.inner.x = 1"] {
            assert!(lua.load(write).exec().is_err(), "{write}");
        }
        frozen.thaw().unwrap();
        lua.load("t.x = 1 t.a.x = 1 t.a.b.x = 1 t.own.inner.x = 1").exec().unwrap();
        assert!(lua.load("t.own.x = 1").exec().is_err());
    }
}
