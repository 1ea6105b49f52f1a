//! What to act on in one keyring: expiries, and pairs that wait or are refused.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{Item, Urgency};
use crate::keyring::Standing;
use crate::pki::Validity;
use crate::snapshot::{KeyPairView, KeyringView};

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Adds what there is to act on.
pub(super) fn look_at(keyring: &KeyringView, now: Timestamp, out: &mut Vec<Item>) {
    let name = &keyring.name;
    let mut add = |urgency, code: &str, what: String, remedy: String| {
        out.push(Item { urgency, code: code.to_owned(), keyring: Some(Arc::clone(name)), what, remedy });
    };
    let of = |standing| keyring.key_pairs.iter().filter(move |pair| pair.standing == standing);
    if let Some(current) = of(Standing::Current).next() {
        let ends = current.validity.not_after;
        let day = ends.strftime("%Y-%m-%d");
        let is_successor = |pair: &&KeyPairView| ends < pair.validity.not_after;
        if ends < now {
            let what = format!("the current key pair {} of {name} expired on {day}", current.key_pair.short());
            add(Urgency::Now, "expired", what, "drop a new one".to_owned());
        } else if ends < soon(current.validity, now) && of(Standing::Staged).find(is_successor).is_none() {
            let left = ends.duration_since(now);
            let days = left.as_hours() / 24;
            let left = if days < 2 { format!("{} h", left.as_hours()) } else { format!("{days} days") };
            let what =
                format!("the current key pair {} of {name} expires in {left}, on {day}", current.key_pair.short());
            let urgency = if days < 7 { Urgency::Now } else { Urgency::Soon };
            add(urgency, "expires", what, "drop its successor".to_owned());
        }
    }
    for pair in of(Standing::Refused) {
        let why = pair.why.clone().unwrap_or_else(|| format!("key pair {} is refused", pair.key_pair.short()));
        let remedy = format!("mend it or take it out of the folder ({})", pair.sources.join(" "));
        add(Urgency::Now, "key_pair_refused", why, remedy);
    }
    // One that is only too early comes by itself.
    for pair in of(Standing::Staged).filter(|pair| pair.validity.not_before <= now) {
        let why = pair.why.clone().unwrap_or_else(|| format!("key pair {} is staged", pair.key_pair.short()));
        let remedy = format!("sidekey keyring promote {name} {}", pair.key_pair.short());
        add(Urgency::Soon, "key_pair_waits", why, remedy);
    }
    for held in &keyring.held {
        let in_folder = keyring.key_pairs.iter().any(|pair| pair.key_pair == *held && pair.in_folder);
        if in_folder {
            let what = format!(
                "key pair {} of {name} is newer than the current one and held back, because a command chose the other",
                held.short()
            );
            let remedy = format!("sidekey keyring promote {name} {}, or take it out of the folder", held.short());
            add(Urgency::Soon, "key_pair_held", what, remedy);
        }
    }
}

/// From when on an expiry is said: 60 days before; a quarter of the lifetime where that is under 180 days.
fn soon(validity: Validity, now: Timestamp) -> Timestamp {
    let lifetime = validity.not_after.duration_since(validity.not_before);
    let before = if lifetime < DAY * 180 { lifetime / 4 } else { DAY * 60 };
    now.saturating_add(before).unwrap_or(Timestamp::MAX)
}
