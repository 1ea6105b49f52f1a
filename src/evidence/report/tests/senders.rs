//! Evidence is about one sender: several hosts of one identity, unexplained ends, habits, floods, steps of the clock.

use super::super::super::learned::{PeerProofReport, PeerSource, RefusalReport, RefusalTable, SenderKind};
use super::*;

#[test]
fn a_completed_handshake_proves_nothing_and_two_ends_without_a_request_block() {
    let mut ledger = old_ledger();
    record_rotation(&mut ledger);
    Host::named("other").proves(&mut ledger, 105);
    ETL.connects(&mut ledger, NEW, SelectionReason::Prefer, 110);
    let once = build_report(&ledger, &overlap(), 200);
    assert_eq!((once.lines[0].stands, once.verdict.retire), (RotationProgress::Unproved, RetireAdvice::Wait));
    ETL.ends(&mut ledger, NEW, SenderOutcome::UnexplainedEnd, 110);
    assert_eq!(build_report(&ledger, &overlap(), 200).verdict.retire, RetireAdvice::Wait);
    ETL.connects(&mut ledger, NEW, SelectionReason::Prefer, 111);
    ETL.ends(&mut ledger, NEW, SenderOutcome::UnexplainedEnd, 111);
    let twice = build_report(&ledger, &overlap(), 200);
    let line = &twice.lines[0];
    assert_eq!((line.stands, twice.verdict.retire), (RotationProgress::EndsUnexplained, RetireAdvice::Blocked));
    assert_eq!((line.senders[0].unexplained_ends, line.reason.as_deref()), (2, Some("ended_without_data")));
    assert!(twice.verdict.sentence.contains("call acme (acme-etl, contact noc@acme.example)"), "{twice:?}");
    ETL.proves(&mut ledger, 112);
    assert_eq!(build_report(&ledger, &overlap(), 200).verdict.retire, RetireAdvice::Safe);
    // One that proved and then goes away without a word again and again is asked about, not blamed.
    for minute in 113..115 {
        ETL.ends(&mut ledger, NEW, SenderOutcome::UnexplainedEnd, minute);
    }
    let doubtful = build_report(&ledger, &overlap(), 200);
    assert_eq!((doubtful.lines[0].stands, doubtful.verdict.retire), (RotationProgress::Unproved, RetireAdvice::Wait));
}

#[test]
fn a_host_that_has_not_proved_is_not_covered_by_another_of_the_same_identity() {
    // The same certificate on another address, and another certificate at the same address.
    for other in [Host(ETL.0, ETL.1, "203.0.113.8"), Host(ETL.0, 8, ETL.2), Host(ETL.0, ETL.1, "2001:db8::7")] {
        let mut ledger = old_ledger();
        ETL.connects(&mut ledger, OLD, SelectionReason::Only, 10);
        other.connects(&mut ledger, OLD, SelectionReason::Only, 20);
        record_rotation(&mut ledger);
        ETL.proves(&mut ledger, 110);
        let report = build_report(&ledger, &overlap(), 200);
        assert_eq!(uses(&report), [("acme-etl", RotationProgress::NotSeen)], "one line, the worst of its hosts");
        let line = &report.lines[0];
        assert_eq!((line.senders_known, line.senders_proved, line.handshakes_new), (2, 1, 1));
        assert_eq!(line.senders[0].stands, RotationProgress::NotSeen);
        assert_eq!(report.verdict.retire, RetireAdvice::Wait);
        assert!(report.verdict.sentence.contains(&format!("from {}", line.senders[0].source)), "{report:?}");
        other.proves(&mut ledger, 210);
        assert_eq!(build_report(&ledger, &overlap(), 220).verdict.retire, RetireAdvice::Safe);
        // Whichever came last: the one that needs the old pair decides.
        other.connects(&mut ledger, OLD, SelectionReason::Authorities, 230);
        ETL.proves(&mut ledger, 231);
        assert_eq!(build_report(&ledger, &overlap(), 240).verdict.retire, RetireAdvice::Blocked);
    }
}

