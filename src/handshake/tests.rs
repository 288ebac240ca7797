//! Handshakes and plain requests over real sockets, with an app that is made up.

use std::{
    cell::{Cell, RefCell},
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::interval,
};

use super::*;
use crate::{
    acceptor::Gate,
    config::{Limits, Log, Reload, Server, Static},
    harness::{alone, resident},
    plain::Plain,
};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

type Answering = Box<dyn Fn(&Request) -> Option<Response>>;

/// An app that answers what the test says.
struct Fake {
    verdict: Box<dyn Fn(&Request) -> Verdict>,
    response: Answering,
    seen: RefCell<Vec<Request>>,
    /// If there, a verdict waits for it.
    hold: Option<Notify>,
    cancelled: Cell<bool>,
    ready: bool,
}

impl Default for Fake {
    fn default() -> Fake {
        Fake {
            verdict: Box::new(|_| accept()),
            response: Box::new(|_| None),
            seen: RefCell::default(),
            hold: None,
            cancelled: Cell::new(false),
            ready: true,
        }
    }
}

impl Fake {
    fn judging(verdict: impl Fn(&Request) -> Verdict + 'static) -> Fake {
        Fake { verdict: Box::new(verdict), ..Fake::default() }
    }

    fn answering(response: impl Fn(&Request) -> Option<Response> + 'static) -> Fake {
        Fake { response: Box::new(response), ..Fake::default() }
    }
}

/// Tells whether a wait was given up.
struct Waiting<'a>(&'a Cell<bool>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

impl Door for Fake {
    async fn authenticate(&self, _app: usize, request: Request) -> (Verdict, Request) {
        self.seen.borrow_mut().push(request.clone());
        if let Some(hold) = &self.hold {
            let waiting = Waiting(&self.cancelled);
            hold.notified().await;
            std::mem::forget(waiting);
        }
        ((self.verdict)(&request), request)
    }

    async fn request(&self, _app: usize, request: Request) -> Option<Response> {
        self.seen.borrow_mut().push(request.clone());
        (self.response)(&request)
    }

    fn ready(&self) -> bool {
        self.ready
    }
}

fn accept() -> Verdict {
    Verdict::Accept { identity: None, subprotocol: None, headers: vec![] }
}

fn accept_with(subprotocol: Option<&str>, headers: &[(&str, &str)]) -> Verdict {
    let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    Verdict::Accept { identity: None, subprotocol: subprotocol.map(str::to_owned), headers }
}

fn respond(status: u16, headers: &[(&str, &str)], body: &str) -> Option<Response> {
    let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect();
    Some(Response { status, headers, body: body.as_bytes().to_vec() })
}

/// One app at `/chat/{room}`, served to one peer after another.
struct Relay {
    site: Rc<Site>,
    door: Fake,
    gate: Gate,
    peer: PeerAddr,
}

impl Relay {
    fn new(door: Fake) -> Relay {
        Relay::with(door, |_| {})
    }

    fn with(door: Fake, edit: impl FnOnce(&mut Config)) -> Relay {
        let mut config = Config {
            file: None,
            server: Server {
                listen: vec![],
                workers: 1,
                control: PathBuf::new(),
                trusted_proxies: vec![],
                shutdown: Duration::from_secs(1),
            },
            limits: Limits::default(),
            store: crate::config::Store::default(),
            reload: Reload::default(),
            log: Log::default(),
            apps: vec![],
            statics: vec![],
        };
        edit(&mut config);
        let limits = config.limits.clone();
        let app = App {
            name: "chat".to_owned(),
            path: "/chat/{room}".to_owned(),
            script: PathBuf::from("chat.lua"),
            subprotocols: vec!["chat.v1".to_owned()],
            limits,
            ..App::new("", "", "")
        };
        config.apps.push(Arc::new(app));
        let gate = Gate::new(&config.limits, &config.server.trusted_proxies);
        let peer = PeerAddr::Ip("192.0.2.7:4711".parse::<SocketAddr>().unwrap());
        Relay { site: Rc::new(Site::new(Arc::new(config))), door, gate, peer }
    }

