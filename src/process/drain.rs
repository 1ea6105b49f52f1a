//! What stopping waits for: the listeners that are not closed yet, and the connections that are left, over all workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// What is left, on both sides.
#[derive(Debug, Default)]
pub struct DrainProgress {
    /// Of peers.
    pub ingress: SideProgress,
    /// Of the application.
    pub egress: SideProgress,
    /// Conversations with a new process that takes over.
    hand_overs: Arc<DrainCount>,
    cut: AtomicUsize,
}

/// What is left on one side.
#[derive(Debug, Default)]
pub struct SideProgress {
    listening: Arc<DrainCount>,
    connections: Arc<DrainCount>,
}

#[derive(Debug, Default)]
struct DrainCount {
    count: AtomicUsize,
    none_left: Notify,
}

/// Something that stopping waits for, until this is dropped.
#[derive(Debug)]
pub struct DrainGuard(Arc<DrainCount>);

impl DrainProgress {
    /// With nothing open.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
    /// Counts a hand-over to a new process until it is told that it may go on alone.
    pub fn track_hand_over(&self) -> DrainGuard {
        DrainGuard::new(&self.hand_overs)
    }
    /// Waits until no new process waits for an answer.
    pub(super) async fn wait_until_answered(&self) {
        self.hand_overs.wait_until_none().await;
    }
    /// Records that a connection on which something ran was closed at the deadline.
    pub fn record_cut(&self) {
        self.cut.fetch_add(1, Ordering::AcqRel);
    }
    /// Connections that were cut at the deadline, or are open now and will be closed; those that were cut may be among them.
    pub fn closed_at_deadline(&self) -> usize {
        self.cut.load(Ordering::Acquire).max(self.open_connections())
    }
    /// Connections that are open.
    pub fn open_connections(&self) -> usize {
        self.ingress.open_connections() + self.egress.open_connections()
    }
}

impl SideProgress {
    /// Counts an open connection.
    pub fn track_connection(&self) -> DrainGuard {
        DrainGuard::new(&self.connections)
    }
    /// Counts a worker until it has closed its listeners, and counted what they had accepted.
    pub fn track_listeners(&self) -> DrainGuard {
        DrainGuard::new(&self.listening)
    }
    /// Connections that are open.
    pub fn open_connections(&self) -> usize {
        self.connections.count.load(Ordering::Acquire)
    }
    /// Waits until each worker has closed its listeners: from then on no connection is added.
    pub(super) async fn wait_until_closed(&self) {
        self.listening.wait_until_none().await;
    }
    /// Waits until no connection is open.
    pub(super) async fn wait_until_drained(&self) {
        self.connections.wait_until_none().await;
    }
}

impl DrainCount {
    async fn wait_until_none(&self) {
        loop {
            // Registered before the count is read: a connection that closes in between still wakes it.
            let none_left = self.none_left.notified();
            if self.count.load(Ordering::Acquire) == 0 {
                return;
            }
            none_left.await;
        }
    }
}

impl DrainGuard {
    fn new(open: &Arc<DrainCount>) -> Self {
        open.count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(open))
    }
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none_left.notify_waiters();
        }
    }
}
