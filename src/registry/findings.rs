//! The audit: what needs attention, derived from the registry's content at a given time. Pure.
//!
//! Each finding says what is wrong, with the values, and what to do. One that many instances report names them all.
//! An instance that has not written for a week is ignored: its pod is gone, and its rows are history.

mod keyrings;
mod peers;
mod trusts;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::{KeyringRow, PlacementRow, RegistryInventory, TextList, UnixSeconds};
use crate::keyring::warning::longest_threshold;

const DAY: i64 = 86_400;
/// An instance that last wrote so long before the latest one is ignored.
const MAX_INSTANCE_SILENCE: i64 = 7 * DAY;
/// A peer that was not seen for longer is ignored.
const MAX_PEER_SILENCE: i64 = 30 * DAY;
/// How long an alert that could not be delivered stays a finding.
const GIVEN_UP_RETENTION: i64 = 30 * DAY;

/// A condition that needs attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable code.
    pub finding: &'static str,
    /// The keyring, trust or peer it is about.
    pub about: String,
    /// The pair or certificate it is about.
    pub key_pair: Option<String>,
    /// What is wrong, one sentence with the values.
    pub explanation: String,
    /// What to do.
    pub remedy: String,
    /// The contact to ask.
    pub contact: Option<String>,
    /// The instances that report it.
    pub instances: Vec<String>,
}

/// The peers that findings may be about, with all the rows of each; the rows of others need not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditedPeers {
    /// Rows that were seen since this second count.
    pub seen_since: i64,
    /// A peer with a certificate that ends by this second is one of them.
    pub ends_by: i64,
}

impl AuditedPeers {
    /// At this time, with these keyrings.
    pub fn select(keyrings: &[KeyringRow], now: Timestamp) -> Self {
        let lists = keyrings.iter().filter_map(|ring| ring.alert_before.as_ref());
        let configured = lists.flat_map(|list| list.iter()).filter_map(|text| text.parse().ok());
        let longest = configured.chain([longest_threshold(None, Duration::MAX).as_secs()]).max().unwrap_or_default();
        let ends_by = now.as_second().saturating_add_unsigned(longest);
        Self { seen_since: now.as_second() - MAX_PEER_SILENCE, ends_by }
    }
}

/// Every finding, in a stable order. Of the inventory's peers those of [`AuditedPeers`] are enough.
pub fn findings(inventory: &RegistryInventory, now: Timestamp) -> Vec<Finding> {
    let audit = InventoryAudit::new(inventory, now);
    audit.check_keyrings();
    audit.check_key_pairs();
    audit.check_shared_keys();
    audit.check_waiting_keys();
    audit.check_peers();
    audit.check_own_issuers();
    audit.check_anchors();
    audit.check_crls();
    audit.check_undelivered();
    let mut all: Vec<Finding> = audit.found.into_inner().into_values().collect();
    all.sort_by(|a, b| (a.finding, &a.about, &a.key_pair).cmp(&(b.finding, &b.about, &b.key_pair)));
    all
}

type FindingKey = (&'static str, String, Option<String>);

struct InventoryAudit<'a> {
    inventory: &'a RegistryInventory,
    now: i64,
    live: BTreeSet<&'a str>,
    rings: BTreeMap<(&'a str, &'a str), &'a KeyringRow>,
    /// By keyring and pair, over all instances that ever had it: pods come and go, the pair stays.
    ages: BTreeMap<(&'a str, &'a str), KeyPairAge>,
    found: std::cell::RefCell<BTreeMap<FindingKey, Finding>>,
}

/// What all instances together know about a pair in a keyring.
#[derive(Clone, Copy)]
struct KeyPairAge {
    /// Since when it was present with its standing.
    since: i64,
    used: Option<i64>,
}

/// The text of a finding.
struct FindingText {
    explanation: String,
    remedy: String,
}

