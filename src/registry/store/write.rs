//! Writes a snapshot's content, the peers seen, the failures and the changes. One transaction per batch.
//!
//! Writing the same batch again changes only the times: after a lost connection it is unknown what was committed.

mod observed;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::super::{Error, FailureRow, HistoryRow, PeerRow, SenderRow, UnixSeconds};
use super::row_statement::RowStatement;
use super::senders::write_senders;
use super::sql::{DatabaseTransaction, SqlValue, values};
use super::{RegistryStore, days_before};
use crate::keyring::{KeyringName, SelectionReason};
use crate::pki::Fingerprint;
use crate::snapshot::{KeyringView, Side, TrustView};

/// Retention of failed handshakes.
const FAILURE_RETENTION_DAYS: i64 = 30;
/// How many of one instance at most.
const MAX_STORED_FAILURES: i64 = 20_000;
/// Retention of peers after they were last seen.
const PEER_RETENTION_DAYS: i64 = 400;
/// How many of one instance at most.
const MAX_STORED_PEERS: i64 = 50_000;
/// How many rows about senders of one instance at most: more than a report reads, so that it notices.
const MAX_STORED_SENDERS: i64 = 100_000;

static HISTORY: RowStatement = RowStatement::new(
    "INSERT INTO history (instance, run, number, at, kind, name, key_pair, was, becomes, who, reason, why)",
    3,
    "ON CONFLICT (instance, run, number) DO NOTHING",
);
static PEERS: RowStatement = RowStatement::new(
    "INSERT INTO peer (instance, side, listener, certificate, identity, partner, subject, issuer, serial, not_before, \
     not_after, public_ca, address, keyring, key_pair, chosen_by, handshakes, first_seen, last_seen)",
    4,
    "ON CONFLICT (instance, side, listener, certificate) DO UPDATE SET identity = excluded.identity, \
     partner = excluded.partner, public_ca = excluded.public_ca, address = excluded.address, keyring = excluded.keyring, \
     key_pair = excluded.key_pair, chosen_by = excluded.chosen_by, handshakes = peer.handshakes + excluded.handshakes, \
     last_seen = excluded.last_seen",
);
/// Both databases name the columns of rows without a table `column1` and so on.
static VISITS: RowStatement = RowStatement::new(
    "UPDATE peer SET handshakes = peer.handshakes + visits.column5, last_seen = visits.column6, \
     address = visits.column7, keyring = visits.column8, key_pair = visits.column9, chosen_by = visits.column10 FROM (",
    4,
    ") AS visits WHERE peer.instance = visits.column1 AND peer.side = visits.column2 AND peer.listener = visits.column3 \
     AND peer.certificate = visits.column4",
);
static FAILURES: RowStatement = RowStatement::new(
    "INSERT INTO failure (instance, run, number, at, side, listener, reason, explanation, address, server_name, subject, \
     issuer, certificate, key_pair, alert, repeats)",
    3,
    "ON CONFLICT (instance, run, number) DO NOTHING",
);

/// The part of a snapshot that the registry stores.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedState {
    /// Its keyrings.
    pub keyrings: Vec<KeyringView>,
    /// Its trusts.
    pub trusts: Vec<TrustView>,
}

/// A row and its number within this run of the sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberedRow<T> {
    /// Its number.
    pub number: i64,
    /// The row.
    pub row: T,
}

/// How often a peer came that has a row already, and how it came last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerVisits {
    /// Whether it is a peer or an upstream.
    pub side: Side,
    /// The listener.
    pub listener: Arc<str>,
    /// Its certificate.
    pub certificate: Fingerprint,
    /// Its handshakes since its row was written.
    pub handshakes: i64,
    /// When the last of them was.
    pub last_seen: UnixSeconds,
    /// Where it came from.
    pub address: Option<IpAddr>,
    /// The keyring of the pair that was shown to it.
    pub keyring: Option<KeyringName>,
    /// The pair that was shown to it.
    pub key_pair: Option<Fingerprint>,
    /// Why that one.
    pub chosen_by: Option<SelectionReason>,
}

