//! The command line: what people type, and what they are told.
//!
//! The exit status is 0; 1 when a script or the world failed; 2 for a mistake in the command line or the config.

mod banner;
mod check;
mod completions;
mod connect;
mod dev;
mod new;
mod reload;
mod serve;
mod store;
mod test;
mod token;
mod types;

use std::{
    env,
    ffi::OsString,
    fmt,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    config::{self, Config, ConfigError},
    log::colour_wanted,
    visible::visible,
};

/// A WebSocket relay whose logic is yours: Lua scripts that reload while connections stay open.
#[derive(Debug, Parser)]
#[command(name = "moonwire", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    config: ConfigFile,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  moonwire                                    serve what ./config.toml says
  moonwire -c /etc/moonwire/config.toml       … or another file
  moonwire check                              would it start?
  moonwire reload                             take over changed scripts and settings now
  moonwire connect ws://127.0.0.1:8080/chat/lobby

Exit status: 0; 1 when a script or the world failed; 2 for a mistake in the command line or the config.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or Ctrl-C; this is what moonwire does without a command
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ConfigFile),
    /// Check the config and load every script, without serving anything
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        format: Format,
    },
    /// Make the running relay take over changed scripts and settings, and tell what came of it
    #[command(after_help = RELOAD_EXAMPLES)]
    Reload {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        format: Format,
    },
    /// Look into what scripts keep on disk, back it up, and check it
    Store(store::Options),
    /// Serve while working on scripts: readable log, reload on save, and a page to try apps on
    Dev(dev::Options),
    /// Make a folder with a config, a script and its tests
    New(new::Options),
    /// Run the tests of scripts
    Test(test::Options),
    /// Make a token (JWT), or find out why one is refused
    Token(token::Options),
    /// Write what scripts see as type definitions for editors
    Types(types::Options),
    /// Print what a shell needs to complete these commands
    Completions(completions::Options),
    /// Talk to a WebSocket server from the terminal
    Connect(connect::Options),
}

const SERVE_EXAMPLES: &str = "\
SIGHUP reloads; SIGTERM and Ctrl-C close every connection properly, a second one stops at once.

Examples:
  moonwire serve
  moonwire serve -c config.toml 2> moonwire.log     JSON lines, since the log is no terminal";

const CHECK_EXAMPLES: &str = "\
Exit status: 0; 1 when a script cannot be loaded; 2 when the config has a mistake.

Examples:
  moonwire check
  moonwire check --format json | jq .problems";

const RELOAD_EXAMPLES: &str = "\
Exit status: 0 when everything that had changed is in force, but for what needs a restart, which is named; 1 when a
script was refused (the old one goes on serving) or no relay is running; 2 when the config has a mistake.

Examples:
  moonwire reload
  moonwire reload --format json | jq '.apps[] | select(.outcome == \"failed\")'";

#[derive(Debug, Args)]
struct ConfigFile {
    /// The config file [default: ./config.toml]
    #[arg(short, long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Format {
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t = Style::Human)]
    format: Style,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Style {
    Human,
    Json,
}

/// Where the answers go.
struct Streams<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    /// Whether people read `out`, and `err`, as they are written.
    out_terminal: bool,
    err_terminal: bool,
}

/// The exit status.
type Status = u8;

const OK: Status = 0;
const FAILED: Status = 1;
const MISTAKE: Status = 2;

