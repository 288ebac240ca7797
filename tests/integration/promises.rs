//! The six promises of the script contract, over random interleavings of opens, messages, closes, failing and
//! waiting callbacks, and reloads. A watcher in the room `log` sees what every callback says of itself.

use std::{cell::RefCell, collections::BTreeMap, path::Path, rc::Rc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use moonwire::{
    harness::{Peer, Relay, Setup, app, run},
    wire::Deflate,
};
use proptest::prelude::*;
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

use crate::support::{self, eventually, real, soon};

const SCRIPT: &str = r#"
local app = {}

local function log(conn, what, extra)
  relay.room("log"):publish(table.concat({ relay.generation, conn.query.name, what, extra or "" }, "|"))
end

function app.on_open(conn)
  if conn.query.watch then conn:join("log") return end
  conn.state.handled = 0
  conn:join("room")
  log(conn, "open+")
  if conn.query.wait then relay.sleep(tonumber(conn.query.wait)) end
  log(conn, "open-")
end

function app.on_message(conn, text)
  local kind, seq = text:match("^(%a+) (%d+)$")
  log(conn, "message+", seq)
  conn.state.handled += 1
  conn:publish("room", conn.query.name .. " " .. seq)
  if kind == "wait" then
    relay.sleep(0.3)
  elseif kind == "twice" then
    coroutine.wrap(function() relay.sleep(0.1) coroutine.yield() end)()
    relay.sleep(0.1)
  elseif kind == "fail" then
    log(conn, "message-", seq)
    error("it was told to")
  elseif kind == "leave" then
    conn:close(4000, "leaving")
  end
  log(conn, "message-", seq)
end

function app.on_close(conn, code)
  if conn.query.watch then return end
  log(conn, "close+", code)
  if conn.query.wait then relay.sleep(tonumber(conn.query.wait)) end
  log(conn, "close-", conn.state.handled)
end

function app.on_error(conn, err)
  if conn then
    log(conn, "error+", err.callback)
    relay.sleep(0.05)
    log(conn, "error-", err.callback)
  end
end

return app
"#;

#[derive(Debug, Clone)]
enum Step {
    Open {
        waits: bool,
    },
    Send {
        peer: usize,
        kind: &'static str,
    },
    Close {
        peer: usize,
    },
    Vanish {
        peer: usize,
    },
    Pass {
        ms: u64,
    },
    Reload,
    /// A reload in whose midst others go on.
    ReloadMeanwhile,
    BadReload {
        kind: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop::sample::select(vec!["say", "say", "say", "wait", "twice", "fail", "leave"]);
    prop_oneof![
        3 => any::<bool>().prop_map(|waits| Step::Open { waits }),
        14 => (0..8usize, kind).prop_map(|(peer, kind)| Step::Send { peer, kind }),
        1 => (0..8usize).prop_map(|peer| Step::Close { peer }),
        1 => (0..8usize).prop_map(|peer| Step::Vanish { peer }),
        4 => (0..400u64).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Reload),
        1 => Just(Step::ReloadMeanwhile),
        1 => (0..4usize).prop_map(|kind| Step::BadReload { kind }),
    ]
}

/// What the model knows of a peer.
struct Modelled {
    peer: Peer,
    sent: Vec<(u64, &'static str)>,
    /// The peer's own end, or that it told the script to close.
    ended: bool,
}

fn bad_script(kind: usize) -> String {
    match kind {
        0 => "local app = = {}".to_owned(),
        1 => "error('not today')".to_owned(),
        2 => SCRIPT.replace("return app", "app.on_mesage = app.on_message return app"),
        _ => SCRIPT.replace("return app", "function app.on_load() error('no') end return app"),
    }
}

async fn play(script: &Path, steps: &[Step], deflate: Option<Deflate>) -> Result<(), TestCaseError> {
    std::fs::write(script, SCRIPT).unwrap();
    let mut config = app("app", script);
    config.limits.script_errors = 10_000;
    config.instances = 1;
    config.compression.threshold = 0;
    let relay = Relay::start_as(config, Setup { deflate, ..Setup::default() }).await.unwrap();
    let watcher = relay.connect("/app/x?watch=1&name=watcher").await.unwrap();
    relay.settle().await;
    let mut peers: Vec<Modelled> = Vec::new();
    let mut generation = 1;
    let mut reloads = Vec::new();
    let mut edits = 0;
    for step in steps {
        match step {
            Step::Open { waits } => {
                let wait = if *waits { "&wait=0.2" } else { "" };
                let peer = relay.connect(&format!("/app/x?name={}{wait}", peers.len())).await.unwrap();
                peers.push(Modelled { peer, sent: Vec::new(), ended: false });
            }
            Step::Send { peer, kind } => {
                let count = peers.len();
                if let Some(peer) = (count > 0).then(|| &mut peers[peer % count]).filter(|peer| !peer.ended) {
                    let seq = peer.sent.len() as u64;
                    peer.peer.send(format!("{kind} {seq}"));
                    peer.sent.push((seq, kind));
                    peer.ended = *kind == "leave";
                }
            }
            Step::Close { peer } | Step::Vanish { peer } => {
                let count = peers.len();
                if let Some(peer) = (count > 0).then(|| &mut peers[peer % count]).filter(|peer| !peer.ended) {
                    peer.ended = true;
                    if matches!(step, Step::Close { .. }) { peer.peer.close(4001, "bye") } else { peer.peer.vanish() }
                }
            }
            Step::Pass { ms } => relay.advance(Duration::from_millis(*ms)).await,
            Step::Reload | Step::ReloadMeanwhile => {
                edits += 1;
                std::fs::write(script, format!("{SCRIPT}\n-- edit {edits}")).unwrap();
                generation += 1;
                if matches!(step, Step::Reload) {
                    let report = relay.reload().await;
                    prop_assert!(format!("{report:?}").contains("Reloaded"), "{report:?}");
                } else {
                    reloads.push(relay.reload_meanwhile());
                    // Nobody edits while it reads.
                    relay.settle().await;
                }
            }
            Step::BadReload { kind } => {
                std::fs::write(script, bad_script(*kind)).unwrap();
                let report = relay.reload().await;
                prop_assert!(format!("{report:?}").contains("Failed"), "{report:?}");
                prop_assert_eq!(relay.instance(0).generation(), generation, "a load that failed changed something");
            }
        }
    }
    for peer in peers.iter_mut().filter(|peer| !peer.ended) {
        peer.peer.close(4002, "end");
    }
    relay.advance(Duration::from_secs(60)).await;
    for reload in reloads {
        let report = reload.await.unwrap();
        prop_assert!(format!("{report:?}").contains("Reloaded"), "{report:?}");
    }
    let peers = peers.into_iter().map(|peer| Outcome {
        sent: peer.sent,
        cut: false,
        received: std::iter::from_fn(|| peer.peer.receive_text()).collect(),
    });
    judge(std::iter::from_fn(|| watcher.receive_text()), &peers.collect::<Vec<_>>())
}

/// What became of one peer.
struct Outcome {
    sent: Vec<(u64, &'static str)>,
    /// Its transport was cut: what it sent last may never have come in.
    cut: bool,
    received: Vec<String>,
}

/// Holds the log against the promises.
fn judge(lines: impl Iterator<Item = String>, peers: &[Outcome]) -> Result<(), TestCaseError> {
    let mut log: BTreeMap<usize, Vec<(u64, String, String)>> = BTreeMap::new();
    let mut newest = 0;
    for line in lines {
        if !line.contains('|') {
            continue;
        }
        let mut parts = line.split('|');
        let mut next = || parts.next().unwrap().to_owned();
        let (generation, name, what, extra) = (next().parse::<u64>().unwrap(), next(), next(), next());
        if what.ends_with('+') && what != "error+" {
            prop_assert!(generation >= newest, "a callback began in generation {generation} after one in {newest}");
            newest = generation;
        }
        log.entry(name.parse().unwrap()).or_default().push((generation, what, extra));
    }
    for (name, peer) in peers.iter().enumerate() {
        let events = log.remove(&name).unwrap_or_default();
        let scene = || format!("peer {name}, sent {:?}, log {events:#?}", peer.sent);
        // Callbacks do not overlap: each that begins ends before the next begins.
        let mut open: Option<(String, u64)> = None;
        for (generation, what, _) in &events {
            let (kind, edge) = what.split_at(what.len() - 1);
            match (edge, open.take()) {
                ("+", None) => open = Some((kind.to_owned(), *generation)),
                ("-", Some((begun, of))) => {
                    prop_assert_eq!(&begun, kind, "{}", scene());
                    prop_assert_eq!(of, *generation, "one callback, two generations: {}", scene());
                }
                _ => prop_assert!(false, "callbacks overlap: {}", scene()),
            }
        }
        prop_assert!(open.is_none(), "a callback never ended: {}", scene());
        let count = |what: &str| events.iter().filter(|(_, w, _)| w == what).count();
        prop_assert_eq!(count("open+"), 1, "{}", scene());
        prop_assert_eq!(count("close+"), 1, "{}", scene());
        prop_assert_eq!(events.first().map(|e| &*e.1), Some("open+"), "{}", scene());
        prop_assert_eq!(events.last().map(|e| &*e.1), Some("close-"), "{}", scene());
        // Every message is handled once, in the order in which it was sent.
        let handled: Vec<u64> =
            events.iter().filter(|(_, what, _)| what == "message+").map(|(_, _, seq)| seq.parse().unwrap()).collect();
        let sent: Vec<u64> = peer.sent.iter().map(|(seq, _)| *seq).collect();
        if peer.cut {
            prop_assert_eq!(&handled[..], &sent[..handled.len()], "{}", scene());
        } else {
            prop_assert_eq!(&handled, &sent, "{}", scene());
        }
        let failed = peer.sent[..handled.len()].iter().filter(|(_, kind)| *kind == "fail").count();
        prop_assert_eq!(count("error+"), failed, "{}", scene());
        // Its state came along through every reload.
        prop_assert_eq!(events.last().map(|e| e.2.clone()), Some(handled.len().to_string()), "{}", scene());
        // What one connection sends to a room reaches each member in order.
        let mut last: BTreeMap<String, i64> = BTreeMap::new();
        for line in &peer.received {
            let (from, seq) = line.split_once(' ').unwrap();
            let seq: i64 = seq.parse().unwrap();
            let before = last.insert(from.to_owned(), seq);
            prop_assert!(
                before.is_none_or(|before| before + 1 == seq),
                "peer {name} got {from}'s {seq} after {before:?}"
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_promises_hold_over_random_interleavings_compressed_and_not(
        steps in prop::collection::vec(step(), 1..60),
        keeps in prop::option::of(any::<bool>()),
        bits in 9..=15u8,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let terms = |keeps| Deflate { server_keeps: keeps, client_keeps: keeps, server_bits: bits, client_bits: None };
        run(play(&folder.path().join("app.lua"), &steps, keeps.map(terms)))?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn the_promises_hold_over_real_sockets(steps in prop::collection::vec(step(), 20..80)) {
        real(play_over_sockets(&steps))?;
    }
}

/// A peer with a socket, whose reader runs beside it.
struct SocketPeer {
    sink: Option<futures_util::stream::SplitSink<Socket, Message>>,
    reader: tokio::task::JoinHandle<()>,
    received: Rc<RefCell<Vec<String>>>,
    sent: Vec<(u64, &'static str)>,
    ended: bool,
    cut: bool,
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

impl SocketPeer {
    fn of(peer: support::Peer) -> SocketPeer {
        let (sink, mut stream) = peer.socket.split();
        let received = Rc::new(RefCell::new(Vec::new()));
        let texts = received.clone();
        let reader = tokio::task::spawn_local(async move {
            while let Some(Ok(message)) = stream.next().await {
                if let Message::Text(text) = message {
                    texts.borrow_mut().push(text.to_string());
                }
            }
        });
        SocketPeer { sink: Some(sink), reader, received, sent: Vec::new(), ended: false, cut: false }
    }

    /// Sends a close frame behind everything else.
    async fn close(&mut self, code: u16) {
        self.ended = true;
        if let Some(sink) = &mut self.sink {
            let frame = CloseFrame { code: code.into(), reason: "bye".into() };
            let _ = sink.send(Message::Close(Some(frame))).await; // the relay may have closed it first
        }
    }
}

async fn play_over_sockets(steps: &[Step]) -> Result<(), TestCaseError> {
    let relay = support::Relay::with("function app.on_message() end", |config| {
        support::configure_app(config, |app| app.limits.script_errors = 10_000);
    })
    .await;
    std::fs::write(&relay.script, SCRIPT).unwrap();
    prop_assert!(relay.handle.reload().await.ok());
    let watcher = SocketPeer::of(relay.peer("/app/x?watch=1&name=watcher").await);
    let mut peers: Vec<SocketPeer> = Vec::new();
    let mut edits = 0;
    for step in steps {
        match step {
            Step::Open { waits } => {
                let wait = if *waits { "&wait=0.02" } else { "" };
                let peer = relay.peer(&format!("/app/x?name={}{wait}", peers.len())).await;
                peers.push(SocketPeer::of(peer));
            }
            Step::Send { peer, kind } => {
                let count = peers.len();
                if let Some(peer) = (count > 0).then(|| &mut peers[peer % count]).filter(|peer| !peer.ended) {
                    let seq = peer.sent.len() as u64;
                    soon(
                        "a message to be taken",
                        peer.sink.as_mut().unwrap().send(Message::text(format!("{kind} {seq}"))),
                    )
                    .await
                    .unwrap();
                    peer.sent.push((seq, kind));
                    peer.ended = *kind == "leave";
                }
            }
            Step::Close { peer } => {
                let count = peers.len();
                if let Some(peer) = (count > 0).then(|| &mut peers[peer % count]).filter(|peer| !peer.ended) {
                    peer.close(4001).await;
                }
            }
            Step::Vanish { peer } => {
                let count = peers.len();
                if let Some(peer) = (count > 0).then(|| &mut peers[peer % count]).filter(|peer| !peer.ended) {
                    (peer.ended, peer.cut) = (true, true);
                    peer.sink = None;
                    peer.reader.abort();
                }
            }
            Step::Pass { ms } => tokio::time::sleep(Duration::from_millis(ms / 20)).await,
            Step::Reload | Step::ReloadMeanwhile => {
                edits += 1;
                std::fs::write(&relay.script, format!("{SCRIPT}\n-- edit {edits}")).unwrap();
                let report = relay.handle.reload().await;
                prop_assert!(report.ok(), "{report}");
            }
            Step::BadReload { kind } => {
                std::fs::write(&relay.script, bad_script(*kind)).unwrap();
                prop_assert!(!relay.handle.reload().await.ok());
            }
        }
    }
    for peer in peers.iter_mut().filter(|peer| !peer.ended) {
        peer.close(4002).await;
    }
    let closes = || watcher.received.borrow().iter().filter(|line| line.contains("|close-|")).count();
    eventually("every on_close to end", || async { closes() == peers.len() }).await;
    let mut outcomes = Vec::new();
    for peer in peers {
        if !peer.cut {
            soon("the end of a connection", peer.reader).await.unwrap();
        }
        let received = if peer.cut { Vec::new() } else { peer.received.take() };
        outcomes.push(Outcome { sent: peer.sent, cut: peer.cut, received });
    }
    let log = watcher.received.take();
    relay.stop().await;
    judge(log.into_iter(), &outcomes)
}
