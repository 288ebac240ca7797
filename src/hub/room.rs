//! One room of one instance: the members that live here.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use crate::{connection_id::ConnectionId, hub::conn::Conn};

/// The members of a room within this instance. Kept as one list, so that a publish is one pass.
pub struct Room {
    name: Rc<str>,
    members: RefCell<Vec<Rc<Conn>>>,
    places: RefCell<HashMap<ConnectionId, usize>>,
    /// Which other instances have members of it, as of the directory's version beside it.
    pub(super) elsewhere: RefCell<Rc<[u16]>>,
    pub(super) elsewhere_version: Cell<u64>,
}

impl Room {
    pub(super) fn new(name: Rc<str>) -> Room {
        Room {
            name,
            members: RefCell::default(),
            places: RefCell::default(),
            elsewhere: RefCell::new(Rc::from([])),
            elsewhere_version: Cell::new(0),
        }
    }

    pub fn name(&self) -> &Rc<str> {
        &self.name
    }

    pub(super) fn has(&self, id: ConnectionId) -> bool {
        self.places.borrow().contains_key(&id)
    }

    /// Adds one that is not a member yet.
    pub(super) fn add(&self, conn: &Rc<Conn>) {
        let mut members = self.members.borrow_mut();
        self.places.borrow_mut().insert(conn.id, members.len());
        members.push(conn.clone());
    }

    /// Takes a member out; false if it was not in.
    pub(super) fn remove(&self, id: ConnectionId) -> bool {
        let mut members = self.members.borrow_mut();
        let mut places = self.places.borrow_mut();
        let Some(place) = places.remove(&id) else { return false };
        members.swap_remove(place);
        if let Some(moved) = members.get(place) {
            places.insert(moved.id, place);
        }
        true
    }

    pub fn is_empty(&self) -> bool {
        self.members.borrow().is_empty()
    }

    /// The members that live in this instance.
    pub fn members(&self) -> Vec<Rc<Conn>> {
        self.members.borrow().clone()
    }

    /// Calls `deliver` for each member. It must not join or leave: an outbox only queues.
    pub(super) fn each(&self, mut deliver: impl FnMut(&Rc<Conn>)) {
        for member in self.members.borrow().iter() {
            deliver(member);
        }
    }
}
