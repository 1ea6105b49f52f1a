//! Records which peer used which key pair and accepted or refused it, in bounded memory.
//!
//! It forgets the verified peers that have been silent the longest; unauthenticated input never evicts one. `recalled`
//! adds the records of former processes.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use jiff::Timestamp;

use super::super::learned::RefusalStatus;
use super::shape::PriorHistory;
use crate::keyring::{KeyringName, SelectionReason};
use crate::pki::Fingerprint;

/// Verified peers kept, over all keyrings and listeners.
pub(super) const MAX_PEERS: usize = 4096;
/// Sources kept: `learned` has its own limit, these are for the report.
pub(super) const MAX_SOURCES: usize = 1024;
/// Upstreams kept: those of the configuration, and of former configurations.
const MAX_UPSTREAMS: usize = 1024;
/// Pairs of one peer or upstream: a current one, eight previous ones, and the one after.
pub(super) const MAX_PAIRS: usize = 10;

/// A fact to record.
#[derive(Clone, Copy, Debug)]
pub enum LedgerFact<'a> {
    /// A keyring's current pair changed: handshake counts start again.
    Rotated {
        /// Which keyring.
        keyring: &'a KeyringName,
    },
    /// A verified peer completed a handshake on this pair.
    Peer {
        /// Which keyring.
        keyring: &'a KeyringName,
        /// The listener that it connected to.
        listener: &'a Arc<str>,
        /// Its identity.
        identity: &'a str,
        /// The partner that it is.
        partner: Option<&'a Arc<str>>,
        /// Its address.
        source: Option<IpAddr>,
        /// The pair that it was shown.
        key_pair: Fingerprint,
        /// Why.
        chosen_by: SelectionReason,
    },
    /// A handshake with an upstream, or its later answer.
    Upstream {
        /// The listener that leads to it.
        listener: &'a Arc<str>,
        /// The pair's keyring, if known.
        keyring: Option<&'a KeyringName>,
        /// The pair that it was shown.
        key_pair: Fingerprint,
        /// Its answer.
        said: UpstreamResponse,
        /// Whether this is the handshake itself.
        handshake: bool,
        /// Stable code.
        reason: &'static str,
        /// One sentence.
        explanation: &'a str,
        /// After a refusal: when the pair is tried again.
        next_try: Option<Timestamp>,
    },
    /// A source's recorded refusal changed.
    Source {
        /// Which keyring.
        keyring: &'a KeyringName,
        /// The listener that it connected to.
        listener: &'a Arc<str>,
        /// The source.
        source: &'a str,
        /// The pair that it refused.
        refused: Fingerprint,
        /// The refusal's status.
        lesson: RefusalStatus,
        /// The identity of the peer that confirmed it.
        peer: Option<&'a str>,
        /// Stable code.
        reason: &'static str,
        /// One sentence.
        explanation: &'a str,
    },
}

/// An upstream's answer to a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamResponse {
    /// The handshake succeeded, which proves nothing.
    HandshakeOk,
    /// It answered a request with a status other than a refusal.
    Proved,
    /// It refuses the pair.
    Refused,
}

/// A verified peer at one listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PeerKey {
    pub(super) keyring: KeyringName,
    pub(super) listener: Arc<str>,
    pub(super) identity: String,
}

/// The pairs that a peer used.
#[derive(Clone, Debug)]
pub(super) struct PeerUse {
    pub(super) partner: Option<Arc<str>>,
    pub(super) source: Option<IpAddr>,
    pub(super) last: Timestamp,
    pub(super) pairs: Vec<PairUse>,
}

impl PeerUse {
    /// Whether its last address belongs to this source.
    pub(super) fn comes_from(&self, source: &str) -> bool {
        self.source.is_some_and(|address| is_from(address, source))
    }
}

/// One pair that a peer was shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct PairUse {
    pub(super) key_pair: Fingerprint,
    /// The first handshake since the rotation.
    pub(super) first: Option<Timestamp>,
    pub(super) last: Timestamp,
    /// Since the rotation.
    pub(super) count: u64,
    /// Why it was shown last; `None`: a former process did not record it.
    pub(super) chosen_by: Option<SelectionReason>,
}

