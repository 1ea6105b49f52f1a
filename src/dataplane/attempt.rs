//! The record of one handshake: however it ends, one Event with the same fields (contract section 6).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

use crate::event::handshake::{EXPIRED_ACCEPTED, NO_CERTIFICATE_ASKED, PeerFacts};
use crate::event::{Event, HandshakeRecord};
use crate::keyring::demand::AuthorityFit;
use crate::keyring::{CandidateList, KeyPairCandidate, PeerRequirements, SelectionReason, Standing};
use crate::net;
use crate::pki::{Certificate, Fingerprint};
use crate::snapshot::{Epoch, Side};
use crate::tls::explain::{DialFailure, explain_dial, explain_untrusted};
use crate::tls::{FailedHandshake, FailureContext, FailureExplanation, HandshakeFacts, HandshakeOutcome, explain};
use crate::trust::{Peer, PresentedChain, Trust, TrustError};

/// Certificates of a failed chain that are summarised.
const SUMMARISED_CERTIFICATES: usize = 8;
/// Bytes of a chain that are kept with its record.
const RECORDED_CHAIN_BYTES: usize = 16 << 10;

/// What is known before a handshake ends.
pub(crate) struct HandshakeAttempt {
    pub(crate) side: Side,
    pub(crate) listener: Arc<str>,
    pub(crate) connection: u64,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) epoch: Epoch,
    pub(crate) started: Instant,
    /// It comes from a health checker: a failure without a certificate is not logged.
    pub(crate) quiet: bool,
    /// The pair that we present, and why, once it is chosen.
    pub(crate) shown: Option<(KeyPairCandidate, SelectionReason)>,
    /// The standing of the pair that its source gets next time, where it refused this one.
    pub(crate) shown_next: Option<Standing>,
    /// Egress: a half sentence about the authorities that its CertificateRequest names.
    pub(crate) request: Option<String>,
}

impl HandshakeAttempt {
    /// Another pair of `candidates` was shown than the planned one: the upstream's CertificateRequest led to it, by the authorities
    /// that it names or, where it names none, because the planned pair cannot sign for it.
    pub(crate) fn show_instead(
        &mut self,
        candidates: &CandidateList,
        shown: Option<Fingerprint>,
        asked: Option<&PeerRequirements>,
    ) {
        let other = candidates.0.iter().find(|candidate| Some(candidate.key_pair) == shown);
        if let Some(other) = other {
            let named = asked.is_some_and(|asked| AuthorityFit::between(other, asked) == AuthorityFit::Named);
            let chosen_by = if named { SelectionReason::Authorities } else { SelectionReason::Only };
            self.shown = Some((other.clone(), chosen_by));
        }
    }

    /// The Event of a handshake that succeeded.
    pub(crate) fn success_event(
        &self,
        outcome: HandshakeOutcome,
        (facts, chain): (HandshakeFacts, &PresentedChain),
        peer: Option<&Peer>,
        now: Timestamp,
    ) -> Event {
        let expired = peer.and_then(|peer| Some((peer.verified().expired?, peer.partner()?, peer.valid_until())));
        let unasked = self.side == Side::Egress && self.shown.is_none();
        let explanation = match (outcome, peer) {
            _ if let Some((expired, partner, until)) = expired => format!(
                "the certificate of {} expired on {expired}; it is accepted until {until} (accept_expired_until of \
                 partner \"{partner}\") and must be renewed by then",
                peer.map_or("the peer", |peer| peer.identity()),
            ),
            (_, Some(peer)) if unasked => format!(
                "handshake with {}; it asked for no certificate: this is not mutual TLS, and no key pair was shown",
                peer.identity()
            ),
            (HandshakeOutcome::Unproved, _) => {
                "handshake complete; the upstream's first response shows whether it accepts our key pair".to_owned()
            }
            (_, Some(peer)) => format!("handshake with {}", peer.identity()),
            (_, None) => "handshake with a peer that presented no certificate".to_owned(),
        };
        let explanation = explanation + self.request.as_deref().unwrap_or_default();
        let reason = match (expired, unasked) {
            (Some(_), _) => EXPIRED_ACCEPTED,
            (None, true) => NO_CERTIFICATE_ASKED,
            (None, false) => "ok",
        };
        let explained = FailureExplanation { outcome, reason, explanation, alert_sent: None, alert_received: None };
        let mut record = self.record(explained, facts, now);
        record.peer_chain = recorded_chain(chain);
        if let Some(peer) = peer {
            let verified = peer.verified();
            let anchor = verified.anchor.as_ref().map(|(anchor, _)| *anchor);
            record.peer = Some(PeerFacts { anchor, pin: verified.pin, ..peer_facts(peer.certificate()) });
            record.identity = Some(peer.identity().to_owned());
            record.partner = peer.partner().cloned();
        }
        Event::Handshake(Arc::new(record))
    }

    /// The Event of a handshake that failed. Also code and sentence, for the request that waits for it.
    pub(crate) fn failure_event(
        &self,
        failed: &FailedHandshake,
        trust: &Trust,
        now: Timestamp,
    ) -> (Event, &'static str, String) {
        let mut explained = explain(failed, &self.failure_context(trust, now));
        explained.explanation += self.request.as_deref().unwrap_or_default();
        self.event_with_chain(explained, failed.facts.clone(), &failed.seen.chain, now)
    }

