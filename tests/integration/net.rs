//! `relay.http` and `relay.ws` against servers of this file's own, over real sockets.

use std::{future::Future, net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use moonwire::config::{self, Host, HttpHost};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use crate::support::{Relay, configure_app, eventually, real, soon};

/// Each message is Lua: its results, or its error, come back as text.
const ASK: &str = r#"
    local function told(...)
      local out = {}
      for n = 1, select('#', ...) do out[n] = tostring((select(n, ...))) end
      return table.concat(out, " | ")
    end
    local function fields(response, why)
      if not response then return nil, why end
      return response.status, response.headers["x-a"], response.body
    end
    function app.on_message(conn, text)
      local what, url, rest = text:match("^(%S+) (%S+) ?(.*)$")
      if what == "get" then
        conn:send(told(fields(relay.http.get(url, { headers = { ["x-sent"] = "yes", authorization = "secret" } }))))
      elseif what == "quick" then
        conn:send(told(fields(relay.http.get(url, { timeout = 0.05 }))))
      elseif what == "slow" then
        conn:send(told(pcall(relay.http.get, url, { timeout = 60 })))
      elseif what == "post" then
        conn:send(told(fields(relay.http.post(url, rest, { headers = { ["content-type"] = "text/x" } }))))
      elseif what == "put" then
        conn:send(told(fields(relay.http.request({ method = "PUT", url = url, body = rest }))))
      elseif what == "echo" then
        conn:send(url)
      elseif what == "wrong" then
        conn:send(told(pcall(relay.http.get, "http://x/", { [url] = rest })))
      end
    end
"#;

pub fn allow(app: &mut config::App, addr: SocketAddr) {
    app.http.allow.push(HttpHost { host: Host::Address(addr.ip()), port: Some(addr.port()) });
}

/// A server that answers each request, whose whole text `answer` is given, with the bytes that it returns; None
/// never answers.
pub async fn serve(answer: impl Fn(&str, SocketAddr) -> Option<String> + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::task::spawn_local(async move {
                let _ = requests(stream, |request| answer(request, addr)).await;
            });
        }
    });
    addr
}

async fn requests(mut stream: TcpStream, answer: impl Fn(&str) -> Option<String>) -> std::io::Result<()> {
    let mut text = String::new();
    let mut bytes = [0; 4096];
    loop {
        while let Some(length) = whole(&text) {
            let request: String = text.drain(..length).collect();
            match answer(&request) {
                Some(answer) => stream.write_all(answer.as_bytes()).await?,
                None => std::future::pending().await,
            }
        }
        match stream.read(&mut bytes).await? {
            0 => return Ok(()),
            read => match std::str::from_utf8(&bytes[..read]) {
                Ok(part) => text.push_str(part),
                Err(_) => return Ok(()), // TLS, which this does not speak
            },
        }
    }
}

/// The length of the first request, once it is there.
fn whole(text: &str) -> Option<usize> {
    let head = text.find("\r\n\r\n")? + 4;
    let length = text[..head].to_lowercase();
    let length = length.split("content-length: ").nth(1).map_or("0", |rest| rest.split('\r').next().unwrap());
    let length = head + length.parse::<usize>().unwrap();
    (text.len() >= length).then_some(length)
}

pub fn response(status: &str, headers: &str, body: &str) -> Option<String> {
    Some(format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()))
}

/// A relay that may reach `addr`, and a peer of it.
fn asking<F: Future<Output = ()>>(
    answer: impl Fn(&str, SocketAddr) -> Option<String> + Clone + 'static,
    body: impl FnOnce(Relay, crate::support::Peer, SocketAddr) -> F,
) {
    real(async {
        let addr = serve(answer).await;
        let relay = Relay::with(ASK, |config| {
            configure_app(config, |app| {
                allow(app, addr);
                app.limits.http_body = 1_000;
            });
        })
        .await;
        let peer = relay.peer("/app/x").await;
        body(relay, peer, addr).await;
    });
}

