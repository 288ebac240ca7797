//! The way of a message into Lua and out of it, straight on Luau's C interface. The one file with `unsafe`.
//!
//! mlua's own calls are safe whatever they are given: each push is protected against the memory limit, each value has a
//! handle, each method looks for its arguments' types twice. Together that costs more than most callbacks do. Here it is
//! looked first whether anything can fail, and what may fail goes mlua's way.
//!
//! What every block relies on:
//! - A `lua_State` of a coroutine lives as long as its `Thread`, and the main one as long as `Lua`.
//! - All of a VM is used on one thread, and nothing here is called while another call into the VM has not come to a rest:
//!   a host call never runs a callback.
//! - What is pushed needs memory, and to be refused it outside of a protected call would end the process. So there must be
//!   [`ROOM`] more than the value itself takes below the limit; below it, mlua's way is taken.

#![allow(unsafe_code, reason = "see above")]

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::HashMap,
    ffi::{CStr, c_int, c_void},
    hash::{BuildHasherDefault, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    slice,
};

use mlua::{AnyUserData, Error, Function, Lua, MultiValue, Table, Thread, ffi};

use crate::{
    hub::{Conn, Why},
    script::{Phase, host::Host, run::TOKEN},
};

/// What may be allocated besides a value: growing stacks and tables of a VM.
const ROOM: usize = 256 * 1024;

/// Longer messages go mlua's way: what it costs is nothing beside them.
const BYTES_MAX: usize = 1024 * 1024;

/// How a callback that was started here came to a rest.
pub enum Rest {
    Done(MultiValue),
    /// Whether it waits by a function of the host.
    Yielded {
        is_wait: bool,
    },
    Failed(Error),
}

/// What one VM needs to be called here.
pub struct Raw {
    main: *mut ffi::lua_State,
    /// The table of connections, in Luau's registry.
    conns: c_int,
    /// The function that was called last, and its place in the registry, which keeps it alive.
    function: Cell<(*const c_void, c_int)>,
}

impl Raw {
    pub fn new(lua: &Lua, conns: &Table) -> mlua::Result<Raw> {
        let (main, place) = (Cell::new(std::ptr::null_mut()), Cell::new(0));
        // SAFETY: protected by `exec_raw`, and the table is on top.
        unsafe {
            lua.exec_raw::<()>(conns, |state| {
                main.set(ffi::lua_mainthread(state));
                place.set(ffi::lua_ref(state, -1));
            })?;
        }
        Ok(Raw { main: main.get(), conns: place.get(), function: Cell::new((std::ptr::null(), 0)) })
    }

    /// Whether `bytes` and what they need can be pushed without being refused.
    pub fn has_room(&self, lua: &Lua, limit: usize, bytes: usize) -> bool {
        bytes <= BYTES_MAX && lua.used_memory() + bytes + ROOM < limit
    }

    /// Starts `function(conn, data, binary)` on a coroutine that has ended or has not begun. The caller has asked
    /// [`has_room`](Raw::has_room), and knows that the table of connections has the userdata at `slot`.
    pub fn start(
        &self,
        lua: &Lua,
        thread: &Thread,
        function: &Function,
        slot: usize,
        data: &[u8],
        binary: bool,
    ) -> Rest {
        let function = match self.place_of(lua, function) {
            Ok(place) => place,
            Err(error) => return Rest::Failed(error),
        };
        let state = thread.state();
        // SAFETY: the coroutine has no frame, so its stack is ours; the registry has both places; there is memory.
        let status = unsafe {
            ffi::lua_settop(state, 0);
            ffi::lua_rawgeti_(state, ffi::LUA_REGISTRYINDEX, function);
            ffi::lua_rawgeti_(state, ffi::LUA_REGISTRYINDEX, self.conns);
            ffi::lua_rawgeti_(state, -1, slot as c_int + 1);
            ffi::lua_remove(state, -2);
            ffi::lua_pushlstring_(state, data.as_ptr().cast(), data.len());
            ffi::lua_pushboolean(state, c_int::from(binary));
            ffi::lua_resume_(state, self.main, 3)
        };
        match status {
            // SAFETY: what it returned is on its stack, which nobody else looks at.
            ffi::LUA_OK => unsafe {
                ffi::lua_settop(state, 0);
                Rest::Done(MultiValue::new())
            },
            // SAFETY: the same of what it yielded; a light userdata is no object.
            ffi::LUA_YIELD => unsafe {
                let is_wait = ffi::lua_type(state, 1) == ffi::LUA_TLIGHTUSERDATA
                    && ffi::lua_touserdata(state, 1) as usize == TOKEN;
                ffi::lua_settop(state, 0);
                Rest::Yielded { is_wait }
            },
            ffi::LUA_ERRMEM => Rest::Failed(Error::MemoryError("not enough memory".to_owned())),
            _ => Rest::Failed(self.error_of(lua, state)),
        }
    }

