//! Whatever happens, in whatever order: the memory is bounded, and "safe" means that every sender has proved.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum ReportStep {
    Came { who: u8, shown: u8, chosen_by: SelectionReason },
    Ended { who: u8, shown: u8, outcome: SenderOutcome },
    Taught { source: u16, lesson: RefusalStatus, peer: Option<u8> },
    Upstream { shown: u8, said: UpstreamResponse, handshake: bool },
    Rotated,
    Stepped { hours: i64 },
}

const HOSTS: [Host; 6] = [
    Host("peer-0", 1, "10.0.0.1"),
    Host("peer-0", 1, "10.0.0.2"),
    Host("peer-1", 2, "10.0.0.1"),
    Host("peer-1", 3, "10.0.0.1"),
    Host("peer-2", 4, "10.0.0.4"),
    Host("anonymous", 0, "10.0.0.5"),
];

fn any_step() -> impl Strategy<Value = ReportStep> {
    let chosen_by = prop::sample::select(vec![
        SelectionReason::Only,
        SelectionReason::Authorities,
        SelectionReason::Partner,
        SelectionReason::Learned,
        SelectionReason::Prefer,
    ]);
    let lesson =
        prop::sample::select(vec![RefusalStatus::Unconfirmed, RefusalStatus::Confirmed, RefusalStatus::Forgotten]);
    let said =
        prop::sample::select(vec![UpstreamResponse::HandshakeOk, UpstreamResponse::Proved, UpstreamResponse::Refused]);
    let outcome = prop::sample::select(vec![SenderOutcome::Proved, SenderOutcome::UnexplainedEnd]);
    prop_oneof![
        6 => (0..6_u8, 1..15_u8, chosen_by).prop_map(|(who, shown, chosen_by)| ReportStep::Came { who, shown, chosen_by }),
        6 => (0..6_u8, 1..4_u8, outcome).prop_map(|(who, shown, outcome)| ReportStep::Ended { who, shown, outcome }),
        3 => (0..2000_u16, lesson, prop::option::of(0..3_u8)).prop_map(|(source, lesson, peer)| ReportStep::Taught { source, lesson, peer }),
        3 => (1..15_u8, said, any::<bool>()).prop_map(|(shown, said, handshake)| ReportStep::Upstream { shown, said, handshake }),
        1 => Just(ReportStep::Rotated),
        1 => (-1000..1000_i64).prop_map(|hours| ReportStep::Stepped { hours }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_memory_is_bounded_and_safe_means_that_every_sender_has_proved(
        steps in prop::collection::vec((any_step(), 0..3_i64), 0..300),
    ) {
        let mut ledger = old_ledger();
        let mut keyring = KeyringOverlap { upstreams: vec![(shared_str("salesforce"), "sf".to_owned())], ..overlap() };
        keyring.previous[0].ends = Timestamp::MAX;
        let mut now = 100;
        for (step, minutes) in steps {
            now += minutes;
            match step {
                ReportStep::Came { who, shown, chosen_by } => HOSTS[usize::from(who)].connects(&mut ledger, shown, chosen_by, now),
                ReportStep::Ended { who, shown, outcome } => HOSTS[usize::from(who)].ends(&mut ledger, shown, outcome, now),
                ReportStep::Taught { source, lesson, peer } => {
                    let peer = peer.map(|peer| format!("peer-{peer}"));
                    record_refusal(&mut ledger, &format!("10.0.{}.{}", source / 256, source % 256), peer.as_deref(), lesson, now);
                }
                ReportStep::Upstream { shown, said, handshake } => record_upstream(&mut ledger, shown, said, handshake, now),
                ReportStep::Rotated => record_rotation(&mut ledger),
                ReportStep::Stepped { hours } => {
                    now += hours * 60;
                    ledger.shift_times(SignedDuration::from_hours(hours));
                }
            }
            let (senders, anonymous, sources, upstreams) = ledger.size();
            prop_assert!(senders <= 5 && anonymous <= 1 && sources <= MAX_SOURCES && upstreams <= 1);
            prop_assert!(ledger.senders.iter().all(|(_, sender)| sender.own.len() <= 10));
        }
        let report = build_report(&ledger, &keyring, now);
        let proved = report.lines.iter().all(|line| line.stands == RotationProgress::ProvedNew);
        let fails = report.lines.iter().any(|line| line.stands <= RotationProgress::EndsUnexplained);
        prop_assert_eq!(report.verdict.retire == RetireAdvice::Safe, proved && !report.lines.is_empty());
        prop_assert_eq!(report.verdict.retire == RetireAdvice::Blocked, fails);
        prop_assert_eq!(report.verdict.retire == RetireAdvice::Wait, report.verdict.until.is_some());
        for sender in report.lines.iter().filter(|line| line.stands == RotationProgress::ProvedNew).flat_map(|line| &line.senders) {
            prop_assert!(sender.proved.is_some() && sender.unexplained_ends < 2);
        }
        prop_assert!(!report.verdict.sentence.is_empty() && !report.verdict.sentence.contains('\n'));
        prop_assert!(report.lines.is_sorted_by_key(|line| line.stands));
        // The same again says the same, and a text of it is the same report.
        prop_assert_eq!(&build_report(&ledger, &keyring, now), &report);
        let text = serde_json::to_string(&report).unwrap();
        prop_assert_eq!(serde_json::from_str::<RotationReport>(&text).unwrap(), report);
    }
}
