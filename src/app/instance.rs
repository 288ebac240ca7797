//! One instance: runs callbacks in their lanes, and switches generations whole.
//!
//! Everything here happens on the worker's thread. A callback starts when its lane is free and no reload
//! holds the instance; what a callback causes (a close, an event) comes back through the queues, never
//! as a call inside a call.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mlua::{IntoLuaMulti, MultiValue, Value};
use slab::Slab;
use tokio::{
    sync::{Notify, OwnedMutexGuard, mpsc, oneshot},
    time::Instant,
};

use crate::{
    app::{
        Order, Prepared,
        generation::Generation,
        lane::{Lane, Told},
        verdict,
    },
    bus::BusMessage,
    config,
    hub::{Caused, Conn, Hub, Opening},
    identity::{Identity, Response, Verdict},
    outbox::Outbox,
    peer::Request,
    script::{self, AlarmId, Cancel, ErrorKind, Home, Left, Plan, Ran, ScriptError, Start, Suspended, Vm},
    tracer::{self, What},
    wire,
};

/// States of connections that are moved to a new generation before the worker does something else.
const MOVES_AT_ONCE: usize = 32;

/// What one callback was started for, and what its end leads to.
enum Job {
    Lane(Rc<Lane>, Due),
    Authenticate {
        request: Box<Request>,
        reply: oneshot::Sender<(Verdict, Box<Request>)>,
        /// The number of the last change of permissions when it began.
        asked_at: u64,
    },
    Request {
        reply: oneshot::Sender<Option<Response>>,
    },
    /// `on_start`, `on_event`, `on_alarm`, `on_stop`, a timer, a spawned function, or `on_error` without a connection.
    Plain {
        callback: &'static str,
        done: Option<oneshot::Sender<()>>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Open,
    Message,
    Close,
    Error,
    Revoked,
}

impl Job {
    fn callback(&self) -> &'static str {
        match self {
            Job::Lane(_, Due::Open) => "on_open",
            Job::Lane(_, Due::Message) => "on_message",
            Job::Lane(_, Due::Close) => "on_close",
            Job::Lane(_, Due::Error) => "on_error",
            Job::Lane(_, Due::Revoked) => "on_revoked",
            Job::Authenticate { .. } => "authenticate",
            Job::Request { .. } => "on_request",
            Job::Plain { callback, .. } => callback,
        }
    }

    /// The handshake or request that a callback is too late for gets its answer now, whatever the callback does yet.
    fn given_up(self) -> Job {
        match self {
            Job::Authenticate { request, reply, .. } => {
                let reason = "the relay's script took too long".to_owned();
                let _ = reply.send((Verdict::Refuse { status: 503, reason }, request));
                Job::Plain { callback: "authenticate", done: None }
            }
            Job::Request { reply } => {
                let body = b"the relay's script took too long\n".to_vec();
                let _ = reply.send(Some(Response { status: 503, headers: Vec::new(), body }));
                Job::Plain { callback: "on_request", done: None }
            }
            job => job,
        }
    }

    fn lane(&self) -> Option<&Rc<Lane>> {
        match self {
            Job::Lane(lane, _) => Some(lane),
            _ => None,
        }
    }

    fn conn(&self) -> Option<&Rc<Conn>> {
        self.lane().map(|lane| &lane.conn)
    }
}

type Deferred = Box<dyn FnOnce(&Rc<Instance>)>;

pub struct Instance {
    me: Weak<Instance>,
    hub: Rc<Hub>,
    home: Home,
    app: RefCell<Arc<config::App>>,
    current: RefCell<Option<Rc<Generation>>>,
    /// Replaced, but with callbacks that wait or states that have not moved.
    old: RefCell<Vec<Rc<Generation>>>,
    prepared: RefCell<Option<Vm>>,
    lanes: RefCell<Slab<Rc<Lane>>>,
    /// Alarms of an earlier process, until the first generation is there.
    left: RefCell<Vec<Left>>,
    /// A reload votes: no callback starts.
    held: Cell<bool>,
    released: Notify,
    deferred: RefCell<VecDeque<Deferred>>,
    /// Told each time a connection is gone.
    emptied: Notify,
    rebuilding: Cell<bool>,
    stopping: Cell<bool>,
    /// One change of generation at a time: held from a preparation to its commit or release, and by a rebuild.
    switching: Arc<tokio::sync::Mutex<()>>,
    switch: RefCell<Option<OwnedMutexGuard<()>>>,
}

impl Instance {
    pub fn new(home: Home, app: Arc<config::App>) -> Rc<Instance> {
        Rc::new_cyclic(|me| Instance {
            me: me.clone(),
            hub: home.hub.clone(),
            home,
            app: RefCell::new(app),
            current: RefCell::default(),
            old: RefCell::default(),
            prepared: RefCell::default(),
            lanes: RefCell::default(),
            left: RefCell::default(),
            // Nothing runs before the first generation is there.
            held: Cell::new(true),
            released: Notify::new(),
            deferred: RefCell::default(),
            emptied: Notify::new(),
            rebuilding: Cell::new(false),
            stopping: Cell::new(false),
            switching: Arc::default(),
            switch: RefCell::default(),
        })
    }

