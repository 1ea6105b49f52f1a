//! In any order of events: the limits hold, only a verified handshake confirms, and a confirmed refusal ends only for a
//! valid reason.

use proptest::prelude::*;

use super::tests::{pair, source};
use super::*;
use crate::keyring::pool::day;

#[derive(Clone, Debug)]
enum RefusalStep {
    Refuse { source: u8, key_pair: u8, next: Option<u8>, offer: u64 },
    Accept { source: u8, key_pair: u8, peer: u8, offer: u64 },
    Tick { gone: u8 },
    Forget { source: u8 },
    Wait { minutes: u8 },
}

fn any_step() -> impl Strategy<Value = RefusalStep> {
    prop_oneof![
        4 => (0..6_u8, 0..4_u8, prop::option::of(0..4_u8), 0..2_u64)
            .prop_map(|(source, key_pair, next, offer)| RefusalStep::Refuse { source, key_pair, next, offer }),
        4 => (0..6_u8, 0..4_u8, 10..14_u8, 0..2_u64)
            .prop_map(|(source, key_pair, peer, offer)| RefusalStep::Accept { source, key_pair, peer, offer }),
        1 => (0..8_u8).prop_map(|gone| RefusalStep::Tick { gone }),
        1 => (0..6_u8).prop_map(|source| RefusalStep::Forget { source }),
        1 => (0..90_u8).prop_map(|minutes| RefusalStep::Wait { minutes }),
    ]
}

fn numbered_source(number: u8) -> PeerSource {
    source(&format!("192.0.2.{number}"))
}

proptest! {
    #[test]
    fn only_a_verified_handshake_on_the_pair_shown_confirms(steps in prop::collection::vec(any_step(), 0..60)) {
        let mut learned = RefusalTable::default();
        let mut now = day(0);
        for step in steps {
            let before = learned.entries();
            let revision = learned.revision();
            let changes = match &step {
                RefusalStep::Refuse { source, key_pair, next, offer } => {
                    let (source, keyring) = (numbered_source(*source), "api".into());
                    let refusal = RefusalReport {
                        source: &source,
                        keyring: &keyring,
                        key_pair: pair(*key_pair),
                        alert: "unknown_ca",
                        offer: *offer,
                    };
                    learned.record_refusal(&refusal, next.filter(|next| next != key_pair).map(pair), now)
                }
                RefusalStep::Accept { source, key_pair, peer, offer } => {
                    let source = numbered_source(*source);
                    let accepted =
                        AcceptanceReport { source: &source, key_pair: pair(*key_pair), peer: (pair(*peer), "p"), offer: *offer };
                    learned.record_acceptance(&accepted, now)
                }
                RefusalStep::Tick { gone } => learned.tick(&|_, key_pair| key_pair != pair(*gone), now),
                RefusalStep::Forget { source } => learned.forget(&format!("192.0.2.{source}")),
                RefusalStep::Wait { minutes } => {
                    now += jiff::SignedDuration::from_mins(i64::from(*minutes));
                    Vec::new()
                }
            };
            let of = |entries: &[RefusalRecord], source: &PeerSource| entries.iter().find(|entry| entry.source == *source).cloned();
            let after = learned.entries();
            for entry in &after {
                prop_assert!(!entry.refused.contains(&entry.shown) && !entry.refused.is_empty());
                let was = of(&before, &entry.source);
                let is_confirmed = entry.standing == RefusalStatus::Confirmed;
                if is_confirmed && was.is_none_or(|was| was.standing != RefusalStatus::Confirmed) {
                    let RefusalStep::Accept { source, key_pair, .. } = &step else {
                        return Err(TestCaseError::fail("confirmed by something else"));
                    };
                    prop_assert_eq!((&numbered_source(*source), pair(*key_pair)), (&entry.source, entry.shown));
                }
            }
            let confirmed = |entries: &[RefusalRecord]| {
                let confirmed = entries.iter().filter(|entry| entry.standing == RefusalStatus::Confirmed);
                confirmed.map(|entry| entry.source.clone()).collect::<Vec<_>>()
            };
            prop_assert_eq!(confirmed(&before) != confirmed(&after), learned.revision() != revision);
            // Every addition and removal is reported, once.
            let told: Vec<_> = changes.iter().map(|change| &change.entry.source).collect();
            for entry in &before {
                let shows = |entry: &RefusalRecord| (entry.shown, entry.standing);
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
