//! The last 2,000 handshakes, in memory (contract section 6), and for the latest of them the certificates that the peer
//! sent, up to a few megabytes.

use std::collections::VecDeque;
use std::sync::Arc;

use super::handshake::HandshakeRecord;

/// Handshakes kept.
const MAX_HANDSHAKES: usize = 2000;
/// Bytes of certificates kept with them, in total.
const MAX_CHAIN_BYTES: usize = 4 << 20;

/// A ring of handshakes, the oldest first.
#[derive(Default)]
pub(super) struct RecentHandshakes {
    handshakes: VecDeque<Arc<HandshakeRecord>>,
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
        }
        self.chains += chain_size(&handshake);
        self.handshakes.push_back(handshake);
        while self.chains > MAX_CHAIN_BYTES
            && let Some(oldest) = self.handshakes.get_mut(self.without)
        {
            self.chains -= chain_size(oldest);
            self.without += 1;
            if !oldest.peer_chain.is_empty() {
                Arc::make_mut(oldest).peer_chain = Vec::new();
            }
        }
    }

    /// All of them.
    pub(super) fn to_vec(&self) -> Vec<Arc<HandshakeRecord>> {
        self.handshakes.iter().cloned().collect()
    }
}

fn chain_size(handshake: &HandshakeRecord) -> usize {
    handshake.peer_chain.iter().map(|der| der.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::handshake::tests::accepted;

    fn with_chain(connection: u64, bytes: usize) -> Arc<HandshakeRecord> {
        Arc::new(HandshakeRecord { connection, peer_chain: vec![vec![0x30; bytes].into()], ..accepted() })
    }

    #[test]
    fn the_last_two_thousand_stay_in_order() {
        let mut recent = RecentHandshakes::default();
        for connection in 0..2500 {
            recent.push(with_chain(connection, 10));
        }
        let all = recent.to_vec();
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
        let all = recent.to_vec();
        assert_eq!(
            all.iter().filter(|handshake| !handshake.peer_chain.is_empty()).count(),
            MAX_CHAIN_BYTES / (16 << 10)
        );
        assert!(all[0].peer_chain.is_empty() && !all[1999].peer_chain.is_empty(), "the latest keep theirs");
    }
}
