//! `sidekey probe HOST:PORT`: handshakes with a partner, explained, without a request being sent: what it offers, asks for
//! and shows, and how it responds to each of our key pairs.
//!
//! Everything is built as for an egress to that address: the same trust, the same rules, the same configs. An upstream that
//! is not trusted is shown no key pair, here as there.

mod handshakes;
mod report;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::Clock;
use crate::config::Config;
use crate::folder::{self, DEFAULT_KEYRING};
use crate::keyring::{KeyringName, Standing};
use crate::net::{HostPort, KEEPALIVE_INTERVAL, ListenAddress, dial};
use crate::snapshot::build::own_trust_name;
use crate::snapshot::{egress, ingress::ListenerLimits};
use crate::tls;
use crate::trust::{AnchorSource, PeerRole, Trust};
use crate::writer::memory::{RememberedState, StateMemory};
use crate::writer::{self, WriterState};
use handshakes::ProbeBench;
use report::ProbePair;
pub use report::{CertificateDemand, ProbeAnswer, ProbeError, ProbeReport, ProbeVerdict, ServerOffer};

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
    /// The name it must have; `None`: that of the egress, else the host.
    pub server_name: Option<String>,
    /// How long to wait for an answer after a handshake.
    pub wait: Duration,
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
        return Err(ProbeError::Wrong(format!(
            "trust {name:?} does not exist: name one from the configuration, or system"
        )));
    }
    all.egresses = vec![settings.clone()];
    let remembered = config.state.clone().map_or_else(RememberedState::default, |root| StateMemory::peek(root, false));
    let (state, _) =
        WriterState::from_remembered(crate::config::platform::with_platform_anchors(all), remembered, contents, now);
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
        hosts: Vec::new(),
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
        let why = "no usable key pair found: choose a keyring with --keyring, or see sidekey check";
        return Err(ProbeError::Wrong(why.to_owned()));
    }
    Ok(pairs)
}

fn trust(state: &WriterState, settings: &egress::EgressSettings, now: Timestamp) -> Result<Arc<Trust>, ProbeError> {
    let name = settings.trust.clone().unwrap_or_else(|| own_trust_name(&settings.keyring));
    let anchors = state.trusts().get(&name).filter(|anchors| anchors.is_usable());
    let none = || {
        ProbeError::Wrong(format!("trust {name:?} holds no trust anchor: see sidekey check, or set another --trust"))
    };
    Ok(anchors.ok_or_else(none)?.build(now))
}
