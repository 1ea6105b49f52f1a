//! One open connection as its worker sees it: what runs on it, how long it has been idle, and whether it has to leave.
//!
//! The task that serves the connection reads the signal at every poll; the worker's tick and the walk at a new epoch write
//! it. Nothing here touches a socket.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use jiff::Timestamp;

use super::drain::{ConnectionFacts, DrainCause};
use super::reading::BodyMark;
use super::watched::StreamActivity;
use crate::clock::deadlines::{Ticks, WaitTable};
use crate::dataplane::egress::request as egress;
use crate::dataplane::ingress::request as ingress;
use crate::http::framing::guard::FramingNotes;

/// An idle HTTP/1.1 connection that drains waits this long before it closes, because a request may be on its way.
const IDLE_CLOSE_DELAY: Duration = Duration::from_secs(1);

/// What the task that serves a connection has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ConnectionSignal {
    /// Continue to serve.
    Serve,
    /// Leave with the next response, or when it has been idle for a moment.
    Drain,
    /// Leave now: GOAWAY, `connection: close`, or close if idle.
    Leave,
    /// The request head or header block that has begun is late: report it, and close.
    Late,
    /// Close, whatever runs.
    Close,
}

/// What its requests need from the snapshot, until the next epoch.
#[derive(Clone)]
pub(crate) enum ConnectionView {
    /// To be made by the next request.
    None,
    /// An ingress'.
    Ingress(Rc<ingress::IngressView>),
    /// An egress'.
    Egress(Rc<egress::EgressView>),
}

/// How long things may take on a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionTimeouts {
    /// A request head, or a header block, that has begun; `None` for connections to upstreams, which send none.
    pub(crate) head: Option<Duration>,
    /// Whether requests share it: a header block does not mean that no other request runs.
    pub(crate) http2: bool,
    /// Without a request; `None` for connections to upstreams, which their pool lets go.
    pub(crate) idle: Option<Duration>,
    /// What we write is not read by the other side.
    pub(crate) unread: Duration,
    /// From its start to its drain, where the age of connections is limited.
    pub(crate) age: Option<Duration>,
    /// From the start of a drain to its end.
    pub(crate) drain: Duration,
}

/// A limit of a connection that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionLimit {
    /// A request head.
    Head,
    /// A header block of HTTP/2.
    Block,
    /// No request.
    Idle,
    /// The other side reads nothing of what we wrote.
    Unread,
}

impl ConnectionLimit {
    /// A stable code for the log.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Head => "head_late",
            Self::Block => "header_block_late",
            Self::Idle => "idle",
            Self::Unread => "body_unread",
        }
    }

    /// The key of the limit.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Head | Self::Block => "head",
            Self::Idle => "idle",
            Self::Unread => "body_idle",
        }
    }
}

impl fmt::Display for ConnectionLimit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Head => "the request head was not completed in time (limits.head)",
            Self::Block => "the header block was not completed in time (limits.head)",
            Self::Idle => "no request arrived within the idle limit (limits.idle)",
            Self::Unread => "the other side does not read what was sent (limits.body_idle)",
        })
    }
}

/// What a tick found about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TickOutcome {
    /// It drains, and why.
    Leave(DrainCause),
    /// It drains because of its age.
    TooOld(DrainCause),
    /// It is closed for this limit.
    Limit(ConnectionLimit),
}

/// One open connection.
pub(crate) struct ConnectionState {
    pub(crate) number: u64,
    pub(crate) facts: ConnectionFacts,
    pub(crate) view: RefCell<ConnectionView>,
    /// What the guard of its requests has found.
    pub(crate) notes: Arc<FramingNotes>,
    /// What its stream records: `Arc`, as hyper wants a stream that may be sent.
    pub(crate) pulse: Arc<StreamActivity>,
    /// What the response body that was polled last had to give.
    pub(crate) mark: Cell<BodyMark>,
    patience: ConnectionTimeouts,
    waits: Rc<WaitTable>,
    valid_until: Cell<Option<Timestamp>>,
    signal: Cell<ConnectionSignal>,
    born: Ticks,
    blocked_since: Cell<Option<Ticks>>,
    drains_since: Cell<Option<Ticks>>,
    /// The head that has begun, and since when: the stream's number on HTTP/2, so that many quick ones are not one slow one.
    head_since: Cell<Option<(u32, Ticks)>>,
    idle_since: Cell<Ticks>,
    in_flight: Cell<u32>,
    waker: RefCell<Option<Waker>>,
    /// Everything that is counted in with this connection, for what outlives hyper's part of it.
    whole: RefCell<Option<Weak<dyn Any>>>,
}

