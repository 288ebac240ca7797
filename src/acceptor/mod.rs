//! Where peers come in: listens on every address and hands each new stream on, within the limits.

mod bind;
mod gate;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::unix::net::UnixListener as StdUnixListener,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use rustix::io::Errno;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, UnixListener},
    task::JoinSet,
    time::{sleep, timeout},
};

use self::bind::{SocketFile, bind_tcp, bind_unix};
pub use self::{
    bind::BindError,
    gate::{Counts, Gate, OverLimit, Permit},
};
use crate::{
    config::Listen,
    connection::stream::{StdStream, Stream},
};

/// Peers told at one time that there is no place for them; those beyond are dropped untold.
const TOLD_AT_ONCE: usize = 256;

/// How long one such peer is given to take the answer.
const TELLING: Duration = Duration::from_secs(1);

/// Bound to all its addresses; peers are taken in by `run`.
#[derive(Debug)]
pub struct Acceptor {
    listeners: Vec<Bound>,
}

/// A new connection, on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    pub stream: StdStream,
    pub peer: PeerAddr,
    pub permit: Permit,
}

/// Where a connection came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAddr {
    Ip(SocketAddr),
    /// By a unix socket: somebody on this machine, mostly a proxy.
    Unix,
}

#[derive(Debug)]
enum Bound {
    Tcp(std::net::TcpListener),
    Unix(StdUnixListener, SocketFile),
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    /// Listens on every address, or on none.
    pub fn bind(listen: &[Listen]) -> Result<Acceptor, BindError> {
        let listeners = listen
            .iter()
            .map(|listen| match listen {
                Listen::Tcp(address) => bind_tcp(*address).map(Bound::Tcp),
                Listen::Unix(path) => bind_unix(path).map(|(listener, file)| Bound::Unix(listener, file)),
            })
            .collect::<Result<_, _>>()?;
        Ok(Acceptor { listeners })
    }

    /// The addresses as they are now, with the port that the system chose for port 0.
    pub fn local_addrs(&self) -> Vec<Listen> {
        self.listeners
            .iter()
            .filter_map(|listener| match listener {
                Bound::Tcp(listener) => listener.local_addr().ok().map(Listen::Tcp),
                Bound::Unix(_, file) => Some(Listen::Unix(file.path.clone())),
            })
            .collect()
    }

    /// Takes peers in until `stop`; then the addresses are free again. Needs a tokio runtime with I/O and time.
    pub async fn run(self, gate: Gate, hand_over: impl Fn(Accepted), stop: impl Future<Output = ()>) -> io::Result<()> {
        let mut listeners = Vec::new();
        // Kept until the end, when they remove what they name.
        let mut files = Vec::new();
        for bound in self.listeners {
            listeners.push(match bound {
                Bound::Tcp(listener) => Listener::Tcp(TcpListener::from_std(listener)?),
                Bound::Unix(listener, file) => {
                    files.push(file);
                    Listener::Unix(UnixListener::from_std(listener)?)
                }
            });
        }

        let mut first = 0;
        let mut refused = JoinSet::new();
        let mut backoff = Backoff::default();
        let mut stop = std::pin::pin!(stop);
        loop {
            let next = std::future::poll_fn(|cx| accept(&listeners, &mut first, cx));
            let accepted = tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                Some(_) = refused.join_next() => continue,
                accepted = next => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => {
                    backoff.over();
                    accepted
                }
                Err(error) if out_of_resources(&error) => {
                    let wait = backoff.next(&error, Instant::now());
                    tokio::select! {
                        biased;
                        () = &mut stop => return Ok(()),
                        () = sleep(wait) => continue,
                    }
                }
                // The peer gave up between its arrival and our accept.
                Err(error) => {
                    tracing::debug!(%error, "a connection ended before it was accepted");
                    continue;
                }
            };
            match gate.enter(&peer) {
                Ok(permit) => {
                    prepare(&stream, gate.silence());
                    match stream.into_std() {
                        Ok(stream) => hand_over(Accepted { stream, peer, permit }),
                        Err(error) => {
                            tracing::debug!(%error, "a connection ended as it was accepted")
                        }
                    }
                }
                Err(over) => {
                    if refused.len() < TOLD_AT_ONCE {
                        refused.spawn(timeout(TELLING, tell(stream, over)));
                    }
                }
            }
        }
    }
}

