//! Hot reload: prepare in every instance, hold, vote, commit. Whole or not at all, per app.
//!
//! The watcher, `SIGHUP`, `moonwire reload` and the tests all ask [`Reloader::reload`].

pub mod report;
mod watch;

pub use report::Report;
pub use watch::Watcher;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::oneshot;

use crate::{
    app::{App, InstanceHandle, Order, Prepared},
    config,
    problem::ScriptProblem,
    reload::report::{AppReport, Outcome},
    script::{Plan, ScriptError, Sources},
};

/// One app's running generation, and the instances that all must switch together.
#[derive(Clone)]
pub struct Reloader(Arc<Inside>);

struct Inside {
    app: App,
    state: tokio::sync::Mutex<State>,
}

struct State {
    config: Arc<config::App>,
    sources: Option<Arc<Sources>>,
    /// What the last reload that failed has read: its files are worth watching too.
    refused: Option<Arc<Sources>>,
    generation: u64,
    version: i64,
    callbacks: Vec<&'static str>,
    loaded_at: f64,
}

impl Reloader {
    pub fn new(app: App, config: Arc<config::App>) -> Reloader {
        let state = State {
            config,
            sources: None,
            refused: None,
            generation: 0,
            version: 1,
            callbacks: Vec::new(),
            loaded_at: 0.0,
        };
        Reloader(Arc::new(Inside { app, state: tokio::sync::Mutex::new(state) }))
    }

    /// The running generation and its callbacks.
    pub async fn running(&self) -> (u64, Vec<&'static str>) {
        let state = self.0.state.lock().await;
        (state.generation, state.callbacks.clone())
    }

    /// The files that the running generation was loaded from, and those of one that was refused after it.
    pub async fn files(&self) -> Vec<PathBuf> {
        let state = self.0.state.lock().await;
        state.sources.iter().chain(&state.refused).flat_map(|sources| sources.paths()).collect()
    }

    /// Loads what has changed, in every instance or in none. `config` is the app's part of a new configuration.
    pub async fn reload(&self, config: Option<Arc<config::App>>, reload: &config::Reload) -> AppReport {
        self.ask(config, reload, false).await
    }

    /// Loads the script anew, changed or not.
    pub async fn load_again(&self, config: Option<Arc<config::App>>, reload: &config::Reload) -> AppReport {
        self.ask(config, reload, true).await
    }

    async fn ask(&self, config: Option<Arc<config::App>>, reload: &config::Reload, anyway: bool) -> AppReport {
        let (inside, reload) = (self.0.clone(), reload.clone());
        let name = self.0.app.name.to_string();
        // A task of its own: once begun it ends, even if whoever asked has gone.
        match tokio::spawn(async move { inside.reload(config, &reload, anyway).await }).await {
            Ok(report) => report,
            Err(error) => {
                let error = ScriptProblem::new(format!("the reload ended early: {error}"), None, None);
                AppReport { app: name, outcome: Outcome::Failed { generation: 0, loaded_at: None, error } }
            }
        }
    }
}

impl Inside {
    async fn reload(&self, config: Option<Arc<config::App>>, reload: &config::Reload, anyway: bool) -> AppReport {
        // One at a time: the next one sees what this one has left.
        let mut state = self.state.lock().await;
        let config = config.unwrap_or_else(|| state.config.clone());
        let outcome = self.attempt(&mut state, config, reload, anyway).await;
        AppReport { app: self.app.name.to_string(), outcome }
    }

