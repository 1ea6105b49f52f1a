//! The rotation report (contract section 4): for each keyring in overlap which peers have proved the new key pair,
//! which still use or require the old one and why, the time left, and one verdict: safe to retire, or what blocks it.
//!
//! Pure. [`RotationLedger`] records which peer used which pair; [`build_reports`] evaluates it for the keyrings that
//! are in overlap now. Only verified peers, upstreams and confirmed sources affect the verdict: unauthenticated alerts
//! are only counted beside them.

mod ledger;
mod recalled;
mod shape;
mod verdict;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::learned::RefusalStatus;
use crate::keyring::SelectionReason;
use crate::pki::Fingerprint;
pub use ledger::{LedgerFact, RotationLedger, UpstreamResponse};
use ledger::{PairUse, PeerUse, SourceEntry};
pub use recalled::RecalledUse;
pub use shape::{
    FirstContact, KeyringOverlap, PreviousPair, PriorHistory, ReportLine, RetireAdvice, RotationProgress,
    RotationReport, RotationVerdict, SubjectKind,
};

/// The report of these keyrings. `contacts` are those of partners.
pub fn build_reports(
    ledger: &RotationLedger,
    keyrings: &[KeyringOverlap],
    contacts: &BTreeMap<Arc<str>, String>,
    now: Timestamp,
) -> Vec<RotationReport> {
    keyrings.iter().filter_map(|keyring| build_report(ledger, keyring, contacts, now)).collect()
}

fn build_report(
    ledger: &RotationLedger,
    keyring: &KeyringOverlap,
    contacts: &BTreeMap<Arc<str>, String>,
    now: Timestamp,
) -> Option<RotationReport> {
    let ends = keyring.previous.iter().map(|previous| previous.ends).max()?;
    let of_keyring = ledger.sources.iter().filter(|((_, _), source)| source.keyring == keyring.keyring);
    let sources: Vec<(&Arc<str>, &str, &SourceEntry)> =
        of_keyring.map(|((listener, name), source)| (listener, name.as_str(), source)).collect();
    let mut lines = Vec::new();
    let mut named = Vec::new();
    for (key, peer) in ledger.peers.iter().filter(|(key, _)| key.keyring == keyring.keyring) {
        let of_source = sources.iter().filter(|(listener, name, source)| {
            source.lesson == RefusalStatus::Confirmed && **listener == key.listener && peer.comes_from(name)
        });
        // Several peers may share one address: its refusal first concerns the peer that confirmed it.
        let taught = of_source.min_by_key(|(_, _, source)| source.peer.as_deref() != Some(key.identity.as_str()));
        let line = peer_line(keyring, (&key.listener, &key.identity), peer, taught.map(|(_, _, source)| *source));
        // A source that is known by name needs no line of its own.
        named.extend(
            taught
                .filter(|_| line.stands == RotationProgress::InsistsOnOld)
                .map(|(listener, name, _)| (*listener, *name)),
        );
        lines.push(line);
    }
    for (listener, name, source) in &sources {
        let insists = source.lesson == RefusalStatus::Confirmed && source.refused == keyring.current;
        if insists && !named.contains(&(*listener, *name)) {
            lines.push(source_line(listener, name, source));
        }
    }
    lines.extend(keyring.upstreams.iter().map(|(listener, name)| upstream_line(ledger, keyring, listener, name)));
    for line in &mut lines {
        let partner = line.partner.as_ref().and_then(|partner| contacts.get(partner));
        line.contact = partner.or(keyring.contact.as_ref()).cloned();
    }
    lines.sort_by(|one, other| {
        let order = |line: &ReportLine| (line.stands, std::cmp::Reverse(line.handshakes_old), line.kind);
        order(one).cmp(&order(other)).then_with(|| (&one.name, &one.listener).cmp(&(&other.name, &other.listener)))
    });
    let unconfirmed = sources.iter().filter(|(_, _, source)| source.lesson == RefusalStatus::Unconfirmed).count();
    let mut report = RotationReport {
        keyring: Arc::clone(&keyring.keyring),
        owner: keyring.owner.clone(),
        contact: keyring.contact.clone(),
        current: keyring.current,
        rotated: keyring.rotated,
        previous: keyring.previous.clone(),
        ends,
        seconds_left: ends.duration_since(now).as_secs().max(0),
        watched_since: ledger.since,
        before: ledger.before,
        lines,
        unconfirmed: unconfirmed as u64,
        forgotten: ledger.forgotten,
        verdict: RotationVerdict::unknown(),
    };
    report.verdict = verdict::judge_report(&report);
    Some(report)
}

