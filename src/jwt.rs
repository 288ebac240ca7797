//! JSON Web Tokens: signatures by a fixed list of algorithms, key sets, and the claims that say when one counts.
//!
//! No Lua is in here: scripts have it as `relay.jwt`, the command line as `moonwire token`.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
pub use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use jsonwebtoken::{
    crypto,
    errors::ErrorKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse},
};
use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};
use serde_json::Value;

/// A longer token is not looked at.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
pub const LEEWAY: Duration = Duration::from_secs(30);

/// A time beyond this is no time: JSON numbers are exact up to here.
const TIME_MAX: f64 = 9_007_199_254_740_992.0;

pub const ALGORITHMS: [(&str, Algorithm, Family); 6] = [
    ("HS256", Algorithm::HS256, Family::Hmac),
    ("HS384", Algorithm::HS384, Family::Hmac),
    ("HS512", Algorithm::HS512, Family::Hmac),
    ("RS256", Algorithm::RS256, Family::Rsa),
    ("ES256", Algorithm::ES256, Family::Ec),
    ("EdDSA", Algorithm::EdDSA, Family::Ed),
];

/// Algorithms that take keys of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Hmac,
    Rsa,
    Ec,
    Ed,
}

impl Family {
    /// The names of its algorithms.
    pub fn algorithms(self) -> String {
        let of_family = ALGORITHMS.iter().filter(|(_, _, family)| *family == self);
        of_family.map(|(name, _, _)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// The algorithm of this name, and its family.
pub fn algorithm(name: &str) -> Option<(Algorithm, Family)> {
    ALGORITHMS.into_iter().find(|(known, _, _)| *known == name).map(|(_, algorithm, family)| (algorithm, family))
}

/// All names, for messages.
pub fn names() -> String {
    ALGORITHMS.map(|(name, _, _)| name).join(", ")
}

/// Why a token does not count. The words are part of the contract with scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    BadToken,
    TooLong,
    BadAlgorithm,
    MissingKid,
    UnknownKid,
    BadSignature,
    MissingExp,
    Expired,
    NotYetValid,
    BadAudience,
    BadIssuer,
}

impl Why {
    pub fn as_str(self) -> &'static str {
        match self {
            Why::BadToken => "bad_token",
            // A script need not know them apart; `moonwire token check` does.
            Why::TooLong => "bad_token",
            Why::BadAlgorithm => "bad_algorithm",
            Why::MissingKid => "missing_kid",
            Why::UnknownKid => "unknown_kid",
            Why::BadSignature => "bad_signature",
            Why::MissingExp => "missing_exp",
            Why::Expired => "expired",
            Why::NotYetValid => "not_yet_valid",
            Why::BadAudience => "bad_audience",
            Why::BadIssuer => "bad_issuer",
        }
    }
}

// ── keys ──

/// A key as people write it down: a secret for HMAC, else a text in PEM. The error is in words of whoever gave it.
fn checked_key(key: &[u8], family: Family) -> Result<(), String> {
    let is_pem = holds(key, b"-----BEGIN ");
    match family {
        _ if key.is_empty() => Err("key must not be empty".to_owned()),
        Family::Hmac if is_pem => Err(format!(
            "{} take a shared secret, but key is a PEM text: whoever has the public key could sign",
            family.algorithms()
        )),
        Family::Hmac => Ok(()),
        _ if is_pem => Ok(()),
        _ => Err(format!("{} takes a key in PEM (-----BEGIN …)", family.algorithms())),
    }
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

/// A key that signatures are checked with.
pub fn verifying_key(key: &[u8], family: Family) -> Result<DecodingKey, String> {
    checked_key(key, family)?;
    if family != Family::Hmac && !holds(key, b"PUBLIC KEY-----") {
        return Err("key must be a PEM text that begins with -----BEGIN PUBLIC KEY-----".to_owned());
    }
    let key = match family {
        Family::Hmac => Ok(DecodingKey::from_secret(key)),
        Family::Rsa => DecodingKey::from_rsa_pem(key),
        Family::Ec => DecodingKey::from_ec_pem(key),
        Family::Ed => DecodingKey::from_ed_pem(key),
    };
    key.map_err(|_| format!("key is no public key of the kind that {} needs", family.algorithms()))
}

/// A key that tokens are signed with.
pub fn signing_key(key: &[u8], family: Family) -> Result<EncodingKey, String> {
    checked_key(key, family)?;
    let key = match family {
        Family::Hmac => Ok(EncodingKey::from_secret(key)),
        Family::Rsa => EncodingKey::from_rsa_pem(key),
        Family::Ec => EncodingKey::from_ec_pem(key),
        Family::Ed => EncodingKey::from_ed_pem(key),
    };
    key.map_err(|_| wrong_private_key(family))
}

fn wrong_private_key(family: Family) -> String {
    format!("key is no private key of the kind that {} needs", family.algorithms())
}

/// Public keys by their ids (a JSON Web Key Set).
#[derive(Debug)]
pub struct KeySet(Vec<SetKey>);

#[derive(Debug)]
struct SetKey {
    kid: String,
    family: Family,
    /// The one algorithm that it is for, if it says so.
    algorithm: Option<String>,
    key: DecodingKey,
}

impl KeySet {
    /// Reads a key set. What it says of keys that tokens are not checked with here (other kinds, encryption, shared
    /// secrets, no id) is passed over.
    pub fn parse(text: &[u8]) -> Result<KeySet, String> {
        let set: JwkSet =
            serde_json::from_slice(text).map_err(|error| format!("it is no JSON Web Key Set: {error}"))?;
        let usable = |jwk: &Jwk| {
            let family = match &jwk.algorithm {
                AlgorithmParameters::RSA(_) => Family::Rsa,
                AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Family::Ec,
                AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Family::Ed,
                // A secret that is handed around in a set is none.
                _ => return None,
            };
            if jwk.common.public_key_use.as_ref().is_some_and(|of| *of != PublicKeyUse::Signature) {
                return None;
            }
            let algorithm = jwk.common.key_algorithm.map(|algorithm| algorithm.to_string());
            let key = DecodingKey::from_jwk(jwk).ok()?;
            Some(SetKey { kid: jwk.common.key_id.clone()?, family, algorithm, key })
        };
        Ok(KeySet(set.keys.iter().filter_map(usable).collect()))
    }

    pub fn has(&self, kid: &str) -> bool {
        self.0.iter().any(|key| key.kid == kid)
    }
}

/// What a signature is checked with.
pub enum Keys<'a> {
    One(&'a DecodingKey),
    Set(&'a KeySet),
}

// ── tokens ──

/// A token taken apart; nothing of it is known to be true yet.
#[derive(Debug)]
pub struct Token<'a> {
    pub algorithm: String,
    pub kid: Option<String>,
    /// The claims, in JSON.
    pub payload: Vec<u8>,
    message: &'a str,
    signature: &'a str,
}

impl Token<'_> {
    pub fn parse(token: &[u8]) -> Result<Token<'_>, Why> {
        #[derive(Deserialize)]
        struct Header {
            alg: String,
            kid: Option<Value>,
            /// Extensions that a reader must understand; this one understands none.
            crit: Option<IgnoredAny>,
        }

        if token.len() > TOKEN_BYTES_MAX {
            return Err(Why::TooLong);
        }
        let token = std::str::from_utf8(token).map_err(|_| Why::BadToken)?;
        let (message, signature) = token.rsplit_once('.').ok_or(Why::BadToken)?;
        let (header, payload) = message.split_once('.').ok_or(Why::BadToken)?;
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Why::BadToken);
        let (header, payload) = (decoded(header)?, decoded(payload)?);
        let Ok(Header { alg, kid, crit: None }) = serde_json::from_slice(&header) else { return Err(Why::BadToken) };
        let kid = match kid {
            None => None,
            Some(Value::String(kid)) => Some(kid),
            Some(_) => return Err(Why::BadToken),
        };
        Ok(Token { algorithm: alg, kid, payload, message, signature })
    }

    /// Checks that the token's algorithm is one of `algorithms` and that its signature is good. The outer error says that
    /// the key cannot serve.
    pub fn verify(&self, keys: &Keys, algorithms: &[Algorithm]) -> Result<Result<(), Why>, String> {
        let Some((algorithm, family)) = algorithm(&self.algorithm).filter(|(known, _)| algorithms.contains(known))
        else {
            return Ok(Err(Why::BadAlgorithm));
        };
        let key = match keys {
            Keys::One(key) => *key,
            Keys::Set(set) => {
                let Some(kid) = &self.kid else { return Ok(Err(Why::MissingKid)) };
                // Keys of different kinds may share an id.
                let serves = |key: &&SetKey| {
                    key.family == family && key.algorithm.as_deref().is_none_or(|only| only == self.algorithm)
                };
                match set.0.iter().filter(|key| key.kid == *kid).find(serves) {
                    Some(key) => &key.key,
                    None if set.has(kid) => return Ok(Err(Why::BadAlgorithm)),
                    None => return Ok(Err(Why::UnknownKid)),
                }
            }
        };
        match crypto::verify(self.signature, self.message.as_bytes(), key, algorithm) {
            Ok(true) => Ok(Ok(())),
            Ok(false) => Ok(Err(Why::BadSignature)),
            Err(error) if matches!(error.kind(), ErrorKind::Base64(_)) => Ok(Err(Why::BadSignature)),
            Err(_) if matches!(keys, Keys::Set(_)) => Ok(Err(Why::BadSignature)),
            Err(error) => Err(format!("key does not serve {}: {error}", self.algorithm)),
        }
    }
}