#[test]
fn two_addresses_of_one_ipv6_network_are_one_sender() {
    let mut ledger = old_ledger();
    Host("a", 7, "2001:db8::1").connects(&mut ledger, OLD, SelectionReason::Only, 10);
    record_rotation(&mut ledger);
    Host("a", 7, "2001:db8::ffff:2").proves(&mut ledger, 110);
    let report = build_report(&ledger, &overlap(), 200);
    assert_eq!((report.verdict.retire, report.lines[0].senders.len()), (RetireAdvice::Safe, 1));
    assert_eq!(report.lines[0].senders[0].source, "2001:db8::/64");
}

#[test]
fn a_second_rotation_in_the_same_overlap_asks_every_sender_again() {
    let mut ledger = old_ledger();
    record_rotation(&mut ledger);
    ETL.proves(&mut ledger, 110);
    let keyring = shared_str("api");
    ledger.record(&LedgerFact::Rotated { keyring: &keyring, epoch: 3 }, time_at(120));
    let mut previous = overlap().previous;
    previous.push(PreviousPair { key_pair: pair(NEW), ends: time_at(120 + 30 * DAY), survives_restart: true });
    let third = KeyringOverlap { current: pair(3), rotated: time_at(120), previous, ..overlap() };
    let report = build_report(&ledger, &third, 200);
    assert_eq!((report.lines[0].stands, report.verdict.retire), (RotationProgress::NotSeen, RetireAdvice::Wait));
    // Data on a connection of the former epoch is about the former rotation, also when it comes late.
    let proof = |epoch: u64| LedgerFact::Proof {
        keyring: &keyring,
        listener: &keyring,
        identity: ETL.0,
        certificate: Some(pair(ETL.1)),
        source: ETL.2.parse().ok(),
        key_pair: pair(3),
        outcome: SenderOutcome::Proved,
        epoch,
    };
    ledger.record(&proof(2), time_at(130));
    assert_eq!(build_report(&ledger, &third, 200).verdict.retire, RetireAdvice::Wait);
    ledger.record(&proof(3), time_at(131));
    assert_eq!(build_report(&ledger, &third, 200).verdict.retire, RetireAdvice::Safe);
    // Rolled back and promoted again: what was proved before may no longer hold.
    ledger.record(&LedgerFact::Rotated { keyring: &keyring, epoch: 5 }, time_at(140));
    assert_eq!(build_report(&ledger, &third, 200).verdict.retire, RetireAdvice::Wait);
}

#[test]
fn a_sender_that_has_not_come_is_named_with_its_habit_until_it_no_longer_counts() {
    let mut ledger = old_ledger();
    for week in (0..4).rev() {
        // A batch that opens several connections.
        for _ in 0..3 {
            ETL.connects(&mut ledger, OLD, SelectionReason::Only, 60 - week * 7 * DAY);
        }
    }
    record_rotation(&mut ledger);
    Host::named("other").proves(&mut ledger, 110);
    let report = build_report(&ledger, &overlap(), 2 * DAY);
    let line = &report.lines[0];
    assert_eq!(
        (line.stands, line.habit.as_deref()),
        (RotationProgress::NotSeen, Some("weekly, due on Thursday 2026-01-08"))
    );
    assert_eq!(line.until, Some(time_at(60 + 35 * DAY)));
    assert!(report.verdict.sentence.contains("weekly, due on Thursday"), "{}", report.verdict.sentence);
    assert_eq!(report.verdict.until, Some(time_at(100 + 30 * DAY)), "the overlap ends before it is forgotten");
    let short = KeyringOverlap { seen_within: std::time::Duration::from_hours(10 * 24), ..overlap() };
    assert_eq!(build_report(&ledger, &short, 60 + 10 * DAY).verdict.retire, RetireAdvice::Wait);
    let later = build_report(&ledger, &short, 61 + 10 * DAY);
    assert_eq!((later.verdict.retire, later.lines.len()), (RetireAdvice::Safe, 1), "{}", later.verdict.sentence);
}

