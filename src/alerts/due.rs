//! The due alerts. Pure: the same inputs at the same time give the same alerts, in the same order, on every instance.
//!
//! A threshold is passed once and for all: of several that have passed only the last raises an alert, so that a sidecar
//! started five days before an expiry sends one message and not four.

mod deadline;
mod folder;
mod inputs;
mod others;
mod trust_files;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{Alert, AlertKind};
use crate::keyring::Standing;
use crate::keyring::warning::thresholds;
use crate::pki::{Fingerprint, first_few, format_day};
use crate::registry::PeerRow;
use crate::snapshot::{KeyPairView, KeyringView};
use deadline::{expiry_text, passed_threshold, time_left};
pub use inputs::AlertInputs;
use inputs::contacts;

const DAY: Duration = Duration::from_hours(24);
/// How long the folder may hold a newer key pair before it is an alert.
const DIVERGENCE_GRACE: Duration = Duration::from_hours(1);

/// Maximum number of peers named in one sentence.
const MAX_NAMED_PEERS: usize = 5;

/// Every alert due now.
pub fn due_alerts(records: &AlertInputs<'_>, now: Timestamp) -> Vec<Alert> {
    let mut alerts = Vec::new();
    for keyring in records.keyrings {
        alerts.extend(
            keyring.pairs_with_standing(Standing::Current).find_map(|pair| folder::files_gone(records, keyring, pair)),
        );
        for pair in &keyring.key_pairs {
            match pair.standing {
                Standing::Current if pair.validity.not_after < now => alerts.push(last_resort(keyring, pair)),
                Standing::Current => alerts.extend(key_pair_expiry(keyring, pair, now)),
                Standing::Previous => alerts.extend(overlap_end(records, keyring, pair, now)),
                _ => {}
            }
        }
        alerts.extend(divergence(records, keyring, now));
    }
    alerts.extend(folder::refused_drops(records));
    alerts.extend(folder::not_remembered(records));
    alerts.extend(refusals(records));
    alerts.extend(others::partner_expiries(records, now));
    alerts.extend(records.trusts.iter().flat_map(|trust| others::anchor_expiries(records, trust, now)));
    alerts.extend(records.trusts.iter().flat_map(|trust| trust_files::stale_crls(records, trust, now)));
    alerts.extend(records.trusts.iter().flat_map(|trust| trust_files::unusable_files(records, trust)));
    deduplicate(alerts)
}

/// One certificate may be in several keyrings: it raises one alert, sent to the owners of all.
fn deduplicate(alerts: Vec<Alert>) -> Vec<Alert> {
    let mut places: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    let mut all: Vec<Alert> = Vec::new();
    for alert in alerts {
        if let Some(place) = places.get(&alert.name) {
            all[*place].merge(alert);
        } else {
            places.insert(Arc::clone(&alert.name), all.len());
            all.push(alert);
        }
    }
    all
}

