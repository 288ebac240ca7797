//! The kinds of values that settings have: what each may be written as, in the file or in a variable.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::{Range, RangeInclusive},
    os::unix,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use toml::de::DeValue;
use tracing_subscriber::EnvFilter;

use super::{
    Host, HttpHost, Listen, LogFormat, Origins, ShardBy,
    error::nearest,
    origin::{Origin, split_host},
    parse_duration, parse_size,
    pattern::PathPattern,
    units::{show_duration, show_size},
};

/// A value as it was given, and what its meaning depends on.
#[derive(Clone)]
pub struct Given<'a> {
    pub value: Value<'a>,
    /// Its place in the file.
    pub span: Range<usize>,
    /// Where relative paths start.
    pub folder: &'a Path,
    /// What "auto" means.
    pub workers: usize,
}

#[derive(Clone, Copy)]
pub enum Value<'a> {
    Toml(&'a DeValue<'a>),
    /// Of a variable, where everything is text and a list is separated by commas.
    Text(&'a str),
}

/// Why a value is refused. The setting's name goes in front of `what`.
#[derive(Debug)]
pub struct Wrong {
    pub what: String,
    pub hint: Option<String>,
    /// The part of the value that is meant.
    pub span: Range<usize>,
}

impl Wrong {
    pub fn hint(self, hint: impl Into<String>) -> Wrong {
        Wrong { hint: Some(hint.into()), ..self }
    }
}

impl<'a> Given<'a> {
    pub fn wrong(&self, what: impl Into<String>) -> Wrong {
        Wrong { what: what.into(), hint: None, span: self.span.clone() }
    }

    pub fn must_be(&self, wanted: &str) -> Wrong {
        self.wrong(format!("must be {wanted}, got {}", self.found()))
    }

    fn found(&self) -> String {
        let text = match self.value {
            Value::Toml(DeValue::String(text)) => text,
            Value::Toml(DeValue::Integer(number)) => return number.to_string(),
            Value::Toml(DeValue::Float(number)) => return number.to_string(),
            Value::Toml(DeValue::Boolean(flag)) => return flag.to_string(),
            Value::Toml(DeValue::Datetime(_)) => return "a date".to_owned(),
            Value::Toml(DeValue::Array(_)) => return "a list".to_owned(),
            Value::Toml(DeValue::Table(_)) => return "a table".to_owned(),
            Value::Text(text) => text,
        };
        match text.char_indices().nth(80) {
            Some((end, _)) => format!("{:?}…", &text[..end]),
            None if text.is_empty() => "an empty string".to_owned(),
            None => format!("{text:?}"),
        }
    }

    fn text(&self) -> Option<&'a str> {
        match self.value {
            Value::Toml(DeValue::String(text)) => Some(text),
            Value::Toml(_) => None,
            Value::Text(text) => Some(text),
        }
    }

    /// A whole number, if it is one; one that no integer here can hold is as large or as small as they get.
    fn whole(&self) -> Option<i128> {
        let (digits, radix) = match self.value {
            Value::Toml(DeValue::Integer(number)) => (number.as_str(), number.radix()),
            Value::Toml(_) => return None,
            Value::Text(text) => (text.trim(), 10),
        };
        let digits = digits.replace('_', "");
        match i128::from_str_radix(&digits, radix) {
            Ok(number) => Some(number),
            Err(error) => match error.kind() {
                std::num::IntErrorKind::PosOverflow => Some(i128::MAX),
                std::num::IntErrorKind::NegOverflow => Some(i128::MIN),
                _ => None,
            },
        }
    }

    fn list<T>(&self, wanted: &str, read: impl Fn(&Given<'a>) -> Result<T, Wrong>) -> Result<Vec<T>, Wrong> {
        match self.value {
            Value::Toml(DeValue::Array(items)) => items
                .iter()
                .map(|item| read(&Given { value: Value::Toml(item.get_ref()), span: item.span(), ..self.clone() }))
                .collect(),
            Value::Toml(_) => Err(self.must_be(wanted)),
            Value::Text(text) => text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| read(&Given { value: Value::Text(item), ..self.clone() }))
                .collect(),
        }
    }

    /// A list, or a string instead of a list of one.
    fn one_or_more<T>(&self, wanted: &str, read: impl Fn(&Given<'a>) -> Result<T, Wrong>) -> Result<Vec<T>, Wrong> {
        match self.value {
            Value::Toml(DeValue::String(_)) => Ok(vec![read(self)?]),
            _ => self.list(wanted, read),
        }
    }
}

