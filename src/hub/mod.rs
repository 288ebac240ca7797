//! The hub of one instance: its connections, users and rooms, and who of the others must hear.
//!
//! It sits between scripts and outboxes. It never runs a callback and never waits: to deliver is to queue.

mod conn;
mod room;

pub use crate::bus::{Computed, Turn};
pub use conn::Conn;
pub use room::Room;

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use tokio::sync::mpsc;

use crate::{
    bus::{self, Ack, Bus, BusMessage, Directory},
    clock::Clock,
    connection_id::ConnectionId,
    identity::Identity,
    name,
    outbox::{Outbox, Push},
    peer::Request,
    permission::{Action, Permissions, Rules},
    plain::{Plain, PlainTable},
    tracer::{self, Tracer, What},
    wire,
};

/// Why the world did not do what a script asked for; its text is the second value that the script gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    BadName,
    Closed,
    Slow,
    Busy,
    TooManyRooms,
    NotMember,
    Forbidden,
}

impl Why {
    pub fn as_str(self) -> &'static str {
        match self {
            Why::BadName => "bad_name",
            Why::Closed => "closed",
            Why::Slow => "slow",
            Why::Busy => "busy",
            Why::TooManyRooms => "limits.rooms_per_connection",
            Why::NotMember => "not_member",
            Why::Forbidden => "forbidden",
        }
    }
}

/// A peer that has been let in, as it is handed to the hub.
pub struct Opening {
    pub request: Request,
    pub identity: Option<Identity>,
    pub subprotocol: Option<String>,
    pub outbox: Rc<Outbox>,
    pub slot: usize,
    pub opened_at: f64,
}

/// What came over the bus that the instance itself must act on.
#[derive(Debug)]
pub struct Emitted {
    pub name: Arc<str>,
    pub data: Arc<Plain>,
    pub source: Arc<Plain>,
}

/// What a call has caused, and the instance must act on once the callback that called has ended or waits.
pub enum Caused {
    /// A change of permissions took a room or a pattern from a connection.
    Revoked(Rc<Conn>, Rc<str>),
    /// A connection's identity has been renewed.
    Renewed(Rc<Conn>),
}

/// A change of one user's rules.
#[derive(Debug, Clone)]
pub enum Change {
    Allow(Rules),
    Deny(Rules),
}

struct PatternMembers {
    pattern: Rc<str>,
    members: Vec<Rc<Conn>>,
}

pub struct Hub {
    boot: Arc<str>,
    number: u16,
    place: u16,
    bus: Bus,
    /// All instances of all apps.
    all: Bus,
    /// What an event from here says of where it comes from.
    source: Arc<Plain>,
    directory: Arc<Directory>,
    counter: Cell<u64>,
    conns: RefCell<HashMap<ConnectionId, Rc<Conn>>>,
    rooms: RefCell<HashMap<Rc<str>, Rc<Room>>>,
    users: RefCell<HashMap<Box<str>, Vec<Rc<Conn>>>>,
    patterns: RefCell<Vec<PatternMembers>>,
    publishes: Cell<u64>,
    changes: Cell<u64>,
    caused: RefCell<Vec<Caused>>,
    app: Box<str>,
    /// The running one, for the trace.
    generation: Cell<u64>,
    tracer: Option<Arc<Tracer>>,
    slow_closed: Cell<u64>,
    rooms_max: Cell<usize>,
    name_max: Cell<usize>,
    compression: Cell<Option<wire::Compression>>,
}

impl Hub {
    /// `number` is the instance's among all of the process, `place` its place among its app's.
    pub fn new(boot: Arc<str>, number: u16, place: u16, bus: Bus, directory: Arc<Directory>, rooms_max: usize) -> Hub {
        Hub {
            boot,
            number,
            place,
            all: bus.clone(),
            source: Arc::new(Plain::Nil),
            bus,
            directory,
            counter: Cell::new(0),
            conns: RefCell::default(),
            rooms: RefCell::default(),
            users: RefCell::default(),
            patterns: RefCell::default(),
            publishes: Cell::new(0),
            changes: Cell::new(0),
            caused: RefCell::default(),
            app: Box::default(),
            generation: Cell::new(0),
            tracer: None,
            slow_closed: Cell::new(0),
            rooms_max: Cell::new(rooms_max),
            name_max: Cell::new(name::NAME_BYTES_MAX),
            compression: Cell::new(None),
        }
    }

