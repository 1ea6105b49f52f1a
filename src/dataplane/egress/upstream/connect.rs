//! A new connection to an upstream: with the pair that was picked, and made ready for HTTP.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::proof::KeyPairProof;
use super::UpstreamAttempt;
use super::reach::{UpstreamConnection, UpstreamDial};
use crate::dataplane::connection::{ConnectionState, ConnectionTimeouts};
use crate::dataplane::drain::ConnectionFacts;
use crate::dataplane::exchange::link::{ConnectionParts, PooledConnection};
use crate::evidence::proved::SelectionRole;
use crate::http::error::RequestError as Error;
use crate::snapshot::Side;
use crate::tls::AlpnProtocol;
use crate::tls::recorder::{AlertRecorder, SettleOutcome};

/// Where a request that may not be sent twice waits for an alert, it waits two round trips, and never longer than this.
const MAX_ALERT_HOLD: Duration = Duration::from_secs(2);

impl UpstreamAttempt<'_> {
    /// Dials and performs the handshake. `http1`: nothing else is offered.
    pub(crate) async fn connect_tls(&self, http1: bool) -> Result<UpstreamConnection, Error> {
        let (egress, upstream) = (self.towards.egress, self.towards.upstream);
        let index = self.chosen.borrow().candidate(self.pick().key_pair).index;
        let connector = &egress.connectors[index];
        let reach = UpstreamDial {
            towards: self.towards,
            to: &egress.settings.upstream,
            connector: if http1 { &connector.http1() } else { connector },
            shown: (egress.candidates.0[index].clone(), self.chosen_by()),
            trust: &egress.trust,
            expects: &egress.settings.expects,
            keepalive: Some(egress.settings.tcp_keepalive),
        };
        reach.handshake(|asked| upstream.record_certificate_request(asked)).await
    }

    /// Starts HTTP on it, in the version that ALPN selected.
    pub(super) async fn start_http(&self, ready: UpstreamConnection) -> Result<PooledConnection, Error> {
        let towards = self.towards;
        let UpstreamConnection { tls, connection, key_pair, peer, round } = ready;
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
            drain: towards.worker.drain_timeout(),
        };
        let open = ConnectionState::new(connection, facts, patience, towards.worker.waits());
        open.set_valid_until(Some(peer.valid_until()));
        let tracked = towards.worker.track(Rc::clone(&open), towards.epoch);
        let (mut stream, heard) = AlertRecorder::new(tls.stream);
        let http2 = tls.facts.alpn == Some(AlpnProtocol::H2);
        let proof = KeyPairProof::new(towards, (connection, key_pair), tls.facts, heard);
        if self.pick().how == SelectionRole::Everyone && proof.is_undecided() {
            let deadline = Instant::now() + (round * 2).min(MAX_ALERT_HOLD);
            if stream.settle(deadline, false).await == SettleOutcome::Ended {
                return Err(proof.report_early_close(towards));
            }
        }
        let home = Rc::clone(&self.chosen.borrow().candidate(key_pair).pool);
        let ends = ConnectionParts { home, tracked: Some(tracked), proof: Some(Rc::new(proof)) };
        if http2 {
            PooledConnection::handshake_http2(stream, ends).await
        } else {
            PooledConnection::handshake_http1(stream, ends).await
        }
    }
}
