//! One generation of one instance: a sealed VM, its callbacks, and its memory.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use mlua::{Function, IntoLuaMulti, LightUserData, Lua, MultiValue, Table, Value, chunk::Compiler};

use crate::{
    clock::Clock,
    config,
    hub::{Conn, Hub},
    outgoing::Network,
    plain::Plain,
    script::{
        Context, Phase,
        alarms::Alarms,
        api::{self, KeySets, PasswordPool, RateTable, Waiting},
        budget::Budget,
        compiled,
        error::{ErrorKind, PRELUDE, ScriptError},
        host::Host,
        load::{self, CALLBACKS, Module, Sources},
        raw::Raw,
        run::{Ran, Runner, Suspended, TOKEN},
        sandbox,
        state::{Shelf, States},
        tasks::{Start, Tasks, Waited},
    },
    store::Stores,
    tracer::Tracer,
};

/// What every generation of an instance has in common.
pub struct Home {
    /// This instance's place among its app's, from 0, and how many there are.
    pub place: u16,
    pub instances: u16,
    pub clock: Clock,
    pub hub: Rc<Hub>,
    pub stores: Stores,
    pub budget: Rc<Budget>,
    pub passwords: PasswordPool,
    pub network: Network,
    /// After each callback its states are looked at: what could not be carried over a reload is an error at once.
    pub strict: bool,
    /// Told of what passes while somebody looks.
    pub tracer: Option<Arc<Tracer>>,
    /// What scripts find in the place of the process's variables.
    pub env: Option<Vec<(String, String)>>,
    pub kept: Kept,
}

/// What generations hand on to each other: empty when the instance begins.
#[derive(Default)]
pub struct Kept {
    pub shelf: Rc<Shelf>,
    pub rates: Rc<RefCell<RateTable>>,
    pub alarms: Rc<Alarms>,
    pub key_sets: Rc<KeySets>,
    epochs: Cell<u64>,
}

/// Which generation is to be loaded, and from what.
#[derive(Debug, Clone)]
pub struct Plan {
    pub app: Arc<config::App>,
    pub generation: u64,
    pub sources: Arc<Sources>,
    /// The running generation and its version.
    pub previous: Option<(u64, i64)>,
    /// How long callbacks of the generation before may go on waiting (`reload.drain`).
    pub drain: Duration,
}

pub struct Vm {
    plan: Plan,
    host: Rc<Host>,
    runner: Runner,
    raw: Raw,
    module: Module,
    relay: Table,
    /// The globals of the script's chunks.
    environment: Table,
    /// Memory in use above which everything is collected between two callbacks.
    collect_above: Cell<usize>,
    lua: Lua,
}

impl Vm {
    /// Loads a script up to and with `on_load`. It gives the worker back every few milliseconds.
    pub async fn load(home: &Home, plan: Plan) -> Result<Vm, ScriptError> {
        home.kept.epochs.set(home.kept.epochs.get() + 1);
        let mut vm = Vm::bare(home, plan).map_err(|error| ScriptError::from_lua(&error))?;
        let chunk = load::main_chunk(&vm.lua, &vm.plan.sources, &vm.environment)?;
        let returned = vm.runner.load(&chunk, ()).await?;
        let returned = returned.into_iter().next().unwrap_or(Value::Nil);
        vm.module = load::check(&vm.plan.sources, &returned)?;
        vm.host.states.set_version(vm.module.version, vm.callback("migrate_conn").cloned());
        if let Some(on_load) = vm.callback("on_load") {
            let previous = vm.previous().map_err(|error| ScriptError::from_lua(&error))?;
            vm.runner.load(on_load, previous).await?;
        }
        Ok(vm)
    }

