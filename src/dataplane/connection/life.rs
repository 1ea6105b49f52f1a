//! The life of a connection: requests begin and end, it is idle, it drains, and the worker's tick checks its limits.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;

use super::limits::{ConnectionLimit, ConnectionTimeouts, LimitWatch, TickOutcome};
use super::signal::{ConnectionSignal, SignalCell};
use crate::clock::deadlines::{Ticks, WaitTable};
use crate::dataplane::drain::{DrainCause, DrainUrgency};
use crate::http::activity::StreamActivity;

/// An idle HTTP/1.1 connection that drains waits this long before it closes, because a request may be on its way.
const IDLE_CLOSE_DELAY: Duration = Duration::from_secs(1);

/// A connection that has been idle for so long rests: it gives back what its requests share, and on HTTP/1.1 hyper's buffers. Most
/// requests that follow one at all come sooner.
const RESTING_DELAY: Duration = Duration::from_secs(1);

/// A task is woken once, by this tick of its life: what TLS has held back for the first response goes out now, with it or without it.
/// By the second, as the first may come at once.
const RELEASING_TICK: u32 = 2;

/// What is cut at a deadline is told so many ticks before it: one for its last words, one for the end.
const LAST_WORDS_TICKS: u32 = 2;

/// How far the life of a connection has come.
pub(super) struct ConnectionLife {
    pub(super) waits: Rc<WaitTable>,
    pub(super) timeouts: ConnectionTimeouts,
    pub(super) signal: SignalCell,
    /// Until when the peer's path is valid.
    pub(super) valid_until: Cell<Option<Timestamp>>,
    watch: LimitWatch,
    born: Ticks,
    /// Ticks until its task is woken for what TLS may hold back; 0 where it was, or the stream writes at once and holds nothing.
    until_release: Cell<u32>,
    drain: Cell<Option<RunningDrain>>,
    cut: Cell<bool>,
    idle_since: Cell<Ticks>,
    in_flight: Cell<u32>,
    /// It rests, since a tick in this time of idleness.
    resting: Cell<bool>,
}

/// A drain that has begun.
#[derive(Clone, Copy)]
struct RunningDrain {
    urgency: DrainUrgency,
    since: Ticks,
}

impl ConnectionLife {
    pub(super) fn new(timeouts: ConnectionTimeouts, waits: &Rc<WaitTable>) -> Self {
        Self {
            waits: Rc::clone(waits),
            until_release: Cell::new(if timeouts.http2 || timeouts.idle.is_none() { 0 } else { RELEASING_TICK }),
            timeouts,
            signal: SignalCell::default(),
            valid_until: Cell::new(None),
            watch: LimitWatch::default(),
            born: waits.now(),
            drain: Cell::new(None),
            cut: Cell::new(false),
            idle_since: Cell::new(waits.now()),
            in_flight: Cell::new(0),
            resting: Cell::new(false),
        }
    }

