//! What the ledger takes in of former processes of this sidecar, where they have written it down. What this process has seen
//! itself goes before it, whenever the answer comes.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::{ChosenBy, KeyringName};
use super::ledger::{Ledger, PAIRS, PEERS, PeerKey, PeerUse, Said, Shown, Used, drop_oldest};
use crate::pki::Fingerprint;

/// What is known of the time before this process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Before {
    /// Nothing: there is no registry.
    #[default]
    Unknown,
    /// Nothing yet: the registry has not answered.
    Awaited,
    /// What the registry has of it.
    Recalled,
}

/// What a former process of this sidecar has written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// The pair that a verified peer was shown last.
    Peer {
        /// Which keyring.
        keyring: KeyringName,
        /// Where it came to.
        listener: Arc<str>,
        /// Who it is.
        identity: String,
        /// The partner that it was.
        partner: Option<Arc<str>>,
        /// Where it came from.
        source: Option<IpAddr>,
        /// What it was shown.
        key_pair: Fingerprint,
        /// Why, where that was written down.
        chosen_by: Option<ChosenBy>,
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
        /// What it was shown.
        key_pair: Fingerprint,
        /// When.
        last: Timestamp,
    },
    /// What an upstream made of a pair.
    Upstream {
        /// Which keyring.
        keyring: KeyringName,
        /// The listener that leads to it.
        listener: Arc<str>,
        /// Which pair.
        key_pair: Fingerprint,
        /// What it made of it.
        said: Said,
        /// Since when.
        since: Timestamp,
        /// Stable code.
        reason: String,
        /// One sentence.
        explanation: String,
    },
}

impl Ledger {
    /// There is a registry that may know what was before; it will be heard, or not.
    pub fn await_registry(&mut self) {
        self.before = Before::Awaited;
    }

    /// Takes in what the registry has had since `since`, the latest first. Nothing of it goes before what this process has
    /// seen, and it counts no handshakes.
    pub fn recall(&mut self, recalled: Vec<Recalled>, since: Timestamp) {
        (self.since, self.before) = (self.since.min(since), Before::Recalled);
        for one in recalled {
            match one {
                Recalled::Peer { .. } => self.recall_peer(one),
                Recalled::Shown { keyring, listener, key_pair, last } => {
                    let shown = self.recall_shown(keyring, &listener, key_pair, last);
                    shown.last = shown.last.max(Some(last));
                }
                Recalled::Upstream { keyring, listener, key_pair, said, since, reason, explanation } => {
                    let shown = self.recall_shown(keyring, &listener, key_pair, since);
                    // A handshake of this process has taken nothing back.
                    if shown.said == Said::HandshakeOk {
                        (shown.said, shown.since) = (said, since);
                        (shown.reason, shown.explanation) = (Cow::Owned(reason), explanation);
                    }
                }
            }
        }
    }

    fn recall_peer(&mut self, recalled: Recalled) {
        let Recalled::Peer { keyring, listener, identity, partner, source, key_pair, chosen_by, last, is_after } =
            recalled
        else {
            return;
        };
        let key = PeerKey { keyring, listener, identity };
        if self.peers.len() >= PEERS && !self.peers.contains_key(&key) {
            self.forgotten += 1;
            return;
        }
        let peer =
            self.peers.entry(key).or_insert_with(|| PeerUse { partner, source, last, pairs: Vec::with_capacity(2) });
        let first = is_after.then_some(last);
        if let Some(used) = peer.pairs.iter_mut().find(|used| used.key_pair == key_pair) {
            used.first = used.first.into_iter().chain(first).min();
        } else if peer.pairs.len() < PAIRS {
            peer.pairs.push(Used { key_pair, first, last, count: 0, chosen_by });
        }
    }

    fn recall_shown(
        &mut self,
        keyring: KeyringName,
        listener: &Arc<str>,
        key_pair: Fingerprint,
        since: Timestamp,
    ) -> &mut Shown {
        let all = self.upstreams.entry(Arc::clone(listener)).or_default();
        let at = all.iter().position(|shown| shown.key_pair == key_pair).unwrap_or_else(|| {
            drop_oldest(all, |shown| shown.last.unwrap_or(shown.since));
            all.push(Shown {
                key_pair,
                keyring: Some(keyring),
                said: Said::HandshakeOk,
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
