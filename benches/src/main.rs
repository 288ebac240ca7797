//! Runs moonwire and other servers side by side on the same work, and prints what each costs.
//!
//! Servers take turns, so that a noisy machine is noisy for all of them; of the rounds the best counts. What counts most
//! is the server's own CPU time, by the kernel's clock in nanoseconds: it does not depend on how fast this program is.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write},
    net::TcpStream as StdStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinSet, LocalSet},
};

/// A server to measure.
#[derive(Clone)]
struct Server {
    name: &'static str,
    command: Vec<String>,
    /// It gets a config, and not a port.
    is_relay: bool,
}

/// What one scenario found for one server.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    /// Nanoseconds of the server's CPU for each unit of work; bytes of memory for idle connections.
    cost: f64,
    /// Units of work each second, as fast as both sides can.
    rate: f64,
    /// Milliseconds: median, 99 %, 99.9 %. Zero where they were not looked at.
    latency: [f64; 3],
}

struct Scenario {
    name: &'static str,
    /// What the cost is of.
    unit: &'static str,
    run: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Each of `peers` has `depth` messages of `size` bytes under way, `total` in all.
    Echo { peers: usize, size: usize, depth: usize, total: usize },
    /// `rooms` of `members`; one member of each speaks, `rounds` times.
    Rooms { rooms: usize, members: usize, size: usize, rounds: usize },
    /// Connects and leaves, `total` times.
    Storm { total: usize },
    /// What `peers` that say nothing cost.
    Idle { peers: usize },
    /// Messages at a fixed rate each second, for the time that they take.
    Paced { peers: usize, size: usize, rate: usize, seconds: usize },
}

const SCENARIOS: [Scenario; 9] = [
    Scenario {
        name: "echo 64 B",
        unit: "µs/message",
        run: Kind::Echo { peers: 50, size: 64, depth: 1, total: 100_000 },
    },
    Scenario {
        name: "echo 64 B, 16 under way",
        unit: "µs/message",
        run: Kind::Echo { peers: 50, size: 64, depth: 16, total: 800_000 },
    },
    Scenario {
        name: "echo 1 KiB",
        unit: "µs/message",
        run: Kind::Echo { peers: 50, size: 1024, depth: 1, total: 100_000 },
    },
    Scenario {
        name: "echo 64 KiB",
        unit: "µs/message",
        run: Kind::Echo { peers: 10, size: 65_536, depth: 1, total: 10_000 },
    },
    Scenario {
        name: "100 rooms of 10",
        unit: "µs/delivery",
        run: Kind::Rooms { rooms: 100, members: 10, size: 64, rounds: 400 },
    },
    Scenario {
        name: "broadcast to 1,000",
        unit: "µs/delivery",
        run: Kind::Rooms { rooms: 1, members: 1001, size: 64, rounds: 400 },
    },
    Scenario { name: "connect storm", unit: "µs/handshake", run: Kind::Storm { total: 10_000 } },
    Scenario { name: "idle, 5,000", unit: "KiB/connection", run: Kind::Idle { peers: 5_000 } },
    Scenario {
        name: "echo 64 B at 5,000/s",
        unit: "µs/message",
        run: Kind::Paced { peers: 50, size: 64, rate: 5_000, seconds: 4 },
    },
];

fn main() -> io::Result<()> {
    let mut rounds = 3;
    let mut filter = String::new();
    let mut servers = Vec::new();
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} wants a value"));
        match arg.as_str() {
            "--rounds" => rounds = value().parse().expect("--rounds is a number"),
            "--only" => filter = value(),
            "--moonwire" => servers.push(moonwire(&value())?),
            "--server" => {
                let text = value();
                let (name, command) = text.split_once('=').expect("--server NAME=COMMAND, which gets a port");
                let command = command.split(' ').map(str::to_owned).collect();
                servers.push(Server { name: String::leak(name.to_owned()), command, is_relay: false });
            }
            _ => {
                panic!("there are --rounds N, --only TEXT, --moonwire [NAME=]BINARY, --server NAME=COMMAND; not {arg}")
            }
        }
    }
    assert!(!servers.is_empty(), "nothing to measure: give --moonwire BINARY and --server NAME=COMMAND");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for scenario in SCENARIOS.iter().filter(|scenario| scenario.name.contains(&filter)) {
        let mut best: BTreeMap<&str, Found> = BTreeMap::new();
        for _ in 0..rounds {
            for server in &servers {
                let found = LocalSet::new().block_on(&runtime, measure(server, scenario.run))?;
                let best = best.entry(server.name).or_insert(found);
                if found.cost < best.cost {
                    *best = found;
                }
            }
        }
        print(scenario, &servers, &best)?;
    }
    Ok(())
}

