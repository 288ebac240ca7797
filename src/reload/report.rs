//! What a reload came to, app by app: for people, as JSON, and for the exit status of `moonwire reload`.

use std::{
    fmt,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize, Serializer};

use crate::{
    clock,
    log::{visible, visible_but},
};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub apps: Vec<AppReport>,
    /// None: nobody looked at the config file.
    pub config: Option<ConfigReport>,
    /// Settings that have changed in the file and count from the next start on.
    #[serde(default)]
    pub restart_needed: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppReport {
    pub app: String,
    #[serde(flatten)]
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    Unchanged,
    Reloaded {
        from: u64,
        to: u64,
        /// Those that had changed.
        #[serde(serialize_with = "paths_as_text")]
        files: Vec<PathBuf>,
        ms: f64,
    },
    Failed {
        /// The generation that still serves.
        generation: u64,
        /// Unix seconds at which that generation was loaded.
        loaded_at: Option<f64>,
        error: ScriptProblem,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigReport {
    #[serde(serialize_with = "path_as_text")]
    pub file: PathBuf,
    /// The changed settings that are in force now.
    #[serde(default)]
    pub applied: Vec<String>,
    /// Why nothing of the file was taken over.
    pub error: Option<String>,
}

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
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceLine {
    pub line: usize,
    pub text: String,
}

impl Report {
    /// Whether everything that had changed is in force.
    pub fn ok(&self) -> bool {
        let apps_ok = self.apps.iter().all(|app| !matches!(app.outcome, Outcome::Failed { .. }));
        apps_ok && self.config.as_ref().is_none_or(|config| config.error.is_none())
    }
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
        ScriptProblem { message, traceback, file, line, excerpt }
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for app in &self.apps {
            writeln!(f, "{app}")?;
        }
        let restart = match self.restart_needed.as_slice() {
            [] => None,
            settings => Some(format!("restart needed for {}", visible(&settings.join(", ")))),
        };
        match (&self.config, restart) {
            (Some(config), Some(restart)) if config.applied.is_empty() && config.error.is_none() => {
                writeln!(f, "{}: {restart}", visible(&config.file.to_string_lossy()))
            }
            (Some(config), Some(restart)) => writeln!(f, "{config}; {restart}"),
            (Some(config), None) => writeln!(f, "{config}"),
            (None, Some(restart)) => writeln!(f, "{restart}"),
            (None, None) if self.apps.is_empty() => writeln!(f, "there is no app to reload"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Display for AppReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", visible(&self.app))?;
        match &self.outcome {
            Outcome::Unchanged => write!(f, "unchanged"),
            Outcome::Reloaded { from, to, files, ms } => {
                write!(f, "generation {from} → {to} in {}", Milliseconds(*ms))?;
                files_in_brackets(f, files)
            }
            Outcome::Failed { generation, loaded_at, error } => {
                write!(f, "failed, still serving generation {generation}")?;
                let loaded = loaded_at.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                if let Some(loaded) = loaded {
                    write!(f, " (loaded {} UTC)", clock::time_of_day(loaded))?;
                }
                for line in error.to_string().lines() {
                    write!(f, "\n  {line}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for ConfigReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", visible(&self.file.to_string_lossy()))?;
        match &self.error {
            Some(error) => {
                write!(f, "failed, the settings stay as they were")?;
                for line in error.lines().filter(|line| !line.trim().is_empty()) {
                    write!(f, "\n  {}", visible(line))?;
                }
                Ok(())
            }
            None if self.applied.is_empty() => write!(f, "unchanged"),
            None => write!(f, "{} applied", visible(&self.applied.join(", "))),
        }
    }
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
            if here && let Some((before, length)) = named_in(&self.message, &text) {
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
        let at = line.match_indices(name).map(|(at, _)| at).find(whole)?;
        Some((line[..at].chars().count(), name.chars().count()))
    })
}

fn files_in_brackets(f: &mut fmt::Formatter<'_>, files: &[PathBuf]) -> fmt::Result {
    const SHOWN: usize = 5;
    if files.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> =
        files.iter().take(SHOWN).map(|file| visible(&file.to_string_lossy()).into_owned()).collect();
    write!(f, " ({}", shown.join(", "))?;
    if files.len() > SHOWN {
        write!(f, " and {} more", files.len() - SHOWN)?;
    }
    write!(f, ")")
}

struct Milliseconds(f64);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 10.0 { write!(f, "{:.1} ms", self.0) } else { write!(f, "{:.0} ms", self.0) }
    }
}

// A path need not be UTF-8; a report that cannot be told because of one would be worse than an inexact name.
fn path_as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

fn paths_as_text<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

fn maybe_path_as_text<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTH: &str = "local app = {}\n\n\n\n\n\n\n\n\n\n\nfunction app.authenticate(request)\n\
        \tlocal user = relay.jwt.verify(request.bearer)\n\tlocal x = user.name\nend\n";

    fn failed(message: &str, source: &str) -> ScriptProblem {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("auth.lua");
        std::fs::write(&file, source).unwrap();
        let mut problem = ScriptProblem::new(message, None, Some(&file));
        problem.file = Some("scripts/auth.lua".into());
        problem
    }

    fn everything() -> Report {
        Report {
            apps: vec![
                AppReport {
                    app: "chat".to_owned(),
                    outcome: Outcome::Reloaded { from: 6, to: 7, files: vec!["scripts/chat.lua".into()], ms: 12.3 },
                },
                AppReport {
                    app: "auth".to_owned(),
                    outcome: Outcome::Failed {
                        generation: 3,
                        loaded_at: Some(1_777_637_031.25),
                        error: failed("scripts/auth.lua:14: attempt to index nil with 'name'", AUTH),
                    },
                },
                AppReport { app: "maps".to_owned(), outcome: Outcome::Unchanged },
            ],
            config: Some(ConfigReport {
                file: "config.toml".into(),
                applied: vec!["limits".to_owned(), "app.chat.settings".to_owned()],
                error: None,
            }),
            restart_needed: vec!["server.listen".to_owned()],
        }
    }

    #[test]
    fn a_report_reads_as_people_would_say_it() {
        assert_eq!(
            everything().to_string(),
            "\
chat: generation 6 → 7 in 12 ms (scripts/chat.lua)
auth: failed, still serving generation 3 (loaded 12:03:51 UTC)
  scripts/auth.lua:14: attempt to index nil with 'name'
     12 | function app.authenticate(request)
     13 |     local user = relay.jwt.verify(request.bearer)
   > 14 |     local x = user.name
        |                    ^^^^
maps: unchanged
config.toml: limits, app.chat.settings applied; restart needed for server.listen
"
        );
    }

    #[test]
    fn a_report_crosses_as_json_without_loss() {
        let report = everything();
        let text = serde_json::to_string(&report).unwrap();
        assert!(text.starts_with(
            r#"{"apps":[{"app":"chat","outcome":"reloaded","from":6,"to":7,"files":["scripts/chat.lua"],"ms":12.3}"#
        ));
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }

    #[test]
    fn a_report_is_ok_unless_something_failed() {
        assert!(Report::default().ok());
        let mut report = everything();
        assert!(!report.ok());
        report.apps.remove(1);
        assert!(report.ok());
        report.config = Some(ConfigReport {
            file: "config.toml".into(),
            applied: Vec::new(),
            error: Some("config.toml:3: limits.outbox: must be a size\n".to_owned()),
        });
        report.restart_needed.clear();
        assert!(!report.ok());
        assert!(report.to_string().ends_with(
            "config.toml: failed, the settings stay as they were\n  config.toml:3: limits.outbox: must be a size\n"
        ));
    }

    #[test]
    fn the_config_alone_is_told_as_it_is() {
        let check = |applied: &[&str], restart: &[&str], expected: &str| {
            let report = Report {
                apps: Vec::new(),
                config: Some(ConfigReport {
                    file: "config.toml".into(),
                    applied: applied.iter().map(ToString::to_string).collect(),
                    error: None,
                }),
                restart_needed: restart.iter().map(ToString::to_string).collect(),
            };
            assert_eq!(report.to_string(), expected);
        };
        check(&[], &[], "config.toml: unchanged\n");
        check(&["limits"], &[], "config.toml: limits applied\n");
        check(&[], &["server.listen"], "config.toml: restart needed for server.listen\n");
        assert_eq!(Report::default().to_string(), "there is no app to reload\n");
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
        let beyond = failed("auth.lua:99: boom", AUTH);
        assert_eq!(beyond.excerpt, []);
    }

    #[test]
    fn what_is_not_for_a_terminal_is_written_out() {
        let problem = failed("auth.lua:1: \u{1b}[2Jboom\nsecond", "x = '\u{1b}[31m'\n");
        assert_eq!(problem.to_string(), "auth.lua:1: \\u{1b}[2Jboom\n  second\n > 1 | x = '\\u{1b}[31m'");
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
