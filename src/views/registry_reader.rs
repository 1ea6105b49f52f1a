//! The registry as a reader sees it: while it is connected, and for a bounded time.
//!
//! Whichever thread asks, the database is read on the runtime that its connections belong to.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::registry::{Error, RegistryStore};

/// How long a reader waits for the database.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the registry cannot be read now: one sentence with what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryUnread {
    /// It is not connected.
    #[error("the registry is not connected: the log says why (target registry), and it is tried again by itself")]
    Unconnected,
    /// It does not answer.
    #[error("the registry has not answered for {0} s: look at the database")]
    Slow(u64),
    /// It answers with an error.
    #[error("the registry cannot be read: {0}")]
    Failed(String),
    /// The process ends, and the registry before it.
    #[error("the registry cannot be read: the sidecar stops")]
    Stopping,
}

/// Reads the registry while it is connected.
#[derive(Clone, Default)]
pub(super) struct RegistryReader(Option<(watch::Receiver<Option<RegistryStore>>, Handle)>);

impl RegistryReader {
    /// Through the channel on which the registry's task lends its store, on the runtime of that task.
    pub(super) fn through(current: watch::Receiver<Option<RegistryStore>>, runtime: Handle) -> Self {
        Self(Some((current, runtime)))
    }

    /// Reads, within bounds.
    pub(super) async fn read<T: Send + 'static, R>(
        &self,
        work: impl FnOnce(RegistryStore) -> R,
    ) -> Result<T, RegistryUnread>
    where
        R: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let (current, runtime) = self.0.as_ref().ok_or(RegistryUnread::Unconnected)?;
        let store = current.borrow().clone().ok_or(RegistryUnread::Unconnected)?;
        // A set of one: a reader that goes away takes its reading with it.
        let mut reading = JoinSet::new();
        reading.spawn_on(work(store), runtime);
        match timeout(PATIENCE, reading.join_next()).await {
            Ok(Some(Ok(read))) => {
                read.map_err(|error| RegistryUnread::Failed(crate::pki::printable(&error.to_string())))
            }
            Ok(Some(Err(_)) | None) => Err(RegistryUnread::Stopping),
            Err(_) => Err(RegistryUnread::Slow(PATIENCE.as_secs())),
        }
    }
}
