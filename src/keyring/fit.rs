//! May this pair serve here: validity, strength, usage (contract section 3, "Refused for good reason").
//!
//! Pure facts about one pair against one keyring's settings. What is done about it is `rotation`'s.

use jiff::Timestamp;

use super::Settings;
use crate::pki::KeyPair;

/// The verdict on one pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It may serve now; `warning` says what would be refused under stricter settings.
    Usable {
        /// For people, if anything.
        warning: Option<String>,
    },
    /// Not valid yet: staged until then (`not_before` plus `skew`).
    NotYet {
        /// From when on it may serve.
        from: Timestamp,
    },
    /// Never, as things are.
    Refused(Refusal),
}

/// Why a pair is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Stable snake_case code: `expired`, `weak_key`, `weak_signature`, `is_ca`, `usage_excludes_server`, `usage_excludes_client`, `revoked`, …
    pub reason: &'static str,
    /// One printable sentence with the values and what to do.
    pub explanation: String,
}

/// Weighs a pair.
pub fn fit(pair: &KeyPair, settings: &Settings, now: Timestamp) -> Fit {
    let _ = (pair, settings, now);
    todo!()
}
