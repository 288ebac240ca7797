//! What the relay promises, tried from outside. One binary, so that it links once.
//!
//! Where does a new test go? What scripts can do or are told: `callbacks.rs`, a transcript. What only a socket
//! shows: `sockets.rs`. What scripts ask of other servers: `net.rs`. A promise of the script contract: `promises.rs`, over random interleavings. What `scripts/`,
//! `examples/` and `docs/` say: `examples.rs`.

#![allow(clippy::unwrap_used, reason = "what tests share is no less a test")]

mod alarms;
mod api;
mod arguments;
mod callbacks;
mod command;
mod dev;
mod docs;
mod escapes;
mod examples;
mod instances;
mod net;
mod passwords;
mod permissions;
mod promises;
mod reference;
mod regression;
mod reload;

mod router;
mod runaway;
mod scene;
mod script_tests;
mod sockets;
mod store;
mod support;
mod tokens;