// ── numbers ──

pub fn flag(given: &Given) -> Result<bool, Wrong> {
    match given.value {
        Value::Toml(DeValue::Boolean(flag)) => Ok(*flag),
        Value::Text("true") => Ok(true),
        Value::Text("false") => Ok(false),
        _ => Err(given.must_be("true or false")),
    }
}

pub fn count<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&Given) -> Result<T, Wrong> {
    move |given| {
        let number = given.whole().ok_or_else(|| given.must_be("a whole number"))?;
        within(given, u64::try_from(number).ok(), number > 0, &range, u64::to_string)
            .and_then(|number| T::try_from(number).map_err(|_| given.must_be("a smaller number")))
    }
}

/// Bytes.
pub fn size(range: RangeInclusive<u64>) -> impl Fn(&Given) -> Result<usize, Wrong> {
    move |given| {
        let wanted = || given.must_be("a size such as \"16 KiB\" or \"1 MiB\", or a number of bytes");
        let bytes = match (given.whole(), given.text()) {
            (Some(number), _) => within(given, u64::try_from(number).ok(), number > 0, &range, |n| show_size(*n))?,
            (None, Some(text)) => {
                let bytes = parse_size(text).map_err(|_| wanted())?;
                within(given, u64::try_from(bytes).ok(), true, &range, |n| show_size(*n))?
            }
            (None, None) => return Err(wanted()),
        };
        usize::try_from(bytes).map_err(|_| wanted())
    }
}

pub fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Given) -> Result<Duration, Wrong> {
    move |given| {
        let wanted = || given.must_be("a duration such as \"250ms\", \"30s\" or \"5m\", or a number of seconds");
        let (duration, positive) = match given.value {
            Value::Toml(DeValue::Integer(_)) => {
                let seconds = given.whole().ok_or_else(wanted)?;
                (u64::try_from(seconds).ok().map(Duration::from_secs), seconds > 0)
            }
            Value::Toml(DeValue::Float(number)) => {
                let seconds: f64 = number.as_str().parse().map_err(|_| wanted())?;
                (Duration::try_from_secs_f64(seconds).ok(), seconds > 0.0)
            }
            _ => (Some(given.text().and_then(|text| parse_duration(text).ok()).ok_or_else(wanted)?), true),
        };
        within(given, duration, positive, &range, |duration| show_duration(*duration))
    }
}

/// The value if it lies within the range. None is one beyond all that its type can hold.
fn within<T: PartialOrd + Copy>(
    given: &Given,
    value: Option<T>,
    positive: bool,
    range: &RangeInclusive<T>,
    show: impl Fn(&T) -> String,
) -> Result<T, Wrong> {
    match value {
        Some(value) if range.contains(&value) => Ok(value),
        Some(value) if value < *range.start() => Err(given.must_be(&format!("at least {}", show(range.start())))),
        None if !positive => Err(given.must_be(&format!("at least {}", show(range.start())))),
        _ => Err(given.must_be(&format!("at most {}", show(range.end())))),
    }
}

/// A number, or "auto" for what `auto` says.
pub fn count_or_auto(range: RangeInclusive<u64>, auto: fn(&Given) -> usize) -> impl Fn(&Given) -> Result<usize, Wrong> {
    move |given| match given.text() {
        Some("auto") => Ok(auto(given)),
        _ if given.whole().is_none() => Err(given.must_be("\"auto\" or a whole number")),
        _ => count(range.clone())(given),
    }
}

// ── text ──

pub fn path(given: &Given) -> Result<PathBuf, Wrong> {
    match given.text() {
        Some(text) if !text.is_empty() && !text.contains('\0') => Ok(given.folder.join(text)),
        _ => Err(given.must_be("a path")),
    }
}

