//! From a new stream to a connection: the HTTP part of a peer's way, with the plain requests and
//! the files that come by the same door.

mod answer;
pub mod bare;
mod checks;
mod forwarded;
mod intake;
mod origin;
mod plain;
mod request;
mod statics;
mod subprotocol;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell, convert::Infallible, future::poll_fn, pin::Pin, rc::Rc, sync::Arc, task::Poll, time::Duration,
};

use bytes::Bytes;
use hyper::{
    StatusCode,
    body::Incoming,
    header::{
        CONNECTION, HeaderName, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL,
        TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
    },
    http::request::Parts,
    server::conn::http1,
    service::service_fn,
};
use tokio::time::{Instant, sleep_until, timeout};

use self::{
    answer::{Answer, Outgoing, bytes, script_headers, text, with},
    checks::Refusal,
    forwarded::Sender,
    intake::{Bounds, Busy, Exchange, Intake},
    origin::Allowed,
    statics::Statics,
    subprotocol::Offer,
};
use crate::{
    acceptor::{PeerAddr, Permit},
    config::{
        App, Compression, Config,
        pattern::{self, PathPattern},
    },
    connection::stream::Stream,
    identity::{Identity, Response, Verdict},
    peer::Request,
    wire::Deflate,
};

/// hyper takes no smaller buffer. Heads are bounded before they reach it.
const PARSER_BUFFER_MIN: usize = 8192;

/// How long a peer is given to take a last answer.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// An app keeps its own deadlines; when it is this late, its worker is stuck.
const APP_GRACE: Duration = Duration::from_secs(1);

/// A page that is served beside apps and files, and the request for one.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub method: String,
    /// Of a request, its path; of a redirect, where it leads.
    pub path: String,
    pub query: String,
    pub status: u16,
    /// The content type, or `location` for a redirect.
    pub kind: &'static str,
    pub body: Bytes,
}

impl Page {
    pub fn of(kind: &'static str, body: impl Into<String>) -> Page {
        Page { status: 200, kind, body: Bytes::from(body.into()), ..Page::default() }
    }
}

/// Serves such pages; None is for others to answer.
pub trait Beside: Send + Sync {
    fn answer(self: Arc<Self>, page: Page) -> Pin<Box<dyn Future<Output = Option<Page>>>>;
}

/// What a handshake has to know of the configuration, worked out once for each version of it.
pub struct Site {
    config: Arc<Config>,
    routes: Vec<PathPattern>,
    /// One for each app, as in the configuration.
    origins: Vec<Allowed>,
    statics: Statics,
    beside: Option<Arc<dyn Beside>>,
}

impl Site {
    pub fn new(config: Arc<Config>) -> Site {
        let routes = config.apps.iter().map(|app| PathPattern::parse(&app.path).expect("the config has checked it"));
        let origins = config.apps.iter().map(|app| Allowed::new(&app.origins, &app.name)).collect();
        let statics = Statics::new(&config.statics);
        Site { routes: routes.collect(), origins, statics, beside: None, config: config.clone() }
    }

    /// With pages that come before everything else.
    pub fn beside(self, beside: Option<Arc<dyn Beside>>) -> Site {
        Site { beside, ..self }
    }

    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    fn app(&self, index: usize) -> &App {
        &self.config.apps[index]
    }
}

/// What the handshake asks of the apps, by their place in the configuration.
#[allow(async_fn_in_trait, reason = "a worker's futures stay on its thread")]
pub trait Door {
    /// Gives the request back with the verdict.
    async fn authenticate(&self, app: usize, request: Request) -> (Verdict, Request);
    /// None: the script has no `on_request`.
    async fn request(&self, app: usize, request: Request) -> Option<Response>;
    /// Whether apps can be asked at all; not while the relay starts or stops.
    fn ready(&self) -> bool;
}

/// How it ended.
pub enum Outcome {
    Ended,
    Upgraded(Box<Upgraded>),
}

