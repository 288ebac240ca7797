//! The log: what happens in the relay and in scripts, a line for each event, on stderr.
//!
//! For people on a terminal, in JSON otherwise. What peers and scripts say is data: it cannot start
//! a line, nor move a terminal's cursor.

use std::{
    borrow::Cow,
    collections::VecDeque,
    error::Error,
    fmt,
    io::{IsTerminal, Write as _},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::MakeWriter,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    reload,
};

use crate::{
    clock::{self, Clock},
    config::{self, LogFormat},
    problem::ScriptProblem,
    visible::{beginning, is_hidden, visible},
};

/// The running log: a reload of the config changes its level and format.
#[derive(Clone)]
pub struct Handle {
    filter: reload::Handle<EnvFilter, Registry>,
    lines: Arc<Lines>,
}

/// What the log is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// Somebody reads it as it is written.
    pub people: bool,
    pub colour: bool,
}

/// The target of the errors of scripts. Identical ones are folded, and `log.level` may name it. What scripts themselves
/// say (`relay.log`, target `script.log`) is not.
pub const SCRIPT: &str = "script";

/// Sends the events of this process to stderr.
pub fn init(config: &config::Log, observer: Option<Observer>) -> Handle {
    let (subscriber, handle) = observed(config, std::io::stderr, Terminal::of_stderr(), Clock::system(), observer);
    // A process that has a log already keeps it; the handle then changes nothing.
    let _ = tracing::subscriber::set_global_default(subscriber);
    let lines = handle.lines.clone();
    // Without this thread folded events are told at the next event instead of on time.
    let _ = std::thread::Builder::new().name("moonwire-log".to_owned()).spawn(move || lines.tend());
    handle
}

/// Hears of each error of a script, folded or not.
pub type Observer = Box<dyn Fn(&ScriptEvent) + Send + Sync>;

/// An error of a script, as the log was told of it.
pub struct ScriptEvent {
    pub message: String,
    fields: Fields,
}

impl ScriptEvent {
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.field(name).and_then(Value::as_str)
    }
}

/// The same for any writer, terminal and clock. A level that the config would refuse counts as `info`.
pub fn subscriber<W>(
    config: &config::Log,
    writer: W,
    terminal: Terminal,
    clock: Clock,
) -> (impl Subscriber + Send + Sync + 'static, Handle)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    observed(config, writer, terminal, clock, None)
}

fn observed<W>(
    config: &config::Log,
    writer: W,
    terminal: Terminal,
    clock: Clock,
    observer: Option<Observer>,
) -> (impl Subscriber + Send + Sync + 'static, Handle)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, filter_handle) = reload::Layer::new(filter);
    let lines = Arc::new(Lines {
        state: Mutex::new(State { style: style(config.format, terminal), repeats: VecDeque::new() }),
        wake: Condvar::new(),
        // Whoever reads the log may be gone; the relay goes on.
        write: Box::new(move |line| drop(writer.make_writer().write_all(line))),
        terminal,
        clock,
        window: WINDOW,
        observer,
    });
    let handle = Handle { filter: filter_handle, lines: lines.clone() };
    (tracing_subscriber::registry().with(filter).with(Collect(lines)), handle)
}

/// `1234` as `1,234`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

impl Handle {
    /// Takes over level and format. On an error both stay as they were.
    pub fn apply(&self, config: &config::Log) -> Result<(), String> {
        let filter = EnvFilter::try_new(&config.level).map_err(|error| format!("log.level: {error}"))?;
        self.filter.reload(filter).map_err(|error| format!("log.level: {error}"))?;
        self.lines.lock().style = style(config.format, self.lines.terminal);
        Ok(())
    }

    /// Tells what is still folded; before the process ends.
    pub fn flush(&self) {
        let mut state = self.lines.lock();
        self.lines.tell_repeats(&mut state, Duration::MAX);
    }
}

impl Terminal {
    fn of_stderr() -> Terminal {
        let people = std::io::stderr().is_terminal();
        Terminal { people, colour: people && colour_wanted() }
    }
}

