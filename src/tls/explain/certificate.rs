//! What is wrong with the other side's certificate, in one sentence with the values and what to do.

use super::{Context, Said, clip, date, distance, list};
use crate::pki::Certificate;
use crate::trust::Untrusted;

/// `end_entity` is the certificate that was presented, where it is at hand.
pub(super) fn untrusted(untrusted: &Untrusted, end_entity: Option<&Certificate>, context: &Context<'_>) -> Said {
    let who = context.who();
    let whose = |subject: &str| whose(subject, end_entity, context);
    match untrusted {
        Untrusted::Empty if context.ingress => Said::refused(
            "no_certificate",
            "peer sent no certificate, and this listener requires one: configure the client with a certificate and \
             its key, \
             issued by an anchor of the trust"
                .to_owned(),
        ),
        Untrusted::Empty => Said::refused("no_certificate", "upstream sent no certificate".to_owned()),
        Untrusted::Malformed { index, why } => Said::refused(
            "malformed_certificate",
            format!(
                "certificate {} of the {who}'s chain cannot be parsed: {}; have it issued again",
                index + 1,
                clip(why)
            ),
        ),
        Untrusted::Expired { subject, not_after } => Said::refused(
            "expired",
            format!(
                "{} expired {} ago ({}): \"{}\"; it must be renewed",
                whose(subject),
                distance(*not_after, context.now),
                date(*not_after, context.now),
                clip(subject)
            ),
        ),
        Untrusted::NotYetValid { subject, not_before } => Said::refused(
            "not_yet_valid",
            format!(
                "{} becomes valid only in {} ({}): \"{}\"; wait, or check the clocks of both sides and of the issuer",
                whose(subject),
                distance(context.now, *not_before),
                date(*not_before, context.now),
                clip(subject)
            ),
        ),
        Untrusted::UnknownIssuer { issuer, trust, holds, self_signed } => {
            issuer_unknown(issuer, trust, holds, *self_signed, context)
        }
        Untrusted::BadSignature { subject, issuer } => Said::refused(
            "bad_signature",
            format!(
                "the signature on \"{}\" was not made by the \"{}\" that trust \"{}\" holds: it is another CA of the \
                 same name, \
                 or the CA has a new key; if the key is genuine, add the CA's new certificate to the trust",
                clip(subject),
                clip(issuer),
                context.trust.name()
            ),
        ),
        other => rest(other, context),
    }
}

fn issuer_unknown(issuer: &str, trust: &str, holds: &[String], self_signed: bool, context: &Context<'_>) -> Said {
    let who = context.who();
    let holds = if holds.is_empty() { "no anchor".to_owned() } else { list(holds) };
    if self_signed {
        let why = format!(
            "{who}'s certificate \"{}\" is self-signed, and trust \"{trust}\" does not hold it (it holds: {holds}); \
             have it \
             issued by one of these, or pin it in a trust with pin_only = true",
            clip(issuer)
        );
        return Said::refused("self_signed", why);
    }
    let why = format!(
        "{who}'s certificate was issued by \"{}\", which trust \"{trust}\" does not hold (it holds: {holds}); to \
         accept it, \
         add that CA's certificate to the trust, or have the {who} send its intermediates",
        clip(issuer)
    );
    Said::refused("unknown_issuer", why)
}

fn rest(untrusted: &Untrusted, context: &Context<'_>) -> Said {
    let who = context.who();
    let (reason, why) = match untrusted {
        Untrusted::Weak { subject, why } => (
            "weak",
            format!("\"{}\" is too weak: {}; have it reissued with a stronger key or hash", clip(subject), clip(why)),
        ),
        Untrusted::WrongUsage { subject, needed } => {
            let or = if context.ingress { ", or set client_eku = \"any\" on the trust" } else { "" };
            let why = format!(
                "the extended key usage of \"{}\" does not allow {needed}; have it issued with {needed}{or}",
                clip(subject)
            );
            ("wrong_usage", why)
        }
        Untrusted::NotAnEndEntity { subject, why } => (
            "not_an_end_entity",
            format!(
                "\"{}\" cannot be a {who}'s own certificate: {}; have a version 3 end-entity certificate issued",
                clip(subject),
                clip(why)
            ),
        ),
        Untrusted::WrongName { expected, has } => {
            let has = if has.is_empty() { "no name in its SAN (the CN does not count)".to_owned() } else { list(has) };
            let why = format!(
                "{who}'s certificate is not for \"{}\": it has {has}; set server_name or server_uri to a name that \
                 it has, or have \
                 it issued for the expected name",
                clip(expected)
            );
            ("wrong_name", why)
        }
        Untrusted::NoPin { trust, spki } => {
            ("no_pin", format!("no pin of trust \"{trust}\" matches the {who}'s path; its own key is {spki}"))
        }
        Untrusted::Revoked { subject, serial } => (
            "revoked",
            format!(
                "\"{}\" (serial {}) is revoked by its issuer's CRL; the {who} needs a new certificate",
                clip(subject),
                clip(serial)
            ),
        ),
        Untrusted::RevocationUnknown { subject, why } => (
            "revocation_unknown",
            format!(
                "cannot determine whether \"{}\" is revoked: {}; update the CRL file of the trust",
                clip(subject),
                clip(why)
            ),
        ),
        other => ("untrusted", format!("{who}'s certificate was rejected: {}", clip(&other.to_string()))),
    };
    Said::refused(reason, why)
}

/// What the certificate is: the other side's own, an anchor of ours, or one between.
fn whose(subject: &str, end_entity: Option<&Certificate>, context: &Context<'_>) -> String {
    if end_entity.is_some_and(|own| own.subject() != subject) {
        if context.trust.anchors().iter().any(|anchor| anchor.subject() == subject) {
            return format!("a trust anchor of trust \"{}\"", context.trust.name());
        }
        return format!("the issuer of the {}'s certificate", context.who());
    }
    format!("{}'s certificate", context.who())
}

/// CertificateVerify (RFC 8446 4.4.3) is by another key.
pub(super) fn bad_proof(end_entity: Option<&Certificate>, context: &Context<'_>) -> Said {
    let who = context.who();
    let subject = end_entity.map(|own| format!(" \"{}\"", clip(own.subject()))).unwrap_or_default();
    let why = format!(
        "{who} showed the certificate{subject} but did not prove that it holds its private key; its key does not \
         match, \
         or the certificate belongs to another party"
    );
    Said::refused("bad_proof", why)
}
