use super::*;
use crate::snapshot::Side;
use crate::trust::Role;

fn open(waits: &Rc<Waits>) -> Rc<Open> {
    open_with(waits, false)
}

fn open_with(waits: &Rc<Waits>, http2: bool) -> Rc<Open> {
    let facts = ConnectionFacts {
        side: Side::Ingress,
        listener: "api".into(),
        key_pair: None,
        chain: Vec::new(),
        role: Role::Client,
        upstream: None,
    };
    let seconds = Duration::from_secs;
    let (unread, age) = (seconds(30), Some(seconds(7200)));
    let (head, idle) = (Some(seconds(10)), Some(seconds(60)));
    let patience = Patience { head, http2, idle, unread, age, drain: seconds(15) };
    Open::new(1, facts, patience, waits)
}

fn second(seconds: u32) -> Ticks {
    Ticks(Ticks::of(Duration::from_secs(1)) * seconds)
}

fn at(open: &Open, waits: &Waits, seconds: u32) -> (Signal, Option<&'static str>) {
    waits.tick(second(seconds));
    let now = Timestamp::from_second(i64::from(seconds)).unwrap();
    let due = open.tick(second(seconds), now);
    let reason = due.map(|due| match due {
        Due::Leave(leave) | Due::TooOld(leave) => leave.reason,
        Due::Limit(limit) => limit.reason(),
    });
    (open.signal(), reason)
}

#[test]
fn an_idle_connection_leaves_after_its_limit_and_a_busy_one_does_not() {
    let waits = Rc::new(Waits::default());
    let (idle, busy) = (open(&waits), open(&waits));
    let flight = busy.flight();
    assert_eq!(at(&idle, &waits, 59).0, Signal::Serve);
    assert_eq!(at(&idle, &waits, 60), (Signal::Leave, Some("idle")));
    assert_eq!(at(&busy, &waits, 3600).0, Signal::Serve);
    drop(flight);
    assert_eq!(at(&busy, &waits, 3660).0, Signal::Leave);
}

#[test]
fn a_slow_head_is_closed_and_bytes_of_a_running_request_are_no_head() {
    let waits = Rc::new(Waits::default());
    let open = open(&waits);
    let flight = open.flight();
    open.pulse.hear();
    assert_eq!(at(&open, &waits, 20).0, Signal::Serve);
    drop(flight);
    assert_eq!(at(&open, &waits, 40).0, Signal::Serve);
    open.pulse.hear();
    assert_eq!(at(&open, &waits, 41).0, Signal::Serve);
    assert_eq!(at(&open, &waits, 51), (Signal::Late, Some("head_late")));
    assert_eq!(at(&open, &waits, 52), (Signal::Close, None));
}

#[test]
fn a_slow_header_block_is_closed_whatever_else_runs_and_many_quick_ones_are_not() {
    let waits = Rc::new(Waits::default());
    let (quick, slow) = (open_with(&waits, true), open_with(&waits, true));
    let _running = slow.flight();
    slow.pulse.set_open_block(Some(3));
    for second in 1..=20 {
        // At each look another block is not whole, and a request ends.
        quick.pulse.set_open_block(Some(2 * second + 1));
        drop(quick.flight());
        assert_eq!(at(&quick, &waits, second), (Signal::Serve, None));
        drop(slow.flight());
        match second {
            1..=10 => assert_eq!(at(&slow, &waits, second), (Signal::Serve, None)),
            11 => assert_eq!(at(&slow, &waits, second), (Signal::Late, Some("header_block_late"))),
            _ => assert_eq!(at(&slow, &waits, second), (Signal::Close, None)),
        }
    }
}

#[test]
fn a_drain_gives_a_request_on_its_way_a_moment_and_ends_at_its_deadline() {
    let waits = Rc::new(Waits::default());
    let (fresh, busy) = (open(&waits), open(&waits));
    let _flight = busy.flight();
    assert!(fresh.drain() && !fresh.drain());
    assert_eq!(fresh.signal(), Signal::Drain);
    assert_eq!(at(&fresh, &waits, 1).0, Signal::Leave);
    assert!(busy.drain());
    assert_eq!(busy.signal(), Signal::Leave);
    assert_eq!(at(&busy, &waits, 15).0, Signal::Leave);
    assert_eq!(at(&busy, &waits, 16).0, Signal::Close);
}

#[test]
fn no_connection_outlives_its_peer_and_the_drain_begins_in_time() {
    let waits = Rc::new(Waits::default());
    let open = open(&waits);
    let _flight = open.flight();
    open.set_valid_until(Some(Timestamp::from_second(100).unwrap()));
    assert_eq!(at(&open, &waits, 84), (Signal::Serve, None));
    assert_eq!(at(&open, &waits, 85), (Signal::Leave, Some("peer_certificate_expired")));
    assert_eq!(at(&open, &waits, 100).0, Signal::Close);
}

#[test]
fn who_reads_nothing_is_closed_and_who_reads_slowly_is_not() {
    let waits = Rc::new(Waits::default());
    let (silent, slow) = (open(&waits), open(&waits));
    let _flights = (silent.flight(), slow.flight());
    for open in [&silent, &slow] {
        open.pulse.block();
        assert_eq!(at(open, &waits, 1), (Signal::Serve, None));
    }
    slow.pulse.write();
    assert_eq!(at(&slow, &waits, 25), (Signal::Serve, None));
    assert_eq!(at(&silent, &waits, 30), (Signal::Serve, None));
    assert_eq!(at(&silent, &waits, 31), (Signal::Close, Some("body_unread")));
    assert_eq!(at(&slow, &waits, 54), (Signal::Serve, None));
    slow.pulse.unblock();
    assert_eq!(at(&slow, &waits, 90), (Signal::Serve, None));
}

#[test]
fn a_connection_that_is_too_old_drains() {
    let waits = Rc::new(Waits::default());
    let open = open(&waits);
    let flight = open.flight();
    assert_eq!(at(&open, &waits, 7199), (Signal::Serve, None));
    assert_eq!(at(&open, &waits, 7200), (Signal::Leave, Some("connection_age")));
    drop(flight);
    assert_eq!(at(&open, &waits, 7215).0, Signal::Close);
}

#[test]
fn a_connection_is_listed_until_its_guard_is_dropped() {
    let connections = Rc::new(Connections::default());
    let tracked = connections.track(open(&Rc::new(Waits::default())));
    assert_eq!(connections.all().len(), 1);
    drop(tracked);
    assert!(connections.is_empty());
}
