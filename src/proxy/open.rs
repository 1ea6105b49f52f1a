//! One open connection as its worker sees it: what runs on it, how long it has been idle, and whether it was told to leave.
//!
//! The task that serves the connection reads the signal at every poll; the worker's tick and the walk at a new epoch write
//! it. Nothing here touches a socket.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use jiff::Timestamp;

use super::drain::{ConnectionFacts, Leave};
use super::framing::guard::Notes;
use super::waits::{Ticks, Waits};
use super::{egress, ingress};

/// An idle HTTP/1.1 connection that drains waits this long before it closes, because a request may be on its way.
const LAST_CALL: Duration = Duration::from_secs(1);

/// What the task that serves a connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Signal {
    /// Go on.
    Serve,
    /// Leave with the next response, or when it has been idle for a moment.
    Drain,
    /// Leave now: GOAWAY, `connection: close`, or close if idle.
    Leave,
    /// Close, whatever runs.
    Close,
}

/// What its requests need from the snapshot, until the next epoch.
#[derive(Clone)]
pub(super) enum View {
    /// To be made by the next request.
    None,
    /// An ingress'.
    Ingress(Rc<ingress::View>),
    /// An egress'.
    Egress(Rc<egress::View>),
}

/// How long things may take on a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// A request head that has begun; `None` where nobody sends one (HTTP/2, which bounds it by `idle`).
    pub(super) head: Option<Duration>,
    /// Without a request; `None` for connections to upstreams, which their pool lets go.
    pub(super) idle: Option<Duration>,
    /// From the begin of a drain to its end.
    pub(super) drain: Duration,
}

/// One open connection.
pub(super) struct Open {
    pub(super) number: u64,
    pub(super) facts: ConnectionFacts,
    pub(super) view: RefCell<View>,
    /// Set by the stream when bytes arrive; cleared when a request ends. `Arc`, as hyper wants a stream that may be sent.
    pub(super) heard: Arc<AtomicBool>,
    /// What the guard of its requests has found.
    pub(super) notes: Arc<Notes>,
    patience: Patience,
    waits: Rc<Waits>,
    valid_until: Cell<Option<Timestamp>>,
    signal: Cell<Signal>,
    drains_since: Cell<Option<Ticks>>,
    head_since: Cell<Option<Ticks>>,
    idle_since: Cell<Ticks>,
    in_flight: Cell<u32>,
    waker: RefCell<Option<Waker>>,
}

impl Open {
    pub(super) fn new(number: u64, facts: ConnectionFacts, patience: Patience, waits: &Rc<Waits>) -> Rc<Self> {
        Rc::new(Self {
            number,
            facts,
            view: RefCell::new(View::None),
            heard: Arc::new(AtomicBool::new(false)),
            notes: Arc::default(),
            patience,
            waits: Rc::clone(waits),
            valid_until: Cell::new(None),
            signal: Cell::new(Signal::Serve),
            drains_since: Cell::new(None),
            head_since: Cell::new(None),
            idle_since: Cell::new(waits.now()),
            in_flight: Cell::new(0),
            waker: RefCell::new(None),
        })
    }

    /// Whether it leads to an upstream: its pool lets it go, and no side of its own stops it.
    pub(super) fn is_upstream(&self) -> bool {
        self.patience.idle.is_none()
    }

    /// The worker's time.
    pub(super) fn waits(&self) -> &Rc<Waits> {
        &self.waits
    }

    /// What its task is told now.
    pub(super) fn signal(&self) -> Signal {
        self.signal.get()
    }

