//! What outlives a script: `relay.store` on disk, and `relay.shared` in memory.
//!
//! Both keep plain data under keys, for each app apart. Reads of the disk and writes to it each have a thread; who asks waits
//! in a task, and hears of a success once it is on disk. The harness has both in its own thread instead (`inline`).

mod encode;
pub use encode::{decode, encode};

mod why;
pub use why::Why;

mod disk;
pub use disk::{Database, Place, Range};

mod writer;
pub use writer::Held;

mod shared;
pub use shared::{Full, Shared};

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::AtomicUsize,
        mpsc::{self, RecvTimeoutError, TryRecvError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::plain::Plain;
use writer::{Counted, Op, Reply, Way, What, Writer};

/// A transaction ends after so much time, or so many operations, if not sooner for want of more.
const BATCH: Duration = Duration::from_millis(2);
const BATCH_MAX: usize = 1_000;

/// The log hears of one failure of the disk so often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Bytes that a key may have.
pub const KEY_MAX: usize = 1_024;

/// What one instance's scripts reach.
#[derive(Clone)]
pub struct Stores {
    pub disk: Arc<Store>,
    pub shared: Arc<Shared>,
}

impl Stores {
    /// For scripts that are only looked at: nothing is ever kept.
    pub fn nowhere() -> Stores {
        Stores { disk: Arc::new(Store::inline(PathBuf::new())), shared: Arc::default() }
    }
}

/// A key and its value, or why that cannot be read.
pub type Row = (Vec<u8>, Result<Plain, Why>);

/// On whose behalf something is done, and when.
#[derive(Debug, Clone)]
pub struct Asking {
    pub app: Arc<str>,
    /// Milliseconds since 1970.
    pub now: i64,
    /// Operations that may wait (`limits.store_queue`).
    pub queue: usize,
}

/// The store of a relay. The file is opened, and the threads are started, by the first who asks for something.
pub struct Store {
    place: Place,
    waiting: Arc<AtomicUsize>,
    complaints: Mutex<HashMap<String, Instant>>,
    engine: Engine,
}

enum Engine {
    Threads(Mutex<Option<Threads>>),
    Inline(Arc<Inline>),
}

struct Threads {
    writes: mpsc::Sender<Order<Op>>,
    reads: mpsc::Sender<Order<Look>>,
    way: Way,
    handles: Vec<JoinHandle<()>>,
}

enum Order<T> {
    Do(T),
    End,
}

/// Something to read.
struct Look {
    asking: Asking,
    what: LookFor,
}

enum LookFor {
    Value { key: Box<[u8]>, reply: Reply<Option<Vec<u8>>> },
    List { range: Range, bytes_max: usize, reply: Reply<Vec<disk::Pair>> },
}

impl Store {
    /// A store in the file `path` of at most `size` bytes.
    pub fn new(path: PathBuf, size: usize) -> Store {
        Store::with(Place { path, size, durable: true }, Engine::Threads(Mutex::default()))
    }

    /// A store that does everything at once in the thread of who asks, and does not wait for the disk: for tests.
    pub fn inline(path: PathBuf) -> Store {
        let place = Place { path, size: 1 << 40, durable: false };
        let inline = Arc::new(Inline { queue: Mutex::default(), writer: Mutex::new(Writer::new(place.clone())) });
        Store::with(place, Engine::Inline(inline))
    }

    /// Whether the file has been made, by this process or an earlier one.
    pub fn is_there(&self) -> bool {
        self.place.path.exists()
    }

    fn with(place: Place, engine: Engine) -> Store {
        Store { place, waiting: Arc::default(), complaints: Mutex::default(), engine }
    }

    // ── what scripts ask for; nothing happens before the first poll ──

    pub async fn get(&self, asking: Asking, key: Box<[u8]>) -> Result<Option<Plain>, Why> {
        let app = asking.app.clone();
        let of = key.clone();
        let found = self.look(asking, |reply| LookFor::Value { key, reply }).await;
        let value = found.and_then(|found| found.map(|bytes| readable(&of, &bytes)).transpose());
        self.told(&app, value)
    }

    pub async fn list(&self, asking: Asking, range: Range, bytes_max: usize) -> Result<Vec<(Vec<u8>, Plain)>, Why> {
        let app = asking.app.clone();
        let found = self.look(asking, |reply| LookFor::List { range, bytes_max, reply }).await;
        let read = |pairs: Vec<disk::Pair>| {
            pairs.into_iter().map(|(key, bytes)| readable(&key, &bytes).map(|value| (key, value))).collect()
        };
        self.told(&app, found.and_then(read))
    }

    /// A page of values, each by itself: one that cannot be read hides no other.
    pub async fn rows(&self, asking: Asking, range: Range) -> Result<Vec<Row>, Why> {
        let found = self.look(asking, |reply| LookFor::List { range, bytes_max: usize::MAX, reply }).await?;
        let row = |(key, bytes): disk::Pair| {
            let value = readable(&key, &bytes);
            (key, value)
        };
        Ok(found.into_iter().map(row).collect())
    }

    /// Whether it was set.
    pub async fn set(
        &self,
        asking: Asking,
        key: Box<[u8]>,
        value: Vec<u8>,
        expires: Option<i64>,
        if_absent: bool,
    ) -> Result<bool, Why> {
        self.ask(asking, key, |_, reply| What::Set { value, expires, if_absent, reply }).await
    }

    /// Whether it was there.
    pub async fn delete(&self, asking: Asking, key: Box<[u8]>) -> Result<bool, Why> {
        self.ask(asking, key, |_, reply| What::Delete { reply }).await
    }

    pub async fn incr(&self, asking: Asking, key: Box<[u8]>, by: f64, expires: Option<i64>) -> Result<f64, Why> {
        self.ask(asking, key, |_, reply| What::Incr { by, expires, reply }).await
    }

    /// The first half of an update: its turn at the key.
    pub async fn hold(&self, asking: Asking, key: Box<[u8]>) -> Result<Held, Why> {
        self.ask(asking, key, |way, reply| What::Hold { way, reply }).await
    }

    /// The second half; None deletes. If another value has come in meanwhile, the key is held again, with that.
    pub async fn finish(
        &self,
        asking: Asking,
        held: Held,
        value: Option<Vec<u8>>,
        expires: Option<i64>,
    ) -> Result<Option<Held>, Why> {
        let key = held.name().1.clone();
        // It had its place in the queue before.
        let asking = Asking { queue: usize::MAX, ..asking };
        self.ask(asking, key, |_, reply| What::Finish { held, value, expires, reply }).await
    }

    // ── the ways to the threads ──

    async fn ask<T>(&self, asking: Asking, key: Box<[u8]>, what: impl FnOnce(Way, Reply<T>) -> What) -> Result<T, Why> {
        let (reply, answer) = self.reply(&asking)?;
        let name = (asking.app.clone(), key);
        let op = |way: &Way| Op { name, now: asking.now, what: what(way.clone(), reply) };
        match &self.engine {
            Engine::Inline(inline) => {
                let way = inline.clone().way();
                way(op(&way));
            }
            Engine::Threads(threads) => {
                let mut threads = locked(threads);
                let threads = self.started(&mut threads)?;
                // If it has ended, so has the way back.
                let _ = threads.writes.send(Order::Do(op(&threads.way)));
            }
        }
        self.told(&asking.app, answered(answer).await)
    }

    async fn look<T>(&self, asking: Asking, what: impl FnOnce(Reply<T>) -> LookFor) -> Result<T, Why> {
        let (reply, answer) = self.reply(&asking)?;
        let look = Look { asking, what: what(reply) };
        match &self.engine {
            Engine::Inline(inline) => match locked(&inline.writer).database() {
                Ok(database) => look.run(database),
                Err(why) => look.fail(why),
            },
            Engine::Threads(threads) => {
                let mut threads = locked(threads);
                let threads = self.started(&mut threads)?;
                let _ = threads.reads.send(Order::Do(look));
            }
        }
        answered(answer).await
    }

    #[allow(clippy::type_complexity, reason = "both ends of one channel")]
    fn reply<T>(&self, asking: &Asking) -> Result<(Reply<T>, oneshot::Receiver<Result<T, Why>>), Why> {
        let counted = Counted::new(&self.waiting, asking.queue)?;
        let (to, answer) = oneshot::channel();
        Ok((Reply::new(to, counted), answer))
    }

    fn started<'a>(&self, threads: &'a mut Option<Threads>) -> Result<&'a mut Threads, Why> {
        if threads.is_none() {
            let started = Threads::start(&self.place);
            *threads = Some(started.map_err(|error| Why::Disk(format!("a thread cannot be started: {error}")))?);
        }
        threads.as_mut().ok_or(Why::Busy)
    }

    /// Passes an answer on, and tells the log what the disk has refused.
    fn told<T>(&self, app: &str, answer: Result<T, Why>) -> Result<T, Why> {
        if let Err(why) = &answer {
            self.complain(app, why);
        }
        answer
    }

    /// Tells the one who runs the relay, but not the same again and again.
    pub fn complain(&self, app: &str, why: &Why) {
        const REMEMBERED: usize = 100;
        if !why.is_of_the_disk() {
            return;
        }
        let text = why.to_string();
        let mut complaints = locked(&self.complaints);
        if complaints.get(&text).is_some_and(|last| last.elapsed() < COMPLAIN_EVERY) {
            return;
        }
        if complaints.len() >= REMEMBERED {
            complaints.clear();
        }
        tracing::error!(app, store = %self.place.path.display(), "{text}");
        complaints.insert(text, Instant::now());
    }
}

