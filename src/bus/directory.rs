//! Who is where: one directory for each app, shared by its instances.
//!
//! It is locked, but touched only when a connection opens, closes, joins or leaves, and when a publish
//! finds that something has changed since it last looked. It is written before `join` returns, so what is
//! published afterwards anywhere reaches the new member.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How many connections each instance has under one key (a room, a pattern, a user).
#[derive(Debug, Default)]
struct Places(Vec<(u16, u32)>);

impl Places {
    /// Returns true if the instance had none before.
    fn add(&mut self, instance: u16) -> bool {
        if let Some((_, count)) = self.0.iter_mut().find(|(i, _)| *i == instance) {
            *count += 1;
            return false;
        }
        self.0.push((instance, 1));
        true
    }

    /// Returns true if it was the instance's last.
    fn remove(&mut self, instance: u16) -> bool {
        let Some(place) = self.0.iter().position(|(i, _)| *i == instance) else { return false };
        self.0[place].1 -= 1;
        if self.0[place].1 > 0 {
            return false;
        }
        self.0.swap_remove(place);
        true
    }

    fn count(&self) -> usize {
        self.0.iter().map(|(_, count)| *count as usize).sum()
    }
}

#[derive(Debug, Default)]
struct Entries {
    rooms: HashMap<Arc<str>, Places>,
    patterns: HashMap<Arc<str>, Places>,
    users: HashMap<Arc<str>, Places>,
    connections: usize,
}

/// Which of an app's instances have connections in a room, under a pattern, of a user.
#[derive(Debug, Default)]
pub struct Directory {
    entries: Mutex<Entries>,
    /// Rises whenever an instance's interest in rooms begins or ends.
    version: AtomicU64,
    /// Rises with each change of a user's permissions, and each disconnection of one.
    change: AtomicU64,
    users: Mutex<HashMap<Arc<str>, User>>,
}

/// What has lately been done about a user.
#[derive(Debug)]
struct User {
    /// Changes of permissions are made one after the other, over all instances.
    turn: Arc<tokio::sync::Mutex<()>>,
    change: u64,
    at: Instant,
}

/// Longer than any handshake takes.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Whose turn it is to change a user's permissions, until it is dropped.
pub type Turn = tokio::sync::OwnedMutexGuard<()>;

impl Directory {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Nothing in here can panic halfway through a change.
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A publish that saw this version before need not look again.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    pub fn join(&self, room: &str, instance: u16) {
        if add(&mut self.entries().rooms, room, instance) {
            self.changed();
        }
    }

    pub fn leave(&self, room: &str, instance: u16) {
        if remove(&mut self.entries().rooms, room, instance) {
            self.changed();
        }
    }

    pub fn join_pattern(&self, pattern: &str, instance: u16) {
        if add(&mut self.entries().patterns, pattern, instance) {
            self.changed();
        }
    }

    pub fn leave_pattern(&self, pattern: &str, instance: u16) {
        if remove(&mut self.entries().patterns, pattern, instance) {
            self.changed();
        }
    }

    pub fn open(&self, user: Option<&str>, instance: u16) {
        let mut entries = self.entries();
        entries.connections += 1;
        if let Some(user) = user {
            add(&mut entries.users, user, instance);
        }
    }

    /// A connection that was anonymous until now has a user.
    pub fn identify(&self, user: &str, instance: u16) {
        add(&mut self.entries().users, user, instance);
    }

    pub fn close(&self, user: Option<&str>, instance: u16) {
        let mut entries = self.entries();
        entries.connections -= 1;
        if let Some(user) = user {
            remove(&mut entries.users, user, instance);
        }
    }

    /// The instances other than `except` that must hear what is published to `room`.
    pub fn interested(&self, room: &str, except: u16) -> Vec<u16> {
        let entries = self.entries();
        let mut instances: Vec<u16> = Vec::new();
        let mut take = |places: &Places| {
            for (instance, _) in &places.0 {
                if *instance != except && !instances.contains(instance) {
                    instances.push(*instance);
                }
            }
        };
        if let Some(places) = entries.rooms.get(room) {
            take(places);
        }
        for (pattern, places) in &entries.patterns {
            if crate::name::matches(pattern, room) {
                take(places);
            }
        }
        instances
    }

    /// Members of a room over all instances; those that only match by a pattern are not counted.
    pub fn count(&self, room: &str) -> usize {
        self.entries().rooms.get(room).map_or(0, Places::count)
    }

    /// Notes that something about a user changes now, and gives the queue of those who change it.
    pub fn changing(&self, user: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut users = self.users.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let change = self.change.fetch_add(1, Ordering::AcqRel) + 1;
        let now = Instant::now();
        users.retain(|_, user| Arc::strong_count(&user.turn) > 1 || now.duration_since(user.at) < REMEMBERED);
        let user = users.entry(user.into()).or_insert_with(|| User { turn: Arc::default(), change, at: now });
        (user.change, user.at) = (change, now);
        user.turn.clone()
    }

    /// The number of the last change about anybody.
    pub fn last_change(&self) -> u64 {
        self.change.load(Ordering::Acquire)
    }

    /// Whether something about a user has changed after that.
    pub fn has_changed_since(&self, user: &str, change: u64) -> bool {
        let users = self.users.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        users.get(user).is_some_and(|user| user.change > change)
    }

    /// The instances in which a user has connections.
    pub fn user_places(&self, user: &str) -> Vec<u16> {
        self.entries().users.get(user).map_or_else(Vec::new, |places| places.0.iter().map(|(i, _)| *i).collect())
    }

    /// Connections of the app over all instances.
    pub fn connections(&self) -> usize {
        self.entries().connections
    }
}

fn add(map: &mut HashMap<Arc<str>, Places>, key: &str, instance: u16) -> bool {
    if let Some(places) = map.get_mut(key) {
        return places.add(instance);
    }
    map.entry(Arc::from(key)).or_default().add(instance)
}

fn remove(map: &mut HashMap<Arc<str>, Places>, key: &str, instance: u16) -> bool {
    let Some(places) = map.get_mut(key) else { return false };
    let last = places.remove(instance);
    if places.0.is_empty() {
        map.remove(key);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interest_begins_with_the_first_member_and_ends_with_the_last() {
        let directory = Directory::default();
        directory.join("a", 1);
        let version = directory.version();
        directory.join("a", 1);
        assert_eq!(directory.version(), version, "a second member changes nothing for the others");
        assert_eq!(directory.interested("a", 0), [1]);
        assert!(directory.interested("a", 1).is_empty());
        assert_eq!(directory.count("a"), 2);
        directory.leave("a", 1);
        assert_eq!(directory.interested("a", 0), [1]);
        directory.leave("a", 1);
        assert!(directory.interested("a", 0).is_empty());
        assert!(directory.version() > version);
        assert!(directory.entries().rooms.is_empty(), "an empty room is forgotten");
    }

    #[test]
    fn a_pattern_is_interest_in_every_room_that_it_matches() {
        let directory = Directory::default();
        directory.join_pattern("room.*", 2);
        directory.join("room.1", 2);
        assert_eq!(directory.interested("room.1", 0), [2]);
        assert_eq!(directory.interested("room.9", 0), [2]);
        assert!(directory.interested("other", 0).is_empty());
        assert_eq!(directory.count("room.9"), 0);
    }
}
