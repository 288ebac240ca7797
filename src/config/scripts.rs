//! What a script reads as `relay.config`: an app's `settings`, whose names and kinds are the script's own.

use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use super::value::{Given, Value, Wrong};
use crate::plain::{Plain, PlainTable};

pub fn plain_table(given: &Given) -> Result<Plain, Wrong> {
    match given.value {
        Value::Toml(DeValue::Table(table)) => table_to_plain(table),
        Value::Toml(_) => Err(given.must_be("a table").hint("write it below [app.settings]")),
        Value::Text(_) => Err(given.wrong("must say which setting it sets").hint("add `__` and the setting's name")),
    }
}

fn table_to_plain(table: &DeTable) -> Result<Plain, Wrong> {
    let mut pairs: Vec<_> = table.iter().collect();
    pairs.sort_by_key(|(key, _)| key.span().start);
    let pairs = pairs
        .into_iter()
        .map(|(key, value)| Ok((Plain::string(key.get_ref().as_bytes()), to_plain(value)?)))
        .collect::<Result<_, Wrong>>()?;
    Ok(Plain::Table(Box::new(PlainTable { pairs, ..PlainTable::default() })))
}

fn to_plain(value: &Spanned<DeValue>) -> Result<Plain, Wrong> {
    let wrong =
        |what: &str, hint: &str| Wrong { what: what.to_owned(), hint: Some(hint.to_owned()), span: value.span() };
    match value.get_ref() {
        DeValue::String(text) => Ok(Plain::string(text.as_bytes())),
        DeValue::Integer(number) => number_to_plain(number).ok_or_else(|| {
            wrong("has a number beyond ±2^53, which scripts cannot tell from its neighbours", "write it as a string")
        }),
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map(Plain::Number)
            .map_err(|_| wrong("has a number that cannot be read", "write 0.5")),
        DeValue::Boolean(flag) => Ok(Plain::Bool(*flag)),
        DeValue::Datetime(time) => Ok(Plain::string(time.to_string())),
        DeValue::Array(items) => {
            let array = items.iter().map(to_plain).collect::<Result<Vec<_>, _>>()?;
            // What is written as a list stays one in JSON.
            let json_array = array.is_empty();
            Ok(Plain::Table(Box::new(PlainTable { array, json_array, pairs: Vec::new() })))
        }
        DeValue::Table(table) => table_to_plain(table),
    }
}

fn number_to_plain(number: &DeInteger) -> Option<Plain> {
    let whole = i64::from_str_radix(number.as_str(), number.radix()).ok()?;
    (whole.unsigned_abs() <= 1 << 53).then_some(Plain::Number(whole as f64))
}

/// Puts a variable's `text` into an app's settings, where `keys` lead: as the kind that is there already,
/// or as a string.
pub fn set(settings: &mut Plain, keys: &[&str], text: &str) -> Result<(), String> {
    let Some((key, rest)) = keys.split_first() else {
        return replace(settings, text);
    };
    let Plain::Table(table) = settings else {
        return Err("goes below a setting that is no table".to_owned());
    };
    let place = match table.pairs.iter().position(|(name, _)| is_key(name, key)) {
        Some(place) => place,
        None => {
            let value = if rest.is_empty() { Plain::string("") } else { Plain::Table(Box::default()) };
            table.pairs.push((Plain::string(key.to_lowercase()), value));
            table.pairs.len() - 1
        }
    };
    set(&mut table.pairs[place].1, rest, text)
}

/// Whether an app's settings have something where `keys` lead.
pub fn has(settings: &Plain, keys: &[&str]) -> bool {
    let Some((key, rest)) = keys.split_first() else { return true };
    let Plain::Table(table) = settings else { return false };
    table.pairs.iter().find(|(name, _)| is_key(name, key)).is_some_and(|(_, value)| has(value, rest))
}

/// Variables have no lower case and no hyphens.
fn is_key(name: &Plain, key: &str) -> bool {
    name.as_str().is_some_and(|name| name.replace('-', "_").eq_ignore_ascii_case(key))
}

// The text is not repeated here: it may be a secret.
fn replace(value: &mut Plain, text: &str) -> Result<(), String> {
    *value = match value {
        Plain::Bool(_) => Plain::Bool(text.parse().map_err(|_| "must be true or false".to_owned())?),
        Plain::Number(_) => Plain::Number(text.trim().parse().map_err(|_| "must be a number".to_owned())?),
        Plain::Table(table) if !table.array.is_empty() || table.json_array => {
            let texts: Vec<_> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
            let first = table.array.first().cloned().unwrap_or(Plain::string(""));
            let mut array = vec![first; texts.len()];
            for (item, text) in array.iter_mut().zip(texts) {
                replace(item, text).map_err(|why| format!("is a list, in which each {why}"))?;
            }
            let json_array = array.is_empty();
            Plain::Table(Box::new(PlainTable { array, json_array, pairs: Vec::new() }))
        }
        Plain::Table(_) => return Err("is a table: add `__` and the name of one of its keys".to_owned()),
        _ => Plain::string(text),
    };
    Ok(())
}
