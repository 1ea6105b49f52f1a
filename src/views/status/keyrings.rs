//! What to act on in one keyring: expiries, and pairs that wait or are refused.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{StatusItem, Urgency};
use crate::keyring::Standing;
use crate::keyring::warning::longest_threshold;
use crate::pki::{FileName, FolderProblem, Validity, format_day};
use crate::snapshot::{KeyPairView, KeyringView};

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Adds the items to act on. `broken`: the files of this keyring that are refused; true is set beside those that one of the
/// items is about already.
pub(super) fn look_at(
    keyring: &KeyringView,
    broken: &mut [(&FolderProblem, bool)],
    now: Timestamp,
    out: &mut Vec<StatusItem>,
) {
    let name = &keyring.name;
    let mut add = |urgency, code: &str, what: String, remedy: String| {
        out.push(StatusItem { urgency, code: code.to_owned(), keyring: Some(Arc::clone(name)), what, remedy });
    };
    let of = |standing| keyring.key_pairs.iter().filter(move |pair| pair.standing == standing);
    if let Some(current) = of(Standing::Current).next() {
        let short = current.key_pair.short();
        let is_successor = |pair: &&KeyPairView| current.ends() < pair.ends();
        if current.validity.not_after < now {
            let what =
                format!("the current key pair {short} of {name} expired on {}", format_day(current.validity.not_after));
            add(Urgency::Now, "expired", what, "drop a new key pair".to_owned());
        } else if current.ends() < soon(keyring.alert_before.as_deref(), current.validity, now)
            && !of(Standing::Staged).any(|pair| is_successor(&pair))
        {
            let ends = expiry(current.ends(), now);
            let (code, what, remedy) = match &current.chain_ends {
                None => ("expires", format!("the current key pair {short} of {name} {ends}"), "drop a new key pair"),
                Some(chain) => (
                    "chain_expires",
                    format!("the intermediate {} of the current key pair {short} of {name} {ends}", chain.subject),
                    "drop its chain with the next intermediate, or a new key pair",
                ),
            };
            add(urgency(current.ends(), now), code, what, remedy.to_owned());
        }
    }
    let gone: Vec<_> = of(Standing::Current).filter(|pair| !pair.in_folder).collect();
    // What was written over a file of the current pair is one fault with it.
    let over = |pair: &KeyPairView, lost: &KeyPairView| pair.sources.iter().any(|file| lost.sources.contains(file));
    for pair in gone.iter().filter(|lost| !of(Standing::Refused).any(|pair| over(pair, lost))) {
        let faults = take_faults(broken, &pair.sources);
        let what = format!(
            "the files of the current key pair {} of {name} are gone from the folder{faults}",
            pair.key_pair.short()
        );
        let urgency = if pair.survives_restart && faults.is_empty() { Urgency::Soon } else { Urgency::Now };
        let (files, kept) = (pair.sources.join(" "), where_kept(pair));
        add(urgency, "files_gone", what, format!("put them back ({files}), or drop its successor; until then {kept}"));
    }
    for pair in of(Standing::Refused) {
        let why = pair.why.clone().unwrap_or_else(|| format!("key pair {} is refused", pair.key_pair.short()));
        let why = format!("{why}{}", take_faults(broken, pair.sources.iter().chain(&pair.chain_sources)));
        let lost = gone.iter().find(|lost| over(pair, lost));
        let kept = lost.map_or_else(String::new, |lost| {
            format!("; until then the current key pair {}: {}", lost.key_pair.short(), where_kept(lost))
        });
        let shared = match &pair.chain_sources[..] {
            [] => String::new(),
            shared => format!("; {} holds intermediates of it and stays", shared.join(" ")),
        };
        let remedy = format!("fix it or remove it from the folder ({}){shared}{kept}", pair.sources.join(" "));
        add(Urgency::Now, "key_pair_refused", why, remedy);
    }
    // A pair that is only not yet valid becomes current by itself.
    for pair in of(Standing::Staged).filter(|pair| pair.validity.not_before <= now) {
        let why = pair.why.clone().unwrap_or_else(|| format!("key pair {} is staged", pair.key_pair.short()));
        let remedy = format!("sidekey keyring promote {name} {}", pair.key_pair.short());
        add(Urgency::Soon, "key_pair_waits", why, remedy);
    }
    for held in &keyring.held {
        let in_folder = keyring.key_pairs.iter().any(|pair| pair.key_pair == *held && pair.in_folder);
        if in_folder {
            let what = format!(
                "key pair {} of {name} is newer than the current one but held, because a command chose the other",
                held.short()
            );
            let remedy = format!("sidekey keyring promote {name} {}, or remove it from the folder", held.short());
            add(Urgency::Soon, "key_pair_held", what, remedy);
        }
    }
}

/// Where a pair is kept whose files are gone.
fn where_kept(pair: &KeyPairView) -> &'static str {
    match pair.survives_restart {
        true => "it is served from memory and `state`",
        false => "it is served from memory, until a restart",
    }
}

/// What is wrong with those of `files` that no item has named yet, to be added to one.
fn take_faults<'f>(broken: &mut [(&FolderProblem, bool)], files: impl IntoIterator<Item = &'f FileName>) -> String {
    let mut said = String::new();
    for file in files {
        for (problem, named) in broken.iter_mut() {
            if problem.file == *file && !std::mem::replace(named, true) {
                let _ = write!(said, "; {}: {}", problem.file, problem.why);
            }
        }
    }
    said
}

/// Certificates that end before this are listed.
pub(super) fn soon(alert_before: Option<&[Duration]>, validity: Validity, now: Timestamp) -> Timestamp {
    now.saturating_add(longest_threshold(alert_before, validity.lifetime())).unwrap_or(Timestamp::MAX)
}

/// `expires in 9 days, on 2026-03-01`, `expired on 2026-03-01`.
pub(super) fn expiry(end: Timestamp, now: Timestamp) -> String {
    if end < now {
        return format!("expired on {}", format_day(end));
    }
    let hours = end.duration_since(now).as_hours();
    let left = if hours < 48 { format!("{hours} h") } else { format!("{} days", hours / 24) };
    format!("expires in {left}, on {}", format_day(end))
}

/// In the last week it is urgent.
pub(super) fn urgency(end: Timestamp, now: Timestamp) -> Urgency {
    if end.duration_since(now) < DAY * 7 { Urgency::Now } else { Urgency::Soon }
}
