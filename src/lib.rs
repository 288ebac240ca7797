//! Moonwire: a WebSocket relay whose behaviour is Lua.
//!
//! # Layout, in the order of a message's way
//!
//! acceptor → handshake → connection (wire) → app (instance) → script → hub → outbox → connection

pub mod cli;
pub mod config;
pub mod log;
pub mod server;

pub mod acceptor;
pub mod handshake;

pub mod connection;

pub mod wire;

pub mod app;

pub mod script;

pub mod hub;

pub mod outbox;

pub mod reload;

pub mod bus;

pub mod harness;

pub mod identity;
pub mod message;
pub mod peer;
pub mod plain;