impl Drop for Store {
    /// What has come in is written before the threads end.
    fn drop(&mut self) {
        let Engine::Threads(threads) = &self.engine else { return };
        let Some(threads) = locked(threads).take() else { return };
        let _ = threads.writes.send(Order::End);
        let _ = threads.reads.send(Order::End);
        for handle in threads.handles {
            let _ = handle.join();
        }
    }
}

async fn answered<T>(answer: oneshot::Receiver<Result<T, Why>>) -> Result<T, Why> {
    answer.await.unwrap_or_else(|_| Err(Why::Disk("its thread has ended".to_owned())))
}

fn readable(key: &[u8], bytes: &[u8]) -> Result<Plain, Why> {
    decode(bytes).map_err(|what| Why::unreadable(key, what))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Threads {
    fn start(place: &Place) -> std::io::Result<Threads> {
        let (writes, ops) = mpsc::channel();
        let (reads, looks) = mpsc::channel();
        let to = writes.clone();
        let way: Way = Arc::new(move |op| {
            // A writer that has ended holds no keys.
            let _ = to.send(Order::Do(op));
        });
        // Both open the file, and only one may make it.
        let opening = Arc::new(Mutex::new(()));
        let spawn =
            |name: &str, body: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name(name.to_owned()).spawn(body);
        let (place, of) = (place.clone(), opening.clone());
        let reading = place.clone();
        let writer = spawn("store-writer", Box::new(move || write(Writer::new(place), &ops, &of)))?;
        let reader = spawn("store-reader", Box::new(move || read(&reading, &looks, &opening)));
        match reader {
            Ok(reader) => Ok(Threads { writes, reads, way, handles: vec![writer, reader] }),
            Err(error) => {
                let _ = writes.send(Order::End);
                Err(error)
            }
        }
    }
}

/// The body of the writer's thread.
fn write(mut writer: Writer, ops: &mpsc::Receiver<Order<Op>>, opening: &Mutex<()>) {
    while let Ok(Order::Do(op)) = ops.recv() {
        {
            let _one = locked(opening);
            // What it says is said again to whoever asks.
            let _ = writer.database();
        }
        let began = Instant::now();
        writer.take(op);
        let mut ended = false;
        for _ in 1..BATCH_MAX {
            let Some(left) = BATCH.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) else { break };
            let next = match ops.try_recv() {
                // An update that is being computed comes back soon, and lets the next one in.
                Err(TryRecvError::Empty) if writer.awaits_updates() => ops.recv_timeout(left),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
                Ok(order) => Ok(order),
            };
            match next {
                Ok(Order::Do(op)) => writer.take(op),
                Ok(Order::End) | Err(RecvTimeoutError::Disconnected) => ended = true,
                Err(RecvTimeoutError::Timeout) => break,
            }
            if ended {
                break;
            }
        }
        writer.commit();
        if ended {
            return;
        }
    }
}

