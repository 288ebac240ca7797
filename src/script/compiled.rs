//! Lua that is compiled once, and loaded into many VMs: texts of this binary, and scripts, which all instances of a
//! generation, and the next generation if they have not changed, have alike.
//!
//! Scripts never load bytecode; what is loaded here was text a moment ago.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use mlua::{
    Function, Lua, Result, Table,
    chunk::{ChunkMode, Compiler},
};

/// By the text's place in the binary.
static COMPILED: LazyLock<Mutex<BTreeMap<usize, &'static [u8]>>> = LazyLock::new(Mutex::default);

/// The bytecode of a text of this binary.
pub fn of(text: &'static str, compiler: &Compiler) -> Result<&'static [u8]> {
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let key = text.as_ptr() as usize;
    if let Some(bytecode) = compiled.get(&key) {
        return Ok(bytecode);
    }
    // For good: there are as many as there are texts in the binary.
    let bytecode: &'static [u8] = Box::leak(compiler.compile(text)?.into_boxed_slice());
    compiled.insert(key, bytecode);
    Ok(bytecode)
}

/// Scripts that are remembered; then all are forgotten, and compiled again when they are next loaded.
const SCRIPTS_MAX: usize = 256;
/// A longer one is compiled each time.
const SCRIPT_BYTES_MAX: usize = 256 * 1024;

/// By the text itself, so that nothing can be out of date.
static SCRIPTS: LazyLock<Mutex<HashMap<Text, Bytecode>>> = LazyLock::new(Mutex::default);

type Text = Arc<[u8]>;
type Bytecode = Arc<[u8]>;

/// The bytecode of a script; None if it is no Lua.
pub fn of_script(text: &Text) -> Option<Bytecode> {
    let known = SCRIPTS.lock().unwrap_or_else(PoisonError::into_inner).get(text).cloned();
    if known.is_some() {
        return known;
    }
    let bytecode: Bytecode = Compiler::new().compile(text).ok()?.into();
    if text.len() <= SCRIPT_BYTES_MAX {
        let mut scripts = SCRIPTS.lock().unwrap_or_else(PoisonError::into_inner);
        if scripts.len() >= SCRIPTS_MAX {
            scripts.clear();
        }
        scripts.insert(text.clone(), bytecode.clone());
    }
    Some(bytecode)
}

/// Bytecode that was compiled here, as a function.
pub fn load(lua: &Lua, bytecode: &[u8], name: &str, environment: Option<Table>) -> Result<Function> {
    let chunk = lua.load(bytecode).set_name(format!("={name}")).set_mode(ChunkMode::Binary);
    match environment {
        Some(environment) => chunk.set_environment(environment).into_function(),
        None => chunk.into_function(),
    }
}
