//! A whole message, as scripts and rooms see it: bytes and whether they are binary.

use bytes::Bytes;

/// One message. There is no close variant, so nobody can broadcast one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub data: Bytes,
    pub binary: bool,
}
