//! One upstream with one key pair: a client config of its own, with its own session store, built once per epoch.
//!
//! Sessions are kept per pair: a resumed session would carry the identity of the pair that it began with.

use std::sync::Arc;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use rustls_pki_types::ServerName;

use super::upstream_sessions::PathBoundSessions;
use super::verifier::TrustServerVerifier;
use super::{AlpnProtocol, TlsConfigError, TlsSettings, TlsTimeSource, config_error, seen, versions};
use crate::keyring::PeerRequirements;
use crate::pki::KeyPair;
use crate::trust::{PeerRole, Trust};

/// A built client config.
#[derive(Clone)]
pub struct EgressConnector {
    pub(super) config: Arc<ClientConfig>,
    /// The same, offering HTTP/1.1 only.
    http1: Arc<ClientConfig>,
    pub(super) server_name: ServerName<'static>,
}

/// What a connector is built from.
pub struct ConnectorParts<'a> {
    /// The pair that it shows.
    pub pair: &'a KeyPair,
    /// Which servers it trusts.
    pub trust: &'a Arc<Trust>,
    /// Who the upstream must be (`PeerRole::ServerName` or `PeerRole::ServerUri`).
    pub expects: &'a PeerRole,
    /// The name for SNI: the upstream's host (no SNI for an IP address).
    pub host: &'a str,
    /// Versions, groups, ALPN.
    pub settings: &'a TlsSettings,
    /// The time for verification.
    pub time: &'a TlsTimeSource,
}

impl EgressConnector {
    /// Builds the config.
    pub fn new(parts: &ConnectorParts<'_>) -> Result<Self, TlsConfigError> {
        Self::with_resolver(parts, FixedCertResolver(Some(parts.pair.certified_key())))
    }

    /// One that shows no pair, and only learns what the upstream asks for. `parts.pair` names it in errors.
    pub fn without_key_pair(parts: &ConnectorParts<'_>) -> Result<Self, TlsConfigError> {
        Self::with_resolver(parts, FixedCertResolver(None))
    }

    fn with_resolver(parts: &ConnectorParts<'_>, shows: FixedCertResolver) -> Result<Self, TlsConfigError> {
        let provider = super::provider(parts.settings);
        let sessions = Arc::new(PathBoundSessions::new(parts.time));
        let verifier = TrustServerVerifier::new(parts.trust, parts.expects, &provider, Arc::clone(&sessions));
        let wrong = |error| config_error(parts.pair, &error);
        // SNI is the name that the upstream's certificate must have, where it is a name; else the host that is dialled.
        let host = match parts.expects {
            PeerRole::ServerName(name) => name,
            PeerRole::ServerUri(_) | PeerRole::Client => parts.host,
        };
        let server_name = ServerName::try_from(host.to_owned()).map_err(|error| TlsConfigError::Config {
            key_pair: parts.pair.fingerprint().short(),
            why: format!("{host:?} is not a valid server name: {error}"),
        })?;
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(parts.time.clone()))
            .with_protocol_versions(versions(parts.settings))
            .map_err(wrong)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(shows));
        config.alpn_protocols = super::alpn(parts.settings);
        config.resumption = Resumption::store(sessions);
        config.enable_early_data = false;
        Ok(Self::from_config(config, server_name))
    }

    pub(super) fn from_config(config: ClientConfig, server_name: ServerName<'static>) -> Self {
        let mut http1 = config.clone();
        http1.alpn_protocols = vec![AlpnProtocol::Http11.name().to_vec()];
        Self { config: Arc::new(config), http1: Arc::new(http1), server_name }
    }

    /// One that offers HTTP/1.1 only, for what HTTP/2 cannot carry here (a WebSocket).
    pub fn http1(&self) -> Self {
        Self { config: Arc::clone(&self.http1), ..self.clone() }
    }
}

/// Shows its one pair, or none, whatever authorities the upstream names, and tells the handshake's slot what it asked for: the choice
/// is made outside, where the alternatives are known.
#[derive(Debug)]
struct FixedCertResolver(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for FixedCertResolver {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        seen::record_observation(|seen| {
            seen.asked = Some(PeerRequirements {
                schemes: schemes.iter().map(|scheme| u16::from(*scheme)).collect(),
                authorities: authorities.iter().map(|name| name.to_vec()).collect(),
                ..PeerRequirements::default()
            });
        });
        self.0.as_ref().filter(|pair| pair.key.choose_scheme(schemes).is_some()).cloned()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
