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

use super::{Inventory, Keyring, Placed, Seconds, Texts};
use crate::keyring::warning::longest;

const DAY: i64 = 86_400;
/// An instance that last wrote so long before the latest one is ignored.
const SILENT: i64 = 7 * DAY;
/// How long an alert that could not be delivered stays a finding.
const GIVEN_UP: i64 = 30 * DAY;

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

/// Every finding, in a stable order.
pub fn findings(inventory: &Inventory, now: Timestamp) -> Vec<Finding> {
    let audit = Audit::new(inventory, now);
    audit.keyrings();
    audit.key_pairs();
    audit.shared_keys();
    audit.waiting_keys();
    audit.peers();
    audit.own_issuers();
    audit.anchors();
    audit.crls();
    audit.undelivered();
    let mut all: Vec<Finding> = audit.found.into_inner().into_values().collect();
    all.sort_by(|a, b| (a.finding, &a.about, &a.key_pair).cmp(&(b.finding, &b.about, &b.key_pair)));
    all
}

type FoundKey = (&'static str, String, Option<String>);

struct Audit<'a> {
    inventory: &'a Inventory,
    now: i64,
    live: BTreeSet<&'a str>,
    rings: BTreeMap<(&'a str, &'a str), &'a Keyring>,
    /// By keyring and pair, over all instances that ever had it: pods come and go, the pair stays.
    ages: BTreeMap<(&'a str, &'a str), Age>,
    found: std::cell::RefCell<BTreeMap<FoundKey, Finding>>,
}

/// What all instances together know about a pair in a keyring.
#[derive(Clone, Copy)]
struct Age {
    /// Since when it was present with its standing.
    since: i64,
    used: Option<i64>,
}

/// The text of a finding.
struct Said {
    explanation: String,
    remedy: String,
}

impl<'a> Audit<'a> {
    fn new(inventory: &'a Inventory, now: Timestamp) -> Self {
        let latest = inventory.instances.iter().map(|instance| instance.last_seen.0).max().unwrap_or(0);
        let heard = inventory.instances.iter().filter(|instance| instance.last_seen.0 >= latest - SILENT);
        let live: BTreeSet<&str> = heard.map(|instance| instance.instance.as_str()).collect();
        let present = inventory.keyrings.iter().filter(|keyring| keyring.present.is_set());
        let rings = present
            .filter(|keyring| live.contains(keyring.instance.as_str()))
            .map(|keyring| ((keyring.instance.as_str(), keyring.keyring.as_str()), keyring))
            .collect();
        let mut ages: BTreeMap<(&str, &str), Age> = BTreeMap::new();
        for pair in &inventory.key_pairs {
            let since = pair.since.0.max(pair.first_seen.0);
            let age = ages.entry((&pair.keyring, &pair.key_pair)).or_insert(Age { since, used: None });
            age.since = age.since.min(since);
            age.used = age.used.max(pair.last_used.map(|used| used.0));
        }
        Self { inventory, now: now.as_second(), live, rings, ages, found: std::cell::RefCell::default() }
    }

    fn note(&self, finding: &'static str, (about, key_pair): (&str, Option<&str>), instance: &str, said: Said) {
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
    fn note_pair(&self, finding: &'static str, pair: &Placed, said: Said) {
        self.note(finding, (&pair.keyring, Some(&pair.key_pair)), &pair.instance, said);
    }

    /// Pairs that are in a keyring now.
    fn placed(&self) -> impl Iterator<Item = &'a Placed> {
        self.inventory
            .key_pairs
            .iter()
            .filter(|pair| pair.present.is_set() && self.live.contains(pair.instance.as_str()))
    }

    /// The longest threshold of a keyring at an instance (contract section 5).
    fn warned_from(&self, instance: &str, keyring: &str, lifetime: i64) -> i64 {
        let ring = self.rings.get(&(instance, keyring));
        let seconds =
            |list: &Texts| list.iter().filter_map(|text| text.parse().ok()).map(Duration::from_secs).collect();
        let list: Option<Vec<Duration>> = ring.and_then(|ring| ring.alert_before.as_ref()).map(seconds);
        let lifetime = Duration::from_secs(lifetime.unsigned_abs());
        longest(list.filter(|list| !list.is_empty()).as_deref(), lifetime).as_secs().cast_signed()
    }

    fn undelivered(&self) {
        let recent = self.inventory.alerts.iter().filter(|alert| self.now - alert.raised.0 <= GIVEN_UP);
        for alert in recent.filter(|alert| alert.state == "given_up") {
            self.note(
                "alert_given_up",
                (&alert.keyring, Some(&alert.alert)),
                &alert.raised_by,
                Said {
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

fn expiry(left: i64, end: Seconds) -> String {
    if left < 0 { format!("expired on {}", day(end)) } else { format!("expires in {} ({})", days(left), day(end)) }
}

/// `60 days`, `5 hours`.
fn days(seconds: i64) -> String {
    let (count, unit) = if seconds >= 2 * DAY { (seconds / DAY, "day") } else { (seconds / 3600, "hour") };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

fn day(time: Seconds) -> String {
    crate::pki::day(time.time())
}

#[cfg(test)]
mod tests;
