//! A new connection to an upstream: dialled, shaken hands on with the pair that was picked, recorded, and made ready for HTTP.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::Error;
use super::super::attempt::Attempt;
use super::super::drain::ConnectionFacts;
use super::super::link::{Ends, Link};
use super::super::open::{Open, Patience};
use super::super::proof::Proof;
use super::Showing;
use crate::keyring::proved::How;
use crate::net::{Stream, dial};
use crate::pki::Fingerprint;
use crate::snapshot::Side;
use crate::tls::handshake::{ClientStream, Established, connect};
use crate::tls::recorder::{Recorder, Settled};
use crate::tls::{Alpn, Outcome};
use crate::trust::{Partners, Peer};

/// Where a request that may not be sent twice waits for an alert, it waits two round trips, and never longer than this.
const LONGEST_HOLD: Duration = Duration::from_secs(2);

/// A finished handshake with the upstream.
pub(in super::super) struct Ready {
    pub(in super::super) tls: Established<ClientStream<Stream>>,
    pub(in super::super) connection: u64,
    pub(in super::super) key_pair: Fingerprint,
    pub(in super::super) peer: Arc<Peer>,
    /// How long the handshake took: a round trip and what both sides compute.
    pub(in super::super) round: Duration,
}

impl Showing<'_> {
    /// Dials, does the handshake, and says how it ended. `http1`: nothing else is offered.
    pub(in super::super) async fn attempt(&self, http1: bool) -> Result<Ready, Error> {
        let towards = self.towards;
        let (settings, trust) = (&towards.egress.settings, &towards.egress.trust);
        let (events, clock) = (towards.worker.events(), towards.worker.clock());
        let index = self.chosen.borrow().way(self.pick().key_pair).index;
        let candidate = &towards.egress.candidates.0[index];
        let mut attempt = Attempt {
            side: Side::Egress,
            listener: Arc::clone(&settings.name),
            connection: towards.worker.number(),
            address: None,
            epoch: towards.epoch,
            started: std::time::Instant::now(),
            quiet: false,
            shown: Some((candidate.clone(), self.chosen_by())),
            shown_next: None,
        };
        let began = Instant::now();
        let terms = dial::Terms {
            deadline: began + settings.limits.connect,
            keepalive: Some(settings.tcp_keepalive),
            refresh: settings.dns_refresh,
        };
        let stream = match towards.worker.dialler().tcp(&settings.upstream, terms).await {
            Ok(stream) => stream,
            Err(error) => {
                events.emit(attempt.not_reached(&settings.upstream.to_string(), &error, clock.now()));
                return Err(Error::Connect(error));
            }
        };
        attempt.address = stream.peer_addr();
        let dialled = Instant::now();
        let connector = &towards.egress.connectors[index];
        let connector = if http1 { &connector.http1() } else { connector };
        let mut tls = match connect(stream, connector, began + settings.limits.handshake).await {
            Ok(tls) => tls,
            Err(failed) => {
                towards.upstream.learn(failed.seen.asked.clone());
                let (said, silent) = (failed.refuses_key_pair(), failed.lets_go_of_key_pair());
                let (event, reason, explanation) = attempt.failed(&failed, trust, clock.now());
                events.emit(event);
                return Err(if said || silent {
                    Error::Refused { reason, explanation, said }
                } else {
                    Error::Handshake { reason, explanation }
                });
            }
        };
        let round = dialled.elapsed();
        towards.upstream.learn(tls.asked.take());
        let now = clock.now();
        match trust.verify(&tls.chain, &settings.expects, now) {
            Ok(verified) => {
                let peer = Peer::new(verified, &Partners::default());
                trust.note(&peer, now);
                let outcome = if tls.facts.version == Some("1.3") { Outcome::Unproved } else { Outcome::Accepted };
                events.emit(attempt.succeeded(outcome, (tls.facts.clone(), &tls.chain), Some(&peer), now));
                Ok(Ready { tls, connection: attempt.connection, key_pair: candidate.key_pair, peer, round })
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
    pub(super) async fn link(&self, ready: Ready) -> Result<Link, Error> {
        let towards = self.towards;
        let Ready { tls, connection, key_pair, peer, round } = ready;
        let facts = ConnectionFacts {
            side: Side::Egress,
            listener: Arc::clone(&towards.egress.settings.name),
            key_pair: Some(key_pair),
            chain: tls.chain,
            role: towards.egress.settings.expects.clone(),
        };
        let limits = &towards.egress.settings.limits;
        let (unread, age) = (limits.body_idle, limits.connection_age);
        let patience = Patience { head: None, http2: false, idle: None, unread, age, drain: towards.worker.drain() };
        let open = Open::new(connection, facts, patience, towards.worker.waits());
        open.set_valid_until(Some(peer.valid_until()));
        let tracked = towards.worker.track(Rc::clone(&open), towards.epoch);
        let (mut stream, heard) = Recorder::new(tls.stream);
        let http2 = tls.facts.alpn == Some(Alpn::H2);
        let proof = Proof::new(towards, (connection, key_pair), tls.facts, heard);
        if self.pick().how == How::Everyone && proof.is_open_question() {
            let deadline = Instant::now() + (round * 2).min(LONGEST_HOLD);
            if stream.settle(deadline, false).await == Settled::Ended {
                return Err(proof.ended(towards));
            }
        }
        let home = Rc::clone(&self.chosen.borrow().way(key_pair).pool);
        let ends = Ends { home, tracked: Some(tracked), proof: Some(Rc::new(proof)) };
        if http2 { Link::http2(stream, ends).await } else { Link::http1(stream, ends).await }
    }
}
