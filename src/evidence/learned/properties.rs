//! In any order of events: the limits hold, only a request on the pair shown confirms, a confirmed refusal ends only for a
//! valid reason, and a sender that has proved the new pair is never shown another for a refusal.

use proptest::prelude::*;

use super::tests::{kind, pair, source};
use super::*;
use crate::keyring::KeyringName;
use crate::keyring::pool::day;

#[derive(Clone, Debug)]
enum RefusalStep {
    Refuse { sender: u8, key_pair: u8, next: Option<u8>, reason: usize },
    Prove { sender: u8, key_pair: u8, peer: Option<u8> },
    Come { sender: u8 },
    Tick { gone: u8 },
    Forget { source: u8 },
    Wait { hours: u16 },
}

const REASONS: [&str; 4] = ["unknown_ca", "bad_certificate", "ended_in_handshake", "ended_without_data"];

fn any_step() -> impl Strategy<Value = RefusalStep> {
    prop_oneof![
        4 => (0..12_u8, 0..4_u8, prop::option::of(0..4_u8), 0..REASONS.len())
            .prop_map(|(sender, key_pair, next, reason)| RefusalStep::Refuse { sender, key_pair, next, reason }),
        4 => (0..12_u8, 0..4_u8, prop::option::of(10..14_u8))
            .prop_map(|(sender, key_pair, peer)| RefusalStep::Prove { sender, key_pair, peer }),
        3 => (0..12_u8).prop_map(|sender| RefusalStep::Come { sender }),
        1 => (0..8_u8).prop_map(|gone| RefusalStep::Tick { gone }),
        1 => (0..6_u8).prop_map(|source| RefusalStep::Forget { source }),
        1 => (0..300_u16).prop_map(|hours| RefusalStep::Wait { hours }),
    ]
}

/// Six addresses, each with two kinds of senders.
fn numbered_sender(number: u8) -> SenderKind {
    kind(&source(&format!("192.0.2.{}", number % 6)), u64::from(number / 6) + 1)
}

fn act(learned: &mut RefusalTable, step: &RefusalStep, now: &mut Timestamp) -> Vec<RefusalChange> {
    match step {
        RefusalStep::Refuse { sender, key_pair, next, reason } => {
            let (sender, keyring) = (numbered_sender(*sender), "api".into());
            let refusal = RefusalReport {
                sender: &sender,
                keyring: &keyring,
                key_pair: pair(*key_pair),
                reason: REASONS[*reason],
                certificate: None,
                next: next.filter(|next| next != key_pair).map(pair),
            };
            learned.record_refusal(&refusal, *now)
        }
        RefusalStep::Prove { sender, key_pair, peer } => {
            let sender = numbered_sender(*sender);
            let peer = peer.map(|peer| (pair(peer), "p"));
            let (key_pair, current) = (pair(*key_pair), *key_pair == 0);
            learned.record_proof(&PeerProofReport { sender: &sender, key_pair, current, peer }, *now)
        }
        RefusalStep::Come { sender } => {
            learned.recall(&numbered_sender(*sender), *now);
            Vec::new()
        }
        RefusalStep::Tick { gone } => {
            learned.tick(&|_| Some((0..4).filter(|one| one != gone).map(pair).collect()), *now)
        }
        RefusalStep::Forget { source } => learned.forget(&format!("192.0.2.{source}")),
        RefusalStep::Wait { hours } => {
            *now += jiff::SignedDuration::from_hours(i64::from(*hours));
            Vec::new()
        }
    }
}

fn hour(hours: i64) -> Timestamp {
    day(0) + SignedDuration::from_hours(hours)
}

/// A refusal of the first pair, which the second could cure.
fn refuse_first_pair<'a>(sender: &'a SenderKind, keyring: &'a KeyringName) -> RefusalReport<'a> {
    RefusalReport { sender, keyring, key_pair: pair(1), reason: "unknown_ca", certificate: None, next: Some(pair(2)) }
}

