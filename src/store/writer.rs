//! The one who writes: puts what has come in into one transaction, and tells after the commit.
//!
//! An update holds its key while the script computes: whatever else writes that key waits behind it, in order. That the value
//! has not changed meanwhile is looked at once more before it is written, so a lock that is lost costs a second try and no data.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Why, decode,
    disk::{Database, Place},
    encode,
};
use crate::plain::Plain;

/// A key may be held so long when somebody else wants it: as long as no script may compute.
const HELD_MAX: Duration = Duration::from_secs(2);

/// Milliseconds between two looks for expired keys.
const SWEEP_EVERY: i64 = 1_000;

/// One more operation that waits, until it is dropped.
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub fn new(waiting: &Arc<AtomicUsize>, max: usize) -> Result<Counted, Why> {
        let counted = Counted(waiting.clone());
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        if before < max { Ok(counted) } else { Err(Why::Busy) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The way back to who asked.
pub(super) struct Reply<T> {
    to: oneshot::Sender<Result<T, Why>>,
    counted: Counted,
}

impl<T> Reply<T> {
    pub fn new(to: oneshot::Sender<Result<T, Why>>, counted: Counted) -> Reply<T> {
        Reply { to, counted }
    }

    pub fn send(self, result: Result<T, Why>) {
        let Reply { to, counted } = self;
        // Before who asked can ask for more.
        drop(counted);
        // Who does not wait any more need not hear.
        let _ = to.send(result);
    }
}

/// How the writer is reached, and how long a lock lives.
pub(super) type Way = Arc<dyn Fn(Op) + Send + Sync>;

/// The name of a value: its app and its key.
pub(super) type Name = (Arc<str>, Box<[u8]>);

/// One thing to do.
pub(super) struct Op {
    pub name: Name,
    pub now: i64,
    pub what: What,
}

pub(super) enum What {
    Set {
        value: Vec<u8>,
        expires: Option<i64>,
        if_absent: bool,
        reply: Reply<bool>,
    },
    Delete {
        reply: Reply<bool>,
    },
    Incr {
        by: f64,
        expires: Option<i64>,
        reply: Reply<f64>,
    },
    /// The first half of an update.
    Hold {
        way: Way,
        reply: Reply<Held>,
    },
    /// The second half; None deletes. The reply has the held key again if its value is another one by now.
    Finish {
        held: Held,
        value: Option<Vec<u8>>,
        expires: Option<i64>,
        reply: Reply<Option<Held>>,
    },
    Release {
        token: u64,
    },
}

/// A key that an update holds, and its value. To drop it lets the next one in.
pub struct Held {
    name: Name,
    token: u64,
    read: Option<Vec<u8>>,
    way: Option<Way>,
}

impl Held {
    pub fn value(&self) -> Result<Plain, Why> {
        match &self.read {
            None => Ok(Plain::Nil),
            Some(bytes) => decode(bytes).map_err(|what| Why::unreadable(&self.name.1, what)),
        }
    }

    pub fn app(&self) -> &str {
        &self.name.0
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(way) = self.way.take() {
            way(Op { name: self.name.clone(), now: 0, what: What::Release { token: self.token } });
        }
    }
}

struct Lock {
    token: u64,
    since: Instant,
    waiting: VecDeque<Op>,
}

type Told = Box<dyn FnOnce(Result<(), Why>) + Send>;

pub(super) struct Writer {
    place: Place,
    database: Option<Database>,
    locks: HashMap<Name, Lock>,
    tokens: u64,
    /// Those who hear when the transaction that is open has been committed, or has not.
    told: Vec<Told>,
    swept: i64,
}

impl Writer {
    pub fn new(place: Place) -> Writer {
        Writer { place, database: None, locks: HashMap::new(), tokens: 0, told: Vec::new(), swept: 0 }
    }

    /// Whether a script computes a value that could still come into this transaction.
    pub fn awaits_updates(&self) -> bool {
        !self.locks.is_empty()
    }

    /// The file, opened at its first use. A file that could not be opened is tried again next time.
    pub fn database(&mut self) -> Result<&Database, Why> {
        if self.database.is_none() {
            self.database = Some(Database::open(&self.place)?);
        }
        self.database.as_ref().ok_or_else(|| Why::Disk("it is closed".to_owned()))
    }

    pub fn take(&mut self, op: Op) {
        if let What::Release { token } = op.what {
            return self.release(&op.name, token);
        }
        if let Some(lock) = self.locks.get_mut(&op.name) {
            let own = matches!(&op.what, What::Finish { held, .. } if held.token == lock.token);
            if !own {
                let name = op.name.clone();
                lock.waiting.push_back(op);
                if lock.since.elapsed() > HELD_MAX {
                    // Whoever is late finds another value, and computes again.
                    let token = lock.token;
                    self.release(&name, token);
                }
                return;
            }
        }
        self.apply(op);
    }

    /// Lets those in who wait for a key, up to the next who holds it.
    fn release(&mut self, name: &Name, token: u64) {
        if self.locks.get(name).is_none_or(|lock| lock.token != token) {
            return;
        }
        let Some(lock) = self.locks.remove(name) else { return };
        let mut waiting = lock.waiting;
        while let Some(op) = waiting.pop_front() {
            self.apply(op);
            if let Some(next) = self.locks.get_mut(name) {
                next.waiting.extend(waiting);
                return;
            }
        }
    }

    fn apply(&mut self, op: Op) {
        let Op { name, now, what } = op;
        match what {
            What::Set { value, expires, if_absent, reply } => {
                let done = self.write(now, |database| {
                    if if_absent && database.row(&name.0, &name.1, now)?.is_some() {
                        return Ok(false);
                    }
                    database.put(&name.0, &name.1, &value, expires)?;
                    Ok(true)
                });
                self.tell(reply, done);
            }
            What::Delete { reply } => {
                let done = self.write(now, |database| database.remove(&name.0, &name.1, now));
                self.tell(reply, done);
            }
            What::Incr { by, expires, reply } => {
                let done = self.write(now, |database| {
                    let (number, kept) = match database.row(&name.0, &name.1, now)? {
                        None => (0.0, None),
                        Some((bytes, kept)) => match decode(&bytes) {
                            Ok(Plain::Number(number)) => (number, kept),
                            Ok(_) => return Err(Why::NotANumber),
                            Err(what) => return Err(Why::unreadable(&name.1, what)),
                        },
                    };
                    let number = number + by;
                    database.put(&name.0, &name.1, &encode(&Plain::Number(number)), expires.or(kept))?;
                    Ok(number)
                });
                self.tell(reply, done);
            }
            What::Hold { way, reply } => self.hold(name, now, way, reply),
            What::Finish { held, value, expires, reply } => self.finish(held, now, value, expires, reply),
            What::Release { .. } => {}
        }
    }

    fn hold(&mut self, name: Name, now: i64, way: Way, reply: Reply<Held>) {
        if reply.to.is_closed() {
            return;
        }
        match self.write(now, |database| database.get(&name.0, &name.1, now)) {
            Ok(read) => {
                self.tokens += 1;
                let lock = Lock { token: self.tokens, since: Instant::now(), waiting: VecDeque::new() };
                self.locks.insert(name.clone(), lock);
                // Before the commit: what is read here and not committed is found out by `finish`.
                reply.send(Ok(Held { name, token: self.tokens, read, way: Some(way) }));
            }
            Err(why) => reply.send(Err(why)),
        }
    }

    fn finish(
        &mut self,
        mut held: Held,
        now: i64,
        value: Option<Vec<u8>>,
        expires: Option<i64>,
        reply: Reply<Option<Held>>,
    ) {
        let (app, key) = (held.name.0.clone(), held.name.1.clone());
        let done = self.write(now, |database| {
            let row = database.row(&app, &key, now)?;
            let (current, kept) = row.map_or((None, None), |(value, kept)| (Some(value), kept));
            if current != held.read {
                return Ok(Some(current));
            }
            match &value {
                Some(value) => database.put(&app, &key, value, expires.or(kept))?,
                None => {
                    database.remove(&app, &key, now)?;
                }
            }
            Ok(None)
        });
        match done {
            Ok(Some(current)) => {
                held.read = current;
                reply.send(Ok(Some(held)));
            }
            done => {
                self.tell(reply, done.map(|_| None));
                held.way = None;
                let name = held.name.clone();
                self.release(&name, held.token);
            }
        }
    }

    /// Does something within the open transaction.
    fn write<T>(&mut self, now: i64, work: impl FnOnce(&Database) -> Result<T, Why>) -> Result<T, Why> {
        let sweep = now >= self.swept + SWEEP_EVERY || now < self.swept;
        let database = self.database()?;
        if !database.in_transaction() {
            database.begin()?;
            if sweep {
                database.sweep(now)?;
            }
        }
        let done = work(database);
        let lost = !database.in_transaction();
        if sweep {
            self.swept = now;
        }
        if let Err(why) = &done
            && lost
        {
            // An error of this kind has taken the whole transaction with it.
            self.end(Err(why.clone()));
        }
        done
    }

    /// Tells a success after the commit, a failure at once.
    fn tell<T: Send + 'static>(&mut self, reply: Reply<T>, done: Result<T, Why>) {
        match done {
            Ok(value) => self.told.push(Box::new(move |committed| reply.send(committed.map(|()| value)))),
            Err(why) => reply.send(Err(why)),
        }
    }

    /// Ends the transaction, if one is open.
    pub fn commit(&mut self) {
        let Some(database) = self.database.as_ref().filter(|database| database.in_transaction()) else {
            return self.end(Ok(()));
        };
        let committed = database.commit();
        if committed.is_err() {
            database.roll_back();
        }
        self.end(committed);
    }

    fn end(&mut self, committed: Result<(), Why>) {
        for told in self.told.drain(..) {
            told(committed.clone());
        }
    }
}