    /// One that has nobody to talk to: for scripts that are only looked at.
    pub fn alone(boot: &str, rooms_max: usize) -> Hub {
        let (post, _inbound) = bus::post(0, 0);
        Hub::new(boot.into(), 0, 0, Bus::new([(0, post)]), Arc::default(), rooms_max)
    }

    /// Among other apps: `all` reaches every instance of all of them.
    pub fn among(mut self, app: &str, all: Bus) -> Hub {
        let mut source = PlainTable::default();
        source.pairs.push((Plain::string("app"), Plain::string(app)));
        source.pairs.push((Plain::string("instance"), Plain::Number(f64::from(self.place) + 1.0)));
        self.source = Arc::new(Plain::Table(Box::new(source)));
        self.all = all;
        self.app = app.into();
        self
    }

    /// Told of what is sent while somebody looks.
    pub fn traced(self, tracer: Option<Arc<Tracer>>) -> Hub {
        Hub { tracer, ..self }
    }

    pub fn set_generation(&self, generation: u64) {
        self.generation.set(generation);
    }

    /// The beginning of what is told of a connection.
    pub fn trace_entry(&self, conn: &Conn, what: What) -> tracer::Entry {
        tracer::Entry {
            seq: 0,
            at: Clock::system().unix().as_secs_f64(),
            app: self.app.to_string(),
            generation: self.generation.get(),
            instance: self.place + 1,
            connection: conn.text.to_string(),
            user: conn.user().map(str::to_owned),
            what,
            binary: false,
            bytes: 0,
            text: String::new(),
            code: None,
            reason: None,
        }
    }

    /// Queues a message, and tells of it if somebody looks.
    fn push(&self, conn: &Conn, message: &wire::Message) -> Push {
        if let Some(tracer) = self.tracer.as_ref().filter(|tracer| tracer.is_on()) {
            let (data, binary) = (wire::payload(message.plain()), wire::kind(message.plain()) == wire::Kind::Binary);
            let mut entry = self.trace_entry(conn, What::Out);
            entry.binary = binary;
            entry.bytes = data.len();
            entry.text = tracer::shown(&data, binary);
            tracer.note(entry);
        }
        conn.outbox.push(message)
    }

    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// This instance's place among its app's.
    pub fn place(&self) -> u16 {
        self.place
    }

    /// What the limits of the running generation say.
    pub fn set_limits(&self, rooms_max: usize, name_max: usize) {
        self.rooms_max.set(rooms_max);
        self.name_max.set(name_max.min(name::NAME_BYTES_MAX));
    }

    /// Which messages it has compressed from now on; None is none.
    pub fn set_compression(&self, compression: Option<wire::Compression>) {
        self.compression.set(compression);
    }

    fn encode(&self, data: &[u8], binary: bool) -> wire::Message {
        wire::Message::new(data, binary, self.compression.get().as_ref())
    }

    fn is_exact(&self, name: &str) -> bool {
        name.len() <= self.name_max.get() && name::is_exact(name.as_bytes())
    }

    // ── connections ──

    pub fn open(&self, opening: Opening) -> Rc<Conn> {
        self.counter.set(self.counter.get() + 1);
        let id = ConnectionId::new(self.number, self.counter.get());
        let conn = Rc::new(Conn {
            id,
            text: id.text(&self.boot).into(),
            slot: opening.slot,
            request: opening.request,
            user: OnceCell::new(),
            identity: RefCell::default(),
            renewals: Cell::new(0),
            permissions: RefCell::default(),
            changes: RefCell::default(),
            subprotocol: opening.subprotocol,
            opened_at: opening.opened_at,
            outbox: opening.outbox,
            rooms: RefCell::default(),
            patterns: RefCell::default(),
            last_publish: Cell::new(0),
            gone: Cell::new(false),
            closing: Cell::new(false),
            ended_by_script: Cell::new(false),
        });
        if let Some(identity) = opening.identity {
            let _ = conn.user.set(identity.id.as_str().into()); // it is empty
            *conn.permissions.borrow_mut() = identity.permissions.clone();
            *conn.identity.borrow_mut() = Some(Rc::new(identity));
        }
        self.conns.borrow_mut().insert(id, conn.clone());
        if let Some(user) = conn.user() {
            self.users.borrow_mut().entry(user.into()).or_default().push(conn.clone());
        }
        self.directory.open(conn.user(), self.place);
        conn
    }

