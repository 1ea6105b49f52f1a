//! A worker's connections to one backend, or to one upstream with one key pair: idle HTTP/1.1, shared HTTP/2.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::home::ConnectionHome;
use super::link::PooledConnection;
use super::shared::SharedConnection;
use super::streams::SharedStreamState;
use crate::clock::deadlines::{Ticks, WaitTable};

/// The connections.
pub(crate) struct ConnectionPool {
    home: Rc<ConnectionHome<PooledConnection>>,
    shared: RefCell<Vec<SharedConnection>>,
    /// Whether the server speaks HTTP/2; `None` until the first connection.
    http2: Cell<Option<bool>>,
    /// Whether the server chooses the protocol at each connection.
    negotiated: bool,
    /// The server has asked for HTTP/1.1 (HTTP_1_1_REQUIRED): known to all pools of one upstream.
    http1_required: Rc<Cell<bool>>,
    /// Held while a connection is established that others may share.
    pub(super) connecting: tokio::sync::Mutex<()>,
    /// Connections that could not be established.
    pub(super) failures: Cell<u32>,
    keep: u32,
}

impl ConnectionPool {
    /// An empty pool; idle connections are kept for `keep`. `http2` is the protocol, where it is known.
    pub(crate) fn new(http2: Option<bool>, keep: Duration, waits: &Rc<WaitTable>) -> Rc<Self> {
        Self::for_upstream(http2, &Rc::default(), keep, waits)
    }

    /// Likewise, for one of several pools of an upstream: what one is told of HTTP/1.1 all of them know.
    pub(crate) fn for_upstream(
        http2: Option<bool>,
        http1_required: &Rc<Cell<bool>>,
        keep: Duration,
        waits: &Rc<WaitTable>,
    ) -> Rc<Self> {
        Rc::new(Self {
            home: ConnectionHome::new(waits),
            shared: RefCell::default(),
            http2: Cell::new(http2),
            negotiated: http2.is_none(),
            http1_required: Rc::clone(http1_required),
            connecting: tokio::sync::Mutex::new(()),
            failures: Cell::new(0),
            keep: Ticks::from_duration(keep),
        })
    }

    /// Where its connections return to.
    pub(super) fn home(&self) -> &Rc<ConnectionHome<PooledConnection>> {
        &self.home
    }

    /// How many connections are open.
    pub(crate) fn open_connections(&self) -> usize {
        self.home.open_connections()
    }

    /// Whether its connections carry HTTP/2; `None` until the first one.
    pub(super) fn protocol(&self) -> Option<bool> {
        if self.http1_required.get() { Some(false) } else { self.http2.get() }
    }

    /// Records what a new connection speaks.
    pub(super) fn record_protocol(&self, http2: bool) {
        self.http2.set(Some(http2));
    }

    /// Whether new connections have to offer HTTP/1.1 alone.
    pub(super) fn offers_http1_only(&self) -> bool {
        self.http1_required.get()
    }

    /// The server wants HTTP/1.1: nothing goes over HTTP/2 from now on, and what runs there goes on. False where there is
    /// no choice.
    pub(super) fn require_http1(&self) -> bool {
        if self.negotiated {
            self.http1_required.set(true);
            drop(self.shared.take());
        }
        self.negotiated
    }

    /// Adds a connection that requests share.
    pub(super) fn add_shared(&self, shared: SharedConnection) {
        self.shared.borrow_mut().push(shared);
    }

    /// An existing connection, the one used last first; none that this request avoids.
    pub(super) fn take_connection(&self, shunned: Option<&Rc<SharedStreamState>>) -> Option<PooledConnection> {
        let may = |shared: &SharedConnection| {
            shared.is_lendable(self.home.now(), u32::MAX) && !shunned.is_some_and(|one| shared.has_state(one))
        };
        if self.http1_required.get() {
            // Another pool of this upstream was told.
            drop(self.shared.take());
        }
        let lent =
            self.shared.borrow().iter().find_map(|shared| if may(shared) { shared.lend(&self.home) } else { None });
        if lent.is_some() {
            return lent;
        }
        loop {
            let mut link = self.home.pop_idle()?;
            if link.is_alive() {
                return Some(link);
            }
        }
    }

    /// Closes all: requests in progress finish, and the next request opens a new connection.
    pub(crate) fn close_all(&self) {
        // Dropped when nothing is borrowed any more, as in `sweep`.
        let gone = (self.home.take_idle(), self.shared.take());
        drop(gone);
    }

    /// Removes connections that are closed, draining, or idle for too long.
    pub(crate) fn sweep(&self) {
        let (now, limit) = (self.home.now(), self.keep);
        // Dropping a connection runs code that may access this pool: nothing is borrowed meanwhile.
        let idle = self.home.take_idle();
        let (keep, gone): (Vec<_>, Vec<_>) = idle
            .into_iter()
            .map(|mut link| (link.is_alive() && link.idle_for(now) < limit, link))
            .partition(|(keep, _)| *keep);
        drop(gone);
        self.home.restore_idle(keep.into_iter().map(|(_, link)| link).collect());
        let shared = self.shared.take();
        let keep: Vec<_> = shared.into_iter().filter(|shared| shared.is_lendable(now, limit)).collect();
        self.shared.borrow_mut().extend(keep);
    }

    /// Whether it holds no connection.
    pub(crate) fn is_empty(&self) -> bool {
        self.home.is_empty() && self.shared.borrow().is_empty()
    }

    /// Whether no connection is open that could return to it: a request may have one.
    pub(crate) fn is_unused(&self) -> bool {
        self.is_empty() && Rc::strong_count(&self.home) == 1
    }
}
