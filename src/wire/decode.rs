//! From a peer's bytes to events: frames, masks, messages in fragments, and every rule that a peer may break.

use std::{mem, ops::Range};

use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{
    close::{self, CONTROL_BYTES_MAX, INVALID_DATA, PROTOCOL, TOO_BIG},
    deflate::Inflater,
    mask::Mask,
    utf8::{Utf8, is_utf8},
};

/// What one connection remembers between two reads. It owns nothing on the heap while nothing is partial.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a header whose other bytes have not come.
    header: [u8; HEADER_BYTES_MAX],
    header_len: u8,
    /// The frame whose payload is coming, less what has come.
    frame: Option<Frame>,
    message: Option<Partial>,
    /// The message's bytes so far, unmasked.
    data: Vec<u8>,
    /// A control frame's bytes so far: it may come between the fragments of a message.
    control: Vec<u8>,
    /// For compressed messages, if they were agreed on.
    inflater: Option<Box<Inflater>>,
    /// The last event was lent from `data` or `control`, which goes when the next one is asked for.
    lent: bool,
    /// A close or a fault has been told.
    ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderLimits {
    /// `limits.message`
    pub message: usize,
    /// `limits.fragments`
    pub fragments: usize,
}

/// What a peer said; good until the next call.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message, UTF-8 if it is not binary.
    Message {
        data: &'a [u8],
        binary: bool,
    },
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// `code` is None if the frame was empty.
    Close {
        code: Option<u16>,
        reason: &'a str,
    },
}

/// A rule that the peer broke: what to close with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// 1002, 1007 or 1009.
    pub code: u16,
    pub reason: String,
}

impl Fault {
    pub(super) fn protocol(reason: impl Into<String>) -> Fault {
        Fault { code: PROTOCOL, reason: reason.into() }
    }

    pub(super) fn not_utf8(what: &str) -> Fault {
        Fault { code: INVALID_DATA, reason: format!("{what} is not UTF-8") }
    }

    pub(super) fn too_big(setting: &str, limit: usize, unit: &str) -> Fault {
        Fault { code: TOO_BIG, reason: format!("message over {setting} ({limit} {unit})") }
    }
}

/// Bytes as they were read, and how many of them have been taken.
#[derive(Debug)]
pub struct Input<'b> {
    bytes: &'b mut [u8],
    taken: usize,
}

impl<'b> Input<'b> {
    pub fn new(bytes: &'b mut [u8]) -> Input<'b> {
        Input { bytes, taken: 0 }
    }

    /// What has not been taken; as it came, still masked.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    pub fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    /// Takes up to `most` bytes, and tells where they are.
    fn take(&mut self, most: usize) -> Range<usize> {
        let start = self.taken;
        self.taken = start + most.min(self.bytes.len() - start);
        start..self.taken
    }
}

/// Two bytes, eight of length, four of mask.
const HEADER_BYTES_MAX: usize = 14;

/// The least that is reserved for a message in pieces.
const DATA_BYTES_MIN: usize = 256;

#[derive(Debug, Clone, Copy)]
struct Frame {
    opcode: OpCode,
    last: bool,
    mask: Mask,
    left: usize,
    deflated: bool,
}

/// A message that has begun and not ended.
#[derive(Debug)]
struct Partial {
    binary: bool,
    deflated: bool,
    fragments: usize,
    utf8: Utf8,
}

/// Where the bytes of an event are.
enum Place {
    Input(Range<usize>),
    Kept,
}

enum Found {
    Message { place: Place, binary: bool },
    Control { place: Place, control: Control },
}

impl Decoder {
    /// `inflater` if compressed messages were agreed on.
    pub fn new(inflater: Option<Inflater>) -> Decoder {
        Decoder { inflater: inflater.map(Box::new), ..Decoder::default() }
    }

