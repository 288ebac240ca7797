//! From messages to whole frames, ready to be shared, and back for those who look into an outbox.

use std::{
    io::Cursor,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use super::{
    close::{self, CONTROL_BYTES_MAX, NO_STATUS, cut_reason},
    deflate::{Deflater, WINDOW_BITS_MAX, WINDOW_BITS_MIN},
};

/// A whole message as one frame.
pub fn encode_message(data: &[u8], binary: bool) -> Bytes {
    encode(opcode(binary), false, [data])
}

fn opcode(binary: bool) -> OpCode {
    OpCode::Data(if binary { Data::Binary } else { Data::Text })
}

/// Which messages are compressed for peers that agree, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// From this many bytes on.
    pub threshold: usize,
    pub binary: bool,
    /// 1, which is fast, to 9.
    pub level: u8,
}

/// A message on its way to any number of peers: encoded once, and compressed at most once for all that agree on the same
/// window and keep no context, also when they are at home in different threads.
#[derive(Debug, Clone)]
pub struct Message {
    plain: Bytes,
    deflated: Option<Arc<Deflated>>,
}

#[derive(Debug)]
struct Deflated {
    level: u8,
    /// One for each window. Where nothing was gained it is the plain frame.
    frames: [OnceLock<Bytes>; (WINDOW_BITS_MAX - WINDOW_BITS_MIN + 1) as usize],
}

impl Message {
    pub fn new(data: &[u8], binary: bool, compression: Option<&Compression>) -> Message {
        let compression = compression.filter(|c| data.len() >= c.threshold && (c.binary || !binary));
        Message {
            plain: encode_message(data, binary),
            deflated: compression.map(|c| Arc::new(Deflated { level: c.level, frames: Default::default() })),
        }
    }

    /// Its frame without compression.
    pub fn plain(&self) -> &Bytes {
        &self.plain
    }

    /// Its frame for a peer. For one that keeps its context this must be the next frame that is sent to it.
    pub fn frame(&self, deflater: Option<&Deflater>) -> Bytes {
        let (Some(deflated), Some(deflater)) = (&self.deflated, deflater) else { return self.plain.clone() };
        let (data, opcode) = (payload(&self.plain), opcode(kind(&self.plain) == Kind::Binary));
        if deflater.keeps() {
            let mut frame = Bytes::new();
            deflater.next(&data, deflated.level, |compressed| frame = encode(opcode, true, [compressed]));
            return frame;
        }
        let frame = &deflated.frames[usize::from(deflater.bits() - WINDOW_BITS_MIN)];
        frame
            .get_or_init(|| {
                let mut frame = self.plain.clone();
                deflater.zlib().deflate(&data, deflater.bits(), deflated.level, |compressed| {
                    if compressed.len() < data.len() {
                        frame = encode(opcode, true, [compressed]);
                    }
                });
                frame
            })
            .clone()
    }
}

/// `payload` beyond the 125 bytes that a control frame may carry is cut.
pub fn encode_ping(payload: &[u8]) -> Bytes {
    encode(OpCode::Control(Control::Ping), false, [&payload[..payload.len().min(CONTROL_BYTES_MAX)]])
}

/// `payload` beyond the 125 bytes that a control frame may carry is cut.
pub fn encode_pong(payload: &[u8]) -> Bytes {
    encode(OpCode::Control(Control::Pong), false, [&payload[..payload.len().min(CONTROL_BYTES_MAX)]])
}

/// A close with `code`, and as much of `reason` as there is room for. 1005, and whatever else may not be on the
/// wire, makes a close without a code: nobody can send what the peer would have to refuse.
pub fn encode_close(code: u16, reason: &str) -> Bytes {
    if close::is_on_the_wire(code) {
        encode(OpCode::Control(Control::Close), false, [&code.to_be_bytes(), cut_reason(reason).as_bytes()])
    } else {
        encode(OpCode::Control(Control::Close), false, [])
    }
}

