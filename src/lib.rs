//! Moonwire: a WebSocket relay whose behaviour is Lua.
//!
//! The `mod` lines are in the order in which to read them, which is that of a message's way:
//!
//! ```text
//! acceptor → handshake → connection → app (instance) → script (Lua) → hub → outbox ┐
//!                             ↑                                                    │  each connection drains
//!                             └─────────────────── wire ←──────────────────────────┘  its own outbox
//! ```
//!
//! ARCHITECTURE.md has the rest: what each does, who may import whom, and what must hold.

// ── who hold it together ──
pub mod cli;
pub mod server;
pub mod worker;

// ── the path of a message ──
pub mod acceptor;
pub mod handshake;

pub mod connection;
pub mod wire;

pub mod app;
pub mod script;

pub mod hub;
pub mod outbox;

// ── beside the path ──
pub mod bus;
pub mod dev;
pub mod outgoing;
pub mod reload;
pub mod store;
pub mod tracer;

pub mod config;
pub mod control;
pub mod log;

pub mod harness;
pub mod testing;

// ── the words everyone uses ──
pub mod clock;
pub mod connection_id;
pub mod identity;
pub mod jwt;
pub mod name;
pub mod peer;
pub mod permission;
pub mod plain;
pub mod problem;
pub mod visible;