    fn me(&self) -> Rc<Instance> {
        self.me.upgrade().expect("whoever calls holds it")
    }

    pub fn hub(&self) -> &Rc<Hub> {
        &self.hub
    }

    /// The app's settings as of the running generation.
    pub fn app(&self) -> Arc<config::App> {
        self.app.borrow().clone()
    }

    /// Brings `app` up to what the running generation has, if that is another.
    pub fn refresh_app(&self, app: &mut Arc<config::App>) {
        let current = self.app.borrow();
        if !Arc::ptr_eq(app, &current) {
            *app = current.clone();
        }
    }

    /// The running generation's number; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.current.borrow().as_ref().map_or(0, |generation| generation.number())
    }

    fn current(&self) -> Rc<Generation> {
        self.current.borrow().clone().expect("callbacks run only after the first commit")
    }

    /// Takes orders until every handle is gone.
    pub async fn serve(self: Rc<Instance>, mut orders: mpsc::UnboundedReceiver<Order>) {
        while let Some(order) = orders.recv().await {
            match order {
                Order::Authenticate { request, reply } => {
                    self.when_free(move |instance| instance.authenticate(request, reply))
                }
                Order::Request { request, reply } => self.when_free(move |instance| instance.request(request, reply)),
                Order::Prepare { plan, reply } => {
                    let instance = self.clone();
                    tokio::task::spawn_local(async move {
                        let _ = reply.send(instance.prepare(plan).await);
                    });
                }
                Order::Hold { reply } => {
                    let _ = reply.send(self.hold());
                }
                Order::Commit { reply } => {
                    self.commit();
                    let _ = reply.send(());
                }
                Order::Release => self.release(),
                Order::Stop { reason, grace, reply } => {
                    let instance = self.clone();
                    tokio::task::spawn_local(async move {
                        instance.stop(reason, grace).await;
                        let _ = reply.send(());
                    });
                }
            }
        }
    }

    /// At once, or when a reload has ended.
    fn when_free(&self, job: impl FnOnce(&Rc<Instance>) + 'static) {
        if self.held.get() {
            self.deferred.borrow_mut().push_back(Box::new(job));
        } else {
            job(&self.me());
        }
    }

    // ── connections ──

    /// Lets a connection in: from now on it has a lane, and `on_open` is due.
    pub fn open(
        &self,
        request: Request,
        identity: Option<Identity>,
        subprotocol: Option<String>,
        outbox: Rc<Outbox>,
    ) -> Rc<Lane> {
        let mut lanes = self.lanes.borrow_mut();
        let entry = lanes.vacant_entry();
        let opened_at = self.home.clock.unix().as_secs_f64();
        let asked_at = identity.as_ref().map(|identity| (identity.id.clone(), identity.asked_at));
        let conn = self.hub.open(Opening { request, identity, subprotocol, outbox, slot: entry.key(), opened_at });
        // Once more: whoever changes something from now on finds it, and whoever did so before is found here.
        if asked_at.is_some_and(|(user, asked_at)| self.hub.has_changed_since(&user, asked_at)) {
            conn.end(wire::TRY_AGAIN_LATER, "its permissions have changed: connect again");
        }
        let lane = Rc::new(Lane::new(conn));
        entry.insert(lane.clone());
        drop(lanes);
        lane.expire(opened_at);
        self.trace(&lane.conn, What::Open, |_| ());
        lane.push(Told::Open);
        self.go_on(&lane);
        lane
    }

    /// Whether a peer's permissions have changed since its handshake asked for them: then it is to ask again.
    pub fn is_outdated(&self, identity: Option<&Identity>) -> bool {
        identity.is_some_and(|identity| self.hub.has_changed_since(&identity.id, identity.asked_at))
    }

    /// Hands over a whole message. It is handled at once if the lane is free, else in its turn.
    pub fn message(&self, lane: &Rc<Lane>, data: &[u8], binary: bool) {
        if lane.ending.get() || lane.conn.ended_by_script() {
            return;
        }
        self.trace(&lane.conn, What::In, |entry| {
            entry.binary = binary;
            entry.bytes = data.len();
            entry.text = tracer::shown(data, binary);
        });
        if lane.busy.get() || self.held.get() || !lane.is_empty() {
            lane.push(Told::Message { data: Bytes::copy_from_slice(data), binary });
            return;
        }
        self.run_message(lane, data, binary);
        self.go_on(lane);
    }

    /// Whether the lane has as much waiting as it may: then nothing more is to be read for it.
    pub fn is_full(&self, lane: &Lane) -> bool {
        let app = self.app.borrow();
        lane.is_full(app.limits.inbox_messages, app.limits.inbox)
    }

    /// The first close frame was sent or received (or there was none: 1006): `on_close` is due.
    pub fn closed(&self, lane: &Rc<Lane>, code: u16, reason: String) {
        if lane.ending.replace(true) {
            return;
        }
        lane.forget_expiry();
        self.trace(&lane.conn, What::Close, |entry| {
            entry.code = Some(code);
            entry.reason = Some(reason.clone());
        });
        lane.conn.set_closing();
        lane.push(Told::Close { code, reason });
        self.go_on(lane);
    }

    /// Runs what is due in a lane, until a callback waits or nothing is left.
    fn go_on(&self, lane: &Rc<Lane>) {
        while !lane.busy.get() && !self.held.get() {
            if lane.conn.ended_by_script() {
                lane.drop_messages(); // none is handled after conn:close
            }
            let Some(told) = lane.pop() else {
                if lane.closed.get() {
                    self.gone(lane);
                }
                break;
            };
            match told {
                Told::Open => self.run_lane(lane, Due::Open, |_| Ok(MultiValue::new())),
                Told::Message { data, binary } => self.run_message(lane, &data, binary),
                Told::Close { code, reason } => {
                    self.run_lane(lane, Due::Close, move |lua| (code, reason.as_str()).into_lua_multi(lua))
                }
                // It may be in again by now.
                Told::Revoked { resource } if lane.conn.is_in(&resource) => {}
                Told::Revoked { resource } => self.run_lane(lane, Due::Revoked, move |lua| {
                    lua.create_string(resource.as_bytes())?.into_lua_multi(lua)
                }),
                Told::Error { error, callback } => {
                    self.run_lane(lane, Due::Error, move |lua| error_table(lua, &error, callback)?.into_lua_multi(lua))
                }
            }
        }
        if !self.is_full(lane) {
            lane.drained.notify_one();
        }
    }

    fn run_message(&self, lane: &Rc<Lane>, data: &[u8], binary: bool) {
        self.start_lane(lane, Due::Message, |vm, function| vm.call_message(function, &lane.conn, data, binary));
    }

    fn run_lane(&self, lane: &Rc<Lane>, due: Due, args: impl Fn(&mlua::Lua) -> mlua::Result<MultiValue>) {
        self.start_lane(lane, due, |vm, function| vm.call_about(function, &lane.conn, args));
    }

    /// Starts one callback of a lane in the running generation.
    fn start_lane(&self, lane: &Rc<Lane>, due: Due, start: impl FnOnce(&Vm, &mlua::Function) -> Ran) {
        let generation = self.current();
        let job = Job::Lane(lane.clone(), due);
        if !self.bring_up(&generation, lane) && due != Due::Close {
            return; // it has been closed, and only on_close is due yet
        }
        let Some(function) = generation.vm.callback(job.callback()).cloned() else {
            return self.finish(&generation, job, Ok(MultiValue::new()));
        };
        lane.busy.set(true);
        let ran = start(&generation.vm, &function);
        self.after(&generation, job, ran);
    }

    /// Brings a connection's state to `generation`; false if it could not come, and the connection is closed.
    fn bring_up(&self, generation: &Rc<Generation>, lane: &Rc<Lane>) -> bool {
        let brought = generation.vm.bring_up(&lane.conn);
        self.act_on_caused(); // by migrate_conn
        let Err(error) = brought else { return true };
        script::close_for_lost_state(&lane.conn, &error);
        self.on_error(error, "migrate_conn");
        false
    }

    /// Forgets a connection after its last callback.
    fn gone(&self, lane: &Rc<Lane>) {
        let conn = &lane.conn;
        if conn.is_gone() {
            return;
        }
        for generation in self.old.borrow().iter().chain(self.current.borrow().iter()) {
            generation.vm.forget(conn);
        }
        self.home.kept.shelf.forget(conn.slot);
        self.hub.remove(conn);
        self.lanes.borrow_mut().try_remove(conn.slot);
        self.emptied.notify_waiters();
    }

    // ── other callbacks ──

    fn authenticate(&self, request: Box<Request>, reply: oneshot::Sender<(Verdict, Box<Request>)>) {
        let asked_at = self.hub.last_change();
        let generation = self.current();
        let Some(function) = generation.vm.callback("authenticate").cloned() else {
            let _ = reply.send((Verdict::Accept { identity: None, subprotocol: None, headers: Vec::new() }, request));
            return;
        };
        let ran = match script::request_table(generation.vm.lua(), &request, false) {
            Ok(table) => generation.vm.call(&function, table, None),
            Err(error) => Ran::Failed(ScriptError::from_lua(&error)),
        };
        self.after(&generation, Job::Authenticate { request, reply, asked_at }, ran);
    }

    fn request(&self, request: Box<Request>, reply: oneshot::Sender<Option<Response>>) {
        let generation = self.current();
        let Some(function) = generation.vm.callback("on_request").cloned() else {
            let _ = reply.send(None);
            return;
        };
        let ran = match script::request_table(generation.vm.lua(), &request, true) {
            Ok(table) => generation.vm.call(&function, table, None),
            Err(error) => Ran::Failed(ScriptError::from_lua(&error)),
        };
        self.after(&generation, Job::Request { reply }, ran);
    }

    /// What came over the bus.
    pub fn receive(&self, message: BusMessage) {
        let emitted = self.hub.receive(message);
        self.act_on_caused();
        let Some(emitted) = emitted else { return };
        self.when_free(move |instance| {
            let generation = instance.current();
            let Some(function) = generation.vm.callback("on_event").cloned() else { return };
            let lua = generation.vm.lua();
            let args = || -> mlua::Result<MultiValue> {
                let data = script::plain::from_plain(lua, &emitted.data)?;
                let source = script::plain::from_plain(lua, &emitted.source)?;
                (lua.create_string(emitted.name.as_bytes())?, data, source).into_lua_multi(lua)
            };
            let ran = match args() {
                Ok(args) => generation.vm.call(&function, args, None),
                Err(error) => Ran::Failed(ScriptError::from_lua(&error)),
            };
            instance.after(&generation, Job::Plain { callback: "on_event", done: None }, ran);
        });
    }

    /// Tells of it, if somebody looks.
    fn trace(&self, conn: &Conn, what: What, fill: impl FnOnce(&mut tracer::Entry)) {
        let Some(tracer) = self.home.tracer.as_ref().filter(|tracer| tracer.is_on()) else { return };
        let mut entry = self.hub.trace_entry(conn, what);
        fill(&mut entry);
        tracer.note(entry);
    }

    /// What a stretch of a callback, or another instance, has caused here.
    fn act_on_caused(&self) {
        for caused in self.hub.take_caused() {
            match caused {
                Caused::Renewed(conn) => {
                    if let Some(lane) = self.lane_of(&conn).filter(|lane| !lane.ending.get()) {
                        lane.expire(self.home.clock.unix().as_secs_f64());
                    }
                }
                Caused::Revoked(conn, resource) => {
                    // Behind what it has already said; nothing comes after on_close.
                    let Some(lane) = self.lane_of(&conn).filter(|lane| !lane.ending.get()) else { continue };
                    lane.push(Told::Revoked { resource });
                    // In a task of its own: what it causes in turn must not grow the stack, nor hold up others.
                    let instance = self.me();
                    tokio::task::spawn_local(async move {
                        instance.until_free().await;
                        instance.go_on(&lane);
                    });
                }
            }
        }
    }

    fn lane_of(&self, conn: &Rc<Conn>) -> Option<Rc<Lane>> {
        self.lanes.borrow().get(conn.slot).filter(|lane| Rc::ptr_eq(&lane.conn, conn)).cloned()
    }

    // ── the life of a callback ──

    /// After a stretch of a callback: it has ended, or it waits.
    fn after(&self, generation: &Rc<Generation>, job: Job, ran: Ran) {
        for start in generation.vm.take_started() {
            self.start(generation, start);
        }
        match ran {
            Ran::Done(values) => {
                let checked = self.checked(generation, &job);
                let (lane, callback) = (job.lane().cloned(), job.callback());
                if let Err(error) = &checked {
                    self.log(generation, &job, error);
                }
                self.finish(generation, job, Ok(values));
                // The callback itself has done its work: what it left is told, and undoes nothing.
                if let Err(error) = checked
                    && callback != "on_error"
                {
                    match lane.filter(|lane| !lane.closed.get()) {
                        Some(lane) if self.current().vm.callback("on_error").is_some() => {
                            lane.push_first(Told::Error { error, callback });
                            self.go_on(&lane);
                        }
                        Some(_) => {}
                        None => self.on_error(error, callback),
                    }
                }
            }
            Ran::Failed(error) => self.finish(generation, job, Err(error)),
            Ran::Waits(suspended) => {
                let app = self.app();
                let limits = &app.limits;
                let (timeout, setting) = match &job {
                    Job::Authenticate { .. } => (limits.authenticate_timeout, "limits.authenticate_timeout"),
                    Job::Request { .. } => (limits.request_timeout, "limits.request_timeout"),
                    _ => (limits.callback_timeout, "limits.callback_timeout"),
                };
                let deadline = Instant::now() + timeout;
                let instance = self.me();
                let generation = generation.clone();
                generation.wait_begins();
                tokio::task::spawn_local(
                    async move { instance.wait(generation, job, suspended, deadline, setting).await },
                );
            }
        }
        self.act_on_caused();
        generation.vm.tidy();
    }

    /// In a strict relay: whether what the callback has left in its states could be carried over a reload.
    fn checked(&self, generation: &Rc<Generation>, job: &Job) -> Result<(), ScriptError> {
        if !self.home.strict || generation.replaced.get() {
            return Ok(());
        }
        let mut copier = script::plain::Copier::default();
        generation.vm.check_state(&mut copier)?;
        match job.conn().filter(|conn| !conn.is_gone()) {
            Some(conn) => self.home.kept.shelf.check(conn, &mut copier),
            None => Ok(()),
        }
    }

    /// Waits with a callback, over as many waits as it has.
    async fn wait(
        self: Rc<Instance>,
        generation: Rc<Generation>,
        mut job: Job,
        mut suspended: Suspended,
        deadline: Instant,
        setting: &str,
    ) {
        let mut cancelled = false;
        loop {
            let mut wait = suspended.take_wait();
            let too_many = generation.waiting() > self.app.borrow().limits.waiting;
            let waited = if too_many {
                Err(format!(
                    "cancelled: {} callbacks of this instance wait already, as many as limits.waiting allows",
                    generation.waiting() - 1
                ))
            } else {
                tokio::select! {
                    biased;
                    waited = &mut wait => Ok(waited),
                    why = generation.must_end(), if !cancelled => Err(why),
                    () = tokio::time::sleep_until(deadline), if !cancelled => {
                        job = job.given_up();
                        Err(format!("cancelled: it took longer than {setting}"))
                    }
                }
            };
            drop(wait);
            self.until_free().await;
            let ran = match waited {
                Ok(waited) => generation.vm.resume(suspended, waited),
                Err(why) => {
                    cancelled = true;
                    generation.vm.cancel(suspended, why)
                }
            };
            match ran {
                Ran::Waits(next) => {
                    for start in generation.vm.take_started() {
                        self.start(&generation, start);
                    }
                    self.act_on_caused();
                    generation.vm.tidy();
                    suspended = next;
                }
                ran => {
                    generation.wait_ends();
                    let lane = job.lane().cloned();
                    self.after(&generation, job, ran);
                    if let Some(lane) = lane {
                        self.go_on(&lane);
                        if generation.replaced.get() && !lane.busy.get() && !lane.conn.is_gone() {
                            self.bring_up(&self.current(), &lane); // the last thing that kept it there
                        }
                    }
                    break;
                }
            }
        }
        if generation.replaced.get() {
            self.drop_ended();
        }
    }

    /// Resolves when no reload holds the instance.
    async fn until_free(&self) {
        loop {
            let released = self.released.notified();
            if !self.held.get() {
                return;
            }
            released.await;
        }
    }

    /// Starts a timer or a coroutine of a script. They end with their generation, alarms excepted.
    fn start(&self, generation: &Rc<Generation>, start: Start) {
        let instance = self.me();
        let generation = generation.clone();
        tokio::task::spawn_local(async move {
            match start {
                Start::Spawn(function) => {
                    instance.until_free().await;
                    // A callback that ends in a replaced generation may still spawn, until that ends.
                    if !generation.has_ended() {
                        instance.run_plain(&generation, "relay.spawn", &function, ());
                    }
                }
                Start::After { delay, function, cancel } => {
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        () = cancel.cancelled() => return,
                        () = generation.is_replaced() => return,
                    }
                    instance.until_free().await;
                    if !generation.replaced.get() && cancel.cancel() {
                        generation.vm.timer_ended();
                        instance.run_plain(&generation, "relay.after", &function, ());
                    }
                }
                Start::Every { period, function, cancel } => {
                    instance.tick(&generation, period, &function, &cancel).await
                }
                Start::Alarm { id, delay, cancel } => {
                    drop(generation); // it may end meanwhile
                    instance.alarm(&id, delay, &cancel).await
                }
            }
        });
    }

    /// Waits for an alarm, which the generation of that time gets.
    async fn alarm(&self, id: &AlarmId, delay: Duration, cancel: &Cancel) {
        let (_, key) = id;
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = cancel.cancelled() => return,
        }
        self.until_free().await;
        // One that is due while the relay stops comes at the next start.
        if cancel.is_cancelled() || self.stopping.get() {
            return;
        }
        let Some(data) = self.home.kept.alarms.take(id).await else { return };
        self.until_free().await;
        let generation = self.current();
        let Some(function) = generation.vm.callback("on_alarm").cloned() else {
            if !generation.missed_alarm.replace(true) {
                tracing::warn!(
                    target: "script",
                    app = %self.app.borrow().name,
                    generation = generation.number(),
                    instance = self.home.place + 1,
                    "the alarm \"{}\" is due, but the script has no on_alarm: it is dropped, and so is each later one", key.escape_ascii()
                );
            }
            return;
        };
        let lua = generation.vm.lua();
        let args = || (lua.create_string(key)?, script::plain::from_plain(lua, &data)?).into_lua_multi(lua);
        let ran = match args() {
            Ok(args) => generation.vm.call(&function, args, None),
            Err(error) => Ran::Failed(ScriptError::from_lua(&error)),
        };
        self.after(&generation, Job::Plain { callback: "on_alarm", done: None }, ran);
    }

    /// A repeating timer: it never overlaps itself, and late ticks are skipped.
    async fn tick(&self, generation: &Rc<Generation>, period: Duration, function: &mlua::Function, cancel: &Cancel) {
        let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut last = Instant::now();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = cancel.cancelled() => return,
                () = generation.is_replaced() => return,
            }
            self.until_free().await;
            if cancel.is_cancelled() || generation.replaced.get() {
                return;
            }
            let elapsed = last.elapsed().as_secs_f64();
            last = Instant::now();
            let (done, ended) = oneshot::channel();
            let ran = generation.vm.call(function, elapsed, None);
            self.after(generation, Job::Plain { callback: "relay.every", done: Some(done) }, ran);
            let _ = ended.await;
        }
    }

    fn run_plain(
        &self,
        generation: &Rc<Generation>,
        callback: &'static str,
        function: &mlua::Function,
        args: impl IntoLuaMulti,
    ) {
        let ran = generation.vm.call(function, args, None);
        self.after(generation, Job::Plain { callback, done: None }, ran);
    }

    /// The end of a callback.
    fn finish(&self, generation: &Rc<Generation>, job: Job, result: Result<MultiValue, ScriptError>) {
        let failure = result.as_ref().err().cloned();
        if let Some(error) = &failure {
            self.log(generation, &job, error);
        }
        let callback = job.callback();
        match job {
            Job::Lane(lane, due) => {
                lane.busy.set(false);
                if due == Due::Close {
                    lane.closed.set(true);
                }
                if let Some(error) = failure.clone() {
                    self.lane_failed(&lane, due, error, callback);
                }
            }
            Job::Authenticate { request, reply, asked_at } => {
                let verdict = result.map_err(|error| error.message).and_then(verdict::verdict);
                let now = self.home.clock.unix().as_secs_f64();
                let verdict = verdict.map(|verdict| verdict.asked(asked_at).unless_expired(now));
                let verdict = verdict.unwrap_or_else(|why| {
                    if failure.is_none() {
                        self.complain(generation, callback, &why);
                    }
                    Verdict::Refuse { status: 500, reason: "the relay's script failed".to_owned() }
                });
                let _ = reply.send((verdict, request));
            }
            Job::Request { reply } => {
                let response = result.map_err(|error| error.message).and_then(verdict::response);
                let response = response.unwrap_or_else(|why| {
                    if failure.is_none() {
                        self.complain(generation, callback, &why);
                    }
                    Response { status: 500, headers: Vec::new(), body: b"the relay's script failed\n".to_vec() }
                });
                let _ = reply.send(Some(response));
            }
            Job::Plain { done, .. } => {
                if let Some(done) = done {
                    let _ = done.send(());
                }
            }
        }
        if let Some(error) = failure {
            if error.kind == ErrorKind::Memory && !generation.vm.recover() {
                self.out_of_memory(generation);
            }
            if callback != "on_error" && !matches!(callback, "on_open" | "on_message" | "on_close" | "on_revoked") {
                self.on_error(error, callback);
            }
        }
    }

    /// A VM that is full for good: the running one is built anew, an older one ends.
    fn out_of_memory(&self, generation: &Rc<Generation>) {
        if Rc::ptr_eq(generation, &self.current()) {
            self.rebuild(generation);
        } else {
            generation
                .end(format!("cancelled: generation {} is out of memory (limits.script_memory)", generation.number()));
        }
    }

    fn lane_failed(&self, lane: &Rc<Lane>, due: Due, error: ScriptError, callback: &'static str) {
        if due == Due::Error {
            return; // an error in on_error is only logged
        }
        if self.current().vm.callback("on_error").is_some() {
            lane.push_first(Told::Error { error, callback });
        }
        let max = self.app.borrow().limits.script_errors;
        if due == Due::Open {
            lane.conn.outbox.close(wire::INTERNAL, "on_open failed");
        } else if lane.count_error(max) && !lane.conn.is_closed() {
            tracing::warn!(connection = %lane.conn.text, user = lane.conn.user(), "closed with 1011 after {max} script errors within a minute (limits.script_errors)");
            lane.conn.outbox.close(wire::INTERNAL, "too many script errors: limits.script_errors");
        }
    }

    /// `on_error` for what is not about a connection.
    fn on_error(&self, error: ScriptError, callback: &'static str) {
        self.when_free(move |instance| {
            let generation = instance.current();
            let Some(function) = generation.vm.callback("on_error").cloned() else { return };
            let ran = match error_table(generation.vm.lua(), &error, callback) {
                Ok(table) => generation.vm.call(&function, (Value::Nil, table), None),
                Err(error) => Ran::Failed(ScriptError::from_lua(&error)),
            };
            instance.after(&generation, Job::Plain { callback: "on_error", done: None }, ran);
        });
    }

    fn log(&self, generation: &Generation, job: &Job, error: &ScriptError) {
        let conn = job.conn();
        tracing::error!(
            target: "script",
            app = %self.app.borrow().name,
            generation = generation.number(),
            instance = self.home.place + 1,
            connection = conn.map(|conn| &*conn.text),
            user = conn.and_then(|conn| conn.user()),
            callback = job.callback(),
            traceback = %error.traceback,
            "{}", error.message
        );
    }

    /// A callback has returned what it may not.
    fn complain(&self, generation: &Generation, callback: &'static str, why: &str) {
        tracing::error!(
            target: "script",
            app = %self.app.borrow().name,
            generation = generation.number(),
            instance = self.home.place + 1,
            callback,
            "{}: {why}", self.app.borrow().script.display()
        );
        self.on_error(ScriptError::raised(why), callback);
    }

    // ── reload ──

    /// Loads a generation beside the running one, and tries the state on it.
    pub async fn prepare(&self, plan: Plan) -> Result<Prepared, ScriptError> {
        let switch = self.switching.clone().lock_owned().await;
        let vm = Vm::load(&self.home, plan).await?;
        let previous = self.current.borrow().clone();
        if previous.is_none() {
            *self.left.borrow_mut() = self.home.kept.alarms.left().await;
        }
        if let Some(previous) = previous {
            let mut copier = script::plain::Copier::default();
            let state = previous.vm.check_state(&mut copier).map_err(|error| error.kept_by(previous.number()))?;
            vm.migrated(&state, previous.vm.version())?;
            // Tables may come and go between two batches; only what is found without a pause refuses the reload.
            if self.check_states(&previous, true).await.is_err() {
                self.check_states(&previous, false).await.map_err(|error| error.kept_by(previous.number()))?;
            }
        }
        let prepared = Prepared { version: vm.version(), callbacks: vm.callbacks() };
        *self.prepared.borrow_mut() = Some(vm);
        *self.switch.borrow_mut() = Some(switch);
        Ok(prepared)
    }

    /// Checks that every state can be carried over and that no two share a table.
    async fn check_states(&self, running: &Rc<Generation>, with_pauses: bool) -> Result<(), ScriptError> {
        let mut copier = script::plain::Copier::default();
        running.vm.check_state(&mut copier)?;
        let lanes: Vec<Rc<Lane>> = self.lanes.borrow().iter().map(|(_, lane)| lane.clone()).collect();
        for lanes in lanes.chunks(MOVES_AT_ONCE) {
            for lane in lanes.iter().filter(|lane| !lane.conn.is_gone()) {
                self.home.kept.shelf.check(&lane.conn, &mut copier)?;
            }
            if with_pauses {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Starts no callback from now on, and carries `relay.state` over.
    pub fn hold(&self) -> Result<(), ScriptError> {
        let prepared = self.prepared.borrow();
        let Some(vm) = prepared.as_ref() else { return Err(ScriptError::raised("nothing was prepared")) };
        self.held.set(true);
        let previous = self.current.borrow().clone();
        match previous {
            Some(previous) => {
                let state = previous.vm.freeze_state()?;
                vm.set_state(&state, previous.vm.version())
            }
            None => vm.set_state(&Vm::empty_state(), vm.version()),
        }
    }

    /// Drops what was prepared; the running generation goes on. Where the preparation failed there is nothing to undo.
    pub fn release(&self) {
        let Some(_switch) = self.switch.take() else { return };
        self.prepared.take();
        let current = self.current.borrow().clone();
        if let Some(current) = current {
            current.vm.thaw_state();
            self.free();
        }
    }

    /// Switches to what was prepared.
    pub fn commit(&self) {
        let Some(_switch) = self.switch.take() else { return };
        if let Some(vm) = self.prepared.take() {
            self.switch_to(vm);
        }
    }

    fn switch_to(&self, vm: Vm) {
        *self.app.borrow_mut() = vm.plan().app.clone();
        self.hub.set_generation(vm.generation());
        let limits = &vm.plan().app.limits;
        self.hub.set_limits(limits.rooms_per_connection, limits.room_name);
        let config::Compression { enabled, threshold, binary, level, .. } = vm.plan().app.compression;
        self.hub.set_compression(enabled.then_some(wire::Compression { threshold, binary, level }));
        for (_, lane) in self.lanes.borrow().iter() {
            lane.conn.outbox.set_bytes_max(limits.outbox);
        }
        vm.begin();
        self.home.kept.shelf.add(vm.states().clone());
        let generation = Rc::new(Generation::new(vm));
        let previous = self.current.replace(Some(generation.clone()));
        if let Some(previous) = previous {
            previous.vm.retire(generation.number());
            previous.replace();
            self.old.borrow_mut().push(previous.clone());
            let drain = generation.vm.plan().drain;
            // Weak, since a generation that nothing waits in ends sooner.
            let previous = Rc::downgrade(&previous);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(drain).await;
                if let Some(previous) = previous.upgrade() {
                    let number = previous.number();
                    previous.end(format!("cancelled: its generation {number} was replaced, and reload.drain is over"));
                }
            });
        }
        // Before on_start, which may set them anew.
        for left in self.left.take() {
            let alarms = &self.home.kept.alarms;
            let (cancel, delay) = (alarms.restore(&left), alarms.until(left.due));
            self.start(&generation, Start::Alarm { id: left.id, delay, cancel });
        }
        // Before any traffic: that is let in by what comes next, or by the first wait of on_start.
        if let Some(on_start) = generation.vm.callback("on_start").cloned() {
            let ran = generation.vm.call_start(&on_start);
            self.after(&generation, Job::Plain { callback: "on_start", done: None }, ran);
        }
        self.free();
        let instance = self.me();
        tokio::task::spawn_local(async move { instance.move_states().await });
    }

    /// Lets callbacks start again, with what has been put off first.
    fn free(&self) {
        if !self.held.replace(false) {
            return;
        }
        self.released.notify_waiters();
        loop {
            let Some(job) = self.deferred.borrow_mut().pop_front() else { break };
            job(&self.me());
        }
        let lanes: Vec<Rc<Lane>> =
            self.lanes.borrow().iter().filter(|(_, lane)| !lane.is_empty()).map(|(_, lane)| lane.clone()).collect();
        for lane in lanes {
            self.go_on(&lane);
        }
    }

    /// Moves the states that nothing has touched, a few at a time.
    async fn move_states(&self) {
        let generation = self.current();
        let slots: Vec<usize> = self.lanes.borrow().iter().map(|(slot, _)| slot).collect();
        for slots in slots.chunks(MOVES_AT_ONCE) {
            tokio::task::yield_now().await;
            for slot in slots {
                let lane = self.lanes.borrow().get(*slot).cloned();
                // A callback that waits may still write to its own; the next callback moves it.
                if let Some(lane) = lane.filter(|lane| !lane.busy.get()) {
                    self.bring_up(&generation, &lane);
                }
            }
        }
        self.drop_ended();
    }

    /// Drops the VMs that nothing waits in and no state lives in.
    fn drop_ended(&self) {
        let mut old = self.old.take();
        old.retain(|generation| {
            let epoch = generation.vm.states().epoch();
            let ended = generation.waiting() == 0 && !self.home.kept.shelf.owns(epoch);
            if ended {
                self.home.kept.shelf.remove(epoch);
            }
            !ended
        });
        self.old.borrow_mut().append(&mut old);
    }

    /// Builds a generation anew in a fresh VM, after it ran out of memory for good.
    fn rebuild(&self, full: &Rc<Generation>) {
        if self.rebuilding.replace(true) {
            return;
        }
        let (instance, full) = (self.me(), full.clone());
        tokio::task::spawn_local(async move {
            let _switch = instance.switching.clone().lock_owned().await;
            instance.rebuilding.set(false);
            // A reload may have replaced it meanwhile.
            if !Rc::ptr_eq(&full, &instance.current()) {
                return;
            }
            instance.held.set(true);
            let plan = Plan { previous: Some((full.number(), full.vm.version())), ..full.vm.plan().clone() };
            let app = plan.app.name.clone();
            match Vm::load(&instance.home, plan).await {
                Ok(vm) => {
                    instance.carry_state(&full, &vm);
                    instance.switch_to(vm);
                }
                Err(error) => {
                    tracing::error!(
                        app,
                        "a script was out of memory (limits.script_memory), and cannot be loaded again: {error}"
                    );
                    instance.free();
                }
            }
        });
    }

    /// Carries `relay.state` from a VM that is out of memory to a fresh one, or says that it could not.
    fn carry_state(&self, full: &Generation, vm: &Vm) {
        let app = &vm.plan().app.name;
        match full.vm.freeze_state().and_then(|state| vm.set_state(&state, full.vm.version())) {
            Ok(()) => tracing::warn!(
                app,
                "a script was out of memory (limits.script_memory): it goes on in a fresh VM, with its state"
            ),
            Err(error) => {
                tracing::error!(
                    app,
                    "a script was out of memory (limits.script_memory), and relay.state does not fit either: it is reset \
                     ({error})"
                );
                if let Err(error) = vm.set_state(&Vm::empty_state(), vm.version()) {
                    tracing::error!(app, "and even an empty state could not be set: {error}");
                }
            }
        }
    }

    // ── the end ──

    /// Waits until every connection is gone, then runs `on_stop`. Callbacks that wait longer than `grace` are cancelled.
    async fn stop(&self, reason: String, grace: Duration) {
        self.stopping.set(true);
        let instance = self.me();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(grace).await;
            for generation in instance.old.borrow().iter().chain(instance.current.borrow().iter()) {
                generation.end("cancelled: the relay is stopping".to_owned());
            }
        });
        loop {
            let emptied = self.emptied.notified();
            if self.lanes.borrow().is_empty() {
                break;
            }
            emptied.await;
        }
        self.home.kept.alarms.settled().await; // those that are due already come before on_stop
        self.until_free().await;
        let Some(generation) = self.current.borrow().clone() else { return };
        if let Some(on_stop) = generation.vm.callback("on_stop").cloned() {
            generation.go_on(); // what was cancelled is over, and this one may wait
            let (done, ended) = oneshot::channel();
            let ran = generation.vm.call(&on_stop, reason, None);
            self.after(&generation, Job::Plain { callback: "on_stop", done: Some(done) }, ran);
            let _ = ended.await;
        }
        self.home.kept.alarms.settled().await;
    }

    /// Whether nobody is let in any more.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// The connections that are here, for a shutdown.
    pub fn conns(&self) -> Vec<Rc<Conn>> {
        self.hub.conns()
    }

    pub fn callbacks(&self) -> Vec<&'static str> {
        self.current.borrow().as_ref().map_or_else(Vec::new, |generation| generation.vm.callbacks())
    }
}

fn error_table(lua: &mlua::Lua, error: &ScriptError, callback: &str) -> mlua::Result<mlua::Table> {
    let table = lua.create_table()?;
    table.raw_set("message", error.message.as_str())?;
    table.raw_set("traceback", error.traceback.as_str())?;
    table.raw_set("callback", callback)?;
    Ok(table)
}
