//! The other end: what its handshake (or plain HTTP request) said, before any script has seen it.

use bytes::Bytes;

/// A handshake or an HTTP request, as `request` shows it to a script. Plain data: it moves between workers.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub method: String,
    /// Percent-encoded as it came, without the query.
    pub path: String,
    /// From the app's path pattern, percent-decoded, in the pattern's order.
    pub params: Vec<(String, String)>,
    /// Decoded; of a repeated key only the first.
    pub query: Vec<(String, Bytes)>,
    pub raw_query: String,
    /// Lower-case names; repeated ones are joined by `, `.
    pub headers: Vec<(String, Bytes)>,
    pub cookies: Vec<(String, Bytes)>,
    pub origin: Option<String>,
    /// The token of `Authorization: Bearer`.
    pub bearer: Option<String>,
    /// Behind a trusted proxy: the address that it forwards.
    pub remote_addr: String,
    pub subprotocols: Vec<String>,
    pub body: Bytes,
    /// Whether the peer came by TLS, here or at a trusted proxy.
    pub tls: bool,
}

impl Request {
    /// The value of the header `name` (lower case).
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().find_map(|(n, v)| (n == name).then_some(v))
    }
}
