//! What scripts see, as data: every name with its type, what it does, its errors, its cost, and an example.
//!
//! `moonwire types` and the pages in `docs/reference/` are made from these tables, and tests hold them to what a VM
//! really has, both ways, so none of the three can drift from the others.

use std::{collections::HashSet, sync::LazyLock};

mod callbacks;
mod conn;
mod data;
mod pages;
mod relay;
mod testing;
mod types;

pub use pages::pages;
pub use types::{Definitions, definitions};

/// One name.
pub struct Entry {
    /// As a script writes it: `relay.json.encode`, `conn:send`, `conn.id`, `app.on_open`, `request.path`.
    pub name: &'static str,
    /// A Luau type: of a function `(data: string, options: SendOptions?) -> (boolean, string?)`, without `self`.
    pub signature: &'static str,
    /// What it does, in one to three sentences.
    pub does: &'static str,
    /// Each argument, and each option as `options.name`, with its unit and default.
    pub arguments: &'static [(&'static str, &'static str)],
    /// What it returns; empty where it returns nothing.
    pub results: &'static str,
    /// What raises, and each `why` that comes back.
    pub errors: &'static [&'static str],
    /// What a call costs, whom it reaches, and whether it waits.
    pub cost: &'static str,
    /// A script that runs: whole if it ends with `return app`, else the body of `on_open(conn)`.
    pub example: &'static str,
}

/// A type that signatures name.
pub struct Type {
    pub name: &'static str,
    /// In Luau's words.
    pub means: &'static str,
}

/// The pages and sections that names belong to.
pub struct Group {
    pub title: &'static str,
    pub types: &'static [Type],
    pub entries: &'static [Entry],
}

/// All of it, in the order of the index.
pub const GROUPS: [Group; 5] = [
    Group { title: "Callbacks and the request", types: callbacks::TYPES, entries: callbacks::ENTRIES },
    Group { title: "Connections, rooms and users", types: conn::TYPES, entries: conn::ENTRIES },
    Group { title: "The relay", types: relay::TYPES, entries: relay::ENTRIES },
    Group { title: "Data, tokens and libraries", types: data::TYPES, entries: data::ENTRIES },
    Group { title: "Tests", types: testing::TYPES, entries: testing::ENTRIES },
];

pub fn entries() -> impl Iterator<Item = &'static Entry> {
    GROUPS.iter().flat_map(|group| group.entries)
}

/// Whether scripts may find `relay.{path}`.
pub fn is_relay_name(path: &str) -> bool {
    static NAMES: LazyLock<HashSet<&str>> =
        LazyLock::new(|| entries().filter_map(|entry| entry.name.strip_prefix("relay.")).collect());
    NAMES.contains(path)
}

impl Entry {
    pub fn is_function(&self) -> bool {
        self.signature.starts_with('(')
    }

    /// What stands before the name's last dot or colon: `relay.json`, `conn`, nothing of `print`.
    pub fn owner(&self) -> &'static str {
        self.name.rfind(['.', ':']).map_or("", |at| &self.name[..at])
    }

    /// The last part of the name.
    pub fn last(&self) -> &'static str {
        self.name.rfind(['.', ':']).map_or(self.name, |at| &self.name[at + 1..])
    }
}
