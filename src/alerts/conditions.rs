//! Conditions known only from Events: refused drops, peers that refuse our pairs. Bounded, in memory only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::event::{
    Event, FolderRecord, KeyringRecord, LessonRecord, RefusalStatus, TokenOutcome, TokenRecord, UpstreamVerdict,
    VerdictRecord,
};
use crate::keyring::{self, KeyringName, Standing};
use crate::pki::{Fingerprint, ProblemSeverity};

/// Maximum entries of each kind; further ones are not recorded, as there is enough to act on.
const MAX_ENTRIES: usize = 1_000;

/// A refused drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedDrop {
    /// When.
    pub at: Timestamp,
    /// The key pair, if the drop contained one.
    pub key_pair: Option<Fingerprint>,
    /// Why it was refused.
    pub why: String,
    /// What to do.
    pub remedy: String,
}

/// The refusal of one of our pairs by a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPairRefusal {
    /// Its keyring.
    pub keyring: KeyringName,
    /// Since when.
    pub since: Timestamp,
    /// One sentence.
    pub explanation: String,
}

/// Identifies a refusal: the listener, the upstream or source, the pair.
type RefusalKey = (Arc<str>, String, Fingerprint);

/// The conditions reported by Events.
#[derive(Clone, Debug, Default)]
pub struct AlertConditions {
    /// Refused drops, by keyring (empty: the folder itself), file or pair, and reason.
    pub drops: BTreeMap<(Arc<str>, String, &'static str), RefusedDrop>,
    /// Refusals that still hold.
    pub refusals: BTreeMap<RefusalKey, KeyPairRefusal>,
    /// Pairs that wait for `promote` because they share no name with what they would replace.
    pub strangers: BTreeSet<Fingerprint>,
    /// Why decisions cannot be saved, and since when.
    pub not_remembered: Option<(String, Timestamp)>,
}

impl AlertConditions {
    /// Records an Event; returns whether it can affect the alerts.
    pub fn record_event(&mut self, event: &Event, now: Timestamp) -> bool {
        match event {
            Event::Folder(FolderRecord { keyring, problem, over: true }) => {
                let keyring = keyring.clone().unwrap_or_else(|| "".into());
                self.drops.remove(&(keyring, problem.file.to_string(), problem.reason));
            }
            Event::Folder(FolderRecord { keyring, problem, .. }) if problem.severity == ProblemSeverity::Refused => {
                let keyring = keyring.clone().unwrap_or_else(|| "".into());
                let drop = RefusedDrop {
                    at: now,
                    key_pair: None,
                    // For the folder itself the reason already names it.
                    why: match &*problem.file {
                        "." => problem.why.clone(),
                        file => format!("{file}: {}", problem.why),
                    },
                    remedy: problem.remedy.clone(),
                };
                self.record_drop((keyring, problem.file.to_string(), problem.reason), drop);
            }
            Event::Keyring(KeyringRecord {
                event: keyring::KeyringEvent::Moved { keyring, key_pair, to, reason, explanation, .. },
                ..
            }) => match to {
                // Its file is reported for what is broken about it.
                Standing::Refused if *reason == "broken_file" => return false,
                Standing::Refused => {
                    let drop = RefusedDrop {
                        at: now,
                        key_pair: Some(*key_pair),
                        why: explanation.clone(),
                        remedy: "drop a valid key pair, or remove this one from the folder".to_owned(),
                    };
                    self.record_drop((Arc::clone(keyring), key_pair.short(), reason), drop);
                }
                Standing::Staged if *reason == "shares_no_name" && self.strangers.len() < MAX_ENTRIES => {
                    self.strangers.insert(*key_pair);
                }
                _ => {
                    self.strangers.remove(key_pair);
                }
            },
            Event::Upstream(VerdictRecord { listener, upstream, keyring, key_pair, verdict, explanation, .. }) => {
                let by = (Arc::clone(listener), upstream.clone(), *key_pair);
                match verdict {
                    UpstreamVerdict::Refused => self.record_refusal(by, keyring, explanation, now),
                    UpstreamVerdict::Proved => drop(self.refusals.remove(&by)),
                    UpstreamVerdict::HandshakeOk => return false,
                }
            }
            Event::Token(TokenRecord { listener, endpoint, keyring, key_pair, outcome, explanation, .. }) => {
                let by = (Arc::clone(listener), endpoint.clone(), *key_pair);
                match outcome {
                    TokenOutcome::Refused => self.record_refusal(by, keyring, explanation, now),
                    TokenOutcome::Fetched => drop(self.refusals.remove(&by)),
                    TokenOutcome::Failed => return false,
                }
            }
            Event::Learned(LessonRecord { listener, source, keyring, refused, standing, explanation, .. }) => {
                let by = (Arc::clone(listener), source.clone(), *refused);
                match standing {
                    // It is not authenticated: anyone on the network path could have sent it.
                    RefusalStatus::Unconfirmed => return false,
                    RefusalStatus::Confirmed => self.record_refusal(by, keyring, explanation, now),
                    RefusalStatus::Forgotten => drop(self.refusals.remove(&by)),
                }
            }
            Event::NotRemembered(failure) => {
                let since = self.not_remembered.as_ref().map_or(now, |(_, since)| *since);
                self.not_remembered = (!failure.over).then(|| (format!("{}: {}", failure.file, failure.why), since));
            }
            Event::Epoch(_) | Event::Reloaded(_) => {}
            _ => return false,
        }
        true
    }

