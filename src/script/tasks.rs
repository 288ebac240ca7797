//! What a running callback leaves with the host: the wait that it yields for, and the work that it starts.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
    time::Duration,
};

use mlua::{Function, Lua, MultiValue};
use tokio::sync::Notify;

use crate::{plain::Plain, script::alarms::Id};

/// What the script gets when its wait has ended.
pub enum Waited {
    Return(Vec<Plain>),
    /// What is no plain data is made when the VM is at hand.
    Make(Make),
    /// A mistake, raised at the line that waited.
    Raise(String),
}

pub type Make = Box<dyn FnOnce(&Lua) -> mlua::Result<MultiValue>>;

pub type Wait = Pin<Box<dyn Future<Output = Waited>>>;

/// Work that a script starts and that ends with its generation.
pub enum Start {
    Spawn(Function),
    After {
        delay: Duration,
        function: Function,
        cancel: Rc<Cancel>,
    },
    Every {
        period: Duration,
        function: Function,
        cancel: Rc<Cancel>,
    },
    /// The one kind that does not: an alarm is the instance's.
    Alarm {
        id: Id,
        delay: Duration,
        cancel: Rc<Cancel>,
    },
}

/// Whether a timer has been cancelled, or has fired for the last time.
#[derive(Default)]
pub struct Cancel {
    cancelled: Cell<bool>,
    told: Notify,
}

impl Cancel {
    /// False if it was so before.
    pub fn cancel(&self) -> bool {
        self.told.notify_waiters();
        !self.cancelled.replace(true)
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.get()
    }

    pub async fn cancelled(&self) {
        loop {
            let told = self.told.notified();
            if self.cancelled.get() {
                return;
            }
            told.await;
        }
    }
}

/// One for each generation of an instance.
#[derive(Default)]
pub struct Tasks {
    wait: RefCell<Option<Wait>>,
    /// The callback that runs has been cancelled: it may not wait again.
    pub cancelled: Cell<bool>,
    started: RefCell<Vec<Start>>,
    /// Timers that have neither fired for the last time nor been cancelled.
    pub timers: Cell<usize>,
    /// The generation that has replaced this one.
    pub successor: Cell<Option<u64>>,
}

impl Tasks {
    /// Luau's word for a write to what a newer generation has taken over, said in a script's terms.
    pub fn retold(&self, message: String) -> String {
        const FROZEN: &str = "attempt to modify a readonly table";
        match self.successor.get() {
            Some(successor) => message.replace(FROZEN, &format!("state has moved to generation {successor}")),
            None => message,
        }
    }

    /// Leaves a wait with the host; the prelude yields next.
    pub fn wait(&self, wait: impl Future<Output = Waited> + 'static) {
        *self.wait.borrow_mut() = Some(Box::pin(wait));
    }

    pub fn take_wait(&self) -> Option<Wait> {
        self.wait.borrow_mut().take()
    }

    pub fn start(&self, start: Start) {
        self.started.borrow_mut().push(start);
    }

    /// What the last stretch has started.
    pub fn take_started(&self) -> Vec<Start> {
        // Most stretches start nothing, and an empty list costs nothing.
        std::mem::take(&mut *self.started.borrow_mut())
    }
}
