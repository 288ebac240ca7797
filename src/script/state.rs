//! Each connection's `conn.state`, over the generations: it moves at its first touch by a newer one.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use mlua::{Function, Lua, Table, Value, WeakLua};

use crate::{
    hub::Conn,
    plain::Plain,
    script::{
        error::ScriptError,
        plain::{self, Frozen},
    },
};

/// The states that one generation's VM holds, by slot, in a table of its own: a handle for each
/// connection would fill mlua's stack of handles.
pub struct States {
    /// Rises with each VM of the instance, also when one is built anew for the same generation.
    epoch: u64,
    generation: u64,
    version: Cell<i64>,
    /// Weak: the VM's own functions hold this.
    lua: WeakLua,
    tables: Table,
    migrate: RefCell<Option<Function>>,
    /// What freezing has frozen of `relay.state`, to be thawed if the reload is called off.
    frozen: RefCell<Option<Frozen>>,
}

/// Where each connection's state is.
#[derive(Default)]
pub struct Shelf {
    generations: RefCell<Vec<Rc<States>>>,
    /// By slot: the epoch of the VM that has the state; 0 for none yet.
    owners: RefCell<Vec<u64>>,
}

impl States {
    pub(super) fn new(lua: &Lua, epoch: u64, generation: u64) -> mlua::Result<States> {
        Ok(States {
            epoch,
            generation,
            version: Cell::new(1),
            lua: lua.weak(),
            tables: lua.create_table()?,
            migrate: RefCell::default(),
            frozen: RefCell::default(),
        })
    }

    /// What the script has said of its states, once it is loaded.
    pub(super) fn set_version(&self, version: i64, migrate: Option<Function>) {
        self.version.set(version);
        *self.migrate.borrow_mut() = migrate;
    }

    pub(super) fn tables(&self) -> &Table {
        &self.tables
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn version(&self) -> i64 {
        self.version.get()
    }

    fn table(&self, slot: usize) -> mlua::Result<Option<Table>> {
        self.tables.raw_get(slot + 1)
    }

    /// Copies `relay.state` and freezes it; `thaw` takes that back.
    pub fn copy_and_freeze(&self, state: &Table) -> Result<Plain, ScriptError> {
        let value = Value::Table(state.clone());
        let copy = plain::to_plain(&value, "relay.state").map_err(|error| ScriptError::raised(error.to_string()))?;
        let frozen = plain::freeze(&self.lua.upgrade(), &value).map_err(|error| ScriptError::from_lua(&error))?;
        *self.frozen.borrow_mut() = Some(frozen);
        Ok(copy)
    }

    pub fn thaw(&self) {
        if let Some(frozen) = self.frozen.borrow_mut().take() {
            // It only clears flags of tables that are there.
            let _ = frozen.thaw();
        }
    }
}

impl Shelf {
    /// From now on `states` holds what is touched first.
    pub fn add(&self, states: Rc<States>) {
        self.generations.borrow_mut().push(states);
    }

    pub fn remove(&self, epoch: u64) {
        self.generations.borrow_mut().retain(|states| states.epoch != epoch);
    }

    /// Whether `states` has the state of the connection at `slot`.
    pub fn is_at(&self, slot: usize, states: &States) -> bool {
        self.owner(slot) == states.epoch
    }

    fn owner(&self, slot: usize) -> u64 {
        self.owners.borrow().get(slot).copied().unwrap_or(0)
    }

    fn set_owner(&self, slot: usize, epoch: u64) {
        let mut owners = self.owners.borrow_mut();
        if owners.len() <= slot {
            owners.resize(slot + 1, 0);
        }
        owners[slot] = epoch;
    }

    /// The state of the connection at `slot`, as `asking` (a generation) sees it.
    pub fn get(&self, slot: usize, asking: &States) -> Result<Table, ScriptError> {
        let owner = self.owner(slot);
        if owner == 0 {
            self.set_owner(slot, asking.epoch);
        } else if owner < asking.epoch {
            self.bring(slot, asking)?;
        }
        let lua_error = |error| ScriptError::from_lua(&error);
        match asking.table(slot).map_err(lua_error)? {
            Some(table) => Ok(table),
            None if owner > asking.epoch => Err(self.moved(owner)),
            None => {
                let table = asking.lua.upgrade().create_table().map_err(lua_error)?;
                asking.tables.raw_set(slot + 1, &table).map_err(lua_error)?;
                Ok(table)
            }
        }
    }

