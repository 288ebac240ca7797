//! `relay.jwt`: tokens that say who somebody is, checked against a fixed list of algorithms.

use std::{rc::Rc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto, errors::ErrorKind};
use mlua::{IntoLuaMulti, Lua, LuaString, Result, Table, Value};
use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::script::{
    Context,
    api::{
        json::{self, DecodeError, EncodeError, encode_into},
        refusal,
    },
    args,
};

/// A longer token is not looked at.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
const LEEWAY: Duration = Duration::from_secs(30);

const ALGORITHMS: [(&str, Algorithm, Family); 6] = [
    ("HS256", Algorithm::HS256, Family::Hmac),
    ("HS384", Algorithm::HS384, Family::Hmac),
    ("HS512", Algorithm::HS512, Family::Hmac),
    ("RS256", Algorithm::RS256, Family::Rsa),
    ("ES256", Algorithm::ES256, Family::Ec),
    ("EdDSA", Algorithm::EdDSA, Family::Ed),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Hmac,
    Rsa,
    Ec,
    Ed,
}

pub fn register(lua: &Lua, relay: &Table, context: &Rc<Context>) -> Result<()> {
    let jwt = lua.create_table()?;

    let of = context.clone();
    let verify = lua.create_function(move |lua, (token, options): (Value, Value)| {
        let wanted = Wanted::read(&options)?;
        let token = match &token {
            Value::Nil => return refusal(lua, Why::BadToken.as_str()),
            token => args::string(VERIFY, "token", token)?,
        };
        match wanted.verify(lua, &token, &of)? {
            Ok(claims) => claims.into_lua_multi(lua),
            Err(why) => refusal(lua, why.as_str()),
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

const VERIFY: &str = "relay.jwt.verify(token, options)";
const SIGN: &str = "relay.jwt.sign(claims, options)";

/// Why a token does not count. The words are part of the contract with scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    BadToken,
    TooLong,
    BadAlgorithm,
    BadSignature,
    MissingExp,
    Expired,
    NotYetValid,
    BadAudience,
    BadIssuer,
}

impl Why {
    fn as_str(self) -> &'static str {
        match self {
            Why::BadToken => "bad_token",
            Why::TooLong => "too_long",
            Why::BadAlgorithm => "bad_algorithm",
            Why::BadSignature => "bad_signature",
            Why::MissingExp => "missing_exp",
            Why::Expired => "expired",
            Why::NotYetValid => "not_yet_valid",
            Why::BadAudience => "bad_audience",
            Why::BadIssuer => "bad_issuer",
        }
    }
}

/// What a script asks of a token.
struct Wanted {
    key: DecodingKey,
    algorithms: Vec<Algorithm>,
    audience: Option<Vec<Vec<u8>>>,
    issuer: Option<Vec<Vec<u8>>>,
    leeway: Duration,
}

impl Wanted {
    fn read(options: &Value) -> Result<Wanted> {
        let Some(table) = args::options(VERIFY, options, &["key", "algorithms", "audience", "issuer", "leeway"])?
        else {
            return Err(args::wrong(VERIFY, "options", "a table", options));
        };
        let (algorithms, family) = read_algorithms(&table.raw_get("algorithms")?)?;
        let key = read_key(VERIFY, &table.raw_get("key")?, family)?;
        let key = key.as_bytes();
        if family != Family::Hmac && !holds(&key, b"PUBLIC KEY-----") {
            return Err(args::mistake(VERIFY, "key must be a PEM text that begins with -----BEGIN PUBLIC KEY-----"));
        }
        let key = match family {
            Family::Hmac => Ok(DecodingKey::from_secret(&key)),
            Family::Rsa => DecodingKey::from_rsa_pem(&key),
            Family::Ec => DecodingKey::from_ec_pem(&key),
            Family::Ed => DecodingKey::from_ed_pem(&key),
        };
        Ok(Wanted {
            key: key.map_err(|_| {
                args::mistake(VERIFY, &format!("key is no public key of the kind that {} needs", family.algorithms()))
            })?,
            algorithms,
            audience: read_texts("audience", &table.raw_get("audience")?)?,
            issuer: read_texts("issuer", &table.raw_get("issuer")?)?,
            leeway: match table.raw_get::<Value>("leeway")? {
                Value::Nil => LEEWAY,
                leeway => args::duration(VERIFY, "leeway", &leeway)?,
            },
        })
    }

    fn verify(&self, lua: &Lua, token: &LuaString, context: &Context) -> Result<std::result::Result<Table, Why>> {
        let token = token.as_bytes();
        if token.len() > TOKEN_BYTES_MAX {
            return Ok(Err(Why::TooLong));
        }
        let payload = match self.signed_payload(&token)? {
            Ok(payload) => payload,
            Err(why) => return Ok(Err(why)),
        };
        // Claims may hold large ids, which are then strings; a time that large is none.
        let claims = match json::decode_bytes(lua, &payload, context.app.limits.json_depth, true) {
            Ok(Value::Table(claims)) if payload.trim_ascii_start().starts_with(b"{") => claims,
            Ok(_) | Err(DecodeError::Bad(_)) => return Ok(Err(Why::BadToken)),
            Err(DecodeError::Lua(error)) => return Err(error),
        };
        Ok(self.check(&claims, context.clock.unix())?.map_or(Ok(claims), Err))
    }

    /// What the token says, once its algorithm and signature are known to be good.
    fn signed_payload(&self, token: &[u8]) -> Result<std::result::Result<Vec<u8>, Why>> {
        #[derive(Deserialize)]
        struct Header<'a> {
            alg: &'a str,
            /// Extensions that a reader must understand; this one understands none.
            crit: Option<IgnoredAny>,
        }

        let Ok(token) = std::str::from_utf8(token) else {
            return Ok(Err(Why::BadToken));
        };
        let Some((message, signature)) = token.rsplit_once('.') else {
            return Ok(Err(Why::BadToken));
        };
        let Some((header, payload)) = message.split_once('.') else {
            return Ok(Err(Why::BadToken));
        };
        let (Ok(header), Ok(payload)) = (URL_SAFE_NO_PAD.decode(header), URL_SAFE_NO_PAD.decode(payload)) else {
            return Ok(Err(Why::BadToken));
        };
        let Ok(Header { alg, crit: None }) = serde_json::from_slice(&header) else {
            return Ok(Err(Why::BadToken));
        };
        let Some((_, algorithm, _)) =
            ALGORITHMS.into_iter().find(|(name, algorithm, _)| *name == alg && self.algorithms.contains(algorithm))
        else {
            return Ok(Err(Why::BadAlgorithm));
        };
        match crypto::verify(signature, message.as_bytes(), &self.key, algorithm) {
            Ok(true) => Ok(Ok(payload)),
            Ok(false) => Ok(Err(Why::BadSignature)),
            Err(error) if matches!(error.kind(), ErrorKind::Base64(_)) => Ok(Err(Why::BadSignature)),
            Err(error) => Err(args::mistake(VERIFY, &format!("key does not serve {alg}: {error}"))),
        }
    }

    /// The claims that this relay looks at.
    fn check(&self, claims: &Table, now: Duration) -> Result<Option<Why>> {
        let (now, leeway) = (now.as_secs_f64(), self.leeway.as_secs_f64());
        match time(&claims.raw_get("exp")?) {
            Ok(Some(exp)) if now < exp + leeway => {}
            Ok(Some(_)) => return Ok(Some(Why::Expired)),
            Ok(None) => return Ok(Some(Why::MissingExp)),
            Err(why) => return Ok(Some(why)),
        }
        match time(&claims.raw_get("nbf")?) {
            Ok(Some(nbf)) if nbf > now + leeway => return Ok(Some(Why::NotYetValid)),
            Ok(_) => {}
            Err(why) => return Ok(Some(why)),
        }
        if let Some(audience) = &self.audience {
            let is_ours = match claims.raw_get::<Value>("aud")? {
                Value::Table(list) => list.sequence_values::<Value>().flatten().any(|aud| is_one_of(&aud, audience)),
                aud => is_one_of(&aud, audience),
            };
            if !is_ours {
                return Ok(Some(Why::BadAudience));
            }
        }
        if let Some(issuer) = &self.issuer
            && !is_one_of(&claims.raw_get("iss")?, issuer)
        {
            return Ok(Some(Why::BadIssuer));
        }
        Ok(None)
    }
}

/// A claim that is a time. Anything but a number is refused: to skip it would be to trust it.
fn time(claim: &Value) -> std::result::Result<Option<f64>, Why> {
    match claim {
        Value::Nil => Ok(None),
        Value::Integer(seconds) => Ok(Some(*seconds as f64)),
        Value::Number(seconds) => Ok(Some(*seconds)),
        _ => Err(Why::BadToken),
    }
}

fn is_one_of(claim: &Value, wanted: &[Vec<u8>]) -> bool {
    matches!(claim, Value::String(claim) if wanted.iter().any(|wanted| **wanted == *claim.as_bytes()))
}

impl Family {
    fn algorithms(self) -> String {
        let of_family = ALGORITHMS.iter().filter(|(_, _, family)| *family == self);
        of_family.map(|(name, _, _)| *name).collect::<Vec<_>>().join(", ")
    }
}

fn algorithm(function: &str, argument: &str, name: &Value) -> Result<(Algorithm, Family)> {
    let name = args::string(function, argument, name)?.to_string_lossy();
    let known = ALGORITHMS.into_iter().find(|(known, _, _)| *known == name);
    known.map(|(_, algorithm, family)| (algorithm, family)).ok_or_else(|| {
        let names: Vec<&str> = ALGORITHMS.iter().map(|(name, _, _)| *name).collect();
        args::mistake(function, &format!("unknown algorithm '{name}' (there are {})", names.join(", ")))
    })
}

fn read_algorithms(list: &Value) -> Result<(Vec<Algorithm>, Family)> {
    const WANTED: &str = "a list such as { \"HS256\" }";
    let Value::Table(table) = list else {
        return Err(args::wrong(VERIFY, "algorithms", WANTED, list));
    };
    let mut algorithms = Vec::new();
    let mut family = None;
    for name in table.sequence_values::<Value>() {
        let (algorithm, of) = algorithm(VERIFY, "algorithms", &name?)?;
        // One key serves one family: a public key must never be taken for a shared secret.
        if family.is_some_and(|family| family != of) {
            return Err(args::mistake(VERIFY, "algorithms must all be of one kind, since there is one key"));
        }
        family = Some(of);
        algorithms.push(algorithm);
    }
    match family {
        Some(family) => Ok((algorithms, family)),
        None => Err(args::mistake(VERIFY, &format!("algorithms must be {WANTED}"))),
    }
}

/// The key as it was given, if it can be one for the family.
fn read_key(function: &str, key: &Value, family: Family) -> Result<LuaString> {
    let key = args::string(function, "key", key)?;
    let is_pem = holds(&key.as_bytes(), b"-----BEGIN ");
    if key.as_bytes().is_empty() {
        return Err(args::mistake(function, "key must not be empty"));
    }
    match family {
        Family::Hmac if is_pem => Err(args::mistake(
            function,
            &format!(
                "{} take a shared secret, but key is a PEM text: whoever has the public key could sign",
                family.algorithms()
            ),
        )),
        Family::Hmac => Ok(key),
        _ if is_pem => Ok(key),
        _ => Err(args::mistake(function, &format!("{} takes a key in PEM (-----BEGIN …)", family.algorithms()))),
    }
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
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
    #[derive(Serialize)]
    struct Header<'a> {
        alg: &'a str,
        typ: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        kid: Option<&'a str>,
    }

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
    let key = read_key(SIGN, &table.raw_get("key")?, family)?;
    let key = match family {
        Family::Hmac => Ok(EncodingKey::from_secret(&key.as_bytes())),
        Family::Rsa => EncodingKey::from_rsa_pem(&key.as_bytes()),
        Family::Ec => EncodingKey::from_ec_pem(&key.as_bytes()),
        Family::Ed => EncodingKey::from_ed_pem(&key.as_bytes()),
    };
    let wrong_key =
        |_| args::mistake(SIGN, &format!("key is no private key of the kind that {} needs", family.algorithms()));
    let key = key.map_err(wrong_key)?;
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
    let name = ALGORITHMS.into_iter().find(|(_, known, _)| *known == algorithm).map_or("", |(name, _, _)| name);
    let header =
        serde_json::to_vec(&Header { alg: name, typ: "JWT", kid: kid.as_deref() }).map_err(mlua::Error::external)?;
    let mut token = URL_SAFE_NO_PAD.encode(header);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(payload, &mut token);
    let signature = crypto::sign(token.as_bytes(), &key, algorithm).map_err(wrong_key)?;
    token.push('.');
    token.push_str(&signature);
    Ok(token)
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
            refused(string.rep("a", 8193), "too_long")
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
        raises("relay.jwt.verify('t', { key = 's', algorithms = { 'HS256' }, jwks = '' })", "unknown option 'jwks'");
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
