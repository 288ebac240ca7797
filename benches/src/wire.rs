//! Frames, as a peer writes and reads them.

use std::io;

use flate2::{Decompress, FlushDecompress};

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// How much of a message is kept to be looked at.
const KEPT: usize = 256;
const LAST: u8 = 0x80;
const COMPRESSED: u8 = 0x40;

/// A whole message, masked.
pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(LAST | kind);
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().enumerate().map(|(place, byte)| byte ^ MASK[place & 3]));
    frame
}

/// A message to be sent many times, whose first bytes differ.
pub struct Template {
    frame: Vec<u8>,
    payload: usize,
}

impl Template {
    pub fn new(kind: u8, payload: &[u8]) -> Template {
        let frame = frame(kind, payload);
        Template { payload: frame.len() - payload.len(), frame }
    }

    /// The frame with `start` in place of the payload's first bytes.
    pub fn with(&mut self, start: &[u8]) -> &[u8] {
        let (head, payload) = self.frame.split_at_mut(self.payload);
        let mask = &head[self.payload - 4..];
        for (place, (byte, new)) in payload.iter_mut().zip(start).enumerate() {
            *byte = new ^ mask[place & 3];
        }
        &self.frame
    }
}

/// What a server sent.
pub enum Seen<'a> {
    Message {
        /// The first bytes, 256 at most.
        start: &'a [u8],
        compressed: bool,
    },
    Ping(&'a [u8]),
    /// The code; 0 if there was none.
    Close(u16),
}

/// Finds the messages in what comes from a server, wherever the reads cut it.
#[derive(Default)]
pub struct Reader {
    /// The handshake has agreed on it; else a compressed message is an error.
    pub may_compress: bool,
    /// The head of a frame, as long as it is not whole.
    head: Vec<u8>,
    /// The first byte of the frame whose payload comes now.
    first: u8,
    in_payload: bool,
    /// Bytes of that payload that are still to come.
    remaining: u64,
    /// The message so far: its first bytes, or all of them if it is compressed.
    message: Vec<u8>,
    compressed: bool,
    control: Vec<u8>,
    /// What the server remembers of earlier messages is needed to read the next.
    inflate: Option<Box<Decompress>>,
}

