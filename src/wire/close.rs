//! Close frames: the codes, and what a close frame may carry (RFC 6455, 5.5.1 and 7.4).

use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::decode::Fault;

pub const NORMAL: u16 = 1000;
pub const GOING_AWAY: u16 = 1001;
pub const PROTOCOL: u16 = 1002;
pub const UNSUPPORTED: u16 = 1003;
/// What a close frame without a code is told as; never on the wire.
pub const NO_STATUS: u16 = 1005;
/// What an end without a close frame is told as; never on the wire.
pub const ABNORMAL: u16 = 1006;
pub const INVALID_DATA: u16 = 1007;
pub const POLICY: u16 = 1008;
pub const TOO_BIG: u16 = 1009;
pub const INTERNAL: u16 = 1011;
pub const RESTART: u16 = 1012;
/// The close code of a peer that cannot keep up.
pub const TRY_AGAIN_LATER: u16 = 1013;
const CLIENT_NEEDS_EXTENSION: u16 = 1010;
const BAD_GATEWAY: u16 = 1014;

/// What a control frame may carry, and what is left for a close's reason beside its code.
pub const CONTROL_BYTES_MAX: usize = 125;
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// Whether a script may close with `code`: 1000, 1001, 1003, 1007, 1008, 1009, 1011, 1012, 1013 and 3000 to 4999.
///
/// Not 1002, which is the relay's to find, not 1010, which only clients send, not 1014, which some clients
/// take for a protocol error, and nothing that may not be on the wire.
pub fn is_sendable_close_code(code: u16) -> bool {
    is_on_the_wire(code) && !matches!(code, PROTOCOL | CLIENT_NEEDS_EXTENSION | BAD_GATEWAY)
}

/// Whether a close frame may carry `code`.
pub(super) fn is_on_the_wire(code: u16) -> bool {
    // Registered since; tungstenite does not know it.
    code == BAD_GATEWAY || CloseCode::from(code).is_allowed()
}

/// As much of `reason` as a close frame has room for: 123 bytes, in whole characters.
pub fn cut_reason(reason: &str) -> &str {
    let mut end = reason.len().min(CLOSE_REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

/// What the payload of a peer's close says.
pub(super) fn parse(payload: &[u8]) -> Result<(Option<u16>, &str), Fault> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok((None, "")),
            _ => Err(Fault::protocol("a close frame has half a code")),
        };
    };
    let code = u16::from_be_bytes(*code);
    if !is_on_the_wire(code) {
        return Err(Fault::protocol(format!("a close frame may not carry code {code}")));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Fault::not_utf8("the reason of a close frame"))?;
    Ok((Some(code), reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_on_the_wire_are_the_registered_ones_and_the_applications_own() {
        let on_the_wire: Vec<u16> = (0..3000).filter(|code| is_on_the_wire(*code)).collect();
        assert_eq!(on_the_wire, [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014]);
        assert!((3000..5000).all(is_on_the_wire));
        assert!(!(5000..=u16::MAX).any(is_on_the_wire));
    }

    #[test]
    fn a_script_closes_with_what_a_server_may_say() {
        let sendable: Vec<u16> = (0..3000).filter(|code| is_sendable_close_code(*code)).collect();
        assert_eq!(sendable, [1000, 1001, 1003, 1007, 1008, 1009, 1011, 1012, 1013]);
        assert!((3000..5000).all(is_sendable_close_code));
        assert!(!(5000..=u16::MAX).any(is_sendable_close_code));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        assert_eq!(cut_reason("short"), "short");
        assert_eq!(cut_reason(&"a".repeat(200)), "a".repeat(123));
        assert_eq!(cut_reason(&"é".repeat(100)), "é".repeat(61));
        assert_eq!(cut_reason(&"🌙".repeat(40)), "🌙".repeat(30));
    }
}
