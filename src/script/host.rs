//! What the functions of one VM share: the world (context), the work they leave (tasks), and the VM's
//! tables of connections.

use std::rc::Rc;

use mlua::{AnyUserData, Lua, Table, Value};

use crate::{
    hub::{Conn, Why},
    script::{
        Context, Phase,
        api::json,
        args,
        error::ScriptError,
        raw::{self, Known},
        state::{Shelf, States},
        tasks::{Tasks, Waited},
    },
};

/// The userdata that scripts know as `conn`.
pub struct ConnRef(pub Rc<Conn>);

pub struct Host {
    pub context: Rc<Context>,
    pub tasks: Rc<Tasks>,
    pub shelf: Rc<Shelf>,
    pub states: Rc<States>,
    /// By slot: each connection's one userdata.
    conns: Table,
    /// By slot: the read-only tables about a connection that have been asked for (`user`, `params`, …).
    pub(super) facts: Table,
    /// By userdata, weakly: the state of a connection that is gone, for those who still hold it.
    last_states: Table,
    pub(super) known: Known,
}

impl Host {
    pub fn new(
        lua: &Lua,
        context: Rc<Context>,
        tasks: Rc<Tasks>,
        shelf: Rc<Shelf>,
        states: Rc<States>,
    ) -> mlua::Result<Host> {
        let last_states = lua.create_table()?;
        let weak = lua.create_table()?;
        weak.raw_set("__mode", "k")?;
        last_states.set_metatable(Some(weak))?;
        Ok(Host {
            context,
            tasks,
            shelf,
            states,
            conns: lua.create_table()?,
            facts: lua.create_table()?,
            last_states,
            known: Known::default(),
        })
    }

    /// Raises in a generation that is only being prepared.
    pub fn running(&self, function: &str) -> mlua::Result<()> {
        match self.context.phase.get() {
            Phase::Running => Ok(()),
            Phase::Loading => Err(args::mistake(
                function,
                "not while a script loads or in on_load: that is for set-up only; use on_start",
            )),
        }
    }

    /// The table of all connections' userdata.
    pub(super) fn conns(&self) -> &Table {
        &self.conns
    }

    /// The one userdata of a connection.
    pub fn conn(&self, lua: &Lua, conn: &Rc<Conn>) -> mlua::Result<AnyUserData> {
        if let Some(known) = self.conns.raw_get::<Option<AnyUserData>>(conn.slot + 1)? {
            if Rc::ptr_eq(&known.borrow::<ConnRef>()?.0, conn) {
                return Ok(known);
            }
            // Of a connection that went while this generation was only being prepared.
            self.facts.raw_set(conn.slot + 1, Value::Nil)?;
        }
        let userdata = lua.create_any_userdata(ConnRef(conn.clone()))?;
        if !conn.is_gone() {
            self.conns.raw_set(conn.slot + 1, &userdata)?;
            self.known.add(conn.slot, &userdata, conn);
            raw::install(lua, &userdata, self)?;
        }
        Ok(userdata)
    }

    /// The value of a read-only table about `conn`, made once.
    pub fn fact(
        &self,
        lua: &Lua,
        conn: &Conn,
        name: &str,
        make: impl FnOnce() -> mlua::Result<Value>,
    ) -> mlua::Result<Value> {
        if conn.is_gone() {
            return make();
        }
        let facts = match self.facts.raw_get::<Option<Table>>(conn.slot + 1)? {
            Some(facts) => facts,
            None => {
                let facts = lua.create_table()?;
                self.facts.raw_set(conn.slot + 1, &facts)?;
                facts
            }
        };
        let known: Value = facts.raw_get(name)?;
        if !known.is_nil() {
            return Ok(known);
        }
        let value = make()?;
        facts.raw_set(name, &value)?;
        Ok(value)
    }

    /// `conn.state`.
    pub fn state(&self, lua: &Lua, userdata: &AnyUserData, conn: &Conn) -> mlua::Result<Table> {
        self.running("conn.state")?;
        if conn.is_gone() {
            if let Some(state) = self.last_states.raw_get::<Option<Table>>(userdata)? {
                return Ok(state);
            }
            let state = lua.create_table()?;
            self.last_states.raw_set(userdata, &state)?;
            return Ok(state);
        }
        self.shelf.get(conn.slot, &self.states).map_err(|error| self.lost_state(conn, error))
    }

    pub fn set_state(&self, conn: &Conn, state: &Table) -> mlua::Result<()> {
        self.running("conn.state")?;
        if conn.is_gone() {
            return Ok(());
        }
        self.shelf.set(conn.slot, &self.states, state).map_err(mlua::Error::external)
    }

    /// A state that cannot come along ends its connection: to go on without it would be to lose it silently.
    fn lost_state(&self, conn: &Conn, error: ScriptError) -> mlua::Error {
        // An older generation that asks too late loses nothing.
        if self.tasks.successor.get().is_none() {
            close_for_lost_state(conn, &error);
        }
        mlua::Error::external(error)
    }

    /// Forgets a connection that is gone.
    pub fn forget(&self, conn: &Conn) -> mlua::Result<()> {
        self.known.remove(conn.slot);
        if let Some(userdata) = self.conns.raw_get::<Option<AnyUserData>>(conn.slot + 1)? {
            if self.shelf.has(conn.slot, &self.states)? {
                self.last_states
                    .raw_set(&userdata, self.shelf.get(conn.slot, &self.states).map_err(mlua::Error::external)?)?;
            }
            self.conns.raw_set(conn.slot + 1, Value::Nil)?;
        }
        self.facts.raw_set(conn.slot + 1, Value::Nil)
    }

    /// A wait that ends when all instances have applied something.
    pub fn wait_applied(&self, applied: crate::hub::Applied) -> mlua::Result<bool> {
        if applied.is_done() {
            return Ok(true);
        }
        self.wait(async move {
            applied.wait().await;
            Waited::Return(vec![crate::plain::Plain::Bool(true)])
        })?;
        Ok(false)
    }

    pub fn wait(&self, wait: impl Future<Output = Waited> + 'static) -> mlua::Result<()> {
        if self.tasks.cancelled.get() {
            return Err(mlua::Error::runtime("this callback was cancelled, and may not wait any more"));
        }
        self.tasks.wait(wait);
        Ok(())
    }
}

/// Closes a connection whose state could not be carried over a reload.
pub fn close_for_lost_state(conn: &Conn, error: &ScriptError) {
    conn.outbox.close(crate::wire::RESTART, "its state could not be carried over a reload");
    tracing::error!(connection = %conn.text, user = conn.user(), "closed with 1012, since its state could not be carried over: {error}");
}

/// `true`, or `false, why`.
pub fn answer(result: Result<(), Why>) -> (bool, Option<&'static str>) {
    match result {
        Ok(()) => (true, None),
        Err(why) => (false, Some(why.as_str())),
    }
}

/// The same of what is not about the hub.
pub fn answer_of(result: Result<(), &'static str>) -> (bool, Option<&'static str>) {
    (result.is_ok(), result.err())
}

/// `value` as JSON; the inner error is for the script's `false, why`.
pub fn json_text(context: &Context, value: &Value) -> mlua::Result<Result<Vec<u8>, String>> {
    let mut text = Vec::new();
    match json::encode_into(value, context.app.limits.json_depth, &mut text) {
        Ok(()) => Ok(Ok(text)),
        Err(json::EncodeError::World(why)) => Ok(Err(why)),
        Err(json::EncodeError::Mistake(mistake)) => Err(mlua::Error::external(mistake)),
        Err(json::EncodeError::Lua(error)) => Err(error),
    }
}
