//! Egress: an upstream accepted or refused our key pair after the handshake, and a verdict on a pair changed.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::fields::{EventDescription, serialize_optional_second, serialize_short, write_fields};
use super::handshake::outcome_colour;
use crate::evidence::UpstreamVerdict;
use crate::keyring::KeyringName;
use crate::log::{Level, LogFormat, LogLine};
use crate::pki::Fingerprint;
use crate::snapshot::Epoch;
use crate::tls::HandshakeOutcome;

/// TLS 1.3: what an upstream makes of our key pair after the handshake.
#[derive(Clone, Debug, Serialize)]
pub struct ProofRecord {
    /// Listener.
    pub listener: Arc<str>,
    /// `Accepted` or `Refused`.
    pub outcome: HandshakeOutcome,
    /// Stable code.
    pub reason: &'static str,
    /// The pair.
    #[serde(serialize_with = "serialize_short")]
    pub key_pair: Fingerprint,
    /// One printable sentence.
    pub explanation: String,
    /// The connection of the handshake that was `unproved`.
    pub connection: u64,
    /// The snapshot that chose the pair.
    pub epoch: Epoch,
}

impl EventDescription for ProofRecord {
    fn target(&self) -> &'static str {
        "proof"
    }

    fn level(&self) -> Level {
        match self.outcome {
            HandshakeOutcome::Refused | HandshakeOutcome::Failed => Level::WARN,
            HandshakeOutcome::Accepted | HandshakeOutcome::Unproved => Level::INFO,
        }
    }

    fn message(&self) -> &'static str {
        ""
    }
}

impl ProofRecord {
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
