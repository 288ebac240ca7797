//! What a peer sees: handshakes, close codes, slow and vanished peers, reload and shutdown, over real sockets.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::support::{Relay, configure_app, eventually, real, soon};

const CHAT: &str = r#"
    function app.on_open(conn) conn:join("room." .. conn.params.room) conn:send("in") end
    function app.on_message(conn, data, binary) conn:publish("room." .. conn.params.room, data, binary) end
"#;

const ECHO: &str = "function app.on_message(conn, data, binary) conn:send(data, binary) end";

#[test]
fn text_and_binary_come_back_as_they_went() {
    real(async {
        let relay = Relay::of(ECHO).await;
        let mut ann = relay.peer("/app/x").await;
        assert_eq!(ann.ask("räksmörgås").await, "räksmörgås");
        for size in [0, 1, 125, 126, 127, 65_535, 65_536, 1_000_000] {
            let data: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            ann.send_binary(data.clone()).await;
            assert_eq!(ann.next().await, Message::binary(data), "{size} bytes");
        }
        relay.stop().await;
    });
}

#[test]
fn a_message_reaches_the_room_and_nobody_else_over_two_instances() {
    real(async {
        let relay = Relay::with(CHAT, |config| configure_app(config, |app| app.instances = 2)).await;
        let mut peers = Vec::new();
        for room in ["a", "a", "a", "a", "b"] {
            peers.push(relay.member(&format!("/app/{room}")).await);
        }
        peers[0].send("hi").await;
        for peer in &mut peers[1..4] {
            assert_eq!(peer.text().await, "hi");
        }
        peers[1].send("again").await;
        assert_eq!(peers[0].text().await, "again");
        // The one in the other room has heard nothing: its own message is the first to come.
        let mut other = relay.member("/app/b").await;
        other.send("b only").await;
        assert_eq!(peers[4].text().await, "b only");
        relay.stop().await;
    });
}

#[test]
fn a_close_goes_both_ways_with_code_and_reason() {
    real(async {
        let relay = Relay::of(
            r#"
            function app.on_open(conn) conn:join("log") conn:send("in") end
            function app.on_message(conn, text) conn:close(4000, text) end
            function app.on_close(conn, code, reason) conn:publish("log", code .. " " .. reason) end
            "#,
        )
        .await;
        let mut log = relay.member("/app/x").await;
        let mut ann = relay.peer("/app/x").await;
        ann.send("as you wish").await;
        assert_eq!(ann.closed().await, Some((4000, "as you wish".to_owned())));
        assert_eq!(log.text().await, "4000 as you wish");
        let mut bob = relay.peer("/app/x").await;
        let frame = tungstenite::protocol::CloseFrame { code: 4001.into(), reason: "mine".into() };
        bob.socket.close(Some(frame)).await.unwrap();
        assert_eq!(bob.closed().await.map(|(code, _)| code), Some(4001));
        assert_eq!(log.text().await, "4001 mine");
        let eve = relay.peer("/app/x").await;
        drop(eve);
        assert_eq!(log.text().await, "1006 ");
        relay.stop().await;
    });
}

#[test]
fn authenticate_lets_in_refuses_by_status_and_closes_by_code() {
    real(async {
        let relay = Relay::of(
            r#"
            function app.authenticate(request)
              local who = request.query.who
              if who == "none" then return nil, "who are you" end
              if who == "banned" then return relay.refuse(4403, "banned") end
              if who == "broken" then error("oh") end
              return { id = who }, { headers = { ["x-hello"] = who } }
            end
            function app.on_message(conn) conn:send(conn.user.id) end
            "#,
        )
        .await;
        assert_eq!(relay.peer("/app/x?who=ann").await.ask("?").await, "ann");
        for (who, status) in [("none", 401), ("broken", 500)] {
            match relay.try_peer(&format!("/app/x?who={who}"), &[]).await.map(drop) {
                Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), status, "{who}"),
                other => panic!("{who}: {other:?}"),
            }
        }
        assert_eq!(relay.peer("/app/x?who=banned").await.closed().await, Some((4403, "banned".to_owned())));
        relay.stop().await;
    });
}

