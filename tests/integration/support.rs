//! A whole relay in this process, and peers with real sockets by somebody else's code.

use std::{
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use moonwire::{
    config::{self, Config, Listen},
    server::{Handle, Reread, Server},
};
use tokio::{
    net::TcpStream,
    sync::oneshot,
    task::{JoinHandle, LocalSet},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest, protocol::CloseFrame},
};

/// The longest that a test waits for anything that must happen.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a test body in real time.
pub fn real<T>(body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, body)
}

/// Waits for something that must happen.
pub async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(value) => value,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Asks again and again for something that comes from outside, such as the file watcher.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    soon(what, async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A relay that serves one script over TCP.
pub struct Relay {
    pub addr: SocketAddr,
    pub script: PathBuf,
    pub folder: tempfile::TempDir,
    pub handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

/// The configuration that the tests begin with: no limit of the environment's, port 0, no file.
pub fn config(script: &Path) -> Config {
    let folder = script.parent().unwrap();
    Config {
        file: None,
        server: config::Server {
            listen: vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())],
            workers: 2,
            control: folder.join("control.sock"),
            trusted_proxies: Vec::new(),
            shutdown: Duration::from_secs(10),
        },
        limits: config::Limits::default(),
        store: config::Store { path: folder.join("data/moonwire.db"), ..config::Store::default() },
        reload: config::Reload { watch: false, ..config::Reload::default() },
        log: config::Log::default(),
        apps: vec![config::App::new("app", "/app/{room}", script).into()],
        statics: Vec::new(),
    }
}

/// Changes the one app of a configuration.
pub fn configure_app(config: &mut Config, change: impl FnOnce(&mut config::App)) {
    let mut app = config::App::clone(&config.apps[0]);
    change(&mut app);
    config.apps[0] = app.into();
}

pub fn module(body: &str) -> String {
    format!("local app = {{}}\n{body}\nreturn app\n")
}

impl Relay {
    pub async fn of(body: &str) -> Relay {
        Relay::with(body, |_| ()).await
    }

    pub async fn with(body: &str, configure: impl FnOnce(&mut Config)) -> Relay {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("app.lua");
        std::fs::write(&script, module(body)).unwrap();
        let mut config = config(&script);
        // Most of these peers do not read while the relay stops.
        configure_app(&mut config, |app| app.limits.close_timeout = Duration::from_millis(300));
        configure(&mut config);
        Relay::start(config, folder).await
    }

    /// A relay of the first app of `config`, whose script lies in `folder`.
    pub async fn start(config: Config, folder: tempfile::TempDir) -> Relay {
        Relay::start_with(config, None, folder).await
    }

    /// The same, with a configuration that a reload reads again.
    pub async fn start_with(config: Config, reread: Option<Reread>, folder: tempfile::TempDir) -> Relay {
        let script = config.apps[0].script.clone();
        let server = Server::start(config, reread, None).await.unwrap_or_else(|error| panic!("{error}"));
        let url = server.addrs().remove(0);
        let addr = url.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
        let handle = server.handle();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::task::spawn_local(server.run(async move {
            let _ = stopped.await;
        }));
        Relay { addr, script, folder, handle, stop: Some(stop), running }
    }

    pub fn edit(&self, body: &str) {
        std::fs::write(&self.script, module(body)).unwrap();
    }

    pub fn url(&self, target: &str) -> String {
        format!("ws://{}{target}", self.addr)
    }

    pub async fn peer(&self, target: &str) -> Peer {
        self.try_peer(target, &[]).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// A peer whose `on_open` has said "in": the 101 alone does not tell that it has joined anything.
    pub async fn member(&self, target: &str) -> Peer {
        let mut peer = self.peer(target).await;
        assert_eq!(peer.text().await, "in");
        peer
    }

    pub async fn try_peer(
        &self,
        target: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Peer, tokio_tungstenite::tungstenite::Error> {
        let mut request = self.url(target).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let connect = tokio_tungstenite::connect_async(request);
        soon("a handshake", connect).await.map(|(socket, _)| Peer { socket })
    }

    /// Stops the relay and waits until it has.
    pub async fn stop(mut self) {
        self.begin_stop();
        soon("the relay to stop", &mut self.running).await.unwrap();
    }

    pub fn begin_stop(&mut self) {
        drop(self.stop.take());
    }
}

/// A peer with a real socket.
pub struct Peer {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Peer {
    pub async fn send(&mut self, text: &str) {
        soon("a message to be taken", self.socket.send(Message::text(text))).await.unwrap();
    }

    pub async fn send_binary(&mut self, data: Vec<u8>) {
        soon("a message to be taken", self.socket.send(Message::binary(data))).await.unwrap();
    }

    /// The next message.
    pub async fn next(&mut self) -> Message {
        soon("a message", async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(message)) => return message,
                    other => panic!("no message, but {other:?}"),
                }
            }
        })
        .await
    }

    pub async fn text(&mut self) -> String {
        match self.next().await {
            Message::Text(text) => text.to_string(),
            other => panic!("no text, but {other:?}"),
        }
    }

    pub async fn ask(&mut self, text: &str) -> String {
        self.send(text).await;
        self.text().await
    }

    /// The close frame that ends the connection; what comes before it is dropped.
    pub async fn closed(&mut self) -> Option<(u16, String)> {
        soon("a close", async {
            let mut told = None;
            while let Some(Ok(message)) = self.socket.next().await {
                if let Message::Close(frame) = message {
                    told = frame.map(|CloseFrame { code, reason }| (u16::from(code), reason.to_string()));
                }
            }
            told
        })
        .await
    }
}
