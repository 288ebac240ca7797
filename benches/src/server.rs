//! The servers that are measured: how they are started, and what they have used.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A server to measure.
#[derive(Clone)]
pub struct Server {
    pub name: String,
    command: Vec<String>,
    /// It gets a config, and not a port.
    pub is_relay: bool,
}

impl Server {
    /// `NAME=COMMAND`; the command gets a port as its last argument.
    pub fn other(text: &str) -> Result<Server, String> {
        let (name, command) = text.split_once('=').ok_or("--server wants NAME=COMMAND, and the command gets a port")?;
        let command = command.split(' ').map(str::to_owned).collect();
        Ok(Server { name: name.to_owned(), command, is_relay: false })
    }

    /// A relay, `BINARY` or `NAME=BINARY`: two of them tell what a change of it has brought.
    pub fn relay(text: &str) -> Result<Server, String> {
        let (name, binary) = text.split_once('=').unwrap_or(("moonwire", text));
        let binary =
            fs::canonicalize(binary).map_err(|error| format!("--moonwire {binary}: {error}; build it first"))?;
        Ok(Server { name: name.to_owned(), command: vec![binary.to_string_lossy().into_owned()], is_relay: true })
    }
}

/// What a relay is told beyond the usual. Other servers have no such settings.
#[derive(Clone, Copy)]
pub struct Setup {
    pub workers: usize,
    pub instances: usize,
    /// Lines below `[limits]`.
    pub limits: &'static str,
    /// Lines of the app that most of the work is for.
    pub app: &'static str,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { workers: 1, instances: 1, limits: "", app: "" }
    }
}

pub struct Running {
    child: Child,
    pub port: u16,
    folder: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Running {
    pub fn start(server: &Server, setup: &Setup) -> io::Result<Running> {
        // Nobody else is given it at once.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let folder = env::temp_dir().join(format!("moonwire-bench-{port}"));
        fs::create_dir_all(&folder)?;
        let mut command = Command::new(&server.command[0]);
        if server.is_relay {
            fs::write(folder.join("bench.lua"), fs::read(scripts().join("moonwire.lua"))?)?;
            fs::write(folder.join("config.toml"), config(port, setup))?;
            command.arg("-c").arg(folder.join("config.toml"));
        } else {
            command.args(&server.command[1..]).arg(port.to_string()).env("BENCH_FOLDER", &folder);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("{} cannot be started: {error}", server.command[0]))
        })?;
        let mut running = Running { child, port, folder };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = running.child.try_wait()? {
                return Err(io::Error::other(format!("it ended at once, with {status}")));
            }
            if begun.elapsed() > Duration::from_secs(10) {
                return Err(io::Error::other("it does not listen after 10 s"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }

    /// Nanoseconds that all its threads have run.
    pub fn cpu(&self) -> io::Result<f64> {
        cpu_of(&self.child.id().to_string())
    }

    /// Bytes in memory.
    pub fn resident(&self) -> io::Result<f64> {
        self.status("VmRSS:")
    }

    /// The most bytes that were in memory since `reset_peak`.
    pub fn peak(&self) -> io::Result<f64> {
        self.status("VmHWM:")
    }

    pub fn reset_peak(&self) -> io::Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")
    }

    fn status(&self, name: &str) -> io::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) * 1024.0)
    }

    /// Saves the relay's script as an editor does, with other text and the same meaning.
    pub fn save_script(&self, turn: usize) -> io::Result<()> {
        let script = fs::read_to_string(scripts().join("moonwire.lua"))?;
        fs::write(self.folder.join("bench.lua.new"), format!("-- save {turn}\n{script}"))?;
        fs::rename(self.folder.join("bench.lua.new"), self.folder.join("bench.lua"))
    }

    /// Which load of its script the relay serves with.
    pub fn generation(&self) -> io::Result<usize> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.write_all(b"GET /generation HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let number = answer.rsplit("\r\n\r\n").next().and_then(|body| body.trim().parse().ok());
        number.ok_or_else(|| io::Error::other(format!("no generation of the script in this answer: {answer}")))
    }
}

/// Nanoseconds that all threads of a process have run; `self` is this one.
pub fn cpu_of(process: &str) -> io::Result<f64> {
    let mut sum = 0.0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end meanwhile.
        let stat = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        sum += stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0);
    }
    Ok(sum)
}

fn scripts() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn config(port: u16, Setup { workers, instances, limits, app }: &Setup) -> String {
    let scripts = scripts().display();
    format!(
        r#"
[server]
listen = "127.0.0.1:{port}"
workers = {workers}

[log]
level = "warn"

[limits]
connections = 1_000_000
{limits}

[[app]]
name = "bench"
path = "/{{what}}"
script = "bench.lua"
instances = {instances}
{app}

[[app]]
name = "json"
path = "/json/{{room}}"
script = "{scripts}/moonwire-json.lua"

[[app]]
name = "many"
path = "/many/{{first}}/{{count}}"
script = "{scripts}/moonwire-many.lua"
"#
    )
}
