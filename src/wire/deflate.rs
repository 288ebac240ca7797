//! permessage-deflate (RFC 7692): what two sides agree on, and the way of a message through it.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use flate2::{Compress, Compression as Level, Decompress, FlushCompress, FlushDecompress, Status};

use super::{close::INVALID_DATA, decode::Fault};

const NAME: &str = "permessage-deflate";

/// zlib makes no raw stream of 8 bits, and silently takes 9 in their place.
pub const WINDOW_BITS_MIN: u8 = 9;
pub const WINDOW_BITS_MAX: u8 = 15;

/// What ends every message, and is not sent.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// An offer with more parameters than there are is none.
const PARAMETERS_MAX: usize = 4;

/// What two sides have agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deflate {
    /// Whether each side may refer to its earlier messages.
    pub server_keeps: bool,
    pub client_keeps: bool,
    pub server_bits: u8,
    /// None if the client has not asked: then it may use all 15, and must not be told.
    pub client_bits: Option<u8>,
}

impl Deflate {
    /// The first offer in a `Sec-WebSocket-Extensions` that can be taken, by a side that wants contexts to be kept or not
    /// and windows of no more than `bits`.
    pub fn agree(offers: &str, keeps: bool, bits: u8) -> Option<Deflate> {
        offers.split(',').find_map(|offer| Deflate::take(offer, keeps, bits))
    }

    fn take(offer: &str, keeps: bool, bits: u8) -> Option<Deflate> {
        let mut parts = offer.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(NAME) {
            return None;
        }
        let mut agreed = Deflate { server_keeps: keeps, client_keeps: keeps, server_bits: bits, client_bits: None };
        let mut seen: Vec<&str> = Vec::new();
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim(), Some(unquoted(value.trim()))),
                None => (part, None),
            };
            if seen.contains(&name) || seen.len() == PARAMETERS_MAX {
                return None;
            }
            match (name, value) {
                ("server_no_context_takeover", None) => agreed.server_keeps = false,
                ("client_no_context_takeover", None) => agreed.client_keeps = false,
                ("server_max_window_bits", Some(value)) => agreed.server_bits = bits.min(window(value)?),
                ("client_max_window_bits", None) => agreed.client_bits = Some(bits),
                ("client_max_window_bits", Some(value)) => agreed.client_bits = Some(bits.min(window(value)?)),
                _ => return None,
            }
            seen.push(name);
        }
        (agreed.server_bits >= WINDOW_BITS_MIN).then_some(agreed)
    }

    /// The same, as the other side has it.
    pub fn mirrored(&self) -> Deflate {
        Deflate {
            server_keeps: self.client_keeps,
            client_keeps: self.server_keeps,
            server_bits: self.client_bits.unwrap_or(WINDOW_BITS_MAX),
            client_bits: Some(self.server_bits),
        }
    }

    /// `Sec-WebSocket-Extensions` of the answer.
    pub fn answer(&self) -> String {
        let mut answer = NAME.to_owned();
        if !self.server_keeps {
            answer.push_str("; server_no_context_takeover");
        }
        if !self.client_keeps {
            answer.push_str("; client_no_context_takeover");
        }
        if self.server_bits < WINDOW_BITS_MAX {
            answer.push_str(&format!("; server_max_window_bits={}", self.server_bits));
        }
        if let Some(bits) = self.client_bits.filter(|bits| *bits < WINDOW_BITS_MAX) {
            answer.push_str(&format!("; client_max_window_bits={bits}"));
        }
        answer
    }
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// 8 to 15, without a sign or leading zeros.
fn window(value: &str) -> Option<u8> {
    matches!(value, "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15").then(|| value.parse().ok())?
}

/// What the connections of one worker compress and inflate with, one message after the other.
#[derive(Debug, Default)]
pub struct Zlib {
    inflate: RefCell<Option<Decompress>>,
    /// One for each window that a peer has asked for, with its level.
    deflate: RefCell<Vec<(u8, u8, Compress)>>,
    /// For output whose size is not known yet.
    output: RefCell<Vec<u8>>,
}

impl Zlib {
    /// `data` compressed by itself.
    pub fn deflate(&self, data: &[u8], bits: u8, level: u8, then: impl FnOnce(&[u8])) {
        let mut all = self.deflate.borrow_mut();
        let place = all.iter().position(|(of, _, _)| *of == bits).unwrap_or_else(|| {
            all.push((bits, level, new_compress(level, bits)));
            all.len() - 1
        });
        let (_, set, compress) = &mut all[place];
        if *set != level {
            (*set, *compress) = (level, new_compress(level, bits));
        }
        compress.reset();
        let mut output = self.output.borrow_mut();
        then(deflate(compress, data, &mut output));
        give_back(&mut output);
    }
}

