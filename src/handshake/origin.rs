//! Whose pages may connect: a browser tells the page's origin, and cookies would come along from any.

use crate::config::{Origins, origin::Origin};

/// An app's `origins`, parsed.
#[derive(Debug, Clone)]
pub enum Allowed {
    Any,
    /// The relay's own, and these.
    Own(Vec<Origin>),
}

impl Allowed {
    /// The relay's own pages, and those of nobody else.
    pub fn only_own() -> Allowed {
        Allowed::Own(Vec::new())
    }

    pub fn new(origins: &Origins, app: &str) -> Allowed {
        match origins {
            Origins::Any => Allowed::Any,
            Origins::Same => Allowed::Own(Vec::new()),
            Origins::Listed(listed) => Allowed::Own(
                listed
                    .iter()
                    .filter_map(|text| {
                        let origin = Origin::parse(text);
                        if origin.is_none() {
                            tracing::warn!(
                                app,
                                "origins: `{text}` can match no page; write it as browsers do, scheme and host \
                                 without a path, other alphabets in punycode: https://xn--bcher-kva.example"
                            );
                        }
                        origin
                    })
                    .collect(),
            ),
        }
    }

    /// Whether a page of the origin `page` (the header's text) may talk to us as `own`.
    pub fn allows(&self, page: &str, own: Option<&Origin>) -> bool {
        match self {
            Allowed::Any => true,
            Allowed::Own(listed) => {
                Origin::parse(page).is_some_and(|page| own == Some(&page) || listed.contains(&page))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_relays_own_pages_and_those_listed_are_let_in() {
        let listed = |list: &[&str]| Origins::Listed(list.iter().map(|o| (*o).to_owned()).collect());
        let same = &Origins::Same;
        for (origins, tls, host, page, expected) in [
            (same, false, "good.com", "http://good.com", true),
            (same, false, "good.com:80", "http://good.com", true),
            (same, false, "good.com", "http://good.com:80", true),
            (same, false, "good.com", "http://GOOD.com", true),
            (same, false, "Good.Com", "HTTP://good.com", true),
            (same, true, "good.com", "https://good.com", true),
            (same, true, "good.com:443", "https://good.com", true),
            (same, false, "good.com:8080", "http://good.com:8080", true),
            (same, false, "[::1]:8080", "http://[0:0::1]:8080", true),
            (same, false, "127.0.0.1:8080", "http://127.0.0.1:8080", true),
            (same, false, "xn--bcher-kva.example", "http://xn--bcher-kva.example", true),
            (same, false, "good.com", "http://evil.com", false),
            (same, false, "good.com", "http://good.com.evil.com", false),
            (same, false, "good.com", "http://evilgood.com", false),
            (same, false, "good.com", "http://www.good.com", false),
            (same, false, "good.com", "https://good.com", false),
            (same, true, "good.com", "http://good.com", false),
            (same, true, "good.com:80", "https://good.com", false),
            (same, false, "good.com", "http://good.com:8080", false),
            (same, false, "good.com:8080", "http://good.com", false),
            (same, false, "localhost", "http://127.0.0.1", false),
            (same, false, "good.com", "null", false),
            (same, false, "null", "null", false),
            (same, false, "good.com", "", false),
            (same, false, "", "http://", false),
            (same, false, "good.com", "good.com", false),
            (same, false, "good.com", "http://good.com/", false),
            (same, false, "good.com", "http://good.com@evil.com", false),
            (same, false, "good.com", "http://evil.com#good.com", false),
            (same, false, "good.com", "http://evil.com http://good.com", false),
            (same, false, "good.com", "http://good.com, http://evil.com", false),
            (same, false, "good.com", "http://good.com:+80", false),
            (same, false, "good.com", "http://good.com.", false),
            (same, false, "bücher.example", "http://bücher.example", false),
            (same, false, "xn--bcher-kva.example", "http://bücher.example", false),
            (same, false, "good.com evil.com", "http://good.com", false),
            (&listed(&["https://app.example"]), false, "good.com", "https://app.example", true),
            (&listed(&["https://app.example"]), false, "good.com", "https://APP.example:443", true),
            (&listed(&["https://app.example"]), false, "good.com", "http://good.com", true),
            (&listed(&["https://app.example"]), false, "good.com", "http://app.example", false),
            (&listed(&["https://app.example"]), false, "good.com", "https://app.example.evil.com", false),
            (&listed(&["https://app.example"]), false, "good.com", "https://x.app.example", false),
            (&listed(&["https://*.example"]), false, "good.com", "https://app.example", false),
            (&listed(&["tauri://localhost"]), false, "good.com", "tauri://localhost", true),
            (&listed(&["null"]), false, "good.com", "null", false),
            (&Origins::Any, false, "good.com", "https://evil.com", true),
            (&Origins::Any, false, "good.com", "null", true),
        ] {
            let own = Origin::own(tls, host);
            let allowed = Allowed::new(origins, "chat").allows(page, own.as_ref());
            assert_eq!(allowed, expected, "{origins:?}, tls {tls}, host {host}, page {page}");
        }
    }
}
