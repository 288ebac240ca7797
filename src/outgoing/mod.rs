//! Connections that scripts ask for, to other hosts: which are allowed, HTTP requests, WebSockets.
//!
//! No Lua is in here. A name is resolved once, its addresses are checked, and only to those is connected.

mod address;
mod http;
mod rules;
mod ws;

pub use self::http::{Asked, Headers, Response};
pub use ws::{Connect, Sent, Socket};

use std::{cell::Cell, error::Error, rc::Rc, sync::Arc};

use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::sync::OnceCell;

use crate::{
    config,
    outgoing::rules::{Lookup, Rules},
};

/// What scripts reach in the place of other servers.
#[derive(Clone, Default)]
pub enum Network {
    #[default]
    Real,
    /// Nobody: the function answers for every server that the app may ask.
    Stub(Stub),
}

pub type Stub = Rc<dyn Fn(&Asked) -> Result<Response, String>>;

/// What one generation of an instance has for its connections to others.
pub struct Outgoing {
    rules: Arc<Rules>,
    limits: config::Limits,
    /// Made when they are first needed: most scripts connect to nobody.
    tls: OnceCell<ClientConfig>,
    client: OnceCell<reqwest::Client>,
    sockets: Rc<Cell<usize>>,
    network: Network,
}

impl Outgoing {
    pub fn new(app: &config::App, network: Network) -> Outgoing {
        Outgoing { network, ..Outgoing::with_lookup(app, rules::system_lookup()) }
    }

    fn with_lookup(app: &config::App, lookup: Lookup) -> Outgoing {
        Outgoing {
            rules: Arc::new(Rules::new(app.http.allow.clone(), lookup)),
            limits: app.limits.clone(),
            tls: OnceCell::new(),
            client: OnceCell::new(),
            sockets: Rc::default(),
            network: Network::Real,
        }
    }

    /// TLS with the certificates that this machine trusts.
    async fn tls(&self) -> &ClientConfig {
        self.tls
            .get_or_init(|| async {
                // Reading all the certificates takes longer than others on this thread should wait.
                let made = tokio::task::spawn_blocking(trusting_the_machine).await;
                let why = match made {
                    Ok(Ok(tls)) => return tls,
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                tracing::warn!("no https and wss from scripts, since no certificates can be trusted: {why}");
                builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
            })
            .await
    }
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has what TLS 1.2 and 1.3 need")
}

fn trusting_the_machine() -> Result<ClientConfig, rustls::Error> {
    Ok(builder().with_platform_verifier()?.with_no_client_auth())
}

/// The cause of an error, without what it went through: `Connection refused (os error 111)`.
fn cause(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