    fn bare(home: &Home, plan: Plan) -> mlua::Result<Vm> {
        let lua = sandbox::new_vm()?;
        sandbox::trim(&lua, plan.app.limits.script_memory)?;
        let context = Rc::new(Context {
            app: plan.app.clone(),
            generation: plan.generation,
            place: home.place,
            instances: home.instances,
            clock: home.clock,
            hub: home.hub.clone(),
            stores: home.stores.clone(),
            env: home.env.clone(),
            phase: Cell::new(Phase::Loading),
            current: RefCell::default(),
        });
        let tasks = Rc::new(Tasks::default());
        let states = Rc::new(States::new(&lua, home.kept.epochs.get(), plan.generation)?);
        let host = Rc::new(Host::new(&lua, context.clone(), tasks.clone(), home.kept.shelf.clone(), states)?);
        let relay = lua.create_table()?;
        // Chunks are compiled in it later, but whoever compiles them must know it now.
        let environment = lua.create_table()?;
        let prelude = prelude(&lua, &tasks, &plan.sources, &environment)?;
        let waiting =
            Waiting { waits: prelude.get("waits")?, update: prelude.get("update")?, rounds: prelude.get("rounds")? };
        api::register(&lua, &relay, &prelude.get("carried")?, &host, home, &waiting)?;
        lua.globals().set("relay", &relay)?;
        seal(&lua, &prelude)?;
        sandbox::open(&lua, &environment)?;
        let runner = Runner::new(lua.clone(), context, tasks, home.budget.clone())?;
        let module = Module { callbacks: Default::default(), version: 1 };
        let raw = Raw::new(&lua, host.conns())?;
        let limit = plan.app.limits.script_memory;
        lua.set_memory_limit(limit)?;
        Ok(Vm {
            plan,
            host,
            runner,
            raw,
            module,
            relay,
            environment,
            collect_above: Cell::new(collect_from(limit)),
            lua,
        })
    }

    /// What `on_load` and `on_start` are told of the generation before.
    fn previous(&self) -> mlua::Result<Value> {
        let Some((generation, version)) = self.plan.previous else { return Ok(Value::Nil) };
        let table = self.lua.create_table()?;
        table.raw_set("generation", generation)?;
        table.raw_set("version", version)?;
        Ok(Value::Table(table))
    }

    pub fn generation(&self) -> u64 {
        self.plan.generation
    }

    pub fn version(&self) -> i64 {
        self.module.version
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn states(&self) -> &Rc<States> {
        &self.host.states
    }

    pub fn lua(&self) -> &Lua {
        &self.lua
    }

    pub fn callback(&self, name: &str) -> Option<&Function> {
        let place = CALLBACKS.iter().position(|known| *known == name)?;
        self.module.callbacks[place].as_ref()
    }

    /// The names of the callbacks that the script has.
    pub fn callbacks(&self) -> Vec<&'static str> {
        CALLBACKS
            .iter()
            .zip(&self.module.callbacks)
            .filter_map(|(name, function)| function.as_ref().map(|_| *name))
            .collect()
    }

    // ── state ──

    /// Puts `relay.state` in place: empty, or carried over from a generation of version `from`.
    pub fn set_state(&self, state: &Plain, from: i64) -> Result<(), ScriptError> {
        let state = self.migrated(state, from)?;
        self.relay.set_readonly(false);
        let set = self.relay.raw_set("state", state);
        self.relay.set_readonly(true);
        set.map_err(|error| ScriptError::from_lua(&error))
    }

    /// What `migrate` makes of a copy of `state`: in a preparation, to see whether it can.
    pub fn migrated(&self, state: &Plain, from: i64) -> Result<Table, ScriptError> {
        let copy = super::plain::from_plain(&self.lua, state).map_err(|error| ScriptError::from_lua(&error))?;
        let migrate = self.callback("migrate").filter(|_| from != self.version());
        let state = match migrate {
            None => copy,
            Some(migrate) => match self.runner.call(migrate, (copy, from), None) {
                Ran::Done(values) => values.into_iter().next().unwrap_or(Value::Nil),
                Ran::Failed(error) => return Err(error),
                Ran::Waits(_) => return Err(ScriptError::raised("migrate(state, from) must not wait")),
            },
        };
        match state {
            Value::Table(table) => Ok(table),
            other => Err(ScriptError::raised(format!(
                "migrate(state, from) must return the new state, a table, got {}",
                super::args::type_name(&other)
            ))),
        }
    }

    fn state(&self) -> Result<Table, ScriptError> {
        self.relay.raw_get("state").map_err(|error| ScriptError::from_lua(&error))
    }

    /// A copy of `relay.state`, whose source is frozen until [`Vm::thaw_state`].
    pub fn freeze_state(&self) -> Result<Plain, ScriptError> {
        // The copy needs a little room of its own, which must not decide whether a script can be replaced.
        self.raise_memory();
        let copy = self.state().and_then(|state| self.host.states.copy_and_freeze(&state));
        let _ = self.lua.set_memory_limit(self.plan.app.limits.script_memory);
        copy
    }

