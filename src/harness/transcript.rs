//! Transcripts: what peers send and receive, line by line. What is delivered and not in it is a failure too.
//!
//! ```text
//! alice opens            a peer connects; `alice opens /chat/lobby?x=1` says where
//! alice > hi             she sends
//! bob < hi               he has received (of JSON objects, the order of members does not count)
//! alice closes 4000 bye  she closes; `alice vanishes` without a close frame
//! bob is closed 1011     the relay has closed him
//! eve is refused 401     in place of `eve opens`
//! 1.5s pass
//! ```

use std::collections::BTreeMap;

use super::{Peer, Relay, app, run};

/// Plays `transcript` against a relay with this script, and panics with the whole scene where they differ.
pub fn check(script: &str, transcript: &str) {
    check_with(|_| (), script, transcript);
}

/// The same with a changed configuration of the app.
pub fn check_with(configure: impl FnOnce(&mut crate::config::App), script: &str, transcript: &str) {
    let folder = tempfile_folder();
    let path = folder.join("app.lua");
    std::fs::write(&path, format!("local app = {{}}\n{script}\nreturn app\n")).expect("a script can be written");
    let mut config = app("app", &path);
    configure(&mut config);
    let result = run(play(config, transcript));
    let _ = std::fs::remove_dir_all(&folder);
    if let Err(scene) = result {
        panic!("{scene}");
    }
}

fn tempfile_folder() -> std::path::PathBuf {
    let mut name = [0; 8];
    getrandom::fill(&mut name).expect("the system has randomness");
    let folder = std::env::temp_dir().join(format!("moonwire-{:016x}", u64::from_le_bytes(name)));
    std::fs::create_dir(&folder).expect("a folder can be made");
    folder
}

async fn play(config: crate::config::App, text: &str) -> Result<(), String> {
    let relay = Relay::start(config).await.map_err(|report| format!("{report:#?}"))?;
    let mut transcript = Transcript::new(&relay);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        transcript.line(line).await?;
    }
    transcript.end().await
}

/// Two objects in JSON are the same in whatever order their members come.
fn is_same(got: &str, expected: &str) -> bool {
    let object = |text: &str| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).ok();
    got == expected || object(got).is_some_and(|got| object(expected).is_some_and(|expected| got == expected))
}

/// A transcript that is being played.
pub struct Transcript<'a> {
    relay: &'a Relay,
    peers: BTreeMap<String, Peer>,
    scene: String,
}

impl<'a> Transcript<'a> {
    pub fn new(relay: &'a Relay) -> Transcript<'a> {
        Transcript { relay, peers: BTreeMap::new(), scene: String::new() }
    }

    /// Plays one line; the error is the scene up to it.
    pub async fn line(&mut self, line: &str) -> Result<(), String> {
        self.scene.push_str(&format!("  {line}\n"));
        let (name, rest) = line.split_once(' ').ok_or_else(|| self.failure("this is not a line of a transcript"))?;
        if rest == "pass" {
            let time = crate::config::parse_duration(name).map_err(|error| self.failure(&error))?;
            self.relay.advance(time).await;
            return Ok(());
        }
        if let Some(target) = rest.strip_prefix("opens") {
            return self.open(name, target.trim(), None).await;
        }
        if let Some(expected) = rest.strip_prefix("is refused ") {
            return self.open(name, "", Some(expected)).await;
        }
        let Some(peer) = self.peers.get(name).cloned() else {
            return Err(self.failure(&format!("{name} has not opened")));
        };
        if let Some(text) = rest.strip_prefix("> ") {
            peer.send(text);
            self.relay.settle().await;
        } else if let Some(expected) = rest.strip_prefix("< ") {
            self.relay.settle().await;
            let got = peer.receive_text();
            if !got.as_deref().is_some_and(|got| is_same(got, expected)) {
                let got = got.map_or("nothing has come".to_owned(), |got| format!("{name} < {got}"));
                return Err(self.failure(&got));
            }
        } else if let Some(how) = rest.strip_prefix("closes") {
            let (code, reason) = how.trim().split_once(' ').unwrap_or((how.trim(), ""));
            peer.close(code.parse().unwrap_or(1000), reason);
            self.relay.settle().await;
        } else if rest == "vanishes" {
            peer.vanish();
            self.relay.settle().await;
        } else if let Some(expected) = rest.strip_prefix("is closed ") {
            self.relay.settle().await;
            let got = peer.closed().map_or("still open".to_owned(), |(code, reason)| format!("{code} {reason}"));
            if !got.trim_end().starts_with(expected) {
                return Err(self.failure(&format!("{name}: {got}")));
            }
        } else {
            return Err(self.failure("this is not a line of a transcript"));
        }
        Ok(())
    }

    async fn open(&mut self, name: &str, target: &str, refused: Option<&str>) -> Result<(), String> {
        let target = if target.is_empty() { format!("/app/lobby?name={name}") } else { target.to_owned() };
        let result = self.relay.connect(&target).await;
        self.relay.settle().await;
        match (result, refused) {
            (Ok(peer), None) => {
                self.peers.insert(name.to_owned(), peer);
                Ok(())
            }
            (Err(got), Some(expected)) if format!("{} {}", got.code, got.reason).starts_with(expected) => Ok(()),
            (Ok(_), Some(_)) => Err(self.failure(&format!("{name} was let in"))),
            (Err(got), _) => Err(self.failure(&format!("{name} was refused with {} {}", got.code, got.reason))),
        }
    }

    /// Nothing may have been delivered that is not in the transcript.
    pub async fn end(self) -> Result<(), String> {
        self.relay.settle().await;
        for (name, peer) in &self.peers {
            if let Some(text) = peer.receive_text() {
                return Err(self.failure(&format!("not in the transcript: {name} < {text}")));
            }
        }
        Ok(())
    }

    fn failure(&self, got: &str) -> String {
        format!("the transcript:\n{}but: {got}", self.scene)
    }
}
