//! What is measured, and how each kind of work becomes figures.

use std::{io, time::Duration};

use crate::{
    crowd::Crowd,
    paced::{self, Stream, Times},
    relay_work,
    server::{Running, Server, Setup},
    wire::{BINARY, TEXT},
    work::{self, Meter, Used},
};

pub struct Scenario {
    pub name: String,
    /// What the cost is of.
    pub unit: Unit,
    kind: Kind,
}

#[derive(Clone, Copy)]
pub struct Unit {
    pub name: &'static str,
    /// How much of what was measured is one.
    pub divisor: f64,
}

const MESSAGE: Unit = Unit { name: "µs/message", divisor: 1000.0 };
const DELIVERY: Unit = Unit { name: "µs/delivery", divisor: 1000.0 };
const HANDSHAKE: Unit = Unit { name: "µs/handshake", divisor: 1000.0 };
const CONNECTION: Unit = Unit { name: "KiB/connection", divisor: 1024.0 };
const PEAK: Unit = Unit { name: "MiB more at the peak", divisor: 1024.0 * 1024.0 };

#[derive(Clone, Copy)]
enum Kind {
    /// Each of `peers` has `depth` messages of `size` bytes under way, `total` in all.
    Echo { peers: usize, size: usize, depth: usize, total: usize },
    /// The same without an end and without a pause.
    Saturated { peers: usize, size: usize, depth: usize, seconds: u64 },
    /// `rooms` of `members`; one member of each speaks, `rounds` times.
    Rooms { rooms: usize, members: usize, rounds: usize },
    /// The same with JSON, in which the server changes a field.
    Json { rooms: usize, members: usize, rounds: usize },
    /// Connects and leaves, `total` times.
    Storm { total: usize },
    /// What `peers` that say nothing cost.
    Idle { peers: usize },
    /// Echoes at a fixed rate each second.
    Paced { peers: usize, rate: usize, seconds: u64 },
    /// Rooms of 10, in each of which one sends `frames` of 16 KiB and one `lines` of chat each second.
    Media { rooms: usize, frames: usize, lines: usize, seconds: u64 },
    /// `peers` in rooms of 10, `rate` messages each second, without and with reloads.
    Reload { peers: usize, rate: usize, seconds: u64 },
    /// A message of `size` bytes to a room.
    Large { members: usize, size: usize },
}

/// All there are; `peers` are the connections of those that have many.
pub fn all(peers: usize) -> Vec<Scenario> {
    let new = |name: &str, unit, kind| Scenario { name: name.to_owned(), unit, kind };
    let many = crate::report::thousands(peers);
    vec![
        new("echo 64 B", MESSAGE, Kind::Echo { peers: 50, size: 64, depth: 1, total: 100_000 }),
        new("echo 64 B, 16 under way", MESSAGE, Kind::Echo { peers: 50, size: 64, depth: 16, total: 800_000 }),
        new("echo 64 B, saturated", MESSAGE, Kind::Saturated { peers: 50, size: 64, depth: 64, seconds: 3 }),
        new("echo 1 KiB", MESSAGE, Kind::Echo { peers: 50, size: 1024, depth: 1, total: 100_000 }),
        new("echo 64 KiB", MESSAGE, Kind::Echo { peers: 10, size: 65_536, depth: 1, total: 10_000 }),
        new("100 rooms of 10", DELIVERY, Kind::Rooms { rooms: 100, members: 10, rounds: 400 }),
        new("JSON, 100 rooms of 10", DELIVERY, Kind::Json { rooms: 100, members: 10, rounds: 400 }),
        new("broadcast to 1,000", DELIVERY, Kind::Rooms { rooms: 1, members: 1_001, rounds: 400 }),
        new("broadcast to 10,000", DELIVERY, Kind::Rooms { rooms: 1, members: 10_001, rounds: 40 }),
        new("connect storm", HANDSHAKE, Kind::Storm { total: 10_000 }),
        new(&format!("idle, {many}"), CONNECTION, Kind::Idle { peers }),
        new("echo 64 B at 5,000/s", MESSAGE, Kind::Paced { peers: 50, rate: 5_000, seconds: 4 }),
        new("media and chat", DELIVERY, Kind::Media { rooms: 10, frames: 50, lines: 10, seconds: 5 }),
        new(&format!("reloads, {many}"), DELIVERY, Kind::Reload { peers, rate: 500, seconds: 10 }),
        new("16 MiB to a room of 100", PEAK, Kind::Large { members: 100, size: 16 << 20 }),
    ]
}

