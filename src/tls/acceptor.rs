//! One ingress listener with one key pair: a server config of its own, with its own tickets, built once per epoch.
//!
//! Tickets are bound to listener, trust and epoch because nothing is shared between two configs: neither ticketer nor
//! session storage.

use std::sync::Arc;

use super::{AuthorityNames, ClientAuth, Error, Settings};
use crate::clock::Clock;
use crate::pki::KeyPair;
use crate::trust::Trust;

/// A built server config.
#[derive(Clone)]
pub struct Acceptor {
    pub(super) config: Arc<rustls::ServerConfig>,
}

/// What an acceptor is built from.
pub struct Parts<'a> {
    /// The pair that it shows.
    pub pair: &'a KeyPair,
    /// Whom it accepts.
    pub trust: &'a Arc<Trust>,
    /// Whether a certificate is needed.
    pub client_auth: ClientAuth,
    /// Which certificate authorities it names.
    pub authorities: &'a AuthorityNames,
    /// Versions, groups, ALPN.
    pub settings: &'a Settings,
    /// The time for verification.
    pub clock: &'a Clock,
}

impl Acceptor {
    /// Builds it.
    pub fn new(parts: &Parts<'_>) -> Result<Self, Error> {
        let _ = parts;
        todo!()
    }
}
