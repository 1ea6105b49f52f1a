//! Verified chains, remembered until they expire: a look-up instead of signature checks (contract: verify again).
//!
//! Bounded; lives and dies with one epoch's `Trust`; holds the only mutex of this area, for the length of one look-up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::presented::{ChainHash, PresentedChain};
use super::verdict::{PeerRole, Verified};
use crate::pki::SpkiHash;

/// Bytes in each of the two halves, enough for five thousand peers; a peer that sends ever new chains costs others a signature check,
/// never memory.
const HALF_BYTES: usize = 12 << 20;
/// What an entry takes beside the chain as it was presented: the path's certificates, parsed.
const ENTRY_BYTES: usize = 1024;
/// Signers of CRLs.
const MAX_SIGNERS: usize = 2048;

/// The cache key of a verdict: the hash of the chain, and the role.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ChainKey {
    chain: ChainHash,
    role: PeerRole,
}

impl ChainKey {
    pub(super) fn new(chain: &PresentedChain, role: &PeerRole) -> Self {
        Self { chain: *chain.hash(), role: role.clone() }
    }
}

#[derive(Clone)]
struct CachedVerdict {
    verified: Arc<Verified>,
    from: Timestamp,
    until: Timestamp,
}

impl CachedVerdict {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.verified.presented.iter().map(|certificate| certificate.len()).sum::<usize>()
    }
}

/// Two halves: an entry that is used moves to the new one, and when that is full the old one is dropped.
#[derive(Default)]
struct CacheHalves {
    new: HashMap<ChainKey, CachedVerdict>,
    /// Of the new half.
    bytes: usize,
    old: HashMap<ChainKey, CachedVerdict>,
    /// Whether the CRL of this number carries the signature of this key.
    signers: HashMap<(usize, SpkiHash), bool>,
}

/// The cache of one `Trust`.
#[derive(Default)]
pub(super) struct ChainCache(Mutex<CacheHalves>);

impl ChainCache {
    /// The verdict, if it holds at `now`.
    pub(super) fn find(&self, key: &ChainKey, now: Timestamp) -> Option<Arc<Verified>> {
        let mut halves = self.lock();
        let entry = match halves.new.get(key) {
            Some(entry) => entry.clone(),
            None => {
                let entry = halves.old.remove(key)?;
                halves.insert(key.clone(), entry.clone());
                entry
            }
        };
        drop(halves);
        (entry.from <= now && now < entry.until).then_some(entry.verified)
    }

    /// Remembers a verdict from `from` until before `until`.
    pub(super) fn insert(&self, key: ChainKey, verified: &Arc<Verified>, from: Timestamp, until: Timestamp) {
        self.lock().insert(key, CachedVerdict { verified: Arc::clone(verified), from, until });
    }

    /// Whether CRL number `crl` is signed by `key`; `check` decides the first time.
    pub(super) fn is_signer(&self, crl: usize, key: SpkiHash, check: impl FnOnce() -> bool) -> bool {
        if let Some(known) = self.lock().signers.get(&(crl, key)) {
            return *known;
        }
        let is = check();
        let mut halves = self.lock();
        if halves.signers.len() >= MAX_SIGNERS {
            halves.signers.clear();
        }
        halves.signers.insert((crl, key), is);
        is
    }