#[test]
fn peers_without_a_certificate_have_a_line_for_each_source_and_cannot_prevent_safe() {
    let mut ledger = old_ledger();
    record_rotation(&mut ledger);
    ETL.proves(&mut ledger, 110);
    let sources: Vec<&'static str> =
        (0..2000).map(|number| &*format!("10.0.{}.{}", number / 256, number % 256).leak()).collect();
    for (number, source) in sources.iter().enumerate() {
        let hostile = Host("anonymous", 0, source);
        hostile.connects(&mut ledger, OLD, SelectionReason::Authorities, 120 + number as i64);
        hostile.ends(&mut ledger, NEW, SenderOutcome::UnexplainedEnd, 120 + number as i64);
    }
    Host("anonymous", 0, "192.0.2.1").proves(&mut ledger, 3000);
    let report = build_report(&ledger, &overlap(), 3001);
    assert_eq!(report.verdict.retire, RetireAdvice::Safe, "{}", report.verdict.sentence);
    assert!(ledger.anonymous.len() <= MAX_ANONYMOUS && report.anonymous.len() == ledger.anonymous.len());
    assert_eq!(ledger.anonymous_forgotten as usize + ledger.anonymous.len(), 2001);
    assert!(report.anonymous.iter().any(|line| line.name == "192.0.2.1" && line.stands == RotationProgress::ProvedNew));
    assert!(report.verdict.unknown.iter().any(|one| one.starts_with("2001 source(s)")), "{:?}", report.verdict.unknown);
    assert_eq!(uses(&report), [("acme-etl", RotationProgress::ProvedNew)]);
}

#[test]
fn more_senders_than_the_table_holds_make_the_report_incomplete_until_they_no_longer_count() {
    let mut ledger = old_ledger();
    record_rotation(&mut ledger);
    for number in 0..MAX_SENDERS as i64 + 10 {
        let source: &'static str = format!("10.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255).leak();
        Host("acme-etl", 7, source).proves(&mut ledger, 101 + number / 1000);
    }
    let report = build_report(&ledger, &overlap(), 200);
    assert!(ledger.senders.len() <= MAX_SENDERS && report.forgotten > 0);
    assert_eq!(report.forgotten as usize + ledger.senders.len(), MAX_SENDERS + 10);
    assert_eq!((report.verdict.retire, report.lines[0].senders.len()), (RetireAdvice::Wait, 100));
    assert!(report.verdict.sentence.contains("were forgotten"), "{}", report.verdict.sentence);
    assert!(ledger.changed.len() <= ledger.senders.len());
    let mut long = overlap();
    long.previous[0].ends = time_at(100 * DAY);
    Host::named("other").proves(&mut ledger, 40 * DAY);
    assert_eq!(build_report(&ledger, &long, 40 * DAY).verdict.retire, RetireAdvice::Safe);
}

#[test]
fn a_step_of_the_clock_makes_no_sender_older_or_younger() {
    for step in [40 * DAY, -40 * DAY] {
        let mut ledger = old_ledger();
        ETL.connects(&mut ledger, OLD, SelectionReason::Only, 90);
        record_rotation(&mut ledger);
        Host::named("other").proves(&mut ledger, 110);
        ledger.shift_times(SignedDuration::from_mins(step));
        let long = KeyringOverlap {
            previous: vec![PreviousPair { key_pair: pair(OLD), ends: time_at(400 * DAY), survives_restart: true }],
            ..overlap()
        };
        let report = build_report(&ledger, &long, 130 + step);
        assert_eq!(uses(&report)[0], ("acme-etl", RotationProgress::NotSeen), "{step}");
        assert_eq!(report.verdict.retire, RetireAdvice::Wait);
        let fact = |outcome| LedgerFact::Proof {
            keyring: &long.keyring,
            listener: &long.keyring,
            identity: ETL.0,
            certificate: Some(pair(ETL.1)),
            source: ETL.2.parse().ok(),
            key_pair: pair(NEW),
            outcome,
            epoch: 2,
        };
        ledger.record(&fact(SenderOutcome::Proved), time_at(140 + step));
        assert_eq!(build_report(&ledger, &long, 150 + step).verdict.retire, RetireAdvice::Safe, "{step}");
    }
}

