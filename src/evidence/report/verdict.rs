//! One verdict for a keyring in overlap: `safe`, `wait` (for what, until when) or `blocked` (by which peer).

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

use super::ledger::RotationLedger;
use super::shape::{
    FirstContact, KeyringOverlap, PriorHistory, ReportLine, RetireAdvice, RotationProgress, RotationReport,
    RotationVerdict, SubjectKind,
};
use super::unknown::describe_unknown;
use crate::pki::format_minute;

/// A registry that has not been read for so long may have news, of other instances sooner: it is read every 15 seconds.
const STALE_AFTER: SignedDuration = SignedDuration::from_mins(5);
const SHARED_STALE_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// An instance that has missed its heartbeats for so long, of which there are four a minute, may have seen what it has not
/// written; after five minutes it is taken to be gone.
const LATE_AFTER: SignedDuration = SignedDuration::from_secs(60);
const GONE_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// The verdict on a report whose lines are in order: those to act on first. `shared`: addresses from which several peers come.
pub(super) fn judge_report(
    report: &RotationReport,
    (ledger, shared): (&RotationLedger, &[String]),
    keyring: &KeyringOverlap,
    now: Timestamp,
) -> RotationVerdict {
    let count = |stands: RotationProgress| report.lines.iter().filter(|line| line.stands == stands).count();
    let (unasked, proved) = (count(RotationProgress::AsksForNone), count(RotationProgress::ProvedNew));
    let all = report.lines.len() - unasked;
    let first = report.lines.iter().find(|line| !line.stands.is_settled());
    let left = describe_left(report.seconds_left);
    let ends = report.ends;
    let (retire, until, sentence) = match first.map(|line| (line, line.stands)) {
        Some((line, stands)) if stands <= RotationProgress::EndsUnexplained => {
            let fail = report.lines.iter().filter(|line| line.stands <= RotationProgress::EndsUnexplained).count();
            (RetireAdvice::Blocked, None, explain_blocked(line, fail, all, &left))
        }
        Some((line, stands)) => {
            let until = last_wait(report, ends);
            let said = match stands {
                RotationProgress::StillOnOld => explain_on_old(line, count(stands), all),
                _ => explain_unproved(line, (count(RotationProgress::Unproved), count(RotationProgress::NotSeen)), all),
            };
            (
                RetireAdvice::Wait,
                Some(until),
                format!("{said}; wait until {} at the latest; {left}", format_minute(until)),
            )
        }
        None => match missing_history(report, ledger, keyring, now) {
            Some((why, until)) => {
                let until = until.min(ends);
                let known = if all == 0 {
                    "nothing is known against the new key pair".to_owned()
                } else {
                    describe_proved(proved)
                };
                let said = format!("{known}, but {why}; wait until {} at the latest; {left}", format_minute(until));
                (RetireAdvice::Wait, Some(until), said)
            }
            None if all == 0 && unasked > 0 && !keyring.faces_peers => {
                let said = "only upstreams that ask for no certificate use this keyring, so no key pair is shown to them: the \
                            old one can be retired";
                (RetireAdvice::Safe, None, said.to_owned())
            }
            None if all == 0 && !report.anonymous.iter().any(|line| line.stands == RotationProgress::ProvedNew) => {
                let since = format_minute(report.watched_since);
                (RetireAdvice::Wait, Some(ends), format!("no peer has used this keyring since {since}: wait; {left}"))
            }
            None if all == 0 => {
                let said = "only peers without a certificate use this keyring, and some have proved the new key pair: the \
                            old one can be retired";
                (RetireAdvice::Safe, None, said.to_owned())
            }
            None => {
                let said = format!("{}: the old one can be retired", describe_proved(proved));
                (RetireAdvice::Safe, None, said)
            }
        },
    };
    RotationVerdict {
        retire,
        sentence,
        until,
        first: first.map(|line| FirstContact {
            name: line.name.clone(),
            partner: line.partner.clone(),
            contact: line.contact.clone(),
        }),
        unknown: describe_unknown(report, (ledger, shared), keyring, now),
    }
}

fn describe_left(seconds: i64) -> String {
    match seconds {
        0 => "the overlap is about to end".to_owned(),
        1..120 => format!("{seconds} s left"),
        120..7_200 => format!("{} min left", seconds / 60),
        7_200..172_800 => format!("{} h left", seconds / 3600),
        _ => format!("{} days left", seconds / 86_400),
    }
}

/// When the last of those that are waited for no longer counts.
fn last_wait(report: &RotationReport, ends: Timestamp) -> Timestamp {
    let waiting = report.lines.iter().filter(|line| !line.stands.is_settled());
    waiting.map(|line| line.until.unwrap_or(ends)).max().unwrap_or(ends).min(ends)
}