/// What was collected since the last batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    /// Peers and upstreams; `handshakes` are those since the last batch.
    pub peers: Vec<PeerRow>,
    /// Of peers that have a row, their further handshakes.
    pub visits: Vec<PeerVisits>,
    /// What is known of senders, by pair.
    pub senders: Vec<SenderRow>,
    /// When pairs were last used, by keyring.
    pub used: BTreeMap<(KeyringName, Fingerprint), Timestamp>,
    /// When anchors and pins (as `anchor` or `pin`, and the hash) last matched a peer.
    pub matched: BTreeMap<(&'static str, String), Timestamp>,
    /// Handshakes that failed.
    pub failures: Vec<NumberedRow<FailureRow>>,
    /// What changed.
    pub history: Vec<NumberedRow<HistoryRow>>,
}

impl WriteBatch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl RegistryStore {
    /// Writes this sidecar's heartbeat, its snapshot's content where it differs from `before` (`None`: unknown what was
    /// written), and a batch.
    ///
    /// # Errors
    /// The database; then either nothing was written, or all of it.
    pub async fn write(
        &self,
        (observed, before): (&ObservedState, Option<&ObservedState>),
        (run, batch): (i64, &WriteBatch),
        now: Timestamp,
    ) -> Result<(), Error> {
        let writing = BatchWriter { instance: Arc::clone(&self.instance), now: now.as_second(), run };
        let written = async {
            let mut open = self.pool.begin_transaction().await?;
            writing.write_heartbeat(&mut open).await?;
            if before != Some(observed) {
                writing.write_observed(&mut open, observed, before).await?;
            }
            writing.write_batch(&mut open, batch).await?;
            open.commit().await
        };
        written.await.map_err(|error| self.wrap_error(&error))
    }

    /// Updates `last_seen` of everything present, and deletes rows that are too old or too many.
    ///
    /// # Errors
    /// The database.
    pub async fn tidy(&self, now: Timestamp) -> Result<(), Error> {
        let tidied = async {
            for sql in [
                "UPDATE keyring SET last_seen = $1 WHERE instance = $2 AND present = 1",
                "UPDATE placement SET last_seen = $1 WHERE instance = $2 AND present = 1",
                "UPDATE waiting_key SET last_seen = $1 WHERE instance = $2 AND present = 1",
                "UPDATE trust SET last_seen = $1 WHERE instance = $2 AND present = 1",
                "UPDATE anchor SET last_seen = $1 WHERE instance = $2 AND present = 1",
                "UPDATE crl SET last_seen = $1 WHERE instance = $2 AND present = 1",
            ] {
                self.pool.execute(sql, values![now, &*self.instance]).await?;
            }
            for (sql, most) in [
                (
                    "DELETE FROM failure WHERE instance = $1 AND at < \
                     (SELECT at FROM failure WHERE instance = $1 ORDER BY at DESC LIMIT 1 OFFSET $2)",
                    MAX_STORED_FAILURES,
                ),
                (
                    "DELETE FROM peer WHERE instance = $1 AND last_seen < \
                     (SELECT last_seen FROM peer WHERE instance = $1 ORDER BY last_seen DESC LIMIT 1 OFFSET $2)",
                    MAX_STORED_PEERS,
                ),
                (
                    "DELETE FROM sender WHERE instance = $1 AND last_seen < \
                     (SELECT last_seen FROM sender WHERE instance = $1 ORDER BY last_seen DESC LIMIT 1 OFFSET $2)",
                    MAX_STORED_SENDERS,
                ),
            ] {
                self.pool.execute(sql, values![&*self.instance, most]).await?;
            }
            // For all instances: running ones have just updated their rows, those of gone pods would stay forever.
            // Their pairs are kept, as the record of the whole fleet.
            for (sql, days) in [
                ("DELETE FROM failure WHERE at < $1", FAILURE_RETENTION_DAYS),
                ("DELETE FROM peer WHERE last_seen < $1", PEER_RETENTION_DAYS),
                ("DELETE FROM sender WHERE last_seen < $1", PEER_RETENTION_DAYS),
                ("DELETE FROM anchor WHERE last_seen < $1", PEER_RETENTION_DAYS),
                ("DELETE FROM crl WHERE last_seen < $1", PEER_RETENTION_DAYS),
                ("DELETE FROM trust WHERE last_seen < $1", PEER_RETENTION_DAYS),
                ("DELETE FROM waiting_key WHERE last_seen < $1", PEER_RETENTION_DAYS),
            ] {
                self.pool.execute(sql, values![days_before(now, days)]).await?;
            }
            Ok(())
        };
        tidied.await.map_err(|error| self.wrap_error(&error))
    }
}

