//! Is our key pair accepted? What happens on one connection proves it, and is reported once.

use std::cell::Cell;
use std::sync::Arc;

use http::StatusCode;

use super::fact;
use super::resources::UpstreamRef;
use crate::dataplane::exchange::proof::ConnectionProof;
use crate::event::{Event, ProofRecord};
use crate::evidence::proved::UpstreamNode;
use crate::http::error::RequestError as Error;
use crate::pki::Fingerprint;
use crate::tls::recorder::RecorderHandle;
use crate::tls::{FailureContext, HandshakeFacts, HandshakeOutcome, explain};

/// The proof that a new connection starts with.
pub(super) fn new_proof(
    towards: UpstreamRef<'_>,
    (connection, key_pair, node): (u64, Fingerprint, UpstreamNode),
    facts: HandshakeFacts,
    heard: RecorderHandle,
) -> ConnectionProof {
    let listener = Arc::clone(&towards.egress.settings.name);
    ConnectionProof { listener, connection, key_pair, node, epoch: towards.epoch, facts, heard, open: Cell::new(true) }
}

/// Records a status that accepts the pair; true for the first one on this connection.
pub(super) fn record_acceptance(proof: &ConnectionProof, towards: UpstreamRef<'_>, status: StatusCode) -> bool {
    let first = proof.open.replace(false);
    if first && proof.is_undecided() {
        let explanation = format!("the upstream accepts our key pair: it answered {}", status.as_u16());
        towards.emit_event(proof_event(proof, HandshakeOutcome::Accepted, "ok", explanation));
    }
    first
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
            shown: shown.map(|candidate| (candidate.key_pair, candidate.standing)),
            shown_next: None,
            now: towards.now(),
        },
    );
    if proof.open.replace(false) && proof.is_undecided() {
        let event = proof_event(proof, explained.outcome, explained.reason, explained.explanation.clone());
        towards.emit_event(event);
    }
    let (reason, explanation) = (explained.reason, explained.explanation);
    Some(if proof.heard.is_refusal() {
        Error::Refused { reason, explanation, said: true }
    } else {
        Error::Handshake { reason, explanation }
    })
}

/// Reports that the connection ended before anything was sent on it.
pub(super) fn report_early_close(proof: &ConnectionProof, towards: UpstreamRef<'_>) -> Error {
    report_failure(proof, towards).unwrap_or_else(|| Error::Refused {
        reason: "closed",
        explanation: "upstream closed the connection right after the handshake, without an alert".to_owned(),
        said: false,
    })
}

fn proof_event(proof: &ConnectionProof, outcome: HandshakeOutcome, reason: &'static str, explanation: String) -> Event {
    Event::Proof(ProofRecord {
        listener: Arc::clone(&proof.listener),
        connection: proof.connection,
        key_pair: proof.key_pair,
        outcome,
        reason,
        explanation,
        epoch: proof.epoch,
    })
}
