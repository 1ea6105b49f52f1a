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

use super::drain::{ConnectionFacts, Leave};
use super::framing::guard::Notes;
use super::reading::Mark;
use super::waits::{Ticks, Waits};
use super::watched::Pulse;
use super::{egress, ingress};

/// An idle HTTP/1.1 connection that drains waits this long before it closes, because a request may be on its way.
const LAST_CALL: Duration = Duration::from_secs(1);

/// What the task that serves a connection has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Signal {
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
    /// A request head, or a header block, that has begun; `None` for connections to upstreams, which send none.
    pub(super) head: Option<Duration>,
    /// Whether requests share it: a header block does not mean that no other request runs.
    pub(super) http2: bool,
    /// Without a request; `None` for connections to upstreams, which their pool lets go.
    pub(super) idle: Option<Duration>,
    /// What we write is not read by the other side.
    pub(super) unread: Duration,
    /// From its start to its drain, where the age of connections is limited.
    pub(super) age: Option<Duration>,
    /// From the start of a drain to its end.
    pub(super) drain: Duration,
}

/// A limit of a connection that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// A request head.
    Head,
    /// A header block of HTTP/2.
    Block,
    /// No request.
    Idle,
    /// The other side reads nothing of what we wrote.
    Unread,
}

impl Reached {
    /// A stable code for the log.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Head => "head_late",
            Self::Block => "header_block_late",
            Self::Idle => "idle",
            Self::Unread => "body_unread",
        }
    }

    /// The key of the limit.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Head | Self::Block => "head",
            Self::Idle => "idle",
            Self::Unread => "body_idle",
        }
    }
}

impl fmt::Display for Reached {
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
pub(super) enum Due {
    /// It drains, and why.
    Leave(Leave),
    /// It drains because of its age.
    TooOld(Leave),
    /// It is closed for this limit.
    Limit(Reached),
}

/// One open connection.
pub(super) struct Open {
    pub(super) number: u64,
    pub(super) facts: ConnectionFacts,
    pub(super) view: RefCell<View>,
    /// What the guard of its requests has found.
    pub(super) notes: Arc<Notes>,
    /// What its stream records: `Arc`, as hyper wants a stream that may be sent.
    pub(super) pulse: Arc<Pulse>,
    /// What the response body that was polled last had to give.
    pub(super) mark: Cell<Mark>,
    patience: Patience,
    waits: Rc<Waits>,
    valid_until: Cell<Option<Timestamp>>,
    signal: Cell<Signal>,
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

impl Open {
    pub(super) fn new(number: u64, facts: ConnectionFacts, patience: Patience, waits: &Rc<Waits>) -> Rc<Self> {
        Rc::new(Self {
            number,
            facts,
            view: RefCell::new(View::None),
            notes: Arc::default(),
            pulse: Arc::default(),
            mark: Cell::default(),
            patience,
            waits: Rc::clone(waits),
            valid_until: Cell::new(None),
            signal: Cell::new(Signal::Serve),
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
    pub(super) fn is_upstream(&self) -> bool {
        self.patience.idle.is_none()
    }

    /// The worker's time.
    pub(super) fn waits(&self) -> &Rc<Waits> {
        &self.waits
    }

    /// Makes it a part of `whole`, which lists and counts it.
    pub(super) fn belongs_to<T: Any>(&self, whole: &Rc<T>) {
        let whole: Weak<dyn Any> = Rc::<T>::downgrade(whole);
        *self.whole.borrow_mut() = Some(whole);
    }

    /// What lists and counts it, while it serves: it stays listed and counted as long as this is held.
    pub(super) fn whole(&self) -> Option<Rc<dyn Any>> {
        self.whole.borrow().as_ref()?.upgrade()
    }

    /// The present signal to its task.
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

    /// Tells it to leave; false if it drains already.
    pub(super) fn drain(&self) -> bool {
        if self.drains_since.get().is_some() {
            return false;
        }
        let now = self.waits.now();
        self.drains_since.set(Some(now));
        // A busy connection, and HTTP/2 with its two GOAWAYs, can leave without losing anything.
        let at_once = self.in_flight.get() > 0
            || self.patience.http2
            || self.is_upstream()
            || self.idle_for(now) >= Ticks::of(LAST_CALL);
        self.tell(if at_once { Signal::Leave } else { Signal::Drain });
        true
    }

    /// Checks all limits at this time.
    pub(super) fn tick(&self, ticks: Ticks, now: Timestamp) -> Option<Due> {
        if self.signal.get() >= Signal::Late {
            // The task has had its moment to answer the late head.
            self.tell(Signal::Close);
            return None;
        }
        if let Some(valid_until) = self.valid_until.get() {
            if now >= valid_until {
                self.tell(Signal::Close);
            } else if now.duration_until(valid_until).unsigned_abs() <= self.patience.drain && self.drain() {
                return Some(Due::Leave(Leave::peer_expires(valid_until)));
            }
        }
        if self.is_unread(ticks) {
            self.mark.set(Mark::Unread);
            self.tell(Signal::Close);
            return Some(Due::Limit(Reached::Unread));
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
        if let Some(age) = self.patience.age
            && ticks.since(self.born) >= Ticks::of(age)
        {
            self.drain();
            return Some(Due::TooOld(Leave::too_old(age)));
        }
        if self.patience.http2 && self.head_is_late(ticks) {
            self.tell(Signal::Late);
            return Some(Due::Limit(Reached::Block));
        }
        let idle = idle?;
        if !self.patience.http2 && self.head_is_late(ticks) {
            self.tell(Signal::Late);
            Some(Due::Limit(Reached::Head))
        } else if self.patience.idle.is_some_and(|limit| idle >= Ticks::of(limit)) {
            self.drain();
            Some(Due::Limit(Reached::Idle))
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
        let since = self.blocked_since.get().filter(|_| !self.pulse.has_written());
        match since {
            Some(since) => ticks.since(since) >= Ticks::of(self.patience.unread),
            None => {
                self.blocked_since.set(Some(ticks));
                false
            }
        }
    }

    fn head_is_late(&self, ticks: Ticks) -> bool {
        let Some(limit) = self.patience.head else { return false };
        let head = if self.patience.http2 { self.pulse.open_block() } else { self.pulse.has_heard().then_some(0) };
        match (head, self.head_since.get()) {
            (Some(head), Some((begun, since))) if head == begun => ticks.since(since) >= Ticks::of(limit),
            (head, _) => {
                self.head_since.set(head.map(|head| (head, ticks)));
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
        if !open.patience.http2 {
            open.pulse.forget_heard();
            open.head_since.set(None);
        }
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

    /// Whether no connection is open.
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
mod tests;