/// What one scenario found for one server.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Of several rounds the one with the lowest counts.
    pub rank: f64,
    /// Nanoseconds of the server's CPU, or bytes, for each unit of work.
    pub cost: f64,
    /// Units of work each second, as fast as both sides can.
    pub rate: Option<f64>,
    /// Which part of one core the server used.
    pub busy: Option<f64>,
    /// Milliseconds: median, 99 %, 99.9 %.
    pub latency: Option<[f64; 3]>,
    pub notes: Vec<Note>,
    /// What must not be, in words.
    pub fault: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Note {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
}

impl Scenario {
    /// Whether the server can be given this work.
    pub fn is_for(&self, server: &Server) -> bool {
        server.is_relay || !matches!(self.kind, Kind::Reload { .. } | Kind::Large { .. })
    }

    pub fn measure(&self, server: &Server) -> io::Result<Found> {
        let limits = if matches!(self.kind, Kind::Large { .. }) { relay_work::LARGE_LIMITS } else { "" };
        work::need_descriptors(self.kind.connections())?;
        let running = Running::start(server, &Setup { limits, ..Setup::default() })?;
        self.kind.measure(&running)
    }
}

impl Kind {
    fn connections(self) -> usize {
        match self {
            Kind::Echo { peers, .. } | Kind::Saturated { peers, .. } | Kind::Paced { peers, .. } => peers,
            Kind::Rooms { rooms, members, .. } | Kind::Json { rooms, members, .. } => rooms * members,
            Kind::Idle { peers } | Kind::Reload { peers, .. } => peers,
            Kind::Media { rooms, .. } => rooms * 10,
            Kind::Storm { .. } => 50,
            Kind::Large { members, .. } => members + 10,
        }
    }

