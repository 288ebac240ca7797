//! What is served out of the box, the examples and the documents' code: each does what its README says.
//!
//! Each relay here runs a copy of the real files with their real config, on another port.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use moonwire::{
    config::{self, Config, Listen},
    server,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

use crate::support::{Peer, Relay, configure_app, real, soon};

/// The project's own folder.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A relay that serves a copy of the folder of `config_file`, which is relative to the project.
async fn serve(config_file: &str) -> Relay {
    let folder = tempfile::tempdir().unwrap();
    let original = Path::new(ROOT).join(config_file);
    let text = fs::read_to_string(&original).unwrap();
    // The root's config names scripts/, an example's the files beside it.
    let of = original.parent().unwrap();
    match of == Path::new(ROOT) {
        true => copy(&of.join("scripts"), &folder.path().join("scripts")),
        false => copy(of, folder.path()),
    }
    let mut config =
        config::parse(&text, &folder.path().join("config.toml"), &[]).unwrap_or_else(|error| panic!("{error}"));
    config.server.listen = vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())];
    config.server.workers = 2;
    config.reload.watch = false;
    // These peers do not read while the relay stops.
    configure_app(&mut config, |app| app.limits.close_timeout = Duration::from_millis(300));
    Relay::start(config, folder).await
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Replaces one piece of a script, which must be there, and reloads.
async fn edit(relay: &Relay, file: &str, old: &str, new: &str) {
    let path = relay.script.parent().unwrap().join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(old), "{file} has no {old}");
    fs::write(&path, text.replace(old, new)).unwrap();
    let report = relay.handle.reload().await;
    assert!(report.ok(), "{report}");
}

async fn send(peer: &mut Peer, value: Value) {
    peer.send(&value.to_string()).await;
}