    pub fn thaw_state(&self) {
        self.host.states.thaw();
    }

    /// A copy of `relay.state`, and a check that nothing in it is reachable twice.
    pub fn check_state(&self, copier: &mut super::plain::Copier) -> Result<Plain, ScriptError> {
        let state = Value::Table(self.state()?);
        copier.copy(&state, "relay.state").map_err(|error| ScriptError::raised(error.to_string()))
    }

    pub fn empty_state() -> Plain {
        Plain::Table(Box::default())
    }

    /// Its callbacks may run from now on.
    pub fn begin(&self) {
        self.host.context.phase.set(Phase::Running);
    }

    /// From now on a write to what has been carried over says so.
    pub fn retire(&self, successor: u64) {
        self.host.tasks.successor.set(Some(successor));
    }

    // ── running ──

    pub fn call(&self, function: &Function, args: impl IntoLuaMulti, conn: Option<&Rc<Conn>>) -> Ran {
        self.told(self.runner.call(function, args, conn.cloned()))
    }

    /// Calls `on_message`.
    pub fn call_message(&self, function: &Function, conn: &Rc<Conn>, data: &[u8], binary: bool) -> Ran {
        let limit = self.plan.app.limits.script_memory;
        if !self.host.known.has(conn)
            && let Err(error) = self.host.conn(&self.lua, conn)
        {
            return Ran::Failed(ScriptError::from_lua(&error));
        }
        if !self.host.known.has(conn) || !self.raw.has_room(&self.lua, limit, data.len()) {
            let args = |lua: &Lua| (lua.create_string(data)?, binary).into_lua_multi(lua);
            return self.call_about(function, conn, args);
        }
        self.told(self.runner.message(&self.raw, function, conn, data, binary))
    }

    /// Calls a callback about a connection, which comes first.
    pub fn call_about(
        &self,
        function: &Function,
        conn: &Rc<Conn>,
        args: impl Fn(&Lua) -> mlua::Result<MultiValue>,
    ) -> Ran {
        let mut made = self.conn_args(conn, &args);
        if let Err(error) = &made
            && error.kind == ErrorKind::Memory
            && self.recover()
        {
            // There was no room to hand it over; nothing of the script has run yet.
            made = self.conn_args(conn, &args);
        }
        match made {
            Ok(args) => self.call(function, args, Some(conn)),
            Err(error) => Ran::Failed(error),
        }
    }

    fn conn_args(
        &self,
        conn: &Rc<Conn>,
        args: impl FnOnce(&Lua) -> mlua::Result<MultiValue>,
    ) -> Result<MultiValue, ScriptError> {
        let made = self.host.conn(&self.lua, conn).and_then(|userdata| {
            let mut args = args(&self.lua)?;
            args.push_front(Value::UserData(userdata));
            Ok(args)
        });
        made.map_err(|error| ScriptError::from_lua(&error))
    }

    pub fn call_start(&self, function: &Function) -> Ran {
        match self.previous() {
            Ok(previous) => self.call(function, previous, None),
            Err(error) => Ran::Failed(ScriptError::from_lua(&error)),
        }
    }

    pub fn resume(&self, suspended: Suspended, waited: Waited) -> Ran {
        self.told(self.runner.resume(suspended, waited))
    }

    pub fn cancel(&self, suspended: Suspended, why: String) -> Ran {
        self.told(self.runner.cancel(suspended, why))
    }

    /// An error in the words of a generation that has been replaced.
    fn told(&self, ran: Ran) -> Ran {
        self.host.known.resume_panic();
        match ran {
            Ran::Failed(mut error) => {
                error.message = self.host.tasks.retold(error.message);
                Ran::Failed(error)
            }
            ran => ran,
        }
    }

    /// Brings a connection's state to this generation, if it is behind. If it cannot come, the connection begins with an
    /// empty one, and is to be closed.
    pub fn bring_up(&self, conn: &Conn) -> Result<(), ScriptError> {
        let (shelf, states) = (&self.host.shelf, &self.host.states);
        if !shelf.is_behind(conn.slot, states) {
            return Ok(());
        }
        self.runner.within_budget(|| shelf.bring_up(conn.slot, states))
    }

