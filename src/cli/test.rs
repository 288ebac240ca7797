//! `moonwire test`: runs the tests of scripts, once or at each change.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;

use super::{
    ConfigFile, FAILED, Failure, MISTAKE, OK, Status, Streams, colour_wanted, config_file, load_config, shown,
};
use crate::{
    config::{Config, parse_duration},
    reload::Watcher,
    testing::{self, FileResult},
    visible::visible_but,
};

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    #[command(flatten)]
    config: ConfigFile,
    /// Only cases whose name, or whose file's, has this in it
    #[arg(default_value = "", hide_default_value = true)]
    filter: String,
    /// Run them again whenever a file changes
    #[arg(long)]
    watch: bool,
    /// Write the results into this file too, in the form of JUnit
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Real time that one case may take
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    timeout: String,
    /// Name every case, not only those that fail
    #[arg(short, long)]
    verbose: bool,
}

const EXAMPLES: &str = "\
Runs *_test.lua beside the scripts of every app, each case with apps, peers and a clock of its own.

Exit status: 0; 1 when a case fails, or when there is none; 2 when the config has a mistake.

Examples:
  moonwire test
  moonwire test permissions
  moonwire test --watch
  moonwire test --junit results.xml";

pub(super) fn run(options: Options, before: Option<PathBuf>, streams: &mut Streams) -> Result<Status, Failure> {
    let file = options.config.config.clone().or(before);
    if options.watch {
        return watch(&options, file.as_deref(), streams);
    }
    let config = load_config(file.as_deref())?;
    once(&options, &Arc::new(config), streams)
}

fn once(options: &Options, config: &Arc<Config>, streams: &mut Streams) -> Result<Status, Failure> {
    let files = testing::files(config)
        .map_err(|error| Failure::Told(MISTAKE, format!("the folder of a script cannot be read: {error}")))?;
    let timeout = parse_duration(&options.timeout).map_err(|why| Failure::Told(MISTAKE, format!("--timeout {why}")))?;
    let how = testing::Options { filter: options.filter.clone(), timeout, ..testing::Options::default() };
    let begun = Instant::now();
    let mut told = Ok(());
    let results = testing::run(config, &files, &how, |result| {
        if told.is_ok() {
            told = tell(result, options.verbose, streams);
        }
    });
    let results = results.map_err(|error| Failure::Told(FAILED, format!("no thread can be started: {error}")))?;
    told?;
    if let Some(file) = &options.junit {
        let write = fs::write(file, testing::junit(&results));
        write
            .map_err(|error| Failure::Told(MISTAKE, format!("--junit {}: cannot be written: {error}", shown(file))))?;
    }
    let ran = results.iter().any(|result| !result.cases.is_empty() || result.problem.is_some());
    if !ran {
        let what = match options.filter.as_str() {
            "" => "there is no test: write one into a file *_test.lua beside a script".to_owned(),
            filter => format!("no case and no file has \"{filter}\" in its name"),
        };
        return Err(Failure::Told(FAILED, what));
    }
    writeln!(streams.out, "{}", testing::summary(&results, begun.elapsed()))?;
    Ok(if results.iter().all(|result| result.failures() == 0) { OK } else { FAILED })
}

fn tell(result: &FileResult, verbose: bool, streams: &mut Streams) -> std::io::Result<()> {
    let (red, green, reset) = match streams.out_terminal && colour_wanted() {
        true => ("\x1b[31m", "\x1b[32m", "\x1b[0m"),
        false => ("", "", ""),
    };
    let file = shown(&result.file);
    if let Some(problem) = &result.problem {
        writeln!(streams.out, "{red}FAILED{reset} {file}: the file itself\n{}\n", indented(problem))?;
    }
    if result.cases.is_empty() {
        return Ok(());
    }
    let failed = result.cases.iter().filter(|case| case.failure.is_some()).count();
    let (colour, count) = match failed {
        0 => (green, format!("{} passed", result.cases.len())),
        _ => (red, format!("{failed} of {} failed", result.cases.len())),
    };
    writeln!(streams.out, "{file}: {colour}{count}{reset}")?;
    for case in &result.cases {
        match &case.failure {
            Some(failure) => {
                let (line, name) = (case.line, visible_but(&case.name, &[]));
                writeln!(streams.out, "{red}FAILED{reset} {name}  ({file}:{line})\n{}\n", indented(failure))?;
            }
            None if verbose => {
                writeln!(
                    streams.out,
                    "  {green}ok{reset} {} ({})",
                    visible_but(&case.name, &[]),
                    Milliseconds(case.time)
                )?;
            }
            None => {}
        }
        if let Some(note) = &case.note {
            let name = visible_but(&case.name, &[]);
            writeln!(
                streams.out,
                "note: \"{name}\" passed, and its script raised (app:log() would have told):\n{}",
                indented(note)
            )?;
        }
    }
    Ok(())
}

struct Milliseconds(Duration);

impl std::fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1000.0)
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}").trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Runs them, and again whenever something beside the scripts or in the config changes.
fn watch(options: &Options, file: Option<&std::path::Path>, streams: &mut Streams) -> Result<Status, Failure> {
    let config_path = config_file(file)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Told(FAILED, error.to_string()))?;
    let mut watcher = Watcher::new();
    loop {
        let mut reload = crate::config::Reload::default();
        let mut watched = vec![config_path.clone()];
        match load_config(Some(&config_path)) {
            Ok(config) => {
                reload = config.reload.clone();
                let config = Arc::new(config);
                watched.extend(testing::scripts(&config));
                // Before they run: what changes meanwhile is run again.
                watcher.watch(&watched);
                match once(options, &config, streams) {
                    Err(Failure::Told(_, message)) => writeln!(streams.out, "{message}")?,
                    Err(failure) => return Err(failure),
                    Ok(_) => {}
                }
            }
            Err(Failure::Told(_, message)) => {
                watcher.watch(&watched);
                writeln!(streams.out, "{message}")?;
            }
            Err(failure) => return Err(failure),
        }
        writeln!(streams.out, "waiting for a change (Ctrl-C ends)\n")?;
        streams.out.flush()?;
        runtime.block_on(watcher.changed(&reload));
    }
}
