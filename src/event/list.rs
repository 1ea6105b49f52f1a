//! The list of Events: anything worth reporting. What each holds and how it reads is with its own struct.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::alert::{AlertRecord, DeliveryRecord};
use super::fields::{EventDescription, write_fields};
use super::folder::FolderRecord;
use super::handshake::HandshakeRecord;
use super::keyring::KeyringRecord;
use super::lesson::LessonRecord;
use super::peer_proof::PeerProofRecord;
use super::process::{ClockRecord, DrainRecord, EpochRecord, RegistryRecord, ReloadRecord, SaveFailure};
use super::proof::{ProofRecord, VerdictRecord};
use super::token::TokenRecord;
use super::trust::TrustRecord;
use crate::log::{Level, LineStyle, LogLine};

/// Anything worth reporting.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Event {
    /// A handshake succeeded or failed.
    Handshake(Arc<HandshakeRecord>),
    /// Egress in TLS 1.3: the upstream has accepted or refused our key pair after the handshake.
    Proof(ProofRecord),
    /// Ingress: a peer's data, or the lack of it, shows what it makes of our key pair.
    PeerProof(Arc<PeerProofRecord>),
    /// A source's refusal of a pair of ours was recorded, confirmed or forgotten.
    Learned(LessonRecord),
    /// An upstream's verdict on one of our pairs changed.
    Upstream(VerdictRecord),
    /// Fetching a token for an upstream succeeded or failed.
    Token(TokenRecord),
    /// A keyring changed.
    Keyring(KeyringRecord),
    /// A trust changed.
    Trust(TrustRecord),
    /// A file in the watched folder is unusable, or deserves a log line.
    Folder(FolderRecord),
    /// An epoch was published.
    Epoch(EpochRecord),
    /// The clock was stepped.
    ClockStep(ClockRecord),
    /// A connection is drained early.
    Drained(DrainRecord),
    /// State could not be saved.
    NotRemembered(SaveFailure),
    /// The registry's database connected, disconnected, or is damaged.
    Registry(RegistryRecord),
    /// The owner should act.
    Alert(AlertRecord),
    /// The outcome of delivering an alert.
    Delivery(DeliveryRecord),
    /// A reload changed the configuration, or was rejected.
    Reloaded(ReloadRecord),
}

impl Event {
    /// The log target.
    pub fn target(&self) -> &'static str {
        self.description().target()
    }

    /// The level of its line.
    pub(super) fn level(&self) -> Level {
        self.description().level()
    }

    /// Its line: the message, then its fields.
    pub(super) fn line(&self, style: LineStyle, now: Timestamp) -> Vec<u8> {
        let description = self.description();
        let mut line = LogLine::new(style, now, description.level(), description.target());
        match self {
            Self::Handshake(handshake) => return handshake.line(style),
            Self::Proof(proof) => proof.write_line(&mut line),
            event => write_fields(line.message(description.message()), event),
        }
        line.finish()
    }

    fn description(&self) -> &dyn EventDescription {
        match self {
            Self::Handshake(handshake) => &**handshake,
            Self::Proof(proof) => proof,
            Self::PeerProof(proof) => &**proof,
            Self::Learned(lesson) => lesson,
            Self::Upstream(verdict) => verdict,
            Self::Token(token) => token,
            Self::Keyring(change) => change,
            Self::Trust(change) => change,
            Self::Folder(problem) => problem,
            Self::Epoch(epoch) => epoch,
            Self::ClockStep(step) => step,
            Self::Drained(connection) => connection,
            Self::NotRemembered(failure) => failure,
            Self::Registry(state) => state,
            Self::Alert(alert) => alert,
            Self::Delivery(delivery) => delivery,
            Self::Reloaded(reload) => reload,
        }
    }
}