/// The first server is what the others are compared with.
fn print(scenario: &Scenario, servers: &[Server], best: &BTreeMap<&str, Found>) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "\n{} ({}, server)", scenario.name, scenario.unit)?;
    let first = best[servers[0].name].cost;
    for server in servers {
        let Found { cost, rate, latency } = best[server.name];
        let shown = if scenario.unit.starts_with("KiB") { cost / 1024.0 } else { cost / 1000.0 };
        write!(out, "  {:<14} {shown:>9.2}  {:>5.2} x", server.name, cost / first)?;
        if rate > 0.0 {
            write!(out, "  {rate:>10.0} /s")?;
        }
        if latency[0] > 0.0 {
            write!(out, "  p50 {:.2} ms, p99 {:.2}, p99.9 {:.2}", latency[0], latency[1], latency[2])?;
        }
        writeln!(out)?;
    }
    out.flush()
}

// ── servers ──

/// A relay, `BINARY` or `NAME=BINARY`: two of them tell what a change of it has brought.
fn moonwire(binary: &str) -> io::Result<Server> {
    let (name, binary) = binary.split_once('=').unwrap_or(("moonwire", binary));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("moonwire.lua");
    let command = vec![fs::canonicalize(binary)?.to_string_lossy().into_owned(), script.to_string_lossy().into_owned()];
    Ok(Server { name: String::leak(name.to_owned()), command, is_relay: true })
}

struct Running {
    child: Child,
    port: u16,
    folder: Option<PathBuf>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

impl Running {
    fn start(server: &Server) -> io::Result<Running> {
        // Nobody else is given it at once.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut folder = None;
        let mut command = Command::new(&server.command[0]);
        if server.is_relay {
            let place = env::temp_dir().join(format!("moonwire-bench-{port}"));
            fs::create_dir_all(&place)?;
            let script = &server.command[1];
            let config = format!(
                "[server]\nlisten = \"127.0.0.1:{port}\"\nworkers = 1\n[log]\nlevel = \"warn\"\n[[app]]\nname = \"bench\"\n\
                 path = \"/{{what}}\"\nscript = \"{script}\"\n"
            );
            fs::write(place.join("config.toml"), config)?;
            command.arg("-c").arg(place.join("config.toml"));
            folder = Some(place);
        } else {
            command.args(&server.command[1..]).arg(port.to_string());
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let running = Running { child, port, folder };
        let begun = Instant::now();
        while StdStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "{} does not listen", server.name);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }

    /// Nanoseconds that all its threads have run.
    fn cpu(&self) -> io::Result<f64> {
        let mut sum = 0.0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let stat = fs::read_to_string(task?.path().join("schedstat"))?;
            sum += stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0);
        }
        Ok(sum)
    }

    /// Bytes in memory.
    fn resident(&self) -> io::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) * 1024.0)
    }
}

// ── work ──

async fn measure(server: &Server, kind: Kind) -> io::Result<Found> {
    let running = Running::start(server)?;
    match kind {
        Kind::Echo { peers, size, depth, total } => {
            let mut open = connect_all(running.port, "/echo", peers).await?;
            echo(&mut open, size, depth, total / 20).await?; // what is cold costs more, and once
            let (before, begun) = (running.cpu()?, Instant::now());
            let done = echo(&mut open, size, depth, total).await? as f64;
            Ok(Found {
                cost: (running.cpu()? - before) / done,
                rate: done / begun.elapsed().as_secs_f64(),
                ..Found::default()
            })
        }
        Kind::Rooms { rooms, members, size, rounds } => {
            let mut open = Vec::new();
            for room in 0..rooms {
                open.push(connect_all(running.port, &format!("/r{room}"), members).await?);
            }
            // The last join may not have been handled when its 101 has come.
            tokio::time::sleep(Duration::from_millis(300)).await;
            deliver(&mut open, size, rounds / 20).await?;
            let (before, begun) = (running.cpu()?, Instant::now());
            let done = deliver(&mut open, size, rounds).await? as f64;
            Ok(Found {
                cost: (running.cpu()? - before) / done,
                rate: done / begun.elapsed().as_secs_f64(),
                ..Found::default()
            })
        }
        Kind::Storm { total } => {
            storm(running.port, total / 20).await?;
            let (before, begun) = (running.cpu()?, Instant::now());
            storm(running.port, total).await?;
            Ok(Found {
                cost: (running.cpu()? - before) / total as f64,
                rate: total as f64 / begun.elapsed().as_secs_f64(),
                ..Found::default()
            })
        }
        Kind::Idle { peers } => {
            drop(connect_all(running.port, "/idle", 100).await?);
            let before = running.resident()?;
            let _open = connect_all(running.port, "/idle", peers).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(Found { cost: (running.resident()? - before) / peers as f64, ..Found::default() })
        }
        Kind::Paced { peers, size, rate, seconds } => {
            let open = connect_all(running.port, "/echo", peers).await?;
            let before = running.cpu()?;
            let mut times = paced(open, size, rate, seconds).await?;
            let cost = (running.cpu()? - before) / times.len() as f64;
            times.sort_by(f64::total_cmp);
            let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize] * 1000.0;
            Ok(Found { cost, latency: [at(0.5), at(0.99), at(0.999)], ..Found::default() })
        }
    }
}

