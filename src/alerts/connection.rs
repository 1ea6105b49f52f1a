//! The registry as the alerts see it: one connection, and queries that end in time.

use std::time::Duration;

use tokio::time::timeout;

use crate::registry::{Error, RegistryStore};

/// Timeout of one database query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);

/// An open registry.
#[derive(Clone)]
pub(super) struct RegistryConnection {
    /// Differs after each reconnection, which may lead to another database.
    pub(super) number: u64,
    /// The registry.
    pub(super) store: RegistryStore,
}

/// Limits one database query to the timeout.
pub(super) async fn with_timeout<T>(
    store: &RegistryStore,
    asking: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let slow = |_| Error::Slow { place: store.location().to_owned(), seconds: QUERY_TIMEOUT.as_secs() };
    timeout(QUERY_TIMEOUT, asking).await.map_err(slow)?
}

/// Notes that an error of the registry delays the alerts.
pub(super) fn log_wait(error: &Error) {
    // The registry's own task logs what is wrong with the database.
    tracing::debug!(target: "alert", %error, "alert delivery waits for the registry");
}
