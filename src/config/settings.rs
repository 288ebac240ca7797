//! The settings, as the rest of the relay reads them: checked, with every default filled in.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use crate::plain::Plain;

/// Everything that one relay is told. Each field's reason stands beside its setting in `config.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file that it came from, for messages; None when there was none.
    pub file: Option<PathBuf>,
    pub server: Server,
    pub limits: Limits,
    pub store: Store,
    pub reload: Reload,
    pub log: Log,
    pub apps: Vec<Arc<App>>,
    pub statics: Vec<Static>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    pub listen: Vec<Listen>,
    /// Worker threads; 0 in the file ("auto") is one for each core, resolved here.
    pub workers: usize,
    /// The local control socket.
    pub control: PathBuf,
    pub trusted_proxies: Vec<IpNet>,
    pub shutdown: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The bounds of everything that comes from outside or from scripts. An app may override the ones
/// that concern its connections and scripts in `[app.limits]`; those about the whole server
/// only stand at the top.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    // ── the whole server ──
    pub connections: usize,
    /// 0 is no bound. Loopback and trusted proxies have none.
    pub connections_per_address: usize,
    /// Connections whose handshake has not ended.
    pub pending_handshakes: usize,
    pub pending_handshakes_per_address: usize,
    /// Bytes of a request head, and how many headers it may have.
    pub header_bytes: usize,
    pub headers: usize,
    /// From accept to the end of the request head, never refreshed.
    pub handshake_timeout: Duration,
    /// Bytes that may wait for one worker: above `bus_pause` those who fill it stop reading their
    /// connections, above `bus` a publish is refused with `busy`.
    pub bus_pause: usize,
    pub bus: usize,
    /// Passwords that are hashed or verified at one time.
    pub password_jobs: usize,
    /// Operations that may wait for the store; above it, one more is refused with `busy`.
    pub store_queue: usize,
    // ── one connection ──
    pub message: usize,
    pub fragments: usize,
    /// From a message's first byte to its last.
    pub message_timeout: Duration,
    /// Messages per second from one connection; 0 is no bound.
    pub message_rate: usize,
    pub inbox_messages: usize,
    pub inbox: usize,
    pub outbox: usize,
    pub rooms_per_connection: usize,
    /// Bytes of a room's name.
    pub room_name: usize,
    pub ping_interval: Duration,
    pub pong_timeout: Duration,
    pub close_timeout: Duration,
    pub request_body: usize,
    // ── scripts ──
    pub callback_cpu: Duration,
    pub load_cpu: Duration,
    /// The longest that one callback may take with all its waits.
    pub callback_timeout: Duration,
    /// The longest that `authenticate` may take with all its waits.
    pub authenticate_timeout: Duration,
    /// The longest that `on_request` may take with all its waits.
    pub request_timeout: Duration,
    pub script_memory: usize,
    /// Errors of one connection within a minute; the last closes it.
    pub script_errors: u32,
    pub json_depth: usize,
    /// Callbacks and coroutines of one instance that may wait at one time.
    pub waiting: usize,
    /// Timers of one instance.
    pub timers: usize,
    /// Keys of `relay.rate` in one instance.
    pub rate_keys: usize,
    /// Bytes of the body of a response to `relay.http`.
    pub http_body: usize,
    /// How long a key set that `relay.jwt` has fetched is kept.
    pub jwks_cache: Duration,
    /// What `relay.ws` has open in one instance.
    pub ws_sockets: usize,
    /// Bytes of one value in the store, as it lies on disk.
    pub store_value: usize,
    /// Bytes of all keys and values of one `relay.store.list`.
    pub store_page: usize,
    /// Bytes in `relay.shared`, of all who share it.
    pub shared_memory: usize,
}

/// What is kept on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Store {
    /// Opened when a script first uses it.
    pub path: PathBuf,
    /// Bytes of the file.
    pub size: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Reload {
    pub watch: bool,
    pub debounce: Duration,
    pub debounce_max: Duration,
    pub vote: Duration,
    pub drain: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A level, or tracing's filter syntax.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Human-readable on a terminal, JSON when not.
    Auto,
    Human,
    Json,
}