impl PeerAddr {
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            PeerAddr::Ip(address) => Some(address.ip().to_canonical()),
            PeerAddr::Unix => None,
        }
    }

    /// Whether what it says of others (`X-Forwarded-*`) is believed. A unix socket is reached from
    /// this machine only, so its peers are trusted as soon as any proxy is.
    pub fn is_trusted(&self, proxies: &[IpNet]) -> bool {
        match self.ip() {
            Some(ip) => is_among(ip, proxies),
            None => !proxies.is_empty(),
        }
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip() {
            Some(ip) => ip.fmt(f),
            None => f.write_str("unix"),
        }
    }
}

/// Whether one of the networks holds the address.
pub fn is_among(ip: IpAddr, networks: &[IpNet]) -> bool {
    let ip = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip))
}

/// The next peer of any listener; each in turn is asked first.
fn accept(listeners: &[Listener], first: &mut usize, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, PeerAddr)>> {
    for offset in 0..listeners.len() {
        let index = (*first + offset) % listeners.len();
        let polled = match &listeners[index] {
            Listener::Tcp(listener) => listener.poll_accept(cx).map_ok(|(s, a)| (Stream::Tcp(s), PeerAddr::Ip(a))),
            Listener::Unix(listener) => listener.poll_accept(cx).map_ok(|(s, _)| (Stream::Unix(s), PeerAddr::Unix)),
        };
        if polled.is_ready() {
            *first = index + 1;
            return polled;
        }
    }
    Poll::Pending
}

/// A peer that has gone already makes these fail; whoever reads from it will learn that.
fn prepare(stream: &Stream, silence: Duration) {
    let Stream::Tcp(stream) = stream else { return };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(silence)) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT could not be set");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = silence;
}

/// Answers a peer for which there is no place.
async fn tell(stream: Stream, over: OverLimit) {
    let body = format!("{over}\n");
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.end_with(answer.as_bytes()).await;
}

