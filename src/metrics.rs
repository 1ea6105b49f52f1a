//! Prometheus text: counters in the workers' own cells, added up when somebody scrapes.
//!
//! Labels are names from the configuration or from fixed lists, never peer text.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// All metrics of the process.
pub struct Metrics {
    _todo: (),
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty set.
    pub fn new() -> Self {
        Self { _todo: () }
    }
    /// One worker's own cells for one listener: asked for once, when the worker starts; only that worker writes them.
    pub fn cells(&self, side: &'static str, listener: &str) -> Arc<Cells> {
        let _ = (side, listener);
        todo!()
    }
}

/// What one worker counts for one listener. Relaxed atomics without contention.
pub struct Cells {
    connections_open: AtomicI64,
    // yours
}

impl Cells {
    /// One request was answered.
    pub fn request(&self, status: u16, took: Duration) {
        let _ = (status, took);
        todo!()
    }
    /// A request failed; `fault` is one of `peer`, `backend`, `upstream`, `sidecar`.
    pub fn error(&self, fault: &'static str) {
        let _ = fault;
        todo!()
    }
    /// A connection opened; it closes when the guard is dropped.
    pub fn connection(self: &Arc<Self>) -> Open {
        self.connections_open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }
}

/// An open connection, counted until this is dropped.
pub struct Open(Arc<Cells>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}