/// What `NO_COLOR` and `TERM` say.
pub fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Human { colour: bool },
    Json,
}

fn style(format: LogFormat, terminal: Terminal) -> Style {
    match format {
        LogFormat::Human => Style::Human { colour: terminal.colour },
        LogFormat::Auto if terminal.people => Style::Human { colour: terminal.colour },
        LogFormat::Auto | LogFormat::Json => Style::Json,
    }
}

type Write = Box<dyn Fn(&[u8]) + Send + Sync>;

struct Lines {
    state: Mutex<State>,
    /// Wakes `tend` when there is something folded.
    wake: Condvar,
    write: Write,
    terminal: Terminal,
    clock: Clock,
    window: Duration,
    observer: Option<Observer>,
}

struct State {
    style: Style,
    /// Script events told within the last window, the oldest first.
    repeats: VecDeque<Repeat>,
}

struct Repeat {
    since: Duration,
    level: Level,
    message: String,
    /// Of the first one: app, generation and instance.
    fields: Fields,
    /// How many came after the first.
    count: u64,
}

const WINDOW: Duration = Duration::from_secs(10);
const REPEATS_MAX: usize = 256;
/// Bytes of one message or one field; what is longer is cut, or one script could fill the memory kept for `REPEATS_MAX`.
const VALUE_MAX: usize = 16 * 1024;
/// The fields that every reader looks for come first, in this order.
const LEADING: [&str; 5] = ["app", "generation", "instance", "connection", "user"];

