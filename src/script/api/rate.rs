//! `relay.rate`: how often something may happen, by key.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    rc::Rc,
    time::Duration,
};

use mlua::{IntoLuaMulti, Lua, Result, Table, Value};

use crate::script::{Context, args};

/// The buckets of one instance. A bucket is one number (the generic cell rate algorithm): the time at which it
/// will be full again.
#[derive(Debug, Default)]
pub struct RateTable {
    /// By the key's hash, seeded at random: keys come from outside and may be of any length.
    full_at: HashMap<u64, f64>,
    hasher: RandomState,
    swept_at: Option<Duration>,
    warned_at: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    Allowed,
    /// Seconds until it would be allowed.
    Refused(f64),
    /// There are as many keys as there may be, none of them full.
    NoRoom,
}

/// How long the table takes a rest after it was swept, and after it was said that it is full.
const SWEEP_REST: Duration = Duration::from_secs(1);
const WARNING_REST: Duration = Duration::from_secs(10);

impl RateTable {
    /// Takes one from the key's bucket, which holds `burst` and gains `per_second`.
    pub fn take(&mut self, key: &[u8], per_second: f64, burst: f64, now: Duration, keys_max: usize) -> Verdict {
        // Rounding must not refuse what comes exactly in time.
        const TOLERANCE: f64 = 1e-9;
        let key = self.hasher.hash_one(key);
        if self.full_at.len() >= keys_max && !self.full_at.contains_key(&key) {
            self.sweep(now);
            if self.full_at.len() >= keys_max {
                return Verdict::NoRoom;
            }
        }
        let seconds = now.as_secs_f64();
        let full_at = self.full_at.entry(key).or_insert(seconds);
        let from = full_at.max(seconds);
        let wait = from - seconds - (burst - 1.0) / per_second;
        if wait > TOLERANCE {
            return Verdict::Refused(wait);
        }
        *full_at = from + 1.0 / per_second;
        Verdict::Allowed
    }

    /// Forgets the buckets that are full, which are as if they had never been.
    fn sweep(&mut self, now: Duration) {
        if self.swept_at.is_none_or(|at| now >= at + SWEEP_REST) {
            self.swept_at = Some(now);
            self.full_at.retain(|_, full_at| *full_at > now.as_secs_f64());
        }
    }

    fn may_warn(&mut self, now: Duration) -> bool {
        let may = self.warned_at.is_none_or(|at| now >= at + WARNING_REST);
        if may {
            self.warned_at = Some(now);
        }
        may
    }
}