/// The line of one peer; `taught` is the refusal recorded for the source that it comes from.
fn peer_line(
    keyring: &KeyringOverlap,
    (listener, identity): (&Arc<str>, &str),
    peer: &PeerUse,
    taught: Option<&SourceEntry>,
) -> ReportLine {
    let new = peer.pairs.iter().find(|used| used.key_pair == keyring.current && keyring.rotated <= used.last);
    let is_old = |used: &&PairUse| keyring.previous.iter().any(|previous| previous.key_pair == used.key_pair);
    let old = peer.pairs.iter().filter(is_old).max_by_key(|used| used.last);
    let on_old = old.filter(|old| keyring.rotated <= old.last && new.is_none_or(|new| new.last < old.last));
    let mut line = ReportLine {
        kind: SubjectKind::Peer,
        name: identity.to_owned(),
        listener: Arc::clone(listener),
        partner: peer.partner.clone(),
        stands: if new.is_some() { RotationProgress::ProvedNew } else { RotationProgress::NotSeen },
        since: None,
        last_new: new.map(|new| new.last),
        last_old: old.map(|old| old.last),
        handshakes_new: new.map_or(0, |new| new.count),
        handshakes_old: peer.pairs.iter().filter(is_old).map(|used| used.count).sum(),
        reason: None,
        because: None,
        next_try: None,
        contact: None,
    };
    let Some(old) = on_old else { return line };
    let taught = taught.filter(|_| old.chosen_by == Some(SelectionReason::Learned));
    line.since = Some(old.first.unwrap_or(old.last));
    line.stands = if old.chosen_by.is_some_and(is_insistence) {
        RotationProgress::InsistsOnOld
    } else {
        RotationProgress::StillOnOld
    };
    if let Some(other) = taught.and_then(|source| source.peer.as_deref()).filter(|peer| *peer != identity) {
        line.stands = RotationProgress::StillOnOld;
        line.reason = Some(SelectionReason::Learned.as_str().to_owned());
        line.because = Some(format!(
            "it connects from the address of {other}, which refused the new key pair; its own answer is unknown"
        ));
        return line;
    }
    (line.reason, line.because) = match (taught, old.chosen_by) {
        (Some(source), _) => (Some(source.reason.to_owned()), Some(source.explanation.clone())),
        (None, Some(chosen_by)) => (Some(chosen_by.as_str().to_owned()), Some(explain_selection(chosen_by).to_owned())),
        (None, None) => (None, Some("the reason for showing it the old key pair was not recorded".to_owned())),
    };
    if let Some(source) = taught {
        line.since = Some(source.since);
    }
    line
}

/// Whether the peer caused the old pair to be shown.
const fn is_insistence(chosen_by: SelectionReason) -> bool {
    match chosen_by {
        SelectionReason::Learned | SelectionReason::Authorities | SelectionReason::Only => true,
        SelectionReason::Partner | SelectionReason::Prefer | SelectionReason::LastResort => false,
    }
}

/// Why a peer was shown the old pair.
const fn explain_selection(chosen_by: SelectionReason) -> &'static str {
    match chosen_by {
        SelectionReason::Learned => "it answered the new key pair with a certificate alert",
        SelectionReason::Authorities => "it names certificate authorities that only the old key pair chains to",
        SelectionReason::Only => "only the old key pair fits the server name or signature schemes that it requests",
        SelectionReason::Partner => {
            "the configuration shows this partner the old key pair (show); the new one is untested"
        }
        SelectionReason::Prefer => {
            "the configuration prefers the old key pair (prefer = \"old\"); the new one is untested"
        }
        SelectionReason::LastResort => "no valid key pair is left",
    }
}

fn source_line(listener: &Arc<str>, name: &str, source: &SourceEntry) -> ReportLine {
    ReportLine {
        kind: SubjectKind::Source,
        name: name.to_owned(),
        listener: Arc::clone(listener),
        partner: None,
        stands: RotationProgress::InsistsOnOld,
        since: Some(source.since),
        last_new: None,
        last_old: None,
        handshakes_new: 0,
        handshakes_old: 0,
        reason: Some(source.reason.to_owned()),
        because: Some(source.explanation.clone()),
        next_try: None,
        contact: None,
    }
}

fn upstream_line(ledger: &RotationLedger, keyring: &KeyringOverlap, listener: &Arc<str>, name: &str) -> ReportLine {
    let shown = ledger.upstreams.get(listener).map(Vec::as_slice).unwrap_or_default();
    let new = shown.iter().find(|shown| shown.key_pair == keyring.current);
    let is_old = |key_pair: Fingerprint| keyring.previous.iter().any(|previous| previous.key_pair == key_pair);
    let old = shown.iter().filter(|shown| is_old(shown.key_pair)).max_by_key(|shown| shown.last);
    let on_old = old.is_some_and(|old| old.last.is_some_and(|last| keyring.rotated <= last));
    let stands = match new.map(|new| new.said) {
        Some(UpstreamResponse::Refused) => RotationProgress::InsistsOnOld,
        Some(UpstreamResponse::Proved) => RotationProgress::ProvedNew,
        _ if on_old => RotationProgress::StillOnOld,
        Some(UpstreamResponse::HandshakeOk) => RotationProgress::Unproved,
        None => RotationProgress::NotSeen,
    };
    let told = new.filter(|_| stands == RotationProgress::InsistsOnOld);
    let still = "the upstream has not proved the new key pair yet, so traffic stays on the old one";
    ReportLine {
        kind: SubjectKind::Upstream,
        name: name.to_owned(),
        listener: Arc::clone(listener),
        partner: None,
        stands,
        since: new.map(|new| new.since).filter(|_| stands != RotationProgress::ProvedNew),
        last_new: new.and_then(|new| new.last),
        last_old: old.and_then(|old| old.last),
        handshakes_new: new.map_or(0, |new| new.count),
        handshakes_old: shown.iter().filter(|shown| is_old(shown.key_pair)).map(|shown| shown.count).sum(),
        reason: told.map(|new| new.reason.clone().into_owned()),
        because: match stands {
            RotationProgress::StillOnOld => Some(still.to_owned()),
            _ => told.map(|new| new.explanation.clone()),
        },
        next_try: told.and_then(|new| new.next_try),
        contact: None,
    }
}

#[cfg(test)]
mod tests;
