//! The queue of frames that wait to go to one peer.
//!
//! Filled by the hub, drained by the peer's connection, both on one thread. It never blocks the sender and never
//! grows past its bound: what is pushed when it is full is given back as [`Push::Full`], and the pusher decides.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    io::{self, IoSlice},
    mem,
    rc::Rc,
};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::wire::{self, Deflater, Inflater, Kind, Message};

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    Queued,
    Closed,
    Full,
}

pub struct Outbox {
    queue: RefCell<Queue>,
    /// Its connection's place in the worker's table, or `NOWHERE`.
    token: Cell<usize>,
    /// It got something since it was last flushed.
    dirty: Cell<bool>,
    worker: Dirty,
    /// If compressed messages were agreed on.
    deflater: Option<Box<Deflater>>,
}

/// The outboxes of one worker that got something since they were last flushed, by their tokens.
#[derive(Debug, Clone, Default)]
pub struct Dirty(Rc<Lists>);

#[derive(Debug, Default)]
struct Lists {
    tokens: RefCell<Vec<usize>>,
    /// An emptied list to go on with, so that a busy worker allocates none.
    spare: RefCell<Vec<usize>>,
    /// Told when the list is no longer empty, unless somebody flushes it anyway.
    added: Notify,
    hushed: Cell<bool>,
}

/// What a virtual peer of the harness receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    Message { data: Bytes, binary: bool },
    Close { code: u16, reason: String },
    Ping,
    Pong,
}

const NOWHERE: usize = usize::MAX;

/// Frames that one `with_slices` offers.
const SLICES_MAX: usize = 64;

/// Unsent pongs that are kept. RFC 6455 (5.5.3) lets the newest answer for all, but some peers count their pongs; they do
/// not send more pings than these at once.
const PONGS_MAX: usize = 16;

/// The bound allows one frame for each of these bytes, since the tiniest message still costs a place in the queue and an
/// allocation; but never fewer than this many frames.
const FRAME_BYTES_MIN: usize = 32;
const FRAMES_MIN: usize = 64;

/// Frames for which an empty queue keeps its room: an idle one owns next to nothing.
const ROOM_KEPT: usize = 8;

impl Outbox {
    /// `bytes_max` is `limits.outbox`.
    pub fn new(bytes_max: usize, worker: Dirty) -> Outbox {
        Outbox {
            queue: RefCell::new(Queue { bytes_max, ..Queue::default() }),
            token: Cell::new(NOWHERE),
            dirty: Cell::new(false),
            worker,
            deflater: None,
        }
    }

    /// For a peer that takes compressed messages.
    pub fn deflating(self, deflater: Option<Deflater>) -> Outbox {
        Outbox { deflater: deflater.map(Box::new), ..self }
    }

    /// Called from time to time: gives back what nothing was compressed with since the last time.
    pub fn rest(&self) {
        if let Some(deflater) = &self.deflater {
            deflater.rest();
        }
    }

    /// Tells where its connection is to be found once it waits to be flushed; what was pushed before counts.
    pub fn set_token(&self, token: usize) {
        self.token.set(token);
        if self.dirty.get() {
            self.worker.add(token);
        }
    }

    /// Its connection has left the worker's table.
    pub fn clear_token(&self) {
        self.token.set(NOWHERE);
    }

    pub fn set_bytes_max(&self, bytes_max: usize) {
        self.queue.borrow_mut().bytes_max = bytes_max;
    }

    /// Queues a message. One that is larger than the bound is taken when no other waits.
    pub fn push(&self, message: &Message) -> Push {
        let mut queue = self.queue.borrow_mut();
        // Asked first, and by its length as it is: what was compressed with a context must be sent.
        let push = queue.room_for(message.plain().len());
        if push == Push::Queued {
            queue.put(message.frame(self.deflater.as_deref()));
            drop(queue);
            self.set_dirty();
        }
        push
    }

