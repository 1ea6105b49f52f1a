//! Reads the inventory, the history and the failed handshakes: for findings, exports and alerts.

use jiff::Timestamp;

use super::super::findings::AuditedPeers;
use super::super::{Error, FailureRow, HistoryRow, PeerRow, RegistryInventory};
use super::RegistryStore;
use super::sql::{SqlValue, values};

const INSTANCES: &str = "SELECT * FROM instance ORDER BY instance";
const KEYRINGS: &str = "SELECT * FROM keyring ORDER BY keyring, instance";
const ANCHORS: &str = "SELECT * FROM anchor ORDER BY trust, kind, anchor, instance";
const CRLS: &str = "SELECT * FROM crl ORDER BY trust, issuer, instance";
const PLACEMENTS: &str = "SELECT placement.*, subject, names, issuer, serial, key_kind, spki, not_before, not_after, \
    weakness, self_issued FROM placement JOIN key_pair ON key_pair.key_pair = placement.key_pair \
    ORDER BY placement.keyring, not_before DESC, placement.key_pair, placement.instance";

/// Every row of a peer of which one may be in a finding, so that a certificate that was renewed is found beside the one that ends.
const AUDITED_PEERS: &str = "SELECT * FROM peer WHERE last_seen >= $1 AND (listener, COALESCE(identity, subject)) IN \
    (SELECT listener, COALESCE(identity, subject) FROM peer WHERE last_seen >= $1 AND (not_after <= $2 OR public_ca = 1 \
    OR (side = 'egress' AND key_pair IS NULL))) ORDER BY side, listener, certificate, instance";

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
    /// How many newer ones are passed over.
    pub offset: usize,
    /// Only of the keyring, trust, file or upstream of this name. Failures have none.
    pub name: Option<String>,
}

impl Default for HistoryQuery {
    fn default() -> Self {
        Self { since: 0, most: 100_000, offset: 0, name: None }
    }
}

impl RegistryStore {
    /// Everything except history and failures.
    ///
    /// # Errors
    /// The database.
    pub async fn inventory(&self) -> Result<RegistryInventory, Error> {
        let read = async {
            let peers = self.all_peers().await?;
            Ok(RegistryInventory { peers, ..self.holdings().await? })
        };
        read.await.map_err(|error| self.wrap_error(&error))
    }

    /// What an audit of this time needs: of peers only those that findings may be about.
    ///
    /// # Errors
    /// The database.
    pub async fn audited_inventory(&self, now: Timestamp) -> Result<RegistryInventory, Error> {
        let read = async {
            let holdings = self.holdings().await?;
            let AuditedPeers { seen_since, ends_by } = AuditedPeers::select(&holdings.keyrings, now);
            let peers = self.pool.fetch_rows(AUDITED_PEERS, values![seen_since, ends_by]).await?;
            Ok(RegistryInventory { peers, ..holdings })
        };
        read.await.map_err(|error| self.wrap_error(&error))
    }

    /// Everything except peers, history and failures.
    async fn holdings(&self) -> Result<RegistryInventory, sqlx::Error> {
        let pool = &self.pool;
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
            alerts: pool.fetch_rows("SELECT * FROM alert ORDER BY raised, alert, sink", vec![]).await?,
            acknowledgements: pool
                .fetch_rows("SELECT * FROM acknowledgement ORDER BY at, key_pair, who", vec![])
                .await?,
            ..RegistryInventory::default()
        })
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
        let sql = "SELECT * FROM history WHERE at >= $1 AND ($2 IS NULL OR name = $2) \
                   ORDER BY at DESC, instance, run, number DESC LIMIT $3 OFFSET $4";
        let read =
            self.pool.fetch_rows(sql, values![asked.since, &asked.name, asked.most, asked.offset_number()]).await;
        read.map_err(|error| self.wrap_error(&error))
    }

    /// How many lines the history has of what is asked for, whatever the maximum.
    ///
    /// # Errors
    /// The database.
    pub async fn count_history(&self, asked: &HistoryQuery) -> Result<usize, Error> {
        let sql = "SELECT COUNT(*) FROM history WHERE at >= $1 AND ($2 IS NULL OR name = $2)";
        self.count_rows(sql, values![asked.since, &asked.name]).await
    }

    /// Handshakes that failed, the newest first.
    ///
    /// # Errors
    /// The database.
    pub async fn failures(&self, asked: &HistoryQuery) -> Result<Vec<FailureRow>, Error> {
        let sql =
            "SELECT * FROM failure WHERE at >= $1 ORDER BY at DESC, instance, run, number DESC LIMIT $2 OFFSET $3";
        let read = self.pool.fetch_rows(sql, values![asked.since, asked.most, asked.offset_number()]).await;
        read.map_err(|error| self.wrap_error(&error))
    }

    /// How many failures there are, whatever the maximum.
    ///
    /// # Errors
    /// The database.
    pub async fn count_failures(&self, asked: &HistoryQuery) -> Result<usize, Error> {
        self.count_rows("SELECT COUNT(*) FROM failure WHERE at >= $1", values![asked.since]).await
    }

    async fn count_rows(&self, sql: &'static str, values: Vec<SqlValue>) -> Result<usize, Error> {
        let counted = self.pool.fetch_rows::<(i64,)>(sql, values).await.map_err(|error| self.wrap_error(&error))?;
        Ok(counted.first().map_or(0, |(count,)| usize::try_from(*count).unwrap_or_default()))
    }
}

impl HistoryQuery {
    fn offset_number(&self) -> i64 {
        i64::try_from(self.offset).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use crate::registry::store::StoreAccess;
    use crate::registry::store::sql::DatabasePool;
    use crate::registry::{RegistryLocation, RegistrySettings, RegistryStore};

    #[tokio::test]
    async fn one_peer_is_read_without_all_others() {
        for (sql, index) in [(super::PEERS_BY_NAME, "peer_name"), (super::PEERS_BY_CERTIFICATE, "peer_certificate")] {
            check_query_plan(sql, &format!("USING INDEX {index} ")).await;
        }
    }

    /// SQLite's plan of this query has such a step.
    pub(in crate::registry::store) async fn check_query_plan(sql: &str, step: &str) {
        let settings = RegistrySettings { place: RegistryLocation::Memory, instance: "a".into() };
        let store = RegistryStore::open(&settings, StoreAccess::Write).await.unwrap();
        let DatabasePool::Sqlite(pool) = &store.pool else { panic!("it is SQLite") };
        let explained = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(explained).fetch_all(pool).await.unwrap();
        assert!(plan.iter().any(|(.., planned)| planned.contains(step)), "{plan:?}");
    }
}