/// A WebSocket from here on.
pub struct Upgraded {
    pub stream: Stream,
    /// What the peer sent behind its handshake, already read.
    pub read: Bytes,
    pub app: usize,
    pub request: Request,
    pub admission: Admission,
    pub deflate: Option<Deflate>,
    pub permit: Permit,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    Open {
        identity: Option<Identity>,
        subprotocol: Option<String>,
    },
    /// A close frame with this is all that the peer gets.
    Close {
        code: u16,
        reason: String,
    },
}

/// Talks HTTP with one peer until it leaves, is late, or has become a WebSocket. No frame is read
/// before the app has let it in.
pub async fn serve(stream: Stream, peer: PeerAddr, permit: Permit, site: Rc<Site>, door: &impl Door) -> Outcome {
    let limits = &site.config.limits;
    let exchange = Rc::new(Exchange::new(Instant::from_std(permit.accepted_at())));
    let bounds = Bounds { head_bytes: limits.header_bytes, headers: limits.headers };
    let intake = Intake::new(stream, bounds, exchange.clone());
    let talk = Talk { site: &site, door, peer, permit: RefCell::new(permit), grant: RefCell::new(None) };

    let mut connection = http1::Builder::new()
        // Our own deadline runs from the accept, and is the same for all of a head.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes.max(PARSER_BUFFER_MIN))
        .max_headers(limits.headers)
        .serve_connection(
            intake,
            service_fn(|request| {
                // Here and not in the future: the parser reads on before it polls that.
                let busy = exchange.begin();
                Box::pin(talk.answer(request, busy))
            }),
        );
    let mut deadline = std::pin::pin!(sleep_until(Instant::now()));
    let ending = poll_fn(|cx| {
        if let Poll::Ready(result) = connection.poll_without_shutdown(cx) {
            return Poll::Ready(result.map_or_else(Ending::Failed, |()| Ending::Done));
        }
        let Some(at) = exchange.deadline(limits.handshake_timeout, limits.request_timeout) else {
            return Poll::Pending;
        };
        if deadline.deadline() != at {
            deadline.as_mut().reset(at);
        }
        deadline.as_mut().poll(cx).map(|()| Ending::Late)
    })
    .await;

    let parts = connection.into_parts();
    let (intake, parsed) = (parts.io, parts.read_buf);
    let (permit, grant) = (talk.permit.into_inner(), talk.grant.into_inner());
    let (fault, within_head, ended) = (intake.fault(), intake.is_within_head(), intake.has_ended());
    let (stream, rest) = intake.into_parts();
    // A peer that has not taken the last answer gets no other.
    if exchange.is_blocked() {
        return Outcome::Ended;
    }
    let last_answer = match (ending, grant, fault) {
        (Ending::Done, Some(Grant { app, request, admission, deflate }), _) => {
            let read = if parsed.is_empty() { rest } else { Bytes::from([parsed, rest].concat()) };
            return Outcome::Upgraded(Box::new(Upgraded { stream, read, app, request, admission, deflate, permit }));
        }
        (_, _, Some(fault)) => refuse(&peer, fault.status(), &fault.reason()),
        (Ending::Late, _, None) if within_head => {
            let late = limits.handshake_timeout;
            let reason = format!("the request's head was not there within `limits.handshake_timeout` ({late:?})");
            refuse(&peer, StatusCode::REQUEST_TIMEOUT, &reason)
        }
        // It was idle: there is nothing to answer.
        (Ending::Late, ..) => return Outcome::Ended,
        (Ending::Failed(error), ..) => {
            tracing::debug!(remote_addr = %peer, %error, "a connection ended within an exchange");
            Vec::new()
        }
        (Ending::Done, ..) => Vec::new(),
    };
    if !ended {
        // Past this deadline the peer is cut off, which is what it has earned.
        let _ = timeout(LAST_ANSWER, stream.end_with(&last_answer)).await;
    }
    Outcome::Ended
}

