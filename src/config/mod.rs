//! The configuration: a TOML file, overridden by the environment, checked whole before anything starts.

mod settings;

pub use settings::*;
