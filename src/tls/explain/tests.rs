//! The sentences, and that code and page list the same reasons. That each occurs is shown by `handshake`'s tests.

use std::collections::BTreeSet;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

use super::context::{date, distance};
use super::*;
use crate::keyring::Standing;
use crate::pki::Fingerprint;
use crate::tls::alert_name::rfc_name;
use crate::tls::handshake::HandshakeFacts;
use crate::tls::seen::HandshakeObservation;
use crate::trust::sample::{TestAuthority, days_from_now, now, trust};

const PAGE: &str = include_str!("../../../docs/handshakes.md");

fn explain_cause_as(cause: HandshakeFailureCause, ingress: bool, standing: Standing) -> FailureExplanation {
    let trust = trust(&[&TestAuthority::new("CA")]);
    let shown = Some((Fingerprint::of(b"shown"), standing));
    let facts = HandshakeFacts { server_name: Some("a.test".into()), ..HandshakeFacts::default() };
    let failed = FailedHandshake { cause, facts, seen: HandshakeObservation::default(), first_bytes: Vec::new() };
    let presented = PresentedPair { in_overlap: true, ..PresentedPair::default() };
    explain(&failed, &FailureContext { ingress, shown, presented, ..FailureContext::sample(&trust, now()) })
}

fn explain_cause(cause: HandshakeFailureCause) -> FailureExplanation {
    explain_cause_as(cause, true, Standing::Current)
}

#[test]
fn the_page_lists_every_reason_once_and_in_order() {
    let headings: Vec<&str> = PAGE.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    assert_eq!(headings, REASONS);
    assert_eq!(REASONS.iter().collect::<BTreeSet<_>>().len(), REASONS.len());
    let names = |reason: &&str| reason.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    assert!(REASONS.iter().all(names));
}

#[test]
fn the_page_gives_an_example_and_what_to_do_for_each() {
    for entry in PAGE.split("### `").skip(1) {
        assert!(entry.contains("\n> ") && entry.contains("**Do:**"), "{}", entry.lines().next().unwrap_or_default());
    }
}

#[test]
fn a_refused_pair_is_named_with_its_standing_and_the_way_out() {
    let alert = || HandshakeFailureCause::Tls(Error::AlertReceived(AlertDescription::UnknownCA));
    let current = explain_cause_as(alert(), true, Standing::Current);
    let short = Fingerprint::of(b"shown").short();
    assert!(current.explanation.starts_with(&format!("peer refuses our key pair {short} (current): unknown CA")));
    assert!(current.explanation.contains("prefer = \"old\""), "{}", current.explanation);
    assert_eq!((current.outcome, current.alert_received), (HandshakeOutcome::Refused, Some("unknown_ca")));
    let upstream = explain_cause_as(alert(), false, Standing::Current);
    assert!(!upstream.explanation.contains("prefer"), "{}", upstream.explanation);
    let previous = explain_cause_as(alert(), false, Standing::Previous);
    assert!(previous.explanation.starts_with("upstream refuses"), "{}", previous.explanation);
    assert!(previous.explanation.contains("the previous pair of an overlap"));
}

#[test]
fn every_alert_about_a_certificate_has_its_own_reason() {
    for (alert, reason) in [
        (AlertDescription::UnknownCA, "refused_unknown_ca"),
        (AlertDescription::BadCertificate, "refused_bad_certificate"),
        (AlertDescription::UnsupportedCertificate, "refused_unsupported_certificate"),
        (AlertDescription::CertificateRevoked, "refused_certificate_revoked"),
        (AlertDescription::CertificateExpired, "refused_certificate_expired"),
        (AlertDescription::CertificateUnknown, "refused_certificate_unknown"),
        (AlertDescription::AccessDenied, "refused_access_denied"),
        (AlertDescription::CertificateRequired, "refused_certificate_required"),
        (AlertDescription::DecryptError, "refused_decrypt_error"),
        (AlertDescription::HandshakeFailure, "alert_handshake_failure"),
        (AlertDescription::ProtocolVersion, "alert_protocol_version"),
        (AlertDescription::UnrecognisedName, "alert_unrecognized_name"),
        (AlertDescription::NoApplicationProtocol, "alert_no_application_protocol"),
        (AlertDescription::InternalError, "alert_other"),
        (AlertDescription::NoRenegotiation, "renegotiation_wanted"),
        (AlertDescription::Unknown(99), "alert_other"),
    ] {
        let said = explain_cause_as(HandshakeFailureCause::Tls(Error::AlertReceived(alert)), false, Standing::Current);
        assert_eq!((said.reason, said.alert_received), (reason, Some(rfc_name(alert))));
        assert_eq!(said.alert_sent, None);
    }
}

