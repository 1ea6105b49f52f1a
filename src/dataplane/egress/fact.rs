//! Facts about a key pair at an upstream: recorded in the table, and reported as an Event where they change it.

use http::StatusCode;

use super::resources::UpstreamRef;
use crate::event::{Event, UpstreamVerdict, VerdictRecord};
use crate::evidence::proved::{ProofFact, VerdictChange};
use crate::pki::Fingerprint;

/// Records a fact and returns what it has changed.
pub(super) fn record_fact(towards: UpstreamRef<'_>, key_pair: Fingerprint, shown: ProofFact) -> Option<VerdictChange> {
    towards.resources.verdicts.record_fact(towards.verdict_key(), key_pair, shown)
}

/// Reports that a response proved the pair.
pub(super) fn report_response(
    towards: UpstreamRef<'_>,
    key_pair: Fingerprint,
    change: VerdictChange,
    status: StatusCode,
) {
    let what = format!("it answered {}; from now on all requests use this pair", status.as_u16());
    emit_verdict(towards, key_pair, change, "response", &what);
}

/// Reports that the pair was accepted in a probe's handshake.
pub(super) fn report_handshake(towards: UpstreamRef<'_>, key_pair: Fingerprint) {
    if let Some(change) = record_fact(towards, key_pair, ProofFact::Handshake) {
        let what = "a probe's handshake succeeded; only a response proves the pair, so one idempotent request at a \
             time tries it";
        emit_verdict(towards, key_pair, change, "probe", what);
    }
}

/// Reports that all requests try the pair from now on.
pub(super) fn report_prove_within(towards: UpstreamRef<'_>, key_pair: Fingerprint, change: VerdictChange) {
    let what =
        "the pair was not proved within prove_within, so all requests try it now; a probe with a path would prove it";
    emit_verdict(towards, key_pair, change, "prove_within", what);
}

/// Reports that the pair was refused with an alert.
pub(super) fn report_alert(towards: UpstreamRef<'_>, key_pair: Fingerprint, reason: &'static str, explanation: &str) {
    if let Some(change) = record_fact(towards, key_pair, ProofFact::Alert) {
        emit_verdict(towards, key_pair, change, reason, explanation);
    }
}

/// Reports that the pair got a refusing status while another pair got `other`.
pub(super) fn report_status(towards: UpstreamRef<'_>, key_pair: Fingerprint, status: StatusCode, other: StatusCode) {
    if let Some(change) = record_fact(towards, key_pair, ProofFact::Status) {
        let what = format!(
            "it answers {} to this pair, and {} to another of our pairs; send its operator the new \
             certificate, or its issuer's",
            status.as_u16(),
            other.as_u16()
        );
        emit_verdict(towards, key_pair, change, status_reason(status), &what);
    }
}

/// Reports that a connection with the pair ended without a response while another pair got one.
pub(super) fn report_drop(towards: UpstreamRef<'_>, key_pair: Fingerprint, other: StatusCode) {
    if let Some(change) = record_fact(towards, key_pair, ProofFact::Dropped) {
        let what = format!(
            "a connection with this pair ended without a response, and another of our pairs gets {}; ask its operator \
             whether it trusts the new certificate's issuer",
            other.as_u16()
        );
        emit_verdict(towards, key_pair, change, "dropped", &what);
    }
}

/// Reports what may be a refusal, met by a request that cannot be sent again.
pub(super) fn report_single_refusal(
    towards: UpstreamRef<'_>,
    key_pair: Fingerprint,
    shown: ProofFact,
    reason: &'static str,
) {
    if let Some(change) = record_fact(towards, key_pair, shown) {
        let what = "a request that cannot be sent again failed with this pair; set probe to a path that proves a pair";
        emit_verdict(towards, key_pair, change, reason, what);
    }
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
            format!("upstream {upstream} {said}; requests continue with the pair that it accepts")
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