#[test]
fn a_request_comes_back_with_status_headers_and_body() {
    asking(
        |request, _| match request.split(' ').nth(1).unwrap() {
            "/a?b=c" if request.contains("x-sent: yes\r\n") => {
                response("201 Created", "X-A: one\r\nx-a: two\r\n", "räksmörgås")
            }
            "/missing" => response("404 Not Found", "", "nothing"),
            "/empty" => Some("HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
            _ => response("200 OK", "", &request.replace("\r\n", "/")),
        },
        |relay, mut peer, addr| async move {
            assert_eq!(peer.ask(&format!("get http://{addr}/a?b=c")).await, "201 | one, two | räksmörgås");
            assert_eq!(peer.ask(&format!("get http://{addr}/missing")).await, "404 | nil | nothing");
            assert_eq!(peer.ask(&format!("get http://{addr}/empty")).await, "204 | nil | ");
            let posted = peer.ask(&format!("post http://{addr}/p some text")).await;
            assert!(posted.starts_with("200 | nil | POST /p HTTP/1.1/"), "{posted}");
            assert!(posted.contains("/content-type: text/x/") && posted.ends_with("//some text"), "{posted}");
            assert!(posted.contains("/user-agent: moonwire/"), "{posted}");
            let put = peer.ask(&format!("put http://{addr}/p ")).await;
            assert!(put.starts_with("200 | nil | PUT /p HTTP/1.1/"), "{put}");
            relay.stop().await;
        },
    );
}

#[test]
fn redirects_are_followed_where_the_next_host_is_allowed_too() {
    asking(
        |request, addr| {
            let mut words = request.split(' ');
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let port = addr.port();
            let to = |place: &str| response("302 Found", &format!("location: {place}\r\n"), "");
            match path {
                "/1" => to("/2"),
                "/2" => to(&format!("http://{addr}/3?x")),
                "/3?x" => to("there"),
                "/there" => response("200 OK", "", &format!("{method} {}", request.contains("authorization: secret"))),
                "/four" => to("/1"),
                "/loop" => to("/loop"),
                "/metadata" => to("http://169.254.169.254/latest/meta-data?token=x"),
                "/name" => to("http://evil.example/"),
                "/mapped" => to(&format!("http://[::ffff:127.0.0.1]:{port}/there")),
                "/port" => to("//127.0.0.1:1/"),
                "/file" => to("file:///etc/passwd"),
                "/user" => to(&format!("http://a:b@{addr}/there")),
                "/bad" => to("http://["),
                "/keep" => response("307 Temporary Redirect", "location: /kept\r\n", ""),
                "/kept" => response("200 OK", "", &format!("{method} {}", request.ends_with("body"))),
                _ => response("500 No", "", path),
            }
        },
        |relay, mut peer, addr| async move {
            assert_eq!(peer.ask(&format!("get http://{addr}/1")).await, "200 | nil | GET true");
            assert_eq!(peer.ask(&format!("post http://{addr}/1 body")).await, "200 | nil | GET false");
            assert_eq!(peer.ask(&format!("post http://{addr}/keep body")).await, "200 | nil | POST true");
            for (path, why) in [
                ("four", "more than 3 redirects"),
                ("loop", "more than 3 redirects"),
                (
                    "metadata",
                    "redirected to http://169.254.169.254/latest/meta-data: host \"169.254.169.254\" is not in app.http.allow",
                ),
                ("name", "redirected to http://evil.example/: host \"evil.example\" is not in app.http.allow"),
                ("file", "redirected to file:///etc/passwd: scheme \"file\" is not allowed: only http and https are"),
                ("port", "redirected to http://127.0.0.1:1/: host \"127.0.0.1:1\" is not in app.http.allow"),
            ] {
                assert_eq!(peer.ask(&format!("get http://{addr}/{path}")).await, format!("nil | {why}"), "{path}");
            }
            for (path, why) in [
                ("mapped", "is not in app.http.allow"),
                ("user", "it has a user name or a password"),
                ("bad", "redirected to a bad URL"),
            ] {
                let told = peer.ask(&format!("get http://{addr}/{path}")).await;
                assert!(told.starts_with("nil | ") && told.contains(why), "{path}: {told}");
            }
            relay.stop().await;
        },
    );
}

#[test]
fn credentials_stay_with_the_host_that_they_were_given_for() {
    real(async {
        let second = serve(|request, _| response("200 OK", "", &request.contains("secret").to_string())).await;
        let first = serve(move |_, _| response("302 Found", &format!("location: http://{second}/\r\n"), "")).await;
        let relay = Relay::with(ASK, |config| {
            configure_app(config, |app| {
                allow(app, first);
                allow(app, second);
            });
        })
        .await;
        let mut peer = relay.peer("/app/x").await;
        assert_eq!(peer.ask(&format!("get http://{second}/")).await, "200 | nil | true");
        assert_eq!(peer.ask(&format!("get http://{first}/")).await, "200 | nil | false");
        relay.stop().await;
    });
}

#[test]
fn what_the_world_does_wrong_is_nil_and_why() {
    asking(
        |request, _| match request.split(' ').nth(1).unwrap() {
            "/large" => response("200 OK", "", &"x".repeat(1_001)),
            "/largest" => response("200 OK", "", &"x".repeat(1_000)),
            "/chunked" => {
                let chunk = format!("1f4\r\n{}\r\n", "x".repeat(500));
                Some(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(3)))
            }
            "/silent" => None,
            "/broken" => Some("no HTTP at all\r\n\r\n".to_owned()),
            _ => response("200 OK", "", ""),
        },
        |relay, mut peer, addr| async move {
            let large = "nil | the body is larger than limits.http_body (1000 bytes)";
            assert_eq!(peer.ask(&format!("get http://{addr}/large")).await, large);
            assert_eq!(peer.ask(&format!("get http://{addr}/chunked")).await, large);
            assert!(peer.ask(&format!("get http://{addr}/largest")).await.starts_with("200 | nil | xxx"));
            assert_eq!(peer.ask(&format!("quick http://{addr}/silent")).await, "nil | timeout");
            let broken = peer.ask(&format!("get http://{addr}/broken")).await;
            assert!(broken.starts_with("nil | ") && broken.len() > 8, "{broken}");
            let port = addr.port();
            for (url, why) in [
                ("http://127.0.0.2/", "host \"127.0.0.2\" is not in app.http.allow"),
                ("http://localhost/", "host \"localhost\" is not in app.http.allow"),
                ("http://169.254.169.254/", "host \"169.254.169.254\" is not in app.http.allow"),
                ("file:///etc/passwd", "scheme \"file\" is not allowed: only http and https are"),
                ("ftp://127.0.0.1/", "scheme \"ftp\" is not allowed: only http and https are"),
                ("http://[::ffff:127.0.0.1]/", "host \"[::ffff:7f00:1]\" is not in app.http.allow"),
                ("http://2130706433/", "host \"127.0.0.1\" is not in app.http.allow"),
                ("http://0177.0.0.1/", "host \"127.0.0.1\" is not in app.http.allow"),
                ("http://0x7f.0.0.1/", "host \"127.0.0.1\" is not in app.http.allow"),
                ("http://127.1/", "host \"127.0.0.1\" is not in app.http.allow"),
            ] {
                assert_eq!(peer.ask(&format!("get {url}")).await, format!("nil | {why}"));
            }
            // Whatever the spelling, it is the address that the list has or has not.
            assert_eq!(peer.ask(&format!("get http://2130706433:{port}/")).await, "200 | nil | ");
            let told = peer.ask(&format!("get http://[::ffff:127.0.0.1]:{port}/")).await;
            assert!(told.contains("is not in app.http.allow"), "{told}");
            relay.stop().await;
        },
    );
}

