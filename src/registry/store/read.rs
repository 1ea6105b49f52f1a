//! Reads the inventory, the history and the failed handshakes: for findings, exports and alerts, and once for the
//! rotation report.

use jiff::Timestamp;

use super::super::{Entry, Error, Failure, Former, Instance, Inventory, Peer, Seconds};
use super::Store;
use super::sql::values;

/// Maximum number of rows of one instance that are read after a restart.
const FORMER: i64 = 5_000;

/// Selects lines of the history, or failures.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Not older than this second.
    pub since: i64,
    /// Maximum number, the newest first.
    pub most: i64,
}

impl Default for Asked {
    fn default() -> Self {
        Self { since: 0, most: 100_000 }
    }
}

impl Store {
    /// Everything except history and failures.
    ///
    /// # Errors
    /// The database.
    pub async fn inventory(&self) -> Result<Inventory, Error> {
        let pool = &self.pool;
        let read = async {
            Ok(Inventory {
                instances: pool.rows("SELECT * FROM instance ORDER BY instance", vec![]).await?,
                keyrings: pool.rows("SELECT * FROM keyring ORDER BY keyring, instance", vec![]).await?,
                key_pairs: pool
                    .rows(
                        "SELECT placement.*, subject, names, issuer, serial, key_kind, spki, not_before, not_after, \
                         weakness, self_issued FROM placement JOIN key_pair ON key_pair.key_pair = placement.key_pair \
                         ORDER BY placement.keyring, not_before DESC, placement.key_pair, placement.instance",
                        vec![],
                    )
                    .await?,
                waiting_keys: pool
                    .rows("SELECT * FROM waiting_key ORDER BY keyring, file, spki, instance", vec![])
                    .await?,
                trusts: pool.rows("SELECT * FROM trust ORDER BY trust, instance", vec![]).await?,
                anchors: pool.rows("SELECT * FROM anchor ORDER BY trust, kind, anchor, instance", vec![]).await?,
                crls: pool.rows("SELECT * FROM crl ORDER BY trust, issuer, instance", vec![]).await?,
                peers: self.all_peers().await?,
                alerts: pool.rows("SELECT * FROM alert ORDER BY raised, alert, sink", vec![]).await?,
                acknowledgements: pool.rows("SELECT * FROM acknowledgement ORDER BY at, key_pair, who", vec![]).await?,
            })
        };
        read.await.map_err(|error| self.wrong(&error))
    }

    /// Every peer and upstream.
    ///
    /// # Errors
    /// The database.
    pub async fn peers(&self) -> Result<Vec<Peer>, Error> {
        self.all_peers().await.map_err(|error| self.wrong(&error))
    }

    async fn all_peers(&self) -> Result<Vec<Peer>, sqlx::Error> {
        let sql = "SELECT * FROM peer ORDER BY side, listener, certificate, instance";
        self.pool.rows(sql, vec![]).await
    }

    /// Reads this instance's peers with the pair each last used, and upstreams' verdicts on its pairs since `rotated`.
    ///
    /// # Errors
    /// The database.
    pub async fn former(&self, rotated: Option<Timestamp>) -> Result<Former, Error> {
        let read = async {
            let instances: Vec<Instance> =
                self.pool.rows("SELECT * FROM instance WHERE instance = $1", values![&*self.instance]).await?;
            let peers = "SELECT * FROM peer WHERE instance = $1 ORDER BY last_seen DESC LIMIT $2";
            let upstreams = "SELECT * FROM history WHERE instance = $1 AND kind = 'upstream' AND at >= $2 \
                             ORDER BY at DESC, number DESC LIMIT $3";
            Ok(Former {
                since: instances.first().map_or(Seconds(i64::MAX), |instance| instance.first_seen),
                peers: self.pool.rows(peers, values![&*self.instance, FORMER]).await?,
                upstreams: match rotated {
                    Some(rotated) => self.pool.rows(upstreams, values![&*self.instance, rotated, FORMER]).await?,
                    None => Vec::new(),
                },
            })
        };
        read.await.map_err(|error| self.wrong(&error))
    }

    /// The history, the newest first.
    ///
    /// # Errors
    /// The database.
    pub async fn history(&self, asked: &Asked) -> Result<Vec<Entry>, Error> {
        let sql = "SELECT * FROM history WHERE at >= $1 ORDER BY at DESC, instance, run, number DESC LIMIT $2";
        let read = self.pool.rows(sql, values![asked.since, asked.most]).await;
        read.map_err(|error| self.wrong(&error))
    }

    /// Handshakes that failed, the newest first.
    ///
    /// # Errors
    /// The database.
    pub async fn failures(&self, asked: &Asked) -> Result<Vec<Failure>, Error> {
        let sql = "SELECT * FROM failure WHERE at >= $1 ORDER BY at DESC, instance, run, number DESC LIMIT $2";
        let read = self.pool.rows(sql, values![asked.since, asked.most]).await;
        read.map_err(|error| self.wrong(&error))
    }
}
