//! Where a connection goes when a request has finished with it: the idle ones of one pool, and how many are open.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::clock::deadlines::{Ticks, WaitTable};

/// Idle HTTP/1.1 connections of one pool; those beyond it close.
const MAX_IDLE_CONNECTIONS: usize = 256;

/// The idle connections of one pool, the one used last at the end.
pub(super) struct ConnectionHome<C> {
    idle: RefCell<Vec<C>>,
    /// Connections that are open: idle, lent or shared.
    open: Rc<Cell<usize>>,
    waits: Rc<WaitTable>,
}

impl<C> ConnectionHome<C> {
    /// An empty one.
    pub(super) fn new(waits: &Rc<WaitTable>) -> Rc<Self> {
        Rc::new(Self { idle: RefCell::default(), open: Rc::default(), waits: Rc::clone(waits) })
    }

    /// The worker's deadlines.
    pub(super) fn waits(&self) -> &Rc<WaitTable> {
        &self.waits
    }

    /// Counts a new connection.
    pub(super) fn count_connection(&self) -> OpenCountGuard {
        self.open.set(self.open.get() + 1);
        OpenCountGuard(Rc::clone(&self.open))
    }

    /// How many connections are open.
    pub(super) fn open_connections(&self) -> usize {
        self.open.get()
    }

    /// Returns an idle connection.
    pub(super) fn put_back(&self, connection: C) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MAX_IDLE_CONNECTIONS {
            idle.push(connection);
        }
    }

    /// The connection that was used last.
    pub(super) fn pop_idle(&self) -> Option<C> {
        self.idle.borrow_mut().pop()
    }

    /// Takes them all. Dropping a connection runs code that may come back here: nothing is borrowed meanwhile.
    pub(super) fn take_idle(&self) -> Vec<C> {
        self.idle.take()
    }

    /// Returns connections that `take_idle` took, below those that came back since.
    pub(super) fn restore_idle(&self, mut kept: Vec<C>) {
        let mut idle = self.idle.borrow_mut();
        kept.append(&mut idle);
        *idle = kept;
    }

    /// Whether none is idle.
    pub(super) fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty()
    }

    /// The worker's time.
    pub(super) fn now(&self) -> Ticks {
        self.waits.now()
    }
}

/// Keeps a connection counted in its pool until it is dropped.
pub(super) struct OpenCountGuard(Rc<Cell<usize>>);

impl Drop for OpenCountGuard {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