pub fn socket_path(given: &Given) -> Result<PathBuf, Wrong> {
    let path = path(given)?;
    match unix::net::SocketAddr::from_pathname(&path) {
        Ok(_) => Ok(path),
        Err(_) => Err(given.wrong(format!("is too long for the path of a Unix socket: {}", path.display()))),
    }
}

pub fn script(given: &Given) -> Result<PathBuf, Wrong> {
    let path = path(given)?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("lua" | "luau") => Ok(path),
        _ => Err(given.must_be("the path of a file that ends in .lua or .luau")),
    }
}

pub fn app_name(given: &Given) -> Result<String, Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match given.text() {
        Some(text) if !text.is_empty() && text.chars().all(plain) => Ok(text.to_owned()),
        _ => Err(given.must_be("a name made of letters, digits, `_` and `-`")),
    }
}

pub fn path_pattern(given: &Given) -> Result<String, Wrong> {
    let text = given.text().ok_or_else(|| given.must_be("a path such as \"/chat/{room}\""))?;
    PathPattern::parse(text).map_err(|why| given.wrong(why))?;
    Ok(text.to_owned())
}

/// A path of a URL under which there are others.
pub fn path_prefix(given: &Given) -> Result<String, Wrong> {
    let text = given.text().ok_or_else(|| given.must_be("a path such as \"/\" or \"/assets\""))?;
    let pattern = PathPattern::parse(text).map_err(|why| given.wrong(why))?;
    match pattern.params().next() {
        None => Ok(text.to_owned()),
        Some(_) => Err(given.wrong("must be a path without parameters; everything below it is served")),
    }
}

/// A level, or tracing's filter syntax.
pub fn log_level(given: &Given) -> Result<String, Wrong> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let wanted = || given.must_be("one of off, error, warn, info, debug and trace");
    let text = given.text().ok_or_else(wanted)?;
    // A word that is no level is a target to the filter, and would silence everything else.
    for word in text.split(',').map(str::trim).filter(|_| !text.contains(['[', '{'])) {
        if !word.contains('=') && !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word)) {
            return Err(match nearest(word, LEVELS) {
                Some(level) => wanted().hint(format!("did you mean \"{level}\"?")),
                None => wanted().hint("for one part of the relay write as in \"info,script=debug\""),
            });
        }
    }
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(given.wrong(format!("cannot be read as a filter of the log: {error}"))),
    }
}

pub fn log_format(given: &Given) -> Result<LogFormat, Wrong> {
    match given.text() {
        Some("auto") => Ok(LogFormat::Auto),
        Some("human") => Ok(LogFormat::Human),
        Some("json") => Ok(LogFormat::Json),
        _ => Err(given.must_be("\"auto\", \"human\" or \"json\"")),
    }
}

pub fn shard_by(given: &Given) -> Result<Option<ShardBy>, Wrong> {
    let wanted = || given.must_be("\"user\", or as in \"params.room\", \"query.room\" or \"header.x-room\"");
    let text = given.text().ok_or_else(wanted)?;
    let shard_by = match text.split_once('.') {
        None if text == "user" => ShardBy::User,
        Some((_, "")) | None => return Err(wanted()),
        Some(("params", name)) => ShardBy::Param(name.to_owned()),
        Some(("query", name)) => ShardBy::Query(name.to_owned()),
        Some(("header", name)) if is_token(name) => ShardBy::Header(name.to_lowercase()),
        Some(_) => return Err(wanted()),
    };
    Ok(Some(shard_by))
}

/// The name of what several apps share.
pub fn shared(given: &Given) -> Result<Option<String>, Wrong> {
    app_name(given).map(Some)
}

// ── lists ──

pub fn listens(given: &Given) -> Result<Vec<Listen>, Wrong> {
    let listens = given.one_or_more("an address such as \"127.0.0.1:8080\", or a list of them", listen)?;
    if listens.is_empty() {
        return Err(given.wrong("must have at least one address"));
    }
    for (place, listen) in listens.iter().enumerate() {
        // Port 0 is another port each time.
        let any_port = matches!(listen, Listen::Tcp(address) if address.port() == 0);
        if !any_port && listens[..place].contains(listen) {
            return Err(given.wrong("has the same address twice"));
        }
    }
    Ok(listens)
}

