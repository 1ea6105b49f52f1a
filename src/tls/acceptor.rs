//! One ingress listener with one key pair: a server config of its own, with its own tickets, built once per epoch.
//!
//! Tickets are bound to listener, trust and epoch because nothing is shared between two configs: neither ticketer nor
//! session storage. Which acceptor finishes a handshake is decided by `keyring::choose`, never in here.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;

use super::session_ticket::PathBoundTicketer;
use super::verifier::TrustClientVerifier;
use super::{
    AlpnProtocol, AuthorityNames, ClientAuth, TlsConfigError, TlsSettings, TlsTimeSource, config_error, versions,
};
use crate::pki::KeyPair;
use crate::trust::Trust;

/// A built server config.
#[derive(Clone)]
pub struct IngressAcceptor {
    pub(super) config: Arc<ServerConfig>,
}

/// What an acceptor is built from.
pub struct AcceptorParts<'a> {
    /// The pair that it shows.
    pub pair: &'a KeyPair,
    /// Which peers it accepts.
    pub trust: &'a Arc<Trust>,
    /// Whether a certificate is required.
    pub client_auth: ClientAuth,
    /// Which certificate authorities it names.
    pub authorities: &'a AuthorityNames,
    /// Versions, groups, ALPN.
    pub settings: &'a TlsSettings,
    /// The time for verification.
    pub time: &'a TlsTimeSource,
}

impl IngressAcceptor {
    /// Builds the config.
    pub fn new(parts: &AcceptorParts<'_>) -> Result<Self, TlsConfigError> {
        let provider = super::provider(parts.settings);
        let verifier = TrustClientVerifier::new(parts.trust, parts.client_auth, parts.authorities, &provider);
        let wrong = |error| config_error(parts.pair, &error);
        let mut config = ServerConfig::builder_with_details(provider, Arc::new(parts.time.clone()))
            .with_protocol_versions(versions(parts.settings))
            .map_err(wrong)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from((*parts.pair.certified_key()).clone())));
        config.alpn_protocols = super::alpn(parts.settings);
        if parts.settings.alpn.contains(&AlpnProtocol::Http11) {
            // Clients that speak only HTTP/1.0 name it, and are served as HTTP/1.1 serves them (RFC 9112 2.3).
            config.alpn_protocols.push(b"http/1.0".to_vec());
        }
        // Stateless tickets only: what a restart or an epoch forgets must be forgotten whole. One ticket is enough for a
        // peer that keeps its connection, and each costs (docs/decisions/0014-one-session-ticket.md).
        let sealer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(wrong)?;
        config.ticketer = Arc::new(PathBoundTicketer::new(sealer, parts.time));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        config.max_early_data_size = 0;
        // For `late_alert` alone, which consumes the connection.
        config.enable_secret_extraction = true;
        Ok(Self { config: Arc::new(config) })
    }
}
