//! Work that any server can do, as fast as it does it.

use std::{
    io,
    time::{Duration, Instant},
};

use crate::{
    crowd::{Crowd, Heard, What},
    server::{Running, cpu_of},
    wire::{self, TEXT},
};

/// How long nothing at all may come.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a server has used since a moment.
pub struct Meter<'a> {
    running: &'a Running,
    cpu: f64,
    own: f64,
    begun: Instant,
}

pub struct Used {
    /// Nanoseconds of CPU time.
    pub cpu: f64,
    /// The same of this program: where it is near to the time that has passed, it may be what is slow.
    pub own: f64,
    pub seconds: f64,
}

impl Meter<'_> {
    pub fn start(running: &Running) -> io::Result<Meter<'_>> {
        Ok(Meter { running, cpu: running.cpu()?, own: cpu_of("self")?, begun: Instant::now() })
    }

    pub fn stop(self) -> io::Result<Used> {
        let seconds = self.begun.elapsed().as_secs_f64();
        Ok(Used { cpu: self.running.cpu()? - self.cpu, own: cpu_of("self")? - self.own, seconds })
    }
}

pub fn letters(size: usize) -> Vec<u8> {
    wire::frame(TEXT, &vec![b'x'; size])
}

/// JSON of 128 bytes, as a game or a drawing board would send it.
pub fn json() -> Vec<u8> {
    let text = r#"{"type":"move","hops":0,"user":"u-000042","x":1250,"y":-325,"visible":true,"text":""}"#;
    let text = text.replace("\"text\":\"", &format!("\"text\":\"{}", "x".repeat(128 - text.len())));
    wire::frame(TEXT, text.as_bytes())
}

/// That the server did read the JSON, change it and write it.
pub fn check_json(last: &[u8]) -> io::Result<()> {
    let value: serde_json::Value = serde_json::from_slice(last)?;
    if value["hops"] == 1 && value["x"] == 1250 && value["visible"] == true {
        return Ok(());
    }
    Err(io::Error::other(format!("the JSON should have come with \"hops\":1, and is {value}")))
}

/// Like `Crowd::wait`, but nothing coming and a connection closing are errors.
fn hear(crowd: &mut Crowd, heard: &mut Vec<Heard>) -> io::Result<()> {
    heard.clear();
    let until = Instant::now() + PATIENCE;
    while !crowd.wait(Some(until), heard)? {
        if Instant::now() >= until {
            return Err(io::Error::other(format!("nothing came for {} s", PATIENCE.as_secs())));
        }
    }
    for heard in heard {
        if let What::Closed(code) = heard.what {
            return Err(io::Error::other(format!("the server closed a connection with {code}")));
        }
    }
    Ok(())
}

/// Each has `depth` messages under way, and sends the next when all of them are back; how many that were.
pub fn echo(crowd: &mut Crowd, peers: &[usize], size: usize, depth: usize, total: usize) -> io::Result<usize> {
    let turns = total / depth / peers.len();
    let frames = letters(size).repeat(depth);
    let mut awaited = vec![turns * depth; peers.iter().max().map_or(0, |most| most + 1)];
    for peer in peers {
        crowd.send(*peer, &frames)?;
    }
    let (mut left, mut heard) = (turns * depth * peers.len(), Vec::new());
    while left > 0 {
        hear(crowd, &mut heard)?;
        left -= heard.len();
        for heard in &heard {
            let awaited = &mut awaited[heard.peer];
            *awaited -= 1;
            if *awaited > 0 && awaited.is_multiple_of(depth) {
                crowd.send(heard.peer, &frames)?;
            }
        }
    }
    Ok(turns * depth * peers.len())
}

/// A flow of echoes that never ends: each has `depth` under way all the time.
pub struct Flow {
    frames: Vec<u8>,
    one: usize,
}

impl Flow {
    pub fn begin(crowd: &mut Crowd, peers: &[usize], size: usize, depth: usize) -> io::Result<Flow> {
        let one = letters(size);
        let flow = Flow { frames: one.repeat(depth), one: one.len() };
        for peer in peers {
            crowd.send(*peer, &flow.frames)?;
        }
        Ok(flow)
    }