#[test]
fn a_server_that_is_not_there_is_nil_and_why() {
    real(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let relay = Relay::with(ASK, |config| configure_app(config, |app| allow(app, addr))).await;
        let mut peer = relay.peer("/app/x").await;
        let told = peer.ask(&format!("get http://{addr}/")).await;
        assert!(told.starts_with("nil | Connection refused"), "{told}");
        relay.stop().await;
    });
}

#[test]
fn mistakes_in_a_request_raise_in_the_words_of_the_script() {
    real(async {
        let relay = Relay::of(
            r#"
            local ok, why = pcall(relay.http.get, "http://x/")
            local early = why
            local function raises(wanted, f, ...)
              local ok, why = pcall(f, ...)
              if ok or not string.find(why, wanted, 1, true) then error(wanted .. ": " .. tostring(why)) end
            end
            function app.on_message(conn)
              raises("relay.http.get(url, options): url must be a string, got nil", relay.http.get)
              raises("unknown option 'heders' (it takes headers, timeout)", relay.http.get, "http://x/", { heders = {} })
              raises("headers must be a table, got string", relay.http.get, "http://x/", { headers = "x" })
              raises('headers["x"] must be a string, got number', relay.http.get, "http://x/", { headers = { x = 1 } })
              raises('"x" has a value with control characters', relay.http.get, "http://x/", { headers = { x = "a\r\nb: c" } })
              raises('"Host" is set by the relay', relay.http.get, "http://x/", { headers = { Host = "y" } })
              raises("timeout must be more than 0", relay.http.get, "http://x/", { timeout = 0 })
              raises("timeout must be at most limits.callback_timeout (60 seconds)", relay.http.get, "http://x/", { timeout = 61 })
              raises("body must be a string, got table", relay.http.post, "http://x/", {})
              raises("request must be a table, got nil", relay.http.request)
              raises('method must be one such as "GET" or "POST", in capitals, got "get"', relay.http.request, { method = "get", url = "http://x/" })
              raises('got "CONNECT"', relay.http.request, { method = "CONNECT", url = "http://x/" })
              raises("url must be a string, got number", relay.ws.connect, 1)
              raises('subprotocol must be a name such as "chat.v1", got "a b"', relay.ws.connect, "ws://x/", { subprotocol = "a b" })
              raises("cannot wait here", string.gsub, "x", "x", function() relay.http.get("http://x/") end)
              conn:send(early)
            end
            function app.on_error(conn, err) conn:send(err.message) end
            "#,
        )
        .await;
        let mut peer = relay.peer("/app/x").await;
        let early = peer.ask("go").await;
        assert!(early.contains("relay.http.get(url, options): not while a script loads or in on_load"), "{early}");
        relay.stop().await;
    });
}

