//! An egress listener: its settings and, for one epoch, what it shows to the upstream and which trust verifies it.

use std::sync::Arc;
use std::time::Duration;

use super::ingress::ListenerLimits;
use crate::evidence::ProbeMode;
use crate::evidence::proved::ProofPolicy;
use crate::keyring::{CandidateList, KeyringName};
use crate::net::{HostPort, ListenAddress};
use crate::tls::EgressConnector;
use crate::trust::{PeerRole, Trust, TrustName};

/// What the configuration says of one `[[egress]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressSettings {
    /// Its name.
    pub name: Arc<str>,
    /// Where the application connects: loopback or a Unix socket.
    pub listen: ListenAddress,
    /// The upstream.
    pub upstream: HostPort,
    /// Its keyring.
    pub keyring: KeyringName,
    /// Its trust; `None`: the keyring's own `ca.crt`.
    pub trust: Option<TrustName>,
    /// Who the upstream must be.
    pub expects: PeerRole,
    /// `host = "keep"`: forward the application's Host; else it is rewritten to the upstream's authority.
    pub keep_host: bool,
    /// Names beside its own that the application uses for it, in lower case; others are refused over TCP.
    pub hosts: Vec<Arc<str>>,
    /// TCP keep-alive towards the upstream.
    pub tcp_keepalive: Duration,
    /// How long a resolved address is used before it is looked up again.
    pub dns_refresh: Duration,
    /// How a new key pair is tried before traffic uses it.
    pub probe: ProbeMode,
    /// From then on an unproved key pair is tried by all requests.
    pub prove_within: Duration,
    /// Statuses with which the upstream may refuse a certificate, sorted.
    pub refusal_statuses: Vec<u16>,
    /// How much of a request's body is kept, in bytes, so that it can be sent again.
    pub replay_limit: usize,
    /// The token that is added to every request, if one is.
    pub bearer: Option<super::bearer::BearerSettings>,
    /// Versions, groups, ALPN.
    pub tls: crate::tls::TlsSettings,
    /// Limits; `response` is `response_timeout`.
    pub limits: ListenerLimits,
    /// Whether requests are logged.
    pub log_access: bool,
}

impl EgressSettings {
    /// Its policy for proofs.
    pub fn proof_terms(&self) -> ProofPolicy<'_> {
        ProofPolicy { probe: &self.probe, prove_within: self.prove_within, refusals: &self.refusal_statuses }
    }

    /// The names that requests to it may have as their Host: the upstream's, and those that are listed.
    pub fn own_hosts(&self) -> impl Iterator<Item = &Arc<str>> {
        let server_name = match &self.expects {
            PeerRole::ServerName(name) => Some(name),
            PeerRole::Client | PeerRole::ServerUri(_) => None,
        };
        [&self.upstream.host].into_iter().chain(server_name).chain(&self.hosts)
    }

    /// With the contract's defaults.
    #[cfg(test)]
    pub(crate) fn for_keyring(name: &str, keyring: &str) -> Self {
        Self {
            name: name.into(),
            listen: ListenAddress::Tcp(([127, 0, 0, 1], 0).into()),
            upstream: HostPort { host: "a.example".into(), port: 443 },
            keyring: keyring.into(),
            trust: None,
            expects: PeerRole::ServerName("a.example".into()),
            keep_host: false,
            hosts: Vec::new(),
            tcp_keepalive: Duration::from_secs(45),
            dns_refresh: Duration::from_secs(30),
            probe: ProbeMode::Off,
            prove_within: Duration::ZERO,
            refusal_statuses: Vec::new(),
            replay_limit: 0,
            bearer: None,
            tls: crate::tls::TlsSettings::default(),
            limits: ListenerLimits::default(),
            log_access: false,
        }
    }

    /// Whether the upstream may refuse a certificate with this status.
    pub fn is_refusal_status(&self, status: u16) -> bool {
        self.refusal_statuses.binary_search(&status).is_ok()
    }
}

/// One epoch of an egress listener. `connectors[i]` shows `candidates.0[i]`.
pub struct EgressSnapshot {
    /// Its settings.
    pub settings: Arc<EgressSettings>,
    /// What it may show; not empty.
    pub candidates: CandidateList,
    /// A built config for each candidate.
    pub connectors: Vec<EgressConnector>,
    /// One that shows none, in an overlap and where a probe asks for a path: what is answered alike without a certificate proves
    /// no pair.
    pub without_key_pair: Option<EgressConnector>,
    /// The trust that verifies the upstream.
    pub trust: Arc<Trust>,
    /// What signs the tokens that are added, and where they come from.
    pub bearer: Option<super::EgressBearer>,
}
