//! What must hold of a report: who proved, who insists, who is not seen; and the verdict that follows.

mod properties;
mod recalled;

use jiff::SignedDuration;

use super::ledger::{MAX_PEERS, MAX_SOURCES, is_from};
use super::*;

fn time_at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600).unwrap() + SignedDuration::from_mins(minute)
}

fn pair(byte: u8) -> Fingerprint {
    Fingerprint::from_bytes([byte; 32])
}

const OLD: u8 = 1;
const NEW: u8 = 2;

fn shared_str(text: &str) -> Arc<str> {
    text.into()
}

/// Rotated at minute 100, from OLD to NEW.
fn overlap() -> KeyringOverlap {
    KeyringOverlap {
        keyring: shared_str("api"),
        owner: Some("integrations".to_owned()),
        contact: Some("integrations@example.com".to_owned()),
        current: pair(NEW),
        rotated: time_at(100),
        previous: vec![PreviousPair { key_pair: pair(OLD), ends: time_at(100 + 30 * 1440), survives_restart: true }],
        upstreams: Vec::new(),
    }
}

fn record_handshake(ledger: &mut RotationLedger, who: &str, shown: u8, chosen_by: SelectionReason, minute: i64) {
    let (keyring, listener, partner) = (shared_str("api"), shared_str("api"), shared_str("acme"));
    let fact = LedgerFact::Peer {
        keyring: &keyring,
        listener: &listener,
        identity: who,
        partner: who.starts_with("acme").then_some(&partner),
        source: Some("203.0.113.7".parse().unwrap()),
        key_pair: pair(shown),
        chosen_by,
    };
    ledger.record(&fact, time_at(minute));
}

fn record_refusal(ledger: &mut RotationLedger, source: &str, lesson: RefusalStatus, minute: i64) {
    record_refusal_by(ledger, source, None, lesson, minute);
}

fn record_refusal_by(
    ledger: &mut RotationLedger,
    source: &str,
    peer: Option<&str>,
    lesson: RefusalStatus,
    minute: i64,
) {
    let (keyring, listener) = (shared_str("api"), shared_str("api"));
    let explanation = "unknown CA";
    let (refused, reason) = (pair(NEW), "unknown_ca");
    let (keyring, listener) = (&keyring, &listener);
    let fact = LedgerFact::Source { keyring, listener, source, refused, lesson, peer, reason, explanation };
    ledger.record(&fact, time_at(minute));
}

fn record_upstream(ledger: &mut RotationLedger, shown: u8, said: UpstreamResponse, handshake: bool, minute: i64) {
    let listener = shared_str("salesforce");
    let key_pair = pair(shown);
    let (reason, explanation, next_try) = ("status_403", "it answered 403", None);
    let keyring = shared_str("api");
    let fact = LedgerFact::Upstream {
        listener: &listener,
        keyring: Some(&keyring),
        key_pair,
        said,
        handshake,
        reason,
        explanation,
        next_try,
    };
    ledger.record(&fact, time_at(minute));
}

fn record_rotation(ledger: &mut RotationLedger) {
    let keyring = shared_str("api");
    ledger.record(&LedgerFact::Rotated { keyring: &keyring }, time_at(100));
}

