//! Is our key pair accepted? What one connection proves about it, and requests that are sent again where it is refused.
//!
//! Contract section 4. A certificate alert as the first thing received after the handshake, on a connection that has
//! never returned a byte, proves that nothing was processed: the request, whatever its method, goes on with another
//! pair. A status or a silent end proves no such thing: only requests that may be processed twice do, and only while
//! the pair is not proved.

pub(crate) mod fact;

use std::cell::Cell;
use std::sync::Arc;

use http::{Response, StatusCode};
use hyper::body::Incoming;

use super::token::RequestTokens;
use super::upstream::{UpstreamAttempt, UpstreamRef};
use crate::dataplane::exchange::access::AccessRecord;
use crate::dataplane::exchange::forward;
use crate::dataplane::exchange::forward::{ForwardContext, OutboundRequest};
use crate::dataplane::exchange::link::{PooledConnection, RequestDestination};
use crate::dataplane::exchange::pool;
use crate::dataplane::exchange::replay::ReplayableRequest;
use crate::event::{Event, ProofRecord};
use crate::evidence::proved::{ProofFact, SelectionRole};
use crate::http::body::ResponseBody;
use crate::http::error::RequestError as Error;
use crate::pki::Fingerprint;
use crate::snapshot::Epoch;
use crate::tls::recorder::RecorderHandle;
use crate::tls::{FailureContext, HandshakeFacts, HandshakeOutcome, explain};

/// What one connection proves about our key pair.
pub(crate) struct KeyPairProof {
    listener: Arc<str>,
    connection: u64,
    key_pair: Fingerprint,
    epoch: Epoch,
    facts: HandshakeFacts,
    heard: RecorderHandle,
    /// It has proved nothing yet.
    open: Cell<bool>,
}

impl KeyPairProof {
    pub(crate) fn new(
        towards: UpstreamRef<'_>,
        (connection, key_pair): (u64, Fingerprint),
        facts: HandshakeFacts,
        heard: RecorderHandle,
    ) -> Self {
        let listener = Arc::clone(&towards.egress.settings.name);
        Self { listener, connection, key_pair, epoch: towards.epoch, facts, heard, open: Cell::new(true) }
    }

    /// The pair.
    pub(crate) fn key_pair(&self) -> Fingerprint {
        self.key_pair
    }

    /// Whether the handshake leaves open if the pair is accepted: TLS 1.2 would have refused it within.
    pub(crate) fn is_undecided(&self) -> bool {
        self.facts.version == Some("1.3")
    }

    /// Records a status that accepts the pair; true for the first one on this connection.
    pub(crate) fn record_acceptance(&self, towards: UpstreamRef<'_>, status: StatusCode) -> bool {
        let first = self.open.replace(false);
        if first && self.is_undecided() {
            let explanation = format!("the upstream accepts our key pair: it answered {}", status.as_u16());
            towards.worker.events().emit(self.event(HandshakeOutcome::Accepted, "ok", explanation));
        }
        first
    }

    /// Records a status by which the upstream refuses the pair.
    fn record_status_refusal(&self, towards: UpstreamRef<'_>, status: StatusCode, other: StatusCode) {
        if self.open.replace(false) {
            let explanation = format!(
                "the upstream refuses our key pair with {}; it answers {} to the other pair",
                status.as_u16(),
                other.as_u16()
            );
            towards.worker.events().emit(self.event(
                HandshakeOutcome::Refused,
                fact::status_reason(status),
                explanation,
            ));
        }
    }

    /// What ended TLS on this connection, if anything did: reported once, and returned as the request's error.
    pub(crate) fn report_failure(&self, towards: UpstreamRef<'_>) -> Option<Error> {
        let failed = self.heard.failure(&self.facts)?;
        let shown = towards.egress.candidates.0.iter().find(|candidate| candidate.key_pair == self.key_pair);
        let explained = explain(
            &failed,
            &FailureContext {
                ingress: false,
                listener: &self.listener,
                trust: &towards.egress.trust,
                shown: shown.map(|candidate| (candidate.key_pair, candidate.standing)),
                shown_next: None,
                now: towards.worker.clock().now(),
            },
        );
        if self.open.replace(false) && self.is_undecided() {
            let event = self.event(explained.outcome, explained.reason, explained.explanation.clone());
            towards.worker.events().emit(event);
        }
        let (reason, explanation) = (explained.reason, explained.explanation);
        Some(if self.heard.is_refusal() {
            Error::Refused { reason, explanation, said: true }
        } else {
            Error::Handshake { reason, explanation }
        })
    }

    /// Reports that the connection ended before anything was sent on it.
    pub(crate) fn report_early_close(&self, towards: UpstreamRef<'_>) -> Error {
        self.report_failure(towards).unwrap_or_else(|| Error::Refused {
            reason: "closed",
            explanation: "upstream closed the connection right after the handshake, without an alert".to_owned(),
            said: false,
        })
    }

    fn event(&self, outcome: HandshakeOutcome, reason: &'static str, explanation: String) -> Event {
        Event::Proof(ProofRecord {
            listener: Arc::clone(&self.listener),
            connection: self.connection,
            key_pair: self.key_pair,
            outcome,
            reason,
            explanation,
            epoch: self.epoch,
        })
    }
}

