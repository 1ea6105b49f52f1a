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
use super::uncertified::ask_without_certificate;
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

/// After so many pairs with which a request got no answer it goes on with no other.
const MAX_SILENT_ENDS: usize = 2;

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
    let mut suspects: Vec<SuspectKeyPair> = Vec::new();
    loop {
        if let Some(bearing) = &mut bearing
            && let Err(error) = bearing.authorize(replay, showing.pick().key_pair).await
        {
            return best_answer(suspects, error);
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
                if let Some(facts) = judge_response(showing, replay, &link, (status, &suspects)).await
                    && showing.advance(Some(facts.node)).is_some()
                {
                    metrics.count_replay(listener, "status");
                    let shown = (facts.key_pair, facts.node);
                    suspects.push(SuspectKeyPair { shown, answer: Some((facts, response, link)) });
                    continue;
                }
                return Ok(judge_suspects(showing, suspects, (response, link)));
            }
            Err(error) => error,
        };
        let (pick, node) = (showing.pick(), showing.node());
        let why = explain_replay(showing, replay, (&error, &suspects));
        if why == Some("alert")
            && let Error::Refused { reason, explanation, .. } = &error
        {
            fact::report_alert(towards, (pick.key_pair, node), reason, explanation);
        }
        match why.filter(|_| replay.is_whole() && showing.advance(None).is_some()) {
            Some(why) => {
                metrics.count_replay(listener, why);
                if why == "dropped" && suspects.len() < MAX_SILENT_ENDS {
                    suspects.push(SuspectKeyPair { shown: (pick.key_pair, node), answer: None });
                }
            }
            None => {
                if matches!(error, Error::Exchange(_) | Error::Unanswered { .. }) {
                    record_last_silence(showing, &suspects, (pick.key_pair, node));
                }
                return best_answer(suspects, error);
            }
        }
    }
}

/// Judges an answer. Returns what it was where only another pair's answer tells more: of a pair that is compared, and of those that it
/// is compared with, while they are refused as well.
async fn judge_response(
    showing: &UpstreamAttempt<'_>,
    replay: &ReplayableRequest,
    link: &PooledConnection,
    (status, suspects): (StatusCode, &[SuspectKeyPair]),
) -> Option<AnswerFacts> {
    let may_repeat = replay.is_idempotent() && replay.is_whole();
    let facts = showing.answer_facts(link, replay.class(), status, may_repeat && suspects.is_empty())?;
    let mut judgement = judge(showing, link, &facts);
    if judgement == AnswerJudgement::AskUncertified {
        let public = ask_without_certificate(showing.towards, replay.request(), Some(facts.node.address)).await;
        judgement = judge(showing, link, &AnswerFacts { public, ..facts });
    }
    let is_refusal = showing.towards.egress.settings.is_refusal_status(status.as_u16());
    let goes_on = match suspects.last() {
        None => judgement == AnswerJudgement::Compare,
        Some(last) => last.answer.is_some() && may_repeat && is_refusal,
    };
    goes_on.then_some(facts)
}

/// Why a request that failed may be sent once more with another pair, if it may.
fn explain_replay(
    showing: &UpstreamAttempt<'_>,
    replay: &ReplayableRequest,
    (error, suspects): (&Error, &[SuspectKeyPair]),
) -> Option<&'static str> {
    let is_on_trial = matches!(showing.pick().how, SelectionRole::Canary | SelectionRole::Everyone);
    // An end without an answer may be the pair's fault; what ends so with several pairs is rather the upstream's.
    let is_suspicious = suspects.len() < MAX_SILENT_ENDS && showing.has_other();
    match error {
        Error::Refused { said: true, .. } => Some("alert"),
        // Nothing was sent, so any request may be retried; the other pair shows whether it was a refusal.
        Error::Refused { said: false, .. } if is_suspicious => Some("dropped"),
        Error::Exchange(_) | Error::Unanswered { .. } if is_suspicious && replay.is_idempotent() => Some("dropped"),
        Error::Handshake { .. } if is_on_trial && replay.is_idempotent() => Some("dropped"),
        _ => None,
    }
}

/// The last pair ended without an answer, too. Where that was at another node it says nothing of the first pair's: its proof is withdrawn.
fn record_last_silence(showing: &UpstreamAttempt<'_>, suspects: &[SuspectKeyPair], (key_pair, node): ShownPair) {
    let towards = showing.towards;
    if let Some(first) = suspects.first().filter(|first| first.answer.is_none() && first.shown.1 != node) {
        fact::report_silence(towards, first.shown, ProofFact::Silence { compared: true });
    }
    if showing.shows_preferred() || showing.shows_proved() {
        fact::report_silence(towards, (key_pair, node), ProofFact::Silence { compared: false });
    }
}

/// No pair got a better result: returns the response that there was, if there was one.
fn best_answer(
    suspects: Vec<SuspectKeyPair>,
    error: Error,
) -> Result<(Response<MessageContent>, PooledConnection), Error> {
    let answer = suspects.into_iter().find_map(|suspect| suspect.answer);
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
        AnswerJudgement::Compare | AnswerJudgement::AskUncertified | AnswerJudgement::Nothing => {}
    }
    if let Some(change) = change {
        fact::report_judgement(towards, facts, judgement, change);
    }
    judgement
}

/// The last pair got this answer: decides which of the suspects were refused. Returns the answer to go on with: the first suspect's own
/// where it is not on trial, unless the last one fares better; and where the last one is a refusal alone.
fn judge_suspects(
    showing: &UpstreamAttempt<'_>,
    suspects: Vec<SuspectKeyPair>,
    last: (Response<MessageContent>, PooledConnection),
) -> (Response<MessageContent>, PooledConnection) {
    let compared = Some(last.0.status().as_u16());
    let compared_with = last.1.proof().map(|proof| (proof.key_pair, proof.node));
    let settings = &showing.towards.egress.settings;
    let is_refusal = |status: StatusCode| settings.is_refusal_status(status.as_u16());
    let mut kept = None;
    for (index, suspect) in suspects.into_iter().enumerate() {
        let Some((facts, response, link)) = suspect.answer else {
            fact::report_silence(showing.towards, suspect.shown, ProofFact::Silence { compared: true });
            continue;
        };
        let judgement = judge(showing, &link, &AnswerFacts { compared, compared_with, ..facts });
        let is_on_trial = matches!(facts.how, SelectionRole::Canary | SelectionRole::Everyone);
        let fares_worse = matches!(judgement, AnswerJudgement::Refuses | AnswerJudgement::Doubts);
        let gets_further = is_refusal(last.0.status()) && !is_refusal(response.status()) && facts.status < 500;
        if index == 0 && !fares_worse && (!is_on_trial || gets_further) {
            kept = Some((response, link));
        }
    }
    kept.unwrap_or(last)
}
