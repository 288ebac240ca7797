//! What of Lua a script may reach: the allow lists, the bounded versions of library functions, and the closing of a VM.
//!
//! The order is: `trim` a new VM, put the host's names into it, `close` it, and load the scripts' chunks in an
//! `environment`.

use memchr::memmem;
use mlua::{Lua, LuaOptions, LuaString, Result, StdLib, Table, Value, Vector, chunk::Compiler};

use crate::script::{args, compiled};

/// The global functions and values that stay. `print` and `require` are the host's own.
const GLOBALS: &[&str] = &[
    "_VERSION",
    "assert",
    "error",
    "getmetatable",
    "ipairs",
    "next",
    "pairs",
    "pcall",
    "rawequal",
    "rawget",
    "rawlen",
    "rawset",
    "select",
    "setmetatable",
    "tonumber",
    "tostring",
    "type",
    "typeof",
    "unpack",
    "xpcall",
];

/// The libraries that stay, and what stays of them. Functions of a later Luau come in only when somebody has
/// asked how long they may take and what they reach.
const LIBRARIES: &[(&str, &[&str])] = &[
    (
        "bit32",
        &[
            "arshift", "band", "bnot", "bor", "btest", "bxor", "byteswap", "countlz", "countrz", "extract", "lrotate",
            "lshift", "replace", "rrotate", "rshift",
        ],
    ),
    (
        "buffer",
        &[
            "copy",
            "create",
            "fill",
            "fromstring",
            "len",
            "readbits",
            "readf32",
            "readf64",
            "readi16",
            "readi32",
            "readi8",
            "readstring",
            "readu16",
            "readu32",
            "readu8",
            "tostring",
            "writebits",
            "writef32",
            "writef64",
            "writei16",
            "writei32",
            "writei8",
            "writestring",
            "writeu16",
            "writeu32",
            "writeu8",
        ],
    ),
    ("coroutine", &["close", "create", "isyieldable", "resume", "running", "status", "wrap", "yield"]),
    ("debug", &["traceback"]),
    (
        "math",
        &[
            "abs",
            "acos",
            "asin",
            "atan",
            "atan2",
            "ceil",
            "clamp",
            "cos",
            "cosh",
            "deg",
            "exp",
            "floor",
            "fmod",
            "frexp",
            "huge",
            "isfinite",
            "isinf",
            "isnan",
            "ldexp",
            "lerp",
            "log",
            "log10",
            "map",
            "max",
            "min",
            "modf",
            "noise",
            "pi",
            "pow",
            "rad",
            "random",
            "randomseed",
            "round",
            "sign",
            "sin",
            "sinh",
            "sqrt",
            "tan",
            "tanh",
        ],
    ),
    ("os", &["clock", "date", "difftime", "time"]),
    (
        "string",
        &[
            "byte", "char", "find", "format", "gmatch", "gsub", "len", "lower", "match", "pack", "packsize", "rep",
            "reverse", "split", "sub", "unpack", "upper",
        ],
    ),
    (
        "table",
        &[
            "clear", "clone", "concat", "create", "find", "foreach", "foreachi", "freeze", "getn", "insert",
            "isfrozen", "maxn", "move", "pack", "remove", "sort", "unpack",
        ],
    ),
    ("utf8", &["char", "charpattern", "codepoint", "codes", "len", "offset"]),
    (
        "vector",
        &[
            "abs",
            "angle",
            "ceil",
            "clamp",
            "create",
            "cross",
            "dot",
            "floor",
            "lerp",
            "magnitude",
            "max",
            "min",
            "normalize",
            "one",
            "sign",
            "zero",
        ],
    ),
];

/// A VM with the libraries that something stays of. With Luau's own pcall: the one that mlua has for letting panics through
/// could not be waited across. Without mlua's `require`, which costs a seventh of a VM's making and is taken away anyway.
pub fn new_vm() -> Result<Lua> {
    let libraries = StdLib::BIT
        | StdLib::BUFFER
        | StdLib::COROUTINE
        | StdLib::DEBUG
        | StdLib::MATH
        | StdLib::OS
        | StdLib::STRING
        | StdLib::TABLE
        | StdLib::UTF8
        | StdLib::VECTOR;
    Lua::new_with(libraries, LuaOptions::new().catch_rust_panics(true))
}

