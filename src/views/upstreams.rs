//! Upstreams: what each makes of our pairs, as a whole and node by node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::RuntimeViews;
use super::peers::PeerRotation;
use super::rotation::read_reports;
use crate::event::{DoubtKind, HandshakeRecord};
use crate::keyring::Standing;
use crate::pki::Fingerprint;
use crate::snapshot::{EgressSnapshot, Side};

/// Every upstream.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamList {
    /// The snapshot that leads to them.
    pub epoch: u64,
    /// By the egress' name.
    pub upstreams: Vec<UpstreamDetails>,
}

/// One egress and its upstream.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamDetails {
    /// The egress.
    pub listener: Arc<str>,
    /// Host and port.
    pub upstream: String,
    /// The keyring whose pairs it is shown.
    pub keyring: Arc<str>,
    /// The trust that verifies it.
    pub trust: Arc<str>,
    /// The pair that is current.
    pub current: Option<Fingerprint>,
    /// What speaks against our pairs there.
    pub doubts: Vec<UpstreamProblem>,
    /// Its progress in its keyring's rotation.
    pub rotation: Option<PeerRotation>,
    /// Its nodes among the recent handshakes, by address.
    pub nodes: Vec<UpstreamNodeState>,
}

/// What speaks against a pair at an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpstreamProblem {
    /// `refused`, `doubted` or `not_mutual`.
    pub kind: &'static str,
    /// The pair; absent: no pair is asked for.
    pub key_pair: Option<Fingerprint>,
    /// One sentence.
    pub explanation: String,
    /// Since when.
    pub since: Timestamp,
}

/// One node of an upstream: its last handshake, with what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpstreamNodeState {
    /// Its address.
    pub address: SocketAddr,
    /// Fingerprint of its certificate.
    pub certificate: Option<Fingerprint>,
    /// When its certificate ends.
    pub not_after: Option<Timestamp>,
    /// The pair that it was shown.
    pub key_pair: Option<Fingerprint>,
    /// The pair's standing then.
    pub standing: Option<Standing>,
    /// `accepted`, `unproved`, `refused`, `doubted` or `failed`.
    pub outcome: &'static str,
    /// Stable code.
    pub reason: &'static str,
    /// One sentence.
    pub explanation: String,
    /// When.
    pub time: Timestamp,
    /// The number of the connection: `sidekey handshakes show`.
    pub connection: u64,
}

/// Every egress with its upstream, by name. One that waits has no upstream yet: it is among the listeners.
pub(crate) fn list_upstreams(views: &RuntimeViews) -> UpstreamList {
    let snapshot = views.reader.latest();
    let (reports, doubts, recent) = (read_reports(views), views.events.upstream_doubts(), views.events.recent());
    let describe = |egress: &Arc<EgressSnapshot>| {
        let (listener, upstream) = (Arc::clone(&egress.settings.name), egress.settings.upstream.to_string());
        let lines = reports.iter().flat_map(|report| report.lines.iter().map(move |line| (&report.keyring, line)));
        let mut lines = lines.filter(|(_, line)| line.listener == listener && line.name == upstream);
        let rotation = lines.next();
        let doubts = doubts.iter().filter(|doubt| doubt.listener == listener);
        UpstreamDetails {
            keyring: Arc::clone(&egress.settings.keyring),
            trust: Arc::clone(egress.trust.name()),
            current: egress.candidates.current().map(|current| current.key_pair),
            doubts: doubts
                .map(|doubt| UpstreamProblem {
                    kind: word_of_doubt(doubt.kind),
                    key_pair: doubt.key_pair,
                    explanation: doubt.explanation.clone(),
                    since: doubt.since,
                })
                .collect(),
            rotation: rotation.map(|(keyring, line)| PeerRotation { keyring: Arc::clone(keyring), line: line.clone() }),
            nodes: nodes_of(&recent, &listener),
            listener,
            upstream,
        }
    };
    UpstreamList { epoch: snapshot.epoch.0, upstreams: snapshot.egresses.values().map(describe).collect() }
}

const fn word_of_doubt(kind: DoubtKind) -> &'static str {
    match kind {
        DoubtKind::Refused => "refused",
        DoubtKind::Doubted => "doubted",
        DoubtKind::NotMutual => "not_mutual",
    }
}

/// The last handshake with each address, of handshakes with the oldest first.
fn nodes_of(recent: &[Arc<HandshakeRecord>], listener: &Arc<str>) -> Vec<UpstreamNodeState> {
    let mut nodes: BTreeMap<SocketAddr, UpstreamNodeState> = BTreeMap::new();
    let to_upstream =
        |handshake: &&Arc<HandshakeRecord>| handshake.side == Side::Egress && handshake.listener == *listener;
    for handshake in recent.iter().filter(to_upstream) {
        let Some(address) = handshake.peer_addr else { continue };
        nodes.insert(
            address,
            UpstreamNodeState {
                address,
                certificate: handshake.peer.as_ref().map(|peer| peer.fingerprint),
                not_after: handshake.peer.as_ref().map(|peer| peer.not_after),
                key_pair: handshake.key_pair,
                standing: handshake.standing,
                outcome: handshake.outcome.as_str(),
                reason: handshake.reason,
                explanation: handshake.explanation.clone(),
                time: handshake.time,
                connection: handshake.connection,
            },
        );
    }
    nodes.into_values().collect()
}