    /// The timers and coroutines that the last stretch has started.
    pub fn take_started(&self) -> Vec<Start> {
        self.host.tasks.take_started()
    }

    pub fn timer_ended(&self) {
        self.host.tasks.timers.set(self.host.tasks.timers.get().saturating_sub(1));
    }

    /// Forgets a connection that is gone.
    pub fn forget(&self, conn: &Conn) {
        if let Err(error) = self.host.forget(conn) {
            tracing::warn!(connection = %conn.text, "a closed connection could not be forgotten by its script's VM: {error}");
        }
    }

    // ── memory ──

    /// Collects the garbage between two callbacks, if it is time.
    pub fn tidy(&self) {
        if self.lua.used_memory() <= self.collect_above.get() {
            return;
        }
        self.collect();
        // Where much is alive, the next full collection waits until a good part more has come.
        let limit = self.plan.app.limits.script_memory;
        let live = self.lua.used_memory();
        self.collect_above.set(collect_from(limit).max(live + (limit.saturating_sub(live)) / 2));
    }

    fn collect(&self) {
        // A finalizer is the only thing that could fail, and Luau has none.
        let _ = self.lua.gc_collect();
    }

    /// After an out-of-memory error: true if the VM can go on.
    pub fn recover(&self) -> bool {
        let limit = self.plan.app.limits.script_memory;
        self.raise_memory();
        self.collect();
        let used = self.lua.used_memory();
        let fits = used < limit / 4 * 3;
        if fits {
            let _ = self.lua.set_memory_limit(limit);
            self.collect_above.set(collect_from(limit).max(used + (limit - used) / 2));
        }
        fits
    }

    /// Lets the VM use a little more than its limit, so that its state can be copied out of it.
    fn raise_memory(&self) {
        let limit = self.plan.app.limits.script_memory;
        let _ = self.lua.set_memory_limit(limit + limit / 8);
    }

    pub fn used_memory(&self) -> usize {
        self.lua.used_memory()
    }
}

/// A full collection between callbacks costs little below this, and Luau would run into its limit with garbage.
fn collect_from(limit: usize) -> usize {
    limit / 5 * 2
}

/// Installs the Lua part of the host, and gives its functions.
pub(super) fn prelude(
    lua: &Lua,
    tasks: &Rc<Tasks>,
    sources: &Arc<Sources>,
    environment: &Table,
) -> mlua::Result<Table> {
    let host = lua.create_table()?;
    let of = tasks.clone();
    host.set(
        "describe",
        lua.create_function(move |lua, error: Value| match error {
            Value::Error(error) => {
                let error = ScriptError::from_lua(&error);
                lua.create_string(of.retold(error.message)).map(Value::String)
            }
            Value::String(text) if of.successor.get().is_some() => {
                lua.create_string(of.retold(text.to_string_lossy())).map(Value::String)
            }
            other => Ok(other),
        })?,
    )?;
    let of = tasks.clone();
    host.set(
        "drop_wait",
        lua.create_function(move |_, ()| {
            drop(of.take_wait());
            Ok(())
        })?,
    )?;
    host.set(
        "raise",
        lua.create_function(|_, message: mlua::LuaString| -> mlua::Result<()> {
            Err(mlua::Error::runtime(message.to_string_lossy()))
        })?,
    )?;
    load::register(lua, &host, sources, environment)?;
    let token = Value::LightUserData(LightUserData(TOKEN as *mut _));
    let bytecode = compiled::of(include_str!("prelude.lua"), &Compiler::new())?;
    compiled::load(lua, bytecode, PRELUDE, None)?.call((host, token))
}

/// Puts the waiting versions of Lua's own functions in place and closes the sandbox.
pub(super) fn seal(lua: &Lua, prelude: &Table) -> mlua::Result<()> {
    let globals = lua.globals();
    for name in ["pcall", "xpcall", "require"] {
        globals.set(name, prelude.get::<Function>(name)?)?;
    }
    let coroutine: Table = globals.get("coroutine")?;
    for name in ["resume", "wrap", "close"] {
        coroutine.set(name, prelude.get::<Function>(name)?)?;
    }
    sandbox::close(lua)
}
