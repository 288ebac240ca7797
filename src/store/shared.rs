//! `relay.shared`: what the instances of an app share in memory, bounded and without waiting.
//!
//! The lock is held for one look or one change, never while a script runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{plain::Plain, store::Range};

/// Roughly what an entry costs besides its key and its value.
const ENTRY: usize = 128;

/// Expired entries that one change removes.
const SWEPT_AT_ONCE: usize = 64;

/// `limits.shared_memory` is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

#[derive(Default)]
pub struct Shared(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    by_key: BTreeMap<Box<[u8]>, Entry>,
    by_expiry: BTreeSet<(i64, Box<[u8]>)>,
    bytes: usize,
    versions: u64,
}

struct Entry {
    value: Arc<Plain>,
    expires: Option<i64>,
    version: u64,
    bytes: usize,
}

/// What was read, for a change that builds on it. Nothing there has the version 0.
#[derive(Debug, Clone)]
pub struct Seen {
    pub value: Option<Arc<Plain>>,
    version: u64,
}

impl Shared {
    pub fn get(&self, key: &[u8], now: i64) -> Option<Arc<Plain>> {
        self.see(key, now).value
    }

    pub fn see(&self, key: &[u8], now: i64) -> Seen {
        let entries = self.entries();
        match entries.live(key, now) {
            Some(entry) => Seen { value: Some(entry.value.clone()), version: entry.version },
            None => Seen { value: None, version: 0 },
        }
    }

    /// Whether it was set.
    pub fn set(
        &self,
        key: &[u8],
        value: Plain,
        expires: Option<i64>,
        if_absent: bool,
        now: i64,
        max: usize,
    ) -> Result<bool, Full> {
        let mut entries = self.entries();
        entries.sweep(now);
        if if_absent && entries.live(key, now).is_some() {
            return Ok(false);
        }
        entries.put(key, value, expires, max)?;
        Ok(true)
    }

    /// Whether it was there.
    pub fn delete(&self, key: &[u8], now: i64) -> bool {
        let mut entries = self.entries();
        let was_there = entries.live(key, now).is_some();
        entries.remove(key);
        was_there
    }

    /// The number; None if something else is there.
    pub fn incr(&self, key: &[u8], by: f64, expires: Option<i64>, now: i64, max: usize) -> Result<Option<f64>, Full> {
        let mut entries = self.entries();
        entries.sweep(now);
        let (number, kept) = match entries.live(key, now) {
            None => (0.0, None),
            Some(entry) => match *entry.value {
                Plain::Number(number) => (number, entry.expires),
                _ => return Ok(None),
            },
        };
        entries.put(key, Plain::Number(number + by), expires.or(kept), max)?;
        Ok(Some(number + by))
    }

    /// Puts a value in place of what was seen (None deletes); false if something else is there by now.
    pub fn swap(
        &self,
        key: &[u8],
        seen: &Seen,
        value: Option<Plain>,
        expires: Option<i64>,
        now: i64,
        max: usize,
    ) -> Result<bool, Full> {
        let mut entries = self.entries();
        entries.sweep(now);
        let (version, kept) = entries.live(key, now).map_or((0, None), |entry| (entry.version, entry.expires));
        if version != seen.version {
            return Ok(false);
        }
        match value {
            Some(value) => entries.put(key, value, expires.or(kept), max)?,
            None => entries.remove(key),
        }
        Ok(true)
    }

    /// In byte order of the keys.
    pub fn list(&self, range: &Range, now: i64) -> Vec<(Box<[u8]>, Arc<Plain>)> {
        let entries = self.entries();
        let from = match &range.after {
            Some(after) if *after >= range.prefix => Bound::Excluded(after.as_slice()),
            _ => Bound::Included(range.prefix.as_slice()),
        };
        let all = entries.by_key.range::<[u8], _>((from, Bound::Unbounded));
        all.take_while(|(key, _)| key.starts_with(&range.prefix))
            .filter(|(_, entry)| entry.is_live(now))
            .take(range.limit)
            .map(|(key, entry)| (key.clone(), entry.value.clone()))
            .collect()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is_live(&self, now: i64) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }
}

