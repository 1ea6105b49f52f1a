//! Which pair a change means, and the sentences that describe what it did. Pure.

use super::{ChangeOutcome, CommandRefusal, PairChange, RefusalReason};
use crate::keyring::Standing;
use crate::keyring::{KeyringCommand, KeyringEvent};
use crate::pki::Fingerprint;
use crate::snapshot::{KeyringView, Snapshot};

/// The fewest digits that name a pair.
const DIGITS: usize = 4;

/// The writer's command for a change, and the pair that it names.
///
/// # Errors
/// No pair, or more than one, is meant.
pub(super) fn command(
    keyring: &KeyringView,
    change: PairChange,
    typed: Option<&str>,
) -> Result<(KeyringCommand, Option<Fingerprint>), CommandRefusal> {
    if change == PairChange::Rollback {
        return Ok((KeyringCommand::Rollback, None));
    }
    let key_pair = match (typed, change) {
        (Some(typed), _) => named(keyring, typed)?,
        (None, PairChange::Promote) => to_promote(keyring)?,
        (None, PairChange::Retire) => only(keyring, Standing::Previous)?,
        (None, _) => return Err(CommandRefusal::new(RefusalReason::NotFound, "name the key pair by its fingerprint")),
    };
    let command = match change {
        PairChange::Promote => KeyringCommand::Promote(key_pair),
        PairChange::Retire => KeyringCommand::Retire(key_pair),
        PairChange::Revoke => KeyringCommand::Revoke(key_pair),
        PairChange::Rollback => KeyringCommand::Rollback,
    };
    Ok((command, Some(key_pair)))
}

/// The one pair with a fingerprint that begins so.
fn named(keyring: &KeyringView, typed: &str) -> Result<Fingerprint, CommandRefusal> {
    let digits: String = typed.strip_prefix("sha256:").unwrap_or(typed).chars().filter(|c| *c != ':').collect();
    let digits = digits.to_ascii_lowercase();
    if digits.len() < DIGITS || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let typed = crate::pki::printable(typed);
        let why = format!("{typed:?} is not a valid fingerprint prefix: give at least {DIGITS} hex digits");
        return Err(CommandRefusal::new(RefusalReason::NotUnderstood, why));
    }
    let known = keyring.key_pairs.iter().map(|pair| pair.key_pair).chain(keyring.revoked.iter().copied());
    let mut meant: Vec<Fingerprint> = known.filter(|key_pair| key_pair.hex().starts_with(&digits)).collect();
    meant.sort_unstable();
    meant.dedup();
    match meant[..] {
        [one] => Ok(one),
        [] => {
            let known: Vec<String> = keyring
                .key_pairs
                .iter()
                .map(|pair| format!("{} ({})", pair.key_pair.short(), pair.standing.as_str()))
                .collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let why = format!("keyring {:?} has no key pair {digits}; it has: {known}", keyring.name);
            Err(CommandRefusal::new(RefusalReason::NotFound, why))
        }
        _ => Err(ambiguous(&meant)),
    }
}

/// The one that waits: staged, else held after a rollback.
fn to_promote(keyring: &KeyringView) -> Result<Fingerprint, CommandRefusal> {
    match (only(keyring, Standing::Staged), &keyring.held[..]) {
        (Err(refused), [held]) if refused.reason == RefusalReason::NotFound => Ok(*held),
        (only, _) => only,
    }
}

/// The one pair of this standing.
fn only(keyring: &KeyringView, standing: Standing) -> Result<Fingerprint, CommandRefusal> {
    let of: Vec<Fingerprint> = keyring.pairs_with_standing(standing).map(|pair| pair.key_pair).collect();
    match of[..] {
        [one] => Ok(one),
        [] => {
            let why =
                format!("keyring {:?} has no {} key pair: name one by fingerprint", keyring.name, standing.as_str());
            Err(CommandRefusal::new(RefusalReason::NotFound, why))
        }
        _ => Err(ambiguous(&of)),
    }
}

