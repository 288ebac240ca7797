//! The relay as a whole: binds, starts the workers, loads every app, serves, reloads, and stops.

use std::{
    collections::HashMap,
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    task::LocalSet,
};

use crate::{
    acceptor::{Acceptor, BindError, Gate},
    app::{App, Instance, InstanceHandle, Order},
    bus::{self, Bus, Directory, Inbound, Post},
    clock::Clock,
    config::{self, Config, Listen, Origins},
    dev::{Dev, Seen},
    handshake::Beside,
    hub::Hub,
    log,
    problem::ScriptProblem,
    reload::{
        self, Reloader, Report, Watcher,
        report::{ConfigReport, Outcome},
    },
    script::{Home, Kept, PasswordPool, Plan, ScriptError, Sources, Ticker},
    store::{Shared, Store, Stores},
    worker::{self, InstanceSpec, WorkerHandle, WorkerOrder, WorkerSetup},
};

/// How the configuration is read again at a reload; None where it did not come from a file.
pub type Reread = Box<dyn Fn() -> Result<Config, String> + Send + Sync>;

/// An app, as the start screen shows it.
#[derive(Debug, Clone)]
pub struct AppSummary {
    pub name: String,
    pub path: String,
    pub script: PathBuf,
    pub generation: u64,
    pub callbacks: Vec<String>,
    pub instances: usize,
    pub warnings: Vec<String>,
}

/// Why a relay does not start.
#[derive(Debug)]
pub enum StartError {
    Bind(BindError),
    /// The scripts that cannot be loaded.
    Scripts(Report),
    Thread(io::Error),
}

