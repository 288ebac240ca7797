//! Runs moonwire and other servers side by side on the same work, and prints what each costs.
//!
//! Servers take turns, so that a noisy machine is noisy for all of them; of the rounds the best counts. What counts most
//! is the server's own CPU time, by the kernel's clock in nanoseconds: it hardly depends on how fast this program is.

mod options;

mod scenarios;

mod work;

mod paced;

mod relay_work;

mod growth;

mod churn;

mod report;

mod server;

mod crowd;

mod wire;

use std::{env, io, num::NonZeroU64, process::ExitCode};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{options::Options, report::Report, scenarios::Found};

fn main() -> ExitCode {
    let options = match Options::parse(env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    prepare();
    let mut report = Report::default();
    let mut result = run(&options, &mut report);
    if let Some(path) = &options.json {
        result = result.and(report.save(path));
    }
    if let Err(error) = &result {
        eprintln!("{error}");
    }
    if result.is_ok() && report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// As many files as there may be, for the servers too, and clocks that wake on time.
fn prepare() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it may not, who needs more says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

fn run(options: &Options, report: &mut Report) -> io::Result<()> {
    if let Some(seconds) = options.churn_seconds {
        return churn::run(&options.servers, seconds, report);
    }
    if options.growth {
        return growth::run(&options.servers, &options.only, options.rounds, report);
    }
    let mut scenarios = scenarios::all(options.connections);
    scenarios.retain(|scenario| scenario.name.contains(&options.only));
    if scenarios.is_empty() {
        return Err(io::Error::other(format!("no work has \"{}\" in its name", options.only)));
    }
    for scenario in &scenarios {
        let servers: Vec<_> = options.servers.iter().filter(|server| scenario.is_for(server)).collect();
        let mut best: Vec<Option<Found>> = vec![None; servers.len()];
        for _ in 0..options.rounds {
            for (server, best) in servers.iter().zip(&mut best) {
                match scenario.measure(server) {
                    Ok(found) => {
                        let fault = found.fault.clone().or(best.as_ref().and_then(|best| best.fault.clone()));
                        if best.as_ref().is_none_or(|best| found.rank < best.rank) {
                            *best = Some(found);
                        }
                        // A fault of any round counts.
                        if let Some(best) = best {
                            best.fault = fault;
                        }
                    }
                    Err(error) => report.fault(format!("{}, {}: {error}", server.name, scenario.name)),
                }
            }
        }
        let found: Vec<_> =
            servers.iter().zip(best).filter_map(|(server, best)| Some((server.name.as_str(), best?))).collect();
        if !found.is_empty() {
            report.scenario(scenario, &found)?;
        }
    }
    Ok(())
}
