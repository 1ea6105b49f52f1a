//! What the registry knows of former processes: it adds to what this process saw, and never overrides it.

use proptest::prelude::*;

use super::*;

fn recalled_peer(who: &str, shown: u8, chosen_by: Option<SelectionReason>, minute: i64) -> RecalledUse {
    RecalledUse::Peer {
        keyring: shared_str("api"),
        listener: shared_str("api"),
        identity: who.to_owned(),
        partner: who.starts_with("acme").then(|| shared_str("acme")),
        source: Some("203.0.113.7".parse().unwrap()),
        key_pair: pair(shown),
        chosen_by,
        last: time_at(minute),
        is_after: minute >= 100,
    }
}

#[test]
fn what_the_registry_has_makes_a_restart_forget_nothing() {
    // The process is younger than the rotation.
    let mut ledger = RotationLedger::new(time_at(150));
    ledger.await_registry();
    record_handshake(&mut ledger, "a", NEW, SelectionReason::Prefer, 160);
    let awaited = build_report(&ledger, &overlap(), 200);
    assert_eq!((awaited.verdict.retire, awaited.before), (RetireAdvice::Wait, PriorHistory::Awaited));
    assert!(awaited.verdict.sentence.contains("until the registry answers"), "{}", awaited.verdict.sentence);
    let former = vec![
        recalled_peer("a", OLD, Some(SelectionReason::Authorities), 120),
        recalled_peer("b", NEW, Some(SelectionReason::Prefer), 130),
    ];
    ledger.recall(former, time_at(0));
    let safe = build_report(&ledger, &overlap(), 200);
    assert_eq!(
        (safe.verdict.retire, safe.before, safe.watched_since),
        (RetireAdvice::Safe, PriorHistory::Recalled, time_at(0))
    );
    assert_eq!(
        uses(&safe),
        [("a", RotationProgress::ProvedNew), ("b", RotationProgress::ProvedNew)],
        "what this process saw goes first"
    );
    assert_eq!((safe.lines[1].last_new, safe.lines[1].handshakes_new), (Some(time_at(130)), 0));

    // A peer seen only before the rotation counts as not seen; one on the old pair after it stays, with the reason.
    let former = vec![
        recalled_peer("acme-etl", OLD, Some(SelectionReason::Authorities), 140),
        recalled_peer("old-row", OLD, None, 130),
        recalled_peer("seldom", OLD, Some(SelectionReason::Only), 50),
    ];
    ledger.recall(former, time_at(0));
    let call = build_report(&ledger, &overlap(), 200);
    assert_eq!(
        uses(&call)[..3],
        [
            ("acme-etl", RotationProgress::InsistsOnOld),
            ("old-row", RotationProgress::StillOnOld),
            ("seldom", RotationProgress::NotSeen)
        ]
    );
    assert_eq!((call.verdict.retire, call.lines[0].since), (RetireAdvice::Call, Some(time_at(140))));
    assert_eq!(call.lines[0].contact.as_deref(), Some("noc@acme.example"));

    // A registry that was created after the rotation cannot know all peers.
    let mut young = RotationLedger::new(time_at(190));
    young.recall(vec![recalled_peer("a", NEW, Some(SelectionReason::Prefer), 160)], time_at(150));
    let half = build_report(&young, &overlap(), 200);
    assert_eq!((half.verdict.retire, half.watched_since), (RetireAdvice::Wait, time_at(150)));
    assert!(half.verdict.sentence.contains("before the registry was created"), "{}", half.verdict.sentence);
}

#[test]
fn more_than_the_table_holds_is_not_recalled_and_that_is_counted() {
    let mut ledger = RotationLedger::new(time_at(150));
    let former = (0..MAX_PEERS as i64 + 10).map(|number| recalled_peer(&format!("peer-{number}"), NEW, None, 120));
    ledger.recall(former.collect(), time_at(0));
    let report = build_report(&ledger, &overlap(), 200);
    assert_eq!((ledger.size().0, report.forgotten, report.verdict.retire), (MAX_PEERS, 10, RetireAdvice::Wait));
}

#[test]
fn what_an_upstream_had_made_of_the_new_pair_is_recalled_until_it_says_something_else() {
    let keyring =
        KeyringOverlap { upstreams: vec![(shared_str("salesforce"), "sf.example:8443".to_owned())], ..overlap() };
    let word = |said| RecalledUse::Upstream {
        keyring: shared_str("api"),
        listener: shared_str("salesforce"),
        key_pair: pair(NEW),
        said,
        since: time_at(120),
        reason: "status_401".to_owned(),
        explanation: "it answered 401".to_owned(),
    };
    let shown = |key_pair, minute| RecalledUse::Shown {
        keyring: shared_str("api"),
        listener: shared_str("salesforce"),
        key_pair: pair(key_pair),
        last: time_at(minute),
    };
    let mut ledger = RotationLedger::new(time_at(150));
    // The probe of this process comes first, as it does.
    record_upstream(&mut ledger, NEW, UpstreamResponse::HandshakeOk, true, 151);
    ledger.recall(vec![shown(OLD, 140), word(UpstreamResponse::Refused)], time_at(0));
    let report = build_report(&ledger, &keyring, 200);
    let line = &report.lines[0];
    assert_eq!(
        (line.stands, line.reason.as_deref(), line.since),
        (RotationProgress::InsistsOnOld, Some("status_401"), Some(time_at(120)))
    );
    assert_eq!((line.last_old, line.last_new), (Some(time_at(140)), Some(time_at(151))));
    record_upstream(&mut ledger, NEW, UpstreamResponse::Proved, false, 160);
    assert_eq!(build_report(&ledger, &keyring, 200).verdict.retire, RetireAdvice::Safe);
    // What it says now goes before what it said.
    ledger.recall(vec![word(UpstreamResponse::Refused)], time_at(0));
    assert_eq!(build_report(&ledger, &keyring, 200).lines[0].stands, RotationProgress::ProvedNew);
}

proptest! {
    /// It does not matter when the registry answers: before this process has seen a peer, or after.
    #[test]
    fn what_is_recalled_late_is_as_if_it_had_been_known_from_the_start(
        former in prop::collection::vec((0..6_u16, 1..5_u8, 50..150_i64), 0..12),
        steps in prop::collection::vec((0..6_u16, 1..5_u8, 0..3_i64), 0..30),
        answered in 0..30_usize,
    ) {
        let all: Vec<RecalledUse> = former
            .iter()
            .map(|(who, shown, minute)| recalled_peer(&format!("peer-{who}"), *shown, Some(SelectionReason::Only), *minute))
            .collect();
        let tell = |answered: usize| {
            let mut ledger = RotationLedger::new(time_at(150));
            let mut now = 150;
            for (number, (who, shown, minutes)) in steps.iter().enumerate() {
                if number == answered {
                    ledger.recall(all.clone(), time_at(0));
                }
                now += minutes;
                record_handshake(&mut ledger, &format!("peer-{who}"), *shown, SelectionReason::Only, now);
            }
            if steps.len() <= answered {
                ledger.recall(all.clone(), time_at(0));
            }
            build_report(&ledger, &overlap(), 300)
        };
        prop_assert_eq!(tell(answered), tell(0));
    }
}
