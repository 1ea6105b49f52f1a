//! Conditions known only from Events: refused drops, peers that refuse our pairs. Bounded, in memory only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::event::{Event, Lesson, TokenOutcome, Verdict};
use crate::keyring::{self, KeyringName, Standing};
use crate::pki::{Fingerprint, Severity};

/// How long a refused drop is reported as an alert.
const DROP: Duration = Duration::from_hours(1);
/// Maximum entries of each kind; further ones are not recorded, as there is enough to act on.
const MOST: usize = 1_000;

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
pub struct Refusal {
    /// Its keyring.
    pub keyring: KeyringName,
    /// Since when.
    pub since: Timestamp,
    /// One sentence.
    pub explanation: String,
}

/// Identifies a refusal: the listener, the upstream or source, the pair.
pub type RefusedBy = (Arc<str>, String, Fingerprint);

/// The conditions reported by Events.
#[derive(Clone, Debug, Default)]
pub struct Happened {
    /// Refused drops, by keyring (empty: the folder itself), file or pair, and reason.
    pub drops: BTreeMap<(Arc<str>, String, &'static str), RefusedDrop>,
    /// Refusals that still hold.
    pub refusals: BTreeMap<RefusedBy, Refusal>,
    /// Pairs that wait for `promote` because they share no name with what they would replace.
    pub strangers: BTreeSet<Fingerprint>,
}

impl Happened {
    /// Records an Event; returns whether it can affect the alerts.
    pub fn take(&mut self, event: &Event, now: Timestamp) -> bool {
        match event {
            Event::Folder { keyring, problem } if problem.severity == Severity::Refused => {
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
                self.drop((keyring, problem.file.to_string(), problem.reason), drop);
            }
            Event::Keyring {
                event: keyring::Event::Moved { keyring, key_pair, to, reason, explanation, .. }, ..
            } => match to {
                Standing::Refused => {
                    let drop = RefusedDrop {
                        at: now,
                        key_pair: Some(*key_pair),
                        why: explanation.clone(),
                        remedy: "drop a valid key pair, or remove this one from the folder".to_owned(),
                    };
                    self.drop((Arc::clone(keyring), key_pair.short(), reason), drop);
                }
                Standing::Staged if *reason == "shares_no_name" && self.strangers.len() < MOST => {
                    self.strangers.insert(*key_pair);
                }
                _ => {
                    self.strangers.remove(key_pair);
                }
            },
            Event::Upstream { listener, upstream, keyring, key_pair, verdict, explanation, .. } => {
                let by = (Arc::clone(listener), upstream.clone(), *key_pair);
                match verdict {
                    Verdict::Refused => self.refusal(by, keyring, explanation, now),
                    Verdict::Proved => drop(self.refusals.remove(&by)),
                    Verdict::HandshakeOk => return false,
                }
            }
            Event::Token { listener, endpoint, keyring, key_pair, outcome, explanation, .. } => {
                let by = (Arc::clone(listener), endpoint.clone(), *key_pair);
                match outcome {
                    TokenOutcome::Refused => self.refusal(by, keyring, explanation, now),
                    TokenOutcome::Fetched => drop(self.refusals.remove(&by)),
                    TokenOutcome::Failed => return false,
                }
            }
            Event::Learned { listener, source, keyring, refused, standing, explanation, .. } => {
                let by = (Arc::clone(listener), source.clone(), *refused);
                match standing {
                    // It is not authenticated: anyone on the network path could have sent it.
                    Lesson::Unconfirmed => return false,
                    Lesson::Confirmed => self.refusal(by, keyring, explanation, now),
                    Lesson::Forgotten => drop(self.refusals.remove(&by)),
                }
            }
            Event::Epoch { .. } | Event::Reloaded { .. } => {}
            _ => return false,
        }
        true
    }

    /// Removes expired drops.
    pub fn tick(&mut self, now: Timestamp) {
        self.drops.retain(|_, drop| now.duration_since(drop.at).unsigned_abs() < DROP);
    }

    fn drop(&mut self, key: (Arc<str>, String, &'static str), drop: RefusedDrop) {
        if self.drops.len() < MOST || self.drops.contains_key(&key) {
            self.drops.insert(key, drop);
        }
    }

    fn refusal(&mut self, by: RefusedBy, keyring: &KeyringName, explanation: &str, now: Timestamp) {
        if self.refusals.len() < MOST || self.refusals.contains_key(&by) {
            let new = || Refusal { keyring: Arc::clone(keyring), since: now, explanation: explanation.to_owned() };
            self.refusals.entry(by).or_insert_with(new);
        }
    }
}
