//! HTTP requests: one at a time, redirects by hand so that each is checked as the first URL was.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{
    Client, Method, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, HeaderValue, LOCATION},
};

use crate::outgoing::{Network, Outgoing, cause, rules::CheckedNames};

const SCHEMES: [&str; 2] = ["http", "https"];

const REDIRECTS_MAX: usize = 3;

/// How many connections to one host are kept for the next request, and how long.
const IDLE_MAX: usize = 8;
const IDLE: Duration = Duration::from_secs(30);

/// Headers that a script gives, checked.
#[derive(Debug, Default)]
pub struct Headers(pub(super) HeaderMap);

impl Headers {
    /// These say how the message itself is sent, which is not the script's to say.
    const OURS: [&str; 13] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-extensions",
        "sec-websocket-protocol",
    ];

    /// Names and values, as often as they are there.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
    }

    /// The error says what is wrong with the header.
    pub fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), String> {
        let shown = String::from_utf8_lossy(name);
        let name = HeaderName::from_bytes(name).map_err(|_| format!("\"{shown}\" is not the name of a header"))?;
        if Headers::OURS.contains(&name.as_str()) {
            return Err(format!("\"{shown}\" is set by the relay"));
        }
        let value = HeaderValue::from_bytes(value)
            .map_err(|_| format!("\"{shown}\" has a value with control characters, such as a line break"))?;
        self.0.append(name, value);
        Ok(())
    }
}

#[derive(Debug)]
pub struct Asked {
    pub method: String,
    pub url: String,
    pub headers: Headers,
    pub body: Bytes,
    pub timeout: Duration,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case; repeated ones joined by `, `.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Outgoing {
    /// Sends a request and reads the whole response, over redirects. The error is for the script's `nil, why`.
    pub async fn ask(&self, asked: Asked) -> Result<Response, String> {
        let timeout = asked.timeout;
        match tokio::time::timeout(timeout, self.follow(asked)).await {
            Ok(answer) => answer,
            Err(_) => Err("timeout".to_owned()),
        }
    }

    async fn follow(&self, asked: Asked) -> Result<Response, String> {
        let mut url = self.rules.url(&asked.url, SCHEMES)?;
        if let Network::Stub(stub) = &self.network {
            return stub(&asked);
        }
        let mut method = Method::from_bytes(asked.method.as_bytes()).map_err(|_| "bad method".to_owned())?;
        let Asked { headers: Headers(mut headers), mut body, .. } = asked;
        let client = self.client().await?;
        for _ in 0..=REDIRECTS_MAX {
            let mut request = client.request(method.clone(), url.clone()).headers(headers.clone());
            if !body.is_empty() || matches!(method, Method::POST | Method::PUT | Method::PATCH) {
                request = request.body(body.clone());
            }
            let response = request.send().await.map_err(|error| cause(&error))?;
            let Some(next) = redirect(&url, &response)? else { return self.read(response).await };
            self.rules.check(&next, SCHEMES).map_err(|why| format!("redirected to {}: {why}", without_query(&next)))?;
            let status = response.status();
            let becomes_get = match status {
                StatusCode::SEE_OTHER => method != Method::HEAD,
                StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => method == Method::POST,
                _ => false,
            };
            if becomes_get {
                method = Method::GET;
                body = Bytes::new();
                headers.remove(CONTENT_TYPE);
            }
            if next.origin() != url.origin() {
                // What was meant for one host is not shown to another.
                headers.remove(AUTHORIZATION);
                headers.remove(COOKIE);
                headers.remove("proxy-authorization");
            }
            url = next;
        }
        Err(format!("more than {REDIRECTS_MAX} redirects"))
    }

    async fn read(&self, mut response: reqwest::Response) -> Result<Response, String> {
        let max = self.limits.http_body;
        let too_large = || format!("the body is larger than limits.http_body ({max} bytes)");
        if response.content_length().is_some_and(|length| length > max as u64) {
            return Err(too_large());
        }
        let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
        for name in response.headers().keys() {
            let values: Vec<&[u8]> = response.headers().get_all(name).iter().map(HeaderValue::as_bytes).collect();
            headers.push((name.as_str().to_owned(), values.join(&b", "[..])));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| cause(&error))? {
            if body.len() + chunk.len() > max {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Response { status: response.status().as_u16(), headers, body })
    }

    async fn client(&self) -> Result<&Client, String> {
        self.client
            .get_or_try_init(|| async {
                Client::builder()
                    .tls_backend_preconfigured(self.tls().await.clone())
                    .dns_resolver(Arc::new(CheckedNames(self.rules.clone())))
                    .redirect(reqwest::redirect::Policy::none())
                    .referer(false)
                    .no_proxy()
                    .user_agent(concat!("moonwire/", env!("CARGO_PKG_VERSION")))
                    .pool_max_idle_per_host(IDLE_MAX)
                    .pool_idle_timeout(IDLE)
                    .build()
                    .map_err(|error| cause(&error))
            })
            .await
    }
}

/// Where a response sends the request instead.
fn redirect(from: &Url, response: &reqwest::Response) -> Result<Option<Url>, String> {
    let moved = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let Some(location) = response.headers().get(LOCATION).filter(|_| moved) else { return Ok(None) };
    let bad = |what: &str| format!("redirected to a bad URL: {what}");
    let location = std::str::from_utf8(location.as_bytes()).map_err(|_| bad("it is not UTF-8"))?;
    from.join(location).map(Some).map_err(|error| bad(&error.to_string()))
}

/// For messages: what follows may be a secret.
fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = (url.set_username(""), url.set_password(None));
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        outgoing::rules::tests::{allow, lookup},
    };

