//! A worker's way to one upstream: which key pair to show it, connections by key pair, and what the upstream has proved.
//!
//! Nothing but TLS is ever spoken to an upstream. What it asked for in its last CertificateRequest decides the choice; a
//! connection that learns more than was known is made once more with the pair that fits.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::Error;
use super::attempt::Attempt;
use super::drain::ConnectionFacts;
use super::forward::KEEP;
use super::link::{Ends, Link};
use super::open::{Open, Patience};
use super::pool::{Origin, Pool};
use super::waits::Waits;
use super::worker::Worker;
use crate::event::Event;
use crate::keyring::{Asked, Choice, choose};
use crate::net::{Stream, dial};
use crate::pki::Fingerprint;
use crate::snapshot::{Egress, Epoch, Side};
use crate::tls::handshake::{ClientStream, Established, connect};
use crate::tls::recorder::{Heard, Recorder};
use crate::tls::{Alpn, Context, Facts, Outcome, explain};
use crate::trust::{Partners, Peer};

/// Statuses with which servers refuse a certificate that TLS has let pass.
const REFUSALS: [u16; 5] = [400, 401, 403, 495, 496];

/// One worker's memory of one upstream. It outlives epochs: a pair that stays in use keeps its connections.
#[derive(Default)]
pub(super) struct Upstream {
    pools: RefCell<BTreeMap<Fingerprint, Rc<Pool>>>,
    asked: RefCell<Asked>,
    /// The last choice, good for one epoch and one `asked`.
    chosen: RefCell<Option<(Epoch, Chosen)>>,
}

#[derive(Clone)]
struct Chosen {
    choice: Choice,
    pool: Rc<Pool>,
}

impl Upstream {
    /// Whether the upstream has said something new about the certificate it wants.
    fn learn(&self, asked: Option<Asked>) {
        if let Some(asked) = asked
            && *self.asked.borrow() != asked
        {
            *self.asked.borrow_mut() = asked;
            self.chosen.borrow_mut().take();
        }
    }

    /// Lets go of connections that are done, and of pools that nobody chooses any more.
    pub(super) fn sweep(&self) {
        let pools: Vec<_> = self.pools.borrow().values().cloned().collect();
        for pool in &pools {
            pool.sweep();
        }
        drop(pools);
        self.pools.borrow_mut().retain(|_, pool| !pool.is_empty() || Rc::strong_count(pool) > 1);
    }

    /// A new epoch: the choice is made anew, by the next request. What the upstream asked for is forgotten too: it may have
    /// learned a new CA since, and a connection that stays open would never tell. The next one asks it again.
    pub(super) fn forget_choice(&self) {
        self.chosen.borrow_mut().take();
        self.asked.take();
    }

    fn pool(&self, key_pair: Fingerprint, waits: &Rc<Waits>) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        Rc::clone(pools.entry(key_pair).or_insert_with(|| Pool::new(None, KEEP, waits)))
    }
}

/// What one connection has still to show about our key pair.
pub(super) struct Proof {
    listener: Arc<str>,
    connection: u64,
    key_pair: Fingerprint,
    epoch: Epoch,
    facts: Facts,
    heard: Heard,
    open: Cell<bool>,
}

/// The way to an upstream, for one request.
pub(super) struct Towards<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) egress: &'a Egress,
    pub(super) epoch: Epoch,
    pub(super) upstream: &'a Upstream,
}

impl Origin for Towards<'_> {
    fn pool(&self) -> Result<Rc<Pool>, Error> {
        Ok(self.choose()?.pool)
    }

    async fn connect(&self) -> Result<Link, Error> {
        let first = self.choose()?;
        let tried = self.attempt(&first).await;
        // What it has asked for now may lead to another pair: once more then, with that one.
        let second = self.choose()?;
        if second.choice.index == first.choice.index {
            return self.link(tried?, first.pool).await;
        }
        drop(tried);
        self.link(self.attempt(&second).await?, second.pool).await
    }

    fn answered(&self, link: &Link, status: http::StatusCode) {
        let Some(proof) = link.proof() else { return };
        if proof.open.get() && !REFUSALS.contains(&status.as_u16()) {
            proof.open.set(false);
            let explanation = format!("the upstream accepts our key pair: it answered {}", status.as_u16());
            self.worker.events().emit(proof.event(Outcome::Accepted, "ok", explanation));
        }
    }

    fn failed(&self, link: &Link) -> Option<Error> {
        let proof = link.proof()?;
        let failed = proof.heard.failed(&proof.facts)?;
        let shown = self.egress.candidates.0.iter().find(|candidate| candidate.key_pair == proof.key_pair);
        let explained = explain(
            &failed,
            &Context {
                ingress: false,
                listener: &proof.listener,
                trust: &self.egress.trust,
                shown: shown.map(|candidate| (candidate.key_pair, candidate.standing)),
                shown_next: None,
                now: self.worker.clock().now(),
            },
        );
        if proof.open.replace(false) {
            let event = proof.event(explained.outcome, explained.reason, explained.explanation.clone());
            self.worker.events().emit(event);
        }
        Some(Error::Handshake { reason: explained.reason, explanation: explained.explanation })
    }
}

