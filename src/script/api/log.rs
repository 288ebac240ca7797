//! `relay.log` and `print`: what scripts say, as log events that carry where they said it.

use std::rc::Rc;

use mlua::{Lua, MultiValue, Result, Table, Value};
use tracing::Level;

use crate::{
    script::{
        Context,
        api::json::{EncodeError, encode_into},
        args,
    },
    visible::beginning,
};

/// Bytes of one message, and of its fields; a longer message is cut, longer fields are left out.
const BYTES_MAX: usize = 16 * 1024;

pub fn register(lua: &Lua, relay: &Table, context: &Rc<Context>) -> Result<()> {
    let log = lua.create_table()?;
    for (name, function, level) in [
        ("debug", "relay.log.debug(message, fields)", Level::DEBUG),
        ("info", "relay.log.info(message, fields)", Level::INFO),
        ("warn", "relay.log.warn(message, fields)", Level::WARN),
        ("error", "relay.log.error(message, fields)", Level::ERROR),
    ] {
        let context = context.clone();
        let write = lua.create_function(move |_, (message, fields): (Value, Value)| {
            // Checked even when nobody listens: the level of the log must not decide whether a script raises.
            let fields = encode_fields(function, &fields, context.app.limits.json_depth)?;
            event(&context, level, &text(&message)?, fields.as_deref());
            Ok(())
        })?;
        log.raw_set(name, write)?;
    }
    relay.raw_set("log", log)?;

    let context = context.clone();
    let print = lua.create_function(move |_, values: MultiValue| {
        let texts = values.iter().map(text).collect::<Result<Vec<String>>>()?;
        event(&context, Level::INFO, &texts.join("\t"), None);
        Ok(())
    })?;
    lua.globals().raw_set("print", print)
}

fn text(value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.to_string_lossy()),
        // Asks `__tostring`.
        other => other.to_string(),
    }
}

fn encode_fields(function: &str, fields: &Value, depth_max: usize) -> Result<Option<String>> {
    match fields {
        Value::Nil => return Ok(None),
        Value::Table(_) => {}
        other => return Err(args::wrong(function, "fields", "a table", other)),
    }
    let mut out = Vec::new();
    let json = match encode_into(fields, depth_max, &mut out) {
        Ok(()) if out.len() <= BYTES_MAX => String::from_utf8(out).unwrap_or_default(),
        Ok(()) => format!("fields were left out: they are longer than {BYTES_MAX} bytes"),
        Err(EncodeError::World(why)) => format!("fields were left out: {why}"),
        Err(EncodeError::Mistake(problem)) => {
            return Err(args::mistake(function, &problem.to_string()));
        }
        Err(EncodeError::Lua(error)) => return Err(error),
    };
    Ok(Some(json))
}

fn event(context: &Context, level: Level, message: &str, fields: Option<&str>) {
    let message = beginning(message, BYTES_MAX);
    let current = context.current.borrow();
    let conn = current.as_deref();
    // A macro, since the level is part of each event's static description.
    macro_rules! write {
        ($level:expr) => {
            tracing::event!(
                target: "script.log",
                $level,
                app = context.app.name,
                generation = context.generation,
                instance = context.place + 1,
                connection = conn.map(|conn| &*conn.text),
                user = conn.and_then(|conn| conn.user()),
                fields,
                "{message}"
            )
        };
    }
    match level {
        Level::ERROR => write!(Level::ERROR),
        Level::WARN => write!(Level::WARN),
        Level::INFO => write!(Level::INFO),
        _ => write!(Level::DEBUG),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use crate::script::api::tests::{check, check_raises};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(source: &str) -> Vec<serde_json::Value> {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || check(source));
        let lines = sink.0.lock().unwrap().clone();
        String::from_utf8(lines).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_carries_app_generation_instance_and_its_fields() {
        let lines = logged("relay.log.warn('slow', { room = 'r', n = 2 }) relay.log.debug(12)");
        assert_eq!(lines[0]["level"], "WARN");
        assert_eq!(lines[0]["target"], "script.log");
        assert_eq!(lines[0]["message"], "slow");
        assert_eq!(lines[0]["app"], "chat");
        assert_eq!(lines[0]["generation"], 1);
        assert_eq!(lines[0]["instance"], 1);
        let fields: serde_json::Value = serde_json::from_str(lines[0]["fields"].as_str().unwrap()).unwrap();
        assert_eq!(fields, serde_json::json!({ "room": "r", "n": 2 }));
        assert_eq!(lines[1]["message"], "12");
        assert_eq!(lines[1].get("fields"), None);
    }

    #[test]
    fn print_is_info_joined_by_tabs() {
        let lines = logged("print('a\\nb', nil, true, setmetatable({}, { __tostring = function() return 'me' end }))");
        assert_eq!(lines[0]["message"], "a\nb\tnil\ttrue\tme");
        assert_eq!(lines[0]["level"], "INFO");
    }

    #[test]
    fn what_is_too_long_is_cut_and_what_is_no_field_raises() {
        let lines = logged(
            "relay.log.info(string.rep('ä', 20000), { text = string.rep('x', 20000) }) relay.log.info('n', { x = 0/0 })",
        );
        assert_eq!(lines[0]["message"].as_str().unwrap().len(), 16 * 1024);
        assert!(lines[0]["fields"].as_str().unwrap().starts_with("fields were left out: they are longer"));
        assert!(lines[1]["fields"].as_str().unwrap().starts_with("fields were left out: value.x"));
        check_raises("relay.log.info('x', 1)", "relay.log.info(message, fields): fields must be a table, got number");
        check_raises("relay.log.info('x', { f = print })", "value.f is a function");
    }
}
