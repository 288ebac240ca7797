//! A soak: connections come, join, talk and leave while the script is reloaded each second, and memory must not grow.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    crowd::{Crowd, What},
    relay_work,
    report::{Report, thousands},
    server::{Running, Server, Setup},
    wire::{self, TEXT},
};

/// Connections begun each second.
const RATE: usize = 200;
/// How long each stays.
const STAY: Duration = Duration::from_secs(2);
/// Times that each speaks while it is there.
const LINES: u32 = 8;
/// For those that offer it, every line is compressed.
const COMPRESSION: &str = "[app.compression]\nenabled = true\nthreshold = \"64 B\"";
const ROOMS: usize = 40;
/// How much more memory there may be at the end than after the warm-up.
const GROWTH_MAX: f64 = 0.10;

#[derive(Default)]
struct Counts {
    connections: usize,
    /// Those that agreed on compression.
    agreed: usize,
    sent: usize,
    heard: usize,
    compressed: usize,
}

pub fn run(servers: &[Server], seconds: u64, report: &mut Report) -> io::Result<()> {
    for server in servers.iter().filter(|server| server.is_relay) {
        let running = Running::start(server, &Setup { app: COMPRESSION, ..Setup::default() })?;
        // The first third brings everything to the size that it has when it is in use.
        let warm_up = Duration::from_secs(seconds) / 3;
        round(&running, warm_up)?;
        let before = running.resident()?;
        let generation = running.generation()?;
        let counts = round(&running, Duration::from_secs(seconds) - warm_up)?;
        let after = running.resident()?;
        let reloads = running.generation()? - generation;
        let grown = after / before - 1.0;
        let (before, after) = (before / 1048576.0, after / 1048576.0);
        writeln!(
            io::stdout(),
            "\nchurn, {seconds} s: {}\n  {} connections ({} with compression), {} messages sent, {} heard ({} compressed), {reloads} reloads\n  \
             {before:.1} MiB after the warm-up, {after:.1} MiB at the end: {:+.1} %",
            server.name,
            thousands(counts.connections),
            thousands(counts.agreed),
            thousands(counts.sent),
            thousands(counts.heard),
            thousands(counts.compressed),
            grown * 100.0
        )?;
        let figures = json!({
            "work": "churn", "server": server.name, "seconds": seconds, "connections": counts.connections,
            "agreed": counts.agreed, "sent": counts.sent, "heard": counts.heard, "compressed": counts.compressed, "reloads": reloads,
            "before_MiB": before, "after_MiB": after,
        });
        if let serde_json::Value::Object(figures) = figures {
            report.other(figures);
        }
        if grown > GROWTH_MAX {
            report.fault(format!("{}: memory has grown by more than {:.0} %", server.name, GROWTH_MAX * 100.0));
        }
        if counts.compressed == 0 || reloads == 0 {
            report.fault(format!("{}: nothing came compressed, or the script was never reloaded", server.name));
        }
    }
    Ok(())
}

/// Comes and goes for that time; at the end all have left.
fn round(running: &Running, time: Duration) -> io::Result<Counts> {
    let done = AtomicBool::new(false);
    let (counts, saved) = thread::scope(|scope| {
        let saving = scope.spawn(|| relay_work::save_each_second(running, &|_| !done.load(Ordering::Relaxed)));
        let counts = come_and_go(running, time);
        done.store(true, Ordering::Relaxed);
        (counts, saving.join())
    });
    saved.map_err(|_| io::Error::other("saving the script failed"))??;
    // The relay sees the last of them leave, and ends the load of the script that they were in.
    thread::sleep(Duration::from_secs(2));
    counts
}

/// Somebody who is there.
struct Visit {
    peer: usize,
    since: Instant,
    /// Lines said so far.
    said: u32,
    is_open: bool,
}

fn come_and_go(running: &Running, time: Duration) -> io::Result<Counts> {
    let mut crowd = Crowd::new(running.port)?;
    let (mut counts, mut heard) = (Counts::default(), Vec::new());
    // Who came first leaves first.
    let mut visits: VecDeque<Visit> = VecDeque::new();
    let text = "The quick brown fox jumps over the lazy dog, and says so to everybody in the room. ".repeat(4);
    let line = wire::frame(TEXT, text.as_bytes());
    let begin = Instant::now();
    loop {
        let now = Instant::now();
        let due = ((now - begin).as_secs_f64() * RATE as f64) as usize;
        while counts.connections < due && now < begin + time {
            let number = counts.connections;
            let peer = crowd.open(&format!("/r{}", number % ROOMS), number.is_multiple_of(2))?;
            visits.push_back(Visit { peer, since: now, said: 0, is_open: false });
            counts.connections += 1;
        }
        for visit in &mut visits {
            if visit.is_open && visit.said < LINES && now >= visit.since + STAY * visit.said / LINES {
                crowd.send(visit.peer, &line)?;
                visit.said += 1;
                counts.sent += 1;
            }
        }
        while let Some(visit) = visits.front().filter(|visit| now >= visit.since + STAY) {
            if !visit.is_open {
                return Err(io::Error::other(format!("a handshake is not answered after {} s", STAY.as_secs())));
            }
            // Some leave as a page does that is closed, some as a cable that is pulled.
            crowd.close(visit.peer, visit.peer.is_multiple_of(2))?;
            visits.pop_front();
        }
        if visits.is_empty() && now >= begin + time {
            return Ok(counts);
        }
        // Much comes at once then, and this program takes little of the machine.
        thread::sleep(Duration::from_millis(5));
        heard.clear();
        crowd.wait(Some(Instant::now()), &mut heard)?;
        for heard in &heard {
            match heard.what {
                What::Opened { compresses } => {
                    counts.agreed += usize::from(compresses);
                    for visit in visits.iter_mut().filter(|visit| visit.peer == heard.peer) {
                        visit.is_open = true;
                    }
                }
                What::Message { start, compressed } => {
                    if start != text.as_bytes()[..start.len()] {
                        return Err(io::Error::other("a message came that was not sent"));
                    }
                    counts.heard += 1;
                    counts.compressed += usize::from(compressed);
                }
                What::Closed(code) => {
                    return Err(io::Error::other(format!("the relay closed a connection with {code}")));
                }
            }
        }
    }
}
