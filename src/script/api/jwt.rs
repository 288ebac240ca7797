//! `relay.jwt`: tokens that say who somebody is, checked against a fixed list of algorithms.

use std::{
    cell::RefCell,
    collections::HashMap,
    os::unix::fs::MetadataExt,
    path::{Component, Path},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use mlua::{Function, IntoLuaMulti, Lua, LuaString, MultiValue, Result, Table, Value};
use tokio::{sync::Notify, time::Instant};

use crate::{
    jwt::{self, Algorithm, Claims, DecodingKey, Family, KeySet, Keys, Token, Wanted, Why},
    outgoing::{Asked, Headers, Outgoing},
    script::{
        Context, Phase,
        api::{
            json::{self, DecodeError, EncodeError, encode_into},
            refusal,
        },
        args,
        host::Host,
        tasks::Waited,
    },
};

const VERIFY: &str = "relay.jwt.verify(token, options)";
const SIGN: &str = "relay.jwt.sign(claims, options)";

/// How long a fetch of a key set may take.
/// Shorter than authenticate waits (`limits.authenticate_timeout`, 5 s), so that its answer tells why.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// A key that is not in the set may have come since; it is looked for again, but not each time somebody makes one up.
const FETCH_AGAIN: Duration = Duration::from_secs(30);
/// A larger file is no key set.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Key sets that are kept at one time: a script that makes up URLs must not fill the memory.
const SETS_MAX: usize = 64;

/// Key sets that have been read or fetched, kept over generations.
#[derive(Default)]
pub struct KeySets {
    files: RefCell<HashMap<Box<str>, ReadFile>>,
    fetched: RefCell<HashMap<Box<str>, Fetched>>,
}

struct ReadFile {
    is: FileIs,
    set: Rc<KeySet>,
}

/// What tells one state of a file from another, also where a copy keeps its times: its number, and when it was last
/// changed in any way.
type FileIs = (u64, i64, i64, u64);

struct Fetched {
    /// None until a first fetch has been good.
    set: Option<Rc<KeySet>>,
    good_at: Instant,
    tried_at: Instant,
    why: String,
    /// Told when the request that is under way has been answered; None if there is none.
    pending: Option<Rc<Notify>>,
}

/// Registers all but what needs the network.
pub fn register(lua: &Lua, relay: &Table, context: &Rc<Context>) -> Result<()> {
    let jwt = lua.create_table()?;
    let (of, sets) = (context.clone(), Rc::<KeySets>::default());
    let verify = lua.create_function(move |lua, (token, options): (Value, Value)| {
        match begin(lua, &of, &sets, None, &token, &options)? {
            Begun::Done(values) => Ok(values),
            Begun::Fetch { .. } => Err(args::mistake(VERIFY, "a key set cannot be fetched here")),
        }
    })?;
    jwt.raw_set("verify", verify)?;
    let depth_max = context.app.limits.json_depth;
    jwt.raw_set(
        "sign",
        lua.create_function(move |_, (claims, options): (Value, Value)| sign(&claims, &options, depth_max))?,
    )?;
    relay.raw_set("jwt", jwt)
}

/// Puts the `verify` in place that waits where a key set must be fetched.
pub fn register_waiting(
    lua: &Lua,
    relay: &Table,
    host: &Rc<Host>,
    waits: &Function,
    outgoing: &Rc<Outgoing>,
    sets: &Rc<KeySets>,
) -> Result<()> {
    let (of, out, sets) = (host.clone(), outgoing.clone(), sets.clone());
    let verify = lua.create_function(move |lua, (token, options): (Value, Value)| {
        // While a script loads nobody is asked.
        let out = (of.context.phase.get() == Phase::Running).then_some(&out);
        let (url, token, asked) = match begin(lua, &of.context, &sets, out, &token, &options)? {
            Begun::Done(mut values) => {
                values.push_front(Value::Boolean(true));
                return Ok(values);
            }
            Begun::Fetch { url, token, asked } => (url, token, asked),
        };
        let (sets, context) = (sets.clone(), of.context.clone());
        of.wait(async move {
            sets.answered(&url).await;
            Waited::Make(Box::new(move |lua| match sets.fetched(&url) {
                Ok(set) => told(lua, asked.verify(lua, &token, &Keys::Set(&set), &context)?),
                Err(why) => refusal(lua, why),
            }))
        })?;
        false.into_lua_multi(lua)
    })?;
    relay.raw_get::<Table>("jwt")?.raw_set("verify", waits.call::<Function>(("relay.jwt.verify", verify))?)
}

fn told(lua: &Lua, verified: std::result::Result<Table, Why>) -> Result<MultiValue> {
    match verified {
        Ok(claims) => claims.into_lua_multi(lua),
        Err(why) => refusal(lua, why.as_str()),
    }
}

/// What a set is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    Nothing,
    /// It is old.
    Newer,
    /// A key that is not in it, and may have come since.
    Key,
}

