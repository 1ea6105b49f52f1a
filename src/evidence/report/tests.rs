//! What must hold of a report: who proved, who insists, who is not seen; and the verdict that follows.

mod fleet;
mod properties;
mod reading;
mod senders;
mod upstreams;

use jiff::SignedDuration;

use super::ledger::{MAX_ANONYMOUS, MAX_SENDERS};
use super::sources::MAX_SOURCES;
use super::*;
use crate::keyring::SelectionReason;
use crate::pki::Fingerprint;

fn time_at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600).unwrap() + SignedDuration::from_mins(minute)
}

fn pair(byte: u8) -> Fingerprint {
    Fingerprint::from_bytes([byte; 32])
}

const OLD: u8 = 1;
const NEW: u8 = 2;
const DAY: i64 = 1440;

fn shared_str(text: &str) -> Arc<str> {
    text.into()
}

/// Rotated at minute 100, in epoch 2, from OLD to NEW.
fn overlap() -> KeyringOverlap {
    KeyringOverlap {
        keyring: shared_str("api"),
        owner: Some("integrations".to_owned()),
        contact: Some("integrations@example.com".to_owned()),
        current: pair(NEW),
        rotated: time_at(100),
        previous: vec![PreviousPair { key_pair: pair(OLD), ends: time_at(100 + 30 * DAY), survives_restart: true }],
        upstreams: Vec::new(),
        seen_within: std::time::Duration::from_hours(35 * 24),
        faces_peers: true,
    }
}

/// A ledger that has watched for longer than any sender counts.
fn old_ledger() -> RotationLedger {
    RotationLedger::new(time_at(-60 * DAY))
}

/// One host: a name, a certificate, an address.
#[derive(Clone, Copy)]
struct Host(&'static str, u8, &'static str);

const ETL: Host = Host("acme-etl", 7, "203.0.113.7");

impl Host {
    /// With a certificate and an address of its own.
    fn named(name: &'static str) -> Self {
        Self(name, name.bytes().fold(0, u8::wrapping_add), "203.0.113.9")
    }

    /// A completed handshake; those before the rotation are in epoch 1.
    fn connects(&self, ledger: &mut RotationLedger, shown: u8, chosen_by: SelectionReason, minute: i64) {
        let (keyring, listener, partner) = (shared_str("api"), shared_str("api"), shared_str("acme"));
        let fact = LedgerFact::Peer {
            keyring: &keyring,
            listener: &listener,
            identity: self.0,
            partner: self.0.starts_with("acme").then_some(&partner),
            certificate: (self.1 > 0).then(|| pair(self.1)),
            source: self.2.parse().ok(),
            key_pair: pair(shown),
            chosen_by,
            epoch: if minute < 100 { 1 } else { 2 },
        };
        ledger.record(&fact, time_at(minute));
    }

    fn ends(&self, ledger: &mut RotationLedger, shown: u8, outcome: SenderOutcome, minute: i64) {
        let (keyring, listener) = (shared_str("api"), shared_str("api"));
        let fact = LedgerFact::Proof {
            keyring: &keyring,
            listener: &listener,
            identity: self.0,
            certificate: (self.1 > 0).then(|| pair(self.1)),
            source: self.2.parse().ok(),
            key_pair: pair(shown),
            outcome,
            epoch: if minute < 100 { 1 } else { 2 },
        };
        ledger.record(&fact, time_at(minute));
    }

    /// A handshake and a request on the new pair.
    fn proves(&self, ledger: &mut RotationLedger, minute: i64) {
        self.connects(ledger, NEW, SelectionReason::Prefer, minute);
        self.ends(ledger, NEW, SenderOutcome::Proved, minute);
    }
}

fn record_refusal(ledger: &mut RotationLedger, source: &str, peer: Option<&str>, lesson: RefusalStatus, minute: i64) {
    let (keyring, listener) = (shared_str("api"), shared_str("api"));
    let fact = LedgerFact::Source {
        keyring: &keyring,
        listener: &listener,
        source,
        refused: pair(NEW),
        shown: pair(OLD),
        lesson,
        peer,
        reason: "unknown_ca",
        explanation: "unknown CA",
    };
    ledger.record(&fact, time_at(minute));
}

fn record_upstream(ledger: &mut RotationLedger, shown: u8, said: UpstreamResponse, handshake: bool, minute: i64) {
    record_upstream_in(ledger, shown, said, handshake, minute, 2);
}