#[test]
fn a_sender_whose_held_pair_ends_goes_on_with_the_next_and_its_trials_go_on_too() {
    let (mut learned, sender, keyring) = (RefusalTable::default(), numbered_sender(0), "api".into());
    let refusal = refuse_first_pair(&sender, &keyring);
    let proof = |shown: u8| PeerProofReport {
        sender: &sender,
        key_pair: pair(shown),
        current: false,
        peer: Some((pair(100), "p")),
    };
    learned.record_refusal(&refusal, hour(0));
    learned.record_proof(&proof(2), hour(0));
    assert_eq!(learned.recall(&sender, hour(12)).map(|known| known.shown), None, "the first trial");
    learned.record_refusal(&refusal, hour(12));
    let changes = learned.tick(&|_| Some(vec![pair(1), pair(3)]), hour(20));
    let told: Vec<_> = changes.iter().map(|one| (one.standing, one.reason, one.entry.shown)).collect();
    assert_eq!(told, [(RefusalStatus::Unconfirmed, "held_pair_ended", pair(3))]);
    assert!(learned.to_persisted().is_empty(), "it is a guess again");
    let known = learned.recall(&sender, hour(21)).unwrap();
    assert_eq!((known.refused, known.shown), (vec![pair(1)], Some(pair(3))), "it is not shown the refused pair again");
    assert_eq!(learned.record_proof(&proof(3), hour(21))[0].standing, RefusalStatus::Confirmed);
    assert!(learned.recall(&sender, hour(21 + 95)).is_some());
    assert!(learned.recall(&sender, hour(21 + 96)).is_none(), "the pause is as long as it was");
    assert_eq!(learned.tick(&|_| Some(vec![pair(1)]), hour(200))[0].reason, "overlap_ended");
}

#[test]
fn the_proof_of_a_trial_frees_its_sender_however_late_it_comes() {
    let (sender, keyring) = (numbered_sender(0), "api".into());
    let refusal = refuse_first_pair(&sender, &keyring);
    let peer = Some((pair(100), "p"));
    let proof = |shown: u8, current: bool| PeerProofReport { sender: &sender, key_pair: pair(shown), current, peer };
    for (what, between) in
        [("nothing", 0), ("a second trial", 1), ("a request on the pair it is held on", 2), ("a restart", 3)]
    {
        let mut learned = RefusalTable::default();
        learned.record_refusal(&refusal, hour(0));
        learned.record_proof(&proof(2, false), hour(0));
        assert_eq!(learned.recall(&sender, hour(12)), None, "its trial; the first data come eight hours later");
        match between {
            1 => assert_eq!(learned.recall(&sender, hour(13)), None),
            2 => assert_eq!(learned.record_proof(&proof(2, false), hour(14)), []),
            3 => {
                let remembered = learned.to_persisted();
                learned = RefusalTable::default();
                learned.restore(&remembered);
            }
            _ => {}
        }
        let told = learned.record_proof(&proof(1, true), hour(20));
        assert_eq!(told.iter().map(|change| change.reason).collect::<Vec<_>>(), ["accepts_it_now"], "after {what}");
        assert_eq!(learned.recall(&sender, hour(20)), None, "after {what}");
        assert_eq!(learned.record_refusal(&refusal, hour(21)), [], "no refusal moves it any more, after {what}");
    }
}

