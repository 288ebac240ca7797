//! Who may come in: counts the connections and keeps them within the limits.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::{PeerAddr, is_among};
use crate::config::Limits;

/// Counts who is in, and lets in whom the limits allow. One for all of a server's threads.
#[derive(Debug, Clone)]
pub struct Gate {
    state: Arc<Mutex<State>>,
}

/// How many connections there are, and how many were turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Handshake done.
    pub open: usize,
    pub pending: usize,
    /// Addresses with a connection; those without a bound of their own are not among them.
    pub addresses: usize,
    /// Let in since the start.
    pub accepted: u64,
    /// Turned away since the start, by the limit that they met.
    pub refused_connections: u64,
    pub refused_connections_per_address: u64,
    pub refused_pending_handshakes: u64,
    pub refused_pending_handshakes_per_address: u64,
}

#[derive(Debug)]
struct State {
    caps: Caps,
    counts: Counts,
    addresses: HashMap<IpAddr, Held>,
    /// When a refusal was last logged, and how many have not been since.
    logged: Option<Instant>,
    unlogged: u64,
}

#[derive(Debug)]
struct Caps {
    connections: usize,
    connections_per_address: usize,
    pending_handshakes: usize,
    pending_handshakes_per_address: usize,
    silence: Duration,
    trusted: Vec<IpNet>,
}

/// What one address holds.
#[derive(Debug, Default)]
struct Held {
    connections: usize,
    pending: usize,
}

impl Gate {
    pub fn new(limits: &Limits, trusted: &[IpNet]) -> Gate {
        Gate {
            state: Arc::new(Mutex::new(State {
                caps: Caps::new(limits, trusted),
                counts: Counts::default(),
                addresses: HashMap::new(),
                logged: None,
                unlogged: 0,
            })),
        }
    }

    /// New limits, for those who come from now on; nobody is sent away.
    pub fn update(&self, limits: &Limits, trusted: &[IpNet]) {
        self.lock().caps = Caps::new(limits, trusted);
    }

    pub fn counts(&self) -> Counts {
        let state = self.lock();
        Counts { addresses: state.addresses.len(), ..state.counts }
    }

    /// A place for a new connection, at first as a pending handshake.
    pub fn enter(&self, peer: &PeerAddr) -> Result<Permit, OverLimit> {
        let mut state = self.lock();
        let state = &mut *state;
        let address = peer.ip().filter(|_| !peer.is_trusted(&state.caps.trusted)).and_then(counted);
        let result = state.check_whole().and_then(|()| state.check_address(address, true));
        if let Err(over) = result {
            state.refuse(over);
            return Err(over);
        }
        state.counts.pending += 1;
        state.counts.accepted += 1;
        state.hold(address, true);
        Ok(Permit { gate: self.clone(), address, pending: true, accepted_at: Instant::now() })
    }