fn key_pair_expiry(keyring: &KeyringView, pair: &KeyPairView, now: Timestamp) -> Option<Alert> {
    let thresholds = thresholds(keyring.alert_before.as_deref(), pair.validity.lifetime());
    let (threshold, urgent) = passed_threshold(pair.ends(), &thresholds, now)?;
    let staged = keyring
        .key_pairs
        .iter()
        .filter(|other| other.standing == Standing::Staged && other.validity.not_after > pair.validity.not_after)
        .max_by_key(|other| (other.validity.not_after, other.key_pair));
    let remedy = match staged {
        None if pair.chain_ends.is_some() => format!(
            "request the next intermediate from its CA, and drop the chain with it into the folder of keyring {}; or \
             order a new pair",
            keyring.name
        ),
        Some(staged) => format!(
            "promote its staged successor {}: sidekey keyring promote {} {}",
            staged.key_pair.short(),
            keyring.name,
            staged.key_pair.short()
        ),
        None => {
            format!("order its successor, and drop it beside the old one in the folder of keyring {}", keyring.name)
        }
    };
    // A different end is a different expiry: an alert about an intermediate does not cover the pair itself.
    let name = match &pair.chain_ends {
        None => format!("expires:{}:{}", pair.key_pair.hex(), threshold.as_secs()),
        Some(chain) => {
            format!("expires:{}:{}:{}", pair.key_pair.hex(), chain.not_after.as_second(), threshold.as_secs())
        }
    };
    Some(Alert {
        name: name.into(),
        kind: AlertKind::Expires,
        urgent,
        keyring: Arc::clone(&keyring.name),
        also: Vec::new(),
        key_pair: Some(pair.key_pair),
        ends: Some(pair.ends()),
        contacts: keyring.contact.iter().cloned().collect(),
        explanation: match &pair.chain_ends {
            None => format!(
                "key pair {} of keyring {} ({}) expires in {} ({}), and no successor is current",
                pair.key_pair.short(),
                keyring.name,
                pair.subject,
                time_left(pair.validity.not_after, now),
                format_day(pair.validity.not_after),
            ),
            Some(chain) => format!(
                "the intermediate {} in the chain of key pair {} of keyring {} ({}) {}, before the pair itself does ({})",
                chain.subject,
                pair.key_pair.short(),
                keyring.name,
                pair.subject,
                expiry_text(chain.not_after, now),
                format_day(pair.validity.not_after),
            ),
        },
        remedy,
    })
}

fn last_resort(keyring: &KeyringView, pair: &KeyPairView) -> Alert {
    Alert {
        name: format!("last_resort:{}", pair.key_pair.hex()).into(),
        kind: AlertKind::LastResort,
        urgent: true,
        keyring: Arc::clone(&keyring.name),
        also: Vec::new(),
        key_pair: Some(pair.key_pair),
        ends: Some(pair.validity.not_after),
        contacts: keyring.contact.iter().cloned().collect(),
        explanation: format!(
            "key pair {} of keyring {} ({}) expired on {}, and the keyring has no valid one",
            pair.key_pair.short(),
            keyring.name,
            pair.subject,
            format_day(pair.validity.not_after)
        ),
        remedy: format!("drop a valid key pair into the folder of keyring {}", keyring.name),
    }
}

fn divergence(records: &AlertInputs<'_>, keyring: &KeyringView, now: Timestamp) -> Option<Alert> {
    let (key_pair, since) = keyring.diverges?;
    let pair = keyring.key_pairs.iter().find(|pair| pair.key_pair == key_pair)?;
    let for_long = now.duration_since(since).unsigned_abs() >= DIVERGENCE_GRACE && since <= now;
    let is_early = pair.standing == Standing::Staged && now < pair.validity.not_before;
    if is_early || !for_long && !records.conditions.strangers.contains(&key_pair) {
        return None;
    }
    let remedy = match pair.standing {
        Standing::Staged => format!("to use it, run: sidekey keyring promote {} {}", keyring.name, key_pair.short()),
        Standing::Refused => "drop a valid key pair, or remove this one from the folder".to_owned(),
        _ => format!("sidekey keyring show {} shows why it is not in use", keyring.name),
    };
    let why = pair.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    Some(Alert {
        name: format!("diverges:{}:{}", keyring.name, key_pair.hex()).into(),
        kind: AlertKind::Diverges,
        urgent: false,
        keyring: Arc::clone(&keyring.name),
        also: Vec::new(),
        key_pair: Some(key_pair),
        ends: None,
        contacts: keyring.contact.iter().cloned().collect(),
        explanation: format!(
            "the folder of keyring {} contains key pair {} ({}), which is newer than the current one but {}{why}",
            keyring.name,
            key_pair.short(),
            pair.subject,
            pair.standing.as_str(),
        ),
        remedy,
    })
}

/// The source of a refusal, and the refusal.
type RefusalBySource<'a> = (&'a String, &'a super::conditions::KeyPairRefusal);

