//! In any order of events: the limits hold, only a verified handshake confirms, and a confirmed refusal ends only for a
//! valid reason.

use proptest::prelude::*;

use super::super::pool::day;
use super::tests::{pair, source};
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Refuse { source: u8, key_pair: u8, next: Option<u8>, offer: u64 },
    Accept { source: u8, key_pair: u8, peer: u8, offer: u64 },
    Tick { gone: u8 },
    Forget { source: u8 },
    Wait { minutes: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8, 0..4_u8, prop::option::of(0..4_u8), 0..2_u64)
            .prop_map(|(source, key_pair, next, offer)| Step::Refuse { source, key_pair, next, offer }),
        4 => (0..6_u8, 0..4_u8, 10..14_u8, 0..2_u64)
            .prop_map(|(source, key_pair, peer, offer)| Step::Accept { source, key_pair, peer, offer }),
        1 => (0..8_u8).prop_map(|gone| Step::Tick { gone }),
        1 => (0..6_u8).prop_map(|source| Step::Forget { source }),
        1 => (0..90_u8).prop_map(|minutes| Step::Wait { minutes }),
    ]
}

fn named(number: u8) -> Source {
    source(&format!("192.0.2.{number}"))
}

proptest! {
    #[test]
    fn only_a_verified_handshake_on_the_pair_shown_confirms(steps in prop::collection::vec(step(), 0..60)) {
        let mut learned = Learned::default();
        let mut now = day(0);
        for step in steps {
            let before = learned.entries();
            let revision = learned.revision();
            let changes = match &step {
                Step::Refuse { source, key_pair, next, offer } => {
                    let (source, keyring) = (named(*source), "api".into());
                    let refusal = Refusal {
                        source: &source,
                        keyring: &keyring,
                        key_pair: pair(*key_pair),
                        alert: "unknown_ca",
                        offer: *offer,
                    };
                    learned.refused(&refusal, next.filter(|next| next != key_pair).map(pair), now)
                }
                Step::Accept { source, key_pair, peer, offer } => {
                    let source = named(*source);
                    let accepted =
                        Acceptance { source: &source, key_pair: pair(*key_pair), peer: (pair(*peer), "p"), offer: *offer };
                    learned.accepted(&accepted, now)
                }
                Step::Tick { gone } => learned.tick(&|_, key_pair| key_pair != pair(*gone), now),
                Step::Forget { source } => learned.forget(&format!("192.0.2.{source}")),
                Step::Wait { minutes } => {
                    now += jiff::SignedDuration::from_mins(i64::from(*minutes));
                    Vec::new()
                }
            };
            let of = |entries: &[Entry], source: &Source| entries.iter().find(|entry| entry.source == *source).cloned();
            let after = learned.entries();
            for entry in &after {
                prop_assert!(!entry.refused.contains(&entry.shown) && !entry.refused.is_empty());
                let was = of(&before, &entry.source);
                let is_confirmed = entry.standing == Lesson::Confirmed;
                if is_confirmed && was.is_none_or(|was| was.standing != Lesson::Confirmed) {
                    let Step::Accept { source, key_pair, .. } = &step else {
                        return Err(TestCaseError::fail("confirmed by something else"));
                    };
                    prop_assert_eq!((&named(*source), pair(*key_pair)), (&entry.source, entry.shown));
                }
            }
            let confirmed = |entries: &[Entry]| {
                let confirmed = entries.iter().filter(|entry| entry.standing == Lesson::Confirmed);
                confirmed.map(|entry| entry.source.clone()).collect::<Vec<_>>()
            };
            prop_assert_eq!(confirmed(&before) != confirmed(&after), learned.revision() != revision);
            // Every addition and removal is reported, once.
            let told: Vec<_> = changes.iter().map(|change| &change.entry.source).collect();
            for entry in &before {
                let shows = |entry: &Entry| (entry.shown, entry.standing);
                let same = of(&after, &entry.source).is_some_and(|now| shows(&now) == shows(entry));
                prop_assert!(same || told.contains(&&entry.source));
            }
            prop_assert!(after.iter().all(|entry| of(&before, &entry.source).is_some() || told.contains(&&entry.source)));
            for change in &changes {
                prop_assert!(!change.explanation().is_empty());
            }
        }
    }
}
