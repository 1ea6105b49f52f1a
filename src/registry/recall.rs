//! Between the registry's rows and the rotation report: what this instance knows of a sender becomes rows, and the rows
//! of every instance that shows the same pairs become what the report is made of. Pure.
//!
//! It is read when the registry first connects, after a rotation, and again and again while an overlap lasts. What an
//! instance recorded counts for the rotation that it is in: evidence from before its own rotation only tells when a sender
//! came.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::rows::{HeldPairRow, SenderRow};
use super::store::{FleetHistory, FleetQuery};
use super::{HistoryRow, PeerRow, UnixSeconds};
use crate::evidence::UpstreamVerdict;
use crate::evidence::report::{
    ChangedSender, KeyringOverlap, PairEvidence, PairInsistence, RecalledHistory, RecalledUse, ReplicaStatus,
    SenderKey, UpstreamResponse, VisitHistory,
};
use crate::keyring::{SelectionReason, Standing};
use crate::pki::Fingerprint;
use crate::snapshot::{KeyringView, Side};

/// What to read for these keyrings: all of them at first, later those in overlap.
pub(super) fn plan_reading(
    keyrings: &[KeyringView],
    overlaps: &[KeyringOverlap],
    is_first: bool,
    now: Timestamp,
) -> FleetQuery {
    let is_meant = |view: &&KeyringView| is_first || overlaps.iter().any(|overlap| overlap.keyring == view.name);
    let keyrings = keyrings.iter().filter(is_meant).map(|view| {
        let shown = [Standing::Current, Standing::Previous].into_iter().flat_map(|one| view.pairs_with_standing(one));
        let seen_within = std::time::Duration::from_secs(view.seen_within_seconds);
        let from = now.checked_sub(seen_within).unwrap_or(Timestamp::UNIX_EPOCH);
        (view.name.to_string(), shown.map(|pair| pair.key_pair).collect(), from)
    });
    FleetQuery { keyrings: keyrings.collect(), rotated: overlaps.iter().map(|overlap| overlap.rotated).min() }
}

/// The rows as the report wants them.
pub(super) fn recall_fleet(
    fleet: FleetHistory,
    query: &FleetQuery,
    own: &str,
    overlaps: &[KeyringOverlap],
) -> RecalledHistory {
    let keyrings: Vec<Arc<str>> = query.keyrings.iter().map(|(name, _, _)| name.as_str().into()).collect();
    let shares_pair = |row: &HeldPairRow| {
        let pairs = query.keyrings.iter().find(|(name, _, _)| *name == row.keyring).map(|(_, pairs, _)| pairs);
        pairs.is_some_and(|pairs| row.key_pair.parse().is_ok_and(|key_pair| pairs.contains(&key_pair)))
    };
    let mut members: Vec<&str> =
        fleet.pairs.iter().filter(|row| shares_pair(row)).map(|row| row.instance.as_str()).chain([own]).collect();
    members.sort_unstable();
    members.dedup();
    let known = fleet.instances.iter().filter(|row| members.contains(&row.instance.as_str()));
    let since = known.clone().map(|row| row.first_seen).min().unwrap_or(UnixSeconds(i64::MAX)).time();
    let replicas = known
        .filter(|row| row.instance != own)
        .map(|row| ReplicaStatus { instance: row.instance.clone(), last_heard: row.last_seen.time() });
    let replicas: Vec<ReplicaStatus> = replicas.collect();
    let rotations = find_rotations(&fleet.pairs);
    let mut uses: Vec<RecalledUse> = Vec::with_capacity(fleet.senders.len());
    for row in fleet.senders {
        let current =
            query.keyrings.iter().find(|(name, _, _)| *name == row.keyring).and_then(|(_, pairs, _)| pairs.first());
        let rotation = rotations.get(&(row.instance.clone(), row.keyring.clone()));
        // An instance that shows another current pair is in another rotation.
        let rotated = rotation.filter(|(pair, _)| current == Some(pair)).map(|(_, since)| *since);
        uses.extend(recall_sender(row, own, rotated));
    }
    for overlap in overlaps {
        let is_current = |row: &&PeerRow| row.keyring.as_deref() == Some(&*overlap.keyring);
        uses.extend(fleet.upstreams.iter().filter(is_current).filter_map(|row| recall_upstream(row, overlap)));
        let living = |instance: &str| instance == own || replicas.iter().any(|one| one.instance == instance);
        uses.extend(recall_responses(&fleet.responses, overlap, own, living));
    }
    RecalledHistory {
        since,
        keyrings,
        uses,
        replicas,
        cut: fleet.cut.iter().map(|name| name.as_str().into()).collect(),
    }
}

/// What this instance knows of a sender, as rows.
pub(super) fn sender_rows(sender: &ChangedSender, instance: &str) -> Vec<SenderRow> {
    let key = &sender.key;
    let certificate = key.certificate.map(|certificate| certificate.to_string()).unwrap_or_default();
    let source = key.source.map(|source| source.to_string()).unwrap_or_default();
    let name = [&*key.listener, &key.identity, &certificate, &source].join("\0");
    let name = Fingerprint::of(name.as_bytes()).hex();
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let rows = sender.pairs.iter().map(|pair| SenderRow {
        instance: instance.to_owned(),
        keyring: key.keyring.to_string(),
        sender: name.clone(),
        key_pair: pair.key_pair.to_string(),
        listener: key.listener.to_string(),
        identity: key.identity.clone(),
        certificate: certificate.clone(),
        source: source.clone(),
        partner: sender.partner.as_deref().map(str::to_owned),
        visits: count(pair.visits.visits),
        connections: count(pair.visits.handshakes),
        first_seen: pair.visits.first.into(),
        last_seen: pair.visits.last.into(),
        handshakes: count(pair.handshakes),
        since: pair.since.map(UnixSeconds::from),
        chosen_by: pair.chosen_by.map(|chosen_by| chosen_by.as_str().to_owned()),
        proved: pair.proved.map(UnixSeconds::from),
        unexplained_ends: count(pair.unexplained_ends),
        ended: pair.ended.map(UnixSeconds::from),
        insisted: pair.insisted.as_ref().map(|insisted| insisted.at.into()),
        reason: pair.insisted.as_ref().map(|insisted| insisted.reason.clone().into_owned()),
        because: pair.insisted.as_ref().map(|insisted| insisted.because.clone()),
    });
    rows.collect()
}

