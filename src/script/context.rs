//! What the functions that a script calls know of the place where they run: one for each generation of an instance.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use crate::{
    clock::Clock,
    config,
    hub::{Conn, Hub},
    store::Stores,
};

/// How far a generation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its chunk and `on_load` run: it may only set up.
    Loading,
    /// Its callbacks run.
    Running,
}

pub struct Context {
    pub app: Arc<config::App>,
    pub generation: u64,
    /// This instance's place among its app's, from 0, and how many there are.
    pub place: u16,
    pub instances: u16,
    pub clock: Clock,
    pub hub: Rc<Hub>,
    pub stores: Stores,
    /// What scripts find in the place of the process's variables.
    pub env: Option<Vec<(String, String)>>,
    pub phase: Cell<Phase>,
    /// The connection whose callback runs.
    pub current: RefCell<Option<Rc<Conn>>>,
}