/// Takes away what scripts must not reach, and puts bounded versions in the place of library functions that no
/// interrupt ends. `script_memory` is the VM's limit in bytes.
pub fn trim(lua: &Lua, script_memory: usize) -> Result<()> {
    bound(lua, script_memory)?;
    let globals = lua.globals();
    keep(&globals, |name| GLOBALS.contains(&name) || LIBRARIES.iter().any(|(library, _)| *library == name))?;
    for (library, names) in LIBRARIES {
        if let Some(table) = globals.raw_get::<Option<Table>>(*library)? {
            keep(&table, |name| names.contains(&name))?;
        }
    }
    Ok(())
}

/// Makes everything that scripts can reach read-only. From now on only environments take new names.
pub fn close(lua: &Lua) -> Result<()> {
    if let Some(metatable) = lua.type_metatable::<LuaString>() {
        // Hidden besides being read-only: `getmetatable("")` is false.
        metatable.raw_set("__metatable", false)?;
    }
    if let Some(metatable) = lua.type_metatable::<Vector>() {
        metatable.set_readonly(true);
    }
    let globals = lua.globals();
    // It would be the one table that is not the script's own; `environment` gives another.
    globals.raw_set("_G", Value::Nil)?;
    if let Some(relay) = globals.raw_get::<Option<Table>>("relay")? {
        for pair in relay.pairs::<Value, Value>() {
            if let (_, Value::Table(table)) = pair? {
                table.set_readonly(true);
            }
        }
    }
    // Read-only libraries and string metatable, and the flag that lets compiled code trust the globals.
    lua.sandbox(true)
}

/// A table of globals for scripts' chunks: what is written stays in it, what is not there is read from the closed
/// globals. All chunks of a generation share one, as Lua programmers expect of globals.
///
/// Chunks must be loaded with it as their environment, and the VM's own globals be left alone: Luau resolves
/// `string.find` and the like once, when a chunk is loaded, from the VM's globals, so a script's global that
/// stood there would be frozen into the next chunk.
pub fn environment(lua: &Lua) -> Result<Table> {
    let environment = lua.create_table()?;
    open(lua, &environment)?;
    Ok(environment)
}

/// Makes an environment of an empty table.
pub fn open(lua: &Lua, environment: &Table) -> Result<()> {
    let metatable = lua.create_table()?;
    metatable.raw_set("__index", lua.globals())?;
    metatable.raw_set("__metatable", false)?;
    metatable.set_readonly(true);
    environment.raw_set("_G", environment)?;
    environment.set_metatable(Some(metatable))?;
    environment.set_safeenv(true);
    Ok(())
}

fn keep(table: &Table, is_kept: impl Fn(&str) -> bool) -> Result<()> {
    let mut gone = Vec::new();
    for pair in table.pairs::<Value, Value>() {
        let (key, _) = pair?;
        if !key.as_string().and_then(|key| key.to_str().ok().map(|key| is_kept(&key))).unwrap_or(false) {
            gone.push(key);
        }
    }
    for key in gone {
        table.raw_set(key, Value::Nil)?;
    }
    Ok(())
}

const BOUNDED: &str = include_str!("bounded.luau");

fn bound(lua: &Lua, script_memory: usize) -> Result<()> {
    // Without line information, and under this name, an error in the original does not point into the host's Lua;
    // not inlined, since errors are raised at a level of the call stack.
    let compiler = Compiler::new().set_optimization_level(1).set_debug_level(0);
    let chunk = compiled::load(lua, compiled::of(BOUNDED, &compiler)?, "[C]", None)?;
    chunk.call((script_memory / 4, lua.create_function(long_find)?))
}

