//! The one `ArcSwap`: a write half that exists once, and read halves that are cheap to clone.
//!
//! A pointer swap, then the epoch on a watch channel: a reader of the epoch may take a newer snapshot, never an
//! older one.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{Epoch, Snapshot};

/// The write half. Exactly one; not `Clone`.
pub struct Publisher {
    cell: Arc<ArcSwap<Snapshot>>,
    epoch: watch::Sender<Epoch>,
}

/// A read half.
#[derive(Clone)]
pub struct Reader {
    cell: Arc<ArcSwap<Snapshot>>,
    epoch: watch::Receiver<Epoch>,
}

/// Both halves around a first snapshot.
pub fn snapshot_channel(first: Snapshot) -> (Publisher, Reader) {
    let (sender, receiver) = watch::channel(first.epoch);
    let cell = Arc::new(ArcSwap::from_pointee(first));
    (Publisher { cell: Arc::clone(&cell), epoch: sender }, Reader { cell, epoch: receiver })
}

impl Publisher {
    /// The epoch that was published last.
    pub fn epoch(&self) -> Epoch {
        *self.epoch.borrow()
    }

    /// Makes `next` the snapshot. Cannot fail.
    pub fn publish(&mut self, next: Snapshot) {
        let epoch = next.epoch;
        self.cell.store(Arc::new(next));
        self.epoch.send_replace(epoch);
    }
}

impl Reader {
    /// The snapshot now. Take it once per connection and at each epoch, never per request.
    pub fn latest(&self) -> Arc<Snapshot> {
        self.cell.load_full()
    }

    /// Waits for the next epoch; `None` when the writer is gone.
    pub async fn changed(&mut self) -> Option<Epoch> {
        self.epoch.changed().await.ok()?;
        Some(*self.epoch.borrow_and_update())
    }
}
