//! `moonwire serve`: from the config to the last closed connection.

use std::{path::Path, process, sync::Arc};

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
    task::LocalSet,
};

use super::{
    FAILED, Failure, OK, Status, Streams, banner::banner, config_file, config_warnings, load_config, read_config,
};
use crate::{
    config::Config,
    control::{Listener, Request, Response},
    dev::Dev,
    log::{self, Observer, ScriptEvent, colour_wanted},
    server::{AppSummary, Handle, Reread, Server},
    visible::visible,
};

/// The signals that mean something to a relay.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

pub(super) fn run(file: Option<&Path>, streams: &mut Streams) -> Result<Status, Failure> {
    run_as(file, None, streams)
}

/// The same, with a page for those who work on scripts.
pub(super) fn run_as(file: Option<&Path>, dev: Option<Arc<Dev>>, streams: &mut Streams) -> Result<Status, Failure> {
    let is_dev = dev.is_some();
    let adapted = move |config| if is_dev { super::dev::adapted(config) } else { config };
    let config = adapted(load_config(file)?);
    allow_descriptors();
    let observer = dev.clone().map(|dev| Box::new(move |event: &ScriptEvent| dev.note_error(event)) as Observer);
    let log = log::init(&config.log, observer);
    let told = |error: std::io::Error| Failure::Told(FAILED, format!("cannot start: {error}"));
    let runtime = Builder::new_current_thread().enable_all().build().map_err(told)?;
    let within = runtime.enter();
    let signals = Signals::new().map_err(told)?;
    // Before the addresses: of two relays with one config, the second should hear that there is a first.
    let control = Listener::bind(&config.server.control).map_err(|error| Failure::Told(FAILED, error.to_string()))?;
    drop(within);
    let outcome = LocalSet::new().block_on(&runtime, async {
        let reread = reread(file, adapted)?;
        let server = match Server::start_as(config.clone(), Some(reread), Some(log.clone()), dev).await {
            Ok(server) => server,
            Err(error) => {
                return Err(Failure::Told(error.exit_code(), error.to_string().trim_end().to_owned()));
            }
        };
        present(&config, &server.addrs(), &server.apps().await, streams)?;
        if is_dev {
            present_page(&server.addrs(), streams)?;
        }
        serve(server, control, signals, log.clone()).await;
        Ok(OK)
    });
    if outcome.is_ok() {
        tracing::info!("stopped");
    }
    log.flush();
    outcome
}

/// Shells give a process 1,024 file descriptors to begin with, one for each connection; it may have as many as the hard
/// limit says.
fn allow_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where that is forbidden the acceptor says so when they run out.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// How the same configuration is read again at a reload.
fn reread(file: Option<&Path>, adapted: impl Fn(Config) -> Config + Send + Sync + 'static) -> Result<Reread, Failure> {
    let file = config_file(file)?;
    Ok(Box::new(move || read_config(&file).map(&adapted).map_err(|error| error.to_string().trim_end().to_owned())))
}

/// Says where the page is.
fn present_page(addresses: &[String], streams: &mut Streams) -> Result<(), Failure> {
    if let Some(address) = addresses.iter().find(|address| address.starts_with("http")) {
        writeln!(streams.out, "  try it at {}_dev/\n", visible(address))?;
        streams.out.flush()?;
    }
    Ok(())
}

/// Says where everything is: to people on the screen, to everybody else in the log.
fn present(config: &Config, addresses: &[String], apps: &[AppSummary], streams: &mut Streams) -> Result<(), Failure> {
    if streams.out_terminal {
        write!(streams.out, "{}", banner(config, addresses, apps, colour_wanted()))?;
        streams.out.flush()?;
    }
    if !(streams.out_terminal && streams.err_terminal) {
        tracing::info!(fields = %listening(config, addresses, apps), "listening");
    }
    for warning in config_warnings(config) {
        tracing::warn!("{warning}");
    }
    Ok(())
}

