//! The server's side of RFC 6455 as functions over bytes, with no socket in it.
//!
//! In: a [`Decoder`] makes events of what a peer sent. Out: the `encode_` functions make whole frames, which
//! the outboxes share. tungstenite's types stay inside this folder.

mod accept;
mod close;
mod decode;
mod deflate;
mod encode;
mod mask;
mod utf8;

pub use accept::{accept_key, is_valid_key};
pub use close::{
    ABNORMAL, CLOSE_REASON_BYTES_MAX, GOING_AWAY, INTERNAL, INVALID_DATA, NO_STATUS, NORMAL, POLICY, PROTOCOL, RESTART,
    TOO_BIG, TRY_AGAIN_LATER, UNSUPPORTED, cut_reason, is_sendable_close_code,
};
pub use decode::{Decoder, DecoderLimits, Event, Fault, Input};
pub use deflate::{Deflate, Deflater, Inflater, WINDOW_BITS_MAX, WINDOW_BITS_MIN, Zlib};
pub use encode::{
    Compression, Kind, Message, encode_close, encode_message, encode_ping, encode_pong, is_deflated, kind, payload,
    read_close,
};
