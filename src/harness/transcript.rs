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
//! reload                 the script is loaded again
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::{Peer, Relay, app, run};
use crate::reload::report::Outcome;

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
    Transcript::new(&relay).play(text).await
}

/// Two objects in JSON are the same in whatever order their members come.
fn is_same(got: &str, expected: &str) -> bool {
    let object = |text: &str| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).ok();
    got == expected || object(got).is_some_and(|got| object(expected).is_some_and(|expected| got == expected))
}

/// Whether `4000 bye` is what is expected: the code as it is, and of the reason at least its beginning.
fn says(code: u16, reason: &str, expected: &str) -> bool {
    let (number, text) = expected.split_once(' ').unwrap_or((expected, ""));
    number.parse() == Ok(code) && reason.starts_with(text)
}

/// A transcript that is being played.
pub struct Transcript<'a> {
    relay: &'a Relay,
    peers: BTreeMap<String, Peer>,
    scene: String,
    /// Those whose end is in it.
    told: BTreeSet<String>,
}

impl<'a> Transcript<'a> {
    pub fn new(relay: &'a Relay) -> Transcript<'a> {
        Transcript::with(relay, [])
    }

    /// It goes on with `peers`, which an earlier one had.
    pub fn with(relay: &'a Relay, peers: impl IntoIterator<Item = (String, Peer)>) -> Transcript<'a> {
        let peers: BTreeMap<String, Peer> = peers.into_iter().collect();
        let ended = peers.iter().filter(|(_, peer)| peer.closed().is_some()).map(|(name, _)| name.clone()).collect();
        Transcript { relay, peers, scene: String::new(), told: ended }
    }

    pub fn into_peers(self) -> Vec<(String, Peer)> {
        self.peers.into_iter().collect()
    }

    /// Plays it all; the error is the scene up to where it differs.
    pub async fn play(&mut self, text: &str) -> Result<(), String> {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("--")) {
            self.line(line).await?;
        }
        self.end().await
    }

    /// Plays one line; the error is the scene up to it.
    pub async fn line(&mut self, line: &str) -> Result<(), String> {
        self.scene.push_str(&format!("  {line}\n"));
        if line == "reload" {
            let report = self.relay.load_again().await;
            return match report.outcome {
                Outcome::Failed { .. } => Err(self.failure(&report.to_string())),
                _ => Ok(()),
            };
        }
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
        let verbs = ["> ", "< ", "closes", "vanishes", "is closed "];
        if rest != ">" && rest != "<" && !verbs.iter().any(|verb| rest.starts_with(verb)) {
            return Err(self.failure(
                "this is no line of a transcript; there are: ann opens, ann > text, ann < text, ann closes 4000 why, ann vanishes, \
                 ann is closed 4000, ann is refused 401, 1.5s pass, reload",
            ));
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
                return Err(self.difference(&got));
            }
        } else if let Some(how) = rest.strip_prefix("closes") {
            let (code, reason) = how.trim().split_once(' ').unwrap_or((how.trim(), ""));
            let code = if code.is_empty() { Ok(1000) } else { code.parse() };
            let code = code.map_err(|_| self.failure("a close has a number as its code"))?;
            self.told.insert(name.to_owned());
            peer.close(code, reason);
            self.relay.settle().await;
        } else if rest == "vanishes" {
            self.told.insert(name.to_owned());
            peer.vanish();
            self.relay.settle().await;
        } else if let Some(expected) = rest.strip_prefix("is closed ") {
            self.relay.settle().await;
            let got = peer.closed();
            if !got.as_ref().is_some_and(|(code, reason)| says(*code, reason, expected)) {
                let got = got.map_or("still open".to_owned(), |(code, reason)| format!("is closed {code} {reason}"));
                return Err(self.difference(&format!("{name} {}", got.trim_end())));
            }
            self.told.insert(name.to_owned());
        } else {
            return Err(self.failure("this is not a line of a transcript"));
        }
        Ok(())
    }

    async fn open(&mut self, name: &str, target: &str, refused: Option<&str>) -> Result<(), String> {
        // A name can come back once its peer is gone, and what that has received has been told.
        if let Some(before) = self.peers.get(name) {
            if !self.told.remove(name) {
                return Err(self.failure(&format!("{name} has opened already: another peer needs another name")));
            }
            if let Some(text) = before.receive_text() {
                return Err(self.failure(&format!("before that, {name} had received {text}, which is not in it")));
            }
        }
        let target = if target.is_empty() { self.target(name) } else { target.to_owned() };
        let result = self.relay.connect(&target).await;
        self.relay.settle().await;
        match (result, refused) {
            (Ok(peer), None) => {
                self.peers.insert(name.to_owned(), peer);
                Ok(())
            }
            (Err(got), Some(expected)) if says(got.code, &got.reason, expected) => Ok(()),
            (Ok(_), Some(_)) => Err(self.failure(&format!("{name} was let in"))),
            (Err(got), _) => Err(self.failure(&format!("{name} was refused with {} {}", got.code, got.reason))),
        }
    }

    /// Where a peer connects if its line does not say: the app's path, with `lobby` for each of its parameters.
    fn target(&self, name: &str) -> String {
        let path = &self.relay.config().path;
        let segments = path.split('/').map(|segment| if segment.starts_with('{') { "lobby" } else { segment });
        format!("{}?name={name}", segments.collect::<Vec<_>>().join("/"))
    }

    /// Nothing may have been delivered that is not in the transcript.
    pub async fn end(&self) -> Result<(), String> {
        self.relay.settle().await;
        for (name, peer) in &self.peers {
            if let Some((code, reason)) = peer.closed().filter(|_| !self.told.contains(name)) {
                let scene = &self.scene;
                return Err(format!(
                    "the transcript:\n{scene}+ {name} is closed {code} {reason}    (and that is not in it)"
                ));
            }
            if let Some(text) = peer.receive_text() {
                return Err(format!("the transcript:\n{}+ {name} < {text}    (delivered, and not in it)", self.scene));
            }
        }
        Ok(())
    }

    /// The scene with the last line as it was written, and as it was.
    fn difference(&self, got: &str) -> String {
        let scene = self.scene.trim_end();
        let (before, last) = scene.rsplit_once('\n').unwrap_or(("", scene));
        let before = if before.is_empty() { String::new() } else { format!("{before}\n") };
        format!("the transcript:\n{before}- {}\n+ {got}", last.trim())
    }

    fn failure(&self, got: &str) -> String {
        format!("the transcript:\n{}but: {got}", self.scene)
    }
}
