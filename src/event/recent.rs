//! The last 2,000 handshakes, in memory (contract section 6), and for the latest of them the certificates that the peer
//! sent, up to a few megabytes.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::handshake::HandshakeRecord;
use super::proof::ProofRecord;
use crate::snapshot::Side;
use crate::tls::HandshakeOutcome;

/// Handshakes kept.
const MAX_HANDSHAKES: usize = 2000;
/// Bytes of certificates kept with them, in total.
const MAX_CHAIN_BYTES: usize = 4 << 20;
/// Handshakes that are copied at once: who reports one waits for so many at most, also where a thread of lower priority copies.
const COPIED_AT_ONCE: usize = 64;

/// A ring of handshakes, the oldest first.
#[derive(Default)]
pub(super) struct RecentHandshakes {
    handshakes: VecDeque<Arc<HandshakeRecord>>,
    /// How many older ones have made room.
    dropped: u64,
    /// Bytes of all chains that are still kept.
    chains: usize,
    /// How many of the oldest have lost theirs.
    without: usize,
}

impl RecentHandshakes {
    /// Adds a handshake; drops the oldest when full.
    pub(super) fn push(&mut self, handshake: Arc<HandshakeRecord>) {
        if self.handshakes.len() == MAX_HANDSHAKES
            && let Some(oldest) = self.handshakes.pop_front()
        {
            self.chains -= chain_size(&oldest);
            self.without = self.without.saturating_sub(1);
            self.dropped += 1;
        }
        self.chains += chain_size(&handshake);
        self.handshakes.push_back(handshake);
        while self.chains > MAX_CHAIN_BYTES
            && let Some(oldest) = self.handshakes.get_mut(self.without)
        {
            self.chains -= chain_size(oldest);
            self.without += 1;
            if !oldest.peer_chain.is_empty() {
                Arc::make_mut(oldest).peer_chain = Arc::default();
            }
        }
    }

    /// Adds to a handshake with an upstream what came of it afterwards; returns it if it is still there and showed that pair.
    pub(super) fn amend(&mut self, proof: &ProofRecord) -> Option<Arc<HandshakeRecord>> {
        let name = (Side::Egress, proof.connection, Some(proof.key_pair));
        let found = self.handshakes.iter_mut().rev().find(|handshake| handshake.name_handshake() == name)?;
        if proof.is_adverse() || found.outcome == HandshakeOutcome::Doubted {
            let handshake = Arc::make_mut(found);
            handshake.outcome = proof.outcome;
            handshake.reason = proof.reason;
            handshake.explanation.clone_from(&proof.explanation);
            handshake.alert_received = proof.alert_received;
        }
        Some(Arc::clone(found))
    }

    /// Their places among all that there ever were.
    pub(super) fn places(&self) -> Range<u64> {
        self.dropped..self.dropped + self.handshakes.len() as u64
    }

    /// Adds the first of these places to a copy, and takes them from the places; those that have made room meanwhile are left out.
    pub(super) fn copy_part(&self, places: &mut Range<u64>, copy: &mut Vec<Arc<HandshakeRecord>>) {
        places.start = places.start.max(self.dropped).min(places.end);
        let end = places.end.min(places.start + COPIED_AT_ONCE as u64);
        let index = |place: u64| usize::try_from(place - self.dropped).unwrap_or(usize::MAX);
        if !places.is_empty() {
            copy.extend(self.handshakes.range(index(places.start)..index(end)).cloned());
        }
        places.start = end;
    }
}