    /// The next event at the front of `input`, which is unmasked in place. None: all of it has been taken, and more is
    /// needed; or a close or a fault has been told, after which nothing more is read.
    pub fn next<'a>(
        &'a mut self,
        input: &'a mut Input<'_>,
        limits: &DecoderLimits,
    ) -> Result<Option<Event<'a>>, Fault> {
        if self.lent {
            self.lent = false;
            self.give_back();
        }
        if self.ended {
            return Ok(None);
        }
        let found = match self.find(input, limits) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(fault) => {
                *self = Decoder { ended: true, ..Decoder::default() };
                return Err(fault);
            }
        };
        let (Found::Message { place, .. } | Found::Control { place, .. }) = &found;
        self.lent = matches!(place, Place::Kept);
        match found {
            Found::Message { place, binary } => {
                let data = match place {
                    Place::Input(range) => &input.bytes[range],
                    Place::Kept => &self.data,
                };
                Ok(Some(Event::Message { data, binary }))
            }
            Found::Control { place, control } => {
                let payload = match place {
                    Place::Input(range) => &input.bytes[range],
                    Place::Kept => &self.control,
                };
                match control {
                    Control::Ping => Ok(Some(Event::Ping(payload))),
                    Control::Pong => Ok(Some(Event::Pong(payload))),
                    // The reserved ones were refused with their header.
                    Control::Close | Control::Reserved(_) => {
                        self.ended = true;
                        // Before it a message may have begun, which will not end.
                        self.message = None;
                        self.data = Vec::new();
                        let (code, reason) = close::parse(payload)?;
                        Ok(Some(Event::Close { code, reason }))
                    }
                }
            }
        }
    }

    /// Whether a frame or a message has begun and not ended: then its deadline runs.
    pub fn is_partial(&self) -> bool {
        !self.ended && (self.header_len > 0 || self.frame.is_some() || self.message.is_some())
    }

    /// Takes from `input` up to the end of the first event.
    fn find(&mut self, input: &mut Input<'_>, limits: &DecoderLimits) -> Result<Option<Found>, Fault> {
        loop {
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.read_header(input, limits)? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            let range = input.take(frame.left);
            let payload = &mut input.bytes[range.clone()];
            frame.mask.apply(payload);
            frame.left -= payload.len();
            let found = match frame.opcode {
                OpCode::Control(control) => self.control_payload(&frame, control, payload, range)?,
                OpCode::Data(data) => self.data_payload(&frame, data, payload, range, limits)?,
            };
            if found.is_some() {
                return Ok(found);
            }
            if frame.left > 0 {
                self.frame = Some(frame);
                return Ok(None);
            }
        }
    }

    fn read_header(&mut self, input: &mut Input<'_>, limits: &DecoderLimits) -> Result<Option<Frame>, Fault> {
        let kept = usize::from(self.header_len);
        if kept == 0
            && let Some((frame, size)) = self.parse_header(input.rest(), limits)?
        {
            input.taken += size;
            return Ok(Some(frame));
        }
        let more = input.rest();
        let more = &more[..more.len().min(HEADER_BYTES_MAX - kept)];
        let len = kept + more.len();
        self.header[kept..len].copy_from_slice(more);
        if let Some((frame, size)) = self.parse_header(&self.header[..len], limits)? {
            // What is kept was too short for a header, so the end of this one is in the input.
            input.taken += size - kept;
            self.header_len = 0;
            return Ok(Some(frame));
        }
        input.taken += more.len();
        self.header_len = u8::try_from(len).expect("a header has at most 14 bytes");
        Ok(None)
    }

    /// The header at the front of `bytes`, and its size; None if it is not whole. Each rule is applied as soon as the
    /// bytes that it is about are there.
    fn parse_header(&self, bytes: &[u8], limits: &DecoderLimits) -> Result<Option<(Frame, usize)>, Fault> {
        let Some(([first, second], after)) = bytes.split_first_chunk() else {
            return Ok(None);
        };
        // The first of them marks a compressed message, on its first frame only.
        let deflated = first & 0x40 != 0;
        if first & 0x30 != 0 || deflated && self.inflater.is_none() {
            return Err(Fault::protocol("a frame has reserved bits set, but no extension was negotiated"));
        }
        let last = first & 0x80 != 0;
        let opcode = OpCode::from(first & 0x0f);
        let short = second & 0x7f;
        match opcode {
            OpCode::Data(Data::Reserved(code)) | OpCode::Control(Control::Reserved(code)) => {
                return Err(Fault::protocol(format!("a frame has the reserved opcode {code}")));
            }
            OpCode::Control(_) | OpCode::Data(Data::Continue) if deflated => {
                return Err(Fault::protocol("only the first frame of a message is marked as compressed"));
            }
            OpCode::Control(_) => {
                if !last {
                    return Err(Fault::protocol("a control frame is fragmented"));
                }
                if usize::from(short) > CONTROL_BYTES_MAX {
                    return Err(Fault::protocol("a control frame is longer than 125 bytes"));
                }
            }
            OpCode::Data(Data::Continue) => match &self.message {
                None => {
                    return Err(Fault::protocol("a message begins with a continuation frame"));
                }
                Some(message) if message.fragments >= limits.fragments => {
                    return Err(Fault::too_big("limits.fragments", limits.fragments, "frames"));
                }
                Some(_) => {}
            },
            OpCode::Data(Data::Text | Data::Binary) => {
                if self.message.is_some() {
                    return Err(Fault::protocol("a message begins before the last one has ended"));
                }
            }
        }
        if second & 0x80 == 0 {
            return Err(Fault::protocol("a frame from a client is not masked"));
        }
        let (length, shortest, after) = match short {
            126 => {
                let Some((length, after)) = after.split_first_chunk() else {
                    return Ok(None);
                };
                (u64::from(u16::from_be_bytes(*length)), 126, after)
            }
            127 => {
                let Some((length, after)) = after.split_first_chunk() else {
                    return Ok(None);
                };
                (u64::from_be_bytes(*length), 0x1_0000, after)
            }
            short => (u64::from(short), 0, after),
        };
        if length < shortest {
            return Err(Fault::protocol("a frame's length is not in its shortest form"));
        }
        if length >> 63 != 0 {
            return Err(Fault::protocol("a frame's length has its highest bit set"));
        }
        let left = match (opcode, usize::try_from(length)) {
            (OpCode::Control(_), Ok(left)) => left,
            (_, Ok(left)) if left <= self.bytes_max(deflated, limits).saturating_sub(self.data.len()) => left,
            _ => return Err(Fault::too_big("limits.message", limits.message, "bytes")),
        };
        let Some((key, after)) = after.split_first_chunk() else {
            return Ok(None);
        };
        let frame = Frame { opcode, last, mask: Mask::new(*key), left, deflated };
        Ok(Some((frame, bytes.len() - after.len())))
    }

    fn control_payload(
        &mut self,
        frame: &Frame,
        control: Control,
        payload: &[u8],
        range: Range<usize>,
    ) -> Result<Option<Found>, Fault> {
        let whole = frame.left == 0;
        let (payload, place) = if whole && self.control.is_empty() {
            (payload, Place::Input(range))
        } else {
            if !payload.is_empty() {
                // At most 125 bytes, by its header.
                self.control.reserve_exact(payload.len() + frame.left);
                self.control.extend_from_slice(payload);
            }
            (&self.control[..], Place::Kept)
        };
        if whole && control == Control::Close {
            close::parse(payload)?;
        }
        Ok(whole.then_some(Found::Control { place, control }))
    }

    fn data_payload(
        &mut self,
        frame: &Frame,
        data: Data,
        payload: &[u8],
        range: Range<usize>,
        limits: &DecoderLimits,
    ) -> Result<Option<Found>, Fault> {
        let ends = frame.last && frame.left == 0;
        let message = match &mut self.message {
            Some(message) => message,
            None => {
                let binary = data == Data::Binary;
                if ends && frame.deflated {
                    return self.inflate(payload, binary, limits).map(Some);
                }
                if ends {
                    return if binary || is_utf8(payload) {
                        Ok(Some(Found::Message { place: Place::Input(range), binary }))
                    } else {
                        Err(Fault::not_utf8("a text message"))
                    };
                }
                self.message.insert(Partial { binary, deflated: frame.deflated, fragments: 0, utf8: Utf8::default() })
            }
        };
        let (binary, deflated) = (message.binary, message.deflated);
        if !binary && !deflated && (message.utf8.push(payload).is_err() || ends && !message.utf8.is_whole()) {
            return Err(Fault::not_utf8("a text message"));
        }
        message.fragments += usize::from(frame.left == 0);
        let most = match frame.last {
            true => self.data.len() + payload.len() + frame.left,
            false => self.bytes_max(deflated, limits),
        };
        append(&mut self.data, payload, most);
        if !ends {
            return Ok(None);
        }
        self.message = None;
        if deflated {
            let compressed = mem::take(&mut self.data);
            return self.inflate(&compressed, binary, limits).map(Some);
        }
        Ok(Some(Found::Message { place: Place::Kept, binary }))
    }

    /// How many bytes the frames of a message may have. What cannot be compressed becomes a little longer.
    fn bytes_max(&self, deflated: bool, limits: &DecoderLimits) -> usize {
        let deflated = deflated || self.message.as_ref().is_some_and(|message| message.deflated);
        limits.message.saturating_add(if deflated { limits.message / 1024 + 64 } else { 0 })
    }

    fn inflate(&mut self, compressed: &[u8], binary: bool, limits: &DecoderLimits) -> Result<Found, Fault> {
        let inflater = self.inflater.as_mut().expect("a compressed frame was let in for it");
        self.data = inflater.inflate(compressed, limits.message)?;
        if binary || is_utf8(&self.data) {
            Ok(Found::Message { place: Place::Kept, binary })
        } else {
            Err(Fault::not_utf8("a text message"))
        }
    }

    /// Frees what was lent by the last event. A control frame may have come in the middle of a message.
    fn give_back(&mut self) {
        self.control = Vec::new();
        if self.message.is_none() {
            self.data = Vec::new();
        }
    }
}