    pub fn go_on(&self, crowd: &mut Crowd, time: Duration) -> io::Result<usize> {
        let (until, mut done, mut heard) = (Instant::now() + time, 0, Vec::new());
        while Instant::now() < until {
            hear(crowd, &mut heard)?;
            done += heard.len();
            // What came by one read is answered by one write.
            for of_one in heard.chunk_by(|one, next| one.peer == next.peer) {
                crowd.send(of_one[0].peer, &self.frames[..of_one.len() * self.one])?;
            }
        }
        Ok(done)
    }
}

/// One member of each room speaks, and again when all others have heard it, `rounds` times; how many heard something.
pub fn deliver(crowd: &mut Crowd, rooms: &[Vec<usize>], frame: &[u8], rounds: usize) -> io::Result<usize> {
    let mut room_of = vec![0; rooms.iter().flatten().max().map_or(0, |most| most + 1)];
    for (place, room) in rooms.iter().enumerate() {
        for peer in room {
            room_of[*peer] = place;
        }
    }
    let mut awaited: Vec<usize> = rooms.iter().map(|room| (room.len() - 1) * rounds).collect();
    let deliveries = awaited.iter().sum();
    for room in rooms {
        crowd.send(room[0], frame)?;
    }
    let (mut left, mut heard) = (deliveries, Vec::new());
    while left > 0 {
        hear(crowd, &mut heard)?;
        left -= heard.len();
        for heard in &heard {
            let room = room_of[heard.peer];
            awaited[room] -= 1;
            if awaited[room] > 0 && awaited[room].is_multiple_of(rooms[room].len() - 1) {
                crowd.send(rooms[room][0], frame)?;
            }
        }
    }
    Ok(deliveries)
}

/// One speaks after the other: the next when all others of its room have heard it.
pub fn take_turns(
    crowd: &mut Crowd,
    turns: usize,
    listeners: usize,
    next: impl Fn(usize) -> (usize, Vec<u8>),
) -> io::Result<usize> {
    let mut heard = Vec::new();
    for turn in 0..turns {
        let (speaker, frame) = next(turn);
        crowd.send(speaker, &frame)?;
        let mut left = listeners;
        while left > 0 {
            hear(crowd, &mut heard)?;
            left -= heard.len();
        }
    }
    Ok(turns * listeners)
}

/// Connects and leaves without a word, 50 at once.
pub fn storm(crowd: &mut Crowd, total: usize) -> io::Result<()> {
    const AT_ONCE: usize = 50;
    let (mut begun, mut done, mut heard) = (0, 0, Vec::new());
    while done < total {
        while begun < total && begun - done < AT_ONCE {
            crowd.open("/echo", false)?;
            begun += 1;
        }
        hear(crowd, &mut heard)?;
        for heard in &heard {
            crowd.close(heard.peer, false)?;
            done += 1;
        }
    }
    Ok(())
}

/// The last join may not have been handled when its handshake is answered.
pub fn settle() {
    std::thread::sleep(Duration::from_millis(300));
}

/// `count` rooms of `members`, each the members' places.
pub fn rooms(crowd: &mut Crowd, prefix: &str, count: usize, members: usize) -> io::Result<Vec<Vec<usize>>> {
    let peers = crowd.open_each(count * members, |place| format!("{prefix}{}", place / members))?;
    settle();
    Ok(peers.chunks(members).map(<[usize]>::to_vec).collect())
}

/// What `connections` take here and in the server, if there are so many file descriptors.
pub fn need_descriptors(connections: usize) -> io::Result<()> {
    let limit = descriptors();
    if connections + 50 <= limit {
        return Ok(());
    }
    Err(io::Error::other(format!("{connections} connections need more than {limit} file descriptors: raise ulimit -n")))
}

/// How many files this process may have open, and the servers that it starts.
pub fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}
