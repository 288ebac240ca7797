//! `moonwire token`: makes tokens for trying things out, and explains why one is refused.

use std::{
    fs,
    io::{self, Read},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::{ConfigFile, FAILED, Failure, MISTAKE, OK, Status, Streams, load_config, shown};
use crate::{
    clock::{self, Clock},
    config::parse_duration,
    jwt::{self, Claims, Family, KeySet, Keys, Token, Wanted, Why, time},
    plain::Plain,
    visible::visible,
};

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
The key is the text of a file (--key-file; one line break at its end does not count), a variable (--key-env), or the app's
setting `secret` (--setting takes another one).

Examples:
  moonwire token new --user ann --ttl 1h
  moonwire token new --user ann --claim role='\"admin\"' --claim 'allow=[\"join room.*\"]' --key-file key.pem --algorithm ES256
  moonwire token check \"$TOKEN\"
  moonwire token check --jwks keys.json --algorithm RS256 - < token.txt

Exit status of check: 0 when the token counts, 1 when it does not, 2 when the command or the config has a mistake.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a signed token and print it
    New {
        #[command(flatten)]
        key: Key,
        /// Who it is: the claim `sub`
        #[arg(long, value_name = "ID")]
        user: String,
        /// How long it counts
        #[arg(long, default_value = "1h", value_name = "DURATION")]
        ttl: String,
        /// Another claim, whose value is JSON: role='"admin"'
        #[arg(long = "claim", value_name = "NAME=JSON")]
        claims: Vec<String>,
        /// For whom it is: the claim `aud`
        #[arg(long)]
        audience: Option<String>,
        /// Who made it: the claim `iss`
        #[arg(long)]
        issuer: Option<String>,
        /// The id of the key, for those who look it up in a key set
        #[arg(long)]
        kid: Option<String>,
        #[arg(long, default_value = "HS256")]
        algorithm: String,
    },
    /// Say of each part of a token whether it counts, and why not
    Check {
        #[command(flatten)]
        key: Key,
        /// A file with a JSON Web Key Set, in place of one key
        #[arg(long, value_name = "FILE")]
        jwks: Option<PathBuf>,
        /// The algorithms that are accepted
        #[arg(long = "algorithm", default_value = "HS256")]
        algorithms: Vec<String>,
        /// What `aud` must be or contain
        #[arg(long)]
        audience: Option<String>,
        /// What `iss` must be
        #[arg(long)]
        issuer: Option<String>,
        /// How far clocks may differ
        #[arg(long, default_value = "30s", value_name = "DURATION")]
        leeway: String,
        /// The token, or - to read it from stdin
        token: String,
    },
}

#[derive(Debug, Args)]
struct Key {
    #[command(flatten)]
    config: ConfigFile,
    /// A file with the key: a secret, or a key in PEM
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The name of a variable with the key
    #[arg(long, value_name = "NAME", conflicts_with = "key_file")]
    key_env: Option<String>,
    /// The app whose setting is the key; the only one of the config need not be named
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Which of the app's settings is the key
    #[arg(long, default_value = "secret", value_name = "NAME")]
    setting: String,
}

pub(super) fn run(options: Options, before: Option<PathBuf>, streams: &mut Streams) -> Result<Status, Failure> {
    match options.command {
        Command::New { key, user, ttl, claims, audience, issuer, kid, algorithm } => {
            let (algorithm, family) = known(&algorithm)?;
            let now = Clock::system().unix().as_secs();
            let ttl = duration("--ttl", &ttl)?;
            let mut all = Map::new();
            all.insert("sub".to_owned(), user.into());
            all.insert("iat".to_owned(), now.into());
            all.insert("exp".to_owned(), now.saturating_add(ttl.as_secs()).into());
            for (name, value) in [("aud", audience), ("iss", issuer)] {
                if let Some(value) = value {
                    all.insert(name.to_owned(), value.into());
                }
            }
            for claim in &claims {
                let (name, value) = read_claim(claim)?;
                all.insert(name, value);
            }
            let key = key.read(before)?;
            let key = jwt::signing_key(&key, family).map_err(mistake)?;
            let token = jwt::sign(Value::Object(all).to_string().as_bytes(), &key, algorithm, kid.as_deref())
                .map_err(mistake)?;
            if token.len() > jwt::TOKEN_BYTES_MAX {
                let max = jwt::TOKEN_BYTES_MAX;
                return Err(mistake(format!("the token has {} bytes; one of more than {max} is refused", token.len())));
            }
            writeln!(streams.out, "{token}")?;
            Ok(OK)
        }
        Command::Check { key, jwks, algorithms, audience, issuer, leeway, token } => {
            let known: Vec<_> = algorithms.iter().map(|name| known(name)).collect::<Result<_, _>>()?;
            let mut families: Vec<Family> = known.iter().map(|(_, family)| *family).collect();
            families.dedup();
            let token = if token == "-" { read_stdin()? } else { token };
            let wanted = Wanted {
                audience: audience.map(|aud| vec![aud.into_bytes()]),
                issuer: issuer.map(|iss| vec![iss.into_bytes()]),
                leeway: duration("--leeway", &leeway)?,
            };
            let algorithms: Vec<_> = known.iter().map(|(algorithm, _)| *algorithm).collect();
            let mut report = Report { streams, first: None };
            if let Some(file) = jwks {
                let text = fs::read(&file).map_err(|error| mistake(format!("{}: {error}", shown(&file))))?;
                let set = KeySet::parse(&text).map_err(|why| mistake(format!("{}: {why}", shown(&file))))?;
                return report.check(token.trim(), &Keys::Set(&set), &algorithms, &wanted);
            }
            let [family] = families[..] else {
                return Err(mistake("the algorithms must all be of one kind, since there is one key".to_owned()));
            };
            let key = jwt::verifying_key(&key.read(before)?, family).map_err(mistake)?;
            report.check(token.trim(), &Keys::One(&key), &algorithms, &wanted)
        }
    }
}