/// Sends a request to the upstream with the best pair, and again with another where that one is refused.
pub(crate) async fn send(
    towards: UpstreamRef<'_>,
    outbound: &mut OutboundRequest,
    to: &RequestDestination,
    terms: &ForwardContext<'_>,
    record: &mut Option<AccessRecord>,
) -> Result<Response<ResponseBody>, Error> {
    let chosen = towards.select()?;
    if chosen.is_only() {
        let showing = UpstreamAttempt::new(towards, chosen, false);
        return forward::send(&showing, outbound, to, terms, record).await;
    }
    let Some(request) = outbound.request.take() else { return Err(Error::Late) };
    let mut replay = ReplayableRequest::new(request, towards.egress.settings.replay_limit);
    let showing = UpstreamAttempt::new(towards, chosen, replay.is_harmless());
    // Boxed: it is needed in an overlap only.
    let exchanged = Box::pin(exchange(&showing, &mut replay, None, to, terms)).await;
    let (response, link) = exchanged.map_err(|error| outbound.refine_error(error))?;
    forward::respond(response, link, outbound.websocket.take(), terms, record)
}

/// A pair that may have been refused; the response to another pair shows whether it was.
struct SuspectKeyPair {
    key_pair: Fingerprint,
    /// The status that was answered with it, and its connection; `None`: it ended without an answer.
    answer: Option<(Response<Incoming>, PooledConnection)>,
}

/// Sends a request, and again while that is allowed and another pair is left; where it carries a token, each time with
/// one for the pair that it shows.
pub(crate) async fn exchange(
    showing: &UpstreamAttempt<'_>,
    replay: &mut ReplayableRequest,
    mut bearing: Option<&mut RequestTokens<'_>>,
    to: &RequestDestination,
    terms: &ForwardContext<'_>,
) -> Result<(Response<Incoming>, PooledConnection), Error> {
    let towards = showing.towards;
    let listener = &towards.egress.settings.name;
    let mut suspect = None;
    loop {
        if let Some(bearing) = &mut bearing
            && let Err(error) = bearing.authorize(replay, showing.pick().key_pair).await
        {
            return best_answer(suspect, error);
        }
        let answered =
            pool::exchange(showing, &mut Some(replay.request()), to, terms.waits, terms.limits.response).await;
        let pick = showing.pick();
        let unproved = matches!(pick.how, SelectionRole::Canary | SelectionRole::Everyone)
            && !towards.worker.shared.verdicts.is_proved(towards.verdict_key(), pick.key_pair);
        let error = match answered {
            Ok((response, link)) => {
                let status = response.status();
                if let Some(bearing) = &mut bearing {
                    if status != StatusCode::UNAUTHORIZED {
                        bearing.record_acceptance();
                    } else if bearing.refresh_after_401(replay).await {
                        towards.worker.shared.metrics.count_replay(listener, "token");
                        continue;
                    }
                }
                if let Some(suspect) = suspect.take() {
                    judge_suspect(towards, &suspect, status);
                } else if unproved && towards.egress.settings.is_refusal_status(status.as_u16()) {
                    if replay.is_idempotent() && replay.is_whole() && showing.advance().is_some() {
                        towards.worker.shared.metrics.count_replay(listener, "status");
                        suspect = Some(SuspectKeyPair { key_pair: pick.key_pair, answer: Some((response, link)) });
                        continue;
                    }
                    // A server that refuses a certificate by a status does so for as long as the connection lasts: no
                    // further request is sent on it. Those in progress are answered.
                    link.retire();
                    fact::report_single_refusal(towards, pick.key_pair, ProofFact::Status, fact::status_reason(status));
                }
                return Ok((response, link));
            }
            Err(error) => error,
        };
        let why = match &error {
            Error::Refused { said: true, reason, explanation } => {
                fact::report_alert(towards, pick.key_pair, reason, explanation);
                "alert"
            }
            // Nothing was sent, so any request may be retried; the other pair shows whether it was a refusal.
            Error::Refused { said: false, .. } if unproved => "dropped",
            Error::Exchange(_) | Error::Handshake { .. } if unproved && replay.is_idempotent() => "dropped",
            Error::Exchange(_) if unproved => {
                fact::report_single_refusal(towards, pick.key_pair, ProofFact::Dropped, "dropped");
                return Err(error);
            }
            _ => return best_answer(suspect, error),
        };
        if !replay.is_whole() || showing.advance().is_none() {
            return best_answer(suspect, error);
        }
        towards.worker.shared.metrics.count_replay(listener, why);
        if why == "dropped" && suspect.is_none() {
            suspect = Some(SuspectKeyPair { key_pair: pick.key_pair, answer: None });
        }
    }
}

/// No pair got a better result: returns the response that there was, if there was one.
fn best_answer(suspect: Option<SuspectKeyPair>, error: Error) -> Result<(Response<Incoming>, PooledConnection), Error> {
    suspect.and_then(|suspect| suspect.answer).ok_or(error)
}

/// Another pair got a response: decides whether the suspect was refused.
fn judge_suspect(towards: UpstreamRef<'_>, suspect: &SuspectKeyPair, status: StatusCode) {
    let key_pair = suspect.key_pair;
    match &suspect.answer {
        // The same status for both comes from the application and says nothing about a certificate.
        Some((response, link)) if response.status() == status => {
            if let Some(proof) = link.proof() {
                proof.record_acceptance(towards, status);
            }
            if let Some(change) = fact::record_fact(towards, key_pair, ProofFact::Response) {
                fact::report_response(towards, key_pair, change, status);
            }
        }
        Some((response, link)) => {
            if let Some(proof) = link.proof() {
                proof.record_status_refusal(towards, response.status(), status);
            }
            link.retire();
            fact::report_status(towards, key_pair, response.status(), status);
        }
        None => fact::report_drop(towards, key_pair, status),
    }
}
