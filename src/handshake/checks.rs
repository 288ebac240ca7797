//! What a request for an upgrade must be, check by check, before any app is asked.

use super::{
    answer::{Answer, text, with},
    forwarded::Sender,
    origin::Allowed,
};
use crate::{config::origin::Origin, wire};
use hyper::{
    HeaderMap, Method, StatusCode, Version,
    header::{
        ALLOW, CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
        TRANSFER_ENCODING, UPGRADE,
    },
    http::request::Parts,
};

/// A handshake that gets an HTTP status instead of its upgrade.
#[derive(Debug)]
pub struct Refusal {
    pub status: StatusCode,
    pub reason: String,
    pub header: Option<(HeaderName, &'static str)>,
}

impl Refusal {
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Refusal {
        Refusal { status, reason: reason.into(), header: None }
    }

    fn with(self, name: HeaderName, value: &'static str) -> Refusal {
        Refusal { header: Some((name, value)), ..self }
    }

    pub fn into_answer(self) -> Answer {
        let answer = text(self.status, self.reason);
        match self.header {
            Some((name, value)) => with(answer, name, value),
            None => answer,
        }
    }
}

/// Whether a request wants to be a WebSocket at all.
pub fn is_handshake(headers: &HeaderMap) -> bool {
    has_token(headers, UPGRADE, "websocket")
}

pub fn method(parts: &Parts) -> Result<(), Refusal> {
    if parts.method == Method::GET {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket begins with GET").with(ALLOW, "GET"))
}

pub fn http_version(parts: &Parts) -> Result<(), Refusal> {
    if parts.version == Version::HTTP_11 {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::BAD_REQUEST,
        "a WebSocket begins with HTTP/1.1; a proxy may need `proxy_http_version 1.1`",
    ))
}

pub fn connection(parts: &Parts) -> Result<(), Refusal> {
    if has_token(&parts.headers, CONNECTION, "upgrade") {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::BAD_REQUEST, "`Connection: Upgrade` is missing; a proxy may have to pass it on"))
}

pub fn no_body(parts: &Parts) -> Result<(), Refusal> {
    let length = parts.headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes().iter().any(|b| *b != b'0'));
    if !length && !parts.headers.contains_key(TRANSFER_ENCODING) {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::BAD_REQUEST, "a request for an upgrade has no body"))
}

pub fn websocket_version(parts: &Parts) -> Result<(), Refusal> {
    if one(&parts.headers, SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13") {
        return Ok(());
    }
    let reason = "only version 13 of the WebSocket protocol is spoken here";
    Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, reason).with(SEC_WEBSOCKET_VERSION, "13"))
}

/// Gives what `Sec-WebSocket-Accept` has to be.
pub fn key(parts: &Parts) -> Result<HeaderValue, Refusal> {
    let key = one(&parts.headers, SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).unwrap_or_default();
    if wire::is_valid_key(key)
        && let Ok(accept) = HeaderValue::try_from(wire::accept_key(key))
    {
        return Ok(accept);
    }
    Err(Refusal::new(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be one value of 16 bytes in base64"))
}

/// A page of another origin would come with its visitor's cookies.
pub fn origin(parts: &Parts, sender: &Sender, allowed: &Allowed) -> Result<(), Refusal> {
    if !parts.headers.contains_key(ORIGIN) {
        return Ok(());
    }
    let page = one(&parts.headers, ORIGIN).and_then(|page| page.to_str().ok());
    let own = Origin::own(sender.tls, &sender.host);
    if page.is_some_and(|page| allowed.allows(page, own.as_ref())) {
        return Ok(());
    }
    let own = own.map_or_else(String::new, |own| format!(" ({own})"));
    Err(Refusal::new(
        StatusCode::FORBIDDEN,
        format!(
            "this page's origin is not the relay's own{own} and not in the app's `origins`; \
             if a proxy in front speaks TLS, `server.trusted_proxies` must name it"
        ),
    ))
}

/// The header's value, if it is there once.
fn one(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|found| found.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(headers: &[(&str, &str)]) -> Parts {
        let mut request = hyper::Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_answer_to_the_key_is_the_standards() {
        let accept = key(&parts(&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")])).unwrap();
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(key(&parts(&[("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAB==")])).is_ok(), "bits beyond the end");
    }

    #[test]
    fn keys_of_another_length_or_number_are_refused() {
        for keys in [
            &[][..],
            &[("sec-websocket-key", "")],
            &[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ")],
            &[("sec-websocket-key", "dGhlIHNhbXBsZSBub25j")],
            &[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZXh4eA==")],
            &[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")],
        ] {
            assert_eq!(key(&parts(keys)).unwrap_err().status, 400, "{keys:?}");
        }
    }

    #[test]
    fn tokens_are_found_in_lists() {
        assert!(is_handshake(&parts(&[("upgrade", "h2c, WebSocket")]).headers));
        assert!(!is_handshake(&parts(&[("upgrade", "websockets")]).headers));
        assert!(connection(&parts(&[("connection", "keep-alive"), ("connection", "foo, UPGRADE")])).is_ok());
        assert!(connection(&parts(&[("connection", "keep-alive")])).is_err());
    }

    #[test]
    fn two_origins_are_none() {
        let two = parts(&[("origin", "http://a"), ("origin", "http://a")]);
        let sender = Sender { ip: None, tls: false, host: "a".to_owned(), forwarded: false };
        assert_eq!(origin(&two, &sender, &Allowed::Own(vec![])).unwrap_err().status, 403);
        assert!(origin(&parts(&[]), &sender, &Allowed::Own(vec![])).is_ok());
    }
}
