//! What the command line says.

use std::io::{self, Write};

use crate::server::Server;

const USAGE: &str = "\
usage: moonwire-benches [--server NAME=COMMAND]... [--moonwire [NAME=]BINARY]... [OPTION]...

  --server NAME=COMMAND     a server to measure; the command gets a port of 127.0.0.1 as its last argument
  --moonwire [NAME=]BINARY  a relay to measure
  --only TEXT               only work with this in its name
  --rounds N                how often each is measured; the best counts (3)
  --connections N           for the work that has many: idle, reloads (10000)
  --growth                  instead: how a relay's cost grows with instances, rooms, members and connections
  --churn SECONDS           instead: connections come and go while the script is reloaded each second;
                            ends with 1 if the relay's memory grows by more than 10 %
  --json FILE               writes all figures to a file, too";

pub struct Options {
    pub servers: Vec<Server>,
    pub only: String,
    pub rounds: usize,
    pub connections: usize,
    pub growth: bool,
    pub churn_seconds: Option<u64>,
    pub json: Option<String>,
}

impl Options {
    /// None if only the usage was asked for, which it prints.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
        let mut options = Options {
            servers: Vec::new(),
            only: String::new(),
            rounds: 3,
            connections: 10_000,
            growth: false,
            churn_seconds: None,
            json: None,
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} wants a value; --help shows how"));
            match arg.as_str() {
                "--server" => options.servers.push(Server::other(&value()?)?),
                "--moonwire" => options.servers.push(Server::relay(&value()?)?),
                "--only" => options.only = value()?,
                "--rounds" => options.rounds = number(&arg, &value()?)?,
                "--connections" => options.connections = number(&arg, &value()?)?,
                "--growth" => options.growth = true,
                "--churn" => options.churn_seconds = Some(number(&arg, &value()?)? as u64),
                "--help" => {
                    let _ = writeln!(io::stdout(), "{USAGE}"); // who closes the pipe wants no more
                    return Ok(None);
                }
                "--json" => options.json = Some(value()?),
                _ => return Err(format!("there is no option {arg}; --help shows those there are")),
            }
        }
        let has_relay = options.servers.iter().any(|server| server.is_relay);
        if options.servers.is_empty() {
            return Err("nothing to measure: give --moonwire BINARY, --server NAME=COMMAND, or both".to_owned());
        }
        if (options.growth || options.churn_seconds.is_some()) && !has_relay {
            return Err("--growth and --churn are for a relay: give --moonwire BINARY".to_owned());
        }
        Ok(Some(options))
    }
}

fn number(name: &str, text: &str) -> Result<usize, String> {
    match text.replace('_', "").parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{name} wants a number above 0, not {text}")),
    }
}
