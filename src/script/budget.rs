//! How long a callback may compute: measured in the worker's CPU time, ended by an error that cannot be caught.
//!
//! A safepoint of Luau costs one look at a flag. A ticker thread raises the flags of the workers that run Lua,
//! every 2 ms; only then is the clock read. Nothing ticks while nothing runs.

use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, Thread},
    time::Duration,
};

use mlua::{Error, Lua, VmState};
use rustix::time::{ClockId, clock_gettime};

use crate::script::error::{ErrorKind, ScriptError};

const TICK: Duration = Duration::from_millis(2);
/// Ticks with nothing running after which the ticker parks.
const IDLE_TICKS: u32 = 50;

#[derive(Debug, Default)]
struct Flag {
    running: AtomicBool,
    look: AtomicBool,
}

#[derive(Debug, Default)]
struct Shared {
    flags: Mutex<Vec<Arc<Flag>>>,
    parked: AtomicBool,
    stopped: AtomicBool,
}

/// The thread that makes budgets be looked at. It ends when it is dropped.
#[derive(Debug)]
pub struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    pub fn start() -> std::io::Result<Ticker> {
        let shared = Arc::new(Shared::default());
        let ticking = shared.clone();
        let thread = std::thread::Builder::new().name("budget".to_owned()).spawn(move || tick(&ticking))?;
        Ok(Ticker { shared, thread: Some(thread) })
    }

    /// The budget of one worker: all Lua that runs on that thread.
    pub fn budget(&self) -> Budget {
        let flag = Arc::new(Flag::default());
        self.shared.flags.lock().unwrap_or_else(PoisonError::into_inner).push(flag.clone());
        let ticker = self.thread.as_ref().expect("it runs until it is dropped").thread().clone();
        Budget {
            flag,
            shared: self.shared.clone(),
            ticker,
            limit: Cell::default(),
            started: Cell::new(None),
            slice: Cell::new(None),
            slice_started: Cell::new(Duration::ZERO),
            slice_thread: Cell::new(0),
            told: Cell::default(),
            spent: Cell::new(false),
            error: RefCell::default(),
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join(); // it cannot panic
        }
    }
}

fn tick(shared: &Shared) {
    let mut idle = 0;
    while !shared.stopped.load(Ordering::SeqCst) {
        let mut running = false;
        for flag in shared.flags.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if flag.running.load(Ordering::SeqCst) {
                running = true;
                flag.look.store(true, Ordering::Relaxed);
            }
        }
        idle = if running { 0 } else { idle + 1 };
        if idle < IDLE_TICKS {
            std::thread::sleep(TICK);
            continue;
        }
        // Said before the last look: whoever begins after it sees that it must wake this thread.
        shared.parked.store(true, Ordering::SeqCst);
        let running = shared
            .flags
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .any(|flag| flag.running.load(Ordering::SeqCst));
        if !running && !shared.stopped.load(Ordering::SeqCst) {
            std::thread::park();
        }
        shared.parked.store(false, Ordering::SeqCst);
        idle = 0;
    }
}

/// The CPU time that this thread has used.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// The CPU budget of what runs on one worker now.
#[derive(Debug)]
pub struct Budget {
    flag: Arc<Flag>,
    shared: Arc<Shared>,
    ticker: Thread,
    limit: Cell<Duration>,
    /// The CPU time at the first look. Reading that clock at each start would cost more than a callback.
    started: Cell<Option<Duration>>,
    /// While a script loads: how long it may hold the worker at one time.
    slice: Cell<Option<Duration>>,
    slice_started: Cell<Duration>,
    /// The coroutine that may be made to yield at a slice's end: no other, or the script would see it.
    slice_thread: Cell<usize>,
    /// The budget as the setting has it, for the message.
    told: Cell<Duration>,
    spent: Cell<bool>,
    /// What is raised at every safepoint from then on.
    error: RefCell<Option<ScriptError>>,
}

impl Budget {
    /// Begins a stretch of at most `limit`.
    pub fn begin(&self, limit: Duration) {
        self.limit.set(limit);
        self.told.set(limit);
        self.started.set(None);
        self.spent.set(false);
        self.slice.set(None);
        self.run();
    }

    /// Begins one slice of a load, which may compute `left` more of its `limit`, in the coroutine `thread`.
    pub fn begin_slice(&self, limit: Duration, left: Duration, slice: Duration, thread: &mlua::Thread) {
        self.begin(left);
        self.told.set(limit);
        let now = thread_cpu();
        self.started.set(Some(now));
        self.slice.set(Some(slice));
        self.slice_started.set(now);
        self.slice_thread.set(thread.state() as usize);
    }

    /// What is left of a load's budget, for its next slice.
    pub fn left(&self) -> Duration {
        let used = self.started.get().map_or(Duration::ZERO, |started| thread_cpu().saturating_sub(started));
        self.limit.get().saturating_sub(used)
    }

    /// Ends a stretch; true if its budget was gone.
    pub fn end(&self) -> bool {
        self.flag.running.store(false, Ordering::SeqCst);
        self.flag.look.store(false, Ordering::Relaxed);
        self.spent.replace(false)
    }

    fn run(&self) {
        self.flag.look.store(false, Ordering::Relaxed);
        self.flag.running.store(true, Ordering::SeqCst);
        if self.shared.parked.load(Ordering::SeqCst) {
            self.ticker.unpark();
        }
    }

    /// Luau's interrupt.
    #[inline]
    pub fn safepoint(&self, lua: &Lua) -> mlua::Result<VmState> {
        if !self.flag.look.load(Ordering::Relaxed) {
            return Ok(VmState::Continue);
        }
        self.look(lua)
    }

    #[cold]
    fn look(&self, lua: &Lua) -> mlua::Result<VmState> {
        let now = thread_cpu();
        let Some(started) = self.started.get() else {
            self.started.set(Some(now.saturating_sub(TICK)));
            self.flag.look.store(false, Ordering::Relaxed);
            return Ok(VmState::Continue);
        };
        if self.spent.get() || now.saturating_sub(started) >= self.limit.get() {
            // The flag stays up: every later safepoint of this stretch raises again, so that no pcall catches it.
            if !self.spent.replace(true) {
                *self.error.borrow_mut() = Some(self.error(lua));
            }
            return Err(match &*self.error.borrow() {
                Some(error) => Error::external(error.clone()),
                None => Error::runtime("stopped"),
            });
        }
        self.flag.look.store(false, Ordering::Relaxed);
        let over = self.slice.get().is_some_and(|slice| now.saturating_sub(self.slice_started.get()) >= slice);
        let may_yield = || lua.current_thread().state() as usize == self.slice_thread.get();
        Ok(if over && may_yield() { VmState::Yield } else { VmState::Continue })
    }

    /// What the script is told, at the line where its budget ended.
    fn error(&self, lua: &Lua) -> ScriptError {
        let setting = if self.slice.get().is_some() { "limits.load_cpu" } else { "limits.callback_cpu" };
        let error = ScriptError {
            kind: ErrorKind::Budget,
            message: format!(
                "stopped: it computed longer than {setting} ({} ms) without a wait",
                self.told.get().as_millis()
            ),
            traceback: String::new(),
        };
        match lua.traceback(None, 0) {
            Ok(traceback) => error.with_traceback(&traceback.to_string_lossy()),
            Err(_) => error, // no memory for it
        }
    }
}
