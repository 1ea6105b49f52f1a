//! One handshake with an egress' upstream or its token endpoint: dialled, performed with one key pair, verified, and
//! recorded like every handshake. The caller decides what to send afterwards.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::Error;
use super::super::attempt::Attempt;
use super::Towards;
use crate::keyring::{Asked, Candidate, ChosenBy};
use crate::net::{HostPort, Stream, dial};
use crate::pki::Fingerprint;
use crate::snapshot::Side;
use crate::tls::handshake::{ClientStream, Established, connect};
use crate::tls::{Connector, Outcome};
use crate::trust::{Partners, Peer, Role, Trust};

/// A finished handshake.
pub(in super::super) struct Ready {
    pub(in super::super) tls: Established<ClientStream<Stream>>,
    pub(in super::super) connection: u64,
    pub(in super::super) key_pair: Fingerprint,
    pub(in super::super) peer: Arc<Peer>,
    /// How long the handshake took: a round trip and what both sides compute.
    pub(in super::super) round: Duration,
}

/// The address to connect to, and how.
pub(in super::super) struct Reach<'a> {
    pub(in super::super) towards: Towards<'a>,
    pub(in super::super) to: &'a HostPort,
    /// Shows the pair that `shown` names.
    pub(in super::super) connector: &'a Connector,
    pub(in super::super) shown: (Candidate, ChosenBy),
    pub(in super::super) trust: &'a Trust,
    pub(in super::super) expects: &'a Role,
    pub(in super::super) keepalive: Option<Duration>,
}

impl Reach<'_> {
    /// Dials, performs the handshake, verifies. `learn` receives the server's CertificateRequest, also where the
    /// handshake fails.
    pub(in super::super) async fn handshake(self, learn: impl Fn(Option<Asked>)) -> Result<Ready, Error> {
        let (settings, worker) = (&self.towards.egress.settings, self.towards.worker);
        let (events, clock) = (worker.events(), worker.clock());
        let key_pair = self.shown.0.key_pair;
        let mut attempt = Attempt {
            side: Side::Egress,
            listener: Arc::clone(&settings.name),
            connection: worker.number(),
            address: None,
            epoch: self.towards.epoch,
            started: std::time::Instant::now(),
            quiet: false,
            shown: Some(self.shown),
            shown_next: None,
        };
        let began = Instant::now();
        let deadline = began + settings.limits.connect;
        let terms = dial::Terms { deadline, keepalive: self.keepalive, refresh: settings.dns_refresh };
        let stream = match worker.dialler().tcp(self.to, terms).await {
            Ok(stream) => stream,
            Err(error) => {
                events.emit(attempt.not_reached(&self.to.to_string(), &error, clock.now()));
                return Err(Error::Connect(error));
            }
        };
        attempt.address = stream.peer_addr();
        let dialled = Instant::now();
        let mut tls = match connect(stream, self.connector, began + settings.limits.handshake).await {
            Ok(tls) => tls,
            Err(failed) => {
                learn(failed.seen.asked.clone());
                let (said, silent) = (failed.refuses_key_pair(), failed.lets_go_of_key_pair());
                let (event, reason, explanation) = attempt.failed(&failed, self.trust, clock.now());
                events.emit(event);
                return Err(if said || silent {
                    Error::Refused { reason, explanation, said }
                } else {
                    Error::Handshake { reason, explanation }
                });
            }
        };
        let round = dialled.elapsed();
        learn(tls.asked.take());
        let now = clock.now();
        match self.trust.verify(&tls.chain, self.expects, now) {
            Ok(verified) => {
                let peer = Peer::new(verified, &Partners::default());
                self.trust.note(&peer, now);
                let outcome = if tls.facts.version == Some("1.3") { Outcome::Unproved } else { Outcome::Accepted };
                events.emit(attempt.succeeded(outcome, (tls.facts.clone(), &tls.chain), Some(&peer), now));
                Ok(Ready { tls, connection: attempt.connection, key_pair, peer, round })
            }
            Err(untrusted) => {
                let facts = tls.facts.clone();
                let (event, reason, explanation) = attempt.untrusted(&untrusted, self.trust, facts, &tls.chain, now);
                events.emit(event);
                Err(Error::Handshake { reason, explanation })
            }
        }
    }
}
