//! Counts the ends without an alert: once may be chance, twice in a row is taken for a refusal (contract section 4).
//!
//! Bounded, and in memory only: a restart costs a silent peer one more handshake.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;

use super::source::SenderKind;
use crate::pki::Fingerprint;

/// Ends in a row that make a refusal.
const ENDS_THAT_REFUSE: u8 = 2;
/// Kinds of senders that are counted, in all and of one network.
const MAX_KINDS: usize = 4096;
const MAX_KINDS_OF_NETWORK: usize = 256;

/// What each kind of sender has done without a word.
#[derive(Debug, Default)]
pub(super) struct SilentEndCounts(BTreeMap<SenderKind, SilentEndCount>);

#[derive(Debug)]
struct SilentEndCount {
    key_pair: Fingerprint,
    /// The certificate of the sender, where the handshake got that far: another one is another sender.
    certificate: Option<Fingerprint>,
    in_row: u8,
    last: Timestamp,
    /// It ends so whichever pair it is shown: that is its way, and no refusal.
    always: bool,
}

impl SilentEndCounts {
    /// Counts an end; whether it makes a refusal together with those before it.
    pub(super) fn count(
        &mut self,
        sender: &SenderKind,
        (key_pair, certificate): (Fingerprint, Option<Fingerprint>),
        now: Timestamp,
    ) -> bool {
        if !self.0.contains_key(sender) {
            self.make_room(sender.source.network());
        }
        let fresh = SilentEndCount { key_pair, certificate, in_row: 0, last: now, always: false };
        let counted = self.0.entry(sender.clone()).or_insert(fresh);
        counted.last = now;
        if counted.key_pair != key_pair || counted.certificate != certificate {
            (counted.key_pair, counted.certificate, counted.in_row) = (key_pair, certificate, 0);
        }
        counted.in_row = counted.in_row.saturating_add(1);
        counted.in_row >= ENDS_THAT_REFUSE && !counted.always
    }

    /// The sender has ended so on every pair there is: it is not counted any more until it sends something.
    pub(super) fn give_up(&mut self, sender: &SenderKind) {
        if let Some(counted) = self.0.get_mut(sender) {
            counted.always = true;
        }
    }

    /// The sender has sent something: what came before was not in a row.
    pub(super) fn forget(&mut self, sender: &SenderKind) {
        self.0.remove(sender);
    }

    /// Forgets counts of pairs that are no longer in overlap.
    pub(super) fn retain(&mut self, is_in_overlap: impl Fn(&Fingerprint) -> bool) {
        self.0.retain(|_, counted| is_in_overlap(&counted.key_pair));
    }

    /// How many kinds of senders are counted.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn make_room(&mut self, network: IpAddr) {
        let of_network = self.0.keys().filter(|sender| sender.source.network() == network).count();
        let within = |sender: &SenderKind| of_network < MAX_KINDS_OF_NETWORK || sender.source.network() == network;
        if self.0.len() >= MAX_KINDS || of_network >= MAX_KINDS_OF_NETWORK {
            let oldest = self.0.iter().filter(|(sender, _)| within(sender)).min_by_key(|(_, counted)| counted.last);
            if let Some(oldest) = oldest.map(|(sender, _)| sender.clone()) {
                self.0.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{kind, pair, source};
    use super::*;
    use crate::keyring::pool::day;

    #[test]
    fn two_ends_in_a_row_of_one_sender_on_one_pair_are_a_refusal() {
        let mut counts = SilentEndCounts::default();
        let sender = kind(&source("192.0.2.1"), 7);
        let mut end = |key_pair: u8, certificate: Option<u8>| {
            counts.count(&sender, (pair(key_pair), certificate.map(pair)), day(0))
        };
        assert!(!end(1, Some(100)));
        assert!(!end(2, Some(100)), "another pair");
        assert!(!end(2, Some(101)), "another sender");
        assert!(end(2, Some(101)));
        assert!(end(2, Some(101)), "it goes on");
        counts.forget(&sender);
        assert!(!counts.count(&sender, (pair(2), Some(pair(101))), day(0)), "it has sent something in between");
        counts.give_up(&sender);
        assert!(!counts.count(&sender, (pair(2), Some(pair(101))), day(0)), "that is its way");
    }

    #[test]
    fn a_flood_of_ends_keeps_within_its_network_s_share() {
        let mut counts = SilentEndCounts::default();
        let kept = kind(&source("198.51.100.1"), 7);
        counts.count(&kept, (pair(1), None), day(0));
        for number in 0..2000_u64 {
            counts.count(&kind(&source("192.0.2.1"), number), (pair(1), None), day(1));
        }
        assert_eq!(counts.0.len(), 1 + MAX_KINDS_OF_NETWORK);
        assert!(counts.count(&kept, (pair(1), None), day(2)), "the count of another network has stayed");
    }
}
