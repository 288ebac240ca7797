//! `moonwire dev`, over HTTP as its page asks: apps, reloads, errors, traced messages.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Stdio},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::{
    command::Folder,
    support::{eventually, real, soon},
};

/// A running `moonwire dev`, stopped at the end.
struct Dev {
    child: Child,
    folder: Folder,
    address: String,
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Dev {
    fn start(script: &str) -> Dev {
        let folder = Folder::new("127.0.0.1:0");
        folder.write("echo.lua", script);
        let mut child = folder
            .command(&["dev"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.find_map(|line| line.ok().filter(|line| line.contains("/_dev/"))).unwrap_or_else(|| {
            let mut said = String::new();
            let _ = child.stderr.take().unwrap().read_to_string(&mut said);
            panic!("it did not start\n{said}")
        });
        let address = line.split("http://").nth(1).unwrap().trim_end_matches("/_dev/").to_owned();
        Dev { child, folder, address }
    }

    /// The status and the body of an answer.
    async fn ask(&self, head: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let (address, length) = (&self.address, body.len());
        let request = format!("{head}host: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon("an answer", stream.read_to_string(&mut answer)).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\n"), "").await
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await.1).unwrap()
    }
}

const ECHO: &str = "local app = {}\nfunction app.authenticate(request) return true end\nfunction app.on_message(conn, text)\n  if text == \"nil\" then local x = nil; return x.y end\n  if text == \"state\" then conn.state.f = print elseif text == \"clean\" then conn.state.f = nil end\n  conn:send(text)\nend\nreturn app\n";

#[test]
fn the_page_has_apps_reloads_errors_and_traced_messages() {
    real(async {
        let dev = Dev::start(ECHO);
        assert!(dev.get("/_dev/").await.1.starts_with("<!doctype html>"));
        assert_eq!(dev.get("/_dev").await.0, 308);
        assert_eq!(dev.get("/_dev/other").await.0, 404);
        let app = &dev.json("/_dev/apps.json").await["apps"][0];
        assert_eq!(
            (&app["name"], &app["generation"], &app["reload"]["outcome"]),
            (&"echo".into(), &1.into(), &"reloaded".into())
        );

        let on = "POST /_dev/trace HTTP/1.1\r\n";
        assert_eq!(dev.ask(&format!("{on}origin: http://evil.example\r\n"), r#"{"on":true}"#).await.0, 403);
        assert_eq!(dev.ask(on, "nonsense").await.0, 400);
        // A name that somebody lets lead here is not ours.
        let mut stream = TcpStream::connect(&dev.address).await.unwrap();
        let request = "GET /_dev/apps.json HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon("an answer", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        assert_eq!(dev.json("/_dev/trace.json?after=0").await["entries"], Value::Array(vec![]));
        assert_eq!(dev.ask(on, r#"{"on":true}"#).await, (200, r#"{"on":true}"#.to_owned()));

        let (mut peer, _) = connect_async(format!("ws://{}/echo", dev.address)).await.unwrap();
        for text in ["hi", "nil", "state"] {
            peer.send(Message::text(text)).await.unwrap();
        }
        for text in ["hi", "state"] {
            assert_eq!(soon("an echo", peer.next()).await.unwrap().unwrap(), Message::text(text));
        }
        let trace = dev.json("/_dev/trace.json?after=0").await;
        let told: Vec<String> = trace["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| format!("{} {}", entry["what"].as_str().unwrap(), entry["text"].as_str().unwrap()))
            .collect();
        assert_eq!(told, ["open ", "in hi", "out hi", "in nil", "in state", "out state"]);

        // Errors of callbacks, and states that a reload could not carry over, with lines and hints.
        let errors = dev.json("/_dev/apps.json").await["errors"].clone();
        assert_eq!(errors[0]["line"], 4);
        assert!(errors[0]["message"].as_str().unwrap().contains("echo.lua:4: attempt to index nil with 'y'"));
        assert!(errors[0]["hint"].as_str().unwrap().contains("is nil here"));
        assert_eq!(errors[0]["excerpt"].as_array().unwrap().len(), 3);
        assert!(errors[1]["message"].as_str().unwrap().contains("is a function, which is not plain data"));

        peer.send(Message::text("clean")).await.unwrap();
        assert_eq!(soon("an echo", peer.next()).await.unwrap().unwrap(), Message::text("clean"));

        // A save is taken over; a mistake is told, and the old one goes on.
        dev.folder.write("echo.lua", &ECHO.replace("conn:send(text)", "conn:send(text:upper())"));
        eventually("generation 2", async || dev.json("/_dev/apps.json").await["apps"][0]["generation"] == 2).await;
        dev.folder.write("echo.lua", &format!("{ECHO}bad("));
        eventually("a refusal", async || dev.json("/_dev/apps.json").await["apps"][0]["reload"]["outcome"] == "failed")
            .await;
        let reload = dev.json("/_dev/apps.json").await["apps"][0]["reload"].clone();
        assert_eq!((&reload["from"], &reload["line"]), (&2.into(), &9.into()));
        peer.send(Message::text("hi")).await.unwrap();
        assert_eq!(soon("an echo", peer.next()).await.unwrap().unwrap(), Message::text("HI"));
        dev.folder.write("echo.lua", &ECHO.replace("conn:send(text)", "conn:send(text:upper())"));
        let undone = async || dev.json("/_dev/apps.json").await["apps"][0]["reload"]["outcome"] == "unchanged";
        eventually("the mistake is undone", undone).await;
    });
}

#[test]
fn only_dev_has_the_page_and_its_log_is_for_people() {
    let folder = Folder::new("127.0.0.1:0");
    folder.check(&["dev", "--help"], 0, &["/_dev/"]);
    folder.check(&["dev", "-c", "none.toml"], 2, &["none.toml"]);
    real(async {
        let mut dev = Dev::start(ECHO);
        let (mut peer, _) = connect_async(format!("ws://{}/echo", dev.address)).await.unwrap();
        peer.send(Message::text("nil")).await.unwrap();
        eventually("the error", async || dev.json("/_dev/apps.json").await["errors"][0]["line"] == 4).await;
        let _ = dev.child.kill();
        let mut said = String::new();
        dev.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        for expected in ["ERROR echo.lua:4: attempt to index nil with 'y'", "> 4 |", "^", "hint: what stands before"] {
            assert!(said.contains(expected), "{said}\nlacks: {expected}");
        }
    });
    let other = crate::support::module("function app.on_message() end");
    real(async {
        let relay =
            crate::support::Relay::of(other.trim_start_matches("local app = {}\n").trim_end_matches("return app\n"))
                .await;
        let url = relay.url("/_dev/apps.json").replacen("ws://", "", 1);
        let address = url.split('/').next().unwrap().to_owned();
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream
            .write_all(
                format!("GET /_dev/apps.json HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes(),
            )
            .await
            .unwrap();
        let mut answer = String::new();
        tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        relay.stop().await;
    });
}

#[test]
fn a_script_that_does_not_load_at_the_start_is_waited_for() {
    real(async {
        let dev = Dev::start("local app = {}\nfunction app.on_message(\n");
        let app = &dev.json("/_dev/apps.json").await["apps"][0];
        assert_eq!(
            (&app["generation"], &app["reload"]["outcome"], &app["reload"]["line"]),
            (&0.into(), &"failed".into(), &3.into())
        );
        dev.folder.write("echo.lua", ECHO);
        eventually("generation 1", async || dev.json("/_dev/apps.json").await["apps"][0]["generation"] == 1).await;
        let (mut peer, _) = connect_async(format!("ws://{}/echo", dev.address)).await.unwrap();
        peer.send(Message::text("hi")).await.unwrap();
        assert_eq!(soon("an echo", peer.next()).await.unwrap().unwrap(), Message::text("hi"));
    });
}