#[test]
fn an_upstream_that_renegotiates_is_told_what_to_set() {
    let asks = Error::InappropriateHandshakeMessage {
        expect_types: Vec::new(),
        got_type: rustls::HandshakeType::CertificateRequest,
    };
    for error in [asks, Error::PeerMisbehaved(PeerMisbehaved::TooManyRenegotiationRequests)] {
        let said = explain_cause_as(HandshakeFailureCause::Tls(error), false, Standing::Current);
        assert_eq!(said.reason, "renegotiation_wanted");
        assert!(said.explanation.contains("on IIS enable \"Negotiate Client Certificate\""));
    }
}

#[test]
fn the_alert_that_was_sent_follows_the_error() {
    for (error, alert, reason) in [
        (Error::NoCertificatesPresented, Some("certificate_required"), "no_certificate"),
        (Error::InvalidCertificate(CertificateError::Revoked), Some("certificate_revoked"), "untrusted"),
        (Error::InvalidMessage(InvalidMessage::InvalidContentType), Some("decode_error"), "malformed_tls"),
        (Error::PeerSentOversizedRecord, Some("record_overflow"), "malformed_tls"),
        (Error::DecryptError, None, "malformed_tls"),
        (Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered), Some("protocol_version"), "no_common_version"),
        (Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon), Some("handshake_failure"), "no_common_group"),
        (Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare), None, "peer_misbehaved"),
        (Error::FailedToGetRandomBytes, None, "internal_error"),
    ] {
        let said = explain_cause(HandshakeFailureCause::Tls(error));
        assert_eq!((said.alert_sent, said.reason), (alert, reason), "{}", said.explanation);
    }
}

#[test]
fn the_ends_of_a_connection_are_told_apart() {
    for (cause, reason, outcome) in [
        (HandshakeFailureCause::NoByte, "closed_without_byte", HandshakeOutcome::Failed),
        (HandshakeFailureCause::Closed, "closed", HandshakeOutcome::Failed),
        (HandshakeFailureCause::Reset, "reset", HandshakeOutcome::Failed),
        (HandshakeFailureCause::TimedOut { hello: true }, "timed_out_before_hello", HandshakeOutcome::Failed),
        (HandshakeFailureCause::TimedOut { hello: false }, "timed_out_after_hello", HandshakeOutcome::Failed),
        (HandshakeFailureCause::NoKeyPair, "no_key_pair_fits", HandshakeOutcome::Refused),
        (HandshakeFailureCause::Io(std::io::ErrorKind::PermissionDenied.into()), "io_error", HandshakeOutcome::Failed),
    ] {
        let said = explain_cause(cause);
        assert_eq!((said.reason, said.outcome), (reason, outcome));
    }
}

#[test]
fn an_expired_link_is_told_from_the_peers_own_certificate() {
    let ca = TestAuthority::with_params("CA", &|params| params.not_after = rcgen::date_time_ymd(2026, 11, 20));
    let peer = ca.issue_peer("a.test", &|_| ());
    let trust = trust(&[&ca]);
    let untrusted = trust.verify(&peer.chain, &crate::trust::PeerRole::Client, now()).unwrap_err();
    let seen = HandshakeObservation {
        chain: peer.chain.clone().into(),
        untrusted: Some(untrusted),
        ..HandshakeObservation::default()
    };
    let cause = HandshakeFailureCause::Tls(Error::InvalidCertificate(CertificateError::Expired));
    let failed = FailedHandshake { cause, facts: HandshakeFacts::default(), seen, first_bytes: vec![22] };
    let said = explain(&failed, &FailureContext::sample(&trust, now()));
    assert_eq!(
        said.explanation,
        "a trust anchor of trust \"partners\" expired 5 days ago (2026-11-20): \"CN=CA\"; it must be renewed"
    );
    assert_eq!(said.alert_sent, Some("certificate_expired"));
}

#[test]
fn a_refusal_of_one_certificate_names_the_issuer_that_was_not_sent_and_no_overlap_where_there_is_none() {
    let trust = trust(&[&TestAuthority::new("CA")]);
    let cause = HandshakeFailureCause::Tls(Error::AlertReceived(AlertDescription::UnknownCA));
    let (facts, seen) = (HandshakeFacts::default(), HandshakeObservation::default());
    let failed = FailedHandshake { cause, facts, seen, first_bytes: Vec::new() };
    let shown = Some((Fingerprint::of(b"shown"), Standing::Current));
    let explained = |presented| {
        let context = FailureContext { shown, presented, ..FailureContext::sample(&trust, now()) };
        explain(&failed, &context).explanation
    };
    let alone = explained(PresentedPair { sent_alone: Some("CN=Issuing CA"), in_overlap: false });
    assert!(alone.contains("we sent 1 certificate, and its issuer \"CN=Issuing CA\" was not among"), "{alone}");
    assert!(!alone.contains("overlap") && !alone.contains("our issuer's certificate"), "{alone}");
    let whole = explained(PresentedPair::default());
    assert!(whole.contains("our issuer's certificate") && !whole.contains("overlap"), "{whole}");
}

