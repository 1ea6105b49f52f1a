//! Sends requests to the upstream, and sends them again with another key pair where one is refused.
//!
//! Contract section 4. A certificate alert as the first thing received after the handshake, on a connection that has
//! never returned a byte, proves that nothing was processed: the request, whatever its method, goes on with another
//! pair. A status or a silent end proves no such thing: only requests that may be processed twice do. `evidence::proved` decides
//! which request goes on with which pair, and judges each answer once; here it is sent.

use http::{Response, StatusCode};

use super::attempt::UpstreamAttempt;
use super::resources::UpstreamRef;
use super::token::RequestTokens;
use super::uncertified::ask_without_certificate;
use super::{fact, proof};
use crate::dataplane::exchange::access::AccessRecord;
use crate::dataplane::exchange::forward::{self, ForwardContext, OutboundRequest};
use crate::dataplane::exchange::link::PooledConnection;
use crate::dataplane::exchange::replay::ReplayableRequest;
use crate::dataplane::exchange::response_body::ResponseBody;
use crate::dataplane::exchange::shape::RequestDestination;
use crate::evidence::proved::{AnswerFacts, AnswerJudgement, AttemptEnd, ReplayCause, RequestCourse, SuspectFinding};
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

/// An answer that is kept while another pair is tried, and its connection.
type KeptAnswer = (Response<MessageContent>, PooledConnection);

/// Sends a request, and again while that is allowed and another pair is left; where it carries a token, each time with
/// one for the pair that it shows.
pub(super) async fn exchange(
    showing: &UpstreamAttempt<'_>,
    replay: &mut ReplayableRequest,
    mut bearing: Option<&mut RequestTokens<'_>>,
    to: &RequestDestination,
    terms: &ForwardContext<'_>,
) -> Result<KeptAnswer, Error> {
    let towards = showing.towards;
    let (listener, metrics) = (&towards.egress.settings.name, &towards.context().shared.metrics);
    let mut course = RequestCourse::new(replay.is_idempotent());
    loop {
        if let Some(bearing) = &mut bearing
            && let Err(error) = bearing.authorize(replay, showing.pick().key_pair).await
        {
            return course.into_best_answer().ok_or(error);
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
                if let Some(facts) = judge_response(showing, (replay, to), &link, (status, &course)).await
                    && showing.advance(Some(facts.node)).is_some()
                {
                    metrics.count_replay(listener, "status");
                    course.keep_answer(facts, (response, link));
                    continue;
                }
                return Ok(judge_suspects(showing, course, (response, link)));
            }
            Err(error) => error,
        };
        let (pick, end) = (showing.pick(), classify_end(&error));
        let shown = (pick.key_pair, showing.node());
        let cause = course.find_replay_cause(end, pick.how, showing.has_other());
        if cause == Some(ReplayCause::Alert)
            && let Error::Refused { reason, explanation, .. } = &error
        {
            fact::report_alert(towards, shown, reason, explanation);
        }
        match cause.filter(|_| replay.is_whole() && showing.advance(None).is_some()) {
            Some(cause) => {
                metrics.count_replay(listener, cause.as_str());
                course.keep_end(cause, shown);
            }
            None => {
                let relied_on = showing.shows_preferred() || showing.shows_proved();
                for (shown, silence) in course.silences_at_end(end, shown, relied_on) {
                    fact::report_silence(towards, shown, silence);
                }
                return course.into_best_answer().ok_or(error);
            }
        }
    }
}

/// Judges an answer. Returns what it was where only another pair's answer tells more.
async fn judge_response(
    showing: &UpstreamAttempt<'_>,
    (replay, to): (&ReplayableRequest, &RequestDestination),
    link: &PooledConnection,
    (status, course): (StatusCode, &RequestCourse<KeptAnswer>),
) -> Option<AnswerFacts> {
    let facts = showing.answer_facts(link, replay.class(), status, course.may_compare(replay.is_whole()))?;
    let mut judgement = judge(showing, link, &facts);
    if judgement == AnswerJudgement::AskUncertified {
        let public = ask_without_certificate(showing.towards, replay.request(), to, Some(facts.node.address)).await;
        judgement = judge(showing, link, &AnswerFacts { public, ..facts });
    }
    let is_refusal = showing.towards.egress.settings.is_refusal_status(status.as_u16());
    course.continues_after(judgement, is_refusal, replay.is_whole()).then_some(facts)
}

/// What a failed exchange says of the pair that it showed.
fn classify_end(error: &Error) -> AttemptEnd {
    match error {
        Error::Refused { said: true, .. } => AttemptEnd::Alert,
        Error::Refused { said: false, .. } => AttemptEnd::Unsent,
        Error::Exchange(_) | Error::Unanswered { .. } => AttemptEnd::Unanswered,
        Error::Handshake { .. } => AttemptEnd::Handshake,
        _ => AttemptEnd::Unrelated,
    }
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
        AnswerJudgement::Compare | AnswerJudgement::AskUncertified | AnswerJudgement::Nothing => {}
    }
    if let Some(change) = change {
        fact::report_judgement(towards, facts, judgement, change);
    }
    judgement
}

/// The last pair got this answer: has the pairs before it judged, and returns the answer to go on with.
fn judge_suspects(showing: &UpstreamAttempt<'_>, course: RequestCourse<KeptAnswer>, last: KeptAnswer) -> KeptAnswer {
    let compared_with = last.1.proof().map(|proof| (proof.key_pair, proof.node));
    let refusals = &showing.towards.egress.settings.refusal_statuses;
    let kept = course.conclude(last.0.status().as_u16(), compared_with, refusals, |finding| match finding {
        SuspectFinding::Silence(shown, silence) => {
            fact::report_silence(showing.towards, shown, silence);
            AnswerJudgement::Nothing
        }
        SuspectFinding::Answer(facts, (_, link)) => judge(showing, link, &facts),
    });
    kept.unwrap_or(last)
}