/// How far a verification comes without waiting.
enum Begun {
    Done(MultiValue),
    Fetch { url: String, token: Box<[u8]>, asked: Verification },
}

fn begin(
    lua: &Lua,
    context: &Context,
    sets: &Rc<KeySets>,
    outgoing: Option<&Rc<Outgoing>>,
    token: &Value,
    options: &Value,
) -> Result<Begun> {
    let asked = Verification::read(options)?;
    let token = match token {
        Value::Nil => return refusal(lua, Why::BadToken.as_str()).map(Begun::Done),
        token => args::string(VERIFY, "token", token)?,
    };
    let token = token.as_bytes();
    let done = |verified| told(lua, verified).map(Begun::Done);
    let source = match &asked.source {
        Source::Key(key) => return done(asked.verify(lua, &token, &Keys::One(key), context)?),
        Source::Set(source) => source,
    };
    if !source.contains("://") {
        return match sets.file(&context.app.script, source) {
            Ok(set) => done(asked.verify(lua, &token, &Keys::Set(&set), context)?),
            Err(why) => refusal(lua, why).map(Begun::Done),
        };
    }
    // What no key could make good is not worth a request.
    let kid = match Token::parse(&token) {
        Ok(token) => token.kid,
        Err(why) => return done(Err(why)),
    };
    let Some(kid) = kid else { return done(Err(Why::MissingKid)) };
    // A set that is old serves while a newer one is on its way; only what it lacks is waited for.
    let wants = sets.wants(source, &kid, context.app.limits.jwks_cache);
    if wants != Wants::Nothing {
        let Some(outgoing) = outgoing else { return Err(args::mistake(VERIFY, "a key set cannot be fetched here")) };
        sets.fetch(source, outgoing);
    }
    if wants == Wants::Key {
        return Ok(Begun::Fetch { url: source.clone(), token: (*token).into(), asked });
    }
    match sets.fetched(source) {
        Ok(set) => done(asked.verify(lua, &token, &Keys::Set(&set), context)?),
        Err(why) => refusal(lua, why).map(Begun::Done),
    }
}

impl KeySets {
    /// The set in a file of the script's folder, read again when it has changed.
    fn file(&self, script: &Path, name: &str) -> std::result::Result<Rc<KeySet>, String> {
        let problem = |why: &str| format!("jwks: {name}: {why}");
        let is_inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if !is_inside {
            return Err(problem("must be a file in the script's folder, or an https:// URL"));
        }
        let folder = script.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let path = folder.join(name);
        let cannot = |error: std::io::Error| problem(&error.to_string());
        let (real, home) = (path.canonicalize().map_err(cannot)?, folder.canonicalize().map_err(cannot)?);
        if !real.starts_with(home) {
            return Err(problem("leads out of the script's folder"));
        }
        let about = std::fs::metadata(&path).map_err(cannot)?;
        let is = (about.ino(), about.ctime(), about.ctime_nsec(), about.len());
        if let Some(read) = self.files.borrow().get(name).filter(|read| read.is == is) {
            return Ok(read.set.clone());
        }
        if !about.is_file() || about.len() > FILE_BYTES_MAX {
            return Err(problem(&format!("is no file of at most {FILE_BYTES_MAX} bytes")));
        }
        let set = Rc::new(KeySet::parse(&std::fs::read(&path).map_err(cannot)?).map_err(|why| problem(&why))?);
        let mut files = self.files.borrow_mut();
        if files.len() >= SETS_MAX {
            files.clear();
        }
        files.insert(name.into(), ReadFile { is, set: set.clone() });
        Ok(set)
    }

    fn wants(&self, url: &str, kid: &str, keep: Duration) -> Wants {
        let fetched = self.fetched.borrow();
        let Some(known) = fetched.get(url) else { return Wants::Key };
        let has = known.set.as_ref().is_some_and(|set| set.has(kid));
        let may_ask = known.pending.is_some() || known.tried_at.elapsed() >= FETCH_AGAIN.min(keep);
        match has {
            false if may_ask => Wants::Key,
            true if may_ask && known.good_at.elapsed() >= keep => Wants::Newer,
            _ => Wants::Nothing,
        }
    }