impl Entries {
    fn live(&self, key: &[u8], now: i64) -> Option<&Entry> {
        self.by_key.get(key).filter(|entry| entry.is_live(now))
    }

    fn put(&mut self, key: &[u8], value: Plain, expires: Option<i64>, max: usize) -> Result<(), Full> {
        let bytes = ENTRY + 2 * key.len() + value.bytes();
        let before = self.by_key.get(key).map_or(0, |entry| entry.bytes);
        if self.bytes - before + bytes > max {
            return Err(Full);
        }
        self.remove(key);
        self.versions += 1;
        if let Some(expires) = expires {
            self.by_expiry.insert((expires, key.into()));
        }
        self.bytes += bytes;
        self.by_key.insert(key.into(), Entry { value: Arc::new(value), expires, version: self.versions, bytes });
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some((key, entry)) = self.by_key.remove_entry(key) {
            self.bytes -= entry.bytes;
            if let Some(expires) = entry.expires {
                self.by_expiry.remove(&(expires, key));
            }
        }
    }

    /// Makes room of what has expired.
    fn sweep(&mut self, now: i64) {
        for _ in 0..SWEPT_AT_ONCE {
            match self.by_expiry.first() {
                Some((expires, key)) if *expires <= now => {
                    let key = key.clone();
                    self.remove(&key);
                }
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1 << 20;

    #[test]
    fn a_swap_on_what_has_changed_does_nothing() {
        let shared = Shared::default();
        let seen = shared.see(b"k", 0);
        shared.set(b"k", Plain::Bool(true), None, false, 0, MAX).unwrap();
        assert_eq!(shared.swap(b"k", &seen, Some(Plain::Bool(false)), None, 0, MAX), Ok(false));
        let seen = shared.see(b"k", 0);
        assert_eq!(shared.swap(b"k", &seen, None, None, 0, MAX), Ok(true));
        assert!(shared.get(b"k", 0).is_none());
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let shared = Shared::default();
        let max = 10 * (ENTRY + 100);
        let mut set = 0;
        while shared.set(&[set], Plain::string([0; 50]), Some(100), false, 0, max) == Ok(true) {
            set += 1;
        }
        assert!((5..20).contains(&set), "{set}");
        assert_eq!(shared.set(b"late", Plain::Nil, None, false, 99, max), Err(Full));
        assert_eq!(shared.set(b"late", Plain::Nil, None, false, 100, max), Ok(true));
        assert!(shared.delete(b"late", 100));
        let entries = shared.entries();
        assert_eq!((entries.bytes, entries.by_key.len(), entries.by_expiry.len()), (0, 0, 0));
    }

    #[test]
    fn a_list_is_in_byte_order() {
        let shared = Shared::default();
        for key in ["b2", "a", "b1", "c", "b"] {
            shared.set(key.as_bytes(), Plain::Nil, None, false, 0, MAX).unwrap();
        }
        shared.set(b"b3", Plain::Nil, Some(5), false, 0, MAX).unwrap();
        let keys = |prefix: &str, after: Option<&str>, limit| -> Vec<String> {
            let range = Range { prefix: prefix.into(), after: after.map(Into::into), limit };
            let list = shared.list(&range, 5);
            list.into_iter().map(|(key, _)| String::from_utf8(key.into()).unwrap()).collect()
        };
        assert_eq!(keys("", None, 9), ["a", "b", "b1", "b2", "c"]);
        assert_eq!(keys("b", None, 9), ["b", "b1", "b2"]);
        assert_eq!(keys("b", Some("b1"), 9), ["b2"]);
        assert_eq!(keys("b", Some("a"), 1), ["b"]);
        assert_eq!(keys("b", Some("z"), 9), [""; 0]);
    }
}
