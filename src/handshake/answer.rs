//! Answers that are not an upgrade.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{
    HeaderMap, Response, StatusCode,
    body::{Body, Frame, SizeHint},
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};
use tower_http::services::fs::ServeFileSystemResponseBody;

use super::intake::Busy;

/// Bytes that are there already, or a file.
pub type Content = Either<Full<Bytes>, ServeFileSystemResponseBody>;
pub type Answer = Response<Content>;

/// An answer's body, which keeps the exchange busy until its last byte is handed over.
pub struct Outgoing {
    content: Content,
    _busy: Busy,
}

/// A line of text.
pub fn text(status: StatusCode, line: impl AsRef<str>) -> Answer {
    let mut answer = bytes(Bytes::from(format!("{}\n", line.as_ref())));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    answer
}

pub fn bytes(body: Bytes) -> Answer {
    Response::new(Either::Left(Full::new(body)))
}

/// `name: value` added.
pub fn with(mut answer: Answer, name: HeaderName, value: &'static str) -> Answer {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
    answer
}

/// The headers that a script adds, as they can be sent; `Err` with the name of one that cannot.
/// Those that are the relay's to say are left out, with a warning.
pub fn script_headers<V: AsRef<[u8]>>(app: &str, headers: &[(String, V)]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let parsed = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_ref()));
        let (Ok(parsed_name), Ok(parsed_value)) = parsed else {
            return Err(name.clone());
        };
        if is_ours(&parsed_name) {
            tracing::warn!(app, header = name, "the script set a header that is the relay's to set; it is left out");
        } else {
            map.append(parsed_name, parsed_value);
        }
    }
    Ok(map)
}

/// About this connection, or the handshake itself (RFC 9110 7.6.1).
fn is_ours(name: &HeaderName) -> bool {
    [CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name)
        || ["keep-alive", "proxy-connection"].contains(&name.as_str())
        || name.as_str().starts_with("sec-websocket-")
}

impl Outgoing {
    pub fn new(content: Content, busy: Busy) -> Outgoing {
        Outgoing { content, _busy: busy }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.content).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scripts_headers_cannot_break_the_answer() {
        let headers = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect();
            script_headers("chat", &pairs)
                .map(|map| map.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect::<Vec<_>>())
        };
        assert_eq!(
            headers(&[("Set-Cookie", "a=1"), ("set-cookie", "b=2"), ("X-A", "")]).unwrap(),
            ["set-cookie: a=1", "set-cookie: b=2", "x-a: "]
        );
        assert_eq!(headers(&[("X-A", "1\r\nX-B: 2")]), Err("X-A".to_owned()));
        assert_eq!(headers(&[("X A", "1")]), Err("X A".to_owned()));
        assert_eq!(headers(&[("", "1")]), Err(String::new()));
        let ours = [("Connection", "x"), ("content-length", "7"), ("Sec-WebSocket-Accept", "x"), ("upgrade", "h2c")];
        assert!(headers(&ours).unwrap().is_empty());
    }
}