    /// How long a peer may leave what was sent to it unacknowledged.
    pub(super) fn silence(&self) -> Duration {
        self.lock().caps.silence
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts are changed in steps that cannot panic, so they are right even then.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caps {
    fn new(limits: &Limits, trusted: &[IpNet]) -> Caps {
        Caps {
            connections: limits.connections,
            connections_per_address: limits.connections_per_address,
            pending_handshakes: limits.pending_handshakes,
            pending_handshakes_per_address: limits.pending_handshakes_per_address,
            silence: limits.ping_interval + limits.pong_timeout,
            trusted: trusted.to_vec(),
        }
    }
}

impl State {
    fn check_whole(&self) -> Result<(), OverLimit> {
        if self.counts.open + self.counts.pending >= self.caps.connections {
            return Err(OverLimit::Connections(self.caps.connections));
        }
        if self.counts.pending >= self.caps.pending_handshakes {
            return Err(OverLimit::PendingHandshakes(self.caps.pending_handshakes));
        }
        Ok(())
    }

    fn check_address(&self, address: Option<IpAddr>, pending: bool) -> Result<(), OverLimit> {
        let Some(held) = address.and_then(|address| self.addresses.get(&address)) else {
            return Ok(());
        };
        let (connections, handshakes) = (self.caps.connections_per_address, self.caps.pending_handshakes_per_address);
        if connections > 0 && held.connections >= connections {
            return Err(OverLimit::ConnectionsPerAddress(connections));
        }
        if pending && handshakes > 0 && held.pending >= handshakes {
            return Err(OverLimit::PendingHandshakesPerAddress(handshakes));
        }
        Ok(())
    }

    fn hold(&mut self, address: Option<IpAddr>, pending: bool) {
        let Some(address) = address else { return };
        let held = self.addresses.entry(address).or_default();
        held.connections += 1;
        held.pending += usize::from(pending);
    }

    fn release(&mut self, address: Option<IpAddr>, pending: bool) {
        let Some(address) = address else { return };
        let Some(held) = self.addresses.get_mut(&address) else {
            return;
        };
        held.connections -= 1;
        held.pending -= usize::from(pending);
        if held.connections == 0 {
            self.addresses.remove(&address);
        }
    }

    /// Counts it, and logs it unless another was logged within the last second.
    fn refuse(&mut self, over: OverLimit) {
        *match over {
            OverLimit::Connections(_) => &mut self.counts.refused_connections,
            OverLimit::ConnectionsPerAddress(_) => &mut self.counts.refused_connections_per_address,
            OverLimit::PendingHandshakes(_) => &mut self.counts.refused_pending_handshakes,
            OverLimit::PendingHandshakesPerAddress(_) => &mut self.counts.refused_pending_handshakes_per_address,
        } += 1;
        let now = Instant::now();
        if self.logged.is_some_and(|logged| now.duration_since(logged) < Duration::from_secs(1)) {
            self.unlogged += 1;
            return;
        }
        self.logged = Some(now);
        tracing::warn!(suppressed = std::mem::take(&mut self.unlogged), "a connection was turned away: {over}");
    }
}

/// The address to count under, if it has a bound. An IPv6 network of 64 bits is one address:
/// whoever has one address of it mostly has them all.
fn counted(ip: IpAddr) -> Option<IpAddr> {
    match ip.to_canonical() {
        ip if ip.is_loopback() => None,
        IpAddr::V6(ip) => Some(IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64))),
        ip => Some(ip),
    }
}

/// One connection's place. Dropped, the place is free again.
#[derive(Debug)]
pub struct Permit {
    gate: Gate,
    /// None: an address without a bound of its own.
    address: Option<IpAddr>,
    pending: bool,
    accepted_at: Instant,
}

impl Permit {
    /// When the connection came in, from which its handshake's time runs.
    pub fn accepted_at(&self) -> Instant {
        self.accepted_at
    }

    /// The handshake is over: an open connection from now on.
    pub fn admitted(&mut self) {
        if !std::mem::replace(&mut self.pending, false) {
            return;
        }
        let mut state = self.gate.lock();
        state.counts.pending -= 1;
        state.counts.open += 1;
        if let Some(held) = self.address.and_then(|address| state.addresses.get_mut(&address)) {
            held.pending -= 1;
        }
    }

    /// A handshake behind plain requests is as pending as any. Refused, it stays where it was.
    pub fn pending_again(&mut self) -> Result<(), OverLimit> {
        if self.pending {
            return Ok(());
        }
        let mut state = self.gate.lock();
        let (limit, of_address) = (state.caps.pending_handshakes, state.caps.pending_handshakes_per_address);
        let held = self.address.and_then(|address| state.addresses.get(&address)).map_or(0, |held| held.pending);
        let over = if state.counts.pending >= limit {
            Some(OverLimit::PendingHandshakes(limit))
        } else if of_address > 0 && held >= of_address {
            Some(OverLimit::PendingHandshakesPerAddress(of_address))
        } else {
            None
        };
        if let Some(over) = over {
            state.refuse(over);
            return Err(over);
        }
        state.counts.open -= 1;
        state.counts.pending += 1;
        if let Some(held) = self.address.and_then(|address| state.addresses.get_mut(&address)) {
            held.pending += 1;
        }
        self.pending = true;
        Ok(())
    }

    /// Counts it under the address that a trusted proxy forwards. Refused, it stays where it was.
    pub fn readdress(&mut self, ip: IpAddr) -> Result<(), OverLimit> {
        let mut state = self.gate.lock();
        let address = Some(ip).filter(|ip| !is_among(*ip, &state.caps.trusted)).and_then(counted);
        if address == self.address {
            return Ok(());
        }
        if let Err(over) = state.check_address(address, self.pending) {
            state.refuse(over);
            return Err(over);
        }
        state.release(self.address, self.pending);
        state.hold(address, self.pending);
        self.address = address;
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        match self.pending {
            true => state.counts.pending -= 1,
            false => state.counts.open -= 1,
        }
        state.release(self.address, self.pending);
    }
}

