//! Requests that come by no stream: the harness's, through the same checks as everybody's.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{StatusCode, http::request::Parts};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::{
    Admission, Door, Site,
    answer::text,
    checks::Refusal,
    decide,
    forwarded::Sender,
    plain::{ask, from_script, only_websocket},
};
use crate::{acceptor::PeerAddr, config::pattern, identity::Response, peer::Request};

/// What a virtual peer sends; headers that a handshake needs are added where it has none of them.
#[derive(Debug, Clone, Default)]
pub struct Bare {
    pub method: String,
    /// A path with a query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

/// What a URL cannot have as it is.
const TYPED: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'`').add(b'{').add(b'}').add(b'\\').add(b'^').add(b'|');

/// Who comes by no socket comes from this machine.
const PEER: PeerAddr =
    PeerAddr::Ip(std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 40_000));

/// A handshake as far as its upgrade, or the status and the reason that it is refused with.
pub async fn upgrade(site: &Site, door: &impl Door, bare: Bare) -> Result<(Request, Admission), (u16, String)> {
    const NEEDED: [(&str, &str); 4] = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let parts = parts(&bare, &NEEDED)?;
    let sender = Sender::of(&parts.headers, &PEER, &site.config.server.trusted_proxies);
    let refused = |refusal: Refusal| (refusal.status.as_u16(), refusal.reason);
    let welcome = decide(site, door, &parts, &sender).await.map_err(refused)?;
    Ok((welcome.request, welcome.admission))
}

/// A plain request, and its whole answer.
pub async fn request(site: &Site, door: &impl Door, bare: Bare) -> Response {
    let answer = match parts(&bare, &[]) {
        Err((status, reason)) => text(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), reason),
        Ok(parts) => {
            let sender = Sender::of(&parts.headers, &PEER, &site.config.server.trusted_proxies);
            match pattern::find(&site.routes, parts.uri.path()) {
                None => text(StatusCode::NOT_FOUND, "there is nothing at this path"),
                Some((app, params)) => {
                    let body = async { Ok(bare.body) };
                    match ask(site, door, app, params, &parts, body, &sender).await {
                        Ok(Some(response)) => from_script(site.app(app), response),
                        Ok(None) => only_websocket(),
                        Err(refusal) => refusal.into_answer(),
                    }
                }
            }
        }
    };
    let (parts, body) = answer.into_parts();
    let headers = parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    Response { status: parts.status.as_u16(), headers: headers.collect(), body }
}

fn parts(bare: &Bare, needed: &[(&str, &str)]) -> Result<Parts, (u16, String)> {
    // As a browser writes what somebody has typed.
    let target = utf8_percent_encode(&bare.target, TYPED).to_string();
    let mut builder = hyper::Request::builder().method(bare.method.as_str()).uri(target);
    for (name, value) in &bare.headers {
        builder = builder.header(name, value);
    }
    for (name, value) in [("host", "localhost")].iter().chain(needed) {
        if !bare.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name)) {
            builder = builder.header(*name, *value);
        }
    }
    let request = builder.body(()).map_err(|error| (400, format!("this is no request: {error}")))?;
    Ok(request.into_parts().0)
}