    /// Queues a ping or a pong, whatever the bound says: there are never many. A ping goes ahead of the messages that
    /// wait, so that a slow link is not taken for a dead one, and replaces one that waits. A pong keeps its place, so that
    /// it tells the peer that what came before its ping has been answered; when many wait, it replaces the last of them.
    pub fn push_control(&self, frame: Bytes) -> Push {
        let push = self.queue.borrow_mut().push_control(frame);
        if push == Push::Queued {
            self.set_dirty();
        }
        push
    }

    /// Ends the queue: what waits still goes, then a close frame, then nothing. Only the first close counts. 1006 gives
    /// the transport up at once: no frame is sent for it, and what waits is dropped.
    pub fn close(&self, code: u16, reason: &str) {
        if self.queue.borrow_mut().close(code, reason) {
            self.set_dirty();
        }
    }

    /// Whether nothing more can be queued.
    pub fn is_closed(&self) -> bool {
        self.queue.borrow().closed
    }

    /// What `close` was called with, as the peer is told it; None if the transport ended before.
    pub fn close_code(&self) -> Option<(u16, String)> {
        self.queue.borrow().close.as_ref().map(|(code, reason)| (*code, reason.to_string()))
    }

    /// Whether the kernel has the whole of the close frame.
    pub fn close_sent(&self) -> bool {
        self.queue.borrow().close_sent
    }

    /// Bytes not yet taken by the kernel.
    pub fn buffered(&self) -> usize {
        self.queue.borrow().bytes
    }

    pub fn is_empty(&self) -> bool {
        self.queue.borrow().bytes == 0
    }