fn record_upstream_in(
    ledger: &mut RotationLedger,
    shown: u8,
    said: UpstreamResponse,
    handshake: bool,
    minute: i64,
    epoch: u64,
) {
    let (listener, keyring) = (shared_str("salesforce"), shared_str("api"));
    let (reason, explanation, next_try) = ("status_403", "it answered 403", None);
    let fact = LedgerFact::Upstream {
        listener: &listener,
        keyring: Some(&keyring),
        key_pair: pair(shown),
        said,
        handshake,
        reason,
        explanation,
        next_try,
        epoch,
    };
    ledger.record(&fact, time_at(minute));
}

fn record_rotation(ledger: &mut RotationLedger) {
    ledger.record(&LedgerFact::Rotated { keyring: &shared_str("api"), epoch: 2 }, time_at(100));
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
    let none = KeyringOverlap { previous: Vec::new(), ..overlap() };
    assert!(build_reports(&old_ledger(), &[none], &BTreeMap::new(), time_at(200)).is_empty());
}

#[test]
fn who_sent_data_on_the_new_pair_has_proved_it_and_who_did_not_come_is_not_seen() {
    let mut ledger = old_ledger();
    let other = Host::named("a");
    other.connects(&mut ledger, OLD, SelectionReason::Only, 10);
    ETL.connects(&mut ledger, OLD, SelectionReason::Only, 20);
    record_rotation(&mut ledger);
    other.proves(&mut ledger, 110);
    let one = build_report(&ledger, &overlap(), 200);
    assert_eq!(uses(&one), [("acme-etl", RotationProgress::NotSeen), ("a", RotationProgress::ProvedNew)]);
    assert_eq!((one.verdict.retire, one.seconds_left), (RetireAdvice::Wait, (30 * DAY - 100) * 60));
    let first = one.verdict.first.unwrap();
    assert_eq!((first.partner.as_deref(), first.contact.as_deref()), (Some("acme"), Some("noc@acme.example")));
    ETL.proves(&mut ledger, 210);
    let both = build_report(&ledger, &overlap(), 220);
    assert_eq!(both.verdict.retire, RetireAdvice::Safe, "{}", both.verdict.sentence);
    assert_eq!((both.lines[0].handshakes_new, both.lines[0].handshakes_old), (1, 0), "those before do not count");
}

#[test]
fn who_makes_us_show_the_old_pair_insists_and_who_is_shown_it_by_our_choice_does_not() {
    let table = [
        (SelectionReason::Authorities, RotationProgress::InsistsOnOld, RetireAdvice::Blocked),
        (SelectionReason::Only, RotationProgress::InsistsOnOld, RetireAdvice::Blocked),
        (SelectionReason::Learned, RotationProgress::StillOnOld, RetireAdvice::Wait),
        (SelectionReason::Prefer, RotationProgress::StillOnOld, RetireAdvice::Wait),
        (SelectionReason::Partner, RotationProgress::StillOnOld, RetireAdvice::Wait),
    ];
    for (chosen_by, stands, retire) in table {
        let mut ledger = old_ledger();
        record_rotation(&mut ledger);
        Host::named("other").proves(&mut ledger, 110);
        ETL.connects(&mut ledger, OLD, chosen_by, 120);
        let report = build_report(&ledger, &overlap(), 200);
        let line = &report.lines[0];
        assert_eq!((line.name.as_str(), line.stands, line.since), ("acme-etl", stands, Some(time_at(120))));
        assert_eq!(report.verdict.retire, retire);
        assert!(report.verdict.sentence.contains("noc@acme.example"), "{}", report.verdict.sentence);
        // Data on the new pair ends it: at once where it was our choice, else after a day without another such hello.
        ETL.proves(&mut ledger, 130);
        let insists = stands == RotationProgress::InsistsOnOld;
        let soon = if insists { RetireAdvice::Wait } else { RetireAdvice::Safe };
        assert_eq!(build_report(&ledger, &overlap(), 200).verdict.retire, soon, "{chosen_by:?}");
        let later = build_report(&ledger, &overlap(), 120 + DAY);
        assert_eq!(later.verdict.retire, RetireAdvice::Safe, "{}", later.verdict.sentence);
        // And one on the old pair begins it again where it asks for it: some host of theirs still wants it.
        ETL.connects(&mut ledger, OLD, chosen_by, 140 + DAY);
        let again = build_report(&ledger, &overlap(), 200 + DAY).lines[0].stands;
        assert_eq!(again == RotationProgress::InsistsOnOld, insists, "{chosen_by:?}");
    }
}

#[test]
fn the_busiest_on_the_old_pair_is_called_first() {
    let mut ledger = old_ledger();
    record_rotation(&mut ledger);
    Host::named("seldom").connects(&mut ledger, OLD, SelectionReason::Authorities, 110);
    for minute in 0..5 {
        Host::named("busy").connects(&mut ledger, OLD, SelectionReason::Authorities, 111 + minute);
    }
    let report = build_report(&ledger, &overlap(), 200);
    assert_eq!(report.verdict.first.unwrap().name, "busy");
}

