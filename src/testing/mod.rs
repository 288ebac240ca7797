//! `moonwire test`: runs files of tests against the real host, in one process, with virtual peers and a virtual clock.
//!
//! Each case has a VM, apps, peers and a clock of its own, so that no case can tell what ran before it.

mod host;
mod log;
mod report;

pub use report::{junit, summary};

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use self::{
    host::{Bench, Case},
    log::Captured,
};
use crate::{
    clock::Clock,
    config::Config,
    harness::{self, EPOCH},
    problem::ScriptProblem,
    script::{Budget, ScriptError, Sources, TestVm, Ticker},
    visible::{beginning, visible_but},
};

/// How many of the last steps a failure shows.
const SCENE_LINES: usize = 40;
/// How many of the last lines of the log.
const LOG_LINES: usize = 30;
/// Folders within folders that are searched for tests.
const DEPTH_MAX: usize = 16;

/// What came of one file.
pub struct FileResult {
    pub file: PathBuf,
    /// Why the file itself could not be used.
    pub problem: Option<String>,
    pub cases: Vec<CaseResult>,
}

pub struct CaseResult {
    pub name: String,
    pub line: usize,
    pub time: Duration,
    /// The whole scene, if it failed.
    pub failure: Option<String>,
    /// Errors of scripts that it passed in spite of, without having asked for them.
    pub note: Option<String>,
}

/// How cases are run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Only cases whose name, or whose file's, has this in it.
    pub filter: String,
    pub threads: usize,
    /// Real time that one case may take.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Options { filter: String::new(), threads, timeout: Duration::from_secs(30) }
    }
}

impl FileResult {
    pub fn failures(&self) -> usize {
        usize::from(self.problem.is_some()) + self.cases.iter().filter(|case| case.failure.is_some()).count()
    }
}

/// All Lua files beside the scripts and below, whose changes may matter to a test.
pub fn scripts(config: &Config) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    for folder in folders(config) {
        // A folder that cannot be read is told of when tests are looked for.
        let _ = search(&folder, DEPTH_MAX, &[".lua", ".luau"], &mut found);
    }
    found.into_iter().collect()
}

fn folders(config: &Config) -> impl Iterator<Item = PathBuf> + '_ {
    config.apps.iter().map(|app| {
        let folder = app.script.parent().filter(|folder| !folder.as_os_str().is_empty());
        folder.unwrap_or(Path::new(".")).to_owned()
    })
}

/// The files `*_test.lua` beside the scripts of all apps, and in the folders below.
pub fn files(config: &Config) -> io::Result<Vec<PathBuf>> {
    let mut found = BTreeSet::new();
    for folder in folders(config) {
        search(&folder, DEPTH_MAX, &["_test.lua", "_test.luau"], &mut found)?;
    }
    // Two apps may name one folder in different ways.
    let mut seen = BTreeSet::new();
    found.retain(|path| fs::canonicalize(path).is_ok_and(|real| seen.insert(real)));
    Ok(found.into_iter().collect())
}

fn search(folder: &Path, depth: usize, ends: &[&str], found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        // A link to a file is one; a link to a folder may lead round in a circle.
        let mut kind = entry.file_type()?;
        if kind.is_symlink()
            && let Ok(about) = fs::metadata(&path)
            && about.is_file()
        {
            kind = about.file_type();
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind.is_dir() && depth > 0 && !name.starts_with('.') && name != "node_modules" {
            search(&path, depth - 1, ends, found)?;
        } else if kind.is_file() && ends.iter().any(|end| name.ends_with(end)) {
            found.insert(path.strip_prefix(".").map(Path::to_owned).unwrap_or(path));
        }
    }
    Ok(())
}

/// Runs the cases of `files`, and tells of each file in order once it is done.
pub fn run(
    config: &Arc<Config>,
    files: &[PathBuf],
    options: &Options,
    mut told: impl FnMut(&FileResult),
) -> io::Result<Vec<FileResult>> {
    let ticker = Ticker::start()?;
    let next = AtomicUsize::new(0);
    let (done, results) = mpsc::channel();
    let mut all: Vec<Option<FileResult>> = files.iter().map(|_| None).collect();
    let mut shown = 0;
    std::thread::scope(|scope| {
        for _ in 0..options.threads.min(files.len()).max(1) {
            let (done, next, ticker) = (done.clone(), &next, &ticker);
            scope.spawn(move || {
                let budget = Rc::new(ticker.budget());
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(file) = files.get(place) else { break };
                    let _ = done.send((place, run_file(config, file, options, &budget))); // it is listened to
                }
            });
        }
        drop(done);
        for (place, result) in results {
            all[place] = Some(result);
            while let Some(Some(result)) = all.get(shown) {
                told(result);
                shown += 1;
            }
        }
    });
    Ok(all.into_iter().flatten().collect())
}

