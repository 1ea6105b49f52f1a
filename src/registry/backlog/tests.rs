//! What must hold: the same peer is one row, and repeated failures one row with a count; nothing grows without bound;
//! dropped rows are the least valuable and are counted; a batch that was put back is written ahead of newer rows.

use proptest::prelude::*;

use super::super::seen::MAX_TEXT_LENGTH;
use super::*;
use crate::event::handshake::tests::{accepted, refused};
use crate::event::{KeyringRecord, ProofRecord};
use crate::keyring::{self, Standing};
use crate::snapshot::Epoch;

fn now() -> Timestamp {
    "2026-11-25T09:00:00Z".parse().unwrap()
}

fn served_event(peer: u8) -> Event {
    let mut record = accepted();
    let facts = record.peer.as_mut().unwrap();
    facts.fingerprint = Fingerprint::from_bytes([peer; 32]);
    Event::Handshake(Arc::new(record))
}

fn failed_event(address: [u8; 4]) -> Event {
    let record = refused(&std::net::SocketAddr::from((address, 4711)).to_string());
    Event::Handshake(Arc::new(record))
}

fn moved_event(number: u8) -> Event {
    let event = keyring::KeyringEvent::Moved {
        keyring: "api".into(),
        key_pair: Fingerprint::from_bytes([number; 32]),
        from: None,
        to: Standing::Current,
        reason: "first",
        explanation: "the first".to_owned(),
        replaces: None,
        overlap_ends: None,
        sources: Vec::new(),
    };
    Event::Keyring(KeyringRecord { event, by: Some("uid 1000".into()), epoch: Epoch(1) })
}

fn backlog() -> RegistryBacklog {
    RegistryBacklog::new("one".into())
}

#[test]
fn the_same_peer_is_one_row_and_the_same_failure_a_number() {
    let mut backlog = backlog();
    for _ in 0..3 {
        assert!(backlog.record_event(&served_event(1), now()));
        assert!(backlog.record_event(&failed_event([192, 0, 2, 1]), now()));
    }
    backlog.record_event(&failed_event([192, 0, 2, 2]), now());
    let batch = backlog.take_batch(0);
    assert_eq!(batch.peers.iter().map(|peer| peer.handshakes).collect::<Vec<_>>(), [3]);
    let repeats: Vec<_> = batch.failures.iter().map(|failure| failure.row.repeats).collect();
    assert_eq!(repeats, [2, 0]);
    assert!(backlog.is_empty() && backlog.take_batch(0).is_empty());
    // In the next batch the same failure is a row again: the last one may be written already.
    backlog.record_event(&failed_event([192, 0, 2, 1]), now());
    assert_eq!(backlog.take_batch(0).failures.len(), 1);
}

#[test]
fn of_a_peer_that_comes_again_the_row_says_how_it_came_last() {
    let mut backlog = backlog();
    let Event::Handshake(first) = served_event(1) else { unreachable!() };
    backlog.record_event(&Event::Handshake(Arc::clone(&first)), now());
    let mut last = (*first).clone();
    last.time = now() + jiff::SignedDuration::from_hours(1);
    last.peer_addr = Some(([192, 0, 2, 9], 4711).into());
    last.partner = Some("etl".into());
    last.keyring = Some("other".into());
    last.key_pair = Some(Fingerprint::from_bytes([9; 32]));
    last.chosen_by = Some(keyring::SelectionReason::Learned);
    assert_ne!(first.chosen_by, last.chosen_by);
    backlog.record_event(&Event::Handshake(Arc::new(last.clone())), now());
    let row = backlog.take_batch(0).peers.remove(0);
    // As if it had only come the last time, but for what counts both.
    let mut alone = RegistryBacklog::new("one".into());
    alone.record_event(&Event::Handshake(Arc::new(last)), now());
    let only = alone.take_batch(0).peers.remove(0);
    assert_eq!((row.handshakes, row.first_seen), (2, first.time.into()));
    assert_eq!(PeerRow { handshakes: 1, first_seen: only.first_seen, ..row }, only);
}

#[test]
fn history_says_who_asked_or_what_brought_it_about() {
    let mut backlog = backlog();
    backlog.record_event(&moved_event(1), now());
    let entry = backlog.take_batch(0).history.remove(0).row;
    assert_eq!((entry.who.as_str(), entry.becomes.as_deref()), ("uid 1000", Some("current")));
    let Event::Keyring(KeyringRecord { event, epoch, .. }) = moved_event(2) else { unreachable!() };
    backlog.record_event(&Event::Keyring(KeyringRecord { event, by: None, epoch }), now());
    assert_eq!(backlog.take_batch(0).history[0].row.who, "folder");
}

