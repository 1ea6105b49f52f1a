//! What a worker knows of one upstream: which key pairs may be shown to it, and its connections by key pair.
//!
//! An upstream is only ever reached over TLS. Its last CertificateRequest decides the choice; a connection that learns
//! of a new one is made once more with the pair that fits. `proof` finds out whether a pair that may be shown is
//! accepted.

mod connect;
mod reach;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use jiff::Timestamp;

use super::proof::fact;
use super::verdicts::{CanaryGuard, VerdictKey};
use crate::clock::deadlines::WaitTable;
use crate::dataplane::exchange::forward::IDLE_CONNECTION_LIFETIME;
use crate::dataplane::exchange::link::PooledConnection;
use crate::dataplane::exchange::pool::{ConnectionPool, ConnectionProvider};
use crate::dataplane::worker::Worker;
use crate::evidence::proved::{ProofFact, RequestSelection, SelectionOrder, SelectionRole, selection_order};
use crate::http::error::RequestError as Error;
use crate::keyring::{PeerRequirements, SelectionReason, choose};
use crate::pki::Fingerprint;
use crate::snapshot::{EgressSnapshot, Epoch};

pub(crate) use reach::UpstreamDial;

/// One worker's memory of one upstream. It outlives epochs: a pair that stays in use keeps its connections.
#[derive(Default)]
pub(crate) struct UpstreamState {
    pools: RefCell<BTreeMap<Fingerprint, Rc<ConnectionPool>>>,
    asked: RefCell<PeerRequirements>,
    /// The last choice, good for one epoch and one `asked`.
    chosen: RefCell<Option<(Epoch, Rc<UpstreamSelection>)>>,
    /// The last pick, good for one choice and one version of what is known.
    picked: Cell<Option<CachedSelection>>,
    /// Its last token.
    pub(crate) token: super::token::WorkerTokenCache,
    /// A probe runs.
    pub(crate) probing: Cell<bool>,
}

/// What may be shown, the preferred pair first.
pub(crate) struct UpstreamSelection {
    pub(crate) order: SelectionOrder,
    ways: Vec<SelectedCandidate>,
    chosen_by: SelectionReason,
}

/// One pair: its place among the candidates, and its connections.
struct SelectedCandidate {
    index: usize,
    pool: Rc<ConnectionPool>,
}

#[derive(Clone, Copy)]
struct CachedSelection {
    version: u64,
    pick: RequestSelection,
    until: Option<Timestamp>,
}

impl UpstreamState {
    /// Records what the upstream requested in its CertificateRequest.
    fn record_certificate_request(&self, asked: Option<PeerRequirements>) {
        if let Some(asked) = asked
            && *self.asked.borrow() != asked
        {
            *self.asked.borrow_mut() = asked;
            self.chosen.borrow_mut().take();
        }
    }

    /// Removes connections that have ended, and pools that are no longer in use.
    pub(crate) fn sweep(&self) {
        let pools: Vec<_> = self.pools.borrow().values().cloned().collect();
        for pool in &pools {
            pool.sweep();
        }
        drop(pools);
        self.pools.borrow_mut().retain(|_, pool| !pool.is_empty() || Rc::strong_count(pool) > 1);
    }

    /// For a new epoch: the next request chooses again. The upstream's CertificateRequest is forgotten too: it may
    /// trust a new CA since, which an open connection would never show. The next connection receives it again.
    pub(crate) fn forget_selection(&self) {
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
    pub(crate) fn is_only(&self) -> bool {
        self.ways.len() == 1
    }

    fn candidate(&self, key_pair: Fingerprint) -> &SelectedCandidate {
        let at = self.order.pairs.iter().position(|pair| *pair == key_pair).unwrap_or(0);
        &self.ways[at]
    }
}

/// An upstream, as the destination of one request.
#[derive(Clone, Copy)]
pub(crate) struct UpstreamRef<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) egress: &'a EgressSnapshot,
    pub(crate) epoch: Epoch,
    pub(crate) upstream: &'a UpstreamState,
}