    /// A request begins.
    pub(super) fn begin_request(&self, activity: &StreamActivity) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.resting.set(false);
        activity.set_answering(true);
    }

    /// A request has ended.
    pub(super) fn end_request(&self, activity: &StreamActivity) {
        self.in_flight.set(self.in_flight.get() - 1);
        self.idle_since.set(self.waits.now());
        activity.set_answering(self.in_flight.get() > 0);
        if !self.timeouts.http2 {
            activity.forget_received();
            self.watch.forget_head();
        }
    }

    /// Whether it leads to an upstream: its pool lets it go, and no side of its own stops it.
    pub(super) fn is_upstream(&self) -> bool {
        self.timeouts.idle.is_none()
    }

    /// Tells it to leave; false if it drains already, as urgently.
    pub(super) fn drain(&self, activity: &StreamActivity, urgency: DrainUrgency) -> bool {
        if self.drain.get().is_some_and(|running| running.urgency >= urgency) {
            return false;
        }
        let now = self.waits.now();
        self.drain.set(Some(RunningDrain { urgency, since: now }));
        let is_told = if self.timeouts.http2 {
            // A GOAWAY while requests are made loses those of some clients: where that can wait, it waits for an idle moment.
            urgency > DrainUrgency::HandedOver
        } else {
            // A response that has begun without `connection: close` has told its client to go on: the next one says it. Where a pair
            // or peer may not be used any more, there is no other.
            self.in_flight.get() > 0 && urgency == DrainUrgency::Urgent
        };
        let at_once = is_told || self.is_upstream() || self.may_close(activity, now);
        self.signal.send_signal(if at_once { ConnectionSignal::Leave } else { ConnectionSignal::Drain });
        true
    }

    /// Whether what runs on it is cut.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// What runs on it is cut: it is told, and has a moment for its last words.
    pub(super) fn cut(&self) {
        self.cut.set(true);
        self.signal.send_signal(ConnectionSignal::Cut);
    }

    /// Checks all limits at this time.
    pub(super) fn tick(&self, activity: &StreamActivity, ticks: Ticks, now: Timestamp) -> Option<TickOutcome> {
        match self.signal.signal() {
            ConnectionSignal::Cut | ConnectionSignal::Late => {
                // The task has had its moment to answer the late head, or to say that it is cut.
                self.signal.send_signal(ConnectionSignal::Close);
                return None;
            }
            ConnectionSignal::Close => return None,
            _ => {}
        }
        self.release_held();
        if let Some(outcome) = self.check_peer_path(activity, now) {
            return Some(outcome);
        }
        if self.watch.is_unread(activity, &self.timeouts, ticks) {
            self.signal.send_signal(ConnectionSignal::Close);
            return Some(TickOutcome::Limit(ConnectionLimit::Unread));
        }
        let idle = (self.in_flight.get() == 0).then(|| self.idle_for(ticks));
        if idle.is_some() && !self.timeouts.http2 && self.watch.head_is_late(activity, &self.timeouts, ticks) {
            self.signal.send_signal(ConnectionSignal::Late);
            return Some(TickOutcome::Limit(ConnectionLimit::Head));
        }
        if let Some(running) = self.drain.get() {
            return self.check_drain(running, idle, (activity, ticks));
        }
        if let Some(age) = self.timeouts.age
            && ticks.ticks_since(self.born) >= Ticks::from_duration(age)
        {
            self.drain(activity, DrainUrgency::Planned);
            return Some(TickOutcome::TooOld(DrainCause::age_reached(age)));
        }
        if self.timeouts.http2 && self.watch.head_is_late(activity, &self.timeouts, ticks) {
            self.signal.send_signal(ConnectionSignal::Late);
            return Some(TickOutcome::Limit(ConnectionLimit::Block));
        }
        let idle = idle?.min(ticks.ticks_since(activity.last_ping()));
        if self.timeouts.idle.is_some_and(|limit| idle >= Ticks::from_duration(limit)) {
            self.drain(activity, DrainUrgency::Urgent);
            return Some(TickOutcome::Limit(ConnectionLimit::Idle));
        }
        let rests = if self.timeouts.http2 { self.has_paused(ticks) } else { self.is_parkable(activity, ticks) };
        if rests && !self.resting.replace(true) && !self.timeouts.http2 {
            // Its task parks it.
            self.signal.wake_task();
        }
        None
    }

    /// Wakes the task once, so that it flushes its stream.
    fn release_held(&self) {
        let left = self.until_release.get();
        self.until_release.set(left.saturating_sub(1));
        if left == 1 {
            self.signal.wake_task();
        }
    }

    /// Whether it rests: what its requests share is made anew by the next one.
    pub(super) fn is_resting(&self) -> bool {
        self.resting.get()
    }

    /// Whether nothing has run for so long that the next request may as well begin anew.
    fn has_paused(&self, ticks: Ticks) -> bool {
        !self.is_upstream() && self.in_flight.get() == 0 && self.idle_for(ticks) >= Ticks::from_duration(RESTING_DELAY)
    }

    /// Whether besides nothing has come, and nothing waits to be written, so that a connection of HTTP/1.1 needs no buffers.
    pub(super) fn is_parkable(&self, activity: &StreamActivity, ticks: Ticks) -> bool {
        !self.timeouts.http2
            && self.has_paused(ticks)
            && !(activity.has_received() || activity.is_blocked() || activity.has_ended())
            && self.signal.signal() <= ConnectionSignal::Drain
    }

    /// No connection outlives the path of its peer, and its drain begins in time.
    fn check_peer_path(&self, activity: &StreamActivity, now: Timestamp) -> Option<TickOutcome> {
        let valid_until = self.valid_until.get()?;
        if now >= valid_until {
            self.cut.set(self.in_flight.get() > 0);
            self.signal.send_signal(ConnectionSignal::Close);
        } else if now.duration_until(valid_until).unsigned_abs() <= self.timeouts.drain
            && self.drain(activity, DrainUrgency::Urgent)
        {
            return Some(TickOutcome::Leave(DrainCause::peer_expiry(valid_until)));
        }
        None
    }

    /// How a drain goes on; `idle`: for so long nothing has run.
    fn check_drain(
        &self,
        running: RunningDrain,
        idle: Option<u32>,
        (activity, ticks): (&StreamActivity, Ticks),
    ) -> Option<TickOutcome> {
        let elapsed = ticks.ticks_since(running.since);
        if running.urgency <= DrainUrgency::HandedOver {
            if elapsed >= Ticks::from_duration(self.timeouts.drain_planned) {
                self.drain(activity, DrainUrgency::Urgent);
            } else if running.urgency == DrainUrgency::HandedOver && self.has_waited_for_idleness(elapsed, idle) {
                self.signal.send_signal(ConnectionSignal::Leave);
            }
        } else if elapsed + LAST_WORDS_TICKS >= Ticks::from_duration(self.timeouts.drain) {
            if idle.is_some() && !self.is_upstream() {
                self.signal.send_signal(ConnectionSignal::Close);
                return None;
            }
            self.cut();
            // Counted now: it may end before the next tick.
            let by_stop = running.urgency == DrainUrgency::Stopping && idle.is_none();
            return Some(if by_stop { TickOutcome::CutByStop } else { TickOutcome::Cut });
        }
        if self.may_close(activity, ticks) {
            self.signal.send_signal(ConnectionSignal::Leave);
        }
        None
    }

    /// Whether a connection that drains closes by itself: nothing has run for a moment, and no request has begun to arrive.
    fn may_close(&self, activity: &StreamActivity, ticks: Ticks) -> bool {
        let has_begun = !self.timeouts.http2 && activity.has_received();
        self.in_flight.get() == 0 && !has_begun && self.idle_for(ticks) >= Ticks::from_duration(IDLE_CLOSE_DELAY)
    }

    /// After a take-over: whether a connection that was never idle for long leaves all the same. A client that always has a
    /// request under way would hold the old process for as long as it likes. A moment without one comes first: some clients
    /// lose what runs when a GOAWAY comes.
    fn has_waited_for_idleness(&self, elapsed: u32, idle: Option<u32>) -> bool {
        let patience = Ticks::from_duration(self.timeouts.drain);
        elapsed / 2 >= patience || (elapsed >= patience && idle.is_some())
    }

    fn idle_for(&self, now: Ticks) -> u32 {
        now.ticks_since(self.idle_since.get())
    }
}