    /// Serves one peer, which does what `peer` does.
    async fn serve<T>(&self, peer: impl AsyncFnOnce(TcpStream) -> T) -> (T, Outcome) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let ours = Stream::Tcp(listener.accept().await.unwrap().0);
        let permit = self.gate.enter(&self.peer).unwrap();
        let served = serve(ours, self.peer, permit, self.site.clone(), &self.door);
        timeout(Duration::from_secs(20), async { tokio::join!(peer(theirs), served) }).await.expect("it ends")
    }

    /// What comes back for these bytes, up to the end or the 101.
    async fn ask(&self, sent: impl AsRef<[u8]>) -> (String, Outcome) {
        self.serve(async |mut stream| {
            // The relay may end before it has taken all.
            let _ = stream.write_all(sent.as_ref()).await;
            answer(&mut stream).await
        })
        .await
    }

    async fn upgrade(&self, sent: impl AsRef<[u8]>) -> (String, Upgraded) {
        match self.ask(sent).await {
            (answer, Outcome::Upgraded(upgraded)) => (answer, *upgraded),
            (answer, Outcome::Ended) => panic!("not upgraded: {answer}"),
        }
    }

    async fn refusal(&self, sent: impl AsRef<[u8]>) -> (u16, String) {
        let (answer, outcome) = self.ask(sent).await;
        assert!(matches!(outcome, Outcome::Ended));
        (status(&answer), answer)
    }
}

/// All that comes, up to the end or the head of a 101.
async fn answer(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    loop {
        if stream.read_buf(&mut read).await.unwrap() == 0 {
            break;
        }
        let so_far = String::from_utf8_lossy(&read);
        if so_far.contains("HTTP/1.1 101") && so_far.ends_with("\r\n\r\n") {
            break;
        }
    }
    String::from_utf8(read).unwrap()
}

fn status(answer: &str) -> u16 {
    let digits = answer.starts_with("HTTP/1.").then(|| answer.get(9..12)).flatten();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no status: {answer:?}"))
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// A well-formed handshake with more headers.
fn handshake(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: good.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\n{KEY}{more}\r\n"
    )
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: good.com\r\nConnection: close\r\n{more}\r\n")
}

#[tokio::test]
async fn a_handshake_becomes_a_websocket() {
    let relay = Relay::new(Fake::judging(|request| Verdict::Accept {
        identity: Some(Identity {
            id: "ann".to_owned(),
            data: Plain::Nil,
            expires_at: None,
            permissions: Default::default(),
            asked_at: 0,
        }),
        subprotocol: None,
        headers: vec![("Set-Cookie".to_owned(), format!("room={}", request.params[0].1))],
    }));
    let sent = handshake("/chat/lobby%21?name=ann+b", "Origin: http://good.com\r\nCookie: a=1\r\n");
    let (answer, upgraded) = relay.upgrade(sent).await;
    for line in [
        "HTTP/1.1 101 Switching Protocols\r\n",
        "upgrade: websocket\r\n",
        "connection: Upgrade\r\n",
        "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
        "set-cookie: room=lobby!\r\n",
    ] {
        assert!(answer.contains(line), "{line} in {answer}");
    }
    assert!(!answer.contains("sec-websocket-protocol"));
    let Upgraded { read, app, request, admission, permit, .. } = upgraded;
    assert_eq!((&read[..], app), (&b""[..], 0));
    assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/chat/lobby%21"));
    assert_eq!(request.query, [("name".to_owned(), Bytes::from("ann b"))]);
    assert_eq!((request.remote_addr.as_str(), request.tls), ("192.0.2.7", false));
    let Admission::Open { identity, subprotocol: None } = admission else { panic!("{admission:?}") };
    assert_eq!(identity.unwrap().id, "ann");
    assert_eq!((relay.gate.counts().open, relay.gate.counts().pending), (1, 0));
    drop(permit);
    assert_eq!(relay.gate.counts().open, 0);
}

#[tokio::test]
async fn somebody_elses_websocket_agrees() {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;

    let relay = Relay::new(Fake::default());
    let (response, outcome) = relay
        .serve(async |stream| {
            let mut request = "ws://good.com/chat/lobby".into_client_request().unwrap();
            request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("x, chat.v1"));
            tokio_tungstenite::client_async(request, stream).await.unwrap().1
        })
        .await;
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat.v1");
    let Outcome::Upgraded(upgraded) = outcome else { panic!("not upgraded") };
    let expected = Admission::Open { identity: None, subprotocol: Some("chat.v1".to_owned()) };
    assert_eq!(upgraded.admission, expected);
}

