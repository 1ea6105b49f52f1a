//! An HTTP/2 connection that all requests of its pool share: one stream each, as many as the other side allows.

use std::cell::Cell;
use std::rc::Rc;

use hyper::client::conn::http2;

use super::{Counted, Link, Wire};
use crate::proxy::body::Outgoing;
use crate::proxy::open::{Signal, Tracked};
use crate::proxy::pool::Pool;
use crate::proxy::proof::Proof;
use crate::proxy::waits::Ticks;

/// How many streams a shared connection carries; one less when this is dropped.
pub(super) struct Streams(Rc<Cell<usize>>);

impl Streams {
    pub(super) fn one_more(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// An HTTP/2 connection that all requests of its pool share.
pub(in crate::proxy) struct Shared {
    pub(super) sender: http2::SendRequest<Outgoing>,
    pub(super) streams: Rc<Cell<usize>>,
    /// How many the other side allows (SETTINGS_MAX_CONCURRENT_STREAMS).
    pub(super) allowed: Rc<Cell<usize>>,
    pub(super) tracked: Option<Rc<Tracked>>,
    pub(super) proof: Option<Rc<Proof>>,
    pub(super) idle_since: Cell<Ticks>,
    pub(super) _counted: Counted,
}

impl Shared {
    /// Lends the connection if the other side allows one more stream.
    pub(in crate::proxy) fn lend(&self, home: &Rc<Pool>) -> Option<Link> {
        if !self.sender.is_ready() || self.streams.get() >= self.allowed.get() {
            return None;
        }
        Some(Link {
            wire: Wire::H2 { sender: self.sender.clone(), _streams: Streams::one_more(&self.streams) },
            home: Rc::clone(home),
            tracked: self.tracked.clone(),
            proof: self.proof.clone(),
            gatekeeper: None,
            reused: true,
            retired: false,
            idle_since: Ticks::default(),
        })
    }

    /// Whether it may be lent: not closed, not told to leave, not idle for longer than `limit`.
    pub(in crate::proxy) fn keeps(&self, now: Ticks, limit: u32) -> bool {
        if self.streams.get() > 0 {
            self.idle_since.set(now);
        }
        let told = self.tracked.as_ref().is_some_and(|tracked| tracked.open.signal() != Signal::Serve);
        !told && !self.sender.is_closed() && now.since(self.idle_since.get()) < limit
    }

    /// It has just been made.
    pub(in crate::proxy) fn begins(&self, now: Ticks) {
        self.idle_since.set(now);
    }
}
