//! The registry as a reader sees it: while it is connected, and for a bounded time.
//!
//! The reader has a connection of its own, opened by the thread that reads: what it reads holds up no write, and where that thread
//! has a lower priority, the thread that SQLite runs on has it as well.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
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

impl RegistryUnread {
    fn failed(error: &Error) -> Self {
        Self::Failed(crate::pki::printable(&error.to_string()))
    }
}

/// Reads the registry while it is connected.
#[derive(Clone, Default)]
pub(super) struct RegistryReader(Option<Arc<Mutex<ReaderConnection>>>);

/// The reader's own connection, for as long as the registry's task lends the same store.
struct ReaderConnection {
    lent: watch::Receiver<Option<RegistryStore>>,
    own: Option<RegistryStore>,
}

impl RegistryReader {
    /// Through the channel on which the registry's task lends its store.
    pub(super) fn through(lent: watch::Receiver<Option<RegistryStore>>) -> Self {
        Self(Some(Arc::new(Mutex::new(ReaderConnection { lent, own: None }))))
    }

    /// Reads, within bounds. A reader that goes away takes its reading with it.
    pub(super) async fn read<T, R>(&self, work: impl FnOnce(RegistryStore) -> R) -> Result<T, RegistryUnread>
    where
        R: Future<Output = Result<T, Error>>,
    {
        let connection = self.0.as_ref().ok_or(RegistryUnread::Unconnected)?;
        let reading = async {
            let store = connection.lock().await.open_store().await?;
            work(store).await.map_err(|error| RegistryUnread::failed(&error))
        };
        timeout(PATIENCE, reading).await.unwrap_or(Err(RegistryUnread::Slow(PATIENCE.as_secs())))
    }
}

impl ReaderConnection {
    async fn open_store(&mut self) -> Result<RegistryStore, RegistryUnread> {
        let lent = {
            let lent = self.lent.borrow_and_update();
            if lent.has_changed() {
                // Perhaps another database, or another file of the same name.
                self.own = None;
            }
            lent.clone().ok_or(RegistryUnread::Unconnected)?
        };
        if let Some(own) = &self.own {
            return Ok(own.clone());
        }
        let own = lent.open_beside().await.map_err(|error| RegistryUnread::failed(&error))?;
        self.own = Some(own.clone());
        Ok(own)
    }
}
