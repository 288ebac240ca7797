//! The key of a handshake, and the answer that proves that a WebSocket server read it (RFC 6455, 4.2.2).

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{GeneralPurpose, GeneralPurposeConfig, general_purpose},
};
use sha1::{Digest, Sha1};

/// Appended to every key; RFC 6455, 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Only the length matters: peers that make up 24 characters need not know which bits fall off the end.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// Whether a `Sec-WebSocket-Key` is 16 bytes in base64.
pub fn is_valid_key(key: &str) -> bool {
    // 18 is what the decoder asks for when it has not yet seen the padding.
    key.len() == 24 && LENIENT.decode_slice(key, &mut [0; 18]) == Ok(16)
}

/// The `Sec-WebSocket-Accept` that answers `key`.
pub fn accept_key(key: &str) -> String {
    general_purpose::STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

    use super::*;

    #[test]
    fn a_key_is_answered_as_in_the_rfc_and_as_tungstenite_does() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let key = "x3JJHMbDL1EzLkh9GBhXDw==";
        assert_eq!(accept_key(key), derive_accept_key(key.as_bytes()));
    }

    #[test]
    fn a_key_is_16_bytes_in_base64() {
        for good in ["dGhlIHNhbXBsZSBub25jZQ==", "AAAAAAAAAAAAAAAAAAAAAA==", "AAAAAAAAAAAAAAAAAAAAAB=="] {
            assert!(is_valid_key(good), "{good}");
        }
        for bad in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZSE=",
            "dGhlIHNhbXBsZSBub25jZSEh",
            "dGhlIHNhbXBsZSBub25jZ===",
            "dGhl!HNhbXBsZSBub25jZQ==",
            " GhlIHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZSBub25jZQ==\n",
        ] {
            assert!(!is_valid_key(bad), "{bad}");
        }
    }
}