    /// Asks for a set, unless somebody has. It goes on whatever becomes of who asked.
    fn fetch(self: &Rc<KeySets>, url: &str, outgoing: &Rc<Outgoing>) {
        let now = Instant::now();
        let mut fetched = self.fetched.borrow_mut();
        if fetched.len() >= SETS_MAX && !fetched.contains_key(url) {
            fetched.retain(|_, known| known.pending.is_some());
        }
        let known = fetched.entry(url.into()).or_insert_with(|| Fetched {
            set: None,
            good_at: now,
            tried_at: now,
            why: String::new(),
            pending: None,
        });
        if known.pending.is_some() {
            return;
        }
        known.tried_at = now;
        known.pending = Some(Rc::default());
        let (sets, url, outgoing) = (self.clone(), url.to_owned(), outgoing.clone());
        tokio::task::spawn_local(async move { sets.ask(&url, &outgoing).await });
    }

    /// Resolves when nothing is under way any more.
    async fn answered(&self, url: &str) {
        loop {
            let pending = self.fetched.borrow().get(url).and_then(|known| known.pending.clone());
            match pending {
                Some(pending) => pending.notified().await,
                None => return,
            }
        }
    }

    /// The last set that could be fetched.
    fn fetched(&self, url: &str) -> std::result::Result<Rc<KeySet>, String> {
        let fetched = self.fetched.borrow();
        let why = || fetched.get(url).map_or("it was not fetched", |known| known.why.as_str());
        fetched.get(url).and_then(|known| known.set.clone()).ok_or_else(|| format!("jwks: {url}: {}", why()))
    }

    async fn ask(&self, url: &str, outgoing: &Outgoing) {
        let asked = Asked {
            method: "GET".to_owned(),
            url: url.to_owned(),
            headers: Headers::default(),
            body: Bytes::new(),
            timeout: FETCH_TIMEOUT,
        };
        let answer = match outgoing.ask(asked).await {
            Ok(response) if response.status == 200 => KeySet::parse(&response.body),
            Ok(response) => Err(format!("it was answered with {}", response.status)),
            Err(why) => Err(why),
        };
        let now = Instant::now();
        let mut fetched = self.fetched.borrow_mut();
        let Some(known) = fetched.get_mut(url) else { return };
        if let Some(pending) = known.pending.take() {
            pending.notify_waiters();
        }
        match answer {
            Ok(set) => {
                known.set = Some(Rc::new(set));
                known.good_at = now;
            }
            Err(why) => {
                let goes_on = if known.set.is_some() { "; the last one that could be fetched is used" } else { "" };
                tracing::warn!("the key set {url} could not be fetched: {why}{goes_on}");
                known.why = why;
            }
        }
    }
}

/// Where keys come from.
enum Source {
    Key(DecodingKey),
    /// A URL, or a file.
    Set(String),
}

/// What a script asks of a token.
struct Verification {
    source: Source,
    algorithms: Vec<Algorithm>,
    wanted: Wanted,
}

impl Verification {
    fn read(options: &Value) -> Result<Verification> {
        const KNOWN: [&str; 6] = ["key", "jwks", "algorithms", "audience", "issuer", "leeway"];
        let Some(table) = args::options(VERIFY, options, &KNOWN)? else {
            return Err(args::wrong(VERIFY, "options", "a table", options));
        };
        let (key, jwks): (Value, Value) = (table.raw_get("key")?, table.raw_get("jwks")?);
        let (algorithms, families) = read_algorithms(&table.raw_get("algorithms")?)?;
        let source = match (&key, &jwks) {
            (key, Value::Nil) => {
                // One key serves one family: a public key must never be taken for a shared secret.
                let [family] = families[..] else {
                    return Err(args::mistake(VERIFY, "algorithms must all be of one kind, since there is one key"));
                };
                let key = args::string(VERIFY, "key", key)?;
                Source::Key(jwt::verifying_key(&key.as_bytes(), family).map_err(|why| args::mistake(VERIFY, &why))?)
            }
            (Value::Nil, jwks) => {
                if families.contains(&Family::Hmac) {
                    let hmac = Family::Hmac.algorithms();
                    return Err(args::mistake(
                        VERIFY,
                        &format!("a key set has public keys, which {hmac} do not take: leave them out of algorithms"),
                    ));
                }
                let source = args::string(VERIFY, "jwks", jwks)?.to_string_lossy();
                if source.is_empty() {
                    return Err(args::mistake(VERIFY, "jwks must be a URL or a file, got an empty string"));
                }
                Source::Set(source)
            }
            _ => return Err(args::mistake(VERIFY, "give either key or jwks, not both")),
        };
        let wanted = Wanted {
            audience: read_texts("audience", &table.raw_get("audience")?)?,
            issuer: read_texts("issuer", &table.raw_get("issuer")?)?,
            leeway: match table.raw_get::<Value>("leeway")? {
                Value::Nil => jwt::LEEWAY,
                leeway => args::duration(VERIFY, "leeway", &leeway)?,
            },
        };
        Ok(Verification { source, algorithms, wanted })
    }

