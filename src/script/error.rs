//! What went wrong in a script, in its author's terms: file and line first, no host frames.

use mlua::Error;

/// The name under which the prelude's own frames appear; they are not shown.
pub const PRELUDE: &str = "[moonwire]";

/// What the names of all chunks of our own begin with: the prelude, and `[moonwire.router]` and the like.
pub const CARRIED: &str = "[moonwire";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The script raised, or called something wrongly.
    Raised,
    /// Its CPU budget was gone.
    Budget,
    /// Its memory was.
    Memory,
    /// It cannot be compiled, or is not a module of callbacks.
    Load,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptError {
    pub kind: ErrorKind,
    /// Begins with `path:line:` wherever that is known.
    pub message: String,
    /// One frame of the script on each line; may be empty.
    pub traceback: String,
}

impl ScriptError {
    pub fn load(message: impl Into<String>) -> ScriptError {
        ScriptError { kind: ErrorKind::Load, message: message.into(), traceback: String::new() }
    }

    pub fn raised(message: impl Into<String>) -> ScriptError {
        ScriptError { kind: ErrorKind::Raised, message: message.into(), traceback: String::new() }
    }

    /// The error in a script's terms.
    pub fn from_lua(error: &Error) -> ScriptError {
        match error {
            Error::CallbackError { traceback, cause } => {
                let inner = ScriptError::from_lua(cause);
                if !inner.traceback.is_empty() {
                    return inner; // it was raised further in
                }
                let traceback = own_frames(traceback);
                let message = at_position(&inner.message, &traceback);
                ScriptError { kind: inner.kind, message, traceback }
            }
            Error::RuntimeError(text) => {
                let (message, traceback) = text.split_once("\nstack traceback:\n").unwrap_or((text, ""));
                let traceback = own_frames(traceback);
                let is_table = message.starts_with("table: 0x");
                let message = if is_table { "the error is a table, not a text" } else { message };
                ScriptError { kind: ErrorKind::Raised, message: at_position(message, &traceback), traceback }
            }
            Error::MemoryError(_) => ScriptError {
                kind: ErrorKind::Memory,
                message: "not enough memory: the script is at limits.script_memory".to_owned(),
                traceback: String::new(),
            },
            Error::SyntaxError { message, .. } => ScriptError::load(message.clone()),
            Error::ExternalError(external) => match external.downcast_ref::<ScriptError>() {
                Some(error) => error.clone(),
                None => ScriptError::raised(external.to_string()),
            },
            Error::WithContext { cause, .. } => ScriptError::from_lua(cause),
            // Of a method, the value that it is called on: the only argument that mlua looks at before we do.
            Error::BadArgument { to: Some(to), name: Some(name), .. } if name == "self" => {
                let (class, method) = to.split_once('.').unwrap_or(("", to));
                let class = match class {
                    "ElsewhereRef" => "conn".to_owned(),
                    class => class.trim_end_matches("Ref").to_lowercase(),
                };
                ScriptError::raised(format!("{class}.{method}: call it with a colon, as in {class}:{method}(…)"))
            }
            other => ScriptError::raised(other.to_string()),
        }
    }

    /// Of a state that cannot be carried over: whose it is, and what is to be done.
    pub fn kept_by(mut self, generation: u64) -> ScriptError {
        self.message.push_str(&format!(
            " (the running generation {generation} keeps it there: no reload goes through until its code has taken it out, or the relay is started anew)"
        ));
        self
    }

    /// The same with the frames of `traceback` (as `debug.traceback` gives them), for an error that had none.
    pub fn with_traceback(mut self, traceback: &str) -> ScriptError {
        if self.traceback.is_empty() {
            self.traceback = own_frames(traceback);
            self.message = at_position(&self.message, &self.traceback);
        }
        self
    }

    /// The file and line that the message begins with.
    pub fn position(&self) -> Option<(&str, u32)> {
        position(&self.message)
    }
}

impl std::fmt::Display for ScriptError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ScriptError {}

/// `text` with the place of the innermost frame in front, unless it begins with a place in the script already.
fn at_position(text: &str, frames: &str) -> String {
    let at = position(text);
    if at.is_some_and(|(file, _)| !file.starts_with(CARRIED)) {
        return text.to_owned();
    }
    let what =
        at.and_then(|(file, _)| text[file.len() + 1..].split_once(':')).map_or(text, |(_, what)| what.trim_start());
    match frames.lines().next().and_then(place_of_frame) {
        Some(place) => format!("{place}: {what}"),
        None => text.to_owned(),
    }
}