async fn json_of(peer: &mut Peer) -> Value {
    let text = peer.text().await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The next message of this type, which must come next.
async fn expect(peer: &mut Peer, kind: &str) -> Value {
    let value = json_of(peer).await;
    assert_eq!(value["type"], kind, "{value}");
    value
}

async fn close(peer: &mut Peer, code: u16, reason: &str) {
    let frame = CloseFrame { code: code.into(), reason: reason.to_owned().into() };
    peer.socket.close(Some(frame)).await.unwrap();
    peer.closed().await;
}

// ── the chat ──

/// Somebody in a room of the chat, and what `hello` told.
async fn enter(relay: &Relay, name: &str, room: &str) -> (Peer, Value) {
    let mut peer = relay.peer(&format!("/chat/{room}?name={name}")).await;
    let hello = expect(&mut peer, "hello").await;
    (peer, hello)
}

fn people(hello: &Value) -> Vec<&str> {
    let mut names: Vec<_> =
        hello["people"].as_array().unwrap().iter().map(|each| each["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn the_chat_tells_who_is_there_who_comes_and_who_goes() {
    real(async {
        let relay = serve("config.toml").await;
        let (mut ann, hello) = enter(&relay, "Ann", "lobby").await;
        assert_eq!(people(&hello), ["Ann"]);
        assert!(hello["greeting"].as_str().unwrap().starts_with("Welcome!"), "{hello}");
        let (mut bob, hello) = enter(&relay, "Bob", "lobby").await;
        assert_eq!(people(&hello), ["Ann", "Bob"]);
        let joined = expect(&mut ann, "joined").await;
        assert_eq!((&joined["name"], &joined["id"]), (&json!("Bob"), &hello["id"]));
        close(&mut bob, 1000, "").await;
        let left = expect(&mut ann, "left").await;
        assert_eq!((&left["name"], &left["id"]), (&json!("Bob"), &hello["id"]));
        relay.stop().await;
    });
}

#[test]
fn the_chat_keeps_rooms_apart_and_echoes_with_the_senders_mark() {
    real(async {
        let relay = serve("config.toml").await;
        let (mut ann, _) = enter(&relay, "Ann", "one").await;
        let (mut bob, hello) = enter(&relay, "Bob", "one").await;
        let (mut eve, theirs) = enter(&relay, "Eve", "two").await;
        expect(&mut ann, "joined").await;
        assert_eq!(people(&theirs), ["Eve"]);
        send(&mut bob, json!({ "type": "text", "text": "hi <b>", "ref": 7 })).await;
        let mut said = expect(&mut ann, "text").await;
        assert_eq!((&said["text"], &said["name"], &said["from"]), (&json!("hi <b>"), &json!("Bob"), &hello["id"]));
        assert!(said.get("ref").is_none(), "a mark is its sender's alone");
        said["ref"] = json!(7);
        assert_eq!(expect(&mut bob, "text").await, said);
        // Her own text is the first thing that Eve gets.
        send(&mut eve, json!({ "type": "text", "text": "alone", "ref": 1 })).await;
        assert_eq!(expect(&mut eve, "text").await["text"], "alone");
        relay.stop().await;
    });
}

#[test]
fn the_chat_has_commands_and_a_save_changes_them_for_those_who_are_connected() {
    real(async {
        let relay = serve("config.toml").await;
        let (mut ann, _) = enter(&relay, "Ann", "lobby").await;
        for (typed, said) in [
            ("/shout hello", "HELLO!"),
            ("/shrug who knows", "who knows ¯\\_(ツ)_/¯"),
            ("/nothing like it", "/nothing like it"),
            ("/shout", "!"),
        ] {
            send(&mut ann, json!({ "type": "text", "text": typed, "ref": 1 })).await;
            assert_eq!(expect(&mut ann, "text").await["text"], said, "{typed}");
        }
        edit(&relay, "chat.lua", r#"text:upper() .. "!""#, r#""<<" .. text .. ">>""#).await;
        assert!(expect(&mut ann, "notice").await["text"].as_str().unwrap().starts_with("Welcome!"));
        send(&mut ann, json!({ "type": "text", "text": "/shout hello", "ref": 2 })).await;
        let said = expect(&mut ann, "text").await;
        assert_eq!((&said["text"], &said["name"]), (&json!("<<hello>>"), &json!("Ann")));
        relay.stop().await;
    });
}

#[test]
fn the_chat_makes_every_name_harmless() {
    real(async {
        let relay = serve("config.toml").await;
        let long = "x".repeat(50);
        for (name, shown) in [
            ("", "guest"),
            ("%20%20", "guest"),
            ("%ff%fe", "guest"),
            ("gpj%E2%80%AEexe", "gpjexe"),
            ("a%00%0a%20b", "a b"),
            ("%E2%80%8B", "guest"),
            ("__proto__", "__proto__"),
            (&long, &long[..32]),
        ] {
            let (mut ann, hello) = enter(&relay, name, "names").await;
            assert_eq!(hello["name"], shown, "{name}");
            close(&mut ann, 1000, "").await;
        }
        let mut nameless = relay.peer("/chat/names").await;
        assert_eq!(expect(&mut nameless, "hello").await["name"], "guest");
        relay.stop().await;
    });
}

#[test]
fn the_chat_tells_the_others_who_types() {
    real(async {
        let relay = serve("config.toml").await;
        let (mut ann, _) = enter(&relay, "Ann", "lobby").await;
        let (mut bob, hello) = enter(&relay, "Bob", "lobby").await;
        expect(&mut ann, "joined").await;
        for on in [true, false] {
            send(&mut bob, json!({ "type": "typing", "on": on })).await;
            let typing = expect(&mut ann, "typing").await;
            assert_eq!((&typing["from"], &typing["on"]), (&hello["id"], &json!(on)));
        }
        // Bob has not heard of himself: his own text is the first thing that he gets.
        send(&mut bob, json!({ "type": "text", "text": "x", "ref": 1 })).await;
        expect(&mut bob, "text").await;
        relay.stop().await;
    });
}

#[test]
fn the_chat_answers_every_bad_message_and_its_script_never_raises() {
    real(async {
        let relay = serve("config.toml").await;
        let (mut ann, _) = enter(&relay, "Ann", "lobby").await;
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        let bad = [
            "",
            "hello",
            "null",
            "7",
            "[]",
            "{}",
            "\u{0}",
            "{\"type\":",
            &deep,
            r#"{"type":7}"#,
            r#"{"type":"shout"}"#,
            r#"{"type":["text"]}"#,
            r#"{"type":"__index"}"#,
            r#"{"type":"text"}"#,
            r#"{"type":"text","text":7,"ref":1}"#,
            r#"{"type":"text","text":"x","ref":"1"}"#,
            r#"{"type":"text","text":"x","ref":1,"more":1}"#,
            r#"{"type":"text","text":null,"ref":1}"#,
            r#"{"type":"text","text":"  ","ref":1}"#,
            r#"{"type":"typing","on":"yes"}"#,
            r#"{"type":"file","name":"x","mime":"a/b","size":0}"#,
            r#"{"type":"file","name":"x","mime":"a/b","size":-1}"#,
            r#"{"type":"file","name":"x","mime":"a/b","size":1.5}"#,
            r#"{"type":"file","name":"x","mime":"a/b","size":1e300}"#,
            r#"{"type":"file","name":7,"mime":"a/b","size":1}"#,
        ];
        // More than limits.script_errors: had these raised, the relay would have closed the connection.
        for message in bad {
            ann.send(message).await;
            let error = expect(&mut ann, "error").await;
            let why = error["why"].as_str().unwrap();
            assert!(!why.is_empty() && !why.contains("script failed"), "{message}: {error}");
        }
        for chunk in [vec![], vec![0, 0, 0], vec![0, 0, 0, 1], vec![0, 0, 0, 1, 9], vec![7; 100_000]] {
            ann.send_binary(chunk).await;
            let error = expect(&mut ann, "error").await;
            assert_eq!(error["why"], "this chunk belongs to no file that you are sending");
        }
        let long = json!({ "type": "text", "text": "x".repeat(4001), "ref": 5 });
        send(&mut ann, long).await;
        assert_eq!(expect(&mut ann, "error").await["ref"], 5);
        relay.stop().await;
    });
}

#[test]
fn the_chat_slows_down_who_sends_too_many_texts() {
    real(async {
        let relay = serve("config.toml").await;
        let (mut ann, _) = enter(&relay, "Ann", "lobby").await;
        for n in 0..40 {
            send(&mut ann, json!({ "type": "text", "text": "x", "ref": n })).await;
        }
        let mut refused = 0;
        for n in 0..40 {
            let answer = json_of(&mut ann).await;
            assert_eq!(answer["ref"], n, "{answer}");
            if answer["type"] == "error" {
                assert_eq!(answer["why"], "too many texts, wait a moment");
                refused += 1;
            }
        }
        assert!((1..=28).contains(&refused), "{refused} of 40 refused, with a burst of 12");
        relay.stop().await;
    });
}

#[test]
fn the_chat_refuses_a_room_whose_name_is_too_long_in_a_way_that_a_page_sees() {
    real(async {
        let relay = serve("config.toml").await;
        let mut ann = relay.peer(&format!("/chat/{}", "x".repeat(300))).await;
        assert_eq!(ann.closed().await, Some((1008, "the room's name is too long".to_owned())));
        relay.stop().await;
    });
}

fn chunk(key: u32, bytes: &[u8]) -> Vec<u8> {
    [&key.to_be_bytes()[..], bytes].concat()
}

/// Announces a file; its key.
async fn announce(peer: &mut Peer, name: &str, size: usize) -> u32 {
    send(peer, json!({ "type": "file", "name": name, "mime": "image/png", "size": size })).await;
    let go = expect(peer, "go").await;
    assert_eq!((&go["chunk"], &go["window"]), (&json!(65536), &json!(8)));
    u32::try_from(go["key"].as_u64().unwrap()).unwrap()
}

#[test]
fn the_chat_passes_a_file_on_in_acknowledged_chunks() {
    real(async {
        let relay = serve("config.toml").await;
        let (mut ann, hello) = enter(&relay, "Ann", "lobby").await;
        let (mut bob, _) = enter(&relay, "Bob", "lobby").await;
        expect(&mut ann, "joined").await;
        let file: Vec<u8> = (0..150_000u32).map(|n| (n % 253) as u8).collect();
        let key = announce(&mut ann, "evening\u{202e}.png", file.len()).await;
        let told = expect(&mut bob, "file").await;
        assert_eq!(told["key"], key);
        assert_eq!((&told["name"], &told["mime"]), (&json!("evening.png"), &json!("image/png")));
        assert_eq!((&told["from"], &told["by"], &told["size"]), (&hello["id"], &json!("Ann"), &json!(150_000)));
        // Who comes later does not get the rest of it.
        let (mut cid, _) = enter(&relay, "Cid", "lobby").await;
        for peer in [&mut ann, &mut bob] {
            expect(peer, "joined").await;
        }
        let mut got = 0;
        for piece in file.chunks(65_536) {
            ann.send_binary(chunk(key, piece)).await;
            got += piece.len();
            assert_eq!(expect(&mut ann, "ack").await["got"], got);
            assert_eq!(bob.next().await, Message::binary(chunk(key, piece)));
        }
        let end = expect(&mut bob, "file_end").await;
        assert!(end["key"] == key && end.get("why").is_none(), "{end}");
        // What is beyond the end belongs to no file, and the next file has another key.
        ann.send_binary(chunk(key, b"more")).await;
        expect(&mut ann, "error").await;
        let next = announce(&mut ann, "second.png", 10).await;
        assert_ne!(next, key);
        expect(&mut bob, "file").await;
        assert_eq!(expect(&mut cid, "file").await["key"], next);
        send(&mut ann, json!({ "type": "file", "name": "third", "mime": "a/b", "size": 1 })).await;
        assert_eq!(expect(&mut ann, "error").await["why"], "one file at a time");
        send(&mut ann, json!({ "type": "cancel" })).await;
        for peer in [&mut bob, &mut cid] {
            assert_eq!(expect(peer, "file_end").await["why"], "the sender stopped");
        }
        // A sender who goes ends the file too.
        announce(&mut ann, "fourth.png", 10).await;
        close(&mut ann, 1000, "").await;
        for peer in [&mut bob, &mut cid] {
            expect(peer, "file").await;
            assert_eq!(expect(peer, "file_end").await["why"], "the sender stopped");
            expect(peer, "left").await;
        }
        relay.stop().await;
    });
}

#[test]
fn a_reload_amid_a_file_that_waits_for_a_slow_reader_loses_nothing() {
    real(async {
        let relay = serve("config.toml").await;
        // The reader may be slow for as long as this test takes.
        edit(&relay, "files.lua", "local PATIENCE = 2 ", "local PATIENCE = 60 ").await;
        let (mut ann, _) = enter(&relay, "Ann", "lobby").await;
        let (mut bob, _) = enter(&relay, "Bob", "lobby").await;
        expect(&mut ann, "joined").await;
        let file: Vec<u8> = (0..16u32 * 1024 * 1024).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let key = announce(&mut ann, "large.bin", file.len()).await;
        expect(&mut bob, "file").await;

        // Ann keeps eight chunks ahead of their acks; Bob reads nothing, until nothing moves any more.
        let (mut sink, mut stream) = ann.socket.split();
        let pieces: Vec<&[u8]> = file.chunks(65_536).collect();
        let (mut sent, mut acked) = (0, 0);
        while sent < pieces.len() {
            if sent < acked + 8 {
                sink.send(Message::binary(chunk(key, pieces[sent]))).await.unwrap();
                sent += 1;
                continue;
            }
            match tokio::time::timeout(Duration::from_millis(500), stream.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => {
                    assert!(text.contains("\"ack\""), "{text}");
                    acked += 1;
                }
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
                Ok(other) => panic!("{other:?}"),
                Err(_) => break,
            }
        }
        assert!(sent < pieces.len(), "a reader who reads nothing has held up nobody");

        edit(&relay, "chat.lua", "local GREETING = \"Welcome!", "local GREETING = \"New!").await;
        edit(&relay, "files.lua", "the sender stopped", "stopped by its sender").await;

        let reading = tokio::task::spawn_local(async move {
            let (mut whole, mut notices) = (Vec::new(), 0);
            loop {
                match bob.next().await {
                    Message::Binary(data) => {
                        assert_eq!(data[..4], key.to_be_bytes());
                        whole.extend_from_slice(&data[4..]);
                    }
                    Message::Text(text) if text.contains("notice") => notices += 1,
                    Message::Text(text) => {
                        assert!(text.contains("file_end") && !text.contains("why"), "{text}");
                        return (whole, notices);
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
        while acked < pieces.len() {
            while sent < pieces.len() && sent < acked + 8 {
                sink.send(Message::binary(chunk(key, pieces[sent]))).await.unwrap();
                sent += 1;
            }
            match soon("an ack", stream.next()).await {
                Some(Ok(Message::Text(text))) if text.contains("notice") => {}
                Some(Ok(Message::Text(text))) => {
                    acked += 1;
                    let ack: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!((&ack["type"], &ack["got"]), (&json!("ack"), &json!(acked * 65_536)), "{text}");
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?}"),
            }
        }
        let (whole, notices) = soon("the whole file", reading).await.unwrap();
        assert!(whole == file, "{} bytes of {} came, or others", whole.len(), file.len());
        assert_eq!(notices, 2, "one for each reload");
        relay.stop().await;
    });
}

// ── echo ──

#[test]
fn the_echo_example_does_what_its_readme_says() {
    real(async {
        let relay = serve("examples/echo/config.toml").await;
        let mut ann = relay.peer("/echo").await;
        assert_eq!(ann.ask("hello").await, "hello");
        ann.send_binary(vec![1, 2, 3]).await;
        assert_eq!(ann.next().await, Message::binary(vec![1, 2, 3]));

        // Changed while she is connected: the next message is in capitals.
        let mut bob = relay.peer("/echo").await;
        edit(&relay, "echo.lua", "conn:send(data, { binary = binary })", "conn:send(data:upper())").await;
        assert_eq!(ann.ask("hello").await, "HELLO");

        // A mistake that only running finds closes this connection, by on_error, and no other.
        edit(&relay, "echo.lua", "conn:send(data:upper())", "if data == 'x' then conn:sned(data) end conn:send(data)")
            .await;
        ann.send("x").await;
        assert_eq!(ann.closed().await, Some((1011, "on_message failed".to_owned())));
        assert_eq!(bob.ask("hello").await, "hello");

        // One that loading finds is told with its line, and changes nothing.
        let text = fs::read_to_string(&relay.script).unwrap();
        fs::write(&relay.script, text.replacen("\nend\n", "\n", 1)).unwrap();
        let report = relay.handle.reload().await;
        assert!(!report.ok() && report.to_string().contains("echo.lua:"), "{report}");
        assert_eq!(bob.ask("still").await, "still");

        let frame = CloseFrame { code: 4000.into(), reason: "enough".into() };
        bob.socket.close(Some(frame)).await.unwrap();
        assert_eq!(bob.closed().await.map(|(code, _)| code), Some(4000));
        relay.stop().await;
    });
}

// ── auth ──

/// The status and the JSON that a request on the app's path is answered with. Behind the first line of `head` come its
/// headers, whole.
async fn request(relay: &Relay, head: &str, body: &str) -> (u16, Value) {
    let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
    let text = format!("{line} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {}\r\nconnection: close", body.len());
    let text = match body.is_empty() {
        true => format!("{text}\r\n\r\n"),
        false => format!("{text}\r\ncontent-type: application/json\r\n\r\n{body}"),
    };
    let answer = soon("an answer", async {
        let mut stream = tokio::net::TcpStream::connect(relay.addr).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    })
    .await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
}

async fn log_in(relay: &Relay, user: &str, password: &str) -> (u16, Value) {
    request(relay, "POST /team/login", &json!({ "user": user, "password": password }).to_string()).await
}

async fn token(relay: &Relay, user: &str) -> String {
    let (status, answer) = log_in(relay, user, &format!("{user}-secret")).await;
    assert_eq!(status, 200, "{answer}");
    answer["token"].as_str().unwrap().to_owned()
}

async fn team(relay: &Relay, token: &str, room: &str) -> Peer {
    relay.peer(&format!("/team/{room}?token={token}")).await
}

/// Somebody in a room of the team, and what `welcome` told.
async fn come_in(relay: &Relay, user: &str, room: &str) -> (Peer, Value) {
    let mut peer = team(relay, &token(relay, user).await, room).await;
    let welcome = expect(&mut peer, "welcome").await;
    (peer, welcome)
}

#[test]
fn auth_logs_in_by_a_plain_request_and_refuses_what_is_not_one() {
    real(async {
        let relay = serve("examples/auth/config.toml").await;
        let (status, answer) = log_in(&relay, "max", "max-secret").await;
        assert_eq!((status, &answer["role"]), (200, &json!("member")));
        assert_eq!(answer["token"].as_str().unwrap().split('.').count(), 3);
        for (user, password) in [("max", "wrong"), ("max", ""), ("nobody", "max-secret")] {
            let (status, answer) = log_in(&relay, user, password).await;
            assert_eq!((status, &answer["why"]), (401, &json!("wrong name or password")), "{user}");
        }
        for (head, body, expected) in [
            ("GET /team/login", "", 405),
            ("POST /team/lobby", "{}", 404),
            ("POST /team/login", "", 415),
            ("POST /team/login", "no JSON", 400),
            ("POST /team/login", "{\"user\":7,\"password\":[]}", 400),
        ] {
            let (status, answer) = request(&relay, head, body).await;
            assert_eq!(status, expected, "{head} {body}: {answer}");
        }
        let mut last = (0, Value::Null);
        for _ in 0..11 {
            last = log_in(&relay, "ada", "guess").await;
        }
        assert_eq!(last, (429, json!({ "why": "too many tries, wait a moment" })));
        relay.stop().await;
    });
}

#[test]
fn auth_gives_each_role_what_its_readme_says() {
    real(async {
        let relay = serve("examples/auth/config.toml").await;
        for (user, role, room, may_write) in [
            ("ada", "admin", "lobby", true),
            ("ada", "admin", "board", true),
            ("max", "member", "lobby", true),
            ("max", "member", "news", true), // by a permission of his own
            ("vic", "viewer", "lobby", false),
            ("vic", "viewer", "news", false),
        ] {
            let (_, welcome) = come_in(&relay, user, room).await;
            let expected = json!({ "type": "welcome", "id": user, "role": role, "room": room, "may_write": may_write });
            assert_eq!(welcome, expected);
        }
        relay.stop().await;
    });
}

#[test]
fn auth_lets_nobody_into_a_room_that_is_not_theirs() {
    real(async {
        let relay = serve("examples/auth/config.toml").await;
        // By his role's rules for the one, by a rule of his own for the other.
        for (user, who) in [("vic", "a viewer"), ("max", "max")] {
            let mut peer = team(&relay, &token(&relay, user).await, "board").await;
            assert_eq!(peer.closed().await, Some((4403, format!("{who} may not enter board"))));
        }
        relay.stop().await;
    });
}

#[test]
fn auth_takes_no_token_that_is_missing_forged_or_run_out() {
    real(async {
        let relay = serve("examples/auth/config.toml").await;
        let good = token(&relay, "vic").await;
        let parts: Vec<&str> = good.split('.').collect();
        let as_base64 = |value: Value| data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let mut claims: Value =
            serde_json::from_slice(&data_encoding::BASE64URL_NOPAD.decode(parts[1].as_bytes()).unwrap()).unwrap();
        claims["role"] = json!("admin");
        let promoted = as_base64(claims);
        let forged = format!("{}.{promoted}.{}", parts[0], parts[2]);
        let unsigned = format!("{}.{promoted}.", as_base64(json!({ "alg": "none", "typ": "JWT" })));
        let cut = &good[..good.len() - 4];
        for bad in ["", "x", &forged, &unsigned, cut, &"x".repeat(5000)] {
            let mut peer = team(&relay, bad, "lobby").await;
            let (code, reason) = peer.closed().await.unwrap();
            assert!(code == 4401 && reason.starts_with("log in again: "), "{bad:.20}: {code} {reason}");
        }
        let mut peer = relay.peer("/team/lobby").await;
        assert_eq!(peer.closed().await.map(|(code, _)| code), Some(4401));
        // Outside a browser the token may come in a header.
        let bearer = format!("Bearer {good}");
        let mut peer = relay.try_peer("/team/lobby", &[("authorization", &bearer)]).await.unwrap();
        expect(&mut peer, "welcome").await;
        relay.stop().await;
    });
}

#[test]
fn auth_ends_a_connection_when_its_token_runs_out() {
    real(async {
        let relay = serve("examples/auth/config.toml").await;
        edit(&relay, "auth.lua", "relay.config.token_seconds or 900", "1").await;
        let (mut vic, _) = come_in(&relay, "vic", "lobby").await;
        assert_eq!(vic.closed().await.map(|(code, _)| code), Some(4401));
        relay.stop().await;
    });
}

#[test]
fn auth_lets_those_write_who_may_and_takes_an_edit_of_the_rules_at_once() {
    real(async {
        let relay = serve("examples/auth/config.toml").await;
        let (mut ada, _) = come_in(&relay, "ada", "lobby").await;
        let (mut vic, _) = come_in(&relay, "vic", "lobby").await;
        assert_eq!(expect(&mut ada, "came").await, json!({ "type": "came", "id": "vic", "role": "viewer" }));
        let said = json!({ "type": "said", "id": "ada", "role": "admin", "text": "hello" });
        ada.send("hello").await;
        assert_eq!(json_of(&mut ada).await, said);
        assert_eq!(json_of(&mut vic).await, said);
        let refused = json!({ "type": "refused", "why": "a viewer may not write in lobby" });
        vic.send("let me in").await;
        assert_eq!(json_of(&mut vic).await, refused);
        vic.send("/remove ada").await;
        assert_eq!(expect(&mut vic, "refused").await["why"], "a viewer may not remove people from lobby");
        vic.send_binary(vec![1]).await;
        expect(&mut vic, "refused").await;
        edit(&relay, "auth.lua", "viewer = {", r#"viewer = { "publish team.lobby","#).await;
        vic.send("now").await;
        for peer in [&mut vic, &mut ada] {
            assert_eq!(expect(peer, "said").await["text"], "now");
        }
        relay.stop().await;
    });
}

#[test]
fn auth_lets_an_admin_remove_somebody() {
    real(async {
        let relay = serve("examples/auth/config.toml").await;
        let (mut ada, _) = come_in(&relay, "ada", "lobby").await;
        let (mut vic, _) = come_in(&relay, "vic", "lobby").await;
        expect(&mut ada, "came").await;
        ada.send("/remove vic").await;
        assert_eq!(vic.closed().await, Some((4403, "removed by ada".to_owned())));
        assert_eq!(expect(&mut ada, "went").await["id"], "vic");
        // Nobody of that name: nothing happens.
        ada.send("/remove nobody").await;
        ada.send("still here").await;
        expect(&mut ada, "said").await;
        relay.stop().await;
    });
}

#[test]
fn auth_refuses_a_key_that_is_too_short_to_sign_with() {
    real(async {
        let relay = serve("examples/auth/config.toml").await;
        let text = fs::read_to_string(&relay.script).unwrap();
        fs::write(&relay.script, text.replace("or relay.config.secret", "or 'short'")).unwrap();
        let report = relay.handle.reload().await;
        assert!(
            !report.ok() && report.to_string().contains("set AUTH_SECRET to a key of 32 bytes or more"),
            "{report}"
        );
        relay.stop().await;
    });
}

// ── routing ──

async fn desk(relay: &Relay, name: &str) -> Peer {
    let mut peer = relay.peer(&format!("/desk?name={name}")).await;
    // It is answered, so it has come in.
    send(&mut peer, json!({ "type": "leave", "room": "none" })).await;
    assert_eq!(expect(&mut peer, "error").await["message"], "not_member");
    peer
}

async fn announce_to(relay: &Relay, secret: &str, body: Value) -> (u16, Value) {
    request(relay, &format!("POST /desk\nauthorization: Bearer {secret}\r\n"), &body.to_string()).await
}

#[test]
fn routing_brings_a_message_to_one_user_to_a_room_and_to_nobody_else() {
    real(async {
        let relay = serve("examples/routing/config.toml").await;
        let (mut ada, mut bob) = (desk(&relay, "ada").await, desk(&relay, "bob").await);
        let mut eve = desk(&relay, "eve").await;
        let hi = json!({ "type": "private", "to": "bob", "text": "hi", "id": 1 });
        send(&mut ada, hi.clone()).await;
        assert_eq!(json_of(&mut ada).await, json!({ "type": "ack", "id": 1, "data": true }));
        assert_eq!(json_of(&mut bob).await, json!({ "type": "private", "from": "ada", "text": "hi" }));
        send(&mut ada, hi).await;
        assert_eq!(json_of(&mut ada).await, json!({ "type": "ack", "id": 1, "duplicate": true }));
        send(&mut ada, json!({ "type": "private", "to": "max", "text": "hi", "id": 2 })).await;
        let refused = json!({ "type": "error", "id": 2, "error": "refused", "message": "max is not here" });
        assert_eq!(json_of(&mut ada).await, refused);

        for peer in [&mut ada, &mut bob] {
            send(peer, json!({ "type": "join", "room": "tea", "id": 3 })).await;
            expect(peer, "ack").await;
        }
        send(&mut ada, json!({ "type": "say", "room": "tea", "text": "ready" })).await;
        let said = json!({ "type": "say", "room": "tea", "from": "ada", "text": "ready" });
        assert_eq!(json_of(&mut bob).await, said, "and not the private message twice");
        send(&mut eve, json!({ "type": "say", "room": "tea", "text": "me too" })).await;
        assert_eq!(expect(&mut eve, "error").await["message"], "join the room first");
        send(&mut eve, json!({ "type": "say", "text": 5, "room": "tea" })).await;
        let wrong = expect(&mut eve, "error").await;
        assert_eq!((&wrong["error"], &wrong["field"]), (&json!("bad_field"), &json!("text")));
        send(&mut eve, json!({ "type": "sing" })).await;
        assert_eq!(expect(&mut eve, "error").await["error"], "unknown_type");
        relay.stop().await;
    });
}

#[test]
fn routing_asks_a_peer_and_waits_for_its_reply() {
    real(async {
        let relay = serve("examples/routing/config.toml").await;
        let (mut ada, mut bob) = (desk(&relay, "ada").await, desk(&relay, "bob").await);
        send(&mut ada, json!({ "type": "ask", "of": "bob", "question": "milk?", "id": 3 })).await;
        let question = expect(&mut bob, "question").await;
        assert_eq!((&question["from"], &question["question"]), (&json!("ada"), &json!("milk?")));
        send(&mut bob, json!({ "type": "reply", "id": question["id"], "data": "please" })).await;
        assert_eq!(json_of(&mut ada).await, json!({ "type": "ack", "id": 3, "data": "please" }));

        // Who goes while being asked needs not be waited for.
        send(&mut ada, json!({ "type": "ask", "of": "bob", "question": "sugar?", "id": 4 })).await;
        expect(&mut bob, "question").await;
        close(&mut bob, 1000, "").await;
        assert_eq!(expect(&mut ada, "error").await["message"], "closed");
        send(&mut ada, json!({ "type": "ask", "of": "ada", "question": "me?", "id": 5 })).await;
        assert_eq!(expect(&mut ada, "error").await["message"], "ada cannot be asked");
        relay.stop().await;
    });
}

#[test]
fn routing_takes_announcements_from_who_knows_the_secret() {
    real(async {
        let relay = serve("examples/routing/config.toml").await;
        let (mut ada, mut bob) = (desk(&relay, "ada").await, desk(&relay, "bob").await);
        let secret = "everybody knows this secret, so use BACKEND_SECRET";
        let (status, _) = announce_to(&relay, "guess", json!({ "text": "free beer" })).await;
        assert_eq!(status, 401);
        let (status, answer) = announce_to(&relay, secret, json!({ "txt": "?" })).await;
        assert_eq!((status, &answer["why"]), (400, &json!("text is missing")));
        assert_eq!(announce_to(&relay, secret, json!({ "text": "psst", "to": "bob" })).await.0, 200);
        assert_eq!(announce_to(&relay, secret, json!({ "text": "closing at six" })).await.0, 200);
        assert_eq!(expect(&mut bob, "announcement").await["text"], "psst");
        assert_eq!(expect(&mut bob, "announcement").await["text"], "closing at six");
        assert_eq!(expect(&mut ada, "announcement").await["text"], "closing at six");
        assert_eq!(request(&relay, "GET /desk", "").await.0, 405);
        relay.stop().await;
    });
}

// ── the documents ──

/// The fenced blocks of this language in a document, with the line that each begins on.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let fence = format!("```{language}");
    let (mut found, mut open) = (Vec::new(), None::<(usize, String)>);
    for (index, line) in text.lines().enumerate() {
        match &mut open {
            None if line.trim() == fence => open = Some((index + 2, String::new())),
            Some(_) if line.trim() == "```" => found.extend(open.take()),
            Some((_, block)) => block.extend([line, "\n"]),
            None => {}
        }
    }
    assert!(open.is_none(), "a block has no end");
    found
}

/// A fragment as a script: definitions stay what they are, everything else is put into functions that nobody calls.
fn whole(block: &str) -> String {
    if block.lines().any(|line| line == "return app") {
        return block.to_owned();
    }
    let defines = |part: &str| {
        let first = part.lines().find(|line| !line.trim().is_empty() && !line.starts_with("--")).unwrap_or_default();
        ["function app.", "app.", "local app"].iter().any(|begin| first.starts_with(begin))
    };
    let mut script = "local app = {}\nfunction app.on_load() end\n".to_owned();
    for part in block.split("\n\n") {
        // A fragment that is part of a definition is none of its own: it is indented.
        match defines(part) || part.starts_with(' ') {
            true => script.push_str(&format!("{part}\n\n")),
            false => script.push_str(&format!("local function part(conn, data, request)\n{part}\nend\n\n")),
        }
    }
    script + "return app\n"
}

fn problem_of(config: &Config) -> Option<String> {
    let checked = server::check(config).unwrap();
    checked.into_iter().find_map(|app| app.problem).map(|problem| problem.to_string())
}

#[test]
fn every_piece_of_lua_in_the_documents_loads() {
    let folder = tempfile::tempdir().unwrap();
    // What fragments `require`.
    copy(&Path::new(ROOT).join("scripts"), folder.path());
    let script = folder.path().join("piece.lua");
    let config =
        "[[app]]\nname = \"piece\"\npath = \"/piece\"\nscript = \"piece.lua\"\n[app.settings]\nsecret = \"s\"\n";
    let config = config::parse(config, &folder.path().join("config.toml"), &[]).unwrap();
    let mut failed = String::new();
    let mut pieces = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for (line, block) in blocks(&text, "lua") {
            pieces += 1;
            fs::write(&script, whole(&block)).unwrap();
            if let Some(problem) = problem_of(&config) {
                failed.push_str(&format!("{}:{line}: {problem}\n", document.display()));
            }
        }
    }
    assert!(failed.is_empty(), "{failed}");
    assert!(pieces >= 1, "only {pieces} pieces of Lua found");
}

/// Every text for readers in the root and in examples/; docs/ has `docs.rs`.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(ROOT)];
    folders.extend(fs::read_dir(Path::new(ROOT).join("examples")).unwrap().map(|entry| entry.unwrap().path()));
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        found.extend(files.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    found.sort();
    found
}

#[test]
fn the_chat_of_the_ratchet_page_runs_with_its_config() {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/coming-from-ratchet.md")).unwrap();
    let (_, script) = blocks(&text, "lua").remove(0);
    let (_, toml) = blocks(&text, "toml").remove(0);
    real(async {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("chat.lua"), script).unwrap();
        let mut config =
            config::parse(&toml, &folder.path().join("config.toml"), &[]).unwrap_or_else(|error| panic!("{error}"));
        config.server.listen = vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())];
        configure_app(&mut config, |app| app.limits.close_timeout = Duration::from_millis(300));
        let relay = Relay::start(config, folder).await;
        let mut ann = relay.peer("/chat").await;
        // The 101 does not tell that somebody has joined: the first text that comes through does.
        let mut bob = relay.peer("/chat").await;
        let mut heard = 0;
        while heard == 0 {
            ann.send("hi").await;
            let next = tokio::time::timeout(Duration::from_millis(50), bob.next()).await;
            heard = next.map_or(0, |next| usize::from(next == Message::text("hi")));
        }
        bob.send("hello").await;
        assert_eq!(ann.text().await, "hello", "and nothing of her own");
        relay.stop().await;
    });
}

#[test]
fn every_config_of_the_project_names_scripts_that_load() {
    let mut files = vec![PathBuf::from(ROOT).join("config.toml")];
    let examples = fs::read_dir(Path::new(ROOT).join("examples")).unwrap();
    files.extend(examples.map(|entry| entry.unwrap().path().join("config.toml")));
    for file in files {
        let config = config::load(Some(&file), &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(problem_of(&config), None, "{}", file.display());
        for each in &config.statics {
            assert!(each.folder.join("index.html").is_file(), "{}: {}", file.display(), each.folder.display());
        }
    }
}