#[tokio::test]
async fn frames_that_follow_the_handshake_at_once_are_kept() {
    let relay = Relay::new(Fake::default());
    // The second part looks like a request, and is none.
    let frames = b"\x81\x82abcd\x00\x00GET / HTTP/1.1\n\n";
    let sent = [handshake("/chat/lobby", "").as_bytes(), frames].concat();
    assert_eq!(&relay.upgrade(sent).await.1.read[..], frames);
}

#[tokio::test]
async fn malformed_handshakes_get_a_status_that_says_why() {
    let relay = Relay::new(Fake::default());
    let good = handshake("/chat/lobby", "");
    let swap = |from: &str, to: &str| good.replace(from, to);
    for (sent, expected, said) in [
        (swap("GET ", "POST "), 405, "begins with GET"),
        (swap("HTTP/1.1", "HTTP/1.0"), 400, "HTTP/1.1"),
        (swap("Connection: Upgrade", "Connection: close"), 400, "`Connection: Upgrade` is missing"),
        (swap("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"), 426, "version 13"),
        (swap("Sec-WebSocket-Version: 13\r\n", ""), 426, "version 13"),
        (swap("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), 400, "Sec-WebSocket-Key"),
        (swap(KEY, ""), 400, "Sec-WebSocket-Key"),
        (handshake("/chat/lobby", "Content-Length: 2\r\n") + "hi", 400, "no body"),
        (handshake("/chat/lobby", "Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400, "no body"),
        (handshake("/other", ""), 404, "no app has this path"),
        (handshake("/chat/lobby", "Origin: http://evil.com\r\n"), 403, "origin"),
        (handshake("/chat/lobby", "Origin: null\r\n"), 403, "origin"),
        (handshake("http://evil.com/chat/lobby", ""), 400, "Host differ"),
        (swap("GET ", "G ET "), 400, ""),
    ] {
        let (status, answer) = relay.refusal(&sent).await;
        assert_eq!(status, expected, "{sent}\n{answer}");
        assert!(body(&answer).contains(said), "{sent}\n{answer}");
        if expected == 426 {
            assert!(answer.contains("sec-websocket-version: 13\r\n"), "{answer}");
        }
    }
    assert!(relay.door.seen.borrow().is_empty(), "no app was asked");
    assert_eq!(relay.gate.counts().pending + relay.gate.counts().open, 0);

    relay.upgrade(handshake("http://good.com/chat/lobby", "")).await;
    relay.upgrade(handshake("/chat/lobby", "Content-Length: 0\r\n")).await;
}

#[tokio::test]
async fn a_verdict_becomes_a_status() {
    let refuse = |status| Verdict::Refuse { status, reason: "no token".to_owned() };
    for (verdict, expected, said) in [
        (refuse(401), 401, "no token\n"),
        (refuse(403), 403, "no token\n"),
        (refuse(599), 599, "no token\n"),
        (refuse(200), 500, "the app's answer cannot be sent\n"),
        (refuse(600), 500, "the app's answer cannot be sent\n"),
        (accept_with(Some("v9"), &[]), 500, "the app chose a subprotocol that was not offered\n"),
        (accept_with(None, &[("X", "a\r\nb: c")]), 500, "the app's answer cannot be sent\n"),
    ] {
        let given = verdict.clone();
        let relay = Relay::new(Fake::judging(move |_| given.clone()));
        let (status, answer) = relay.refusal(handshake("/chat/lobby", "")).await;
        assert_eq!((status, body(&answer)), (expected, said), "{verdict:?}");
        assert_eq!(answer.contains("www-authenticate: Bearer\r\n"), expected == 401);
        assert!(answer.contains("connection: close\r\n"));
    }
    let relay = Relay::new(Fake { ready: false, ..Fake::default() });
    let (status, answer) = relay.refusal(handshake("/chat/lobby", "")).await;
    assert_eq!((status, answer.contains("retry-after: 1\r\n")), (503, true));
}

#[tokio::test]
async fn a_refusal_for_pages_is_an_upgrade_and_a_close() {
    let relay = Relay::new(Fake::judging(|_| Verdict::UpgradeAndClose { code: 4001, reason: "banned".to_owned() }));
    let (answer, upgraded) = relay.upgrade(handshake("/chat/lobby", "Sec-WebSocket-Protocol: bearer, t0ken\r\n")).await;
    assert!(answer.contains("sec-websocket-protocol: bearer\r\n"), "{answer}");
    assert_eq!(upgraded.admission, Admission::Close { code: 4001, reason: "banned".to_owned() });
}

#[tokio::test]
async fn the_connections_own_headers_are_not_the_scripts_to_set() {
    let headers = [("Connection", "close"), ("Sec-WebSocket-Extensions", "x"), ("X-Room", "7")];
    let relay = Relay::new(Fake::judging(move |_| accept_with(None, &headers)));
    let (answer, _) = relay.upgrade(handshake("/chat/lobby", "")).await;
    assert!(answer.contains("x-room: 7\r\n") && answer.contains("connection: Upgrade\r\n"), "{answer}");
    assert!(!answer.contains("extensions") && !answer.contains("close"), "{answer}");
}

#[tokio::test]
async fn no_frame_is_read_before_the_verdict() {
    let relay = Relay::new(Fake { hold: Some(Notify::new()), ..Fake::default() });
    let (sent, outcome) = relay
        .serve(async |mut stream| {
            stream.write_all(handshake("/chat/lobby", "").as_bytes()).await.unwrap();
            let flood = [0x82; 65_536];
            let mut sent = 0;
            // Until the kernel takes no more.
            while let Ok(n) = timeout(Duration::from_millis(200), stream.write(&flood)).await {
                sent += n.unwrap();
            }
            relay.door.hold.as_ref().unwrap().notify_one();
            assert_eq!(status(&answer_head(&mut stream).await), 101);
            (sent, stream)
        })
        .await;
    let Outcome::Upgraded(upgraded) = outcome else { panic!("not upgraded") };
    assert!(sent.0 > 65_536 && upgraded.read.len() <= 8192, "{} sent, {} read", sent.0, upgraded.read.len());
}

/// The head of what comes.
async fn answer_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_peer_that_leaves_is_not_waited_for() {
    let relay = Relay::new(Fake { hold: Some(Notify::new()), ..Fake::default() });
    let ((), outcome) = relay
        .serve(async |mut stream| {
            stream.write_all(handshake("/chat/lobby", "").as_bytes()).await.unwrap();
            while relay.door.seen.borrow().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    assert!(matches!(outcome, Outcome::Ended));
    assert!(relay.door.cancelled.get());
}

#[tokio::test]
async fn an_app_that_never_answers_does_not_hold_its_peers() {
    let hold = Fake { hold: Some(Notify::new()), ..Fake::default() };
    let relay = Relay::with(hold, |config| config.limits.authenticate_timeout = Duration::ZERO);
    let (status, answer) = relay.refusal(handshake("/chat/lobby", "")).await;
    assert_eq!((status, body(&answer)), (503, "the app did not answer in time\n"));
}

#[tokio::test]
async fn a_dripped_head_ends_at_its_deadline_though_bytes_flow() {
    let relay = Relay::with(Fake::default(), |config| config.limits.handshake_timeout = Duration::from_millis(300));
    let (answer, outcome) = relay
        .serve(async |stream| {
            let (mut reader, mut writer) = stream.into_split();
            let drip = async {
                let mut tick = interval(Duration::from_millis(20));
                for byte in handshake("/chat/lobby", &"X: y\r\n".repeat(20)).as_bytes() {
                    tick.tick().await;
                    if writer.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                }
                panic!("the relay took it all");
            };
            let mut answer = String::new();
            tokio::select! {
                () = drip => {}
                read = reader.read_to_string(&mut answer) => drop(read.unwrap()),
            }
            answer
        })
        .await;
    assert!(matches!(outcome, Outcome::Ended));
    assert_eq!(status(&answer), 408);
    assert_eq!(body(&answer), "the request's head was not there within `limits.handshake_timeout` (300ms)\n");
}

#[tokio::test]
async fn idle_peers_are_let_go() {
    let relay = Relay::with(Fake::default(), |config| config.limits.handshake_timeout = Duration::from_millis(100));
    let (answer, _) = relay.ask("").await;
    assert_eq!(answer, "", "one that never asked hears nothing");
    let (answer, _) = relay.ask("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((status(&answer), body(&answer)), (200, "ok\n"), "one that asked once is let go later");
}

#[tokio::test]
async fn heads_that_are_too_large_end_at_once_and_cost_nothing() {
    let relay = Relay::new(Fake::default());
    let many = "X: y\r\n".repeat(64);
    let (status, answer) = relay.refusal(get("/healthz", &many)).await;
    let said = "the request has more headers than `limits.headers` allows (64)\n";
    assert_eq!((status, body(&answer)), (431, said));
    assert_eq!(relay.refusal(get("/healthz", &"X: y\r\n".repeat(62))).await.0, 200);

    let said = "the request's head is larger than `limits.header_bytes` allows (16384 bytes)\n";
    for size in [17 * 1024, 1 << 20] {
        let sent = get("/healthz", &format!("X: {}\r\n", "y".repeat(size)));
        let (status, answer) = relay.refusal(&sent).await;
        assert_eq!((status, body(&answer)), (431, said), "{size}");
    }
    assert_eq!(relay.refusal(get("/healthz", &format!("X: {}\r\n", "y".repeat(15_000)))).await.0, 200);
}

#[test]
fn a_thousand_heads_that_are_too_large_leave_nothing() {
    alone("handshake::tests::a_thousand_heads_that_are_too_large_leave_nothing", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let relay = Relay::new(Fake::default());
            let sent = get("/healthz", &format!("X: {}\r\n", "y".repeat(17 * 1024)));
            assert_eq!(relay.refusal(&sent).await.0, 431);
            let before = resident();
            for _ in 0..1000 {
                assert_eq!(relay.refusal(&sent).await.0, 431);
            }
            let grown = resident().saturating_sub(before);
            assert!(grown < 1 << 20, "grown by {grown} bytes");
        });
    });
}

#[tokio::test]
async fn small_head_limits_hold_too() {
    let relay = Relay::with(Fake::default(), |config| {
        config.limits.header_bytes = 200;
        config.limits.headers = 3;
    });
    assert_eq!(relay.refusal(get("/healthz", "")).await.0, 200);
    assert_eq!(relay.refusal(get("/healthz", &format!("X: {}\r\n", "y".repeat(150)))).await.0, 431);
    assert_eq!(relay.refusal(get("/healthz", "X: y\r\nX: y\r\n")).await.0, 431);
}

#[tokio::test]
async fn ambiguous_requests_get_400_and_the_end() {
    let relay = Relay::new(Fake::answering(|_| respond(200, &[], "answered")));
    let smuggled = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = |headers: &str, body: &str| format!("POST /chat/a HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}{smuggled}");
    for sent in [
        post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        post("Content-Length: 5\r\nContent-Length: 0\r\n", "12345"),
        post("Transfer-Encoding: identity\r\n", ""),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        post("X: a\r\n b\r\n", ""),
        post("X: a\n", ""),
        "GET /healthz HTTP/1.1\nHost: a\n\n".to_owned(),
        post("Host: b\r\n", ""),
        "\0\x01\x02 garbage\r\n\r\n".to_owned(),
        "\x16\x03\x01 not tls\r\n\r\n".to_owned(),
    ] {
        let (status, answer) = relay.refusal(&sent).await;
        assert_eq!((status, answer.matches("HTTP/1.1").count()), (400, 1), "{sent:?}\n{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
    // What comes after a body of unknown length, or of a refused upgrade, is no request.
    let chunked = post("Transfer-Encoding: chunked\r\n", "2\r\nhi\r\n0\r\n\r\n");
    let (status, answer) = relay.refusal(&chunked).await;
    assert_eq!((status, answer.matches("HTTP/1.1").count()), (200, 1), "{answer}");
    let refused = handshake("/chat/a", "Origin: http://evil.com\r\n") + smuggled;
    let (status, answer) = relay.refusal(&refused).await;
    assert_eq!((status, answer.matches("HTTP/1.1").count()), (403, 1), "{answer}");
}

#[tokio::test]
async fn one_stream_carries_many_requests() {
    let relay = Relay::new(Fake::answering(|request| respond(200, &[], &format!("[{}]", request.body.len()))));
    let post = "POST /chat/a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let (answer, outcome) = relay.ask(format!("{post}\r\n{post}{post}{}", get("/healthz", ""))).await;
    assert!(matches!(outcome, Outcome::Ended));
    assert_eq!((answer.matches("[3]").count(), answer.matches("ok\n").count()), (3, 1), "{answer}");

    let (answer, _) = relay.ask(format!("{post}GET / HTTP/1.1\r\n\r\n")).await;
    assert!(answer.contains("[3]") && answer.ends_with("the request is malformed: it has no Host\n"), "{answer}");

    let (answer, outcome) = relay.ask(format!("{post}{}", handshake("/chat/a", ""))).await;
    assert!(answer.contains("[3]"), "{answer}");
    assert!(matches!(outcome, Outcome::Upgraded(_)), "{answer}");
}

#[tokio::test]
async fn health_is_told_whatever_the_apps_do() {
    let relay = Relay::new(Fake { ready: false, ..Fake::default() });
    let (status, answer) = relay.refusal(get("/healthz?x", "")).await;
    assert_eq!((status, body(&answer)), (200, "ok\n"));
    let (status, answer) = relay.refusal(get("/healthz", "").replace("GET", "HEAD")).await;
    assert_eq!((status, body(&answer)), (200, ""));
    assert_eq!(relay.refusal(get("/healthz", "").replace("GET", "POST")).await.0, 405);
    assert_eq!(relay.refusal(get("/chat/lobby", "")).await.0, 503);
}

#[tokio::test]
async fn an_app_answers_plain_requests() {
    let relay = Relay::with(
        Fake::answering(|request| match &request.query[..] {
            [] => respond(201, &[("X-A", "1"), ("content-type", "text/html"), ("Content-Length", "99")], "<p>"),
            [(name, _), ..] if name == "status" => respond(199, &[], ""),
            [(name, _), ..] if name == "header" => respond(200, &[("X", "a\nb")], ""),
            [(name, _), ..] if name == "empty" => respond(204, &[], "ignored"),
            [(name, _), ..] if name == "echo" => respond(200, &[], std::str::from_utf8(&request.body).unwrap()),
            _ => None,
        }),
        |config| config.limits.request_body = 8,
    );
    let (status, answer) = relay.refusal(get("/chat/lobby", "")).await;
    assert_eq!((status, body(&answer)), (201, "<p>"));
    assert!(
        answer.contains("x-a: 1\r\n") && answer.contains("text/html\r\n") && answer.contains("content-length: 3\r\n")
    );
    assert_eq!(relay.refusal(get("/chat/lobby?empty", "")).await.0, 204);
    for wrong in ["/chat/lobby?status", "/chat/lobby?header"] {
        let (status, answer) = relay.refusal(get(wrong, "")).await;
        assert_eq!((status, body(&answer)), (500, "the app's answer cannot be sent\n"), "{wrong}");
    }
    let (status, answer) = relay.refusal(get("/chat/lobby?none", "")).await;
    assert_eq!((status, body(&answer).starts_with("this is a WebSocket address")), (426, true));
    assert!(answer.contains("upgrade: websocket\r\n"));
    assert_eq!(relay.refusal(get("/elsewhere", "")).await.0, 404);
    assert_eq!(relay.refusal(get("/chat/lobby", "Origin: http://evil.com\r\n")).await.0, 403);
    assert_eq!(relay.refusal(get("/chat/lobby", "Origin: http://good.com\r\n")).await.0, 201);

    let post = |headers: &str, body: &str| get("/chat/lobby?echo", headers).replace("GET", "POST") + body;
    let (status, answer) = relay.refusal(post("Content-Length: 8\r\n", "12345678")).await;
    assert_eq!((status, body(&answer)), (200, "12345678"));
    let (status, answer) =
        relay.refusal(post("Transfer-Encoding: chunked\r\n", "4\r\n1234\r\n4\r\n5678\r\n0\r\n\r\n")).await;
    assert_eq!((status, body(&answer)), (200, "12345678"));
    let said = "the body is larger than `limits.request_body` allows (8 bytes)\n";
    // Refused before any of it has come.
    let (status, answer) = relay.refusal(post("Content-Length: 9\r\nExpect: 100-continue\r\n", "")).await;
    assert_eq!((status, body(&answer)), (413, said));
    let (status, answer) = relay.refusal(post("Transfer-Encoding: chunked\r\n", "9\r\n123456789\r\n0\r\n\r\n")).await;
    assert_eq!((status, body(&answer)), (413, said));
    let (status, answer) = relay.refusal(post("Transfer-Encoding: chunked\r\n", "zz\r\n")).await;
    assert_eq!((status, body(&answer)), (400, "the body is malformed or ends early\n"));
}

#[tokio::test]
async fn a_body_that_never_comes_has_a_deadline() {
    let relay = Relay::with(Fake::default(), |config| {
        config.limits.request_timeout = Duration::from_millis(100);
        config.limits.handshake_timeout = Duration::from_millis(20);
    });
    let (status, answer) =
        relay.refusal(get("/chat/lobby", "Content-Length: 5\r\n").replace("GET", "POST") + "12").await;
    assert_eq!((status, body(&answer).contains("`limits.request_timeout` (100ms)")), (408, true), "{answer}");
}

#[tokio::test]
async fn a_peer_that_takes_no_answer_is_given_up() {
    let big = "x".repeat(32 << 20);
    let relay = Relay::with(Fake::answering(move |_| respond(200, &[], &big)), |config| {
        config.limits.request_timeout = Duration::from_millis(200);
    });
    let (_stream, outcome) = relay
        .serve(async |mut stream| {
            stream.write_all(get("/chat/lobby", "").as_bytes()).await.unwrap();
            stream
        })
        .await;
    assert!(matches!(outcome, Outcome::Ended));
}

#[tokio::test]
async fn files_are_served_beside_the_apps() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("chat")).unwrap();
    std::fs::write(folder.path().join("index.html"), "<p>home").unwrap();
    std::fs::write(folder.path().join("chat/page.html"), "<p>chat").unwrap();
    let pages = Static { path: "/".to_owned(), folder: folder.path().to_owned() };
    let relay = Relay::with(Fake::default(), |config| config.statics.push(pages));
    for (path, expected) in [("/", "<p>home"), ("/chat/page.html", "<p>chat")] {
        let (status, answer) = relay.refusal(get(path, "")).await;
        assert_eq!((status, body(&answer)), (200, expected));
    }
    assert_eq!(relay.refusal(get("/chat/lobby", "")).await.0, 426);
    assert_eq!(relay.refusal(get("/../etc/passwd", "")).await.0, 404);
}

#[tokio::test]
async fn a_trusted_proxys_word_is_taken_for_the_peers() {
    let headers =
        "X-Forwarded-For: 203.0.113.9, 198.51.100.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: chat.example\r\n";
    let sent = handshake("/chat/lobby", &format!("{headers}Origin: https://chat.example\r\n"));
    let mut relay = Relay::with(Fake::default(), |config| {
        config.server.trusted_proxies = vec!["192.0.2.7/32".parse().unwrap()];
        config.limits.connections_per_address = 1;
    });
    let (_, first) = relay.upgrade(&sent).await;
    assert_eq!((first.request.remote_addr.as_str(), first.request.tls), ("198.51.100.4", true));
    let (status, answer) = relay.refusal(&sent).await;
    assert_eq!((status, body(&answer).contains("`limits.connections_per_address` allows (1)")), (503, true));
    drop(first);
    relay.upgrade(&sent).await;

    relay.peer = PeerAddr::Ip("192.0.2.8:1".parse().unwrap());
    assert_eq!(relay.refusal(&sent).await.0, 403, "from anybody else it is nothing");
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn refusals_are_logged_and_secrets_are_not() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let relay = Relay::new(Fake::judging(|_| Verdict::Refuse { status: 401, reason: "bad token".to_owned() }));
    let secret = "s3cr3t";
    for more in [
        format!("Authorization: Bearer {secret}\r\nCookie: id={secret}\r\n"),
        format!("Sec-WebSocket-Protocol: bearer, {secret}\r\n"),
        format!("Origin: http://evil.com\r\nX: {secret}\r\n"),
        format!("Content-Length: {secret}\r\n"),
    ] {
        relay.refusal(handshake(&format!("/chat/lobby?token={secret}"), &more)).await;
        relay.refusal(get(&format!("/chat/lobby?token={secret}"), &more)).await;
    }
    let logged = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let expected =
        r#"handshake refused app="chat" path="/chat/lobby" status=401 reason="bad token" remote_addr="192.0.2.7""#;
    assert!(logged.contains(expected), "{logged}");
    assert!(!logged.contains(secret), "{logged}");
}
