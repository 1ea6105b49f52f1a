//! Is our key pair accepted? What happens on one connection proves it, and is reported once.
//!
//! A first answer with a refusing status, and an end before the first answer, may refuse it: that is a doubt, and a refusal where the
//! upstream's CertificateRequest excludes the pair anyway. An answer with any other status proves the pair.

use std::cell::Cell;
use std::sync::Arc;

use http::StatusCode;

use super::fact;
use super::resources::UpstreamRef;
use crate::dataplane::exchange::proof::{ConnectionProof, RequestSummary};
use crate::event::{Event, ProofRecord};
use crate::evidence::proved::UpstreamNode;
use crate::http::error::RequestError as Error;
use crate::keyring::Standing;
use crate::pki::Fingerprint;
use crate::tls::recorder::RecorderHandle;
use crate::tls::{FailureContext, HandshakeFacts, HandshakeOutcome, explain};

/// The reason where the upstream ends a connection before it has answered anything.
const CLOSED_AFTER_HANDSHAKE: &str = "closed_after_handshake";

/// The proof that a new connection starts with.
pub(super) fn new_proof(
    towards: UpstreamRef<'_>,
    (connection, key_pair, node): (u64, Fingerprint, UpstreamNode),
    (facts, request): (HandshakeFacts, RequestSummary),
    heard: RecorderHandle,
) -> ConnectionProof {
    let listener = Arc::clone(&towards.egress.settings.name);
    let (open, answered, doubt) = (Cell::new(true), Cell::new(false), Cell::new(None));
    ConnectionProof {
        listener,
        connection,
        key_pair,
        node,
        epoch: towards.epoch,
        facts,
        heard,
        request,
        open,
        answered,
        doubt,
    }
}

/// Records a status that accepts the pair; true for the first one on this connection. Where no certificate was asked for
/// nothing is proved.
pub(super) fn record_acceptance(proof: &ConnectionProof, towards: UpstreamRef<'_>, status: StatusCode) -> bool {
    proof.doubt.set(None);
    let first = proof.request.asked && proof.open.replace(false);
    let news = || proof.is_undecided() || towards.context().events().is_doubted(&proof.listener, proof.key_pair);
    if first && news() {
        let explanation = format!("the upstream accepts our key pair: it answered {}", status.as_u16());
        towards.emit_event(proof_event(proof, HandshakeOutcome::Accepted, "ok", explanation));
    }
    first
}

/// Records that the first answer on a connection has a status by which upstreams refuse certificates; `compared`: what it
/// means is about to be found out with another pair.
pub(super) fn record_doubtful_status(
    proof: &ConnectionProof,
    towards: UpstreamRef<'_>,
    status: StatusCode,
    compared: bool,
) {
    let first = !proof.answered.get();
    if !proof.request.asked || !proof.open.get() || !first && proof.doubt.get().is_none() {
        return;
    }
    let reason = fact::status_reason(status);
    proof.doubt.set(Some(reason));
    if !first || compared {
        return;
    }
    let (pair, code) = (describe_pair(proof, towards), status.as_u16());
    let remark = &proof.request.remark;
    // nginx, and what follows its example, has these two for nothing else.
    if proof.request.excluded || matches!(code, 495 | 496) {
        let explanation = format!(
            "the upstream refuses {pair}: its first answer was {code}{remark}; send its operator our issuer's certificate to \
             trust"
        );
        towards.emit_event(proof_event(proof, HandshakeOutcome::Refused, reason, explanation));
    } else {
        let explanation = format!(
            "the upstream's first answer to {pair} was {code}, by which it may refuse the certificate{remark}; if requests \
             go on failing, ask its operator whether it accepts our certificate"
        );
        towards.emit_event(proof_event(proof, HandshakeOutcome::Doubted, reason, explanation));
    }
}

/// Records a status by which the upstream refuses the pair.
pub(super) fn record_status_refusal(
    proof: &ConnectionProof,
    towards: UpstreamRef<'_>,
    status: StatusCode,
    other: StatusCode,
) {
    if proof.open.replace(false) {
        let explanation = format!(
            "the upstream refuses our key pair with {}; it answers {} to the other pair",
            status.as_u16(),
            other.as_u16()
        );
        towards.emit_event(proof_event(proof, HandshakeOutcome::Refused, fact::status_reason(status), explanation));
    }
}