impl StartError {
    /// For the exit status: 1 when the world or a script failed.
    pub fn exit_code(&self) -> u8 {
        1
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Bind(error) => error.fmt(f),
            StartError::Scripts(report) => {
                for app in &report.apps {
                    if let Outcome::Failed { error, .. } = &app.outcome {
                        writeln!(f, "{}: cannot be loaded", app.app)?;
                        writeln!(f, "  {}", error.to_string().replace('\n', "\n  "))?;
                    }
                }
                Ok(())
            }
            StartError::Thread(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// A relay that listens and has its scripts loaded, and serves once it runs.
pub struct Server {
    /// None once it runs.
    acceptor: Option<Acceptor>,
    gate: Gate,
    inside: Arc<Inside>,
    threads: Vec<JoinHandle<()>>,
    /// Held for its thread, which ends with it.
    _ticker: Ticker,
}

/// What is shared with those who ask for a reload.
struct Inside {
    workers: Arc<[WorkerHandle]>,
    apps: Arc<[App]>,
    reloaders: Vec<Reloader>,
    gate: Gate,
    config: Mutex<Arc<Config>>,
    reread: Option<Reread>,
    log: Option<log::Handle>,
    dev: Option<Arc<Dev>>,
    /// One reload of the configuration at a time.
    reloading: tokio::sync::Mutex<()>,
    reloaded: Notify,
}

/// Asks a relay for a reload, from any thread.
#[derive(Clone)]
pub struct Handle(Arc<Inside>);

impl Server {
    /// Listens, starts the workers and loads every script; if one cannot be loaded, nothing is started.
    pub async fn start(config: Config, reread: Option<Reread>, log: Option<log::Handle>) -> Result<Server, StartError> {
        Server::start_as(config, reread, log, None).await
    }

    /// The same with a page for those who work on scripts.
    pub async fn start_as(
        config: Config,
        reread: Option<Reread>,
        log: Option<log::Handle>,
        dev: Option<Arc<Dev>>,
    ) -> Result<Server, StartError> {
        let acceptor = Acceptor::bind(&config.server.listen).map_err(StartError::Bind)?;
        let ticker = Ticker::start().map_err(StartError::Thread)?;
        let gate = Gate::new(&config.limits, &config.server.trusted_proxies);
        let config = Arc::new(config);
        let plan = Layout::new(&config, dev.as_ref());
        let reloaders =
            plan.apps.iter().zip(&config.apps).map(|(app, config)| Reloader::new(app.clone(), config.clone()));
        let inside = Arc::new(Inside {
            workers: plan.workers.clone(),
            apps: plan.apps.clone(),
            reloaders: reloaders.collect(),
            gate: gate.clone(),
            config: Mutex::new(config.clone()),
            reread,
            log,
            dev: dev.clone(),
            reloading: tokio::sync::Mutex::default(),
            reloaded: Notify::new(),
        });
        let mut server = Server { acceptor: Some(acceptor), gate, inside, threads: Vec::new(), _ticker: ticker };
        server.start_workers(plan, &config)?;
        let mut report = Report::default();
        for reloader in &server.inside.reloaders {
            report.apps.push(reloader.reload(None, &config.reload).await);
        }
        if let Some(dev) = &server.inside.dev {
            let apps = config.apps.iter().zip(server.inside.apps.iter()).zip(&server.inside.reloaders);
            let seen = apps.map(|((config, app), reloader)| Seen {
                config: config.clone(),
                app: app.clone(),
                reloader: reloader.clone(),
            });
            dev.set_apps(seen.collect());
            dev.note_report(&report);
        }
        if !report.ok() && server.inside.dev.is_some() {
            // Whoever works on it mends it: the next save is looked at.
            reload::log(&report);
        } else if !report.ok() {
            server.end();
            return Err(StartError::Scripts(report));
        }
        Ok(server)
    }

    fn start_workers(&mut self, layout: Layout, config: &Arc<Config>) -> Result<(), StartError> {
        let boot = boot();
        let apps = layout.apps.clone();
        for (index, seat) in layout.seats.into_iter().enumerate() {
            let setup = WorkerSetup {
                index,
                orders: seat.orders,
                workers: self.inside.workers.clone(),
                inbound: seat.inbound,
                instances: seat.instances,
                apps: apps.clone(),
                config: config.clone(),
                boot: boot.clone(),
                beside: self.inside.dev.clone().map(|dev| dev as Arc<dyn Beside>),
                budget: self._ticker.budget(),
            };
            let body = move || {
                if let Err(error) = worker::run(setup) {
                    tracing::error!("worker {index} could not start: {error}");
                }
            };
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(body);
            self.threads.push(thread.map_err(StartError::Thread)?);
        }
        Ok(())
    }

    /// Where it listens, as URLs.
    pub fn addrs(&self) -> Vec<String> {
        let url = |listen: &Listen| match listen {
            Listen::Tcp(address) => format!("http://{address}/"),
            Listen::Unix(path) => format!("unix:{}", path.display()),
        };
        self.acceptor.iter().flat_map(Acceptor::local_addrs).map(|listen| url(&listen)).collect()
    }

    pub async fn apps(&self) -> Vec<AppSummary> {
        let config = self.inside.config();
        let mut apps = Vec::new();
        for (app, reloader) in config.apps.iter().zip(&self.inside.reloaders) {
            let (generation, callbacks) = reloader.running().await;
            apps.push(AppSummary {
                name: app.name.clone(),
                path: app.path.clone(),
                script: app.script.clone(),
                generation,
                callbacks: callbacks.iter().map(|name| (*name).to_owned()).collect(),
                instances: app.instances,
                warnings: warnings(app, &callbacks),
            });
        }
        apps
    }

    pub fn handle(&self) -> Handle {
        Handle(self.inside.clone())
    }

    /// Serves until `shutdown`, then closes every connection and ends within `server.shutdown`.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let (stop, stopped) = oneshot::channel::<()>();
        let workers = self.inside.workers.clone();
        let hand_over = move |accepted| {
            let alive = workers.iter().filter(|worker| worker.is_alive());
            if let Some(worker) = alive.min_by_key(|worker| worker.load()) {
                worker.tell(WorkerOrder::Accept(accepted));
            }
        };
        let Some(acceptor) = self.acceptor.take() else { return };
        let gate = self.gate.clone();
        let accepting = std::thread::Builder::new().name("acceptor".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(acceptor.run(gate, hand_over, async move {
                let _ = stopped.await; // a dropped sender stops it too
            }))
        });
        let accepting = match accepting {
            Ok(accepting) => accepting,
            Err(error) => return tracing::error!("the acceptor's thread could not start: {error}"),
        };
        let watching = watch(self.inside.clone());
        tokio::select! {
            () = shutdown => {}
            () = watching => {}
        }
        drop(stop);
        let deadline = self.inside.config().server.shutdown;
        if tokio::time::timeout(deadline, self.close()).await.is_err() {
            tracing::warn!("not everything had ended within server.shutdown ({} s)", deadline.as_secs_f64());
        }
        if let Ok(Err(error)) = accepting.join() {
            tracing::error!("the acceptor ended with an error: {error}");
        }
        self.end();
    }

    /// Closes every connection, runs `on_close` for each, then `on_stop`.
    async fn close(&self) {
        let config = self.inside.config();
        let (spread, grace) = (config.server.shutdown / 4, config.server.shutdown / 2);
        let mut closing = Vec::new();
        for worker in self.inside.workers.iter() {
            let (done, closed) = oneshot::channel();
            worker.tell(WorkerOrder::Close { spread: spread.min(Duration::from_secs(5)), done });
            closing.push(closed);
        }
        let mut stopping = Vec::new();
        for instance in self.inside.apps.iter().flat_map(|app| app.instances.iter()) {
            let (reply, stopped) = oneshot::channel();
            instance.ask(Order::Stop { reason: "shutdown".to_owned(), grace, reply });
            stopping.push(stopped);
        }
        for closed in closing {
            let _ = closed.await; // an ended worker has nothing to close
        }
        for stopped in stopping {
            let _ = stopped.await;
        }
    }

    /// Ends the workers' threads.
    fn end(&mut self) {
        for worker in self.inside.workers.iter() {
            worker.tell(WorkerOrder::End);
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker's thread had panicked");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

impl Inside {
    fn config(&self) -> Arc<Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Handle {
    /// Takes over what has changed: the configuration, then every app. The outcome is logged.
    pub async fn reload(&self) -> Report {
        let inside = self.0.clone();
        // A task of its own: once begun it ends, even if whoever asked has gone.
        match tokio::spawn(async move { inside.reload().await }).await {
            Ok(report) => report,
            Err(error) => {
                tracing::error!("a reload ended early: {error}");
                Report::default()
            }
        }
    }
}

impl Inside {
    async fn reload(&self) -> Report {
        let inside = self;
        let _one = inside.reloading.lock().await;
        let running = inside.config();
        let mut report = Report::default();
        let mut next = None;
        if let Some(reread) = &inside.reread {
            let file = running.file.clone().unwrap_or_default();
            let mut config = ConfigReport { file, applied: Vec::new(), error: None };
            match reread() {
                Ok(read) => {
                    report.restart_needed = running.restart_needed(&read);
                    let (merged, applied) = running.take_over(&read);
                    config.applied = applied;
                    next = (!config.applied.is_empty()).then_some(Arc::new(merged));
                }
                Err(error) => config.error = Some(error),
            }
            report.config = Some(config);
        }
        let target = next.clone().unwrap_or_else(|| running.clone());
        for (place, reloader) in inside.reloaders.iter().enumerate() {
            report.apps.push(reloader.reload(Some(target.apps[place].clone()), &target.reload).await);
        }
        if let Some(next) = next {
            inside.take_over(&running, next, &mut report);
        }
        reload::log(&report);
        if let Some(dev) = &inside.dev {
            dev.note_report(&report);
        }
        inside.reloaded.notify_waiters();
        report
    }
}

impl Inside {
    /// Puts a new configuration in force, except for the apps whose scripts would not load with it.
    fn take_over(&self, running: &Config, next: Arc<Config>, report: &mut Report) {
        let mut next = Config::clone(&next);
        for (place, app) in report.apps.iter().enumerate() {
            if matches!(app.outcome, Outcome::Failed { .. }) {
                next.apps[place] = running.apps[place].clone();
                let prefix = format!("app.{}.", app.app);
                if let Some(config) = &mut report.config {
                    let before = config.applied.len();
                    config.applied.retain(|name| !name.starts_with(&prefix));
                    if config.applied.len() < before {
                        let why = format!("what changed for `{}` is not in force: its script fails with it", app.app);
                        config.error.get_or_insert(why);
                    }
                }
            }
        }
        self.gate.update(&next.limits, &next.server.trusted_proxies);
        if let Some(log) = &self.log
            && let Err(error) = log.apply(&next.log)
            && let Some(config) = &mut report.config
        {
            config.error = Some(error);
            next.log = running.log.clone();
        }
        let next = Arc::new(next);
        for worker in self.workers.iter() {
            worker.tell(WorkerOrder::Site(next.clone()));
        }
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }
}

/// Asks for a reload whenever a loaded file or the configuration may have changed.
async fn watch(inside: Arc<Inside>) {
    let handle = Handle(inside.clone());
    let mut watcher = Watcher::new();
    loop {
        let config = inside.config();
        if !config.reload.watch {
            inside.reloaded.notified().await;
            continue;
        }
        let mut files: Vec<PathBuf> = config.apps.iter().map(|app| app.script.clone()).collect();
        for reloader in &inside.reloaders {
            files.extend(reloader.files().await);
        }
        files.extend(config.file.clone());
        watcher.watch(&files);
        tokio::select! {
            () = watcher.changed(&config.reload) => {
                handle.reload().await;
            }
            () = inside.reloaded.notified() => {}
        }
    }
}

/// Which instance lives on which worker, and the ways between them.
struct Layout {
    workers: Arc<[WorkerHandle]>,
    apps: Arc<[App]>,
    seats: Vec<Seat>,
}

/// What one worker gets.
struct Seat {
    orders: tokio::sync::mpsc::UnboundedReceiver<WorkerOrder>,
    inbound: Inbound,
    instances: Vec<InstanceSpec>,
}

impl Layout {
    fn new(config: &Config, dev: Option<&Arc<Dev>>) -> Layout {
        let count = config.server.workers;
        let (workers, orders): (Vec<_>, Vec<_>) = (0..count).map(|_| WorkerHandle::new()).unzip();
        let (posts, inbounds): (Vec<Post>, Vec<Inbound>) =
            (0..count).map(|_| bus::post(config.limits.bus_pause, config.limits.bus)).unzip();
        let seats =
            orders.into_iter().zip(inbounds).map(|(orders, inbound)| Seat { orders, inbound, instances: Vec::new() });
        let mut layout = Layout { workers: workers.into(), apps: Arc::from([]), seats: seats.collect() };
        layout.place_instances(config, &posts, dev);
        layout
    }

    /// Instances go to the workers in turn, over all apps.
    fn place_instances(&mut self, config: &Config, posts: &[Post], dev: Option<&Arc<Dev>>) {
        let passwords = PasswordPool::new(config.limits.password_jobs);
        let count = self.workers.len();
        let mut number: u16 = 0;
        let mut handles = Vec::new();
        let mut apps = Vec::new();
        for app in &config.apps {
            let mut of_app = Vec::new();
            for _ in 0..app.instances {
                let (handle, orders) = InstanceHandle::new(number, usize::from(number) % count);
                of_app.push((handle, orders));
                number += 1;
            }
            let (instances, orders): (Vec<_>, Vec<_>) = of_app.into_iter().unzip();
            apps.push(App { name: app.name.as_str().into(), instances: instances.into() });
            handles.push(orders);
        }
        let members =
            |app: &App| app.instances.iter().map(|instance| (instance.number, instance.worker)).collect::<Vec<_>>();
        let all: Bus = worker::bus(apps.iter().flat_map(members), posts);
        let disk = Arc::new(Store::new(config.store.path.clone(), config.store.size));
        let mut named: HashMap<String, Arc<Shared>> = HashMap::new();
        for ((app, orders), config) in apps.iter().zip(handles).zip(&config.apps) {
            let bus = worker::bus(members(app), posts);
            let directory = Arc::new(Directory::default());
            let shared = match &config.shared {
                Some(name) => named.entry(name.clone()).or_default().clone(),
                None => Arc::default(),
            };
            let stores = Stores { disk: disk.clone(), shared };
            for (place, (instance, orders)) in app.instances.iter().zip(orders).enumerate() {
                let spec = InstanceSpec {
                    number: instance.number,
                    place: u16::try_from(place).expect("numbers of instances fit"),
                    instances: u16::try_from(app.instances.len()).expect("numbers of instances fit"),
                    app: config.clone(),
                    bus: bus.clone(),
                    all: all.clone(),
                    directory: directory.clone(),
                    passwords: passwords.clone(),
                    stores: stores.clone(),
                    strict: dev.is_some(),
                    tracer: dev.map(|dev| dev.tracer.clone()),
                    env: None,
                    orders,
                };
                self.seats[instance.worker].instances.push(spec);
            }
        }
        self.apps = apps.into();
    }
}

/// What tells this process's connection ids from those of all others.
fn boot() -> Arc<str> {
    let micros = Clock::system().unix().as_micros();
    let mut salt = [0; 2];
    // Without randomness the time alone has to do.
    let _ = getrandom::fill(&mut salt);
    format!("{micros:x}{:04x}", u16::from_le_bytes(salt)).into()
}

/// What people should know before they let others in.
fn warnings(app: &config::App, callbacks: &[&str]) -> Vec<String> {
    let mut warnings = Vec::new();
    if !callbacks.contains(&"authenticate") {
        warnings.push("it has no `authenticate`: everybody is let in as anonymous".to_owned());
    }
    if app.origins == Origins::Any {
        warnings
            .push("its `origins` has \"*\": pages of every site may connect with their visitors' cookies".to_owned());
    }
    warnings
}

/// What came of preparing one app's script as a reload does.
#[derive(Debug, Clone)]
pub struct CheckedApp {
    pub name: String,
    pub script: PathBuf,
    pub callbacks: Vec<String>,
    pub warnings: Vec<String>,
    pub problem: Option<ScriptProblem>,
}

/// Prepares every script as a reload does, `on_load` included, and serves nothing.
pub fn check(config: &Config) -> io::Result<Vec<CheckedApp>> {
    let ticker = Ticker::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let check_one = |app: &Arc<config::App>| {
        let prepared = LocalSet::new().block_on(&runtime, prepare_alone(app.clone(), &ticker));
        let (callbacks, problem) = match prepared {
            Ok(callbacks) => (callbacks, None),
            Err(error) => {
                let traceback = Some(error.traceback).filter(|traceback| !traceback.is_empty());
                (Vec::new(), Some(ScriptProblem::new(error.message, traceback, None)))
            }
        };
        CheckedApp {
            name: app.name.clone(),
            script: app.script.clone(),
            warnings: if problem.is_none() { warnings(app, &callbacks) } else { Vec::new() },
            callbacks: callbacks.iter().map(|name| (*name).to_owned()).collect(),
            problem,
        }
    };
    Ok(config.apps.iter().map(check_one).collect())
}

async fn prepare_alone(app: Arc<config::App>, ticker: &Ticker) -> Result<Vec<&'static str>, ScriptError> {
    let hub = Hub::alone("check", app.limits.rooms_per_connection);
    let home = Home {
        place: 0,
        instances: u16::try_from(app.instances).unwrap_or(u16::MAX),
        clock: Clock::system(),
        hub: hub.into(),
        stores: Stores::nowhere(),
        budget: ticker.budget().into(),
        passwords: PasswordPool::new(app.limits.password_jobs),
        network: Default::default(),
        strict: false,
        tracer: None,
        env: None,
        kept: Kept::default(),
    };
    let instance = Instance::new(home, app.clone());
    let sources = Arc::new(Sources::new(&app.script));
    let plan = Plan { app, generation: 1, sources, previous: None, drain: Duration::ZERO };
    instance.prepare(plan).await.map(|prepared| prepared.callbacks)
}