    fn place_of(&self, lua: &Lua, function: &Function) -> mlua::Result<c_int> {
        let pointer = function.to_pointer();
        let (known, place) = self.function.get();
        if known == pointer {
            return Ok(place);
        }
        let new = Cell::new(0);
        // SAFETY: protected by `exec_raw`, and the function is on top; the old place is given back once.
        unsafe {
            lua.exec_raw::<()>(function, |state| {
                new.set(ffi::lua_ref(state, -1));
                if !known.is_null() {
                    ffi::lua_unref(state, place);
                }
            })?;
        }
        self.function.set((pointer, new.get()));
        Ok(new.get())
    }

    /// What a coroutine has raised, as mlua would tell it, a panic of the host too.
    fn error_of(&self, lua: &Lua, thread: *mut ffi::lua_State) -> Error {
        // SAFETY: protected by `exec_raw`, whose stack is ours; the error is on top of the coroutine's.
        let raised = unsafe {
            lua.exec_raw::<()>((), |state| {
                ffi::lua_xmove(thread, state, 1);
                if ffi::lua_type(state, -1) != ffi::LUA_TUSERDATA {
                    let text = ffi::luaL_tolstring(state, -1, std::ptr::null_mut());
                    ffi::luaL_traceback(state, thread, text, 0);
                }
                ffi::lua_error(state)
            })
        };
        raised.expect_err("an error was raised")
    }
}

/// An address of a userdata, and the connection whose it is.
type Place = (*const c_void, Rc<Conn>);

/// The connections of one VM by the addresses of their userdata, so that a method finds its own without mlua. Each is in
/// here as long as the table of connections holds its userdata, so that no address can have become another's.
#[derive(Default)]
pub struct Known {
    conns: RefCell<HashMap<*const c_void, Rc<Conn>, BuildHasherDefault<AddressHasher>>>,
    slots: RefCell<Vec<Option<Place>>>,
    is_installed: Cell<bool>,
    /// The tables of what is known about connections and of their states, in Luau's registry.
    facts: Cell<c_int>,
    states: Cell<c_int>,
    /// A panic of the host, on its way through Lua.
    panic: RefCell<Option<Box<dyn Any + Send>>>,
}

impl Known {
    /// The table of connections has this userdata from now on.
    pub fn add(&self, slot: usize, userdata: &AnyUserData, conn: &Rc<Conn>) {
        self.remove(slot);
        let (address, mut slots) = (userdata.to_pointer(), self.slots.borrow_mut());
        if slots.len() <= slot {
            slots.resize(slot + 1, None);
        }
        slots[slot] = Some((address, conn.clone()));
        self.conns.borrow_mut().insert(address, conn.clone());
    }

    /// It has no more.
    pub fn remove(&self, slot: usize) {
        if let Some((address, _)) = self.slots.borrow_mut().get_mut(slot).and_then(Option::take) {
            self.conns.borrow_mut().remove(&address);
        }
    }

    /// Whether the table has the userdata of this one.
    pub fn has(&self, conn: &Rc<Conn>) -> bool {
        let slots = self.slots.borrow();
        slots.get(conn.slot).and_then(Option::as_ref).is_some_and(|(_, known)| Rc::ptr_eq(known, conn))
    }