#[test]
fn a_foreign_page_is_refused_and_the_relays_own_is_let_in() {
    real(async {
        let relay = Relay::of(ECHO).await;
        let own = format!("http://{}", relay.addr);
        assert!(relay.try_peer("/app/x", &[("origin", &own)]).await.is_ok());
        let foreign = relay.try_peer("/app/x", &[("origin", "http://evil.example")]).await.map(drop);
        assert!(matches!(foreign, Err(tungstenite::Error::Http(response)) if response.status() == 403));
        relay.stop().await;
    });
}

#[test]
fn a_reload_changes_what_open_connections_get() {
    real(async {
        let relay = Relay::with(ECHO, |config| config.reload.watch = true).await;
        let mut ann = relay.peer("/app/x").await;
        assert_eq!(ann.ask("x").await, "x");
        relay.edit("function app.on_message(conn, data) conn:send('new ' .. data) end");
        let ann = tokio::sync::Mutex::new(ann);
        eventually("the watcher to see it", || async { ann.lock().await.ask("x").await == "new x" }).await;
        relay.edit("function app.on_message(conn, data conn:send('broken ' .. data) end");
        let report = relay.handle.reload().await;
        assert!(!report.ok(), "{report:?}");
        assert!(report.to_string().contains("app.lua:2"), "{report}");
        assert_eq!(ann.lock().await.ask("x").await, "new x");
        relay.stop().await;
    });
}

#[test]
fn a_stop_tells_every_peer_1012_and_runs_every_on_close_and_on_stop() {
    real(async {
        let mut relay = Relay::of(&format!(
            r#"
            local closed = 0
            function app.on_close(conn, code) closed += 1 relay.sleep(0.05) end
            function app.on_stop(reason) relay.log.info("stopped", {{ closed = closed, reason = reason }}) end
            {ECHO}
            "#
        ))
        .await;
        let mut peers = Vec::new();
        for _ in 0..30 {
            let mut peer = relay.peer("/app/x").await;
            assert_eq!(peer.ask("x").await, "x");
            peers.push(peer);
        }
        relay.begin_stop();
        for peer in &mut peers {
            assert_eq!(peer.closed().await.map(|(code, _)| code), Some(1012));
        }
        relay.stop().await;
    });
}

#[test]
fn a_peer_that_does_not_read_is_closed_and_the_others_are_served() {
    real(async {
        let relay = Relay::with(CHAT, |config| configure_app(config, |app| app.limits.outbox = 256 * 1024)).await;
        let slow = relay.member("/app/x").await;
        let mut ann = relay.member("/app/x").await;
        let mut bob = relay.member("/app/x").await;
        let block = vec![7; 64 * 1024];
        for _ in 0..200 {
            ann.send_binary(block.clone()).await;
            assert_eq!(bob.next().await.len(), block.len());
        }
        let mut slow = slow;
        let closed = slow.closed().await;
        assert_eq!(closed.map(|(code, _)| code), Some(1013));
        relay.stop().await;
    });
}

#[test]
fn a_message_over_the_limit_is_refused_before_it_is_buffered() {
    real(async {
        let relay = Relay::of(ECHO).await;
        let mut raw = handshaken(&relay).await;
        // A frame that declares 2^63-1 bytes.
        raw.write_all(&[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4]).await.unwrap();
        assert_eq!(close_code(&mut raw).await, 1009);
        relay.stop().await;
    });
}

#[test]
fn a_peer_that_answers_no_ping_is_given_up_and_one_that_answers_stays() {
    real(async {
        let relay = Relay::with(
            r#"
            function app.on_open(conn) conn:join("log") conn:send("in") end
            function app.on_close(conn, code) conn:publish("log", "gone " .. code) end
            "#,
            |config| {
                configure_app(config, |app| {
                    app.limits.ping_interval = Duration::from_millis(100);
                    app.limits.pong_timeout = Duration::from_millis(200);
                });
            },
        )
        .await;
        let mut lively = relay.member("/app/x").await;
        let silent = handshaken(&relay).await;
        assert_eq!(lively.text().await, "gone 1006");
        drop(silent);
        relay.stop().await;
    });
}