impl Key {
    fn read(self, before: Option<PathBuf>) -> Result<Vec<u8>, Failure> {
        if let Some(file) = &self.key_file {
            let mut key = fs::read(file).map_err(|error| mistake(format!("--key-file {}: {error}", shown(file))))?;
            if key.ends_with(b"\n") {
                key.pop();
            }
            return Ok(key);
        }
        if let Some(name) = &self.key_env {
            let key = std::env::var(name);
            return key.map(String::into_bytes).map_err(|_| mistake(format!("the variable {name} is not set")));
        }
        let config = load_config(self.config.config.or(before).as_deref())?;
        let name = self.app.or_else(|| match &config.apps[..] {
            [only] => Some(only.name.clone()),
            _ => None,
        });
        let names: Vec<&str> = config.apps.iter().map(|app| app.name.as_str()).collect();
        let there_are = || format!("(there are {})", names.join(", "));
        let Some(name) = name else {
            return Err(mistake(format!("which app's key? name it with --app {}", there_are())));
        };
        let Some(app) = config.apps.iter().find(|app| app.name == name) else {
            return Err(mistake(format!("there is no app {} {}", visible(&name), there_are())));
        };
        let key = app.settings.get(&self.setting).and_then(Plain::as_bytes);
        key.map(<[u8]>::to_vec).ok_or_else(|| {
            let setting = visible(&self.setting);
            mistake(format!(
                "the app {name} has no setting `{setting}` that is a text\n  \
                 name another one with --setting, or give the key with --key-file or --key-env"
            ))
        })
    }
}

/// What is found, line by line; the first thing that is wrong decides.
struct Report<'a, 'b> {
    streams: &'a mut Streams<'b>,
    first: Option<Why>,
}

impl Report<'_, '_> {
    fn check(
        &mut self,
        token: &str,
        keys: &Keys,
        algorithms: &[jwt::Algorithm],
        wanted: &Wanted,
    ) -> Result<Status, Failure> {
        let now = Clock::system().unix();
        let parsed = match Token::parse(token.as_bytes()) {
            Ok(parsed) => parsed,
            Err(why) => {
                self.line("token", Err(why), &shape(token, why))?;
                return self.verdict();
            }
        };
        let kid = parsed.kid.as_deref().map_or("no kid".to_owned(), |kid| format!("kid {}", visible(kid)));
        self.line("header", Ok(()), &format!("alg {}, {kid}", visible(&parsed.algorithm)))?;
        let verified = parsed.verify(keys, algorithms).map_err(mistake)?;
        let text = match verified {
            Ok(()) => "it was made with this key",
            Err(Why::BadAlgorithm) => "the algorithm is none of those that are accepted; see --algorithm",
            Err(Why::MissingKid) => "the header has no kid, by which a key set is searched",
            Err(Why::UnknownKid) => "no key of the set has this kid",
            Err(_) => "it was made with another key, or changed since",
        };
        self.line("signature", verified, text)?;
        let claims = match Claims::parse(&parsed.payload) {
            Ok(claims) => claims,
            Err(why) => {
                self.line("claims", Err(why), "they are no JSON object")?;
                return self.verdict();
            }
        };
        let at = |claim: &Option<Value>| match (time(claim.as_ref()), claim) {
            (Ok(Some(at)), _) => moment(at, now),
            (_, None) => "not there".to_owned(),
            (_, Some(other)) => format!("{other} is no time: it must be a number of seconds since 1970"),
        };
        let exp = claims.check_exp(now, wanted.leeway);
        let needed = if exp == Err(Why::MissingExp) { ", and a token must say when it ends" } else { "" };
        self.line("exp", exp, &format!("{}{needed}", at(&claims.exp)))?;
        self.line("nbf", claims.check_nbf(now, wanted.leeway), &at(&claims.nbf))?;
        let lists = [
            ("aud", &claims.aud, &wanted.audience, claims.check_aud(wanted.audience.as_deref()), "--audience"),
            ("iss", &claims.iss, &wanted.issuer, claims.check_iss(wanted.issuer.as_deref()), "--issuer"),
        ];
        for (name, claim, asked, verdict, option) in lists {
            let is = claim.as_ref().map_or("not there".to_owned(), ToString::to_string);
            let asked = match asked.as_deref() {
                Some([one, ..]) => format!("; \"{}\" is asked for", String::from_utf8_lossy(one)),
                _ => format!("; not looked at without {option}"),
            };
            self.line(name, verdict, &format!("{is}{asked}"))?;
        }
        let payload = String::from_utf8_lossy(&parsed.payload);
        writeln!(self.streams.out, "\nclaims     {}", visible(&payload))?;
        self.verdict()
    }

