//! What went wrong in a script, as people read it: the place, three lines of source with a mark, the way there, a hint.

use std::{
    fmt,
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, Serializer};

use crate::visible::{visible, visible_but};

/// Why a script cannot be used, with the lines of its source that it is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScriptProblem {
    /// Begins with `path:line:` when a place is known.
    pub message: String,
    pub traceback: Option<String>,
    #[serde(serialize_with = "maybe_path_as_text")]
    pub file: Option<PathBuf>,
    pub line: Option<usize>,
    /// The line and up to two before it.
    #[serde(default)]
    pub excerpt: Vec<SourceLine>,
    /// Where on that line, counted from 1, if the message says so.
    #[serde(default)]
    pub column: Option<usize>,
    /// What usually helps.
    #[serde(default)]
    pub hint: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceLine {
    pub line: usize,
    pub text: String,
}

impl ScriptProblem {
    /// The file is the one that the message names, unless it is given: as it can be opened from here.
    pub fn new(message: impl Into<String>, traceback: Option<String>, file: Option<&Path>) -> ScriptProblem {
        let message = message.into();
        let place = place(&message);
        let line = place.map(|(_, line)| line);
        let file = file.map(Path::to_owned).or_else(|| place.map(|(path, _)| PathBuf::from(path)));
        let excerpt = match (&file, line) {
            (Some(file), Some(line)) => excerpt(file, line),
            _ => Vec::new(),
        };
        let last = excerpt.last().map(|line| line.text.as_str());
        let column = last.and_then(|text| named_in(&message, text)).map(|(before, _)| before + 1);
        let hint = hint(&message).map(str::to_owned);
        ScriptProblem { message, traceback, file, line, excerpt, column, hint }
    }
}

/// The path and the line of a message that begins with `path:line:`.
fn place(message: &str) -> Option<(&str, usize)> {
    let first = message.lines().next()?;
    // A path may hold colons itself.
    first.match_indices(':').find_map(|(at, _)| {
        let (digits, _) = first[at + 1..].split_once(':')?;
        let line = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())??;
        (at > 0).then_some((&first[..at], line))
    })
}

/// What can be read of it: a report without an excerpt is a report.
fn excerpt(file: &Path, line: usize) -> Vec<SourceLine> {
    const FILE_MAX: u64 = 4 * 1024 * 1024;
    const LINE_MAX: usize = 160;
    // Not of a pipe or a device, whose end may never come.
    if !std::fs::metadata(file).is_ok_and(|metadata| metadata.is_file()) {
        return Vec::new();
    }
    let mut source = Vec::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(FILE_MAX).read_to_end(&mut source));
    if read.is_err() {
        return Vec::new();
    }
    let source = String::from_utf8_lossy(&source);
    let first = line.saturating_sub(2).max(1);
    let lines = source.lines().enumerate().map(|(i, text)| (i + 1, text));
    let wanted: Vec<SourceLine> = lines
        .filter(|(number, _)| (first..=line).contains(number))
        .map(|(line, text)| {
            let mut clipped: String = text.chars().take(LINE_MAX).collect();
            if clipped.len() < text.len() {
                clipped.push('…');
            }
            SourceLine { line, text: clipped }
        })
        .collect();
    // A line that is not there is not explained by others.
    if wanted.last().is_some_and(|last| last.line == line) { wanted } else { Vec::new() }
}

/// The message, then its source with a mark; the traceback where it tells more than the place.
impl fmt::Display for ScriptProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const TRACEBACK_LINES: usize = 10;
        let text = self.message.trim_end();
        write!(f, "{}", visible_but(text, &['\n']).replace('\n', "\n  "))?;
        let width = self.line.unwrap_or_default().to_string().len();
        for SourceLine { line, text } in &self.excerpt {
            let text = visible(text.trim_end()).replace("\\t", "    ");
            let here = self.line == Some(*line);
            let mark = if here { '>' } else { ' ' };
            write!(f, "\n {mark} {line:width$} |")?;
            if !text.is_empty() {
                write!(f, " {text}")?;
            }
            if here && !text.trim().is_empty() {
                // Without a name to point at, at where the line begins.
                let start = text.len() - text.trim_start().len();
                let (before, length) = named_in(&self.message, &text).unwrap_or((start, 1));
                write!(f, "\n   {:width$} | {}{}", "", " ".repeat(before), "^".repeat(length))?;
            }
        }
        let traceback: Vec<&str> =
            self.traceback.iter().flat_map(|text| text.lines()).filter(|line| !line.trim().is_empty()).collect();
        if traceback.len() > 1 {
            for line in traceback.iter().take(TRACEBACK_LINES) {
                write!(f, "\n  {}", visible(line.trim()))?;
            }
            if traceback.len() > TRACEBACK_LINES {
                write!(f, "\n  … {} more", traceback.len() - TRACEBACK_LINES)?;
            }
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// Where on the line stands what the message puts in quotes: how many characters before it, and how many of its own.
fn named_in(message: &str, line: &str) -> Option<(usize, usize)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    message.split('\'').skip(1).step_by(2).filter(|name| !name.is_empty()).find_map(|name| {
        let whole = |at: &usize| {
            let before = line[..*at].chars().next_back();
            let after = line[at + name.len()..].chars().next();
            // Only a name can be part of a longer name.
            !name.chars().all(is_word) || !(before.is_some_and(is_word) || after.is_some_and(is_word))
        };
        let all: Vec<usize> = line.match_indices(name).map(|(at, _)| at).filter(whole).collect();
        // What is looked up stands behind a dot or a colon; of several nobody can say which is meant.
        let looked_up: Vec<usize> = all.iter().copied().filter(|at| line[..*at].ends_with(['.', ':'])).collect();
        let at = match (&all[..], &looked_up[..]) {
            ([only], _) | (_, [only]) => *only,
            _ => return None,
        };
        Some((line[..at].chars().count(), name.chars().count()))
    })
}