#[derive(Debug, Clone, PartialEq)]
pub struct App {
    pub name: String,
    pub path: String,
    pub script: PathBuf,
    pub instances: usize,
    pub shard_by: Option<ShardBy>,
    /// The name of the `relay.shared` that it has together with other apps; None for one of its own.
    pub shared: Option<String>,
    pub origins: Origins,
    pub subprotocols: Vec<String>,
    /// A table, as `relay.config` shows it.
    pub settings: Plain,
    /// Names that `relay.env` may read.
    pub env: Vec<String>,
    /// The top level's limits with this app's own in their place.
    pub limits: Limits,
    /// What the script may reach by `relay.http` and `relay.ws`.
    pub http: Http,
    pub compression: Compression,
}

/// permessage-deflate, for peers that offer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    pub enabled: bool,
    /// Bytes from which on a message is compressed.
    pub threshold: usize,
    pub binary: bool,
    /// Whether both sides may refer to their earlier messages.
    pub context: bool,
    pub window_bits: u8,
    pub level: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Http {
    pub allow: Vec<HttpHost>,
}

/// A host that scripts may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpHost {
    pub host: Host,
    /// None is every port.
    pub port: Option<u16>,
}

/// A host as a URL has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// In lower case.
    Name(String),
    Address(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl App {
    /// An app with the defaults of everything else.
    pub fn new(name: &str, path: &str, script: impl Into<PathBuf>) -> App {
        App {
            name: name.to_owned(),
            path: path.to_owned(),
            script: script.into(),
            instances: 1,
            shard_by: None,
            shared: None,
            origins: Origins::Same,
            subprotocols: Vec::new(),
            settings: Plain::Table(Box::default()),
            env: Vec::new(),
            limits: Limits::default(),
            http: Http::default(),
            compression: Compression::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardBy {
    Param(String),
    Query(String),
    Header(String),
    User,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Only pages of the relay's own scheme, host and port (and peers that send no `Origin`).
    Same,
    /// `*`: every page; warned about at start.
    Any,
    /// These besides the relay's own, exactly: `https://example.com`, `http://localhost:3000`.
    Listed(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Static {
    /// The URL path that it is served under.
    pub path: String,
    pub folder: PathBuf,
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 100_000,
            connections_per_address: 1_024,
            pending_handshakes: 1_024,
            pending_handshakes_per_address: 32,
            header_bytes: 16 * KIB,
            headers: 64,
            handshake_timeout: Duration::from_secs(5),
            bus_pause: 4 * MIB,
            bus: 16 * MIB,
            password_jobs: 2,
            store_queue: 10_000,
            message: MIB,
            fragments: 131_072,
            message_timeout: Duration::from_secs(30),
            message_rate: 0,
            inbox_messages: 64,
            inbox: MIB,
            outbox: MIB,
            rooms_per_connection: 128,
            room_name: 255,
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            request_body: MIB,
            callback_cpu: Duration::from_millis(100),
            load_cpu: Duration::from_secs(1),
            callback_timeout: Duration::from_secs(60),
            authenticate_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            script_memory: 256 * MIB,
            script_errors: 10,
            json_depth: 64,
            waiting: 10_000,
            timers: 10_000,
            rate_keys: 100_000,
            http_body: MIB,
            jwks_cache: Duration::from_secs(300),
            ws_sockets: 1_000,
            store_value: MIB,
            store_page: 16 * MIB,
            shared_memory: 64 * MIB,
        }
    }
}

impl Default for Compression {
    fn default() -> Compression {
        Compression { enabled: false, threshold: KIB, binary: false, context: false, window_bits: 15, level: 2 }
    }
}

impl Default for Store {
    fn default() -> Store {
        Store { path: "data/moonwire.db".into(), size: 16 * 1024 * MIB }
    }
}

impl Default for Reload {
    fn default() -> Reload {
        Reload {
            watch: true,
            debounce: Duration::from_millis(100),
            debounce_max: Duration::from_millis(500),
            vote: Duration::from_millis(250),
            drain: Duration::from_secs(10),
        }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log { level: "info".to_owned(), format: LogFormat::Auto }
    }
}
