//! Counts the ends without an alert: once may be chance, twice in a row is taken for a refusal (contract section 4).
//!
//! Bounded, and in memory only: a restart costs a silent peer one more handshake.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::record::{RefusalReport, SILENT_REASONS};
use super::source::SenderKind;
use crate::keyring::fit::shift_time;
use crate::pki::Fingerprint;

/// Ends in a row that make a refusal.
const ENDS_THAT_REFUSE: u8 = 2;
/// Senders that are counted, in all and of one network.
const MAX_SENDERS: usize = 4096;
const MAX_SENDERS_OF_NETWORK: usize = 256;

/// What each sender has done without a word. Senders of one kind are told apart as soon as their certificates are known,
/// so that none of them interrupts another one's row.
#[derive(Debug, Default)]
pub(super) struct SilentEndCounts(BTreeMap<(SenderKind, SilentSender), SilentEndCount>);

/// Who of its kind ended a connection, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SilentSender {
    /// It ended within the handshake, before its certificate.
    Unknown,
    /// It finished the handshake without a certificate.
    Anonymous,
    /// It finished the handshake with this one.
    Verified(Fingerprint),
}

impl SilentSender {
    fn find(refusal: &RefusalReport<'_>) -> Self {
        match refusal.certificate {
            Some(certificate) => Self::Verified(certificate),
            None if refusal.reason == SILENT_REASONS[0] => Self::Unknown,
            None => Self::Anonymous,
        }
    }
}

#[derive(Debug)]
struct SilentEndCount {
    key_pair: Fingerprint,
    in_row: u8,
    last: Timestamp,
    /// It ends so whichever pair it is shown: that is its way, and no refusal.
    always: bool,
}

impl SilentEndCounts {
    /// Counts an end; whether it makes a refusal together with those before it.
    pub(super) fn count(&mut self, refusal: &RefusalReport<'_>, now: Timestamp) -> bool {
        let (key, key_pair) = ((refusal.sender.clone(), SilentSender::find(refusal)), refusal.key_pair);
        if !self.0.contains_key(&key) {
            self.make_room(refusal.sender.source.network());
        }
        let fresh = SilentEndCount { key_pair, in_row: 0, last: now, always: false };
        let counted = self.0.entry(key).or_insert(fresh);
        counted.last = now;
        if counted.key_pair != key_pair {
            (counted.key_pair, counted.in_row) = (key_pair, 0);
        }
        counted.in_row = counted.in_row.saturating_add(1);
        counted.in_row >= ENDS_THAT_REFUSE && !counted.always
    }

    /// The sender has ended so on every pair there is: it is not counted any more until it sends something.
    pub(super) fn give_up(&mut self, refusal: &RefusalReport<'_>) {
        if let Some(counted) = self.0.get_mut(&(refusal.sender.clone(), SilentSender::find(refusal))) {
            counted.always = true;
        }
    }

    /// A sender has sent something on a connection that showed this pair: its ends on that pair were not in a row. Data
    /// without a certificate may come from another one than the ends within handshakes, and says nothing of them.
    pub(super) fn forget(&mut self, sender: &SenderKind, certificate: Option<Fingerprint>, key_pair: Fingerprint) {
        let own = certificate.map_or(SilentSender::Anonymous, SilentSender::Verified);
        let unknown = certificate.map(|_| SilentSender::Unknown);
        for who in [Some(own), unknown].into_iter().flatten() {
            let key = (sender.clone(), who);
            if self.0.get(&key).is_some_and(|counted| counted.always || counted.key_pair == key_pair) {
                self.0.remove(&key);
            }
        }
    }

    /// Forgets counts of pairs that are no longer in overlap.
    pub(super) fn retain(&mut self, is_in_overlap: impl Fn(&Fingerprint) -> bool) {
        self.0.retain(|_, counted| is_in_overlap(&counted.key_pair));
    }

    /// After a step of the clock the oldest count is still the oldest.
    pub(super) fn shift_times(&mut self, step: SignedDuration) {
        self.0.values_mut().for_each(|counted| counted.last = shift_time(counted.last, step));
    }

