//! Requests that are no handshake: the health check, an app's `on_request`, and files.

use std::{net::IpAddr, sync::Arc};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{
    Method, StatusCode,
    body::{Body, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION, UPGRADE},
    http::request::Parts,
};
use tokio::time::timeout;

use super::{
    APP_GRACE, Beside, Door, Page, Site, Talk,
    answer::{Answer, bytes, script_headers, text, with},
    checks::{self, Refusal},
    forwarded::Sender,
    origin::Allowed,
    request,
    subprotocol::Offer,
    unready,
};
use crate::{
    config::{App, Limits, pattern},
    identity::Response,
};

const HEALTH: &str = "/healthz";
/// What pages beside the apps' begin with.
const BESIDE: &str = "/_dev";

impl<D: Door> Talk<'_, D> {
    /// For the relay's own pages only, which is what keeps others' from it.
    async fn beside(&self, beside: Arc<dyn Beside>, parts: &Parts, body: Incoming, sender: &Sender) -> Answer {
        if let Err(refusal) = checks::origin(parts, sender, &Allowed::only_own()) {
            return refusal.into_answer();
        }
        // A name of somebody else's that leads here would make their page one of ours.
        if !is_this_machines(&sender.host) {
            return text(StatusCode::FORBIDDEN, "open this page as localhost, or by an address");
        }
        let body = match read(body, &self.site.config.limits).await {
            Ok(body) => body,
            Err(refusal) => return refusal.into_answer(),
        };
        let page = Page {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            body,
            ..Page::default()
        };
        let Some(page) = beside.answer(page).await else {
            return text(StatusCode::NOT_FOUND, "there is nothing at this path");
        };
        let mut answer = bytes(page.body);
        *answer.status_mut() = StatusCode::from_u16(page.status).unwrap_or(StatusCode::OK);
        let headers = answer.headers_mut();
        if page.kind == "location" {
            headers.extend(HeaderValue::try_from(page.path).map(|to| (LOCATION, to)));
        } else {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.kind));
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer
    }

    pub(super) async fn plain(&self, parts: &Parts, body: Incoming, sender: &Sender) -> Answer {
        let path = parts.uri.path();
        let reads = parts.method == Method::GET || parts.method == Method::HEAD;
        if path == HEALTH {
            return match reads {
                true => text(StatusCode::OK, "ok"),
                false => with(text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD"), ALLOW, "GET, HEAD"),
            };
        }
        if let Some(beside) = &self.site.beside
            && path.strip_prefix(BESIDE).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        {
            return self.beside(beside.clone(), parts, body, sender).await;
        }
        let Some((app, params)) = pattern::find(&self.site.routes, path) else {
            let file = self.site.statics.serve(parts).await;
            return file.unwrap_or_else(|| text(StatusCode::NOT_FOUND, "there is nothing at this path"));
        };
        let body = read(body, &self.site.app(app).limits);
        match ask(self.site, self.door, app, params, parts, body, sender).await {
            Ok(Some(response)) => from_script(self.site.app(app), response),
            Ok(None) => {
                let file = if reads { self.site.statics.serve(parts).await } else { None };
                file.unwrap_or_else(only_websocket)
            }
            Err(refusal) => {
                let status = refusal.status.as_u16();
                let (app, remote_addr) = (&*self.site.app(app).name, sender.remote_addr());
                tracing::debug!(app, path, status, reason = refusal.reason, remote_addr, "request refused");
                refusal.into_answer()
            }
        }
    }
}

/// What `on_request` says, if there is one.
pub(super) async fn ask(
    site: &Site,
    door: &impl Door,
    app: usize,
    params: Vec<(String, String)>,
    parts: &Parts,
    body: impl Future<Output = Result<Bytes, Refusal>>,
    sender: &Sender,
) -> Result<Option<Response>, Refusal> {
    checks::origin(parts, sender, &site.origins[app])?;
    if !door.ready() {
        return Err(unready());
    }
    let App { name, limits, .. } = site.app(app);
    let mut request = request::build(parts, params, sender, &Offer::of(&parts.headers));
    request.body = body.await?;
    let asked = door.request(app, request);
    timeout(limits.request_timeout + APP_GRACE, asked).await.map_err(|_| {
        tracing::error!(app = name, "on_request gave no answer within `limits.request_timeout`");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the app did not answer in time")
    })
}

/// Whether a host is no name that anybody can let lead here: an address, or localhost.
fn is_this_machines(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

/// The whole body, or why not.
async fn read(mut body: Incoming, limits: &Limits) -> Result<Bytes, Refusal> {
    let max = limits.request_body;
    let too_large = || {
        let reason = format!("the body is larger than `limits.request_body` allows ({max} bytes)");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason)
    };
    if body.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    let whole = async {
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                return Err(Refusal::new(StatusCode::BAD_REQUEST, "the body is malformed or ends early"));
            };
            // Trailers are nothing to us.
            let Ok(piece) = frame.into_data() else {
                continue;
            };
            if read.len() + piece.len() > max {
                return Err(too_large());
            }
            read.extend_from_slice(&piece);
        }
        Ok(read.freeze())
    };
    timeout(limits.request_timeout, whole).await.unwrap_or_else(|_| {
        let reason = format!("the body was not there within `limits.request_timeout` ({:?})", limits.request_timeout);
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, reason))
    })
}

pub(super) fn from_script(app: &App, response: Response) -> Answer {
    let unsendable = |why: String| {
        tracing::error!(app = app.name, "the answer of on_request cannot be sent: {why}");
        text(StatusCode::INTERNAL_SERVER_ERROR, "the app's answer cannot be sent")
    };
    let Response { status, headers, body } = response;
    let status = match StatusCode::from_u16(status) {
        Ok(status) if (200..=599).contains(&status.as_u16()) => status,
        _ => {
            return unsendable(format!("its status is {status}, and must be between 200 and 599"));
        }
    };
    let headers = match script_headers(&app.name, &headers) {
        Ok(headers) => headers,
        Err(name) => {
            return unsendable(format!("its header `{}` is not one", name.escape_default()));
        }
    };
    let bodiless = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
    let mut answer = bytes(if bodiless { Bytes::new() } else { Bytes::from(body) });
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    if !bodiless {
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        answer.headers_mut().entry(CONTENT_TYPE).or_insert(text);
    }
    answer
}

pub(super) fn only_websocket() -> Answer {
    let reason = "this is a WebSocket address; if you did ask for one, a proxy in between has to pass on \
                  the headers Upgrade and Connection";
    with(with(text(StatusCode::UPGRADE_REQUIRED, reason), UPGRADE, "websocket"), CONNECTION, "Upgrade")
}
