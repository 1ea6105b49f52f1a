//! The chains of peers that hold tickets: a ticket names its peer's chain by a hash instead of carrying it.
//!
//! A chain is most of what a ticket holds, and every resumption would seal, open, send and hash it anew. What is kept is
//! bounded and ends with its config, as tickets do; a ticket whose chain is no longer kept is answered by a full handshake.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::CertificateDer;

use crate::trust::{ChainHash, PresentedChain};

/// Bytes of the chains in each of the two halves, enough for five thousand peers.
const HALF_BYTES: usize = 8 << 20;
/// What an entry takes beside its chain.
const ENTRY_BYTES: usize = 100;
/// A longer chain stays in its ticket.
const MAX_CHAIN_BYTES: usize = 8 * 1024;

/// Bytes of a chain's name, and of its place in the content of a ticket.
const NAME_BYTES: usize = 32;
const PLACE_BYTES: usize = 2;

/// The chains of one config. An entry that is used moves to the new half, and when that is full the old one is dropped.
#[derive(Default)]
pub(super) struct TicketChains(Mutex<ChainHalves>);

#[derive(Default)]
struct ChainHalves {
    new: HashMap<ChainHash, Arc<[u8]>>,
    /// Of the new half.
    bytes: usize,
    old: HashMap<ChainHash, Arc<[u8]>>,
}

impl TicketChains {
    /// Keeps the chain of a peer; `None` where it is none, or too long.
    pub(super) fn keep_chain(&self, chain: &PresentedChain) -> Option<ChainHash> {
        let name = *chain.hash();
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if halves.find(&name).is_none() {
            halves.insert(name, encode_chain(chain)?.into());
        }
        Some(name)
    }

    /// The content of a ticket without the chain of this name; `None` where it does not hold that chain.
    pub(super) fn shorten(&self, content: &[u8], name: &ChainHash) -> Option<Vec<u8>> {
        let encoded = self.0.lock().unwrap_or_else(PoisonError::into_inner).find(name)?;
        // Most of the content is the chain, so few places are left for it: preparing a search would cost far more than these
        // comparisons, which end with the first byte almost everywhere.
        let place = content.windows(encoded.len()).position(|window| *window == *encoded)?;
        let mut short = Vec::with_capacity(NAME_BYTES + PLACE_BYTES + content.len() - encoded.len());
        short.extend_from_slice(name);
        short.extend_from_slice(&u16::try_from(place).ok()?.to_be_bytes());
        short.extend_from_slice(&content[..place]);
        short.extend_from_slice(&content[place + encoded.len()..]);
        Some(short)
    }

    /// The whole content of a ticket that was shortened, and the name of its chain; `None` where that is no longer kept.
    pub(super) fn restore(&self, short: &[u8]) -> Option<(Vec<u8>, ChainHash)> {
        let (name, rest) = short.split_first_chunk::<NAME_BYTES>()?;
        let (place, rest) = rest.split_first_chunk::<PLACE_BYTES>()?;
        let (before, behind) = rest.split_at_checked(usize::from(u16::from_be_bytes(*place)))?;
        let encoded = self.0.lock().unwrap_or_else(PoisonError::into_inner).find(name)?;
        Some(([before, &encoded, behind].concat(), *name))
    }
}

impl ChainHalves {
    fn find(&mut self, name: &ChainHash) -> Option<Arc<[u8]>> {
        if let Some(encoded) = self.new.get(name) {
            return Some(Arc::clone(encoded));
        }
        let encoded = self.old.remove(name)?;
        self.insert(*name, Arc::clone(&encoded));
        Some(encoded)
    }

    fn insert(&mut self, name: ChainHash, encoded: Arc<[u8]>) {
        let bytes = ENTRY_BYTES + encoded.len();
        if self.bytes + bytes > HALF_BYTES {
            self.old = std::mem::take(&mut self.new);
            self.bytes = 0;
        }
        self.bytes += bytes;
        // A name that is known is not inserted again.
        self.new.insert(name, encoded);
    }
}

/// The chain as TLS writes a list of certificates (RFC 5246 7.4.2), which is how rustls writes it into the content of a
/// ticket: each certificate behind its length, all behind theirs.
fn encode_chain(chain: &[CertificateDer<'static>]) -> Option<Vec<u8>> {
    let size: usize = chain.iter().map(|certificate| 3 + certificate.len()).sum();
    if size == 0 || size > MAX_CHAIN_BYTES {
        return None;
    }
    let mut encoded = Vec::with_capacity(3 + size);
    let write_length = |encoded: &mut Vec<u8>, length: usize| {
        // Never above MAX_CHAIN_BYTES.
        encoded.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_be_bytes()[1..]);
    };
    write_length(&mut encoded, size);
    for certificate in chain {
        write_length(&mut encoded, certificate.len());
        encoded.extend_from_slice(certificate);
    }
    Some(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(number: u32) -> PresentedChain {
        vec![number.to_be_bytes().repeat(100).into(), vec![7; 500].into()].into()
    }

    fn content(number: u32) -> Vec<u8> {
        [b"before".to_vec(), encode_chain(&chain(number)).unwrap(), b"behind".to_vec()].concat()
    }

    #[test]
    fn a_content_is_restored_as_it_was_and_is_short_in_between() {
        let chains = TicketChains::default();
        let name = chains.keep_chain(&chain(1)).unwrap();
        let short = chains.shorten(&content(1), &name).unwrap();
        assert_eq!(short.len(), NAME_BYTES + PLACE_BYTES + 12);
        assert_eq!(chains.restore(&short), Some((content(1), name)));
        assert_eq!(chains.shorten(b"another content", &name), None);
        assert_eq!(TicketChains::default().restore(&short), None, "another config does not know it");
        for length in 0..short.len() {
            assert!(chains.restore(&short[..length]).is_none_or(|(whole, _)| whole != content(1)));
        }
    }

    #[test]
    fn five_thousand_peers_in_turns_can_all_resume() {
        let chains = TicketChains::default();
        let chain = |number: u32| PresentedChain::from(vec![CertificateDer::from(number.to_be_bytes().repeat(325))]);
        let content = |number: u32| encode_chain(&chain(number)).unwrap();
        let tickets: Vec<_> = (0..5_000)
            .map(|number| chains.shorten(&content(number), &chains.keep_chain(&chain(number)).unwrap()).unwrap())
            .collect();
        assert!(tickets.iter().all(|ticket| chains.restore(ticket).is_some()));
    }

    #[test]
    fn chains_are_bounded_and_those_in_use_stay() {
        let chains = TicketChains::default();
        let used = chains.keep_chain(&chain(0)).unwrap();
        let short = chains.shorten(&content(0), &used).unwrap();
        for number in 1..20_000 {
            chains.keep_chain(&chain(number)).unwrap();
            assert!(chains.restore(&short).is_some(), "{number}");
        }
        let halves = chains.0.lock().unwrap();
        assert!(halves.new.len() + halves.old.len() <= 2 * HALF_BYTES / (ENTRY_BYTES + 900));
        drop(halves);
        let large = PresentedChain::from(vec![CertificateDer::from(vec![1; MAX_CHAIN_BYTES])]);
        assert!(chains.keep_chain(&large).is_none() && chains.keep_chain(&PresentedChain::default()).is_none());
    }
}
