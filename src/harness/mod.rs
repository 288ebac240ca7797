//! The relay in one thread, with peers that have no socket and a clock that moves when it is told to.
//!
//! Instances, generations, hub and outboxes are the real ones; only the wire and the threads are left out.
//! It must run inside [`run`], which gives it a paused clock.

mod alone;
mod transcript;

pub use alone::{alone, resident};
pub use transcript::{Transcript, check, check_with};

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    future::Future,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use slab::Slab;
use tokio::{runtime::Builder, task::LocalSet};

use crate::{
    app::{App, Instance, InstanceHandle, Lane},
    bus::{self, Bus},
    clock::Clock,
    config::{self, Config},
    handshake::{
        Admission, Door, Site,
        bare::{self, Bare},
    },
    identity::{Response, Verdict},
    outbox::{Dirty, Outbox, Sent},
    outgoing::Network,
    peer::Request,
    permission::Reason,
    reload::{Reloader, report::AppReport},
    script::{Budget, PasswordPool, Ticker},
    store::{Store, Stores},
    wire,
    worker::{self, InstanceSpec},
};

/// The Unix time at which every virtual clock begins.
pub const EPOCH: Duration = Duration::from_secs(1_800_000_000);

/// Turns without anything happening after which everything is at rest.
const QUIET_TURNS: usize = 12;

/// Runs a test body on one thread with a virtual clock.
pub fn run<T>(body: impl Future<Output = T>) -> T {
    let runtime =
        Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime can be built");
    LocalSet::new().block_on(&runtime, body)
}

/// An app with the built-in limits, whose script is a file.
pub fn app(name: &str, script: &Path) -> config::App {
    config::App::new(name, &format!("/{name}/{{room}}"), script)
}

/// A relay of one app.
pub struct Relay {
    app: App,
    config: RefCell<Arc<config::App>>,
    reloader: Reloader,
    instances: Rc<HashMap<u16, Rc<Instance>>>,
    dirty: Dirty,
    links: RefCell<Slab<Rc<Link>>>,
    /// Rises with everything that a peer sends or receives.
    activity: Cell<u64>,
    passwords: PasswordPool,
    bus: Bus,
    /// When whoever waits for it has waited too long, in real time.
    deadline: Option<std::time::Instant>,
    deflate: Option<wire::Deflate>,
    zlib: Rc<wire::Zlib>,
    _ticker: Option<Ticker>,
    /// Removed at the end, with what is in it.
    folder: Option<PathBuf>,
}

/// A virtual peer's end of its connection.
struct Link {
    outbox: Rc<Outbox>,
    instance: Rc<Instance>,
    lane: Rc<Lane>,
    /// Sent, but not read by the relay yet.
    unread: RefCell<VecDeque<(Bytes, bool)>>,
    inflater: RefCell<Option<wire::Inflater>>,
    received: RefCell<VecDeque<Sent>>,
    /// How the connection ended, for the peer.
    closed: RefCell<Option<(u16, String)>>,
    told: Cell<bool>,
}

/// How a relay differs from what it is elsewhere.
#[derive(Default)]
pub struct Setup {
    pub network: Network,
    /// States are looked at after each callback.
    pub strict: bool,
    /// Its clock, if it is not one of its own.
    pub clock: Option<Clock>,
    /// The thread's own, if it has one: each one is a thread that ticks.
    pub budget: Option<Rc<Budget>>,
    /// What scripts find in the place of the process's variables.
    pub env: Option<Vec<(String, String)>>,
    /// In real time: then nothing is waited for any more.
    pub deadline: Option<std::time::Instant>,
    /// What peers agree on about compression.
    pub deflate: Option<wire::Deflate>,
}

/// Why a peer was not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// An HTTP status, or the code of the close that came right behind the upgrade.
    pub code: u16,
    pub reason: String,
}

/// A peer that is connected, or was.
#[derive(Clone)]
pub struct Peer {
    link: Rc<Link>,
}

impl Relay {
    /// Loads the app; its script's mistakes come back in the report. Its store is its own.
    pub async fn start(config: config::App) -> Result<Relay, AppReport> {
        Relay::start_as(config, Setup::default()).await
    }

    /// The same in another setup.
    pub async fn start_as(config: config::App, setup: Setup) -> Result<Relay, AppReport> {
        let mut name = [0; 8];
        getrandom::fill(&mut name).expect("the system has randomness");
        // The store makes it when it is first used.
        let folder = std::env::temp_dir().join(format!("moonwire-store-{:016x}", u64::from_le_bytes(name)));
        let mut relay = Relay::start_in(config, &folder.join("moonwire.db"), setup).await?;
        relay.folder = Some(folder);
        Ok(relay)
    }