#[test]
fn sentences_stay_short_and_on_one_line() {
    let long = "x".repeat(5_000);
    let untrusted = TrustError::UnknownIssuer {
        issuer: long.clone(),
        trust: "partners".into(),
        holds: vec![long.clone(); 9],
        self_signed: false,
        sent: 1,
        incomplete: true,
    };
    let trust = trust(&[&TestAuthority::new("CA")]);
    let context = FailureContext::sample(&trust, now());
    assert!(explain_untrusted(&untrusted, &context, None).explanation.len() < 3_000);
    let dialled = explain_dial(DialFailure::Other, "a.test:1", "bad\nthing");
    assert!(!dialled.explanation.contains('\n'));
}

#[test]
fn a_failed_dial_has_its_reason() {
    let kinds = [
        (std::io::ErrorKind::ConnectionRefused, "connection_refused"),
        (std::io::ErrorKind::HostUnreachable, "unreachable"),
        (std::io::ErrorKind::TimedOut, "connect_timed_out"),
        (std::io::ErrorKind::PermissionDenied, "connect_failed"),
    ];
    for (kind, reason) in kinds {
        let said = explain_dial(DialFailure::from_io_error(&kind.into()), "192.0.2.1:443", "why");
        assert_eq!((said.reason, said.outcome), (reason, HandshakeOutcome::Failed));
        assert!(REASONS.contains(&reason) && said.explanation.contains("192.0.2.1:443"));
    }
    assert_eq!(explain_dial(DialFailure::NotResolved, "a.test", "no such name").reason, "name_not_resolved");
}

#[test]
fn distances_and_dates_are_in_the_unit_that_says_it() {
    let at = |seconds: i64| now() + jiff::SignedDuration::from_secs(seconds);
    for (seconds, text) in
        [(1, "1 second"), (59, "59 seconds"), (60, "1 minute"), (7_200, "2 hours"), (86_400, "1 day")]
    {
        assert_eq!(distance(now(), at(seconds)), text);
        assert_eq!(distance(at(seconds), now()), text);
    }
    assert_eq!(date(days_from_now(-5), now()), "2026-11-20");
    assert_eq!(date(at(-60), now()), "2026-11-24 23:59 UTC");
}

#[test]
fn a_name_that_looks_right_is_told_why_it_does_not_count() {
    let trust = trust(&[&TestAuthority::new("CA")]);
    let context = FailureContext {
        ingress: false,
        listener: "out",
        trust: &trust,
        shown: None,
        shown_next: None,
        presented: PresentedPair::default(),
        now: now(),
    };
    let told = |expected: &str, has: &str| {
        let untrusted = TrustError::WrongName { expected: expected.to_owned(), has: vec![has.to_owned()] };
        explain_untrusted(&untrusted, &context, None).explanation
    };
    assert!(
        told("api.example", "dns:*.example").contains("\"dns:*.example\" does not count, because a wildcard right")
    );
    assert!(told("192.0.2.1", "dns:api.example").contains("needs an IP address in its SAN"));
    for plain in [told("api.example", "dns:www.example"), told("a.b.example", "dns:*.example")] {
        assert!(!plain.contains("count"), "{plain}");
    }
}

#[test]
fn an_incomplete_chain_is_called_one_and_a_whole_one_is_not() {
    let trust = trust(&[&TestAuthority::new("Ours")]);
    let below = TestAuthority::new("Root").issue_intermediate("Issuing", &|_| ());
    let root = TestAuthority::new("Another Root");
    let context = FailureContext {
        ingress: true,
        listener: "api",
        trust: &trust,
        shown: None,
        shown_next: None,
        presented: PresentedPair::default(),
        now: now(),
    };
    let told = |chain: &[rustls_pki_types::CertificateDer<'static>]| {
        let untrusted = trust.verify(chain, &crate::trust::PeerRole::Client, now()).unwrap_err();
        explain_untrusted(&untrusted, &context, None).explanation
    };
    let peer = below.issue_peer("a.test", &|_| ());
    let alone = told(&peer.chain[..1]);
    assert!(alone.starts_with("the peer sent 1 certificate; its issuer \"CN=Issuing\""), "{alone}");
    assert!(alone.contains("was not among them; have the peer send its intermediates, or, if"), "{alone}");
    let mut whole = root.issue_peer("a.test", &|_| ()).chain;
    whole.push(root.certificate().der().clone());
    let whole = told(&whole);
    assert!(
        whole.starts_with("peer's certificate was issued by \"CN=Another Root\"") && !whole.contains("intermediates"),
        "{whole}"
    );
}