/// A finished handshake with the upstream.
struct Ready {
    tls: Established<ClientStream<Stream>>,
    connection: u64,
    key_pair: Fingerprint,
    peer: Arc<Peer>,
}

impl Towards<'_> {
    /// Which pair to show, by what the upstream asked for last.
    fn choose(&self) -> Result<Chosen, Error> {
        let mut known = self.upstream.chosen.borrow_mut();
        if let Some((epoch, chosen)) = &*known
            && *epoch == self.epoch
        {
            return Ok(chosen.clone());
        }
        let now = self.worker.clock().now();
        let choice = choose(&self.egress.candidates, &self.upstream.asked.borrow(), now).ok_or(Error::NoKeyPair)?;
        let key_pair = self.egress.candidates.0[choice.index].key_pair;
        let chosen = Chosen { choice, pool: self.upstream.pool(key_pair, self.worker.waits()) };
        *known = Some((self.epoch, chosen.clone()));
        Ok(chosen)
    }

    /// Dials, does the handshake, and says how it ended.
    async fn attempt(&self, chosen: &Chosen) -> Result<Ready, Error> {
        let (settings, trust) = (&self.egress.settings, &self.egress.trust);
        let (events, clock) = (self.worker.events(), self.worker.clock());
        let candidate = &self.egress.candidates.0[chosen.choice.index];
        let mut attempt = Attempt {
            side: Side::Egress,
            listener: Arc::clone(&settings.name),
            connection: self.worker.number(),
            address: None,
            epoch: self.epoch,
            started: std::time::Instant::now(),
            shown: Some((candidate.clone(), chosen.choice.chosen_by)),
            shown_next: None,
        };
        let began = Instant::now();
        let terms = dial::Terms {
            deadline: began + settings.limits.connect,
            keepalive: Some(settings.tcp_keepalive),
            refresh: settings.dns_refresh,
        };
        let stream = match self.worker.dialler().tcp(&settings.upstream, terms).await {
            Ok(stream) => stream,
            Err(error) => {
                events.emit(attempt.not_reached(&settings.upstream.to_string(), &error, clock.now()));
                return Err(Error::Connect(error));
            }
        };
        attempt.address = stream.peer_addr();
        let connector = &self.egress.connectors[chosen.choice.index];
        let mut tls = match connect(stream, connector, began + settings.limits.handshake).await {
            Ok(tls) => tls,
            Err(failed) => {
                self.upstream.learn(failed.seen.asked.clone());
                let (event, reason, explanation) = attempt.failed(&failed, trust, clock.now());
                events.emit(event);
                return Err(Error::Handshake { reason, explanation });
            }
        };
        self.upstream.learn(tls.asked.take());
        let now = clock.now();
        match trust.verify(&tls.chain, &settings.expects, now) {
            Ok(verified) => {
                let peer = Peer::new(verified, &Partners::default());
                trust.note(&peer, now);
                let outcome = if tls.facts.version == Some("1.3") { Outcome::Unproved } else { Outcome::Accepted };
                events.emit(attempt.succeeded(outcome, (tls.facts.clone(), &tls.chain), Some(&peer), now));
                Ok(Ready { tls, connection: attempt.connection, key_pair: candidate.key_pair, peer })
            }
            Err(untrusted) => {
                let facts = tls.facts.clone();
                let (event, reason, explanation) = attempt.untrusted(&untrusted, trust, facts, &tls.chain, now);
                events.emit(event);
                Err(Error::Handshake { reason, explanation })
            }
        }
    }

    /// Speaks HTTP on it, as ALPN said.
    async fn link(&self, ready: Ready, home: Rc<Pool>) -> Result<Link, Error> {
        let Ready { tls, connection, key_pair, peer } = ready;
        let listener = Arc::clone(&self.egress.settings.name);
        let facts = ConnectionFacts {
            side: Side::Egress,
            listener: Arc::clone(&listener),
            key_pair: Some(key_pair),
            chain: tls.chain,
            role: self.egress.settings.expects.clone(),
        };
        let patience = Patience { head: None, idle: None, drain: self.worker.drain() };
        let open = Open::new(connection, facts, patience, self.worker.waits());
        open.set_valid_until(Some(peer.valid_until()));
        let tracked = self.worker.track(Rc::clone(&open), self.epoch);
        let (stream, heard) = Recorder::new(tls.stream);
        let http2 = tls.facts.alpn == Some(Alpn::H2);
        let proof =
            Proof { listener, connection, key_pair, epoch: self.epoch, facts: tls.facts, heard, open: Cell::new(true) };
        // In TLS 1.2 the handshake itself is the proof.
        let proof = (proof.facts.version == Some("1.3")).then(|| Rc::new(proof));
        let ends = Ends { home, tracked: Some(tracked), proof };
        if http2 { Link::http2(stream, ends).await } else { Link::http1(stream, ends).await }
    }
}

impl Proof {
    fn event(&self, outcome: Outcome, reason: &'static str, explanation: String) -> Event {
        Event::Proof {
            listener: Arc::clone(&self.listener),
            connection: self.connection,
            key_pair: self.key_pair,
            outcome,
            reason,
            explanation,
            epoch: self.epoch,
        }
    }
}
