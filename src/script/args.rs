//! The words in which a script hears that an argument is wrong.

use std::time::Duration;

use mlua::{Error, Result, Table, Value};

/// `conn:send(data): data must be a string, got table`, raised at the script's line.
pub fn wrong(function: &str, argument: &str, wanted: &str, got: &Value) -> Error {
    mistake(function, &format!("{argument} must be {wanted}, got {}", type_name(got)))
}

/// A mistake of another kind in a call of `function`.
pub fn mistake(function: &str, what: &str) -> Error {
    Error::runtime(format!("{function}: {what}"))
}

/// The type as a script author would say it.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Boolean(_) => "boolean",
        Value::Integer(_) | Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Table(_) => "table",
        Value::Function(_) => "function",
        Value::Thread(_) => "thread",
        Value::Buffer(_) => "buffer",
        Value::Vector(_) => "vector",
        _ => "userdata",
    }
}

/// A string argument. Numbers are not strings here: a mistake is better told than sent.
pub fn string(function: &str, argument: &str, value: &Value) -> Result<mlua::LuaString> {
    match value {
        Value::String(s) => Ok(s.clone()),
        other => Err(wrong(function, argument, "a string", other)),
    }
}

/// A finite number argument.
pub fn number(function: &str, argument: &str, value: &Value) -> Result<f64> {
    let number = match value {
        Value::Integer(i) => *i as f64,
        Value::Number(n) => *n,
        other => return Err(wrong(function, argument, "a number", other)),
    };
    if number.is_finite() { Ok(number) } else { Err(mistake(function, &format!("{argument} must be a finite number"))) }
}

/// A whole number argument between `min` and `max`.
pub fn integer(function: &str, argument: &str, value: &Value, min: i64, max: i64) -> Result<i64> {
    let number = number(function, argument, value)?;
    let whole = number as i64;
    if whole as f64 == number && (min..=max).contains(&whole) {
        Ok(whole)
    } else {
        Err(mistake(function, &format!("{argument} must be a whole number from {min} to {max}, got {number}")))
    }
}

/// A boolean argument; nil is false.
pub fn flag(function: &str, argument: &str, value: &Value) -> Result<bool> {
    match value {
        Value::Nil => Ok(false),
        Value::Boolean(flag) => Ok(*flag),
        other => Err(wrong(function, argument, "true or false", other)),
    }
}

/// Seconds, or a string such as `"7d"`, `"250ms"`, `"1h"`.
pub fn duration(function: &str, argument: &str, value: &Value) -> Result<Duration> {
    if let Value::String(text) = value {
        return text.to_str().ok().and_then(|text| crate::config::parse_duration(&text).ok()).ok_or_else(|| {
            mistake(
                function,
                &format!(
                    "{argument} must be seconds or a string such as \"30s\" or \"7d\", got \"{}\"",
                    text.display()
                ),
            )
        });
    }
    if !matches!(value, Value::Integer(_) | Value::Number(_)) {
        return Err(wrong(function, argument, "seconds, or a string such as \"30s\"", value));
    }
    let seconds = number(function, argument, value)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        let what = if seconds < 0.0 { "must not be negative" } else { "is too long" };
        mistake(function, &format!("{argument} {what}, got {seconds}"))
    })
}

/// An options argument: nil, or a table that has no other keys than `known`.
pub fn options(function: &str, value: &Value, known: &[&str]) -> Result<Option<Table>> {
    let table = match value {
        Value::Nil => return Ok(None),
        Value::Table(table) => table.clone(),
        other => return Err(wrong(function, "options", "a table", other)),
    };
    for pair in table.pairs::<Value, Value>() {
        let (key, _) = pair?;
        let name = key.as_string().map(|key| key.to_string_lossy());
        if !name.as_deref().is_some_and(|name| known.contains(&name)) {
            let name = name.unwrap_or_else(|| type_name(&key).to_owned());
            let takes = if known.is_empty() { "no options".to_owned() } else { known.join(", ") };
            return Err(mistake(function, &format!("unknown option '{name}' (it takes {takes})")));
        }
    }
    Ok(Some(table))
}