#[test]
fn others_go_on_while_one_waits_and_a_drain_cancels_it() {
    real(async {
        let (closed, mut was_closed) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (asked, mut was_asked) = mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 4096];
            let _ = stream.read(&mut bytes).await;
            asked.send(()).unwrap();
            while matches!(stream.read(&mut bytes).await, Ok(read) if read > 0) {}
            closed.send(()).unwrap();
        });
        let relay = Relay::with(ASK, |config| {
            configure_app(config, |app| allow(app, addr));
            config.reload.drain = Duration::from_millis(50);
        })
        .await;
        let mut slow = relay.peer("/app/x").await;
        let mut other = relay.peer("/app/x").await;
        slow.send(&format!("slow http://{addr}/")).await;
        soon("the request", was_asked.recv()).await;
        assert_eq!(other.ask("echo hi").await, "hi");
        relay.edit(&format!("{ASK}\n-- changed"));
        relay.handle.reload().await;
        let told = slow.text().await;
        assert!(told.starts_with("false | ") && told.contains("reload.drain is over"), "{told}");
        soon("the connection to be dropped", was_closed.recv()).await;
        assert_eq!(slow.ask("echo again").await, "again");
        relay.stop().await;
    });
}

#[test]
fn a_change_of_the_list_alone_is_a_reload() {
    real(async {
        let addr = serve(|_, _| response("200 OK", "", "ok")).await;
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("app.lua");
        std::fs::write(&script, crate::support::module(ASK)).unwrap();
        let file = folder.path().join("config.toml");
        let write = |allow: &str| {
            let app = "[[app]]\nname = \"app\"\npath = \"/app/{room}\"\nscript = \"app.lua\"\n";
            let text = format!(
                "server.listen = \"127.0.0.1:0\"\nreload.watch = false\nlimits.close_timeout = 0.3\n{app}http.allow = [{allow}]\n"
            );
            std::fs::write(&file, text).unwrap();
        };
        write("");
        let read = {
            let file = file.clone();
            move || config::load(Some(&file), &[]).map_err(|error| error.to_string())
        };
        let relay = Relay::start_with(read().unwrap(), Some(Box::new(read)), folder).await;
        let mut peer = relay.peer("/app/x").await;
        let refused = format!("nil | host \"{addr}\" is not in app.http.allow");
        assert_eq!(peer.ask(&format!("get http://{addr}/")).await, refused);
        write(&format!("\"{addr}\""));
        let report = relay.handle.reload().await;
        assert!(report.ok() && report.to_string().contains("app.app.http"), "{report}");
        assert_eq!(peer.ask(&format!("get http://{addr}/")).await, "200 | nil | ok");
        write("");
        assert!(relay.handle.reload().await.ok());
        assert_eq!(peer.ask(&format!("get http://{addr}/")).await, refused);
        relay.stop().await;
    });
}

// ── relay.ws ──

/// A server of WebSockets that does `each` with every one that comes.
async fn serve_ws<F: Future<Output = ()> + 'static>(
    each: impl Fn(WebSocketStream<TcpStream>) -> F + Clone + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let each = each.clone();
            tokio::task::spawn_local(async move {
                if let Ok(socket) = tokio_tungstenite::accept_async(stream).await {
                    each(socket).await;
                }
            });
        }
    });
    addr
}