/// The body of the reader's thread.
fn read(place: &Place, looks: &mpsc::Receiver<Order<Look>>, opening: &Mutex<()>) {
    let mut database = None;
    while let Ok(Order::Do(look)) = looks.recv() {
        if database.is_none() {
            let _one = locked(opening);
            match Database::open(place) {
                Ok(opened) => database = Some(opened),
                Err(why) => {
                    look.fail(why);
                    continue;
                }
            }
        }
        if let Some(database) = &database {
            look.run(database);
        }
    }
}

impl Look {
    fn run(self, database: &Database) {
        let (app, now) = (&self.asking.app, self.asking.now);
        match self.what {
            LookFor::Value { key, reply } => {
                let value = database.get(app, &key, now);
                reply.send(value);
            }
            LookFor::List { range, bytes_max, reply } => {
                let pairs = database.list(app, &range, now, bytes_max);
                reply.send(pairs);
            }
        }
    }

    fn fail(self, why: Why) {
        match self.what {
            LookFor::Value { reply, .. } => reply.send(Err(why)),
            LookFor::List { reply, .. } => reply.send(Err(why)),
        }
    }
}

/// Both threads' work, done by whoever asks.
struct Inline {
    queue: Mutex<VecDeque<Op>>,
    writer: Mutex<Writer>,
}

impl Inline {
    fn way(self: Arc<Inline>) -> Way {
        // Held keys must not keep it alive: it owns their queue.
        let of = Arc::downgrade(&self);
        Arc::new(move |op| {
            if let Some(inline) = of.upgrade() {
                inline.take(op);
            }
        })
    }