fn new_compress(level: u8, bits: u8) -> Compress {
    Compress::new_with_window_bits(Level::new(level.into()), false, bits)
}

/// A buffer that was needed for a large message is not kept.
fn give_back(output: &mut Vec<u8>) {
    const KEPT: usize = 64 * 1024;
    output.clear();
    output.shrink_to(KEPT);
}

/// `data` as the rest of a stream, without its tail.
fn deflate<'a>(compress: &mut Compress, data: &[u8], output: &'a mut Vec<u8>) -> &'a [u8] {
    output.clear();
    if data.is_empty() {
        // zlib flushes nothing when there is nothing new.
        output.push(0);
        return output;
    }
    // More than it can become, so that nothing is flushed twice.
    output.reserve(data.len() + data.len() / 512 + 64);
    let mut rest = data;
    loop {
        let before = compress.total_in();
        let done = compress.compress_vec(rest, output, FlushCompress::Sync);
        done.expect("a stream that was not ended takes everything");
        rest = &rest[(compress.total_in() - before) as usize..];
        if rest.is_empty() && output.len() < output.capacity() {
            break;
        }
        output.reserve(64);
    }
    debug_assert!(output.ends_with(&TAIL));
    output.truncate(output.len() - TAIL.len());
    output
}

/// Compresses what goes to one peer, which may keep what came before.
#[derive(Debug)]
pub struct Deflater {
    zlib: Rc<Zlib>,
    bits: u8,
    keeps: bool,
    /// The stream so far; None before the first message, and when it has rested.
    own: RefCell<Option<(u8, Compress)>>,
    used: Cell<bool>,
}

impl Deflater {
    pub fn new(agreed: &Deflate, zlib: Rc<Zlib>) -> Deflater {
        let Deflate { server_keeps: keeps, server_bits: bits, .. } = *agreed;
        Deflater { zlib, bits, keeps, own: RefCell::default(), used: Cell::new(false) }
    }

    pub fn keeps(&self) -> bool {
        self.keeps
    }

    pub fn bits(&self) -> u8 {
        self.bits
    }

    pub fn zlib(&self) -> &Zlib {
        &self.zlib
    }

    /// The next message of the stream.
    pub fn next(&self, data: &[u8], level: u8, then: impl FnOnce(&[u8])) {
        self.used.set(true);
        let mut own = self.own.borrow_mut();
        let (_, compress) = match &mut *own {
            Some(own) if own.0 == level => own,
            // A new one refers to nothing that came before, which the peer need not know.
            own => own.insert((level, new_compress(level, self.bits))),
        };
        let mut output = self.zlib.output.borrow_mut();
        then(deflate(compress, data, &mut output));
        give_back(&mut output);
    }

    /// Called from time to time: gives the stream back, some 300 KiB, if nothing was sent since the last time.
    pub fn rest(&self) {
        if !self.used.replace(false) {
            self.own.take();
        }
    }
}

/// Inflates what comes from one peer.
#[derive(Debug)]
pub struct Inflater {
    zlib: Rc<Zlib>,
    keeps: bool,
    bits: u8,
    /// The end of what was inflated so far, if the peer may refer to it.
    window: Vec<u8>,
}

impl Inflater {
    pub fn new(agreed: &Deflate, zlib: Rc<Zlib>) -> Inflater {
        let bits = agreed.client_bits.unwrap_or(WINDOW_BITS_MAX);
        Inflater { zlib, keeps: agreed.client_keeps, bits, window: Vec::new() }
    }

    /// A message of at most `bytes_max`: it stops as soon as it would be more.
    pub fn inflate(&mut self, data: &[u8], bytes_max: usize) -> Result<Vec<u8>, Fault> {
        // Taken out while it is used: what fails is not used again.
        let mut stream = self.zlib.inflate.take().unwrap_or_else(|| Decompress::new(false));
        let mut output = Vec::new();
        self.begin(&mut stream, &[])?;
        // Its own end of the stream may come before the tail.
        if self.push(&mut stream, data, &mut output, bytes_max)? {
            self.push(&mut stream, &TAIL, &mut output, bytes_max)?;
        }
        self.zlib.inflate.replace(Some(stream));
        self.keep(&output);
        Ok(output)
    }

