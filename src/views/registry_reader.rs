//! The registry as a reader sees it: while it is connected, and for a bounded time.

use std::time::Duration;

use tokio::sync::watch;
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
}

/// Reads the registry while it is connected.
#[derive(Clone)]
pub(super) struct RegistryReader(watch::Receiver<Option<RegistryStore>>);

impl Default for RegistryReader {
    /// Of a process without a registry.
    fn default() -> Self {
        Self(watch::channel(None).1)
    }
}

impl RegistryReader {
    /// Through the channel on which the registry's task lends its store.
    pub(super) const fn through(current: watch::Receiver<Option<RegistryStore>>) -> Self {
        Self(current)
    }

    /// Reads, within bounds.
    pub(super) async fn read<T>(
        &self,
        work: impl AsyncFnOnce(&RegistryStore) -> Result<T, Error>,
    ) -> Result<T, RegistryUnread> {
        let store = self.0.borrow().clone().ok_or(RegistryUnread::Unconnected)?;
        match timeout(PATIENCE, work(&store)).await {
            Ok(read) => read.map_err(|error| RegistryUnread::Failed(crate::pki::printable(&error.to_string()))),
            Err(_) => Err(RegistryUnread::Slow(PATIENCE.as_secs())),
        }
    }
}