    /// Forgets a connection, after its last callback: it leaves every room and is inert from now on.
    pub fn remove(&self, conn: &Rc<Conn>) {
        if conn.gone.replace(true) {
            return;
        }
        self.conns.borrow_mut().remove(&conn.id);
        for room in conn.rooms.take() {
            self.take_out(&room, conn.id);
        }
        for pattern in conn.patterns.take() {
            self.take_out_of_pattern(&pattern, conn.id);
        }
        if let Some(user) = conn.user() {
            let mut users = self.users.borrow_mut();
            if let Some(conns) = users.get_mut(user) {
                conns.retain(|c| c.id != conn.id);
                if conns.is_empty() {
                    users.remove(user);
                }
            }
        }
        self.directory.close(conn.user(), self.place);
    }

    /// The connections that live here, oldest first.
    pub fn conns(&self) -> Vec<Rc<Conn>> {
        let mut conns: Vec<_> = self.conns.borrow().values().cloned().collect();
        conns.sort_by_key(|conn| conn.id);
        conns
    }

    pub fn conn(&self, id: ConnectionId) -> Option<Rc<Conn>> {
        self.conns.borrow().get(&id).cloned()
    }

    /// The number behind an id's text, and the place of its instance, if it is one of this app's.
    pub fn find_id(&self, text: &str) -> Option<(ConnectionId, u16)> {
        let id = ConnectionId::parse(text, &self.boot)?;
        Some((id, self.bus.place_of(id.instance())?))
    }

    /// Connections of the app, over all instances.
    pub fn count(&self) -> usize {
        self.directory.connections()
    }

    /// Queues a message to one connection; one that is over its budget is closed, unless the message may be dropped.
    pub fn send(&self, conn: &Conn, data: &[u8], binary: bool, droppable: bool) -> Result<(), Why> {
        if conn.is_closed() {
            return Err(Why::Closed);
        }
        match self.push(conn, &self.encode(data, binary)) {
            Push::Queued => Ok(()),
            Push::Closed => Err(Why::Closed),
            Push::Full if droppable => Err(Why::Slow),
            Push::Full => {
                self.close_slow(conn);
                Err(Why::Slow)
            }
        }
    }

    /// A message to a connection of another instance; true means handed over.
    pub fn send_elsewhere(
        &self,
        id: ConnectionId,
        place: u16,
        data: &[u8],
        binary: bool,
        droppable: bool,
    ) -> Result<(), Why> {
        if self.bus.is_busy(&[place]) {
            return Err(Why::Busy);
        }
        let message = self.encode(data, binary);
        let handed_over = self.bus.send(place, BusMessage::ConnSend { id, message, droppable });
        handed_over.then_some(()).ok_or(Why::Closed)
    }

    pub fn close_elsewhere(&self, id: ConnectionId, place: u16, code: u16, reason: &str) {
        self.bus.send(place, BusMessage::ConnClose { id, code, reason: reason.into() });
    }

    fn close_slow(&self, conn: &Conn) {
        self.slow_closed.set(self.slow_closed.get() + 1);
        conn.outbox.close(wire::TRY_AGAIN_LATER, "too slow: its outbox is over limits.outbox");
        tracing::warn!(
            connection = %conn.text,
            user = conn.user(),
            buffered = conn.outbox.buffered(),
            "a slow connection is closed with 1013: what waits for it is over limits.outbox"
        );
    }

    fn deliver(&self, conn: &Conn, message: &wire::Message) {
        self.deliver_or_drop(conn, message, false);
    }

    fn deliver_or_drop(&self, conn: &Conn, message: &wire::Message, droppable: bool) {
        if !conn.closing.get() && self.push(conn, message) == Push::Full && !droppable {
            self.close_slow(conn);
        }
    }

    // ── rooms ──

