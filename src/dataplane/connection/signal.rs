//! The signal to the task that serves a connection, which reads it at every poll.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

/// What the task that serves a connection has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ConnectionSignal {
    /// Continue to serve.
    #[default]
    Serve,
    /// Leave with the next response, or when it has been idle for a moment.
    Drain,
    /// Leave now: GOAWAY, `connection: close` if the response has not begun, or close if idle.
    Leave,
    /// The request head or header block that has begun is late: report it, and close.
    Late,
    /// The drain has reached its deadline: what runs is told, and has a moment for its last words.
    Cut,
    /// Close, whatever runs.
    Close,
}

/// The present signal, and the task that it wakes.
#[derive(Default)]
pub(super) struct SignalCell {
    signal: Cell<ConnectionSignal>,
    waker: RefCell<Option<Waker>>,
}

impl SignalCell {
    /// The present signal.
    pub(super) fn signal(&self) -> ConnectionSignal {
        self.signal.get()
    }

    /// Wakes this task at the next signal.
    pub(super) fn register_waker(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Wakes the task without a new signal.
    pub(super) fn wake_task(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Signals only ever grow.
    pub(super) fn send_signal(&self, signal: ConnectionSignal) {
        if signal > self.signal.get() {
            self.signal.set(signal);
            self.wake_task();
        }
    }
}
