//! Reads the inventory, the history and the failed handshakes: for findings, exports and alerts.

use super::super::{Error, FailureRow, HistoryRow, PeerRow, RegistryInventory};
use super::RegistryStore;
use super::sql::values;

const INSTANCES: &str = "SELECT * FROM instance ORDER BY instance";
const KEYRINGS: &str = "SELECT * FROM keyring ORDER BY keyring, instance";
const ANCHORS: &str = "SELECT * FROM anchor ORDER BY trust, kind, anchor, instance";
const CRLS: &str = "SELECT * FROM crl ORDER BY trust, issuer, instance";
const PLACEMENTS: &str = "SELECT placement.*, subject, names, issuer, serial, key_kind, spki, not_before, not_after, \
    weakness, self_issued FROM placement JOIN key_pair ON key_pair.key_pair = placement.key_pair \
    ORDER BY placement.keyring, not_before DESC, placement.key_pair, placement.instance";

/// Characters of a peer's name that are in its index, which has the same expression.
const INDEXED_CHARACTERS: usize = 200;
const PEERS_BY_NAME: &str = "SELECT * FROM peer WHERE substr(COALESCE(identity, subject), 1, 200) = $1 \
    AND COALESCE(identity, subject) = $2 ORDER BY last_seen DESC, side, listener, certificate, instance LIMIT $3";
const PEERS_BY_CERTIFICATE: &str =
    "SELECT * FROM peer WHERE certificate = $1 ORDER BY last_seen DESC, side, listener, instance LIMIT $2";

/// Selects lines of the history, or failures.
#[derive(Clone, Debug)]
pub struct HistoryQuery {
    /// Not older than this second.
    pub since: i64,
    /// Maximum number, the newest first.
    pub most: i64,
    /// Only of the keyring, trust, file or upstream of this name. Failures have none.
    pub name: Option<String>,
}

impl Default for HistoryQuery {
    fn default() -> Self {
        Self { since: 0, most: 100_000, name: None }
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
                instances: pool.fetch_rows(INSTANCES, vec![]).await?,
                keyrings: pool.fetch_rows(KEYRINGS, vec![]).await?,
                key_pairs: pool.fetch_rows(PLACEMENTS, vec![]).await?,
                waiting_keys: pool
                    .fetch_rows("SELECT * FROM waiting_key ORDER BY keyring, file, spki, instance", vec![])
                    .await?,
                trusts: pool.fetch_rows("SELECT * FROM trust ORDER BY trust, instance", vec![]).await?,
                anchors: pool.fetch_rows(ANCHORS, vec![]).await?,
                crls: pool.fetch_rows(CRLS, vec![]).await?,
                peers: self.all_peers().await?,
                alerts: pool.fetch_rows("SELECT * FROM alert ORDER BY raised, alert, sink", vec![]).await?,
                acknowledgements: pool
                    .fetch_rows("SELECT * FROM acknowledgement ORDER BY at, key_pair, who", vec![])
                    .await?,
            })
        };
        read.await.map_err(|error| self.wrap_error(&error))
    }

    /// The keyrings and key pairs of every instance, and nothing else.
    ///
    /// # Errors
    /// The database.
    pub async fn key_pairs(&self) -> Result<RegistryInventory, Error> {
        let read = async {
            Ok(RegistryInventory {
                instances: self.pool.fetch_rows(INSTANCES, vec![]).await?,
                keyrings: self.pool.fetch_rows(KEYRINGS, vec![]).await?,
                key_pairs: self.pool.fetch_rows(PLACEMENTS, vec![]).await?,
                ..RegistryInventory::default()
            })
        };
        read.await.map_err(|error| self.wrap_error(&error))
    }

    /// The anchors, pins and CRLs of every instance, and nothing else.
    ///
    /// # Errors
    /// The database.
    pub async fn trust_holdings(&self) -> Result<RegistryInventory, Error> {
        let read = async {
            Ok(RegistryInventory {
                anchors: self.pool.fetch_rows(ANCHORS, vec![]).await?,
                crls: self.pool.fetch_rows(CRLS, vec![]).await?,
                ..RegistryInventory::default()
            })
        };
        read.await.map_err(|error| self.wrap_error(&error))
    }

    /// The peers and upstreams that came last, at most so many.
    ///
    /// # Errors
    /// The database.
    pub async fn latest_peers(&self, most: i64) -> Result<Vec<PeerRow>, Error> {
        let sql = "SELECT * FROM peer ORDER BY last_seen DESC, side, listener, certificate, instance LIMIT $1";
        self.pool.fetch_rows(sql, values![most]).await.map_err(|error| self.wrap_error(&error))
    }

    /// The rows of one peer or upstream, by its identity, or without one by its subject; the latest first, at most so many.
    ///
    /// # Errors
    /// The database.
    pub async fn find_peers_by_name(&self, name: &str, most: i64) -> Result<Vec<PeerRow>, Error> {
        // As the index has it: a whole name may be too long for one.
        let begin: String = name.chars().take(INDEXED_CHARACTERS).collect();
        let read = self.pool.fetch_rows(PEERS_BY_NAME, values![begin, name, most]).await;
        read.map_err(|error| self.wrap_error(&error))
    }

    /// The rows of the peers and upstreams that showed this certificate; the latest first, at most so many.
    ///
    /// # Errors
    /// The database.
    pub async fn find_peers_by_certificate(&self, certificate: &str, most: i64) -> Result<Vec<PeerRow>, Error> {
        let read = self.pool.fetch_rows(PEERS_BY_CERTIFICATE, values![certificate, most]).await;
        read.map_err(|error| self.wrap_error(&error))
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
        let read = match &asked.name {
            None => {
                let sql = "SELECT * FROM history WHERE at >= $1 ORDER BY at DESC, instance, run, number DESC LIMIT $2";
                self.pool.fetch_rows(sql, values![asked.since, asked.most]).await
            }
            Some(name) => {
                let sql = "SELECT * FROM history WHERE at >= $1 AND name = $3 \
                           ORDER BY at DESC, instance, run, number DESC LIMIT $2";
                self.pool.fetch_rows(sql, values![asked.since, asked.most, name.as_str()]).await
            }
        };
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

#[cfg(test)]
mod tests {
    use crate::registry::store::StoreAccess;
    use crate::registry::store::sql::DatabasePool;
    use crate::registry::{RegistryLocation, RegistrySettings, RegistryStore};

    #[tokio::test]
    async fn one_peer_is_read_without_all_others() {
        let settings = RegistrySettings { place: RegistryLocation::Memory, instance: "a".into() };
        let store = RegistryStore::open(&settings, StoreAccess::Write).await.unwrap();
        let DatabasePool::Sqlite(pool) = &store.pool else { panic!("it is SQLite") };
        for (sql, index) in [(super::PEERS_BY_NAME, "peer_name"), (super::PEERS_BY_CERTIFICATE, "peer_certificate")] {
            let explained = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(explained).fetch_all(pool).await.unwrap();
            assert!(plan.iter().any(|(.., step)| step.contains(&format!("USING INDEX {index} "))), "{plan:?}");
        }
    }
}