    pub fn join(&self, conn: &Rc<Conn>, name: &str) -> Result<(), Why> {
        if !self.is_exact(name) {
            return Err(Why::BadName);
        }
        if conn.is_closed() {
            return Err(Why::Closed);
        }
        if !conn.permissions.borrow().permits(Action::Join, name) {
            return Err(Why::Forbidden);
        }
        let known = self.rooms.borrow().get(name).cloned();
        if known.as_ref().is_some_and(|room| room.has(conn.id)) {
            return Ok(());
        }
        self.check_rooms_max(conn)?;
        let room = known.unwrap_or_else(|| {
            let name: Rc<str> = name.into();
            let room = Rc::new(Room::new(name.clone()));
            self.rooms.borrow_mut().insert(name, room.clone());
            room
        });
        room.add(conn);
        conn.rooms.borrow_mut().push(room);
        self.directory.join(name, self.place);
        Ok(())
    }

    fn check_rooms_max(&self, conn: &Conn) -> Result<(), Why> {
        let rooms = conn.rooms.borrow().len() + conn.patterns.borrow().len();
        if rooms < self.rooms_max.get() { Ok(()) } else { Err(Why::TooManyRooms) }
    }

    /// Takes a connection out of a room.
    pub fn leave(&self, conn: &Conn, name: &str) -> Result<(), Why> {
        if conn.is_gone() {
            return Err(Why::Closed);
        }
        let place = conn.rooms.borrow().iter().position(|room| **room.name() == *name);
        let Some(place) = place else { return Err(Why::NotMember) };
        let room = conn.rooms.borrow_mut().remove(place);
        self.take_out(&room, conn.id);
        Ok(())
    }

    fn take_out(&self, room: &Rc<Room>, id: ConnectionId) {
        if room.remove(id) {
            self.directory.leave(room.name(), self.place);
        }
        if room.is_empty() {
            self.rooms.borrow_mut().remove(room.name());
        }
    }

    pub fn join_pattern(&self, conn: &Rc<Conn>, pattern: &str) -> Result<(), Why> {
        if pattern.len() > self.name_max.get() || !name::is_pattern(pattern.as_bytes()) {
            return Err(Why::BadName);
        }
        if conn.is_closed() {
            return Err(Why::Closed);
        }
        if !conn.permissions.borrow().permits_pattern(Action::Join, pattern) {
            return Err(Why::Forbidden);
        }
        if conn.patterns.borrow().iter().any(|p| **p == *pattern) {
            return Ok(());
        }
        self.check_rooms_max(conn)?;
        let pattern: Rc<str> = pattern.into();
        conn.patterns.borrow_mut().push(pattern.clone());
        self.directory.join_pattern(&pattern, self.place);
        let mut patterns = self.patterns.borrow_mut();
        match patterns.iter_mut().find(|entry| entry.pattern == pattern) {
            Some(entry) => entry.members.push(conn.clone()),
            None => patterns.push(PatternMembers { pattern, members: vec![conn.clone()] }),
        }
        Ok(())
    }

    pub fn leave_pattern(&self, conn: &Conn, pattern: &str) -> Result<(), Why> {
        if conn.is_gone() {
            return Err(Why::Closed);
        }
        let place = conn.patterns.borrow().iter().position(|p| **p == *pattern);
        let Some(place) = place else { return Err(Why::NotMember) };
        conn.patterns.borrow_mut().remove(place);
        self.take_out_of_pattern(pattern, conn.id);
        Ok(())
    }

    fn take_out_of_pattern(&self, pattern: &str, id: ConnectionId) {
        let mut patterns = self.patterns.borrow_mut();
        if let Some(entry) = patterns.iter_mut().find(|entry| *entry.pattern == *pattern) {
            entry.members.retain(|conn| conn.id != id);
        }
        patterns.retain(|entry| !entry.members.is_empty());
        self.directory.leave_pattern(pattern, self.place);
    }

    /// The members of a room that live in this instance.
    pub fn members(&self, room: &str) -> Vec<Rc<Conn>> {
        let room = self.rooms.borrow().get(room).cloned();
        let mut members = room.map_or_else(Vec::new, |room| room.members());
        members.sort_by_key(|conn| conn.id);
        members
    }

    /// Members of a room over all instances.
    pub fn room_count(&self, room: &str) -> usize {
        self.directory.count(room)
    }

