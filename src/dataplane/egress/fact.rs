//! Facts about a key pair at an upstream: recorded in the table, and reported as an Event where they change it.

use http::StatusCode;

use super::resources::UpstreamRef;
use crate::event::{Event, UpstreamVerdict, VerdictRecord};
use crate::evidence::proved::{
    AnswerFacts, AnswerJudgement, ConnectionSeen, ProofFact, ShownPair, UpstreamNode, VerdictChange,
};
use crate::pki::Fingerprint;

/// Reports that an answer changed a verdict.
pub(super) fn report_judgement(
    towards: UpstreamRef<'_>,
    got: &AnswerFacts,
    judgement: AnswerJudgement,
    change: VerdictChange,
) {
    let (status, address) = (got.status, got.node.address);
    let reason = StatusCode::from_u16(status).map_or("status_4xx", status_reason);
    let (reason, what) = match (judgement, got.compared) {
        (AnswerJudgement::Refuses, Some(other)) => {
            let what = format!(
                "it answers {status} to this pair at {address}, and {other} to another of our pairs; send its operator the \
                 new certificate, or its issuer's"
            );
            (reason, what)
        }
        (AnswerJudgement::Refuses, None) => {
            let what =
                "a request that cannot be sent again failed with this pair; set probe to a path that proves a pair";
            (reason, format!("it answers {status} at {address}: {what}"))
        }
        (AnswerJudgement::Doubts, _) => {
            let what = format!(
                "it answers {status} to this pair at {address}, and our other pairs fare better there: only one idempotent \
                 request at a time tries this pair now"
            );
            (reason, what)
        }
        (_, Some(_)) => {
            ("response", format!("it answers {status} to each of our pairs; from now on all requests use this one"))
        }
        (_, None) if towards.egress.candidates.current().is_some_and(|one| one.key_pair == got.key_pair) => {
            ("response", format!("it answered {status}; from now on all requests use this pair"))
        }
        (_, None) => {
            ("response", format!("it answered {status}; requests that the current pair cannot serve use this one"))
        }
    };
    emit_verdict(towards, got.key_pair, change, reason, &what);
}

/// Records a new connection, and reports where it changes the verdict on the current pair: another node, or authorities that
/// exclude the pair.
pub(super) fn record_connection(towards: UpstreamRef<'_>, seen: ConnectionSeen) {
    let Some(current) = towards.egress.candidates.current().map(|current| current.key_pair) else { return };
    let verdicts = &towards.resources.verdicts;
    let (before, change) = verdicts.record_connection(towards.verdict_key(), current, seen);
    let Some(change) = change else { return };
    let (address, certificate) = (seen.node.address, seen.node.certificate.short());
    let (reason, what) = match (before, change.verdict) {
        (_, UpstreamVerdict::Refused) => (
            "excluded_by_authorities",
            format!(
                "at {address} it names only certificate authorities that this pair does not chain to, and another of our \
                 pairs does; send its operator the new pair's issuer"
            ),
        ),
        (_, UpstreamVerdict::Proved) => {
            ("node_gone", "the node that had not accepted it is not reached any more".to_owned())
        }
        (Some(UpstreamVerdict::Proved), _) => (
            "new_node",
            format!(
                "it was reached at {address} with the certificate {certificate}, where nothing is proved yet: the proof is \
                 withdrawn, and one idempotent request at a time tries this pair"
            ),
        ),
        _ => ("tried_again", format!("at {address} it no longer excludes this pair, which is tried again")),
    };
    emit_verdict(towards, current, change, reason, &what);
}

/// Reports that the pair was accepted in a probe's handshake.
pub(super) fn report_handshake(towards: UpstreamRef<'_>, (key_pair, node): ShownPair) {
    if let Some(change) = record_fact(towards, key_pair, (ProofFact::Handshake, node)) {
        let what = "a probe's handshake succeeded; only a response proves the pair, so one idempotent request at a \
             time tries it";
        emit_verdict(towards, key_pair, change, "probe", what);
    }
}

/// Reports that a probe's path is answered alike without a certificate, so that its answer proves nothing.
pub(super) fn report_public_path(towards: UpstreamRef<'_>, key_pair: Fingerprint, path: &str, status: u16) {
    let what = format!(
        "HEAD {path} gets {status} without a certificate too, so the probe proves nothing: set probe to a path that is \
         refused without one"
    );
    let verdict = towards.resources.verdicts.verdict(towards.verdict_key(), key_pair);
    if verdict != Some(UpstreamVerdict::Refused) {
        let change = VerdictChange { verdict: UpstreamVerdict::HandshakeOk, next_try: None };
        emit_verdict(towards, key_pair, change, "public_path", &what);
    }
}