impl Reader {
    pub fn feed(&mut self, mut data: &[u8], mut seen: impl FnMut(Seen<'_>)) -> io::Result<()> {
        loop {
            if !self.in_payload {
                if data.is_empty() || !self.read_head(&mut data) {
                    return Ok(());
                }
                self.in_payload = true;
            }
            let taken = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(data.len());
            let (part, rest) = data.split_at(taken);
            data = rest;
            self.remaining -= taken as u64;
            let kind = self.first & 0x0f;
            if kind >= CLOSE {
                self.control.extend_from_slice(part);
                if self.remaining > 0 {
                    return Ok(());
                }
                match kind {
                    PING => seen(Seen::Ping(&self.control)),
                    CLOSE => seen(Seen::Close(match self.control[..] {
                        [high, low, ..] => u16::from_be_bytes([high, low]),
                        _ => 0,
                    })),
                    _ => {}
                }
                self.control.clear();
                self.in_payload = false;
                continue;
            }
            if kind != 0 && self.first & COMPRESSED != 0 {
                if !self.may_compress {
                    return Err(io::Error::other("a compressed message came, and the handshake did not agree on it"));
                }
                self.compressed = true;
            }
            let last = self.first & LAST != 0 && self.remaining == 0;
            if last && self.message.is_empty() && !self.compressed {
                seen(Seen::Message { start: &part[..part.len().min(KEPT)], compressed: false });
            } else {
                let room = if self.compressed { part.len() } else { KEPT.saturating_sub(self.message.len()) };
                self.message.extend_from_slice(&part[..part.len().min(room)]);
                if last {
                    if self.compressed {
                        self.expand()?;
                    }
                    let start = &self.message[..self.message.len().min(KEPT)];
                    seen(Seen::Message { start, compressed: self.compressed });
                    self.message.clear();
                    self.compressed = false;
                }
            }
            if self.remaining > 0 {
                return Ok(());
            }
            self.in_payload = false;
        }
    }

    /// Takes the head of a frame from `data`; false if it is not whole yet.
    fn read_head(&mut self, data: &mut &[u8]) -> bool {
        loop {
            let wanted = match self.head.get(1).map(|byte| byte & 0x7f) {
                None => 2,
                Some(126) => 4,
                Some(127) => 10,
                Some(_) => 2,
            };
            if self.head.len() == wanted {
                break;
            }
            let taken = (wanted - self.head.len()).min(data.len());
            if taken == 0 {
                return false;
            }
            self.head.extend_from_slice(&data[..taken]);
            *data = &data[taken..];
        }
        self.first = self.head[0];
        self.remaining = match self.head.len() {
            2 => u64::from(self.head[1] & 0x7f),
            _ => self.head[2..].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        self.head.clear();
        true
    }

    /// Puts in place of a compressed message what it says.
    fn expand(&mut self) -> io::Result<()> {
        let inflate = self.inflate.get_or_insert_with(|| Box::new(Decompress::new(false)));
        // The sender leaves out the end of a block, since it is always the same.
        self.message.extend_from_slice(&[0, 0, 0xff, 0xff]);
        let mut out = Vec::with_capacity(1024);
        let begin = inflate.total_in();
        loop {
            let taken = (inflate.total_in() - begin) as usize;
            if out.len() == out.capacity() {
                out.reserve(out.len());
            }
            inflate
                .decompress_vec(&self.message[taken..], &mut out, FlushDecompress::Sync)
                .map_err(|error| io::Error::other(format!("a compressed message cannot be read: {error}")))?;
            if (inflate.total_in() - begin) as usize == self.message.len() && out.len() < out.capacity() {
                break;
            }
        }
        self.message = out;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    /// What a server would send for each payload: head and payload, not masked.
    fn sent(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = frame(first & 0x0f, payload);
        out[0] = first;
        out[1] &= 0x7f;
        let mask = out.len() - payload.len() - 4;
        out.truncate(mask);
        out.extend_from_slice(payload);
        out
    }

    /// Reads `data` in pieces of each size; what was seen must always be the same.
    fn check(data: &[u8], expected: &[&str]) {
        for size in 1..=data.len() {
            let mut reader = Reader { may_compress: true, ..Reader::default() };
            let mut found = Vec::new();
            for part in data.chunks(size) {
                reader
                    .feed(part, |seen| {
                        found.push(match seen {
                            Seen::Message { start, compressed } => {
                                let mark = if compressed { "z " } else { "" };
                                format!("{mark}{}", String::from_utf8_lossy(start))
                            }
                            Seen::Ping(data) => format!("ping {}", String::from_utf8_lossy(data)),
                            Seen::Close(code) => format!("close {code}"),
                        });
                    })
                    .expect("what was written here can be read");
            }
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn frames_are_found_wherever_the_reads_cut_them() {
        let long = "x".repeat(200);
        let mut data = sent(0x81, b"one");
        data.extend(sent(0x89, b"p"));
        data.extend(sent(0x82, long.as_bytes()));
        data.extend(sent(0x01, b"in "));
        data.extend(sent(0x89, b""));
        data.extend(sent(0x80, b"parts"));
        data.extend(sent(0x81, b""));
        data.extend(sent(0x88, &1001u16.to_be_bytes()));
        check(&data, &["one", "ping p", &long, "ping ", "in parts", "", "close 1001"]);
    }

    #[test]
    fn compressed_messages_are_read_with_what_came_before_them() {
        let mut compress = Compress::new(Compression::default(), false);
        let mut data = Vec::new();
        for text in ["hello, hello, hello", "hello, hello, hello again"] {
            let mut out = Vec::with_capacity(1024);
            compress.compress_vec(text.as_bytes(), &mut out, FlushCompress::Sync).expect("there is room");
            out.truncate(out.len() - 4);
            data.extend(sent(0xc1, &out));
        }
        data.extend(sent(0x81, b"plain"));
        check(&data, &["z hello, hello, hello", "z hello, hello, hello again", "plain"]);
    }
}