    /// Called by its task at each poll, so that a signal wakes it.
    pub(super) fn listen(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Until when the peer's path is valid; no connection outlives it.
    pub(super) fn set_valid_until(&self, valid_until: Option<Timestamp>) {
        self.valid_until.set(valid_until);
    }

    /// A new epoch: what was taken from the old one goes.
    pub(super) fn forget_view(&self) {
        let _ = self.view.replace(View::None);
    }

    /// Tells it to leave; false if it was told before.
    pub(super) fn drain(&self) -> bool {
        if self.drains_since.get().is_some() {
            return false;
        }
        let now = self.waits.now();
        self.drains_since.set(Some(now));
        // A busy connection, and HTTP/2 with its two GOAWAYs, can leave without losing anything.
        let at_once =
            self.in_flight.get() > 0 || self.patience.head.is_none() || self.idle_for(now) >= Ticks::of(LAST_CALL);
        self.tell(if at_once { Signal::Leave } else { Signal::Drain });
        true
    }

    /// Looks at the time. A reason is for the log; connections that were only idle leave without one.
    pub(super) fn tick(&self, ticks: Ticks, now: Timestamp) -> Option<Leave> {
        if let Some(valid_until) = self.valid_until.get() {
            if now >= valid_until {
                self.tell(Signal::Close);
            } else if now.duration_until(valid_until).unsigned_abs() <= self.patience.drain && self.drain() {
                return Some(Leave::peer_expires(valid_until));
            }
        }
        let idle = (self.in_flight.get() == 0).then(|| self.idle_for(ticks));
        if let Some(since) = self.drains_since.get() {
            if ticks.since(since) >= Ticks::of(self.patience.drain) {
                self.tell(Signal::Close);
            } else if idle.is_some_and(|idle| idle >= Ticks::of(LAST_CALL)) {
                self.tell(Signal::Leave);
            }
            return None;
        }
        let idle = idle?;
        if self.head_is_late(ticks) {
            self.tell(Signal::Close);
        } else if self.patience.idle.is_some_and(|limit| idle >= Ticks::of(limit)) {
            self.drain();
        }
        None
    }

    fn head_is_late(&self, ticks: Ticks) -> bool {
        let Some(limit) = self.patience.head else { return false };
        if !self.heard.load(Ordering::Relaxed) {
            self.head_since.set(None);
            return false;
        }
        match self.head_since.get() {
            Some(since) => ticks.since(since) >= Ticks::of(limit),
            None => {
                self.head_since.set(Some(ticks));
                false
            }
        }
    }

    fn idle_for(&self, now: Ticks) -> u32 {
        now.since(self.idle_since.get())
    }

    /// Signals only ever grow.
    fn tell(&self, signal: Signal) {
        if signal > self.signal.get() {
            self.signal.set(signal);
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// A request (or a tunnel) runs from now until this is dropped.
    pub(super) fn flight(self: &Rc<Self>) -> Flight {
        self.in_flight.set(self.in_flight.get() + 1);
        Flight(Rc::clone(self))
    }
}

/// Something that runs on a connection.
pub(super) struct Flight(Rc<Open>);

impl Flight {
    /// The connection.
    pub(super) fn open(&self) -> &Rc<Open> {
        &self.0
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let open = &self.0;
        open.in_flight.set(open.in_flight.get() - 1);
        open.idle_since.set(open.waits.now());
        open.heard.store(false, Ordering::Relaxed);
        open.head_since.set(None);
    }
}

/// All open connections of one worker.
#[derive(Default)]
pub(super) struct Connections(RefCell<BTreeMap<u64, Rc<Open>>>);

impl Connections {
    /// Counts one in, until the guard is dropped.
    pub(super) fn track(self: &Rc<Self>, open: Rc<Open>) -> Rc<Tracked> {
        self.0.borrow_mut().insert(open.number, Rc::clone(&open));
        Rc::new(Tracked { connections: Rc::clone(self), open })
    }

    /// Those that are open now.
    pub(super) fn all(&self) -> Vec<Rc<Open>> {
        self.0.borrow().values().cloned().collect()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

/// A connection in its worker's list.
pub(super) struct Tracked {
    connections: Rc<Connections>,
    pub(super) open: Rc<Open>,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.connections.0.borrow_mut().remove(&self.open.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Side;
    use crate::trust::Role;

    fn open(waits: &Rc<Waits>) -> Rc<Open> {
        let facts = ConnectionFacts {
            side: Side::Ingress,
            listener: "api".into(),
            key_pair: None,
            chain: Vec::new(),
            role: Role::Client,
        };
        let seconds = Duration::from_secs;
        let patience = Patience { head: Some(seconds(10)), idle: Some(seconds(60)), drain: seconds(15) };
        Open::new(1, facts, patience, waits)
    }

    fn second(seconds: u32) -> Ticks {
        Ticks(Ticks::of(Duration::from_secs(1)) * seconds)
    }

    fn at(open: &Open, waits: &Waits, seconds: u32) -> (Signal, Option<&'static str>) {
        waits.tick(second(seconds));
        let now = Timestamp::from_second(i64::from(seconds)).unwrap();
        let leave = open.tick(second(seconds), now);
        (open.signal(), leave.map(|leave| leave.reason))
    }

    #[test]
    fn an_idle_connection_leaves_after_its_limit_and_a_busy_one_does_not() {
        let waits = Rc::new(Waits::default());
        let (idle, busy) = (open(&waits), open(&waits));
        let flight = busy.flight();
        assert_eq!(at(&idle, &waits, 59).0, Signal::Serve);
        assert_eq!(at(&idle, &waits, 60), (Signal::Leave, None));
        assert_eq!(at(&busy, &waits, 3600).0, Signal::Serve);
        drop(flight);
        assert_eq!(at(&busy, &waits, 3660).0, Signal::Leave);
    }

    #[test]
    fn a_slow_head_is_closed_and_bytes_of_a_running_request_are_no_head() {
        let waits = Rc::new(Waits::default());
        let open = open(&waits);
        let flight = open.flight();
        open.heard.store(true, Ordering::Relaxed);
        assert_eq!(at(&open, &waits, 20).0, Signal::Serve);
        drop(flight);
        assert_eq!(at(&open, &waits, 40).0, Signal::Serve);
        open.heard.store(true, Ordering::Relaxed);
        assert_eq!(at(&open, &waits, 41).0, Signal::Serve);
        assert_eq!(at(&open, &waits, 51).0, Signal::Close);
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
    fn a_connection_is_listed_until_its_guard_is_dropped() {
        let connections = Rc::new(Connections::default());
        let tracked = connections.track(open(&Rc::new(Waits::default())));
        assert_eq!(connections.all().len(), 1);
        drop(tracked);
        assert!(connections.is_empty());
    }
}
