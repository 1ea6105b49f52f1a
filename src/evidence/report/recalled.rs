//! What the registry and the ledger tell each other: the records of a reading, and what this instance has to write.
//!
//! `reading` merges a reading into the ledger.

use std::sync::Arc;

use jiff::Timestamp;

use super::evidence::PairEvidence;
use super::fact::UpstreamResponse;
use super::ledger::RotationLedger;
use super::sender::SenderKey;
use super::shape::{PriorHistory, ReplicaStatus};
use crate::keyring::KeyringName;
use crate::pki::Fingerprint;

/// A record of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all of a list are the large one")]
pub enum RecalledUse {
    /// What an instance knows of a pair at a sender.
    Sender {
        /// Whether a former process of this instance wrote it.
        is_own: bool,
        /// The sender.
        key: SenderKey,
        /// The partner that it was.
        partner: Option<Arc<str>>,
        /// What is known.
        evidence: PairEvidence,
    },
    /// The pair that an upstream of this instance was shown last.
    Shown {
        /// Which keyring.
        keyring: KeyringName,
        /// The listener that leads to it.
        listener: Arc<str>,
        /// The pair that it was shown.
        key_pair: Fingerprint,
        /// When.
        last: Timestamp,
    },
    /// An upstream's answer to a pair.
    Upstream {
        /// Whether a former process of this instance wrote it.
        is_own: bool,
        /// The instance.
        instance: String,
        /// Which keyring.
        keyring: KeyringName,
        /// The listener that leads to it.
        listener: Arc<str>,
        /// The pair.
        key_pair: Fingerprint,
        /// Its answer.
        said: UpstreamResponse,
        /// Since when.
        since: Timestamp,
        /// Stable code.
        reason: String,
        /// One sentence.
        explanation: String,
    },
}

/// What one reading of the registry brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecalledHistory {
    /// When the first instance that shows these pairs began to write.
    pub since: Timestamp,
    /// The keyrings that were read.
    pub keyrings: Vec<KeyringName>,
    /// The records.
    pub uses: Vec<RecalledUse>,
    /// The other instances.
    pub replicas: Vec<ReplicaStatus>,
    /// Keyrings of which there were more records than are read.
    pub cut: Vec<KeyringName>,
}

impl RotationLedger {
    /// A registry may have earlier records; it may still answer.
    pub fn await_registry(&mut self) {
        self.before = PriorHistory::Awaited;
    }

    /// Whether the registry was read.
    pub fn has_recalled(&self) -> bool {
        self.before == PriorHistory::Recalled
    }

    /// Whether other instances write to the registry, so that what they have seen has to be read.
    pub fn is_shared(&self) -> bool {
        self.has_recalled() && !self.replicas.is_empty()
    }

    /// A reading was asked for and has not ended: until one does, what other instances saw is unknown.
    pub const fn record_unanswered(&mut self) {
        self.unanswered = true;
    }

    /// Whether the registry lacks something of a sender beside how often and when it came.
    pub fn has_news(&self) -> bool {
        self.changed.has_news()
    }

    /// The senders of which the registry does not have all that this instance knows and that are to be written in this second of the
    /// writer, each with that; at most `limit`. What could not be written comes back by [`RotationLedger::restore_changed`].
    pub fn take_changed(&mut self, limit: usize, second: u64) -> Vec<ChangedSender> {
        let taken = self.changed.take_due(limit, second).into_iter().filter_map(|key| {
            let sender = self.senders.get(&key)?;
            let (partner, pairs) = (sender.partner.clone(), sender.own.clone());
            Some(ChangedSender { key: SenderKey::clone(&key), partner, pairs })
        });
        taken.collect()
    }

    /// Marks senders as to be written again.
    pub fn restore_changed(&mut self, senders: impl IntoIterator<Item = SenderKey>) {
        let find_known = |key| self.senders.get_key_value(&key).map(|(known, _)| Arc::clone(known));
        let known: Vec<Arc<SenderKey>> = senders.into_iter().filter_map(find_known).collect();
        known.into_iter().for_each(|key| self.changed.add_news(key));
    }
}

/// All that this instance knows of a sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedSender {
    /// The sender.
    pub key: SenderKey,
    /// Its partner.
    pub partner: Option<Arc<str>>,
    /// Its pairs.
    pub pairs: Vec<PairEvidence>,
}
