//! From an HTTP request to the `request` that scripts see.

use std::collections::HashSet;

use bytes::Bytes;
use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, COOKIE, ORIGIN},
    http::request::Parts,
};
use percent_encoding::percent_decode;

use super::{forwarded::Sender, subprotocol::Offer};
use crate::peer::Request;

pub fn build(parts: &Parts, params: Vec<(String, String)>, sender: &Sender, offer: &Offer) -> Request {
    let headers = &parts.headers;
    let raw_query = parts.uri.query().unwrap_or_default().to_owned();
    Request {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        params,
        query: query(&raw_query),
        raw_query,
        headers: joined(headers),
        cookies: cookies(headers),
        origin: headers.get(ORIGIN).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
        bearer: match headers.contains_key(AUTHORIZATION) {
            true => bearer(headers),
            false => offer.token.clone(),
        },
        remote_addr: sender.remote_addr(),
        subprotocols: offer.names.clone(),
        body: Bytes::new(),
        tls: sender.tls,
    }
}

fn joined(headers: &HeaderMap) -> Vec<(String, Bytes)> {
    let join = |name| {
        let separator: &[u8] = if name == COOKIE { b"; " } else { b", " };
        let values: Vec<_> = headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
        Bytes::from(values.join(separator))
    };
    headers.keys().map(|name| (name.as_str().to_owned(), join(name))).collect()
}

/// The first of each name.
fn query(raw: &str) -> Vec<(String, Bytes)> {
    let decode = |text: &str| percent_decode(text.replace('+', " ").as_bytes()).collect::<Vec<u8>>();
    let pairs = raw.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (String::from_utf8_lossy(&decode(name)).into_owned(), Bytes::from(decode(value)))
    });
    first_of_each(pairs)
}

/// The first of each name; a value's quotes are not part of it.
fn cookies(headers: &HeaderMap) -> Vec<(String, Bytes)> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let named = pairs.filter_map(|pair| {
        let equals = memchr::memchr(b'=', pair)?;
        let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        let unquoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value);
        let named = !name.is_empty();
        named.then(|| (String::from_utf8_lossy(name).into_owned(), Bytes::copy_from_slice(unquoted)))
    });
    first_of_each(named)
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    // Of two, nobody can say which is meant.
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

fn first_of_each(pairs: impl Iterator<Item = (String, Bytes)>) -> Vec<(String, Bytes)> {
    let mut seen = HashSet::new();
    pairs.filter(|(name, _)| seen.insert(name.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request {
        let mut builder = hyper::Request::builder().uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let (parts, ()) = builder.body(()).unwrap().into_parts();
        let sender =
            Sender { ip: Some("192.0.2.7".parse().unwrap()), tls: true, host: "a".to_owned(), forwarded: false };
        build(&parts, vec![], &sender, &Offer::of(&parts.headers))
    }

    fn pairs(of: &[(String, Bytes)]) -> Vec<(&str, &[u8])> {
        of.iter().map(|(name, value)| (name.as_str(), &value[..])).collect()
    }

    #[test]
    fn queries_are_decoded_and_the_first_of_a_name_wins() {
        let request = request("/a%20b?x=1+2&y=%41%ff&x=3&&flag&=odd&k%26=v%3Dw=z", &[]);
        assert_eq!(request.path, "/a%20b");
        assert_eq!(request.raw_query, "x=1+2&y=%41%ff&x=3&&flag&=odd&k%26=v%3Dw=z");
        assert_eq!(
            pairs(&request.query),
            [("x", &b"1 2"[..]), ("y", b"A\xff"), ("flag", b""), ("", b"odd"), ("k&", b"v=w=z")]
        );
        assert_eq!((request.remote_addr.as_str(), request.tls), ("192.0.2.7", true));
    }

    #[test]
    fn repeated_headers_are_joined() {
        let request = request(
            "/",
            &[
                ("X-A", "1"),
                ("x-a", "2"),
                ("Cookie", "a=1; b=\"two\";c"),
                ("cookie", "a=9; d = x=y"),
                ("Origin", "http://a"),
            ],
        );
        assert_eq!(request.header("x-a").unwrap(), "1, 2");
        assert_eq!(request.header("cookie").unwrap(), "a=1; b=\"two\";c; a=9; d = x=y");
        assert_eq!(pairs(&request.cookies), [("a", &b"1"[..]), ("b", b"two"), ("d", b"x=y")]);
        assert_eq!(request.origin.as_deref(), Some("http://a"));
    }

    #[test]
    fn a_bearer_token_comes_by_either_header() {
        let bearer = |headers: &[(&str, &str)]| request("/", headers).bearer;
        let token = Some("t0ken".to_owned());
        assert_eq!(bearer(&[("Authorization", "Bearer t0ken")]), token);
        assert_eq!(bearer(&[("Authorization", "bearer  t0ken ")]), token);
        assert_eq!(bearer(&[("Sec-WebSocket-Protocol", "bearer, t0ken")]), token);
        assert_eq!(bearer(&[("Authorization", "Bearer t0ken"), ("Sec-WebSocket-Protocol", "bearer, other")]), token);
        assert_eq!(bearer(&[("Authorization", "Basic eDp5"), ("Sec-WebSocket-Protocol", "bearer, other")]), None);
        assert_eq!(bearer(&[("Authorization", "Bearer a"), ("Authorization", "Bearer b")]), None);
        assert_eq!(bearer(&[("Authorization", "Bearer ")]), None);
        assert_eq!(bearer(&[]), None);
    }
}
