//! `relay.password`: hashing that is slow on purpose, off the worker's thread and a few at a time.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{self, PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use mlua::{Function, Lua, LuaString, Table, Value};
use tokio::sync::Semaphore;

use crate::{
    plain::Plain,
    script::{args, host::Host, tasks::Waited},
};

/// Bytes of a password. Longer ones only cost time; it is part of the contract with scripts, and so not a setting.
const PASSWORD_MAX: usize = 1_024;

/// What a new hash costs: 19 MiB, twice over, on one lane, as OWASP recommends for argon2id.
const MEMORY_KIB: u32 = 19 * 1_024;
const PASSES: u32 = 2;

/// The most that a hash which somebody has stored may cost.
const MEMORY_KIB_MAX: u32 = 256 * 1_024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;

/// Lets a few passwords be hashed at one time, over all instances of the process; the others wait for their turn.
#[derive(Debug, Clone)]
pub struct PasswordPool {
    turns: Arc<Semaphore>,
    asked: Arc<AtomicUsize>,
}

impl PasswordPool {
    /// `jobs` is `limits.password_jobs`.
    pub fn new(jobs: usize) -> PasswordPool {
        PasswordPool { turns: Arc::new(Semaphore::new(jobs)), asked: Arc::default() }
    }

    /// Whether somebody waits for a hash: the virtual clock of tests knows nothing of it.
    pub fn is_busy(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 0
    }

    async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let _asked = Asked::new(&self.asked);
        let turn = self.turns.clone().acquire_owned().await.ok()?;
        let work = tokio::task::spawn_blocking(move || {
            // It ends with the work, which goes on if the callback is cancelled.
            let _turn = turn;
            job()
        });
        work.await.ok()
    }
}

struct Asked(Arc<AtomicUsize>);

impl Asked {
    fn new(count: &Arc<AtomicUsize>) -> Asked {
        count.fetch_add(1, Ordering::Relaxed);
        Asked(count.clone())
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub fn register(lua: &Lua, relay: &Table, host: &Rc<Host>, pool: &PasswordPool, waits: &Function) -> mlua::Result<()> {
    let table = lua.create_table()?;
    let (of, jobs) = (host.clone(), pool.clone());
    let begin = lua.create_function(move |_, password: Value| {
        const NAME: &str = "relay.password.hash(password)";
        of.running(NAME)?;
        let password = match password_of(&args::string(NAME, "password", &password)?) {
            Ok(password) => password,
            Err(why) => return Ok((true, Value::Nil, Some(why))),
        };
        let jobs = jobs.clone();
        of.wait(async move {
            answer(jobs.run(move || hash(&password).map(Plain::string).map_err(|error| error.to_string())).await)
        })?;
        Ok((false, Value::Nil, None))
    })?;
    table.set("hash", waits.call::<Function>(("relay.password.hash", begin))?)?;

    let (of, jobs) = (host.clone(), pool.clone());
    let begin = lua.create_function(move |_, (password, hash): (Value, Value)| {
        const NAME: &str = "relay.password.verify(password, hash)";
        of.running(NAME)?;
        let password = password_of(&args::string(NAME, "password", &password)?);
        let known = known(&args::string(NAME, "hash", &hash)?.to_string_lossy());
        let (password, known) = match (password, known) {
            (Ok(password), Ok(known)) => (password, known),
            (Err(why), _) | (_, Err(why)) => return Ok((true, Value::Nil, Some(why))),
        };
        let jobs = jobs.clone();
        of.wait(async move { answer(jobs.run(move || verify(&password, &known).map(Plain::Bool)).await) })?;
        Ok((false, Value::Nil, None))
    })?;
    table.set("verify", waits.call::<Function>(("relay.password.verify", begin))?)?;
    relay.set("password", table)
}

fn answer(result: Option<Result<Plain, String>>) -> Waited {
    Waited::Return(match result {
        Some(Ok(value)) => vec![value],
        Some(Err(why)) => vec![Plain::Nil, Plain::string(why)],
        None => vec![Plain::Nil, Plain::string("the work was broken off")],
    })
}

fn password_of(password: &LuaString) -> Result<Vec<u8>, String> {
    let bytes = password.as_bytes();
    match bytes.len() {
        0..=PASSWORD_MAX => Ok(bytes.to_vec()),
        longer => Err(format!("the password is longer than {PASSWORD_MAX} bytes: {longer}")),
    }
}

fn hash(password: &[u8]) -> password_hash::Result<String> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None)?;
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    // The salt is random: 16 bytes of the system's generator.
    hasher.hash_password(password).map(|hash: PasswordHash| hash.to_string())
}