    /// Offers up to 64 pieces from the front to `write`, and drops as many bytes as it says that it took. `write` is
    /// not called when nothing waits, and must not touch this outbox.
    pub fn with_slices(&self, write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<usize> {
        let mut queue = self.queue.borrow_mut();
        if queue.bytes == 0 {
            return Ok(0);
        }
        let written = {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(queue.pieces()) {
                *slice = IoSlice::new(piece);
                count += 1;
            }
            write(&slices[..count])?
        };
        queue.advance(written);
        Ok(written)
    }

    /// The worker has taken it from its list, and is about to flush it: what comes from now on puts it there again.
    pub fn mark_clean(&self) {
        self.dirty.set(false);
    }

    /// The transport is gone: drops what waits, and takes no more.
    pub fn clear(&self) {
        self.queue.borrow_mut().clear();
    }

    /// Everything that waits, as its peer would receive it; for peers without a transport. `inflater` reads what was
    /// compressed.
    pub fn take_messages(&self, mut inflater: Option<&mut Inflater>) -> Vec<Sent> {
        let mut queue = self.queue.borrow_mut();
        let mut sent = Vec::new();
        while let Some(frame) = queue.next_frame() {
            let left = frame.len() - queue.written;
            queue.taken(&frame, left);
            let mut payload = wire::payload(&frame);
            if wire::is_deflated(&frame) {
                let inflater = inflater.as_mut().expect("only peers that can read it are sent what is compressed");
                payload = inflater.inflate(&payload, usize::MAX).expect("it can be read").into();
            }
            sent.push(match wire::kind(&frame) {
                Kind::Text => Sent::Message { data: payload, binary: false },
                Kind::Binary => Sent::Message { data: payload, binary: true },
                Kind::Ping => Sent::Ping,
                Kind::Pong => Sent::Pong,
                Kind::Close => {
                    let (code, reason) = wire::read_close(&payload);
                    Sent::Close { code, reason: reason.to_owned() }
                }
            });
        }
        queue.give_back_room();
        sent
    }

    fn set_dirty(&self) {
        if !self.dirty.replace(true) && self.token.get() != NOWHERE {
            self.worker.add(self.token.get());
        }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("buffered", &self.buffered())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl Dirty {
    pub fn new() -> Dirty {
        Dirty::default()
    }

    pub fn is_empty(&self) -> bool {
        self.0.tokens.borrow().is_empty()
    }

    /// The tokens of the outboxes to flush, in the order in which they got something. One may be of a connection that
    /// has gone, or by now of another, which costs that one an empty flush.
    pub fn take(&self) -> Vec<usize> {
        mem::replace(&mut self.0.tokens.borrow_mut(), self.0.spare.take())
    }

    /// Takes the list back when it has been worked through, for its room.
    pub fn give_back(&self, mut tokens: Vec<usize>) {
        tokens.clear();
        self.0.spare.replace(tokens);
    }

    /// Takes a token that could not be flushed yet.
    pub fn put_back(&self, token: usize) {
        self.add(token);
    }

    /// Resolves when there is something to flush.
    pub async fn wait(&self) {
        while self.is_empty() {
            self.0.added.notified().await;
        }
    }

    /// While hushed, whoever adds to the list flushes it too, and nobody need be told.
    pub fn hush(&self, hushed: bool) {
        self.0.hushed.set(hushed);
        if !hushed && !self.is_empty() {
            self.0.added.notify_one();
        }
    }

    fn add(&self, token: usize) {
        let mut tokens = self.0.tokens.borrow_mut();
        if tokens.is_empty() && !self.0.hushed.get() {
            self.0.added.notify_one();
        }
        tokens.push(token);
    }
}

/// The frames, in the order in which they go: `head`, `ping`, `frames`. A close is the last of `frames`.
#[derive(Debug, Default)]
struct Queue {
    /// The frame of which `written` bytes have gone.
    head: Option<Bytes>,
    written: usize,
    ping: Option<Bytes>,
    frames: VecDeque<Bytes>,
    /// Frames that have left `frames` since the beginning: a place in it plus this never changes.
    left: u64,
    pongs: usize,
    last_pong: u64,
    /// Bytes that wait; those of messages; how many these may be.
    bytes: usize,
    message_bytes: usize,
    bytes_max: usize,
    closed: bool,
    close: Option<(u16, Box<str>)>,
    close_sent: bool,
}

impl Queue {
    /// What would become of a message's frame of so many bytes.
    fn room_for(&self, bytes: usize) -> Push {
        if self.closed {
            return Push::Closed;
        }
        let over = self.message_bytes > 0 && self.message_bytes + bytes > self.bytes_max;
        if over || self.frames.len() >= FRAMES_MIN.max(self.bytes_max / FRAME_BYTES_MIN) {
            return Push::Full;
        }
        Push::Queued
    }

    fn put(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.message_bytes += frame.len();
        self.frames.push_back(frame);
    }

    fn push_control(&mut self, frame: Bytes) -> Push {
        if self.closed {
            return Push::Closed;
        }
        self.bytes += frame.len();
        if wire::kind(&frame) == Kind::Ping {
            let replaced = self.ping.replace(frame);
            self.bytes -= replaced.map_or(0, |ping| ping.len());
        } else if self.pongs < PONGS_MAX {
            self.pongs += 1;
            self.last_pong = self.left + self.frames.len() as u64;
            self.frames.push_back(frame);
        } else if let Some(pong) = self.frames.get_mut((self.last_pong - self.left) as usize) {
            self.bytes -= mem::replace(pong, frame).len();
        }
        Push::Queued
    }

    /// Whether this was the first close.
    fn close(&mut self, code: u16, reason: &str) -> bool {
        if self.closed {
            return false;
        }
        self.closed = true;
        if code == wire::ABNORMAL {
            self.clear();
            self.close = Some((code, "".into()));
            return true;
        }
        let frame = wire::encode_close(code, reason);
        let payload = wire::payload(&frame);
        let (code, reason) = wire::read_close(&payload);
        self.close = Some((code, reason.into()));
        self.bytes += frame.len();
        self.frames.push_back(frame);
        true
    }

    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let head = self.head.iter().map(|frame| &frame[self.written..]);
        head.chain(self.ping.iter().map(|frame| &frame[..])).chain(self.frames.iter().map(|frame| &frame[..]))
    }

    /// Drops `count` bytes from the front.
    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let Some(frame) = self.next_frame() else { break };
            let took = count.min(frame.len() - self.written);
            count -= took;
            if self.taken(&frame, took) {
                self.head = Some(frame);
            }
        }
        self.give_back_room();
    }

