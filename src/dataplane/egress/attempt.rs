//! A request on its way to the upstream: the key pair that it shows, and the connection that it uses or makes.
//!
//! An upstream is only ever reached over TLS. Its CertificateRequest may lead a handshake to another pair than the planned one:
//! the connection then belongs to the pair that was shown, and only where the verdicts want a third one is it made once more.
//! `retry` decides when a request goes on with another pair.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::time::Instant;

use super::dial::{UpstreamConnection, UpstreamDial};
use super::resources::UpstreamRef;
use super::upstream::UpstreamSelection;
use super::verdicts::CanaryGuard;
use super::{fact, proof};
use crate::dataplane::connection::{ConnectionState, ConnectionTimeouts};
use crate::dataplane::drain::ConnectionFacts;
use crate::dataplane::exchange::forward::ForwardContext;
use crate::dataplane::exchange::link::PooledConnection;
use crate::dataplane::exchange::open::{ConnectionParts, open_http1, open_http2};
use crate::dataplane::exchange::origin::{self, ConnectFuture, ExchangeOrigin};
use crate::dataplane::exchange::pool::ConnectionPool;
use crate::dataplane::exchange::request_body::OutgoingBody;
use crate::dataplane::exchange::shape::RequestDestination;
use crate::evidence::proved::{
    AnswerFacts, ConnectionSeen, RequestClass, RequestSelection, SelectionOrder, SelectionRole, UncertifiedAnswer,
    UpstreamNode, excludes_current,
};
use crate::http::content::MessageContent;
use crate::http::error::RequestError as Error;
use crate::keyring::SelectionReason;
use crate::pki::Fingerprint;
use crate::snapshot::Side;
use crate::tls::recorder::{AlertRecorder, SettleOutcome};
use crate::tls::{AlpnProtocol, EgressConnector};

/// Where a request that may not be sent twice waits for an alert, it waits two round trips, and never longer than this.
const MAX_ALERT_HOLD: Duration = Duration::from_secs(2);

/// A request on its way, and the pair that it shows.
pub(super) struct UpstreamAttempt<'a> {
    pub(super) towards: UpstreamRef<'a>,
    chosen: RefCell<Rc<UpstreamSelection>>,
    pick: Cell<RequestSelection>,
    harmless: bool,
    /// Pairs that have been refused to this very request.
    tried: RefCell<Vec<Fingerprint>>,
    canary: RefCell<Option<CanaryGuard>>,
    /// The node that its connection reached last.
    node: Cell<UpstreamNode>,
    /// What the same request gets without a certificate, where a probe has tried it.
    pub(super) public: Cell<UncertifiedAnswer>,
}

impl<'a> UpstreamAttempt<'a> {
    /// Picks a pair; `harmless`: the request is idempotent and can be replayed.
    pub(super) fn new(towards: UpstreamRef<'a>, chosen: Rc<UpstreamSelection>, harmless: bool) -> Self {
        let pick = pick_key_pair(towards, &chosen, harmless);
        Self::with_pick(towards, chosen, pick, harmless)
    }

    /// Shows the preferred pair, whatever is known of it: for a probe's handshake.
    pub(super) fn for_preferred(towards: UpstreamRef<'a>, chosen: Rc<UpstreamSelection>) -> Self {
        let pick = RequestSelection::settled(chosen.order.pairs[0]);
        Self::with_pick(towards, chosen, pick, true)
    }

    /// Likewise, as the canary: for a probe's request. `None` if another request is the canary now.
    pub(super) fn for_canary(towards: UpstreamRef<'a>, chosen: Rc<UpstreamSelection>) -> Option<Self> {
        let pick = towards.resources.verdicts.claim_canary(towards.verdict_key(), chosen.order.pairs[0])?;
        Some(Self::with_pick(towards, chosen, pick, true))
    }

    fn with_pick(
        towards: UpstreamRef<'a>,
        chosen: Rc<UpstreamSelection>,
        pick: RequestSelection,
        harmless: bool,
    ) -> Self {
        let (chosen, tried, node) =
            (RefCell::new(chosen), RefCell::default(), Cell::new(UpstreamNode::from_address(None)));
        let (pick_now, canary, public) = (Cell::new(pick), RefCell::default(), Cell::default());
        let showing = Self { towards, chosen, pick: pick_now, harmless, tried, canary, node, public };
        showing.apply_pick(pick);
        showing
    }