/// `string.find` for plain text in a string of any length: the first and last byte; nil if it is not there; false if `text` is
/// a pattern after all.
fn long_find(
    lua: &Lua,
    (subject, text, init, plain): (LuaString, LuaString, Option<f64>, Value),
) -> Result<mlua::MultiValue> {
    use mlua::IntoLuaMulti;

    const SPECIALS: &[u8] = b"^$*+?.([%-";
    let (subject, text) = (subject.as_bytes(), text.as_bytes());
    let is_plain = !matches!(plain, Value::Nil | Value::Boolean(false));
    if !is_plain && text.iter().any(|b| SPECIALS.contains(b)) {
        return false.into_lua_multi(lua);
    }
    // As in Lua: from 1, below 0 from the end.
    let init = init.unwrap_or(1.0) as i64;
    let length = i64::try_from(subject.len()).map_err(|_| args::mistake("string.find", "the string is too long"))?;
    let start = if init < 0 { init.saturating_add(length) } else { init - 1 };
    let start = usize::try_from(start).unwrap_or(0);
    let found = subject.get(start..).and_then(|rest| memmem::find(rest, &text)).map(|at| start + at);
    match found {
        Some(at) => (at + 1, at + text.len()).into_lua_multi(lua),
        None => Value::Nil.into_lua_multi(lua),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        time::{Duration, Instant},
    };

    use mlua::Function;
    use proptest::prelude::*;

    use mlua::chunk::ChunkMode;

    use super::*;
    use crate::script::api::tests::{test_context, test_lua};

    fn run(lua: &Lua, source: &str) -> Result<Value> {
        lua.load(source).set_name("=test").set_environment(environment(lua).unwrap()).eval()
    }

    /// Everything that can be reached from the globals, as a script sees them.
    fn reachable(lua: &Lua) -> BTreeSet<String> {
        fn walk(table: &Table, path: &str, names: &mut BTreeSet<String>) {
            for pair in table.pairs::<Value, Value>() {
                let (key, value) = pair.unwrap();
                let name = format!("{path}{}", key.to_string().unwrap());
                match value {
                    Value::Table(table) => walk(&table, &format!("{name}."), names),
                    _ => assert!(names.insert(name)),
                }
            }
        }
        let mut names = BTreeSet::new();
        // What stands behind an environment is the VM's globals, which are themselves behind a table.
        let behind: Table = lua.globals().metatable().unwrap().raw_get("__index").unwrap();
        walk(&behind, "", &mut names);
        names
    }

    #[test]
    fn a_script_reaches_these_names_and_no_others() {
        let names: Vec<String> = reachable(&test_lua(&test_context())).into_iter().collect();
        let expected = "
            _VERSION assert
            bit32.arshift bit32.band bit32.bnot bit32.bor bit32.btest bit32.bxor bit32.byteswap bit32.countlz bit32.countrz
            bit32.extract bit32.lrotate bit32.lshift bit32.replace bit32.rrotate bit32.rshift
            buffer.copy buffer.create buffer.fill buffer.fromstring buffer.len buffer.readbits buffer.readf32 buffer.readf64
            buffer.readi16 buffer.readi32 buffer.readi8 buffer.readstring buffer.readu16 buffer.readu32 buffer.readu8
            buffer.tostring buffer.writebits buffer.writef32 buffer.writef64 buffer.writei16 buffer.writei32 buffer.writei8
            buffer.writestring buffer.writeu16 buffer.writeu32 buffer.writeu8
            coroutine.close coroutine.create coroutine.isyieldable coroutine.resume coroutine.running coroutine.status
            coroutine.wrap coroutine.yield
            debug.traceback error getmetatable ipairs
            math.abs math.acos math.asin math.atan math.atan2 math.ceil math.clamp math.cos math.cosh math.deg math.exp
            math.floor math.fmod math.frexp math.huge math.isfinite math.isinf math.isnan math.ldexp math.lerp math.log
            math.log10 math.map math.max math.min math.modf math.noise math.pi math.pow math.rad math.random math.randomseed
            math.round math.sign math.sin math.sinh math.sqrt math.tan math.tanh
            next os.clock os.date os.difftime os.time pairs pcall print rawequal rawget rawlen rawset
            relay.base64.decode relay.base64.encode relay.config.secret
            relay.crypto.equals relay.crypto.hmac_sha1 relay.crypto.hmac_sha256 relay.crypto.md5 relay.crypto.random_bytes
            relay.crypto.sha1 relay.crypto.sha256 relay.crypto.uuid
            relay.env relay.hex.decode relay.hex.encode
            relay.json.array relay.json.decode relay.json.encode relay.json.null relay.jwt.sign relay.jwt.verify
            relay.log.debug relay.log.error relay.log.info relay.log.warn
            relay.monotonic relay.now relay.rate relay.token
            select setmetatable
            string.byte string.char string.find string.format string.gmatch string.gsub string.len string.lower string.match
            string.pack string.packsize string.rep string.reverse string.split string.sub string.unpack string.upper
            table.clear table.clone table.concat table.create table.find table.foreach table.foreachi table.freeze table.getn
            table.insert table.isfrozen table.maxn table.move table.pack table.remove table.sort table.unpack
            tonumber tostring type typeof unpack
            utf8.char utf8.charpattern utf8.codepoint utf8.codes utf8.len utf8.offset
            vector.abs vector.angle vector.ceil vector.clamp vector.create vector.cross vector.dot vector.floor vector.lerp
            vector.magnitude vector.max vector.min vector.normalize vector.one vector.sign vector.zero
            xpcall
        ";
        assert_eq!(names, expected.split_whitespace().collect::<Vec<&str>>());
    }

    #[test]
    fn the_known_escapes_raise_or_find_nothing() {
        // Each is an expression (nil or false is a pass) or a statement that must raise.
        let escapes = [
            // ── libraries that are not there ──
            "return io",
            "return package",
            "return require",
            "return dofile",
            "return loadfile",
            "return load",
            "return loadstring",
            "return os.execute or os.getenv or os.exit or os.remove or os.rename or os.tmpname or os.setlocale",
            "return getfenv or setfenv",
            "return newproxy",
            "return collectgarbage or gcinfo",
            "return debug.info or debug.getinfo or debug.getlocal or debug.setmetatable or debug.getregistry or debug.sethook",
            "return debug.getupvalue or debug.setupvalue or debug.upvaluejoin or debug.getmetatable or debug.setfenv",
            "return string.dump",
            "return jit or ffi or module",
            "return coroutine.finally",
            "loadstring('return 1')()",
            "load('return 1')()",
            "loadstring('\\27Lua')()",
            "return getfenv(0)",
            "setfenv(1, {})",
            "return newproxy(true)",
            "io.popen('id')",
            "os.execute('id')",
            "package.loadlib('libc.so.6', 'system')",
            "require('os')",
            // ── metatables that are shared ──
            "return getmetatable('')",
            "getmetatable('').__index = function() return 1 end",
            "getmetatable('').__index.upper = nil",
            "setmetatable('', {})",
            "return getmetatable(_G)",
            "setmetatable(_G, {})",
            "getmetatable(vector.create(1, 2, 3)).__index = nil",
            "getmetatable(relay.json.array({})).__index = _G",
            "rawset(getmetatable(relay.json.array({})), 'x', 1)",
            // ── libraries that are shared ──
            "string.upper = nil",
            "string.evil = 1",
            "table.insert = print",
            "math.huge = 1",
            "coroutine.wrap = nil",
            "relay.json = nil",
            "relay.json.decode = nil",
            "relay.config.secret = 1",
            "relay.evil = 1",
            "rawset(string, 'upper', nil)",
            "rawset(relay, 'evil', 1)",
            "rawset(relay.crypto, 'equals', function() return true end)",
            "setmetatable(string, { __index = function() end })",
            "setmetatable(relay, {})",
            "table.clear(string)",
            "table.insert(string, 1)",
            "table.move({ 1 }, 1, 1, 1, string)",
            "table.sort(relay)",
            "for k in string do string[k] = nil end",
            // ── ways around ──
            "return select(2, pcall(error)) or nil",
            "local ok, e = pcall(string.rep) return type(e) ~= 'string'",
            "return (xpcall(error, function() return getfenv end))",
            "coroutine.wrap(function() string.evil = 1 end)()",
            "local t = setmetatable({}, { __index = string }) rawset(t, 'x', 1) return string.x",
            "local t = table.clone(string) t.upper = nil return string.upper == nil",
            "print = nil return (function() return print end)() ~= nil and not print",
            "return rawget(_G, 'string')",
            "local env = _G env.string = nil return rawget(env, 'string')",
            "setmetatable({}, { __gc = function() string.evil = 1 end }) return string.evil",
        ];
        for escape in escapes {
            let lua = test_lua(&test_context());
            match run(&lua, escape) {
                Ok(Value::Nil | Value::Boolean(false)) | Err(_) => {}
                Ok(value) => panic!("{escape} gave {value:?}"),
            }
            // Whatever it did, the next chunk finds its libraries whole.
            run(&lua, "assert(('x'):upper() == 'X' and string.evil == nil and relay.json.encode({}) == '{}' and math.huge > 1)").unwrap();
        }
        let statements = escapes.iter().filter(|escape| !escape.contains("return"));
        for statement in statements {
            assert!(run(&test_lua(&test_context()), statement).is_err(), "{statement} did not raise");
        }
    }

    #[test]
    fn bytecode_is_not_loaded_as_text() {
        let lua = test_lua(&test_context());
        let bytecode = Compiler::new().compile("return 1").unwrap();
        assert!(lua.load(bytecode).set_mode(ChunkMode::Text).into_function().is_err());
    }

    #[test]
    fn globals_are_shared_by_the_chunks_of_an_environment_and_by_no_others() {
        let lua = test_lua(&test_context());
        let environment = environment(&lua).unwrap();
        let load = |source: &str| lua.load(source).set_environment(environment.clone()).into_function().unwrap();
        load("config = { limit = 1 }").call::<()>(()).unwrap();
        let read = load("return config.limit, _G.config == config, string.upper('a')");
        assert_eq!(read.call::<(i32, bool, String)>(()).unwrap(), (1, true, "A".to_owned()));
        // Not the value that was there when the chunk was loaded.
        load("config = { limit = 2 }").call::<()>(()).unwrap();
        assert_eq!(read.call::<i32>(()).unwrap(), 2);
        assert!(matches!(run(&lua, "return config"), Ok(Value::Nil)));
    }

    #[test]
    fn a_mistake_is_told_at_the_line_of_the_script() {
        let check = |source: &str, message: &str| {
            let lua = test_lua(&test_context());
            let error: String =
                run(&lua, &format!("return select(2, pcall(function() {source} end))")).unwrap().to_string().unwrap();
            assert_eq!(error, message, "{source}");
        };
        check("string.find(nil, 'x')", "test:1: invalid argument #1 to 'find' (string expected, got nil)");
        check("string.gsub('x', {}, '')", "test:1: invalid argument #2 to 'gsub' (string expected, got table)");
        check(
            "local s = ('x'):rep(1e9)",
            "test:1: string.rep: the result would have 1000000000 bytes; there may be 67108864 (a quarter of limits.script_memory)",
        );
        check("table.concat(1)", "test:1: invalid argument #1 to 'concat' (table expected, got number)");
        check("table.sort({}, 1)", "test:1: invalid argument #2 to 'sort' (function expected, got number)");
        check("string.format(('x'):rep(65537))", "test:1: string.format: the format may have 65536 bytes, got 65537");
        check("table.move({}, 1, 2^31, 1)", "test:1: invalid argument #3 to 'move' (too many elements to move)");
        check("('x'):find('[')", "malformed pattern (missing ']')");
    }

    /// A VM like a script's, where an interrupt raises once `budget` has passed.
    fn with_budget(budget: Duration) -> Lua {
        let lua = test_lua(&test_context());
        lua.set_memory_limit(test_context().app.limits.script_memory).unwrap();
        let start = Instant::now();
        lua.set_interrupt(move |_| {
            if start.elapsed() > budget {
                Err(mlua::Error::runtime("over budget"))
            } else {
                Ok(mlua::VmState::Continue)
            }
        });
        lua
    }

    #[test]
    fn no_library_function_outlasts_the_budget_by_much() {
        // Generous for a debug build on a busy machine; the originals take from seconds to for ever.
        const BUDGET: Duration = Duration::from_millis(200);
        const LONGEST: Duration = Duration::from_millis(2_000);
        let scripts = [
            "table.move({}, 1, 2^31 - 2, 2)",
            "table.move({}, 1, 2^31 - 2, 1)",
            "local t = {} for i = 1, 1e5 do t[i * 3] = i end table.move(t, 1, 2^30, 5, { a = 1 })",
            "local s = ('a'):rep(2^20) while true do s:find(('a'):rep(2^19) .. 'b', 1, true) end",
            "local s = ('a'):rep(2^20) while true do s:find(('a'):rep(2^19) .. 'b') end",
            "local s = ('a'):rep(2^20) while true do s:split(('a'):rep(2^19) .. 'b') end",
            "local s = ('a'):rep(2^24) s:split('')",
            "local s = ('a'):rep(2^20) s:find('[' .. ('b'):rep(2^20) .. ']*')",
            "local s = ('a'):rep(2^18) s:match('[' .. ('b'):rep(100) .. 'a]*[' .. ('b'):rep(100) .. 'a]*c')",
            "local s = ('a'):rep(2^16) s:find('.-.-.-.-.-.-b')",
            "local s = ('a'):rep(2^26) s:find('^%w*$')",
            "for x in ('a'):rep(2^26):gmatch('%w*') do end",
            "('a'):rep(2^26):gsub('%w*', '')",
            "('a'):rep(2^22):gsub('a', ('b'):rep(2^20))",
            "local t = {} for i = 1, 2^20 do t[i] = (i * 7919) % 1048573 end table.sort(t)",
            "local t = {} for i = 1, 2^12 do t[i] = ('a'):rep(2^14) .. i end while true do table.sort(t) end",
            "local t = table.create(2^20, 'abc') table.sort(t, rawequal)",
            "local s = ('a'):rep(2^20) local t = table.create(1000, s) table.sort(t, string.upper)",
            "local t = setmetatable({}, { __lt = function() return false end }) local l = table.create(2^16, t) table.sort(l)",
            "local t = table.create(4 * 2^20, 1 / 3) table.concat(t)",
            "table.concat(table.create(2^22, 'abcdefgh'), ('x'):rep(100))",
            "('x'):rep(2^40)",
            "while true do local s = ('x'):rep(2^25) end",
            "string.format(('%.99f'):rep(10000), table.unpack(table.create(10000, 1e300)))",
            "string.format(('%s'):rep(10000), table.unpack(table.create(10000, ('a'):rep(2^16))))",
            "string.pack(('b'):rep(2^26))",
            "string.pack('c1000000000', '')",
            "os.date(('%c'):rep(2^20))",
            "table.create(1e9)",
            "table.create(1e7, 1)",
            "buffer.create(2^30 - 1)",
            "while true do local t = table.create(1e6, 1) table.insert(t, 1, 2) end",
            "local eq = {} eq.__eq = table.find local t = setmetatable({}, eq) for _ = 1, 60 do t = setmetatable({ t, t, setmetatable({}, eq) }, eq) end table.find(t, setmetatable({ t }, eq))",
            "local t = { table.foreach } for _ = 1, 90 do t = { [t] = table.foreach, [{ [t] = table.foreach }] = table.foreach } end table.foreach(t, table.foreach)",
            "local t = {} for i = 1, 2^20 do t[i] = 1 end while true do table.foreachi(t, rawequal) end",
            "while true do ('x'):rep(2^22):upper() end",
            "utf8.len(('\\u{1f600}'):rep(2^20 * 10))",
            "tonumber(('9'):rep(2^26))",
            "while true do pcall(function() while true do end end) end",
            "setmetatable({}, { __index = function(t, k) return t[k] end }).x = nil local t = {} t.__index = t setmetatable(t, t) return t.x",
        ];
        for script in scripts {
            let lua = with_budget(BUDGET);
            let start = Instant::now();
            let result = run(&lua, script);
            let took = start.elapsed();
            assert!(took < LONGEST, "{script} took {took:?} ({result:?})");
        }
    }

    /// Calls the original and the bounded version of a library function with the same arguments.
    struct Both {
        original: Lua,
        bounded: Lua,
    }

    impl Both {
        fn new() -> Both {
            Both { original: Lua::new(), bounded: test_lua(&test_context()) }
        }

        /// `source` gives the result as a string.
        fn agree(
            &self,
            source: &str,
            arguments: impl mlua::IntoLuaMulti + Clone,
        ) -> std::result::Result<(), TestCaseError> {
            let of = |lua: &Lua| -> std::result::Result<String, String> {
                let function: Function = lua.load(source).set_environment(lua.globals()).into_function().unwrap();
                function
                    .call(arguments.clone())
                    .map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())
            };
            let (original, bounded) = (of(&self.original), of(&self.bounded));
            prop_assert_eq!(original.is_ok(), bounded.is_ok(), "{:?} and {:?}", original, bounded);
            if original.is_ok() {
                prop_assert_eq!(original, bounded);
            }
            Ok(())
        }
    }

    /// Gives all results, and the table that was worked on, as one string.
    const SHOW: &str = r##"
        local function show(...)
            local parts = {}
            for i = 1, select("#", ...) do
                local value = select(i, ...)
                if type(value) == "table" then
                    local keys, items = {}, {}
                    for k in value do keys[#keys + 1] = k end
                    for i = 2, #keys do
                        local j, k = i - 1, keys[i]
                        while j > 0 and tostring(keys[j]) > tostring(k) do keys[j + 1] = keys[j] j -= 1 end
                        keys[j + 1] = k
                    end
                    for i, k in keys do items[i] = tostring(k) .. "=" .. tostring(value[k]) .. ";" end
                    local all = ""
                    for _, item in items do all ..= item end
                    value = "{" .. all .. "}"
                end
                parts[i] = tostring(value)
            end
            local all = select("#", ...) .. ":"
            for _, part in parts do all ..= part .. "|" end
            return all
        end
    "##;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn strings_are_searched_as_by_the_originals(
            subject in "[ab.%\\-]{0,12}", pattern in "[ab.%+*\\-()\\[\\]^$]{0,5}", init in prop::option::of(-15_i32..15), plain in any::<bool>(),
            times in 1_usize..4,
        ) {
            let both = Both::new();
            for times in [times, times * 100_000] {
                let source = format!("{SHOW} local s, p, init, plain, times = ... s = s:rep(times) return show(string.find(s, p, init, plain))");
                // The long subjects only with patterns that end soon.
                if times < 4 || plain || !pattern.contains(['*', '+', '-', '(', '[', '%']) {
                    both.agree(&source, (&*subject, &*pattern, init, plain, times))?;
                }
            }
            let source = format!("{SHOW} local s, p, init = ... local all = {{}} for a in s:gmatch(p) do all[#all + 1] = a end return show(s:match(p, init), all)");
            both.agree(&source, (&*subject, &*pattern, init))?;
            let source = format!("{SHOW} local s, p, n = ... return show(s:gsub(p, '<%0>', n))");
            both.agree(&source, (&*subject, &*pattern, init))?;
        }

        #[test]
        fn strings_are_split_and_repeated_as_by_the_originals(
            subject in "[ab,]{0,12}", separator in prop::option::of("[ab,]{0,3}"), times in 0_i32..5,
        ) {
            let both = Both::new();
            let source = format!("{SHOW} local s, sep, n = ... return show(s:split(sep), s:rep(n))");
            both.agree(&source, (&*subject, separator.clone(), times))?;
        }

        #[test]
        fn tables_are_moved_joined_and_sorted_as_by_the_originals(
            list in prop::collection::vec(-50_i32..50, 0..20), f in -3_i32..12, e in -3_i32..20, t in -3_i32..20, other in any::<bool>(),
            long in 65_500_i32..200_000,
        ) {
            let both = Both::new();
            let source = format!("{SHOW} local l, f, e, t, other = ... local b = other and {{ 7, 8, 9 }} or nil return show(table.move(l, f, e, t, b), l, b)");
            both.agree_with_list(&source, &list, (f, e, t, other))?;
            let source = format!("{SHOW} local l, i, j = ... return show(table.concat(l, ','), table.concat(l, ',', i, j))");
            both.agree_with_list(&source, &list, (f, e))?;
            let source = format!("{SHOW} local l, v, i = ... return show(table.find(l, v), table.find(l, v, i))");
            both.agree_with_list(&source, &list, (f, e))?;
            let source = format!("{SHOW} local l, v = ... local n = 0 table.sort(l) local s = show(l) table.sort(l, function(a, b) return a > b end) return s .. show(l)");
            both.agree_with_list(&source, &list, (f, e))?;
            let source = "local l, f, t, long = ... for i = 1, long do l[i] = i end table.move(l, f, long, t) return table.concat(l, ',', 1, 70000)";
            both.agree_with_list(source, &list, (f.max(1), t.max(1), long))?;
            let source = "local l, f, t, long = ... for i = 1, long do l[i] = (i * 7919) % 104729 end table.sort(l) return table.concat(l, ',')";
            if long % 16 == 0 {
                both.agree_with_list(source, &list, (f, t, long))?;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6))]

        #[test]
        fn long_strings_are_split_as_by_the_original(subject in "[ab,]{4,12}", separator in "[ab,]{1,3}") {
            // Compared by what is cheap to show.
            let source = "
                local s, separator = ...
                local parts = s:rep(2400000 // #s):split(separator)
                local sum = 0
                for i, part in parts do sum += #part * (i % 7) end
                return `{#parts} {sum} {parts[1]} {parts[#parts]}`
            ";
            Both::new().agree(source, (&*subject, &*separator))?;
        }
    }

    impl Both {
        fn agree_with_list(
            &self,
            source: &str,
            list: &[i32],
            arguments: impl mlua::IntoLuaMulti + Clone,
        ) -> std::result::Result<(), TestCaseError> {
            let items = list.iter().map(i32::to_string).collect::<Vec<String>>().join(",");
            self.agree(&format!("return (function(...) {source} end)({{{items}}}, ...)"), arguments)
        }
    }
}