#[test]
fn failures_are_given_up_before_peers_and_peers_before_history() {
    let mut backlog = backlog();
    for number in 0..u16::MAX {
        let [high, low] = number.to_be_bytes();
        backlog.record_event(&failed_event([10, 0, high, low]), now());
    }
    assert_eq!(backlog.len(), MAX_FAILURES);
    assert_eq!(backlog.take_dropped().failures, u64::from(u16::MAX) - MAX_FAILURES as u64);
    for number in 0..=u8::MAX {
        backlog.record_event(&served_event(number), now());
    }
    for _ in 0..MAX_ROWS {
        backlog.record_event(&moved_event(1), now());
    }
    let dropped = backlog.take_dropped();
    assert_eq!((dropped.failures, dropped.peers, dropped.history), (MAX_FAILURES as u64, 256, 0));
    assert_eq!(backlog.len(), MAX_ROWS);
    backlog.record_event(&moved_event(1), now());
    assert_eq!(backlog.take_dropped().history, 1);
}

#[test]
fn what_a_peer_can_make_long_is_cut() {
    let mut record = accepted();
    record.identity = Some("é".repeat(MAX_TEXT_LENGTH));
    let mut backlog = backlog();
    backlog.record_event(&Event::Handshake(Arc::new(record)), now());
    assert!(backlog.take_batch(0).peers[0].identity.as_ref().unwrap().len() <= MAX_TEXT_LENGTH + '…'.len_utf8());
}

#[test]
fn who_is_vouched_for_by_a_public_anchor_uses_a_public_ca() {
    let public = Fingerprint::from_bytes([9; 32]);
    let mut backlog = backlog();
    backlog.set_public_anchors([public].into());
    for anchor in [public, Fingerprint::from_bytes([8; 32])] {
        let mut record = accepted();
        let facts = record.peer.as_mut().unwrap();
        (facts.anchor, facts.fingerprint) = (Some(anchor), anchor);
        backlog.record_event(&Event::Handshake(Arc::new(record)), now());
    }
    let batch = backlog.take_batch(0);
    assert_eq!(batch.peers.iter().filter(|peer| peer.public_ca.is_set()).count(), 1);
    assert_eq!(batch.matched.len(), 2);
}

#[test]
fn of_a_peer_that_is_written_further_handshakes_are_counted_and_wait() {
    let mut backlog = backlog();
    assert!(backlog.record_event(&served_event(1), now()));
    let batch = backlog.take_batch(20);
    backlog.record_written(&batch.peers);
    assert!(backlog.record_event(&served_event(1), now()), "something has begun to wait");
    assert!(!backlog.record_event(&served_event(1), now()));
    assert_eq!((backlog.len(), backlog.is_empty()), (0, false));
    let early = backlog.take_batch(29);
    assert_eq!((early.peers.len(), early.visits.len(), early.used.len()), (0, 0, 1));
    let late = backlog.take_batch(30);
    assert_eq!(late.visits.iter().map(|visits| visits.handshakes).collect::<Vec<_>>(), [2]);
    assert!(backlog.is_empty());
    // Once a minute it waits for nothing.
    backlog.record_event(&served_event(1), now());
    assert_eq!(backlog.take_batch(90).visits.len(), 1);

    // What else is new of it is written at once, and what waits with it.
    backlog.record_event(&served_event(1), now());
    let Event::Handshake(record) = served_event(1) else { unreachable!() };
    let moved = HandshakeRecord { partner: Some("other".into()), ..(*record).clone() };
    assert!(backlog.record_event(&Event::Handshake(Arc::new(moved)), now()));
    let batch = backlog.take_batch(91);
    assert_eq!(
        (batch.visits.len(), batch.peers[0].handshakes, batch.peers[0].partner.as_deref()),
        (0, 2, Some("other"))
    );
    // The registry may not have it, or have lost what it had.
    backlog.restore_batch(batch);
    backlog.record_event(&served_event(1), now());
    assert_eq!(backlog.take_batch(92).peers[0].handshakes, 3);
    backlog.forget_written();
    backlog.record_event(&served_event(1), now());
    assert_eq!(backlog.take_batch(93).peers.len(), 1);
}

#[derive(Clone, Debug)]
enum BacklogStep {
    Take(Event),
    /// So many seconds pass.
    Wait(u64),
    Lose,
    Write,
    Forget,
}

