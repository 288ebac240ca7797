//! `moonwire store`: looks into the store and mends it, beside a running relay or without one.

use std::{fs, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use data_encoding::BASE64;
use serde_json::{Map, Value, json};

use super::{ConfigFile, FAILED, Failure, MISTAKE, OK, Status, Streams, load_config, shown};
use crate::{
    clock::Clock,
    config::{Config, parse_duration},
    plain::{Plain, PlainTable},
    store::{Database, KEY_MAX, Range, Why, decode, encode},
    visible::visible,
};

const PAGE: usize = 100;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Values are JSON. What JSON cannot say is shown as {\"base64\": \"…\"}.

Examples:
  moonwire store list --prefix user.
  moonwire store get user.42
  moonwire store set motd '\"Welcome\"' --ttl 7d
  moonwire store backup /var/backups/moonwire.db
  moonwire store verify";

#[derive(Debug, Subcommand)]
enum Command {
    /// Print keys and values in order, one JSON object on each line
    List {
        #[command(flatten)]
        of: Of,
        /// Only keys that begin with this
        #[arg(long, default_value = "")]
        prefix: String,
        /// Only keys behind this one
        #[arg(long)]
        after: Option<String>,
        /// At most so many
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Print the value of a key
    Get {
        #[command(flatten)]
        of: Of,
        key: String,
    },
    /// Set a key, whatever was there
    Set {
        #[command(flatten)]
        of: Of,
        key: String,
        /// The value as JSON
        json: String,
        /// How long it lives: 30s, 7d
        #[arg(long)]
        ttl: Option<String>,
    },
    /// Remove a key
    Delete {
        #[command(flatten)]
        of: Of,
        key: String,
    },
    /// Copy the whole store into a new file, while the relay runs
    Backup {
        #[command(flatten)]
        config: ConfigFile,
        file: PathBuf,
    },
    /// Check the file and every value in it
    Verify {
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Debug, Args)]
struct Of {
    #[command(flatten)]
    config: ConfigFile,
    /// The app whose store is meant; the only one of the config need not be named
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
}

pub(super) fn run(options: Options, before: Option<PathBuf>, streams: &mut Streams) -> Result<Status, Failure> {
    let now = i64::try_from(Clock::system().unix().as_millis()).unwrap_or(i64::MAX);
    let open_of = |of: Of| -> Result<(Database, String), Failure> {
        let config = load_config(of.config.config.or(before.clone()).as_deref())?;
        let app = app(&config, of.app)?;
        Ok((open(&config)?, app))
    };
    match options.command {
        Command::List { of, prefix, after, limit } => {
            let (database, app) = open_of(of)?;
            let range = Range { prefix: prefix.into(), after: after.map(Into::into), limit: 0 };
            list(&database, &app, range, limit.unwrap_or(usize::MAX), now, streams)
        }
        Command::Get { of, key } => {
            let (database, app) = open_of(of)?;
            let Some(bytes) = database.get(&app, key.as_bytes(), now).map_err(failed)? else {
                return Err(absent(&app, &key));
            };
            let value = readable(key.as_bytes(), &bytes)?;
            writeln!(streams.out, "{}", json_of(&value))?;
            Ok(OK)
        }
        Command::Set { of, key, json, ttl } => {
            if key.is_empty() || key.len() > KEY_MAX {
                return Err(mistake(format!("a key has 1 to {KEY_MAX} bytes")));
            }
            let json: Value = serde_json::from_str(&json)
                .map_err(|error| mistake(format!("this is no JSON: {error}\n  text stands in quotes: '\"text\"'")))?;
            let ttl = ttl.map(|ttl| parse_duration(&ttl).map_err(|why| mistake(format!("--ttl {why}")))).transpose()?;
            let expires =
                ttl.map(|ttl: Duration| now.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX)));
            let bytes = encode(&plain_of(&json));
            decode(&bytes).map_err(|why| mistake(format!("this value cannot be stored: {why}")))?;
            let (database, app) = open_of(of)?;
            database.put(&app, key.as_bytes(), &bytes, expires).map_err(failed)?;
            Ok(OK)
        }
        Command::Delete { of, key } => {
            let (database, app) = open_of(of)?;
            match database.remove(&app, key.as_bytes(), now).map_err(failed)? {
                true => Ok(OK),
                false => Err(absent(&app, &key)),
            }
        }
        Command::Backup { config, file } => {
            let config = load_config(config.config.or(before).as_deref())?;
            if file.exists() {
                let why = format!("{} is there already; a backup is a new file", shown(&file));
                return Err(Failure::Told(FAILED, why));
            }
            let database = open(&config)?;
            if let Err(why) = database.backup(&file) {
                // A part of a backup must not be taken for one.
                let _ = fs::remove_file(&file);
                return Err(failed(why));
            }
            writeln!(streams.out, "copied to {}", shown(&file))?;
            Ok(OK)
        }
        Command::Verify { config } => {
            let config = load_config(config.config.or(before).as_deref())?;
            let (values, wrong) = open(&config)?.verify().map_err(failed)?;
            for what in &wrong {
                writeln!(streams.out, "{}", visible(what))?;
            }
            let path = shown(&config.store.path);
            match wrong.len() {
                0 => writeln!(streams.out, "{path}: ok, {values} values")?,
                problems => writeln!(streams.out, "{path}: damaged, {problems} problems, {values} values")?,
            }
            Ok(if wrong.is_empty() { OK } else { FAILED })
        }
    }
}

fn list(
    database: &Database,
    app: &str,
    mut range: Range,
    mut left: usize,
    now: i64,
    streams: &mut Streams,
) -> Result<Status, Failure> {
    while left > 0 {
        range.limit = left.min(PAGE);
        let pairs = database.list(app, &range, now, usize::MAX).map_err(failed)?;
        let Some((last, _)) = pairs.last() else { break };
        range.after = Some(last.clone());
        left -= pairs.len();
        for (key, bytes) in &pairs {
            let value = readable(key, bytes)?;
            writeln!(streams.out, "{}", json!({ "key": json_of(&Plain::string(key)), "value": json_of(&value) }))?;
        }
    }
    Ok(OK)
}

fn open(config: &Config) -> Result<Database, Failure> {
    let path = &config.store.path;
    if !path.exists() {
        let why = format!(
            "there is no store at {}: no script has used relay.store yet, or store.path is another",
            shown(path)
        );
        return Err(Failure::Told(FAILED, why));
    }
    Database::open_existing(path).map_err(failed)
}

fn app(config: &Config, given: Option<String>) -> Result<String, Failure> {
    let names: Vec<&str> = config.apps.iter().map(|app| app.name.as_str()).collect();
    match (given, names.as_slice()) {
        // Not only those of the config: an app that was taken out of it may have left something.
        (Some(name), _) => Ok(name),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => Err(mistake(format!("which app? name it with --app (there are {})", names.join(", ")))),
    }
}

fn readable(key: &[u8], bytes: &[u8]) -> Result<Plain, Failure> {
    decode(bytes).map_err(|what| failed(Why::Unreadable { key: key.escape_ascii().to_string(), what }))
}

fn absent(app: &str, key: &str) -> Failure {
    Failure::Told(FAILED, format!("the store of {} has no key {}", visible(app), visible(key)))
}

fn failed(why: Why) -> Failure {
    Failure::Told(FAILED, visible(&why.to_string()).into_owned())
}

fn mistake(what: String) -> Failure {
    Failure::Told(MISTAKE, what)
}

/// As a script's JSON would have it; what JSON has no word for is shown in base64.
fn json_of(value: &Plain) -> Value {
    let bytes = |bytes: &[u8]| json!({ "base64": BASE64.encode(bytes) });
    match value {
        Plain::Nil | Plain::JsonNull => Value::Null,
        Plain::Bool(flag) => Value::Bool(*flag),
        Plain::Number(number) if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 => {
            Value::from(*number as i64)
        }
        Plain::Number(number) => Value::from(*number),
        Plain::String(text) => match str::from_utf8(text) {
            Ok(text) => Value::from(text),
            Err(_) => bytes(text),
        },
        Plain::Buffer(buffer) => bytes(buffer),
        Plain::Table(table) if table.pairs.is_empty() && (table.json_array || !table.array.is_empty()) => {
            table.array.iter().map(json_of).collect()
        }
        Plain::Table(table) => {
            let mut map = Map::new();
            for (place, value) in table.array.iter().enumerate() {
                map.insert((place + 1).to_string(), json_of(value));
            }
            for (key, value) in &table.pairs {
                let key = match json_of(key) {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                map.insert(key, json_of(value));
            }
            Value::Object(map)
        }
    }
}

/// As `relay.json.decode` would have it.
fn plain_of(json: &Value) -> Plain {
    match json {
        Value::Null => Plain::JsonNull,
        Value::Bool(flag) => Plain::Bool(*flag),
        Value::Number(number) => Plain::Number(number.as_f64().unwrap_or_default()),
        Value::String(text) => Plain::string(text),
        Value::Array(items) => Plain::Table(Box::new(PlainTable {
            array: items.iter().map(plain_of).collect(),
            json_array: items.is_empty(),
            ..PlainTable::default()
        })),
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| (Plain::string(key), plain_of(value))).collect();
            Plain::Table(Box::new(PlainTable { pairs, ..PlainTable::default() }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_comes_back_as_it_was_stored() {
        let check = |text: &str| {
            let value = plain_of(&serde_json::from_str(text).unwrap());
            assert_eq!(json_of(&decode(&encode(&value)).unwrap()).to_string(), text);
        };
        check(r#"{"a":[1,-2.5,null,true],"b":{"c":"d"},"e":[],"f":{}}"#);
        check("\"text\"");
        check("12345678901");
    }

    #[test]
    fn what_is_no_text_is_shown_in_base64() {
        assert_eq!(json_of(&Plain::string(b"\xff")), json!({ "base64": "/w==" }));
        let table = PlainTable {
            array: vec![Plain::Bool(true)],
            pairs: vec![(Plain::Number(7.5), Plain::Nil)],
            ..PlainTable::default()
        };
        assert_eq!(json_of(&Plain::Table(Box::new(table))), json!({ "1": true, "7.5": null }));
    }
}
