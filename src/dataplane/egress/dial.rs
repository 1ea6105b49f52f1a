//! One handshake with an egress' upstream or its token endpoint: dialled, performed with one key pair, verified, and
//! recorded like every handshake. The caller decides what to send afterwards.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use super::resources::UpstreamRef;
use crate::dataplane::attempt::HandshakeAttempt;
use crate::evidence::proved::UpstreamNode;
use crate::http::error::RequestError as Error;
use crate::keyring::{KeyPairCandidate, PeerRequirements, SelectionReason};
use crate::net::{HostPort, SocketStream, dial};
use crate::pki::Fingerprint;
use crate::snapshot::Side;
use crate::tls::handshake::{ClientStream, CompletedHandshake, connect};
use crate::tls::{EgressConnector, HandshakeOutcome};
use crate::trust::{Partners, Peer, PeerRole, Trust};

/// A finished handshake.
pub(super) struct UpstreamConnection {
    pub(super) tls: CompletedHandshake<ClientStream<SocketStream>>,
    pub(super) connection: u64,
    pub(super) key_pair: Fingerprint,
    pub(super) peer: Arc<Peer>,
    /// The node that it reached.
    pub(super) node: UpstreamNode,
    /// How long the handshake took: a round trip and what both sides compute.
    pub(super) round: Duration,
}

/// The address to connect to, and how.
pub(super) struct UpstreamDial<'a> {
    pub(super) towards: UpstreamRef<'a>,
    pub(super) to: &'a HostPort,
    /// Shows the pair that `shown` names.
    pub(super) connector: &'a EgressConnector,
    pub(super) shown: (KeyPairCandidate, SelectionReason),
    pub(super) trust: &'a Trust,
    pub(super) expects: &'a PeerRole,
    pub(super) keepalive: Option<Duration>,
    /// The address to try first, if it is one of the upstream's.
    pub(super) prefer: Option<IpAddr>,
    /// Where the node is left that was reached, also where the handshake fails.
    pub(super) reached: &'a Cell<UpstreamNode>,
}

impl UpstreamDial<'_> {
    /// Dials, performs the handshake, verifies. `learn` receives the server's CertificateRequest, also where the
    /// handshake fails.
    pub(super) async fn handshake(self, learn: impl Fn(Option<PeerRequirements>)) -> Result<UpstreamConnection, Error> {
        let (settings, context) = (&self.towards.egress.settings, self.towards.context());
        let (events, clock) = (context.events(), context.clock());
        let key_pair = self.shown.0.key_pair;
        let mut attempt = HandshakeAttempt {
            side: Side::Egress,
            listener: Arc::clone(&settings.name),
            connection: context.shared.next_connection_number(),
            address: None,
            epoch: self.towards.epoch,
            started: std::time::Instant::now(),
            quiet: false,
            shown: Some(self.shown),
            shown_next: None,
        };
        let began = Instant::now();
        let deadline = began + settings.limits.connect;
        let terms = dial::DialOptions {
            deadline,
            keepalive: self.keepalive,
            refresh: settings.dns_refresh,
            prefer: self.prefer,
        };
        let stream = match context.dialler().connect_tcp(self.to, terms).await {
            Ok(stream) => stream,
            Err(error) => {
                events.emit(attempt.dial_failure_event(&self.to.to_string(), &error, clock.now()));
                return Err(Error::Connect(error));
            }
        };
        attempt.address = stream.peer_addr();
        let node_of = |chain: &[CertificateDer<'_>]| {
            let node = UpstreamNode::from_address(attempt.address.map(|address| address.ip()));
            chain.first().map_or(node, |shown| UpstreamNode { certificate: Fingerprint::of(shown), ..node })
        };
        let dialled = Instant::now();
        let tls = match connect(stream, self.connector, began + settings.limits.handshake).await {
            Ok(tls) => tls,
            Err(failed) => {
                self.reached.set(node_of(&failed.seen.chain));
                learn(failed.seen.asked.clone());
                let (said, silent) = (failed.refuses_key_pair(), failed.ended_after_certificate_request());
                let (event, reason, explanation) = attempt.failure_event(&failed, self.trust, clock.now());
                events.emit(event);
                return Err(if said || silent {
                    Error::Refused { reason, explanation, said }
                } else {
                    Error::Handshake { reason, explanation }
                });
            }
        };
        let round = dialled.elapsed();
        let node = node_of(&tls.chain);
        self.reached.set(node);
        learn(tls.asked.clone());
        let now = clock.now();
        match self.trust.verify(&tls.chain, self.expects, now) {
            Ok(verified) => {
                let peer = Peer::new(verified, &Partners::default());
                self.trust.record_verified(&peer, now);
                let outcome = if tls.facts.version == Some("1.3") {
                    HandshakeOutcome::Unproved
                } else {
                    HandshakeOutcome::Accepted
                };
                events.emit(attempt.success_event(outcome, (tls.facts.clone(), &tls.chain), Some(&peer), now));
                Ok(UpstreamConnection { tls, connection: attempt.connection, key_pair, peer, node, round })
            }
            Err(untrusted) => {
                let facts = tls.facts.clone();
                let (event, reason, explanation) =
                    attempt.untrusted_event(&untrusted, self.trust, facts, &tls.chain, now);
                events.emit(event);
                Err(Error::Handshake { reason, explanation })
            }
        }
    }
}