#[test]
fn only_a_confirmed_refusal_of_a_known_peer_has_a_say() {
    let mut ledger = old_ledger();
    record_rotation(&mut ledger);
    Host::named("a").proves(&mut ledger, 105);
    record_refusal(&mut ledger, "203.0.113.7 localhost", None, RefusalStatus::Unconfirmed, 110);
    let alert = build_report(&ledger, &overlap(), 200);
    assert_eq!((alert.unconfirmed, alert.verdict.retire), (1, RetireAdvice::Safe));
    assert_eq!(alert.unconfirmed_sources, ["203.0.113.7 localhost"], "what `rotation forget` wants");
    assert!(alert.verdict.unknown[0].contains("203.0.113.7 localhost"), "{:?}", alert.verdict.unknown);
    record_refusal(&mut ledger, "203.0.113.7 localhost", None, RefusalStatus::Confirmed, 111);
    assert_eq!(build_report(&ledger, &overlap(), 200).verdict.retire, RetireAdvice::Safe, "without a certificate");
    ETL.connects(&mut ledger, OLD, SelectionReason::Learned, 120);
    record_refusal(&mut ledger, "203.0.113.7 localhost", Some("acme-etl"), RefusalStatus::Confirmed, 120);
    let named = build_report(&ledger, &overlap(), 200);
    assert_eq!(uses(&named), [("acme-etl", RotationProgress::InsistsOnOld), ("a", RotationProgress::ProvedNew)]);
    let line = &named.lines[0];
    assert_eq!((line.reason.as_deref(), line.because.as_deref()), (Some("unknown_ca"), Some("unknown CA")));
    assert_eq!((line.since, named.verdict.retire), (Some(time_at(120)), RetireAdvice::Blocked));
    record_refusal(&mut ledger, "203.0.113.7 localhost", None, RefusalStatus::Forgotten, 130);
    ETL.proves(&mut ledger, 131);
    assert_eq!(build_report(&ledger, &overlap(), 120 + DAY).verdict.retire, RetireAdvice::Safe);
}

#[test]
fn who_only_shares_an_address_with_one_that_refused_is_not_said_to_insist() {
    let mut ledger = old_ledger();
    record_rotation(&mut ledger);
    let neighbour = Host("neighbour", 9, ETL.2);
    record_refusal(&mut ledger, "203.0.113.7 localhost", None, RefusalStatus::Unconfirmed, 110);
    ETL.connects(&mut ledger, OLD, SelectionReason::Learned, 111);
    record_refusal(&mut ledger, "203.0.113.7 localhost", Some("acme-etl"), RefusalStatus::Confirmed, 111);
    neighbour.connects(&mut ledger, OLD, SelectionReason::Learned, 112);
    let report = build_report(&ledger, &overlap(), 200);
    assert_eq!(
        uses(&report),
        [("acme-etl", RotationProgress::InsistsOnOld), ("neighbour", RotationProgress::StillOnOld)]
    );
    assert!(report.verdict.sentence.starts_with("1 of 2 peers would fail: call acme"), "{}", report.verdict.sentence);
    let because = report.lines[1].because.as_deref().unwrap();
    assert!(because.contains("its own answer is unknown"), "{because}");
    let unknown = &report.verdict.unknown;
    assert!(unknown.iter().any(|one| one.contains("one address (203.0.113.7)")), "{unknown:?}");
}

#[test]
fn an_upstream_is_proved_by_an_answer_and_by_nothing_else() {
    let mut ledger = old_ledger();
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
    assert_eq!((line.reason.as_deref(), report.verdict.retire), (Some("status_403"), RetireAdvice::Blocked));
    record_upstream(&mut ledger, NEW, UpstreamResponse::Proved, false, 120);
    record_upstream(&mut ledger, OLD, UpstreamResponse::HandshakeOk, true, 121);
    let report = build_report(&ledger, &keyring, 200);
    assert_eq!((report.lines[0].stands, report.verdict.retire), (RotationProgress::ProvedNew, RetireAdvice::Safe));
    let line = &report.lines[0];
    assert_eq!((line.handshakes_new, line.handshakes_old), (2, 2), "those before the rotation do not count");
    // A verdict that is withdrawn proves nothing any more.
    record_upstream(&mut ledger, NEW, UpstreamResponse::HandshakeOk, false, 130);
    assert_eq!(build_report(&ledger, &keyring, 200).verdict.retire, RetireAdvice::Wait);
}