/// Too many open files and its like: it passes when connections end, and trying at once does not help.
fn out_of_resources(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// How long to wait before the next accept, while the system has nothing left for one.
#[derive(Debug, Default)]
struct Backoff {
    last: Option<Duration>,
    warned: Option<Instant>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(1);
    const BETWEEN_WARNINGS: Duration = Duration::from_secs(10);

    fn next(&mut self, error: &io::Error, now: Instant) -> Duration {
        let wait = self.last.map_or(Self::FIRST, |last| (last * 2).min(Self::LONGEST));
        self.last = Some(wait);
        if self.warned.is_none_or(|warned| now.duration_since(warned) >= Self::BETWEEN_WARNINGS) {
            self.warned = Some(now);
            tracing::warn!(
                %error,
                "no connection can be accepted until others end: raise the limit on open files \
                 (`ulimit -n`, or LimitNOFILE= of the service), or lower limits.connections"
            );
        }
        wait
    }

    fn over(&mut self) {
        self.last = None;
    }
}
#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        process::Command,
    };

    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::config::Limits;

    fn tcp(address: &str) -> Listen {
        Listen::Tcp(address.parse().unwrap())
    }

    /// An acceptor on its own thread; what it takes in comes out of the receiver.
    struct Running {
        address: SocketAddr,
        accepted: mpsc::UnboundedReceiver<Accepted>,
        gate: Gate,
        stop: Option<oneshot::Sender<()>>,
        thread: Option<std::thread::JoinHandle<()>>,
    }

    impl Running {
        fn start(limits: Limits) -> Running {
            let acceptor = Acceptor::bind(&[tcp("127.0.0.1:0")]).unwrap();
            let Listen::Tcp(address) = acceptor.local_addrs()[0] else { panic!("a TCP address") };
            let (stop, stopped) = oneshot::channel::<()>();
            let (sender, accepted) = mpsc::unbounded_channel();
            let gate = Gate::new(&limits, &[]);
            let inside = gate.clone();
            let thread = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let hand_over = move |accepted| drop(sender.send(accepted));
                runtime.block_on(acceptor.run(inside, hand_over, async { drop(stopped.await) })).unwrap();
            });
            Running { address, accepted, gate, stop: Some(stop), thread: Some(thread) }
        }

        fn connect(&self) -> std::net::TcpStream {
            std::net::TcpStream::connect(self.address).unwrap()
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            drop(self.stop.take());
            self.thread.take().unwrap().join().unwrap();
        }
    }

    #[test]
    fn a_peer_for_whom_there_is_no_place_is_told_why() {
        let running = Running::start(Limits { connections: 1, ..Limits::default() });
        let mut inside = running.connect();
        let mut outside = running.connect();
        // Bytes that nobody reads must not cost the peer its answer.
        outside.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        outside.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nthe relay has as many connections as `limits.connections` allows (1)\n"));
        assert_eq!(running.gate.counts().refused_connections, 1);
        inside.write_all(b"still in").unwrap();
    }

    #[tokio::test]
    async fn peers_come_in_by_every_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moonwire.sock");
        let acceptor = Acceptor::bind(&[tcp("127.0.0.1:0"), Listen::Unix(path.clone())]).unwrap();
        let Listen::Tcp(address) = acceptor.local_addrs()[0] else { panic!("a TCP address") };
        let gate = Gate::new(&Limits::default(), &[]);
        let (sender, mut accepted) = mpsc::unbounded_channel::<Accepted>();
        let peers = async {
            for _ in 0..3 {
                let _tcp = tokio::net::TcpStream::connect(address).await.unwrap();
                assert!(matches!(accepted.recv().await.unwrap().stream, StdStream::Tcp(_)));
                let _unix = tokio::net::UnixStream::connect(&path).await.unwrap();
                assert_eq!(accepted.recv().await.unwrap().peer, PeerAddr::Unix);
            }
        };
        acceptor.run(gate.clone(), move |accepted| drop(sender.send(accepted)), peers).await.unwrap();
        assert_eq!((gate.counts().accepted, gate.counts().pending), (6, 0));
        assert!(!path.exists());
    }

    #[test]
    fn accepted_streams_do_not_wait_to_fill_packets() {
        let mut running = Running::start(Limits::default());
        let _peer = running.connect();
        let accepted = running.accepted.blocking_recv().unwrap();
        assert_eq!(accepted.peer.ip(), Some("127.0.0.1".parse().unwrap()));
        let StdStream::Tcp(stream) = &accepted.stream else { panic!("a TCP stream") };
        assert!(stream.nodelay().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(SockRef::from(stream).tcp_user_timeout().unwrap(), Some(Duration::from_secs(35)));
        assert_eq!(running.gate.counts().pending, 1);
    }

    #[test]
    fn waiting_for_files_grows_to_a_second_and_warns_rarely() {
        let mut backoff = Backoff::default();
        let error = io::Error::from(Errno::MFILE);
        assert!(out_of_resources(&error));
        let now = Instant::now();
        let waits: Vec<_> = (0..9).map(|_| backoff.next(&error, now).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(backoff.warned, Some(now));
        backoff.over();
        assert_eq!(backoff.next(&error, now + Duration::from_secs(11)).as_millis(), 10);
        assert_eq!(backoff.warned, Some(now + Duration::from_secs(11)));
    }

    /// Runs itself once more in a process of its own, since the limit on open files is the process's.
    #[test]
    fn running_out_of_files_costs_nobody_who_is_in() {
        const INSIDE: &str = "MOONWIRE_TEST_FEW_FILES";
        if std::env::var_os(INSIDE).is_none() {
            let name = "acceptor::tests::running_out_of_files_costs_nobody_who_is_in";
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name, "--nocapture"])
                .env(INSIDE, "1")
                .output()
                .unwrap();
            assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
            return;
        }
        let mut running = Running::start(Limits::default());
        let mut first = running.connect();
        let StdStream::Tcp(mut inside) = running.accepted.blocking_recv().unwrap().stream else { panic!("TCP") };
        inside.set_nonblocking(false).unwrap();

        // A peer needs a file too: as many as leave the acceptor without one.
        rustix::process::setrlimit(
            rustix::process::Resource::Nofile,
            rustix::process::Rlimit { current: Some(64), maximum: Some(64) },
        )
        .unwrap();
        let mut peers = Vec::new();
        while let Ok(peer) = std::net::TcpStream::connect(running.address) {
            peers.push(peer);
        }
        first.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        inside.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");

        let waiting = peers.len();
        drop(peers.split_off(waiting / 2));
        while running.accepted.try_recv().is_ok() {}
        let mut late = loop {
            match std::net::TcpStream::connect(running.address) {
                Ok(late) => break late,
                Err(_) => while running.accepted.try_recv().is_ok() {},
            }
        };
        late.write_all(b"late").unwrap();
        let address = late.local_addr().unwrap();
        loop {
            let accepted = running.accepted.blocking_recv().unwrap();
            if accepted.peer == PeerAddr::Ip(address) {
                break;
            }
        }
    }
}
