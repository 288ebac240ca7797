//! The bus between instances: plain data, queued to the worker where an instance is at home.
//!
//! Sending never blocks and receiving never waits on sending, so no circle of workers can lock. Each
//! worker's queue is bounded in bytes (`limits.bus`): above the bound a publish is refused with `busy`;
//! above `limits.bus_pause` those who fill it stop reading their connections until it has drained.

mod directory;

pub use directory::{Directory, Turn};

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, mpsc};

use crate::{
    connection_id::ConnectionId,
    permission::{self, Rules},
    plain::Plain,
    wire,
};

/// What one instance asks of another.
#[derive(Debug, Clone)]
pub enum BusMessage {
    Publish {
        room: Arc<str>,
        message: wire::Message,
        except: Arc<[ConnectionId]>,
    },
    Broadcast {
        message: wire::Message,
        except: Arc<[ConnectionId]>,
    },
    Event {
        name: Arc<str>,
        data: Arc<Plain>,
        source: Arc<Plain>,
    },
    ConnSend {
        id: ConnectionId,
        message: wire::Message,
        droppable: bool,
    },
    ConnClose {
        id: ConnectionId,
        code: u16,
        reason: Arc<str>,
    },
    UserSend {
        user: Arc<str>,
        message: wire::Message,
        droppable: bool,
    },
    UserJoin {
        user: Arc<str>,
        room: Arc<str>,
        done: Ack,
    },
    UserLeave {
        user: Arc<str>,
        room: Arc<str>,
        done: Ack,
    },
    UserDisconnect {
        user: Arc<str>,
        code: u16,
        reason: Arc<str>,
        done: Ack,
    },
    UserAllow {
        user: Arc<str>,
        rules: Rules,
        done: Ack,
    },
    UserDeny {
        user: Arc<str>,
        rules: Rules,
        done: Ack,
    },
    UserReplaceAllow {
        user: Arc<str>,
        change: u64,
        computed: Computed,
        told: mpsc::UnboundedSender<Vec<Option<Rules>>>,
    },
    UserChangeEnds {
        user: Arc<str>,
        change: u64,
    },
    RoomDisconnect {
        room: Arc<str>,
        code: u16,
        reason: Arc<str>,
        done: Ack,
    },
}

impl BusMessage {
    fn bytes(&self) -> usize {
        const ENVELOPE: usize = 64;
        ENVELOPE
            + match self {
                BusMessage::Publish { message, .. }
                | BusMessage::Broadcast { message, .. }
                | BusMessage::ConnSend { message, .. }
                | BusMessage::UserSend { message, .. } => message.plain().len(),
                BusMessage::Event { data, .. } => data.bytes(),
                BusMessage::UserAllow { rules, .. } | BusMessage::UserDeny { rules, .. } => permission::bytes(rules),
                BusMessage::UserReplaceAllow { computed, .. } => {
                    let lists = computed.iter().flat_map(|(before, after)| before.iter().chain([after]));
                    lists.map(|rules| permission::bytes(rules)).sum()
                }
                _ => 0,
            }
    }
}

/// What a script has made of each list of rules that it was shown.
pub type Computed = Arc<[(Option<Rules>, Rules)]>;

/// Tells the asker, by being dropped, that its wish has been applied here.
pub type Ack = mpsc::Sender<()>;

/// A message under way to an instance.
#[derive(Debug)]
pub struct Letter {
    pub to: u16,
    pub message: BusMessage,
}

/// The sending end of one worker's queue.
#[derive(Debug, Clone)]
pub struct Post {
    letters: mpsc::UnboundedSender<Letter>,
    load: Arc<Load>,
}

/// The receiving end.
#[derive(Debug)]
pub struct Inbound {
    letters: mpsc::UnboundedReceiver<Letter>,
    load: Arc<Load>,
}

#[derive(Debug)]
struct Load {
    bytes: AtomicUsize,
    pause: usize,
    bytes_max: usize,
    drained: Notify,
}

impl Load {
    fn is_crowded(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.pause
    }
}