impl<'a> UpstreamRef<'a> {
    /// Which pairs may be shown, by what the upstream asked for last.
    pub(crate) fn select(self) -> Result<Rc<UpstreamSelection>, Error> {
        let mut known = self.upstream.chosen.borrow_mut();
        if let Some((epoch, chosen)) = &*known
            && *epoch == self.epoch
        {
            return Ok(Rc::clone(chosen));
        }
        let now = self.worker.clock().now();
        let asked = self.upstream.asked.borrow();
        let choice = choose(&self.egress.candidates, &asked, now).ok_or(Error::NoKeyPair)?;
        let (indexes, needs_proof) = selection_order(&self.egress.candidates, &asked, choice, now);
        let pairs: Vec<_> = indexes.iter().map(|index| self.egress.candidates.0[*index].key_pair).collect();
        let ways = indexes.iter().zip(&pairs).map(|(index, key_pair)| SelectedCandidate {
            index: *index,
            pool: self.upstream.pool(*key_pair, self.worker.waits()),
        });
        let ways = ways.collect();
        let chosen = Rc::new(UpstreamSelection {
            order: SelectionOrder { pairs, needs_proof },
            ways,
            chosen_by: choice.chosen_by,
        });
        *known = Some((self.epoch, Rc::clone(&chosen)));
        self.upstream.picked.set(None);
        Ok(chosen)
    }

    /// The entry that facts of this upstream belong to, and when.
    pub(crate) fn verdict_key(self) -> VerdictKey<'a> {
        VerdictKey { egress: self.egress, epoch: self.epoch, now: self.worker.clock().now() }
    }

    /// Picks a pair for one request.
    fn pick_key_pair(self, chosen: &UpstreamSelection, harmless: bool) -> RequestSelection {
        let settled = RequestSelection { key_pair: chosen.order.pairs[0], how: SelectionRole::Settled };
        if chosen.is_only() {
            return settled;
        }
        let verdicts = &self.worker.shared.verdicts;
        // Read first: what changes while a pick is made spoils the pick that is kept.
        let version = verdicts.version();
        let of = self.verdict_key();
        if let Some(picked) = self.upstream.picked.get()
            && picked.version == version
            && picked.until.is_none_or(|until| of.now < until)
        {
            return picked.pick;
        }
        let (pick, news) = verdicts.pick(of, &chosen.order, harmless);
        if let Some(change) = news {
            fact::report_prove_within(self, pick.key_pair, change);
        }
        let until = match pick.how {
            SelectionRole::Settled => Some(None),
            SelectionRole::Fallback(until) => Some(until),
            SelectionRole::Canary | SelectionRole::Everyone => None,
        };
        self.upstream.picked.set(until.map(|until| CachedSelection { version, pick, until }));
        pick
    }
}

/// A request on its way, and the pair that it shows.
pub(crate) struct UpstreamAttempt<'a> {
    pub(crate) towards: UpstreamRef<'a>,
    chosen: RefCell<Rc<UpstreamSelection>>,
    pick: Cell<RequestSelection>,
    harmless: bool,
    /// Pairs that have been refused to this very request.
    tried: RefCell<Vec<Fingerprint>>,
    canary: RefCell<Option<CanaryGuard>>,
}

impl<'a> UpstreamAttempt<'a> {
    /// Picks a pair; `harmless`: the request is idempotent and can be replayed.
    pub(crate) fn new(towards: UpstreamRef<'a>, chosen: Rc<UpstreamSelection>, harmless: bool) -> Self {
        let pick = towards.pick_key_pair(&chosen, harmless);
        Self::with_pick(towards, chosen, pick, harmless)
    }

    /// Shows the preferred pair, whatever is known of it: for a probe's handshake.
    pub(crate) fn for_preferred(towards: UpstreamRef<'a>, chosen: Rc<UpstreamSelection>) -> Self {
        let pick = RequestSelection { key_pair: chosen.order.pairs[0], how: SelectionRole::Settled };
        Self::with_pick(towards, chosen, pick, true)
    }

    /// Likewise, as the canary: for a probe's request. `None` if another request is the canary now.
    pub(crate) fn for_canary(towards: UpstreamRef<'a>, chosen: Rc<UpstreamSelection>) -> Option<Self> {
        let pick = RequestSelection { key_pair: chosen.order.pairs[0], how: SelectionRole::Canary };
        let claimed = towards.worker.shared.verdicts.claim_canary(towards.verdict_key());
        claimed.then(|| Self::with_pick(towards, chosen, pick, true))
    }

