use std::cell::Cell;
use std::time::Duration;

use super::*;
use crate::snapshot::Side;
use crate::trust::PeerRole;

fn new_connection(waits: &Rc<WaitTable>) -> Rc<ConnectionState> {
    new_connection_with(waits, false)
}

fn new_connection_with(waits: &Rc<WaitTable>, http2: bool) -> Rc<ConnectionState> {
    new_connection_within(waits, usual_timeouts(http2))
}

fn usual_timeouts(http2: bool) -> ConnectionTimeouts {
    let seconds = Duration::from_secs;
    let (unread, age) = (seconds(30), Some(seconds(7200)));
    let (head, idle) = (Some(seconds(10)), Some(seconds(60)));
    let (drain, drain_planned) = (seconds(15), seconds(3600));
    ConnectionTimeouts { head, http2, idle, unread, age, drain, drain_planned }
}

/// A peer's connection with these limits.
pub(crate) fn new_connection_within(waits: &Rc<WaitTable>, patience: ConnectionTimeouts) -> Rc<ConnectionState> {
    new_numbered_connection(1, waits, patience)
}

fn new_numbered_connection(number: u64, waits: &Rc<WaitTable>, patience: ConnectionTimeouts) -> Rc<ConnectionState> {
    let facts = ConnectionFacts {
        side: Side::Ingress,
        listener: "api".into(),
        key_pair: None,
        chain: Default::default(),
        role: PeerRole::Client,
        upstream: None,
    };
    ConnectionState::new(number, facts, patience, waits)
}

fn ticks_at_second(seconds: u32) -> Ticks {
    Ticks(Ticks::from_duration(Duration::from_secs(1)) * seconds)
}

fn signal_at(open: &ConnectionState, waits: &WaitTable, seconds: u32) -> (ConnectionSignal, Option<&'static str>) {
    waits.tick(ticks_at_second(seconds));
    let now = Timestamp::from_second(i64::from(seconds)).unwrap();
    let due = open.tick(ticks_at_second(seconds), now);
    let reason = due.map(|due| match due {
        TickOutcome::Leave(leave) | TickOutcome::TooOld(leave) => leave.reason,
        TickOutcome::Limit(limit) => limit.reason(),
        TickOutcome::Cut => "cut",
        TickOutcome::CutByStop => "cut_by_stop",
    });
    (open.signal(), reason)
}

#[test]
fn an_idle_connection_leaves_after_its_limit_and_a_busy_one_does_not() {
    let waits = Rc::new(WaitTable::default());
    let (idle, busy) = (new_connection(&waits), new_connection(&waits));
    let flight = busy.begin_flight();
    assert_eq!(signal_at(&idle, &waits, 59).0, ConnectionSignal::Serve);
    assert_eq!(signal_at(&idle, &waits, 60), (ConnectionSignal::Leave, Some("idle")));
    assert_eq!(signal_at(&busy, &waits, 3600).0, ConnectionSignal::Serve);
    drop(flight);
    assert_eq!(signal_at(&busy, &waits, 3660).0, ConnectionSignal::Leave);
}

#[test]
fn a_slow_head_is_closed_and_bytes_of_a_running_request_begin_no_head() {
    let waits = Rc::new(WaitTable::default());
    let open = new_connection(&waits);
    let flight = open.begin_flight();
    open.activity.set_received();
    assert_eq!(signal_at(&open, &waits, 20).0, ConnectionSignal::Serve);
    drop(flight);
    assert_eq!(signal_at(&open, &waits, 40).0, ConnectionSignal::Serve);
    open.activity.set_received();
    assert_eq!(signal_at(&open, &waits, 41).0, ConnectionSignal::Serve);
    assert_eq!(signal_at(&open, &waits, 51), (ConnectionSignal::Late, Some("head_late")));
    assert_eq!(signal_at(&open, &waits, 52), (ConnectionSignal::Close, None));
}

#[test]
fn a_slow_header_block_is_closed_whatever_else_runs_and_many_quick_ones_are_not() {
    let waits = Rc::new(WaitTable::default());
    let (quick, slow) = (new_connection_with(&waits, true), new_connection_with(&waits, true));
    let _running = slow.begin_flight();
    slow.activity.set_open_block(Some(3));
    for second in 1..=20 {
        // At each look another block is not whole, and a request ends.
        quick.activity.set_open_block(Some(2 * second + 1));
        drop(quick.begin_flight());
        assert_eq!(signal_at(&quick, &waits, second), (ConnectionSignal::Serve, None));
        drop(slow.begin_flight());
        match second {
            1..=10 => assert_eq!(signal_at(&slow, &waits, second), (ConnectionSignal::Serve, None)),
            11 => assert_eq!(signal_at(&slow, &waits, second), (ConnectionSignal::Late, Some("header_block_late"))),
            _ => assert_eq!(signal_at(&slow, &waits, second), (ConnectionSignal::Close, None)),
        }
    }
}

