//! `sidekey probe HOST:PORT`: handshakes with a partner, explained, without a request being sent: what it offers, asks for
//! and shows, and what it says to each of our key pairs.
//!
//! Everything is built as for an egress to that address: the same trust, the same rules, the same configs. An upstream that
//! is not trusted is shown no key pair, here as there.

mod handshakes;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::clock::Clock;
use crate::config::Config;
use crate::folder::{self, DEFAULT_KEYRING};
use crate::keyring::{KeyringName, Standing};
use crate::net::{HostPort, KEEPALIVE_INTERVAL, ListenAddress, dial};
use crate::pki::{Fingerprint, KeyPair};
use crate::snapshot::build::own_trust_name;
use crate::snapshot::{egress, ingress::ListenerLimits};
use crate::tls;
use crate::trust::{AnchorSource, PeerRole, Trust, TrustName};
use crate::writer::memory::{RememberedState, StateMemory};
use crate::writer::{self, WriterState};
use handshakes::ProbeBench;

/// The name of the trust that is the platform's anchors.
const SYSTEM: &str = "system";

/// What is probed, and how.
#[derive(Clone, Debug)]
pub struct ProbeRequest {
    /// The partner.
    pub to: HostPort,
    /// Whose key pairs; none: that of the egress to this address, else every keyring.
    pub keyrings: Vec<String>,
    /// By which trust; `None`: that of the egress, else the keyring's own `ca.crt`, else the platform's.
    pub trust: Option<String>,
    /// Who it must be; `None`: as the egress says, else the host.
    pub server_name: Option<String>,
    /// How long after a handshake an answer is waited for.
    pub wait: Duration,
}

/// Why nothing was probed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// What was typed does not fit what is there.
    #[error("{0}")]
    Wrong(String),
    /// A TLS config.
    #[error(transparent)]
    Tls(#[from] tls::TlsConfigError),
    /// Nobody is there.
    #[error(transparent)]
    NotReached(#[from] crate::net::SocketError),
    /// No runtime.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct ProbeReport {
    /// The partner.
    pub upstream: String,
    /// By which trust.
    pub trust: TrustName,
    /// What it offers, version by version.
    pub offers: Vec<ServerOffer>,
    /// The chain that it shows.
    pub shows: Vec<String>,
    /// Why that is not trusted; `None`: it is.
    pub not_trusted: Option<String>,
    /// What it asks for; `None`: no certificate.
    pub asks: Option<CertificateDemand>,
    /// What it says to each key pair, and to none.
    pub answers: Vec<ProbeAnswer>,
}

/// One version of TLS.
#[derive(Debug, Serialize)]
pub struct ServerOffer {
    /// `1.3` or `1.2`.
    pub version: &'static str,
    /// It speaks it.
    pub spoken: bool,
    /// Cipher suite, group and protocol; or why not.
    pub says: String,
}

/// A CertificateRequest.
#[derive(Debug, Serialize)]
pub struct CertificateDemand {
    /// The authorities that it names; none: any.
    pub authorities: Vec<String>,
    /// The signature schemes that it takes.
    pub schemes: Vec<String>,
}

/// What it says to one key pair.
#[derive(Debug, Serialize)]
pub struct ProbeAnswer {
    /// The keyring; empty: no key pair was shown.
    pub keyring: KeyringName,
    /// The key pair.
    pub key_pair: Option<Fingerprint>,
    /// Where it stands.
    pub standing: Option<Standing>,
    /// Its subject.
    pub subject: String,
    /// `taken`, `refused`, `silent` or `failed`.
    pub verdict: ProbeVerdict,
    /// One sentence.
    pub says: String,
}

/// How an answer is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeVerdict {
    /// The handshake is done and the other side goes on.
    Taken,
    /// It refuses.
    Refused,
    /// It says neither yes nor no before it is asked something.
    Silent,
    /// There was no such answer: not reached, not trusted, not TLS.
    Failed,
}

impl ProbeVerdict {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Failed => "failed",
        }
    }
}