/// Reports that all requests try the pair from now on.
pub(super) fn report_prove_within(towards: UpstreamRef<'_>, key_pair: Fingerprint, change: VerdictChange) {
    let what =
        "the pair was not proved within prove_within, so all requests try it now; a probe with a path would prove it";
    emit_verdict(towards, key_pair, change, "prove_within", what);
}

/// Reports that the pair was refused with an alert.
pub(super) fn report_alert(
    towards: UpstreamRef<'_>,
    (key_pair, node): ShownPair,
    reason: &'static str,
    explanation: &str,
) {
    if let Some(change) = record_fact(towards, key_pair, (ProofFact::Alert, node)) {
        emit_verdict(towards, key_pair, change, reason, explanation);
    }
}

/// Reports that a connection with the pair ended without an answer; `compared`: another pair gets one.
pub(super) fn report_silence(towards: UpstreamRef<'_>, (key_pair, node): ShownPair, silence: ProofFact) {
    let Some(change) = record_fact(towards, key_pair, (silence, node)) else { return };
    let address = node.address;
    let what = match (change.verdict, silence) {
        (UpstreamVerdict::Refused, ProofFact::Silence { compared: true }) => format!(
            "a connection with this pair to {address} ended without a response, and another of our pairs gets one; ask its \
             operator whether it trusts the new certificate's issuer"
        ),
        (UpstreamVerdict::Refused, _) => {
            "a request that cannot be sent again failed with this pair; set probe to a path that proves a pair"
                .to_owned()
        }
        _ => format!(
            "connections with this pair to {address} end without a response, though they were answered before: the proof is \
             withdrawn, and one idempotent request at a time tries this pair"
        ),
    };
    emit_verdict(towards, key_pair, change, "dropped", &what);
}

fn record_fact(
    towards: UpstreamRef<'_>,
    key_pair: Fingerprint,
    shown: (ProofFact, UpstreamNode),
) -> Option<VerdictChange> {
    towards.resources.verdicts.record_fact(towards.verdict_key(), key_pair, shown)
}

/// The stable code of a refusing status; they can be configured, and codes are fixed.
pub(super) fn status_reason(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "status_400",
        401 => "status_401",
        403 => "status_403",
        404 => "status_404",
        407 => "status_407",
        421 => "status_421",
        495 => "status_495",
        496 => "status_496",
        500.. => "status_5xx",
        300..400 => "status_3xx",
        _ => "status_4xx",
    }
}

fn emit_verdict(
    towards: UpstreamRef<'_>,
    key_pair: Fingerprint,
    change: VerdictChange,
    reason: &'static str,
    what: &str,
) {
    let settings = &towards.egress.settings;
    let shown = towards.egress.candidates.0.iter().find(|candidate| candidate.key_pair == key_pair);
    let Some(shown) = shown else { return };
    let upstream = settings.upstream.to_string();
    let (short, standing) = (key_pair.short(), shown.standing.as_str());
    let explanation = match change.verdict {
        UpstreamVerdict::Refused => {
            // An alert's own sentence already names the upstream.
            let said = what
                .strip_prefix("upstream ")
                .map_or_else(|| format!("refuses our key pair {short} ({standing}): {what}"), ToOwned::to_owned);
            let is_refused = |other: Fingerprint| {
                towards.resources.verdicts.verdict(towards.verdict_key(), other) == Some(UpstreamVerdict::Refused)
            };
            let mut others = towards.egress.candidates.0.iter().filter(|other| other.key_pair != key_pair);
            let then = if others.all(|other| is_refused(other.key_pair)) {
                "it refuses every key pair of ours: ask its operator what it trusts"
            } else {
                "requests continue with the pair that it accepts"
            };
            format!("upstream {upstream} {said}; {then}")
        }
        UpstreamVerdict::Proved => format!("upstream {upstream} accepts our key pair {short} ({standing}): {what}"),
        UpstreamVerdict::HandshakeOk => format!("upstream {upstream}, our key pair {short} ({standing}): {what}"),
    };
    towards.emit_event(Event::Upstream(VerdictRecord {
        listener: settings.name.clone(),
        upstream,
        keyring: shown.keyring.clone(),
        key_pair,
        verdict: change.verdict,
        reason,
        explanation,
        next_try: change.next_try,
        epoch: towards.epoch,
    }));
}
