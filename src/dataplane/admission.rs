//! Which connections may wait for their ClientHello and shake hands when too many arrive (contract section 12).
//!
//! Accept first, then decide: silent connections have a cap of their own, from which the oldest goes; handshakes
//! have another, and what one source may have of it is bounded: beyond that its oldest goes; when all are taken, the oldest of
//! the source with the most goes. So neither a flood of silent connections nor one of stalled handshakes keeps an honest peer
//! out, even one behind the address that the flood comes from.
//!
//! The rules ([`Admission`]) are pure. Around them is one small lock for each listener, which a connection takes three times
//! before its first request and never after.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Limits on handshakes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandshakeCaps {
    /// Handshakes at once.
    pub(crate) handshakes: usize,
    /// Of these from one source.
    pub(crate) of_one_source: usize,
}

/// Connections that do not serve yet, by their numbers, which grow. `T` is how one of them is notified of its eviction.
#[derive(Debug)]
pub(crate) struct HandshakeAdmission<T> {
    waiting: BTreeMap<u64, T>,
    shaking: BTreeMap<u64, (IpAddr, T)>,
    by_source: HashMap<IpAddr, BTreeSet<u64>>,
}

impl<T> Default for HandshakeAdmission<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), shaking: BTreeMap::new(), by_source: HashMap::new() }
    }
}

impl<T> HandshakeAdmission<T> {
    /// A connection waits for its ClientHello. If no room is left, the oldest that waits is evicted.
    pub(crate) fn enqueue(&mut self, number: u64, ticket: T, cap: usize) -> Option<T> {
        let oldest = if self.waiting.len() >= cap { self.evict_oldest_waiting() } else { None };
        self.waiting.insert(number, ticket);
        oldest
    }

    /// Evicts the oldest connection that waits.
    pub(crate) fn evict_oldest_waiting(&mut self) -> Option<T> {
        self.waiting.pop_first().map(|(_, ticket)| ticket)
    }

    /// The ClientHello of a connection has arrived. `Some` = the connection evicted for it, and why: where the source has as
    /// many handshakes as it may, the oldest of these. One that was itself evicted meanwhile no longer takes a place.
    pub(crate) fn begin_handshake(
        &mut self,
        number: u64,
        source: IpAddr,
        caps: HandshakeCaps,
    ) -> Option<(T, EvictionReason)> {
        let ticket = self.waiting.remove(&number)?;
        let full = self.by_source.get(&source).filter(|taken| taken.len() >= caps.of_one_source);
        let evicted = if let Some(oldest) = full.and_then(BTreeSet::first).copied() {
            self.end_handshake(oldest).map(|ticket| (ticket, EvictionReason::Source))
        } else if self.shaking.len() >= caps.handshakes {
            self.evict().map(|ticket| (ticket, EvictionReason::Handshakes))
        } else {
            None
        };
        self.shaking.insert(number, (source, ticket));
        self.by_source.entry(source).or_default().insert(number);
        evicted
    }

    /// The oldest of the source with the most; of several such sources, the oldest of all.
    fn evict(&mut self) -> Option<T> {
        let most = self.by_source.values().map(BTreeSet::len).max()?;
        let of_most = self.by_source.values().filter(|taken| taken.len() == most);
        let oldest = *of_most.filter_map(BTreeSet::first).min()?;
        self.end_handshake(oldest)
    }

    /// A connection serves, or is gone.
    pub(crate) fn remove(&mut self, number: u64) {
        self.waiting.remove(&number);
        self.end_handshake(number);
    }

    fn end_handshake(&mut self, number: u64) -> Option<T> {
        let (source, ticket) = self.shaking.remove(&number)?;
        if let Some(taken) = self.by_source.get_mut(&source) {
            taken.remove(&number);
            if taken.is_empty() {
                self.by_source.remove(&source);
            }
        }
        Some(ticket)
    }
}

/// Why a connection has to go before it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EvictionReason {
    /// Too many wait for their ClientHello, and it has waited longest.
    Waiting,
    /// Too many connections are open, and of those without a ClientHello it has waited longest.
    Connections,
    /// Its source has as many handshakes as one may, and it is the oldest of them.
    Source,
    /// All handshakes are taken, and its source has the most.
    Handshakes,
}

/// A listener's admission, shared by all workers.
#[derive(Default)]
pub(crate) struct AdmissionGate(Mutex<HandshakeAdmission<oneshot::Sender<EvictionReason>>>);

