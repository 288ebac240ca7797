//! A generation within an instance: its VM, and the callbacks of it that wait.

use std::cell::{Cell, RefCell};

use tokio::sync::Notify;

use crate::script::Vm;

pub struct Generation {
    pub vm: Vm,
    waiting: Cell<usize>,
    /// Its timers fire no more.
    pub replaced: Cell<bool>,
    /// It has no `on_alarm`, and that has been said.
    pub missed_alarm: Cell<bool>,
    /// Why its waiting callbacks must end now, once they must.
    ended: RefCell<Option<String>>,
    changed: Notify,
}

impl Generation {
    pub fn new(vm: Vm) -> Generation {
        Generation {
            vm,
            waiting: Cell::new(0),
            replaced: Cell::new(false),
            missed_alarm: Cell::new(false),
            ended: RefCell::default(),
            changed: Notify::new(),
        }
    }

    pub fn number(&self) -> u64 {
        self.vm.generation()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.get()
    }

    pub fn wait_begins(&self) {
        self.waiting.set(self.waiting.get() + 1);
    }

    pub fn wait_ends(&self) {
        self.waiting.set(self.waiting.get() - 1);
    }

    /// Another generation has taken over: timers end now, waiting callbacks may end by themselves.
    pub fn replace(&self) {
        self.replaced.set(true);
        self.changed.notify_waiters();
    }

    /// Cancels every callback that still waits, and each later wait.
    pub fn end(&self, why: String) {
        *self.ended.borrow_mut() = Some(why);
        self.changed.notify_waiters();
    }

    /// Takes an end back, for what is to run after it.
    pub fn go_on(&self) {
        self.ended.take();
    }

    pub fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Resolves with the reason once waiting callbacks must end.
    pub async fn must_end(&self) -> String {
        loop {
            let changed = self.changed.notified();
            if let Some(why) = self.ended.borrow().clone() {
                return why;
            }
            changed.await;
        }
    }

    /// Resolves once no timer of it may fire any more.
    pub async fn is_replaced(&self) {
        loop {
            let changed = self.changed.notified();
            if self.replaced.get() {
                return;
            }
            changed.await;
        }
    }
}
