//! Egress: an upstream accepted or refused our key pair after the handshake, and a verdict on a pair changed.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::fields::{EventDescription, serialize_optional_second, serialize_short, write_fields};
use super::handshake::{HandshakeRecord, outcome_colour};
use crate::evidence::UpstreamVerdict;
use crate::keyring::KeyringName;
use crate::log::{Level, LogFormat, LogLine};
use crate::pki::Fingerprint;
use crate::snapshot::Epoch;
use crate::tls::HandshakeOutcome;

/// The reason where an upstream names authorities to which a pair does not chain, and another pair answered it.
pub const EXCLUDED_BY_AUTHORITIES: &str = "excluded_by_authorities";

/// What an upstream makes of our key pair after the handshake: in TLS 1.3 always, in TLS 1.2 where it refuses or doubts it.
#[derive(Clone, Debug, Serialize)]
pub struct ProofRecord {
    /// Listener.
    pub listener: Arc<str>,
    /// `Accepted`, `Refused` or `Doubted`; `Failed`: TLS ended in another way.
    pub outcome: HandshakeOutcome,
    /// Stable code.
    pub reason: &'static str,
    /// The pair.
    #[serde(serialize_with = "serialize_short")]
    pub key_pair: Fingerprint,
    /// The alert that it sent.
    #[serde(rename = "alert.received")]
    pub alert_received: Option<&'static str>,
    /// One printable sentence.
    pub explanation: String,
    /// The connection of the handshake that was `unproved`.
    pub connection: u64,
    /// The snapshot that chose the pair.
    pub epoch: Epoch,
    /// The handshake of that connection, with what came of it. The bus finds it, for those that follow.
    #[serde(skip)]
    pub handshake: Option<Arc<HandshakeRecord>>,
}

impl EventDescription for ProofRecord {
    fn target(&self) -> &'static str {
        "proof"
    }

    fn level(&self) -> Level {
        match self.outcome {
            HandshakeOutcome::Refused | HandshakeOutcome::Failed | HandshakeOutcome::Doubted => Level::WARN,
            HandshakeOutcome::Accepted | HandshakeOutcome::Unproved => Level::INFO,
        }
    }

    fn message(&self) -> &'static str {
        ""
    }
}

impl ProofRecord {
    /// Whether it speaks against the pair.
    pub fn is_adverse(&self) -> bool {
        !matches!(self.outcome, HandshakeOutcome::Accepted | HandshakeOutcome::Unproved)
    }

    /// Its line; for people it begins with words, as that of a handshake.
    pub(super) fn write_line(&self, line: &mut LogLine) {
        if line.format() == LogFormat::Json {
            write_fields(line.text("side", "egress"), self);
            return;
        }
        line.word("egress").word(&self.listener);
        line.coloured_word(&format!("{:<8}", self.outcome.as_str()), outcome_colour(self.outcome))
            .text("reason", self.reason)
            .text("key_pair", &self.key_pair.short())
            .optional_text("alert_received", self.alert_received)
            .text("explanation", &self.explanation)
            .number("connection", self.connection)
            .number("epoch", self.epoch.0);
    }
}

/// An upstream's verdict on one of our pairs changed (contract section 4).
#[derive(Clone, Debug, Serialize)]
pub struct VerdictRecord {
    /// Listener.
    pub listener: Arc<str>,
    /// Host and port.
    pub upstream: String,
    /// The keyring it is about.
    pub keyring: KeyringName,
    /// The pair it is about.
    #[serde(serialize_with = "serialize_short")]
    pub key_pair: Fingerprint,
    /// The upstream's verdict.
    pub verdict: UpstreamVerdict,
    /// Stable code: the alert's name, `status_NNN`, `response`, `probe`, `prove_within`, `tried_again`, …
    pub reason: &'static str,
    /// One printable sentence.
    pub explanation: String,
    /// For `Refused`: when the sidecar tries the pair again.
    #[serde(serialize_with = "serialize_optional_second")]
    pub next_try: Option<Timestamp>,
    /// In which epoch.
    pub epoch: Epoch,
}

impl EventDescription for VerdictRecord {
    fn target(&self) -> &'static str {
        "proof"
    }

    fn level(&self) -> Level {
        if self.verdict == UpstreamVerdict::Refused { Level::WARN } else { Level::INFO }
    }

    fn message(&self) -> &'static str {
        match self.verdict {
            UpstreamVerdict::HandshakeOk => "upstream completed a handshake on the key pair",
            UpstreamVerdict::Proved => "upstream accepts the key pair",
            UpstreamVerdict::Refused => "upstream refuses the key pair",
        }
    }
}
