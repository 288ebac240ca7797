//! A worker: one thread with its own runtime, on which connections, their instances and Lua live together.
//!
//! Nothing on the path of a message leaves this thread or takes a lock. What concerns others goes to them
//! as plain data: sockets as orders, the rest over the bus.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    runtime::Builder,
    sync::{Notify, mpsc, oneshot},
    task::LocalSet,
};

use crate::{
    acceptor::{Accepted, Permit},
    app::{App, Counted, Instance, InstanceHandle, Order},
    bus::{Bus, Directory, Inbound, Letter, Post},
    clock::Clock,
    config::{self, Config},
    connection::{
        self, Link, Links,
        stream::{StdStream, Stream},
    },
    handshake::{self, Admission, Beside, Door, Outcome, Site, Upgraded},
    hub::Hub,
    identity::{Identity, Response, Verdict},
    outbox::Outbox,
    outgoing::Network,
    peer::Request,
    script::{self, Alarms, Budget, Keeper, Kept, PasswordPool},
    store::Stores,
    tracer::Tracer,
    wire,
};

/// Letters of the bus that are read before connections have their turn.
const LETTERS_AT_ONCE: usize = 256;

/// What one worker is told by the server or by another worker.
pub enum WorkerOrder {
    Accept(Accepted),
    Adopt(Box<Adoption>),
    /// The configuration has changed.
    Site(Arc<Config>),
    /// Closes every connection with 1012 within `spread`, and lets nobody in any more; told when all have ended.
    Close {
        spread: Duration,
        done: oneshot::Sender<()>,
    },
    /// Ends the thread.
    End,
}

/// An upgraded connection on its way to the worker of its instance.
pub struct Adoption {
    stream: StdStream,
    joining: Joining,
}

/// What an instance is to know of a connection that joins it.
struct Joining {
    read: Bytes,
    instance: u16,
    request: Request,
    admission: Admission,
    deflate: Option<wire::Deflate>,
    permit: Permit,
    counted: Counted,
}

/// The way to a worker, from any thread.
#[derive(Clone)]
pub struct WorkerHandle {
    orders: mpsc::UnboundedSender<WorkerOrder>,
    /// Connections that it has, handshakes included.
    load: Arc<AtomicUsize>,
}

impl WorkerHandle {
    pub fn new() -> (WorkerHandle, mpsc::UnboundedReceiver<WorkerOrder>) {
        let (orders, inbound) = mpsc::unbounded_channel();
        (WorkerHandle { orders, load: Arc::default() }, inbound)
    }

    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// False once the worker has ended.
    pub fn tell(&self, order: WorkerOrder) -> bool {
        self.orders.send(order).is_ok()
    }

    pub fn is_alive(&self) -> bool {
        !self.orders.is_closed()
    }
}

/// One instance that is to live on a worker.
pub struct InstanceSpec {
    pub number: u16,
    pub place: u16,
    pub instances: u16,
    pub app: Arc<config::App>,
    pub bus: Bus,
    pub all: Bus,
    pub directory: Arc<Directory>,
    pub passwords: PasswordPool,
    pub stores: Stores,
    /// Whether states are looked at after each callback.
    pub strict: bool,
    pub tracer: Option<Arc<Tracer>>,
    /// What scripts find in the place of the process's variables.
    pub env: Option<Vec<(String, String)>>,
    pub orders: mpsc::UnboundedReceiver<Order>,
}

impl InstanceSpec {
    /// Makes the instance, on the thread where it will live, and lets it take its orders.
    pub fn begin(self, boot: &Arc<str>, clock: Clock, budget: &Rc<Budget>, network: Network) -> Rc<Instance> {
        let hub = Hub::new(
            boot.clone(),
            self.number,
            self.place,
            self.bus,
            self.directory,
            self.app.limits.rooms_per_connection,
        );
        let hub = Rc::new(hub.among(&self.app.name, self.all).traced(self.tracer.clone()));
        let alarms = Alarms::kept(Keeper {
            store: self.stores.disk.clone(),
            app: self.app.name.clone(),
            place: self.place,
            instances: self.instances,
            clock,
        });
        let mut kept = Kept::default();
        kept.alarms = Rc::new(alarms);
        let home = script::Home {
            place: self.place,
            instances: self.instances,
            clock,
            hub,
            stores: self.stores,
            budget: budget.clone(),
            passwords: self.passwords,
            network,
            strict: self.strict,
            tracer: self.tracer,
            env: self.env,
            kept,
        };
        let instance = Instance::new(home, self.app);
        tokio::task::spawn_local(instance.clone().serve(self.orders));
        instance
    }
}

/// Hands what comes over the bus to the instances that it is for.
pub async fn deliver(mut inbound: Inbound, instances: Rc<HashMap<u16, Rc<Instance>>>) {
    let receive = |letter: Letter| {
        let Some(instance) = instances.get(&letter.to) else { return };
        // A fault in one letter must not end the bus for this worker.
        let received = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| instance.receive(letter.message)));
        if received.is_err() {
            tracing::error!(instance = letter.to, "a message of the bus could not be applied");
        }
    };
    while let Some(letter) = inbound.next().await {
        receive(letter);
        for _ in 1..LETTERS_AT_ONCE {
            match inbound.try_next() {
                Some(letter) => receive(letter),
                None => break,
            }
        }
        tokio::task::yield_now().await;
    }
}

