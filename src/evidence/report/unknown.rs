//! What a rotation report cannot know, in sentences: whose refusals came unauthenticated, peers without a certificate,
//! instances that are silent.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::ledger::RotationLedger;
use super::sender::KnownSender;
use super::shape::{KeyringOverlap, RotationProgress, RotationReport};
use crate::pki::format_minute;

/// Another instance that has not written for so long is named: it writes four times a minute.
const SILENT_AFTER: SignedDuration = SignedDuration::from_mins(5);
/// How many names a sentence lists.
const MAX_NAMES: usize = 3;

pub(super) fn describe_unknown(
    report: &RotationReport,
    (ledger, shared): (&RotationLedger, &[String]),
    keyring: &KeyringOverlap,
    now: Timestamp,
) -> Vec<String> {
    let mut unknown = Vec::new();
    if report.unconfirmed > 0 {
        unknown.push(format!(
            "{} source(s) refused the new key pair without a certificate ({}): which peer that was, if it was one",
            report.unconfirmed,
            list_names(report.unconfirmed_sources.iter().map(String::as_str), report.unconfirmed as usize)
        ));
    }
    if !shared.is_empty() {
        unknown.push(format!(
            "several peers come from one address ({}): hosts there that also share a certificate count as one",
            list_names(shared.iter().map(String::as_str), shared.len())
        ));
    }
    let anonymous = report.anonymous.len() as u64 + ledger.anonymous_forgotten;
    if anonymous > 0 {
        let proved = report.anonymous.iter().filter(|line| line.stands == RotationProgress::ProvedNew).count();
        unknown.push(format!(
            "{anonymous} source(s) of peers without a certificate, of which {proved} have proved the new key pair: who \
             they are and how many"
        ));
    }
    let unasked = report.lines.iter().filter(|line| line.stands == RotationProgress::AsksForNone);
    let unasked: Vec<&str> = unasked.map(|line| line.name.as_str()).collect();
    if !unasked.is_empty() {
        unknown.push(format!(
            "{} upstream(s) ask for no certificate ({}): whether they would accept the new key pair",
            unasked.len(),
            list_names(unasked.iter().copied(), unasked.len())
        ));
    }
    let from = keyring.counts_since(now);
    let is_silent = |heard: Timestamp| from <= heard && SILENT_AFTER < now.duration_since(heard);
    let silent: Vec<String> = report
        .replicas
        .iter()
        .filter(|replica| is_silent(replica.last_heard))
        .map(|replica| format!("{} since {}", replica.instance, format_minute(replica.last_heard)))
        .collect();
    if !silent.is_empty() {
        unknown.push(format!(
            "{} instance(s) have not been heard from ({}): what they have seen since, if they run",
            silent.len(),
            list_names(silent.iter().map(String::as_str), silent.len())
        ));
    }
    unknown
}

/// Addresses from which more than one peer came.
pub(super) fn find_shared_addresses(senders: &[KnownSender<'_>]) -> Vec<String> {
    // Of each address the first peer, and whether there is another.
    let mut peers: BTreeMap<IpAddr, (&str, bool)> = BTreeMap::new();
    for (key, _) in senders {
        if let Some(source) = key.source {
            let (first, is_shared) = peers.entry(source).or_insert((&key.identity, false));
            *is_shared |= *first != key.identity;
        }
    }
    peers.into_iter().filter(|(_, (_, is_shared))| *is_shared).map(|(source, _)| source.to_string()).collect()
}

fn list_names<'a>(names: impl Iterator<Item = &'a str>, count: usize) -> String {
    let mut text = names.take(MAX_NAMES).collect::<Vec<_>>().join(", ");
    if count > MAX_NAMES {
        text.push_str(", …");
    }
    text
}