/// One pair that an upstream was shown.
#[derive(Clone, Debug)]
pub(super) struct UpstreamUse {
    pub(super) key_pair: Fingerprint,
    pub(super) keyring: Option<KeyringName>,
    pub(super) said: UpstreamResponse,
    /// Since when it has answered so.
    pub(super) since: Timestamp,
    /// The last handshake.
    pub(super) last: Option<Timestamp>,
    /// Handshakes since the rotation.
    pub(super) count: u64,
    pub(super) reason: Cow<'static, str>,
    pub(super) explanation: String,
    pub(super) next_try: Option<Timestamp>,
}

/// A source's recorded refusal.
#[derive(Clone, Debug)]
pub(super) struct SourceEntry {
    pub(super) keyring: KeyringName,
    pub(super) refused: Fingerprint,
    pub(super) lesson: RefusalStatus,
    pub(super) peer: Option<String>,
    pub(super) since: Timestamp,
    pub(super) reason: &'static str,
    pub(super) explanation: String,
}

/// Which peer used which pair.
#[derive(Clone, Debug)]
pub struct RotationLedger {
    pub(super) since: Timestamp,
    pub(super) before: PriorHistory,
    pub(super) peers: HashMap<PeerKey, PeerUse>,
    pub(super) upstreams: BTreeMap<Arc<str>, Vec<UpstreamUse>>,
    pub(super) sources: BTreeMap<(Arc<str>, String), SourceEntry>,
    pub(super) forgotten: u64,
}

impl RotationLedger {
    /// An empty ledger that records from now on.
    pub fn new(now: Timestamp) -> Self {
        Self {
            since: now,
            before: PriorHistory::Unknown,
            peers: HashMap::new(),
            upstreams: BTreeMap::new(),
            sources: BTreeMap::new(),
            forgotten: 0,
        }
    }

    /// Records a fact.
    pub fn record(&mut self, fact: &LedgerFact<'_>, now: Timestamp) {
        match *fact {
            LedgerFact::Rotated { keyring } => self.reset_counts(keyring),
            LedgerFact::Peer { .. } => self.record_peer(fact, now),
            LedgerFact::Upstream { .. } => self.record_upstream(fact, now),
            LedgerFact::Source { .. } => self.record_source(fact, now),
        }
    }

    fn reset_counts(&mut self, keyring: &KeyringName) {
        for (_, peer) in self.peers.iter_mut().filter(|(key, _)| key.keyring == *keyring) {
            for used in &mut peer.pairs {
                (used.first, used.count) = (None, 0);
            }
        }
        let shown = self.upstreams.values_mut().flatten();
        shown.filter(|shown| shown.keyring.as_ref() == Some(keyring)).for_each(|shown| shown.count = 0);
    }

    fn record_peer(&mut self, fact: &LedgerFact<'_>, now: Timestamp) {
        let LedgerFact::Peer { keyring, listener, identity, partner, source, key_pair, chosen_by } = *fact else {
            return;
        };
        let key =
            PeerKey { keyring: Arc::clone(keyring), listener: Arc::clone(listener), identity: identity.to_owned() };
        let peer = self.peers.entry(key).or_insert_with(|| PeerUse {
            partner: None,
            source: None,
            last: now,
            pairs: Vec::with_capacity(2),
        });
        if peer.partner.as_ref() != partner {
            peer.partner = partner.cloned();
        }
        (peer.source, peer.last) = (source.or(peer.source), now);
        if let Some(used) = peer.pairs.iter_mut().find(|used| used.key_pair == key_pair) {
            used.first = used.first.or(Some(now));
            (used.last, used.chosen_by) = (now, Some(chosen_by));
            used.count += 1;
        } else {
            drop_oldest(&mut peer.pairs, |used| used.last);
            peer.pairs.push(PairUse { key_pair, first: Some(now), last: now, count: 1, chosen_by: Some(chosen_by) });
        }
        if self.peers.len() > MAX_PEERS {
            self.forget_peers();
        }
    }

    /// Drops an eighth at once, so that a fleet larger than the table costs little.
    fn forget_peers(&mut self) {
        let mut seen: Vec<Timestamp> = self.peers.values().map(|peer| peer.last).collect();
        let (_, limit, _) = seen.select_nth_unstable(MAX_PEERS / 8);
        let (limit, mut left) = (*limit, MAX_PEERS / 8 + 1);
        self.peers.retain(|_, peer| {
            let goes = peer.last <= limit && left > 0;
            left -= usize::from(goes);
            !goes
        });
        self.forgotten += (MAX_PEERS / 8 + 1 - left) as u64;
    }