    /// The same with its store in the file `store`, which stays.
    pub async fn start_with(config: config::App, store: &Path) -> Result<Relay, AppReport> {
        Relay::start_in(config, store, Setup::default()).await
    }

    /// Both.
    pub async fn start_in(config: config::App, store: &Path, setup: Setup) -> Result<Relay, AppReport> {
        let (ticker, budget) = match setup.budget {
            Some(budget) => (None, budget),
            None => {
                let ticker = Ticker::start().expect("a thread can be started");
                let budget = Rc::new(ticker.budget());
                (Some(ticker), budget)
            }
        };
        let clock = setup.clock.unwrap_or_else(|| Clock::virtual_from(EPOCH));
        let config = Arc::new(config);
        let count = u16::try_from(config.instances).expect("an app has at most 65,535 instances");
        let (post, inbound) = bus::post(config.limits.bus_pause, config.limits.bus);
        let (handles, orders): (Vec<_>, Vec<_>) = (0..count).map(|number| InstanceHandle::new(number, 0)).unzip();
        let app = App { name: config.name.as_str().into(), instances: handles.into() };
        let bus: Bus = worker::bus((0..count).map(|number| (number, 0)), &[post]);
        let directory = Arc::default();
        let passwords = PasswordPool::new(config.limits.password_jobs);
        let stores = Stores { disk: Arc::new(Store::inline(store.to_owned())), shared: Arc::default() };
        let of = config.clone();
        let spec = |(number, orders)| InstanceSpec {
            number,
            place: number,
            instances: count,
            app: of.clone(),
            bus: bus.clone(),
            all: bus.clone(),
            directory: Arc::clone(&directory),
            passwords: passwords.clone(),
            stores: stores.clone(),
            strict: setup.strict,
            tracer: None,
            env: setup.env.clone(),
            orders,
        };
        let specs = (0..count).zip(orders).map(spec);
        let instances =
            specs.map(|spec| (spec.number, spec.begin(&"test".into(), clock, &budget, setup.network.clone())));
        let relay = Relay {
            reloader: Reloader::new(app.clone(), config.clone()),
            app,
            config: RefCell::new(config),
            instances: Rc::new(instances.collect()),
            dirty: Dirty::new(),
            links: RefCell::default(),
            activity: Cell::new(0),
            passwords: passwords.clone(),
            bus: bus.clone(),
            deadline: setup.deadline,
            deflate: setup.deflate,
            zlib: Rc::default(),
            _ticker: ticker,
            folder: None,
        };
        tokio::task::spawn_local(worker::deliver(inbound, relay.instances.clone()));
        let report = relay.reload().await;
        match report.outcome {
            crate::reload::report::Outcome::Failed { .. } => Err(report),
            _ => Ok(relay),
        }
    }

    /// Loads the script again, changed or not.
    pub async fn load_again(&self) -> AppReport {
        let config = self.config.borrow().clone();
        let report = self.reloader.load_again(Some(config), &config::Reload::default()).await;
        self.settle().await;
        report
    }

    /// The app as it is configured now.
    pub fn config(&self) -> Arc<config::App> {
        self.config.borrow().clone()
    }

    /// Asks for a reload, as the watcher does.
    pub async fn reload(&self) -> AppReport {
        let config = self.config.borrow().clone();
        let report = self.reloader.reload(Some(config), &config::Reload::default()).await;
        self.settle().await;
        report
    }

    /// Begins a reload and lets the test go on meanwhile.
    pub fn reload_meanwhile(&self) -> tokio::task::JoinHandle<AppReport> {
        let (config, reloader) = (self.config.borrow().clone(), self.reloader.clone());
        tokio::task::spawn_local(async move { reloader.reload(Some(config), &config::Reload::default()).await })
    }

    /// Takes a changed configuration at the next reload.
    pub fn set_config(&self, config: config::App) {
        *self.config.borrow_mut() = Arc::new(config);
    }

    pub fn instance(&self, place: u16) -> &Rc<Instance> {
        &self.instances[&place]
    }

    fn site(&self) -> Site {
        Site::new(Arc::new(Config { apps: vec![self.config()], ..Config::default() }))
    }

