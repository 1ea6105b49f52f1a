//! Ingress: a source's refusal of a pair of ours was recorded, confirmed or forgotten (contract section 4, rule 4).

use std::sync::Arc;

use serde::Serialize;

use super::fields::{EventDescription, serialize_short};
use crate::evidence::learned::RefusalStatus;
use crate::keyring::KeyringName;
use crate::log::Level;
use crate::pki::Fingerprint;
use crate::snapshot::Epoch;

/// What a source has taught about our pairs.
#[derive(Clone, Debug, Serialize)]
pub struct LessonRecord {
    /// Listener.
    pub listener: Arc<str>,
    /// The source: address (IPv6 by /64) and server name, printable.
    pub source: String,
    /// The keyring it is about.
    pub keyring: KeyringName,
    /// The pair that it refused.
    #[serde(serialize_with = "serialize_short")]
    pub refused: Fingerprint,
    /// The pair that it is shown instead.
    #[serde(serialize_with = "serialize_short")]
    pub shown: Fingerprint,
    /// Its status now.
    pub standing: RefusalStatus,
    /// The identity of the peer that confirmed it; the explanation names it.
    #[serde(skip)]
    pub peer: Option<Arc<str>>,
    /// Stable code: the alert's name, `ended_in_handshake`, `ended_without_data`, `verified_on_previous`,
    /// `held_pair_ended`, `accepts_it_now`, `overlap_ended`, `by_command`, `expired`, `evicted`.
    pub reason: &'static str,
    /// One printable sentence.
    pub explanation: String,
    /// In which epoch.
    pub epoch: Epoch,
}

impl EventDescription for LessonRecord {
    fn target(&self) -> &'static str {
        "learned"
    }

    fn level(&self) -> Level {
        if self.standing == RefusalStatus::Unconfirmed { Level::WARN } else { Level::INFO }
    }

    fn message(&self) -> &'static str {
        match self.standing {
            RefusalStatus::Unconfirmed => "source refused the new key pair",
            RefusalStatus::Confirmed => "source accepts only the previous key pair",
            RefusalStatus::Forgotten => "source will be shown the new key pair again",
        }
    }
}