impl ConnectionState {
    pub(crate) fn new(
        number: u64,
        facts: ConnectionFacts,
        patience: ConnectionTimeouts,
        waits: &Rc<WaitTable>,
    ) -> Rc<Self> {
        Rc::new(Self {
            number,
            facts,
            view: RefCell::new(ConnectionView::None),
            notes: Arc::default(),
            pulse: Arc::default(),
            mark: Cell::default(),
            patience,
            waits: Rc::clone(waits),
            valid_until: Cell::new(None),
            signal: Cell::new(ConnectionSignal::Serve),
            born: waits.now(),
            blocked_since: Cell::new(None),
            drains_since: Cell::new(None),
            head_since: Cell::new(None),
            idle_since: Cell::new(waits.now()),
            in_flight: Cell::new(0),
            waker: RefCell::new(None),
            whole: RefCell::new(None),
        })
    }

    /// Whether it leads to an upstream: its pool lets it go, and no side of its own stops it.
    pub(crate) fn is_upstream(&self) -> bool {
        self.patience.idle.is_none()
    }

    /// The worker's time.
    pub(crate) fn waits(&self) -> &Rc<WaitTable> {
        &self.waits
    }

    /// Makes it a part of `whole`, which lists and counts it.
    pub(crate) fn set_owner<T: Any>(&self, whole: &Rc<T>) {
        let whole: Weak<dyn Any> = Rc::<T>::downgrade(whole);
        *self.whole.borrow_mut() = Some(whole);
    }

    /// What lists and counts it, while it serves: it stays listed and counted as long as this is held.
    pub(crate) fn owner(&self) -> Option<Rc<dyn Any>> {
        self.whole.borrow().as_ref()?.upgrade()
    }

    /// The present signal to its task.
    pub(crate) fn signal(&self) -> ConnectionSignal {
        self.signal.get()
    }

