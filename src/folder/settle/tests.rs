use proptest::prelude::*;

use super::*;

const SETTLE_TIME: Duration = Duration::from_secs(2);

fn keyring_part(name: &str) -> FolderPart {
    FolderPart::Keyring(name.into())
}

fn part_state(digest: u8, complete: bool) -> PartObservation {
    PartObservation { digest: [digest; 32], complete }
}

fn reading_times(now: Instant, noticed: Option<Instant>) -> ArrivalTime {
    ArrivalTime { now, noticed, settle: SETTLE_TIME }
}

#[test]
fn the_first_reading_acts_at_once_where_it_is_complete() {
    let start = Instant::now();
    let mut settle = SettleState::default();
    let parts = BTreeMap::from([(keyring_part("a"), part_state(1, true)), (keyring_part("b"), part_state(1, false))]);
    let decisions = settle.decide(&parts, false, reading_times(start, None));
    assert_eq!(decisions[&keyring_part("a")], SettleDecision::Act);
    assert_eq!(decisions[&keyring_part("b")], SettleDecision::Wait(start + SETTLE_TIME));
    let decisions = settle.decide(&parts, false, reading_times(start + SETTLE_TIME, None));
    assert_eq!(decisions[&keyring_part("a")], SettleDecision::Act);
    assert_eq!(decisions[&keyring_part("b")], SettleDecision::Refuse);
}

#[test]
fn a_change_acts_after_quiet_and_a_half_one_after_settle() {
    let start = Instant::now();
    let mut settle = SettleState::default();
    settle.decide(&BTreeMap::from([(keyring_part("a"), part_state(1, true))]), false, reading_times(start, None));
    let noticed = start + Duration::from_secs(1);
    let half = BTreeMap::from([(keyring_part("a"), part_state(2, false))]);
    let decisions = settle.decide(&half, false, reading_times(noticed + QUIET_PERIOD, Some(noticed)));
    assert_eq!(decisions[&keyring_part("a")], SettleDecision::Wait(noticed + SETTLE_TIME));
    let whole = BTreeMap::from([(keyring_part("a"), part_state(3, true))]);
    let noticed = noticed + Duration::from_secs(1);
    let decisions = settle.decide(&whole, false, reading_times(noticed + QUIET_PERIOD, Some(noticed)));
    assert_eq!(decisions[&keyring_part("a")], SettleDecision::Act);
}

#[test]
fn a_missing_folder_removes_nothing() {
    let start = Instant::now();
    let mut settle = SettleState::default();
    let parts = BTreeMap::from([(keyring_part("a"), part_state(1, true)), (FolderPart::Folder, part_state(0, true))]);
    settle.decide(&parts, false, reading_times(start, None));
    let missing = BTreeMap::from([(FolderPart::Folder, part_state(9, false))]);
    let later = start + Duration::from_secs(9);
    let decisions = settle.decide(&missing, true, reading_times(later, None));
    assert_eq!(decisions, BTreeMap::from([(FolderPart::Folder, SettleDecision::Wait(later + SETTLE_TIME))]));
    let decisions = settle.decide(&parts, false, reading_times(later + QUIET_PERIOD, None));
    assert_eq!(decisions[&keyring_part("a")], SettleDecision::Act);
}

#[test]
fn a_keyring_that_is_deleted_is_gone_after_quiet() {
    let start = Instant::now();
    let mut settle = SettleState::default();
    settle.decide(&BTreeMap::from([(keyring_part("a"), part_state(1, true))]), false, reading_times(start, None));
    let empty = BTreeMap::new();
    let decisions = settle.decide(&empty, false, reading_times(start + QUIET_PERIOD, None));
    assert_eq!(decisions[&keyring_part("a")], SettleDecision::Wait(start + QUIET_PERIOD + QUIET_PERIOD));
    let decisions = settle.decide(&empty, false, reading_times(start + QUIET_PERIOD + QUIET_PERIOD, None));
    assert_eq!(decisions[&keyring_part("a")], SettleDecision::Act);
    assert!(settle.decide(&empty, false, reading_times(start + SETTLE_TIME, None)).is_empty());
}

/// One step of a history: time passes, perhaps something changes, perhaps it is noticed, perhaps it is read.
#[derive(Clone, Debug)]
struct SettleStep {
    passes: u64,
    change: Option<(u8, Option<(u8, bool)>)>,
    notice: bool,
    read: bool,
}

fn any_history_step() -> impl Strategy<Value = SettleStep> {
    let change = proptest::option::of((0..3_u8, proptest::option::of((1..4_u8, any::<bool>()))));
    (0..900_u64, change, any::<bool>(), any::<bool>()).prop_map(|(passes, change, notice, read)| SettleStep {
        passes,
        change,
        notice,
        read,
    })
}

fn record_decisions(
    acted: &mut BTreeMap<FolderPart, PartObservation>,
    seen: &BTreeMap<FolderPart, PartObservation>,
    decisions: &BTreeMap<FolderPart, SettleDecision>,
) {
    for (part, decision) in decisions {
        match (decision, seen.get(part)) {
            (SettleDecision::Wait(_), _) => {}
            (_, Some(seen)) => {
                acted.insert(part.clone(), *seen);
            }
            (_, None) => {
                acted.remove(part);
            }
        }
    }
}

proptest! {
    #[test]
    fn any_interleaving_ends_with_the_final_contents_acted_on(steps in proptest::collection::vec(any_history_step(), 0..40)) {
        let mut now = Instant::now();
        let (mut settle, mut there, mut acted) = (SettleState::default(), BTreeMap::new(), BTreeMap::new());
        let mut noticed = None;
        for step in steps {
            now += Duration::from_millis(step.passes);
            if let Some((part, held)) = step.change {
                let part = keyring_part(&part.to_string());
                // A digest is one content: complete or not goes with it.
                match held {
                    Some((digest, complete)) => {
                        there.insert(part, part_state(digest * 2 + u8::from(complete), complete));
                    }
                    None => {
                        there.remove(&part);
                    }
                }
            }
            if step.notice {
                noticed = Some(now);
            }
            if step.read {
                let decisions = settle.decide(&there, false, reading_times(now, noticed.take()));
                record_decisions(&mut acted, &there, &decisions);
            }
        }
        // From here on nothing changes: a rescan, and then only what the decisions ask for.
        for _ in 0..4 {
            now += Duration::from_millis(10);
            let decisions = settle.decide(&there, false, reading_times(now, noticed.take()));
            record_decisions(&mut acted, &there, &decisions);
            for (part, decision) in &decisions {
                let complete = there.get(part).is_none_or(|seen| seen.complete);
                let fits = match decision {
                    SettleDecision::Wait(_) => true,
                    SettleDecision::Act => complete,
                    SettleDecision::Refuse => !complete,
                };
                prop_assert!(fits);
                if let SettleDecision::Wait(until) = decision {
                    let longest = if complete { QUIET_PERIOD } else { SETTLE_TIME };
                    prop_assert!(*until - now <= longest);
                }
            }
            let next = decisions.values().filter_map(|decision| match decision {
                SettleDecision::Wait(until) => Some(*until),
                _ => None,
            });
            match next.min() {
                Some(until) => now = until,
                None => break,
            }
        }
        prop_assert_eq!(acted, there);
    }
}