    /// Connects a peer to a path with a query, as far as its handshake goes.
    pub async fn connect(&self, target: &str) -> Result<Peer, Refused> {
        self.connect_with(target, &[]).await
    }

    pub async fn connect_with(&self, target: &str, headers: &[(String, String)]) -> Result<Peer, Refused> {
        let bare =
            Bare { method: "GET".to_owned(), target: target.to_owned(), headers: headers.to_vec(), body: Bytes::new() };
        let site = self.site();
        let answer = self.meanwhile(bare::upgrade(&site, self, bare)).await;
        let (request, admission) = answer.map_err(|(code, reason)| Refused { code, reason })?;
        let (identity, subprotocol) = match admission {
            Admission::Open { identity, subprotocol } => (identity, subprotocol),
            Admission::Close { code, reason } => return Err(Refused { code, reason }),
        };
        let shard_by = self.config.borrow().shard_by.clone();
        let user = identity.as_ref().map(|identity| identity.id.as_str());
        let chosen = self.app.instance_for(shard_by.as_ref(), &request, user);
        let instance = self.instances[&chosen.number].clone();
        // It is counted for good: tests are short, and spread peers evenly.
        std::mem::forget(chosen.count_one());
        if instance.is_outdated(identity.as_ref()) {
            let reason = "its permissions have changed: connect again".to_owned();
            return Err(Refused { code: wire::TRY_AGAIN_LATER, reason });
        }
        let deflater = self.deflate.map(|deflate| wire::Deflater::new(&deflate, self.zlib.clone()));
        let inflater = self.deflate.map(|deflate| wire::Inflater::new(&deflate.mirrored(), self.zlib.clone()));
        let outbox = Outbox::new(instance.app().limits.outbox, self.dirty.clone()).deflating(deflater);
        let outbox = Rc::new(outbox);
        let lane = instance.open(request, identity, subprotocol, outbox.clone());
        let link = Rc::new(Link {
            outbox: outbox.clone(),
            instance,
            lane,
            unread: RefCell::default(),
            inflater: RefCell::new(inflater),
            received: RefCell::default(),
            closed: RefCell::default(),
            told: Cell::new(false),
        });
        let token = self.links.borrow_mut().insert(link.clone());
        outbox.set_token(token);
        Ok(Peer { link })
    }

    /// A plain HTTP request, and its answer.
    pub async fn request(&self, bare: Bare) -> Response {
        let site = self.site();
        self.meanwhile(bare::request(&site, self, bare)).await
    }

    /// Waits for an answer while everything else goes on, and time passes if it must.
    async fn meanwhile<T>(&self, answer: impl Future<Output = T>) -> T {
        let others = async {
            loop {
                // What works on threads of its own is waited for: it must not take virtual time.
                self.settle().await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            () = others => unreachable!("it has no end"),
        }
    }

    /// Lets everything happen that needs no time to pass.
    pub async fn settle(&self) {
        let mut quiet = 0;
        while quiet < QUIET_TURNS {
            let before = self.activity.get();
            self.flush();
            tokio::task::yield_now().await;
            let at_rest = self.activity.get() == before
                && self.dirty.is_empty()
                && self.bus.is_idle()
                && !self.passwords.is_busy();
            if self.is_late() {
                return;
            }
            quiet = if at_rest { quiet + 1 } else { 0 };
        }
    }

    /// Lets time pass, timer by timer.
    pub async fn advance(&self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        self.settle().await;
        // A paused clock jumps to the next timer once everything is at rest: to this one, or to one of the relay's.
        let mut stretch = Duration::from_secs(1);
        while tokio::time::Instant::now() < end && !self.is_late() {
            // In stretches, so that timers without end cannot keep this from seeing that it is late.
            let begun = std::time::Instant::now();
            tokio::select! {
                biased;
                () = self.dirty.wait() => {}
                () = tokio::time::sleep_until(end.min(tokio::time::Instant::now() + stretch)) => {}
            }
            self.settle().await;
            let is_cheap = begun.elapsed() < Duration::from_millis(5);
            stretch = if is_cheap { stretch * 2 } else { Duration::from_secs(1) };
        }
    }

    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| std::time::Instant::now() >= deadline)
    }

    /// What the workers and connections do: reads what peers sent, and brings them what is theirs.
    fn flush(&self) {
        let links: Vec<Rc<Link>> = self.links.borrow().iter().map(|(_, link)| link.clone()).collect();
        for token in self.dirty.take() {
            let link = self.links.borrow().get(token).cloned();
            if let Some(link) = link {
                link.outbox.mark_clean();
                self.happened();
            }
        }
        for link in links {
            self.read(&link);
            link.drain();
        }
    }

    fn read(&self, link: &Rc<Link>) {
        while !link.told.get() && !link.instance.is_full(&link.lane) {
            let Some((data, binary)) = link.unread.borrow_mut().pop_front() else { break };
            self.happened();
            if data.len() > link.instance.app().limits.message {
                // As the wire does, which is left out here.
                link.outbox.close(wire::TOO_BIG, "the message is larger than limits.message");
                link.drain();
                break;
            }
            link.instance.message(&link.lane, &data, binary);
            link.drain();
        }
    }

    fn happened(&self) {
        self.activity.set(self.activity.get() + 1);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            let _ = std::fs::remove_dir_all(folder); // a script that stored nothing has made none
        }
    }
}

