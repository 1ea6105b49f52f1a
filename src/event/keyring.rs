//! A keyring changed.

use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use super::fields::{EventDescription, format_second};
use crate::keyring::{KeyringEvent, Standing};
use crate::log::Level;
use crate::snapshot::Epoch;

/// A change of a keyring, its author and its epoch.
#[derive(Clone, Debug)]
pub struct KeyringRecord {
    /// What happened.
    pub event: KeyringEvent,
    /// The operator behind it, if any: `uid 1000` over the control socket.
    pub by: Option<Arc<str>>,
    /// In which epoch it is true.
    pub epoch: Epoch,
}

impl KeyringRecord {
    /// The keyring and the outcome, if it counts in `rotations_total`.
    pub(super) fn rotation_outcome(&self) -> Option<(&str, &'static str)> {
        let KeyringEvent::Moved { keyring, to, replaces, reason, .. } = &self.event else { return None };
        let outcome = match (to, replaces) {
            (Standing::Current, Some(_)) if *reason == "rolled_back" => "rolled_back",
            (Standing::Current, Some(_)) => "done",
            (Standing::Staged, _) => "staged",
            (Standing::Refused, _) => "refused",
            _ => return None,
        };
        Some((keyring, outcome))
    }
}

impl Serialize for KeyringRecord {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut fields = out.serialize_struct("KeyringRecord", 11)?;
        match &self.event {
            KeyringEvent::Moved {
                keyring,
                key_pair,
                from,
                to,
                reason,
                explanation,
                replaces,
                overlap_ends,
                sources,
            } => {
                fields.serialize_field("keyring", keyring)?;
                fields.serialize_field("key_pair", &key_pair.short())?;
                fields.serialize_field("replaces", &replaces.map(|old| old.short()))?;
                fields.serialize_field("overlap_ends", &overlap_ends.map(format_second))?;
                fields.serialize_field("from", from)?;
                fields.serialize_field("to", to)?;
                fields.serialize_field("reason", reason)?;
                fields.serialize_field("explanation", explanation)?;
                fields.serialize_field("sources", sources)?;
            }
            KeyringEvent::LastResort { keyring, key_pair, expired, served: _ } => {
                fields.serialize_field("keyring", keyring)?;
                fields.serialize_field("key_pair", &key_pair.short())?;
                fields.serialize_field("expired", &format_second(*expired))?;
            }
        }
        fields.serialize_field("by", &self.by)?;
        fields.serialize_field("epoch", &self.epoch)?;
        fields.end()
    }
}

impl EventDescription for KeyringRecord {
    fn target(&self) -> &'static str {
        "keyring"
    }

    fn level(&self) -> Level {
        match self.event {
            KeyringEvent::LastResort { .. } => Level::ERROR,
            KeyringEvent::Moved { to: Standing::Refused | Standing::Revoked, .. }
            | KeyringEvent::Moved { to: Standing::Staged, reason: "shares_no_name", .. } => Level::WARN,
            KeyringEvent::Moved { .. } => Level::INFO,
        }
    }

    fn message(&self) -> &'static str {
        match &self.event {
            KeyringEvent::Moved { to, replaces, .. } => match to {
                Standing::Current if replaces.is_some() => "rotation",
                Standing::Current => "key pair is current",
                Standing::Previous => "key pair is previous",
                Standing::Staged => "key pair is staged",
                Standing::Refused => "key pair refused",
                Standing::Retired => "overlap ended",
                Standing::Revoked => "key pair revoked",
            },
            KeyringEvent::LastResort { served: true, .. } => "no valid key pair left: showing an expired one",
            KeyringEvent::LastResort { served: false, .. } => "no valid key pair left: showing none",
        }
    }
}