async fn connect(port: u16, path: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // A byte at a time: what comes behind the head is a frame.
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    Ok(stream)
}

async fn connect_all(port: u16, path: &str, peers: usize) -> io::Result<Vec<TcpStream>> {
    let mut open = Vec::with_capacity(peers);
    for _ in 0..peers {
        open.push(connect(port, path).await?);
    }
    Ok(open)
}

/// A masked text frame of `size` letters.
fn frame(size: usize) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![0x81];
    match size {
        0..=125 => frame.push(0x80 | size as u8),
        126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(size as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(size as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend((0..size).map(|place| b'x' ^ MASK[place & 3]));
    frame
}

/// Bytes of the same message as a server sends it.
fn answer_bytes(size: usize) -> usize {
    size + match size {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

async fn echo(open: &mut Vec<TcpStream>, size: usize, depth: usize, total: usize) -> io::Result<usize> {
    let turns = total / depth / open.len();
    let mut working = JoinSet::new();
    let count = open.len();
    for mut stream in open.drain(..) {
        let (frames, wanted) = (frame(size).repeat(depth), answer_bytes(size) * depth);
        working.spawn_local(async move {
            let mut buffer = vec![0; wanted];
            for _ in 0..turns {
                stream.write_all(&frames).await?;
                stream.read_exact(&mut buffer).await?;
            }
            Ok::<_, io::Error>(stream)
        });
    }
    while let Some(ended) = working.join_next().await {
        open.push(ended??);
    }
    Ok(turns * depth * count)
}

/// One member of each room speaks, and all others hear it, `rounds` times.
async fn deliver(rooms: &mut Vec<Vec<TcpStream>>, size: usize, rounds: usize) -> io::Result<usize> {
    let (frame, wanted) = (frame(size), answer_bytes(size));
    let mut working = JoinSet::new();
    let deliveries: usize = rooms.iter().map(|room| (room.len() - 1) * rounds).sum();
    for mut room in rooms.drain(..) {
        let frame = frame.clone();
        working.spawn_local(async move {
            let mut buffer = vec![0; wanted];
            for _ in 0..rounds {
                room[0].write_all(&frame).await?;
                for member in &mut room[1..] {
                    member.read_exact(&mut buffer).await?;
                }
            }
            Ok::<_, io::Error>(room)
        });
    }
    while let Some(ended) = working.join_next().await {
        rooms.push(ended??);
    }
    Ok(deliveries)
}

async fn storm(port: u16, total: usize) -> io::Result<()> {
    const AT_ONCE: usize = 50;
    let mut working = JoinSet::new();
    for _ in 0..AT_ONCE {
        working.spawn_local(async move {
            for _ in 0..total / AT_ONCE {
                drop(connect(port, "/echo").await?);
            }
            Ok::<_, io::Error>(())
        });
    }
    while let Some(ended) = working.join_next().await {
        ended??;
    }
    Ok(())
}

/// Sends at its times, whatever has become of what it sent before; seconds from when each was due to its answer.
async fn paced(open: Vec<TcpStream>, size: usize, rate: usize, seconds: usize) -> io::Result<Vec<f64>> {
    let (frame, wanted, peers) = (frame(size), answer_bytes(size), open.len());
    let each = rate * seconds / peers;
    let apart = Duration::from_secs_f64(peers as f64 / rate as f64);
    let begin = tokio::time::Instant::now() + Duration::from_millis(50);
    let mut working = JoinSet::new();
    for (place, stream) in open.into_iter().enumerate() {
        let frame = frame.clone();
        let first = begin + apart.mul_f64(place as f64 / peers as f64);
        let (mut read, mut write) = stream.into_split();
        working.spawn_local(async move {
            let sending = tokio::task::spawn_local(async move {
                for turn in 0..each {
                    tokio::time::sleep_until(first + apart * turn as u32).await;
                    write.write_all(&frame).await?;
                }
                Ok::<_, io::Error>(write)
            });
            let (mut buffer, mut times) = (vec![0; wanted], Vec::with_capacity(each));
            for turn in 0..each {
                read.read_exact(&mut buffer).await?;
                times.push((tokio::time::Instant::now() - (first + apart * turn as u32)).as_secs_f64());
            }
            sending.await??;
            Ok::<_, io::Error>(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = working.join_next().await {
        all.extend(times??);
    }
    Ok(all)
}
