//! The last 2,000 handshakes, in memory (contract section 6), and for the latest of them the certificates that the peer
//! sent, up to a few megabytes.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Handshake;

/// Handshakes kept.
const HANDSHAKES: usize = 2000;
/// Bytes of certificates kept with them, in total.
const CHAINS: usize = 4 << 20;

/// A ring of handshakes, the oldest first.
#[derive(Default)]
pub(super) struct Recent {
    handshakes: VecDeque<Arc<Handshake>>,
    /// Bytes of all chains that are still kept.
    chains: usize,
    /// How many of the oldest have lost theirs.
    without: usize,
}

impl Recent {
    /// Adds a handshake; drops the oldest when full.
    pub(super) fn push(&mut self, handshake: Arc<Handshake>) {
        if self.handshakes.len() == HANDSHAKES
            && let Some(oldest) = self.handshakes.pop_front()
        {
            self.chains -= size(&oldest);
            self.without = self.without.saturating_sub(1);
        }
        self.chains += size(&handshake);
        self.handshakes.push_back(handshake);
        while self.chains > CHAINS
            && let Some(oldest) = self.handshakes.get_mut(self.without)
        {
            self.chains -= size(oldest);
            self.without += 1;
            if !oldest.peer_chain.is_empty() {
                Arc::make_mut(oldest).peer_chain = Vec::new();
            }
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<Handshake>> {
        self.handshakes.iter().cloned().collect()
    }
}

fn size(handshake: &Handshake) -> usize {
    handshake.peer_chain.iter().map(|der| der.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::super::handshake::tests::accepted;
    use super::*;

    fn with_chain(connection: u64, bytes: usize) -> Arc<Handshake> {
        Arc::new(Handshake { connection, peer_chain: vec![vec![0x30; bytes].into()], ..accepted() })
    }

    #[test]
    fn the_last_two_thousand_stay_in_order() {
        let mut recent = Recent::default();
        for connection in 0..2500 {
            recent.push(with_chain(connection, 10));
        }
        let all = recent.all();
        assert_eq!((all.len(), all[0].connection, all[1999].connection), (HANDSHAKES, 500, 2499));
        assert_eq!(recent.chains, 20_000);
    }

    #[test]
    fn chains_are_let_go_of_before_they_grow_beyond_their_share() {
        let mut recent = Recent::default();
        for connection in 0..5000 {
            recent.push(with_chain(connection, 16 << 10));
            let kept: usize = recent.handshakes.iter().map(|handshake| size(handshake)).sum();
            assert_eq!(recent.chains, kept);
            assert!(kept <= CHAINS);
        }
        let all = recent.all();
        assert_eq!(all.iter().filter(|handshake| !handshake.peer_chain.is_empty()).count(), CHAINS / (16 << 10));
        assert!(all[0].peer_chain.is_empty() && !all[1999].peer_chain.is_empty(), "the latest keep theirs");
    }
}
