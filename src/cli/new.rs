//! `moonwire new`: a folder with a config, a script and its tests, ready to be served.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

use super::{FAILED, Failure, MISTAKE, OK, Status, Streams, shown};

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    /// The folder; it is made if it is not there
    name: PathBuf,
    /// What is put into it
    #[arg(long, value_enum, default_value_t = Template::Chat)]
    template: Template,
}

const EXAMPLES: &str = "\
Nothing that is there already is overwritten.

Examples:
  moonwire new talk
  moonwire new relay --template blank";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Template {
    /// A chat with a page, files and tests
    Chat,
    /// The four classic callbacks, as an echo
    Echo,
    /// Rooms whose members hear each other, to begin with
    Blank,
}

type Files = &'static [(&'static str, &'static str)];

// What the relay serves out of the box, and its examples: there is no second copy to keep true.
const CHAT: Files = &[
    ("config.toml", include_str!("../../config.toml")),
    ("scripts/chat.lua", include_str!("../../scripts/chat.lua")),
    ("scripts/files.lua", include_str!("../../scripts/files.lua")),
    ("scripts/chat_test.lua", include_str!("../../scripts/chat_test.lua")),
    ("scripts/page/index.html", include_str!("../../scripts/page/index.html")),
    ("scripts/page/chat.css", include_str!("../../scripts/page/chat.css")),
    ("scripts/page/chat.js", include_str!("../../scripts/page/chat.js")),
    (".gitignore", IGNORED),
];
const ECHO: Files = &[
    (
        "config.toml",
        "# All settings with their defaults: docs/configuration.md of moonwire.\n[server]\nlisten = \"127.0.0.1:8080\"\n\n[[app]]\nname = \"echo\"\npath = \"/echo\"\nscript = \"scripts/echo.lua\"\n",
    ),
    ("scripts/echo.lua", include_str!("../../examples/echo/echo.lua")),
    ("scripts/echo_test.lua", include_str!("../../examples/echo/echo_test.lua")),
    (".gitignore", IGNORED),
];
const BLANK: Files = &[
    (
        "config.toml",
        "# All settings with their defaults: docs/configuration.md of moonwire.\n[server]\nlisten = \"127.0.0.1:8080\"\n\n[[app]]\nname = \"app\"\npath = \"/{room}\"\nscript = \"scripts/app.lua\"\n",
    ),
    ("scripts/app.lua", include_str!("templates/blank.lua")),
    ("scripts/app_test.lua", include_str!("templates/blank_test.lua")),
    (".gitignore", IGNORED),
];
/// What the relay makes while it runs.
const IGNORED: &str = "moonwire.sock\ndata/\n";

pub(super) fn run(options: &Options, streams: &mut Streams) -> Result<Status, Failure> {
    let (files, url) = match options.template {
        Template::Chat => (CHAT, "http://127.0.0.1:8080/"),
        Template::Echo => (ECHO, "ws://127.0.0.1:8080/echo"),
        Template::Blank => (BLANK, "ws://127.0.0.1:8080/lobby"),
    };
    let folder = &options.name;
    if let Some((there, _)) = files.iter().find(|(name, _)| fs::symlink_metadata(folder.join(name)).is_ok()) {
        let there = shown(&folder.join(there));
        return Err(Failure::Told(
            MISTAKE,
            format!("{there} is there already, and nothing was written\n  give another folder: moonwire new NAME"),
        ));
    }
    for (name, text) in files {
        let file = folder.join(name);
        write_new(&file, text).map_err(|error| Failure::Told(FAILED, format!("{}: {error}", shown(&file))))?;
    }
    let folder = shown(folder);
    writeln!(streams.out, "{folder}/ has a config, a script and its tests. Next:\n")?;
    writeln!(streams.out, "  cd {folder}\n  moonwire test     run the tests of the script")?;
    writeln!(streams.out, "  moonwire dev      serve {url}, with a test page and readable logs")?;
    Ok(OK)
}

/// Only where there is no file: what somebody else makes meanwhile is theirs.
fn write_new(file: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::File::create_new(file)?.write_all(text.as_bytes())
}
