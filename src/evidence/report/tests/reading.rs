//! A reading of the registry is prepared on a copy and taken over in parts: nothing that happens meanwhile is lost, and no part of a
//! reading makes a verdict.

use proptest::prelude::*;

use super::super::reading::PART_SIZE;
use super::fleet::{history, insists, proved, recalled};
use super::*;

fn merge(ledger: &mut RotationLedger, mut prepared: PreparedHistory) {
    while !ledger.merge_history(&mut prepared) {}
}

#[test]
fn no_verdict_rests_on_a_reading_of_which_a_part_is_missing() {
    let mut ledger = RotationLedger::new(time_at(0));
    ledger.await_registry();
    record_rotation(&mut ledger);
    ETL.proves(&mut ledger, 110);
    let host = |number: usize| {
        let mut one = proved(false, ETL, 120);
        if let RecalledUse::Sender { key, .. } = &mut one {
            key.source = Some(std::net::IpAddr::from((0x0a00_0000 + number as u32).to_be_bytes()));
        }
        one
    };
    let uses = (0..3 * PART_SIZE).map(host).chain([insists(false, Host::named("holdout"), 120)]);
    let mut prepared = ledger.copy_for_reports().prepare_history(history(0, uses.collect()), time_at(130));
    let mut parts = 1;
    while !ledger.merge_history(&mut prepared) {
        let report = build_report(&ledger, &overlap(), 131);
        assert_ne!(report.verdict.retire, RetireAdvice::Safe, "{}", report.verdict.sentence);
        parts += 1;
    }
    assert_eq!((parts, ledger.senders.len()), (4, 3 * PART_SIZE + 2));
    assert_eq!(build_report(&ledger, &overlap(), 131).verdict.retire, RetireAdvice::Blocked);
    // The same again changes nothing, and what it has no more is gone.
    let same = ledger.copy_for_reports().prepare_history(history(0, vec![host(0)]), time_at(140));
    merge(&mut ledger, same);
    assert_eq!(ledger.senders.len(), 2);
    assert_eq!(build_report(&ledger, &overlap(), 141).verdict.retire, RetireAdvice::Safe);
}

#[test]
fn a_reading_from_before_a_rotation_proves_nothing_of_the_next_one() {
    let mut ledger = RotationLedger::new(time_at(150));
    ledger.await_registry();
    let prepared = ledger.copy_for_reports().prepare_history(history(0, vec![proved(true, ETL, 130)]), time_at(160));
    ledger.record(&LedgerFact::Rotated { keyring: &shared_str("api"), epoch: 3 }, time_at(170));
    merge(&mut ledger, prepared);
    let again = KeyringOverlap { rotated: time_at(170), ..overlap() };
    assert_eq!(uses(&build_report(&ledger, &again, 171)), [("acme-etl", RotationProgress::NotSeen)]);
}

const HOSTS: [Host; 5] = [
    Host("a", 1, "10.0.0.1"),
    Host("a", 1, "10.0.0.2"),
    Host("a", 2, "10.0.0.1"),
    Host("b", 3, "10.0.0.1"),
    Host("acme", 5, "10.0.0.5"),
];

/// A host, the pair that it was shown, whether it proved it.
type HostVisit = (usize, u8, bool);

fn any_visits() -> impl Strategy<Value = Vec<HostVisit>> {
    prop::collection::vec((0..HOSTS.len(), 1..4_u8, any::<bool>()), 0..20)
}

fn visit_all(ledger: &mut RotationLedger, visits: &[HostVisit], minute: i64) {
    for (who, shown, proves) in visits {
        let outcome = if *proves { SenderOutcome::Proved } else { SenderOutcome::UnexplainedEnd };
        HOSTS[*who].connects(ledger, *shown, SelectionReason::Prefer, minute);
        HOSTS[*who].ends(ledger, *shown, outcome, minute);
    }
}

fn read_visits(visits: &[HostVisit], minute: i64) -> RecalledHistory {
    let uses = visits.iter().enumerate().map(|(number, (who, shown, proves))| {
        recalled(number % 3 == 0, HOSTS[*who], *shown, minute, |evidence| {
            evidence.proved = proves.then(|| time_at(minute));
        })
    });
    history(0, uses.collect())
}

proptest! {
    #[test]
    fn what_happens_while_a_reading_is_prepared_is_as_if_the_reading_had_come_later(
        first in any_visits(), second in any_visits(), before in any_visits(), between in any_visits(),
    ) {
        let mut at_once = RotationLedger::new(time_at(150));
        record_refusal(&mut at_once, "10.0.0.5", Some("acme"), RefusalStatus::Confirmed, 151);
        at_once.recall(read_visits(&first, 152), time_at(155));
        visit_all(&mut at_once, &[(4, NEW, true)], 156);
        visit_all(&mut at_once, &before, 160);
        let mut in_parts = at_once.clone();
        let prepared = in_parts.copy_for_reports().prepare_history(read_visits(&second, 165), time_at(168));
        visit_all(&mut in_parts, &between, 170);
        merge(&mut in_parts, prepared);
        visit_all(&mut at_once, &between, 170);
        at_once.recall(read_visits(&second, 165), time_at(168));
        prop_assert_eq!(in_parts.senders.len(), at_once.senders.len());
        prop_assert_eq!(build_report(&in_parts, &overlap(), 180), build_report(&at_once, &overlap(), 180));
    }
}