    fn next_frame(&mut self) -> Option<Bytes> {
        if let Some(frame) = self.head.take().or_else(|| self.ping.take()) {
            return Some(frame);
        }
        let frame = self.frames.pop_front()?;
        self.left += 1;
        if wire::kind(&frame) == Kind::Pong {
            self.pongs -= 1;
        }
        Some(frame)
    }

    /// Counts `took` more bytes of the first frame as gone; whether some of it is left.
    fn taken(&mut self, frame: &Bytes, took: usize) -> bool {
        self.bytes -= took;
        self.written += took;
        let kind = wire::kind(frame);
        if matches!(kind, Kind::Text | Kind::Binary) {
            self.message_bytes -= took;
        }
        if self.written < frame.len() {
            return true;
        }
        self.written = 0;
        self.close_sent |= kind == Kind::Close;
        false
    }

    fn give_back_room(&mut self) {
        if self.frames.is_empty() && self.frames.capacity() > ROOM_KEPT {
            self.frames = VecDeque::new();
        }
    }

    fn clear(&mut self) {
        *self = Queue {
            closed: true,
            bytes_max: self.bytes_max,
            close: self.close.take(),
            close_sent: self.close_sent,
            ..Queue::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{encode_close, encode_message, encode_ping, encode_pong};

    fn sent(len: usize) -> Message {
        let message = Message::new(&vec![b'm'; len - 2], true, None);
        assert_eq!(message.plain().len(), len);
        message
    }

    fn outbox(bytes_max: usize) -> Outbox {
        Outbox::new(bytes_max, Dirty::new())
    }

    /// A message whose frame has `len` bytes.
    fn message(len: usize) -> Bytes {
        let frame = encode_message(&vec![b'm'; len - 2], true);
        assert_eq!(frame.len(), len);
        frame
    }

    /// Lets the kernel take up to `most` bytes, and gives them.
    fn write(outbox: &Outbox, most: usize) -> Vec<u8> {
        let mut taken = Vec::new();
        let count = outbox.with_slices(|slices| {
            assert!(!slices.is_empty() && slices.len() <= SLICES_MAX);
            for slice in slices {
                assert!(!slice.is_empty());
                taken.extend_from_slice(&slice[..slice.len().min(most - taken.len())]);
            }
            Ok(taken.len())
        });
        assert_eq!(count.expect("the kernel takes them"), taken.len());
        taken
    }

    fn write_all(outbox: &Outbox) -> Vec<u8> {
        let mut taken = Vec::new();
        while !outbox.is_empty() {
            taken.extend(write(outbox, usize::MAX / 2));
        }
        taken
    }

    #[test]
    fn it_takes_messages_up_to_its_bound() {
        let outbox = outbox(20);
        assert_eq!(outbox.push(&sent(10)), Push::Queued);
        assert_eq!(outbox.push(&sent(10)), Push::Queued);
        assert_eq!(outbox.push(&sent(2)), Push::Full);
        assert_eq!(outbox.buffered(), 20);
        assert_eq!(write(&outbox, 2).len(), 2);
        assert_eq!(outbox.push(&sent(2)), Push::Queued);
        outbox.set_bytes_max(22);
        assert_eq!(outbox.push(&sent(2)), Push::Queued);
        assert_eq!(outbox.push(&sent(2)), Push::Full);
    }

    #[test]
    fn one_message_larger_than_the_bound_is_taken_when_no_other_waits() {
        let outbox = outbox(20);
        outbox.push_control(encode_pong(b"p"));
        assert_eq!(outbox.push(&sent(100)), Push::Queued);
        assert_eq!(outbox.push(&sent(2)), Push::Full);
        write(&outbox, 102);
        assert_eq!(outbox.push(&sent(100)), Push::Full);
        write_all(&outbox);
        assert_eq!(outbox.push(&sent(100)), Push::Queued);
    }

    #[test]
    fn tiny_messages_do_not_take_many_times_the_bound() {
        let outbox = outbox(320_000);
        let mut taken = 0;
        while outbox.push(&sent(2)) == Push::Queued {
            taken += 1;
        }
        assert_eq!(taken, 10_000);
    }

    #[test]
    fn what_waits_goes_before_the_close_and_nothing_after_it() {
        let outbox = outbox(20);
        outbox.push(&sent(20));
        outbox.close(4000, "bye");
        outbox.close(1011, "too late");
        assert_eq!(outbox.push(&sent(2)), Push::Closed);
        assert_eq!(outbox.push_control(encode_ping(b"")), Push::Closed);
        assert!(outbox.is_closed());
        assert_eq!(outbox.close_code(), Some((4000, "bye".to_owned())));
        let expected = [message(20), encode_close(4000, "bye")].concat();
        assert_eq!(write(&outbox, expected.len() - 1), expected[..expected.len() - 1]);
        assert!(!outbox.close_sent());
        assert_eq!(write_all(&outbox), expected[expected.len() - 1..]);
        assert!(outbox.close_sent() && outbox.is_empty());
    }

    #[test]
    fn a_close_is_remembered_as_the_peer_is_told_it() {
        for (code, reason, told) in [
            (1000, "", (1000, String::new())),
            (1013, "é".repeat(70).as_str(), (1013, "é".repeat(61))),
            (1005, "unsaid", (1005, String::new())),
            (999, "unsaid", (1005, String::new())),
        ] {
            let outbox = outbox(20);
            outbox.close(code, reason);
            assert_eq!(outbox.close_code(), Some(told.clone()));
            assert_eq!(outbox.take_messages(None), [Sent::Close { code: told.0, reason: told.1 }]);
            assert!(outbox.close_sent());
        }
    }

    #[test]
    fn an_abnormal_close_sends_nothing() {
        let outbox = outbox(20);
        outbox.push(&sent(10));
        outbox.close(1006, "no pong");
        assert_eq!(outbox.close_code(), Some((1006, String::new())));
        assert!(outbox.is_closed() && outbox.is_empty() && !outbox.close_sent());
        assert_eq!(outbox.push(&sent(2)), Push::Closed);
    }

    #[test]
    fn when_the_transport_is_gone_nothing_waits_and_nothing_is_taken() {
        let outbox = outbox(20);
        outbox.push(&sent(20));
        write(&outbox, 5);
        outbox.clear();
        assert_eq!((outbox.buffered(), outbox.close_code()), (0, None));
        assert_eq!(outbox.push(&sent(2)), Push::Closed);
        outbox.close(1000, "");
        assert_eq!((outbox.buffered(), outbox.close_code()), (0, None));
    }

    #[test]
    fn a_ping_goes_ahead_and_only_the_newest() {
        let outbox = outbox(20);
        outbox.push(&sent(10));
        outbox.push(&sent(10));
        write(&outbox, 1);
        outbox.push_control(encode_ping(b"older"));
        outbox.push_control(encode_ping(b"new"));
        assert_eq!(outbox.buffered(), 9 + 5 + 10);
        assert_eq!(write_all(&outbox), [&message(10)[1..], &encode_ping(b"new"), &message(10)].concat());
    }

    #[test]
    fn pongs_keep_their_places_until_there_are_many() {
        let outbox = outbox(1_000);
        let mut expected = Vec::new();
        for i in 0..16 {
            outbox.push_control(encode_pong(&[i]));
            outbox.push(&sent(10));
            expected.push(if i < 15 { encode_pong(&[i]) } else { encode_pong(b"newest") });
            expected.push(message(10));
        }
        for i in 16..100 {
            outbox.push_control(encode_pong(&[i]));
        }
        outbox.push_control(encode_pong(b"newest"));
        assert_eq!(outbox.buffered(), expected.concat().len());
        assert_eq!(write_all(&outbox), expected.concat());
    }

    #[test]
    fn a_failed_write_loses_nothing() {
        let outbox = outbox(100);
        outbox.push(&sent(10));
        let error = outbox.with_slices(|_| Err(io::ErrorKind::WouldBlock.into())).expect_err("it is passed on");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(write_all(&outbox), message(10));
        assert_eq!(outbox.with_slices(|_| unreachable!("nothing waits")).expect("nothing fails"), 0);
    }

    #[test]
    fn an_outbox_is_listed_once_until_it_is_flushed() {
        let dirty = Dirty::new();
        let outboxes: Vec<Outbox> = (0..3).map(|_| Outbox::new(100, dirty.clone())).collect();
        for (i, outbox) in outboxes.iter().enumerate() {
            outbox.set_token(10 + i);
        }
        outboxes[2].push(&sent(10));
        outboxes[0].push(&sent(10));
        outboxes[2].push(&sent(10));
        outboxes[2].close(1000, "");
        let list = dirty.take();
        assert_eq!(list, [12, 10]);
        assert!(dirty.is_empty());
        outboxes[2].push_control(encode_pong(b""));
        outboxes[0].mark_clean();
        outboxes[0].push(&sent(10));
        outboxes[0].push(&sent(110));
        assert_eq!(dirty.take(), [10]);
        let room = list.as_ptr();
        dirty.give_back(list);
        assert_eq!(dirty.take(), Vec::<usize>::new());
        outboxes[1].push(&sent(10));
        let list = dirty.take();
        assert_eq!((list.as_ptr(), list.as_slice()), (room, &[11][..]));
    }

    #[test]
    fn what_comes_before_there_is_a_connection_is_listed_with_it() {
        let dirty = Dirty::new();
        let outbox = Outbox::new(100, dirty.clone());
        outbox.push(&sent(10));
        assert!(dirty.is_empty());
        outbox.set_token(7);
        assert_eq!(dirty.take(), [7]);
        outbox.mark_clean();
        outbox.clear_token();
        outbox.push(&sent(10));
        assert!(dirty.is_empty());
    }

    #[test]
    fn an_idle_outbox_owns_next_to_nothing() {
        let outbox = outbox(100_000);
        for _ in 0..1_000 {
            outbox.push(&sent(10));
        }
        write_all(&outbox);
        assert!(outbox.queue.borrow().frames.capacity() <= ROOM_KEPT);
    }

    #[test]
    fn a_virtual_peer_gets_what_a_real_one_would() {
        let outbox = outbox(1_000);
        outbox.push(&Message::new(b"text", false, None));
        outbox.push_control(encode_pong(b"p"));
        write(&outbox, 3);
        outbox.push(&Message::new(&[0xff], true, None));
        outbox.push_control(encode_ping(b""));
        outbox.close(4001, "bye");
        assert_eq!(
            outbox.take_messages(None),
            [
                Sent::Message { data: "text".into(), binary: false },
                Sent::Ping,
                Sent::Pong,
                Sent::Message { data: Bytes::from_static(&[0xff]), binary: true },
                Sent::Close { code: 4001, reason: "bye".to_owned() },
            ]
        );
        assert_eq!((outbox.buffered(), outbox.close_sent()), (0, true));
    }

    /// The same queue without its cleverness: whole frames in a list, the first of them `written` bytes gone.
    #[derive(Default)]
    struct Model {
        frames: Vec<Bytes>,
        written: usize,
        bytes_max: usize,
        closed: bool,
    }

    impl Model {
        fn buffered(&self) -> usize {
            self.frames.concat().len() - self.written
        }

        fn messages(&self) -> usize {
            let is_message = |frame: &Bytes| wire::kind(frame) == Kind::Binary;
            let written = self.frames.first().filter(|first| is_message(first)).map_or(0, |_| self.written);
            self.frames.iter().filter(|frame| is_message(frame)).map(Bytes::len).sum::<usize>() - written
        }

        /// The places of the frames of which nothing is written.
        fn waiting(&self, kind: Kind) -> Vec<usize> {
            let begun = usize::from(self.written > 0);
            (begun..self.frames.len()).filter(|i| wire::kind(&self.frames[*i]) == kind).collect()
        }

        fn push(&mut self, frame: Bytes) -> Push {
            if self.closed {
                return Push::Closed;
            }
            let queued = self.waiting(Kind::Binary).len() + self.waiting(Kind::Pong).len();
            let over = self.messages() > 0 && self.messages() + frame.len() > self.bytes_max;
            if over || queued >= FRAMES_MIN.max(self.bytes_max / FRAME_BYTES_MIN) {
                return Push::Full;
            }
            self.frames.push(frame);
            Push::Queued
        }

        fn push_control(&mut self, frame: Bytes) -> Push {
            if self.closed {
                return Push::Closed;
            }
            let waiting = self.waiting(wire::kind(&frame));
            match wire::kind(&frame) {
                Kind::Ping if waiting.is_empty() => self.frames.insert(usize::from(self.written > 0), frame),
                Kind::Pong if waiting.len() < PONGS_MAX => self.frames.push(frame),
                _ => self.frames[waiting[waiting.len() - 1]] = frame,
            }
            Push::Queued
        }

        fn write(&mut self, most: usize) -> Vec<u8> {
            let mut taken = self.frames[..self.frames.len().min(SLICES_MAX)].concat().split_off(self.written);
            taken.truncate(most);
            self.written += taken.len();
            while self.frames.first().is_some_and(|first| first.len() <= self.written) {
                self.written -= self.frames.remove(0).len();
            }
            taken
        }
    }

    #[derive(Debug, Clone)]
    enum Act {
        Push(usize),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
        Write(usize),
        SetBytesMax(usize),
        Close(u16, String),
        Clear,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            30 => (2..60usize).prop_map(Act::Push),
            5 => prop::collection::vec(any::<u8>(), 0..4).prop_map(Act::Ping),
            30 => prop::collection::vec(any::<u8>(), 0..4).prop_map(Act::Pong),
            20 => (0..200usize).prop_map(Act::Write),
            1 => (0..300usize).prop_map(Act::SetBytesMax),
            1 => (3000..5000u16, "[a-z]{0,5}").prop_map(|(code, reason)| Act::Close(code, reason)),
            1 => Just(Act::Clear),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn it_behaves_like_a_plain_list_of_frames(
            bytes_max in 0..1_000usize,
            acts in prop::collection::vec(act(), 0..150),
        ) {
            let (outbox, mut model) = (outbox(bytes_max), Model { bytes_max, ..Model::default() });
            let mut close = None;
            for act in acts {
                match act {
                    Act::Push(len) => prop_assert_eq!(outbox.push(&sent(len)), model.push(message(len))),
                    Act::Ping(payload) => {
                        let frame = encode_ping(&payload);
                        prop_assert_eq!(outbox.push_control(frame.clone()), model.push_control(frame));
                    }
                    Act::Pong(payload) => {
                        let frame = encode_pong(&payload);
                        prop_assert_eq!(outbox.push_control(frame.clone()), model.push_control(frame));
                    }
                    Act::Write(most) if model.buffered() > 0 => prop_assert_eq!(write(&outbox, most), model.write(most)),
                    Act::Write(_) => prop_assert!(outbox.is_empty()),
                    Act::SetBytesMax(bytes_max) => {
                        outbox.set_bytes_max(bytes_max);
                        model.bytes_max = bytes_max;
                    }
                    Act::Close(code, reason) => {
                        outbox.close(code, &reason);
                        if !model.closed {
                            model.closed = true;
                            model.frames.push(encode_close(code, &reason));
                            close = Some((code, reason));
                        }
                    }
                    Act::Clear => {
                        outbox.clear();
                        model = Model { closed: true, bytes_max: model.bytes_max, ..Model::default() };
                    }
                }
                prop_assert_eq!(outbox.buffered(), model.buffered());
                prop_assert_eq!(outbox.is_closed(), model.closed);
                prop_assert_eq!(outbox.close_code(), close.clone());
            }
            let left = model.frames.concat().split_off(model.written);
            let closes = model.frames.last().is_some_and(|last| wire::kind(last) == Kind::Close);
            prop_assert_eq!(write_all(&outbox), left);
            prop_assert!(!closes || outbox.close_sent());
        }
    }
}
