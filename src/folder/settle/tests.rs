use proptest::prelude::*;

use super::*;

const SETTLE: Duration = Duration::from_secs(2);

fn keyring(name: &str) -> Part {
    Part::Keyring(name.into())
}

fn seen(digest: u8, complete: bool) -> Seen {
    Seen { digest: [digest; 32], complete }
}

fn at(now: Instant, noticed: Option<Instant>) -> When {
    When { now, noticed, settle: SETTLE }
}

#[test]
fn the_first_reading_acts_at_once_where_it_is_complete() {
    let start = Instant::now();
    let mut settle = Settle::default();
    let parts = BTreeMap::from([(keyring("a"), seen(1, true)), (keyring("b"), seen(1, false))]);
    let decisions = settle.reading(&parts, false, at(start, None));
    assert_eq!(decisions[&keyring("a")], Decision::Act);
    assert_eq!(decisions[&keyring("b")], Decision::Wait(start + SETTLE));
    let decisions = settle.reading(&parts, false, at(start + SETTLE, None));
    assert_eq!(decisions[&keyring("a")], Decision::Act);
    assert_eq!(decisions[&keyring("b")], Decision::Refuse);
}

#[test]
fn a_change_acts_after_quiet_and_a_half_one_after_settle() {
    let start = Instant::now();
    let mut settle = Settle::default();
    settle.reading(&BTreeMap::from([(keyring("a"), seen(1, true))]), false, at(start, None));
    let noticed = start + Duration::from_secs(1);
    let half = BTreeMap::from([(keyring("a"), seen(2, false))]);
    let decisions = settle.reading(&half, false, at(noticed + QUIET, Some(noticed)));
    assert_eq!(decisions[&keyring("a")], Decision::Wait(noticed + SETTLE));
    let whole = BTreeMap::from([(keyring("a"), seen(3, true))]);
    let noticed = noticed + Duration::from_secs(1);
    let decisions = settle.reading(&whole, false, at(noticed + QUIET, Some(noticed)));
    assert_eq!(decisions[&keyring("a")], Decision::Act);
}

#[test]
fn a_missing_folder_removes_nothing() {
    let start = Instant::now();
    let mut settle = Settle::default();
    let parts = BTreeMap::from([(keyring("a"), seen(1, true)), (Part::Folder, seen(0, true))]);
    settle.reading(&parts, false, at(start, None));
    let missing = BTreeMap::from([(Part::Folder, seen(9, false))]);
    let later = start + Duration::from_secs(9);
    let decisions = settle.reading(&missing, true, at(later, None));
    assert_eq!(decisions, BTreeMap::from([(Part::Folder, Decision::Wait(later + SETTLE))]));
    let decisions = settle.reading(&parts, false, at(later + QUIET, None));
    assert_eq!(decisions[&keyring("a")], Decision::Act);
}

#[test]
fn a_keyring_that_is_deleted_is_gone_after_quiet() {
    let start = Instant::now();
    let mut settle = Settle::default();
    settle.reading(&BTreeMap::from([(keyring("a"), seen(1, true))]), false, at(start, None));
    let empty = BTreeMap::new();
    let decisions = settle.reading(&empty, false, at(start + QUIET, None));
    assert_eq!(decisions[&keyring("a")], Decision::Wait(start + QUIET + QUIET));
    let decisions = settle.reading(&empty, false, at(start + QUIET + QUIET, None));
    assert_eq!(decisions[&keyring("a")], Decision::Act);
    assert!(settle.reading(&empty, false, at(start + SETTLE, None)).is_empty());
}

/// One step of a history: time passes, perhaps something changes, perhaps it is noticed, perhaps it is read.
#[derive(Clone, Debug)]
struct Step {
    passes: u64,
    change: Option<(u8, Option<(u8, bool)>)>,
    notice: bool,
    read: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let change = proptest::option::of((0..3_u8, proptest::option::of((1..4_u8, any::<bool>()))));
    (0..900_u64, change, any::<bool>(), any::<bool>()).prop_map(|(passes, change, notice, read)| Step {
        passes,
        change,
        notice,
        read,
    })
}

fn record(acted: &mut BTreeMap<Part, Seen>, seen: &BTreeMap<Part, Seen>, decisions: &BTreeMap<Part, Decision>) {
    for (part, decision) in decisions {
        match (decision, seen.get(part)) {
            (Decision::Wait(_), _) => {}
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
    fn any_interleaving_ends_with_the_final_contents_acted_on(steps in proptest::collection::vec(step(), 0..40)) {
        let mut now = Instant::now();
        let (mut settle, mut there, mut acted) = (Settle::default(), BTreeMap::new(), BTreeMap::new());
        let mut noticed = None;
        for step in steps {
            now += Duration::from_millis(step.passes);
            if let Some((part, held)) = step.change {
                let part = keyring(&part.to_string());
                // A digest is one content: complete or not goes with it.
                match held {
                    Some((digest, complete)) => {
                        there.insert(part, seen(digest * 2 + u8::from(complete), complete));
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
                let decisions = settle.reading(&there, false, at(now, noticed.take()));
                record(&mut acted, &there, &decisions);
            }
        }
        // From here on nothing changes: a rescan, and then only what the decisions ask for.
        for _ in 0..4 {
            now += Duration::from_millis(10);
            let decisions = settle.reading(&there, false, at(now, noticed.take()));
            record(&mut acted, &there, &decisions);
            for (part, decision) in &decisions {
                let complete = there.get(part).is_none_or(|seen| seen.complete);
                let fits = match decision {
                    Decision::Wait(_) => true,
                    Decision::Act => complete,
                    Decision::Refuse => !complete,
                };
                prop_assert!(fits);
                if let Decision::Wait(until) = decision {
                    let longest = if complete { QUIET } else { SETTLE };
                    prop_assert!(*until - now <= longest);
                }
            }
            let next = decisions.values().filter_map(|decision| match decision {
                Decision::Wait(until) => Some(*until),
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