/// The name of an upstream in the history.
pub(super) fn upstream_name(keyring: &str, upstream: &str, listener: &str) -> String {
    format!("{keyring}: {upstream} at {listener}")
}

/// The current pair of each instance's keyring, and since when.
fn find_rotations(pairs: &[HeldPairRow]) -> BTreeMap<(String, String), (Fingerprint, UnixSeconds)> {
    let current = pairs.iter().filter(|row| row.standing == Standing::Current.as_str());
    let latest = current
        .filter_map(|row| Some(((row.instance.clone(), row.keyring.clone()), (row.key_pair.parse().ok()?, row.since))));
    let mut all: BTreeMap<(String, String), (Fingerprint, UnixSeconds)> = BTreeMap::new();
    for (key, found) in latest {
        let known = all.entry(key).or_insert(found);
        if known.1 < found.1 {
            *known = found;
        }
    }
    all
}

/// One row; `rotated` is when the instance began to show the same current pair as this one, if it does.
fn recall_sender(row: SenderRow, own: &str, rotated: Option<UnixSeconds>) -> Option<RecalledUse> {
    let count = |number: i64| u64::try_from(number).unwrap_or_default();
    let visits = VisitHistory {
        visits: count(row.visits),
        handshakes: count(row.connections),
        first: row.first_seen.time(),
        last: row.last_seen.time(),
    };
    let mut evidence = PairEvidence::new(row.key_pair.parse().ok()?, visits);
    if let Some(rotated) = rotated {
        let after = |at: Option<UnixSeconds>| at.filter(|at| rotated <= *at).map(UnixSeconds::time);
        evidence.since = after(row.since);
        if evidence.since.is_some() {
            evidence.handshakes = count(row.handshakes);
            evidence.chosen_by = row.chosen_by.as_deref().and_then(SelectionReason::parse);
        }
        evidence.proved = after(row.proved);
        evidence.ended = after(row.ended);
        if evidence.ended.is_some() {
            evidence.unexplained_ends = count(row.unexplained_ends);
        }
        evidence.insisted = after(row.insisted).map(|at| PairInsistence {
            at,
            reason: row.reason.unwrap_or_default().into(),
            because: row.because.unwrap_or_default(),
        });
    }
    let (keyring, listener): (Arc<str>, Arc<str>) = (row.keyring.into(), row.listener.into());
    let key = SenderKey::new(
        (&keyring, &listener),
        &row.identity,
        Some(row.certificate.parse().ok()?),
        row.source.parse().ok(),
    );
    Some(RecalledUse::Sender { is_own: row.instance == own, key, partner: row.partner.map(Into::into), evidence })
}

fn recall_upstream(row: &PeerRow, overlap: &KeyringOverlap) -> Option<RecalledUse> {
    let key_pair: Fingerprint = row.key_pair.as_deref()?.parse().ok()?;
    let is_shown = key_pair == overlap.current || overlap.previous.iter().any(|one| one.key_pair == key_pair);
    let (keyring, listener) = (Arc::clone(&overlap.keyring), row.listener.as_str().into());
    let is_meant = row.side == Side::Egress.as_str() && is_shown;
    is_meant.then(|| RecalledUse::Shown { keyring, listener, key_pair, last: row.last_seen.time() })
}

/// Each instance's last answer of each upstream to the new pair since the rotation.
fn recall_responses(
    responses: &[HistoryRow],
    overlap: &KeyringOverlap,
    own: &str,
    is_member: impl Fn(&str) -> bool,
) -> Vec<RecalledUse> {
    let mut all = Vec::new();
    for (listener, upstream) in &overlap.upstreams {
        let name = upstream_name(&overlap.keyring, upstream, listener);
        let mut told: Vec<&str> = Vec::new();
        let rotated = UnixSeconds::from(overlap.rotated);
        let about = responses.iter().filter(|entry| {
            entry.name == name
                && rotated <= entry.at
                && is_member(&entry.instance)
                && entry.key_pair.as_deref().and_then(|text| text.parse().ok()) == Some(overlap.current)
        });
        for entry in about {
            if told.contains(&entry.instance.as_str()) {
                continue;
            }
            told.push(&entry.instance);
            let Some(said) = entry.becomes.as_deref().and_then(parse_verdict) else { continue };
            all.push(RecalledUse::Upstream {
                is_own: entry.instance == own,
                instance: entry.instance.clone(),
                keyring: Arc::clone(&overlap.keyring),
                listener: Arc::clone(listener),
                key_pair: overlap.current,
                said,
                since: entry.at.time(),
                reason: entry.reason.clone(),
                explanation: entry.why.clone(),
            });
        }
    }
    all
}

fn parse_verdict(verdict: &str) -> Option<UpstreamResponse> {
    let all = [
        (UpstreamVerdict::HandshakeOk, UpstreamResponse::HandshakeOk),
        (UpstreamVerdict::Proved, UpstreamResponse::Proved),
        (UpstreamVerdict::Refused, UpstreamResponse::Refused),
    ];
    all.into_iter().find(|(one, _)| one.as_str() == verdict).map(|(_, said)| said)
}

#[cfg(test)]
mod tests;
