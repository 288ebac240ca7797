//! What a reload came to, app by app: for people, as JSON, and for the exit status of `moonwire reload`.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize, Serializer};

use crate::{clock, problem::ScriptProblem, visible::visible};

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

impl Report {
    /// Whether everything that had changed is in force.
    pub fn ok(&self) -> bool {
        let apps_ok = self.apps.iter().all(|app| !matches!(app.outcome, Outcome::Failed { .. }));
        apps_ok && self.config.as_ref().is_none_or(|config| config.error.is_none())
    }
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
    hint: what stands before the dot, colon or bracket is nil here: check it with `if`, or print it
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
}
