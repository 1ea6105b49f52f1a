//! From what is known of each sender to the report's lines: one for each identity, which takes the worst of its senders.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::evidence::{PairEvidence, PairInsistence};
use super::habit::describe_habit;
use super::ledger::RotationLedger;
use super::sender::{KnownSender, SenderKey, SenderUse};
use super::shape::{KeyringOverlap, ReportLine, RotationProgress, SenderLine, SubjectKind};
use crate::keyring::SelectionReason;
use crate::pki::format_minute;

/// A sender that caused the old pair to be shown has proved the new one only if it did not do so again for this long:
/// two hosts behind one address may use one certificate.
pub(super) const QUIET_TIME: SignedDuration = SignedDuration::from_hours(24);
/// So many connections in a row that end without a byte count as a refusal.
const UNEXPLAINED_ENDS: u64 = 2;
/// Senders that a line lists.
const MAX_LISTED: usize = 100;

/// The lines of peers with a certificate, from their senders that count.
pub(super) fn build_lines(
    mut senders: Vec<KnownSender<'_>>,
    keyring: &KeyringOverlap,
    now: Timestamp,
) -> Vec<ReportLine> {
    fn name<'a>((key, _): &KnownSender<'a>) -> (&'a str, &'a str) {
        (&key.identity, &key.listener)
    }
    senders.sort_unstable_by(|one, other| name(one).cmp(&name(other)));
    let lines = senders.chunk_by(|one, other| name(one) == name(other)).filter_map(|of_peer| {
        let (key, _) = of_peer.first()?;
        // As it came last.
        let latest = of_peer.iter().map(|(_, sender)| sender).max_by_key(|sender| sender.last());
        let partner = latest.and_then(|sender| sender.partner.clone());
        let judged = of_peer.iter().map(|(key, sender)| judge_sender(keyring, key, sender, now)).collect();
        Some(ReportLine { partner, ..summarize_senders(SubjectKind::Peer, &key.identity, &key.listener, judged) })
    });
    lines.collect()
}

/// The lines of sources without a certificate.
pub(super) fn build_anonymous_lines(
    ledger: &RotationLedger,
    keyring: &KeyringOverlap,
    now: Timestamp,
) -> Vec<ReportLine> {
    let from = keyring.counts_since(now);
    let meant = ledger.anonymous.iter().filter(|(key, sender)| key.keyring == keyring.keyring && from <= sender.last());
    let lines = meant.map(|(key, sender)| {
        let line = judge_sender(keyring, key, sender, now);
        let name = line.source.clone();
        summarize_senders(SubjectKind::Anonymous, &name, &key.listener, vec![line])
    });
    let mut lines: Vec<ReportLine> = lines.collect();
    lines.sort_by(|one, other| {
        (one.stands, &one.name, &one.listener).cmp(&(other.stands, &other.name, &other.listener))
    });
    lines
}

fn summarize_senders(kind: SubjectKind, name: &str, listener: &Arc<str>, mut senders: Vec<SenderLine>) -> ReportLine {
    senders.sort_by(|one, other| {
        let order = |line: &SenderLine| (line.stands, Reverse(line.handshakes_old), Reverse(line.last_seen));
        order(one)
            .cmp(&order(other))
            .then_with(|| (&one.source, one.certificate).cmp(&(&other.source, other.certificate)))
    });
    let stands = senders.first().map_or(RotationProgress::NotSeen, |worst| worst.stands);
    let mut line = ReportLine::new(kind, name, listener, stands);
    if let Some(worst) = senders.first() {
        (line.since, line.reason, line.because) = (worst.since, worst.reason.clone(), worst.because.clone());
        (line.habit, line.until) = (worst.habit.clone(), worst.until);
    }
    line.last_new = senders.iter().filter_map(|sender| sender.last_new).max();
    line.last_old = senders.iter().filter_map(|sender| sender.last_old).max();
    line.handshakes_new = senders.iter().map(|sender| sender.handshakes_new).sum();
    line.handshakes_old = senders.iter().map(|sender| sender.handshakes_old).sum();
    line.senders_proved = senders.iter().filter(|sender| sender.stands == RotationProgress::ProvedNew).count() as u64;
    line.senders_known = senders.len() as u64;
    // Until the last of those that are waited for leaves the window.
    line.until = senders.iter().filter(|sender| sender.stands == stands).filter_map(|sender| sender.until).max();
    senders.truncate(MAX_LISTED);
    line.senders = senders;
    line
}

