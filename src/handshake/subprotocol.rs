//! Which subprotocol a handshake ends with. A browser's page can set no `Authorization`, so its
//! token may come as the second name after `bearer`.

use hyper::{HeaderMap, header::SEC_WEBSOCKET_PROTOCOL};

const BEARER: &str = "bearer";

/// What the peer offers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offer {
    /// In its order, without the token.
    pub names: Vec<String>,
    pub token: Option<String>,
}

impl Offer {
    pub fn of(headers: &HeaderMap) -> Offer {
        let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|line| line.to_str().ok());
        let mut names: Vec<String> = lines
            .flat_map(|line| line.split(','))
            .map(str::trim)
            .filter(|n| !n.is_empty())
            .map(str::to_owned)
            .collect();
        let has_token = names.len() > 1 && names[0] == BEARER;
        let token = has_token.then(|| names.remove(1));
        Offer { names, token }
    }

    /// The script's choice if it made one, else the first offered that the app `speaks`, else none
    /// (or `bearer`, if a token came with it: a browser drops a connection that answers none of
    /// what it offered). `Err` with the script's choice if the peer never offered it.
    pub fn choose(&self, script: Option<String>, speaks: &[String]) -> Result<Option<String>, String> {
        match script {
            Some(name) if self.names.contains(&name) => Ok(Some(name)),
            Some(name) => Err(name),
            None => {
                let spoken = self.names.iter().find(|name| speaks.contains(name)).cloned();
                Ok(spoken.or_else(|| self.token.is_some().then(|| BEARER.to_owned())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn offer(lines: &[&str]) -> Offer {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(line).unwrap());
        }
        Offer::of(&headers)
    }

    #[test]
    fn the_script_then_the_app_then_the_token_decides() {
        let speaks = ["chat.v2".to_owned(), "chat.v1".to_owned()];
        for (offered, script, expected) in [
            (&[][..], None, Ok(None)),
            (&["other"], None, Ok(None)),
            (&["chat.v1, chat.v2"], None, Ok(Some("chat.v1"))),
            (&["other", "chat.v2,chat.v1"], None, Ok(Some("chat.v2"))),
            (&["other, chat.v1"], Some("other"), Ok(Some("other"))),
            (&["Chat.v1"], None, Ok(None)),
            (&["chat.v1"], Some("chat.v2"), Err("chat.v2")),
            (&[], Some("chat.v1"), Err("chat.v1")),
            (&["bearer, t0ken"], None, Ok(Some("bearer"))),
            (&["bearer, t0ken, chat.v1"], None, Ok(Some("chat.v1"))),
            (&["bearer", "t0ken", "other"], None, Ok(Some("bearer"))),
            (&["bearer, t0ken"], Some("bearer"), Ok(Some("bearer"))),
            (&["bearer, t0ken"], Some("t0ken"), Err("t0ken")),
            (&["bearer"], None, Ok(None)),
        ] {
            let chosen = offer(offered).choose(script.map(str::to_owned), &speaks);
            let expected = expected.map(|name: Option<&str>| name.map(str::to_owned)).map_err(str::to_owned);
            assert_eq!(chosen, expected, "{offered:?}, the script chose {script:?}");
        }
    }

    #[test]
    fn a_token_is_no_subprotocol() {
        let expected = Offer { names: vec!["bearer".to_owned(), "chat".to_owned()], token: Some("t0ken".to_owned()) };
        assert_eq!(offer(&["bearer, t0ken , chat,"]), expected);
    }
}