pub struct WorkerSetup {
    pub index: usize,
    pub orders: mpsc::UnboundedReceiver<WorkerOrder>,
    pub workers: Arc<[WorkerHandle]>,
    pub inbound: Inbound,
    pub instances: Vec<InstanceSpec>,
    pub apps: Arc<[App]>,
    pub config: Arc<Config>,
    pub boot: Arc<str>,
    /// Pages beside the apps'.
    pub beside: Option<Arc<dyn Beside>>,
    pub budget: Budget,
}

struct Worker {
    index: usize,
    workers: Arc<[WorkerHandle]>,
    instances: Rc<HashMap<u16, Rc<Instance>>>,
    apps: Arc<[App]>,
    site: RefCell<Rc<Site>>,
    links: Rc<Links>,
    open: Cell<bool>,
    /// Connections and handshakes that run here.
    running: Cell<usize>,
    ended: Notify,
}

/// The body of a worker's thread.
pub fn run(setup: WorkerSetup) -> std::io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(setup));
    Ok(())
}

async fn serve(setup: WorkerSetup) {
    let budget = Rc::new(setup.budget);
    let clock = Clock::system();
    let instances =
        setup.instances.into_iter().map(|spec| (spec.number, spec.begin(&setup.boot, clock, &budget, Network::Real)));
    let worker = Rc::new(Worker {
        index: setup.index,
        workers: setup.workers,
        instances: Rc::new(instances.collect()),
        apps: setup.apps,
        site: RefCell::new(Rc::new(Site::new(setup.config).beside(setup.beside.clone()))),
        links: Rc::default(),
        open: Cell::new(true),
        running: Cell::new(0),
        ended: Notify::new(),
    });
    tokio::task::spawn_local(deliver(setup.inbound, worker.instances.clone()));
    let links = worker.links.clone();
    tokio::task::spawn_local(async move { links.flush_forever().await });
    let mut orders = setup.orders;
    while let Some(order) = orders.recv().await {
        match order {
            WorkerOrder::Accept(accepted) => worker.spawn(|worker| worker.accept(accepted)),
            WorkerOrder::Adopt(adoption) => worker.adopt(*adoption),
            WorkerOrder::Site(config) => {
                *worker.site.borrow_mut() = Rc::new(Site::new(config).beside(setup.beside.clone()));
            }
            WorkerOrder::Close { spread, done } => {
                worker.open.set(false);
                let worker = worker.clone();
                tokio::task::spawn_local(async move {
                    worker.close_all(spread).await;
                    let _ = done.send(());
                });
            }
            WorkerOrder::End => break,
        }
    }
}

