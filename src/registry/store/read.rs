//! Reads the inventory, the history and the failed handshakes: for findings, exports and alerts.

use super::super::{Error, FailureRow, HistoryRow, PeerRow, RegistryInventory};
use super::RegistryStore;
use super::sql::values;

/// Selects lines of the history, or failures.
#[derive(Clone, Debug)]
pub struct HistoryQuery {
    /// Not older than this second.
    pub since: i64,
    /// Maximum number, the newest first.
    pub most: i64,
}

impl Default for HistoryQuery {
    fn default() -> Self {
        Self { since: 0, most: 100_000 }
    }
}

impl RegistryStore {
    /// Everything except history and failures.
    ///
    /// # Errors
    /// The database.
    pub async fn inventory(&self) -> Result<RegistryInventory, Error> {
        let pool = &self.pool;
        let read = async {
            Ok(RegistryInventory {
                instances: pool.fetch_rows("SELECT * FROM instance ORDER BY instance", vec![]).await?,
                keyrings: pool.fetch_rows("SELECT * FROM keyring ORDER BY keyring, instance", vec![]).await?,
                key_pairs: pool
                    .fetch_rows(
                        "SELECT placement.*, subject, names, issuer, serial, key_kind, spki, not_before, not_after, \
                         weakness, self_issued FROM placement JOIN key_pair ON key_pair.key_pair = placement.key_pair \
                         ORDER BY placement.keyring, not_before DESC, placement.key_pair, placement.instance",
                        vec![],
                    )
                    .await?,
                waiting_keys: pool
                    .fetch_rows("SELECT * FROM waiting_key ORDER BY keyring, file, spki, instance", vec![])
                    .await?,
                trusts: pool.fetch_rows("SELECT * FROM trust ORDER BY trust, instance", vec![]).await?,
                anchors: pool.fetch_rows("SELECT * FROM anchor ORDER BY trust, kind, anchor, instance", vec![]).await?,
                crls: pool.fetch_rows("SELECT * FROM crl ORDER BY trust, issuer, instance", vec![]).await?,
                peers: self.all_peers().await?,
                alerts: pool.fetch_rows("SELECT * FROM alert ORDER BY raised, alert, sink", vec![]).await?,
                acknowledgements: pool
                    .fetch_rows("SELECT * FROM acknowledgement ORDER BY at, key_pair, who", vec![])
                    .await?,
            })
        };
        read.await.map_err(|error| self.wrap_error(&error))
    }

    /// Every peer and upstream.
    ///
    /// # Errors
    /// The database.
    pub async fn peers(&self) -> Result<Vec<PeerRow>, Error> {
        self.all_peers().await.map_err(|error| self.wrap_error(&error))
    }

    async fn all_peers(&self) -> Result<Vec<PeerRow>, sqlx::Error> {
        let sql = "SELECT * FROM peer ORDER BY side, listener, certificate, instance";
        self.pool.fetch_rows(sql, vec![]).await
    }

    /// The history, the newest first.
    ///
    /// # Errors
    /// The database.
    pub async fn history(&self, asked: &HistoryQuery) -> Result<Vec<HistoryRow>, Error> {
        let sql = "SELECT * FROM history WHERE at >= $1 ORDER BY at DESC, instance, run, number DESC LIMIT $2";
        let read = self.pool.fetch_rows(sql, values![asked.since, asked.most]).await;
        read.map_err(|error| self.wrap_error(&error))
    }

    /// Handshakes that failed, the newest first.
    ///
    /// # Errors
    /// The database.
    pub async fn failures(&self, asked: &HistoryQuery) -> Result<Vec<FailureRow>, Error> {
        let sql = "SELECT * FROM failure WHERE at >= $1 ORDER BY at DESC, instance, run, number DESC LIMIT $2";
        let read = self.pool.fetch_rows(sql, values![asked.since, asked.most]).await;
        read.map_err(|error| self.wrap_error(&error))
    }
}