    async fn attempt(
        &self,
        state: &mut State,
        config: Arc<config::App>,
        reload: &config::Reload,
        anyway: bool,
    ) -> Outcome {
        let begun = Instant::now();
        let files = state.sources.as_ref().map_or_else(Vec::new, |sources| sources.changed());
        let same_script = state.sources.is_some() && *state.config == *config;
        if same_script && files.is_empty() && !anyway {
            if state.refused.take().is_some() {
                let generation = state.generation;
                tracing::info!(app = %self.app.name, generation, "what was refused has been undone, generation {generation} goes on");
            }
            return Outcome::Unchanged;
        }
        let from = state.generation;
        let sources = Arc::new(Sources::new(&config.script));
        let plan = Plan {
            app: config.clone(),
            generation: from + 1,
            sources: sources.clone(),
            previous: (from > 0).then_some((from, state.version)),
            drain: reload.drain,
        };
        match self.switch(plan, reload.vote).await {
            Ok(prepared) => {
                state.config = config;
                state.sources = Some(sources);
                state.refused = None;
                state.generation = from + 1;
                state.version = prepared.version;
                state.callbacks = prepared.callbacks;
                state.loaded_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
                Outcome::Reloaded { from, to: from + 1, files, ms: begun.elapsed().as_secs_f64() * 1000.0 }
            }
            Err(error) => {
                state.refused = Some(sources);
                let traceback = Some(error.traceback).filter(|traceback| !traceback.is_empty());
                let error = ScriptProblem::new(error.message, traceback, None);
                let loaded_at = (from > 0).then_some(state.loaded_at);
                Outcome::Failed { generation: from, loaded_at, error }
            }
        }
    }

    /// The two phases.
    async fn switch(&self, plan: Plan, vote: Duration) -> Result<Prepared, ScriptError> {
        let instances = &self.app.instances;
        let ended = || ScriptError::raised("an instance has ended: the relay is stopping");
        let prepared = ask(instances, |reply| Order::Prepare { plan: plan.clone(), reply });
        let mut first = None;
        let mut failure = None;
        for answer in prepared {
            match answer.await.unwrap_or_else(|_| Err(ended())) {
                Ok(prepared) => first = first.or(Some(prepared)),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let votes = match failure {
            Some(error) => Err(error),
            None => self.vote(vote).await,
        };
        if let Err(error) = votes {
            for instance in instances.iter() {
                instance.ask(Order::Release);
            }
            return Err(error);
        }
        for committed in ask(instances, |reply| Order::Commit { reply }) {
            committed.await.map_err(|_| ended())?;
        }
        first.ok_or_else(ended)
    }

    async fn vote(&self, limit: Duration) -> Result<(), ScriptError> {
        let votes = ask(&self.app.instances, |reply| Order::Hold { reply });
        let all = async {
            for vote in votes {
                vote.await
                    .unwrap_or_else(|_| Err(ScriptError::raised("an instance has ended: the relay is stopping")))?;
            }
            Ok(())
        };
        tokio::time::timeout(limit, all).await.unwrap_or_else(|_| {
            let limit = limit.as_millis();
            Err(ScriptError::raised(format!("not every instance was ready to switch within reload.vote ({limit} ms)")))
        })
    }
}

/// Asks all instances at once.
fn ask<T>(instances: &[InstanceHandle], order: impl Fn(oneshot::Sender<T>) -> Order) -> Vec<oneshot::Receiver<T>> {
    let ask_one = |instance: &InstanceHandle| {
        let (reply, answer) = oneshot::channel();
        instance.ask(order(reply));
        answer
    };
    instances.iter().map(ask_one).collect()
}

/// Writes what a reload came to into the log.
pub fn log(report: &Report) {
    for app in &report.apps {
        match &app.outcome {
            Outcome::Unchanged => {}
            Outcome::Reloaded { from, to, files, ms } => {
                let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
                // None where only the configuration has changed.
                let files = (!files.is_empty()).then(|| files.join(", "));
                tracing::info!(app = app.app, generation = to, from, ms = format!("{ms:.1}"), files, "reloaded");
            }
            Outcome::Failed { generation, error, .. } => tracing::error!(
                app = app.app,
                generation,
                traceback = error.traceback.as_deref(),
                "reload failed, generation {generation} goes on: {}",
                error.message
            ),
        }
    }
    if let Some(config) = &report.config {
        match &config.error {
            Some(error) => {
                let (first, rest) = error.split_once('\n').unwrap_or((error, ""));
                let more = (!rest.is_empty()).then_some(rest);
                tracing::error!(traceback = more, "{}: not taken over: {first}", config.file.display());
            }
            None if !config.applied.is_empty() => {
                tracing::info!(applied = config.applied.join(", "), "{}: taken over", config.file.display());
            }
            None => {}
        }
    }
    if !report.restart_needed.is_empty() {
        tracing::warn!("a restart is needed for {}", report.restart_needed.join(", "));
    }
}