impl Worker {
    /// Runs a connection's task, counted while it runs.
    fn spawn<F: Future<Output = ()> + 'static>(self: &Rc<Worker>, task: impl FnOnce(Rc<Worker>) -> F) {
        self.running.set(self.running.get() + 1);
        let counted = Running(self.clone());
        self.load().fetch_add(1, Ordering::Relaxed);
        let task = task(self.clone());
        tokio::task::spawn_local(async move {
            let _counted = counted;
            task.await;
        });
    }

    fn load(&self) -> &AtomicUsize {
        &self.workers[self.index].load
    }

    // ── the way in ──

    async fn accept(self: Rc<Worker>, accepted: Accepted) {
        let stream = match Stream::from_std(accepted.stream) {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%error, "a connection could not be taken over by its worker"),
        };
        let site = self.site.borrow().clone();
        match handshake::serve(stream, accepted.peer, accepted.permit, site.clone(), &*self).await {
            Outcome::Ended => {}
            Outcome::Upgraded(upgraded) => self.upgraded(&site, *upgraded),
        }
    }

    /// Brings an upgraded connection to its instance, wherever that lives.
    fn upgraded(self: Rc<Worker>, site: &Site, upgraded: Upgraded) {
        let app = &self.apps[upgraded.app];
        let config = &site.config().apps[upgraded.app];
        let user = match &upgraded.admission {
            Admission::Open { identity, .. } => identity.as_ref().map(|identity| identity.id.as_str()),
            Admission::Close { .. } => None,
        };
        let instance: &InstanceHandle = app.instance_for(config.shard_by.as_ref(), &upgraded.request, user);
        let Upgraded { stream, read, request, admission, deflate, permit, .. } = upgraded;
        let counted = instance.count_one();
        let joining = Joining { read, instance: instance.number, request, admission, deflate, permit, counted };
        if instance.worker == self.index {
            return self.connect(stream, joining);
        }
        match stream.into_std() {
            Ok(stream) => {
                self.workers[instance.worker].tell(WorkerOrder::Adopt(Box::new(Adoption { stream, joining })));
            }
            Err(error) => tracing::warn!(%error, "a connection could not move to the worker of its instance"),
        }
    }

    fn adopt(self: &Rc<Worker>, adoption: Adoption) {
        match Stream::from_std(adoption.stream) {
            Ok(stream) => self.connect(stream, adoption.joining),
            Err(error) => tracing::warn!(%error, "a connection could not be taken over by its worker"),
        }
    }

    /// Lets a connection into its instance. Its task is small: what was needed only until here does not stay in it.
    fn connect(self: &Rc<Worker>, stream: Stream, joining: Joining) {
        let Joining { read, instance, request, admission, deflate, mut permit, counted } = joining;
        permit.admitted();
        let instance = self.instances[&instance].clone();
        let app = instance.app();
        let deflater = deflate.map(|deflate| wire::Deflater::new(&deflate, self.links.zlib()));
        let inflater = deflate.map(|deflate| wire::Inflater::new(&deflate, self.links.zlib()));
        let outbox = Rc::new(Outbox::new(app.limits.outbox, self.links.dirty()).deflating(deflater));
        let link = Rc::new(Link::new(stream, outbox.clone()));
        let token = self.links.add(link.clone());
        let late = !self.open.get() || instance.is_stopping();
        let home = match admission {
            _ if late => {
                // It came in while the others were being closed: no callback of it has run, and none will.
                outbox.close(wire::RESTART, "the relay is stopping");
                None
            }
            Admission::Open { identity, .. } if instance.is_outdated(identity.as_ref()) => {
                outbox.close(wire::TRY_AGAIN_LATER, "its permissions have changed: connect again");
                None
            }
            Admission::Open { identity, subprotocol } => {
                Some(self.open(&instance, request, identity, subprotocol, outbox))
            }
            Admission::Close { code, reason } => {
                outbox.close(code, &reason);
                None
            }
        };
        let end = End { links: self.links.clone(), token, home: home.clone(), _permit: permit, _counted: counted };
        let connection = connection::Connection::new(self.links.clone(), link, home, app, inflater, read);
        self.spawn(|_| async move {
            let _end = end;
            connection.run().await;
        });
    }

    fn open(
        &self,
        instance: &Rc<Instance>,
        request: Request,
        identity: Option<Identity>,
        subprotocol: Option<String>,
        outbox: Rc<Outbox>,
    ) -> (Rc<Instance>, Rc<crate::app::Lane>) {
        let lane = instance.open(request, identity, subprotocol, outbox);
        (instance.clone(), lane)
    }

    // ── the end ──

    /// Closes all connections, in batches over at most `spread`, so that not all of them come back at once.
    async fn close_all(&self, spread: Duration) {
        const BATCHES: usize = 50;
        /// A few peers may as well come back together.
        const FOR_EACH: Duration = Duration::from_millis(5);
        let mut conns: Vec<_> = self.instances.values().flat_map(|instance| instance.conns()).collect();
        let spread = spread.min(FOR_EACH * u32::try_from(conns.len()).unwrap_or(u32::MAX));
        let batch = conns.len().div_ceil(BATCHES).max(20);
        let pause = spread / u32::try_from(conns.len().div_ceil(batch).max(1)).unwrap_or(1);
        while !conns.is_empty() {
            for conn in conns.split_off(conns.len().saturating_sub(batch)) {
                conn.outbox.close(wire::RESTART, "the relay is stopping");
            }
            if !conns.is_empty() {
                tokio::time::sleep(pause).await;
            }
        }
        loop {
            let ended = self.ended.notified();
            if self.links.is_empty() {
                return;
            }
            ended.await;
        }
    }
}

/// What the end of a connection's task owes to others, even if it panicked.
struct End {
    links: Rc<Links>,
    token: usize,
    home: connection::Home,
    _permit: Permit,
    _counted: Counted,
}

impl Drop for End {
    fn drop(&mut self) {
        self.links.remove(self.token);
        if let Some((instance, lane)) = &self.home {
            if std::thread::panicking() {
                // The callback that it was in will not end any more.
                lane.busy.set(false);
            }
            instance.closed(lane, wire::ABNORMAL, String::new());
        }
    }
}

struct Running(Rc<Worker>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.load().fetch_sub(1, Ordering::Relaxed);
        self.0.ended.notify_waiters();
    }
}

impl Door for Worker {
    async fn authenticate(&self, app: usize, request: Request) -> (Verdict, Request) {
        let instance = self.apps[app].nearest(self.index);
        match instance.authenticate(Box::new(request)).await {
            Some((verdict, request)) => (verdict, *request),
            None => (Verdict::Refuse { status: 503, reason: "the relay is stopping".to_owned() }, Request::default()),
        }
    }

    async fn request(&self, app: usize, request: Request) -> Option<Response> {
        let instance = self.apps[app].nearest(self.index);
        match instance.request(Box::new(request)).await {
            Some(response) => response,
            None => Some(Response { status: 503, headers: Vec::new(), body: b"the relay is stopping\n".to_vec() }),
        }
    }

    fn ready(&self) -> bool {
        self.open.get()
    }
}

/// The members of a bus: each instance's number and the queue of its worker.
pub fn bus(members: impl IntoIterator<Item = (u16, usize)>, posts: &[Post]) -> Bus {
    Bus::new(members.into_iter().map(|(number, worker)| (number, posts[worker].clone())))
}