/// What ended TLS on this connection, if anything did: reported once, and returned as the request's error.
pub(super) fn report_failure(proof: &ConnectionProof, towards: UpstreamRef<'_>) -> Option<Error> {
    let failed = proof.heard.failure(&proof.facts)?;
    let shown = towards.egress.candidates.0.iter().find(|candidate| candidate.key_pair == proof.key_pair);
    let explained = explain(
        &failed,
        &FailureContext {
            ingress: false,
            listener: &proof.listener,
            trust: &towards.egress.trust,
            shown: find_standing(proof, towards).map(|standing| (proof.key_pair, standing)),
            shown_next: None,
            presented: shown.map(Into::into).unwrap_or_default(),
            now: towards.now(),
        },
    );
    let (reason, explanation) = (explained.reason, format!("{}{}", explained.explanation, proof.request.remark));
    if proof.open.replace(false) && proof.is_undecided() {
        let mut event = proof_record(proof, explained.outcome, reason, explanation.clone());
        event.alert_received = explained.alert_received;
        towards.emit_event(Event::Proof(event));
    }
    Some(if proof.heard.is_refusal() {
        Error::Refused { reason, explanation, said: true }
    } else {
        Error::Handshake { reason, explanation }
    })
}

/// Reports that the connection ended before anything was sent on it.
pub(super) fn report_early_close(proof: &ConnectionProof, towards: UpstreamRef<'_>) -> Error {
    report_failure(proof, towards).unwrap_or_else(|| {
        let (reason, explanation) = report_silent_end(proof, towards);
        Error::Refused { reason, explanation, said: false }
    })
}

/// What ended a connection on which a request failed: an alert, or an end before the first answer, where `error` is an end.
pub(super) fn report_end(proof: &ConnectionProof, towards: UpstreamRef<'_>, error: Option<&Error>) -> Option<Error> {
    let is_end = matches!(error, Some(Error::Exchange(error)) if error.is_end());
    let silent = || {
        let (reason, explanation) = report_silent_end(proof, towards);
        Error::Unanswered { reason, explanation }
    };
    report_failure(proof, towards).or_else(|| (is_end && proof.request.asked && !proof.answered.get()).then(silent))
}

/// Reports an end without an alert before the first answer: code and sentence.
fn report_silent_end(proof: &ConnectionProof, towards: UpstreamRef<'_>) -> (&'static str, String) {
    let (pair, remark) = (describe_pair(proof, towards), &proof.request.remark);
    let (outcome, explanation) = if proof.request.excluded {
        let why = format!(
            "the upstream refuses {pair}: it ended the connection after the handshake, without an answer and without an \
             alert{remark}; send its operator our issuer's certificate to trust"
        );
        (HandshakeOutcome::Refused, why)
    } else {
        let why = format!(
            "the upstream ended the connection after the handshake, without an answer and without an alert: it may refuse \
             {pair}{remark}; its log has the reason"
        );
        (HandshakeOutcome::Doubted, why)
    };
    if proof.open.replace(false) && proof.request.asked {
        towards.emit_event(proof_event(proof, outcome, CLOSED_AFTER_HANDSHAKE, explanation.clone()));
    }
    (CLOSED_AFTER_HANDSHAKE, explanation)
}

/// `our key pair 3fa91c… (current)`.
fn describe_pair(proof: &ConnectionProof, towards: UpstreamRef<'_>) -> String {
    let standing = find_standing(proof, towards).map_or("no longer in use", Standing::as_str);
    format!("our key pair {} ({standing})", proof.key_pair.short())
}

fn find_standing(proof: &ConnectionProof, towards: UpstreamRef<'_>) -> Option<Standing> {
    let shown = towards.egress.candidates.0.iter().find(|candidate| candidate.key_pair == proof.key_pair);
    shown.map(|candidate| candidate.standing)
}

fn proof_event(proof: &ConnectionProof, outcome: HandshakeOutcome, reason: &'static str, explanation: String) -> Event {
    Event::Proof(proof_record(proof, outcome, reason, explanation))
}

fn proof_record(
    proof: &ConnectionProof,
    outcome: HandshakeOutcome,
    reason: &'static str,
    explanation: String,
) -> ProofRecord {
    ProofRecord {
        listener: Arc::clone(&proof.listener),
        connection: proof.connection,
        key_pair: proof.key_pair,
        outcome,
        reason,
        alert_received: None,
        explanation,
        epoch: proof.epoch,
        handshake: None,
    }
}
