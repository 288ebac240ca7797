//! Who a peer is, and the verdict on its handshake. Plain data: it travels from worker to worker.

use crate::{
    permission::{self, Permissions},
    plain::{Plain, PlainTable},
};

/// What `authenticate` returned for a peer that may come in under a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    pub id: String,
    /// The whole table, `id` included, as `conn.user` shows it.
    pub data: Plain,
    /// Unix seconds at which the connection ends with 4401.
    pub expires_at: Option<f64>,
    pub permissions: Permissions,
    /// The number of the last change of anybody's permissions when it was asked for.
    pub asked_at: u64,
}

impl Identity {
    /// An identity of which only the id is known.
    pub fn of(id: &[u8]) -> Result<Identity, String> {
        let pairs = vec![(Plain::string("id"), Plain::string(id))];
        Identity::read(Plain::Table(Box::new(PlainTable { pairs, ..PlainTable::default() })))
    }

    /// Reads what a script says of a peer, or tells what is wrong with it.
    pub fn read(data: Plain) -> Result<Identity, String> {
        let id = match data.get("id").and_then(Plain::as_str) {
            Some(id) if !id.is_empty() => id.to_owned(),
            _ => return Err("an identity must have an `id`: a string in UTF-8 that is not empty".to_owned()),
        };
        let expires_at = match data.get("expires_at") {
            None | Some(Plain::Nil) => None,
            Some(Plain::Number(at)) if !at.is_nan() => Some(*at),
            Some(_) => return Err("an identity's `expires_at` must be a number (Unix seconds)".to_owned()),
        };
        let rules = |name: &str| match data.get(name) {
            None | Some(Plain::Nil) => Ok(None),
            Some(list) => permission::rules(list).map(Some).map_err(|why| format!("an identity's `{name}`: {why}")),
        };
        let permissions = Permissions { allow: rules("allow")?, deny: rules("deny")? };
        Ok(Identity { id, data, expires_at, permissions, asked_at: 0 })
    }
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

impl Verdict {
    pub fn asked(mut self, at: u64) -> Verdict {
        if let Verdict::Accept { identity: Some(identity), .. } = &mut self {
            identity.asked_at = at;
        }
        self
    }

    /// An identity that is over already lets nobody in; `now` is in Unix seconds.
    pub fn unless_expired(self, now: f64) -> Verdict {
        match &self {
            Verdict::Accept { identity: Some(Identity { expires_at: Some(at), .. }), .. } if *at <= now => {
                Verdict::UpgradeAndClose { code: 4401, reason: "the identity has expired".to_owned() }
            }
            _ => self,
        }
    }
}

/// What `on_request` answered, or the host in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}