    /// One message to all members of a room, here and elsewhere, but those of `except`.
    pub fn publish(&self, name: &str, data: &[u8], binary: bool, except: &[ConnectionId]) -> Result<(), Why> {
        if !self.is_exact(name) {
            return Err(Why::BadName);
        }
        let room = self.rooms.borrow().get(name).cloned();
        let elsewhere = self.elsewhere(name, room.as_deref());
        if self.bus.is_busy(&elsewhere) {
            return Err(Why::Busy);
        }
        if room.is_none() && elsewhere.is_empty() && self.patterns.borrow().is_empty() {
            return Ok(());
        }
        let message = self.encode(data, binary);
        if !elsewhere.is_empty() {
            let (room, except): (Arc<str>, Arc<[ConnectionId]>) = (name.into(), except.into());
            for place in elsewhere.iter() {
                let (room, message, except) = (room.clone(), message.clone(), except.clone());
                self.bus.send(*place, BusMessage::Publish { room, message, except });
            }
        }
        self.publish_here(name, room.as_deref(), &message, except);
        Ok(())
    }

    /// What a connection itself says to a room: to everyone but itself, if it is permitted to.
    pub fn publish_of(
        &self,
        conn: &Conn,
        name: &str,
        data: &[u8],
        binary: bool,
        except: &[ConnectionId],
    ) -> Result<(), Why> {
        if conn.is_gone() {
            return Err(Why::Closed);
        }
        if !self.is_exact(name) {
            return Err(Why::BadName);
        }
        if !conn.permissions.borrow().permits(Action::Publish, name) {
            return Err(Why::Forbidden);
        }
        self.publish(name, data, binary, except)
    }

    fn elsewhere(&self, name: &str, room: Option<&Room>) -> Rc<[u16]> {
        if self.bus.len() == 1 {
            return Rc::from([]);
        }
        let Some(room) = room else { return self.directory.interested(name, self.place).into() };
        // The version is read first: a change that comes between leads to one more look, never to one less.
        let version = self.directory.version() + 1;
        if room.elsewhere_version.get() != version {
            *room.elsewhere.borrow_mut() = self.directory.interested(name, self.place).into();
            room.elsewhere_version.set(version);
        }
        room.elsewhere.borrow().clone()
    }

    fn publish_here(&self, name: &str, room: Option<&Room>, message: &wire::Message, except: &[ConnectionId]) {
        let patterns = self.patterns.borrow();
        if patterns.is_empty() {
            if let Some(room) = room {
                room.each(|conn| {
                    if !except.contains(&conn.id) {
                        self.deliver(conn, message);
                    }
                });
            }
            return;
        }
        let publish = self.publishes.get() + 1;
        self.publishes.set(publish);
        let once = |conn: &Rc<Conn>| {
            if conn.last_publish.replace(publish) != publish && !except.contains(&conn.id) {
                self.deliver(conn, message);
            }
        };
        if let Some(room) = room {
            room.each(once);
        }
        for entry in patterns.iter().filter(|entry| name::matches(&entry.pattern, name)) {
            entry.members.iter().for_each(once);
        }
    }

    /// One message to every connection of the app.
    pub fn broadcast(&self, data: &[u8], binary: bool, except: &[ConnectionId]) -> Result<(), Why> {
        let others: Vec<u16> = self.bus.everyone().filter(|place| *place != self.place).collect();
        if self.bus.is_busy(&others) {
            return Err(Why::Busy);
        }
        let message = self.encode(data, binary);
        if !others.is_empty() {
            let except: Arc<[ConnectionId]> = except.into();
            for place in others {
                self.bus.send(place, BusMessage::Broadcast { message: message.clone(), except: except.clone() });
            }
        }
        self.broadcast_here(&message, except);
        Ok(())
    }

    fn broadcast_here(&self, message: &wire::Message, except: &[ConnectionId]) {
        for conn in self.conns.borrow().values() {
            if !except.contains(&conn.id) {
                self.deliver(conn, message);
            }
        }
    }

    /// Closes every member of a room, everywhere. What it returns resolves once all instances have done so.
    pub fn room_disconnect(&self, room: &str, code: u16, reason: &str) -> Applied {
        let elsewhere = self.directory.interested(room, self.place);
        for conn in self.members(room) {
            conn.outbox.close(code, reason);
        }
        let (room, reason): (Arc<str>, Arc<str>) = (room.into(), reason.into());
        self.ask(elsewhere, |done| BusMessage::RoomDisconnect {
            room: room.clone(),
            code,
            reason: reason.clone(),
            done,
        })
    }

