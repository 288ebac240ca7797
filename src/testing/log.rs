//! What the relay and its scripts have logged during one case.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Map, Value};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

use crate::{
    clock::Clock,
    config::{self, LogFormat},
    log::{self, Terminal},
    problem::ScriptProblem,
    visible::visible,
};

/// Lines in JSON, as the log writes them.
#[derive(Clone, Default)]
pub struct Captured(Arc<Mutex<Vec<u8>>>);

pub struct Line {
    pub level: String,
    pub message: String,
    fields: Map<String, Value>,
}

impl Captured {
    /// Everything that this thread logs goes here until the guard is dropped.
    pub fn begin(clock: Clock) -> (Captured, DefaultGuard) {
        let captured = Captured::default();
        let config = config::Log { level: "info,script=trace,script.log=trace".to_owned(), format: LogFormat::Json };
        let terminal = Terminal { people: false, colour: false };
        let (subscriber, _handle) = log::subscriber(&config, captured.clone(), terminal, clock);
        (captured, tracing::subscriber::set_default(subscriber))
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lines(&self) -> Vec<Line> {
        let bytes = self.bytes().clone();
        let text = String::from_utf8_lossy(&bytes);
        let line = |line: &str| {
            let mut fields: Map<String, Value> = serde_json::from_str(line).ok()?;
            let mut text = |name: &str| fields.remove(name).and_then(|value| value.as_str().map(str::to_owned));
            let (level, message) = (text("level")?, text("message")?);
            Some(Line { level, message, fields })
        };
        // A reload that a test asks for is no news.
        text.lines().filter_map(line).collect()
    }
}

impl Line {
    /// As people read it, with the traceback below.
    pub fn shown(&self) -> String {
        let mut shown = format!("{:<5} {}", self.level.to_uppercase(), visible(&self.message).replace("\\t", "  "));
        for (name, value) in &self.fields {
            if !matches!(name.as_str(), "time" | "target" | "traceback" | "app" | "instance") {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                shown.push_str(&format!("  {name}={}", visible(&value)));
            }
        }
        // A script's mistake with its lines, a mark and a hint.
        if self.level == "error" {
            for row in ScriptProblem::new(&*self.message, None, None).to_string().lines().skip(1) {
                shown.push_str(&format!("\n      {row}"));
            }
        }
        let traceback = self.fields.get("traceback").and_then(Value::as_str).unwrap_or_default();
        for row in traceback.lines().filter(|row| !row.trim().is_empty()) {
            shown.push_str(&format!("\n        {}", visible(row.trim())));
        }
        shown
    }
}

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Captured;

    fn make_writer(&'a self) -> Captured {
        self.clone()
    }
}
