//! Rows that wait to be written: bounded, so that a database that is unreachable for a week costs no memory.
//!
//! Pure. Handshakes with the same peer become one row, and later ones a count that waits some seconds (`visits`); repeated failures
//! become one row with a count; rows beyond the limits are dropped, the least valuable first: failures, then peers (they return), then
//! history. Dropped rows are counted.

mod visits;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::history::history_row;
use super::seen::{failure_row, peer_row, update_peer};
use super::store::{NumberedRow, WriteBatch};
use super::{FailureRow, HistoryRow, PeerRow};
use crate::event::{Event, HandshakeRecord};
use crate::keyring::KeyringName;
use crate::pki::Fingerprint;
use crate::snapshot::Side;
use visits::{BacklogPeerKey, WrittenPeers};

/// Maximum number of waiting rows of all kinds.
const MAX_ROWS: usize = 20_000;
/// Maximum number of failures among them.
const MAX_FAILURES: usize = 2_000;

/// Dropped rows, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedCounts {
    /// Failed handshakes.
    pub failures: u64,
    /// Peers seen.
    pub peers: u64,
    /// Lines of the history.
    pub history: u64,
}

impl DroppedCounts {
    /// The sum.
    pub fn total(&self) -> u64 {
        self.failures + self.peers + self.history
    }
}