    /// TLS succeeded, but the chain is not trusted (a resumed session, a trust that changed meanwhile); the alert is
    /// what it was answered with.
    pub(crate) fn untrusted_event(
        &self,
        untrusted: &TrustError,
        trust: &Trust,
        (facts, chain, alert_sent): (HandshakeFacts, &PresentedChain, Option<&'static str>),
        now: Timestamp,
    ) -> (Event, &'static str, String) {
        let explained = explain_untrusted(untrusted, &self.failure_context(trust, now), alert_sent);
        self.event_with_chain(explained, facts, chain, now)
    }

    /// The address could not be reached: the line that replaces the handshake's.
    pub(crate) fn dial_failure_event(&self, address: &str, error: &net::SocketError, now: Timestamp) -> Event {
        let dial = match error {
            net::SocketError::Resolve { .. } => DialFailure::NotResolved,
            net::SocketError::Connect { source, .. } => DialFailure::from_io_error(source),
            net::SocketError::Late { .. } => DialFailure::TimedOut,
            _ => DialFailure::Other,
        };
        let why = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        Event::Handshake(Arc::new(self.record(explain_dial(dial, address, &why), HandshakeFacts::default(), now)))
    }

    /// TLS succeeded and the peer is trusted, but its partner has too many connections.
    pub(crate) fn partner_limit_event(
        &self,
        peer: &Peer,
        facts: HandshakeFacts,
        explanation: String,
        now: Timestamp,
    ) -> Event {
        let reason = "too_many_of_partner";
        let explained = FailureExplanation {
            outcome: HandshakeOutcome::Refused,
            reason,
            explanation,
            alert_sent: None,
            alert_received: None,
        };
        let mut record = self.record(explained, facts, now);
        record.peer = Some(peer_facts(peer.certificate()));
        record.identity = Some(peer.identity().to_owned());
        record.partner = peer.partner().cloned();
        Event::Handshake(Arc::new(record))
    }

    /// The handshake was not started, or the sidecar ended it.
    pub(crate) fn rejection_event(&self, reason: &'static str, explanation: String, now: Timestamp) -> Event {
        let explained = FailureExplanation {
            outcome: HandshakeOutcome::Refused,
            reason,
            explanation,
            alert_sent: None,
            alert_received: None,
        };
        Event::Handshake(Arc::new(self.record(explained, HandshakeFacts::default(), now)))
    }

    fn failure_context<'a>(&'a self, trust: &'a Trust, now: Timestamp) -> FailureContext<'a> {
        let shown = self.shown.as_ref().map(|(candidate, _)| (candidate.key_pair, candidate.standing));
        FailureContext {
            ingress: self.side == Side::Ingress,
            listener: &self.listener,
            trust,
            shown,
            shown_next: self.shown_next,
            presented: self.shown.as_ref().map(|(candidate, _)| candidate.into()).unwrap_or_default(),
            now,
        }
    }

    fn event_with_chain(
        &self,
        explained: FailureExplanation,
        facts: HandshakeFacts,
        chain: &PresentedChain,
        now: Timestamp,
    ) -> (Event, &'static str, String) {
        let (reason, explanation) = (explained.reason, explained.explanation.clone());
        let mut record = self.record(explained, facts, now);
        record.quiet &= chain.is_empty();
        let parsed: Vec<_> =
            chain.iter().take(SUMMARISED_CERTIFICATES).map(|der| Certificate::parse(der.clone())).collect();
        record.peer = parsed.first().and_then(|first| first.as_ref().ok()).map(|certificate| peer_facts(certificate));
        record.peer_chain = recorded_chain(chain);
        record.chain_summary = parsed
            .iter()
            .map(|parsed| match parsed {
                Ok(certificate) => summarise(certificate),
                Err(error) => error.to_string(),
            })
            .collect();
        (Event::Handshake(Arc::new(record)), reason, explanation)
    }

    fn record(&self, explained: FailureExplanation, facts: HandshakeFacts, now: Timestamp) -> HandshakeRecord {
        let shown = self.shown.as_ref();
        HandshakeRecord {
            time: now,
            side: self.side,
            listener: Arc::clone(&self.listener),
            outcome: explained.outcome,
            peer_addr: self.address,
            facts,
            keyring: shown.map(|(candidate, _)| Arc::clone(&candidate.keyring)),
            key_pair: shown.map(|(candidate, _)| candidate.key_pair),
            standing: shown.map(|(candidate, _)| candidate.standing),
            chosen_by: shown.map(|(_, chosen_by)| *chosen_by),
            epoch: self.epoch,
            peer: None,
            identity: None,
            partner: None,
            alert_sent: explained.alert_sent,
            alert_received: explained.alert_received,
            reason: explained.reason,
            explanation: explained.explanation,
            connection: self.connection,
            quiet: self.quiet,
            duration_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            chain_summary: Vec::new(),
            peer_chain: Arc::default(),
        }
    }
}

/// The part of a chain that its record keeps, whole certificates only.
fn recorded_chain(chain: &PresentedChain) -> Arc<[CertificateDer<'static>]> {
    let mut size = 0;
    let fits = |der: &&CertificateDer<'static>| {
        size += der.len();
        size <= RECORDED_CHAIN_BYTES
    };
    let count = chain.iter().take(SUMMARISED_CERTIFICATES).take_while(fits).count();
    if count == chain.len() { Arc::clone(chain.certificates()) } else { chain[..count].into() }
}

fn peer_facts(certificate: &Certificate) -> PeerFacts {
    PeerFacts {
        subject: certificate.subject().to_owned(),
        issuer: certificate.issuer().to_owned(),
        serial: certificate.serial().to_owned(),
        fingerprint: certificate.fingerprint(),
        not_before: certificate.validity().not_before,
        not_after: certificate.validity().not_after,
        anchor: None,
        pin: None,
    }
}

fn summarise(certificate: &Certificate) -> String {
    let validity = certificate.validity();
    format!(
        "{} issued by {}, {} to {}, serial {}, {}",
        certificate.subject(),
        certificate.issuer(),
        validity.not_before,
        validity.not_after,
        certificate.serial(),
        certificate.fingerprint().short(),
    )
}
