//! What is wrong with the other side's certificate, in one sentence with the values and what to do.

use super::context::{FailureContext, FailureReason, clip, clip_sentence, date, distance, quoted_list};
use crate::pki::Certificate;
use crate::trust::{TrustError, quote_trust};

/// `end_entity` is the certificate that was presented, where it is at hand.
pub(super) fn explain_chain_error(
    untrusted: &TrustError,
    end_entity: Option<&Certificate>,
    context: &FailureContext<'_>,
) -> FailureReason {
    let who = context.other_side();
    let whose = |subject: &str| describe_owner(subject, end_entity, context);
    match untrusted {
        TrustError::Empty if context.ingress => FailureReason::refused(
            "no_certificate",
            "peer sent no certificate, and this listener requires one: configure the client with a certificate and \
             its key, \
             issued by an anchor of the trust"
                .to_owned(),
        ),
        TrustError::Empty => FailureReason::refused("no_certificate", "upstream sent no certificate".to_owned()),
        TrustError::Malformed { index, why } => FailureReason::refused(
            "malformed_certificate",
            format!(
                "certificate {} of the {who}'s chain cannot be parsed: {}; have it issued again",
                index + 1,
                clip(why)
            ),
        ),
        TrustError::Expired { subject, not_after } => FailureReason::refused(
            "expired",
            format!(
                "{} expired {} ago ({}): \"{}\"; it must be renewed",
                whose(subject),
                distance(*not_after, context.now),
                date(*not_after, context.now),
                clip(subject)
            ),
        ),
        TrustError::NotYetValid { subject, not_before } => FailureReason::refused(
            "not_yet_valid",
            format!(
                "{} becomes valid only in {} ({}): \"{}\"; wait, or check the clocks of both sides and of the issuer",
                whose(subject),
                distance(context.now, *not_before),
                date(*not_before, context.now),
                clip(subject)
            ),
        ),
        TrustError::UnknownIssuer { issuer, trust, holds, self_signed: true, .. } => {
            explain_self_signed(issuer, trust, holds, context)
        }
        TrustError::UnknownIssuer { issuer, trust, holds, sent, incomplete, .. } => {
            explain_unknown_issuer(issuer, (trust, holds), incomplete.then_some(*sent), context)
        }
        TrustError::BadSignature { subject, issuer } => FailureReason::refused(
            "bad_signature",
            format!(
                "the signature on \"{}\" was not made by the \"{}\" that {} holds: it is another CA of the \
                 same name, \
                 or the CA has a new key; if the key is genuine, add the CA's new certificate to the trust",
                clip(subject),
                clip(issuer),
                quote_trust(context.trust.name())
            ),
        ),
        other => explain_other_error(other, context),
    }
}

fn held_anchors(holds: &[String]) -> String {
    if holds.is_empty() { "no anchor".to_owned() } else { quoted_list(holds) }
}

fn explain_self_signed(issuer: &str, trust: &str, holds: &[String], context: &FailureContext<'_>) -> FailureReason {
    let (who, holds, trust) = (context.other_side(), held_anchors(holds), quote_trust(trust));
    let why = format!(
        "{who}'s certificate \"{}\" is self-signed, and {trust} does not hold it (it holds: {holds}); have it \
         issued by one of these, or pin it in a trust with pin_only = true",
        clip(issuer)
    );
    FailureReason::refused("self_signed", why)
}

/// `incomplete`: how many certificates were sent, where the last one's issuer was not among them.
fn explain_unknown_issuer(
    issuer: &str,
    (trust, holds): (&str, &[String]),
    incomplete: Option<usize>,
    context: &FailureContext<'_>,
) -> FailureReason {
    let (who, issuer, holds) = (context.other_side(), clip(issuer), held_anchors(holds));
    let trust = quote_trust(trust);
    let why = match incomplete {
        Some(sent) => format!(
            "the {who} sent {sent} certificate{}; its issuer \"{issuer}\", which {trust} does not hold (it \
             holds: {holds}), was not among them; have the {who} send its intermediates, or, if \"{issuer}\" is a root, \
             add its certificate to the trust",
            if sent == 1 { "" } else { "s" }
        ),
        None => format!(
            "{who}'s certificate was issued by \"{issuer}\", which {trust} does not hold (it holds: {holds}); \
             to accept it, add that CA's certificate to the trust"
        ),
    };
    FailureReason::refused("unknown_issuer", why)
}