enum Ending {
    Done,
    Late,
    Failed(hyper::Error),
}

/// An answer where there is no parser to send it.
fn refuse(peer: &PeerAddr, status: StatusCode, reason: &str) -> Vec<u8> {
    tracing::debug!(remote_addr = %peer, status = status.as_u16(), reason, "request refused");
    let length = reason.len() + 1;
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{reason}\n"
    )
    .into_bytes()
}

/// The requests of one peer.
struct Talk<'a, D> {
    site: &'a Site,
    door: &'a D,
    peer: PeerAddr,
    permit: RefCell<Permit>,
    /// Set once the 101 is on its way.
    grant: RefCell<Option<Grant>>,
}

struct Grant {
    app: usize,
    request: Request,
    admission: Admission,
    deflate: Option<Deflate>,
}

/// An upgrade that nothing speaks against.
struct Welcome {
    app: usize,
    request: Request,
    /// `Sec-WebSocket-Accept`.
    accept: HeaderValue,
    subprotocol: Option<String>,
    headers: hyper::HeaderMap,
    admission: Admission,
    deflate: Option<Deflate>,
}

impl<D: Door> Talk<'_, D> {
    async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        busy: Busy,
    ) -> Result<hyper::Response<Outgoing>, Infallible> {
        let (parts, body) = request.into_parts();
        let mut answer = self.respond(&parts, body).await;
        let more = !parts.headers.contains_key(UPGRADE) && !parts.headers.contains_key(TRANSFER_ENCODING);
        if !more && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            // Where such a request ends is not known to `Intake`, so that it looks at no other.
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(answer.map(|content| Outgoing::new(content, busy)))
    }

    async fn respond(&self, parts: &Parts, body: Incoming) -> Answer {
        let sender = Sender::of(&parts.headers, &self.peer, &self.site.config.server.trusted_proxies);
        if let Some(ip) = sender.ip.filter(|_| sender.forwarded)
            && let Err(over) = self.permit.borrow_mut().readdress(ip)
        {
            let refusal = text(StatusCode::SERVICE_UNAVAILABLE, over.to_string());
            return with(with(refusal, RETRY_AFTER, "5"), CONNECTION, "close");
        }
        if let Some(authority) = parts.uri.authority()
            && !parts
                .headers
                .get("host")
                .is_some_and(|host| host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()))
        {
            let refusal = text(StatusCode::BAD_REQUEST, "the request's address and its Host differ");
            return with(refusal, CONNECTION, "close");
        }
        if !checks::is_handshake(&parts.headers) {
            self.permit.borrow_mut().admitted();
            return self.plain(parts, body, &sender).await;
        }
        if let Err(over) = self.permit.borrow_mut().pending_again() {
            let refusal = text(StatusCode::SERVICE_UNAVAILABLE, over.to_string());
            return with(with(refusal, RETRY_AFTER, "5"), CONNECTION, "close");
        }
        match decide(self.site, self.door, parts, &sender).await {
            Ok(welcome) => self.upgrade(welcome),
            Err(refusal) => {
                let app = pattern::find(&self.site.routes, parts.uri.path()).map(|(app, _)| &*self.site.app(app).name);
                let status = refusal.status.as_u16();
                tracing::debug!(
                    app,
                    path = parts.uri.path(),
                    status,
                    reason = refusal.reason,
                    remote_addr = sender.remote_addr(),
                    "handshake refused"
                );
                refusal.into_answer()
            }
        }
    }

    fn upgrade(&self, welcome: Welcome) -> Answer {
        const ACCEPT: HeaderName = hyper::header::SEC_WEBSOCKET_ACCEPT;

        let Welcome { app, request, accept, subprotocol, headers, admission, deflate } = welcome;
        let mut answer = bytes(Bytes::new());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = headers;
        let mut answer = with(with(answer, UPGRADE, "websocket"), CONNECTION, "Upgrade");
        answer.headers_mut().insert(ACCEPT, accept);
        if let Some(name) = subprotocol.and_then(|name| HeaderValue::try_from(name).ok()) {
            answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, name);
        }
        if let Some(extension) = deflate.and_then(|deflate| HeaderValue::try_from(deflate.answer()).ok()) {
            answer.headers_mut().insert(SEC_WEBSOCKET_EXTENSIONS, extension);
        }
        self.permit.borrow_mut().admitted();
        self.grant.replace(Some(Grant { app, request, admission, deflate }));
        answer
    }
}

