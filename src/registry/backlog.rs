//! Rows that wait to be written: bounded, so that a database that is unreachable for a week costs no memory.
//!
//! Pure. Handshakes with the same peer become one row, repeated failures one row with a count; rows beyond the limits
//! are dropped, the least valuable first: failures, then peers (they return), then history. Dropped rows are counted.

mod history;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::store::{NumberedRow, WriteBatch};
use super::{FailureRow, HistoryRow, PeerRow, UnixSeconds};
use crate::event::handshake::PeerFacts;
use crate::event::{Event, HandshakeRecord};
use crate::keyring::KeyringName;
use crate::pki::Fingerprint;
use crate::snapshot::Side;

/// Maximum number of waiting rows of all kinds.
const MAX_ROWS: usize = 20_000;
/// Maximum number of failures among them.
const MAX_FAILURES: usize = 2_000;
/// Maximum length of a text that a peer controls.
const MAX_TEXT_LENGTH: usize = 4_000;

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

type BacklogPeerKey = (Side, Arc<str>, Fingerprint);
type FailureKey = (Side, Arc<str>, Option<IpAddr>, &'static str, Option<Fingerprint>);

/// Waiting rows.
pub struct RegistryBacklog {
    instance: Arc<str>,
    /// The platform's trust anchors: a peer verified against one of them uses a public CA.
    public: Arc<HashSet<Fingerprint>>,
    peers: BTreeMap<BacklogPeerKey, PeerRow>,
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
        self.len() == 0 && self.used.is_empty() && self.matched.is_empty()
    }

    /// Adds an Event. Returns whether there is something to write now.
    pub fn record_event(&mut self, event: &Event, now: Timestamp) -> bool {
        match event {
            Event::Handshake(handshake) if handshake.is_silent() => return false,
            Event::Handshake(handshake) if handshake.is_failure() => self.record_failure(handshake),
            Event::Handshake(handshake) => self.record_success(handshake),
            event => {
                let Some(entry) = history::history_row(event, &self.instance, now) else {
                    return matches!(event, Event::Epoch { .. });
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

    /// Takes all waiting rows to be written. If that fails, they come back by [`Backlog::put_back`].
    pub fn take_batch(&mut self) -> WriteBatch {
        self.same.clear();
        WriteBatch {
            peers: std::mem::take(&mut self.peers).into_values().collect(),
            used: std::mem::take(&mut self.used),
            matched: std::mem::take(&mut self.matched),
            failures: std::mem::take(&mut self.failures)
                .into_iter()
                .map(|(number, row)| NumberedRow { number, row })
                .collect(),
            history: std::mem::take(&mut self.history).into(),
        }
    }

    /// Puts back a batch that was not written, or perhaps not: it waits again, ahead of newer rows.
    pub fn restore_batch(&mut self, batch: WriteBatch) {
        for peer in batch.peers {
            let (Ok(certificate), side) = (peer.certificate.parse(), parse_side(&peer.side)) else { continue };
            let key: BacklogPeerKey = (side, peer.listener.as_str().into(), certificate);
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

    fn record_success(&mut self, handshake: &HandshakeRecord) {
        if let (Some(keyring), Some(key_pair)) = (&handshake.keyring, handshake.key_pair) {
            self.used.insert((Arc::clone(keyring), key_pair), handshake.time);
        }
        // Without a certificate the peer is unknown.
        let Some(facts) = &handshake.peer else { return };
        if let Some(anchor) = facts.anchor {
            self.matched.insert(("anchor", anchor.to_string()), handshake.time);
        }
        if let Some(pin) = facts.pin {
            self.matched.insert(("pin", pin.to_string()), handshake.time);
        }
        let key: BacklogPeerKey = (handshake.side, Arc::clone(&handshake.listener), facts.fingerprint);
        let public_ca = facts.anchor.is_some_and(|anchor| self.public.contains(&anchor));
        match self.peers.get_mut(&key) {
            Some(known) => update_peer(known, handshake, public_ca),
            None => {
                let mut seen = self.new_peer(handshake, facts);
                update_peer(&mut seen, handshake, public_ca);
                self.peers.insert(key, seen);
                self.trim();
            }
        }
    }

    /// A row with the fields of the key and the certificate only.
    fn new_peer(&self, handshake: &HandshakeRecord, facts: &PeerFacts) -> PeerRow {
        let at = UnixSeconds::from(handshake.time);
        PeerRow {
            instance: self.instance.to_string(),
            side: handshake.side.as_str().to_owned(),
            listener: handshake.listener.to_string(),
            certificate: facts.fingerprint.to_string(),
            identity: None,
            partner: None,
            subject: truncate(&facts.subject),
            issuer: truncate(&facts.issuer),
            serial: truncate(&facts.serial),
            not_before: facts.not_before.into(),
            not_after: facts.not_after.into(),
            public_ca: false.into(),
            address: None,
            keyring: None,
            key_pair: None,
            chosen_by: None,
            handshakes: 0,
            first_seen: at,
            last_seen: at,
        }
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
        let failure = FailureRow {
            instance: self.instance.to_string(),
            at: handshake.time.into(),
            side: handshake.side.as_str().to_owned(),
            listener: handshake.listener.to_string(),
            reason: handshake.reason.to_owned(),
            explanation: truncate(&handshake.explanation),
            address: address.map(|address| address.to_string()),
            server_name: handshake.facts.server_name.as_deref().map(truncate),
            subject: peer.map(|peer| truncate(&peer.subject)),
            issuer: peer.map(|peer| truncate(&peer.issuer)),
            certificate: certificate.map(|certificate| certificate.to_string()),
            key_pair: handshake.key_pair.map(|key_pair| key_pair.to_string()),
            alert: handshake.alert_received.or(handshake.alert_sent).map(str::to_owned),
            repeats: 0,
        };
        self.failures.insert(self.number, failure);
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

/// Counts a handshake: all that may differ from one handshake with a certificate to the next is set here only.
fn update_peer(peer: &mut PeerRow, handshake: &HandshakeRecord, public_ca: bool) {
    peer.handshakes += 1;
    peer.last_seen = handshake.time.into();
    peer.identity = handshake.identity.as_deref().map(truncate);
    peer.partner = handshake.partner.as_deref().map(str::to_owned);
    peer.public_ca = public_ca.into();
    peer.address = handshake.peer_addr.map(|address| address.ip().to_string());
    peer.keyring = handshake.keyring.as_deref().map(str::to_owned);
    peer.key_pair = handshake.key_pair.map(|key_pair| key_pair.to_string());
    peer.chosen_by = handshake.chosen_by.map(|chosen_by| chosen_by.as_str().to_owned());
}

fn parse_side(text: &str) -> Side {
    if text == Side::Egress.as_str() { Side::Egress } else { Side::Ingress }
}

/// Truncates a text that a peer controls; it is only displayed.
fn truncate(text: &str) -> String {
    if text.len() <= MAX_TEXT_LENGTH {
        return text.to_owned();
    }
    let end = (0..=MAX_TEXT_LENGTH).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests;
