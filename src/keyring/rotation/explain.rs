//! The explanation of each change of standing: what happened, the values, and what to do.
//!
//! For people only: no program parses these sentences. Reason codes are set where the decision is made.

use super::super::Standing;
use super::super::fit::{describe, format_time};
use super::Keyring;
use super::entry::{KeyringEntry, WaitReason};
use crate::pki::Fingerprint;
use crate::pki::blocks::STAGED_LINE;

/// Why a pair is staged.
pub(super) fn explain_staged(entry: &KeyringEntry) -> String {
    let name = describe(&entry.held.pair);
    let not_before = format_time(entry.held.pair.validity().not_before);
    match (entry.reason, entry.due, entry.waits) {
        ("not_yet_valid", Some(due), None) => {
            format!("{name} is not valid before {not_before}; it will be used from {} on", format_time(due))
        }
        ("not_yet_valid", Some(due), Some(_)) => {
            format!("{name} is not valid before {not_before}; promote it after {}", format_time(due))
        }
        (_, _, Some(WaitReason::SharesNoName)) => format!(
            "{name} shares no name with the current key pair: if it belongs here, promote it, else remove it from the folder"
        ),
        (_, _, Some(WaitReason::Marked)) => format!(
            "{name} is staged because its file says so (\"{STAGED_LINE}\"); promote it to make it current, or remove that line"
        ),
        _ => format!("{name} is staged because activate = \"manual\"; promote it to make it current"),
    }
}

/// Why a pair of a broken file is refused.
pub(super) fn explain_broken(entry: &KeyringEntry) -> String {
    let (name, file) =
        (describe(&entry.held.pair), entry.held.pair.origin().broken_file.as_deref().unwrap_or_default());
    format!("{name} is not used, because {file} is broken and a whole key pair is there: copy {file} again")
}

/// Explains a change of standing. `replaces` is the pair that was current until now.
pub(super) fn explain_move(keyring: &Keyring, entry: &KeyringEntry, replaces: Option<Fingerprint>) -> String {
    let name = describe(&entry.held.pair);
    match entry.held.standing {
        Standing::Current => {
            let mut text = explain_current(keyring, entry, replaces);
            if let Some(warning) = &entry.held.why {
                text.push_str("; warning: ");
                text.push_str(warning);
            }
            text
        }
        Standing::Previous => {
            let ends = entry.held.overlap_ends.map_or_else(String::new, format_time);
            match entry.reason {
                "older_than_current" => {
                    let current = keyring.current_entry().map_or_else(String::new, |current| {
                        let since = format_time(current.held.pair.validity().not_before);
                        format!("{} (valid from {since})", describe(&current.held.pair))
                    });
                    let from = format_time(entry.held.pair.validity().not_before);
                    let begin = |entry: &KeyringEntry| entry.held.pair.validity().not_before;
                    if keyring.current_entry().is_some_and(|current| begin(current) == begin(entry)) {
                        return format!(
                            "{name} begins at the same time as the current {current}: of such a tie the longer validity is current, then the fingerprint decides; both stay valid until {ends}; promote it to make it current"
                        );
                    }
                    format!(
                        "{name} (valid from {from}) is older than the current {current}; both stay valid until {ends}; promote it to make it current"
                    )
                }
                _ => format!("{name} was replaced; it stays valid alongside its successor until {ends}"),
            }
        }
        Standing::Retired => explain_retired(entry, &name),
        Standing::Revoked => format!("{name} was revoked: it never serves again, and its retained copy is deleted"),
        Standing::Refused | Standing::Staged => {
            entry.held.why.clone().unwrap_or_else(|| format!("{name} is {}", entry.held.standing.as_str()))
        }
    }
}

fn explain_current(keyring: &Keyring, entry: &KeyringEntry, replaces: Option<Fingerprint>) -> String {
    let name = describe(&entry.held.pair);
    let until = format_time(entry.held.pair.validity().not_after);
    let Some(old) = replaces.and_then(|old| keyring.entries.get(&old)) else {
        return format!("{name} is current and valid until {until}");
    };
    let old_name = describe(&old.held.pair);
    let why = match entry.reason {
        "configured" => "the configuration sets it".to_owned(),
        "promoted" => "it was promoted".to_owned(),
        "rolled_back" => {
            format!("rolled back; {old_name} is held back until it is promoted, or removed and added again")
        }
        "due" => "it became valid".to_owned(),
        "revoked" => format!("{old_name} was revoked"),
        "expired" => format!("{old_name} expired on {}", format_time(old.held.pair.validity().not_after)),
        "returned" => "the folder holds it again, and no newer one".to_owned(),
        "newer_arrived" if entry.held.pair.validity().not_before == old.held.pair.validity().not_before => format!(
            "both are valid from {}, and of such a tie the longer validity is current, then the fingerprint decides",
            format_time(old.held.pair.validity().not_before)
        ),
        "newer_arrived" => {
            format!("valid from {}, it is the newest in the folder", format_time(entry.held.pair.validity().not_before))
        }
        _ => "it is the newest left in the folder".to_owned(),
    };
    let overlap = match old.held.overlap_ends {
        Some(ends) => format!("both are valid until {}", format_time(ends)),
        None => format!("{old_name} is {}", old.held.standing.as_str()),
    };
    format!("{name} is current and valid until {until}, replacing {old_name}: {why}; {overlap}")
}

fn explain_retired(entry: &KeyringEntry, name: &str) -> String {
    match entry.reason {
        "expired" => format!("{name} expired on {} and is retired", format_time(entry.held.pair.validity().not_after)),
        "more_than_eight_previous" => {
            format!(
                "{name} is retired: there are more than 8 previous key pairs, and it is the oldest; remove old files from the folder"
            )
        }
        "retired_by_command" => format!("{name} was retired by command; connections made with it are drained"),
        "withdrawn" => format!("{name} was staged and is no longer in the folder"),
        _ => format!("the overlap of {name} has ended; connections made with it are drained"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Keyring;
    use crate::keyring::pool::{TEST_PAIRS, day};
    use crate::keyring::{KeyringSettings, PersistedKeyring};

    #[test]
    fn a_tie_of_not_before_is_called_one() {
        let pair = |at: usize| Arc::clone(&TEST_PAIRS[at]);
        // Both begin on day 0; the last lasts longer.
        for (first, both) in [(0, [0, 9]), (9, [9, 0])] {
            let settings = KeyringSettings::with_defaults("api".into());
            let mut keyring = Keyring::restore(settings, &PersistedKeyring::default(), Vec::new());
            keyring.arrive(&[pair(first)], day(20));
            let told = format!("{:?}", keyring.arrive(&both.map(pair), day(26)));
            assert!(told.contains("of such a tie the longer validity is current"), "{told}");
            assert!(!told.contains("is older") && !told.contains("the newest"), "{told}");
            let current = keyring.current_entry().map(|entry| entry.held.pair.fingerprint());
            assert_eq!(current, Some(pair(9).fingerprint()));
        }
    }
}
