//! Which URLs a script may reach, and at which addresses: `app.http.allow`.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use crate::{
    config::{Host, HttpHost},
    outgoing::address,
};

/// Finds the addresses of a name.
pub type Lookup = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> + Send + Sync>;

pub fn system_lookup() -> Lookup {
    Arc::new(|name| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

pub struct Rules {
    allow: Vec<HttpHost>,
    lookup: Lookup,
}

impl Rules {
    pub fn new(allow: Vec<HttpHost>, lookup: Lookup) -> Rules {
        Rules { allow, lookup }
    }

    /// `text` as a URL that may be reached, as far as can be said before its name is resolved.
    pub fn url(&self, text: &str, schemes: [&str; 2]) -> Result<Url, String> {
        let url = Url::parse(text).map_err(|error| format!("bad URL: {error}"))?;
        self.check(&url, schemes)?;
        Ok(url)
    }

    pub fn check(&self, url: &Url, [plain, secure]: [&str; 2]) -> Result<(), String> {
        if ![plain, secure].contains(&url.scheme()) {
            return Err(format!("scheme \"{}\" is not allowed: only {plain} and {secure} are", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("bad URL: it has a user name or a password; give a header instead".to_owned());
        }
        let host = host(url);
        let port = url.port_or_known_default();
        let allowed = self
            .allow
            .iter()
            .any(|each| Some(&each.host) == host.as_ref() && (each.port.is_none() || each.port == port));
        if allowed {
            return Ok(());
        }
        let host = url.host_str().unwrap_or_default();
        Err(match url.port() {
            Some(port) => format!("host \"{host}:{port}\" is not in app.http.allow"),
            None => format!("host \"{host}\" is not in app.http.allow"),
        })
    }

    /// The addresses of a checked URL.
    pub async fn addresses(&self, url: &Url) -> Result<Vec<SocketAddr>, String> {
        let port = url.port_or_known_default().unwrap_or_default();
        let addresses = match host(url) {
            Some(Host::Address(address)) => vec![address],
            Some(Host::Name(name)) => self.resolve(&name).await?,
            None => Vec::new(),
        };
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
    }

    /// The addresses of an allowed name. Whoever answers for the name decides what they are, so one that leads
    /// inside refuses them all; `localhost` alone says by itself that it does.
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let found = (self.lookup)(name.to_owned()).await;
        let found = found.map_err(|error| format!("host \"{name}\" cannot be resolved: {error}"))?;
        if found.is_empty() {
            return Err(format!("host \"{name}\" has no address"));
        }
        let refused = found.iter().find(|address| match name {
            "localhost" => !address.is_loopback(),
            _ => !address::is_public(**address),
        });
        match refused {
            None => Ok(found),
            Some(address) if name == "localhost" => {
                Err(format!("host \"localhost\" resolves to {address}, which is not this machine"))
            }
            Some(address) => Err(format!(
                "host \"{name}\" resolves to {address}, which is not a public address: list the address itself in app.http.allow"
            )),
        }
    }
}

/// The host in the one form that a URL gives to all spellings of it.
fn host(url: &Url) -> Option<Host> {
    let text = url.host_str()?;
    let address = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    Some(match address.parse() {
        Ok(address) => Host::Address(address),
        Err(_) => Host::Name(text.to_owned()),
    })
}

/// Gives an HTTP client the checked addresses only.
pub struct CheckedNames(pub Arc<Rules>);

impl Resolve for CheckedNames {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = self.0.clone();
        Box::pin(async move {
            let found = rules.resolve(name.as_str()).await?;
            Ok(Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Every name has these addresses.
    pub fn lookup(addresses: &str) -> Lookup {
        let addresses: Vec<IpAddr> = addresses.split_whitespace().map(|text| text.parse().unwrap()).collect();
        Arc::new(move |_| {
            let addresses = addresses.clone();
            Box::pin(async move { Ok(addresses) })
        })
    }

    pub fn allow(entries: &[(&str, Option<u16>)]) -> Vec<HttpHost> {
        let host = |text: &str| match text.trim_matches(['[', ']']).parse() {
            Ok(address) => Host::Address(address),
            Err(_) => Host::Name(text.to_owned()),
        };
        entries.iter().map(|(text, port)| HttpHost { host: host(text), port: *port }).collect()
    }

    #[test]
    fn only_listed_hosts_ports_and_schemes_pass() {
        let rules = Rules::new(
            allow(&[
                ("api.example.com", None),
                ("other.example", Some(8443)),
                ("127.0.0.1", Some(9000)),
                ("[::1]", Some(80)),
            ]),
            lookup(""),
        );
        for url in [
            "http://api.example.com",
            "https://API.example.COM:444/x?y#z",
            "https://other.example:8443",
            "http://127.0.0.1:9000/",
            // Other spellings of the address that is listed are that address.
            "http://2130706433:9000/",
            "http://0x7f.1:9000/",
            "http://0177.0.0.1:9000/",
            "http://[::1]/",
            "http://[0:0::1]:80/",
        ] {
            assert_eq!(rules.url(url, ["http", "https"]).map(drop), Ok(()), "{url}");
        }
        for (url, why) in [
            ("https://example.com", "host \"example.com\" is not in app.http.allow"),
            ("https://other.example", "host \"other.example\" is not in app.http.allow"),
            ("https://api.example.com.", "host \"api.example.com.\" is not in app.http.allow"),
            ("https://x.api.example.com", "host \"x.api.example.com\" is not in app.http.allow"),
            ("http://api.example.com@evil.example/", "user name"),
            ("http://evil.example#@api.example.com/", "host \"evil.example\" is not"),
            ("http://evil.example\\@api.example.com/", "host \"evil.example\" is not"),
            ("http://127.0.0.1/", "host \"127.0.0.1\" is not in app.http.allow"),
            ("http://127.0.0.1:9001/", "host \"127.0.0.1:9001\" is not in app.http.allow"),
            ("http://2130706434:9000/", "host \"127.0.0.2:9000\" is not"),
            ("http://0x7f000002:9000/", "host \"127.0.0.2:9000\" is not"),
            ("http://[::ffff:127.0.0.1]:9000/", "host \"[::ffff:7f00:1]:9000\" is not in app.http.allow"),
            ("http://[::ffff:169.254.169.254]/", "is not in app.http.allow"),
            ("file:///etc/passwd", "scheme \"file\" is not allowed: only http and https are"),
            ("ws://api.example.com", "scheme \"ws\" is not allowed"),
            ("gopher://api.example.com", "scheme \"gopher\" is not allowed"),
            ("api.example.com", "bad URL"),
            ("http://", "bad URL"),
            ("http://256.256.256.256/", "bad URL"),
            ("", "bad URL"),
        ] {
            let told = rules.url(url, ["http", "https"]).unwrap_err();
            assert!(told.contains(why), "{url}: {told}");
        }
    }

    #[tokio::test]
    async fn a_name_never_leads_inside_unless_it_is_localhost() {
        for (name, addresses, why) in [
            ("api.example", "93.184.216.34", None),
            ("api.example", "93.184.216.34 2606:4700::1", None),
            ("api.example", "", Some("has no address")),
            ("api.example", "10.0.0.1", Some("resolves to 10.0.0.1, which is not a public address")),
            ("api.example", "93.184.216.34 127.0.0.1", Some("resolves to 127.0.0.1")),
            ("api.example", "::ffff:169.254.169.254", Some("not a public address")),
            ("localhost", "127.0.0.1 ::1", None),
            ("localhost", "10.0.0.1", Some("not this machine")),
        ] {
            let rules = Rules::new(allow(&[(name, None)]), lookup(addresses));
            let url = rules.url(&format!("http://{name}:81/"), ["http", "https"]).unwrap();
            let got = rules.addresses(&url).await;
            match why {
                None => assert_eq!(got.unwrap().len(), addresses.split(' ').count(), "{name} {addresses}"),
                Some(why) => assert!(got.as_ref().is_err_and(|told| told.contains(why)), "{name} {addresses}: {got:?}"),
            }
        }
    }
}
