//! `moonwire dev`: serves with a log for people, reloads on save, and shows a page on which apps can be tried.

use std::{path::PathBuf, sync::Arc};

use clap::Args;

use super::{ConfigFile, Failure, Status, Streams, serve};
use crate::{
    config::{Config, LogFormat},
    dev::{DEBOUNCE, Dev},
};

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    #[command(flatten)]
    config: ConfigFile,
    /// Trace messages from the start; the page switches it at any time
    #[arg(long)]
    trace: bool,
}

const EXAMPLES: &str = "\
As serve, but: the log is for people, scripts are taken over when they are saved whatever the config says, what a script
keeps is looked at after each callback, and /_dev/ shows apps, reloads, errors and messages. Not for the open network:
whoever reaches the relay reaches that page.

Examples:
  moonwire dev
  moonwire dev -c examples/auth/config.toml --trace";

pub(super) fn run(options: Options, before: Option<PathBuf>, streams: &mut Streams) -> Result<Status, Failure> {
    let dev = Arc::new(Dev::default());
    dev.tracer.switch(options.trace);
    serve::run_as(options.config.config.or(before).as_deref(), Some(dev), streams)
}

/// What a config says, as it is while somebody works on scripts.
pub(super) fn adapted(mut config: Config) -> Config {
    config.log.format = LogFormat::Human;
    config.reload.watch = true;
    config.reload.debounce = config.reload.debounce.min(DEBOUNCE);
    config
}