/// A worker's queue, bounded to `bytes_max` (`limits.bus`), crowded above `pause` (`limits.bus_pause`).
pub fn post(pause: usize, bytes_max: usize) -> (Post, Inbound) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let load = Arc::new(Load { bytes: AtomicUsize::new(0), pause, bytes_max, drained: Notify::new() });
    (Post { letters: sender, load: load.clone() }, Inbound { letters: receiver, load })
}

impl Inbound {
    pub async fn next(&mut self) -> Option<Letter> {
        let letter = self.letters.recv().await?;
        self.received(&letter);
        Some(letter)
    }

    pub fn try_next(&mut self) -> Option<Letter> {
        let letter = self.letters.try_recv().ok()?;
        self.received(&letter);
        Some(letter)
    }

    fn received(&self, letter: &Letter) {
        // What was there before is what the subtraction itself saw: senders add at the same time.
        let taken = letter.message.bytes();
        let before = self.load.bytes.fetch_sub(taken, Ordering::AcqRel);
        if before > self.load.pause && before - taken <= self.load.pause {
            self.load.drained.notify_waiters();
        }
    }
}

/// An app's instances, as one of them reaches the others.
#[derive(Debug, Clone)]
pub struct Bus {
    /// By the instance's place in its app.
    members: Arc<[(u16, Post)]>,
}

impl Bus {
    /// `members`: each instance's number and its worker's queue, in the app's order.
    pub fn new(members: impl IntoIterator<Item = (u16, Post)>) -> Bus {
        Bus { members: members.into_iter().collect() }
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The places of all instances.
    pub fn everyone(&self) -> impl Iterator<Item = u16> + use<> {
        (0..self.members.len()).map(|place| u16::try_from(place).expect("an app has at most 65,536 instances"))
    }

    /// The place of the instance whose number is `number`.
    pub fn place_of(&self, number: u16) -> Option<u16> {
        self.members.iter().position(|(n, _)| *n == number).and_then(|place| u16::try_from(place).ok())
    }

    /// Whether one of `places` has more waiting than it may: then nothing more is to be published to them.
    pub fn is_busy(&self, places: &[u16]) -> bool {
        places.iter().any(|place| {
            let load = &self.members[usize::from(*place)].1.load;
            load.bytes.load(Ordering::Relaxed) > load.bytes_max
        })
    }

    /// Queues `message` for the instance at `place`; false only once that worker has stopped.
    pub fn send(&self, place: u16, message: BusMessage) -> bool {
        let (number, post) = &self.members[usize::from(place)];
        let bytes = message.bytes();
        post.load.bytes.fetch_add(bytes, Ordering::Relaxed);
        let sent = post.letters.send(Letter { to: *number, message }).is_ok();
        if !sent {
            // Nobody will take it out again, and those who wait for it to drain must not wait for ever.
            post.load.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        sent
    }

    /// Resolves once no worker of this app is crowded; those who read sockets wait for it.
    pub async fn uncrowded(&self) {
        for (_, post) in self.members.iter() {
            loop {
                let drained = post.load.drained.notified();
                if !post.load.is_crowded() {
                    break;
                }
                drained.await;
            }
        }
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.members.iter().all(|(_, post)| post.load.bytes.load(Ordering::Relaxed) == 0)
    }

    pub fn is_crowded(&self) -> bool {
        self.members.iter().any(|(_, post)| post.load.is_crowded())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(bytes: usize) -> BusMessage {
        BusMessage::Broadcast { message: wire::Message::new(&vec![0; bytes], true, None), except: Arc::from([]) }
    }

    #[tokio::test]
    async fn a_full_queue_is_busy_and_a_crowded_one_tells_when_it_has_drained() {
        let (post, mut inbound) = post(500, 1000);
        let bus = Bus::new([(9, post)]);
        assert!(!bus.is_crowded());
        bus.send(0, publish(600));
        assert!(bus.is_crowded() && !bus.is_busy(&[0]));
        bus.send(0, publish(600));
        assert!(bus.is_busy(&[0]));

        let waiter = bus.clone();
        let waiting = async move { waiter.uncrowded().await };
        let draining = async {
            assert_eq!(inbound.next().await.map(|letter| letter.to), Some(9));
            assert!(bus.is_crowded());
            inbound.next().await;
        };
        tokio::join!(waiting, draining);
        assert!(!bus.is_busy(&[0]));
    }
}
