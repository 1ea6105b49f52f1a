//! Sends requests to the upstream, and sends them again with another key pair where one is refused.
//!
//! Contract section 4. A certificate alert as the first thing received after the handshake, on a connection that has
//! never returned a byte, proves that nothing was processed: the request, whatever its method, goes on with another
//! pair. A status or a silent end proves no such thing: only requests that may be processed twice do, and only while
//! the pair is not proved.

use http::{Response, StatusCode};
use hyper::body::Incoming;

use super::attempt::UpstreamAttempt;
use super::resources::UpstreamRef;
use super::token::RequestTokens;
use super::{fact, proof};
use crate::dataplane::exchange::access::AccessRecord;
use crate::dataplane::exchange::forward::{self, ForwardContext, OutboundRequest};
use crate::dataplane::exchange::link::PooledConnection;
use crate::dataplane::exchange::replay::ReplayableRequest;
use crate::dataplane::exchange::response_body::ResponseBody;
use crate::dataplane::exchange::shape::RequestDestination;
use crate::evidence::proved::{ProofFact, SelectionRole};
use crate::http::error::RequestError as Error;
use crate::pki::Fingerprint;

/// Sends a request to the upstream with the best pair, and again with another where that one is refused; with a token
/// where the egress adds one.
pub(super) async fn send(
    towards: UpstreamRef<'_>,
    outbound: &mut OutboundRequest,
    to: &RequestDestination,
    terms: &ForwardContext<'_>,
    record: &mut Option<AccessRecord>,
) -> Result<Response<ResponseBody>, Error> {
    let chosen = towards.select()?;
    let bearer = towards.egress.bearer.as_ref();
    if chosen.is_only() && bearer.is_none() {
        let showing = UpstreamAttempt::new(towards, chosen, false);
        let exchanged = showing.exchange(&mut outbound.request, to, terms).await;
        let (response, link) = exchanged.map_err(|error| outbound.refine_error(error))?;
        return forward::respond(response, link, outbound, terms, record);
    }
    let Some(request) = outbound.request.take() else { return Err(Error::Late) };
    let mut replay = ReplayableRequest::new(request, towards.egress.settings.replay_limit);
    let showing = UpstreamAttempt::new(towards, chosen, replay.is_harmless());
    let mut bearing = bearer.map(|bearer| RequestTokens::new(towards, bearer));
    // Boxed: it is needed in an overlap, or with tokens, only.
    let exchanged = Box::pin(exchange(&showing, &mut replay, bearing.as_mut(), to, terms)).await;
    let (response, link) = exchanged.map_err(|error| outbound.refine_error(error))?;
    forward::respond(response, link, outbound, terms, record)
}

/// A pair that may have been refused; the response to another pair shows whether it was.
struct SuspectKeyPair {
    key_pair: Fingerprint,
    /// The status that was answered with it, and its connection; `None`: it ended without an answer.
    answer: Option<(Response<Incoming>, PooledConnection)>,
}

/// Sends a request, and again while that is allowed and another pair is left; where it carries a token, each time with
/// one for the pair that it shows.
pub(super) async fn exchange(
    showing: &UpstreamAttempt<'_>,
    replay: &mut ReplayableRequest,
    mut bearing: Option<&mut RequestTokens<'_>>,
    to: &RequestDestination,
    terms: &ForwardContext<'_>,
) -> Result<(Response<Incoming>, PooledConnection), Error> {
    let towards = showing.towards;
    let (listener, metrics) = (&towards.egress.settings.name, &towards.context().shared.metrics);
    let mut suspect = None;
    loop {
        if let Some(bearing) = &mut bearing
            && let Err(error) = bearing.authorize(replay, showing.pick().key_pair).await
        {
            return best_answer(suspect, error);
        }
        let answered = showing.exchange(&mut Some(replay.request()), to, terms).await;
        let pick = showing.pick();
        let unproved = matches!(pick.how, SelectionRole::Canary | SelectionRole::Everyone)
            && !towards.resources.verdicts.is_proved(towards.verdict_key(), pick.key_pair);
        let error = match answered {
            Ok((response, link)) => {
                let status = response.status();
                if let Some(bearing) = &mut bearing {
                    if status != StatusCode::UNAUTHORIZED {
                        bearing.record_acceptance();
                    } else if bearing.refresh_after_401(replay).await {
                        metrics.count_replay(listener, "token");
                        continue;
                    }
                }
                if let Some(suspect) = suspect.take() {
                    judge_suspect(towards, &suspect, status);
                } else if unproved && towards.egress.settings.is_refusal_status(status.as_u16()) {
                    if replay.is_idempotent() && replay.is_whole() && showing.advance().is_some() {
                        metrics.count_replay(listener, "status");
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
            Error::Exchange(_) | Error::Unanswered { .. } | Error::Handshake { .. }
                if unproved && replay.is_idempotent() =>
            {
                "dropped"
            }
            Error::Exchange(_) | Error::Unanswered { .. } if unproved => {
                fact::report_single_refusal(towards, pick.key_pair, ProofFact::Dropped, "dropped");
                return Err(error);
            }
            _ => return best_answer(suspect, error),
        };
        if !replay.is_whole() || showing.advance().is_none() {
            return best_answer(suspect, error);
        }
        metrics.count_replay(listener, why);
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
                proof::record_acceptance(proof, towards, status);
            }
            if let Some(change) = fact::record_fact(towards, key_pair, ProofFact::Response) {
                fact::report_response(towards, key_pair, change, status);
            }
        }
        Some((response, link)) => {
            if let Some(proof) = link.proof() {
                proof::record_status_refusal(proof, towards, response.status(), status);
            }
            link.retire();
            fact::report_status(towards, key_pair, response.status(), status);
        }
        None => fact::report_drop(towards, key_pair, status),
    }
}
