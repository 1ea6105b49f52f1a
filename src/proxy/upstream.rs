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

use super::Error;
use super::forward::KEEP;
use super::link::Link;
use super::pool::{Origin, Pool};
use super::proof::fact;
use super::verdicts::{Canary, Of};
use super::waits::Waits;
use super::worker::Worker;
use crate::keyring::proved::{How, Order, Pick, Shown, order};
use crate::keyring::{Asked, ChosenBy, choose};
use crate::pki::Fingerprint;
use crate::snapshot::{Egress, Epoch};

pub(super) use reach::Reach;

/// One worker's memory of one upstream. It outlives epochs: a pair that stays in use keeps its connections.
#[derive(Default)]
pub(super) struct Upstream {
    pools: RefCell<BTreeMap<Fingerprint, Rc<Pool>>>,
    asked: RefCell<Asked>,
    /// The last choice, good for one epoch and one `asked`.
    chosen: RefCell<Option<(Epoch, Rc<Chosen>)>>,
    /// The last pick, good for one choice and one version of what is known.
    picked: Cell<Option<Picked>>,
    /// Its last token.
    pub(super) token: super::token::Memory,
    /// A probe runs.
    pub(super) probing: Cell<bool>,
}

/// What may be shown, the preferred pair first.
pub(super) struct Chosen {
    pub(super) order: Order,
    ways: Vec<Way>,
    chosen_by: ChosenBy,
}

/// One pair: its place among the candidates, and its connections.
struct Way {
    index: usize,
    pool: Rc<Pool>,
}

#[derive(Clone, Copy)]
struct Picked {
    version: u64,
    pick: Pick,
    until: Option<Timestamp>,
}

impl Upstream {
    /// Records what the upstream requested in its CertificateRequest.
    fn learn(&self, asked: Option<Asked>) {
        if let Some(asked) = asked
            && *self.asked.borrow() != asked
        {
            *self.asked.borrow_mut() = asked;
            self.chosen.borrow_mut().take();
        }
    }

    /// Removes connections that have ended, and pools that are no longer in use.
    pub(super) fn sweep(&self) {
        let pools: Vec<_> = self.pools.borrow().values().cloned().collect();
        for pool in &pools {
            pool.sweep();
        }
        drop(pools);
        self.pools.borrow_mut().retain(|_, pool| !pool.is_empty() || Rc::strong_count(pool) > 1);
    }

    /// For a new epoch: the next request chooses again. The upstream's CertificateRequest is forgotten too: it may
    /// trust a new CA since, which an open connection would never show. The next connection receives it again.
    pub(super) fn forget_choice(&self) {
        self.chosen.borrow_mut().take();
        self.asked.take();
    }

    fn pool(&self, key_pair: Fingerprint, waits: &Rc<Waits>) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        Rc::clone(pools.entry(key_pair).or_insert_with(|| Pool::new(None, KEEP, waits)))
    }
}

impl Chosen {
    /// Whether there is only one pair that may be shown: then there is nothing to prove.
    pub(super) fn is_only(&self) -> bool {
        self.ways.len() == 1
    }

    fn way(&self, key_pair: Fingerprint) -> &Way {
        let at = self.order.pairs.iter().position(|pair| *pair == key_pair).unwrap_or(0);
        &self.ways[at]
    }
}

/// An upstream, as the destination of one request.
#[derive(Clone, Copy)]
pub(super) struct Towards<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) egress: &'a Egress,
    pub(super) epoch: Epoch,
    pub(super) upstream: &'a Upstream,
}

