//! One task for each connection: reads while it may, hands whole messages to the instance, drains the outbox.

mod link;
pub mod stream;

pub use link::{Link, Links};

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use crate::{
    app::{Instance, Lane},
    config,
    wire::{self, Decoder, DecoderLimits, Event, Inflater, Input},
};

/// Messages that are handled before the other connections have their turn.
const TURN_MESSAGES: usize = 32;

/// The lane that a connection's messages go to. A peer that is upgraded only to be closed has none.
pub type Home = Option<(Rc<Instance>, Rc<Lane>)>;

/// A connection's task, from the 101 to the end of its transport.
pub struct Connection {
    links: Rc<Links>,
    link: Rc<Link>,
    home: Home,
    /// The app as of the generation that handled the last message, for its limits.
    app: Arc<config::App>,
    decoder: Decoder,
    /// Nothing is decoded after a close frame or a fault: what still comes is read and discarded.
    decoding: bool,
    /// Read, but not handled yet: the turn was over, or the inbox full.
    pending: Vec<u8>,
    /// The instance knows how the connection ends.
    told: bool,
    half_closed: bool,
    close_deadline: Option<Instant>,
    partial_since: Option<Instant>,
    heard: Instant,
    /// When the ping was sent that nothing has answered yet.
    pinged: Option<Instant>,
    /// Why it reads nothing for now, and so cannot hear the peer.
    paused: Option<Pause>,
    messages: Rate,
}

/// A bucket of messages that fills at `limits.message_rate`.
struct Rate {
    left: f64,
    since: Instant,
}

/// Why a connection is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// Its inbox is full.
    Inbox,
    /// A worker of its app has more waiting than `limits.bus_pause`.
    Bus,
}

enum Happened {
    Read(usize),
    /// The peer has ended its side, or the transport failed.
    Ended,
    /// The outbox was closed or is blocked, the transport failed, or the inbox has room again.
    Woken,
    Writable,
    Late,
}

impl Connection {
    /// `read` is what came behind the handshake.
    pub fn new(
        links: Rc<Links>,
        link: Rc<Link>,
        home: Home,
        app: Arc<config::App>,
        inflater: Option<Inflater>,
        read: Bytes,
    ) -> Connection {
        let now = Instant::now();
        Connection {
            links,
            link,
            home,
            decoder: Decoder::new(inflater),
            decoding: true,
            pending: read.to_vec(),
            told: false,
            half_closed: false,
            close_deadline: None,
            partial_since: None,
            heard: now,
            pinged: None,
            paused: None,
            messages: Rate { left: app.limits.message_rate as f64, since: now },
            app,
        }
    }

    /// Serves the connection until its transport ends.
    pub async fn run(mut self) {
        let mut timer = Box::pin(tokio::time::sleep_until(self.deadline()));
        loop {
            self.take_turn_of_pending().await;
            if self.settle() {
                return;
            }
            let deadline = self.deadline();
            if deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            match self.next(&mut timer).await {
                Happened::Read(count) => {
                    self.heard = Instant::now();
                    self.pinged = None;
                    self.refresh_app();
                    let links = self.links.clone();
                    let mut buffer = links.lend_buffer();
                    self.turn(&mut buffer[..count]);
                }
                Happened::Ended => return,
                Happened::Woken => {}
                Happened::Writable => self.link.unblocked(),
                Happened::Late => {
                    let now = Instant::now();
                    if self.deadline() <= now && !self.late(now) {
                        return;
                    }
                    timer.as_mut().reset(self.deadline());
                }
            }
        }
    }

    /// Handles what was read before, as far as it may, and finds out whether more may be read.
    async fn take_turn_of_pending(&mut self) {
        loop {
            // Asked once: a bus that drains just now must not let new bytes overtake the pending ones.
            let pause = self.must_pause();
            if pause.is_some() || self.pending.is_empty() {
                self.pause(pause);
                return;
            }
            let mut bytes = std::mem::take(&mut self.pending);
            self.turn(&mut bytes);
            if !self.pending.is_empty() {
                tokio::task::yield_now().await;
            }
        }
    }

    fn pause(&mut self, pause: Option<Pause>) {
        if self.paused.is_some() && pause.is_none() {
            // The peer could not be heard meanwhile: its time begins anew.
            self.heard = Instant::now();
            self.pinged = self.pinged.map(|_| self.heard);
        }
        self.paused = pause;
    }

    fn refresh_app(&mut self) {
        if let Some((instance, _)) = &self.home {
            instance.refresh_app(&mut self.app);
        }
    }

    /// Why nothing more is to be read or handled, if it is not.
    fn must_pause(&self) -> Option<Pause> {
        let (instance, lane) = self.home.as_ref().filter(|_| self.decoding && !self.told)?; // else what comes is discarded
        if instance.is_full(lane) {
            Some(Pause::Inbox)
        } else if instance.hub().bus().is_crowded() {
            Some(Pause::Bus)
        } else {
            None
        }
    }

    /// Tells the instance of the first close, and whether the transport has done its work.
    fn settle(&mut self) -> bool {
        let outbox = self.link.outbox.clone();
        if self.link.is_broken() {
            // What came in whole before is still there to be read.
            self.close_deadline.get_or_insert_with(|| Instant::now() + self.app.limits.close_timeout);
            return false;
        }
        if let Some((code, reason)) = outbox.close_code() {
            self.close_deadline.get_or_insert_with(|| Instant::now() + self.app.limits.close_timeout);
            self.tell(code, reason);
            if code == wire::ABNORMAL {
                return true;
            }
        }
        if outbox.close_sent() && !self.half_closed {
            // The peer is given the time to read it: to close now with bytes unread would reset the transport,
            // and a reset can overtake the close frame.
            self.half_closed = true;
            return !self.link.shutdown_write();
        }
        false
    }

