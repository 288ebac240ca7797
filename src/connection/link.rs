//! The links of one worker: each connection's stream beside its outbox, and the flush that joins them.

use std::{
    cell::{Cell, RefCell},
    io,
    ops::{Deref, DerefMut},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use slab::Slab;
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::Notify,
};

use crate::{
    connection::stream::Stream,
    outbox::{Dirty, Outbox},
    wire::Zlib,
};

/// What all connections of a worker read into, one after the other.
const BUFFER_BYTES: usize = 64 * 1024;

/// Outboxes that are written before other tasks have their turn.
const FLUSH_AT_ONCE: usize = 256;

/// A connection's stream and outbox. The outbox's token is its place in [`Links`].
pub struct Link {
    pub outbox: Rc<Outbox>,
    stream: RefCell<Stream>,
    /// The kernel takes no more for now; the connection's task waits until it does.
    blocked: Cell<bool>,
    broken: Cell<bool>,
    /// For the connection's task: the outbox was closed, is blocked, or the transport failed.
    pub wake: Notify,
}

impl Link {
    pub fn new(stream: Stream, outbox: Rc<Outbox>) -> Link {
        Link {
            outbox,
            stream: RefCell::new(stream),
            blocked: Cell::new(false),
            broken: Cell::new(false),
            wake: Notify::new(),
        }
    }

    /// Writes what waits, as far as the kernel takes it.
    fn flush(&self) {
        self.outbox.mark_clean();
        if !self.blocked.get() && !self.broken.get() {
            self.write();
        }
        if self.outbox.is_closed() {
            self.wake.notify_one();
        }
    }

    fn write(&self) {
        while !self.outbox.is_empty() {
            match self.outbox.with_slices(|slices| self.stream.borrow().try_write_vectored(slices)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked.set(true);
                    self.wake.notify_one();
                    return;
                }
                Err(_) => {
                    self.broken.set(true);
                    self.outbox.clear();
                    self.wake.notify_one();
                    return;
                }
            }
        }
    }

    pub fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    pub fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// The kernel takes more again.
    pub fn unblocked(&self) {
        self.blocked.set(false);
        self.write();
    }

    pub fn poll_read(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(into);
        let poll = Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut buffer);
        poll.map_ok(|()| buffer.filled().len())
    }

    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.borrow().poll_write_ready(cx)
    }

    /// Ends our side of the transport; false if it is gone already.
    pub fn shutdown_write(&self) -> bool {
        self.stream.borrow().shutdown_write().is_ok()
    }
}

/// All links of one worker.
pub struct Links {
    links: RefCell<Slab<Rc<Link>>>,
    dirty: Dirty,
    buffer: RefCell<Vec<u8>>,
    zlib: Rc<Zlib>,
}

impl Default for Links {
    fn default() -> Links {
        Links {
            links: RefCell::default(),
            dirty: Dirty::new(),
            buffer: RefCell::new(vec![0; BUFFER_BYTES]),
            zlib: Rc::default(),
        }
    }
}

impl Links {
    /// The list that the outboxes of this worker put themselves on.
    pub fn dirty(&self) -> Dirty {
        self.dirty.clone()
    }

    /// What its connections compress and inflate with.
    pub fn zlib(&self) -> Rc<Zlib> {
        self.zlib.clone()
    }

    pub fn add(&self, link: Rc<Link>) -> usize {
        let outbox = link.outbox.clone();
        let token = self.links.borrow_mut().insert(link);
        outbox.set_token(token);
        token
    }

    /// Forgets a link whose transport is gone.
    pub fn remove(&self, token: usize) {
        let link = self.links.borrow_mut().remove(token);
        link.outbox.clear_token();
        link.outbox.clear();
    }

    pub fn len(&self) -> usize {
        self.links.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.links.borrow().is_empty()
    }

    /// Writes what the turn of one connection has queued for others.
    pub fn flush(&self) {
        let tokens = self.dirty.take();
        let (now, later) = tokens.split_at(tokens.len().min(FLUSH_AT_ONCE));
        for token in now {
            self.flush_one(*token);
        }
        for token in later {
            self.dirty.put_back(*token);
        }
        self.dirty.give_back(tokens);
    }

    fn flush_one(&self, token: usize) {
        let link = self.links.borrow().get(token).cloned();
        if let Some(link) = link {
            link.flush();
        }
    }

    /// Flushes what is queued outside of a connection's turn: by timers, the bus, callbacks that waited.
    pub async fn flush_forever(&self) {
        loop {
            self.dirty.wait().await;
            self.flush();
            tokio::task::yield_now().await;
        }
    }

    /// A connection's turn begins: it flushes at its end, so nobody else need wake up for it.
    pub fn begin_turn(&self) -> Turn<'_> {
        self.dirty.hush(true);
        Turn(self)
    }

    /// Reads into the buffer that all share.
    pub fn poll_read(&self, link: &Link, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        link.poll_read(cx, &mut self.buffer.borrow_mut())
    }

    /// The buffer, while what was read is handled.
    pub fn lend_buffer(&self) -> Lent<'_> {
        Lent { bytes: self.buffer.take(), links: self }
    }
}

/// Ends a connection's turn when it is dropped, even by a panic.
pub struct Turn<'a>(&'a Links);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.flush();
        self.0.dirty.hush(false);
    }
}

/// The shared buffer, which comes back when this is dropped, even by a panic: the others would read nothing without it.
pub struct Lent<'a> {
    bytes: Vec<u8>,
    links: &'a Links,
}

impl Deref for Lent<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        *self.links.buffer.borrow_mut() = std::mem::take(&mut self.bytes);
    }
}