impl<'a> Towards<'a> {
    /// Which pairs may be shown, by what the upstream asked for last.
    pub(super) fn choose(self) -> Result<Rc<Chosen>, Error> {
        let mut known = self.upstream.chosen.borrow_mut();
        if let Some((epoch, chosen)) = &*known
            && *epoch == self.epoch
        {
            return Ok(Rc::clone(chosen));
        }
        let now = self.worker.clock().now();
        let asked = self.upstream.asked.borrow();
        let choice = choose(&self.egress.candidates, &asked, now).ok_or(Error::NoKeyPair)?;
        let (indexes, needs_proof) = order(&self.egress.candidates, &asked, choice, now);
        let pairs: Vec<_> = indexes.iter().map(|index| self.egress.candidates.0[*index].key_pair).collect();
        let ways = indexes
            .iter()
            .zip(&pairs)
            .map(|(index, key_pair)| Way { index: *index, pool: self.upstream.pool(*key_pair, self.worker.waits()) });
        let ways = ways.collect();
        let chosen = Rc::new(Chosen { order: Order { pairs, needs_proof }, ways, chosen_by: choice.chosen_by });
        *known = Some((self.epoch, Rc::clone(&chosen)));
        self.upstream.picked.set(None);
        Ok(chosen)
    }

    /// The entry that facts of this upstream belong to, and when.
    pub(super) fn of(self) -> Of<'a> {
        Of { egress: self.egress, epoch: self.epoch, now: self.worker.clock().now() }
    }

    /// Picks a pair for one request.
    fn pick(self, chosen: &Chosen, harmless: bool) -> Pick {
        let settled = Pick { key_pair: chosen.order.pairs[0], how: How::Settled };
        if chosen.is_only() {
            return settled;
        }
        let verdicts = &self.worker.shared.verdicts;
        // Read first: what changes while a pick is made spoils the pick that is kept.
        let version = verdicts.version();
        let of = self.of();
        if let Some(picked) = self.upstream.picked.get()
            && picked.version == version
            && picked.until.is_none_or(|until| of.now < until)
        {
            return picked.pick;
        }
        let (pick, news) = verdicts.pick(of, &chosen.order, harmless);
        if let Some(change) = news {
            fact::prove_within(self, pick.key_pair, change);
        }
        let until = match pick.how {
            How::Settled => Some(None),
            How::Fallback(until) => Some(until),
            How::Canary | How::Everyone => None,
        };
        self.upstream.picked.set(until.map(|until| Picked { version, pick, until }));
        pick
    }
}

/// A request on its way, and the pair that it shows.
pub(super) struct Showing<'a> {
    pub(super) towards: Towards<'a>,
    chosen: RefCell<Rc<Chosen>>,
    pick: Cell<Pick>,
    harmless: bool,
    /// Pairs that have been refused to this very request.
    tried: RefCell<Vec<Fingerprint>>,
    canary: RefCell<Option<Canary>>,
}

impl<'a> Showing<'a> {
    /// Picks a pair; `harmless`: the request is idempotent and can be replayed.
    pub(super) fn new(towards: Towards<'a>, chosen: Rc<Chosen>, harmless: bool) -> Self {
        let pick = towards.pick(&chosen, harmless);
        Self::with(towards, chosen, pick, harmless)
    }

    /// Shows the preferred pair, whatever is known of it: for a probe's handshake.
    pub(super) fn preferred(towards: Towards<'a>, chosen: Rc<Chosen>) -> Self {
        let pick = Pick { key_pair: chosen.order.pairs[0], how: How::Settled };
        Self::with(towards, chosen, pick, true)
    }

    /// Likewise, as the canary: for a probe's request. `None` if another request is the canary now.
    pub(super) fn canary(towards: Towards<'a>, chosen: Rc<Chosen>) -> Option<Self> {
        let pick = Pick { key_pair: chosen.order.pairs[0], how: How::Canary };
        let claimed = towards.worker.shared.verdicts.claim(towards.of());
        claimed.then(|| Self::with(towards, chosen, pick, true))
    }

