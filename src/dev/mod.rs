//! `moonwire dev`: a page at `/_dev/` on which apps can be tried, with what their scripts did wrong.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    app::App,
    clock::Clock,
    config,
    handshake::{Beside, Page},
    log::ScriptEvent,
    problem::ScriptProblem,
    reload::{
        Reloader, Report,
        report::{AppReport, Outcome},
    },
    tracer::Tracer,
};

/// Errors of callbacks that are kept.
const ERRORS_MAX: usize = 50;

const FILES: [(&str, &str, &str); 3] = [
    ("", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("dev.js", "text/javascript; charset=utf-8", include_str!("page/dev.js")),
    ("dev.css", "text/css; charset=utf-8", include_str!("page/dev.css")),
];

/// An app, and what can be asked about it.
pub struct Seen {
    pub config: Arc<config::App>,
    pub app: App,
    pub reloader: Reloader,
}

/// What the page knows. Shared by all workers.
#[derive(Default)]
pub struct Dev {
    pub tracer: Arc<Tracer>,
    apps: Mutex<Vec<Seen>>,
    /// By app: when it was last reloaded, and what came of it.
    reports: Mutex<HashMap<String, (f64, AppReport)>>,
    errors: Mutex<Errors>,
}

#[derive(Default)]
struct Errors {
    kept: VecDeque<Value>,
    next: u64,
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> f64 {
    Clock::system().unix().as_secs_f64()
}

impl Dev {
    pub fn set_apps(&self, apps: Vec<Seen>) {
        *locked(&self.apps) = apps;
    }

    /// Remembers what a reload came to.
    pub fn note_report(&self, report: &Report) {
        let mut reports = locked(&self.reports);
        for app in &report.apps {
            // A look that found nothing new says nothing, unless it is that a mistake has been undone.
            let undone = reports.get(&app.app).is_none_or(|(_, kept)| matches!(kept.outcome, Outcome::Failed { .. }));
            if app.outcome != Outcome::Unchanged || undone {
                reports.insert(app.app.clone(), (now(), app.clone()));
            }
        }
    }

    /// Remembers an error of a callback.
    pub fn note_error(&self, event: &ScriptEvent) {
        let problem = ScriptProblem::new(&*event.message, None, None);
        let mut errors = locked(&self.errors);
        errors.next += 1;
        let error = json!({
            "seq": errors.next,
            "at": now(),
            "app": event.text("app"),
            "generation": event.field("generation"),
            "callback": event.text("callback"),
            "connection": event.text("connection"),
            "message": event.message,
            "traceback": event.text("traceback"),
            "file": problem.file.as_ref().map(|file| file.to_string_lossy()),
            "line": problem.line,
            "column": problem.column,
            "excerpt": problem.excerpt,
            "hint": problem.hint,
        });
        if errors.kept.len() == ERRORS_MAX {
            errors.kept.pop_front();
        }
        errors.kept.push_back(error);
    }

    async fn apps(&self) -> Value {
        // Not held over the waits below.
        let seen: Vec<_> = locked(&self.apps)
            .iter()
            .map(|seen| (seen.config.clone(), seen.app.clone(), seen.reloader.clone()))
            .collect();
        let mut apps = Vec::new();
        for (config, app, reloader) in seen {
            let (generation, callbacks) = reloader.running().await;
            let connections: usize = app.instances.iter().map(|instance| instance.connections()).sum();
            let reload = locked(&self.reports).get(&config.name).map(|(at, report)| told(*at, report));
            apps.push(json!({
                "name": config.name,
                "path": config.path,
                "script": config.script.to_string_lossy(),
                "generation": generation,
                "instances": app.instances.len(),
                "connections": connections,
                "callbacks": callbacks,
                "subprotocols": config.subprotocols,
                "reload": reload,
            }));
        }
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "trace": self.tracer.is_on(),
            "apps": apps,
            "errors": locked(&self.errors).kept,
        })
    }

    async fn answer(&self, page: Page) -> Option<Page> {
        let name = page.path.strip_prefix("/_dev")?;
        let Some(name) = name.strip_prefix('/') else {
            // Links of the page start at its folder.
            return name.is_empty().then(|| Page {
                status: 308,
                kind: "location",
                path: "/_dev/".to_owned(),
                ..Page::default()
            });
        };
        if let Some((_, kind, text)) = FILES.iter().find(|(file, ..)| *file == name) {
            return Some(Page::of(kind, *text));
        }
        let told = match (&*page.method, name) {
            (_, "apps.json") => self.apps().await,
            (_, "trace.json") => {
                let after = page.query.strip_prefix("after=").and_then(|seq| seq.parse().ok()).unwrap_or(0);
                let (entries, lost) = self.tracer.after(after);
                json!({ "entries": entries, "lost": lost })
            }
            ("POST", "trace") => {
                let asked: Value = serde_json::from_slice(&page.body).unwrap_or_default();
                let Some(on) = asked["on"].as_bool() else {
                    return Some(Page {
                        status: 400,
                        ..Page::of("text/plain", "send {\"on\":true} or {\"on\":false}\n")
                    });
                };
                self.tracer.switch(on);
                json!({ "on": on })
            }
            _ => return None,
        };
        Some(Page::of("application/json", told.to_string()))
    }
}

impl Beside for Dev {
    fn answer(self: Arc<Self>, page: Page) -> Pin<Box<dyn Future<Output = Option<Page>>>> {
        Box::pin(async move { Dev::answer(&self, page).await })
    }
}

fn told(at: f64, report: &AppReport) -> Value {
    let mut told = match &report.outcome {
        Outcome::Unchanged => json!({ "outcome": "unchanged" }),
        Outcome::Reloaded { from, to, files, ms } => {
            let files: Vec<_> = files.iter().map(|file| file.to_string_lossy()).collect();
            json!({ "outcome": "reloaded", "from": from, "to": to, "ms": ms, "files": files })
        }
        Outcome::Failed { generation, error, .. } => json!({
            "outcome": "failed",
            "from": generation,
            "message": error.message,
            "traceback": error.traceback,
            "file": error.file.as_ref().map(|file| file.to_string_lossy()),
            "line": error.line,
            "column": error.column,
            "excerpt": error.excerpt,
            "hint": error.hint,
        }),
    };
    told["at"] = json!(at);
    told
}

/// How long a save is waited for before a reload in `moonwire dev`: a little shorter than elsewhere, since somebody waits.
pub const DEBOUNCE: Duration = Duration::from_millis(50);
