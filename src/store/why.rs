//! Why the store did not do something.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// As many operations wait as `limits.store_queue` allows.
    Busy,
    /// `limits.store_value`.
    Value,
    /// `limits.store_page`.
    Page,
    /// `incr` of something else.
    NotANumber,
    /// The disk, or `store.size`.
    Full,
    ReadOnly,
    /// The file is no store, or parts of it have been overwritten.
    Damaged(String),
    /// One value cannot be read.
    Unreadable {
        key: String,
        what: &'static str,
    },
    Disk(String),
}

impl Why {
    /// Whether the one who runs the relay must hear of it.
    pub fn is_of_the_disk(&self) -> bool {
        !matches!(self, Why::Busy | Why::Value | Why::Page | Why::NotANumber)
    }

    pub(super) fn unreadable(key: &[u8], what: &'static str) -> Why {
        Why::Unreadable { key: key.escape_ascii().to_string(), what }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Busy => f.write_str("busy"),
            Why::Value => f.write_str("limits.store_value"),
            Why::Page => f.write_str("limits.store_page"),
            Why::NotANumber => f.write_str("not_a_number"),
            Why::Full => f.write_str("the store is full: its disk, or store.size"),
            Why::ReadOnly => f.write_str("the store is read-only"),
            Why::Damaged(what) => write!(f, "the store is damaged: {what}"),
            Why::Unreadable { key, what } => write!(f, "the value of \"{key}\" cannot be read: {what}"),
            Why::Disk(what) => write!(f, "the store cannot be used: {what}"),
        }
    }
}

impl std::error::Error for Why {}