impl AdmissionGate {
    /// A place among those that wait for their ClientHello, and where its eviction is announced.
    pub(crate) fn enqueue(
        self: &Arc<Self>,
        number: u64,
        cap: usize,
    ) -> (AdmissionSlot, oneshot::Receiver<EvictionReason>) {
        let (ticket, told) = oneshot::channel();
        let evicted = self.lock().enqueue(number, ticket, cap);
        notify_evicted(evicted, EvictionReason::Waiting);
        (AdmissionSlot { gate: Arc::clone(self), number }, told)
    }

    /// Makes room among all connections: the oldest that waits for its ClientHello goes. False if none does.
    pub(crate) fn make_room(&self) -> bool {
        let evicted = self.lock().evict_oldest_waiting();
        let made = evicted.is_some();
        notify_evicted(evicted, EvictionReason::Connections);
        made
    }

    fn lock(&self) -> MutexGuard<'_, HandshakeAdmission<oneshot::Sender<EvictionReason>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that ended by itself in the same moment need not be notified.
fn notify_evicted(evicted: Option<oneshot::Sender<EvictionReason>>, why: EvictionReason) {
    if let Some(ticket) = evicted {
        let _ = ticket.send(why);
    }
}

/// A connection's place, until it serves or is gone: until this is dropped.
pub(crate) struct AdmissionSlot {
    gate: Arc<AdmissionGate>,
    number: u64,
}

impl AdmissionSlot {
    /// Its ClientHello has arrived.
    pub(crate) fn begin_handshake(&self, source: IpAddr, caps: HandshakeCaps) {
        let evicted = self.gate.lock().begin_handshake(self.number, source, caps);
        if let Some((ticket, why)) = evicted {
            notify_evicted(Some(ticket), why);
        }
    }
}

impl Drop for AdmissionSlot {
    fn drop(&mut self) {
        self.gate.lock().remove(self.number);
    }
}

/// Open connections of partners that have a limit of their own.
#[derive(Default)]
pub(crate) struct PartnerConnections(Mutex<BTreeMap<Arc<str>, usize>>);

impl PartnerConnections {
    /// One more, unless the partner has `limit` already.
    pub(crate) fn admit(self: &Arc<Self>, partner: &Arc<str>, limit: usize) -> Option<PartnerSlot> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(Arc::clone(partner)).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(PartnerSlot { open: Arc::clone(self), partner: Arc::clone(partner) })
    }
}

/// A partner's connection, counted until this is dropped.
pub(crate) struct PartnerSlot {
    open: Arc<PartnerConnections>,
    partner: Arc<str>,
}

impl Drop for PartnerSlot {
    fn drop(&mut self) {
        let mut open = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.partner) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.partner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAPS: HandshakeCaps = HandshakeCaps { handshakes: 4, of_one_source: 2 };

    fn source_address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn the_oldest_silent_connection_goes_and_the_newest_stays() {
        let mut admission = HandshakeAdmission::default();
        assert_eq!((admission.enqueue(1, 1, 2), admission.enqueue(2, 2, 2)), (None, None));
        assert_eq!(admission.enqueue(3, 3, 2), Some(1));
        assert_eq!(admission.begin_handshake(1, source_address(1), CAPS), None);
        assert!(admission.shaking.is_empty(), "an evicted connection takes no other place");
        assert_eq!(admission.begin_handshake(3, source_address(1), CAPS), None);
        assert_eq!(admission.enqueue(4, 4, 2), None);
    }

    #[test]
    fn one_source_cannot_have_them_all_and_its_oldest_goes_for_its_newest() {
        let mut admission = HandshakeAdmission::default();
        for number in 1..=5 {
            admission.enqueue(number, number, 10);
        }
        assert_eq!(admission.begin_handshake(1, source_address(1), CAPS), None);
        assert_eq!(admission.begin_handshake(2, source_address(1), CAPS), None);
        assert_eq!(admission.begin_handshake(3, source_address(1), CAPS), Some((1, EvictionReason::Source)));
        admission.remove(2);
        assert_eq!(admission.begin_handshake(4, source_address(1), CAPS), None);
        assert_eq!(admission.begin_handshake(5, source_address(1), CAPS), Some((3, EvictionReason::Source)));
    }

    #[test]
    fn when_all_are_taken_the_oldest_of_the_source_with_the_most_goes() {
        let mut admission = HandshakeAdmission::default();
        for (number, source) in [(1, 1), (2, 2), (3, 2), (4, 3)] {
            admission.enqueue(number, number, 10);
            assert_eq!(admission.begin_handshake(number, source_address(source), CAPS), None);
        }
        for (number, evicted) in [(5, 2), (6, 1), (7, 3)] {
            admission.enqueue(number, number, 10);
            assert_eq!(
                admission.begin_handshake(number, source_address(10 + number as u8), CAPS),
                Some((evicted, EvictionReason::Handshakes)),
                "{number}"
            );
        }
    }