    // ── users ──

    /// A user's connections that live in this instance.
    pub fn user_conns(&self, user: &str) -> Vec<Rc<Conn>> {
        self.users.borrow().get(user).cloned().unwrap_or_default()
    }

    /// Whether a user has a connection anywhere.
    pub fn is_online(&self, user: &str) -> bool {
        !self.directory.user_places(user).is_empty()
    }

    pub fn user_send(&self, user: &str, data: &[u8], binary: bool, droppable: bool) -> Result<(), Why> {
        let places = self.directory.user_places(user);
        if places.is_empty() {
            return Err(Why::Closed);
        }
        let others = self.others(places);
        if self.bus.is_busy(&others) {
            return Err(Why::Busy);
        }
        let message = self.encode(data, binary);
        let name: Arc<str> = user.into();
        for place in others {
            self.bus.send(place, BusMessage::UserSend { user: name.clone(), message: message.clone(), droppable });
        }
        for conn in self.user_conns(user) {
            self.deliver_or_drop(&conn, &message, droppable);
        }
        Ok(())
    }

    pub fn user_join(&self, user: &str, room: &str) -> Result<Applied, Why> {
        if !self.is_exact(room) {
            return Err(Why::BadName);
        }
        for conn in self.user_conns(user) {
            // One that is closing, or in as many rooms as it may be, stays out; the others are in.
            let _ = self.join(&conn, room);
        }
        let others = self.others(self.directory.user_places(user));
        let (user, room): (Arc<str>, Arc<str>) = (user.into(), room.into());
        Ok(self.ask(others, |done| BusMessage::UserJoin { user: user.clone(), room: room.clone(), done }))
    }

    pub fn user_leave(&self, user: &str, room: &str) -> Applied {
        for conn in self.user_conns(user) {
            let _ = self.leave(&conn, room);
        }
        let others = self.others(self.directory.user_places(user));
        let (user, room): (Arc<str>, Arc<str>) = (user.into(), room.into());
        self.ask(others, |done| BusMessage::UserLeave { user: user.clone(), room: room.clone(), done })
    }

    /// Closes every connection of a user, everywhere, and has handshakes that are under way ask again.
    pub fn user_disconnect(&self, user: &str, code: u16, reason: &str) -> Applied {
        drop(self.directory.changing(user));
        for conn in self.user_conns(user) {
            conn.outbox.close(code, reason);
        }
        let others = self.others(self.directory.user_places(user));
        let (user, reason): (Arc<str>, Arc<str>) = (user.into(), reason.into());
        self.ask(others, |done| BusMessage::UserDisconnect { user: user.clone(), code, reason: reason.clone(), done })
    }

    // ── identities and permissions ──

    /// Gives an anonymous connection its identity, or renews the one that it has. The caller has checked the id.
    pub fn identify(&self, conn: &Rc<Conn>, identity: Identity) -> Result<(), Why> {
        if conn.is_closed() {
            return Err(Why::Closed);
        }
        if conn.user.set(identity.id.as_str().into()).is_ok() {
            self.users.borrow_mut().entry(identity.id.as_str().into()).or_default().push(conn.clone());
            self.directory.identify(&identity.id, self.place);
        }
        let permissions = identity.permissions.clone();
        *conn.identity.borrow_mut() = Some(Rc::new(identity));
        conn.renewals.set(conn.renewals.get() + 1);
        self.caused.borrow_mut().push(Caused::Renewed(conn.clone()));
        self.set_permissions(conn, permissions);
        Ok(())
    }

    /// Takes a connection out of what it may no longer be in.
    fn set_permissions(&self, conn: &Rc<Conn>, permissions: Permissions) {
        *conn.permissions.borrow_mut() = permissions.clone();
        for room in conn.rooms() {
            if !permissions.permits(Action::Join, &room) && self.leave(conn, &room).is_ok() {
                self.caused.borrow_mut().push(Caused::Revoked(conn.clone(), room));
            }
        }
        let patterns = conn.patterns.borrow().clone();
        for pattern in patterns {
            if !permissions.permits_pattern(Action::Join, &pattern) && self.leave_pattern(conn, &pattern).is_ok() {
                self.caused.borrow_mut().push(Caused::Revoked(conn.clone(), pattern));
            }
        }
    }