#[test]
fn a_drain_gives_a_request_on_its_way_a_moment_and_ends_at_its_deadline() {
    let waits = Rc::new(WaitTable::default());
    let (fresh, busy) = (new_connection(&waits), new_connection(&waits));
    let _flight = busy.begin_flight();
    assert!(fresh.drain(DrainUrgency::Urgent) && !fresh.drain(DrainUrgency::Urgent));
    assert_eq!(fresh.signal(), ConnectionSignal::Drain);
    assert_eq!(signal_at(&fresh, &waits, 1).0, ConnectionSignal::Leave);
    assert!(busy.drain(DrainUrgency::Urgent));
    assert_eq!(busy.signal(), ConnectionSignal::Leave);
    assert_eq!(signal_at(&busy, &waits, 15), (ConnectionSignal::Leave, None));
    assert_eq!(signal_at(&busy, &waits, 16), (ConnectionSignal::Cut, Some("cut")));
    assert!(busy.is_cut() && !fresh.is_cut());
    assert_eq!(signal_at(&busy, &waits, 17), (ConnectionSignal::Close, None));
}

#[test]
fn a_stop_counts_a_connection_that_it_cuts_and_no_other() {
    let waits = Rc::new(WaitTable::default());
    let (idle, busy) = (new_connection(&waits), new_connection(&waits));
    let _flight = busy.begin_flight();
    for open in [&idle, &busy] {
        assert!(open.drain(DrainUrgency::Urgent));
        assert!(open.drain(DrainUrgency::Stopping) && !open.drain(DrainUrgency::Urgent));
    }
    assert_eq!(signal_at(&busy, &waits, 15), (ConnectionSignal::Cut, Some("cut_by_stop")));
    assert_eq!(signal_at(&busy, &waits, 16), (ConnectionSignal::Close, None));
    assert_eq!(signal_at(&idle, &waits, 15), (ConnectionSignal::Close, None));
    assert_eq!(signal_at(&idle, &waits, 16), (ConnectionSignal::Close, None));
}

#[test]
fn a_planned_drain_waits_for_what_runs_and_becomes_urgent_in_the_end() {
    for http2 in [false, true] {
        let waits = Rc::new(WaitTable::default());
        let busy = new_connection_with(&waits, http2);
        let _flight = busy.begin_flight();
        assert!(busy.drain(DrainUrgency::Planned));
        assert_eq!(signal_at(&busy, &waits, 3599), (ConnectionSignal::Drain, None));
        assert_eq!(signal_at(&busy, &waits, 3600), (ConnectionSignal::Leave, None));
        assert_eq!(signal_at(&busy, &waits, 3614), (ConnectionSignal::Leave, None));
        assert_eq!(signal_at(&busy, &waits, 3615), (ConnectionSignal::Cut, Some("cut")));
    }
}

#[test]
fn a_request_that_has_begun_to_arrive_keeps_a_connection_that_drains_until_it_is_late() {
    let waits = Rc::new(WaitTable::default());
    let [soon, late] = [(); 2].map(|()| new_connection(&waits));
    waits.tick(ticks_at_second(5));
    soon.activity.set_received();
    late.activity.set_received();
    for open in [&soon, &late] {
        assert!(open.drain(DrainUrgency::Planned));
        assert_eq!(signal_at(open, &waits, 5), (ConnectionSignal::Drain, None));
        assert_eq!(signal_at(open, &waits, 14), (ConnectionSignal::Drain, None));
    }
    drop(soon.begin_flight());
    assert_eq!(signal_at(&soon, &waits, 14).0, ConnectionSignal::Drain, "another may be on its way");
    assert_eq!(signal_at(&soon, &waits, 15).0, ConnectionSignal::Leave);
    assert_eq!(signal_at(&late, &waits, 15), (ConnectionSignal::Late, Some("head_late")));
    assert_eq!(signal_at(&late, &waits, 16), (ConnectionSignal::Close, None));
}

#[test]
fn http2_is_told_of_a_planned_drain_when_it_is_idle() {
    let waits = Rc::new(WaitTable::default());
    let open = new_connection_with(&waits, true);
    assert!(open.drain(DrainUrgency::Planned));
    assert_eq!(open.signal(), ConnectionSignal::Drain);
    let flight = open.begin_flight();
    assert_eq!(signal_at(&open, &waits, 100).0, ConnectionSignal::Drain);
    drop(flight);
    drop(open.begin_flight());
    assert_eq!(signal_at(&open, &waits, 100).0, ConnectionSignal::Drain, "another request may be on its way");
    assert_eq!(signal_at(&open, &waits, 101).0, ConnectionSignal::Leave);

    let urgent = new_connection_with(&waits, true);
    let _flight = urgent.begin_flight();
    assert!(urgent.drain(DrainUrgency::Planned) && urgent.drain(DrainUrgency::Urgent));
    assert_eq!(urgent.signal(), ConnectionSignal::Leave);
}