pub fn register(lua: &Lua, relay: &Table, context: &Rc<Context>, table: &Rc<RefCell<RateTable>>) -> Result<()> {
    let (context, table) = (context.clone(), table.clone());
    let rate = lua.create_function(move |lua, (key, options): (Value, Value)| {
        const NAME: &str = "relay.rate(key, options)";
        let key = args::string(NAME, "key", &key)?;
        if key.as_bytes().is_empty() {
            return Err(args::mistake(NAME, "key must not be empty"));
        }
        let Some(options) = args::options(NAME, &options, &["per_second", "burst"])? else {
            return Err(args::wrong(NAME, "options", "a table", &options));
        };
        let per_second = args::number(NAME, "per_second", &options.raw_get("per_second")?)?;
        // The smallest numbers have no reciprocal, and a bucket would never fill again.
        if per_second <= 0.0 || !(1.0 / per_second).is_finite() {
            return Err(args::mistake(NAME, &format!("per_second must be above 0, got {per_second}")));
        }
        let burst = match options.raw_get::<Value>("burst")? {
            Value::Nil => per_second.ceil(),
            burst => args::number(NAME, "burst", &burst)?,
        };
        if burst < 1.0 {
            return Err(args::mistake(NAME, &format!("burst must be at least 1, got {burst}")));
        }
        let now = context.clock.monotonic();
        let keys_max = context.app.limits.rate_keys;
        let mut table = table.borrow_mut();
        match table.take(&key.as_bytes(), per_second, burst, now, keys_max) {
            Verdict::Allowed => true.into_lua_multi(lua),
            Verdict::Refused(retry_after) => (false, retry_after).into_lua_multi(lua),
            Verdict::NoRoom => {
                if table.may_warn(now) {
                    tracing::warn!(
                        app = context.app.name,
                        instance = context.place + 1,
                        "relay.rate refuses new keys: there are limits.rate_keys ({keys_max}) in use"
                    );
                }
                (false, 1).into_lua_multi(lua)
            }
        }
    })?;
    relay.raw_set("rate", rate)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::script::api::tests::{check, check_raises};

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_burst_then_so_many_per_second() {
        let mut table = RateTable::default();
        let mut take = |seconds| table.take(b"ann", 2.0, 3.0, at(seconds), 10);
        for _ in 0..3 {
            assert_eq!(take(10.0), Verdict::Allowed);
        }
        assert_eq!(take(10.0), Verdict::Refused(0.5));
        assert_eq!(take(10.25), Verdict::Refused(0.25));
        assert_eq!(take(10.5), Verdict::Allowed);
        assert_eq!(take(10.5), Verdict::Refused(0.5));
        assert_eq!(take(11.5), Verdict::Allowed);
        assert_eq!(take(11.5), Verdict::Allowed);
        assert!(matches!(take(11.5), Verdict::Refused(_)));
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_rate_allow(
            steps in prop::collection::vec(0.0..0.7_f64, 1..200), per_second in 0.5..20.0_f64, burst in 1_u8..10,
        ) {
            let mut table = RateTable::default();
            let (mut now, mut allowed) = (0.0, 0.0);
            for step in steps {
                now += step;
                match table.take(b"k", per_second, f64::from(burst), at(now), 10) {
                    Verdict::Allowed => allowed += 1.0,
                    Verdict::Refused(wait) => {
                        let mut later = RateTable { full_at: table.full_at.clone(), hasher: table.hasher.clone(), ..RateTable::default() };
                        prop_assert_eq!(later.take(b"k", per_second, f64::from(burst), at(now + wait + 1e-6), 10), Verdict::Allowed);
                    }
                    Verdict::NoRoom => prop_assert!(false),
                }
                prop_assert!(allowed <= f64::from(burst) + now * per_second + 1e-3);
            }
        }
    }

    #[test]
    fn full_buckets_make_room_and_live_ones_do_not() {
        let mut table = RateTable::default();
        for key in [b"a", b"b", b"c"] {
            assert_eq!(table.take(key, 1.0, 1.0, at(0.0), 3), Verdict::Allowed);
        }
        assert_eq!(table.take(b"d", 1.0, 1.0, at(0.1), 3), Verdict::NoRoom);
        assert!(matches!(table.take(b"a", 1.0, 1.0, at(0.1), 3), Verdict::Refused(_)));
        assert!(table.may_warn(at(0.1)));
        assert!(!table.may_warn(at(0.2)));
        assert_eq!(table.take(b"d", 1.0, 1.0, at(1.2), 3), Verdict::Allowed);
        assert_eq!(table.full_at.len(), 1);
    }

    #[test]
    fn a_script_asks_by_key_and_hears_when_to_come_back() {
        check(
            r#"
            assert(relay.rate("a", { per_second = 0.001 }) == true)
            local ok, retry_after = relay.rate("a", { per_second = 0.001 })
            assert(ok == false and retry_after > 999 and retry_after <= 1000)
            assert(relay.rate("b", { per_second = 5, burst = 1 }))
            "#,
        );
        check_raises("relay.rate('', { per_second = 1 })", "key must not be empty");
        check_raises("relay.rate('a')", "options must be a table, got nil");
        check_raises("relay.rate('a', {})", "per_second must be a number, got nil");
        check_raises("relay.rate('a', { per_second = 0 })", "per_second must be above 0, got 0");
        check_raises("relay.rate('a', { per_second = 1, burst = 0 })", "burst must be at least 1, got 0");
        check_raises("relay.rate('a', { per_minute = 1 })", "unknown option 'per_minute' (it takes per_second, burst)");
    }
}
