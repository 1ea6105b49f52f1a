//! Findings about keyrings and their key pairs.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Placed, Seconds, WaitingKey};
use super::{Audit, DAY, Said, day, days, expiry};

/// A current pair that has not been used for so long may no longer be needed.
const UNUSED: i64 = 90 * DAY;
/// How long a key may wait for its certificate.
const WAITS: i64 = 7 * DAY;

/// The longest lifetime that public CAs may give to a certificate that is issued from a day on (CA/Browser Forum,
/// Baseline Requirements 6.3.2), the latest first: seconds since 1970, and days.
const PUBLIC_LIMITS: [(i64, i64); 7] = [
    (1_868_227_200, 47),   // 2029-03-15
    (1_805_068_800, 100),  // 2027-03-15
    (1_773_532_800, 200),  // 2026-03-15
    (1_598_918_400, 398),  // 2020-09-01
    (1_519_862_400, 825),  // 2018-03-01
    (1_427_846_400, 1187), // 2015-04-01: 39 months
    (1_341_100_800, 1826), // 2012-07-01: 60 months
];

impl Audit<'_> {
    pub(super) fn keyrings(&self) {
        for ((instance, name), ring) in &self.rings {
            if ring.owner.is_none() {
                let contact =
                    if ring.contact.is_none() { " and no contact: its alerts are not sent by mail" } else { "" };
                self.note(
                    "no_owner",
                    (name, None),
                    instance,
                    Said {
                        explanation: format!("keyring {name} has no owner{contact}"),
                        remedy: format!("set owner = \"…\" and contact = \"…\" in [keyring.{name}]"),
                    },
                );
            }
        }
    }

    pub(super) fn key_pairs(&self) {
        for pair in self.placed() {
            if let Some(weakness) = &pair.weakness {
                self.note_pair(
                    "weak_key",
                    pair,
                    Said {
                        explanation: format!("{} in keyring {} is weak: {weakness}", pair.short(), pair.keyring),
                        remedy: "order a stronger one: sidekey keyring new".to_owned(),
                    },
                );
            }
            if matches!(pair.standing.as_str(), "current" | "staged") {
                self.lifetime(pair);
            }
            if pair.standing == "current" {
                self.successor(pair);
                self.chain(pair);
                self.schedule(pair);
                self.use_of(pair);
            }
        }
    }

    fn lifetime(&self, pair: &Placed) {
        let Some((_, limit)) = PUBLIC_LIMITS.iter().find(|(from, _)| *from <= pair.not_before.0) else { return };
        // Both ends are included (RFC 5280 4.1.2.5). Self-issued certificates follow no public CA's rules.
        let lifetime = pair.not_after.0 - pair.not_before.0 + 1;
        if lifetime <= limit * DAY || pair.self_issued.is_set() {
            return;
        }
        self.note_pair(
            "long_lifetime",
            pair,
            Said {
                explanation: format!(
                    "{} in keyring {} is valid for {} days; the public CAs' limit for a certificate of {} is {limit}",
                    pair.short(),
                    pair.keyring,
                    lifetime / DAY,
                    day(pair.not_before),
                ),
                remedy:
                    "order shorter-lived ones and rotate them: partners that follow the public rules refuse long ones"
                        .to_owned(),
            },
        );
    }

    fn successor(&self, pair: &Placed) {
        let left = pair.not_after.0 - self.now;
        if left > self.warned_from(&pair.instance, &pair.keyring, pair.not_after.0 - pair.not_before.0) {
            return;
        }
        let later = |other: &&Placed| {
            other.keyring == pair.keyring
                && other.instance == pair.instance
                && other.standing == "staged"
                && other.not_after.0 > pair.not_after.0
        };
        if let Some(staged) = self.placed().find(later) {
            // The successor is staged: until it becomes valid, or an operator promotes it.
            if staged.not_before.0 <= self.now {
                self.note_pair(
                    "no_successor",
                    pair,
                    Said {
                        explanation: format!(
                            "{} in keyring {} {}, and its successor {} is still staged",
                            pair.short(),
                            pair.keyring,
                            expiry(left, pair.not_after),
                            staged.short()
                        ),
                        remedy: format!("promote it: sidekey keyring promote {} {}", pair.keyring, staged.short()),
                    },
                );
            }
            return;
        }
        self.note_pair(
            "no_successor",
            pair,
            Said {
                explanation: format!(
                    "{} in keyring {} {}, and it has no successor",
                    pair.short(),
                    pair.keyring,
                    expiry(left, pair.not_after)
                ),
                remedy: format!("order one, and drop it beside the old one in the folder of keyring {}", pair.keyring),
            },
        );
    }

    /// An intermediate that ends before the pair: every peer refuses the chain from then on.
    fn chain(&self, pair: &Placed) {
        let Some(end) = pair.chain_ends else { return };
        let left = end.0 - self.now;
        if left > self.warned_from(&pair.instance, &pair.keyring, pair.not_after.0 - pair.not_before.0) {
            return;
        }
        self.note_pair(
            "chain_expires",
            pair,
            Said {
                explanation: format!(
                    "the intermediate {} in the chain of {} in keyring {} {}, before the pair itself does ({})",
                    pair.chain_issuer.as_deref().unwrap_or_default(),
                    pair.short(),
                    pair.keyring,
                    expiry(left, end),
                    day(pair.not_after)
                ),
                remedy: format!(
                    "request the next intermediate from its CA, and drop the new chain into the folder of keyring {}",
                    pair.keyring
                ),
            },
        );
    }

    fn schedule(&self, pair: &Placed) {
        let ring = self.rings.get(&(pair.instance.as_str(), pair.keyring.as_str()));
        let Some(every) = ring.and_then(|ring| ring.rotate_every) else { return };
        // Without state every start looks like an activation: an earlier sighting on any instance counts, or else the
        // time of issue.
        let age = self.ages[&(pair.keyring.as_str(), pair.key_pair.as_str())];
        let since = pair.since.0.min(age.since).min(pair.not_before.0);
        if self.now - since <= every {
            return;
        }
        self.note_pair(
            "past_schedule",
            pair,
            Said {
                explanation: format!(
                    "keyring {} must be rotated every {}, but {} dates from {}",
                    pair.keyring,
                    days(every),
                    pair.short(),
                    day(Seconds(since))
                ),
                remedy: "order a new key pair with a new private key".to_owned(),
            },
        );
    }

    fn use_of(&self, pair: &Placed) {
        // Use on any instance counts.
        let age = self.ages[&(pair.keyring.as_str(), pair.key_pair.as_str())];
        if self.now - age.used.map_or(age.since, |used| used.max(age.since)) <= UNUSED {
            return;
        }
        self.note_pair(
            "unused",
            pair,
            Said {
                explanation: match age.used {
                    Some(used) => {
                        format!("{} in keyring {} was last used on {}", pair.short(), pair.keyring, day(Seconds(used)))
                    }
                    None => format!(
                        "{} in keyring {} has not been used since {}",
                        pair.short(),
                        pair.keyring,
                        day(Seconds(age.since))
                    ),
                },
                remedy: "ask its owner whether it is needed; if not, remove the keyring and its listener".to_owned(),
            },
        );
    }

    pub(super) fn shared_keys(&self) {
        let mut keys: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let in_use = |pair: &&Placed| matches!(pair.standing.as_str(), "staged" | "current" | "previous");
        for pair in self.placed().filter(in_use) {
            keys.entry(&pair.spki).or_default().insert(&pair.keyring);
        }
        for pair in self.placed().filter(in_use) {
            let rings = &keys[pair.spki.as_str()];
            if rings.len() < 2 {
                continue;
            }
            let all: Vec<&str> = rings.iter().copied().collect();
            self.note(
                "shared_private_key",
                (all[0], Some(&pair.spki)),
                &pair.instance,
                Said {
                    explanation: format!("keyrings {} share the same private key", all.join(", ")),
                    remedy: "generate a key for each, so that a leaked key compromises only one keyring".to_owned(),
                },
            );
        }
    }

    pub(super) fn waiting_keys(&self) {
        let live = |key: &&WaitingKey| key.present.is_set() && self.live.contains(key.instance.as_str());
        for key in self.inventory.waiting_keys.iter().filter(live) {
            let same = |other: &&WaitingKey| other.keyring == key.keyring && other.spki == key.spki;
            let all = self.inventory.waiting_keys.iter().filter(same);
            let since = all.map(|other| other.first_seen.0).min().unwrap_or(key.first_seen.0);
            if self.now - since > WAITS {
                self.note(
                    "waiting_key",
                    (&key.keyring, Some(&key.spki)),
                    &key.instance,
                    Said {
                        explanation: format!(
                            "key {} in keyring {} has been waiting for its certificate since {}",
                            key.file,
                            key.keyring,
                            day(Seconds(since))
                        ),
                        remedy: "get the certificate from the CA, or remove the key from the folder".to_owned(),
                    },
                );
            }
        }
    }
}