type FailureKey = (Side, Arc<str>, Option<IpAddr>, &'static str, Option<Fingerprint>);

/// Waiting rows.
pub struct RegistryBacklog {
    instance: Arc<str>,
    /// The platform's trust anchors: a peer verified against one of them uses a public CA.
    public: Arc<HashSet<Fingerprint>>,
    peers: BTreeMap<BacklogPeerKey, PeerRow>,
    written: WrittenPeers,
    /// The second of the writer in which a batch was taken last.
    second: u64,
    used: BTreeMap<(KeyringName, Fingerprint), Timestamp>,
    matched: BTreeMap<(&'static str, String), Timestamp>,
    failures: BTreeMap<i64, FailureRow>,
    same: HashMap<FailureKey, i64>,
    history: VecDeque<NumberedRow<HistoryRow>>,
    number: i64,
    dropped: DroppedCounts,
}

impl RegistryBacklog {
    /// An empty backlog.
    pub fn new(instance: Arc<str>) -> Self {
        Self {
            instance,
            public: Arc::default(),
            peers: BTreeMap::new(),
            written: WrittenPeers::default(),
            second: 0,
            used: BTreeMap::new(),
            matched: BTreeMap::new(),
            failures: BTreeMap::new(),
            same: HashMap::new(),
            history: VecDeque::new(),
            number: 0,
            dropped: DroppedCounts::default(),
        }
    }

    /// Sets the platform's trust anchors, once they are known.
    pub fn set_public_anchors(&mut self, anchors: HashSet<Fingerprint>) {
        self.public = Arc::new(anchors);
    }

    /// The number of waiting rows.
    pub fn len(&self) -> usize {
        self.peers.len() + self.failures.len() + self.history.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && !self.has_waiting_times()
    }

    /// Whether counts or times wait, of which nothing else changes.
    pub fn has_waiting_times(&self) -> bool {
        self.written.waiting_count() > 0 || !self.used.is_empty() || !self.matched.is_empty()
    }

    /// Adds an Event. Returns whether there is something to write now, or has begun to wait.
    pub fn record_event(&mut self, event: &Event, now: Timestamp) -> bool {
        match event {
            Event::Handshake(handshake) if handshake.is_silent() => return false,
            Event::Handshake(handshake) if handshake.is_failure() => self.record_failure(handshake),
            Event::Handshake(handshake) => {
                let had_waiting = self.has_waiting_times();
                return self.record_success(handshake) || (!had_waiting && self.has_waiting_times());
            }
            // Refused or doubted after the handshake, which alone looked well.
            Event::Proof(proof) if let Some(handshake) = proof.handshake.as_ref().filter(|_| proof.is_adverse()) => {
                self.record_failure(handshake);
            }
            // The rotation report has it, and says whether the row about the sender is to be written now.
            Event::PeerProof(_) => return false,
            event => {
                let Some(entry) = history_row(event, &self.instance, now) else {
                    return matches!(event, Event::Epoch(_));
                };
                self.push_history(entry);
            }
        }
        true
    }

    /// Adds a line of history.
    pub fn push_history(&mut self, row: HistoryRow) {
        self.number += 1;
        self.history.push_back(NumberedRow { number: self.number, row });
        self.trim();
    }

    /// Takes all waiting rows to be written in this second of the writer, and the counts that have waited long enough by then. If
    /// that fails, they come back by [`RegistryBacklog::restore_batch`].
    pub fn take_batch(&mut self, second: u64) -> WriteBatch {
        self.same.clear();
        self.second = second;
        WriteBatch {
            peers: std::mem::take(&mut self.peers).into_values().collect(),
            visits: self.written.take_due(second),
            senders: Vec::new(),
            used: std::mem::take(&mut self.used),
            matched: std::mem::take(&mut self.matched),
            failures: std::mem::take(&mut self.failures)
                .into_iter()
                .map(|(number, row)| NumberedRow { number, row })
                .collect(),
            history: std::mem::take(&mut self.history).into(),
        }
    }

    /// These rows were written: of their peers only counts are news.
    pub fn record_written(&mut self, peers: &[PeerRow]) {
        self.written.record_written(peers.iter().filter_map(|peer| Some((key_of_row(peer)?, peer))));
    }

    /// The registry may have lost rows.
    pub fn forget_written(&mut self) {
        self.written.forget_written();
    }

    /// Puts back a batch that was not written, or perhaps not: it waits again, ahead of newer rows.
    pub fn restore_batch(&mut self, batch: WriteBatch) {
        self.forget_written();
        self.written.restore(batch.visits);
        for peer in batch.peers {
            let Some(key) = key_of_row(&peer) else { continue };
            match self.peers.get_mut(&key) {
                Some(newer) => {
                    newer.handshakes += peer.handshakes;
                    newer.first_seen = newer.first_seen.min(peer.first_seen);
                }
                None => drop(self.peers.insert(key, peer)),
            }
        }
        for (key, at) in batch.used {
            self.used.entry(key).or_insert(at);
        }
        for (key, at) in batch.matched {
            self.matched.entry(key).or_insert(at);
        }
        self.failures.extend(batch.failures.into_iter().map(|NumberedRow { number, row }| (number, row)));
        for entry in batch.history.into_iter().rev() {
            self.history.push_front(entry);
        }
        self.trim();
    }

    /// The rows dropped since the last call.
    pub fn take_dropped(&mut self) -> DroppedCounts {
        std::mem::take(&mut self.dropped)
    }

    /// Returns whether it is news, and not only a count.
    fn record_success(&mut self, handshake: &HandshakeRecord) -> bool {
        if let (Some(keyring), Some(key_pair)) = (&handshake.keyring, handshake.key_pair) {
            self.used.insert((Arc::clone(keyring), key_pair), handshake.time);
        }
        // Without a certificate the peer is unknown.
        let Some(facts) = &handshake.peer else { return false };
        if let Some(anchor) = facts.anchor {
            self.matched.insert(("anchor", anchor.to_string()), handshake.time);
        }
        if let Some(pin) = facts.pin {
            self.matched.insert(("pin", pin.to_string()), handshake.time);
        }
        let key: BacklogPeerKey = (handshake.side, Arc::clone(&handshake.listener), facts.fingerprint);
        let public_ca = facts.anchor.is_some_and(|anchor| self.public.contains(&anchor));
        if let Some(known) = self.peers.get_mut(&key) {
            update_peer(known, handshake, public_ca);
            return true;
        }
        if self.written.count_visit(&key, handshake, (public_ca, self.second)) {
            return false;
        }
        let mut row = peer_row(handshake, facts, &self.instance, public_ca);
        row.handshakes += self.written.take_handshakes(&key);
        self.peers.insert(key, row);
        self.trim();
        true
    }

    fn record_failure(&mut self, handshake: &HandshakeRecord) {
        let peer = handshake.peer.as_ref();
        let address = handshake.peer_addr.map(|address| address.ip());
        let certificate = peer.map(|peer| peer.fingerprint);
        let key = (handshake.side, Arc::clone(&handshake.listener), address, handshake.reason, certificate);
        if let Some(known) = self.same.get(&key).and_then(|number| self.failures.get_mut(number)) {
            known.repeats += 1;
            return;
        }
        self.number += 1;
        self.failures.insert(self.number, failure_row(handshake, &self.instance));
        self.same.insert(key, self.number);
        self.trim();
    }

    /// Drops rows beyond the limits, the least valuable first.
    fn trim(&mut self) {
        while self.failures.len() > MAX_FAILURES || self.len() > MAX_ROWS && !self.failures.is_empty() {
            self.failures.pop_first();
            self.dropped.failures += 1;
        }
        while self.len() > MAX_ROWS && !self.peers.is_empty() {
            self.peers.pop_first();
            self.dropped.peers += 1;
        }
        while self.len() > MAX_ROWS {
            self.history.pop_front();
            self.dropped.history += 1;
        }
        // `used` and `matched` need no bound: their keys come from the configuration and the folder only.
        if self.same.len() > 2 * MAX_FAILURES {
            let failures = &self.failures;
            self.same.retain(|_, number| failures.contains_key(number));
        }
    }
}

fn key_of_row(peer: &PeerRow) -> Option<BacklogPeerKey> {
    Some((parse_side(&peer.side), peer.listener.as_str().into(), peer.certificate.parse().ok()?))
}

fn parse_side(text: &str) -> Side {
    if text == Side::Egress.as_str() { Side::Egress } else { Side::Ingress }
}

#[cfg(test)]
mod tests;
