//! Adds the records of former processes of this sidecar to the ledger. What this process has seen itself takes
//! precedence, whenever the registry answers.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::ledger::{
    MAX_PAIRS, MAX_PEERS, PairUse, PeerKey, PeerUse, RotationLedger, UpstreamResponse, UpstreamUse, drop_oldest,
};
use super::shape::PriorHistory;
use crate::keyring::{KeyringName, SelectionReason};
use crate::pki::Fingerprint;

/// A record of a former process of this sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecalledUse {
    /// The pair that a verified peer was shown last.
    Peer {
        /// Which keyring.
        keyring: KeyringName,
        /// The listener that it connected to.
        listener: Arc<str>,
        /// Its identity.
        identity: String,
        /// The partner that it was.
        partner: Option<Arc<str>>,
        /// Its address.
        source: Option<IpAddr>,
        /// The pair that it was shown.
        key_pair: Fingerprint,
        /// Why, if recorded.
        chosen_by: Option<SelectionReason>,
        /// When.
        last: Timestamp,
        /// Whether that was after the rotation.
        is_after: bool,
    },
    /// The pair that an upstream was shown last.
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

impl RotationLedger {
    /// A registry may have earlier records; it may still answer.
    pub fn await_registry(&mut self) {
        self.before = PriorHistory::Awaited;
    }

    /// Adds the registry's records since `since`, the latest first. They never override what this process has seen, and
    /// do not count as handshakes.
    pub fn recall(&mut self, recalled: Vec<RecalledUse>, since: Timestamp) {
        (self.since, self.before) = (self.since.min(since), PriorHistory::Recalled);
        for one in recalled {
            match one {
                RecalledUse::Peer { .. } => self.recall_peer(one),
                RecalledUse::Shown { keyring, listener, key_pair, last } => {
                    let shown = self.recall_upstream(keyring, &listener, key_pair, last);
                    shown.last = shown.last.max(Some(last));
                }
                RecalledUse::Upstream { keyring, listener, key_pair, said, since, reason, explanation } => {
                    let shown = self.recall_upstream(keyring, &listener, key_pair, since);
                    // A handshake of this process does not override it.
                    if shown.said == UpstreamResponse::HandshakeOk {
                        (shown.said, shown.since) = (said, since);
                        (shown.reason, shown.explanation) = (Cow::Owned(reason), explanation);
                    }
                }
            }
        }
    }

    fn recall_peer(&mut self, recalled: RecalledUse) {
        let RecalledUse::Peer { keyring, listener, identity, partner, source, key_pair, chosen_by, last, is_after } =
            recalled
        else {
            return;
        };
        let key = PeerKey { keyring, listener, identity };
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&key) {
            self.forgotten += 1;
            return;
        }
        let peer =
            self.peers.entry(key).or_insert_with(|| PeerUse { partner, source, last, pairs: Vec::with_capacity(2) });
        let first = is_after.then_some(last);
        if let Some(used) = peer.pairs.iter_mut().find(|used| used.key_pair == key_pair) {
            used.first = used.first.into_iter().chain(first).min();
        } else if peer.pairs.len() < MAX_PAIRS {
            peer.pairs.push(PairUse { key_pair, first, last, count: 0, chosen_by });
        }
    }

    fn recall_upstream(
        &mut self,
        keyring: KeyringName,
        listener: &Arc<str>,
        key_pair: Fingerprint,
        since: Timestamp,
    ) -> &mut UpstreamUse {
        let all = self.upstreams.entry(Arc::clone(listener)).or_default();
        let at = all.iter().position(|shown| shown.key_pair == key_pair).unwrap_or_else(|| {
            drop_oldest(all, |shown| shown.last.unwrap_or(shown.since));
            all.push(UpstreamUse {
                key_pair,
                keyring: Some(keyring),
                said: UpstreamResponse::HandshakeOk,
                since,
                last: None,
                count: 0,
                reason: Cow::Borrowed("ok"),
                explanation: String::new(),
                next_try: None,
            });
            all.len() - 1
        });
        &mut all[at]
    }
}