    fn with(towards: Towards<'a>, chosen: Rc<Chosen>, pick: Pick, harmless: bool) -> Self {
        let (chosen, tried) = (RefCell::new(chosen), RefCell::default());
        let showing = Self { towards, chosen, pick: Cell::new(pick), harmless, tried, canary: RefCell::default() };
        showing.begin(pick);
        showing
    }

    /// Applies a pick. The canary holds its place, and needs a new connection: an older one could only show what the
    /// upstream accepted then.
    fn begin(&self, pick: Pick) {
        let (shared, name) = (&self.towards.worker.shared, &self.towards.egress.settings.name);
        self.canary.replace(Canary::of(pick, shared, name));
        self.pick.set(pick);
        if pick.how == How::Canary {
            self.chosen.borrow().way(pick.key_pair).pool.let_go();
        }
    }

    /// What is shown now, and why.
    pub(super) fn pick(&self) -> Pick {
        self.pick.get()
    }

    /// Continues with the next best pair, if there is one that this request has not tried. A canary stays one until the
    /// other pair's answer has shown what it found.
    pub(super) fn go_on(&self) -> Option<Fingerprint> {
        let shown = self.pick().key_pair;
        self.tried.borrow_mut().push(shown);
        let chosen = Rc::clone(&self.chosen.borrow());
        let (towards, tried) = (self.towards, self.tried.borrow());
        let next = towards.worker.shared.verdicts.next(towards.of(), &chosen.order, &tried)?;
        self.pick.set(Pick { key_pair: next, how: How::Settled });
        Some(next)
    }

    /// Picks again if the upstream's CertificateRequest has changed; returns whether that changes the pair.
    fn pick_again(&self) -> Result<bool, Error> {
        let now = self.towards.choose()?;
        if Rc::ptr_eq(&now, &self.chosen.borrow()) {
            return Ok(false);
        }
        *self.chosen.borrow_mut() = Rc::clone(&now);
        let (before, towards) = (self.pick(), self.towards);
        let tried = self.tried.borrow();
        if !tried.is_empty() {
            let next = towards.worker.shared.verdicts.next(towards.of(), &now.order, &tried);
            self.pick.set(Pick { key_pair: next.unwrap_or(before.key_pair), how: How::Settled });
        } else if before.key_pair != now.order.pairs[0] {
            self.canary.take();
            self.begin(towards.pick(&now, self.harmless));
        }
        Ok(self.pick().key_pair != before.key_pair)
    }

    /// Why this pair is shown, for the log.
    fn chosen_by(&self) -> ChosenBy {
        let learned = matches!(self.pick().how, How::Fallback(_)) || !self.tried.borrow().is_empty();
        if learned { ChosenBy::Learned } else { self.chosen.borrow().chosen_by }
    }
}

impl Origin for Showing<'_> {
    fn pool(&self) -> Result<Rc<Pool>, Error> {
        self.pick_again()?;
        Ok(Rc::clone(&self.chosen.borrow().way(self.pick().key_pair).pool))
    }

    async fn connect(&self, http1: bool) -> Result<Link, Error> {
        let tried = self.attempt(http1).await;
        // Its CertificateRequest may lead to another pair: connect once more then, with that one.
        if !self.pick_again()? {
            return self.link(tried?).await;
        }
        drop(tried);
        self.link(self.attempt(http1).await?).await
    }

    fn replay_limit(&self) -> usize {
        self.towards.egress.settings.replay_limit
    }

    fn answered(&self, link: &Link, status: http::StatusCode) {
        let Some(proof) = link.proof() else { return };
        let towards = self.towards;
        if !towards.egress.settings.is_refusal(status.as_u16()) && proof.accepted(towards, status) {
            let only = self.chosen.borrow().is_only();
            if !only && let Some(change) = fact::note(towards, proof.key_pair(), Shown::Response) {
                fact::response(towards, proof.key_pair(), change, status);
            }
        }
    }

    fn failed(&self, link: &Link) -> Option<Error> {
        link.proof()?.failed(self.towards)
    }
}
