//! The bytes of one peer on their way to the HTTP parser: a request head goes on only whole and
//! strictly well-formed, so that no proxy in front can read it differently.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use hyper::{
    StatusCode,
    rt::{Read, ReadBufCursor, Write},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::connection::stream::Stream;

const CHUNK: usize = 4096;

/// A stream as the HTTP parser sees it.
pub struct Intake {
    stream: Stream,
    /// Read and not yet passed on. Empty while the peer is idle.
    buffered: BytesMut,
    phase: Phase,
    /// The last head asked for an upgrade: what follows it may be frames and is not looked at.
    upgrade: bool,
    ended: bool,
    fault: Option<Fault>,
    bounds: Bounds,
    exchange: Rc<Exchange>,
}

/// How large a request head may be.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub head_bytes: usize,
    pub headers: usize,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// A head is collected; its end is not within the first `searched` bytes.
    Head { searched: usize },
    /// So many bytes of a head and its body may pass.
    Pass { left: u64 },
    /// The body ends somewhere that only the parser knows, and with it the connection.
    Rest,
    /// Nothing more may pass.
    Over,
}

/// Why a head was not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Malformed(&'static str),
    HeadTooLarge(usize),
    TooManyHeaders(usize),
}

impl Intake {
    pub fn new(stream: Stream, bounds: Bounds, exchange: Rc<Exchange>) -> Intake {
        Intake {
            stream,
            buffered: BytesMut::new(),
            phase: Phase::Head { searched: 0 },
            upgrade: false,
            ended: false,
            fault: None,
            bounds,
            exchange,
        }
    }

    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Whether the peer began a head and has not finished it.
    pub fn is_within_head(&self) -> bool {
        matches!(self.phase, Phase::Head { .. }) && !self.buffered.is_empty()
    }

    /// Whether the peer has ended its side.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The stream again, and what was read and not passed on.
    pub fn into_parts(self) -> (Stream, Bytes) {
        // A buffer that held a head would otherwise be kept alive by nothing.
        let rest = if self.buffered.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(&self.buffered) };
        (self.stream, rest)
    }

    /// Collects a head and looks at it; Pending until it is whole.
    fn poll_head(&mut self, mut searched: usize, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // RFC 9112 2.2: empty lines before a request are ignored.
            while self.buffered.starts_with(b"\r\n") {
                self.buffered.advance(2);
                searched = 0;
            }
            match find_end(&self.buffered, searched) {
                Err(fault) => self.refuse(fault),
                Ok(Some(end)) if end > self.bounds.head_bytes => {
                    self.refuse(Fault::HeadTooLarge(self.bounds.head_bytes));
                }
                Ok(Some(end)) => match check(&self.buffered[..end], self.bounds.headers) {
                    Err(fault) => self.refuse(fault),
                    Ok(head) => {
                        self.upgrade = head.upgrade;
                        self.phase = match head.body {
                            Body::Sized(length) => Phase::Pass { left: (end as u64).saturating_add(length) },
                            Body::Chunked => Phase::Rest,
                        };
                    }
                },
                Ok(None) if self.buffered.len() >= self.bounds.head_bytes => {
                    self.refuse(Fault::HeadTooLarge(self.bounds.head_bytes));
                }
                Ok(None) => {
                    searched = self.buffered.len();
                    self.phase = Phase::Head { searched };
                    if ready!(self.poll_more(cx))? == 0 {
                        self.phase = Phase::Over;
                    } else {
                        continue;
                    }
                }
            }
            return Poll::Ready(Ok(()));
        }
    }

    /// While an answer is under way: notices that the peer is gone, and leaves what follows alone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.buffered.is_empty() {
            match self.poll_more(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        self.exchange.reader.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Reads a piece into the buffer; 0 at the peer's end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut chunk = [0; CHUNK];
        let mut read = ReadBuf::new(&mut chunk);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        self.buffered.extend_from_slice(read.filled());
        self.ended |= read.filled().is_empty();
        Poll::Ready(Ok(read.filled().len()))
    }

    fn refuse(&mut self, fault: Fault) {
        self.fault = Some(fault);
        self.phase = Phase::Over;
    }
}