    fn take(&self, op: Op) {
        locked(&self.queue).push_back(op);
        // What comes of an operation itself waits for its end.
        let Ok(mut writer) = self.writer.try_lock() else { return };
        loop {
            let Some(op) = locked(&self.queue).pop_front() else { break };
            writer.take(op);
            writer.commit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking() -> Asking {
        Asking { app: "chat".into(), now: 1_000, queue: 100_000 }
    }

    fn key(text: &str) -> Box<[u8]> {
        text.as_bytes().into()
    }

    async fn add_one(store: &Store, name: &str) -> Result<(), Why> {
        let mut held = store.hold(asking(), key(name)).await?;
        loop {
            let number = match held.value()? {
                Plain::Number(number) => number,
                _ => 0.0,
            };
            let next = encode(&Plain::Number(number + 1.0));
            match store.finish(asking(), held, Some(next), None).await? {
                None => return Ok(()),
                Some(again) => held = again,
            }
        }
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn no_update_is_lost_and_one_that_is_given_up_lets_the_next_in() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::new(folder.path().join("a/b/store.db"), 1 << 30));
        block_on(tokio::task::LocalSet::new().run_until(async {
            let updates = (0..500).map(|n| {
                let store = store.clone();
                tokio::task::spawn_local(async move {
                    if n % 10 == 0 {
                        drop(store.hold(asking(), key("n")).await.unwrap());
                        // One that is dropped while it still waits.
                        drop(tokio::time::timeout(Duration::ZERO, store.hold(asking(), key("n"))).await);
                    }
                    add_one(&store, "n").await.unwrap();
                    store.incr(asking(), key("n"), 1.0, None).await.unwrap();
                })
            });
            for update in updates.collect::<Vec<_>>() {
                update.await.unwrap();
            }
        }));
        let found = block_on(store.get(asking(), key("n"))).unwrap();
        assert_eq!(found, Some(Plain::Number(1_000.0)));
        drop(store);
        let again = Store::new(folder.path().join("a/b/store.db"), 1 << 30);
        assert_eq!(block_on(again.get(asking(), key("n"))).unwrap(), Some(Plain::Number(1_000.0)));
    }

    #[test]
    fn what_another_process_writes_meanwhile_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let store = Store::inline(path.clone());
        block_on(async {
            let held = store.hold(asking(), key("n")).await.unwrap();
            let other = Database::open_existing(&path).unwrap();
            other.put("chat", b"n", &encode(&Plain::Number(7.0)), None).unwrap();
            let again = store.finish(asking(), held, Some(encode(&Plain::Number(1.0))), None).await.unwrap();
            let held = again.expect("it must be computed again");
            assert_eq!(held.value(), Ok(Plain::Number(7.0)));
            assert!(store.finish(asking(), held, Some(encode(&Plain::Number(8.0))), None).await.unwrap().is_none());
            assert_eq!(store.get(asking(), key("n")).await.unwrap(), Some(Plain::Number(8.0)));
        });
    }

    #[test]
    fn a_full_queue_is_busy_and_a_full_disk_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("store.db"), 64 * 4096);
        block_on(async {
            let none = Asking { queue: 0, ..asking() };
            assert_eq!(store.get(none.clone(), key("k")).await, Err(Why::Busy));
            assert_eq!(store.set(none, key("k"), vec![1], None, false).await, Err(Why::Busy));
            let large = encode(&Plain::string(vec![0; 1 << 20]));
            assert!(store.set(asking(), key("small"), encode(&Plain::Bool(true)), None, false).await.unwrap());
            assert_eq!(store.set(asking(), key("large"), large, None, false).await, Err(Why::Full));
            assert_eq!(store.get(asking(), key("small")).await, Ok(Some(Plain::Bool(true))));
            assert!(store.delete(asking(), key("small")).await.unwrap());
            assert!(store.set(asking(), key("k"), encode(&Plain::Bool(true)), None, false).await.unwrap());
        });
        assert_eq!(store.waiting.load(std::sync::atomic::Ordering::Relaxed), 0);
    }

    #[test]
    fn what_cannot_be_decoded_is_an_error_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let store = Store::new(path.clone(), 1 << 30);
        block_on(async {
            store.set(asking(), key("bad"), b"\x01nonsense".to_vec(), None, false).await.unwrap();
            assert!(matches!(store.get(asking(), key("bad")).await, Err(Why::Unreadable { .. })));
            assert!(matches!(store.incr(asking(), key("bad"), 1.0, None).await, Err(Why::Unreadable { .. })));
            assert!(store.hold(asking(), key("bad")).await.unwrap().value().is_err());
        });
        let database = Database::open_existing(&path).unwrap();
        assert_eq!(database.get("chat", b"bad", 0).unwrap().unwrap(), b"\x01nonsense");
    }
}