fn listen(given: &Given) -> Result<Listen, Wrong> {
    let wanted = || given.must_be("an address such as \"127.0.0.1:8080\", \"[::1]:8080\" or \"unix:relay.sock\"");
    let Some(text) = given.text() else {
        return Err(match given.whole() {
            Some(port @ 0..=65_535) => wanted().hint(format!("write \"127.0.0.1:{port}\"")),
            _ => wanted(),
        });
    };
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Listen::Unix(socket_path(&Given { value: Value::Text(path), ..given.clone() })?));
    }
    text.parse().map(Listen::Tcp).map_err(|_| match address_hint(text) {
        Some(hint) => wanted().hint(hint),
        None => wanted(),
    })
}

fn address_hint(text: &str) -> Option<String> {
    if text.starts_with('/') {
        return Some(format!("write \"unix:{text}\""));
    }
    if let Ok(port) = text.parse::<u16>() {
        return Some(format!("write \"127.0.0.1:{port}\""));
    }
    let without_port = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if text.parse::<Ipv4Addr>().is_ok() || (without_port != text && without_port.parse::<Ipv6Addr>().is_ok()) {
        return Some("the port is missing".to_owned());
    }
    match text.rsplit_once(':')? {
        ("", port) => Some(format!("write \"0.0.0.0:{port}\" for every IPv4 address of this machine")),
        ("localhost", port) => Some(format!("write \"127.0.0.1:{port}\"")),
        (host, port) if format!("[{host}]:{port}").parse::<SocketAddr>().is_ok() => {
            Some(format!("write \"[{host}]:{port}\""))
        }
        _ => None,
    }
}

pub fn networks(given: &Given) -> Result<Vec<IpNet>, Wrong> {
    given.one_or_more("a list such as [\"10.0.0.0/8\"]", |given| {
        let wanted = || given.must_be("an address or a network such as \"127.0.0.1\" or \"10.0.0.0/8\"");
        let text = given.text().ok_or_else(wanted)?;
        match (text.parse::<IpAddr>(), text.parse::<IpNet>()) {
            (Ok(address), _) => Ok(IpNet::from(address)),
            (_, Ok(network)) => Ok(network.trunc()),
            _ => Err(wanted()),
        }
    })
}

pub fn origins(given: &Given) -> Result<Origins, Wrong> {
    let origins = given.one_or_more("a list such as [\"https://example.com\"]", |given| match given.text() {
        Some("*") => Ok("*".to_owned()),
        _ => origin(given),
    })?;
    match origins.as_slice() {
        [] => Ok(Origins::Same),
        [any] if any == "*" => Ok(Origins::Any),
        several if several.iter().any(|origin| origin == "*") => {
            Err(given.wrong("has \"*\", which lets every page in, beside others").hint("remove \"*\", or the others"))
        }
        _ => Ok(Origins::Listed(origins)),
    }
}