/// Why senders may be unknown, and until when that matters.
fn missing_history(
    report: &RotationReport,
    ledger: &RotationLedger,
    keyring: &KeyringOverlap,
    now: Timestamp,
) -> Option<(String, Timestamp)> {
    let later = |at: Timestamp| at.checked_add(keyring.seen_within).unwrap_or(Timestamp::MAX);
    let forgotten = ledger.forgotten.get(&keyring.keyring).and_then(|forgotten| forgotten.last);
    if let Some(until) = forgotten.map(later).filter(|until| now < *until) {
        return Some((format!("{} senders exceeded the limit and were forgotten", report.forgotten), until));
    }
    let is_covered = later(report.watched_since) <= now;
    let since = format_minute(report.watched_since);
    match report.before {
        PriorHistory::Unknown if is_covered || !keyring.faces_peers => None,
        PriorHistory::Unknown => {
            let why = format!(
                "peers from before this process started ({since}) are unknown, because it has no registry (set state)"
            );
            Some((why, later(report.watched_since)))
        }
        PriorHistory::Awaited => {
            let why =
                format!("peers from before this process started ({since}) are unknown until the registry answers");
            Some((why, report.ends))
        }
        PriorHistory::Recalled => {
            let read = ledger.read.unwrap_or(Timestamp::MIN);
            let patience = if ledger.is_shared() { SHARED_STALE_AFTER } else { STALE_AFTER };
            let is_stale = ledger.unanswered || read.saturating_add(patience).unwrap_or(Timestamp::MAX) < now;
            if is_stale {
                let why = format!(
                    "the registry has not answered since {}, so what other instances saw is unknown",
                    format_minute(read)
                );
                return Some((why, report.ends));
            }
            if read < report.rotated {
                let why = "the registry has not been read since the rotation, so what other instances saw is unknown";
                return Some((why.to_owned(), report.ends));
            }
            if let Some(late) = find_late_instance(ledger, now) {
                return Some(late);
            }
            let is_older = ledger.recorded_since.is_some_and(|recorded| recorded <= report.rotated);
            let why = format!("peers from before the registry was created ({since}) are unknown");
            (!is_older && !is_covered).then(|| (why, later(report.watched_since)))
        }
    }
}

/// An instance that should have written by now and has not: what it has seen since is not known.
fn find_late_instance(ledger: &RotationLedger, now: Timestamp) -> Option<(String, Timestamp)> {
    let late = ledger.heard.iter().filter(|(_, (_, news))| {
        let silent = now.duration_since(*news);
        LATE_AFTER < silent && silent < GONE_AFTER
    });
    let (instance, (_, news)) = late.max_by_key(|(_, (_, news))| *news)?;
    let why = format!(
        "instance {instance} has not written to the registry since {}, so what it saw is unknown",
        format_minute(*news)
    );
    Some((why, news.saturating_add(GONE_AFTER).unwrap_or(Timestamp::MAX)))
}

fn describe_proved(proved: usize) -> String {
    match proved {
        1 => "the only known peer has proved the new key pair".to_owned(),
        2 => "both known peers have proved the new key pair".to_owned(),
        _ => format!("all {proved} known peers have proved the new key pair"),
    }
}

fn explain_blocked(line: &ReportLine, count: usize, all: usize, left: &str) -> String {
    let mut text = format!("{count} of {all} peers would fail: call {} first; {left}", describe_line(line));
    if let Some(because) = &line.because {
        let _ = write!(text, ". {}", begin_sentence(because));
    }
    text
}

/// A clause as a sentence of its own. A name at its beginning stays as it is.
fn begin_sentence(clause: &str) -> String {
    let first = clause.split(' ').next().unwrap_or_default();
    match clause.get(..1) {
        Some(letter) if first.chars().all(|c| c.is_ascii_lowercase()) => {
            format!("{}{}", letter.to_ascii_uppercase(), &clause[1..])
        }
        _ => clause.to_owned(),
    }
}

fn explain_on_old(line: &ReportLine, count: usize, all: usize) -> String {
    let because = line.because.as_deref().unwrap_or("the new one was not tried");
    format!("{count} of {all} peers still use the old key pair, most often {}: {because}", describe_line(line))
}

fn explain_unproved(line: &ReportLine, (unproved, not_seen): (usize, usize), all: usize) -> String {
    let mut parts = Vec::new();
    if unproved > 0 {
        parts.push(format!("{unproved} of {all} peers have not proved the new key pair yet"));
    }
    if not_seen > 0 {
        parts.push(format!("{not_seen} of {all} peers have not been seen since the rotation"));
    }
    let habit = line.habit.as_ref().map_or_else(String::new, |habit| format!(", which used to come {habit}"));
    format!("{}: ask {}{habit} first", parts.join(", "), describe_line(line))
}

/// `acme (uri:spiffe://acme/app, noc@acme.example)`; of several senders, the one that it is about.
fn describe_line(line: &ReportLine) -> String {
    let contact = line.contact.as_deref().map(|contact| format!("contact {contact}"));
    let worst = line.senders.first().filter(|_| line.senders_known > 1 && line.kind == SubjectKind::Peer);
    let host = worst.map(|sender| format!("from {}", sender.source));
    let (name, more) = match &line.partner {
        Some(partner) => (partner.to_string(), vec![Some(line.name.clone()), host, contact]),
        None => (line.name.clone(), vec![host, contact]),
    };
    let more: Vec<String> = more.into_iter().flatten().collect();
    if more.is_empty() { name } else { format!("{name} ({})", more.join(", ")) }
}