fn chain_size(handshake: &HandshakeRecord) -> usize {
    handshake.peer_chain.iter().map(|der| der.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::handshake::tests::accepted;
    use crate::pki::Fingerprint;
    use crate::snapshot::Epoch;

    fn with_chain(connection: u64, bytes: usize) -> Arc<HandshakeRecord> {
        Arc::new(HandshakeRecord { connection, peer_chain: [vec![0x30; bytes].into()].into(), ..accepted() })
    }

    fn copy_all(recent: &RecentHandshakes) -> Vec<Arc<HandshakeRecord>> {
        let (mut copy, mut places) = (Vec::new(), recent.places());
        while !places.is_empty() {
            let before = copy.len();
            recent.copy_part(&mut places, &mut copy);
            assert!(copy.len() - before <= COPIED_AT_ONCE);
        }
        copy
    }

    #[test]
    fn a_copy_in_parts_has_each_once_that_is_there_all_the_time_and_none_that_comes_meanwhile() {
        for arriving in [[5, 100], [300, 1], [0, 3000]] {
            let mut recent = RecentHandshakes::default();
            (0..MAX_HANDSHAKES as u64).for_each(|connection| recent.push(with_chain(connection, 10)));
            let (mut copy, mut places) = (Vec::new(), recent.places());
            let mut newest = MAX_HANDSHAKES as u64;
            let mut turns = arriving.iter().cycle();
            while !places.is_empty() {
                recent.copy_part(&mut places, &mut copy);
                for _ in 0..*turns.next().unwrap() {
                    recent.push(with_chain(newest, 10));
                    newest += 1;
                }
            }
            let copied: Vec<u64> = copy.iter().map(|handshake| handshake.connection).collect();
            assert!(copied.is_sorted_by(|one, next| one < next), "each once, in order");
            let first_kept = newest - MAX_HANDSHAKES as u64;
            assert!((first_kept..MAX_HANDSHAKES as u64).all(|connection| copied.contains(&connection)));
            assert!(copied.iter().all(|connection| *connection < MAX_HANDSHAKES as u64), "what came meanwhile");
        }
    }

    #[test]
    fn the_last_two_thousand_stay_in_order() {
        let mut recent = RecentHandshakes::default();
        for connection in 0..2500 {
            recent.push(with_chain(connection, 10));
        }
        let all = copy_all(&recent);
        assert_eq!((all.len(), all[0].connection, all[1999].connection), (MAX_HANDSHAKES, 500, 2499));
        assert_eq!(recent.chains, 20_000);
    }

    #[test]
    fn chains_are_let_go_of_before_they_grow_beyond_their_share() {
        let mut recent = RecentHandshakes::default();
        for connection in 0..5000 {
            recent.push(with_chain(connection, 16 << 10));
            let kept: usize = recent.handshakes.iter().map(|handshake| chain_size(handshake)).sum();
            assert_eq!(recent.chains, kept);
            assert!(kept <= MAX_CHAIN_BYTES);
        }
        let all = copy_all(&recent);
        assert_eq!(
            all.iter().filter(|handshake| !handshake.peer_chain.is_empty()).count(),
            MAX_CHAIN_BYTES / (16 << 10)
        );
        assert!(all[0].peer_chain.is_empty() && !all[1999].peer_chain.is_empty(), "the latest keep theirs");
    }

    #[test]
    fn what_comes_of_a_handshake_is_added_to_it_unless_another_pair_is_meant() {
        let mut recent = RecentHandshakes::default();
        let shown = Fingerprint::from_bytes([1; 32]);
        let unproved = HandshakeRecord {
            side: Side::Egress,
            outcome: HandshakeOutcome::Unproved,
            key_pair: Some(shown),
            ..HandshakeRecord::clone(&with_chain(7, 10))
        };
        recent.push(Arc::new(unproved));
        let proof = |key_pair, outcome, reason| ProofRecord {
            listener: "out".into(),
            outcome,
            reason,
            key_pair,
            alert_received: None,
            explanation: "why".to_owned(),
            connection: 7,
            epoch: Epoch(1),
            handshake: None,
        };
        let other = proof(Fingerprint::from_bytes([2; 32]), HandshakeOutcome::Refused, "excluded_by_authorities");
        assert!(recent.amend(&other).is_none());
        for (outcome, reason, failed) in [
            (HandshakeOutcome::Doubted, "status_403", true),
            (HandshakeOutcome::Accepted, "ok", false),
            (HandshakeOutcome::Refused, "refused_unknown_ca", true),
        ] {
            let amended = recent.amend(&proof(shown, outcome, reason)).unwrap();
            assert_eq!((amended.outcome, amended.reason, amended.is_failure()), (outcome, reason, failed));
            assert_eq!(copy_all(&recent)[0].reason, reason);
        }
    }

    #[test]
    fn fifty_thousand_handshakes_leave_the_last_two_thousand_and_few_chains() {
        let mut recent = RecentHandshakes::default();
        for connection in 0..50_000 {
            recent.push(with_chain(connection, 16 << 10));
        }
        assert_eq!(recent.handshakes.len(), MAX_HANDSHAKES);
        let kept: usize = recent.handshakes.iter().map(|handshake| chain_size(handshake)).sum();
        assert!(kept == recent.chains && kept <= MAX_CHAIN_BYTES, "{kept}");
    }
}