/// A stored hash, unless it is none, or costs more to compute than anybody should be made to.
fn known(text: &str) -> Result<PasswordHash, String> {
    let hash = PasswordHash::new(text).map_err(|_| "this is not a password hash ($argon2id$…)".to_owned())?;
    if Algorithm::new(hash.algorithm.as_str()).is_err() {
        return Err(format!("this is a hash by {}, and not by argon2", hash.algorithm.as_str()));
    }
    let params = Params::try_from(&hash).map_err(|_| "the hash has parameters that argon2 does not have".to_owned())?;
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err("the hash is not whole".to_owned());
    }
    let (memory, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
    if memory > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
        return Err(format!(
            "the hash costs too much (m={memory},t={passes},p={lanes}; at most m={MEMORY_KIB_MAX},t={PASSES_MAX},p={LANES_MAX})"
        ));
    }
    Ok(hash)
}

fn verify(password: &[u8], hash: &PasswordHash) -> Result<bool, String> {
    match Argon2::default().verify_password(password, hash) {
        Ok(()) => Ok(true),
        Err(password_hash::Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_fits_its_password_and_no_two_are_alike() {
        let first = hash(b"secret").unwrap();
        assert!(first.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{first}");
        assert_ne!(first, hash(b"secret").unwrap());
        let first = known(&first).unwrap();
        assert_eq!(verify(b"secret", &first), Ok(true));
        assert_eq!(verify(b"Secret", &first), Ok(false));
        assert_eq!(verify(b"", &first), Ok(false));
    }

    #[test]
    fn a_hash_by_somebody_else_with_other_parameters_is_understood() {
        // Those of the reference implementation's own README and tests.
        for theirs in [
            "$argon2i$v=19$m=65536,t=2,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b+dWRWJTmaaJObG",
            "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
        ] {
            let known = known(theirs).unwrap();
            assert_eq!(verify(b"password", &known), Ok(true), "{theirs}");
            assert_eq!(verify(b"passwort", &known), Ok(false), "{theirs}");
        }
    }

    #[test]
    fn what_is_no_hash_or_would_be_a_bomb_is_refused_before_any_work() {
        let tail = "c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        let cases = [
            ("", "not a password hash"),
            ("secret", "not a password hash"),
            ("$2b$12$KIXIDCOv6vxGVgQ3bhyFVOIBGkhx5Tz3nBlw0kQdnmPNUq5SvC3CG", "not "),
            ("$argon2id$v=19$m=256,t=2,p=1", "not whole"),
            ("$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ", "not whole"),
            (&format!("$argon2id$v=19$m=262145,t=1,p=1${tail}"), "costs too much (m=262145,t=1,p=1; at most"),
            (&format!("$argon2id$v=19$m=256,t=17,p=1${tail}"), "costs too much"),
            (&format!("$argon2id$v=19$m=65536,t=1,p=17${tail}"), "costs too much"),
            (&format!("$argon2id$v=19$m=4294967295,t=4294967295,p=1${tail}"), "costs too much"),
            (&format!("$argon2id$v=19$m=x,t=1,p=1${tail}"), "parameters"),
            (&format!("$scrypt$ln=16,r=8,p=1${tail}"), "by scrypt"),
        ];
        for (text, expected) in cases {
            let why = known(text).unwrap_err();
            assert!(why.contains(expected), "{text}: {why}");
        }
    }

    #[test]
    fn no_more_run_at_one_time_than_the_pool_has_turns() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let pool = PasswordPool::new(2);
            let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let job = || {
                let (now, most) = (now.clone(), most.clone());
                move || {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    hash(b"x").unwrap();
                    now.fetch_sub(1, Ordering::SeqCst);
                }
            };
            let jobs: Vec<_> = (0..6)
                .map(|_| {
                    let (pool, job) = (pool.clone(), job());
                    tokio::spawn(async move { pool.run(job).await })
                })
                .collect();
            for job in jobs {
                assert!(job.await.unwrap().is_some());
            }
            assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
            assert!(!pool.is_busy());
        });
    }
}