proptest! {
    /// Only ages count, so that a clock that is stepped changes nothing.
    #[test]
    fn steps_of_the_clock_change_nothing_that_comes_of_any_order_of_events(
        steps in prop::collection::vec(any_step(), 1..80),
        clock_steps in prop::collection::vec((0..80_usize, -2000..2000_i64), 1..4),
    ) {
        let (mut steady, mut stepped) = (RefusalTable::default(), RefusalTable::default());
        let (mut now, mut wall) = (day(0), day(0));
        let told = |changes: &[RefusalChange]| -> Vec<_> {
            changes.iter().map(|change| (change.entry.key(), change.entry.shown, change.standing, change.reason)).collect()
        };
        for (index, step) in steps.iter().enumerate() {
            for (_, hours) in clock_steps.iter().filter(|(at, _)| *at == index) {
                let by = SignedDuration::from_hours(*hours);
                stepped.shift_times(by);
                wall += by;
            }
            let (one, other) = (act(&mut steady, step, &mut now), act(&mut stepped, step, &mut wall));
            prop_assert_eq!(told(&one), told(&other));
        }
        for sender in (0..12).map(numbered_sender) {
            let shown = |known: Option<SourceRefusals>| known.map(|known| (known.refused, known.shown));
            prop_assert_eq!(shown(steady.recall(&sender, now)), shown(stepped.recall(&sender, wall)));
        }
    }
}

proptest! {
    #[test]
    fn only_a_request_on_the_pair_shown_confirms(steps in prop::collection::vec(any_step(), 0..80)) {
        let mut learned = RefusalTable::default();
        let mut now = day(0);
        for step in steps {
            let (before, revision) = (learned.entries(), learned.revision());
            let changes = act(&mut learned, &step, &mut now);
            let of = |entries: &[RefusalRecord], key: &SenderKind| entries.iter().find(|entry| entry.key() == *key).cloned();
            let after = learned.entries();
            for entry in &after {
                prop_assert!(!entry.refused.contains(&entry.shown) && !entry.refused.is_empty());
                let was = of(&before, &entry.key());
                let is_confirmed = entry.standing == RefusalStatus::Confirmed;
                if is_confirmed && was.is_none_or(|was| was.standing != RefusalStatus::Confirmed) {
                    let RefusalStep::Prove { sender, key_pair, peer: Some(_) } = &step else {
                        return Err(TestCaseError::fail("confirmed by something else"));
                    };
                    prop_assert_eq!((numbered_sender(*sender), pair(*key_pair)), (entry.key(), entry.shown));
                }
            }
            let confirmed = |entries: &[RefusalRecord]| {
                let confirmed = entries.iter().filter(|entry| entry.standing == RefusalStatus::Confirmed);
                confirmed.map(RefusalRecord::key).collect::<Vec<_>>()
            };
            prop_assert_eq!(confirmed(&before) != confirmed(&after), learned.revision() != revision);
            if matches!(step, RefusalStep::Refuse { .. }) {
                prop_assert!(confirmed(&before).iter().all(|held| confirmed(&after).contains(held)));
            }
            // Every addition and removal is reported, once.
            let told: Vec<_> = changes.iter().map(|change| change.entry.key()).collect();
            for entry in &before {
                let shows = |entry: &RefusalRecord| (entry.shown, entry.standing);
                let same = of(&after, &entry.key()).is_some_and(|now| shows(&now) == shows(entry));
                prop_assert!(same || told.contains(&entry.key()));
            }
            prop_assert!(after.iter().all(|entry| of(&before, &entry.key()).is_some() || told.contains(&entry.key())));
            for change in &changes {
                prop_assert!(!change.explanation().is_empty());
            }
        }
    }

    #[test]
    fn a_sender_that_has_proved_the_new_pair_stays_there_whatever_others_do(
        steps in prop::collection::vec(any_step(), 0..80),
    ) {
        let (mut learned, mut now, proved) = (RefusalTable::default(), day(0), numbered_sender(0));
        let peer = Some((pair(100), "p"));
        learned.record_proof(&PeerProofReport { sender: &proved, key_pair: pair(0), current: true, peer }, now);
        for step in &steps {
            // Refusals of the new pair, from everywhere; this sender is never shown the other pairs.
            if !matches!(step, RefusalStep::Refuse { sender: 0, key_pair: 1.., .. }) {
                act(&mut learned, step, &mut now);
            }
            prop_assert_eq!(learned.recall(&proved, now), None);
        }
    }
}