/// `scripts/chat.lua:14` of `scripts/chat.lua:14: in function 'f'`, of `scripts/chat.lua:14 function f`, or alone.
fn place_of_frame(frame: &str) -> Option<&str> {
    let mut colons = frame.match_indices(':').map(|(at, _)| at + 1);
    colons.find_map(|from| {
        let digits = frame[from..].bytes().take_while(u8::is_ascii_digit).count();
        let ends = frame[from + digits..].chars().next().is_none_or(|next| next == ':' || next == ' ');
        (digits > 0 && ends).then(|| &frame[..from + digits])
    })
}

fn position(text: &str) -> Option<(&str, u32)> {
    let mut from = 0;
    // The path itself may have a colon in it.
    while let Some(colon) = text[from..].find(':').map(|at| from + at) {
        let rest = &text[colon + 1..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 && rest[digits..].starts_with(':') && !text[..colon].contains('\n') {
            let file = &text[..colon];
            let is_script = file.ends_with(".lua") || file.ends_with(".luau") || file.starts_with('[');
            return rest[..digits].parse().ok().filter(|_| is_script).map(|line| (file, line));
        }
        from = colon + 1;
    }
    None
}

/// The script's own frames of a traceback.
fn own_frames(traceback: &str) -> String {
    let mut frames = String::new();
    for line in traceback.lines().map(str::trim) {
        if line.is_empty()
            || line == "stack traceback:"
            || line.starts_with("[C]")
            || line.starts_with("__mlua_")
            || line.starts_with(CARRIED)
        {
            continue;
        }
        if !frames.is_empty() {
            frames.push('\n');
        }
        match bare_frame(line) {
            Some((place, name)) => frames.push_str(&format!("{place}: in function '{name}'")),
            None => frames.push_str(line),
        }
    }
    frames
}

/// Luau's own way, which a coroutine's traceback has: `scripts/chat.lua:14 function f`.
fn bare_frame(line: &str) -> Option<(&str, &str)> {
    let (place, name) = line.rsplit_once(" function ")?;
    let (_, number) = place.rsplit_once(':')?;
    number.parse::<u32>().ok().map(|_| (place, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn an_error_of_a_host_function_is_placed_at_the_script_line_that_called_it() {
        let error = Error::CallbackError {
            traceback: "stack traceback:\n\t[C]: in ?\n\t[moonwire]:12: in function 'sleep'\n\tscripts/chat.lua:4: in function 'inner'\n\tscripts/chat.lua:6: in function 'a'".into(),
            // mlua's own type, which one thread has.
            #[allow(clippy::arc_with_non_send_sync)]
            cause: Arc::new(Error::runtime("conn:send(data): data must be a string, got table")),
        };
        let error = ScriptError::from_lua(&error);
        assert_eq!(error.message, "scripts/chat.lua:4: conn:send(data): data must be a string, got table");
        assert_eq!(error.traceback, "scripts/chat.lua:4: in function 'inner'\nscripts/chat.lua:6: in function 'a'");
        assert_eq!(error.position(), Some(("scripts/chat.lua", 4)));
    }

    #[test]
    fn an_error_that_luau_raises_at_a_safepoint_is_placed_at_its_line() {
        let error = ScriptError::raised("stopped").with_traceback("scripts/chat.lua:12 function on_message\n");
        assert_eq!(error.message, "scripts/chat.lua:12: stopped");
        assert_eq!(error.traceback, "scripts/chat.lua:12: in function 'on_message'");
        let error = ScriptError::raised("stopped").with_traceback("scripts/chat.lua:12\n");
        assert_eq!(error.message, "scripts/chat.lua:12: stopped");
    }

    #[test]
    fn an_error_within_a_carried_library_is_placed_at_the_line_that_called_it() {
        let error = Error::RuntimeError(
            "[moonwire.router]:7: attempt to index nil with 'y'\nstack traceback:\n\t[moonwire.router]:7: in function 'on'\n\tscripts/chat.lua:9: in function 'b'".into(),
        );
        let error = ScriptError::from_lua(&error);
        assert_eq!(error.message, "scripts/chat.lua:9: attempt to index nil with 'y'");
        assert_eq!(error.traceback, "scripts/chat.lua:9: in function 'b'");
        let error = ScriptError::raised("[moonwire.router]:7: no").with_traceback("[moonwire.router]:7\na.lua:2\n");
        assert_eq!(error.message, "a.lua:2: no");
    }

    #[test]
    fn a_raised_string_keeps_its_own_place() {
        let error = Error::RuntimeError(
            "scripts/chat.lua:7: attempt to index nil with 'y'\nstack traceback:\n\tscripts/chat.lua:7: in function 'b'".into(),
        );
        let error = ScriptError::from_lua(&error);
        assert_eq!(error.message, "scripts/chat.lua:7: attempt to index nil with 'y'");
        assert_eq!(error.position(), Some(("scripts/chat.lua", 7)));
        assert_eq!(position("no place: 12: here"), None);
    }
}