/// As browsers write it: `scheme://host` or `scheme://host:port`, without the scheme's own port.
fn origin(given: &Given) -> Result<String, Wrong> {
    let wanted = || given.must_be("an origin as in \"https://example.com\" or \"http://localhost:3000\"");
    let text = given.text().ok_or_else(wanted)?;
    let Some((scheme, authority)) = text.split_once("://") else {
        let host = if text.contains(['.', ':']) { text } else { "example.com" };
        return Err(wanted().hint(format!("begin with the scheme: \"https://{host}\"")));
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if scheme.is_empty() || !scheme.chars().all(plain) {
        return Err(wanted());
    }
    let scheme = scheme.to_ascii_lowercase();
    if let "ws" | "wss" = scheme.as_str() {
        let page = scheme.replace("ws", "http");
        return Err(wanted().hint(format!("an origin is that of the page: \"{page}://{authority}\"")));
    }
    if let Some((authority, _)) = authority.split_once(['/', '?', '#']) {
        return Err(wanted().hint(format!("an origin has no path: \"{scheme}://{authority}\"")));
    }
    if authority.contains('*') {
        return Err(wanted().hint("there are no patterns: list each origin, or write \"*\" alone for every page"));
    }
    if !authority.is_ascii() {
        return Err(wanted().hint("browsers write other alphabets in punycode: https://xn--bcher-kva.example"));
    }
    Origin::parse(text).map(|origin| origin.to_string()).ok_or_else(wanted)
}

pub fn http_hosts(given: &Given) -> Result<Vec<HttpHost>, Wrong> {
    let hosts = given.one_or_more("a list of hosts such as [\"api.example.com\", \"127.0.0.1:9000\"]", http_host)?;
    match hosts.iter().enumerate().find(|(place, host)| hosts[..*place].contains(host)) {
        Some((_, HttpHost { host, port: None })) => Err(given.wrong(format!("has \"{host}\" twice"))),
        Some((_, HttpHost { host, port: Some(port) })) => Err(given.wrong(format!("has \"{host}:{port}\" twice"))),
        None => Ok(hosts),
    }
}

fn http_host(given: &Given) -> Result<HttpHost, Wrong> {
    let wanted = || {
        given.must_be(
            "a host such as \"api.example.com\", \"api.example.com:8443\", \"127.0.0.1:9000\" or \"[::1]:9000\"",
        )
    };
    let text = given.text().ok_or_else(wanted)?;
    if let Some((_, rest)) = text.split_once("://") {
        let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        return Err(wanted().hint(format!("without scheme and path: \"{host}\"")));
    }
    if text.contains('*') {
        return Err(wanted().hint("there are no patterns: list each host"));
    }
    if !text.is_ascii() {
        return Err(wanted().hint("other alphabets are written in punycode: xn--bcher-kva.example"));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(wanted().hint(format!("an IPv6 address stands in brackets: \"[{text}]\"")));
    }
    let (host, port) = split_host(text).ok_or_else(wanted)?;
    if port == Some(0) {
        return Err(wanted().hint("leave the port out to allow every port"));
    }
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&host);
    let host = match address.parse::<IpAddr>() {
        Ok(address) => Host::Address(address),
        // A URL that ends in a number has an address for its host, in whatever spelling.
        Err(_) if host.rsplit('.').next().is_some_and(is_number) => {
            return Err(wanted().hint("an IPv4 address is written with four decimal numbers: \"127.0.0.1\""));
        }
        Err(_) if host.ends_with('.') => return Err(wanted().hint("write it without the dot at its end")),
        Err(_) => Host::Name(host),
    };
    Ok(HttpHost { host, port })
}

/// As URLs write numbers: `127`, `0177`, `0x7f`.
fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x") {
        Some(digits) => digits.chars().all(|c| c.is_ascii_hexdigit()),
        None => !label.is_empty() && label.chars().all(|c| c.is_ascii_digit()),
    }
}

pub fn subprotocols(given: &Given) -> Result<Vec<String>, Wrong> {
    names(given, "a list of names such as [\"chat.v1\"]", "a name as HTTP has them, such as \"chat.v1\"", is_token)
}

pub fn variable_names(given: &Given) -> Result<Vec<String>, Wrong> {
    let plain = |text: &str| !text.is_empty() && !text.contains(['=', '\0']) && text.trim() == text;
    names(given, "a list of names such as [\"SECRET\"]", "the name of a variable", plain)
}

fn names(given: &Given, list: &str, wanted: &str, plain: fn(&str) -> bool) -> Result<Vec<String>, Wrong> {
    let names = given.list(list, |given| match given.text() {
        Some(text) if plain(text) => Ok(text.to_owned()),
        _ => Err(given.must_be(wanted)),
    })?;
    let mut seen = BTreeSet::new();
    match names.iter().find(|name| !seen.insert(*name)) {
        Some(name) => Err(given.wrong(format!("has {name:?} twice"))),
        None => Ok(names),
    }
}

/// A token of HTTP.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}