    fn line(&mut self, part: &str, verdict: Result<(), Why>, text: &str) -> io::Result<()> {
        let word = match verdict {
            Ok(()) => "ok",
            Err(why) => {
                self.first = self.first.or(Some(why));
                why.as_str()
            }
        };
        writeln!(self.streams.out, "{part:<10} {word:<14} {}", visible(text))
    }

    fn verdict(&mut self) -> Result<Status, Failure> {
        match self.first {
            None => {
                writeln!(self.streams.out, "the token counts")?;
                Ok(OK)
            }
            Some(why) => {
                writeln!(self.streams.out, "the token is refused: relay.jwt.verify returns nil, \"{}\"", why.as_str())?;
                Ok(FAILED)
            }
        }
    }
}

/// What is wrong with what is no token.
fn shape(token: &str, why: Why) -> String {
    let max = jwt::TOKEN_BYTES_MAX;
    match why {
        Why::TooLong => format!("it has {} bytes, and at most {max} are looked at", token.len()),
        _ if token.is_empty() => "there is nothing".to_owned(),
        _ if token.starts_with("Bearer ") => "leave the word Bearer out".to_owned(),
        _ => {
            let dots = token.matches('.').count();
            format!(
                "a token is three parts in base64url with a dot between: header.claims.signature; this has {dots} dots"
            )
        }
    }
}

/// `2026-05-01T12:03:51.250Z, 5 minutes ago`.
fn moment(at: f64, now: Duration) -> String {
    let left = at - now.as_secs_f64();
    let seconds = left.abs();
    let (number, unit) = match seconds {
        s if s < 120.0 => (s, "seconds"),
        s if s < 7_200.0 => (s / 60.0, "minutes"),
        s if s < 172_800.0 => (s / 3_600.0, "hours"),
        s => (s / 86_400.0, "days"),
    };
    let when = Duration::try_from_secs_f64(at).map(clock::rfc3339).unwrap_or_else(|_| format!("{at} s"));
    match left >= 0.0 {
        true => format!("{when}, in {number:.0} {unit}"),
        false => format!("{when}, {number:.0} {unit} ago"),
    }
}

fn read_claim(text: &str) -> Result<(String, Value), Failure> {
    let Some((name, json)) = text.split_once('=') else {
        return Err(mistake(format!("--claim {}: write NAME=JSON", visible(text))));
    };
    let value = serde_json::from_str(json).map_err(|error| {
        let text = visible(text);
        mistake(format!(
            "--claim {text}: the value is no JSON: {error}\n  text stands in quotes: --claim '{name}=\"text\"'"
        ))
    })?;
    Ok((name.to_owned(), value))
}

fn read_stdin() -> Result<String, Failure> {
    let mut token = String::new();
    let read = io::stdin().take(jwt::TOKEN_BYTES_MAX as u64 * 2).read_to_string(&mut token);
    read.map(|_| token).map_err(|error| mistake(format!("stdin: {error}")))
}

fn known(name: &str) -> Result<(jwt::Algorithm, Family), Failure> {
    jwt::algorithm(name)
        .ok_or_else(|| mistake(format!("unknown algorithm '{}' (there are {})", visible(name), jwt::names())))
}

fn duration(option: &str, text: &str) -> Result<Duration, Failure> {
    parse_duration(text).map_err(|why| mistake(format!("{option} {why}")))
}

fn mistake(what: String) -> Failure {
    Failure::Told(MISTAKE, what)
}