#[test]
fn another_upstream_inherits_nothing_of_what_the_one_before_proved() {
    let mut ledger = old_ledger();
    let listener = shared_str("salesforce");
    let lead_to = |ledger: &mut RotationLedger, upstream: &str, epoch: u64| {
        let upstreams = [(Arc::clone(&listener), upstream.to_owned())];
        ledger.record(&LedgerFact::Configured { upstreams: &upstreams, epoch }, time_at(100));
    };
    let stands = |ledger: &RotationLedger, upstream: &str| {
        let upstreams = vec![(Arc::clone(&listener), upstream.to_owned())];
        build_report(ledger, &KeyringOverlap { upstreams, ..overlap() }, 200).lines[0].stands
    };
    lead_to(&mut ledger, "one.example:443", 2);
    record_rotation(&mut ledger);
    record_upstream_in(&mut ledger, NEW, UpstreamResponse::Proved, false, 110, 2);
    // An epoch in which it is the same changes nothing.
    lead_to(&mut ledger, "one.example:443", 3);
    assert_eq!(stands(&ledger, "one.example:443"), RotationProgress::ProvedNew);
    lead_to(&mut ledger, "two.example:443", 4);
    assert_eq!(stands(&ledger, "two.example:443"), RotationProgress::NotSeen);
    // A request that was on its way to the former one proves nothing about this one.
    record_upstream_in(&mut ledger, NEW, UpstreamResponse::Proved, false, 120, 3);
    assert_eq!(stands(&ledger, "two.example:443"), RotationProgress::NotSeen);
    record_upstream_in(&mut ledger, NEW, UpstreamResponse::Proved, false, 121, 4);
    assert_eq!(stands(&ledger, "two.example:443"), RotationProgress::ProvedNew);
}

#[test]
fn who_has_not_watched_for_as_long_as_senders_count_calls_nothing_safe() {
    let mut ledger = RotationLedger::new(time_at(150));
    Host::named("a").proves(&mut ledger, 160);
    let report = build_report(&ledger, &overlap(), 200);
    assert_eq!((report.verdict.retire, report.verdict.until), (RetireAdvice::Wait, Some(time_at(100 + 30 * DAY))));
    assert!(report.verdict.sentence.contains("are unknown, because it has no registry"), "{}", report.verdict.sentence);
    let egress_only = KeyringOverlap { faces_peers: false, ..overlap() };
    assert_eq!(build_report(&ledger, &egress_only, 200).verdict.retire, RetireAdvice::Safe, "there are no such peers");
    let unseen = build_report(&old_ledger(), &overlap(), 200);
    assert_eq!((unseen.verdict.retire, unseen.lines.len()), (RetireAdvice::Wait, 0));
    for (ends, left) in [(201, "60 s left"), (230, "30 min left"), (500, "5 h left")] {
        let mut keyring = overlap();
        keyring.previous[0].ends = time_at(ends);
        let said = build_report(&RotationLedger::new(time_at(-60 * DAY)), &keyring, 200).verdict.sentence;
        assert_eq!(said, format!("no peer has used this keyring since 2025-11-02 00:00 UTC: wait; {left}"));
    }
}

#[test]
fn the_shape_is_public() {
    let mut ledger = old_ledger();
    record_rotation(&mut ledger);
    ETL.connects(&mut ledger, OLD, SelectionReason::Authorities, 110);
    let value = serde_json::to_value(build_report(&ledger, &overlap(), 200)).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        keys(&value),
        "anonymous before contact current ends forgotten keyring lines owner previous replicas rotated seconds_left \
         seen_within_seconds unconfirmed unconfirmed_sources verdict watched_since"
    );
    assert_eq!(
        keys(&value["lines"][0]),
        "because contact habit handshakes_new handshakes_old kind last_new last_old listener name next_try partner reason \
         senders senders_known senders_proved since until use"
    );
    assert_eq!(
        keys(&value["lines"][0]["senders"][0]),
        "because certificate habit handshakes_new handshakes_old last_new last_old last_seen proved reason since source \
         unexplained_ends until use"
    );
    assert_eq!(
        (value["lines"][0]["use"].as_str(), value["lines"][0]["kind"].as_str()),
        (Some("insists_on_old"), Some("peer"))
    );
    assert_eq!(
        (keys(&value["verdict"]), keys(&value["verdict"]["first"])),
        ("first retire sentence unknown until".to_owned(), "contact name partner".to_owned())
    );
    assert_eq!(value["verdict"]["retire"], "blocked");
    assert_eq!(keys(&value["previous"][0]), "ends key_pair survives_restart");
}