    fn tell(&mut self, code: u16, reason: String) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        if let Some((instance, lane)) = &self.home {
            instance.closed(lane, code, reason);
        }
    }

    // ── waiting ──

    async fn next(&self, timer: &mut Pin<Box<Sleep>>) -> Happened {
        let woken = self.link.wake.notified();
        tokio::pin!(woken);
        let happened = poll_fn(|cx| self.poll_next(cx, timer, woken.as_mut()));
        match (&self.paused, &self.home) {
            (Some(Pause::Inbox), Some((_, lane))) => tokio::select! {
                happened = happened => happened,
                () = lane.drained.notified() => Happened::Woken,
            },
            (Some(Pause::Bus), Some((instance, _))) => tokio::select! {
                happened = happened => happened,
                () = instance.hub().bus().uncrowded() => Happened::Woken,
            },
            _ => happened.await,
        }
    }

    fn poll_next(
        &self,
        cx: &mut Context<'_>,
        timer: &mut Pin<Box<Sleep>>,
        woken: Pin<&mut impl Future<Output = ()>>,
    ) -> Poll<Happened> {
        if woken.poll(cx).is_ready() {
            return Poll::Ready(Happened::Woken);
        }
        if self.paused.is_none()
            && let Poll::Ready(read) = self.links.poll_read(&self.link, cx)
        {
            return Poll::Ready(match read {
                Ok(0) | Err(_) => Happened::Ended,
                Ok(count) => Happened::Read(count),
            });
        }
        if self.link.is_blocked() && self.link.poll_writable(cx).is_ready() {
            return Poll::Ready(Happened::Writable);
        }
        timer.as_mut().poll(cx).map(|()| Happened::Late)
    }

    // ── time ──

    /// When something is due: the end of a close or of a message, a ping, or the answer to one.
    fn deadline(&self) -> Instant {
        if let Some(deadline) = self.close_deadline {
            return deadline;
        }
        let mut deadline = match self.pinged {
            Some(pinged) => pinged + self.app.limits.pong_timeout,
            None => self.heard + self.app.limits.ping_interval,
        };
        if self.paused.is_some() {
            deadline = Instant::now() + self.app.limits.ping_interval;
        }
        match self.partial_since {
            Some(since) if self.paused.is_none() => deadline.min(since + self.app.limits.message_timeout),
            _ => deadline,
        }
    }

    /// Does what is due; false if the connection is over.
    fn late(&mut self, now: Instant) -> bool {
        if self.close_deadline.is_some() {
            return false;
        }
        if self.partial_since.is_some_and(|since| since + self.app.limits.message_timeout <= now) {
            let reason = format!(
                "a message took longer than limits.message_timeout ({} s)",
                self.app.limits.message_timeout.as_secs_f64()
            );
            self.link.outbox.close(wire::POLICY, &reason);
            self.decoding = false;
            self.partial_since = None;
        } else if self.pinged.is_some() {
            return false; // gone without a word: 1006
        } else {
            self.link.outbox.push_control(wire::encode_ping(b""));
            self.link.outbox.rest();
            self.pinged = Some(now);
        }
        true
    }

    // ── what came in ──

    /// One turn: what it causes for others is written at its end.
    fn turn(&mut self, bytes: &mut [u8]) {
        let links = self.links.clone();
        let _turn = links.begin_turn();
        self.handle(bytes);
    }

    fn handle(&mut self, bytes: &mut [u8]) {
        if !self.decoding {
            return;
        }
        let limits = DecoderLimits { message: self.app.limits.message, fragments: self.app.limits.fragments };
        let mut input = Input::new(bytes);
        let mut messages = 0;
        loop {
            let rest = messages >= TURN_MESSAGES || (messages > 0 && self.must_pause().is_some());
            if rest {
                self.pending = input.rest().to_vec();
                break;
            }
            match self.decoder.next(&mut input, &limits) {
                Ok(None) => break,
                Ok(Some(Event::Message { data, binary })) => {
                    messages += 1;
                    if self.app.limits.message_rate > 0 && !self.messages.take(self.app.limits.message_rate as f64) {
                        let reason = format!(
                            "more messages than limits.message_rate ({} each second)",
                            self.app.limits.message_rate
                        );
                        self.link.outbox.close(wire::POLICY, &reason);
                        self.decoding = false;
                        break;
                    }
                    if let Some((instance, lane)) = &self.home {
                        instance.message(lane, data, binary);
                    }
                }
                Ok(Some(Event::Ping(payload))) => {
                    self.link.outbox.push_control(wire::encode_pong(payload));
                }
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close { code, reason })) => {
                    let (code, reason) = (code.unwrap_or(wire::NO_STATUS), reason.to_owned());
                    // A message of this very turn may have had it closed by the script.
                    let (first, told) = self.link.outbox.close_code().unwrap_or((code, reason));
                    self.tell(first, told);
                    self.link.outbox.close(code, "");
                    self.decoding = false;
                    break;
                }
                Err(fault) => {
                    self.link.outbox.close(fault.code, &fault.reason);
                    self.decoding = false;
                    break;
                }
            }
        }
        self.partial_since = match (self.decoding && self.decoder.is_partial(), self.partial_since) {
            (false, _) => None,
            (true, Some(since)) if messages == 0 => Some(since),
            (true, _) => Some(Instant::now()),
        };
    }
}

impl Rate {
    fn take(&mut self, per_second: f64) -> bool {
        let now = Instant::now();
        let filled = now.duration_since(self.since).as_secs_f64() * per_second;
        self.since = now;
        self.left = (self.left + filled).min(per_second.max(1.0));
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}
