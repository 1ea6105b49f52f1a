//! `Expect: 100-continue` (RFC 9110 10.1.1): a request's body is held back until it is asked for.
//!
//! hyper asks a client for its body when we first poll it, so not polling is all there is to do. The gate opens at the
//! backend's 100, at a successful response, or after `limits.continue_wait`, because many backends never send 100. Any other final
//! response leaves it shut: the client gets that response and is never asked for a body that is not wanted.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::StatusCode;

use crate::clock::deadlines::{WaitTable, WaitTimer};

const WAITING: u8 = 0;
const ANSWERED: u8 = 1;
const OPEN: u8 = 2;
const REFUSED: u8 = 3;

/// What both ends of one exchange share. `Sync`, because hyper wants that of a callback for a 100; both ends are on
/// one thread, so the lock is never contended.
#[derive(Debug, Default)]
pub(crate) struct ContinueGate {
    state: AtomicU8,
    /// How often the request has been sent: what became of an earlier sending says nothing about this one.
    turn: AtomicU32,
    waker: Mutex<Option<Waker>>,
}

impl ContinueGate {
    /// The backend asks for the body.
    pub(crate) fn record_continue(&self) {
        self.transition(&[WAITING], OPEN);
    }

    fn transition(&self, from: &[u8], to: u8) {
        if from.contains(&self.state.load(Ordering::Relaxed)) {
            self.state.store(to, Ordering::Relaxed);
            if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
                waker.wake();
            }
        }
    }
}

/// The side that knows how one sending of the request is answered. When it goes with the gate still shut, the body is given
/// up, and with it the connection that waits for it; unless the request has been sent again since.
pub(crate) struct ContinueGateGuard {
    gate: Arc<ContinueGate>,
    turn: u32,
}

impl ContinueGateGuard {
    /// The request is sent, or sent again: whether its body is wanted is open once more, if none of it has been sent.
    pub(crate) fn begin_turn(gate: Arc<ContinueGate>) -> Self {
        let turn = gate.turn.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        gate.transition(&[ANSWERED, REFUSED], WAITING);
        Self { gate, turn }
    }

    fn is_latest(&self) -> bool {
        self.gate.turn.load(Ordering::Relaxed) == self.turn
    }

    /// The final response's head is there.
    pub(crate) fn record_final_response(&self, status: StatusCode) {
        if self.is_latest() {
            self.gate.transition(&[WAITING], if status.is_success() { OPEN } else { ANSWERED });
        }
    }

    /// Whether the body will not be sent any more on this connection.
    pub(crate) fn is_shut(&self) -> bool {
        !self.is_latest() || self.gate.state.load(Ordering::Relaxed) != OPEN
    }
}

impl Drop for ContinueGateGuard {
    fn drop(&mut self) {
        if self.is_latest() {
            self.gate.transition(&[WAITING, ANSWERED], REFUSED);
        }
    }
}

/// The side that has the body.
pub(crate) struct BodyHold {
    gate: Arc<ContinueGate>,
    wait: WaitTimer,
    late: bool,
}

impl BodyHold {
    /// Holds the body of a request back, until its gate is told that it is asked for, and for `limit` at most.
    pub(crate) fn new(waits: &std::rc::Rc<WaitTable>, limit: Duration) -> Self {
        Self { gate: Arc::new(ContinueGate::default()), wait: WaitTimer::new(waits, limit), late: false }
    }

    /// Whether it is let go because the backend neither asked for it nor refused it in time.
    pub(crate) fn is_late(&self) -> bool {
        self.late
    }

    /// The gate, for the side that learns how the request is answered.
    pub(crate) fn gate(&self) -> &Arc<ContinueGate> {
        &self.gate
    }

    /// Ready once the body may be sent (true) or never will be (false).
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<bool> {
        match self.gate.state.load(Ordering::Relaxed) {
            OPEN => return Poll::Ready(true),
            REFUSED => return Poll::Ready(false),
            WAITING if self.wait.check_late(cx) => {
                self.gate.state.store(OPEN, Ordering::Relaxed);
                self.late = true;
                return Poll::Ready(true);
            }
            _ => {}
        }
        *self.gate.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::deadlines::{TICK, Ticks};
    use std::rc::Rc;

    const LIMIT: Duration = Duration::from_secs(1);

    fn hold_body() -> (Rc<WaitTable>, BodyHold, ContinueGateGuard) {
        let waits = Rc::new(WaitTable::default());
        let held = BodyHold::new(&waits, LIMIT);
        let keeper = ContinueGateGuard::begin_turn(Arc::clone(held.gate()));
        (waits, held, keeper)
    }

    fn poll(held: &mut BodyHold) -> Poll<bool> {
        held.poll(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_body_is_asked_for_after_its_limit_at_the_latest() {
        let (waits, mut held, keeper) = hold_body();
        assert!(poll(&mut held).is_pending());
        waits.tick(Ticks(Ticks::from_duration(LIMIT)));
        assert!(poll(&mut held).is_pending() && keeper.is_shut());
        waits.tick(Ticks(Ticks::from_duration(LIMIT) + Ticks::from_duration(TICK)));
        assert_eq!(poll(&mut held), Poll::Ready(true));
        assert!(!keeper.is_shut() && held.is_late());
    }

    #[test]
    fn a_success_asks_for_the_body_and_a_refusal_never_does() {
        let (_, mut held_back, keeper) = hold_body();
        keeper.record_final_response(StatusCode::OK);
        assert_eq!(poll(&mut held_back), Poll::Ready(true));

        let (waits, mut held_back, keeper) = hold_body();
        keeper.record_final_response(StatusCode::PAYLOAD_TOO_LARGE);
        waits.tick(Ticks(1000));
        assert!(poll(&mut held_back).is_pending());
        drop(keeper);
        assert_eq!(poll(&mut held_back), Poll::Ready(false));
    }

    #[test]
    fn a_body_once_asked_for_is_not_given_up_with_its_keeper() {
        let (_, mut held, keeper) = hold_body();
        keeper.record_final_response(StatusCode::OK);
        drop(keeper);
        assert_eq!(poll(&mut held), Poll::Ready(true));
    }

    #[test]
    fn a_request_that_is_sent_again_may_be_asked_for_its_body_again_whatever_became_of_the_first_sending() {
        for early in [false, true] {
            let (_, mut held, first) = hold_body();
            first.record_final_response(StatusCode::FORBIDDEN);
            let gate = Arc::clone(held.gate());
            // The first connection may be let go before or after the second one carries the request.
            let (first, second) = if early {
                drop(first);
                assert_eq!(poll(&mut held), Poll::Ready(false));
                (None, ContinueGateGuard::begin_turn(gate))
            } else {
                let second = ContinueGateGuard::begin_turn(gate);
                first.record_final_response(StatusCode::FORBIDDEN);
                (Some(first), second)
            };
            assert!(poll(&mut held).is_pending());
            drop(first);
            assert!(poll(&mut held).is_pending());
            second.record_final_response(StatusCode::OK);
            assert_eq!(poll(&mut held), Poll::Ready(true));
            assert!(!second.is_shut());
        }
    }
}
