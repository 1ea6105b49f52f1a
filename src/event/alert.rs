//! The owner should act, and what became of telling the owner by webhook or mail.

use std::sync::Arc;

use serde::Serialize;

use super::fields::{EventDescription, serialize_optional_short};
use crate::log::Level;
use crate::pki::Fingerprint;

/// The owner should act. Reported by every instance that sees it, whatever the registry says.
#[derive(Clone, Debug, Serialize)]
pub struct AlertRecord {
    /// Stable code.
    pub kind: &'static str,
    /// The last threshold has passed; the message says so.
    #[serde(skip)]
    pub urgent: bool,
    /// The keyring, or the trust.
    pub keyring: Arc<str>,
    /// The pair or certificate it is about.
    #[serde(serialize_with = "serialize_optional_short")]
    pub key_pair: Option<Fingerprint>,
    /// The owner's contact.
    pub contact: Option<String>,
    /// One printable sentence.
    pub explanation: String,
    /// What to do.
    pub remedy: String,
    /// Its name, the same on every instance.
    pub alert: Arc<str>,
}

impl EventDescription for AlertRecord {
    fn target(&self) -> &'static str {
        "alert"
    }

    fn level(&self) -> Level {
        if self.urgent { Level::ERROR } else { Level::WARN }
    }

    fn message(&self) -> &'static str {
        if self.urgent { "urgent alert" } else { "alert" }
    }
}

/// The outcome of delivering an alert by webhook or mail.
#[derive(Clone, Debug, Serialize)]
pub struct DeliveryRecord {
    /// Its stable code.
    pub kind: String,
    /// `webhook` or `mail`.
    pub sink: &'static str,
    /// `sent`, `failed` (it is retried), `given_up`, `silenced` (the alert no longer applies).
    pub outcome: &'static str,
    /// Why delivery failed.
    pub error: Option<String>,
    /// Its name.
    pub alert: Arc<str>,
}

impl EventDescription for DeliveryRecord {
    fn target(&self) -> &'static str {
        "alert"
    }

    fn level(&self) -> Level {
        match self.outcome {
            "given_up" => Level::ERROR,
            "failed" => Level::WARN,
            _ => Level::INFO,
        }
    }

    fn message(&self) -> &'static str {
        "alert delivery"
    }
}
