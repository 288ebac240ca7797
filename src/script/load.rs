//! From a folder to a checked chunk: reads a script and the modules that it requires, and names what is wrong.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mlua::{
    Function, Lua, Table, Value,
    chunk::{ChunkMode, Compiler},
};

use crate::script::{
    args, compiled,
    error::{CARRIED, ScriptError},
    sandbox,
};

/// The callbacks that a script may have.
pub const CALLBACKS: [&str; 14] = [
    "authenticate",
    "on_open",
    "on_message",
    "on_close",
    "on_error",
    "on_request",
    "on_load",
    "on_start",
    "on_stop",
    "on_event",
    "on_alarm",
    "on_revoked",
    "migrate",
    "migrate_conn",
];

/// The libraries that the binary carries, by what follows `moonwire.` in their names.
const LIBRARIES: [(&str, &str); 3] = [
    ("router", include_str!("lib/router.lua")),
    ("shape", include_str!("lib/shape.lua")),
    (TEST, include_str!("lib/test.lua")),
];

/// The one that only tests have.
const TEST: &str = "test";

/// The files of one generation, each read once: all instances load the very same text.
#[derive(Debug)]
pub struct Sources {
    script: PathBuf,
    tests: bool,
    files: Mutex<BTreeMap<PathBuf, Arc<[u8]>>>,
    /// Modules that were required and are not there; when one comes, that is a change.
    missing: Mutex<Vec<PathBuf>>,
}

impl Sources {
    /// `script` as the config names it: it is also the name that errors show.
    pub fn new(script: &Path) -> Sources {
        Sources { script: script.to_owned(), tests: false, files: Mutex::default(), missing: Mutex::default() }
    }

    /// The same of a file of tests.
    pub fn of_tests(file: &Path) -> Sources {
        Sources { tests: true, ..Sources::new(file) }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Arc<[u8]>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn script(&self) -> &Path {
        &self.script
    }

    /// The folder that `require` searches.
    pub fn folder(&self) -> &Path {
        self.script.parent().unwrap_or(Path::new(""))
    }

    /// The files that have been read, or looked for in vain.
    pub fn paths(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = self.files().keys().cloned().collect();
        paths.extend(self.missing.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        paths
    }

    /// The files whose content differs from what was read, that cannot be read any more, or that have come.
    pub fn changed(&self) -> Vec<PathBuf> {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let come = missing.iter().filter(|path| path.is_file()).cloned();
        let files = self.files();
        let differs = |(path, text): &(&PathBuf, &Arc<[u8]>)| std::fs::read(path).map_or(true, |now| now != ***text);
        files.iter().filter(differs).map(|(path, _)| path.clone()).chain(come).collect()
    }

    fn read(&self, path: &Path) -> Result<Arc<[u8]>, std::io::Error> {
        let mut files = self.files();
        if let Some(text) = files.get(path) {
            return Ok(text.clone());
        }
        let text: Arc<[u8]> = std::fs::read(path)?.into();
        files.insert(path.to_owned(), text.clone());
        Ok(text)
    }

    /// The file of the module `name`, or what is wrong with the name.
    fn locate(&self, name: &str) -> Result<PathBuf, String> {
        let is_token =
            |token: &str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        if !name.split('.').all(is_token) {
            return Err(format!(
                "require(\"{name}\"): a module's name is letters, digits, _ and - with dots between folders"
            ));
        }
        if name == "moonwire" || name.starts_with("moonwire.") {
            if name == "moonwire.test" && !self.tests {
                return Err(format!(
                    "require(\"{name}\"): that is for files of tests (*_test.lua), which `moonwire test` runs"
                ));
            }
            let library = name.strip_prefix("moonwire.").filter(|library| library_text(library).is_some());
            return library.map(|library| PathBuf::from(chunk_name(library))).ok_or_else(|| {
                let there_are: Vec<String> = LIBRARIES
                    .iter()
                    .filter(|(name, _)| self.tests || *name != TEST)
                    .map(|(name, _)| format!("moonwire.{name}"))
                    .collect();
                let there_are = there_are.join(", ");
                format!(
                    "require(\"{name}\"): this release of moonwire has no library of that name (it has {there_are})"
                )
            });
        }
        let folder = self.folder();
        let path = name.replace('.', "/");
        let places = [".lua", ".luau", "/init.lua", "/init.luau"].map(|end| folder.join(format!("{path}{end}")));
        let Some(found) = places.iter().find(|place| place.is_file()) else {
            self.missing.lock().unwrap_or_else(PoisonError::into_inner).extend(places.iter().cloned());
            return Err(format!(
                "require(\"{name}\"): there is no {} and no {}",
                places[0].display(),
                places[2].display()
            ));
        };
        let inside = |folder: &Path| Some(found.canonicalize().ok()?.starts_with(folder.canonicalize().ok()?));
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        if inside(folder) != Some(true) {
            return Err(format!("require(\"{name}\"): {} leads out of the script's folder", found.display()));
        }
        Ok(found.clone())
    }

    fn compile(&self, lua: &Lua, path: &Path, environment: &Table) -> mlua::Result<Function> {
        if let Some((library, text)) = LIBRARIES.iter().find(|(name, _)| Path::new(&chunk_name(name)) == path) {
            // In an environment of its own: what a script defines must not change a library.
            let environment = sandbox::environment(lua)?;
            let bytecode = compiled::of(text, &Compiler::new())?;
            return compiled::load(lua, bytecode, &chunk_name(library), Some(environment));
        }
        let text =
            self.read(path).map_err(|error| mlua::Error::external(ScriptError::load(cannot_read(path, &error))))?;
        // What is no Lua is compiled again, for the error with its place.
        if let Some(bytecode) = compiled::of_script(&text) {
            return compiled::load(lua, &bytecode, &path.display().to_string(), Some(environment.clone()));
        }
        lua.load(&*text)
            .set_name(format!("={}", path.display()))
            .set_mode(ChunkMode::Text)
            .set_environment(environment.clone())
            .into_function()
    }
}

fn library_text(name: &str) -> Option<&'static str> {
    LIBRARIES.iter().find(|(library, _)| *library == name).map(|(_, text)| *text)
}

/// What a carried library is called in errors, and no file can be: the names of those end in `.lua` or `.luau`.
fn chunk_name(library: &str) -> String {
    format!("{CARRIED}.{library}]")
}

fn cannot_read(path: &Path, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("{}: there is no such file; correct `script` of this app in the config", path.display())
        }
        _ => format!("{}: cannot be read: {error}", path.display()),
    }
}