impl<'a> InventoryAudit<'a> {
    fn new(inventory: &'a RegistryInventory, now: Timestamp) -> Self {
        let latest = inventory.instances.iter().map(|instance| instance.last_seen.0).max().unwrap_or(0);
        let heard = inventory.instances.iter().filter(|instance| instance.last_seen.0 >= latest - MAX_INSTANCE_SILENCE);
        let live: BTreeSet<&str> = heard.map(|instance| instance.instance.as_str()).collect();
        let present = inventory.keyrings.iter().filter(|keyring| keyring.present.is_set());
        let rings = present
            .filter(|keyring| live.contains(keyring.instance.as_str()))
            .map(|keyring| ((keyring.instance.as_str(), keyring.keyring.as_str()), keyring))
            .collect();
        let mut ages: BTreeMap<(&str, &str), KeyPairAge> = BTreeMap::new();
        for pair in &inventory.key_pairs {
            let since = pair.since.0.max(pair.first_seen.0);
            let age = ages.entry((&pair.keyring, &pair.key_pair)).or_insert(KeyPairAge { since, used: None });
            age.since = age.since.min(since);
            age.used = age.used.max(pair.last_used.map(|used| used.0));
        }
        Self { inventory, now: now.as_second(), live, rings, ages, found: std::cell::RefCell::default() }
    }

    fn add_finding(
        &self,
        finding: &'static str,
        (about, key_pair): (&str, Option<&str>),
        instance: &str,
        said: FindingText,
    ) {
        let contact = self.rings.get(&(instance, about)).and_then(|ring| ring.contact.clone());
        let key = (finding, about.to_owned(), key_pair.map(str::to_owned));
        let mut found = self.found.borrow_mut();
        let entry = found.entry(key).or_insert_with(|| Finding {
            finding,
            about: about.to_owned(),
            key_pair: key_pair.map(str::to_owned),
            explanation: said.explanation,
            remedy: said.remedy,
            contact,
            instances: Vec::new(),
        });
        if !entry.instances.iter().any(|known| known == instance) {
            entry.instances.push(instance.to_owned());
        }
    }

    /// Adds a finding about a pair in its keyring, at its instance.
    fn add_pair_finding(&self, finding: &'static str, pair: &PlacementRow, said: FindingText) {
        self.add_finding(finding, (&pair.keyring, Some(&pair.key_pair)), &pair.instance, said);
    }

    /// Pairs that are in a keyring now.
    fn present_key_pairs(&self) -> impl Iterator<Item = &'a PlacementRow> {
        self.inventory
            .key_pairs
            .iter()
            .filter(|pair| pair.present.is_set() && self.live.contains(pair.instance.as_str()))
    }

    /// The longest threshold of a keyring at an instance (contract section 5).
    fn warning_threshold(&self, instance: &str, keyring: &str, lifetime: i64) -> i64 {
        let ring = self.rings.get(&(instance, keyring));
        let seconds =
            |list: &TextList| list.iter().filter_map(|text| text.parse().ok()).map(Duration::from_secs).collect();
        let list: Option<Vec<Duration>> = ring.and_then(|ring| ring.alert_before.as_ref()).map(seconds);
        let lifetime = Duration::from_secs(lifetime.unsigned_abs());
        longest_threshold(list.filter(|list| !list.is_empty()).as_deref(), lifetime).as_secs().cast_signed()
    }

    fn check_undelivered(&self) {
        let recent = self.inventory.alerts.iter().filter(|alert| self.now - alert.raised.0 <= GIVEN_UP_RETENTION);
        for alert in recent.filter(|alert| alert.state == "given_up") {
            self.add_finding(
                "alert_given_up",
                (&alert.keyring, Some(&alert.alert)),
                &alert.raised_by,
                FindingText {
                    explanation: format!(
                        "an alert could not be sent to {} in {} attempts ({}): {}",
                        alert.sink,
                        alert.attempts,
                        alert.error.as_deref().unwrap_or("unknown reason"),
                        alert.summary
                    ),
                    remedy: "repair the sink, and act on the alert".to_owned(),
                },
            );
        }
    }
}

fn expiry(left: i64, end: UnixSeconds) -> String {
    if left < 0 { format!("expired on {}", day(end)) } else { format!("expires in {} ({})", days(left), day(end)) }
}

/// `60 days`, `5 hours`.
fn days(seconds: i64) -> String {
    let (count, unit) = if seconds >= 2 * DAY { (seconds / DAY, "day") } else { (seconds / 3600, "hour") };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

fn day(time: UnixSeconds) -> String {
    crate::pki::format_day(time.time())
}

#[cfg(test)]
mod tests;