/// One alert for a pair and a listener, however many sources there are.
fn refusals(records: &AlertInputs<'_>) -> Vec<Alert> {
    let mut grouped: BTreeMap<(&Arc<str>, Fingerprint), Vec<RefusalBySource<'_>>> = BTreeMap::new();
    for ((listener, who, key_pair), refusal) in &records.conditions.refusals {
        let view = records.keyrings.iter().find(|view| view.name == refusal.keyring);
        let is_current = |pair: &KeyPairView| pair.key_pair == *key_pair && pair.standing == Standing::Current;
        if view.is_some_and(|view| view.key_pairs.iter().any(is_current)) {
            grouped.entry((listener, *key_pair)).or_default().push((who, refusal));
        }
    }
    let alert = |((listener, key_pair), all): ((&Arc<str>, Fingerprint), Vec<RefusalBySource<'_>>)| {
        let (_, first) = all.first()?;
        let who: Vec<String> = all.iter().map(|(who, _)| (*who).clone()).collect();
        Some(Alert {
            name: format!("refuses:{}:{listener}", key_pair.hex()).into(),
            kind: AlertKind::Refuses,
            urgent: false,
            keyring: Arc::clone(&first.keyring),
            also: Vec::new(),
            key_pair: Some(key_pair),
            ends: None,
            contacts: contacts(records, [&first.keyring]),
            explanation: format!(
                "the new key pair {} of keyring {} is refused at {listener} by {}: {}",
                key_pair.short(),
                first.keyring,
                first_few(&who, MAX_NAMED_PEERS),
                first.explanation
            ),
            remedy: "ask them to accept it; until then they are shown the previous pair. See: sidekey rotation"
                .to_owned(),
        })
    };
    grouped.into_iter().filter_map(alert).collect()
}

fn overlap_end(records: &AlertInputs<'_>, keyring: &KeyringView, pair: &KeyPairView, now: Timestamp) -> Option<Alert> {
    let ends = pair.overlap_ends?;
    let length = ends.duration_since(pair.since).unsigned_abs();
    let thresholds = if length >= DAY * 30 { vec![DAY * 7, DAY] } else { vec![length / 4, length / 30] };
    let (threshold, urgent) = passed_threshold(ends, &thresholds, now)?;
    let old = pair.key_pair.to_string();
    let still = |peer: &&PeerRow| {
        peer.key_pair.as_ref() == Some(&old)
            && peer.keyring.as_deref() == Some(&*keyring.name)
            && peer.last_seen.time() >= pair.since
    };
    let mut who: Vec<String> = records.peers.iter().filter(still).map(PeerRow::name).collect();
    let current = keyring.key_pairs.iter().find(|pair| pair.standing == Standing::Current)?.key_pair;
    let insisting = records.conditions.refusals.iter().filter(|((_, _, refused), _)| *refused == current);
    who.extend(insisting.map(|((_, who, _), _)| who.clone()));
    who.sort();
    who.dedup();
    if who.is_empty() {
        return None;
    }
    Some(Alert {
        name: format!("overlap_ends:{}:{}", pair.key_pair.hex(), threshold.as_secs()).into(),
        kind: AlertKind::OverlapEnds,
        urgent,
        keyring: Arc::clone(&keyring.name),
        also: Vec::new(),
        key_pair: Some(pair.key_pair),
        ends: Some(ends),
        contacts: keyring.contact.iter().cloned().collect(),
        explanation: format!(
            "the overlap of keyring {} ends in {} ({}), and the old key pair {} is still in use with {}",
            keyring.name,
            time_left(ends, now),
            format_day(ends),
            pair.key_pair.short(),
            first_few(&who, MAX_NAMED_PEERS)
        ),
        remedy: "contact these peers, or increase overlap; sidekey rotation lists the most urgent first".to_owned(),
    })
}

#[cfg(test)]
mod tests;