    #[test]
    fn a_partner_has_as_many_as_it_may_and_one_more_when_one_goes() {
        let partnered = Arc::new(PartnerConnections::default());
        let acme: Arc<str> = "acme".into();
        let first = partnered.admit(&acme, 1);
        assert!(first.is_some() && partnered.admit(&acme, 1).is_none());
        assert!(partnered.admit(&"other".into(), 1).is_some());
        drop(first);
        assert!(partnered.admit(&acme, 1).is_some());
        assert!(partnered.0.lock().unwrap().is_empty());
    }

    #[derive(Clone, Copy, Debug)]
    enum AdmissionStep {
        Arrives,
        Hello(usize, u8),
        Leaves(usize),
    }

    fn any_step() -> impl Strategy<Value = AdmissionStep> {
        prop_oneof![
            3 => Just(AdmissionStep::Arrives),
            3 => (any::<usize>(), 0u8..4).prop_map(|(which, source)| AdmissionStep::Hello(which, source)),
            1 => any::<usize>().prop_map(AdmissionStep::Leaves),
        ]
    }

    proptest! {
        #[test]
        fn caps_hold_and_only_those_with_the_most_ever_go(steps in proptest::collection::vec(any_step(), 0..200)) {
            let (mut admission, mut next) = (HandshakeAdmission::default(), 0);
            let mut known: Vec<u64> = Vec::new();
            for step in steps {
                match step {
                    AdmissionStep::Arrives => {
                        next += 1;
                        let oldest = admission.waiting.first_key_value().map(|(number, _)| *number);
                        let full = admission.waiting.len() == 3;
                        prop_assert_eq!(admission.enqueue(next, next, 3), oldest.filter(|_| full));
                        known.push(next);
                    }
                    AdmissionStep::Hello(which, source) if !known.is_empty() => {
                        let number = known[which % known.len()];
                        let counts: BTreeMap<_, _> =
                            admission.by_source.iter().map(|(source, taken)| (*source, taken.len())).collect();
                        let before = admission.shaking.clone();
                        match admission.begin_handshake(number, source_address(source), CAPS) {
                            Some((evicted, EvictionReason::Source)) => {
                                let taken = counts.get(&source_address(source));
                                prop_assert_eq!(taken, Some(&CAPS.of_one_source));
                                prop_assert_eq!(before[&evicted].0, source_address(source));
                                let oldest = before.iter().find(|(_, (from, _))| *from == source_address(source));
                                prop_assert_eq!(oldest.map(|(number, _)| *number), Some(evicted));
                            }
                            Some((evicted, _)) => {
                                prop_assert_eq!(before.len(), CAPS.handshakes);
                                let most = counts.values().max();
                                prop_assert_eq!(counts.get(&before[&evicted].0), most);
                            }
                            None => prop_assert!(admission.shaking.len() <= CAPS.handshakes),
                        }
                    }
                    AdmissionStep::Leaves(which) if !known.is_empty() => {
                        let number = known.remove(which % known.len());
                        admission.remove(number);
                        prop_assert!(!admission.waiting.contains_key(&number));
                        prop_assert!(!admission.shaking.contains_key(&number));
                    }
                    _ => {}
                }
                prop_assert!(admission.waiting.len() <= 3 && admission.shaking.len() <= CAPS.handshakes);
                let counted: usize = admission.by_source.values().map(BTreeSet::len).sum();
                prop_assert_eq!(counted, admission.shaking.len());
                prop_assert!(admission.by_source.values().all(|taken| (1..=CAPS.of_one_source).contains(&taken.len())));
            }
        }
    }

    #[test]
    fn fifty_thousand_sources_keep_within_the_caps_of_those_that_wait_and_those_that_shake_hands() {
        let caps = HandshakeCaps { handshakes: 512, of_one_source: 64 };
        let (mut admission, mut gone) = (HandshakeAdmission::default(), 0);
        for number in 0..50_000_u32 {
            let source = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
            // Every third never says hello.
            gone += usize::from(admission.enqueue(u64::from(number), number, 1_000).is_some());
            if number % 3 != 0 {
                gone += usize::from(admission.begin_handshake(u64::from(number), source, caps).is_some());
            }
            assert!(admission.waiting.len() <= 1_000 && admission.by_source.len() <= admission.shaking.len());
        }
        assert_eq!((admission.shaking.len(), admission.by_source.len()), (512, 512));
        // The last one has left its place among those that wait.
        assert_eq!((admission.waiting.len(), gone), (999, 50_000 - 999 - 512), "every other one was told to go");
        (0..50_000).for_each(|number| admission.remove(number));
        assert!(admission.waiting.is_empty() && admission.shaking.is_empty() && admission.by_source.is_empty());
    }
}
