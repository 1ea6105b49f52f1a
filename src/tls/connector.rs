//! One upstream with one key pair: a client config of its own, with its own session store, built once per epoch.

use std::sync::Arc;

use super::{Error, Settings};
use crate::clock::Clock;
use crate::pki::KeyPair;
use crate::trust::{Role, Trust};

/// A built client config.
#[derive(Clone)]
pub struct Connector {
    pub(super) config: Arc<rustls::ClientConfig>,
    pub(super) server_name: rustls_pki_types::ServerName<'static>,
}

/// What a connector is built from.
pub struct Parts<'a> {
    /// The pair that it shows.
    pub pair: &'a KeyPair,
    /// Whom it trusts.
    pub trust: &'a Arc<Trust>,
    /// Who the upstream must be (`Role::ServerName` or `Role::ServerUri`).
    pub expects: &'a Role,
    /// The name for SNI: the upstream's host (no SNI for an IP address).
    pub host: &'a str,
    /// Versions, groups, ALPN.
    pub settings: &'a Settings,
    /// The time for verification.
    pub clock: &'a Clock,
}

impl Connector {
    /// Builds it.
    pub fn new(parts: &Parts<'_>) -> Result<Self, Error> {
        let _ = parts;
        todo!()
    }
}