/// The instance that writes, and the time.
struct BatchWriter {
    instance: Arc<str>,
    now: i64,
    run: i64,
}

impl BatchWriter {
    async fn write_heartbeat(&self, open: &mut DatabaseTransaction) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO instance (instance, version, first_seen, last_seen) VALUES ($1, $2, $3, $3) \
                   ON CONFLICT (instance) DO UPDATE SET version = excluded.version, last_seen = excluded.last_seen";
        open.execute(sql, values![&*self.instance, env!("CARGO_PKG_VERSION"), self.now]).await.map(drop)
    }

    async fn write_batch(&self, open: &mut DatabaseTransaction, batch: &WriteBatch) -> Result<(), sqlx::Error> {
        HISTORY.write_rows(open, batch.history.iter().map(|entry| self.history_values(entry)).collect()).await?;
        PEERS.write_rows(open, batch.peers.iter().map(|peer| self.peer_values(peer)).collect()).await?;
        VISITS.write_rows(open, batch.visits.iter().map(|visits| self.visit_values(visits)).collect()).await?;
        write_senders(open, &self.instance, &batch.senders).await?;
        for ((keyring, key_pair), at) in &batch.used {
            let sql = "UPDATE placement SET last_used = $4 WHERE instance = $1 AND keyring = $2 AND key_pair = $3";
            open.execute(sql, values![&*self.instance, &**keyring, key_pair.to_string(), *at]).await?;
        }
        for ((kind, anchor), at) in &batch.matched {
            let sql = "UPDATE anchor SET last_matched = $4 WHERE instance = $1 AND anchor = $3 \
                       AND (kind = $2 OR kind = 'platform' AND $2 = 'anchor')";
            open.execute(sql, values![&*self.instance, *kind, anchor, *at]).await?;
        }
        FAILURES.write_rows(open, batch.failures.iter().map(|failure| self.failure_values(failure)).collect()).await
    }

    fn history_values(&self, NumberedRow { number, row }: &NumberedRow<HistoryRow>) -> Vec<SqlValue> {
        values![
            &*self.instance,
            self.run,
            *number,
            row.at,
            &row.kind,
            &row.name,
            &row.key_pair,
            &row.was,
            &row.becomes,
            &row.who,
            &row.reason,
            &row.why,
        ]
    }

    fn peer_values(&self, peer: &PeerRow) -> Vec<SqlValue> {
        values![
            &*self.instance,
            &peer.side,
            &peer.listener,
            &peer.certificate,
            &peer.identity,
            &peer.partner,
            &peer.subject,
            &peer.issuer,
            &peer.serial,
            peer.not_before,
            peer.not_after,
            peer.public_ca.is_set(),
            &peer.address,
            &peer.keyring,
            &peer.key_pair,
            &peer.chosen_by,
            peer.handshakes,
            peer.first_seen,
            peer.last_seen,
        ]
    }

    fn visit_values(&self, visits: &PeerVisits) -> Vec<SqlValue> {
        values![
            &*self.instance,
            visits.side.as_str(),
            &*visits.listener,
            visits.certificate.to_string(),
            visits.handshakes,
            visits.last_seen,
            visits.address.map(|address| address.to_string()),
            visits.keyring.as_deref(),
            visits.key_pair.map(|key_pair| key_pair.to_string()),
            visits.chosen_by.map(|chosen_by| chosen_by.as_str()),
        ]
    }

    fn failure_values(&self, NumberedRow { number, row }: &NumberedRow<FailureRow>) -> Vec<SqlValue> {
        values![
            &*self.instance,
            self.run,
            *number,
            row.at,
            &row.side,
            &row.listener,
            &row.reason,
            &row.explanation,
            &row.address,
            &row.server_name,
            &row.subject,
            &row.issuer,
            &row.certificate,
            &row.key_pair,
            &row.alert,
            row.repeats,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::store::read::tests::check_query_plan;

    #[tokio::test]
    async fn a_visit_finds_its_row_by_the_key() {
        check_query_plan(VISITS.statement(0, 10, false), "SEARCH peer USING INDEX sqlite_autoindex_peer_1 ").await;
    }
}