#[test]
fn busy_http2_is_told_of_a_take_over_in_bounded_time_and_what_runs_goes_on() {
    let waits = Rc::new(WaitTable::default());
    let [streaming, asking, idle] = [(); 3].map(|()| new_connection_with(&waits, true));
    let _stream = streaming.begin_flight();
    for open in [&streaming, &asking, &idle] {
        assert!(open.drain(DrainUrgency::HandedOver));
        assert_eq!(open.signal(), ConnectionSignal::Drain);
    }
    assert_eq!(signal_at(&idle, &waits, 1).0, ConnectionSignal::Leave);
    for second in 2..30 {
        // Requests come and go, beside the stream and alone.
        waits.tick(ticks_at_second(second));
        drop((streaming.begin_flight(), asking.begin_flight()));
        assert_eq!(signal_at(&streaming, &waits, second), (ConnectionSignal::Drain, None));
        let told = if second < 15 { ConnectionSignal::Drain } else { ConnectionSignal::Leave };
        assert_eq!(signal_at(&asking, &waits, second).0, told, "at a moment without a request, at second {second}");
    }
    assert_eq!(signal_at(&streaming, &waits, 30), (ConnectionSignal::Leave, None));
    assert_eq!(signal_at(&streaming, &waits, 3599), (ConnectionSignal::Leave, None));
    assert!(streaming.drain(DrainUrgency::Stopping), "a stop signal shortens it");
    assert_eq!(signal_at(&streaming, &waits, 3614), (ConnectionSignal::Cut, Some("cut_by_stop")));
}

#[test]
fn a_ping_counts_as_life_of_an_idle_connection() {
    let waits = Rc::new(WaitTable::default());
    let open = new_connection_with(&waits, true);
    open.activity.record_ping(ticks_at_second(50));
    assert_eq!(signal_at(&open, &waits, 60), (ConnectionSignal::Serve, None));
    assert_eq!(signal_at(&open, &waits, 109), (ConnectionSignal::Serve, None));
    assert_eq!(signal_at(&open, &waits, 110).1, Some("idle"));
}

#[test]
fn no_connection_outlives_its_peer_and_the_drain_begins_in_time() {
    let waits = Rc::new(WaitTable::default());
    let open = new_connection(&waits);
    let _flight = open.begin_flight();
    open.set_valid_until(Some(Timestamp::from_second(100).unwrap()));
    assert_eq!(signal_at(&open, &waits, 84), (ConnectionSignal::Serve, None));
    assert_eq!(signal_at(&open, &waits, 85), (ConnectionSignal::Leave, Some("peer_certificate_expired")));
    assert_eq!(signal_at(&open, &waits, 100).0, ConnectionSignal::Close);
}

#[test]
fn a_reader_of_nothing_is_closed_and_a_slow_one_is_not() {
    let waits = Rc::new(WaitTable::default());
    let (silent, slow) = (new_connection(&waits), new_connection(&waits));
    let _flights = (silent.begin_flight(), slow.begin_flight());
    for open in [&silent, &slow] {
        open.activity.set_blocked();
        assert_eq!(signal_at(open, &waits, 1), (ConnectionSignal::Serve, None));
    }
    slow.activity.set_written();
    assert_eq!(signal_at(&slow, &waits, 25), (ConnectionSignal::Serve, None));
    assert_eq!(signal_at(&silent, &waits, 30), (ConnectionSignal::Serve, None));
    assert_eq!(signal_at(&silent, &waits, 31), (ConnectionSignal::Close, Some("body_unread")));
    assert_eq!(signal_at(&slow, &waits, 54), (ConnectionSignal::Serve, None));
    slow.activity.clear_blocked();
    assert_eq!(signal_at(&slow, &waits, 90), (ConnectionSignal::Serve, None));
}

#[test]
fn a_connection_that_is_too_old_drains() {
    let waits = Rc::new(WaitTable::default());
    let open = new_connection(&waits);
    let flight = open.begin_flight();
    assert_eq!(signal_at(&open, &waits, 7199), (ConnectionSignal::Serve, None));
    assert_eq!(signal_at(&open, &waits, 7200), (ConnectionSignal::Drain, Some("connection_age")));
    assert_eq!(signal_at(&open, &waits, 9000), (ConnectionSignal::Drain, None), "what runs on it is waited for");
    drop(flight);
    assert_eq!(signal_at(&open, &waits, 9001), (ConnectionSignal::Leave, None));
}

