//! What one worker's ingress connections share: its connections to backends, and the used token identifiers of all workers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::jwt::UsedTokenIds;
use crate::dataplane::context::WorkerContext;
use crate::dataplane::exchange::forward::IDLE_CONNECTION_LIFETIME;
use crate::dataplane::exchange::pool::ConnectionPool;
use crate::net::BackendAddress;

/// The ingress side of one worker.
pub(crate) struct IngressResources {
    pub(super) context: Rc<WorkerContext>,
    pub(super) used: Arc<UsedTokenIds>,
    backends: RefCell<HashMap<BackendAddress, Rc<ConnectionPool>>>,
}

impl IngressResources {
    pub(crate) fn new(context: &Rc<WorkerContext>, used: Arc<UsedTokenIds>) -> Self {
        Self { context: Rc::clone(context), used, backends: RefCell::default() }
    }

    /// This worker's connections to a backend.
    pub(super) fn backend(&self, backend: &BackendAddress) -> Rc<ConnectionPool> {
        let http2 = matches!(backend, BackendAddress::H2c(_));
        let mut backends = self.backends.borrow_mut();
        Rc::clone(
            backends
                .entry(backend.clone())
                .or_insert_with(|| ConnectionPool::new(Some(http2), IDLE_CONNECTION_LIFETIME, self.context.waits())),
        )
    }

    /// Removes connections to backends that have ended.
    pub(crate) fn sweep(&self) {
        let backends: Vec<_> = self.backends.borrow().values().cloned().collect();
        for pool in backends {
            pool.sweep();
        }
    }
}
