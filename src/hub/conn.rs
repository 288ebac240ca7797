//! The hub's record of one connection: who it is, its outbox, and the rooms that it is in.

use std::{
    cell::{Cell, OnceCell, RefCell},
    fmt,
    rc::Rc,
};

use crate::{
    connection_id::ConnectionId, hub::room::Room, identity::Identity, outbox::Outbox, peer::Request,
    permission::Permissions, plain::Plain,
};

/// One connection, as the hub and the scripts' API hold it (in an `Rc`).
pub struct Conn {
    pub id: ConnectionId,
    /// The id as scripts see it.
    pub text: Box<str>,
    /// Its place in its instance's tables while it lives.
    pub slot: usize,
    pub request: Request,
    /// Who it is, once that is known: for good.
    pub(super) user: OnceCell<Box<str>>,
    /// What else its identity says; it may be renewed.
    pub(super) identity: RefCell<Option<Rc<Identity>>>,
    /// Rises with each renewal.
    pub(super) renewals: Cell<u32>,
    pub(super) permissions: RefCell<Permissions>,
    /// The computed changes of rules that it has been through, while they are going on elsewhere.
    pub(super) changes: RefCell<Vec<u64>>,
    pub subprotocol: Option<String>,
    pub opened_at: f64,
    pub outbox: Rc<Outbox>,
    pub(super) rooms: RefCell<Vec<Rc<Room>>>,
    pub(super) patterns: RefCell<Vec<Rc<str>>>,
    /// The last publish that was handed to it, so that overlapping patterns hand it over once.
    pub(super) last_publish: Cell<u64>,
    pub(super) gone: Cell<bool>,
    /// A close has been sent or received: it may still be told apart from one that is gone.
    pub(super) closing: Cell<bool>,
    /// Its script has closed it: no message of it is handled any more.
    pub(super) ended_by_script: Cell<bool>,
}

impl Conn {
    /// Whether its last callback has ended: from now on it is inert.
    pub fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// Whether it can no longer be sent to.
    pub fn is_closed(&self) -> bool {
        self.gone.get() || self.closing.get() || self.outbox.is_closed()
    }

    /// Notes that the first close frame was sent or received, or that the transport ended.
    pub fn set_closing(&self) {
        self.closing.set(true);
    }

    /// `conn:close`: sends what is queued, then the close frame.
    pub fn end(&self, code: u16, reason: &str) {
        if !self.is_gone() {
            self.ended_by_script.set(true);
            self.outbox.close(code, reason); // if it is closed already, that close counts
        }
    }

    pub fn ended_by_script(&self) -> bool {
        self.ended_by_script.get()
    }

    pub fn user(&self) -> Option<&str> {
        self.user.get().map(|user| &**user)
    }

    /// The whole identity, as the script gave it.
    pub fn identity_data(&self) -> Option<Plain> {
        self.identity.borrow().as_ref().map(|identity| identity.data.clone())
    }

    /// How often it has been renewed.
    pub fn renewals(&self) -> u32 {
        self.renewals.get()
    }

    /// Unix seconds at which it ends with 4401.
    pub fn expires_at(&self) -> Option<f64> {
        self.identity.borrow().as_ref().and_then(|identity| identity.expires_at)
    }

    pub fn permissions(&self) -> Permissions {
        self.permissions.borrow().clone()
    }

    /// Whether it is in a room, or under a pattern, of this name.
    pub fn is_in(&self, name: &str) -> bool {
        self.rooms.borrow().iter().any(|room| **room.name() == *name)
            || self.patterns.borrow().iter().any(|pattern| **pattern == *name)
    }

    /// The names of the rooms that it is in, in the order in which it joined them.
    pub fn rooms(&self) -> Vec<Rc<str>> {
        self.rooms.borrow().iter().map(|room| room.name().clone()).collect()
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("id", &self.text).field("user", &self.user()).finish_non_exhaustive()
    }
}
