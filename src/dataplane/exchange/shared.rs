//! An HTTP/2 connection that all requests of its pool share: one stream each, as many as the other side allows.

use std::rc::Rc;

use super::home::{ConnectionHome, OpenCountGuard};
use super::link::{HttpTransport, LinkParts, PooledConnection};
use super::proof::ConnectionProof;
use super::request_stream::{StreamOpener, is_open};
use super::streams::SharedStreamState;
use crate::clock::deadlines::Ticks;
use crate::dataplane::connection::{ConnectionGuard, ConnectionSignal};

/// An HTTP/2 connection that all requests of its pool share.
pub(super) struct SharedConnection {
    pub(super) opener: StreamOpener,
    pub(super) common: Rc<SharedStreamState>,
    pub(super) tracked: Option<Rc<ConnectionGuard>>,
    pub(super) proof: Option<Rc<ConnectionProof>>,
    pub(super) _counted: OpenCountGuard,
}

impl SharedConnection {
    /// Lends the connection if the server allows one more stream.
    pub(super) fn lend(&self, home: &Rc<ConnectionHome<PooledConnection>>) -> Option<PooledConnection> {
        let mut opener = self.opener.clone();
        if !is_open(&mut opener) {
            self.common.retire();
            return None;
        }
        let wire = HttpTransport::H2 { stream: self.common.try_open_stream()?, opener };
        let parts = LinkParts {
            home: Rc::clone(home),
            tracked: self.tracked.clone(),
            proof: self.proof.clone(),
            reused: true,
            counted: None,
        };
        Some(PooledConnection::new(wire, parts))
    }

    /// Whether it may be lent: not closed, retired or draining, and not idle for longer than `limit`.
    pub(super) fn is_lendable(&self, now: Ticks, limit: u32) -> bool {
        let told = self.tracked.as_ref().is_some_and(|tracked| tracked.open.signal() != ConnectionSignal::Serve);
        !told && self.common.is_lendable(now, limit)
    }

    /// Whether it is the connection with this state.
    pub(super) fn has_state(&self, common: &Rc<SharedStreamState>) -> bool {
        Rc::ptr_eq(&self.common, common)
    }
}