    /// Applies a pick. The canary holds its place, and needs a new connection: an older one could only show what the
    /// upstream accepted then.
    fn apply_pick(&self, pick: RequestSelection) {
        let (verdicts, name) = (&self.towards.resources.verdicts, &self.towards.egress.settings.name);
        self.canary.replace(CanaryGuard::from_pick(pick, verdicts, name));
        self.pick.set(pick);
        if pick.how == SelectionRole::Canary {
            self.chosen.borrow().candidate(pick.key_pair).pool.close_all();
        }
    }

    /// What is shown now, and why.
    pub(super) fn pick(&self) -> RequestSelection {
        self.pick.get()
    }

    /// The node that its connection reached last.
    pub(super) fn node(&self) -> UpstreamNode {
        self.node.get()
    }

    /// Which pairs may be shown, the preferred one first.
    pub(super) fn order(&self) -> SelectionOrder {
        self.chosen.borrow().order.clone()
    }

    /// Whether the preferred pair is shown, and another could be.
    pub(super) fn shows_preferred(&self) -> bool {
        let chosen = self.chosen.borrow();
        !chosen.is_only() && self.pick().key_pair == chosen.order.pairs[0]
    }

    /// Whether another pair could be shown.
    pub(super) fn has_other(&self) -> bool {
        !self.chosen.borrow().is_only()
    }

    /// Whether another pair could be shown than this one, which is proved.
    pub(super) fn shows_proved(&self) -> bool {
        let (towards, shown) = (self.towards, self.pick().key_pair);
        self.has_other() && towards.resources.verdicts.is_proved(towards.verdict_key(), shown)
    }

    /// What there is to judge about an answer; `None` where there is only one pair, or where the answer of a proved pair says
    /// nothing new.
    pub(super) fn answer_facts(
        &self,
        link: &PooledConnection,
        class: RequestClass,
        status: StatusCode,
        repeatable: bool,
    ) -> Option<AnswerFacts> {
        let (pick, proof) = (self.pick(), link.proof()?);
        let is_refusal = self.towards.egress.settings.is_refusal_status(status.as_u16());
        let is_judged = pick.needs_judgement(self.shows_preferred(), proof.open.get(), is_refusal);
        (is_judged && self.has_other()).then(|| AnswerFacts {
            key_pair: proof.key_pair,
            how: pick.how,
            node: proof.node,
            class,
            status: status.as_u16(),
            public: self.public.get(),
            repeatable,
            compared: None,
            compared_with: None,
        })
    }