    fn verify(
        &self,
        lua: &Lua,
        token: &[u8],
        keys: &Keys,
        context: &Context,
    ) -> Result<std::result::Result<Table, Why>> {
        let token = match Token::parse(token) {
            Ok(token) => token,
            Err(why) => return Ok(Err(why)),
        };
        if let Err(why) = token.verify(keys, &self.algorithms).map_err(|why| args::mistake(VERIFY, &why))? {
            return Ok(Err(why));
        }
        let checked = Claims::parse(&token.payload).and_then(|claims| claims.check(&self.wanted, context.clock.unix()));
        if let Err(why) = checked {
            return Ok(Err(why));
        }
        // Claims may hold large ids, which are then strings.
        match json::decode_bytes(lua, &token.payload, context.app.limits.json_depth, true) {
            Ok(Value::Table(claims)) => Ok(Ok(claims)),
            Ok(_) | Err(DecodeError::Bad(_)) => Ok(Err(Why::BadToken)),
            Err(DecodeError::Lua(error)) => Err(error),
        }
    }
}

fn algorithm(function: &str, argument: &str, name: &Value) -> Result<(Algorithm, Family)> {
    let name = args::string(function, argument, name)?.to_string_lossy();
    jwt::algorithm(&name)
        .ok_or_else(|| args::mistake(function, &format!("unknown algorithm '{name}' (there are {})", jwt::names())))
}

fn read_algorithms(list: &Value) -> Result<(Vec<Algorithm>, Vec<Family>)> {
    const WANTED: &str = "a list such as { \"HS256\" }";
    let Value::Table(table) = list else {
        return Err(args::wrong(VERIFY, "algorithms", WANTED, list));
    };
    let (mut algorithms, mut families) = (Vec::new(), Vec::new());
    for name in table.sequence_values::<Value>() {
        let (algorithm, family) = algorithm(VERIFY, "algorithms", &name?)?;
        algorithms.push(algorithm);
        if !families.contains(&family) {
            families.push(family);
        }
    }
    if algorithms.is_empty() {
        return Err(args::mistake(VERIFY, &format!("algorithms must be {WANTED}")));
    }
    Ok((algorithms, families))
}

/// A string or a list of strings.
fn read_texts(option: &str, value: &Value) -> Result<Option<Vec<Vec<u8>>>> {
    const WANTED: &str = "a string or a list of strings";
    match value {
        Value::Nil => Ok(None),
        Value::String(text) => Ok(Some(vec![text.as_bytes().to_vec()])),
        Value::Table(list) => {
            let texts = list.sequence_values::<Value>().map(|text| match text? {
                Value::String(text) => Ok(text.as_bytes().to_vec()),
                _ => Err(args::mistake(VERIFY, &format!("{option} must be {WANTED}"))),
            });
            let texts = texts.collect::<Result<Vec<_>>>()?;
            if texts.is_empty() {
                Err(args::mistake(VERIFY, &format!("{option} must be {WANTED}, got an empty list")))
            } else {
                Ok(Some(texts))
            }
        }
        other => Err(args::wrong(VERIFY, option, WANTED, other)),
    }
}