#[test]
fn on_request_answers_plain_requests_and_healthz_always_does() {
    real(async {
        let relay = Relay::of(
            r#"
            function app.on_request(request)
              return { status = 201, headers = { ["x-room"] = request.params.room }, body = request.method .. request.body }
            end
            "#,
        )
        .await;
        let answer =
            http(&relay, "POST /app/r1 HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc").await;
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        assert!(answer.contains("x-room: r1") && answer.ends_with("POSTabc"), "{answer}");
        let answer = http(&relay, "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let answer = http(&relay, "GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        relay.stop().await;
    });
}

async fn http(relay: &Relay, request: &str) -> String {
    soon("an answer", async {
        let mut stream = tokio::net::TcpStream::connect(relay.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    })
    .await
}

/// A raw stream behind its handshake.
async fn handshaken(relay: &Relay) -> tokio::net::TcpStream {
    soon("a handshake", async {
        let mut stream = tokio::net::TcpStream::connect(relay.addr).await.unwrap();
        let request = "GET /app/x HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
            sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        stream
    })
    .await
}

/// The code of the close frame that a raw stream gets.
async fn close_code(stream: &mut tokio::net::TcpStream) -> u16 {
    soon("a close frame", async {
        let head = stream.read_u16().await.unwrap();
        assert_eq!(head >> 8, 0x88, "no close frame");
        stream.read_u16().await.unwrap()
    })
    .await
}

#[test]
fn two_hundred_saves_while_peers_send_without_pause_lose_nothing() {
    real(async {
        let script = |n: usize| {
            format!(
                "-- {n}\nfunction app.on_message(conn, text) conn.state.n = (conn.state.n or 0) + 1 conn:send(relay.generation .. ' ' .. conn.state.n .. ' ' .. text) end"
            )
        };
        let relay = Relay::with(&script(0), |config| {
            config.reload.watch = true;
            config.reload.debounce = Duration::from_millis(5);
            config.reload.debounce_max = Duration::from_millis(20);
            configure_app(config, |app| app.instances = 2);
        })
        .await;
        let stop = std::rc::Rc::new(std::cell::Cell::new(false));
        let mut senders = Vec::new();
        for _ in 0..4 {
            let (mut sink, mut stream) = relay.peer("/app/x").await.socket.split();
            let stop = stop.clone();
            let sent = std::rc::Rc::new(std::cell::Cell::new(0u64));
            let count = sent.clone();
            let sender = tokio::task::spawn_local(async move {
                while !stop.get() {
                    sink.send(Message::text(count.get().to_string())).await.unwrap();
                    count.set(count.get() + 1);
                    tokio::task::yield_now().await;
                }
                sink
            });
            let reader = tokio::task::spawn_local(async move {
                let (mut next, mut generation) = (0u64, 0u64);
                while let Some(Ok(message)) = stream.next().await {
                    let Message::Text(text) = message else { continue };
                    let numbers: Vec<u64> = text.split(' ').map(|n| n.parse().unwrap()).collect();
                    assert_eq!(numbers[2], next, "lost, doubled or out of order");
                    assert_eq!(numbers[1], next + 1, "the state was not carried over");
                    assert!(numbers[0] >= generation, "generations only rise");
                    (next, generation) = (next + 1, numbers[0]);
                }
                (next, generation)
            });
            senders.push((sender, reader, sent));
        }
        for n in 1..=200 {
            let text = crate::support::module(&script(n));
            match n % 5 {
                0 => {
                    let beside = relay.folder.path().join("app.lua.new");
                    std::fs::write(&beside, text).unwrap();
                    std::fs::rename(&beside, &relay.script).unwrap();
                }
                1 => std::fs::write(&relay.script, &text[..text.len() / 2]).unwrap(),
                2 => std::fs::write(&relay.script, "this is no Lua").unwrap(),
                3 => std::fs::write(&relay.script, "").unwrap(),
                _ => std::fs::write(&relay.script, text).unwrap(),
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        relay.edit(&script(1000));
        let report = relay.handle.reload().await;
        assert!(report.ok(), "{report}");
        stop.set(true);
        for (sender, reader, sent) in senders {
            let mut sink = sender.await.unwrap();
            sink.close().await.unwrap();
            let (received, generation) = soon("the last answers", reader).await.unwrap();
            assert_eq!(received, sent.get());
            assert!(generation > 20, "only {generation} generations in 200 saves");
        }
        relay.stop().await;
    });
}
