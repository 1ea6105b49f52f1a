//! What a report says of upstreams that are shown no pair, or refuse every one.

use super::*;

fn egress_overlap() -> KeyringOverlap {
    let upstreams = vec![(shared_str("salesforce"), "sf.example:8443".to_owned())];
    KeyringOverlap { upstreams, faces_peers: false, ..overlap() }
}

fn record_unasked(ledger: &mut RotationLedger, minute: i64) {
    ledger.record(&LedgerFact::Unasked { listener: &shared_str("salesforce"), epoch: 2 }, time_at(minute));
}

#[test]
fn an_upstream_that_asks_for_no_certificate_holds_up_no_verdict() {
    let mut ledger = old_ledger();
    record_rotation(&mut ledger);
    record_unasked(&mut ledger, 110);
    let report = build_report(&ledger, &egress_overlap(), 200);
    assert_eq!(uses(&report), [("sf.example:8443", RotationProgress::AsksForNone)]);
    let because = report.lines[0].because.as_deref().unwrap();
    assert!(because.starts_with("it asked for no certificate in its last handshake, at 2026-01-01 01:50"), "{because}");
    assert_eq!(report.verdict.retire, RetireAdvice::Safe, "{}", report.verdict.sentence);
    assert!(report.verdict.sentence.contains("ask for no certificate"), "{}", report.verdict.sentence);
    assert!(report.verdict.first.is_none());
    let unknown = &report.verdict.unknown;
    assert!(unknown.iter().any(|one| one.contains("no certificate (sf.example:8443)")), "{unknown:?}");
    // Beside a peer it is not counted either.
    let both = KeyringOverlap { faces_peers: true, ..egress_overlap() };
    ETL.proves(&mut ledger, 120);
    let said = build_report(&ledger, &both, 200).verdict.sentence;
    assert_eq!(said, "the only known peer has proved the new key pair: the old one can be retired");
}

#[test]
fn an_upstream_that_asks_again_or_asked_before_is_waited_for() {
    let mut ledger = old_ledger();
    record_rotation(&mut ledger);
    record_unasked(&mut ledger, 110);
    record_upstream(&mut ledger, NEW, UpstreamResponse::HandshakeOk, true, 111);
    assert_eq!(build_report(&ledger, &egress_overlap(), 200).lines[0].stands, RotationProgress::Unproved);
    let mut ledger = old_ledger();
    record_upstream_in(&mut ledger, OLD, UpstreamResponse::HandshakeOk, true, 50, 1);
    record_rotation(&mut ledger);
    record_unasked(&mut ledger, 110);
    let report = build_report(&ledger, &egress_overlap(), 200);
    assert_eq!((report.lines[0].stands, report.verdict.retire), (RotationProgress::Unproved, RetireAdvice::Wait));
    assert!(report.lines[0].because.as_deref().unwrap().contains("may still ask"), "{:?}", report.lines[0].because);
    let mut ledger = old_ledger();
    record_unasked(&mut ledger, 50);
    record_rotation(&mut ledger);
    assert_eq!(build_report(&ledger, &egress_overlap(), 200).lines[0].stands, RotationProgress::NotSeen);
}

#[test]
fn an_upstream_that_refuses_both_pairs_is_not_said_to_insist_on_the_old_one() {
    let mut ledger = old_ledger();
    record_rotation(&mut ledger);
    record_upstream(&mut ledger, NEW, UpstreamResponse::Refused, false, 110);
    assert_eq!(build_report(&ledger, &egress_overlap(), 200).lines[0].stands, RotationProgress::InsistsOnOld);
    record_upstream(&mut ledger, OLD, UpstreamResponse::Refused, false, 111);
    let report = build_report(&ledger, &egress_overlap(), 200);
    assert_eq!(
        (report.lines[0].stands, report.verdict.retire),
        (RotationProgress::RefusesEvery, RetireAdvice::Blocked)
    );
    let said = &report.verdict.sentence;
    assert!(said.contains("refuses every key pair of ours") && said.contains("status_403"), "{said}");
    record_upstream(&mut ledger, OLD, UpstreamResponse::Proved, false, 112);
    assert_eq!(build_report(&ledger, &egress_overlap(), 200).lines[0].stands, RotationProgress::InsistsOnOld);
}