/// Every check that stands between a handshake and its upgrade, in order.
async fn decide(site: &Site, door: &impl Door, parts: &Parts, sender: &Sender) -> Result<Welcome, Refusal> {
    checks::method(parts)?;
    checks::http_version(parts)?;
    checks::connection(parts)?;
    checks::no_body(parts)?;
    checks::websocket_version(parts)?;
    let accept = checks::key(parts)?;
    let Some((app, params)) = pattern::find(&site.routes, parts.uri.path()) else {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "no app has this path"));
    };
    checks::origin(parts, sender, &site.origins[app])?;
    if !door.ready() {
        return Err(unready());
    }

    let offer = Offer::of(&parts.headers);
    let request = request::build(parts, params, sender, &offer);
    let App { name, limits, subprotocols, compression, .. } = site.app(app);
    let asked = door.authenticate(app, request);
    let Ok((verdict, request)) = timeout(limits.authenticate_timeout + APP_GRACE, asked).await else {
        tracing::error!(app = name, "authenticate gave no verdict within `limits.authenticate_timeout`");
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the app did not answer in time"));
    };
    if !door.ready() {
        return Err(unready());
    }
    match verdict {
        Verdict::Accept { identity, subprotocol, headers } => {
            let subprotocol = offer.choose(subprotocol, subprotocols).map_err(|chosen| {
                tracing::error!(
                    app = name,
                    "authenticate chose the subprotocol `{chosen}`, which the peer did not offer; \
                     choose one of `request.subprotocols`, or none"
                );
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the app chose a subprotocol that was not offered")
            })?;
            let headers = script_headers(name, &headers).map_err(|header| {
                tracing::error!(app = name, header, "authenticate returned a header that cannot be sent");
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the app's answer cannot be sent")
            })?;
            let admission = Admission::Open { identity, subprotocol: subprotocol.clone() };
            let deflate = deflate(&parts.headers, compression);
            Ok(Welcome { app, request, accept, subprotocol, headers, admission, deflate })
        }
        Verdict::UpgradeAndClose { code, reason } => {
            // Without a subprotocol that it offered, a browser would not see the close.
            let subprotocol = offer.choose(None, subprotocols).unwrap_or_default();
            let admission = Admission::Close { code, reason };
            let headers = hyper::HeaderMap::new();
            Ok(Welcome { app, request, accept, subprotocol, headers, admission, deflate: None })
        }
        Verdict::Refuse { status: status @ 400..=599, reason } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
            let header = (status == StatusCode::UNAUTHORIZED).then_some((WWW_AUTHENTICATE, "Bearer"));
            Err(Refusal { status, reason, header })
        }
        Verdict::Refuse { status, .. } => {
            tracing::error!(app = name, status, "authenticate refused with a status that is not between 400 and 599");
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the app's answer cannot be sent"))
        }
    }
}

/// What is agreed about compression with a peer that offers it.
fn deflate(headers: &hyper::HeaderMap, wanted: &Compression) -> Option<Deflate> {
    let mut offers = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().filter_map(|offers| offers.to_str().ok());
    let deflate = offers.find_map(|offers| Deflate::agree(offers, wanted.context, wanted.window_bits));
    deflate.filter(|_| wanted.enabled)
}

fn unready() -> Refusal {
    let reason = "the relay is starting or stopping";
    Refusal { status: StatusCode::SERVICE_UNAVAILABLE, reason: reason.to_owned(), header: Some((RETRY_AFTER, "1")) }
}
