//! Whether the server of an HTTP/2 connection is still there: asked by a PING where a request runs and nothing has come for long.

use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use h2::{Ping, PingPong};

use super::streams::SharedStreamState;
use crate::clock::deadlines::{Ticks, WaitTable, WaitTimer};

/// A PING goes to a server from which nothing has come for so long while a request runs: servers of gRPC end a connection
/// for one that comes after less than five minutes.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(310);
/// How long its answer may take; then the connection is taken for dead.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The PINGs of one connection.
pub(super) struct PingWatch {
    pings: PingPong,
    silence: WaitTimer,
    /// The wait for an answer, if a PING is out, and when that went.
    answer: Option<(WaitTimer, Ticks)>,
    waits: Rc<WaitTable>,
}

impl PingWatch {
    /// Of a new connection.
    pub(super) fn new(pings: PingPong, waits: &Rc<WaitTable>) -> Self {
        Self { pings, silence: WaitTimer::new(waits, PING_INTERVAL), answer: None, waits: Rc::clone(waits) }
    }

    /// Called at each poll of the connection: true if the server is taken for dead.
    pub(super) fn poll_dead(&mut self, common: &SharedStreamState, cx: &mut Context<'_>) -> bool {
        if let Some((answer, sent)) = &mut self.answer {
            let silent = common.heard_at() <= *sent;
            if self.pings.poll_pong(cx).is_pending() && silent {
                return answer.check_late(cx);
            }
            self.answer = None;
            self.silence.reset();
        }
        if common.is_idle() {
            self.silence.reset();
            return false;
        }
        if !self.silence.check_late_since(|_| common.heard_at(), cx) {
            return false;
        }
        self.silence.reset();
        if self.pings.send_ping(Ping::opaque()).is_err() {
            // The last one is still out, or the connection is ending.
            return false;
        }
        let mut answer = WaitTimer::new(&self.waits, PING_TIMEOUT);
        // Both have the task woken.
        let answered = self.pings.poll_pong(cx).is_ready() || answer.check_late(cx);
        self.answer = (!answered).then_some((answer, self.waits.now()));
        false
    }
}
