//! One handshake with an egress' upstream or its token endpoint: dialled, performed with one key pair, verified, and
//! recorded like every handshake. The caller decides what to send afterwards.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use super::demand;
use super::resources::UpstreamRef;
use crate::dataplane::attempt::HandshakeAttempt;
use crate::dataplane::exchange::proof::RequestSummary;
use crate::event::{EXCLUDED_BY_AUTHORITIES, Event, ProofRecord};
use crate::evidence::proved::UpstreamNode;
use crate::http::error::RequestError as Error;
use crate::keyring::{KeyPairCandidate, PeerRequirements, SelectionReason};
use crate::net::{HostPort, SocketStream, dial};
use crate::pki::Fingerprint;
use crate::snapshot::Side;
use crate::tls::handshake::{ClientStream, CompletedHandshake, connect};
use crate::tls::{EgressConnector, FailedHandshake, HandshakeOutcome};
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
    /// What its CertificateRequest says about the pair.
    pub(super) request: RequestSummary,
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
    /// An upstream: what it asked for last, as a resumed session asks for nothing. `None`: a token endpoint.
    pub(super) remembered: Option<PeerRequirements>,
}

impl UpstreamDial<'_> {
    /// Dials, performs the handshake, verifies. `learn` receives the server's CertificateRequest and the pair that was shown
    /// instead of the planned one, if one was; also where the handshake fails.
    pub(super) async fn handshake(
        self,
        learn: impl Fn(Option<PeerRequirements>, Option<Fingerprint>),
    ) -> Result<UpstreamConnection, Error> {
        let (settings, context) = (&self.towards.egress.settings, self.towards.context());
        let (events, clock) = (context.events(), context.clock());
        let (planned, candidates) = (self.shown.0.key_pair, &self.towards.egress.candidates);
        let mut attempt = HandshakeAttempt {
            side: Side::Egress,
            listener: Arc::clone(&settings.name),
            connection: context.shared.next_connection_number(),
            address: None,
            epoch: self.towards.epoch,
            started: std::time::Instant::now(),
            quiet: false,
            shown: Some(self.shown.clone()),
            shown_next: None,
            request: None,
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
        let address = attempt.address.map(|address| address.ip());
        let node_of = |chain: &[CertificateDer<'_>]| {
            let node = UpstreamNode::from_address(address);
            chain.first().map_or(node, |shown| UpstreamNode { certificate: Fingerprint::of(shown), ..node })
        };
        let dialled = Instant::now();
        let tls = match connect(stream, self.connector, began + settings.limits.handshake).await {
            Ok(tls) => tls,
            Err(failed) => {
                self.reached.set(node_of(&failed.seen.chain));
                attempt.show_instead(candidates, failed.seen.shown_instead, failed.seen.asked.as_ref());
                learn(failed.seen.asked.clone(), failed.seen.shown_instead);
                return Err(self.fail(attempt, &failed));
            }
        };
        let round = dialled.elapsed();
        let node = node_of(&tls.chain);
        self.reached.set(node);
        attempt.show_instead(candidates, tls.shown_instead, tls.asked.as_ref());
        let key_pair = tls.shown_instead.unwrap_or(planned);
        let asked = tls.asked.clone();
        let request = self.summarise(&mut attempt, key_pair, (tls.is_mutual, asked.as_ref()));
        learn(asked, tls.shown_instead);
        let now = clock.now();
        match self.trust.verify_presented(&tls.chain, self.expects, now) {
            Ok(verified) => {
                let peer = Peer::new(verified, &Partners::default());
                self.trust.record_verified(&peer, now);
                let is_open = tls.facts.version == Some("1.3") && tls.is_mutual;
                let outcome = if is_open { HandshakeOutcome::Unproved } else { HandshakeOutcome::Accepted };
                events.emit(attempt.success_event(outcome, (tls.facts.clone(), &tls.chain), Some(&peer), now));
                Ok(UpstreamConnection { tls, connection: attempt.connection, key_pair, peer, node, round, request })
            }
            Err(untrusted) => {
                let facts = tls.facts.clone();
                let (event, reason, explanation) =
                    attempt.untrusted_event(&untrusted, self.trust, (facts, &tls.chain, None), now);
                events.emit(event);
                Err(Error::Handshake { reason, explanation })
            }
        }
    }

    /// Reports a handshake that failed. Where the upstream ended it, the line says whose certificates it asks for.
    fn fail(&self, mut attempt: HandshakeAttempt, failed: &FailedHandshake) -> Error {
        let (said, silent) = (failed.refuses_key_pair(), failed.ended_after_certificate_request());
        let shown = failed.seen.shown_instead.unwrap_or(self.shown.0.key_pair);
        attempt.request = failed.seen.asked.as_ref().filter(|_| said || silent).map(|asked| {
            let request = demand::summarise_request(&self.towards.egress.candidates, shown, asked);
            request.remark
        });
        let (event, reason, explanation) = attempt.failure_event(failed, self.trust, self.towards.now());
        self.towards.emit_event(event);
        if said || silent {
            Error::Refused { reason, explanation, said }
        } else {
            Error::Handshake { reason, explanation }
        }
    }

    /// What a finished handshake's CertificateRequest says about the pair, for the lines of handshake and proof. A token endpoint
    /// learns from the token who asks: only an upstream has to ask for a certificate.
    fn summarise(
        &self,
        attempt: &mut HandshakeAttempt,
        shown: Fingerprint,
        (is_mutual, asked): (bool, Option<&PeerRequirements>),
    ) -> RequestSummary {
        if !is_mutual {
            attempt.shown = attempt.shown.take().filter(|_| self.remembered.is_none());
            return RequestSummary::default();
        }
        let candidates = &self.towards.egress.candidates;
        if let (Some(asked), Some(known)) = (asked, &self.remembered)
            && asked != known
            && let Some((excluded, explanation)) = demand::explain_exclusion(candidates, shown, asked)
        {
            self.report_exclusion(attempt.connection, excluded, explanation);
        }
        let nothing = PeerRequirements::default();
        let asked = asked.or(self.remembered.as_ref()).unwrap_or(&nothing);
        let request = demand::summarise_request(candidates, shown, asked);
        attempt.request = request.excluded.then(|| request.remark.clone());
        request
    }

    /// Reports that the authorities that an upstream names exclude the current pair: evidence about a pair that was not even shown.
    fn report_exclusion(&self, connection: u64, key_pair: Fingerprint, explanation: String) {
        self.towards.emit_event(Event::Proof(ProofRecord {
            listener: Arc::clone(&self.towards.egress.settings.name),
            outcome: HandshakeOutcome::Refused,
            reason: EXCLUDED_BY_AUTHORITIES,
            key_pair,
            alert_received: None,
            explanation,
            connection,
            epoch: self.towards.epoch,
            handshake: None,
        }));
    }
}