fn sign(claims: &Value, options: &Value, depth_max: usize) -> Result<String> {
    let Value::Table(_) = claims else {
        return Err(args::wrong(SIGN, "claims", "a table", claims));
    };
    let Some(table) = args::options(SIGN, options, &["key", "algorithm", "kid"])? else {
        return Err(args::wrong(SIGN, "options", "a table", options));
    };
    let (algorithm, family) = match table.raw_get::<Value>("algorithm")? {
        Value::Nil => (Algorithm::HS256, Family::Hmac),
        name => algorithm(SIGN, "algorithm", &name)?,
    };
    let key: LuaString = args::string(SIGN, "key", &table.raw_get("key")?)?;
    let key = jwt::signing_key(&key.as_bytes(), family).map_err(|why| args::mistake(SIGN, &why))?;
    let kid = match table.raw_get::<Value>("kid")? {
        Value::Nil => None,
        kid => Some(
            args::string(SIGN, "kid", &kid)?.to_str().map_err(|_| args::mistake(SIGN, "kid must be UTF-8"))?.to_owned(),
        ),
    };

    let mut payload = Vec::new();
    // Here bad data too are the script's mistake: it made them, and there is no token without them.
    encode_into(claims, depth_max, &mut payload).map_err(|error| match error {
        EncodeError::Mistake(problem) => args::mistake(SIGN, &problem.to_string().replacen("value", "claims", 1)),
        EncodeError::World(why) => args::mistake(SIGN, &why.replacen("value", "claims", 1)),
        EncodeError::Lua(error) => error,
    })?;
    if !payload.starts_with(b"{") {
        return Err(args::mistake(SIGN, "claims must have named fields"));
    }
    jwt::sign(&payload, &key, algorithm, kid.as_deref()).map_err(|why| args::mistake(SIGN, &why))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        clock::Clock,
        script::api::tests::{check_in, check_raises, test_app, test_context_of, test_lua},
    };

    // Made for these tests, and used nowhere else.
    const KEYS: &str = r##"
        local rsa_private = [[-----BEGIN PRIVATE KEY-----
MIIEvAIBADANBgkqhkiG9w0BAQEFAASCBKYwggSiAgEAAoIBAQDEmXbPZx0RxGeR
k/gyyF763aT+QGPUXoD77HuxESTPkAJRc3WiOWQvGpik7rQ8xJmZ5p3cy0IuY8Ss
JVIOH4eMoVAGOvCPEJkaXpPgV/UId4X5/BwLNqXLizjnAgCme6DvPi3IBWtGsgeT
ttMERbjsDg7Q//VDcDLNaaTP3f22Ygn0dt+CLtmo3l+e25xFyXiDi9NUP9krc/jt
ObuBheY7hVIDtVlz0Sz6tNcMuuJTefogyceKtPSMTsEq6AQzP5A5EgBhlFPNj+4T
/4GlyCqXVbJFxV3CZbCcAO3nahQecKYi72XcBgWUKFMD7SdU3VD0D99kdN6jbblI
F/spGqw9AgMBAAECgf8aCJ7MpPSBTDQEX+CXpb264QVFDEHFkL4dauaP2M7tej4H
iyjvBaqLXxPXkCrnerrcWZP0XClNyBuP42FHFxj1oAB40ruhz92phql0vv3NOtNp
YKxWAwAkpzFhzC7jdnuMZfxDmg20NUVlMIPA83qi+tMuprZTt9Sb+Hr0PvFATuYH
Adi8oBEyn7kSRdmwRlQj9ZwnFoaUL+oWV1aZqgEx1XplDXYIbN92fwJtVm6vJn+/
JNX/taVXpj027wa5E5uBoy1CWBn5pp8eg6el22Sul1vS9jKabnJ4wfeyytfRCCN8
5fOV7t64tyov3PWEUJlxKV3ufr9Moa92OBtqFlECgYEA8c53nhJVK9tH/eKH1fIg
ZGAhVN6MSuwB6V5qc4lrZoHYm+g5ph6TL2nh1Ph7xKlGkvo/g3batNixcw2JuAXs
r0gnqrJg88av0z0XLVYPBf3ql/70BKon69pvlLq/tJaTwZ27idUDZjoZhOAD0dda
T6Pm3937p+iowxgTo71rFJkCgYEA0COwKPBwrmJr773ej33Cn7qJ1HT2LFO832un
EIeRBbNXlWtMdYTrokfOr5dJ/onb7ljP31FurZAoZQqxz+cSddYlXUMN6hNRZ1ZC
Y7NQnqQbgNzw5pMc6n2RDTwSRcnAiP9Cqk7d9EXHKwG35qH06Xk7zz8FFAi1+UIb
Oznjd0UCgYEA432kqfGDccxOkbwCobS25thN44Owp3gcYEr0iZg6k+kLObqkKfZP
8OaDkZLpFl9PR03qXSt/nW7Um3KcI6ZnQ4z1zLEfZ5mAp5Ks8Hkrjy6Q+8jgGFdh
UZJjMaD0ZNjZT+mum4DtPsrgYVNEJLKfg5emyO0WKqVHyKwpJf459NkCgYBQwCfO
Gkp9PW4G2zEHlpD1i1eB98ayN+KlA40TWqUnAwdNzw0g4urQUO+dLCLm//E1rXso
dt1rtOwXF2kY8ds1oFlqr2Msl0YTw2GKcL0sbxrEifNkYVrslr651b55GOb7v5zL
mkF+TbwRsV75uYfdNM3Bf/+mYCLJi54pAjJ/yQKBgQCU1eXg5JeXWv+XgYzU1byC
wMh0RJEgxbipaOFvlQbmTWTP7EWBJU7AxWd/7ULgio4RPyy+tPnOu84Hcz9OBGMr
nJDJQ3kp6Jd0w4ax0QpEAob3RB+4FYXuREg83gyF6vbgPyUMUUGiNpbv7eT//Bt7
R4BBZl68FNuh9kfBjTTEIA==
-----END PRIVATE KEY-----]]
        local rsa_public = [[-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAxJl2z2cdEcRnkZP4Mshe
+t2k/kBj1F6A++x7sREkz5ACUXN1ojlkLxqYpO60PMSZmead3MtCLmPErCVSDh+H
jKFQBjrwjxCZGl6T4Ff1CHeF+fwcCzaly4s45wIApnug7z4tyAVrRrIHk7bTBEW4
7A4O0P/1Q3AyzWmkz939tmIJ9Hbfgi7ZqN5fntucRcl4g4vTVD/ZK3P47Tm7gYXm
O4VSA7VZc9Es+rTXDLriU3n6IMnHirT0jE7BKugEMz+QORIAYZRTzY/uE/+Bpcgq
l1WyRcVdwmWwnADt52oUHnCmIu9l3AYFlChTA+0nVN1Q9A/fZHTeo225SBf7KRqs
PQIDAQAB
-----END PUBLIC KEY-----]]
        local ec_private = [[-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgLsU6evndVhq/LcIk
K6Vxzq6AeaVH6cGRlincCyHubZOhRANCAARNdaYanHAkjXheDNiBXTKCMJLilc7B
NbW2Mp3fvmvDXAvMYGQsLwUPuu2Bzp2OfhwazhQRonYAkLsIlKkavwlh
-----END PRIVATE KEY-----]]
        local ec_public = [[-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAETXWmGpxwJI14XgzYgV0ygjCS4pXO
wTW1tjKd375rw1wLzGBkLC8FD7rtgc6djn4cGs4UEaJ2AJC7CJSpGr8JYQ==
-----END PUBLIC KEY-----]]
        local ed_private = [[-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIOP1DL7SutUdKbA8C6/aNmv+bIgc6LHTdzP9wYeY88cM
-----END PRIVATE KEY-----]]
        local ed_public = [[-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA47luWg0BudPtmQIx8RsgTNWAZy62GQPW7GbZte+g56A=
-----END PUBLIC KEY-----]]
    "##;

    const HELPERS: &str = r##"
        local NOW = 1700000000
        local function b64(s) return relay.base64.encode(s, { url = true }) end
        -- A token with any header and payload, signed with HMAC-SHA256 whatever the header says.
        local function forge(header, payload, key)
            local message = b64(header) .. "." .. b64(payload)
            return message .. "." .. b64(relay.crypto.hmac_sha256(key, message))
        end
        local HS256 = '{"alg":"HS256","typ":"JWT"}'
        local function hs(payload) return forge(HS256, payload, "secret") end
        local function refused(token, why, options)
            options = options or {}
            options.key = options.key or "secret"
            options.algorithms = options.algorithms or { "HS256" }
            local claims, got = relay.jwt.verify(token, options)
            assert(claims == nil and got == why, `{token}: expected {why}, got {got}`)
        end
        local function accepted(token, options)
            options = options or {}
            options.key = options.key or "secret"
            options.algorithms = options.algorithms or { "HS256" }
            local claims, why = relay.jwt.verify(token, options)
            assert(claims, why)
            return claims
        end
    "##;

    fn check(source: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let clock = Clock::virtual_from(Duration::from_secs(1_700_000_000));
            check_in(&test_lua(&test_context_of(test_app(), clock)), &format!("{KEYS}{HELPERS}{source}"));
        });
    }

    #[test]
    fn what_is_signed_is_verified_with_each_algorithm() {
        check(
            r#"
            local pairs_of_keys = {
                HS256 = { "secret", "secret" }, HS384 = { "secret", "secret" }, HS512 = { "secret", "secret" },
                RS256 = { rsa_private, rsa_public }, ES256 = { ec_private, ec_public }, EdDSA = { ed_private, ed_public },
            }
            for algorithm, keys in pairs_of_keys do
                local token = relay.jwt.sign({ sub = "ann", exp = NOW + 60 }, { key = keys[1], algorithm = algorithm, kid = "k1" })
                local claims = accepted(token, { key = keys[2], algorithms = { algorithm } })
                assert(claims.sub == "ann" and claims.exp == NOW + 60)
                local header = relay.json.decode((relay.base64.decode(string.split(token, ".")[1], { url = true })))
                assert(header.alg == algorithm and header.kid == "k1" and header.typ == "JWT")
                -- Any other byte in the signature spoils it.
                local spoilt = string.sub(token, 1, -6) .. (string.sub(token, -5, -5) == "A" and "B" or "A") .. string.sub(token, -4)
                refused(spoilt, "bad_signature", { key = keys[2], algorithms = { algorithm } })
            end
            "#,
        );
    }

    #[test]
    fn a_token_of_another_algorithm_is_refused() {
        check(
            r#"
            local payload = `\{"sub":"ann","exp":{NOW + 60}}`
            for _, alg in { "none", "None", "", "hs256", "HS384", "RS256", "ES256", "EdDSA", "HS256 " } do
                refused(forge(`\{"alg":"{alg}"}`, payload, "secret"), "bad_algorithm")
            end
            refused(b64('{"alg":"none"}') .. "." .. b64(payload) .. ".", "bad_algorithm")
            -- The swap: HMAC with the public key as its secret, against a verifier that holds that key.
            refused(forge(HS256, payload, rsa_public), "bad_algorithm", { key = rsa_public, algorithms = { "RS256" } })
            refused(forge('{"alg":"RS256"}', payload, rsa_public), "bad_signature", { key = rsa_public, algorithms = { "RS256" } })
            refused(forge(HS256, payload, "other"), "bad_signature")
            "#,
        );
    }

    #[test]
    fn times_are_required_to_be_numbers_and_have_a_leeway() {
        check(
            r#"
            accepted(hs(`\{"exp":{NOW + 1}}`))
            accepted(hs(`\{"exp":{NOW - 29}}`))
            refused(hs(`\{"exp":{NOW - 30}}`), "expired")
            refused(hs(`\{"exp":{NOW - 1}}`), "expired", { leeway = 0 })
            accepted(hs(`\{"exp":{NOW + 0.5}}`), { leeway = 0 })
            refused(hs(`\{"sub":"ann"}`), "missing_exp")
            refused(hs(`\{"exp":"{NOW + 60}"}`), "bad_token")
            refused(hs(`\{"exp":null}`), "bad_token")
            refused(hs(`\{"exp":true}`), "bad_token")
            refused(hs(`\{"exp":99999999999999999999}`), "bad_token")
            local exp = `"exp":{NOW + 600}`
            accepted(hs(`\{{exp},"nbf":{NOW + 30}}`))
            refused(hs(`\{{exp},"nbf":{NOW + 31}}`), "not_yet_valid")
            refused(hs(`\{{exp},"nbf":"{NOW - 60}"}`), "bad_token")
            refused(hs(`\{{exp},"nbf":{NOW + 1}}`), "not_yet_valid", { leeway = 0 })
            "#,
        );
    }

    #[test]
    fn audience_and_issuer_are_looked_at_when_asked_for() {
        check(
            r#"
            local exp = `"exp":{NOW + 600}`
            local none = hs(`\{{exp}}`)
            local one = hs(`\{{exp},"aud":"a","iss":"x"}`)
            local list = hs(`\{{exp},"aud":["b","c"],"iss":"y"}`)
            accepted(one) accepted(list)
            accepted(one, { audience = "a", issuer = "x" })
            accepted(list, { audience = { "z", "c" }, issuer = { "x", "y" } })
            refused(none, "bad_audience", { audience = "a" })
            refused(one, "bad_audience", { audience = "b" })
            refused(list, "bad_audience", { audience = "a" })
            refused(hs(`\{{exp},"aud":1}`), "bad_audience", { audience = "1" })
            refused(none, "bad_issuer", { issuer = "x" })
            refused(one, "bad_issuer", { issuer = "y" })
            refused(hs(`\{{exp},"iss":["x"]}`), "bad_issuer", { issuer = "x" })
            "#,
        );
    }

    #[test]
    fn what_is_no_token_is_refused() {
        check(
            r#"
            refused(nil, "bad_token")
            for _, token in { "", "a", "a.b", "a.b.c", "..", "a.b.c.d", "\xff.b.c", "...." } do refused(token, "bad_token") end
            refused(string.rep("a", 8193), "bad_token")
            refused(hs("[1]"), "bad_token")
            refused(hs("{"), "bad_token")
            refused(hs("null"), "bad_token")
            refused(forge('{"typ":"JWT"}', "{}", "secret"), "bad_token")
            refused(forge('{"alg":"HS256","crit":["x"],"x":1}', `\{"exp":{NOW + 60}}`, "secret"), "bad_token")
            refused(forge('{"alg":1}', "{}", "secret"), "bad_token")
            local good = hs(`\{"exp":{NOW + 60}}`)
            refused(good .. "=", "bad_signature")
            refused(good .. ".", "bad_token")
            local claims = accepted(hs(`\{"exp":{NOW + 60},"id":1152921504606846977}`))
            assert(claims.id == "1152921504606846977")
            "#,
        );
    }

    #[test]
    fn a_mistake_in_the_options_raises() {
        let raises = |call: &str, message: &str| check_raises(&format!("{KEYS}{call}"), message);
        raises("relay.jwt.verify('t')", "options must be a table, got nil");
        raises("relay.jwt.verify(1, { key = 's', algorithms = { 'HS256' } })", "token must be a string, got number");
        raises("relay.jwt.verify('t', { key = 's' })", "algorithms must be a list such as { \"HS256\" }, got nil");
        raises("relay.jwt.verify('t', { key = 's', algorithms = {} })", "algorithms must be a list");
        raises(
            "relay.jwt.verify('t', { key = 's', algorithms = { 'none' } })",
            "unknown algorithm 'none' (there are HS256",
        );
        raises("relay.jwt.verify('t', { key = 's', algorithms = { 'HS256', 'RS256' } })", "must all be of one kind");
        raises("relay.jwt.verify('t', { algorithms = { 'HS256' } })", "key must be a string, got nil");
        raises("relay.jwt.verify('t', { key = '', algorithms = { 'HS256' } })", "key must not be empty");
        raises(
            "relay.jwt.verify('t', { key = rsa_public, algorithms = { 'HS256' } })",
            "take a shared secret, but key is a PEM text",
        );
        raises("relay.jwt.verify('t', { key = 's', algorithms = { 'RS256' } })", "RS256 takes a key in PEM");
        raises(
            "relay.jwt.verify('t', { key = rsa_private, algorithms = { 'RS256' } })",
            "begins with -----BEGIN PUBLIC KEY-----",
        );
        raises(
            "relay.jwt.verify('t', { key = ec_public, algorithms = { 'RS256' } })",
            "key is no public key of the kind that RS256 needs",
        );
        raises("relay.jwt.verify('t', { key = 's', algorithms = { 'HS256' }, jwk = '' })", "unknown option 'jwk'");
        raises(
            "relay.jwt.verify('t', { key = 's', algorithms = { 'HS256' }, leeway = -1 })",
            "leeway must not be negative",
        );
        raises(
            "relay.jwt.verify('t', { key = 's', algorithms = { 'HS256' }, audience = 1 })",
            "audience must be a string or a list",
        );
        raises("relay.jwt.sign('x', { key = 's' })", "claims must be a table, got string");
        raises("relay.jwt.sign({ f = print }, { key = 's' })", "claims.f is a function");
        raises("relay.jwt.sign({ 1 }, { key = 's' })", "claims must have named fields");
        raises(
            "relay.jwt.sign({}, { key = ec_public, algorithm = 'ES256' })",
            "key is no private key of the kind that ES256 needs",
        );
        raises("relay.jwt.sign({ exp = 1 }, { key = rsa_public, algorithm = 'RS256' })", "key is no private key");
    }
}
