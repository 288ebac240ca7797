//! Who a request really came from, when it came through a proxy.

use std::net::{IpAddr, SocketAddr};

use hyper::{HeaderMap, header::HOST};
use ipnet::IpNet;

use crate::acceptor::{PeerAddr, is_among};

/// The peer as far as it can be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// None: a unix socket that no proxy said more about.
    pub ip: Option<IpAddr>,
    pub tls: bool,
    /// The host that the peer asked for, with its port if it named one.
    pub host: String,
    /// A trusted proxy forwarded the address, so the connection is to be counted under it.
    pub forwarded: bool,
}

impl Sender {
    /// Believes `X-Forwarded-*` from trusted proxies and from nobody else.
    pub fn of(headers: &HeaderMap, peer: &PeerAddr, proxies: &[IpNet]) -> Sender {
        let host = last(headers, HOST.as_str()).unwrap_or_default().to_owned();
        let direct = Sender { ip: peer.ip(), tls: false, host, forwarded: false };
        if !peer.is_trusted(proxies) {
            return direct;
        }
        let ip = forwarded_for(headers, proxies);
        // Proxies append, so that the last is the one of the proxy that we trust.
        Sender {
            ip: ip.or(direct.ip),
            tls: last(headers, "x-forwarded-proto").is_some_and(is_secure),
            host: last(headers, "x-forwarded-host").map_or(direct.host, str::to_owned),
            forwarded: ip.is_some(),
        }
    }

    /// As scripts and logs see it.
    pub fn remote_addr(&self) -> String {
        self.ip.map_or_else(|| "unix".to_owned(), |ip| ip.to_string())
    }
}

fn is_secure(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("wss")
}

/// The right-most address that is no trusted proxy; if all are, the left-most. What stands left of
/// an address that cannot be read is not believed.
fn forwarded_for(headers: &HeaderMap, proxies: &[IpNet]) -> Option<IpAddr> {
    let mut nearest = None;
    for text in list(headers, "x-forwarded-for").rev() {
        let Some(ip) = parse_address(text) else { break };
        nearest = Some(ip);
        if !is_among(ip, proxies) {
            break;
        }
    }
    nearest
}

/// Of an address as proxies write it: with or without a port, IPv6 in brackets or bare.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip())).ok()?;
    Some(ip.to_canonical())
}

fn last<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    list(headers, name).next_back()
}

/// All values of a header, those in one line too, in order.
fn list<'a>(headers: &'a HeaderMap, name: &str) -> std::vec::IntoIter<&'a str> {
    let values = headers.get_all(name).iter();
    // One that is not text stays as an entry that nothing can be made of.
    let values = values.flat_map(|value| value.to_str().unwrap_or("?").split(',')).map(str::trim);
    values.collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    fn sender(peer: &str, proxies: &[&str], headers: &[(&str, &str)]) -> Sender {
        let peer = match peer {
            "unix" => PeerAddr::Unix,
            ip => PeerAddr::Ip(SocketAddr::new(ip.parse().unwrap(), 4711)),
        };
        let proxies: Vec<IpNet> = proxies.iter().map(|net| net.parse().unwrap()).collect();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        Sender::of(&map, &peer, &proxies)
    }

    #[test]
    fn the_right_most_address_that_is_no_proxy_is_the_peers() {
        for (peer, proxies, forwarded, expected) in [
            ("10.0.0.1", &["10.0.0.0/8"][..], &["192.0.2.7"][..], "192.0.2.7"),
            ("10.0.0.1", &["10.0.0.0/8"], &["203.0.113.9, 192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", &["10.0.0.0/8"], &["203.0.113.9, 192.0.2.7, 10.0.0.2"], "192.0.2.7"),
            ("10.0.0.1", &["10.0.0.0/8"], &["203.0.113.9", "192.0.2.7,10.0.0.2"], "192.0.2.7"),
            ("10.0.0.1", &["10.0.0.0/8"], &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["10.0.0.0/8"], &["192.0.2.7, garbage, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["10.0.0.0/8"], &["192.0.2.7, garbage"], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.0/8"], &[""], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.0/8"], &[], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.0/8"], &["192.0.2.7:5123"], "192.0.2.7"),
            ("10.0.0.1", &["10.0.0.0/8"], &["[2001:db8::1]:5123"], "2001:db8::1"),
            ("10.0.0.1", &["10.0.0.0/8"], &["[2001:db8::1]"], "2001:db8::1"),
            ("10.0.0.1", &["10.0.0.0/8"], &["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", &["10.0.0.0/8"], &["::ffff:192.0.2.7"], "192.0.2.7"),
            ("::ffff:10.0.0.1", &["10.0.0.0/8"], &["192.0.2.7"], "192.0.2.7"),
            ("unix", &["127.0.0.1/32"], &["192.0.2.7"], "192.0.2.7"),
            ("unix", &["127.0.0.1/32"], &[], "unix"),
            // Untrusted: what it says is its own invention.
            ("192.0.2.66", &["10.0.0.0/8"], &["192.0.2.7"], "192.0.2.66"),
            ("10.0.0.1", &[], &["192.0.2.7"], "10.0.0.1"),
            ("unix", &[], &["192.0.2.7"], "unix"),
        ] {
            let headers: Vec<_> = forwarded.iter().map(|value| ("x-forwarded-for", *value)).collect();
            let found = sender(peer, proxies, &headers).remote_addr();
            assert_eq!(found, expected, "{peer} behind {proxies:?} forwarding {forwarded:?}");
        }
    }

    #[test]
    fn scheme_and_host_are_believed_from_proxies_only() {
        let headers =
            [("host", "inner:8080"), ("x-forwarded-proto", "HTTPS"), ("x-forwarded-host", "evil.com, chat.example")];
        let through = sender("10.0.0.1", &["10.0.0.1/32"], &headers);
        assert_eq!((through.tls, through.host.as_str()), (true, "chat.example"));
        let direct = sender("10.0.0.2", &["10.0.0.1/32"], &headers);
        assert_eq!((direct.tls, direct.host.as_str()), (false, "inner:8080"));
        let http = sender("10.0.0.1", &["10.0.0.1/32"], &[("host", "a"), ("x-forwarded-proto", "https, http")]);
        assert_eq!((http.tls, http.host.as_str()), (false, "a"));
    }
}
