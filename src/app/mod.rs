//! An app: its instances, and what the rest of the relay asks of them.
//!
//! An instance lives on one worker's thread. Others reach it through an [`InstanceHandle`], with plain data.

mod generation;
mod instance;
mod lane;
mod verdict;

pub use instance::Instance;
pub use lane::Lane;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    config,
    identity::{Response, Verdict},
    peer::Request,
    script::{Plan, ScriptError},
};

/// What is asked of an instance from another thread, or by the handshake.
pub enum Order {
    Authenticate {
        request: Box<Request>,
        reply: oneshot::Sender<(Verdict, Box<Request>)>,
    },
    /// A plain HTTP request; None if the script has no `on_request`.
    Request {
        request: Box<Request>,
        reply: oneshot::Sender<Option<Response>>,
    },
    /// Loads a generation beside the running one.
    Prepare {
        plan: Plan,
        reply: oneshot::Sender<Result<Prepared, ScriptError>>,
    },
    /// Starts no callback from now on, and carries `relay.state` over to what was prepared.
    Hold {
        reply: oneshot::Sender<Result<(), ScriptError>>,
    },
    /// Switches to what was prepared.
    Commit {
        reply: oneshot::Sender<()>,
    },
    /// Drops what was prepared, and goes on as before.
    Release,
    /// Closes every connection, runs what callbacks are due, then `on_stop`.
    Stop {
        reason: String,
        /// Callbacks that wait longer than this are cancelled.
        grace: Duration,
        reply: oneshot::Sender<()>,
    },
}

/// What a preparation has found.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub version: i64,
    pub callbacks: Vec<&'static str>,
}

/// The way to one instance, from any thread.
#[derive(Debug, Clone)]
pub struct InstanceHandle {
    /// Its number among all instances of the process.
    pub number: u16,
    /// The worker that it is at home on.
    pub worker: usize,
    orders: mpsc::UnboundedSender<Order>,
    connections: Arc<AtomicUsize>,
}

impl InstanceHandle {
    /// A handle, and what the instance itself takes its orders from.
    pub fn new(number: u16, worker: usize) -> (InstanceHandle, mpsc::UnboundedReceiver<Order>) {
        let (orders, inbound) = mpsc::unbounded_channel();
        (InstanceHandle { number, worker, orders, connections: Arc::default() }, inbound)
    }

    /// False once the instance has ended.
    pub fn ask(&self, order: Order) -> bool {
        self.orders.send(order).is_ok()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection for as long as the guard lives.
    pub fn count_one(&self) -> Counted {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Counted(self.connections.clone())
    }

    pub async fn authenticate(&self, request: Box<Request>) -> Option<(Verdict, Box<Request>)> {
        let (reply, answer) = oneshot::channel();
        self.ask(Order::Authenticate { request, reply });
        answer.await.ok()
    }

    /// None if the instance has ended; `Some(None)` if its script has no `on_request`.
    pub async fn request(&self, request: Box<Request>) -> Option<Option<Response>> {
        let (reply, answer) = oneshot::channel();
        self.ask(Order::Request { request, reply });
        answer.await.ok()
    }
}

/// A connection that is counted for its instance, so that new ones go to the least loaded.
#[derive(Debug)]
pub struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The instances of one app, as every worker knows them.
#[derive(Debug, Clone)]
pub struct App {
    pub name: Arc<str>,
    pub instances: Arc<[InstanceHandle]>,
}

impl App {
    /// The instance that is to be asked for a verdict: one on this worker if there is one.
    pub fn nearest(&self, worker: usize) -> &InstanceHandle {
        self.instances.iter().find(|instance| instance.worker == worker).unwrap_or_else(|| self.least_loaded())
    }

    pub fn least_loaded(&self) -> &InstanceHandle {
        self.instances.iter().min_by_key(|instance| instance.connections()).expect("an app has at least one instance")
    }

    /// The instance of a connection: equal keys go to the same one.
    pub fn instance_for(
        &self,
        shard_by: Option<&config::ShardBy>,
        request: &Request,
        user: Option<&str>,
    ) -> &InstanceHandle {
        use config::ShardBy;
        let find = |pairs: &[(String, bytes::Bytes)], name: &str| {
            pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.to_vec())
        };
        let key = shard_by.and_then(|shard_by| match shard_by {
            ShardBy::Param(name) => {
                request.params.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone().into_bytes())
            }
            ShardBy::Query(name) => find(&request.query, name),
            ShardBy::Header(name) => find(&request.headers, name),
            ShardBy::User => user.map(|user| user.as_bytes().to_vec()),
        });
        match key {
            Some(key) => &self.instances[shard(&key, self.instances.len())],
            // Nothing to go by: any will do.
            None => self.least_loaded(),
        }
    }
}

/// The place of a key among `count`: FNV-1a, so that it is the same in every process and release.
fn shard(key: &[u8], count: usize) -> usize {
    let hash = key
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    usize::try_from(hash % count as u64).expect("it is below a usize")
}