    /// Nothing here is left half-done by a panic, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, CacheHalves> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CacheHalves {
    fn insert(&mut self, key: ChainKey, entry: CachedVerdict) {
        let bytes = entry.bytes();
        if self.bytes + bytes > HALF_BYTES {
            self.old = std::mem::take(&mut self.new);
            self.bytes = 0;
        }
        self.bytes += bytes;
        if let Some(before) = self.new.insert(key, entry) {
            self.bytes -= before.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::CertificateDer;

    use super::*;

    fn at_second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn verified() -> Arc<Verified> {
        Arc::new(Verified {
            path: Vec::new(),
            anchor: None,
            pin: None,
            valid_until: at_second(100),
            expired: None,
            presented: PresentedChain::default(),
        })
    }

    fn key_of(chain: &[&[u8]], role: &PeerRole) -> ChainKey {
        let chain: Vec<_> = chain.iter().map(|bytes| CertificateDer::from(bytes.to_vec())).collect();
        ChainKey::new(&chain.into(), role)
    }

    fn key(number: u32) -> ChainKey {
        key_of(&[&number.to_be_bytes()], &PeerRole::Client)
    }

    #[test]
    fn a_verdict_holds_within_its_time_only() {
        let cache = ChainCache::default();
        cache.insert(key(1), &verified(), at_second(10), at_second(20));
        assert!(cache.find(&key(1), at_second(9)).is_none());
        assert!(cache.find(&key(1), at_second(10)).is_some());
        assert!(cache.find(&key(1), at_second(20)).is_none());
        assert!(cache.find(&key(2), at_second(10)).is_none());
    }

    #[test]
    fn it_stays_bounded_and_keeps_what_is_used() {
        let cache = ChainCache::default();
        cache.insert(key(0), &verified(), at_second(0), at_second(9));
        for number in 1..50_000 {
            cache.insert(key(number), &verified(), at_second(0), at_second(9));
            assert!(cache.find(&key(0), at_second(1)).is_some());
        }
        let halves = cache.lock();
        assert!(halves.new.len() + halves.old.len() <= 2 * HALF_BYTES / ENTRY_BYTES);
    }

    /// A verdict about a chain of this size.
    fn verified_chain(bytes: usize) -> Arc<Verified> {
        let presented = vec![CertificateDer::from(vec![1; bytes])].into();
        Arc::new(Verified {
            presented,
            path: Vec::new(),
            anchor: None,
            pin: None,
            valid_until: at_second(100),
            expired: None,
        })
    }

    #[test]
    fn five_thousand_peers_in_turns_are_all_known_and_long_chains_take_the_room_of_many() {
        let cache = ChainCache::default();
        for number in 0..5_000 {
            cache.insert(key(number), &verified_chain(1_300), at_second(0), at_second(9));
        }
        assert!((0..5_000).all(|number| cache.find(&key(number), at_second(1)).is_some()));
        for number in 0..5_000 {
            cache.insert(key(number), &verified_chain(60_000), at_second(0), at_second(9));
        }
        let halves = cache.lock();
        assert!(halves.new.len() + halves.old.len() <= 2 * HALF_BYTES / 60_000 && halves.bytes <= HALF_BYTES);
    }

    #[test]
    fn role_and_boundaries_are_part_of_the_key() {
        let joined = key_of(&[b"ab"], &PeerRole::Client);
        assert!(joined == key_of(&[b"ab"], &PeerRole::Client));
        assert!(joined != key_of(&[b"a", b"b"], &PeerRole::Client));
        assert!(joined != key_of(&[b"ab"], &PeerRole::ServerName("".into())));
        assert!(key_of(&[], &PeerRole::ServerName("a".into())) != key_of(&[], &PeerRole::ServerUri("a".into())));
    }

    #[test]
    fn a_crl_signer_is_checked_once() {
        let cache = ChainCache::default();
        let signer = SpkiHash::of(b"key");
        assert!(cache.is_signer(0, signer, || true));
        assert!(cache.is_signer(0, signer, || unreachable!("known")));
        assert!(!cache.is_signer(1, signer, || false));
    }

    #[test]
    fn fifty_thousand_chains_and_signers_keep_within_two_halves() {
        let (cache, verdict) = (ChainCache::default(), verified());
        for number in 0..50_000_u32 {
            cache.insert(key(number), &verdict, at_second(0), at_second(9));
            cache.is_signer(0, SpkiHash::of(&number.to_be_bytes()), || false);
        }
        let halves = cache.lock();
        assert!(halves.new.len() + halves.old.len() <= 2 * HALF_BYTES / ENTRY_BYTES);
        assert!(halves.signers.len() <= MAX_SIGNERS);
    }
}
