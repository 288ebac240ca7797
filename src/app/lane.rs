//! The lane of one connection: its callbacks run one after the other, in the order of what came in.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, sleep},
};

use crate::{hub::Conn, script::ScriptError};

/// What a connection's callback is told.
#[derive(Debug)]
pub enum Told {
    Open,
    Message { data: Bytes, binary: bool },
    Close { code: u16, reason: String },
    Error { error: ScriptError, callback: &'static str },
    Revoked { resource: Rc<str> },
}

/// tokio's timers reach a little further.
const TIMER_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// In which errors are counted.
const WINDOW: Duration = Duration::from_secs(60);

pub struct Lane {
    pub conn: Rc<Conn>,
    queue: RefCell<VecDeque<Told>>,
    messages: Cell<usize>,
    bytes: Cell<usize>,
    /// A callback of it runs or waits.
    pub busy: Cell<bool>,
    /// Its end has been told once: nothing more comes in.
    pub ending: Cell<bool>,
    /// `on_close` has ended.
    pub closed: Cell<bool>,
    errors: RefCell<VecDeque<Instant>>,
    /// Waits for the end of its identity.
    expiry: Cell<Option<AbortHandle>>,
    /// Told when the queue has room again.
    pub drained: Notify,
}

impl Lane {
    pub fn new(conn: Rc<Conn>) -> Lane {
        Lane {
            conn,
            queue: RefCell::default(),
            messages: Cell::new(0),
            bytes: Cell::new(0),
            busy: Cell::new(false),
            ending: Cell::new(false),
            closed: Cell::new(false),
            errors: RefCell::default(),
            expiry: Cell::new(None),
            drained: Notify::new(),
        }
    }

    /// Ends the connection with 4401 when its identity's `expires_at` passes, unless that is renewed; `now` is in Unix seconds too.
    pub fn expire(&self, now: f64) {
        self.forget_expiry();
        let Some(at) = self.conn.expires_at() else { return };
        let left = Duration::try_from_secs_f64((at - now).max(0.0)).unwrap_or(Duration::MAX);
        let conn = Rc::downgrade(&self.conn);
        let waiting = tokio::task::spawn_local(async move {
            let mut left = left;
            while !left.is_zero() {
                let step = left.min(TIMER_MAX);
                sleep(step).await;
                left -= step;
            }
            if let Some(conn) = conn.upgrade() {
                conn.end(4401, "the identity has expired");
            }
        });
        self.expiry.set(Some(waiting.abort_handle()));
    }

    /// The connection has ended by itself.
    pub fn forget_expiry(&self) {
        if let Some(waiting) = self.expiry.take() {
            waiting.abort();
        }
    }

    pub fn push(&self, told: Told) {
        if let Told::Message { data, .. } = &told {
            self.messages.set(self.messages.get() + 1);
            self.bytes.set(self.bytes.get() + data.len());
        }
        self.queue.borrow_mut().push_back(told);
    }

    /// Before everything that waits.
    pub fn push_first(&self, told: Told) {
        self.queue.borrow_mut().push_front(told);
    }

    pub fn pop(&self) -> Option<Told> {
        let mut queue = self.queue.borrow_mut();
        let told = queue.pop_front()?;
        if queue.is_empty() {
            *queue = VecDeque::new(); // an idle connection owns no buffers
        }
        if let Told::Message { data, .. } = &told {
            self.messages.set(self.messages.get() - 1);
            self.bytes.set(self.bytes.get() - data.len());
        }
        Some(told)
    }

    pub fn is_empty(&self) -> bool {
        self.queue.borrow().is_empty()
    }

    /// Drops the messages that have not been handled: the script has closed the connection.
    pub fn drop_messages(&self) {
        self.queue.borrow_mut().retain(|told| !matches!(told, Told::Message { .. }));
        self.messages.set(0);
        self.bytes.set(0);
    }

    /// Whether nothing more should be read. One message larger than the bound is taken when there is none.
    pub fn is_full(&self, messages_max: usize, bytes_max: usize) -> bool {
        self.messages.get() >= messages_max || (self.messages.get() > 0 && self.bytes.get() >= bytes_max)
    }

    /// Counts an error; true if it is the `max`th within a minute.
    pub fn count_error(&self, max: u32) -> bool {
        let now = Instant::now();
        let mut errors = self.errors.borrow_mut();
        while errors.front().is_some_and(|first| now.duration_since(*first) >= WINDOW) {
            errors.pop_front();
        }
        errors.push_back(now);
        errors.len() >= max as usize
    }
}
