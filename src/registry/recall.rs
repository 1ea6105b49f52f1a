//! What the registry knows from earlier processes, for the rotation report: which peer last used which pair, and how
//! upstreams judged the new ones. Pure.
//!
//! It is read once, when the registry first connects. Only rows of this sidecar count, and only those of pairs that its
//! keyrings still show: a peer not seen for as long as a pair has served does not hold up a rotation.

use std::sync::Arc;

use super::{HistoryRow, PeerRow, UnixSeconds};
use crate::evidence::UpstreamVerdict;
use crate::evidence::report::{KeyringOverlap, RecalledUse, UpstreamResponse};
use crate::keyring::{SelectionReason, Standing};
use crate::pki::Fingerprint;
use crate::snapshot::{KeyringView, Side};

/// What the registry knows about an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceHistory {
    /// When it first wrote.
    pub since: UnixSeconds,
    /// Peers and upstreams, the most recently seen first.
    pub peers: Vec<PeerRow>,
    /// How upstreams judged its pairs, the latest first.
    pub upstreams: Vec<HistoryRow>,
}

/// The rows that concern the keyrings as they are now.
pub(super) fn recall_usage(
    former: InstanceHistory,
    keyrings: &[KeyringView],
    overlaps: &[KeyringOverlap],
) -> Vec<RecalledUse> {
    let mut all: Vec<RecalledUse> = former.peers.into_iter().filter_map(|peer| recall_peer(peer, keyrings)).collect();
    for overlap in overlaps {
        for (listener, upstream) in &overlap.upstreams {
            let name = upstream_name(&overlap.keyring, upstream, listener);
            let told = former.upstreams.iter().find(|entry| {
                entry.name == name
                    && overlap.rotated <= entry.at.time()
                    && matches_fingerprint(entry.key_pair.as_deref(), overlap.current)
            });
            all.extend(told.and_then(|entry| {
                Some(RecalledUse::Upstream {
                    keyring: Arc::clone(&overlap.keyring),
                    listener: Arc::clone(listener),
                    key_pair: overlap.current,
                    said: parse_verdict(entry.becomes.as_deref()?)?,
                    since: entry.at.time(),
                    reason: entry.reason.clone(),
                    explanation: entry.why.clone(),
                })
            }));
        }
    }
    all
}

/// The name of an upstream in the history.
pub(super) fn upstream_name(keyring: &str, upstream: &str, listener: &str) -> String {
    format!("{keyring}: {upstream} at {listener}")
}

fn recall_peer(peer: PeerRow, keyrings: &[KeyringView]) -> Option<RecalledUse> {
    let keyring = keyrings.iter().find(|keyring| peer.keyring.as_deref() == Some(&*keyring.name))?;
    let key_pair: Fingerprint = peer.key_pair.as_deref()?.parse().ok()?;
    let is_shown = |standing| matches!(standing, Standing::Current | Standing::Previous);
    if !keyring.key_pairs.iter().any(|pair| pair.key_pair == key_pair && is_shown(pair.standing)) {
        return None;
    }
    let current = keyring.key_pairs.iter().find(|pair| pair.standing == Standing::Current)?;
    let mut last = peer.last_seen.time();
    // Rows have whole seconds. In the second of the rotation, a pair shown for another reason than being the only one
    // was shown after it.
    let chosen_by = peer.chosen_by.as_deref().and_then(SelectionReason::parse);
    let is_alone = key_pair != current.key_pair && chosen_by.is_none_or(|chosen_by| chosen_by == SelectionReason::Only);
    if !is_alone && last.as_second() == current.since.as_second() {
        last = last.max(current.since);
    }
    let (keyring, listener) = (Arc::clone(&keyring.name), peer.listener.into());
    if peer.side == Side::Egress.as_str() {
        return Some(RecalledUse::Shown { keyring, listener, key_pair, last });
    }
    Some(RecalledUse::Peer {
        keyring,
        listener,
        identity: peer.identity?,
        partner: peer.partner.map(Into::into),
        source: peer.address.and_then(|address| address.parse().ok()),
        key_pair,
        chosen_by,
        last,
        is_after: current.since <= last,
    })
}

fn parse_verdict(verdict: &str) -> Option<UpstreamResponse> {
    let all = [
        (UpstreamVerdict::HandshakeOk, UpstreamResponse::HandshakeOk),
        (UpstreamVerdict::Proved, UpstreamResponse::Proved),
        (UpstreamVerdict::Refused, UpstreamResponse::Refused),
    ];
    all.into_iter().find(|(one, _)| one.as_str() == verdict).map(|(_, said)| said)
}

fn matches_fingerprint(written: Option<&str>, key_pair: Fingerprint) -> bool {
    written.and_then(|text| text.parse().ok()) == Some(key_pair)
}

#[cfg(test)]
mod tests;