/// What `require` needs of the host; the rest of it is in the prelude.
pub(super) fn register(lua: &Lua, host: &Table, sources: &Arc<Sources>, environment: &Table) -> mlua::Result<()> {
    let from = sources.clone();
    host.set(
        "locate",
        lua.create_function(move |lua, name: Value| {
            let name = args::string("require(name)", "name", &name)?;
            match from.locate(&name.to_string_lossy()) {
                Ok(path) => lua.create_string(path.as_os_str().as_encoded_bytes()),
                Err(why) => Err(mlua::Error::runtime(why)),
            }
        })?,
    )?;
    let is_carried = |_: &Lua, key: mlua::LuaString| {
        Ok(key.as_bytes().starts_with(CARRIED.as_bytes()) && key.as_bytes().ends_with(b"]"))
    };
    host.set("is_carried", lua.create_function(is_carried)?)?;
    let (from, environment) = (sources.clone(), environment.clone());
    let compile = move |lua: &Lua, path: mlua::LuaString| from.compile(lua, Path::new(&*path.to_str()?), &environment);
    host.set("compile", lua.create_function(compile)?)
}

/// The script's own chunk.
pub(super) fn main_chunk(lua: &Lua, sources: &Sources, environment: &Table) -> Result<Function, ScriptError> {
    let text =
        sources.read(&sources.script).map_err(|error| ScriptError::load(cannot_read(&sources.script, &error)))?;
    drop(text);
    sources.compile(lua, &sources.script, environment).map_err(|error| ScriptError::from_lua(&error))
}

/// The callbacks of the module that a script returned, in the order of [`CALLBACKS`], and its version.
pub struct Module {
    pub callbacks: [Option<Function>; CALLBACKS.len()],
    pub version: i64,
}

/// Checks what a script returned.
pub(super) fn check(sources: &Sources, returned: &Value) -> Result<Module, ScriptError> {
    let Value::Table(table) = returned else {
        return Err(ScriptError::load(format!(
            "{}: a script must return a table with its callbacks (end it with `return app`), got {}",
            sources.script.display(),
            args::type_name(returned)
        )));
    };
    let mut module = Module { callbacks: Default::default(), version: 1 };
    let mut almost = None;
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|error| ScriptError::from_lua(&error))?;
        let Some(name) = key.as_string().map(|key| key.to_string_lossy()) else { continue };
        if let Some(place) = CALLBACKS.iter().position(|known| *known == name) {
            let Value::Function(function) = value else {
                return Err(mistake(
                    sources,
                    &name,
                    &format!("the callback `{name}` must be a function, got {}", args::type_name(&value)),
                ));
            };
            module.callbacks[place] = Some(function);
        } else if name == "version" {
            module.version = match value {
                Value::Integer(version) => version,
                Value::Number(version) if version.fract() == 0.0 && version.abs() < 9e15 => version as i64,
                other => {
                    return Err(mistake(
                        sources,
                        "version",
                        &format!("`version` must be a whole number, got {}", args::type_name(&other)),
                    ));
                }
            };
        } else if name.starts_with("on_") {
            let nearest = CALLBACKS.iter().max_by(|a, b| strsim::jaro(a, &name).total_cmp(&strsim::jaro(b, &name)));
            let nearest = nearest.expect("the list is not empty");
            return Err(mistake(sources, &name, &format!("there is no callback `{name}`; did you mean `{nearest}`?")));
        } else if let Some(meant) = meant_by(&name).filter(|_| value.is_function()) {
            // Scripts may have functions of their own, but this one looks like a slip.
            let slip = mistake(
                sources,
                &name,
                &format!("`{name}` is no callback and is never called; did you mean `{meant}`?"),
            );
            tracing::warn!("{slip}");
            almost = Some(slip);
        }
    }
    if module.callbacks.iter().all(Option::is_none) {
        if let Some(slip) = almost {
            return Err(slip);
        }
        return Err(ScriptError::load(format!(
            "{}: the script has no callback; give it at least one of {}",
            sources.script.display(),
            CALLBACKS.join(", ")
        )));
    }
    Ok(module)
}

/// The callback that a function of this name was probably meant to be.
fn meant_by(name: &str) -> Option<&'static str> {
    let plain = |name: &str| name.replace('_', "").to_lowercase();
    let near = |known: &&&str| plain(known) == plain(name) || strsim::jaro_winkler(known, name) > 0.95;
    CALLBACKS.iter().find(near).copied()
}

/// A mistake about the field `name`, at the first line of the script that says that name.
fn mistake(sources: &Sources, name: &str, what: &str) -> ScriptError {
    let text = sources.files().get(&sources.script).cloned().unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().position(|line| line.contains(name)).map_or(1, |line| line + 1);
    ScriptError::load(format!("{}:{line}: {what}", sources.script.display()))
}