fn ambiguous(meant: &[Fingerprint]) -> CommandRefusal {
    // Their short forms can be equal.
    let names: Vec<String> = meant.iter().map(Fingerprint::hex).collect();
    CommandRefusal::new(
        RefusalReason::Ambiguous,
        format!("more than one key pair matches; name one of: {}", names.join(", ")),
    )
}

/// A command that was carried out.
pub(super) struct ChangeReport<'a> {
    pub(super) change: PairChange,
    pub(super) key_pair: Option<Fingerprint>,
    pub(super) events: &'a [KeyringEvent],
    pub(super) before: &'a KeyringView,
    pub(super) after: &'a Snapshot,
}

/// What a command did and what that means.
pub(super) fn done(told: &ChangeReport<'_>, remembers: bool) -> ChangeOutcome {
    let name = &told.before.name;
    let moved = |wanted: Standing| {
        told.events.iter().find_map(|event| match event {
            KeyringEvent::Moved { key_pair, to, explanation, .. } if *to == wanted => {
                Some((*key_pair, explanation.as_str()))
            }
            _ => None,
        })
    };
    let short = |key_pair: Option<Fingerprint>| key_pair.map_or_else(String::new, |key_pair| key_pair.short());
    let keyring = told.after.keyrings.iter().find(|keyring| keyring.name == *name);
    let now_current = keyring.and_then(|keyring| keyring.pairs_with_standing(Standing::Current).next());
    let key_pair = told.key_pair.or(moved(Standing::Current).map(|(key_pair, _)| key_pair));
    if told.events.is_empty() {
        let standing = keyring
            .and_then(|keyring| keyring.key_pairs.iter().find(|pair| Some(pair.key_pair) == key_pair))
            .map_or("revoked", |pair| pair.standing.as_str());
        return ChangeOutcome {
            did: format!("nothing to do: {} is {standing} in keyring {name}", short(key_pair)),
            means: "Nothing changed.".to_owned(),
            key_pair,
            ..ChangeOutcome::nothing()
        };
    }
    let (did, mut means) = match told.change {
        PairChange::Promote => {
            (format!("promoted {} in keyring {name}", short(key_pair)), sentence(moved(Standing::Current)))
        }
        PairChange::Rollback => (
            format!("rolled keyring {name} back to {}", short(moved(Standing::Current).map(|(key_pair, _)| key_pair))),
            sentence(moved(Standing::Current)),
        ),
        PairChange::Retire => {
            let means = "New handshakes no longer show it, connections made with it are drained; for a week, promote \
                         or rollback can bring it back.";
            (format!("retired {} of keyring {name}", short(key_pair)), means.to_owned())
        }
        PairChange::Revoke => {
            let shown = match (now_current, moved(Standing::Current)) {
                (Some(current), Some(_)) => format!("{} is current in its place.", current.key_pair.short()),
                (Some(current), None) => format!("{} stays current.", current.key_pair.short()),
                (None, _) => format!(
                    "Keyring {name} has no key pair left to show: its listeners refuse connections until a usable one \
                     is dropped."
                ),
            };
            let means = format!(
                "It never serves again, wherever it is dropped; its retained copy is deleted, and connections made \
                         with it are drained. {shown}"
            );
            (format!("revoked {} of keyring {name}", short(key_pair)), means)
        }
    };
    if !remembers {
        means.push_str(" This lasts only until sidekey restarts, because it has no state folder.");
    }
    ChangeOutcome { changed: true, did, means, key_pair, ..ChangeOutcome::nothing() }
}

/// The explanation of a move as a sentence of its own.
fn sentence(moved: Option<(Fingerprint, &str)>) -> String {
    let Some((_, text)) = moved else { return "Nothing else changed.".to_owned() };
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

#[cfg(test)]
mod tests;
