//! The registry's database: one set of statements for SQLite and Postgres, behind one type.
//!
//! Every statement is in the subset that both accept (`$1`, BIGINT seconds, TEXT, ON CONFLICT) and exists once. `sql`
//! runs statements on either database, `connect` opens it; `write`, `read`, `peer_part`,
//! `senders` and `deliveries` contain the statements.

mod connect;
mod deliveries;
mod failure;
mod peer_part;
mod read;
mod row_statement;
mod senders;
mod sql;
mod write;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::Error;
use failure::classify_error;
use sql::DatabasePool;

pub use connect::{DamagedFile, StoreAccess};
pub use deliveries::AlertNotice;
pub use peer_part::{PeerOrder, PeerPart, PeerQuery};
pub use read::HistoryQuery;
pub use senders::{FleetHistory, FleetQuery};
pub use write::{NumberedRow, ObservedState, PeerVisits, WriteBatch};

/// The displayed location of a registry that ends with the process.
const IN_MEMORY: &str = "memory";

/// An open registry.
#[derive(Clone)]
pub struct RegistryStore {
    pool: DatabasePool,
    instance: Arc<str>,
    place: String,
    /// The connection of readers, where they have one of their own.
    beside: Arc<Mutex<Option<DatabasePool>>>,
}

impl RegistryStore {
    /// This sidecar's name in it.
    pub fn instance(&self) -> &Arc<str> {
        &self.instance
    }

    /// Its location, for display; never contains a password.
    pub fn location(&self) -> &str {
        &self.place
    }

    /// Closes every connection; that of readers first, so that the one that writes is the last, and SQLite tidies up behind it.
    pub async fn close(&self) {
        let beside = self.lock_beside().take();
        if let Some(beside) = beside {
            beside.close().await;
        }
        self.pool.close().await;
    }

    fn lock_beside(&self) -> MutexGuard<'_, Option<DatabasePool>> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it still exists where it was opened: an SQLite file may have been deleted.
    pub fn is_in_place(&self) -> bool {
        let is_file = matches!(self.pool, DatabasePool::Sqlite(_)) && self.place != IN_MEMORY;
        !is_file || std::path::Path::new(&self.place).exists()
    }

    fn wrap_error(&self, source: &sqlx::Error) -> Error {
        classify_error(&self.place, source)
    }
}

/// The first second that is retained, `days` before `now`.
fn days_before(now: Timestamp, days: i64) -> i64 {
    now.as_second().saturating_sub(days * 86_400)
}
