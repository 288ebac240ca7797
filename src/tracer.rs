//! What passes between peers and the relay, kept for a moment while somebody looks: only `moonwire dev` has one.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Serialize;

/// How many entries are kept; older ones make room.
const ENTRIES_MAX: usize = 1000;
/// Bytes of a message that are kept.
const TEXT_MAX: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    Open,
    In,
    Out,
    Close,
}

/// One thing that happened to a connection.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    pub seq: u64,
    /// Unix seconds.
    pub at: f64,
    pub app: String,
    pub generation: u64,
    pub instance: u16,
    pub connection: String,
    pub user: Option<String>,
    pub what: What,
    pub binary: bool,
    pub bytes: usize,
    /// The beginning of the message; in hex if it is binary.
    pub text: String,
    pub code: Option<u16>,
    pub reason: Option<String>,
}

#[derive(Debug, Default)]
pub struct Tracer {
    on: AtomicBool,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    kept: VecDeque<Entry>,
    next: u64,
}

impl Tracer {
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    pub fn switch(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, mut entry: Entry) {
        let mut entries = self.entries();
        entries.next += 1;
        entry.seq = entries.next;
        if entries.kept.len() == ENTRIES_MAX {
            entries.kept.pop_front();
        }
        entries.kept.push_back(entry);
    }

    /// What came after `seq`, and how many of those are not kept any more.
    pub fn after(&self, seq: u64) -> (Vec<Entry>, u64) {
        let entries = self.entries();
        let first = entries.kept.front().map_or(entries.next + 1, |entry| entry.seq);
        let lost = first.saturating_sub(seq + 1);
        (entries.kept.iter().filter(|entry| entry.seq > seq).cloned().collect(), lost)
    }
}

/// The beginning of a message, as it can be shown.
pub fn shown(data: &[u8], binary: bool) -> String {
    let data = &data[..data.len().min(TEXT_MAX)];
    if binary {
        return data.iter().map(|byte| format!("{byte:02x}")).collect();
    }
    // A character that is cut in half is left out.
    String::from_utf8_lossy(data).trim_end_matches('\u{fffd}').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_entries_make_room_and_are_counted() {
        let tracer = Tracer::default();
        let entry = || Entry {
            seq: 0,
            at: 0.0,
            app: String::new(),
            generation: 1,
            instance: 1,
            connection: String::new(),
            user: None,
            what: What::In,
            binary: false,
            bytes: 0,
            text: String::new(),
            code: None,
            reason: None,
        };
        assert_eq!(tracer.after(0).1, 0);
        for _ in 0..ENTRIES_MAX + 5 {
            tracer.note(entry());
        }
        let (entries, lost) = tracer.after(0);
        assert_eq!((entries.len(), entries[0].seq, lost), (ENTRIES_MAX, 6, 5));
        let (entries, lost) = tracer.after(1004);
        assert_eq!((entries.len(), lost), (1, 0));
        assert_eq!(
            (shown("aé".repeat(600).as_bytes(), false).len() <= 1024, shown(b"\x00\xff", true)),
            (true, "00ff".to_owned())
        );
    }
}
