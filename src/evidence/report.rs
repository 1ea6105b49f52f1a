//! The rotation report (contract section 4): for each keyring in overlap which peers have proved the new key pair,
//! which still use or require the old one and why, who has not come since, and one verdict.
//!
//! Pure. [`RotationLedger`] records what came of each pair at each *sender* (listener, identity, certificate, source);
//! [`build_reports`] evaluates it for the keyrings that are in overlap now. A line takes the worst of its senders. Only
//! verified peers and upstreams affect the verdict: unauthenticated refusals are only counted beside them.

mod changed_senders;
mod evidence;
mod fact;
mod habit;
mod judged;
mod ledger;
mod reading;
mod recalled;
mod sender;
mod sender_table;
mod shape;
mod sources;
mod unknown;
mod upstreams;
mod verdict;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::learned::RefusalStatus;
pub use evidence::{PairEvidence, PairInsistence, VisitHistory};
pub use fact::{LedgerFact, SenderOutcome, UpstreamResponse};
pub use ledger::RotationLedger;
pub use reading::PreparedHistory;
pub use recalled::{ChangedSender, RecalledHistory, RecalledUse};
use sender::KnownSender;
pub use sender::SenderKey;
pub use shape::{
    FirstContact, KeyringOverlap, PreviousPair, PriorHistory, ReplicaStatus, ReportLine, RetireAdvice,
    RotationProgress, RotationReport, RotationVerdict, SenderLine, SubjectKind,
};
use sources::SourceEntry;

/// Unconfirmed sources that a report names.
const MAX_UNCONFIRMED_NAMES: usize = 20;

/// The report of these keyrings. `contacts` are those of partners.
pub fn build_reports(
    ledger: &RotationLedger,
    keyrings: &[KeyringOverlap],
    contacts: &BTreeMap<Arc<str>, String>,
    now: Timestamp,
) -> Vec<RotationReport> {
    let mut senders: BTreeMap<&str, Vec<KnownSender<'_>>> =
        keyrings.iter().map(|keyring| (&*keyring.keyring, Vec::new())).collect();
    // Once for all keyrings: to look at every sender takes longer than to judge those of a keyring.
    for (key, sender) in ledger.senders.iter() {
        if let Some(of_keyring) = senders.get_mut(&*key.keyring) {
            of_keyring.push((key, sender));
        }
    }
    let reports = keyrings.iter().filter_map(|keyring| {
        let of_keyring = senders.remove(&*keyring.keyring).unwrap_or_default();
        build_report((ledger, of_keyring), keyring, contacts, now)
    });
    reports.collect()
}

/// The report of one keyring from what is known of its senders; `None`: it has no previous pair.
fn build_report(
    (ledger, mut senders): (&RotationLedger, Vec<KnownSender<'_>>),
    keyring: &KeyringOverlap,
    contacts: &BTreeMap<Arc<str>, String>,
    now: Timestamp,
) -> Option<RotationReport> {
    let ends = keyring.previous.iter().map(|previous| previous.ends).max()?;
    let from = keyring.counts_since(now);
    senders.retain(|(_, sender)| from <= sender.last());
    let shared = unknown::find_shared_addresses(&senders);
    let mut lines = judged::build_lines(senders, keyring, now);
    let anonymous = judged::build_anonymous_lines(ledger, keyring, now);
    let refusals: Vec<_> = ledger.sources.refusals_of(&keyring.keyring).collect();
    for (listener, source, entry) in &refusals {
        let is_known =
            |line: &ReportLine| line.listener == **listener && Some(line.name.as_str()) == entry.peer.as_deref();
        // A source whose peer is known needs no line of its own, and one without a certificate has no say.
        let insists = entry.lesson == RefusalStatus::Confirmed && entry.refused == keyring.current;
        if insists && entry.peer.is_some() && !lines.iter().any(is_known) {
            lines.push(source_line(listener, source, entry));
        }
    }
    let upstreams = keyring.upstreams.iter();
    lines.extend(upstreams.map(|(listener, name)| ledger.upstreams.line(keyring, listener, name)));
    for line in &mut lines {
        let partner = line.partner.as_ref().and_then(|partner| contacts.get(partner));
        line.contact = partner.or(keyring.contact.as_ref()).cloned();
    }
    lines.sort_by(|one, other| {
        let order = |line: &ReportLine| (line.stands, Reverse(line.handshakes_old), line.kind);
        order(one).cmp(&order(other)).then_with(|| (&one.name, &one.listener).cmp(&(&other.name, &other.listener)))
    });
    let unconfirmed: Vec<&str> = refusals
        .iter()
        .filter(|(_, _, entry)| entry.lesson == RefusalStatus::Unconfirmed)
        .map(|(_, source, _)| *source)
        .collect();
    let forgotten = ledger.forgotten.get(&keyring.keyring).copied().unwrap_or_default();
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
        seen_within_seconds: keyring.seen_within.as_secs(),
        lines,
        anonymous,
        unconfirmed: unconfirmed.len() as u64,
        unconfirmed_sources: unconfirmed.iter().take(MAX_UNCONFIRMED_NAMES).map(|one| (*one).to_owned()).collect(),
        forgotten: forgotten.count,
        replicas: ledger.replicas.clone(),
        verdict: RotationVerdict::unknown(),
    };
    report.verdict = verdict::judge_report(&report, (ledger, &shared), keyring, now);
    Some(report)
}

fn source_line(listener: &Arc<str>, name: &str, source: &SourceEntry) -> ReportLine {
    let mut line = ReportLine::new(SubjectKind::Source, name, listener, RotationProgress::InsistsOnOld);
    line.since = Some(source.since);
    (line.reason, line.because) = (Some(source.reason.to_owned()), Some(source.explanation.clone()));
    line
}

#[cfg(test)]
mod tests;
