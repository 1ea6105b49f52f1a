//! Egress: fetching a token for an upstream succeeded or failed (`[egress.jwt_bearer]`). Never holds the token.

use std::sync::Arc;

use serde::Serialize;

use super::fields::{EventDescription, serialize_short};
use crate::keyring::KeyringName;
use crate::log::Level;
use crate::pki::Fingerprint;
use crate::snapshot::Epoch;

/// The outcome of a token request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenOutcome {
    /// The token was fetched.
    Fetched,
    /// The endpoint refuses this pair's assertions; another pair signs instead.
    Refused,
    /// No token could be fetched.
    Failed,
}

impl TokenOutcome {
    /// As in logs and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// One token request.
#[derive(Clone, Debug, Serialize)]
pub struct TokenRecord {
    /// Listener.
    pub listener: Arc<str>,
    /// The token endpoint, or the upstream itself: host and port.
    pub endpoint: String,
    /// The keyring that signs.
    pub keyring: KeyringName,
    /// The pair that signed.
    #[serde(serialize_with = "serialize_short")]
    pub key_pair: Fingerprint,
    /// The outcome.
    pub outcome: TokenOutcome,
    /// Stable code: `ok`, `token_refused`, `status_401`, `token_unreachable`, `token_late`, …
    pub reason: &'static str,
    /// One printable sentence.
    pub explanation: String,
    /// In which epoch.
    pub epoch: Epoch,
}

impl EventDescription for TokenRecord {
    fn target(&self) -> &'static str {
        "token"
    }

    fn level(&self) -> Level {
        if self.outcome == TokenOutcome::Fetched { Level::INFO } else { Level::WARN }
    }

    fn message(&self) -> &'static str {
        match self.outcome {
            TokenOutcome::Fetched => "token fetched",
            TokenOutcome::Refused => "tokens signed by this key pair are refused",
            TokenOutcome::Failed => "token request failed",
        }
    }
}
