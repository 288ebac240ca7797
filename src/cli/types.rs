//! `moonwire types`: what scripts see, as definitions for editors.

use std::{fs, io::Write as _, path::PathBuf};

use clap::Args;

use super::{FAILED, Failure, OK, Status, Streams, shown};
use crate::script::reference;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    /// Where the definitions go; those of an older release there are replaced
    #[arg(default_value = "types")]
    folder: PathBuf,
}

const EXAMPLES: &str = "\
Writes moonwire.d.luau for luau-lsp, and *.d.lua for the Lua language server, which is told of them by a .luarc.json
in this folder, if there is none.

Examples:
  moonwire types
  moonwire types .editor/types";

pub(super) fn run(options: &Options, streams: &mut Streams) -> Result<Status, Failure> {
    let cannot =
        |path: &std::path::Path, error: std::io::Error| Failure::Told(FAILED, format!("{}: {error}", shown(path)));
    let folder = &options.folder;
    fs::create_dir_all(folder).map_err(|error| cannot(folder, error))?;
    for definitions in reference::definitions() {
        let file = folder.join(definitions.file);
        fs::write(&file, definitions.text).map_err(|error| cannot(&file, error))?;
        writeln!(streams.out, "{}", shown(&file))?;
    }
    let settings = serde_json::json!({
        "$schema": "https://raw.githubusercontent.com/LuaLS/vscode-lua/master/setting/schema.json",
        "runtime.version": "Lua 5.1",
        "runtime.nonstandardSymbol": ["+=", "-=", "*=", "/=", "continue"],
        "workspace.library": [folder.to_string_lossy()],
        "workspace.checkThirdParty": false,
    });
    let luarc = PathBuf::from(".luarc.json");
    if let Ok(mut file) = fs::File::create_new(&luarc) {
        writeln!(file, "{settings:#}").map_err(|error| cannot(&luarc, error))?;
        writeln!(streams.out, "{}", shown(&luarc))?;
    }
    let luau = shown(&folder.join("moonwire.d.luau"));
    writeln!(
        streams.out,
        "\nfor luau-lsp, in the editor's settings: \"luau-lsp.types.definitionFiles\": {{ \"@moonwire\": \"{luau}\" }}"
    )?;
    Ok(OK)
}