    fn record_upstream(&mut self, fact: &LedgerFact<'_>, now: Timestamp) {
        let LedgerFact::Upstream { listener, keyring, key_pair, said, handshake, reason, explanation, next_try } =
            *fact
        else {
            return;
        };
        if !self.upstreams.contains_key(listener) && self.upstreams.len() == MAX_UPSTREAMS {
            self.upstreams.pop_first();
        }
        let all = self.upstreams.entry(Arc::clone(listener)).or_default();
        if !all.iter().any(|shown| shown.key_pair == key_pair) {
            drop_oldest(all, |shown| shown.last.unwrap_or(shown.since));
            all.push(UpstreamUse {
                key_pair,
                keyring: keyring.cloned(),
                said,
                since: now,
                last: None,
                count: 0,
                reason: Cow::Borrowed(reason),
                explanation: explanation.to_owned(),
                next_try,
            });
        }
        let Some(shown) = all.iter_mut().find(|shown| shown.key_pair == key_pair) else { return };
        if handshake {
            (shown.last, shown.count) = (Some(now), shown.count + 1);
        }
        // A successful handshake revokes neither a proof nor a refusal; a verdict does.
        if handshake && shown.said != said && said == UpstreamResponse::HandshakeOk {
            return;
        }
        if shown.said != said {
            (shown.said, shown.since) = (said, now);
        }
        (shown.reason, shown.next_try) = (Cow::Borrowed(reason), next_try);
        explanation.clone_into(&mut shown.explanation);
    }

    fn record_source(&mut self, fact: &LedgerFact<'_>, now: Timestamp) {
        let LedgerFact::Source { keyring, listener, source, refused, lesson, peer, reason, explanation } = *fact else {
            return;
        };
        let key = (Arc::clone(listener), source.to_owned());
        if lesson == RefusalStatus::Forgotten {
            self.sources.remove(&key);
            return;
        }
        let known = self.sources.get(&key).filter(|known| known.refused == refused);
        // Keep the alert as the reason: the later confirmation adds none.
        let (since, reason) = known.map_or((now, reason), |known| (known.since, known.reason));
        let explanation = explanation.to_owned();
        if !self.sources.contains_key(&key) && self.sources.len() >= MAX_SOURCES {
            let weakest =
                self.sources.iter().min_by_key(|(_, source)| (source.lesson == RefusalStatus::Confirmed, source.since));
            match weakest.map(|(key, source)| (key.clone(), source.lesson)) {
                // An unconfirmed alert never evicts a confirmed source.
                Some((_, RefusalStatus::Confirmed)) if lesson == RefusalStatus::Unconfirmed => return,
                Some((oldest, _)) => drop(self.sources.remove(&oldest)),
                None => {}
            }
        }
        let keyring = Arc::clone(keyring);
        let peer = peer.map(str::to_owned);
        self.sources.insert(key, SourceEntry { keyring, refused, lesson, peer, since, reason, explanation });
    }

    /// The number of entries: peers, sources, upstreams.
    pub fn size(&self) -> (usize, usize, usize) {
        (self.peers.len(), self.sources.len(), self.upstreams.len())
    }
}

/// Makes room for one more.
pub(super) fn drop_oldest<T>(all: &mut Vec<T>, last: impl Fn(&T) -> Timestamp) {
    if all.len() == MAX_PAIRS
        && let Some((oldest, _)) = all.iter().enumerate().min_by_key(|(_, one)| last(one))
    {
        all.remove(oldest);
    }
}

/// Whether an address belongs to a source in text form: the address is its first word, IPv6 by /64.
pub(super) fn is_from(address: IpAddr, source: &str) -> bool {
    let word = source.split([' ', '/', ',']).next().unwrap_or_default();
    let network = |of: Ipv6Addr| u128::from(of) >> 64;
    match (address, word.parse()) {
        (IpAddr::V6(one), Ok(IpAddr::V6(other))) => network(one) == network(other),
        (one, Ok(other)) => one == other,
        (_, Err(_)) => false,
    }
}