/// Why a command ended early.
#[derive(Debug)]
enum Failure {
    /// To be told on stderr.
    Told(Status, String),
    /// Nobody reads what is printed.
    Output(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

/// Runs the command that this process was started with.
pub fn main() -> ExitCode {
    let mut streams = Streams {
        out: &mut io::stdout(),
        err: &mut io::stderr(),
        out_terminal: io::stdout().is_terminal(),
        err_terminal: io::stderr().is_terminal(),
    };
    ExitCode::from(run(env::args_os(), &mut streams))
}

fn run(args: impl IntoIterator<Item = OsString>, streams: &mut Streams) -> Status {
    match parse(args, streams).and_then(|cli| cli.map_or_else(Ok, |cli| dispatch(cli, streams))) {
        Ok(status) => status,
        Err(Failure::Told(status, message)) => {
            // If stderr is gone too, the exit status still tells.
            let _ = writeln!(streams.err, "moonwire: {message}");
            status
        }
        // As after `moonwire check | head -1`: whoever read has read enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => OK,
        Err(Failure::Output(error)) => {
            let _ = writeln!(streams.err, "moonwire: cannot write the answer: {error}");
            FAILED
        }
    }
}

/// The command, or the status to end with after the help, the version or a mistake has been printed.
fn parse(args: impl IntoIterator<Item = OsString>, streams: &mut Streams) -> Result<Result<Cli, Status>, Failure> {
    let answer = match Cli::try_parse_from(args) {
        Ok(cli) => return Ok(Ok(cli)),
        Err(answer) => answer,
    };
    let text = answer.render();
    let (stream, terminal, status) = match answer.use_stderr() {
        true => (&mut streams.err, streams.err_terminal, MISTAKE),
        false => (&mut streams.out, streams.out_terminal, OK),
    };
    if terminal && colour_wanted() {
        write!(stream, "{}", text.ansi())?;
    } else {
        write!(stream, "{text}")?;
    }
    Ok(Err(status))
}

fn dispatch(cli: Cli, streams: &mut Streams) -> Result<Status, Failure> {
    // `moonwire -c FILE check` means what `moonwire check -c FILE` does.
    let file = |own: ConfigFile| own.config.or(cli.config.config.clone());
    match cli.command {
        None => serve::run(cli.config.config.as_deref(), streams),
        Some(Command::Serve(config)) => serve::run(file(config).as_deref(), streams),
        Some(Command::Check { config, format }) => check::run(file(config).as_deref(), format.format, streams),
        Some(Command::Reload { config, format }) => reload::run(file(config).as_deref(), format.format, streams),
        Some(Command::Store(options)) => store::run(options, cli.config.config.clone(), streams),
        Some(Command::Dev(options)) => dev::run(options, cli.config.config.clone(), streams),
        Some(Command::New(options)) => new::run(&options, streams),
        Some(Command::Types(options)) => types::run(&options, streams),
        Some(Command::Completions(options)) => completions::run(&options, streams),
        Some(Command::Test(options)) => test::run(options, cli.config.config.clone(), streams),
        Some(Command::Token(options)) => token::run(options, cli.config.config.clone(), streams),
        Some(Command::Connect(options)) => connect::run(&options, streams),
    }
}

/// The config file that was given, or the one of this folder.
fn config_file(given: Option<&Path>) -> Result<PathBuf, Failure> {
    const DEFAULT: &str = "config.toml";
    if let Some(file) = given {
        return Ok(file.to_owned());
    }
    if Path::new(DEFAULT).exists() {
        return Ok(PathBuf::from(DEFAULT));
    }
    let folder = env::current_dir().map(|folder| format!(" ({})", shown(&folder))).unwrap_or_default();
    Err(Failure::Told(
        MISTAKE,
        format!(
            "there is no {DEFAULT} in this folder{folder}\n  \
             start moonwire in the folder that has it, or name the file: moonwire -c path/to/{DEFAULT}"
        ),
    ))
}

/// The config that a command works with.
fn load_config(given: Option<&Path>) -> Result<Config, Failure> {
    let file = config_file(given)?;
    read_config(&file).map_err(|error| Failure::Told(MISTAKE, error.to_string().trim_end().to_owned()))
}

fn read_config(file: &Path) -> Result<Config, ConfigError> {
    // A variable that is not UTF-8 cannot be one of ours.
    let variables: Vec<(String, String)> = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    config::load(Some(file), &variables)
}

/// What is no mistake, but hardly meant: folders to serve that are not there (they may come later), no app, a parameter as
/// others write it.
fn config_warnings(config: &Config) -> Vec<String> {
    let missing = config.statics.iter().filter(|each| !each.folder.is_dir()).map(|each| {
        let (path, folder) = (visible(&each.path), shown(&each.folder));
        format!(
            "nothing is served under {path}: there is no folder {folder}; correct `static.folder` in the config, or make it"
        )
    });
    let foreign = config.apps.iter().filter(|app| app.path.contains("/:")).map(|app| {
        let (name, path) = (visible(&app.name), visible(&app.path));
        format!("the path of {name}, {path}, has a colon: a parameter is written {{room}}")
    });
    let none = config.apps.is_empty().then(|| "there is no [[app]]: nothing is relayed".to_owned());
    missing.chain(foreign).chain(none).collect()
}

/// A path that may be printed.
fn shown(path: &Path) -> String {
    visible(&path.to_string_lossy()).into_owned()
}

impl fmt::Display for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Style::Human => "human",
            Style::Json => "json",
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// What a command prints to stdout and stderr, and its status.
    pub(super) fn typed(args: &[&str]) -> (String, String, Status) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { out: &mut out, err: &mut err, out_terminal: false, err_terminal: false };
        let args = ["moonwire"].iter().chain(args).map(OsString::from);
        let status = run(args, &mut streams);
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), status)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_and_version_go_to_stdout_and_are_no_failure() {
        let (out, err, status) = typed(&["--version"]);
        assert_eq!((out, err.as_str(), status), (format!("moonwire {}\n", env!("CARGO_PKG_VERSION")), "", OK));
        for args in [&["--help"][..], &["check", "--help"], &["reload", "--help"], &["connect", "--help"]] {
            let (out, err, status) = typed(args);
            assert_eq!((err.as_str(), status), ("", OK));
            assert!(out.contains("Usage: moonwire") && out.contains("Examples:"), "{out}");
            assert!(!out.contains('\u{1b}'));
        }
    }

    #[test]
    fn a_mistake_in_the_command_line_ends_with_2() {
        for args in [&["--colour"][..], &["check", "--format", "xml"], &["dance"], &["connect"]] {
            let (out, err, status) = typed(args);
            assert_eq!((out.as_str(), status), ("", MISTAKE), "{args:?}");
            assert!(err.starts_with("error: "), "{err}");
        }
    }

    #[test]
    fn a_config_file_that_is_not_there_ends_with_2() {
        for args in [&["-c", "nowhere/config.toml"][..], &["check", "-c", "nowhere/config.toml"]] {
            let (_, _, status) = typed(args);
            assert_eq!(status, MISTAKE, "{args:?}");
        }
    }

    #[test]
    fn the_config_may_stand_before_the_command() {
        let cli = Cli::try_parse_from(["moonwire", "-c", "a.toml", "check"]).unwrap();
        assert_eq!(cli.config.config, Some(PathBuf::from("a.toml")));
        assert!(matches!(cli.command, Some(Command::Check { .. })));
    }

    #[test]
    fn a_reader_that_has_read_enough_is_no_failure() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut streams = Streams { out: &mut Gone, err: &mut Gone, out_terminal: false, err_terminal: false };
        assert_eq!(run(["moonwire", "--help"].map(OsString::from), &mut streams), OK);
    }
}