fn listening(config: &Config, addresses: &[String], apps: &[AppSummary]) -> serde_json::Value {
    let app = |app: &AppSummary| {
        serde_json::json!({
            "app": app.name,
            "path": app.path,
            "script": app.script.to_string_lossy(),
            "generation": app.generation,
            "instances": app.instances,
            "callbacks": app.callbacks,
            "warnings": app.warnings,
        })
    };
    serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "config": config.file.as_ref().map(|file| file.to_string_lossy()),
        "control": config.server.control.to_string_lossy(),
        "addresses": addresses,
        "apps": apps.iter().map(app).collect::<Vec<_>>(),
    })
}

async fn serve(server: Server, control: Listener, signals: Signals, log: log::Handle) {
    let Signals { terminate, interrupt, hangup } = signals;
    let handle = server.handle();
    let answering = tokio::task::spawn_local(control.serve({
        let handle = handle.clone();
        move |request| {
            let handle = handle.clone();
            async move {
                match request {
                    Request::Reload => Response::report(handle.reload().await),
                }
            }
        }
    }));
    let reloading = tokio::task::spawn_local(reload_on(hangup, handle));
    server.run(stop_on(terminate, interrupt, log)).await;
    reloading.abort();
    answering.abort();
    // Only when the task has ended is its socket removed.
    let _ = answering.await;
}

async fn reload_on(mut hangup: Signal, handle: Handle) {
    while hangup.recv().await.is_some() {
        tracing::info!(signal = "SIGHUP", "reloading");
        handle.reload().await;
    }
}

/// Ends at the first signal. After the second the process is gone.
async fn stop_on(mut terminate: Signal, mut interrupt: Signal, log: log::Handle) {
    let signal = either(&mut terminate, &mut interrupt).await;
    tracing::info!(signal, "stopping; a second signal stops at once");
    tokio::task::spawn_local(async move {
        let signal = either(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal, "stopped at once: connections end without a close frame");
        log.flush();
        process::exit(i32::from(FAILED));
    });
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config;

    /// The defaults, with nothing to serve.
    pub(in crate::cli) fn a_config() -> Config {
        Config {
            file: Some("config.toml".into()),
            server: config::Server {
                listen: Vec::new(),
                workers: 1,
                control: "moonwire.sock".into(),
                trusted_proxies: Vec::new(),
                shutdown: Duration::from_secs(1),
            },
            limits: config::Limits::default(),
            store: config::Store::default(),
            reload: config::Reload::default(),
            log: config::Log::default(),
            apps: Vec::new(),
            statics: Vec::new(),
        }
    }

    #[test]
    fn what_the_log_says_at_the_start_can_be_read_by_machines() {
        let app = AppSummary {
            name: "chat".to_owned(),
            path: "/chat".to_owned(),
            script: "scripts/chat.lua".into(),
            generation: 1,
            callbacks: vec!["on_message".to_owned()],
            instances: 2,
            warnings: Vec::new(),
        };
        let fields = listening(&a_config(), &["http://127.0.0.1:8080/".to_owned()], &[app]);
        assert_eq!(fields["addresses"][0], "http://127.0.0.1:8080/");
        assert_eq!(fields["config"], "config.toml");
        assert_eq!(fields["apps"][0]["callbacks"][0], "on_message");
        assert_eq!(fields["apps"][0]["instances"], 2);
    }

    #[test]
    fn the_banner_is_for_terminals_only() {
        for (terminal, expected) in [(true, "\n  moonwire"), (false, "")] {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let mut streams = Streams { out: &mut out, err: &mut err, out_terminal: terminal, err_terminal: terminal };
            present(&a_config(), &[], &[], &mut streams).unwrap();
            let text = String::from_utf8(out).unwrap().replace("\x1b[1m", "");
            assert!(if expected.is_empty() { text.is_empty() } else { text.starts_with(expected) }, "{text}");
        }
    }
}
