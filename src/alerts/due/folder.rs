//! Alerts about the watched folder and the state: refused drops, a current pair whose files are gone, decisions that cannot be
//! saved.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::inputs::{AlertInputs, contacts};
use crate::alerts::conditions::RefusedDrop;
use crate::alerts::{Alert, AlertKind};
use crate::keyring::Standing;
use crate::pki::{first_few, format_day};
use crate::snapshot::{KeyPairView, KeyringView};

/// What is refused of one keyring within this time came with one drop.
const ONE_DROP: SignedDuration = SignedDuration::from_secs(2);
/// Maximum number of refusals named in one sentence.
const MAX_NAMED_REFUSALS: usize = 3;

/// Keyring (empty: the folder itself), file or pair, and reason; and the refusal.
type RefusedEntry<'a> = (&'a (Arc<str>, String, &'static str), &'a RefusedDrop);

/// One alert for a drop, however many files of it are refused.
pub(super) fn refused_drops(records: &AlertInputs<'_>) -> Vec<Alert> {
    let mut entries: Vec<RefusedEntry<'_>> =
        records.conditions.drops.iter().filter(|(key, drop)| still_holds(records, &key.0, drop)).collect();
    entries.sort_by_key(|(key, drop)| (&key.0, drop.at, *key));
    let same_drop = |one: &RefusedEntry<'_>, other: &RefusedEntry<'_>| {
        one.0.0 == other.0.0 && other.1.at.duration_since(one.1.at) <= ONE_DROP
    };
    entries.chunk_by(same_drop).filter_map(|drop| refused_drop(records, drop)).collect()
}

/// A refused pair that is no longer refused, or no longer there, is over.
fn still_holds(records: &AlertInputs<'_>, keyring: &Arc<str>, drop: &RefusedDrop) -> bool {
    let Some(key_pair) = drop.key_pair else { return true };
    let is_refused = |pair: &KeyPairView| pair.key_pair == key_pair && pair.standing == Standing::Refused;
    records.keyrings.iter().any(|view| view.name == *keyring && view.key_pairs.iter().any(is_refused))
}

fn refused_drop(records: &AlertInputs<'_>, entries: &[RefusedEntry<'_>]) -> Option<Alert> {
    let ((keyring, file, reason), drop) = entries.first()?;
    let whys: Vec<String> = entries.iter().map(|(_, drop)| drop.why.clone()).collect();
    let mut remedies: Vec<String> = Vec::new();
    for (_, drop) in entries {
        if !remedies.contains(&drop.remedy) {
            remedies.push(drop.remedy.clone());
        }
    }
    Some(Alert {
        // At most once a day, however often the folder is read.
        name: format!("refused_drop:{keyring}:{file}:{reason}:{}", format_day(drop.at)).into(),
        kind: AlertKind::RefusedDrop,
        urgent: false,
        keyring: Arc::clone(keyring),
        also: Vec::new(),
        key_pair: entries.iter().find_map(|(_, drop)| drop.key_pair),
        ends: None,
        contacts: contacts(records, [keyring]),
        explanation: format!(
            "a drop{} was refused: {}",
            if keyring.is_empty() { String::new() } else { format!(" in keyring {keyring}") },
            first_few(&whys, MAX_NAMED_REFUSALS)
        ),
        remedy: first_few(&remedies, MAX_NAMED_REFUSALS),
    })
}

/// The folder no longer holds the current pair. Where one of its files is refused, that alert is enough.
pub(super) fn files_gone(records: &AlertInputs<'_>, keyring: &KeyringView, pair: &KeyPairView) -> Option<Alert> {
    let is_its_own = |file: &String| pair.sources.iter().any(|source| **source == **file);
    if records.conditions.drops.keys().any(|(of, file, _)| *of == keyring.name && is_its_own(file)) {
        return None;
    }
    let kept = if pair.survives_restart { "from memory and `state`" } else { "from memory only, until a restart" };
    (!pair.in_folder).then(|| Alert {
        name: format!("files_gone:{}:{}", keyring.name, pair.key_pair.hex()).into(),
        kind: AlertKind::FilesGone,
        urgent: !pair.survives_restart,
        keyring: Arc::clone(&keyring.name),
        also: Vec::new(),
        key_pair: Some(pair.key_pair),
        ends: None,
        contacts: keyring.contact.iter().cloned().collect(),
        explanation: format!(
            "the folder of keyring {} no longer holds the current key pair {} ({}); it is served {kept}",
            keyring.name,
            pair.key_pair.short(),
            pair.subject
        ),
        remedy: format!("put its files back ({}), or drop its successor", pair.sources.join(" ")),
    })
}

/// Decisions cannot be saved.
pub(super) fn not_remembered(records: &AlertInputs<'_>) -> Option<Alert> {
    let (why, since): &(String, Timestamp) = records.conditions.not_remembered.as_ref()?;
    Some(Alert {
        name: format!("not_remembered:{}", format_day(*since)).into(),
        kind: AlertKind::NotRemembered,
        urgent: true,
        keyring: "".into(),
        also: Vec::new(),
        key_pair: None,
        ends: None,
        contacts: contacts(records, records.keyrings.iter().map(|view| &view.name)),
        explanation: format!("nothing is remembered, a restart loses decisions and overlaps: {why}"),
        remedy: "correct what the sentence names, and see `sidekey check`; `state` needs write access and free space"
            .to_owned(),
    })
}