    /// The table, in Luau's registry, and the slot in it of what `conn.field` reads, if it is kept in one.
    ///
    /// # Safety
    ///
    /// The stack has `conn` and `field`; it pushes nothing, and panics nowhere.
    unsafe fn kept_field(&self, state: *mut ffi::lua_State, host: &Host) -> Option<(c_int, usize)> {
        let conns = self.conns.borrow();
        // SAFETY: an argument of another type has no such address; a string stays where it is while it is on the stack.
        let (conn, field) = unsafe { (conns.get(&ffi::lua_touserdata(state, 1).cast_const())?, bytes(state, 2)?) };
        match field {
            b"state" if host.context.phase.get() == Phase::Running && host.shelf.is_at(conn.slot, &host.states) => {
                Some((self.states.get(), conn.slot))
            }
            b"params" | b"query" | b"headers" | b"cookies" => Some((self.facts.get(), conn.slot)),
            b"user" if conn.renewals() == 0 => Some((self.facts.get(), conn.slot)),
            _ => None,
        }
    }

    /// Goes on with a panic of the host that Lua has let through.
    pub fn resume_panic(&self) {
        if let Some(panic) = self.panic.take() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// An address is as good as a hash of itself, but for its lowest bits, which are all the same.
#[derive(Default)]
pub struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn write(&mut self, _: &[u8]) {
        unreachable!("an address is an integer")
    }

    fn write_usize(&mut self, address: usize) {
        self.0 = (address as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Puts the short ways of `conn:send`, `conn:publish` and of what is read most before mlua's, for all connections of the
/// VM. `userdata` is one of them; `host` lives as long as the VM, whose methods hold it.
pub fn install(lua: &Lua, userdata: &AnyUserData, host: &Host) -> mlua::Result<()> {
    if host.known.is_installed.replace(true) {
        return Ok(());
    }
    let pointer: *const Host = host;
    // SAFETY: protected by `exec_raw`, and the three values are on the stack; the userdata's type has methods and fields,
    // so mlua has made it a metatable with `__namecall` and `__index`.
    unsafe {
        lua.exec_raw::<()>((userdata, &host.facts, host.states.tables()), |state| {
            host.known.states.set(ffi::lua_ref(state, -1));
            host.known.facts.set(ffi::lua_ref(state, -2));
            ffi::lua_getmetatable(state, -3);
            let metatable = ffi::lua_gettop(state);
            let was_readonly = ffi::lua_getreadonly(state, metatable);
            ffi::lua_setreadonly(state, metatable, 0);
            let ways: [(&CStr, ffi::lua_CFunction); 2] = [(c"__namecall", namecall), (c"__index", index)];
            for (name, way) in ways {
                ffi::lua_rawgetfield(state, metatable, name.as_ptr());
                ffi::lua_pushlightuserdata(state, pointer as *mut c_void);
                ffi::lua_pushcclosured(state, way, name.as_ptr(), 2);
                ffi::lua_rawsetfield(state, metatable, name.as_ptr());
            }
            ffi::lua_setreadonly(state, metatable, was_readonly);
            ffi::lua_settop(state, 0);
        })
    }
}

/// `conn:method(…)`. Its upvalues are mlua's own way and the host.
///
/// # Safety
///
/// Called by Luau as a C function, in a protected call. It holds nothing that is to be dropped where Luau may
/// throw, and lets no panic through.
unsafe extern "C-unwind" fn namecall(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: the upvalues are those of `install`; what is pushed is within a protected call.
    unsafe {
        let host = ffi::lua_touserdata(state, ffi::lua_upvalueindex(2)).cast::<Host>();
        let name = ffi::lua_namecallatom(state, std::ptr::null_mut());
        if !name.is_null() {
            let (host, name) = (&*host, CStr::from_ptr(name).to_bytes());
            match catch_unwind(AssertUnwindSafe(|| short(state, host, name))) {
                Ok(None) => {}
                Ok(Some(Ok(()))) => {
                    ffi::lua_pushboolean(state, 1);
                    ffi::lua_pushnil(state);
                    return 2;
                }
                Ok(Some(Err(why))) => {
                    let why = why.as_str();
                    ffi::lua_pushboolean(state, 0);
                    ffi::lua_pushlstring_(state, why.as_ptr().cast(), why.len());
                    return 2;
                }
                Err(panic) => {
                    *host.known.panic.borrow_mut() = Some(panic);
                    ffi::lua_pushnil(state);
                    ffi::lua_error(state);
                }
            }
        }
        by_mlua(state)
    }
}

/// Calls mlua's own way, the first upvalue, with all arguments.
///
/// # Safety
///
/// As its callers.
unsafe fn by_mlua(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: within a protected call, on a stack of its own.
    unsafe {
        let count = ffi::lua_gettop(state);
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
        ffi::lua_insert(state, 1);
        ffi::lua_call(state, count, ffi::LUA_MULTRET);
        ffi::lua_gettop(state)
    }
}

/// `conn.field`. Its upvalues are as those of `namecall`.
///
/// # Safety
///
/// As that.
unsafe extern "C-unwind" fn index(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: the upvalues are those of `install`, and the places those of its tables; within a protected call.
    unsafe {
        let host = &*ffi::lua_touserdata(state, ffi::lua_upvalueindex(2)).cast::<Host>();
        match host.known.kept_field(state, host) {
            // Made once, and kept in a table.
            Some((place, slot)) => {
                ffi::lua_rawgeti_(state, ffi::LUA_REGISTRYINDEX, place);
                ffi::lua_rawgeti_(state, -1, slot as c_int + 1);
                if place == host.known.facts.get() && ffi::lua_type(state, -1) == ffi::LUA_TTABLE {
                    ffi::lua_pushvalue(state, 2);
                    ffi::lua_rawget(state, -2);
                }
                if ffi::lua_type(state, -1) == ffi::LUA_TNIL {
                    ffi::lua_settop(state, 2);
                    return by_mlua(state);
                }
                1
            }
            None => by_mlua(state),
        }
    }
}

/// The short way; None where anything is unusual, and for every mistake, which mlua's way tells of.
///
/// # Safety
///
/// The caller's; it reads arguments and pushes nothing.
unsafe fn short(state: *mut ffi::lua_State, host: &Host, name: &[u8]) -> Option<Result<(), Why>> {
    let strings = match name {
        b"send" => 1,
        b"publish" => 2,
        _ => return None,
    };
    if host.context.phase.get() != Phase::Running {
        return None;
    }
    // SAFETY: an argument that is not there is `LUA_TNONE`. Strings stay where they are while they are on the stack.
    unsafe {
        let count = ffi::lua_gettop(state);
        let binary = match ffi::lua_type(state, strings + 2) {
            ffi::LUA_TNONE | ffi::LUA_TNIL => false,
            ffi::LUA_TBOOLEAN => ffi::lua_toboolean(state, strings + 2) != 0,
            _ => return None,
        };
        if count > strings + 2 || ffi::lua_type(state, 1) != ffi::LUA_TUSERDATA {
            return None;
        }
        let conns = host.known.conns.borrow();
        let conn = conns.get(&ffi::lua_touserdata(state, 1).cast_const())?;
        let first = bytes(state, 2)?;
        let hub = &host.context.hub;
        match strings {
            1 if binary || is_text(first) => Some(hub.send(conn, first, binary, false)),
            2 => {
                let (room, data) = (std::str::from_utf8(first).ok()?, bytes(state, 3)?);
                (binary || is_text(data)).then(|| hub.publish_of(conn, room, data, binary, &[conn.id]))
            }
            _ => None,
        }
    }
}

/// The bytes of a string argument.
///
/// # Safety
///
/// `place` is on the stack or beyond it, and what is lent is not used once the argument is gone.
unsafe fn bytes<'a>(state: *mut ffi::lua_State, place: c_int) -> Option<&'a [u8]> {
    // SAFETY: a string is not converted, so it stays where it is.
    unsafe {
        if ffi::lua_type(state, place) != ffi::LUA_TSTRING {
            return None;
        }
        let mut len = 0;
        let start = ffi::lua_tolstring(state, place, &mut len);
        Some(slice::from_raw_parts(start.cast(), len))
    }
}

fn is_text(data: &[u8]) -> bool {
    data.is_ascii() || std::str::from_utf8(data).is_ok()
}
