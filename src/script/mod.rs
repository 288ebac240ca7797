//! Lua: how a folder of scripts becomes callbacks, and what they may reach.
//!
//! Four seams: `load` (folder → checked chunk), `sandbox` (what scripts may reach), `run` (call a callback,
//! its budget, its errors), `api/` (one file for each name that scripts see).

pub mod args;
mod error;

mod load;
pub mod sandbox;

mod alarms;
mod budget;
mod compiled;
mod raw;
mod run;
mod tasks;

pub mod api;
mod context;
mod host;
pub mod plain;
mod state;

pub mod reference;
mod test_vm;
mod vm;

pub use alarms::{Alarms, Id as AlarmId, Keeper, Left};
pub use api::{
    PasswordPool, RateTable,
    conn::close_arguments,
    relay::Refusal,
    request::{self, table as request_table},
    wait::time as wait_time,
};
pub use args::type_name;
pub use budget::{Budget, Ticker};
pub use context::{Context, Phase};
pub use error::{ErrorKind, ScriptError};
pub use host::close_for_lost_state;
pub use load::{CALLBACKS, Sources};
pub use run::{Ran, Suspended};
pub use tasks::{Cancel, Make, Start, Waited};
pub use test_vm::{TestVm, Waiter};
pub use vm::{Home, Kept, Plan, Vm};
