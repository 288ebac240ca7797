//! How the relay's cost of a delivery grows with what there is: instances, rooms, members of a room, connections.

use std::io::{self, Write};

use crate::{
    crowd::Crowd,
    report::{Report, thousands},
    server::{Running, Server, Setup},
    wire::{self, TEXT},
    work::{self, Meter},
};

/// Rooms that one connection is in, where there are many; below `limits.rooms_per_connection`.
const ROOMS_EACH: usize = 100;
const MEMBERS: usize = 10;
/// Messages for each point, where each goes to nine.
const TURNS: usize = 20_000;

struct Curve {
    name: &'static str,
    points: &'static [usize],
    /// Nanoseconds of CPU and deliveries each second.
    measure: fn(&Server, usize) -> io::Result<(f64, f64)>,
    /// How many connections a point needs.
    connections: fn(usize) -> usize,
}

const CURVES: [Curve; 4] = [
    Curve {
        name: "instances, as many workers; 100 rooms of 10 talk at once",
        points: &[1, 2, 4],
        measure: instances,
        connections: |_| 1_000,
    },
    Curve {
        name: "rooms of 10, up to 100 for each connection; one message under way",
        points: &[1, 10, 100, 1_000, 10_000, 100_000],
        measure: rooms,
        connections: |rooms| rooms.div_ceil(ROOMS_EACH) * MEMBERS,
    },
    Curve {
        name: "listeners in one room; one message under way",
        points: &[1, 10, 100, 1_000, 10_000],
        measure: members,
        connections: |members| members + 1,
    },
    Curve {
        name: "connections in rooms of 10; one message under way",
        points: &[100, 1_000, 10_000, 100_000],
        measure: connections,
        connections: |connections| connections,
    },
];

/// Every curve of every relay; of the rounds the best counts.
pub fn run(servers: &[Server], filter: &str, rounds: usize, report: &mut Report) -> io::Result<()> {
    let curves: Vec<_> = CURVES.iter().filter(|curve| curve.name.contains(filter)).collect();
    if curves.is_empty() {
        return Err(io::Error::other(format!("no curve has \"{filter}\" in its name")));
    }
    for curve in curves {
        writeln!(io::stdout(), "\n{}", curve.name)?;
        for point in curve.points {
            let mut point = *point;
            let most = work::descriptors().saturating_sub(100);
            if (curve.connections)(point) > most {
                // Only here a point is as many connections as it says.
                let is_by_connection = (curve.connections)(point) == point;
                let limit = thousands(work::descriptors());
                writeln!(
                    io::stdout(),
                    "  {} need more file descriptors than ulimit -n allows ({limit})",
                    thousands(point)
                )?;
                if !is_by_connection {
                    continue;
                }
                point = most / MEMBERS * MEMBERS;
            }
            for server in servers.iter().filter(|server| server.is_relay) {
                let mut best: Option<(f64, f64)> = None;
                for _ in 0..rounds {
                    match (curve.measure)(server, point) {
                        Ok(found) if best.is_none_or(|best| found.0 < best.0) => best = Some(found),
                        Ok(_) => {}
                        Err(error) => {
                            report.fault(format!("{}, {} at {}: {error}", server.name, curve.name, thousands(point)));
                        }
                    }
                }
                if let Some((cost, rate)) = best {
                    report.point(&server.name, curve.name, point, cost, rate)?;
                }
            }
        }
    }
    Ok(())
}

fn instances(server: &Server, instances: usize) -> io::Result<(f64, f64)> {
    let running = Running::start(server, &Setup { workers: instances, instances, ..Setup::default() })?;
    let mut crowd = Crowd::new(running.port)?;
    let rooms = work::rooms(&mut crowd, "/r", 100, MEMBERS)?;
    let frame = work::letters(64);
    per_delivery(&running, |part| work::deliver(&mut crowd, &rooms, &frame, 400 / part))
}

fn rooms(server: &Server, rooms: usize) -> io::Result<(f64, f64)> {
    let running = Running::start(server, &Setup::default())?;
    let mut crowd = Crowd::new(running.port)?;
    let each = rooms.min(ROOMS_EACH);
    let peers = crowd.open_each(rooms.div_ceil(each) * MEMBERS, |place| {
        let first = place / MEMBERS * each;
        format!("/many/{first}/{each}")
    })?;
    work::settle();
    per_delivery(&running, |part| {
        work::take_turns(&mut crowd, TURNS / part, MEMBERS - 1, |turn| {
            let room = stride(turn, rooms);
            let mut payload = format!("{room:010}").into_bytes();
            payload.resize(64, b'x');
            (peers[room / each * MEMBERS], wire::frame(TEXT, &payload))
        })
    })
}

fn members(server: &Server, listeners: usize) -> io::Result<(f64, f64)> {
    let running = Running::start(server, &Setup::default())?;
    let mut crowd = Crowd::new(running.port)?;
    let rooms = work::rooms(&mut crowd, "/r", 1, listeners + 1)?;
    let frame = work::letters(64);
    let turns = (TURNS * 9 / listeners).clamp(40, TURNS);
    per_delivery(&running, |part| work::deliver(&mut crowd, &rooms, &frame, turns / part))
}

fn connections(server: &Server, connections: usize) -> io::Result<(f64, f64)> {
    let running = Running::start(server, &Setup::default())?;
    let mut crowd = Crowd::new(running.port)?;
    let rooms = work::rooms(&mut crowd, "/r", connections / MEMBERS, MEMBERS)?;
    let frame = work::letters(64);
    per_delivery(&running, |part| {
        work::take_turns(&mut crowd, TURNS / part, MEMBERS - 1, |turn| {
            (rooms[stride(turn, rooms.len())][0], frame.clone())
        })
    })
}

/// Goes through all of them, and not to neighbours one after the other.
fn stride(turn: usize, count: usize) -> usize {
    turn * 7_919 % count
}

/// Does a part of the work to warm up, and then all of it.
fn per_delivery(running: &Running, mut work: impl FnMut(usize) -> io::Result<usize>) -> io::Result<(f64, f64)> {
    work(20)?;
    let meter = Meter::start(running)?;
    let done = work(1)? as f64;
    let used = meter.stop()?;
    Ok((used.cpu / done, done / used.seconds))
}
