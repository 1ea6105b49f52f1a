//! In any order of events: the limits hold, only a request on the pair shown confirms, a confirmed refusal ends only for a
//! valid reason, and a sender that has proved the new pair is never shown another for a refusal.

use proptest::prelude::*;

use super::tests::{kind, pair, source};
use super::*;
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
        RefusalStep::Tick { gone } => learned.tick(&|_, key_pair| key_pair != pair(*gone), *now),
        RefusalStep::Forget { source } => learned.forget(&format!("192.0.2.{source}")),
        RefusalStep::Wait { hours } => {
            *now += jiff::SignedDuration::from_hours(i64::from(*hours));
            Vec::new()
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