fn maybe_path_as_text<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(serializer)
}

/// What usually is the matter where Lua or the relay says this.
fn hint(message: &str) -> Option<&'static str> {
    const HINTS: [(&str, &str); 20] = [
        (
            "attempt to call a nil value",
            "no function of this name is there: look for a typing mistake, or a missing `local … = require(…)`",
        ),
        ("attempt to call missing method", "the value has no method of this name: look for a typing mistake"),
        (
            "attempt to index nil",
            "what stands before the dot, colon or bracket is nil here: check it with `if`, or print it",
        ),
        (
            "attempt to perform arithmetic",
            "both sides must be numbers: `tonumber(x)` makes one of a text, and nil of what is none",
        ),
        ("attempt to concatenate", "`..` takes texts and numbers: `tostring(x)` makes a text of anything"),
        ("attempt to compare", "both sides must be numbers, or both texts: `tonumber(x)` makes a number of a text"),
        (
            "attempt to modify a readonly table",
            "this table is read-only (a library's, a request's, `conn.user`): change a copy, `table.clone(t)`",
        ),
        ("attempt to get length of nil", "what stands behind `#` is nil here: check it with `if`"),
        (
            "attempt to iterate over nil",
            "there is no list to go through: check it with `if`, or write `for _, x in list or {} do`",
        ),
        ("cannot wait here", "wait before or after it, or start a coroutine of its own: relay.spawn(function() … end)"),
        (
            "it computed longer than limits.",
            "a loop without an end? Long work can give way with relay.sleep(0), or the limit be raised",
        ),
        ("call it with a colon", "write value:method(…), with a colon, and not value.method(…)"),
        (": relay.room(", "functions of relay are called with a dot: relay.room(…)"),
        (": relay.user(", "functions of relay are called with a dot: relay.user(…)"),
        ("must be a string, got table", "a table is sent with send_json or publish_json"),
        ("must be a string, got nil", "the value is nil here: check it with `if`, or print it"),
        (
            "is not plain data",
            "state holds nil, booleans, numbers, texts, buffers and tables of these: keep functions and connections in locals",
        ),
        ("data is not UTF-8", "bytes are sent as binary: conn:send(data, { binary = true })"),
        ("not enough memory", "limits.script_memory bounds a script's memory: keep less, or raise it"),
        ("not while a script loads", "move it into on_start, which runs once the script is in force"),
    ];
    HINTS.iter().find(|(part, _)| message.contains(part)).map(|(_, hint)| *hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_three_lines_a_mark_and_a_hint() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chat.lua");
        std::fs::write(&file, "local a = 1\nlocal b\n  return b.name + a\n").unwrap();
        let message = format!("{}:3: attempt to index nil with 'name'", file.display());
        let problem = ScriptProblem::new(message.clone(), None, None);
        assert_eq!((problem.line, problem.column), (Some(3), Some(12)));
        let expected = format!(
            "{message}\n   1 | local a = 1\n   2 | local b\n > 3 |   return b.name + a\n     |            ^^^^\n  \
             hint: what stands before the dot, colon or bracket is nil here: check it with `if`, or print it"
        );
        assert_eq!(problem.to_string(), expected);
        // Without a name in the message the mark stands where the line begins.
        let problem = ScriptProblem::new(format!("{}:3: boom", file.display()), None, None).to_string();
        assert!(problem.ends_with(" > 3 |   return b.name + a\n     |   ^"), "{problem}");
    }

    fn of(message: &str, source: &str) -> ScriptProblem {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("auth.lua");
        std::fs::write(&file, source).unwrap();
        ScriptProblem::new(message, None, Some(&file))
    }

    #[test]
    fn a_place_is_taken_from_the_message() {
        let check = |message, expected| assert_eq!(place(message), expected);
        check("scripts/chat.lua:14: boom", Some(("scripts/chat.lua", 14)));
        check("c:/odd:name.lua:3: boom: 5: x", Some(("c:/odd:name.lua", 3)));
        check("scripts/chat.lua: no callback", None);
        check(":3: boom", None);
        check("at 12:03: boom", Some(("at 12", 3)));
        check("a.lua:99999999999999999999999: boom", None);
        check("", None);
    }

    #[test]
    fn a_file_that_cannot_be_read_gives_no_excerpt() {
        let problem = ScriptProblem::new("nowhere/chat.lua:2: boom", None, None);
        assert_eq!(problem.line, Some(2));
        assert_eq!(problem.to_string(), "nowhere/chat.lua:2: boom");
        let beyond = of("auth.lua:99: boom", "local app = {}\n");
        assert_eq!(beyond.excerpt, []);
    }

    #[test]
    fn what_is_not_for_a_terminal_is_written_out() {
        let problem = of("auth.lua:1: \u{1b}[2Jboom\nsecond", "x = '\u{1b}[31m'\n");
        assert_eq!(problem.to_string(), "auth.lua:1: \\u{1b}[2Jboom\n  second\n > 1 | x = '\\u{1b}[31m'\n     | ^");
    }

    #[test]
    fn a_traceback_is_shown_when_it_tells_more_than_the_place() {
        let check = |traceback: &str, expected: &str| {
            let problem = ScriptProblem::new("boom", Some(traceback.to_owned()), None);
            assert_eq!(problem.to_string(), expected);
        };
        check("a.lua:1\n", "boom");
        check("a.lua:1\n\tb.lua:2 function f\n", "boom\n  a.lua:1\n  b.lua:2 function f");
    }
}