fn steps() -> impl Strategy<Value = Vec<BacklogStep>> {
    let step = prop_oneof![
        (0u8..4).prop_map(|peer| BacklogStep::Take(served_event(peer))),
        (0u8..4).prop_map(|last| BacklogStep::Take(failed_event([10, 0, 0, last]))),
        (0u8..4).prop_map(|number| BacklogStep::Take(moved_event(number))),
        (0u64..12).prop_map(BacklogStep::Wait),
        Just(BacklogStep::Lose),
        Just(BacklogStep::Write),
        Just(BacklogStep::Forget),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    /// However often a batch is not written and put back, in the end each handshake is counted, each failure recorded
    /// with all its repeats, and the history is complete and in order.
    #[test]
    fn nothing_is_lost_and_nothing_is_counted_twice(steps in steps()) {
        let mut backlog = backlog();
        let (mut served, mut failed, mut moved, mut second) = (0, 0, 0, 0);
        let (mut peers, mut failures, mut history) = (0, 0, Vec::new());
        let mut write = |batch: WriteBatch| {
            peers += batch.peers.iter().map(|peer| peer.handshakes).sum::<i64>();
            peers += batch.visits.iter().map(|visits| visits.handshakes).sum::<i64>();
            failures += batch.failures.iter().map(|failure| failure.row.repeats + 1).sum::<i64>();
            history.extend(batch.history.iter().map(|entry| entry.number));
        };
        for step in steps {
            match step {
                BacklogStep::Take(event) => {
                    match &event {
                        Event::Handshake(handshake) if handshake.is_failure() => failed += 1,
                        Event::Handshake(_) => served += 1,
                        _ => moved += 1,
                    }
                    backlog.record_event(&event, now());
                }
                BacklogStep::Wait(seconds) => second += seconds,
                BacklogStep::Lose => {
                    let batch = backlog.take_batch(second);
                    backlog.restore_batch(batch);
                }
                BacklogStep::Write => {
                    let batch = backlog.take_batch(second);
                    backlog.record_written(&batch.peers);
                    write(batch);
                }
                BacklogStep::Forget => backlog.forget_written(),
            }
        }
        write(backlog.take_batch(u64::MAX));
        prop_assert!(backlog.is_empty());
        prop_assert_eq!((peers, failures, history.len()), (served, failed, moved));
        prop_assert!(history.is_sorted());
        prop_assert_eq!(backlog.take_dropped(), DroppedCounts::default());
    }
}

#[test]
fn what_is_refused_after_a_handshake_is_a_failure_of_it() {
    let mut backlog = backlog();
    let amended = HandshakeRecord { reason: "closed_after_handshake", ..refused("203.0.113.7:1") };
    let proof = |outcome| {
        Event::Proof(ProofRecord {
            listener: "out".into(),
            outcome,
            reason: "closed_after_handshake",
            key_pair: Fingerprint::of(b"ours"),
            alert_received: None,
            explanation: "why".to_owned(),
            connection: 1,
            epoch: Epoch(1),
            handshake: Some(Arc::new(amended.clone())),
        })
    };
    backlog.record_event(&proof(accepted().outcome), now());
    assert!(backlog.is_empty());
    backlog.record_event(&proof(amended.outcome), now());
    let reasons: Vec<_> = backlog.failures.values().map(|failure| failure.reason.as_str()).collect();
    assert_eq!(reasons, ["closed_after_handshake"]);
}

#[test]
fn fifty_thousand_peers_and_sources_keep_within_the_rows_that_may_wait() {
    let mut backlog = backlog();
    for number in 0..50_000_u32 {
        let mut record = accepted();
        record.peer.as_mut().unwrap().fingerprint = Fingerprint::of(&number.to_be_bytes());
        backlog.record_event(&Event::Handshake(Arc::new(record)), now());
        backlog.record_event(&failed_event((0x0a00_0000 + number).to_be_bytes()), now());
        assert!(backlog.len() <= MAX_ROWS && backlog.same.len() <= 2 * MAX_FAILURES + 1);
    }
    assert_eq!((backlog.len(), backlog.used.len(), backlog.matched.len()), (MAX_ROWS, 1, 0));
    let dropped = backlog.take_dropped();
    let kept = (backlog.peers.len() as u64, backlog.failures.len() as u64);
    assert_eq!((kept.0 + dropped.peers, kept.1 + dropped.failures), (50_000, 50_000), "what was dropped is counted");
    // A batch that could not be written comes back to a backlog that has filled up again.
    let batch = backlog.take_batch(0);
    for number in 50_000..80_000_u32 {
        let mut record = accepted();
        record.peer.as_mut().unwrap().fingerprint = Fingerprint::of(&number.to_be_bytes());
        backlog.record_event(&Event::Handshake(Arc::new(record)), now());
    }
    backlog.restore_batch(batch);
    assert_eq!(backlog.len(), MAX_ROWS);
}