impl Read for Intake {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let allowed = match this.phase {
                Phase::Over => return Poll::Ready(Ok(())),
                Phase::Pass { left: 0 } if this.upgrade || this.exchange.is_busy() => {
                    return this.poll_gone(cx);
                }
                Phase::Pass { left: 0 } => {
                    this.phase = Phase::Head { searched: 0 };
                    continue;
                }
                Phase::Head { searched } => {
                    ready!(this.poll_head(searched, cx))?;
                    continue;
                }
                Phase::Pass { left } => left,
                Phase::Rest => u64::MAX,
            };
            if this.buffered.is_empty() && ready!(this.poll_more(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
            let room = into.remaining().min(this.buffered.len());
            let passed = usize::try_from(allowed).map_or(room, |allowed| room.min(allowed));
            into.put_slice(&this.buffered[..passed]);
            this.buffered.advance(passed);
            if let Phase::Pass { left } = &mut this.phase {
                *left -= passed as u64;
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl Write for Intake {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.exchange.wrote(polled.is_ready());
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.exchange.wrote(polled.is_ready());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl Fault {
    pub fn status(&self) -> StatusCode {
        match self {
            Fault::Malformed(_) => StatusCode::BAD_REQUEST,
            Fault::HeadTooLarge(_) | Fault::TooManyHeaders(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }

    pub fn reason(&self) -> String {
        match self {
            Fault::Malformed(why) => format!("the request is malformed: {why}"),
            Fault::HeadTooLarge(bytes) => {
                format!("the request's head is larger than `limits.header_bytes` allows ({bytes} bytes)")
            }
            Fault::TooManyHeaders(n) => {
                format!("the request has more headers than `limits.headers` allows ({n})")
            }
        }
    }
}

/// Where the exchange of one request and its answer stands; shared by the stream and the answering side.
#[derive(Debug)]
pub struct Exchange {
    busy: Cell<bool>,
    /// The last write did not fit: the peer is behind with reading.
    blocked: Cell<bool>,
    /// When something last went out; at first, when the connection came in.
    progress: Cell<Instant>,
    /// Waits for the end of the answer, to read the next request.
    reader: RefCell<Option<Waker>>,
}

/// An answer under way, until its last byte is handed over.
#[derive(Debug)]
pub struct Busy(Rc<Exchange>);

impl Exchange {
    pub fn new(accepted_at: Instant) -> Exchange {
        Exchange {
            busy: Cell::new(false),
            blocked: Cell::new(false),
            progress: Cell::new(accepted_at),
            reader: RefCell::new(None),
        }
    }

    pub fn begin(self: &Rc<Self>) -> Busy {
        self.busy.set(true);
        Busy(self.clone())
    }

    pub fn is_busy(&self) -> bool {
        self.busy.get()
    }

    /// Whether something is still to go out.
    pub fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// When to give the peer up: `head` after the last answer (or the start) without a whole
    /// request, or `stall` after the last byte that it took of an answer.
    pub fn deadline(&self, head: Duration, stall: Duration) -> Option<Instant> {
        if self.blocked.get() {
            Some(self.progress.get() + stall)
        } else if self.busy.get() {
            None // what answers has deadlines of its own
        } else {
            Some(self.progress.get() + head)
        }
    }

    fn wrote(&self, fitted: bool) {
        if fitted || !self.blocked.get() {
            self.progress.set(Instant::now());
        }
        self.blocked.set(!fitted);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(false);
        self.0.progress.set(Instant::now());
        if let Some(reader) = self.0.reader.take() {
            reader.wake();
        }
    }
}

/// What a head says of what follows it.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    body: Body,
    upgrade: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Body {
    Sized(u64),
    Chunked,
}

/// Where the head ends (after its empty line), if it is whole.
fn find_end(bytes: &[u8], searched: usize) -> Result<Option<usize>, Fault> {
    for at in memchr::memchr_iter(b'\n', &bytes[searched..]).map(|at| searched + at) {
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(Fault::Malformed("a line ends without a carriage return"));
        }
        if at >= 3 && bytes[at - 3] == b'\r' && bytes[at - 2] == b'\n' {
            return Ok(Some(at + 1));
        }
    }
    Ok(None)
}

/// Refuses what two parsers might read in two ways.
fn check(head: &[u8], headers_max: usize) -> Result<Head, Fault> {
    let malformed = |why| Err(Fault::Malformed(why));
    // Without the empty line; each line's end is there, as `find_end` saw.
    let mut lines =
        head[..head.len() - 4].split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let request_line = lines.next().unwrap_or_default();
    if request_line.contains(&b'\r') || request_line.contains(&0) {
        return malformed("there is a control character in its first line");
    }

    let (mut length, mut chunked, mut hosts, mut upgrade) = (None, false, 0, false);
    for (index, line) in lines.enumerate() {
        if index >= headers_max {
            return Err(Fault::TooManyHeaders(headers_max));
        }
        if line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
            return malformed("a header goes on in a second line");
        }
        let Some(colon) = memchr::memchr(b':', line) else {
            return malformed("a header has no colon");
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return malformed("a header's name has a character that names cannot have");
        }
        if value.iter().any(|byte| matches!(byte, b'\r' | 0)) {
            return malformed("there is a control character in a header");
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let parsed = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse::<u64>().ok());
            let Some(parsed) = parsed else {
                return malformed("its Content-Length is not a number");
            };
            if length.replace(parsed).is_some() {
                return malformed("it has two Content-Lengths");
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if std::mem::replace(&mut chunked, true) || !value.eq_ignore_ascii_case(b"chunked") {
                return malformed("the only Transfer-Encoding taken is one `chunked`");
            }
        } else if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            upgrade = true;
        }
    }
    if chunked && length.is_some() {
        return malformed("it has both Content-Length and Transfer-Encoding");
    }
    if hosts > 1 {
        return malformed("it has two Hosts");
    }
    if hosts == 0 && request_line.ends_with(b"HTTP/1.1") {
        return malformed("it has no Host");
    }
    let body = if chunked { Body::Chunked } else { Body::Sized(length.unwrap_or(0)) };
    Ok(Head { body, upgrade })
}

/// RFC 9110's `tchar`.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Head, Fault> {
        let bytes = text.as_bytes();
        match find_end(bytes, 0)? {
            Some(end) => check(&bytes[..end], 4),
            None => panic!("not whole: {text:?}"),
        }
    }

    #[test]
    fn a_head_ends_at_its_empty_line_wherever_the_pieces_end() {
        let whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        for cut in 0..whole.len() {
            let expected = (cut >= 27).then_some(27);
            assert_eq!(find_end(&whole[..cut], 0), Ok(expected));
            assert_eq!(find_end(whole, cut.min(26)), Ok(Some(27)), "searched {cut} bytes before");
        }
    }

    #[test]
    fn heads_say_what_follows() {
        let body = |text| head(text).unwrap().body;
        assert_eq!(body("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Body::Sized(0));
        assert_eq!(body("GET / HTTP/1.0\r\n\r\n"), Body::Sized(0));
        assert_eq!(body("POST / HTTP/1.1\r\nHost:a\r\ncontent-LENGTH:  12 \r\n\r\n"), Body::Sized(12));
        assert_eq!(body("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"), Body::Chunked);
        assert!(head("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n").unwrap().upgrade);
    }

    #[test]
    fn what_proxies_read_in_two_ways_is_refused() {
        for (text, why) in [
            ("GET / HTTP/1.1\nHost: a\n\n", "carriage return"),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", "carriage return"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n", "control character in a header"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\0\r\n\r\n", "control character in a header"),
            ("GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", "first line"),
            ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", "second line"),
            ("GET / HTTP/1.1\r\n X: b\r\nHost: a\r\n\r\n", "second line"),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "name"),
            ("GET / HTTP/1.1\r\n: a\r\n\r\n", "name"),
            ("GET / HTTP/1.1\r\nHost\r\n\r\n", "colon"),
            ("GET / HTTP/1.1\r\n\r\n", "no Host"),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "two Hosts"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "both"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", "both"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", "two Content-Lengths"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", "not a number"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", "not a number"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "not a number"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", "not a number"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", "not a number"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", "Transfer-Encoding"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n", "Transfer-Encoding"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", "Transfer-Encoding"),
        ] {
            let fault = head(text).unwrap_err();
            assert_eq!(fault.status(), 400, "{text:?}");
            assert!(fault.reason().contains(why), "{text:?}: {}", fault.reason());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_it(bytes in r"(GET|P\r?) / HTTP/1\.[01]\r?\n([A-Za-z \x00:]{0,9}:?.?\r?\n){0,5}\r\n\r\n") {
            if let Ok(Some(end)) = find_end(bytes.as_bytes(), 0) {
                let _ = check(&bytes.as_bytes()[..end], 4);
            }
        }
    }

    #[test]
    fn headers_are_counted() {
        let with = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(n - 1));
        assert!(head(&with(4)).is_ok());
        assert_eq!(head(&with(5)), Err(Fault::TooManyHeaders(4)));
    }
}