    /// What calls have caused since it was last asked.
    pub fn take_caused(&self) -> Vec<Caused> {
        // Most stretches cause nothing, and an empty list costs nothing.
        std::mem::take(&mut *self.caused.borrow_mut())
    }

    /// Resolves when it is the caller's turn to change a user's permissions. Handshakes that are under way are told to ask again.
    pub fn turn(&self, user: &str) -> impl Future<Output = Turn> + use<> {
        self.directory.changing(user).lock_owned()
    }

    /// The number of the last change about anybody.
    pub fn last_change(&self) -> u64 {
        self.directory.last_change()
    }

    pub fn has_changed_since(&self, user: &str, change: u64) -> bool {
        self.directory.has_changed_since(user, change)
    }

    /// Changes the rules of every live connection of a user, everywhere. The caller has its turn.
    pub fn change_rules(&self, user: &str, change: Change) -> Applied {
        self.change_rules_here(user, &change);
        let others = self.others(self.directory.user_places(user));
        let user: Arc<str> = user.into();
        self.ask(others, |done| match change.clone() {
            Change::Allow(rules) => BusMessage::UserAllow { user: user.clone(), rules, done },
            Change::Deny(rules) => BusMessage::UserDeny { user: user.clone(), rules, done },
        })
    }

    fn change_rules_here(&self, user: &str, change: &Change) {
        for conn in self.user_conns(user) {
            let mut permissions = conn.permissions();
            match change {
                Change::Allow(rules) => permissions.allow = Some(rules.clone()),
                Change::Deny(rules) => permissions.deny = Some(rules.clone()),
            }
            self.set_permissions(&conn, permissions);
        }
    }

    /// A number for a change that is computed from what there is: no other change has it.
    pub fn new_change(&self) -> u64 {
        self.changes.set(self.changes.get() + 1);
        (u64::from(self.number) << 48) | self.changes.get()
    }

    /// One round of such a change: replaces the `allow` lists that `computed` knows, and gives back the others, which it
    /// has yet to be computed for. Each connection changes once.
    pub fn replace_allow(&self, user: &str, change: u64, computed: Computed) -> (Vec<Option<Rules>>, Answers) {
        let unknown = self.replace_allow_here(user, change, &computed);
        let others = self.others(self.directory.user_places(user));
        let (told, answers) = mpsc::unbounded_channel();
        let user: Arc<str> = user.into();
        for place in &others {
            let (user, computed, told) = (user.clone(), computed.clone(), told.clone());
            self.bus.send(*place, BusMessage::UserReplaceAllow { user, change, computed, told });
        }
        (unknown, Answers { answers, elsewhere: !others.is_empty() })
    }

    fn replace_allow_here(&self, user: &str, change: u64, computed: &Computed) -> Vec<Option<Rules>> {
        let mut unknown = Vec::new();
        for conn in self.user_conns(user) {
            if conn.changes.borrow().contains(&change) {
                continue;
            }
            let mut permissions = conn.permissions();
            match computed.iter().find(|(before, _)| *before == permissions.allow) {
                Some((_, after)) => {
                    conn.changes.borrow_mut().push(change);
                    permissions.allow = Some(after.clone());
                    self.set_permissions(&conn, permissions);
                }
                None if unknown.contains(&permissions.allow) => {}
                None => unknown.push(permissions.allow),
            }
        }
        unknown
    }

    /// A computed change is over, or was given up.
    pub fn end_change(&self, user: &str, change: u64) {
        self.end_change_here(user, change);
        let others = self.others(self.directory.user_places(user));
        let user: Arc<str> = user.into();
        for place in others {
            self.bus.send(place, BusMessage::UserChangeEnds { user: user.clone(), change });
        }
    }

    fn end_change_here(&self, user: &str, change: u64) {
        for conn in self.user_conns(user) {
            conn.changes.borrow_mut().retain(|of| *of != change);
        }
    }

    fn others(&self, mut places: Vec<u16>) -> Vec<u16> {
        places.retain(|place| *place != self.place);
        places
    }

    fn ask(&self, places: Vec<u16>, message: impl Fn(Ack) -> BusMessage) -> Applied {
        if places.is_empty() {
            return Applied(None);
        }
        let (done, applied) = mpsc::channel(1);
        for place in places {
            self.bus.send(place, message(done.clone()));
        }
        Applied(Some(applied))
    }