fn judge_sender(keyring: &KeyringOverlap, key: &SenderKey, sender: &SenderUse, now: Timestamp) -> SenderLine {
    let new = sender.pair(keyring.current);
    let old: Vec<Cow<'_, PairEvidence>> =
        keyring.previous.iter().filter_map(|previous| sender.pair(previous.key_pair)).collect();
    let last_old = old.iter().max_by_key(|one| one.visits.last);
    let insisted = old.iter().filter_map(|one| one.insisted.as_ref()).max_by_key(|insisted| insisted.at);
    let old_since = || old.iter().map(|one| &**one).filter(|one| one.since.is_some());
    let leaves = sender.last().checked_add(keyring.seen_within).unwrap_or(Timestamp::MAX);
    let source = key.source.map_or_else(
        || "unknown address".to_owned(),
        |source| match source {
            std::net::IpAddr::V6(_) => format!("{source}/64"),
            std::net::IpAddr::V4(_) => source.to_string(),
        },
    );
    let mut line = SenderLine {
        source,
        certificate: key.certificate,
        stands: RotationProgress::NotSeen,
        since: None,
        last_seen: sender.last(),
        last_new: new.as_ref().filter(|new| new.since.is_some()).map(|new| new.visits.last),
        last_old: last_old.map(|old| old.visits.last),
        proved: new.as_ref().and_then(|new| new.proved),
        handshakes_new: new.as_ref().map_or(0, |new| new.handshakes),
        handshakes_old: old_since().map(|one| one.handshakes).sum(),
        unexplained_ends: new.as_ref().map_or(0, |new| new.unexplained_ends),
        reason: None,
        because: None,
        habit: None,
        until: Some(leaves),
    };
    let on_old = old_since().max_by_key(|one| one.visits.last);
    decide_progress(&mut line, (new.as_deref(), on_old, insisted), now);
    if line.stands == RotationProgress::NotSeen {
        line.habit = sender.visits().and_then(|visits| describe_habit(&visits, now)).map(|(habit, _)| habit);
        line.because = line.habit.as_ref().map(|habit| format!("it used to come {habit}"));
    }
    if line.stands == RotationProgress::ProvedNew {
        line.until = None;
    }
    line
}

fn decide_progress(
    line: &mut SenderLine,
    (new, on_old, insisted): (Option<&PairEvidence>, Option<&PairEvidence>, Option<&PairInsistence>),
    now: Timestamp,
) {
    if let Some(insisted) = insisted {
        let quiet = insisted.at.saturating_add(QUIET_TIME).unwrap_or(Timestamp::MAX);
        let has_proved_since = line.proved.is_some_and(|proved| insisted.at < proved);
        line.since = on_old.and_then(|old| old.since).or(Some(insisted.at));
        if !has_proved_since {
            line.stands = RotationProgress::InsistsOnOld;
            (line.reason, line.because) = (Some(insisted.reason.clone().into_owned()), Some(insisted.because.clone()));
            return;
        }
        if now < quiet {
            line.stands = RotationProgress::StillOnOld;
            line.reason = Some(insisted.reason.clone().into_owned());
            line.because = Some(format!(
                "it has proved the new key pair since, but required the old one at {}: another host with its \
                 certificate may still do so",
                format_minute(insisted.at)
            ));
            line.until = Some(quiet);
            return;
        }
        line.since = None;
    }
    if line.unexplained_ends >= UNEXPLAINED_ENDS {
        let ends = line.unexplained_ends;
        line.since = new.and_then(|new| new.since);
        line.reason = Some("ended_without_data".to_owned());
        if let Some(proved) = line.proved {
            line.stands = RotationProgress::Unproved;
            line.because = Some(format!(
                "it proved the new key pair at {}, but its last {ends} connections on it ended without a request",
                format_minute(proved)
            ));
        } else {
            line.stands = RotationProgress::EndsUnexplained;
            line.because = Some(format!(
                "its last {ends} connections on the new key pair ended without a request: it may refuse the key pair \
                 without saying so"
            ));
        }
        return;
    }
    if line.proved.is_some() {
        line.stands = RotationProgress::ProvedNew;
        return;
    }
    let is_later =
        |old: &&PairEvidence| new.is_none_or(|new| new.since.is_none() || new.visits.last <= old.visits.last);
    if let Some(old) = on_old.filter(is_later) {
        line.stands = RotationProgress::StillOnOld;
        line.since = old.since;
        line.reason = old.chosen_by.map(|chosen_by| chosen_by.as_str().to_owned());
        line.because = Some(explain_choice(old.chosen_by).to_owned());
        return;
    }
    if let Some(new) = new.filter(|new| new.since.is_some()) {
        line.stands = RotationProgress::Unproved;
        line.since = new.since;
        line.because = Some("its handshakes on the new key pair succeed, but no request has followed yet".to_owned());
    }
}

/// Why we showed the old pair although the sender did not ask for it.
const fn explain_choice(chosen_by: Option<SelectionReason>) -> &'static str {
    match chosen_by {
        Some(SelectionReason::Learned) => {
            "a peer at its address refused the new key pair; which one is not known, so its own answer is unknown"
        }
        Some(SelectionReason::Partner) => {
            "the configuration shows this partner the old key pair (show); the new one is untested"
        }
        Some(SelectionReason::Prefer) => {
            "the configuration prefers the old key pair (prefer = \"old\"); the new one is untested"
        }
        Some(SelectionReason::LastResort) => "no valid key pair is left",
        Some(SelectionReason::Authorities | SelectionReason::Only) | None => {
            "it was shown the old key pair, by an instance that has no newer one or did not record why"
        }
    }
}