impl Door for Relay {
    async fn authenticate(&self, _app: usize, request: Request) -> (Verdict, Request) {
        let answer = self.app.least_loaded().authenticate(Box::new(request)).await;
        let (verdict, request) = answer.expect("instances live as long as the relay");
        (verdict, *request)
    }

    async fn request(&self, _app: usize, request: Request) -> Option<Response> {
        let answer = self.app.least_loaded().request(Box::new(request)).await;
        answer.expect("instances live as long as the relay")
    }

    fn ready(&self) -> bool {
        true
    }
}

impl Link {
    /// Takes what is queued for the peer, and tells the instance of a close.
    fn drain(&self) {
        for sent in self.outbox.take_messages(self.inflater.borrow_mut().as_mut()) {
            if let Sent::Close { code, reason } = &sent {
                self.closed.borrow_mut().get_or_insert((*code, reason.clone()));
            } else {
                self.received.borrow_mut().push_back(sent);
            }
        }
        if let Some((code, reason)) = self.outbox.close_code() {
            self.tell(code, reason);
        }
    }

    fn tell(&self, code: u16, reason: String) {
        if !self.told.replace(true) {
            self.instance.closed(&self.lane, code, reason);
        }
    }
}

impl Peer {
    /// The id that scripts know it by.
    pub fn id(&self) -> String {
        self.link.lane.conn.text.to_string()
    }

    /// What decides whether it may do something.
    pub fn can(&self, action: &str, resource: &str) -> Reason {
        self.link.lane.conn.permissions().decide(action, resource)
    }

    /// The rooms that it is in.
    pub fn rooms(&self) -> Vec<String> {
        self.link.lane.conn.rooms().iter().map(ToString::to_string).collect()
    }

    pub fn subprotocol(&self) -> Option<String> {
        self.link.lane.conn.subprotocol.clone()
    }

    pub fn send(&self, data: impl AsRef<[u8]>) {
        self.send_as(data, false);
    }

    pub fn send_as(&self, data: impl AsRef<[u8]>, binary: bool) {
        self.link.unread.borrow_mut().push_back((Bytes::copy_from_slice(data.as_ref()), binary));
    }

    /// The next message, if one has come.
    pub fn receive(&self) -> Option<(Bytes, bool)> {
        let mut received = self.link.received.borrow_mut();
        loop {
            if let Sent::Message { data, binary } = received.pop_front()? {
                return Some((data, binary));
            }
        }
    }

    /// The next message as text.
    pub fn receive_text(&self) -> Option<String> {
        self.receive().map(|(data, _)| String::from_utf8_lossy(&data).into_owned())
    }

    /// Sends a close frame behind everything that was sent.
    pub fn close(&self, code: u16, reason: &str) {
        let link = &self.link;
        link.instance_reads_all();
        link.tell(code, reason.to_owned());
        link.outbox.close(code, "");
    }

    /// Vanishes without a close.
    pub fn vanish(&self) {
        self.link.instance_reads_all();
        self.link.tell(wire::ABNORMAL, String::new());
        self.link.closed.borrow_mut().get_or_insert((wire::ABNORMAL, String::new()));
        self.link.outbox.clear();
    }

    /// How the connection ended for the peer, once it has.
    pub fn closed(&self) -> Option<(u16, String)> {
        self.link.closed.borrow().clone()
    }
}

impl Link {
    /// What was sent before a close has come in before it.
    fn instance_reads_all(&self) {
        while let Some((data, binary)) = self.unread.borrow_mut().pop_front() {
            self.instance.message(&self.lane, &data, binary);
        }
    }
}