/// Why a name that looks right does not count, if there is one.
fn explain_name_form(expected: &str, has: &[String]) -> String {
    if expected.parse::<std::net::IpAddr>().is_ok() {
        return "; for an IP address the certificate needs an IP address in its SAN, a DNS name or the CN does not count"
            .to_owned();
    }
    let covers = |name: &&String| {
        let top = name.strip_prefix("dns:*.").filter(|top| !top.contains('.'));
        top.is_some_and(|top| expected.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(top)))
    };
    has.iter().find(covers).map_or_else(String::new, |name| {
        format!(
            "; \"{}\" does not count, because a wildcard right above the top label would stand for every name below it",
            clip(name)
        )
    })
}

fn explain_other_error(untrusted: &TrustError, context: &FailureContext<'_>) -> FailureReason {
    let who = context.other_side();
    let (reason, why) = match untrusted {
        TrustError::Weak { subject, why } => (
            "weak",
            format!("\"{}\" is too weak: {}; have it reissued with a stronger key or hash", clip(subject), clip(why)),
        ),
        TrustError::WrongUsage { subject, needed } => {
            let or = if context.ingress { ", or set client_eku = \"any\" on the trust" } else { "" };
            let why = format!(
                "the extended key usage of \"{}\" does not allow {needed}; have it issued with {needed}{or}",
                clip(subject)
            );
            ("wrong_usage", why)
        }
        TrustError::NotAnEndEntity { subject, why } => (
            "not_an_end_entity",
            format!(
                "\"{}\" cannot be a {who}'s own certificate: {}; have a version 3 end-entity certificate issued",
                clip(subject),
                clip(why)
            ),
        ),
        TrustError::WrongName { expected, has } => {
            let form = explain_name_form(expected, has);
            let has =
                if has.is_empty() { "no name in its SAN (the CN does not count)".to_owned() } else { quoted_list(has) };
            let why = format!(
                "{who}'s certificate is not for \"{}\": it has {has}{form}; set server_name or server_uri to a name that \
                 it has, or have \
                 it issued for the expected name",
                clip(expected)
            );
            ("wrong_name", why)
        }
        TrustError::NoPin { trust, spki } => {
            ("no_pin", format!("no pin of {} matches the {who}'s path; its own key is {spki}", quote_trust(trust)))
        }
        TrustError::Revoked { subject, serial, since } => (
            "revoked",
            format!(
                "\"{}\" (serial {}) was revoked on {} by its issuer's CRL; the {who} needs a new certificate",
                clip(subject),
                clip(serial),
                date(*since, context.now)
            ),
        ),
        TrustError::RevocationUnknown { subject, why } => (
            "revocation_unknown",
            format!(
                "cannot determine whether \"{}\" is revoked: {}; update the CRL file of the trust",
                clip(subject),
                clip(why)
            ),
        ),
        other => ("untrusted", format!("{who}'s certificate was rejected: {}", clip_sentence(&other.to_string()))),
    };
    FailureReason::refused(reason, why)
}

/// What the certificate is: the other side's own, an anchor of ours, or one between.
fn describe_owner(subject: &str, end_entity: Option<&Certificate>, context: &FailureContext<'_>) -> String {
    if end_entity.is_some_and(|own| own.subject() != subject) {
        if context.trust.anchors().iter().any(|anchor| anchor.subject() == subject) {
            return format!("a trust anchor of {}", quote_trust(context.trust.name()));
        }
        return format!("the issuer of the {}'s certificate", context.other_side());
    }
    format!("{}'s certificate", context.other_side())
}

/// CertificateVerify (RFC 8446 4.4.3) is by another key.
pub(super) fn explain_bad_proof(end_entity: Option<&Certificate>, context: &FailureContext<'_>) -> FailureReason {
    let who = context.other_side();
    let subject = end_entity.map(|own| format!(" \"{}\"", clip(own.subject()))).unwrap_or_default();
    let why = format!(
        "{who} showed the certificate{subject} but did not prove that it holds its private key; its key does not \
         match, \
         or the certificate belongs to another party"
    );
    FailureReason::refused("bad_proof", why)
}
