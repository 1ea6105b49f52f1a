//! One open connection as its worker sees it: who it is, and what is shared by its tasks, its requests and the tick.
//!
//! The task that serves the connection reads the signal at every poll; the worker's tick and the walk at a new epoch write
//! it. Nothing here touches a socket.

mod life;
mod limits;
pub(crate) mod mark;
mod signal;
pub(crate) mod view;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};

use jiff::Timestamp;
use tokio::task::yield_now;

use super::drain::{ConnectionFacts, DrainUrgency};
use crate::clock::deadlines::{Ticks, WaitTable};
use crate::http::activity::StreamActivity;
use crate::http::taken::TakenMark;
use life::ConnectionLife;
use mark::BodyMark;
use view::ConnectionOwner;

pub(crate) use limits::{ConnectionLimit, ConnectionTimeouts, TickOutcome};
pub(crate) use signal::ConnectionSignal;

/// One open connection.
pub(crate) struct ConnectionState {
    pub(crate) number: u64,
    pub(crate) facts: ConnectionFacts,
    /// What its stream records: `Arc`, as hyper wants a stream that may be sent.
    pub(crate) activity: Arc<StreamActivity>,
    /// What the response body that was polled last had to give.
    pub(crate) mark: Cell<BodyMark>,
    /// The reader of the stream whose task is being polled (HTTP/2).
    pub(crate) reader: RefCell<Option<Arc<TakenMark>>>,
    life: ConnectionLife,
    /// Everything that is counted in with this connection, for what outlives hyper's part of it.
    owner: RefCell<Option<Weak<dyn ConnectionOwner>>>,
}

impl ConnectionState {
    pub(crate) fn new(
        number: u64,
        facts: ConnectionFacts,
        timeouts: ConnectionTimeouts,
        waits: &Rc<WaitTable>,
    ) -> Rc<Self> {
        Rc::new(Self {
            number,
            facts,
            activity: Arc::default(),
            mark: Cell::default(),
            reader: RefCell::default(),
            life: ConnectionLife::new(timeouts, waits),
            owner: RefCell::new(None),
        })
    }

    /// Whether it leads to an upstream: its pool lets it go, and no side of its own stops it.
    pub(crate) fn is_upstream(&self) -> bool {
        self.life.is_upstream()
    }

    /// The worker's time.
    pub(crate) fn waits(&self) -> &Rc<WaitTable> {
        &self.life.waits
    }

    /// Makes it a part of `owner`, which lists and counts it.
    pub(crate) fn set_owner<T: ConnectionOwner>(&self, owner: &Rc<T>) {
        let owner: Weak<dyn ConnectionOwner> = Rc::<T>::downgrade(owner);
        *self.owner.borrow_mut() = Some(owner);
    }

    /// What lists and counts it, while it serves: it stays listed and counted as long as this is held.
    pub(crate) fn owner(&self) -> Option<Rc<dyn ConnectionOwner>> {
        self.owner.borrow().as_ref()?.upgrade()
    }

    /// A new epoch, or a rest: what its requests share goes, and the next one makes it anew.
    pub(crate) fn forget_view(&self) {
        if let Some(owner) = self.owner() {
            owner.forget_view();
        }
    }

    /// The present signal to its task.
    pub(crate) fn signal(&self) -> ConnectionSignal {
        self.life.signal.signal()
    }

    /// Called by its task at each poll, so that a signal wakes it.
    pub(crate) fn register_waker(&self, cx: &Context<'_>) {
        self.life.signal.register_waker(cx);
    }

    /// Until when the peer's path is valid; no connection outlives it.
    pub(crate) fn set_valid_until(&self, valid_until: Option<Timestamp>) {
        self.life.valid_until.set(valid_until);
    }

    /// Whether requests share it.
    pub(crate) fn is_http2(&self) -> bool {
        self.life.timeouts.http2
    }

    /// Tells it to leave; false if it drains already, as urgently.
    pub(crate) fn drain(&self, urgency: DrainUrgency) -> bool {
        self.life.drain(&self.activity, urgency)
    }

    /// Whether what runs on it is cut, because its drain has reached its deadline.
    pub(crate) fn is_cut(&self) -> bool {
        self.life.is_cut()
    }

    /// The process ends: what still runs on it is cut.
    pub(crate) fn cut(&self) {
        self.life.cut();
    }

