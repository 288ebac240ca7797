//! A relay without a socket, whose script can be edited.

use std::path::PathBuf;

use moonwire::{
    config,
    harness::{Peer, Relay, app},
    reload::report::{AppReport, Outcome},
};

use crate::support::module;

/// A relay whose script can be edited.
pub struct Scene {
    pub relay: Relay,
    pub script: PathBuf,
    _folder: tempfile::TempDir,
}

impl Scene {
    pub async fn of(body: &str) -> Scene {
        Scene::with(body, |_| ()).await
    }

    pub async fn with(body: &str, configure: impl FnOnce(&mut config::App)) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("app.lua");
        std::fs::write(&script, module(body)).unwrap();
        let mut config = app("app", &script);
        configure(&mut config);
        let relay = Relay::start(config).await.unwrap_or_else(|report| panic!("{report:#?}"));
        Scene { relay, script, _folder: folder }
    }

    pub async fn peer(&self, name: &str) -> Peer {
        let peer = self.relay.connect(&format!("/app/lobby?name={name}")).await.unwrap();
        self.relay.settle().await;
        peer
    }

    pub fn edit(&self, body: &str) {
        std::fs::write(&self.script, module(body)).unwrap();
    }

    pub async fn reload(&self, body: &str) -> AppReport {
        self.edit(body);
        self.relay.reload().await
    }

    pub async fn reloads(&self, body: &str) {
        let report = self.reload(body).await;
        assert!(matches!(report.outcome, Outcome::Reloaded { .. }), "{report:#?}");
    }

    pub async fn refuses(&self, body: &str) -> String {
        error_of(self.reload(body).await)
    }

    pub async fn ask(&self, peer: &Peer, text: &str) -> String {
        peer.send(text);
        self.relay.settle().await;
        peer.receive_text().unwrap_or_else(|| "nothing".to_owned())
    }
}

/// The error of a reload that must have failed.
pub fn error_of(report: AppReport) -> String {
    match report.outcome {
        Outcome::Failed { error, .. } => error.message,
        other => panic!("it did not fail: {other:?}"),
    }
}