fn encode<const N: usize>(opcode: OpCode, deflated: bool, parts: [&[u8]; N]) -> Bytes {
    let header = FrameHeader { opcode, rsv1: deflated, ..FrameHeader::default() };
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

/// Whether what a frame made here carries is compressed.
pub fn is_deflated(frame: &[u8]) -> bool {
    frame.first().is_some_and(|first| first & 0x40 != 0)
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
        Message as Theirs, WebSocket,
        protocol::{CloseFrame, Role},
    };

    use super::*;
    use crate::wire::deflate::Deflate;

    /// What tungstenite's client reads.
    fn read_by_tungstenite(frame: &Bytes) -> Theirs {
        WebSocket::from_raw_socket(Cursor::new(frame.to_vec()), Role::Client, None)
            .read()
            .expect("tungstenite takes what is encoded here")
    }

    #[test]
    fn a_message_of_any_length_is_read_by_tungstenite_and_read_back() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
            let data = "x".repeat(len);
            let text = encode_message(data.as_bytes(), false);
            assert_eq!(read_by_tungstenite(&text), Theirs::text(data.clone()), "{len}");
            assert_eq!((kind(&text), payload(&text)), (Kind::Text, Bytes::from(data.clone())), "{len}");
            let binary = encode_message(data.as_bytes(), true);
            assert_eq!(read_by_tungstenite(&binary), Theirs::binary(data.clone().into_bytes()), "{len}");
            assert_eq!((kind(&binary), payload(&binary)), (Kind::Binary, Bytes::from(data)), "{len}");
        }
    }

    const ALL: Compression = Compression { threshold: 10, binary: false, level: 1 };

    fn deflater(server_bits: u8, server_keeps: bool) -> Deflater {
        let agreed = Deflate { server_keeps, client_keeps: false, server_bits, client_bits: None };
        Deflater::new(&agreed, Default::default())
    }

    #[test]
    fn a_message_is_compressed_once_for_all_with_the_same_window_that_keep_no_context() {
        let text = "the same words, ".repeat(100);
        let message = Message::new(text.as_bytes(), false, Some(&ALL));
        assert_eq!(message.frame(None), message.plain());
        let first = message.frame(Some(&deflater(15, false)));
        assert!(is_deflated(&first) && first.len() < 100 && kind(&first) == Kind::Text);
        // Also from another thread, where it has come by the bus.
        let elsewhere = message.clone();
        let second = std::thread::spawn(move || elsewhere.frame(Some(&deflater(15, false)))).join().unwrap();
        assert_eq!(first.as_ptr(), second.as_ptr());
        assert_ne!(first.as_ptr(), message.frame(Some(&deflater(9, false))).as_ptr());
        assert_ne!(first.as_ptr(), message.frame(Some(&deflater(15, true))).as_ptr());
    }

    #[test]
    fn what_is_short_binary_or_does_not_become_shorter_goes_as_it_is() {
        let noise: String =
            (0..2_000u32).map(|i| char::from(33 + (i.wrapping_mul(2_654_435_761) >> 20) as u8 % 94)).collect();
        let quarter = "x".repeat(9);
        for (data, binary) in [(quarter.as_bytes(), false), (&[0; 5_000][..], true), (&noise.as_bytes()[..14], false)] {
            let message = Message::new(data, binary, Some(&ALL));
            assert_eq!(message.frame(Some(&deflater(15, false))).as_ptr(), message.plain().as_ptr(), "{data:?}");
        }
        let all = Compression { binary: true, ..ALL };
        assert!(is_deflated(&Message::new(&[0; 5_000], true, Some(&all)).frame(Some(&deflater(15, false)))));
    }

    #[test]
    fn a_control_frame_never_carries_more_than_125_bytes() {
        for (long, cut) in [(0, 0), (4, 4), (125, 125), (126, 125), (70_000, 125)] {
            let long = vec![7; long];
            assert_eq!(read_by_tungstenite(&encode_ping(&long)), Theirs::Ping(vec![7; cut].into()));
            assert_eq!(read_by_tungstenite(&encode_pong(&long)), Theirs::Pong(vec![7; cut].into()));
            assert_eq!(kind(&encode_ping(&long)), Kind::Ping);
            assert_eq!(kind(&encode_pong(&long)), Kind::Pong);
        }
    }

    #[test]
    fn what_must_not_be_on_the_wire_becomes_a_close_without_a_code() {
        for code in [0, 999, 1004, NO_STATUS, close::ABNORMAL, 1015, 2999, 5000] {
            let frame = encode_close(code, "why");
            assert_eq!(frame, &[0x88, 0][..], "{code}");
            assert_eq!(read_by_tungstenite(&frame), Theirs::Close(None), "{code}");
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
            prop_assert_eq!(read_by_tungstenite(&frame), Theirs::Close(Some(expected)));
            let payload = payload(&frame);
            prop_assert_eq!(read_close(&payload), (code, cut_reason(&reason)));
        }
    }
}