    // ── events ──

    /// An event for every instance of this app, this one included, or of all apps.
    pub fn emit(&self, name: &str, data: Plain, to_all_apps: bool) -> Result<(), Why> {
        let bus = if to_all_apps { &self.all } else { &self.bus };
        let places: Vec<u16> = bus.everyone().collect();
        if bus.is_busy(&places) {
            return Err(Why::Busy);
        }
        let (name, data): (Arc<str>, Arc<Plain>) = (name.into(), data.into());
        for place in places {
            let (name, data, source) = (name.clone(), data.clone(), self.source.clone());
            bus.send(place, BusMessage::Event { name, data, source });
        }
        Ok(())
    }

    /// Applies what came over the bus; returns what is for the scripts.
    pub fn receive(&self, message: BusMessage) -> Option<Emitted> {
        match message {
            BusMessage::Publish { room, message, except } => {
                let here = self.rooms.borrow().get(&*room).cloned();
                self.publish_here(&room, here.as_deref(), &message, &except);
            }
            BusMessage::Broadcast { message, except } => self.broadcast_here(&message, &except),
            BusMessage::Event { name, data, source } => return Some(Emitted { name, data, source }),
            BusMessage::ConnSend { id, message, droppable } => {
                if let Some(conn) = self.conn(id) {
                    self.deliver_or_drop(&conn, &message, droppable);
                }
            }
            BusMessage::ConnClose { id, code, reason } => {
                if let Some(conn) = self.conn(id) {
                    conn.end(code, &reason);
                }
            }
            BusMessage::UserSend { user, message, droppable } => {
                for conn in self.user_conns(&user) {
                    self.deliver_or_drop(&conn, &message, droppable);
                }
            }
            BusMessage::UserJoin { user, room, done: _done } => {
                for conn in self.user_conns(&user) {
                    let _ = self.join(&conn, &room);
                }
            }
            BusMessage::UserLeave { user, room, done: _done } => {
                for conn in self.user_conns(&user) {
                    let _ = self.leave(&conn, &room);
                }
            }
            BusMessage::UserDisconnect { user, code, reason, done: _done } => {
                for conn in self.user_conns(&user) {
                    conn.outbox.close(code, &reason);
                }
            }
            BusMessage::UserAllow { user, rules, done: _done } => self.change_rules_here(&user, &Change::Allow(rules)),
            BusMessage::UserDeny { user, rules, done: _done } => self.change_rules_here(&user, &Change::Deny(rules)),
            BusMessage::UserReplaceAllow { user, change, computed, told } => {
                let _ = told.send(self.replace_allow_here(&user, change, &computed)); // whoever asked may have gone
            }
            BusMessage::UserChangeEnds { user, change } => self.end_change_here(&user, change),
            BusMessage::RoomDisconnect { room, code, reason, done: _done } => {
                for conn in self.members(&room) {
                    conn.outbox.close(code, &reason);
                }
            }
        }
        None
    }
}

/// What other instances answer in one round of a computed change.
#[derive(Debug)]
pub struct Answers {
    answers: mpsc::UnboundedReceiver<Vec<Option<Rules>>>,
    elsewhere: bool,
}

impl Answers {
    /// Whether nobody else was asked.
    pub fn is_done(&self) -> bool {
        !self.elsewhere
    }

    /// Adds what they have found to `unknown`.
    pub async fn add_to(mut self, mut unknown: Vec<Option<Rules>>) -> Vec<Option<Rules>> {
        while let Some(found) = self.answers.recv().await {
            for allow in found {
                if !unknown.contains(&allow) {
                    unknown.push(allow);
                }
            }
        }
        unknown
    }
}

/// Resolves once every instance that was asked has applied a wish.
#[derive(Debug)]
#[must_use]
pub struct Applied(Option<mpsc::Receiver<()>>);

impl Applied {
    /// Whether there is nothing to wait for.
    pub fn is_done(&self) -> bool {
        self.0.is_none()
    }

    pub async fn wait(mut self) {
        if let Some(applied) = &mut self.0 {
            // Nobody sends: it ends when the last copy of the sender is dropped.
            let _ = applied.recv().await;
        }
    }
}
