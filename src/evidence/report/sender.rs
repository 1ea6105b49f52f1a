//! One sender of an ingress and what is known of it: from this process, and from other instances and former processes.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::super::learned::PeerSource;
use super::evidence::{PairEvidence, VisitHistory};
use crate::keyring::KeyringName;
use crate::pki::Fingerprint;

/// Pairs of one sender: a current one, eight previous ones, and the one after.
pub(super) const MAX_PAIRS: usize = 10;

/// One sender: what evidence is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SenderKey {
    /// The keyring whose pairs it is shown.
    pub keyring: KeyringName,
    /// The listener that it connects to.
    pub listener: Arc<str>,
    /// Its identity.
    pub identity: String,
    /// Its certificate; `None`: it sends none.
    pub certificate: Option<Fingerprint>,
    /// Where it comes from, IPv6 by /64; `None`: unknown.
    pub source: Option<IpAddr>,
}

impl SenderKey {
    /// The sender that comes from this address.
    pub fn new(
        (keyring, listener): (&KeyringName, &Arc<str>),
        identity: &str,
        certificate: Option<Fingerprint>,
        address: Option<IpAddr>,
    ) -> Self {
        let source = address.map(|address| PeerSource::new(Arc::clone(listener), address, None).address);
        let identity = identity.to_owned();
        Self { keyring: Arc::clone(keyring), listener: Arc::clone(listener), identity, certificate, source }
    }

    /// Whether it comes from a source in text form, whose first word is the address.
    pub(super) fn comes_from(&self, source: &str) -> bool {
        let word = source.split([' ', '/', ',']).next().unwrap_or_default();
        self.source.is_some() && word.parse().ok() == self.source
    }
}

/// What is known of one sender.
#[derive(Clone, Debug, Default)]
pub(super) struct SenderUse {
    pub(super) partner: Option<Arc<str>>,
    /// From this process and former ones of this instance.
    pub(super) own: Vec<PairEvidence>,
    /// From other instances, as the registry had it last.
    pub(super) fleet: Vec<PairEvidence>,
}

/// A sender with what is known of it.
pub(super) type KnownSender<'a> = (&'a SenderKey, &'a SenderUse);

impl SenderUse {
    /// What this process knows of a pair; begun where there is nothing.
    pub(super) fn own_pair(&mut self, key_pair: Fingerprint, at: Timestamp) -> &mut PairEvidence {
        let known = self.own.iter().position(|one| one.key_pair == key_pair);
        let index = known.unwrap_or_else(|| {
            drop_oldest(&mut self.own);
            self.own.push(PairEvidence::new(key_pair, VisitHistory { handshakes: 0, ..VisitHistory::begin(at) }));
            self.own.len() - 1
        });
        &mut self.own[index]
    }

    /// Everything that is known of a pair.
    pub(super) fn pair(&self, key_pair: Fingerprint) -> Option<Cow<'_, PairEvidence>> {
        let mut known = self.own.iter().chain(&self.fleet).filter(|one| one.key_pair == key_pair);
        let mut merged = Cow::Borrowed(known.next()?);
        known.for_each(|one| merged.to_mut().merge(one));
        Some(merged)
    }

    /// Its last handshake, anywhere.
    pub(super) fn last(&self) -> Timestamp {
        self.own.iter().chain(&self.fleet).map(|one| one.visits.last).max().unwrap_or(Timestamp::MIN)
    }

    /// When it came, over all pairs.
    pub(super) fn visits(&self) -> Option<VisitHistory> {
        let mut all: Vec<Fingerprint> = self.own.iter().chain(&self.fleet).map(|one| one.key_pair).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().filter_map(|key_pair| Some(self.pair(key_pair)?.visits)).reduce(VisitHistory::extend)
    }
}

/// Merges what another process knows of a pair into a list.
pub(super) fn merge_pair(all: &mut Vec<PairEvidence>, evidence: PairEvidence) {
    if let Some(known) = all.iter_mut().find(|known| known.key_pair == evidence.key_pair) {
        known.merge(&evidence);
        return;
    }
    drop_oldest(all);
    all.push(evidence);
}

/// Makes room for one more.
fn drop_oldest(all: &mut Vec<PairEvidence>) {
    if all.len() == MAX_PAIRS
        && let Some((oldest, _)) = all.iter().enumerate().min_by_key(|(_, one)| one.visits.last)
    {
        all.remove(oldest);
    }
}
