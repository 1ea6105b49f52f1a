//! Sends requests to the upstream, and sends them again with another key pair where one is refused.
//!
//! Contract section 4. A certificate alert as the first thing received after the handshake, on a connection that has
//! never returned a byte, proves that nothing was processed: the request, whatever its method, goes on with another
//! pair. A status or a silent end proves no such thing: only requests that may be processed twice do. What an answer says of the
//! pair is judged by `evidence::proved`, once for each answer.

use http::{Response, StatusCode};

use super::attempt::UpstreamAttempt;
use super::fact::ShownPair;
use super::resources::UpstreamRef;
use super::token::RequestTokens;
use super::{fact, proof};
use crate::dataplane::exchange::access::AccessRecord;
use crate::dataplane::exchange::forward::{self, ForwardContext, OutboundRequest};
use crate::dataplane::exchange::link::PooledConnection;
use crate::dataplane::exchange::replay::ReplayableRequest;
use crate::dataplane::exchange::response_body::ResponseBody;
use crate::dataplane::exchange::shape::RequestDestination;
use crate::evidence::proved::{AnswerFacts, AnswerJudgement, ProofFact, SelectionRole};
use crate::http::content::MessageContent;
use crate::http::error::RequestError as Error;

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
    shown: ShownPair,
    /// What was answered with it, and on which connection; `None`: it ended without an answer.
    answer: Option<(AnswerFacts, Response<MessageContent>, PooledConnection)>,
}

/// Sends a request, and again while that is allowed and another pair is left; where it carries a token, each time with
/// one for the pair that it shows.
pub(super) async fn exchange(
    showing: &UpstreamAttempt<'_>,
    replay: &mut ReplayableRequest,
    mut bearing: Option<&mut RequestTokens<'_>>,
    to: &RequestDestination,
    terms: &ForwardContext<'_>,
) -> Result<(Response<MessageContent>, PooledConnection), Error> {
    let towards = showing.towards;
    let (listener, metrics) = (&towards.egress.settings.name, &towards.context().shared.metrics);
    let class = replay.class();
    let mut suspect = None;
    loop {
        if let Some(bearing) = &mut bearing
            && let Err(error) = bearing.authorize(replay, showing.pick().key_pair).await
        {
            return best_answer(suspect, error);
        }
        let error = match showing.exchange(&mut Some(replay.request()), to, terms).await {
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
                let repeatable = suspect.is_none() && replay.is_idempotent() && replay.is_whole();
                let facts = showing.answer_facts(&link, class, status, repeatable);
                let judgement = facts.map_or(AnswerJudgement::Nothing, |facts| judge(showing, &link, &facts));
                if let Some(suspect) = suspect.take() {
                    if let Some(kept) = judge_suspect(showing, suspect, status) {
                        return Ok(kept);
                    }
                } else if let (AnswerJudgement::Compare, Some(facts)) = (judgement, facts)
                    && showing.advance().is_some()
                {
                    metrics.count_replay(listener, "status");
                    suspect = Some(SuspectKeyPair {
                        shown: (facts.key_pair, facts.node),
                        answer: Some((facts, response, link)),
                    });
                    continue;
                }
                return Ok((response, link));
            }
            Err(error) => error,
        };
        let pick = showing.pick();
        let is_on_trial = matches!(pick.how, SelectionRole::Canary | SelectionRole::Everyone);
        // One end without an answer may be the pair's fault; a second one, with another pair, is rather the upstream's.
        let is_suspicious = suspect.is_none() && showing.has_other();
        let why = match &error {
            Error::Refused { said: true, reason, explanation } => {
                fact::report_alert(towards, (pick.key_pair, showing.node()), reason, explanation);
                "alert"
            }
            // Nothing was sent, so any request may be retried; the other pair shows whether it was a refusal.
            Error::Refused { said: false, .. } if is_suspicious => "dropped",
            Error::Exchange(_) | Error::Unanswered { .. } if is_suspicious && replay.is_idempotent() => "dropped",
            Error::Handshake { .. } if is_on_trial && replay.is_idempotent() => "dropped",
            Error::Exchange(_) | Error::Unanswered { .. } if showing.shows_preferred() || showing.shows_proved() => {
                fact::report_silence(towards, (pick.key_pair, showing.node()), ProofFact::Silence { compared: false });
                return Err(error);
            }
            _ => return best_answer(suspect, error),
        };
        if !replay.is_whole() || showing.advance().is_none() {
            return best_answer(suspect, error);
        }
        metrics.count_replay(listener, why);
        if why == "dropped" && suspect.is_none() {
            suspect = Some(SuspectKeyPair { shown: (pick.key_pair, showing.node()), answer: None });
        }
    }
}

/// No pair got a better result: returns the response that there was, if there was one.
fn best_answer(
    suspect: Option<SuspectKeyPair>,
    error: Error,
) -> Result<(Response<MessageContent>, PooledConnection), Error> {
    let answer = suspect.and_then(|suspect| suspect.answer);
    answer.map(|(_, response, link)| (response, link)).ok_or(error)
}

/// Judges an answer, and acts on its connection.
fn judge(showing: &UpstreamAttempt<'_>, link: &PooledConnection, facts: &AnswerFacts) -> AnswerJudgement {
    let towards = showing.towards;
    let (judgement, change) = towards.resources.verdicts.judge(towards.verdict_key(), &showing.order(), facts);
    let proof = link.proof();
    let status = StatusCode::from_u16(facts.status).unwrap_or_default();
    match judgement {
        AnswerJudgement::Proves => {
            if let Some(proof) = proof {
                proof::record_acceptance(proof, towards, status);
            }
        }
        // A server that refuses a certificate by a status does so for as long as the connection lasts: no further request
        // is sent on it. Those in progress are answered.
        AnswerJudgement::Refuses => {
            if let (Some(proof), Some(other)) = (proof, facts.compared) {
                proof::record_status_refusal(proof, towards, status, StatusCode::from_u16(other).unwrap_or_default());
            }
            link.retire();
        }
        AnswerJudgement::Doubts => link.retire(),
        AnswerJudgement::Compare | AnswerJudgement::Nothing => {}
    }
    if let Some(change) = change {
        fact::report_judgement(towards, facts, judgement, change);
    }
    judgement
}

/// Another pair got this status: decides whether the suspect was refused. Returns the suspect's own answer where that is the
/// one to go on with: of a pair that is not on trial, unless the other one fares better.
fn judge_suspect(
    showing: &UpstreamAttempt<'_>,
    suspect: SuspectKeyPair,
    other: StatusCode,
) -> Option<(Response<MessageContent>, PooledConnection)> {
    let Some((facts, response, link)) = suspect.answer else {
        fact::report_silence(showing.towards, suspect.shown, ProofFact::Silence { compared: true });
        return None;
    };
    let judgement = judge(showing, &link, &AnswerFacts { compared: Some(other.as_u16()), ..facts });
    let is_on_trial = matches!(facts.how, SelectionRole::Canary | SelectionRole::Everyone);
    let fares_worse = matches!(judgement, AnswerJudgement::Refuses | AnswerJudgement::Doubts);
    (!is_on_trial && !fares_worse).then_some((response, link))
}