impl Lines {
    fn lock(&self) -> MutexGuard<'_, State> {
        // What a panicking thread left behind is still a list of lines.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, level: Level, target: &str, mut fields: Fields) {
        let message = fields.take("message").map(text_of).unwrap_or_default();
        fields.spread();
        if let Some(observer) = self.observer.as_ref().filter(|_| target == SCRIPT && level == Level::ERROR) {
            observer(&ScriptEvent { message: message.clone(), fields: fields.clone() });
        }
        // Written under the lock, so that lines of different threads keep one order.
        let mut state = self.lock();
        let now = self.clock.monotonic();
        self.tell_repeats(&mut state, now);
        if target == SCRIPT {
            // Of another generation it is news: the mistake has not been mended.
            let same = |repeat: &&mut Repeat| {
                let alike = |name: &str| repeat.fields.get(name) == fields.get(name);
                repeat.level == level && repeat.message == message && alike("app") && alike("generation")
            };
            if let Some(repeat) = state.repeats.iter_mut().find(same) {
                repeat.count += 1;
                if repeat.count == 1 {
                    self.wake.notify_one();
                }
                return;
            }
            if state.repeats.len() == REPEATS_MAX
                && let Some(oldest) = state.repeats.pop_front()
            {
                self.tell_repeat(&state, &oldest, now);
            }
            state.repeats.push_back(Repeat {
                since: now,
                level,
                message: message.clone(),
                fields: fields.only(&LEADING[..3]),
                count: 0,
            });
        }
        self.write_line(&state, level, target, &message, &fields);
    }

    /// Tells, and forgets, what was folded in windows that have ended by `now`.
    fn tell_repeats(&self, state: &mut State, now: Duration) {
        while state.repeats.front().is_some_and(|repeat| repeat.since + self.window <= now) {
            if let Some(repeat) = state.repeats.pop_front() {
                self.tell_repeat(state, &repeat, now);
            }
        }
    }

    fn tell_repeat(&self, state: &State, repeat: &Repeat, now: Duration) {
        if repeat.count == 0 {
            return;
        }
        let now = now.min(self.clock.monotonic());
        let seconds = now.saturating_sub(repeat.since).min(self.window).as_secs().max(1);
        let times = if repeat.count == 1 { "time" } else { "times" };
        let message = format!("{} … repeated {} {times} in {seconds} s", repeat.message, grouped(repeat.count));
        let mut fields = repeat.fields.clone();
        fields.set("repeated", Value::from(repeat.count));
        self.write_line(state, repeat.level, SCRIPT, &message, &fields);
    }

    fn write_line(&self, state: &State, level: Level, target: &str, message: &str, fields: &Fields) {
        let unix = self.clock.unix();
        let mut line = match state.style {
            Style::Json => json_line(unix, level, target, message, fields),
            Style::Human { colour } => human_line(unix, level, target, message, fields, colour),
        };
        line.push('\n');
        (self.write)(line.as_bytes());
    }

    /// Tells what was folded as soon as its window ends, for as long as the process lives.
    fn tend(&self) {
        let mut state = self.lock();
        loop {
            let now = self.clock.monotonic();
            self.tell_repeats(&mut state, now);
            let next = state.repeats.iter().find(|repeat| repeat.count > 0).map(|repeat| repeat.since + self.window);
            state = match next {
                Some(end) => {
                    let waited = self.wake.wait_timeout(state, end.saturating_sub(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

fn json_line(unix: Duration, level: Level, target: &str, message: &str, fields: &Fields) -> String {
    let level = level.as_str().to_ascii_lowercase();
    let mut line = format!("{{\"time\":\"{}\",\"level\":\"{level}\",\"message\":", clock::rfc3339(unix));
    push_json(&mut line, &Value::from(message));
    for (name, value) in fields.leading_first() {
        line.push(',');
        push_json(&mut line, &Value::from(name));
        line.push(':');
        push_json(&mut line, value);
    }
    if !is_ours(target) {
        line.push_str(",\"target\":");
        push_json(&mut line, &Value::from(target));
    }
    line.push('}');
    line
}

/// JSON in which what `visible` writes out is an escape as well, also beyond ASCII.
fn push_json(line: &mut String, value: &Value) {
    // Outside its strings JSON is ASCII without control characters, so each one found is in a string.
    for c in value.to_string().chars() {
        if is_hidden(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                line.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            line.push(c);
        }
    }
}

fn human_line(unix: Duration, level: Level, target: &str, message: &str, fields: &Fields, colour: bool) -> String {
    const DIM: &str = "\x1b[2m";
    const RESET: &str = "\x1b[0m";
    let (dim, reset) = if colour { (DIM, RESET) } else { ("", "") };
    let paint = match level {
        _ if !colour => "",
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    };
    let mut line = format!(
        "{dim}{}.{:03}Z{reset} {paint}{:<5}{reset} {}",
        clock::time_of_day(unix),
        unix.subsec_millis(),
        level.as_str(),
        visible(message),
    );
    let mut traceback = None;
    let mut first = true;
    for (name, value) in fields.leading_first() {
        if name == "traceback" {
            traceback = Some(value);
            continue;
        }
        line.push_str(if first { "  " } else { " " });
        line.push_str(if first { dim } else { "" });
        first = false;
        line.push_str(&visible(name));
        line.push('=');
        match value {
            Value::String(text) => push_human(&mut line, text),
            other => push_json(&mut line, other),
        }
    }
    if !first {
        line.push_str(reset);
    }
    // What people write they want to see: the lines, a mark, and what usually helps.
    let refused = message.strip_prefix("reload failed, ").and_then(|rest| rest.split_once(" goes on: "));
    let about = refused.map(|(_, about)| about).or((target == SCRIPT).then_some(message));
    if let Some(about) = about.filter(|_| level == Level::ERROR) {
        let problem = ScriptProblem::new(about, None, None).to_string();
        for row in problem.lines().skip(1) {
            line.push_str(&format!("\n  {dim}{row}{reset}"));
        }
    }
    if let Some(Value::String(traceback)) = traceback {
        for row in traceback.lines().filter(|row| !row.trim().is_empty()) {
            line.push_str(&format!("\n    {dim}{}{reset}", visible(&row.trim_end().replace('\t', "  "))));
        }
    }
    line
}

/// A word as it is, anything else in quotes, so that no value looks like another field.
fn push_human(line: &mut String, text: &str) {
    if !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '"' || c == '=' || is_hidden(c)) {
        line.push_str(text);
        return;
    }
    line.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            c if is_hidden(c) => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line.push('"');
}

fn is_ours(target: &str) -> bool {
    target == "moonwire" || target.starts_with("moonwire::")
}

/// The fields of an event and of the spans around it.
#[derive(Debug, Clone, Default, PartialEq)]
struct Fields(Vec<(Cow<'static, str>, Value)>);

impl Fields {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find_map(|(n, value)| (n == name).then_some(value))
    }

    /// The event's own fields come after those of its spans, and replace them.
    fn set(&mut self, name: impl Into<Cow<'static, str>>, value: Value) {
        let name = name.into();
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.remove(at).1)
    }

    fn only(&self, names: &[&str]) -> Fields {
        Fields(self.0.iter().filter(|(name, _)| names.contains(&name.as_ref())).cloned().collect())
    }

    /// A field named `fields` that holds a JSON object stands for its members, since names that only a script
    /// knows cannot be tracing's own. They cannot take the place of a field that the relay has set.
    fn spread(&mut self) {
        const OURS: [&str; 5] = ["time", "level", "message", "target", "repeated"];
        let Some(value) = self.take("fields") else {
            return;
        };
        let members = match &value {
            Value::String(text) => serde_json::from_str(text).ok(),
            _ => None,
        };
        let Some(Value::Object(members)) = members else {
            self.set("fields", value);
            return;
        };
        for (name, value) in members {
            let taken = OURS.contains(&name.as_str()) || self.get(&name).is_some();
            let name = if taken { format!("fields.{name}") } else { name };
            self.set(name, value);
        }
    }

    fn leading_first(&self) -> impl Iterator<Item = (&str, &Value)> {
        let leading = LEADING.iter().filter_map(|name| Some((*name, self.get(name)?)));
        let others = self.0.iter().map(|(name, value)| (name.as_ref(), value));
        leading.chain(others.filter(|(name, _)| !LEADING.contains(name)))
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        let number = serde_json::Number::from_f64(value).map(Value::Number);
        self.set(field.name(), number.unwrap_or_else(|| Value::from(value.to_string())));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), Value::from(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), Value::from(cut(value)));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.set(field.name(), Value::from(cut(&value.to_string())));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field.name(), Value::from(cut(&format!("{value:?}"))));
    }
}

fn cut(text: &str) -> String {
    if text.len() <= VALUE_MAX {
        return text.to_owned();
    }
    format!("{}… ({} bytes)", beginning(text, VALUE_MAX), grouped(text.len() as u64))
}

fn text_of(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// The layer that gathers the fields of spans and events.
struct Collect(Arc<Lines>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collect {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(own) = span.extensions().get::<Fields>() {
                own.0.iter().for_each(|(name, value)| fields.set(name.clone(), value.clone()));
            }
        }
        event.record(&mut fields);
        self.0.event(*event.metadata().level(), event.metadata().target(), fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Duration = Duration::from_millis(1_777_637_031_250);
    const PIPE: Terminal = Terminal { people: false, colour: false };
    const PLAIN: Terminal = Terminal { people: true, colour: false };

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    impl std::io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn log(level: &str, format: LogFormat) -> config::Log {
        config::Log { level: level.to_owned(), format }
    }

    /// A log at 12:03:51.250 that is in force on this thread until the guard is dropped.
    fn start(level: &str, terminal: Terminal) -> (Captured, Handle, tracing::subscriber::DefaultGuard) {
        let captured = Captured::default();
        let writer = captured.clone();
        let config = log(level, LogFormat::Auto);
        let (subscriber, handle) = subscriber(&config, move || writer.clone(), terminal, Clock::virtual_from(NOON));
        (captured, handle, tracing::subscriber::set_default(subscriber))
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipe_gets_a_json_object_a_line_with_the_known_fields_first() {
        let (captured, _handle, _guard) = start("info", PIPE);
        tracing::info!(bytes = 12, ratio = 0.5, user = "ann", app = "chat", generation = 7, "a message");
        tracing::debug!("too little to be told");
        assert_eq!(
            captured.take(),
            "{\"time\":\"2026-05-01T12:03:51.250Z\",\"level\":\"info\",\"message\":\"a message\",\
             \"app\":\"chat\",\"generation\":7,\"user\":\"ann\",\"bytes\":12,\"ratio\":0.5}\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_terminal_gets_lines_for_people() {
        let (captured, _handle, _guard) = start("info", PLAIN);
        tracing::warn!(reason = "two words", app = "chat", "no authenticate");
        assert_eq!(captured.take(), "12:03:51.250Z WARN  no authenticate  app=chat reason=\"two words\"\n");
    }

    #[tokio::test(start_paused = true)]
    async fn colour_is_for_terminals_that_want_it() {
        let (captured, _handle, _guard) = start("info", Terminal { people: true, colour: true });
        tracing::error!(app = "chat", "gone");
        assert_eq!(captured.take(), "\x1b[2m12:03:51.250Z\x1b[0m \x1b[31mERROR\x1b[0m gone  \x1b[2mapp=chat\x1b[0m\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_newline_in_a_user_name_gives_one_line_in_json() {
        let (captured, _handle, _guard) = start("info", PIPE);
        tracing::info!(user = "ann\n{\"level\":\"error\"}\u{1b}[2J\u{9b}\u{202e}", "hello\r\nworld");
        let text = captured.take();
        assert_eq!(text.lines().count(), 1);
        assert!(!text.trim_end().contains(is_hidden), "{text:?}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["user"], "ann\n{\"level\":\"error\"}\u{1b}[2J\u{9b}\u{202e}");
        assert_eq!(line["message"], "hello\r\nworld");
    }

    #[tokio::test(start_paused = true)]
    async fn a_newline_in_a_user_name_gives_one_line_for_people() {
        let (captured, _handle, _guard) = start("info", PLAIN);
        tracing::info!(user = "ann\n12:00:00 ERROR \u{1b}[2J", "hello\nworld");
        assert_eq!(captured.take(), "12:03:51.250Z INFO  hello\\nworld  user=\"ann\\n12:00:00 ERROR \\u{1b}[2J\"\n");
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_traceback_may_take_more_lines_and_they_are_indented() {
        let (captured, _handle, _guard) = start("info", PLAIN);
        tracing::error!(traceback = "chat.lua:3\n\tchat.lua:9\u{1b}\n", app = "chat", "raised");
        assert_eq!(captured.take(), "12:03:51.250Z ERROR raised  app=chat\n    chat.lua:3\n      chat.lua:9\\u{1b}\n");
    }

    #[tokio::test(start_paused = true)]
    async fn spans_lend_their_fields_to_the_events_within() {
        let (captured, _handle, _guard) = start("info", PLAIN);
        let span = tracing::info_span!("callback", app = "chat", connection = tracing::field::Empty);
        span.record("connection", 42);
        span.in_scope(|| tracing::info!(app = "auth", "hello"));
        assert_eq!(captured.take(), "12:03:51.250Z INFO  hello  app=auth connection=42\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_script_names_its_own_fields_but_not_those_of_the_relay() {
        let (captured, _handle, _guard) = start("info", PIPE);
        let fields = r#"{"user":"ann","n":2,"tags":["a"],"app":"forged","level":"error"}"#;
        tracing::info!(target: "script", app = "chat", fields, "joined");
        assert_eq!(
            captured.take(),
            "{\"time\":\"2026-05-01T12:03:51.250Z\",\"level\":\"info\",\"message\":\"joined\",\"app\":\"chat\",\
             \"user\":\"ann\",\"fields.app\":\"forged\",\"fields.level\":\"error\",\"n\":2,\"tags\":[\"a\"],\
             \"target\":\"script\"}\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn identical_script_events_are_folded_until_their_window_ends() {
        let (captured, _handle, _guard) = start("info", PLAIN);
        for _ in 0..1_235 {
            tracing::error!(target: "script", app = "chat", connection = 1, "boom");
        }
        assert_eq!(captured.take(), "12:03:51.250Z ERROR boom  app=chat connection=1\n");
        tokio::time::advance(Duration::from_millis(9_999)).await;
        tracing::error!(target: "script", app = "chat", "another");
        assert_eq!(captured.take(), "12:04:01.249Z ERROR another  app=chat\n");
        tokio::time::advance(Duration::from_millis(1)).await;
        tracing::error!(target: "script", app = "chat", "boom");
        assert_eq!(
            captured.take(),
            "12:04:01.250Z ERROR boom … repeated 1,234 times in 10 s  app=chat repeated=1234\n\
             12:04:01.250Z ERROR boom  app=chat\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn only_identical_events_of_scripts_are_folded() {
        let (captured, _handle, _guard) = start("info", PLAIN);
        for _ in 0..2 {
            tracing::info!("ours");
            tracing::info!(target: "script", app = "a", "theirs");
            tracing::warn!(target: "script", app = "a", "theirs");
            tracing::info!(target: "script", app = "b", "theirs");
        }
        assert_eq!(captured.take().lines().count(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_folded_is_told_at_the_end() {
        let (captured, handle, _guard) = start("info", PIPE);
        tracing::info!(target: "script", "boom");
        tracing::info!(target: "script", "boom");
        captured.take();
        tokio::time::advance(Duration::from_secs(3)).await;
        handle.flush();
        assert_eq!(
            captured.take(),
            "{\"time\":\"2026-05-01T12:03:54.250Z\",\"level\":\"info\",\
             \"message\":\"boom … repeated 1 time in 3 s\",\"repeated\":1,\"target\":\"script\"}\n"
        );
        handle.flush();
        assert_eq!(captured.take(), "");
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_for_folding_is_bounded_and_nothing_is_lost() {
        let (captured, handle, _guard) = start("info", PLAIN);
        for round in 0..1_000 {
            tracing::info!(target: "script", "message {round}");
            tracing::info!(target: "script", "message {round}");
        }
        assert_eq!(handle.lines.lock().repeats.len(), REPEATS_MAX);
        handle.flush();
        let text = captured.take();
        assert_eq!(text.lines().filter(|line| line.contains("repeated 1 time in")).count(), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_value_is_cut() {
        let (captured, _handle, _guard) = start("info", PLAIN);
        tracing::info!(target: "script", "{}", "ä".repeat(20_000));
        let text = captured.take();
        assert!(text.len() < VALUE_MAX + 100, "{}", text.len());
        assert!(text.ends_with("ä… (40,000 bytes)\n"));
    }

    #[test]
    fn folded_events_are_told_on_time_without_another_event() {
        let (sender, told) = std::sync::mpsc::channel();
        let lines = Arc::new(Lines {
            state: Mutex::new(State { style: Style::Json, repeats: VecDeque::new() }),
            wake: Condvar::new(),
            write: Box::new(move |line| drop(sender.send(String::from_utf8_lossy(line).into_owned()))),
            terminal: PIPE,
            clock: Clock::system(),
            observer: None,
            window: Duration::from_millis(20),
        });
        let tended = lines.clone();
        std::thread::spawn(move || tended.tend());
        for _ in 0..3 {
            lines.event(Level::INFO, SCRIPT, Fields(vec![("message".into(), Value::from("boom"))]));
        }
        let deadline = Duration::from_secs(10);
        assert!(told.recv_timeout(deadline).unwrap().contains("\"boom\""));
        assert!(told.recv_timeout(deadline).unwrap().contains("boom … repeated 2 times in 1 s"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_changes_level_and_format() {
        let (captured, handle, _guard) = start("info", PLAIN);
        tracing::debug!("unheard");
        assert_eq!(captured.take(), "");
        handle.apply(&log("debug", LogFormat::Json)).unwrap();
        tracing::debug!("heard");
        assert!(captured.take().starts_with("{\"time\":"));
        assert!(handle.apply(&log("moonwire=loud", LogFormat::Human)).is_err());
        tracing::debug!("still JSON");
        assert!(captured.take().starts_with("{\"time\":"));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
