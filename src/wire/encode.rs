//! From messages to whole frames, ready to be shared, and back for those who look into an outbox.

use std::io::Cursor;

use bytes::Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use super::close::{self, CONTROL_BYTES_MAX, NO_STATUS, cut_reason};

/// A whole message as one frame.
pub fn encode_message(data: &[u8], binary: bool) -> Bytes {
    encode(OpCode::Data(if binary { Data::Binary } else { Data::Text }), [data])
}

/// `payload` beyond the 125 bytes that a control frame may carry is cut.
pub fn encode_ping(payload: &[u8]) -> Bytes {
    encode(OpCode::Control(Control::Ping), [&payload[..payload.len().min(CONTROL_BYTES_MAX)]])
}

/// `payload` beyond the 125 bytes that a control frame may carry is cut.
pub fn encode_pong(payload: &[u8]) -> Bytes {
    encode(OpCode::Control(Control::Pong), [&payload[..payload.len().min(CONTROL_BYTES_MAX)]])
}

/// A close with `code`, and as much of `reason` as there is room for. 1005, and whatever else may not be on the
/// wire, makes a close without a code: nobody can send what the peer would have to refuse.
pub fn encode_close(code: u16, reason: &str) -> Bytes {
    if close::is_on_the_wire(code) {
        encode(OpCode::Control(Control::Close), [&code.to_be_bytes(), cut_reason(reason).as_bytes()])
    } else {
        encode(OpCode::Control(Control::Close), [])
    }
}

fn encode<const N: usize>(opcode: OpCode, parts: [&[u8]; N]) -> Bytes {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    let len = parts.iter().map(|part| part.len()).sum::<usize>();
    // Exactly as much as is needed: so `Bytes` takes the allocation over as it is.
    let mut frame = Vec::with_capacity(header.len(len as u64) + len);
    header.format(len as u64, &mut frame).expect("a Vec takes all that is written");
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame.into()
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Binary,
    Ping,
    Pong,
    Close,
}

/// What a frame made here is.
pub fn kind(frame: &[u8]) -> Kind {
    match frame.first().map(|first| OpCode::from(first & 0x0f)) {
        Some(OpCode::Control(Control::Ping)) => Kind::Ping,
        Some(OpCode::Control(Control::Pong)) => Kind::Pong,
        Some(OpCode::Control(_)) => Kind::Close,
        Some(OpCode::Data(Data::Text)) => Kind::Text,
        Some(OpCode::Data(_)) | None => Kind::Binary,
    }
}

/// What a frame made here carries.
pub fn payload(frame: &Bytes) -> Bytes {
    let mut cursor = Cursor::new(frame.as_ref());
    match FrameHeader::parse(&mut cursor) {
        Ok(Some(_)) => frame.slice(cursor.get_ref().len().min(cursor.position() as usize)..),
        Ok(None) | Err(_) => Bytes::new(),
    }
}

/// The code and the reason in the payload of a close made here; 1005 if it has none.
pub fn read_close(payload: &[u8]) -> (u16, &str) {
    match close::parse(payload) {
        Ok((Some(code), reason)) => (code, reason),
        Ok((None, _)) | Err(_) => (NO_STATUS, ""),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::{
        Message, WebSocket,
        protocol::{CloseFrame, Role},
    };

    use super::*;

    /// What tungstenite's client reads.
    fn read_by_tungstenite(frame: &Bytes) -> Message {
        WebSocket::from_raw_socket(Cursor::new(frame.to_vec()), Role::Client, None)
            .read()
            .expect("tungstenite takes what is encoded here")
    }

    #[test]
    fn a_message_of_any_length_is_read_by_tungstenite_and_read_back() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
            let data = "x".repeat(len);
            let text = encode_message(data.as_bytes(), false);
            assert_eq!(read_by_tungstenite(&text), Message::text(data.clone()), "{len}");
            assert_eq!((kind(&text), payload(&text)), (Kind::Text, Bytes::from(data.clone())), "{len}");
            let binary = encode_message(data.as_bytes(), true);
            assert_eq!(read_by_tungstenite(&binary), Message::binary(data.clone().into_bytes()), "{len}");
            assert_eq!((kind(&binary), payload(&binary)), (Kind::Binary, Bytes::from(data)), "{len}");
        }
    }

    #[test]
    fn a_control_frame_never_carries_more_than_125_bytes() {
        for (long, cut) in [(0, 0), (4, 4), (125, 125), (126, 125), (70_000, 125)] {
            let long = vec![7; long];
            assert_eq!(read_by_tungstenite(&encode_ping(&long)), Message::Ping(vec![7; cut].into()));
            assert_eq!(read_by_tungstenite(&encode_pong(&long)), Message::Pong(vec![7; cut].into()));
            assert_eq!(kind(&encode_ping(&long)), Kind::Ping);
            assert_eq!(kind(&encode_pong(&long)), Kind::Pong);
        }
    }

    #[test]
    fn what_must_not_be_on_the_wire_becomes_a_close_without_a_code() {
        for code in [0, 999, 1004, NO_STATUS, close::ABNORMAL, 1015, 2999, 5000] {
            let frame = encode_close(code, "why");
            assert_eq!(frame, &[0x88, 0][..], "{code}");
            assert_eq!(read_by_tungstenite(&frame), Message::Close(None), "{code}");
            assert_eq!((kind(&frame), read_close(&payload(&frame))), (Kind::Close, (NO_STATUS, "")), "{code}");
        }
    }

    proptest! {
        #[test]
        fn a_close_says_its_code_and_what_there_is_room_for(
            code in prop_oneof![Just(1000u16), Just(1001), Just(1013), 3000..5000u16],
            reason in ".{0,140}",
        ) {
            let frame = encode_close(code, &reason);
            let expected = CloseFrame { code: code.into(), reason: cut_reason(&reason).into() };
            prop_assert_eq!(read_by_tungstenite(&frame), Message::Close(Some(expected)));
            let payload = payload(&frame);
            prop_assert_eq!(read_close(&payload), (code, cut_reason(&reason)));
        }
    }
}
