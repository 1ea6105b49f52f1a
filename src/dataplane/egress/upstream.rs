//! What a worker remembers of one upstream: what it asked for, which key pairs may be shown to it, and its connections
//! by key pair.
//!
//! The upstream's last CertificateRequest decides which pairs may be shown. `attempt` picks one of them for each request.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use jiff::Timestamp;

use super::token::store::WorkerTokenCache;
use crate::clock::Clock;
use crate::clock::deadlines::WaitTable;
use crate::dataplane::exchange::forward::IDLE_CONNECTION_LIFETIME;
use crate::dataplane::exchange::pool::ConnectionPool;
use crate::evidence::proved::{RequestSelection, SelectionOrder, SelectionRole, selection_order};
use crate::http::error::RequestError as Error;
use crate::keyring::{PeerRequirements, SelectionReason, choose};
use crate::pki::Fingerprint;
use crate::snapshot::{EgressSnapshot, Epoch};

/// One worker's memory of one upstream. It outlives epochs: a pair that stays in use keeps its connections.
#[derive(Default)]
pub(super) struct UpstreamState {
    pools: RefCell<BTreeMap<Fingerprint, Rc<ConnectionPool>>>,
    asked: RefCell<PeerRequirements>,
    /// The last choice, good for one epoch and one `asked`.
    chosen: RefCell<Option<(Epoch, Rc<UpstreamSelection>)>>,
    /// The last pick, good for one choice and one version of what is known.
    picked: Cell<Option<CachedSelection>>,
    /// Its last token.
    pub(super) token: WorkerTokenCache,
    /// A probe runs.
    pub(super) probing: Cell<bool>,
}

/// What may be shown, the preferred pair first.
pub(super) struct UpstreamSelection {
    pub(super) order: SelectionOrder,
    ways: Vec<SelectedCandidate>,
    pub(super) chosen_by: SelectionReason,
}

/// One pair: its place among the candidates, and its connections.
pub(super) struct SelectedCandidate {
    pub(super) index: usize,
    pub(super) pool: Rc<ConnectionPool>,
}

#[derive(Clone, Copy)]
struct CachedSelection {
    version: u64,
    pick: RequestSelection,
    until: Option<Timestamp>,
}

impl UpstreamState {
    /// Which pairs may be shown, by what the upstream asked for last.
    pub(super) fn select(
        &self,
        (egress, epoch): (&EgressSnapshot, Epoch),
        clock: &Clock,
        waits: &Rc<WaitTable>,
    ) -> Result<Rc<UpstreamSelection>, Error> {
        let mut known = self.chosen.borrow_mut();
        if let Some((of, chosen)) = &*known
            && *of == epoch
        {
            return Ok(Rc::clone(chosen));
        }
        // Read here only: most requests find the selection of their epoch.
        let now = clock.now();
        let (candidates, asked) = (&egress.candidates, self.asked.borrow());
        let choice = choose(candidates, &asked, now).ok_or(Error::NoKeyPair)?;
        let (indexes, needs_proof) = selection_order(candidates, &asked, choice, now);
        let pairs: Vec<_> = indexes.iter().map(|index| candidates.0[*index].key_pair).collect();
        let ways = indexes.iter().zip(&pairs);
        let ways =
            ways.map(|(index, pair)| SelectedCandidate { index: *index, pool: self.pool(*pair, waits) }).collect();
        let order = SelectionOrder { pairs, needs_proof };
        let chosen = Rc::new(UpstreamSelection { order, ways, chosen_by: choice.chosen_by });
        *known = Some((epoch, Rc::clone(&chosen)));
        self.picked.set(None);
        Ok(chosen)
    }

    /// The last pick, if it is still good: `version` is that of the verdicts.
    pub(super) fn last_pick(&self, version: u64, now: Timestamp) -> Option<RequestSelection> {
        let picked = self.picked.get()?;
        (picked.version == version && picked.until.is_none_or(|until| now < until)).then_some(picked.pick)
    }

    /// Keeps a pick for the next requests, unless it is good for one only.
    pub(super) fn keep_pick(&self, version: u64, pick: RequestSelection) {
        let until = match pick.how {
            SelectionRole::Settled => Some(None),
            SelectionRole::Fallback(until) => Some(until),
            SelectionRole::Canary | SelectionRole::Everyone => None,
        };
        self.picked.set(until.map(|until| CachedSelection { version, pick, until }));
    }

    /// Records what the upstream requested in its CertificateRequest.
    pub(super) fn record_certificate_request(&self, asked: Option<PeerRequirements>) {
        if let Some(asked) = asked
            && *self.asked.borrow() != asked
        {
            *self.asked.borrow_mut() = asked;
            self.chosen.borrow_mut().take();
        }
    }

    /// What the upstream requested last in this epoch.
    pub(super) fn last_request(&self) -> PeerRequirements {
        self.asked.borrow().clone()
    }

    /// Removes connections that have ended, and pools that are no longer in use.
    pub(super) fn sweep(&self) {
        let pools: Vec<_> = self.pools.borrow().values().cloned().collect();
        for pool in &pools {
            pool.sweep();
        }
        drop(pools);
        self.pools.borrow_mut().retain(|_, pool| !pool.is_unused() || Rc::strong_count(pool) > 1);
    }

    /// For a new epoch: the next request chooses again. The upstream's CertificateRequest is forgotten too: it may
    /// trust a new CA since, which an open connection would never show. The next connection receives it again.
    pub(super) fn forget_selection(&self) {
        self.chosen.borrow_mut().take();
        self.asked.take();
    }

    fn pool(&self, key_pair: Fingerprint, waits: &Rc<WaitTable>) -> Rc<ConnectionPool> {
        let mut pools = self.pools.borrow_mut();
        Rc::clone(pools.entry(key_pair).or_insert_with(|| ConnectionPool::new(None, IDLE_CONNECTION_LIFETIME, waits)))
    }
}

impl UpstreamSelection {
    /// Whether there is only one pair that may be shown: then there is nothing to prove.
    pub(super) fn is_only(&self) -> bool {
        self.ways.len() == 1
    }

    pub(super) fn candidate(&self, key_pair: Fingerprint) -> &SelectedCandidate {
        let at = self.order.pairs.iter().position(|pair| *pair == key_pair).unwrap_or(0);
        &self.ways[at]
    }
}