    /// `conn.state = table`.
    pub fn set(&self, slot: usize, asking: &States, table: &Table) -> Result<(), ScriptError> {
        let owner = self.owner(slot);
        if owner > asking.epoch {
            return Err(self.moved(owner));
        }
        let lua_error = |error| ScriptError::from_lua(&error);
        if owner != 0 && owner < asking.epoch {
            // A callback that waits there must hear that what it writes would be lost.
            let from = self.generations.borrow().iter().find(|states| states.epoch == owner).cloned();
            if let Some(from) = from
                && let Some(replaced) = from.table(slot).map_err(lua_error)?
            {
                plain::freeze(&from.lua.upgrade(), &Value::Table(replaced)).map_err(lua_error)?;
            }
        }
        self.set_owner(slot, asking.epoch);
        asking.tables.raw_set(slot + 1, table).map_err(lua_error)
    }

    /// Moves a state from an older generation, or says why it cannot come and leaves an empty one in its place.
    fn bring(&self, slot: usize, asking: &States) -> Result<(), ScriptError> {
        let moved = self.carry(slot, asking);
        if moved.is_err() {
            self.set_owner(slot, asking.epoch);
        }
        moved
    }

    /// The source is frozen: callbacks that still wait there may read it.
    fn carry(&self, slot: usize, asking: &States) -> Result<(), ScriptError> {
        let owner = self.owner(slot);
        let from = self.generations.borrow().iter().find(|states| states.epoch == owner).cloned();
        let Some(from) = from else {
            self.set_owner(slot, asking.epoch);
            return Ok(());
        };
        let lua_error = |error| ScriptError::from_lua(&error);
        let Some(source) = from.table(slot).map_err(lua_error)? else {
            self.set_owner(slot, asking.epoch);
            return Ok(());
        };
        let source = Value::Table(source);
        let copy = plain::to_plain(&source, "conn.state").map_err(|error| ScriptError::raised(error.to_string()))?;
        let mut state = plain::from_plain(&asking.lua.upgrade(), &copy).map_err(lua_error)?;
        let migrate = asking.migrate.borrow().clone();
        if from.version() != asking.version()
            && let Some(migrate) = migrate
        {
            state = migrate.call((state, from.version())).map_err(lua_error)?;
        }
        let Value::Table(state) = state else {
            return Err(ScriptError::raised(format!(
                "migrate_conn(state, from) must return the new state, a table, got {}",
                super::args::type_name(&state)
            )));
        };
        asking.tables.raw_set(slot + 1, state).map_err(lua_error)?;
        self.set_owner(slot, asking.epoch);
        // Kept for good: its VM ends with its last waiting callback.
        plain::freeze(&from.lua.upgrade(), &source).map_err(lua_error)?;
        Ok(())
    }

    /// Whether the state at `slot` still has to move to `asking`.
    pub fn is_behind(&self, slot: usize, asking: &States) -> bool {
        let owner = self.owner(slot);
        owner != 0 && owner < asking.epoch
    }

    /// Moves the state at `slot` if it is behind.
    pub fn bring_up(&self, slot: usize, asking: &States) -> Result<(), ScriptError> {
        if self.is_behind(slot, asking) { self.bring(slot, asking) } else { Ok(()) }
    }

    /// Checks that the state of `conn` could be carried over, and that none of its tables are in `seen` (another state).
    pub fn check(&self, conn: &Conn, copier: &mut plain::Copier) -> Result<(), ScriptError> {
        let owner = self.owner(conn.slot);
        let from = self.generations.borrow().iter().find(|states| states.epoch == owner).cloned();
        let Some(from) = from else { return Ok(()) };
        let Some(table) = from.table(conn.slot).map_err(|error| ScriptError::from_lua(&error))? else { return Ok(()) };
        let copied = copier.copy(&Value::Table(table), "conn.state").map(drop);
        copied.map_err(|error| ScriptError::raised(format!("{error} (connection {})", conn.text)))
    }

    /// Forgets a connection's state everywhere; what scripts still hold of the connection keeps its last one.
    pub fn forget(&self, slot: usize) {
        for states in self.generations.borrow().iter() {
            // Setting nil in a table that has the key cannot fail.
            let _ = states.tables.raw_set(slot + 1, Value::Nil);
        }
        self.set_owner(slot, 0);
    }

    /// Whether the VM of `epoch` still holds a state that has not moved on.
    pub fn owns(&self, epoch: u64) -> bool {
        self.owners.borrow().contains(&epoch)
    }

    /// Whether there is a state at `slot` that `asking` holds.
    pub fn has(&self, slot: usize, asking: &States) -> mlua::Result<bool> {
        Ok(self.owner(slot) == asking.epoch && asking.table(slot)?.is_some())
    }

    fn moved(&self, owner: u64) -> ScriptError {
        let generations = self.generations.borrow();
        let generation = generations.iter().find(|states| states.epoch == owner).map_or(0, |states| states.generation);
        ScriptError::raised(format!("state has moved to generation {generation}"))
    }
}