    /// How many senders are counted.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn make_room(&mut self, network: IpAddr) {
        let of_network = self.0.keys().filter(|(sender, _)| sender.source.network() == network).count();
        let full = of_network >= MAX_SENDERS_OF_NETWORK;
        if self.0.len() >= MAX_SENDERS || full {
            let among = self.0.iter().filter(|((sender, _), _)| !full || sender.source.network() == network);
            let oldest = among.min_by_key(|(_, counted)| counted.last).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
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

    /// An end in the handshake, after it without a certificate (`0`), or after it with one.
    fn count_end(
        counts: &mut SilentEndCounts,
        sender: &SenderKind,
        (key_pair, who): (u8, Option<u8>),
        at: i64,
    ) -> bool {
        let reason = SILENT_REASONS[usize::from(who.is_some())];
        let certificate = who.filter(|who| *who > 0).map(pair);
        let (keyring, key_pair) = ("api".into(), pair(key_pair));
        counts.count(&RefusalReport { sender, keyring: &keyring, key_pair, reason, certificate, next: None }, day(at))
    }

    #[test]
    fn two_ends_in_a_row_of_one_sender_on_one_pair_are_a_refusal() {
        let mut counts = SilentEndCounts::default();
        let sender = kind(&source("192.0.2.1"), 7);
        assert!(!count_end(&mut counts, &sender, (1, Some(100)), 0));
        assert!(!count_end(&mut counts, &sender, (2, Some(100)), 0), "another pair");
        assert!(!count_end(&mut counts, &sender, (2, Some(101)), 0), "another sender");
        assert!(count_end(&mut counts, &sender, (2, Some(101)), 0));
        assert!(count_end(&mut counts, &sender, (2, Some(101)), 0), "it goes on");
        counts.forget(&sender, Some(pair(101)), pair(1));
        assert!(count_end(&mut counts, &sender, (2, Some(101)), 0), "it has sent something, but on another pair");
        counts.forget(&sender, Some(pair(101)), pair(2));
        assert!(!count_end(&mut counts, &sender, (2, Some(101)), 0), "it has sent something in between");
        let keyring = "api".into();
        let (key_pair, certificate) = (pair(2), Some(pair(101)));
        let refusal = RefusalReport {
            sender: &sender,
            keyring: &keyring,
            key_pair,
            reason: SILENT_REASONS[1],
            certificate,
            next: None,
        };
        counts.give_up(&refusal);
        assert!(!count_end(&mut counts, &sender, (2, Some(101)), 0), "that is its way");
    }

    #[test]
    fn neither_the_ends_nor_the_data_of_others_of_its_kind_interrupt_a_sender_s_row() {
        let sender = kind(&source("192.0.2.1"), 7);
        for own in [None, Some(0), Some(100)] {
            for other in [None, Some(0), Some(101)].into_iter().filter(|other| *other != own) {
                let mut counts = SilentEndCounts::default();
                assert!(!count_end(&mut counts, &sender, (1, own), 0));
                assert!(!count_end(&mut counts, &sender, (1, other), 0), "{own:?} is not {other:?}");
                assert!(count_end(&mut counts, &sender, (1, own), 0), "{own:?} after {other:?}");
            }
        }
        // Data without a certificate is what any stranger can send; data on the other pair says nothing of this one.
        for (own, data, key_pair) in
            [(None, None, 1), (Some(100), None, 1), (Some(100), Some(101), 1), (None, Some(100), 2)]
        {
            let mut counts = SilentEndCounts::default();
            assert!(!count_end(&mut counts, &sender, (1, own), 0));
            counts.forget(&sender, data.map(pair), pair(key_pair));
            assert!(count_end(&mut counts, &sender, (1, own), 0), "{own:?} after data of {data:?}");
        }
        // What a verified peer of the kind sent on this pair may be of the one that ended within a handshake.
        let mut counts = SilentEndCounts::default();
        assert!(!count_end(&mut counts, &sender, (1, None), 0));
        counts.forget(&sender, Some(pair(100)), pair(1));
        assert!(!count_end(&mut counts, &sender, (1, None), 0));
    }

    #[test]
    fn a_flood_of_ends_keeps_within_its_network_s_share() {
        let mut counts = SilentEndCounts::default();
        let kept = kind(&source("198.51.100.1"), 7);
        count_end(&mut counts, &kept, (1, None), 0);
        for number in 0..2000_u64 {
            count_end(&mut counts, &kind(&source("192.0.2.1"), number), (1, None), 1);
        }
        assert_eq!(counts.0.len(), 1 + MAX_SENDERS_OF_NETWORK);
        assert!(count_end(&mut counts, &kept, (1, None), 2), "the count of another network has stayed");
    }
}