#[test]
fn a_peer_that_confirmed_its_refusal_is_named_once_and_the_sentence_says_why_it_is_to_be_called() {
    let mut ledger = old_ledger();
    record_rotation(&mut ledger);
    ETL.connects(&mut ledger, OLD, SelectionReason::Learned, 110);
    let source = PeerSource::new(shared_str("api"), ETL.2.parse().unwrap(), None);
    let (sender, keyring) = (SenderKind { source, offer: 1 }, shared_str("api"));
    let refusal = RefusalReport {
        sender: &sender,
        keyring: &keyring,
        key_pair: pair(NEW),
        reason: "unknown_ca",
        certificate: None,
        next: Some(pair(OLD)),
    };
    let peer = Some((pair(ETL.1), ETL.0));
    let proof = PeerProofReport { sender: &sender, key_pair: pair(OLD), current: false, peer };
    let mut learned = RefusalTable::default();
    let refused = learned.record_refusal(&refusal, time_at(105));
    for change in refused.into_iter().chain(learned.record_proof(&proof, time_at(110))) {
        let (source, explanation) = (change.entry.source.to_string(), change.explanation());
        let fact = LedgerFact::Source {
            keyring: &keyring,
            listener: &keyring,
            source: &source,
            refused: pair(NEW),
            shown: pair(OLD),
            lesson: change.standing,
            peer: change.entry.peer.as_deref(),
            reason: change.reason,
            explanation: &explanation,
        };
        ledger.record(&fact, time_at(110));
    }
    let report = build_report(&ledger, &overlap(), 200);
    assert_eq!(
        report.verdict.sentence,
        "1 of 1 peers would fail: call acme (acme-etl, contact noc@acme.example) first; 29 days left. It completed a request on \
         010101010101 after it refused 020202020202: it will be shown 010101010101 until that pair's overlap ends, and 020202020202 again \
         from time to time; ask its operator to trust the issuer of the new one before then"
    );
}

#[test]
fn alerts_alone_push_out_no_confirmed_source() {
    let mut ledger = old_ledger();
    for source in 0..MAX_SOURCES as u32 / 2 {
        record_refusal(&mut ledger, &format!("confirmed-{source}"), None, RefusalStatus::Confirmed, 100);
    }
    for source in 0..2 * MAX_SOURCES {
        record_refusal(&mut ledger, &format!("alert-{source}"), None, RefusalStatus::Unconfirmed, 110);
    }
    let keyring = shared_str("api");
    let confirmed =
        ledger.sources.refusals_of(&keyring).filter(|(_, _, source)| source.lesson == RefusalStatus::Confirmed).count();
    assert_eq!(confirmed, MAX_SOURCES / 2);
    assert!(ledger.sources.len() <= MAX_SOURCES);
}

#[test]
fn fifty_thousand_senders_sources_and_upstreams_keep_within_the_ledger_s_limits() {
    let mut ledger = old_ledger();
    record_rotation(&mut ledger);
    let keyring = shared_str("api");
    for number in 0..50_000_u32 {
        let (name, source) = (format!("host-{number}"), std::net::IpAddr::from((0x0a00_0000 + number).to_be_bytes()));
        for certificate in [Some(Fingerprint::of(name.as_bytes())), None] {
            let fact = LedgerFact::Proof {
                keyring: &keyring,
                listener: &keyring,
                identity: &name,
                certificate,
                source: Some(source),
                key_pair: pair(NEW),
                outcome: SenderOutcome::Proved,
                epoch: 2,
            };
            ledger.record(&fact, time_at(101 + i64::from(number) / 1000));
        }
        record_refusal(&mut ledger, &source.to_string(), Some(&name), RefusalStatus::Unconfirmed, 110);
        let upstreams = [(Arc::from(name), source.to_string())];
        ledger.record(&LedgerFact::Configured { upstreams: &upstreams, epoch: 2 }, time_at(110));
    }
    assert!(ledger.senders.len() <= MAX_SENDERS && ledger.anonymous.len() <= MAX_ANONYMOUS);
    assert!(ledger.changed.len() <= ledger.senders.len(), "{} are to be written", ledger.changed.len());
    assert_eq!((ledger.sources.len(), ledger.upstreams.len()), (MAX_SOURCES, 1024));
    let forgotten: Vec<_> = ledger.forgotten.values().map(|forgotten| forgotten.count).collect();
    assert_eq!(forgotten, [50_000 - ledger.senders.len() as u64], "what was dropped is counted, once for each keyring");
    assert_eq!(ledger.anonymous_forgotten as usize + ledger.anonymous.len(), 50_000);
}
