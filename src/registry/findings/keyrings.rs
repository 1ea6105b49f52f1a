//! Findings about keyrings and their key pairs.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{PlacementRow, UnixSeconds, WaitingKeyRow};
use super::{DAY, FindingText, InventoryAudit, day, days, expiry};

/// A current pair that has not been used for so long may no longer be needed.
const UNUSED_AFTER: i64 = 90 * DAY;
/// How long a key may wait for its certificate.
const MAX_KEY_WAIT: i64 = 7 * DAY;

/// The longest lifetime that public CAs may give to a certificate that is issued from a day on (CA/Browser Forum,
/// Baseline Requirements 6.3.2), the latest first: seconds since 1970, and days.
const PUBLIC_CA_LIMITS: [(i64, i64); 7] = [
    (1_868_227_200, 47),   // 2029-03-15
    (1_805_068_800, 100),  // 2027-03-15
    (1_773_532_800, 200),  // 2026-03-15
    (1_598_918_400, 398),  // 2020-09-01
    (1_519_862_400, 825),  // 2018-03-01
    (1_427_846_400, 1187), // 2015-04-01: 39 months
    (1_341_100_800, 1826), // 2012-07-01: 60 months
];

impl InventoryAudit<'_> {
    pub(super) fn check_keyrings(&self) {
        for ((instance, name), ring) in &self.rings {
            if ring.owner.is_none() {
                let contact =
                    if ring.contact.is_none() { " and no contact: its alerts are not sent by mail" } else { "" };
                self.add_finding(
                    "no_owner",
                    (name, None),
                    instance,
                    FindingText {
                        explanation: format!("keyring {name} has no owner{contact}"),
                        remedy: format!("set owner = \"…\" and contact = \"…\" in [keyring.{name}]"),
                    },
                );
            }
        }
    }

    pub(super) fn check_key_pairs(&self) {
        for pair in self.present_key_pairs() {
            if let Some(weakness) = &pair.weakness {
                self.add_pair_finding(
                    "weak_key",
                    pair,
                    FindingText {
                        explanation: format!("{} in keyring {} is weak: {weakness}", pair.short(), pair.keyring),
                        remedy: "order a stronger one: sidekey keyring new".to_owned(),
                    },
                );
            }
            if matches!(pair.standing.as_str(), "current" | "staged") {
                self.check_lifetime(pair);
            }
            if pair.standing == "current" {
                self.check_successor(pair);
                self.check_chain(pair);
                self.check_schedule(pair);
                self.check_usage(pair);
            }
        }
    }

    fn check_lifetime(&self, pair: &PlacementRow) {
        let Some((_, limit)) = PUBLIC_CA_LIMITS.iter().find(|(from, _)| *from <= pair.not_before.0) else { return };
        // Both ends are included (RFC 5280 4.1.2.5). Self-issued certificates follow no public CA's rules.
        let lifetime = pair.not_after.0 - pair.not_before.0 + 1;
        if lifetime <= limit * DAY || pair.self_issued.is_set() {
            return;
        }
        self.add_pair_finding(
            "long_lifetime",
            pair,
            FindingText {
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

    fn check_successor(&self, pair: &PlacementRow) {
        let left = pair.not_after.0 - self.now;
        if left > self.warning_threshold(&pair.instance, &pair.keyring, pair.not_after.0 - pair.not_before.0) {
            return;
        }
        let later = |other: &&PlacementRow| {
            other.keyring == pair.keyring
                && other.instance == pair.instance
                && other.standing == "staged"
                && other.not_after.0 > pair.not_after.0
        };
        if let Some(staged) = self.present_key_pairs().find(later) {
            // The successor is staged: until it becomes valid, or an operator promotes it.
            if staged.not_before.0 <= self.now {
                self.add_pair_finding(
                    "no_successor",
                    pair,
                    FindingText {
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
        self.add_pair_finding(
            "no_successor",
            pair,
            FindingText {
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
    fn check_chain(&self, pair: &PlacementRow) {
        let Some(end) = pair.chain_ends else { return };
        let left = end.0 - self.now;
        if left > self.warning_threshold(&pair.instance, &pair.keyring, pair.not_after.0 - pair.not_before.0) {
            return;
        }
        self.add_pair_finding(
            "chain_expires",
            pair,
            FindingText {
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

    fn check_schedule(&self, pair: &PlacementRow) {
        let ring = self.rings.get(&(pair.instance.as_str(), pair.keyring.as_str()));
        let Some(every) = ring.and_then(|ring| ring.rotate_every) else { return };
        // Without state every start looks like an activation: an earlier sighting on any instance counts, or else the
        // time of issue.
        let age = self.ages[&(pair.keyring.as_str(), pair.key_pair.as_str())];
        let since = pair.since.0.min(age.since).min(pair.not_before.0);
        if self.now - since <= every {
            return;
        }
        self.add_pair_finding(
            "past_schedule",
            pair,
            FindingText {
                explanation: format!(
                    "keyring {} must be rotated every {}, but {} dates from {}",
                    pair.keyring,
                    days(every),
                    pair.short(),
                    day(UnixSeconds(since))
                ),
                remedy: "order a new key pair with a new private key".to_owned(),
            },
        );
    }

    fn check_usage(&self, pair: &PlacementRow) {
        // Use on any instance counts.
        let age = self.ages[&(pair.keyring.as_str(), pair.key_pair.as_str())];
        if self.now - age.used.map_or(age.since, |used| used.max(age.since)) <= UNUSED_AFTER {
            return;
        }
        self.add_pair_finding(
            "unused",
            pair,
            FindingText {
                explanation: match age.used {
                    Some(used) => {
                        format!(
                            "{} in keyring {} was last used on {}",
                            pair.short(),
                            pair.keyring,
                            day(UnixSeconds(used))
                        )
                    }
                    None => format!(
                        "{} in keyring {} has not been used since {}",
                        pair.short(),
                        pair.keyring,
                        day(UnixSeconds(age.since))
                    ),
                },
                remedy: "ask its owner whether it is needed; if not, remove the keyring and its listener".to_owned(),
            },
        );
    }

    pub(super) fn check_shared_keys(&self) {
        let mut keys: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let in_use = |pair: &&PlacementRow| matches!(pair.standing.as_str(), "staged" | "current" | "previous");
        for pair in self.present_key_pairs().filter(in_use) {
            keys.entry(&pair.spki).or_default().insert(&pair.keyring);
        }
        for pair in self.present_key_pairs().filter(in_use) {
            let rings = &keys[pair.spki.as_str()];
            if rings.len() < 2 {
                continue;
            }
            let all: Vec<&str> = rings.iter().copied().collect();
            self.add_finding(
                "shared_private_key",
                (all[0], Some(&pair.spki)),
                &pair.instance,
                FindingText {
                    explanation: format!("keyrings {} share the same private key", all.join(", ")),
                    remedy: "generate a key for each, so that a leaked key compromises only one keyring".to_owned(),
                },
            );
        }
    }

    pub(super) fn check_waiting_keys(&self) {
        let live = |key: &&WaitingKeyRow| key.present.is_set() && self.live.contains(key.instance.as_str());
        for key in self.inventory.waiting_keys.iter().filter(live) {
            let same = |other: &&WaitingKeyRow| other.keyring == key.keyring && other.spki == key.spki;
            let all = self.inventory.waiting_keys.iter().filter(same);
            let since = all.map(|other| other.first_seen.0).min().unwrap_or(key.first_seen.0);
            if self.now - since > MAX_KEY_WAIT {
                self.add_finding(
                    "waiting_key",
                    (&key.keyring, Some(&key.spki)),
                    &key.instance,
                    FindingText {
                        explanation: format!(
                            "key {} in keyring {} has been waiting for its certificate since {}",
                            key.file,
                            key.keyring,
                            day(UnixSeconds(since))
                        ),
                        remedy: "get the certificate from the CA, or remove the key from the folder".to_owned(),
                    },
                );
            }
        }
    }
}
