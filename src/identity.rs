//! Who a peer is, and the verdict on its handshake. Plain data: it travels from worker to worker.

use crate::plain::Plain;

/// What `authenticate` returned for a peer that may come in under a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    pub id: String,
    /// The whole table, `id` included, as `conn.user` shows it.
    pub data: Plain,
    /// Unix seconds at which the connection ends with 4401.
    pub expires_at: Option<f64>,
}

/// The answer to a handshake.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Accept {
        /// None: anonymous.
        identity: Option<Identity>,
        subprotocol: Option<String>,
        headers: Vec<(String, String)>,
    },
    /// An HTTP status (400 to 599) instead of the upgrade.
    Refuse { status: u16, reason: String },
    /// The upgrade, then a close frame at once: a browser's page sees only this kind.
    UpgradeAndClose { code: u16, reason: String },
}

/// What `on_request` answered, or the host in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}