    /// An app that may reach `names`, all of which resolve to `addresses`.
    fn outgoing(names: &[(&str, Option<u16>)], addresses: &str) -> Outgoing {
        let mut app = config::App::new("app", "/app", "app.lua");
        app.http.allow = allow(names);
        Outgoing::with_lookup(&app, lookup(addresses))
    }

    fn get(url: &str) -> Asked {
        Asked {
            method: "GET".to_owned(),
            url: url.to_owned(),
            headers: Headers::default(),
            body: Bytes::new(),
            timeout: Duration::from_secs(5),
        }
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_a_private_address_is_not_connected_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let why =
            outgoing(&[("api.example", None)], "127.0.0.1").ask(get(&format!("http://api.example:{port}/"))).await;
        let why = why.unwrap_err();
        assert!(why.contains("host \"api.example\" resolves to 127.0.0.1, which is not a public address"), "{why}");
        // The listener has heard nothing of it: the next to come is this one.
        let probe = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (_, from) = listener.accept().await.unwrap();
        assert_eq!(from, probe.local_addr().unwrap());
    }

    #[tokio::test]
    async fn localhost_is_this_machine() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let outgoing = outgoing(&[("localhost", Some(port))], "127.0.0.1");
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let read = stream.read(&mut [0; 4096]).await.unwrap();
            assert!(read > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
        };
        let (answer, ()) = tokio::join!(outgoing.ask(get(&format!("http://localhost:{port}/"))), serve);
        assert_eq!(answer.unwrap().body, b"hi");
    }

    #[test]
    fn headers_that_say_how_it_is_sent_are_the_relays() {
        let mut headers = Headers::default();
        for (name, value, why) in [
            ("X-A", "b", None),
            ("x-a", "c", None),
            ("Host", "evil", Some("\"Host\" is set by the relay")),
            ("Content-Length", "1", Some("is set by the relay")),
            ("a b", "c", Some("\"a b\" is not the name of a header")),
            ("", "c", Some("\"\" is not the name of a header")),
            ("x", "a\r\nb: c", Some("control characters")),
        ] {
            match (headers.add(name.as_bytes(), value.as_bytes()), why) {
                (Ok(()), None) => {}
                (Err(told), Some(why)) => assert!(told.contains(why), "{name}: {told}"),
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
        assert_eq!(headers.0.get_all("x-a").iter().count(), 2);
    }
}
