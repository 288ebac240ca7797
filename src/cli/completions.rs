//! `moonwire completions`: what a shell needs to complete this command line.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure, OK, Status, Streams};

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    #[arg(value_enum)]
    shell: Shell,
}

const EXAMPLES: &str = "\
Examples:
  moonwire completions bash > ~/.local/share/bash-completion/completions/moonwire
  moonwire completions zsh > ~/.zfunc/_moonwire
  moonwire completions fish > ~/.config/fish/completions/moonwire.fish";

pub(super) fn run(options: &Options, streams: &mut Streams) -> Result<Status, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "moonwire", &mut script);
    streams.out.write_all(&script)?;
    Ok(OK)
}