async fn echo(mut socket: WebSocketStream<TcpStream>) {
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// A relay whose script may reach `addr`, which it reads from `relay.config.url`.
async fn bridge(addr: SocketAddr, script: &str, change: impl FnOnce(&mut config::App)) -> Relay {
    Relay::with(&script.replace("URL", &format!("\"ws://{addr}/\"")), |config| {
        configure_app(config, |app| {
            allow(app, addr);
            change(app);
        });
    })
    .await
}

#[test]
fn a_bridge_passes_messages_both_ways_as_they_are() {
    real(async {
        let addr = serve_ws(echo).await;
        let relay = bridge(
            addr,
            r#"
            local sockets = {}
            function app.on_open(conn)
              local socket = assert(relay.ws.connect(URL))
              sockets[conn.id] = socket
              relay.spawn(function()
                while true do
                  local data, binary = socket:receive()
                  if not data then conn:close(4000, binary) return end
                  conn:send(data, binary)
                end
              end)
            end
            function app.on_message(conn, data, binary)
              if data == "bye" then sockets[conn.id]:close() return end
              assert(sockets[conn.id]:send(data, binary))
            end
            "#,
            |_| (),
        )
        .await;
        let mut peer = relay.peer("/app/x").await;
        assert_eq!(peer.ask("räksmörgås").await, "räksmörgås");
        peer.send_binary(vec![0, 255, 1]).await;
        assert_eq!(peer.next().await, Message::binary(vec![0, 255, 1]));
        peer.send_binary(Vec::new()).await;
        assert_eq!(peer.next().await, Message::binary(Vec::new()));
        let large = "x".repeat(1_000_000);
        for _ in 0..4 {
            peer.send(&large).await;
        }
        for _ in 0..4 {
            assert!(peer.text().await == large);
        }
        peer.send("bye").await;
        assert_eq!(peer.closed().await, Some((4000, "closed".to_owned())));
        relay.stop().await;
    });
}

#[test]
fn a_bridge_is_told_what_the_other_side_does() {
    real(async {
        let addr = serve_ws(|mut socket| async move {
            while let Some(Ok(message)) = socket.next().await {
                match message.to_text().unwrap_or_default() {
                    "close" => drop(socket.close(None).await),
                    "large" => drop(socket.send(Message::text("x".repeat(2_000))).await),
                    "drop" => return,
                    _ => {}
                }
            }
        })
        .await;
        let relay = bridge(
            addr,
            r#"
            function app.on_message(conn, text)
              local socket = assert(relay.ws.connect(URL, { headers = { ["x-a"] = "b" } }))
              local out = { typeof(socket), tostring(socket.subprotocol), tostring((select(2, socket:receive(0.02)))) }
              table.insert(out, tostring(socket:send(text)))
              table.insert(out, tostring((select(2, socket:receive(5)))))
              local sent, why = socket:send("more")
              table.insert(out, `{sent} {why}`)
              socket:close()
              socket:close()
              table.insert(out, (select(2, socket:receive())))
              table.insert(out, (select(2, socket:send("x"))))
              conn:send(table.concat(out, ", "))
            end
            function app.on_error(conn, err) conn:send(err.message) end
            "#,
            |app| app.limits.message = 1_000,
        )
        .await;
        let mut peer = relay.peer("/app/x").await;
        assert_eq!(peer.ask("close").await, "socket, nil, timeout, true, closed, false closed, closed, closed");
        let large = peer.ask("large").await;
        assert!(large.contains("true, a message is larger than limits.message (1000 bytes), false closed"), "{large}");
        let dropped = peer.ask("drop").await;
        assert!(dropped.starts_with("socket, nil, timeout, true, ") && dropped.contains(", false closed"), "{dropped}");
        relay.stop().await;
    });
}

#[test]
fn a_bridge_that_cannot_be_is_nil_and_why() {
    real(async {
        let plain = serve(|_, _| response("403 Forbidden", "", "")).await;
        let silent = serve(|_, _| None).await;
        let relay = Relay::with(
            r#"
            function app.on_message(conn, text)
              local url, timeout = text:match("^(%S+) ?(.*)$")
              local socket, why = relay.ws.connect(url, { timeout = tonumber(timeout) })
              conn:send(`{socket} {why}`)
            end
            "#,
            |config| {
                configure_app(config, |app| {
                    allow(app, plain);
                    allow(app, silent);
                });
            },
        )
        .await;
        let mut peer = relay.peer("/app/x").await;
        for (url, why) in [
            ("ws://evil.example/".to_owned(), "nil host \"evil.example\" is not in app.http.allow"),
            ("ws://169.254.169.254/".to_owned(), "nil host \"169.254.169.254\" is not in app.http.allow"),
            ("http://127.0.0.1/".to_owned(), "nil scheme \"http\" is not allowed: only ws and wss are"),
            (format!("ws://{plain}/"), "nil the server answered 403"),
            (format!("ws://{silent}/ 0.05"), "nil timeout"),
        ] {
            assert_eq!(peer.ask(&url).await, why, "{url}");
        }
        let tls = peer.ask(&format!("wss://{plain}/")).await;
        assert!(tls.starts_with("nil ") && tls.len() > 8, "{tls}");
        relay.stop().await;
    });
}

#[test]
fn sockets_have_a_number_and_a_place_comes_free() {
    real(async {
        let addr = serve_ws(echo).await;
        let relay = bridge(
            addr,
            r#"
            local kept
            function app.on_message(conn, text)
              if text == "close" then kept:close() conn:send("ok") return end
              local socket, why = relay.ws.connect(URL)
              kept = socket or kept
              conn:send(if socket then "open" else why)
            end
            "#,
            |app| app.limits.ws_sockets = 1,
        )
        .await;
        let mut peer = relay.peer("/app/x").await;
        assert_eq!(peer.ask("open").await, "open");
        assert_eq!(peer.ask("open").await, "as many sockets are open as limits.ws_sockets allows (1)");
        assert_eq!(peer.ask("close").await, "ok");
        let peer = std::rc::Rc::new(tokio::sync::Mutex::new(peer));
        eventually("a free place", || {
            let peer = peer.clone();
            async move { peer.lock().await.ask("open").await == "open" }
        })
        .await;
        relay.stop().await;
    });
}

#[test]
fn what_is_not_received_slows_the_other_side_down() {
    real(async {
        let (sent, mut was_sent) = mpsc::unbounded_channel();
        let addr = serve_ws(move |mut socket| {
            let sent = sent.clone();
            async move {
                // More than what both kernels and the relay hold for it.
                for _ in 0..400 {
                    if socket.send(Message::binary(vec![7; 100_000])).await.is_err() {
                        return;
                    }
                    sent.send(()).unwrap();
                }
                let _ = socket.close(None).await;
                while let Some(Ok(_)) = socket.next().await {}
            }
        })
        .await;
        let relay = bridge(
            addr,
            r#"
            local socket
            function app.on_message(conn, text)
              if text == "open" then
                socket = assert(relay.ws.connect(URL))
                conn:send("open")
                return
              end
              local count = 0
              while true do
                local data, why = socket:receive(10)
                if not data then conn:send(count .. " " .. why) return end
                count += #data
              end
            end
            "#,
            |_| (),
        )
        .await;
        let mut peer = relay.peer("/app/x").await;
        assert_eq!(peer.ask("open").await, "open");
        let mut count = 0;
        while tokio::time::timeout(Duration::from_millis(500), was_sent.recv()).await.is_ok() {
            count += 1;
        }
        assert!(count < 400, "everything was taken without a reader");
        assert_eq!(peer.ask("read").await, "40000000 closed");
        relay.stop().await;
    });
}

#[test]
fn a_socket_ends_with_its_generation() {
    real(async {
        let (closed, mut was_closed) = mpsc::unbounded_channel();
        let addr = serve_ws(move |mut socket| {
            let closed = closed.clone();
            async move {
                let mut how = "vanished";
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_close() {
                        how = "closed";
                    }
                }
                closed.send(how).unwrap();
            }
        })
        .await;
        let script = r#"
            local socket
            function app.on_message(conn)
              socket = assert(relay.ws.connect(URL))
              conn:send("open")
            end
        "#;
        let relay = bridge(addr, script, |_| ()).await;
        let mut peer = relay.peer("/app/x").await;
        assert_eq!(peer.ask("open").await, "open");
        relay.edit("function app.on_message(conn) conn:send('new') end");
        relay.handle.reload().await;
        assert_eq!(peer.ask("hi").await, "new");
        assert_eq!(soon("the close", was_closed.recv()).await, Some("closed"));
        relay.stop().await;
    });
}
