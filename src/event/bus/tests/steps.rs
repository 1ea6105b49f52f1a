//! A step of the clock makes no sender of the rotation report older or younger, nor one that comes before the step is announced.

use jiff::SignedDuration;

use super::*;
use crate::clock::ManualClock;
use crate::evidence::report::{KeyringOverlap, PreviousPair};

fn day(days: i64) -> Timestamp {
    time() + SignedDuration::from_hours(24 * days)
}

/// Events by a clock that can be stepped.
fn stepped_events() -> (EventBus, Clock, ManualClock) {
    let (lines, _) = LogQueue::channel(LogFormat::Json);
    let (clock, hand) = Clock::manual(day(0));
    let events = EventBus::new(lines, Arc::new(Metrics::new()), &log::LogSettings::default(), clock.clone()).unwrap();
    (events, clock, hand)
}

/// A handshake of this peer, and its first data. The worker stamped the handshake earlier, by the clock as it was then.
fn come(events: &EventBus, identity: &str, stamped: Timestamp) {
    let handshake = HandshakeRecord { identity: Some(identity.to_owned()), time: stamped, ..accepted() };
    let record = PeerProofRecord {
        listener: Arc::clone(&handshake.listener),
        keyring: Arc::from("api"),
        key_pair: handshake.key_pair.unwrap(),
        outcome: PeerProofOutcome::UnexplainedEnd,
        reason: "",
        identity: identity.into(),
        partner: None,
        certificate: handshake.peer.as_ref().map(|peer| peer.fingerprint),
        source: handshake.peer_addr.map(|address| address.ip()),
        explanation: String::new(),
        connection: handshake.connection,
        epoch: handshake.epoch,
    };
    events.emit(Event::Handshake(Arc::new(handshake)));
    events.emit(Event::PeerProof(Arc::new(record.proved())));
}

/// Who is in the report, and how long ago they came and proved the pair.
fn reported_ages(events: &EventBus, now: Timestamp) -> Vec<(String, [i64; 2])> {
    let overlap = KeyringOverlap {
        keyring: Arc::from("api"),
        owner: None,
        contact: None,
        current: accepted().key_pair.unwrap(),
        rotated: day(-1),
        previous: vec![PreviousPair {
            key_pair: Fingerprint::from_bytes([1; 32]),
            ends: day(1000),
            survives_restart: true,
        }],
        upstreams: Vec::new(),
        seen_within: std::time::Duration::from_hours(35 * 24),
        faces_peers: true,
    };
    let age = |at: Timestamp| now.duration_since(at).as_secs();
    let report = events.report(&[overlap], &BTreeMap::new()).remove(0);
    let senders = report.lines.iter().flat_map(|line| line.senders.iter().map(|sender| (line.name.clone(), sender)));
    senders.map(|(name, sender)| (name, [age(sender.last_seen), age(sender.proved.unwrap())])).collect()
}

#[test]
fn a_step_of_the_clock_makes_none_older_or_younger_that_came_before_it_was_announced() {
    for step in [40, -20] {
        let (events, clock, hand) = stepped_events();
        come(&events, "dns:before", day(0));
        hand.advance(std::time::Duration::from_secs(60));
        let stamped = clock.now();
        let stepped = stamped + SignedDuration::from_hours(24 * step);
        hand.step_to(stepped);
        come(&events, "dns:meanwhile", stepped);
        let expected = [("dns:before".to_owned(), [60, 60]), ("dns:meanwhile".to_owned(), [0, 0])];
        assert_eq!(reported_ages(&events, stamped), expected, "not announced yet: {step} days");
        assert_eq!(clock.adopt_step(), SignedDuration::from_hours(24 * step));
        events.emit(Event::ClockStep(ClockRecord { seconds: step * 86_400 }));
        assert_eq!(reported_ages(&events, stepped), expected, "announced: {step} days");
        come(&events, "dns:stamped-before", stamped);
        let of_last = reported_ages(&events, stepped).into_iter().find(|(name, _)| name == "dns:stamped-before");
        assert_eq!(of_last.map(|(_, ages)| ages), Some([0, 0]), "{step} days");
    }
}
