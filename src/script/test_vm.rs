//! The VM of a file of tests: closed as a script's is, with the names that touch no connection, and with what
//! `moonwire.test` asks of its host besides.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use mlua::{FromLuaMulti, Function, IntoLuaMulti, Lua, MultiValue, Table};

use crate::{
    clock::Clock,
    config,
    hub::Hub,
    script::{
        Context, Phase, api,
        budget::Budget,
        error::ScriptError,
        load::{self, Sources},
        run::{Ran, Runner},
        sandbox,
        tasks::{Make, Tasks, Waited},
        vm::{prelude, seal},
    },
    store::Stores,
};

/// CPU time of one stretch of a test, in which many cases may be compared.
const CPU: Duration = Duration::from_secs(2);

pub struct TestVm {
    runner: Runner,
    sources: Arc<Sources>,
    environment: Table,
    lua: Lua,
}

/// Makes functions that wait, for what `moonwire.test` has of its host.
pub struct Waiter {
    waits: Function,
    tasks: Rc<Tasks>,
}

impl Waiter {
    /// A function that waits for what `begin` gives; an error of that is raised where it was called.
    pub fn function<A, F>(
        &self,
        lua: &Lua,
        name: &'static str,
        begin: impl Fn(&Lua, A) -> mlua::Result<F> + 'static,
    ) -> mlua::Result<Function>
    where
        A: FromLuaMulti,
        F: Future<Output = Result<Make, String>> + 'static,
    {
        let tasks = self.tasks.clone();
        let begin = lua.create_function(move |lua, args: MultiValue| {
            let waiting = begin(lua, A::from_lua_multi(args, lua)?)?;
            tasks.wait(async move {
                match waiting.await {
                    Ok(make) => Waited::Make(make),
                    Err(message) => Waited::Raise(message),
                }
            });
            Ok(false)
        })?;
        self.waits.call((name, begin))
    }
}

impl TestVm {
    /// `host` puts into the table what `moonwire.test` finds there.
    pub fn new(
        sources: &Arc<Sources>,
        clock: Clock,
        budget: &Rc<Budget>,
        host: impl FnOnce(&Lua, &Table, &Waiter) -> mlua::Result<()>,
    ) -> mlua::Result<TestVm> {
        let mut app = config::App::new("test", "/", sources.script());
        app.limits.callback_cpu = CPU;
        app.limits.load_cpu = CPU;
        let lua = sandbox::new_vm()?;
        sandbox::trim(&lua, app.limits.script_memory)?;
        let context = Rc::new(Context {
            app: Arc::new(app),
            generation: 0,
            place: 0,
            instances: 1,
            clock,
            hub: Rc::new(Hub::alone("test", 0)),
            stores: Stores::nowhere(),
            env: None,
            phase: Cell::new(Phase::Running),
            current: RefCell::default(),
        });
        let tasks = Rc::new(Tasks::default());
        let environment = lua.create_table()?;
        let prelude = prelude(&lua, &tasks, sources, &environment)?;
        let relay = lua.create_table()?;
        api::register_data(&lua, &relay, &context, &Rc::default())?;
        lua.globals().set("relay", relay)?;
        host(&lua, &prelude.get("carried")?, &Waiter { waits: prelude.get("waits")?, tasks: tasks.clone() })?;
        seal(&lua, &prelude)?;
        sandbox::open(&lua, &environment)?;
        let runner = Runner::new(lua.clone(), context.clone(), tasks, budget.clone())?;
        lua.set_memory_limit(context.app.limits.script_memory)?;
        Ok(TestVm { runner, sources: sources.clone(), environment, lua })
    }

    /// Runs the file itself, which tells its cases.
    pub async fn load(&self) -> Result<(), ScriptError> {
        let chunk = load::main_chunk(&self.lua, &self.sources, &self.environment)?;
        self.runner.load(&chunk, ()).await.map(drop)
    }

    /// Runs a function to its end, over all its waits. After `limit` of real time its next wait ends it.
    pub async fn run(&self, function: &Function, args: impl IntoLuaMulti, limit: Duration) -> Result<(), ScriptError> {
        let begun = Instant::now();
        let mut ran = self.runner.call(function, args, None);
        loop {
            match ran {
                Ran::Done(_) => return Ok(()),
                Ran::Failed(error) => return Err(error),
                Ran::Waits(mut suspended) => {
                    let waited = suspended.take_wait().await;
                    ran = match begun.elapsed() < limit {
                        true => self.runner.resume(suspended, waited),
                        false => {
                            let limit = limit.as_secs_f64();
                            self.runner.cancel(
                                suspended,
                                format!("the case takes longer than --timeout ({limit} s of real time)"),
                            )
                        }
                    };
                }
            }
        }
    }
}
