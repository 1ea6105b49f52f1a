//! Peers of which the registry has all but how often and how they came last. Their further handshakes are added up, so that a
//! peer that comes often costs the database one short update in some seconds, not a row for each handshake.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::super::PeerRow;
use super::super::seen::truncate;
use super::super::store::PeerVisits;
use crate::event::HandshakeRecord;
use crate::pki::Fingerprint;
use crate::snapshot::Side;

/// A peer or an upstream at one listener, by its certificate.
pub(super) type BacklogPeerKey = (Side, Arc<str>, Fingerprint);

/// A count waits so many seconds.
const VISIT_DELAY_SECONDS: u64 = 10;
/// How many peers are known to be written; rows of others are written whole.
const MAX_WRITTEN: usize = 10_000;

/// Which peers are written, and what waits of them.
#[derive(Default)]
pub(super) struct WrittenPeers {
    peers: HashMap<BacklogPeerKey, WrittenPeer>,
    hashes: RandomState,
    waiting: usize,
}

/// What the registry has of one peer.
#[derive(Default)]
struct WrittenPeer {
    /// The hash of who its row says that it is; `None`: it is not known to have one.
    row: Option<u64>,
    /// What is not written yet, and the second of the writer in which the first of it came.
    waiting: Option<(PeerVisits, u64)>,
}

impl WrittenPeers {
    /// How many peers have visits that wait.
    pub(super) const fn waiting_count(&self) -> usize {
        self.waiting
    }

    /// Counts a handshake, if the registry has a row that says who the peer is.
    pub(super) fn count_visit(
        &mut self,
        key: &BacklogPeerKey,
        handshake: &HandshakeRecord,
        (public_ca, second): (bool, u64),
    ) -> bool {
        let identity = handshake.identity.as_deref().map(truncate);
        let hash = self.hash_peer(identity.as_deref(), handshake.partner.as_deref(), public_ca);
        let Some(known) = self.peers.get_mut(key).filter(|known| known.row == Some(hash)) else { return false };
        self.waiting += usize::from(known.waiting.is_none());
        let (earlier, since) = known.waiting.take().map_or((0, second), |(visits, since)| (visits.handshakes, since));
        let (side, listener, certificate) = key.clone();
        let visits = PeerVisits {
            side,
            listener,
            certificate,
            handshakes: earlier + 1,
            last_seen: handshake.time.into(),
            address: handshake.peer_addr.map(|address| address.ip()),
            keyring: handshake.keyring.clone(),
            key_pair: handshake.key_pair,
            chosen_by: handshake.chosen_by,
        };
        known.waiting = Some((visits, since));
        true
    }

    /// The handshakes of a peer that wait: its row is written whole, with them.
    pub(super) fn take_handshakes(&mut self, key: &BacklogPeerKey) -> i64 {
        let waiting = self.peers.get_mut(key).and_then(|known| known.waiting.take());
        self.waiting -= usize::from(waiting.is_some());
        waiting.map_or(0, |(visits, _)| visits.handshakes)
    }

    /// What has waited long enough by this second of the writer.
    pub(super) fn take_due(&mut self, second: u64) -> Vec<PeerVisits> {
        let is_due = |waiting: &mut (PeerVisits, u64)| waiting.1.saturating_add(VISIT_DELAY_SECONDS) <= second;
        let due: Vec<PeerVisits> = self
            .peers
            .values_mut()
            .filter_map(|known| known.waiting.take_if(is_due))
            .map(|(visits, _)| visits)
            .collect();
        self.waiting -= due.len();
        due
    }

    /// These rows were written.
    pub(super) fn record_written<'a>(&mut self, rows: impl IntoIterator<Item = (BacklogPeerKey, &'a PeerRow)>) {
        for (key, row) in rows {
            let hash = self.hash_peer(row.identity.as_deref(), row.partner.as_deref(), row.public_ca.is_set());
            if self.peers.len() < MAX_WRITTEN || self.peers.contains_key(&key) {
                self.peers.entry(key).or_default().row = Some(hash);
            }
        }
    }

    /// The registry may have lost rows: those of peers that come again are written whole.
    pub(super) fn forget_written(&mut self) {
        self.peers.retain(|_, known| {
            known.row = None;
            known.waiting.is_some()
        });
    }

    /// These could not be written: they wait no longer than for the next writing.
    pub(super) fn restore(&mut self, visits: Vec<PeerVisits>) {
        for visits in visits {
            let known = self.peers.entry((visits.side, Arc::clone(&visits.listener), visits.certificate)).or_default();
            self.waiting += usize::from(known.waiting.is_none());
            let mut waiting = visits;
            if let Some((newer, _)) = known.waiting.take() {
                waiting = PeerVisits { handshakes: waiting.handshakes + newer.handshakes, ..newer };
            }
            known.waiting = Some((waiting, 0));
        }
    }

    /// Of everything that a row says of its peer beside its key, how often it came, and how it came last.
    fn hash_peer(&self, identity: Option<&str>, partner: Option<&str>, public_ca: bool) -> u64 {
        self.hashes.hash_one((identity, partner, public_ca))
    }
}