    fn record_drop(&mut self, key: (Arc<str>, String, &'static str), drop: RefusedDrop) {
        if self.drops.len() < MAX_ENTRIES || self.drops.contains_key(&key) {
            self.drops.insert(key, drop);
        }
    }

    fn record_refusal(&mut self, by: RefusalKey, keyring: &KeyringName, explanation: &str, now: Timestamp) {
        if self.refusals.len() < MAX_ENTRIES || self.refusals.contains_key(&by) {
            let new =
                || KeyPairRefusal { keyring: Arc::clone(keyring), since: now, explanation: explanation.to_owned() };
            self.refusals.entry(by).or_insert_with(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::FolderProblem;
    use crate::snapshot::Epoch;

    fn learned_refusal(number: u32, standing: RefusalStatus) -> Event {
        Event::Learned(LessonRecord {
            listener: "api".into(),
            source: format!("10.0.{}.{}", number >> 8, number & 255),
            keyring: "api".into(),
            refused: Fingerprint::of(&number.to_be_bytes()),
            shown: Fingerprint::of(b"old"),
            standing,
            peer: None,
            reason: "unknown_ca",
            explanation: "why".to_owned(),
            epoch: Epoch(1),
        })
    }

    fn dropped(number: u32) -> Event {
        let problem = FolderProblem {
            file: format!("{number}.crt").into(),
            reason: "malformed",
            why: "why".to_owned(),
            remedy: "remedy".to_owned(),
            severity: ProblemSeverity::Refused,
        };
        Event::Folder(FolderRecord { keyring: Some("api".into()), problem, over: false })
    }

    fn staged(number: u32) -> Event {
        let event = keyring::KeyringEvent::Moved {
            keyring: "api".into(),
            key_pair: Fingerprint::of(&number.to_be_bytes()),
            from: None,
            to: Standing::Staged,
            reason: "shares_no_name",
            explanation: "why".to_owned(),
            replaces: None,
            overlap_ends: None,
            sources: Vec::new(),
        };
        Event::Keyring(KeyringRecord { event, by: None, epoch: Epoch(1) })
    }

    #[test]
    fn fifty_thousand_sources_that_refuse_and_drops_are_recorded_up_to_the_limit_and_room_is_made_again() {
        let (mut conditions, now) = (AlertConditions::default(), Timestamp::UNIX_EPOCH);
        for number in 0..50_000 {
            for event in [learned_refusal(number, RefusalStatus::Confirmed), dropped(number), staged(number)] {
                conditions.record_event(&event, now);
            }
        }
        let sizes = |all: &AlertConditions| [all.drops.len(), all.refusals.len(), all.strangers.len()];
        assert_eq!(sizes(&conditions), [MAX_ENTRIES; 3]);
        conditions.record_event(&learned_refusal(0, RefusalStatus::Forgotten), now);
        assert_eq!(sizes(&conditions), [MAX_ENTRIES, MAX_ENTRIES - 1, MAX_ENTRIES]);
    }
}
