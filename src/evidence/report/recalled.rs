//! Adds what the registry has to the ledger: what former processes of this instance knew, once, and what other
//! instances know, anew at each reading. What this process has seen itself is never overridden.

use std::sync::Arc;

use jiff::Timestamp;

use super::evidence::PairEvidence;
use super::fact::UpstreamResponse;
use super::ledger::RotationLedger;
use super::sender::{SenderKey, merge_pair};
use super::shape::{PriorHistory, ReplicaStatus};
use super::upstreams::FleetResponse;
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

    /// Adds what the registry had at `now`, when the reading began.
    pub fn recall(&mut self, history: RecalledHistory, now: Timestamp) {
        let is_first = self.before != PriorHistory::Recalled;
        self.before = PriorHistory::Recalled;
        (self.read, self.unanswered) = (Some(now), false);
        self.record_heartbeats(&history.replicas, now);
        self.recorded_since = Some(self.recorded_since.map_or(history.since, |since| since.min(history.since)));
        self.since = self.since.min(history.since);
        self.replicas = history.replicas;
        for keyring in &history.keyrings {
            self.upstreams.forget_fleet(keyring);
        }
        for (key, sender) in self.senders.iter_mut() {
            if !sender.fleet.is_empty() && history.keyrings.contains(&key.keyring) {
                Arc::make_mut(sender).fleet.clear();
            }
        }
        for recalled in history.uses {
            self.recall_use(recalled, is_first);
        }
        self.apply_confirmed();
        self.senders.retain(|_, sender| !sender.own.is_empty() || !sender.fleet.is_empty());
        for keyring in history.keyrings {
            self.trim(&keyring);
            if history.cut.contains(&keyring) {
                let forgotten = self.forgotten.entry(keyring).or_default();
                (forgotten.count, forgotten.last) = (forgotten.count.max(1), Some(now));
            }
        }
    }

    /// Clocks of instances may differ: what counts is when a heartbeat was news here.
    fn record_heartbeats(&mut self, replicas: &[ReplicaStatus], now: Timestamp) {
        let news = replicas.iter().map(|replica| {
            let known = self.heard.get(&replica.instance).filter(|(last, _)| *last == replica.last_heard);
            let unknown = || if self.heard.is_empty() { replica.last_heard.min(now) } else { now };
            (replica.instance.clone(), (replica.last_heard, known.map_or_else(unknown, |(_, news)| *news)))
        });
        self.heard = news.collect();
    }

    fn recall_use(&mut self, recalled: RecalledUse, is_first: bool) {
        match recalled {
            // What this process has written since is not news.
            RecalledUse::Sender { is_own: true, .. } | RecalledUse::Upstream { is_own: true, .. } if !is_first => {}
            RecalledUse::Sender { is_own, key, partner, mut evidence } => {
                // Epochs are numbers of one process.
                evidence.epoch = 0;
                let sender = Arc::make_mut(self.senders.find_or_begin(Arc::new(key)));
                sender.partner = sender.partner.take().or(partner);
                merge_pair(if is_own { &mut sender.own } else { &mut sender.fleet }, evidence);
            }
            RecalledUse::Shown { keyring, listener, key_pair, last } => {
                if is_first {
                    self.upstreams.recall_shown(&listener, &keyring, key_pair, last);
                }
            }
            RecalledUse::Upstream {
                is_own,
                instance,
                keyring,
                listener,
                key_pair,
                said,
                since,
                reason,
                explanation,
            } => {
                let response = FleetResponse { keyring, instance, key_pair, said, since, reason, explanation };
                if is_own {
                    self.upstreams.recall_response(&listener, response);
                } else {
                    self.upstreams.add_fleet(&listener, response);
                }
            }
        }
    }

    /// A refusal that `state` remembers is known before the sender whose it is.
    fn apply_confirmed(&mut self) {
        for (listener, source, entry) in self.sources.confirmed() {
            let is_it = |key: &SenderKey| {
                key.keyring == entry.keyring
                    && key.listener == *listener
                    && Some(key.identity.as_str()) == entry.peer.as_deref()
                    && key.comes_from(source)
            };
            for (_, sender) in self.senders.iter_mut().filter(|(key, _)| is_it(key)) {
                let evidence = Arc::make_mut(sender).own_pair(entry.shown, entry.since);
                if evidence.insisted.is_none() {
                    evidence.insist(entry.since, entry.reason.into(), entry.explanation.clone());
                }
            }
        }
    }

    /// The senders of which the registry does not have all that this instance knows, each with that; at most `limit`.
    /// What could not be written comes back by [`RotationLedger::restore_changed`].
    pub fn take_changed(&mut self, limit: usize) -> Vec<ChangedSender> {
        let keys: Vec<Arc<SenderKey>> = self.changed.iter().take(limit).cloned().collect();
        let taken = keys.into_iter().filter_map(|key| {
            self.changed.remove(&key);
            let sender = self.senders.get(&key)?;
            let (partner, pairs) = (sender.partner.clone(), sender.own.clone());
            Some(ChangedSender { key: SenderKey::clone(&key), partner, pairs })
        });
        taken.collect()
    }

    /// Marks senders as to be written again.
    pub fn restore_changed(&mut self, senders: impl IntoIterator<Item = SenderKey>) {
        let find_known = |key| self.senders.get_key_value(&key).map(|(known, _)| Arc::clone(known));
        self.changed.extend(senders.into_iter().filter_map(find_known));
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