    /// Continues with the next best pair that this request has not tried. A canary stays one until that pair's answer has shown what it
    /// found. `compared`: whose answer is compared; of several nodes the next pair is shown to the same one.
    pub(super) fn advance(&self, compared: Option<UpstreamNode>) -> Option<Fingerprint> {
        let shown = self.pick().key_pair;
        self.tried.borrow_mut().push(shown);
        let chosen = Rc::clone(&self.chosen.borrow());
        let (of, verdicts, tried) = (self.towards.verdict_key(), &self.towards.resources.verdicts, self.tried.borrow());
        let next = verdicts.next_selection(of, &chosen.order, &tried, compared)?;
        self.pick.set(next);
        if next.address.is_some() {
            chosen.candidate(next.key_pair).pool.close_all();
        }
        Some(next.key_pair)
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
            let next = towards.resources.verdicts.next_selection(towards.verdict_key(), &now.order, &tried, None);
            self.pick.set(next.unwrap_or(RequestSelection::settled(before.key_pair)));
        } else if before.key_pair != now.order.pairs[0] {
            self.canary.take();
            self.apply_pick(pick_key_pair(towards, &now, self.harmless));
        }
        Ok(self.pick().key_pair != before.key_pair)
    }

    /// Picks again where a new connection has ended the proof of the pair that it shows; returns whether that changes the
    /// pair.
    fn repick(&self) -> bool {
        let (before, chosen) = (self.pick(), Rc::clone(&self.chosen.borrow()));
        if chosen.is_only() || !before.may_change(!self.tried.borrow().is_empty()) {
            return false;
        }
        let now = pick_key_pair(self.towards, &chosen, self.harmless);
        if now != before {
            self.apply_pick(now);
        }
        now.key_pair != before.key_pair
    }

    /// Records what a new connection shows of the node that it reached.
    fn record_connection(&self, ready: &UpstreamConnection) {
        let (towards, pick) = (self.towards, self.pick());
        let asked = ready.tls.asked.as_ref();
        if self.chosen.borrow().is_only() {
            if asked.is_some() {
                towards.resources.verdicts.record_node(towards.verdict_key(), ready.node);
            }
            return;
        }
        let excluded = asked.is_some_and(|asked| excludes_current(&towards.egress.candidates, asked, towards.now()));
        let seen = ConnectionSeen {
            node: ready.node,
            asked: (!ready.tls.facts.resumed).then_some(asked.is_some()),
            excludes_current: excluded,
            sought: pick.sought_address(ready.key_pair),
        };
        fact::record_connection(towards, seen);
    }

    /// Dials and performs the handshake. `http1`: nothing else is offered.
    pub(super) async fn connect_tls(&self, http1: bool) -> Result<UpstreamConnection, Error> {
        let (egress, upstream) = (self.towards.egress, self.towards.upstream);
        let index = self.chosen.borrow().candidate(self.pick().key_pair).index;
        let connector = self.connector(index);
        let is_learned = matches!(self.pick().how, SelectionRole::Fallback(_)) || !self.tried.borrow().is_empty();
        let chosen_by = self.chosen.borrow().chosen_by;
        let reach = UpstreamDial {
            towards: self.towards,
            to: &egress.settings.upstream,
            connector: &if http1 { connector.http1() } else { connector },
            shown: (egress.candidates.0[index].clone(), if is_learned { SelectionReason::Learned } else { chosen_by }),
            trust: &egress.trust,
            expects: &egress.settings.expects,
            keepalive: Some(egress.settings.tcp_keepalive),
            prefer: self.pick().address,
            reached: &self.node,
            remembered: Some(upstream.last_request()),
        };
        let learn = |asked, shown| {
            upstream.record_certificate_request(asked);
            if let Some(key_pair) = shown {
                self.canary.take();
                self.pick.set(RequestSelection::settled(key_pair));
            }
        };
        let ready = reach.handshake(learn).await?;
        self.record_connection(&ready);
        Ok(ready)
    }

    /// Shows the pair of this index, or the first of those that are left for this request if the CertificateRequest leads there:
    /// a pair that the upstream refuses is left out.
    fn connector(&self, index: usize) -> EgressConnector {
        let (towards, chosen) = (self.towards, self.chosen.borrow());
        let (candidates, connectors) = (&towards.egress.candidates.0, &towards.egress.connectors);
        if chosen.is_only() {
            return connectors[index].clone();
        }
        let (verdicts, tried) = (&towards.resources.verdicts, self.tried.borrow());
        let left = chosen.order.pairs.iter().filter(|pair| {
            **pair != candidates[index].key_pair
                && !tried.contains(pair)
                && !verdicts.is_refused(towards.verdict_key(), **pair)
        });
        let others = left.map(|pair| chosen.candidate(*pair).index).map(|at| (&candidates[at], &connectors[at]));
        connectors[index].with_others(&candidates[index], others)
    }

    /// Starts HTTP on it, in the version that ALPN selected.
    async fn start_http(&self, ready: UpstreamConnection) -> Result<PooledConnection, Error> {
        let towards = self.towards;
        let UpstreamConnection { tls, connection, key_pair, peer, node, round, request } = ready;
        let facts = ConnectionFacts {
            side: Side::Egress,
            listener: Arc::clone(&towards.egress.settings.name),
            key_pair: Some(key_pair),
            chain: tls.chain,
            role: towards.egress.settings.expects.clone(),
            upstream: Some(towards.egress.settings.upstream.clone()),
        };
        let limits = &towards.egress.settings.limits;
        let (unread, age) = (limits.body_idle, limits.connection_age);
        let patience = ConnectionTimeouts {
            head: None,
            http2: false,
            idle: None,
            unread,
            age,
            drain: towards.context().drain_timeout(),
            drain_planned: limits.drain_planned,
        };
        let open = ConnectionState::new(connection, facts, patience, towards.context().waits());
        open.set_valid_until(Some(peer.valid_until()));
        let tracked = towards.context().track(Rc::clone(&open), towards.epoch);
        let (mut stream, heard) = AlertRecorder::new(tls.stream);
        let http2 = tls.facts.alpn == Some(AlpnProtocol::H2);
        let proof = Rc::new(proof::new_proof(towards, (connection, key_pair, node), (tls.facts, request), heard));
        if self.pick().how == SelectionRole::Everyone && proof.is_undecided() {
            let deadline = Instant::now() + (round * 2).min(MAX_ALERT_HOLD);
            if stream.settle(deadline, false).await == SettleOutcome::Ended {
                return Err(proof::report_early_close(&proof, towards));
            }
        }
        let pool = Rc::clone(&self.chosen.borrow().candidate(key_pair).pool);
        let parts = ConnectionParts { pool, tracked: Some(tracked), proof: Some(Rc::clone(&proof)) };
        let opened = if http2 { open_http2(stream, parts).await } else { Ok(open_http1(stream, parts)) };
        opened.map_err(|error| proof::report_end(&proof, towards, Some(&error)).unwrap_or(error))
    }

    /// Sends a request with the pair that is shown, and waits for the head of its response. A request that could not be
    /// sent is put back.
    pub(super) async fn exchange(
        &self,
        request: &mut Option<Request<OutgoingBody>>,
        to: &RequestDestination,
        terms: &ForwardContext<'_>,
    ) -> Result<(Response<MessageContent>, PooledConnection), Error> {
        let connect = |http1| -> ConnectFuture<'_> { Box::pin(self.connect(http1)) };
        let explain_end = |link: &PooledConnection, error: Option<&Error>| {
            let proof = link.proof()?;
            self.node.set(proof.node);
            proof::report_end(proof, self.towards, error)
        };
        let origin = ExchangeOrigin {
            pool: || self.pool(),
            connect: &connect,
            replay_limit: self.towards.egress.settings.replay_limit,
            explain_end: Some(&explain_end),
        };
        let before = self.towards.upstream.requires_http1();
        let exchanged = origin::exchange(&origin, request, to, terms.waits, terms.limits.response).await;
        if !before && self.towards.upstream.requires_http1() {
            let listener = &*self.towards.egress.settings.name;
            tracing::info!(target: "proxy", side = "egress", listener, reason = "http1_required", "the upstream asks for HTTP/1.1 (HTTP_1_1_REQUIRED): requests go to it over HTTP/1.1 from now on");
        }
        let (response, link) = exchanged?;
        self.record_response(&link, response.status());
        Ok((response, link))
    }

    fn pool(&self) -> Result<Rc<ConnectionPool>, Error> {
        self.reselect()?;
        Ok(Rc::clone(&self.chosen.borrow().candidate(self.pick().key_pair).pool))
    }

    async fn connect(&self, http1: bool) -> Result<PooledConnection, Error> {
        let tried = self.connect_tls(http1).await;
        // Its CertificateRequest, or a node at which nothing is proved, may lead to another pair: connect once more then,
        // with that one.
        if !self.reselect()? && !self.repick() {
            return self.start_http(tried?).await;
        }
        drop(tried);
        self.start_http(self.connect_tls(http1).await?).await
    }

    /// Records what a response head says of the pair on this connection; where there are several, `retry` has it judged.
    fn record_response(&self, link: &PooledConnection, status: StatusCode) {
        let Some(proof) = link.proof() else { return };
        let towards = self.towards;
        if towards.egress.settings.is_refusal_status(status.as_u16()) {
            let compared = matches!(self.pick().how, SelectionRole::Canary | SelectionRole::Everyone);
            proof::record_doubtful_status(proof, towards, status, compared || self.shows_preferred());
        } else if status.is_success() && self.chosen.borrow().is_only() {
            proof::record_acceptance(proof, towards, status);
        }
        proof.answered.set(true);
    }
}

/// Picks a pair for one request.
fn pick_key_pair(towards: UpstreamRef<'_>, chosen: &UpstreamSelection, harmless: bool) -> RequestSelection {
    if chosen.is_only() {
        return RequestSelection::settled(chosen.order.pairs[0]);
    }
    let verdicts = &towards.resources.verdicts;
    // Read first: what changes while a pick is made spoils the pick that is kept.
    let version = verdicts.version();
    let of = towards.verdict_key();
    if let Some(pick) = towards.upstream.last_pick(version, towards.now()) {
        return pick;
    }
    let (pick, news) = verdicts.pick(of, &chosen.order, harmless);
    if let Some(change) = news {
        fact::report_prove_within(towards, pick.key_pair, change);
    }
    towards.upstream.keep_pick(version, pick);
    pick
}
