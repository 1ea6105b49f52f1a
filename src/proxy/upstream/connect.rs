//! A new connection to an upstream: with the pair that was picked, and made ready for HTTP.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::Error;
use super::super::drain::ConnectionFacts;
use super::super::link::{Ends, Link};
use super::super::open::{Open, Patience};
use super::super::proof::Proof;
use super::Showing;
use super::reach::{Reach, Ready};
use crate::keyring::proved::How;
use crate::snapshot::Side;
use crate::tls::Alpn;
use crate::tls::recorder::{Recorder, Settled};

/// Where a request that may not be sent twice waits for an alert, it waits two round trips, and never longer than this.
const LONGEST_HOLD: Duration = Duration::from_secs(2);

impl Showing<'_> {
    /// Dials and performs the handshake. `http1`: nothing else is offered.
    pub(in super::super) async fn attempt(&self, http1: bool) -> Result<Ready, Error> {
        let (egress, upstream) = (self.towards.egress, self.towards.upstream);
        let index = self.chosen.borrow().way(self.pick().key_pair).index;
        let connector = &egress.connectors[index];
        let reach = Reach {
            towards: self.towards,
            to: &egress.settings.upstream,
            connector: if http1 { &connector.http1() } else { connector },
            shown: (egress.candidates.0[index].clone(), self.chosen_by()),
            trust: &egress.trust,
            expects: &egress.settings.expects,
            keepalive: Some(egress.settings.tcp_keepalive),
        };
        reach.handshake(|asked| upstream.learn(asked)).await
    }

    /// Starts HTTP on it, in the version that ALPN selected.
    pub(super) async fn link(&self, ready: Ready) -> Result<Link, Error> {
        let towards = self.towards;
        let Ready { tls, connection, key_pair, peer, round } = ready;
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