fn build_report(ledger: &RotationLedger, keyring: &KeyringOverlap, minute: i64) -> RotationReport {
    let contacts = BTreeMap::from([(shared_str("acme"), "noc@acme.example".to_owned())]);
    let mut all = build_reports(ledger, std::slice::from_ref(keyring), &contacts, time_at(minute));
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn uses(report: &RotationReport) -> Vec<(&str, RotationProgress)> {
    report.lines.iter().map(|line| (line.name.as_str(), line.stands)).collect()
}

#[test]
fn a_keyring_without_previous_pair_has_no_report() {
    let ledger = RotationLedger::new(time_at(0));
    let none = KeyringOverlap { previous: Vec::new(), ..overlap() };
    assert!(build_reports(&ledger, &[none], &BTreeMap::new(), time_at(200)).is_empty());
}

#[test]
fn who_came_on_the_new_pair_has_proved_it_and_who_did_not_come_is_not_seen() {
    let mut ledger = RotationLedger::new(time_at(0));
    record_handshake(&mut ledger, "a", OLD, SelectionReason::Only, 10);
    record_handshake(&mut ledger, "acme-etl", OLD, SelectionReason::Only, 20);
    record_rotation(&mut ledger);
    record_handshake(&mut ledger, "a", NEW, SelectionReason::Prefer, 110);
    let one = build_report(&ledger, &overlap(), 200);
    assert_eq!(uses(&one), [("acme-etl", RotationProgress::NotSeen), ("a", RotationProgress::ProvedNew)]);
    assert_eq!((one.verdict.retire, one.seconds_left), (RetireAdvice::Wait, (30 * 1440 - 100) * 60));
    let first = one.verdict.first.unwrap();
    assert_eq!((first.partner.as_deref(), first.contact.as_deref()), (Some("acme"), Some("noc@acme.example")));
    record_handshake(&mut ledger, "acme-etl", NEW, SelectionReason::Prefer, 210);
    let both = build_report(&ledger, &overlap(), 220);
    assert_eq!(both.verdict.retire, RetireAdvice::Safe, "{}", both.verdict.sentence);
    assert_eq!((both.lines[0].handshakes_new, both.lines[0].handshakes_old), (1, 0), "those before do not count");
}

#[test]
fn who_makes_us_show_the_old_pair_insists_and_who_is_shown_it_by_our_choice_does_not() {
    let table = [
        (SelectionReason::Authorities, RotationProgress::InsistsOnOld, RetireAdvice::Call),
        (SelectionReason::Learned, RotationProgress::InsistsOnOld, RetireAdvice::Call),
        (SelectionReason::Only, RotationProgress::InsistsOnOld, RetireAdvice::Call),
        (SelectionReason::Prefer, RotationProgress::StillOnOld, RetireAdvice::Wait),
        (SelectionReason::Partner, RotationProgress::StillOnOld, RetireAdvice::Wait),
    ];
    for (chosen_by, stands, retire) in table {
        let mut ledger = RotationLedger::new(time_at(0));
        record_rotation(&mut ledger);
        record_handshake(&mut ledger, "other", NEW, SelectionReason::Prefer, 110);
        record_handshake(&mut ledger, "acme-etl", OLD, chosen_by, 120);
        let report = build_report(&ledger, &overlap(), 200);
        let line = &report.lines[0];
        assert_eq!((line.name.as_str(), line.stands, line.since), ("acme-etl", stands, Some(time_at(120))));
        assert_eq!(report.verdict.retire, retire);
        assert!(report.verdict.sentence.contains("noc@acme.example"), "{}", report.verdict.sentence);
        // A later handshake on the new pair ends it.
        record_handshake(&mut ledger, "acme-etl", NEW, SelectionReason::Prefer, 130);
        assert_eq!(build_report(&ledger, &overlap(), 200).verdict.retire, RetireAdvice::Safe);
        // And one on the old pair begins it again: some machine of theirs still wants it.
        record_handshake(&mut ledger, "acme-etl", OLD, chosen_by, 140);
        assert_eq!(build_report(&ledger, &overlap(), 200).lines[0].stands, stands);
    }
}

#[test]
fn the_busiest_on_the_old_pair_is_called_first() {
    let mut ledger = RotationLedger::new(time_at(0));
    record_rotation(&mut ledger);
    record_handshake(&mut ledger, "seldom", OLD, SelectionReason::Authorities, 110);
    for minute in 0..5 {
        record_handshake(&mut ledger, "busy", OLD, SelectionReason::Authorities, 111 + minute);
    }
    let report = build_report(&ledger, &overlap(), 200);
    assert_eq!(report.verdict.first.unwrap().name, "busy");
}

#[test]
fn only_a_confirmed_source_has_a_say_and_a_known_peer_speaks_for_it() {
    let mut ledger = RotationLedger::new(time_at(0));
    record_rotation(&mut ledger);
    record_handshake(&mut ledger, "a", NEW, SelectionReason::Prefer, 105);
    record_refusal(&mut ledger, "203.0.113.7 localhost", RefusalStatus::Unconfirmed, 110);
    let alert = build_report(&ledger, &overlap(), 200);
    assert_eq!((alert.unconfirmed, alert.verdict.retire), (1, RetireAdvice::Safe));
    record_refusal(&mut ledger, "203.0.113.7 localhost", RefusalStatus::Confirmed, 120);
    let source = build_report(&ledger, &overlap(), 200);
    assert_eq!(uses(&source)[0], ("203.0.113.7 localhost", RotationProgress::InsistsOnOld));
    assert_eq!((source.unconfirmed, source.verdict.retire), (0, RetireAdvice::Call));
    record_handshake(&mut ledger, "acme-etl", OLD, SelectionReason::Learned, 121);
    let named = build_report(&ledger, &overlap(), 200);
    assert_eq!(uses(&named), [("acme-etl", RotationProgress::InsistsOnOld), ("a", RotationProgress::ProvedNew)]);
    let line = &named.lines[0];
    assert_eq!((line.reason.as_deref(), line.because.as_deref()), (Some("unknown_ca"), Some("unknown CA")));
    assert_eq!(line.since, Some(time_at(110)), "since its first alert");
    record_refusal(&mut ledger, "203.0.113.7 localhost", RefusalStatus::Forgotten, 130);
    record_handshake(&mut ledger, "acme-etl", NEW, SelectionReason::Prefer, 131);
    assert_eq!(build_report(&ledger, &overlap(), 200).verdict.retire, RetireAdvice::Safe);
}

#[test]
fn who_only_shares_an_address_with_one_that_refused_is_not_said_to_insist() {
    let mut ledger = RotationLedger::new(time_at(0));
    record_rotation(&mut ledger);
    record_refusal_by(&mut ledger, "203.0.113.7 localhost", None, RefusalStatus::Unconfirmed, 110);
    record_refusal_by(&mut ledger, "203.0.113.7 localhost", Some("acme-etl"), RefusalStatus::Confirmed, 111);
    record_handshake(&mut ledger, "acme-etl", OLD, SelectionReason::Learned, 111);
    record_handshake(&mut ledger, "neighbour", OLD, SelectionReason::Learned, 112);
    let report = build_report(&ledger, &overlap(), 200);
    assert_eq!(
        uses(&report),
        [("acme-etl", RotationProgress::InsistsOnOld), ("neighbour", RotationProgress::StillOnOld)]
    );
    assert!(report.verdict.sentence.starts_with("1 of 2 peers would fail: call acme"), "{}", report.verdict.sentence);
    let because = report.lines[1].because.as_deref().unwrap();
    assert!(because.contains("the address of acme-etl"), "{because}");
}

#[test]
fn an_upstream_is_proved_by_an_answer_and_by_nothing_else() {
    let mut ledger = RotationLedger::new(time_at(0));
    let keyring =
        KeyringOverlap { upstreams: vec![(shared_str("salesforce"), "sf.example:8443".to_owned())], ..overlap() };
    let stands = |ledger: &RotationLedger| build_report(ledger, &keyring, 200).lines[0].stands;
    assert_eq!(stands(&ledger), RotationProgress::NotSeen);
    record_upstream(&mut ledger, OLD, UpstreamResponse::HandshakeOk, true, 50);
    record_upstream(&mut ledger, OLD, UpstreamResponse::Proved, false, 51);
    record_rotation(&mut ledger);
    assert_eq!(stands(&ledger), RotationProgress::NotSeen);
    record_upstream(&mut ledger, NEW, UpstreamResponse::HandshakeOk, true, 110);
    assert_eq!(stands(&ledger), RotationProgress::Unproved);
    record_upstream(&mut ledger, NEW, UpstreamResponse::Refused, false, 111);
    record_upstream(&mut ledger, OLD, UpstreamResponse::HandshakeOk, true, 112);
    assert_eq!(stands(&ledger), RotationProgress::InsistsOnOld);
    // A handshake that goes well takes a refusal back as little as a proof.
    record_upstream(&mut ledger, NEW, UpstreamResponse::HandshakeOk, true, 113);
    let report = build_report(&ledger, &keyring, 200);
    let line = &report.lines[0];
    assert_eq!((line.stands, line.since), (RotationProgress::InsistsOnOld, Some(time_at(111))));
    assert_eq!((line.reason.as_deref(), report.verdict.retire), (Some("status_403"), RetireAdvice::Call));
    record_upstream(&mut ledger, NEW, UpstreamResponse::Proved, false, 120);
    record_upstream(&mut ledger, OLD, UpstreamResponse::HandshakeOk, true, 121);
    let report = build_report(&ledger, &keyring, 200);
    assert_eq!((report.lines[0].stands, report.verdict.retire), (RotationProgress::ProvedNew, RetireAdvice::Safe));
    let line = &report.lines[0];
    assert_eq!((line.handshakes_new, line.handshakes_old), (2, 2), "those before the rotation do not count");
}

#[test]
fn who_watches_since_after_the_rotation_calls_nothing_safe() {
    let mut ledger = RotationLedger::new(time_at(150));
    record_handshake(&mut ledger, "a", NEW, SelectionReason::Prefer, 160);
    let report = build_report(&ledger, &overlap(), 200);
    assert_eq!(report.verdict.retire, RetireAdvice::Wait);
    assert!(report.verdict.sentence.contains("are unknown"), "{}", report.verdict.sentence);
    let unseen = build_report(&RotationLedger::new(time_at(0)), &overlap(), 200);
    assert_eq!((unseen.verdict.retire, unseen.lines.len()), (RetireAdvice::Wait, 0));
    for (ends, left) in [(201, "60 s left"), (230, "30 min left"), (500, "5 h left")] {
        let mut keyring = overlap();
        keyring.previous[0].ends = time_at(ends);
        let said = build_report(&RotationLedger::new(time_at(0)), &keyring, 200).verdict.sentence;
        assert_eq!(said, format!("no peer has used this keyring since 2026-01-01 00:00 UTC: wait; {left}"));
    }
}

#[test]
fn a_fleet_larger_than_the_table_is_counted_and_never_called_safe() {
    let mut ledger = RotationLedger::new(time_at(0));
    record_rotation(&mut ledger);
    for number in 0..MAX_PEERS as i64 + 10 {
        record_handshake(&mut ledger, &format!("peer-{number}"), NEW, SelectionReason::Prefer, 101);
    }
    let report = build_report(&ledger, &overlap(), 200);
    assert!(ledger.size().0 <= MAX_PEERS && report.forgotten > 0);
    assert_eq!(report.forgotten as usize + ledger.size().0, MAX_PEERS + 10);
    assert_eq!(report.verdict.retire, RetireAdvice::Wait);
}

#[test]
fn a_source_is_an_address_and_in_ipv6_a_network() {
    let is = |address: &str, source: &str| is_from(address.parse().unwrap(), source);
    assert!(is("203.0.113.7", "203.0.113.7") && is("203.0.113.7", "203.0.113.7 api.example"));
    assert!(!is("203.0.113.7", "203.0.113.70") && !is("203.0.113.7", "") && !is("203.0.113.7", "api.example"));
    assert!(is("2001:db8::1", "2001:db8::/64 api.example") && !is("2001:db8:0:1::1", "2001:db8::/64"));
}

#[test]
fn the_shape_is_public() {
    let mut ledger = RotationLedger::new(time_at(0));
    record_rotation(&mut ledger);
    record_handshake(&mut ledger, "acme-etl", OLD, SelectionReason::Authorities, 110);
    let value = serde_json::to_value(build_report(&ledger, &overlap(), 200)).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        keys(&value),
        "before contact current ends forgotten keyring lines owner previous rotated seconds_left unconfirmed verdict watched_since"
    );
    assert_eq!(
        keys(&value["lines"][0]),
        "because contact handshakes_new handshakes_old kind last_new last_old listener name next_try partner reason since use"
    );
    assert_eq!(
        (value["lines"][0]["use"].as_str(), value["lines"][0]["kind"].as_str()),
        (Some("insists_on_old"), Some("peer"))
    );
    assert_eq!(
        (keys(&value["verdict"]), keys(&value["verdict"]["first"])),
        ("first retire sentence".to_owned(), "contact name partner".to_owned())
    );
    assert_eq!(value["verdict"]["retire"], "call");
    assert_eq!(keys(&value["previous"][0]), "ends key_pair survives_restart");
}

#[test]
fn alerts_alone_push_out_no_confirmed_source() {
    let mut ledger = RotationLedger::new(time_at(0));
    for source in 0..MAX_SOURCES as u32 / 2 {
        record_refusal(&mut ledger, &format!("confirmed-{source}"), RefusalStatus::Confirmed, 100);
    }
    for source in 0..2 * MAX_SOURCES {
        record_refusal(&mut ledger, &format!("alert-{source}"), RefusalStatus::Unconfirmed, 110);
    }
    let confirmed = ledger.sources.values().filter(|source| source.lesson == RefusalStatus::Confirmed).count();
    assert_eq!(confirmed, MAX_SOURCES / 2);
    assert!(ledger.sources.len() <= MAX_SOURCES);
}
