//! A generation's VM: runs callbacks on pooled coroutines, within their budgets, and hands their waits to the host.

use std::{cell::RefCell, rc::Rc, time::Duration};

use mlua::{Function, IntoLuaMulti, LightUserData, Lua, MultiValue, Thread, Value};

use crate::{
    hub::Conn,
    script::{
        Context,
        budget::Budget,
        error::{ErrorKind, ScriptError},
        raw::{Raw, Rest},
        tasks::{Tasks, Wait, Waited},
    },
};

/// What a wait yields. Scripts cannot make a light userdata, so they cannot forge one.
pub(super) const TOKEN: usize = 0x6d6f6f6e;

/// Coroutines kept for the next callbacks.
const IDLE_MAX: usize = 64;

/// How long a load holds the worker at one time.
const SLICE: Duration = Duration::from_millis(2);

/// How a stretch of a callback ended.
pub enum Ran {
    Done(MultiValue),
    Waits(Suspended),
    Failed(ScriptError),
}

/// A callback that waits.
pub struct Suspended {
    thread: Thread,
    conn: Option<Rc<Conn>>,
    wait: Wait,
    cancelled: bool,
}

impl Suspended {
    /// What it waits for.
    pub fn take_wait(&mut self) -> Wait {
        std::mem::replace(&mut self.wait, Box::pin(std::future::pending()))
    }
}

pub struct Runner {
    lua: Lua,
    context: Rc<Context>,
    tasks: Rc<Tasks>,
    budget: Rc<Budget>,
    idle: RefCell<Vec<Thread>>,
    traceback: Function,
}

impl Runner {
    pub(super) fn new(lua: Lua, context: Rc<Context>, tasks: Rc<Tasks>, budget: Rc<Budget>) -> mlua::Result<Runner> {
        let traceback = lua.globals().get::<mlua::Table>("debug")?.get("traceback")?;
        let safepoint = budget.clone();
        lua.set_interrupt(move |lua| safepoint.safepoint(lua));
        Ok(Runner { lua, context, tasks, budget, idle: RefCell::default(), traceback })
    }

    /// Runs `function` until it ends or waits. `conn` is the connection that it is about.
    pub fn call(&self, function: &Function, args: impl IntoLuaMulti, conn: Option<Rc<Conn>>) -> Ran {
        let thread = match self.thread(function) {
            Ok(thread) => thread,
            Err(error) => return Ran::Failed(ScriptError::from_lua(&error)),
        };
        self.step(thread, args, conn, false)
    }

    /// Runs `on_message`, the short way. The VM's table of connections has this one, and there is room for `data`.
    pub(super) fn message(&self, raw: &Raw, function: &Function, conn: &Rc<Conn>, data: &[u8], binary: bool) -> Ran {
        let idle = self.idle.borrow_mut().pop();
        let thread = match idle.map_or_else(|| self.lua.create_thread(function.clone()), Ok) {
            Ok(thread) => thread,
            Err(error) => return Ran::Failed(ScriptError::from_lua(&error)),
        };
        self.stretch(thread, Some(conn.clone()), false, |thread| {
            raw.start(&self.lua, thread, function, conn.slot, data, binary)
        })
    }

    /// Runs host code that calls into the script while no callback does, within a callback's budget.
    pub(super) fn within_budget<T>(&self, work: impl FnOnce() -> T) -> T {
        self.budget.begin(self.limit());
        let result = work();
        self.budget.end();
        result
    }

    /// Goes on with a callback whose wait has ended.
    pub fn resume(&self, suspended: Suspended, waited: Waited) -> Ran {
        let Suspended { thread, conn, cancelled, .. } = suspended;
        let made = match waited {
            Waited::Raise(message) => {
                return match self.lua.create_string(message) {
                    Ok(message) => self.step(thread, (false, message), conn, cancelled),
                    Err(error) => Ran::Failed(ScriptError::from_lua(&error)),
                };
            }
            Waited::Return(values) => {
                values.iter().map(|plain| super::plain::from_plain(&self.lua, plain)).collect::<mlua::Result<_>>()
            }
            Waited::Make(make) => make(&self.lua),
        };
        match made {
            Ok(mut args) => {
                args.push_front(Value::Boolean(true));
                self.step(thread, args, conn, cancelled)
            }
            Err(error) => Ran::Failed(ScriptError::from_lua(&error)),
        }
    }