/// The limit that a connection met, with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverLimit {
    Connections(usize),
    ConnectionsPerAddress(usize),
    PendingHandshakes(usize),
    PendingHandshakesPerAddress(usize),
}

impl fmt::Display for OverLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OverLimit::Connections(n) => {
                write!(f, "the relay has as many connections as `limits.connections` allows ({n})")
            }
            OverLimit::ConnectionsPerAddress(n) => {
                write!(f, "this address has as many connections as `limits.connections_per_address` allows ({n})")
            }
            OverLimit::PendingHandshakes(n) => {
                write!(f, "as many handshakes are under way as `limits.pending_handshakes` allows ({n})")
            }
            OverLimit::PendingHandshakesPerAddress(n) => write!(
                f,
                "this address has as many handshakes under way as `limits.pending_handshakes_per_address` allows ({n})"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn ip(text: &str) -> PeerAddr {
        PeerAddr::Ip(SocketAddr::new(text.parse().unwrap(), 4711))
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let limits = Limits {
            connections: 4,
            connections_per_address: 2,
            pending_handshakes: 3,
            pending_handshakes_per_address: 1,
            ..Limits::default()
        };
        let gate = Gate::new(&limits, &["10.0.0.0/8".parse().unwrap()]);
        let mut first = gate.enter(&ip("192.0.2.7")).unwrap();
        assert_eq!(gate.enter(&ip("192.0.2.7")).unwrap_err(), OverLimit::PendingHandshakesPerAddress(1));
        first.admitted();
        first.admitted();
        let mut second = gate.enter(&ip("::ffff:192.0.2.7")).unwrap();
        second.admitted();
        assert_eq!(gate.enter(&ip("192.0.2.7")).unwrap_err(), OverLimit::ConnectionsPerAddress(2));
        let Counts { open, pending, addresses, .. } = gate.counts();
        assert_eq!((open, pending, addresses), (2, 0, 1));

        let local = gate.enter(&ip("127.0.0.1")).unwrap();
        let proxy = gate.enter(&ip("10.1.2.3")).unwrap();
        assert_eq!(gate.enter(&PeerAddr::Unix).unwrap_err(), OverLimit::Connections(4));
        drop((first, second));
        let unix = gate.enter(&PeerAddr::Unix).unwrap();
        assert_eq!(gate.enter(&ip("10.1.2.4")).unwrap_err(), OverLimit::PendingHandshakes(3));

        drop((local, proxy, unix));
        assert_eq!(
            gate.counts(),
            Counts {
                accepted: 5,
                refused_connections: 1,
                refused_connections_per_address: 1,
                refused_pending_handshakes: 1,
                refused_pending_handshakes_per_address: 1,
                ..Counts::default()
            }
        );
    }

    #[test]
    fn a_forwarded_address_is_counted_in_place_of_its_proxy() {
        let limits = Limits { connections_per_address: 1, ..Limits::default() };
        let gate = Gate::new(&limits, &["10.0.0.1/32".parse().unwrap()]);
        let mut first = gate.enter(&ip("10.0.0.1")).unwrap();
        let mut second = gate.enter(&ip("10.0.0.1")).unwrap();
        first.readdress("2001:db8::1".parse().unwrap()).unwrap();
        first.readdress("2001:db8::1".parse().unwrap()).unwrap();
        assert_eq!(
            second.readdress("2001:db8::2".parse().unwrap()),
            Err(OverLimit::ConnectionsPerAddress(1)),
            "a network of 64 bits is one address"
        );
        second.readdress("2001:db8:0:1::1".parse().unwrap()).unwrap();
        drop(first);
        second.readdress("2001:db8::2".parse().unwrap()).unwrap();
        drop(second);
        assert_eq!(gate.counts().addresses, 0);
    }

    #[test]
    fn a_flood_of_refusals_is_logged_once_a_second() {
        let gate = Gate::new(&Limits { connections: 0, ..Limits::default() }, &[]);
        for _ in 0..100 {
            gate.enter(&ip("192.0.2.7")).unwrap_err();
        }
        assert_eq!(gate.counts().refused_connections, 100);
        assert!(gate.lock().unlogged >= 98, "at most one line for each second that the loop took");
    }
}
