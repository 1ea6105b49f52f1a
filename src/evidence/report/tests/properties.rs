//! Whatever happens, in whatever order: the memory is bounded, and "safe" means that no peer is known to break.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum ReportStep {
    Came { who: u16, shown: u8, chosen_by: SelectionReason },
    Taught { source: u16, lesson: RefusalStatus },
    Upstream { shown: u8, said: UpstreamResponse, handshake: bool },
    Rotated,
}

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
    prop_oneof![
        6 => (0..6_u16, 1..15_u8, chosen_by).prop_map(|(who, shown, chosen_by)| ReportStep::Came { who, shown, chosen_by }),
        3 => (0..2000_u16, lesson).prop_map(|(source, lesson)| ReportStep::Taught { source, lesson }),
        3 => (1..15_u8, said, any::<bool>()).prop_map(|(shown, said, handshake)| ReportStep::Upstream { shown, said, handshake }),
        1 => Just(ReportStep::Rotated),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_memory_is_bounded_and_safe_means_that_no_known_peer_breaks(
        steps in prop::collection::vec((any_step(), 0..3_i64), 0..300),
    ) {
        let mut ledger = RotationLedger::new(time_at(0));
        let keyring = KeyringOverlap { upstreams: vec![(shared_str("salesforce"), "sf".to_owned())], ..overlap() };
        let mut now = 90;
        for (step, minutes) in steps {
            now += minutes;
            match step {
                ReportStep::Came { who, shown, chosen_by } => record_handshake(&mut ledger, &format!("peer-{who}"), shown, chosen_by, now),
                ReportStep::Taught { source, lesson } => record_refusal(&mut ledger, &format!("10.0.{}.{}", source / 256, source % 256), lesson, now),
                ReportStep::Upstream { shown, said, handshake } => record_upstream(&mut ledger, shown, said, handshake, now),
                ReportStep::Rotated => record_rotation(&mut ledger),
            }
            let (peers, sources, upstreams) = ledger.size();
            prop_assert!(peers <= MAX_PEERS && sources <= MAX_SOURCES && upstreams <= 1);
            prop_assert!(ledger.peers.values().all(|peer| peer.pairs.len() <= 10));
        }
        let report = build_report(&ledger, &keyring, now);
        let proved = report.lines.iter().all(|line| line.stands == RotationProgress::ProvedNew);
        let confirmed = report.lines.iter().any(|line| line.stands == RotationProgress::InsistsOnOld);
        prop_assert_eq!(report.verdict.retire == RetireAdvice::Safe, proved && !report.lines.is_empty());
        prop_assert_eq!(report.verdict.retire == RetireAdvice::Call, confirmed);
        prop_assert!(!report.verdict.sentence.is_empty() && !report.verdict.sentence.contains('\n'));
        prop_assert!(report.lines.is_sorted_by_key(|line| line.stands));
        // The same again says the same, and a text of it is the same report.
        prop_assert_eq!(&build_report(&ledger, &keyring, now), &report);
        let text = serde_json::to_string(&report).unwrap();
        prop_assert_eq!(serde_json::from_str::<RotationReport>(&text).unwrap(), report);
    }
}