/// The claims that decide whether a token counts.
#[derive(Debug, Default, Deserialize)]
pub struct Claims {
    #[serde(default, deserialize_with = "given")]
    pub exp: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    pub nbf: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    pub aud: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    pub iss: Option<Value>,
}

/// A null that is there is not the same as nothing.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// What is asked of the claims besides their times.
#[derive(Debug, Default)]
pub struct Wanted {
    pub audience: Option<Vec<Vec<u8>>>,
    pub issuer: Option<Vec<Vec<u8>>>,
    pub leeway: Duration,
}

impl Claims {
    pub fn parse(payload: &[u8]) -> Result<Claims, Why> {
        if !payload.trim_ascii_start().starts_with(b"{") {
            return Err(Why::BadToken);
        }
        serde_json::from_slice(payload).map_err(|_| Why::BadToken)
    }

    /// Everything, `now` being Unix time.
    pub fn check(&self, wanted: &Wanted, now: Duration) -> Result<(), Why> {
        self.check_exp(now, wanted.leeway)?;
        self.check_nbf(now, wanted.leeway)?;
        self.check_aud(wanted.audience.as_deref())?;
        self.check_iss(wanted.issuer.as_deref())
    }

    pub fn check_exp(&self, now: Duration, leeway: Duration) -> Result<(), Why> {
        match time(self.exp.as_ref())? {
            None => Err(Why::MissingExp),
            Some(exp) if now.as_secs_f64() < exp + leeway.as_secs_f64() => Ok(()),
            Some(_) => Err(Why::Expired),
        }
    }