    /// Checks all limits at this time.
    pub(crate) fn tick(&self, ticks: Ticks, now: Timestamp) -> Option<TickOutcome> {
        let rested = self.life.is_resting();
        let outcome = self.life.tick(&self.activity, ticks, now);
        if !rested && self.life.is_resting() {
            self.forget_view();
        }
        if outcome == Some(TickOutcome::Limit(ConnectionLimit::Unread)) {
            self.mark.set(BodyMark::Unread);
        }
        outcome
    }

    /// Whether its task may park it.
    pub(crate) fn is_parkable(&self) -> bool {
        self.life.is_parkable(&self.activity, self.life.waits.now())
    }

    /// A request (or a tunnel) runs from now until this is dropped.
    pub(crate) fn begin_flight(self: &Rc<Self>) -> InFlightGuard {
        self.life.begin_request(&self.activity);
        InFlightGuard(Rc::clone(self))
    }
}

/// Ready once the connection is told to close.
pub(crate) fn poll_close_signal(open: Option<&Rc<ConnectionState>>, cx: &Context<'_>) -> Poll<()> {
    let Some(open) = open else { return Poll::Pending };
    if open.signal() == ConnectionSignal::Close {
        return Poll::Ready(());
    }
    open.register_waker(cx);
    Poll::Pending
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
        self.0.life.end_request(&self.0.activity);
    }
}

/// All open connections of one worker, by number.
#[derive(Default)]
pub(crate) struct ConnectionTable {
    /// Those of peers and of the application.
    served: RefCell<BTreeMap<u64, Rc<ConnectionState>>>,
    /// Those to upstreams, which are fewer.
    upstream: RefCell<BTreeMap<u64, Rc<ConnectionState>>>,
}

/// Connections that a walk visits before other tasks run.
const WALK_BATCH_SIZE: usize = 32;

impl ConnectionTable {
    /// Counts one in, until the guard is dropped.
    pub(crate) fn track(self: &Rc<Self>, open: Rc<ConnectionState>) -> Rc<ConnectionGuard> {
        self.list_of(&open).borrow_mut().insert(open.number, Rc::clone(&open));
        Rc::new(ConnectionGuard { connections: Rc::clone(self), open })
    }

    /// Those that are open now.
    pub(crate) fn open_connections(&self) -> Vec<Rc<ConnectionState>> {
        self.served.borrow().values().chain(self.upstream.borrow().values()).cloned().collect()
    }

    /// Those to upstreams that are open now.
    pub(crate) fn upstream_connections(&self) -> Vec<Rc<ConnectionState>> {
        self.upstream.borrow().values().cloned().collect()
    }

    /// Visits those that are open now, a few at a time: with many thousands, their visits at once would hold up every request.
    /// What ends meanwhile is not visited, nor what begins.
    pub(crate) async fn walk_connections(&self, mut visit: impl FnMut(&Rc<ConnectionState>)) {
        for list in [&self.served, &self.upstream] {
            let Some(last) = list.borrow().last_key_value().map(|(number, _)| *number) else { continue };
            let mut from = 0;
            loop {
                let batch = next_batch(&list.borrow(), from..=last);
                for open in &batch {
                    visit(open);
                }
                match batch.last() {
                    Some(open) if batch.len() == WALK_BATCH_SIZE && open.number < last => from = open.number + 1,
                    _ => break,
                }
                yield_now().await;
            }
        }
    }

    /// Whether no connection is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.served.borrow().is_empty() && self.upstream.borrow().is_empty()
    }

    fn list_of(&self, open: &ConnectionState) -> &RefCell<BTreeMap<u64, Rc<ConnectionState>>> {
        if open.is_upstream() { &self.upstream } else { &self.served }
    }
}

fn next_batch(list: &BTreeMap<u64, Rc<ConnectionState>>, numbers: RangeInclusive<u64>) -> Vec<Rc<ConnectionState>> {
    list.range(numbers).take(WALK_BATCH_SIZE).map(|(_, open)| Rc::clone(open)).collect()
}

/// A connection in its worker's list.
pub(crate) struct ConnectionGuard {
    connections: Rc<ConnectionTable>,
    pub(crate) open: Rc<ConnectionState>,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connections.list_of(&self.open).borrow_mut().remove(&self.open.number);
    }
}

#[cfg(test)]
pub(crate) mod tests;
