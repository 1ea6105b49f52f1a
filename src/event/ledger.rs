//! Turns Events into the facts behind the rotation report.
//!
//! This happens where Events are emitted and not in a follower: a slow follower misses Events, and a report that missed
//! a refusal would call a rotation safe.

use jiff::Timestamp;

use super::handshake::{HandshakeRecord, NO_CERTIFICATE_ASKED};
use super::lesson::LessonRecord;
use super::list::Event;
use super::peer_proof::{ANONYMOUS_IDENTITY, PeerProofOutcome, PeerProofRecord};
use super::proof::VerdictRecord;
use crate::evidence::UpstreamVerdict;
use crate::evidence::learned::{RefusalChange, RefusalRecord};
use crate::evidence::report::{LedgerFact, RotationLedger, SenderOutcome, UpstreamResponse};
use crate::keyring::{KeyringEvent, Standing};
use crate::snapshot::Side;
use crate::tls::HandshakeOutcome;

/// Records an Event, if it matters for the report.
pub(super) fn record_event(ledger: &mut RotationLedger, event: &Event, now: Timestamp) {
    match event {
        Event::Handshake(handshake) => record_handshake(ledger, handshake, now),
        // What one connection to an upstream proved speaks for one node; the verdict is on all of them.
        Event::PeerProof(proof) => ledger.record(&peer_proof_fact(proof), now),
        Event::Upstream(verdict) => ledger.record(&verdict_fact(verdict), now),
        Event::Learned(lesson) => ledger.record(&lesson_fact(lesson), now),
        Event::Keyring(change) => {
            if let KeyringEvent::Moved { keyring, to: Standing::Current, .. } = &change.event {
                ledger.record(&LedgerFact::Rotated { keyring, epoch: change.epoch.0 }, now);
            }
        }
        Event::Epoch(epoch) => {
            ledger.record(&LedgerFact::Configured { upstreams: &epoch.upstreams, epoch: epoch.epoch.0 }, now);
        }
        _ => {}
    }
}

fn peer_proof_fact(proof: &PeerProofRecord) -> LedgerFact<'_> {
    LedgerFact::Proof {
        keyring: &proof.keyring,
        listener: &proof.listener,
        identity: if proof.certificate.is_some() { &proof.identity } else { ANONYMOUS_IDENTITY },
        certificate: proof.certificate,
        source: proof.source,
        key_pair: proof.key_pair,
        outcome: match proof.outcome {
            PeerProofOutcome::Proved => SenderOutcome::Proved,
            PeerProofOutcome::UnexplainedEnd => SenderOutcome::UnexplainedEnd,
        },
        epoch: proof.epoch.0,
    }
}

fn verdict_fact(verdict: &VerdictRecord) -> LedgerFact<'_> {
    LedgerFact::Upstream {
        listener: &verdict.listener,
        keyring: Some(&verdict.keyring),
        key_pair: verdict.key_pair,
        said: match verdict.verdict {
            UpstreamVerdict::HandshakeOk => UpstreamResponse::HandshakeOk,
            UpstreamVerdict::Proved => UpstreamResponse::Proved,
            UpstreamVerdict::Refused => UpstreamResponse::Refused,
        },
        handshake: false,
        reason: verdict.reason,
        explanation: &verdict.explanation,
        next_try: verdict.next_try,
        epoch: verdict.epoch.0,
    }
}

fn lesson_fact(lesson: &LessonRecord) -> LedgerFact<'_> {
    LedgerFact::Source {
        keyring: &lesson.keyring,
        listener: &lesson.listener,
        source: &lesson.source,
        refused: lesson.refused,
        shown: lesson.shown,
        lesson: lesson.standing,
        peer: lesson.peer.as_deref(),
        reason: lesson.reason,
        explanation: &lesson.explanation,
    }
}

/// Its time is now, not when it ended: times go in the order of what is recorded, also over a step of the clock.
fn record_handshake(ledger: &mut RotationLedger, handshake: &HandshakeRecord, now: Timestamp) {
    if handshake.side == Side::Egress && handshake.reason == NO_CERTIFICATE_ASKED {
        let fact = LedgerFact::Unasked { listener: &handshake.listener, epoch: handshake.epoch.0 };
        ledger.record(&fact, now);
        return;
    }
    let (Some(keyring), Some(key_pair), Some(chosen_by)) =
        (&handshake.keyring, handshake.key_pair, handshake.chosen_by)
    else {
        return;
    };
    let listener = &handshake.listener;
    match handshake.side {
        Side::Ingress if handshake.outcome == HandshakeOutcome::Accepted => {
            let certificate = handshake.peer.as_ref().map(|peer| peer.fingerprint);
            let identity = handshake.identity.as_deref().filter(|_| certificate.is_some());
            let fact = LedgerFact::Peer {
                keyring,
                listener,
                identity: identity.unwrap_or(ANONYMOUS_IDENTITY),
                partner: handshake.partner.as_ref(),
                certificate,
                source: handshake.peer_addr.map(|address| address.ip()),
                key_pair,
                chosen_by,
                epoch: handshake.epoch.0,
            };
            ledger.record(&fact, now);
        }
        Side::Egress => {
            let said = match handshake.outcome {
                // TLS is done, but the upstream may still refuse the pair by a status: not proved yet.
                HandshakeOutcome::Accepted | HandshakeOutcome::Unproved => UpstreamResponse::HandshakeOk,
                HandshakeOutcome::Refused | HandshakeOutcome::Failed if handshake.refused_by_alert().is_some() => {
                    UpstreamResponse::Refused
                }
                HandshakeOutcome::Refused | HandshakeOutcome::Failed | HandshakeOutcome::Doubted => return,
            };
            let fact = LedgerFact::Upstream {
                listener,
                keyring: Some(keyring),
                key_pair,
                said,
                handshake: said == UpstreamResponse::HandshakeOk,
                reason: handshake.reason,
                explanation: &handshake.explanation,
                next_try: None,
                epoch: handshake.epoch.0,
            };
            ledger.record(&fact, now);
        }
        Side::Ingress => {}
    }
}

/// Records what a source had refused before this process started.
pub(super) fn recall_refusal(ledger: &mut RotationLedger, entry: &RefusalRecord) {
    let change = RefusalChange { entry: entry.clone(), standing: entry.standing, reason: entry.reason };
    let (source, explanation) = (entry.source.to_string(), change.explanation());
    for refused in &entry.refused {
        let fact = LedgerFact::Source {
            keyring: &entry.keyring,
            listener: &entry.source.listener,
            source: &source,
            refused: *refused,
            shown: entry.shown,
            lesson: entry.standing,
            peer: entry.peer.as_deref(),
            reason: entry.reason,
            explanation: &explanation,
        };
        ledger.record(&fact, entry.since);
    }
}