    /// Called by its task at each poll, so that a signal wakes it.
    pub(crate) fn register_waker(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Until when the peer's path is valid; no connection outlives it.
    pub(crate) fn set_valid_until(&self, valid_until: Option<Timestamp>) {
        self.valid_until.set(valid_until);
    }

    /// A new epoch: what was taken from the old one goes.
    pub(crate) fn forget_view(&self) {
        let _ = self.view.replace(ConnectionView::None);
    }

    /// Tells it to leave; false if it drains already.
    pub(crate) fn drain(&self) -> bool {
        if self.drains_since.get().is_some() {
            return false;
        }
        let now = self.waits.now();
        self.drains_since.set(Some(now));
        // A busy connection, and HTTP/2 with its two GOAWAYs, can leave without losing anything.
        let at_once = self.in_flight.get() > 0
            || self.patience.http2
            || self.is_upstream()
            || self.idle_for(now) >= Ticks::from_duration(IDLE_CLOSE_DELAY);
        self.send_signal(if at_once { ConnectionSignal::Leave } else { ConnectionSignal::Drain });
        true
    }

    /// Checks all limits at this time.
    pub(crate) fn tick(&self, ticks: Ticks, now: Timestamp) -> Option<TickOutcome> {
        if self.signal.get() >= ConnectionSignal::Late {
            // The task has had its moment to answer the late head.
            self.send_signal(ConnectionSignal::Close);
            return None;
        }
        if let Some(valid_until) = self.valid_until.get() {
            if now >= valid_until {
                self.send_signal(ConnectionSignal::Close);
            } else if now.duration_until(valid_until).unsigned_abs() <= self.patience.drain && self.drain() {
                return Some(TickOutcome::Leave(DrainCause::peer_expiry(valid_until)));
            }
        }
        if self.is_unread(ticks) {
            self.mark.set(BodyMark::Unread);
            self.send_signal(ConnectionSignal::Close);
            return Some(TickOutcome::Limit(ConnectionLimit::Unread));
        }
        let idle = (self.in_flight.get() == 0).then(|| self.idle_for(ticks));
        if let Some(since) = self.drains_since.get() {
            if ticks.ticks_since(since) >= Ticks::from_duration(self.patience.drain) {
                self.send_signal(ConnectionSignal::Close);
            } else if idle.is_some_and(|idle| idle >= Ticks::from_duration(IDLE_CLOSE_DELAY)) {
                self.send_signal(ConnectionSignal::Leave);
            }
            return None;
        }
        if let Some(age) = self.patience.age
            && ticks.ticks_since(self.born) >= Ticks::from_duration(age)
        {
            self.drain();
            return Some(TickOutcome::TooOld(DrainCause::age_reached(age)));
        }
        if self.patience.http2 && self.head_is_late(ticks) {
            self.send_signal(ConnectionSignal::Late);
            return Some(TickOutcome::Limit(ConnectionLimit::Block));
        }
        let idle = idle?;
        if !self.patience.http2 && self.head_is_late(ticks) {
            self.send_signal(ConnectionSignal::Late);
            Some(TickOutcome::Limit(ConnectionLimit::Head))
        } else if self.patience.idle.is_some_and(|limit| idle >= Ticks::from_duration(limit)) {
            self.drain();
            Some(TickOutcome::Limit(ConnectionLimit::Idle))
        } else {
            None
        }
    }

    /// Whether the other side has read nothing of what we want to write for too long.
    fn is_unread(&self, ticks: Ticks) -> bool {
        if !self.pulse.is_blocked() {
            self.blocked_since.set(None);
            return false;
        }
        let since = self.blocked_since.get().filter(|_| !self.pulse.take_written());
        match since {
            Some(since) => ticks.ticks_since(since) >= Ticks::from_duration(self.patience.unread),
            None => {
                self.blocked_since.set(Some(ticks));
                false
            }
        }
    }

    fn head_is_late(&self, ticks: Ticks) -> bool {
        let Some(limit) = self.patience.head else { return false };
        let head = if self.patience.http2 { self.pulse.open_block() } else { self.pulse.has_received().then_some(0) };
        match (head, self.head_since.get()) {
            (Some(head), Some((begun, since))) if head == begun => {
                ticks.ticks_since(since) >= Ticks::from_duration(limit)
            }
            (head, _) => {
                self.head_since.set(head.map(|head| (head, ticks)));
                false
            }
        }
    }

    fn idle_for(&self, now: Ticks) -> u32 {
        now.ticks_since(self.idle_since.get())
    }

    /// Signals only ever grow.
    fn send_signal(&self, signal: ConnectionSignal) {
        if signal > self.signal.get() {
            self.signal.set(signal);
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// A request (or a tunnel) runs from now until this is dropped.
    pub(crate) fn begin_flight(self: &Rc<Self>) -> InFlightGuard {
        self.in_flight.set(self.in_flight.get() + 1);
        InFlightGuard(Rc::clone(self))
    }
}

/// Something that runs on a connection.
pub(crate) struct InFlightGuard(Rc<ConnectionState>);

impl InFlightGuard {
    /// The connection.
    pub(crate) fn state(&self) -> &Rc<ConnectionState> {
        &self.0
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let open = &self.0;
        open.in_flight.set(open.in_flight.get() - 1);
        open.idle_since.set(open.waits.now());
        if !open.patience.http2 {
            open.pulse.forget_received();
            open.head_since.set(None);
        }
    }
}

/// All open connections of one worker.
#[derive(Default)]
pub(crate) struct ConnectionTable(RefCell<BTreeMap<u64, Rc<ConnectionState>>>);

impl ConnectionTable {
    /// Counts one in, until the guard is dropped.
    pub(crate) fn track(self: &Rc<Self>, open: Rc<ConnectionState>) -> Rc<ConnectionGuard> {
        self.0.borrow_mut().insert(open.number, Rc::clone(&open));
        Rc::new(ConnectionGuard { connections: Rc::clone(self), open })
    }

    /// Those that are open now.
    pub(crate) fn open_connections(&self) -> Vec<Rc<ConnectionState>> {
        self.0.borrow().values().cloned().collect()
    }

    /// Whether no connection is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

/// A connection in its worker's list.
pub(crate) struct ConnectionGuard {
    connections: Rc<ConnectionTable>,
    pub(crate) open: Rc<ConnectionState>,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connections.0.borrow_mut().remove(&self.open.number);
    }
}

#[cfg(test)]
mod tests;