    pub fn check_nbf(&self, now: Duration, leeway: Duration) -> Result<(), Why> {
        match time(self.nbf.as_ref())? {
            Some(nbf) if nbf > now.as_secs_f64() + leeway.as_secs_f64() => Err(Why::NotYetValid),
            _ => Ok(()),
        }
    }

    pub fn check_aud(&self, wanted: Option<&[Vec<u8>]>) -> Result<(), Why> {
        let Some(wanted) = wanted else { return Ok(()) };
        let is_ours = match &self.aud {
            Some(Value::Array(list)) => list.iter().any(|aud| is_one_of(aud, wanted)),
            Some(aud) => is_one_of(aud, wanted),
            None => false,
        };
        if is_ours { Ok(()) } else { Err(Why::BadAudience) }
    }

    pub fn check_iss(&self, wanted: Option<&[Vec<u8>]>) -> Result<(), Why> {
        let Some(wanted) = wanted else { return Ok(()) };
        let is_ours = self.iss.as_ref().is_some_and(|iss| is_one_of(iss, wanted));
        if is_ours { Ok(()) } else { Err(Why::BadIssuer) }
    }
}

/// A claim that is a time. Anything but a number is refused: to skip it would be to trust it.
pub fn time(claim: Option<&Value>) -> Result<Option<f64>, Why> {
    match claim {
        None => Ok(None),
        Some(Value::Number(number)) => {
            number.as_f64().filter(|time| time.abs() <= TIME_MAX).map(Some).ok_or(Why::BadToken)
        }
        Some(_) => Err(Why::BadToken),
    }
}

fn is_one_of(claim: &Value, wanted: &[Vec<u8>]) -> bool {
    matches!(claim, Value::String(claim) if wanted.iter().any(|wanted| **wanted == *claim.as_bytes()))
}

/// A token with these claims, which are JSON. The error says that the key cannot serve.
pub fn sign(claims: &[u8], key: &EncodingKey, algorithm: Algorithm, kid: Option<&str>) -> Result<String, String> {
    #[derive(Serialize)]
    struct Header<'a> {
        alg: &'a str,
        typ: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        kid: Option<&'a str>,
    }

    let (name, _, family) =
        ALGORITHMS.into_iter().find(|(_, known, _)| *known == algorithm).expect("all that are used are in the list");
    let header = Header { alg: name, typ: "JWT", kid };
    let header = serde_json::to_vec(&header).map_err(|error| error.to_string())?;
    let mut token = URL_SAFE_NO_PAD.encode(header);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims, &mut token);
    let signature = crypto::sign(token.as_bytes(), key, algorithm).map_err(|_| wrong_private_key(family))?;
    token.push('.');
    token.push_str(&signature);
    Ok(token)
}