/// Probes, on a runtime of its own.
pub fn probe(config: &Config, probe: &ProbeRequest) -> Result<ProbeReport, ProbeError> {
    let clock = Clock::system();
    let (state, settings) = stage(config, probe, clock.now())?;
    let pairs = pairs(&state, config, probe, &settings)?;
    let trust = trust(&state, &settings, clock.now())?;
    let stand = ProbeBench { settings, trust, clock, wait: probe.wait, dialler: dial::Dialler::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(stand.report(&pairs))
}

/// The state with an egress to the partner: the configured one, or one made for this.
fn stage(
    config: &Config,
    probe: &ProbeRequest,
    now: Timestamp,
) -> Result<(WriterState, egress::EgressSettings), ProbeError> {
    let contents = folder::read::read_final(&config.folder);
    let configured = config.settings.egresses.iter().find(|egress| egress.upstream == probe.to);
    let keyring = |name: &String| KeyringName::from(name.as_str());
    let first = probe.keyrings.first().map(keyring).or_else(|| configured.map(|egress| Arc::clone(&egress.keyring)));
    let first = first.or_else(|| contents.keyrings.keys().next().cloned()).unwrap_or_else(|| DEFAULT_KEYRING.into());
    let mut settings = configured.cloned().unwrap_or_else(|| egress_to(&probe.to, &first));
    settings.keyring = Arc::clone(&first);
    if let Some(name) = &probe.server_name {
        settings.expects = PeerRole::ServerName(name.as_str().into());
    }
    let has_own = contents.keyrings.get(&first).is_some_and(|joined| joined.anchors.is_some());
    settings.trust = match (&probe.trust, configured) {
        (Some(name), _) => Some(name.as_str().into()),
        (None, Some(egress)) => egress.trust.clone(),
        (None, None) if has_own => None,
        (None, None) => Some(SYSTEM.into()),
    };
    let mut all: writer::WriterSettings = config.settings.clone();
    if settings.trust.as_deref() == Some(SYSTEM) {
        let system = crate::trust::TrustSettings::with_anchors(SYSTEM.into(), vec![AnchorSource::System]);
        all.trusts.entry(SYSTEM.into()).or_insert(system);
    }
    if let Some(name) = settings.trust.as_ref().filter(|name| !all.trusts.contains_key(*name)) {
        return Err(ProbeError::Wrong(format!("there is no trust {name:?}; name one of the configuration, or system")));
    }
    all.egresses = vec![settings.clone()];
    let remembered = config.state.clone().map_or_else(RememberedState::default, StateMemory::peek);
    let (state, _) = WriterState::from_remembered(crate::app::with_platform(all), remembered, contents, now);
    Ok((state, settings))
}

/// An egress with the contract's defaults.
fn egress_to(to: &HostPort, keyring: &KeyringName) -> egress::EgressSettings {
    egress::EgressSettings {
        name: "probe".into(),
        listen: ListenAddress::Tcp(([127, 0, 0, 1], 0).into()),
        upstream: to.clone(),
        keyring: Arc::clone(keyring),
        trust: None,
        expects: PeerRole::ServerName(Arc::clone(&to.host)),
        keep_host: false,
        tcp_keepalive: KEEPALIVE_INTERVAL,
        dns_refresh: Duration::from_secs(30),
        probe: crate::evidence::ProbeMode::Off,
        prove_within: Duration::ZERO,
        refusal_statuses: Vec::new(),
        replay_limit: 0,
        bearer: None,
        tls: tls::TlsSettings::default(),
        limits: ListenerLimits::default(),
        log_access: false,
    }
}

type ProbePair = (KeyringName, Standing, Arc<KeyPair>);

/// The pairs to show: what is current, waits and overlaps, in this order.
fn pairs(
    state: &WriterState,
    config: &Config,
    probe: &ProbeRequest,
    settings: &egress::EgressSettings,
) -> Result<Vec<ProbePair>, ProbeError> {
    let is_configured = config.settings.egresses.iter().any(|egress| egress.upstream == probe.to);
    let wanted: Vec<KeyringName> = match (&probe.keyrings[..], is_configured) {
        ([], true) => vec![Arc::clone(&settings.keyring)],
        ([], false) => state.keyrings().keys().cloned().collect(),
        (named, _) => named.iter().map(|name| name.as_str().into()).collect(),
    };
    let mut pairs = Vec::new();
    for name in wanted {
        let keyring = state.keyrings().get(&name);
        let held = keyring.map(|keyring| keyring.pairs()).unwrap_or_default();
        let mut shown: Vec<ProbePair> = held
            .into_iter()
            .filter(|held| matches!(held.standing, Standing::Current | Standing::Staged | Standing::Previous))
            .map(|held| (Arc::clone(&name), held.standing, Arc::clone(&held.pair)))
            .collect();
        shown.sort_by_key(|(_, standing, _)| match standing {
            Standing::Current => 0,
            Standing::Staged => 1,
            _ => 2,
        });
        pairs.extend(shown);
    }
    if pairs.is_empty() {
        let why = "there is no usable key pair to show: name a keyring by --keyring, and see sidekey check";
        return Err(ProbeError::Wrong(why.to_owned()));
    }
    Ok(pairs)
}

fn trust(state: &WriterState, settings: &egress::EgressSettings, now: Timestamp) -> Result<Arc<Trust>, ProbeError> {
    let name = settings.trust.clone().unwrap_or_else(|| own_trust_name(&settings.keyring));
    let anchors = state.trusts().get(&name).filter(|anchors| anchors.is_usable());
    let none = || {
        ProbeError::Wrong(format!(
            "trust {name:?} holds no trust anchor: see sidekey check, or name another by --trust"
        ))
    };
    Ok(anchors.ok_or_else(none)?.build(now))
}