/// Grows `data` by doubling what has come, whatever the header promises, and not beyond `most`.
fn append(data: &mut Vec<u8>, piece: &[u8], most: usize) {
    let needed = data.len() + piece.len();
    if needed > data.capacity() {
        let wanted = (data.capacity() * 2).max(DATA_BYTES_MIN).min(most).max(needed);
        data.reserve_exact(wanted - data.len());
    }
    data.extend_from_slice(piece);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::{prelude::*, sample::Index};
    use tokio_tungstenite::tungstenite::protocol::frame::Frame as TheirFrame;

    use super::*;

    const LIMITS: DecoderLimits = DecoderLimits { message: 1_000, fragments: 4 };

    const TEXT: u8 = 0x1;
    const BINARY: u8 = 0x2;
    const CONTINUE: u8 = 0x0;
    const CLOSE: u8 = 0x8;
    const PING: u8 = 0x9;
    const PONG: u8 = 0xa;
    const LAST: u8 = 0x80;

    /// An event that outlives its bytes.
    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Said {
        Text(Vec<u8>),
        Binary(Vec<u8>),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
        Close(Option<u16>, String),
        Fault(u16, String),
    }

    impl From<Event<'_>> for Said {
        fn from(event: Event<'_>) -> Said {
            match event {
                Event::Message { data, binary: false } => Said::Text(data.to_vec()),
                Event::Message { data, binary: true } => Said::Binary(data.to_vec()),
                Event::Ping(payload) => Said::Ping(payload.to_vec()),
                Event::Pong(payload) => Said::Pong(payload.to_vec()),
                Event::Close { code, reason } => Said::Close(code, reason.to_owned()),
            }
        }
    }

    fn text(text: &str) -> Said {
        Said::Text(text.as_bytes().to_vec())
    }

    fn fault(code: u16, reason: &str) -> Said {
        Said::Fault(code, reason.to_owned())
    }

    /// A frame as a client sends it.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        masked(first, payload, [0x37, 0xfa, 0x21, 0x3d])
    }

    fn masked(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            len @ ..126 => frame.push(0x80 | len as u8),
            len @ 126..0x1_0000 => {
                frame.push(0x80 | 126);
                frame.extend((len as u16).to_be_bytes());
            }
            len => {
                frame.push(0x80 | 127);
                frame.extend((len as u64).to_be_bytes());
            }
        }
        frame.extend(key);
        frame.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]));
        frame
    }

    /// Reads `piece`, and holds the decoder to what it promises between two reads.
    fn read(decoder: &mut Decoder, piece: &[u8], limits: &DecoderLimits, said: &mut Vec<Said>) {
        let mut bytes = piece.to_vec();
        let mut input = Input::new(&mut bytes);
        loop {
            match decoder.next(&mut input, limits) {
                Ok(Some(event)) => said.push(event.into()),
                Ok(None) => break,
                Err(Fault { code, reason }) => {
                    assert!(reason.len() <= 123, "{reason}");
                    said.push(Said::Fault(code, reason));
                }
            }
            assert!(decoder.data.capacity() <= limits.message, "a message takes {}", decoder.data.capacity());
        }
        assert!(decoder.ended || input.is_empty());
        assert!(decoder.control.capacity() <= CONTROL_BYTES_MAX);
        if !decoder.is_partial() {
            assert_eq!((decoder.data.capacity(), decoder.control.capacity()), (0, 0), "an idle decoder owns nothing");
        }
    }

    fn decode(pieces: &[&[u8]], limits: &DecoderLimits) -> Vec<Said> {
        let (mut decoder, mut said) = (Decoder::new(None), Vec::new());
        for piece in pieces {
            read(&mut decoder, piece, limits, &mut said);
        }
        said
    }

    /// The frames say this, whether they come at once or byte by byte.
    #[track_caller]
    fn check(frames: &[Vec<u8>], expected: &[Said]) {
        let bytes = frames.concat();
        assert_eq!(decode(&[&bytes], &LIMITS), expected, "at once");
        assert_eq!(decode(&bytes.chunks(1).collect::<Vec<_>>(), &LIMITS), expected, "byte by byte");
    }

    #[test]
    fn a_message_in_one_frame_is_told() {
        check(&[frame(LAST | TEXT, b"Hello")], &[text("Hello")]);
        check(&[frame(LAST | TEXT, b"")], &[text("")]);
        check(&[frame(LAST | BINARY, b"\xff\x00")], &[Said::Binary(vec![0xff, 0])]);
        for len in [125, 126, 127, 1_000] {
            let data = "x".repeat(len);
            check(&[frame(LAST | TEXT, data.as_bytes()), frame(LAST | TEXT, b"next")], &[text(&data), text("next")]);
        }
        let long = vec![b'x'; 70_000];
        let limits = DecoderLimits { message: 70_000, fragments: 1 };
        let bytes = frame(LAST | BINARY, &long);
        assert_eq!(decode(&[&bytes], &limits), [Said::Binary(long.clone())]);
        assert_eq!(decode(&bytes.chunks(1_000).collect::<Vec<_>>(), &limits), [Said::Binary(long)]);
    }

    #[test]
    fn a_message_that_is_there_as_a_whole_is_lent_from_the_input() {
        let mut bytes =
            [frame(LAST | TEXT, b"Hello"), frame(LAST | PING, b"p"), frame(LAST | BINARY, &[9; 300])].concat();
        let lent = bytes.as_ptr_range();
        let mut decoder = Decoder::new(None);
        // Even when its header came earlier.
        let (header, rest) = bytes.split_at_mut(3);
        assert_eq!(decoder.next(&mut Input::new(header), &LIMITS), Ok(None));
        let mut input = Input::new(rest);
        let mut events = 0;
        while let Some(event) = decoder.next(&mut input, &LIMITS).expect("no rule is broken") {
            let (Event::Message { data, .. } | Event::Ping(data)) = event else { panic!("{event:?}") };
            assert!(lent.contains(&data.as_ptr()));
            events += 1;
        }
        assert_eq!(events, 3);
        assert_eq!((decoder.data.capacity(), decoder.control.capacity()), (0, 0));
    }

    #[test]
    fn what_has_not_been_taken_stays_as_it_came() {
        let (first, second) = (frame(LAST | TEXT, b"one"), frame(LAST | TEXT, b"two"));
        let mut bytes = [first, second.clone()].concat();
        let mut input = Input::new(&mut bytes);
        let mut decoder = Decoder::new(None);
        assert!(matches!(decoder.next(&mut input, &LIMITS), Ok(Some(_))));
        assert_eq!(input.rest(), second);
    }

    #[test]
    fn a_message_in_fragments_is_told_once_and_control_frames_may_come_between() {
        check(
            &[
                frame(TEXT, b"Hel"),
                frame(LAST | PING, b"p"),
                frame(CONTINUE, b""),
                frame(LAST | PONG, b""),
                frame(LAST | CONTINUE, b"lo"),
                frame(BINARY, b""),
                frame(LAST | CONTINUE, b""),
            ],
            &[Said::Ping(b"p".to_vec()), Said::Pong(vec![]), text("Hello"), Said::Binary(vec![])],
        );
    }

    #[test]
    fn fragments_follow_one_another() {
        let begins = "a message begins with a continuation frame";
        check(&[frame(LAST | CONTINUE, b"x")], &[fault(1002, begins)]);
        check(&[frame(CONTINUE, b"x")], &[fault(1002, begins)]);
        check(
            &[frame(TEXT, b"a"), frame(LAST | CONTINUE, b"b"), frame(LAST | CONTINUE, b"c")],
            &[text("ab"), fault(1002, begins)],
        );
        for first in [TEXT, BINARY, LAST | TEXT, LAST | BINARY] {
            check(
                &[frame(TEXT, b"a"), frame(first, b"b")],
                &[fault(1002, "a message begins before the last one has ended")],
            );
        }
    }

    #[test]
    fn a_message_has_at_most_so_many_fragments() {
        let mut frames = vec![frame(TEXT, b"a"), frame(CONTINUE, b""), frame(CONTINUE, b"")];
        check(&[frames.clone(), vec![frame(LAST | CONTINUE, b"b")]].concat(), &[text("ab")]);
        frames.push(frame(CONTINUE, b""));
        check(&frames, &[]);
        frames.push(frame(LAST | CONTINUE, b"b"));
        check(&frames, &[fault(1009, "message over limits.fragments (4 frames)")]);
    }

    #[test]
    fn reserved_bits_and_opcodes_are_refused() {
        for bit in [0x40, 0x20, 0x10, 0x70] {
            for opcode in [TEXT, BINARY, CLOSE, PING] {
                check(
                    &[frame(LAST | bit | opcode, b"x")],
                    &[fault(1002, "a frame has reserved bits set, but no extension was negotiated")],
                );
            }
        }
        for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
            check(&[frame(LAST | opcode, b"x")], &[fault(1002, &format!("a frame has the reserved opcode {opcode}"))]);
        }
    }

    /// What a client sends is read by a decoder that has agreed on compression, at once and byte by byte.
    #[track_caller]
    fn check_deflated(frames: &[Vec<u8>], expected: &[Said]) {
        use crate::wire::deflate::Deflate;
        let agreed = Deflate { server_keeps: true, client_keeps: true, server_bits: 15, client_bits: None };
        let bytes = frames.concat();
        for size in [bytes.len().max(1), 1] {
            let mut decoder = Decoder::new(Some(Inflater::new(&agreed, Default::default())));
            let mut said = Vec::new();
            for piece in bytes.chunks(size) {
                read(&mut decoder, piece, &LIMITS, &mut said);
            }
            assert_eq!(said, expected, "in pieces of {size}");
        }
    }

    const DEFLATED: u8 = 0x40;

    #[test]
    fn a_compressed_message_may_come_in_fragments_and_beside_others() {
        const HELLO: &[u8] = &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        check_deflated(
            &[
                frame(LAST | DEFLATED | TEXT, HELLO),
                frame(LAST | TEXT, b"plain"),
                frame(DEFLATED | BINARY, &HELLO[..3]),
                frame(LAST | PING, b"p"),
                frame(CONTINUE, b""),
                frame(LAST | CONTINUE, &HELLO[3..]),
                frame(LAST | DEFLATED | TEXT, &[0x00]),
                frame(DEFLATED | TEXT, b""),
                frame(LAST | CONTINUE, &[0x00]),
            ],
            &[
                text("Hello"),
                text("plain"),
                Said::Ping(b"p".to_vec()),
                Said::Binary(b"Hello".to_vec()),
                text(""),
                text(""),
            ],
        );
    }

    #[test]
    fn only_the_first_frame_of_a_message_is_marked_as_compressed() {
        let marked = [fault(1002, "only the first frame of a message is marked as compressed")];
        check_deflated(&[frame(LAST | DEFLATED | PING, b"")], &marked);
        check_deflated(&[frame(LAST | DEFLATED | CLOSE, b"")], &marked);
        check_deflated(&[frame(DEFLATED | TEXT, b""), frame(LAST | DEFLATED | CONTINUE, b"\0")], &marked);
        for bits in [0x20, 0x10, 0x60] {
            let reserved = "a frame has reserved bits set, but no extension was negotiated";
            check_deflated(&[frame(LAST | bits | TEXT, b"\0")], &[fault(1002, reserved)]);
        }
    }

    #[test]
    fn a_compressed_message_is_held_to_the_limit_and_to_utf8() {
        let deflate = |data: &[u8]| {
            let mut compressed = Vec::new();
            crate::wire::deflate::Zlib::default().deflate(data, 15, 6, |bytes| compressed = bytes.to_vec());
            compressed
        };
        let over = [fault(1009, "message over limits.message (1000 bytes)")];
        check_deflated(&[frame(LAST | DEFLATED | TEXT, &deflate(&[b'x'; 1_000]))], &[text(&"x".repeat(1_000))]);
        check_deflated(&[frame(LAST | DEFLATED | TEXT, &deflate(&[b'x'; 1_001]))], &over);
        // Even what does not become shorter.
        let noise: Vec<u8> = (0..1_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        check_deflated(&[frame(LAST | DEFLATED | BINARY, &deflate(&noise))], &[Said::Binary(noise)]);
        check_deflated(&[frame(DEFLATED | BINARY, &[0; 600]), frame(CONTINUE, &[0; 600])], &over);
        check_deflated(
            &[frame(LAST | DEFLATED | TEXT, &deflate(b"\xff"))],
            &[fault(1007, "a text message is not UTF-8")],
        );
        let broken = [fault(1007, "a compressed message cannot be inflated")];
        check_deflated(&[frame(LAST | DEFLATED | TEXT, &[0x07])], &broken);
    }

    #[test]
    fn a_client_masks_what_it_sends() {
        for opcode in [TEXT, BINARY, CLOSE, PING, PONG] {
            check(&[vec![LAST | opcode, 0]], &[fault(1002, "a frame from a client is not masked")]);
        }
    }

    #[test]
    fn a_control_frame_is_short_and_whole() {
        for opcode in [CLOSE, PING, PONG] {
            check(&[frame(opcode, b"x")], &[fault(1002, "a control frame is fragmented")]);
            for len in [126, 70_000] {
                check(
                    &[frame(LAST | opcode, &vec![b'x'; len])[..10].to_vec()],
                    &[fault(1002, "a control frame is longer than 125 bytes")],
                );
            }
        }
        check(&[frame(LAST | PING, b"p"), frame(LAST | PONG, b"")], &[Said::Ping(b"p".to_vec()), Said::Pong(vec![])]);
        check(&[frame(LAST | PING, &[7; 125])], &[Said::Ping(vec![7; 125])]);
        check(&[frame(LAST | PONG, &[7; 125])], &[Said::Pong(vec![7; 125])]);
    }

    #[test]
    fn a_length_is_written_in_its_shortest_form() {
        let not_shortest = [fault(1002, "a frame's length is not in its shortest form")];
        check(&[vec![LAST | BINARY, 0xfe, 0, 125]], &not_shortest);
        check(&[vec![LAST | BINARY, 0xfe, 0, 0]], &not_shortest);
        check(&[vec![LAST | BINARY, 0xff, 0, 0, 0, 0, 0, 0, 0, 125]], &not_shortest);
        check(&[vec![LAST | BINARY, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]], &not_shortest);
        check(
            &[vec![LAST | BINARY, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]],
            &[fault(1002, "a frame's length has its highest bit set")],
        );
    }

    #[test]
    fn a_message_over_the_limit_is_refused_by_its_header() {
        let over = [fault(1009, "message over limits.message (1000 bytes)")];
        check(&[vec![LAST | TEXT, 0xfe, 0x03, 0xe9]], &over);
        for length in [1 << 32, u64::MAX >> 1] {
            check(&[[&[LAST | BINARY, 0xff][..], &length.to_be_bytes()].concat()], &over);
        }
        check(&[frame(BINARY, &[0; 600]), vec![CONTINUE, 0xfe, 0x01, 0x91]], &over);
        check(&[frame(BINARY, &[0; 600]), frame(LAST | CONTINUE, &[0; 400])], &[Said::Binary(vec![0; 1_000])]);
        assert_eq!(
            decode(&[&[LAST | TEXT, 0xff], &[0xff; 12]], &DecoderLimits { message: usize::MAX, fragments: 1 }),
            [fault(1002, "a frame's length has its highest bit set")]
        );
    }

    #[test]
    fn a_declared_length_costs_nothing_until_its_bytes_come() {
        let limits = DecoderLimits { message: usize::MAX, fragments: 1 };
        let mut decoder = Decoder::new(None);
        let mut said = vec![];
        read(
            &mut decoder,
            &[LAST | BINARY, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
            &limits,
            &mut said,
        );
        assert_eq!(decoder.data.capacity(), 0);
        for received in 1..100 {
            read(&mut decoder, &[7; 1_000], &limits, &mut said);
            assert!(decoder.data.capacity() <= 2 * received * 1_000);
        }
        assert!(decoder.is_partial());
        assert_eq!(said, []);
    }

    #[test]
    fn a_text_is_utf8_and_fails_as_soon_as_it_cannot_be() {
        let not_utf8 = [fault(1007, "a text message is not UTF-8")];
        check(&[frame(LAST | TEXT, "κόσμε 🌙".as_bytes())], &[text("κόσμε 🌙")]);
        check(&[frame(LAST | TEXT, b"caf\xc3")], &not_utf8);
        check(&[frame(LAST | TEXT, b"\xed\xa0\x80")], &not_utf8);
        check(&[frame(TEXT, b"\xf0\x9f"), frame(LAST | CONTINUE, b"\x8c\x99")], &[text("🌙")]);
        check(&[frame(TEXT, b"\xf0\x9f"), frame(LAST | CONTINUE, b"")], &not_utf8);
        check(&[frame(TEXT, b"\xf4\x90")], &not_utf8);
        check(
            &[frame(TEXT, b"\xf4"), frame(LAST | PING, b""), frame(CONTINUE, b"\x90")],
            &[vec![Said::Ping(vec![])], not_utf8.to_vec()].concat(),
        );
        check(&[frame(BINARY, b"\xff"), frame(LAST | CONTINUE, b"\xff")], &[Said::Binary(vec![0xff; 2])]);
        // Inside one frame whose other half has not come.
        check(&[frame(LAST | TEXT, b"caf\xff ....")[..10].to_vec()], &not_utf8);
    }

    #[test]
    fn a_close_ends_the_reading() {
        let bye = [&1000u16.to_be_bytes()[..], "tschüß".as_bytes()].concat();
        let after = [frame(LAST | TEXT, b"late"), frame(0xff, b"broken")].concat();
        check(&[frame(LAST | CLOSE, &bye), after.clone()], &[Said::Close(Some(1000), "tschüß".to_owned())]);
        check(&[frame(LAST | CLOSE, b""), after.clone()], &[Said::Close(None, String::new())]);
        check(&[frame(TEXT, b"begun"), frame(LAST | CLOSE, b""), after.clone()], &[Said::Close(None, String::new())]);
        check(&[vec![LAST | TEXT, 0], after], &[fault(1002, "a frame from a client is not masked")]);
    }

    #[test]
    fn a_close_carries_a_valid_code_and_a_reason_in_utf8() {
        check(&[frame(LAST | CLOSE, b"x")], &[fault(1002, "a close frame has half a code")]);
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535u16] {
            check(
                &[frame(LAST | CLOSE, &code.to_be_bytes())],
                &[fault(1002, &format!("a close frame may not carry code {code}"))],
            );
        }
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999u16]
        {
            check(&[frame(LAST | CLOSE, &code.to_be_bytes())], &[Said::Close(Some(code), String::new())]);
        }
        let reason = [&1000u16.to_be_bytes()[..], &[b'r'; 123]].concat();
        check(&[frame(LAST | CLOSE, &reason)], &[Said::Close(Some(1000), "r".repeat(123))]);
        for reason in [&b"\xff"[..], b"caf\xc3"] {
            check(
                &[frame(LAST | CLOSE, &[&1000u16.to_be_bytes()[..], reason].concat())],
                &[fault(1007, "the reason of a close frame is not UTF-8")],
            );
        }
    }

    #[test]
    fn it_is_partial_from_the_first_byte_of_a_message_to_its_last() {
        let (mut decoder, mut said) = (Decoder::new(None), Vec::new());
        let mut after = |piece: &[u8]| {
            read(&mut decoder, piece, &LIMITS, &mut said);
            decoder.is_partial()
        };
        assert!(!after(b""));
        let bytes = [frame(TEXT, b"a"), frame(LAST | PING, b"p"), frame(LAST | CONTINUE, b"b")].concat();
        for byte in &bytes[..bytes.len() - 1] {
            assert!(after(&[*byte]));
        }
        assert!(!after(&bytes[bytes.len() - 1..]));
        assert!(after(&[LAST | PING]));
        assert!(!after(&[0x80, 1, 2, 3, 4]));
        assert!(after(&frame(TEXT, b"")));
        assert!(!after(&frame(LAST | CLOSE, b"")));
    }

    /// What a peer says in a property test, and how its messages are cut into fragments.
    #[derive(Debug, Clone)]
    struct Saying {
        said: Said,
        cuts: Vec<Index>,
    }

    fn data() -> impl Strategy<Value = Said> {
        prop_oneof![
            ".{0,200}".prop_map(|text| Said::Text(text.into_bytes())),
            prop::collection::vec(any::<u8>(), 0..600).prop_map(Said::Binary),
            (60_000..70_000usize, any::<u8>()).prop_map(|(len, byte)| Said::Binary(vec![byte; len])),
        ]
    }

    fn control() -> impl Strategy<Value = Said> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..=125).prop_map(Said::Ping),
            prop::collection::vec(any::<u8>(), 0..=125).prop_map(Said::Pong),
        ]
    }

    fn saying() -> impl Strategy<Value = Saying> {
        let cuts = prop::collection::vec(any::<Index>(), 0..4);
        prop_oneof![
            2 => (data(), cuts).prop_map(|(said, cuts)| Saying { said, cuts }),
            1 => control().prop_map(|said| Saying { said, cuts: vec![] }),
        ]
    }

    /// `bytes` cut at `cuts`; pieces may be empty.
    fn pieces<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let starts = [0].into_iter().chain(cuts.iter().copied());
        starts.zip(cuts.iter().copied().chain([bytes.len()])).map(|(start, end)| &bytes[start..end]).collect()
    }

    /// A frame as tungstenite's client sends it.
    fn frame_by_tungstenite(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
        let mut frame = TheirFrame::from_payload(Default::default(), Bytes::copy_from_slice(payload));
        frame.header_mut().is_final = first & LAST != 0;
        frame.header_mut().opcode = OpCode::from(first & 0x0f);
        frame.header_mut().mask = Some(key);
        let mut bytes = Vec::new();
        frame.format(&mut bytes).expect("a Vec takes all that is written");
        bytes
    }

    proptest! {
        #[test]
        fn what_a_client_encodes_is_told_however_it_is_cut(
            sayings in prop::collection::vec(saying(), 0..8),
            between in prop::collection::vec(control(), 0..6),
            close in prop::option::of((prop::option::of(3000..5000u16), "[a-zé]{0,40}")),
            cuts in prop::collection::vec(any::<Index>(), 0..30),
            key: [u8; 4],
            tungstenite: bool,
        ) {
            let encode = |first: u8, payload: &[u8]| {
                if tungstenite { frame_by_tungstenite(first, payload, key) } else { masked(first, payload, key) }
            };
            let control_frame = |said: &Said| match said {
                Said::Ping(payload) => encode(LAST | PING, payload),
                Said::Pong(payload) => encode(LAST | PONG, payload),
                other => unreachable!("{other:?}"),
            };
            let (mut bytes, mut model, mut between) = (Vec::new(), Vec::new(), between.into_iter());
            for Saying { said, cuts } in sayings {
                let (opcode, payload) = match &said {
                    Said::Text(payload) => (TEXT, payload),
                    Said::Binary(payload) => (BINARY, payload),
                    control => {
                        bytes.extend(control_frame(control));
                        model.push(said);
                        continue;
                    }
                };
                for (i, piece) in pieces(payload, &cuts).into_iter().enumerate() {
                    if i > 0 && let Some(control) = between.next() {
                        bytes.extend(control_frame(&control));
                        model.push(control);
                    }
                    let last = if i == cuts.len() { LAST } else { 0 };
                    bytes.extend(encode(last | if i == 0 { opcode } else { CONTINUE }, piece));
                }
                model.push(said);
            }
            if let Some((code, reason)) = close {
                let reason = if code.is_some() { reason } else { String::new() };
                let code_bytes = code.map_or(vec![], |code| code.to_be_bytes().to_vec());
                bytes.extend(encode(LAST | CLOSE, &[&code_bytes, reason.as_bytes()].concat()));
                model.push(Said::Close(code, reason));
            }
            let limits = DecoderLimits { message: 70_000, fragments: 5 };
            prop_assert_eq!(decode(&pieces(&bytes, &cuts), &limits), model);
        }

        #[test]
        fn a_damaged_stream_neither_panics_nor_takes_more_than_the_limit(
            sayings in prop::collection::vec(saying(), 1..4),
            damage in prop::collection::vec((any::<Index>(), any::<u8>()), 1..6),
            cuts in prop::collection::vec(any::<Index>(), 0..10),
        ) {
            let mut bytes = Vec::new();
            for Saying { said, cuts } in sayings {
                let (Said::Text(payload) | Said::Binary(payload) | Said::Ping(payload) | Said::Pong(payload)) = &said else {
                    unreachable!("{said:?}")
                };
                let opcode = if cuts.is_empty() { LAST | PING } else { TEXT };
                bytes.extend(masked(opcode, &payload[..payload.len().min(2_000)], [1, 2, 3, 4]));
            }
            for (at, byte) in damage {
                // Mostly in the headers, where it matters.
                let at = at.index(bytes.len() * 2);
                let at = if at < bytes.len() { at } else { (at - bytes.len()) % bytes.len().min(16) };
                bytes[at] = byte;
            }
            let said = decode(&pieces(&bytes, &cuts), &LIMITS);
            prop_assert!(said.iter().filter(|said| matches!(said, Said::Fault(..))).count() <= 1);
        }

        #[test]
        fn any_bytes_are_judged_the_same_however_they_are_cut(
            heads in prop::collection::vec(
                (
                    prop::sample::select(vec![0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x89, 0x8a, 0x88, 0x91, 0x83]),
                    prop_oneof![8 => 0x80..0x90u8, 1 => Just(0xfe), 1 => Just(0xff), 1 => any::<u8>()],
                    prop::collection::vec(any::<u8>(), 0..24),
                ),
                0..12,
            ),
            cuts in prop::collection::vec(any::<Index>(), 0..30),
        ) {
            let bytes: Vec<Vec<u8>> =
                heads.into_iter().map(|(first, second, rest)| [vec![first, second], rest].concat()).collect();
            let bytes = bytes.concat();
            prop_assert_eq!(decode(&pieces(&bytes, &cuts), &LIMITS), decode(&[&bytes], &LIMITS));
        }
    }
}