    fn with_pick(
        towards: UpstreamRef<'a>,
        chosen: Rc<UpstreamSelection>,
        pick: RequestSelection,
        harmless: bool,
    ) -> Self {
        let (chosen, tried) = (RefCell::new(chosen), RefCell::default());
        let showing = Self { towards, chosen, pick: Cell::new(pick), harmless, tried, canary: RefCell::default() };
        showing.apply_pick(pick);
        showing
    }

    /// Applies a pick. The canary holds its place, and needs a new connection: an older one could only show what the
    /// upstream accepted then.
    fn apply_pick(&self, pick: RequestSelection) {
        let (shared, name) = (&self.towards.worker.shared, &self.towards.egress.settings.name);
        self.canary.replace(CanaryGuard::from_pick(pick, shared, name));
        self.pick.set(pick);
        if pick.how == SelectionRole::Canary {
            self.chosen.borrow().candidate(pick.key_pair).pool.close_all();
        }
    }

    /// What is shown now, and why.
    pub(crate) fn pick(&self) -> RequestSelection {
        self.pick.get()
    }

    /// Continues with the next best pair, if there is one that this request has not tried. A canary stays one until the
    /// other pair's answer has shown what it found.
    pub(crate) fn advance(&self) -> Option<Fingerprint> {
        let shown = self.pick().key_pair;
        self.tried.borrow_mut().push(shown);
        let chosen = Rc::clone(&self.chosen.borrow());
        let (towards, tried) = (self.towards, self.tried.borrow());
        let next = towards.worker.shared.verdicts.next_key_pair(towards.verdict_key(), &chosen.order, &tried)?;
        self.pick.set(RequestSelection { key_pair: next, how: SelectionRole::Settled });
        Some(next)
    }

    /// Picks again if the upstream's CertificateRequest has changed; returns whether that changes the pair.
    fn reselect(&self) -> Result<bool, Error> {
        let now = self.towards.select()?;
        if Rc::ptr_eq(&now, &self.chosen.borrow()) {
            return Ok(false);
        }
        *self.chosen.borrow_mut() = Rc::clone(&now);
        let (before, towards) = (self.pick(), self.towards);
        let tried = self.tried.borrow();
        if !tried.is_empty() {
            let next = towards.worker.shared.verdicts.next_key_pair(towards.verdict_key(), &now.order, &tried);
            self.pick.set(RequestSelection { key_pair: next.unwrap_or(before.key_pair), how: SelectionRole::Settled });
        } else if before.key_pair != now.order.pairs[0] {
            self.canary.take();
            self.apply_pick(towards.pick_key_pair(&now, self.harmless));
        }
        Ok(self.pick().key_pair != before.key_pair)
    }

    /// Why this pair is shown, for the log.
    fn chosen_by(&self) -> SelectionReason {
        let learned = matches!(self.pick().how, SelectionRole::Fallback(_)) || !self.tried.borrow().is_empty();
        if learned { SelectionReason::Learned } else { self.chosen.borrow().chosen_by }
    }
}

impl ConnectionProvider for UpstreamAttempt<'_> {
    fn pool(&self) -> Result<Rc<ConnectionPool>, Error> {
        self.reselect()?;
        Ok(Rc::clone(&self.chosen.borrow().candidate(self.pick().key_pair).pool))
    }

    async fn connect(&self, http1: bool) -> Result<PooledConnection, Error> {
        let tried = self.connect_tls(http1).await;
        // Its CertificateRequest may lead to another pair: connect once more then, with that one.
        if !self.reselect()? {
            return self.start_http(tried?).await;
        }
        drop(tried);
        self.start_http(self.connect_tls(http1).await?).await
    }

    fn replay_limit(&self) -> usize {
        self.towards.egress.settings.replay_limit
    }

    fn on_response(&self, link: &PooledConnection, status: http::StatusCode) {
        let Some(proof) = link.proof() else { return };
        let towards = self.towards;
        if !towards.egress.settings.is_refusal_status(status.as_u16()) && proof.record_acceptance(towards, status) {
            let only = self.chosen.borrow().is_only();
            if !only && let Some(change) = fact::record_fact(towards, proof.key_pair(), ProofFact::Response) {
                fact::report_response(towards, proof.key_pair(), change, status);
            }
        }
    }

    fn on_failure(&self, link: &PooledConnection) -> Option<Error> {
        link.proof()?.report_failure(self.towards)
    }
}