    /// Begins a stream that may refer to what came before, of which `output` is the end.
    fn begin(&self, stream: &mut Decompress, output: &[u8]) -> Result<(), Fault> {
        stream.reset(false);
        let size = 1 << self.bits;
        let output = &output[output.len().saturating_sub(size)..];
        let window = &self.window[(self.window.len() + output.len()).saturating_sub(size).min(self.window.len())..];
        for part in [window, output] {
            if !part.is_empty() {
                stream.set_dictionary(part).map_err(|_| not_deflate())?;
            }
        }
        Ok(())
    }

    /// Whether the stream goes on behind `data`.
    fn push(
        &self,
        stream: &mut Decompress,
        mut data: &[u8],
        output: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<bool, Fault> {
        loop {
            let (before_in, before_out) = (stream.total_in(), stream.total_out());
            let full = output.len() >= bytes_max;
            let status = if full {
                // One more byte is one too many.
                stream.decompress(data, &mut [0], FlushDecompress::None)
            } else {
                if output.len() == output.capacity() {
                    // Text becomes some three times as long.
                    let more = output.len().max(data.len() * 4).max(256);
                    output.reserve_exact(more.min(bytes_max - output.len()));
                }
                stream.decompress_vec(data, output, FlushDecompress::None)
            };
            let status = status.map_err(|_| not_deflate())?;
            let (read, wrote) = ((stream.total_in() - before_in) as usize, stream.total_out() > before_out);
            if full && wrote {
                return Err(Fault::too_big("limits.message", bytes_max, "bytes"));
            }
            data = &data[read..];
            match status {
                Status::StreamEnd if data.is_empty() => return Ok(false),
                Status::StreamEnd => self.begin(stream, output)?,
                _ if data.is_empty() && (full || output.len() < output.capacity()) => return Ok(true),
                _ if read == 0 && !wrote => return Err(not_deflate()),
                _ => {}
            }
        }
    }

    fn keep(&mut self, output: &[u8]) {
        if !self.keeps {
            return;
        }
        let size = 1 << self.bits;
        let output = &output[output.len().saturating_sub(size)..];
        let gone = (self.window.len() + output.len()).saturating_sub(size);
        self.window.drain(..gone);
        self.window.reserve_exact(output.len());
        self.window.extend_from_slice(output);
    }
}

fn not_deflate() -> Fault {
    Fault { code: INVALID_DATA, reason: "a compressed message cannot be inflated".to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn agree(offers: &str, keeps: bool, bits: u8) -> Option<String> {
        Deflate::agree(offers, keeps, bits).map(|agreed| agreed.answer())
    }

    #[test]
    fn the_answer_has_what_was_offered_and_what_is_wanted() {
        let none = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        for (offer, keeps, bits, answer) in [
            ("permessage-deflate", true, 15, "permessage-deflate"),
            ("permessage-deflate", false, 15, none),
            ("permessage-deflate; client_max_window_bits", true, 15, "permessage-deflate"),
            (
                "permessage-deflate;client_max_window_bits",
                true,
                12,
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            ),
            ("permessage-deflate", true, 12, "permessage-deflate; server_max_window_bits=12"),
            (
                "permessage-deflate; client_max_window_bits=10",
                true,
                12,
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=10",
            ),
            (
                "permessage-deflate; server_max_window_bits=\"10\"",
                true,
                15,
                "permessage-deflate; server_max_window_bits=10",
            ),
            (
                "permessage-deflate; server_no_context_takeover",
                true,
                15,
                "permessage-deflate; server_no_context_takeover",
            ),
            ("Permessage-Deflate ; client_no_context_takeover ; server_no_context_takeover", true, 15, none),
        ] {
            assert_eq!(agree(offer, keeps, bits).as_deref(), Some(answer), "{offer}");
        }
    }

    #[test]
    fn an_offer_that_cannot_be_taken_is_passed_over() {
        for offer in [
            "",
            "permessage-bzip2",
            "x-webkit-deflate-frame",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=09",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; client_max_window_bits=0",
            "permessage-deflate; client_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; unknown",
            "permessage-deflate;",
        ] {
            assert_eq!(agree(offer, true, 15), None, "{offer}");
        }
        let second = "permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=9";
        assert_eq!(agree(second, true, 15).as_deref(), Some("permessage-deflate; server_max_window_bits=9"));
    }

    fn both(agreed: &Deflate) -> (Deflater, Inflater) {
        (Deflater::new(agreed, Rc::default()), Inflater::new(&agreed.mirrored(), Rc::default()))
    }

    const KEEPS: Deflate = Deflate { server_keeps: true, client_keeps: true, server_bits: 15, client_bits: None };

    fn compressed(deflater: &Deflater, data: &[u8]) -> Vec<u8> {
        let mut compressed = Vec::new();
        deflater.next(data, 6, |bytes| compressed = bytes.to_vec());
        compressed
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let (deflater, mut inflater) = both(&KEEPS);
        let bomb = compressed(&deflater, &vec![0; 50_000_000]);
        assert!(bomb.len() < 100_000);
        let fault = inflater.inflate(&bomb, 1_000).unwrap_err();
        assert_eq!((fault.code, fault.reason.as_str()), (1009, "message over limits.message (1000 bytes)"));
    }

    #[test]
    fn a_message_of_just_the_limit_is_let_in_and_takes_no_more() {
        for len in [0, 1, 255, 256, 257, 1_000, 70_000] {
            let data: Vec<u8> = (0..len).map(|i| (i * i) as u8).collect();
            let (deflater, mut inflater) = both(&KEEPS);
            let inflated = inflater.inflate(&compressed(&deflater, &data), len).unwrap();
            assert!(inflated == data && inflated.capacity() <= len.max(1), "{len}");
            if len > 0 {
                let (deflater, mut inflater) = both(&KEEPS);
                assert_eq!(inflater.inflate(&compressed(&deflater, &data), len - 1).unwrap_err().code, 1009);
            }
        }
    }

    #[test]
    fn what_cannot_be_inflated_is_a_fault_and_the_next_connection_is_served() {
        let zlib = Rc::new(Zlib::default());
        for broken in [&b"\xff"[..], b"\x07", b"\x01\x05\x00\x00\x00"] {
            let fault = Inflater::new(&KEEPS, zlib.clone()).inflate(broken, 1_000).unwrap_err();
            assert_eq!(fault.code, 1007, "{broken:?}");
        }
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]; // RFC 7692, 7.2.3.1
        assert_eq!(Inflater::new(&KEEPS, zlib).inflate(&hello, 1_000).unwrap(), b"Hello");
    }

    #[test]
    fn the_examples_of_the_standard_are_read() {
        let mut inflater = Inflater::new(&KEEPS, Rc::default());
        for (data, expected) in [
            (&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..], "Hello"),
            // The second refers to the first (7.2.3.2), and has no compression at all (7.2.3.3).
            (&[0xf2, 0x00, 0x11, 0x00, 0x00], "Hello"),
            (&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], "Hello"),
            // A last block, and what follows it (7.2.3.4); two blocks (7.2.3.5).
            (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], "Hello"),
            (&[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00], "Hello"),
            (&[0x00], ""),
        ] {
            assert_eq!(inflater.inflate(data, 1_000).unwrap(), expected.as_bytes(), "{data:?}");
        }
    }

    #[test]
    fn a_stream_that_has_rested_goes_on() {
        let (deflater, mut inflater) = both(&KEEPS);
        for round in 0..4 {
            let data = b"the same words, again and again";
            assert_eq!(inflater.inflate(&compressed(&deflater, data), 100).unwrap(), data);
            if round == 1 {
                deflater.rest();
                assert!(deflater.own.borrow().is_some(), "it was used since the last time");
                deflater.rest();
                assert!(deflater.own.borrow().is_none());
            }
        }
    }

    fn texts() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let text = prop_oneof![
            3 => "([a-f]{1,9} ){0,200}".prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..5_000),
            1 => (any::<u8>(), 0..100_000usize).prop_map(|(byte, len)| vec![byte; len]),
        ];
        prop::collection::vec(text, 1..8)
    }

    proptest! {
        #[test]
        fn what_is_compressed_is_inflated_to_the_same_on_any_terms(
            texts in texts(),
            server_keeps: bool,
            server_bits in WINDOW_BITS_MIN..=WINDOW_BITS_MAX,
            level in 1..=9u8,
        ) {
            let (deflater, mut inflater) = both(&Deflate { server_keeps, server_bits, ..KEEPS });
            for text in texts {
                let mut compressed = Vec::new();
                let keep = |bytes: &[u8]| compressed = bytes.to_vec();
                if server_keeps {
                    deflater.next(&text, level, keep);
                } else {
                    deflater.zlib().deflate(&text, server_bits, level, keep);
                }
                prop_assert_eq!(inflater.inflate(&compressed, text.len()).unwrap(), text);
                prop_assert!(inflater.window.len() <= 1 << server_bits);
            }
        }

        #[test]
        fn damaged_bytes_neither_panic_nor_become_more_than_the_limit(
            data in prop::collection::vec(any::<u8>(), 0..2_000),
            limit in 0..5_000usize,
        ) {
            let mut inflater = Inflater::new(&KEEPS, Rc::default());
            if let Ok(inflated) = inflater.inflate(&data, limit) {
                prop_assert!(inflated.len() <= limit);
            }
        }
    }
}
