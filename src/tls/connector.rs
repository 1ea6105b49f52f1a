//! One upstream with one key pair: a client config of its own, with its own session store, built once per epoch.
//!
//! Sessions are kept per pair: a resumed session would carry the identity of the pair that it began with. Where several pairs may be
//! shown, a handshake is given the others too, and its CertificateRequest decides among them by `keyring::demand`.

use std::sync::Arc;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use rustls_pki_types::ServerName;

use super::offer::OfferedPair;
use super::sessions::KeyPairSessions;
use super::verifier::TrustServerVerifier;
use super::{AlpnProtocol, TlsConfigError, TlsSettings, TlsTimeSource, config_error, seen, versions};
use crate::keyring::{KeyPairCandidate, PeerRequirements};
use crate::pki::KeyPair;
use crate::trust::{PeerRole, Trust};

/// Sessions remembered for one upstream and pair.
const SESSIONS_PER_PAIR: usize = 32;

/// A built client config.
#[derive(Clone)]
pub struct EgressConnector {
    pub(super) config: Arc<ClientConfig>,
    /// The same, offering HTTP/1.1 only.
    http1: Arc<ClientConfig>,
    pub(super) server_name: ServerName<'static>,
    pub(super) sessions: Arc<KeyPairSessions>,
    /// The pair that it shows, if any.
    own: Option<Arc<CertifiedKey>>,
    /// The pairs that a handshake may show, its own first; empty: only its own.
    pub(super) offered: Arc<[OfferedPair]>,
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
        Self::with_own(parts, Some(parts.pair.certified_key()))
    }

    /// One that shows no pair, and only learns what the upstream asks for. `parts.pair` names it in errors.
    pub fn without_key_pair(parts: &ConnectorParts<'_>) -> Result<Self, TlsConfigError> {
        Self::with_own(parts, None)
    }

    fn with_own(parts: &ConnectorParts<'_>, own: Option<Arc<CertifiedKey>>) -> Result<Self, TlsConfigError> {
        let sessions = Arc::new(KeyPairSessions::new(SESSIONS_PER_PAIR));
        let shows = RequestResolver { own: own.clone(), sessions: Arc::clone(&sessions) };
        let provider = super::provider(parts.settings);
        let verifier = TrustServerVerifier::new(parts.trust, parts.expects, &provider);
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
        config.resumption = Resumption::store(Arc::clone(&sessions) as _);
        config.enable_early_data = false;
        Ok(Self { own, sessions, ..Self::from_config(config, server_name) })
    }

    pub(super) fn from_config(config: ClientConfig, server_name: ServerName<'static>) -> Self {
        let mut http1 = config.clone();
        http1.alpn_protocols = vec![AlpnProtocol::Http11.name().to_vec()];
        let (config, http1) = (Arc::new(config), Arc::new(http1));
        let sessions = Arc::new(KeyPairSessions::new(SESSIONS_PER_PAIR));
        Self { config, http1, server_name, sessions, own: None, offered: Arc::default() }
    }

    /// One whose handshakes may also show the pairs of `others`, in this order, where the CertificateRequest leads to one of
    /// them: `planned` are the facts about its own pair.
    pub fn with_others<'a>(
        &'a self,
        planned: &'a KeyPairCandidate,
        others: impl Iterator<Item = (&'a KeyPairCandidate, &'a Self)>,
    ) -> Self {
        let all = std::iter::once((planned, self)).chain(others);
        let offer = |(facts, connector): (&KeyPairCandidate, &Self)| {
            Some(OfferedPair { facts: facts.clone(), key: connector.own.clone()? })
        };
        Self { offered: all.filter_map(offer).collect(), ..self.clone() }
    }

    /// One that offers HTTP/1.1 only, for what HTTP/2 cannot carry here (a WebSocket).
    pub fn http1(&self) -> Self {
        Self { config: Arc::clone(&self.http1), ..self.clone() }
    }
}

/// Shows its one pair, or none, and tells the handshake's slot what the upstream asked for. Where the handshake was given other
/// pairs as well, `keyring::demand` has chosen among them; a session that begins with another pair is not kept.
#[derive(Debug)]
struct RequestResolver {
    own: Option<Arc<CertifiedKey>>,
    sessions: Arc<KeyPairSessions>,
}

impl ResolvesClientCert for RequestResolver {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let asked = PeerRequirements {
            schemes: schemes.iter().map(|scheme| u16::from(*scheme)).collect(),
            authorities: authorities.iter().map(|name| name.to_vec()).collect(),
            ..PeerRequirements::default()
        };
        self.sessions.record_request();
        let other = seen::record_request(asked);
        if other.is_some() {
            self.sessions.close();
        }
        let shown = other.or_else(|| self.own.clone());
        shown.filter(|pair| pair.key.choose_scheme(schemes).is_some())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
