//! One write of the registry's task: opens the database where it is not, reads for the report, writes, tidies up.

use jiff::Timestamp;

use super::super::store::{FleetHistory, FleetQuery, ObservedState, RegistryStore, StoreAccess, WriteBatch};
use super::super::{Error, RegistrySettings};

/// One write.
pub(super) struct WriteJob<'a> {
    pub(super) settings: &'a RegistrySettings,
    pub(super) store: Option<RegistryStore>,
    pub(super) observed: &'a ObservedState,
    pub(super) written: Option<&'a ObservedState>,
    pub(super) batch: (i64, &'a WriteBatch),
    pub(super) tidy: bool,
    /// Set if the rows of other instances and former processes are to be read.
    pub(super) query: Option<&'a FleetQuery>,
    pub(super) now: Timestamp,
}

impl WriteJob<'_> {
    pub(super) async fn execute(self) -> Result<(RegistryStore, Option<FleetHistory>), Error> {
        let (store, written) = match self.store {
            Some(store) => (store, self.written),
            None => (RegistryStore::open(self.settings, StoreAccess::Write).await?, None),
        };
        // Before this process writes over what a former one knew.
        let read = match self.query {
            Some(query) => Some(store.fleet_history(query).await?),
            None => None,
        };
        store.write((self.observed, written), self.batch, self.now).await?;
        if self.tidy {
            store.tidy(self.now).await?;
            store.forget_alerts(self.now).await?;
        }
        Ok((store, read))
    }
}