fn run_file(config: &Arc<Config>, file: &Path, options: &Options, budget: &Rc<Budget>) -> FileResult {
    let mut result = FileResult { file: file.to_owned(), problem: None, cases: Vec::new() };
    let shown = file.to_string_lossy();
    // Read and compiled once for all cases.
    let sources = Arc::new(Sources::of_tests(file));
    let listed = in_bench(config, budget, |bench| async {
        let bench = bench;
        let vm = load(&bench, &sources).await?;
        let cases: Vec<(String, usize)> = bench.cases.take().into_iter().map(|case| (case.name, case.line)).collect();
        drop(vm);
        Ok(cases)
    });
    let cases = match listed {
        Ok(cases) if cases.is_empty() => {
            result.problem = Some("it has no test.case".to_owned());
            return result;
        }
        Ok(cases) => cases,
        Err(failed) => {
            result.problem = Some(failed);
            return result;
        }
    };
    for (place, (name, line)) in cases.into_iter().enumerate() {
        if !name.contains(&options.filter) && !shown.contains(&options.filter) {
            continue;
        }
        let begun = Instant::now();
        let ran = in_bench(config, budget, |bench| async {
            let bench = bench;
            let vm = load(&bench, &sources).await?;
            // The same file has the same cases, unless it asks a clock or chance which.
            let case = bench.cases.take().into_iter().nth(place);
            let Some(Case { function, .. }) = case else {
                return Err(ScriptError::raised("the case is not there the second time that the file is run"));
            };
            bench.running.set(true);
            bench.deadline.set(Some(Instant::now() + options.timeout));
            vm.run(&function, (), options.timeout).await?;
            match bench.fault.take() {
                Some(fault) => Err(ScriptError::raised(fault)),
                None => Ok(bench.unasked()),
            }
        });
        let (note, failure) = match ran {
            Ok(note) => (note, None),
            Err(failure) => (None, Some(failure)),
        };
        result.cases.push(CaseResult { name, line, time: begun.elapsed(), failure, note });
    }
    result
}

async fn load(bench: &Rc<Bench>, sources: &Arc<Sources>) -> Result<TestVm, ScriptError> {
    let of = bench.clone();
    let vm = TestVm::new(sources, bench.clock, &bench.budget, move |lua, carried, waiter| {
        host::register(lua, carried, waiter, &of)
    });
    let vm = vm.map_err(|error| ScriptError::from_lua(&error))?;
    vm.load().await?;
    Ok(vm)
}

/// Runs `body` on a thread's own runtime with a paused clock; a failure comes with its scene and its log.
fn in_bench<T, F: Future<Output = Result<T, ScriptError>>>(
    config: &Arc<Config>,
    budget: &Rc<Budget>,
    body: impl FnOnce(Rc<Bench>) -> F,
) -> Result<T, String> {
    harness::run(async {
        let clock = Clock::virtual_from(EPOCH);
        let (log, _guard) = Captured::begin(clock);
        let bench = Rc::new(Bench::new(config.clone(), clock, budget.clone(), log.clone()));
        let ran = body(bench.clone()).await;
        ran.map_err(|error| failure(error, &bench.scene.borrow(), &log))
    })
}

/// What a script raises may have any length.
fn cut(text: &mut String) {
    const TEXT_MAX: usize = 16 * 1024;
    if text.len() > TEXT_MAX {
        text.truncate(beginning(text, TEXT_MAX).len());
        text.push_str(" …");
    }
}

fn failure(error: ScriptError, scene: &[String], log: &Captured) -> String {
    let traceback = Some(error.traceback).filter(|traceback| !traceback.is_empty());
    let mut text = ScriptProblem::new(error.message, traceback, None).to_string();
    let lines = |text: &mut String, title: &str, lines: &[String], max: usize| {
        if lines.is_empty() {
            return;
        }
        text.push_str(&format!("\n{title}"));
        if lines.len() > max {
            text.push_str(&format!("\n  … {} before", lines.len() - max));
        }
        for line in &lines[lines.len().saturating_sub(max)..] {
            text.push_str(&format!("\n  {}", visible_but(line, &['\n'])));
        }
    };
    cut(&mut text);
    lines(&mut text, "what happened:", scene, SCENE_LINES);
    let logged: Vec<String> = log.lines().iter().map(log::Line::shown).collect();
    lines(&mut text, "the log:", &logged, LOG_LINES);
    text
}