/// Counts how often what its requests share has gone.
#[derive(Default)]
struct ForgetfulOwner(Cell<u32>);

impl ConnectionOwner for ForgetfulOwner {
    fn forget_view(&self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn a_connection_that_has_been_idle_for_a_moment_gives_back_what_its_requests_share() {
    for http2 in [false, true] {
        let waits = Rc::new(WaitTable::default());
        let (open, owner) = (new_connection_with(&waits, http2), Rc::new(ForgetfulOwner::default()));
        open.set_owner(&owner);
        let forgotten_at = |second| {
            signal_at(&open, &waits, second);
            owner.0.get()
        };
        let flight = open.begin_flight();
        assert_eq!(forgotten_at(5), 0, "while a request runs, it is used");
        drop(flight);
        assert_eq!(forgotten_at(5), 0, "the next request may come at once");
        assert_eq!((forgotten_at(6), forgotten_at(7), forgotten_at(20)), (1, 1, 1), "once in a time of idleness");
        drop(open.begin_flight());
        assert_eq!((forgotten_at(20), forgotten_at(21)), (1, 2));
    }
}

#[test]
fn a_connection_is_listed_until_its_guard_is_dropped() {
    let connections = Rc::new(ConnectionTable::default());
    let tracked = connections.track(new_connection(&Rc::new(WaitTable::default())));
    assert_eq!(connections.open_connections().len(), 1);
    drop(tracked);
    assert!(connections.is_empty());
}

/// The numbers that a walk over `count` connections visits, with `None` wherever another task has run.
fn visits_of_a_walk(count: u64, end_meanwhile: impl Fn(u64) -> bool) -> Vec<Option<u64>> {
    let (connections, waits) = (Rc::new(ConnectionTable::default()), Rc::new(WaitTable::default()));
    let mut tracked: BTreeMap<u64, _> = (1..=count)
        .map(|number| {
            let open = new_numbered_connection(number, &waits, usual_timeouts(false));
            (number, connections.track(open))
        })
        .collect();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (walked, beside) = (Rc::clone(&seen), Rc::clone(&seen));
        let walk = tokio::task::spawn_local(async move {
            connections.walk_connections(|open| walked.borrow_mut().push(Some(open.number))).await;
        });
        while !walk.is_finished() {
            yield_now().await;
            beside.borrow_mut().push(None);
            tracked.retain(|number, _| !end_meanwhile(*number));
        }
    });
    seen.take()
}

#[test]
fn a_walk_visits_every_connection_once_and_lets_other_tasks_run_between_few_of_them() {
    for count in [0, 1, 31, 32, 33, 64, 1000] {
        let visits = visits_of_a_walk(count, |_| false);
        let visited: Vec<u64> = visits.iter().flatten().copied().collect();
        assert_eq!(visited, (1..=count).collect::<Vec<_>>());
        let longest = visits.split(Option::is_none).map(<[_]>::len).max().unwrap_or_default();
        assert!(longest <= WALK_BATCH_SIZE, "{longest} connections of {count} were visited without a pause");
    }
}

#[test]
fn a_walk_leaves_out_connections_that_end_while_it_runs() {
    let visited: Vec<u64> = visits_of_a_walk(200, |number| number % 2 == 0).into_iter().flatten().collect();
    let batch = u64::try_from(WALK_BATCH_SIZE).unwrap();
    let expected: Vec<u64> = (1..=200).filter(|number| *number <= batch || number % 2 == 1).collect();
    assert_eq!(visited, expected);
}

#[derive(Default)]
struct WakeRecord(std::sync::atomic::AtomicBool);

impl std::task::Wake for WakeRecord {
    fn wake(self: Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn the_second_tick_of_a_connection_wakes_its_task_once_however_much_time_the_first_one_took() {
    let waits = Rc::new(WaitTable::default());
    for (http2, expected) in [(false, [false, true, false]), (true, [false; 3])] {
        let open = new_connection_with(&waits, http2);
        // One that rests is woken to be parked as well.
        let _flight = open.begin_flight();
        // A worker without open connections has slept for a second, and its time is as old.
        let woken = [4, 5, 6].map(|ticks| {
            let woken = Arc::<WakeRecord>::default();
            let waker = std::task::Waker::from(Arc::clone(&woken));
            open.register_waker(&Context::from_waker(&waker));
            open.tick(Ticks(ticks), Timestamp::UNIX_EPOCH);
            woken.0.load(std::sync::atomic::Ordering::Relaxed)
        });
        assert_eq!(woken, expected, "HTTP/2: {http2}");
    }
}
