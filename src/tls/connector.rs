//! One upstream with one key pair: a client config of its own, with its own session store, built once per epoch.
//!
//! Sessions are kept per pair: a resumed session would carry the identity of the pair that it began with.

use std::sync::Arc;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use rustls_pki_types::ServerName;

use super::verifier::Servers;
use super::{Alpn, Error, Settings, config_error, seen, time, versions};
use crate::clock::Clock;
use crate::keyring::Asked;
use crate::pki::KeyPair;
use crate::trust::{Role, Trust};

/// Sessions remembered for one upstream and pair.
const SESSIONS: usize = 32;

/// A built client config.
#[derive(Clone)]
pub struct Connector {
    pub(super) config: Arc<ClientConfig>,
    /// The same, offering HTTP/1.1 only.
    http1: Arc<ClientConfig>,
    pub(super) server_name: ServerName<'static>,
}

/// What a connector is built from.
pub struct Parts<'a> {
    /// The pair that it shows.
    pub pair: &'a KeyPair,
    /// Which servers it trusts.
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
    /// Builds the config.
    pub fn new(parts: &Parts<'_>) -> Result<Self, Error> {
        Self::showing(parts, OnePair(Some(parts.pair.certified())))
    }

    /// One that shows no pair, and only learns what the upstream asks for. `parts.pair` names it in errors.
    pub fn showing_nothing(parts: &Parts<'_>) -> Result<Self, Error> {
        Self::showing(parts, OnePair(None))
    }

    fn showing(parts: &Parts<'_>, shows: OnePair) -> Result<Self, Error> {
        let provider = super::provider(parts.settings);
        let verifier = Servers::new(parts.trust, parts.expects, &provider);
        let wrong = |error| config_error(parts.pair, &error);
        // SNI is the name that the upstream's certificate must have, where it is a name; else the host that is dialled.
        let host = match parts.expects {
            Role::ServerName(name) => name,
            Role::ServerUri(_) | Role::Client => parts.host,
        };
        let server_name = ServerName::try_from(host.to_owned()).map_err(|error| Error::Config {
            key_pair: parts.pair.fingerprint().short(),
            why: format!("{host:?} is not a valid server name: {error}"),
        })?;
        let mut config = ClientConfig::builder_with_details(provider, time(parts.clock))
            .with_protocol_versions(versions(parts.settings))
            .map_err(wrong)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(shows));
        config.alpn_protocols = super::alpn(parts.settings);
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        config.enable_early_data = false;
        Ok(Self::of(config, server_name))
    }

    pub(super) fn of(config: ClientConfig, server_name: ServerName<'static>) -> Self {
        let mut http1 = config.clone();
        http1.alpn_protocols = vec![Alpn::Http11.name().to_vec()];
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
struct OnePair(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for OnePair {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        seen::note(|seen| {
            seen.asked = Some(Asked {
                schemes: schemes.iter().map(|scheme| u16::from(*scheme)).collect(),
                authorities: authorities.iter().map(|name| name.to_vec()).collect(),
                ..Asked::default()
            });
        });
        self.0.as_ref().filter(|pair| pair.key.choose_scheme(schemes).is_some()).cloned()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