    /// Goes on with a callback that must end: its wait raises `why`, and so does every later one.
    pub fn cancel(&self, mut suspended: Suspended, why: String) -> Ran {
        suspended.cancelled = true;
        self.resume(suspended, Waited::Raise(why))
    }

    /// Runs what belongs to a load: it may not wait, has a budget of its own, and shares the worker in slices.
    pub(super) async fn load(&self, function: &Function, args: impl IntoLuaMulti) -> Result<MultiValue, ScriptError> {
        let lua_error = |error| ScriptError::from_lua(&error);
        let thread = self.lua.create_thread(function.clone()).map_err(lua_error)?;
        let limit = self.context.app.limits.load_cpu;
        let mut left = limit;
        let mut args = args.into_lua_multi(&self.lua).map_err(lua_error)?;
        loop {
            self.budget.begin_slice(limit, left, SLICE, &thread);
            let result = thread.resume::<MultiValue>(std::mem::take(&mut args));
            left = self.budget.left();
            let spent = self.budget.end();
            match result {
                Ok(values) if thread.is_resumable() => {
                    if !values.is_empty() {
                        drop(self.tasks.take_wait());
                        return Err(ScriptError::raised(
                            "coroutine.yield was called outside of a coroutine of the script",
                        ));
                    }
                    tokio::task::yield_now().await;
                }
                Ok(values) => return Ok(values),
                Err(error) => {
                    let mut error = ScriptError::from_lua(&error);
                    if spent {
                        error.kind = ErrorKind::Budget;
                    }
                    return Err(self.placed(&thread, error));
                }
            }
        }
    }

    fn thread(&self, function: &Function) -> mlua::Result<Thread> {
        let idle = self.idle.borrow_mut().pop();
        match idle {
            Some(thread) => {
                thread.reset(function.clone())?;
                Ok(thread)
            }
            None => self.lua.create_thread(function.clone()),
        }
    }

    fn step(&self, thread: Thread, args: impl IntoLuaMulti, conn: Option<Rc<Conn>>, cancelled: bool) -> Ran {
        self.stretch(thread, conn, cancelled, |thread| match thread.resume::<MultiValue>(args) {
            Ok(values) if thread.is_resumable() => {
                let token = values.front().and_then(Value::as_light_userdata);
                Rest::Yielded { is_wait: token.is_some_and(|LightUserData(token)| token as usize == TOKEN) }
            }
            Ok(values) => Rest::Done(values),
            Err(error) => Rest::Failed(error),
        })
    }

    /// Runs `work` on a coroutine within a callback's budget, up to where that comes to a rest.
    fn stretch(
        &self,
        thread: Thread,
        conn: Option<Rc<Conn>>,
        cancelled: bool,
        work: impl FnOnce(&Thread) -> Rest,
    ) -> Ran {
        let before = self.context.current.replace(conn.clone());
        self.tasks.cancelled.set(cancelled);
        self.budget.begin(self.limit());
        let rest = work(&thread);
        let spent = self.budget.end();
        *self.context.current.borrow_mut() = before;
        match rest {
            Rest::Yielded { is_wait } => match self.tasks.take_wait() {
                Some(wait) if is_wait => Ran::Waits(Suspended { thread, conn, wait, cancelled }),
                _ => self.failed(
                    &thread,
                    ScriptError::raised("coroutine.yield was called outside of a coroutine of the script"),
                ),
            },
            Rest::Done(values) => {
                self.put_back(thread);
                Ran::Done(values)
            }
            Rest::Failed(error) => {
                let mut error = ScriptError::from_lua(&error);
                if spent {
                    error.kind = ErrorKind::Budget;
                }
                self.failed(&thread, error)
            }
        }
    }

    fn limit(&self) -> Duration {
        self.context.app.limits.callback_cpu
    }

    fn failed(&self, thread: &Thread, error: ScriptError) -> Ran {
        drop(self.tasks.take_wait());
        Ran::Failed(self.placed(thread, error))
    }

    /// A coroutine that has raised still has its frames: they say where.
    fn placed(&self, thread: &Thread, error: ScriptError) -> ScriptError {
        if !error.traceback.is_empty() {
            return error;
        }
        let traceback = self.traceback.call::<String>(thread.clone()).unwrap_or_default();
        error.with_traceback(&traceback)
    }

    fn put_back(&self, thread: Thread) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_MAX {
            idle.push(thread);
        }
    }
}
