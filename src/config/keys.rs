//! Every setting, once: its name, how it is read, and whether a change of it needs a restart.

use std::{ops::RangeInclusive, time::Duration};

use super::{
    App, Compression, Http, Limits, Log, Reload, Server, Static, Store,
    scripts::plain_table,
    value::{
        Given, Wrong, app_name, count, count_or_auto, duration, flag, http_hosts, listens, log_format, log_level,
        networks, origins, path, path_pattern, path_prefix, script, shard_by, shared, size, socket_path, subprotocols,
        variable_names,
    },
};

/// A setting of `T`.
pub struct Setting<T> {
    /// In the file, in the variable (in upper case) and in `T`.
    pub name: &'static str,
    pub read: fn(&mut T, &Given) -> Result<(), Wrong>,
    pub same: fn(&T, &T) -> bool,
    pub change: Change,
}

/// When a change of a setting is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    AtReload,
    AtRestart,
}

macro_rules! setting {
    ($field:ident, $change:ident, $read:expr) => {
        Setting {
            name: stringify!($field),
            read: |into, given| {
                into.$field = ($read)(given)?;
                Ok(())
            },
            same: |a, b| a.$field == b.$field,
            change: Change::$change,
        }
    };
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Sums of a few of these fit into any integer.
const COUNT_MAX: u64 = 1_000_000_000;

/// No wait may be over at once: it would be a loop.
const WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=YEAR;
const YEAR: Duration = Duration::from_secs(365 * 86_400);

pub const SERVER: &[Setting<Server>] = &[
    setting!(listen, AtRestart, listens),
    setting!(workers, AtRestart, count_or_auto(1..=1_024, |given| given.workers)),
    setting!(control, AtRestart, socket_path),
    setting!(trusted_proxies, AtReload, networks),
    setting!(shutdown, AtReload, duration(Duration::ZERO..=YEAR)),
];

/// Those of `[limits]` that no app may override.
pub const SERVER_LIMITS: &[Setting<Limits>] = &[
    setting!(connections, AtReload, count(1..=COUNT_MAX)),
    setting!(connections_per_address, AtReload, count(0..=COUNT_MAX)),
    setting!(pending_handshakes, AtReload, count(1..=COUNT_MAX)),
    setting!(pending_handshakes_per_address, AtReload, count(1..=COUNT_MAX)),
    setting!(header_bytes, AtReload, size(256..=GIB)),
    setting!(headers, AtReload, count(1..=10_000)),
    setting!(handshake_timeout, AtReload, duration(WAIT)),
    // The bus is made with these.
    setting!(bus_pause, AtRestart, size(1..=16 * GIB)),
    setting!(bus, AtRestart, size(1..=16 * GIB)),
    // So is the pool of these.
    setting!(password_jobs, AtRestart, count(1..=256)),
    setting!(store_queue, AtReload, count(1..=COUNT_MAX)),
];

/// Those of `[limits]` and `[app.limits]`.
pub const LIMITS: &[Setting<Limits>] = &[
    // No string in a script may be larger than 1 GiB.
    setting!(message, AtReload, size(1..=GIB)),
    setting!(fragments, AtReload, count(1..=COUNT_MAX)),
    setting!(message_timeout, AtReload, duration(WAIT)),
    setting!(message_rate, AtReload, count(0..=COUNT_MAX)),
    setting!(inbox_messages, AtReload, count(1..=COUNT_MAX)),
    setting!(inbox, AtReload, size(1..=16 * GIB)),
    setting!(outbox, AtReload, size(1..=16 * GIB)),
    setting!(rooms_per_connection, AtReload, count(0..=COUNT_MAX)),
    // The contract with scripts has no longer names.
    setting!(room_name, AtReload, count(1..=255)),
    setting!(ping_interval, AtReload, duration(WAIT)),
    setting!(pong_timeout, AtReload, duration(WAIT)),
    setting!(close_timeout, AtReload, duration(WAIT)),
    setting!(request_body, AtReload, size(0..=GIB)),
    setting!(callback_cpu, AtReload, duration(WAIT)),
    setting!(load_cpu, AtReload, duration(WAIT)),
    setting!(callback_timeout, AtReload, duration(WAIT)),
    setting!(authenticate_timeout, AtReload, duration(WAIT)),
    setting!(request_timeout, AtReload, duration(WAIT)),
    // A VM with the relay's own functions has to fit.
    setting!(script_memory, AtReload, size(4 << 20..=1_024 * GIB)),
    setting!(script_errors, AtReload, count(1..=COUNT_MAX)),
    // Nested values are read by recursion, which must not reach the end of the stack.
    setting!(json_depth, AtReload, count(1..=256)),
    setting!(waiting, AtReload, count(1..=COUNT_MAX)),
    setting!(timers, AtReload, count(0..=COUNT_MAX)),
    setting!(rate_keys, AtReload, count(1..=COUNT_MAX)),
    setting!(http_body, AtReload, size(1..=GIB)),
    setting!(jwks_cache, AtReload, duration(WAIT)),
    setting!(ws_sockets, AtReload, count(0..=COUNT_MAX)),
    // SQLite takes no larger one.
    setting!(store_value, AtReload, size(1..=GIB / 2)),
    setting!(store_page, AtReload, size(1..=GIB)),
    setting!(shared_memory, AtReload, size(1..=1_024 * GIB)),
];

pub const STORE: &[Setting<Store>] =
    &[setting!(path, AtRestart, path), setting!(size, AtRestart, size(MIB..=1_024 * GIB))];

pub const RELOAD: &[Setting<Reload>] = &[
    setting!(watch, AtReload, flag),
    setting!(debounce, AtReload, duration(WAIT)),
    setting!(debounce_max, AtReload, duration(WAIT)),
    setting!(vote, AtReload, duration(WAIT)),
    setting!(drain, AtReload, duration(Duration::ZERO..=YEAR)),
];

pub const LOG: &[Setting<Log>] = &[setting!(level, AtReload, log_level), setting!(format, AtReload, log_format)];

/// Besides these an app has `limits`, `http` and `compression`, sections of their own.
pub const APP: &[Setting<App>] = &[
    setting!(name, AtRestart, app_name),
    setting!(path, AtRestart, path_pattern),
    setting!(script, AtReload, script),
    setting!(instances, AtRestart, count_or_auto(1..=1_024, |given| given.workers)),
    setting!(shard_by, AtRestart, shard_by),
    setting!(shared, AtRestart, shared),
    setting!(origins, AtReload, origins),
    setting!(subprotocols, AtReload, subprotocols),
    setting!(env, AtReload, variable_names),
    setting!(settings, AtReload, plain_table),
];

pub const HTTP: &[Setting<Http>] = &[setting!(allow, AtReload, http_hosts)];

pub const COMPRESSION: &[Setting<Compression>] = &[
    setting!(enabled, AtReload, flag),
    setting!(threshold, AtReload, size(0..=GIB)),
    setting!(binary, AtReload, flag),
    setting!(context, AtReload, flag),
    // zlib makes no raw stream of 8.
    setting!(window_bits, AtReload, count(9..=15)),
    setting!(level, AtReload, count(1..=9)),
];

pub const STATIC: &[Setting<Static>] = &[setting!(path, AtReload, path_prefix), setting!(folder, AtReload, path)];

/// The sections, and the names of their settings in the order of the lists.
pub fn sections() -> [(&'static str, Vec<&'static str>); 9] {
    fn names<T>(settings: &[Setting<T>]) -> Vec<&'static str> {
        settings.iter().map(|setting| setting.name).collect()
    }
    [
        ("server", names(SERVER)),
        ("limits", [names(SERVER_LIMITS), names(LIMITS)].concat()),
        ("store", names(STORE)),
        ("reload", names(RELOAD)),
        ("log", names(LOG)),
        ("app", [names(APP), vec!["limits"]].concat()),
        ("app.http", names(HTTP)),
        ("app.compression", names(COMPRESSION)),
        ("static", names(STATIC)),
    ]
}

/// The names of the settings of `T` that need a restart to become as they are in `new`.
pub fn restart_needed<'a, T>(settings: &'a [Setting<T>], old: &'a T, new: &'a T) -> impl Iterator<Item = &'static str> {
    settings
        .iter()
        .filter(move |setting| setting.change == Change::AtRestart && !(setting.same)(old, new))
        .map(|setting| setting.name)
}