    fn measure(self, running: &Running) -> io::Result<Found> {
        let mut crowd = Crowd::new(running.port)?;
        match self {
            Kind::Echo { peers, size, depth, total } => {
                let peers = crowd.open_all("/echo", peers)?;
                work::echo(&mut crowd, &peers, size, depth, total / 20)?; // what is cold costs more, and once
                let meter = Meter::start(running)?;
                let done = work::echo(&mut crowd, &peers, size, depth, total)?;
                Ok(spent(&meter.stop()?, done))
            }
            Kind::Saturated { peers, size, depth, seconds } => {
                let peers = crowd.open_all("/echo", peers)?;
                let flow = work::Flow::begin(&mut crowd, &peers, size, depth)?;
                flow.go_on(&mut crowd, Duration::from_millis(500))?;
                let meter = Meter::start(running)?;
                let done = flow.go_on(&mut crowd, Duration::from_secs(seconds))?;
                let used = meter.stop()?;
                let share = |cpu: f64| cpu / used.seconds / 1e9;
                let own =
                    Note { name: "load generator", value: (share(used.own) * 100.0).round(), unit: "% of a core" };
                Ok(Found { busy: Some(share(used.cpu)), notes: vec![own], ..spent(&used, done) })
            }
            Kind::Rooms { rooms, members, rounds } => {
                let rooms = work::rooms(&mut crowd, "/r", rooms, members)?;
                let frame = work::letters(64);
                work::deliver(&mut crowd, &rooms, &frame, (rounds / 20).max(1))?;
                let meter = Meter::start(running)?;
                let done = work::deliver(&mut crowd, &rooms, &frame, rounds)?;
                Ok(spent(&meter.stop()?, done))
            }
            Kind::Json { rooms, members, rounds } => {
                let rooms = work::rooms(&mut crowd, "/json/", rooms, members)?;
                let frame = work::json();
                work::deliver(&mut crowd, &rooms, &frame, (rounds / 20).max(1))?;
                work::check_json(&crowd.last)?;
                let meter = Meter::start(running)?;
                let done = work::deliver(&mut crowd, &rooms, &frame, rounds)?;
                Ok(spent(&meter.stop()?, done))
            }
            Kind::Storm { total } => {
                work::storm(&mut crowd, total / 20)?;
                let meter = Meter::start(running)?;
                work::storm(&mut crowd, total)?;
                Ok(spent(&meter.stop()?, total))
            }
            Kind::Idle { peers } => {
                for peer in crowd.open_all("/idle", 100)? {
                    crowd.close(peer, false)?;
                }
                let before = running.resident()?;
                crowd.open_all("/idle", peers)?;
                std::thread::sleep(Duration::from_secs(1));
                let cost = (running.resident()? - before) / peers as f64;
                Ok(Found { rank: cost, cost, ..Found::default() })
            }
            Kind::Paced { peers, rate, seconds } => {
                let from = crowd.open_all("/echo", peers)?;
                let streams = [Stream { from, kind: TEXT, size: 64, rate: rate as f64, listeners: 1 }];
                paced::run(&mut crowd, &streams, |since| since < Duration::from_millis(500))?;
                let meter = Meter::start(running)?;
                let times = paced::run(&mut crowd, &streams, |since| since.as_secs() < seconds)?.remove(0);
                Ok(timed(meter.stop()?, &[&times], &times))
            }
            Kind::Media { rooms, frames, lines, seconds } => {
                let rooms = work::rooms(&mut crowd, "/r", rooms, 10)?;
                let from = |place: usize| rooms.iter().map(|room| room[place]).collect::<Vec<_>>();
                let rate = |each: usize| (each * rooms.len()) as f64;
                let streams = [
                    Stream { from: from(0), kind: BINARY, size: 16 * 1024, rate: rate(frames), listeners: 9 },
                    Stream { from: from(1), kind: TEXT, size: 64, rate: rate(lines), listeners: 9 },
                ];
                paced::run(&mut crowd, &streams, |since| since < Duration::from_millis(500))?;
                let meter = Meter::start(running)?;
                let times = paced::run(&mut crowd, &streams, |since| since.as_secs() < seconds)?;
                let used = meter.stop()?;
                let mut found = timed(used, &[&times[0], &times[1]], &times[1]);
                found.notes.push(Note { name: "frames p99", value: times[0].at(0.99), unit: "ms" });
                Ok(found)
            }
            Kind::Reload { peers, rate, seconds } => {
                let relay_work::Reloaded { without, with, reloads, used } =
                    relay_work::reload(running, peers, rate, seconds)?;
                let mut found = timed(used, &[&with], &with);
                if without.lost > 0 {
                    found.fault = Some(format!("{} deliveries were lost without any reload", without.lost));
                }
                found.rank = with.longest();
                found.notes.extend([
                    Note { name: "reloads", value: reloads as f64, unit: "" },
                    Note { name: "longest", value: with.longest(), unit: "ms" },
                    Note { name: "longest without", value: without.longest(), unit: "ms" },
                    Note { name: "p99 without", value: without.at(0.99), unit: "ms" },
                ]);
                if reloads + 1 < seconds as usize && found.fault.is_none() {
                    found.fault = Some(format!("of {seconds} saved scripts only {reloads} were taken over"));
                }
                Ok(found)
            }
            Kind::Large { members, size } => {
                let large = relay_work::large(running, members, size)?;
                let lost = large.before.lost + large.meanwhile.lost;
                Ok(Found {
                    rank: large.peak,
                    cost: large.peak,
                    latency: Some(percentiles(&large.meanwhile)),
                    notes: vec![
                        Note { name: "p99 before", value: large.before.at(0.99), unit: "ms" },
                        Note { name: "each takes", value: large.seconds_each, unit: "s" },
                    ],
                    fault: (lost > 0).then(|| format!("{lost} echoes were lost")),
                    ..Found::default()
                })
            }
        }
    }
}

/// `done` units of work have cost this.
fn spent(used: &Used, done: usize) -> Found {
    let cost = used.cpu / done as f64;
    Found { rank: cost, cost, rate: Some(done as f64 / used.seconds), ..Found::default() }
}

/// The same for work that came at a fixed rate: its times are those of `shown`.
fn timed(used: Used, all: &[&Times], shown: &Times) -> Found {
    let done: usize = all.iter().map(|times| times.sorted.len()).sum();
    let lost: usize = all.iter().map(|times| times.lost).sum();
    Found {
        rank: shown.at(0.99),
        cost: used.cpu / done as f64,
        latency: Some(percentiles(shown)),
        fault: (lost > 0).then(|| format!("{lost} of {} deliveries were lost", done + lost)),
        ..Found::default()
    }
}

fn percentiles(times: &Times) -> [f64; 3] {
    [0.5, 0.99, 0.999].map(|part| times.at(part))
}
