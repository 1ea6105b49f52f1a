//! The life of a connection: requests begin and end, it is idle, it drains, and the worker's tick checks its limits.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;

use super::limits::{ConnectionLimit, ConnectionTimeouts, LimitWatch, TickOutcome};
use super::signal::{ConnectionSignal, SignalCell};
use crate::clock::deadlines::{Ticks, WaitTable};
use crate::dataplane::drain::DrainCause;
use crate::http::activity::StreamActivity;

/// An idle HTTP/1.1 connection that drains waits this long before it closes, because a request may be on its way.
const IDLE_CLOSE_DELAY: Duration = Duration::from_secs(1);

/// How far the life of a connection has come.
pub(super) struct ConnectionLife {
    pub(super) waits: Rc<WaitTable>,
    pub(super) timeouts: ConnectionTimeouts,
    pub(super) signal: SignalCell,
    /// Until when the peer's path is valid.
    pub(super) valid_until: Cell<Option<Timestamp>>,
    watch: LimitWatch,
    born: Ticks,
    drains_since: Cell<Option<Ticks>>,
    idle_since: Cell<Ticks>,
    in_flight: Cell<u32>,
}

impl ConnectionLife {
    pub(super) fn new(timeouts: ConnectionTimeouts, waits: &Rc<WaitTable>) -> Self {
        Self {
            waits: Rc::clone(waits),
            timeouts,
            signal: SignalCell::default(),
            valid_until: Cell::new(None),
            watch: LimitWatch::default(),
            born: waits.now(),
            drains_since: Cell::new(None),
            idle_since: Cell::new(waits.now()),
            in_flight: Cell::new(0),
        }
    }

    /// A request begins.
    pub(super) fn begin_request(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// A request has ended.
    pub(super) fn end_request(&self, activity: &StreamActivity) {
        self.in_flight.set(self.in_flight.get() - 1);
        self.idle_since.set(self.waits.now());
        if !self.timeouts.http2 {
            activity.forget_received();
            self.watch.forget_head();
        }
    }

    /// Whether it leads to an upstream: its pool lets it go, and no side of its own stops it.
    pub(super) fn is_upstream(&self) -> bool {
        self.timeouts.idle.is_none()
    }

    /// Tells it to leave; false if it drains already.
    pub(super) fn drain(&self) -> bool {
        if self.drains_since.get().is_some() {
            return false;
        }
        let now = self.waits.now();
        self.drains_since.set(Some(now));
        // A busy connection, and HTTP/2 with its two GOAWAYs, can leave without losing anything.
        let at_once = self.in_flight.get() > 0
            || self.timeouts.http2
            || self.is_upstream()
            || self.idle_for(now) >= Ticks::from_duration(IDLE_CLOSE_DELAY);
        self.signal.send_signal(if at_once { ConnectionSignal::Leave } else { ConnectionSignal::Drain });
        true
    }

    /// Checks all limits at this time.
    pub(super) fn tick(&self, activity: &StreamActivity, ticks: Ticks, now: Timestamp) -> Option<TickOutcome> {
        if self.signal.signal() >= ConnectionSignal::Late {
            // The task has had its moment to answer the late head.
            self.signal.send_signal(ConnectionSignal::Close);
            return None;
        }
        if let Some(valid_until) = self.valid_until.get() {
            if now >= valid_until {
                self.signal.send_signal(ConnectionSignal::Close);
            } else if now.duration_until(valid_until).unsigned_abs() <= self.timeouts.drain && self.drain() {
                return Some(TickOutcome::Leave(DrainCause::peer_expiry(valid_until)));
            }
        }
        if self.watch.is_unread(activity, &self.timeouts, ticks) {
            self.signal.send_signal(ConnectionSignal::Close);
            return Some(TickOutcome::Limit(ConnectionLimit::Unread));
        }
        let idle = (self.in_flight.get() == 0).then(|| self.idle_for(ticks));
        if let Some(since) = self.drains_since.get() {
            if ticks.ticks_since(since) >= Ticks::from_duration(self.timeouts.drain) {
                self.signal.send_signal(ConnectionSignal::Close);
            } else if idle.is_some_and(|idle| idle >= Ticks::from_duration(IDLE_CLOSE_DELAY)) {
                self.signal.send_signal(ConnectionSignal::Leave);
            }
            return None;
        }
        if let Some(age) = self.timeouts.age
            && ticks.ticks_since(self.born) >= Ticks::from_duration(age)
        {
            self.drain();
            return Some(TickOutcome::TooOld(DrainCause::age_reached(age)));
        }
        if self.timeouts.http2 && self.watch.head_is_late(activity, &self.timeouts, ticks) {
            self.signal.send_signal(ConnectionSignal::Late);
            return Some(TickOutcome::Limit(ConnectionLimit::Block));
        }
        let idle = idle?;
        if !self.timeouts.http2 && self.watch.head_is_late(activity, &self.timeouts, ticks) {
            self.signal.send_signal(ConnectionSignal::Late);
            Some(TickOutcome::Limit(ConnectionLimit::Head))
        } else if self.timeouts.idle.is_some_and(|limit| idle >= Ticks::from_duration(limit)) {
            self.drain();
            Some(TickOutcome::Limit(ConnectionLimit::Idle))
        } else {
            None
        }
    }

    fn idle_for(&self, now: Ticks) -> u32 {
        now.ticks_since(self.idle_since.get())
    }
}
