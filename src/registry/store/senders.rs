//! Writes and reads what instances know of senders and upstreams: the rotation report of the whole fleet.

use jiff::Timestamp;

use super::super::rows::{HeldPairRow, SenderRow};
use super::super::{Error, HistoryRow, InstanceRow, PeerRow};
use super::RegistryStore;
use super::row_statement::RowStatement;
use super::sql::{DatabaseTransaction, SqlValue, values};
use crate::pki::Fingerprint;

/// Rows about senders that are read of one keyring.
pub(in crate::registry) const MAX_READ_SENDERS: usize = 60_000;
/// Rows about upstreams.
const MAX_READ_UPSTREAMS: i64 = 5_000;
/// Pairs by which instances with the same keyring are found: those in the snapshot.
const MAX_PAIRS: usize = 10;

/// What to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetQuery {
    /// Each keyring, its pairs (the current one first), and how far back its senders matter.
    pub keyrings: Vec<(String, Vec<Fingerprint>, Timestamp)>,
    /// The start of the first overlap, if there is one.
    pub rotated: Option<Timestamp>,
}

/// What was read, of every instance that holds one of the pairs.
#[derive(Clone, Debug, Default)]
pub struct FleetHistory {
    /// All instances of the registry.
    pub instances: Vec<InstanceRow>,
    /// The pairs that they hold.
    pub pairs: Vec<HeldPairRow>,
    /// What they know of senders, the most recently seen first.
    pub senders: Vec<SenderRow>,
    /// Keyrings of which there were more senders than are read.
    pub cut: Vec<String>,
    /// This instance's upstreams, the most recently seen first.
    pub upstreams: Vec<PeerRow>,
    /// How upstreams judged pairs, the latest first.
    pub responses: Vec<HistoryRow>,
}

impl RegistryStore {
    /// Reads what every instance that shares a pair knows.
    ///
    /// # Errors
    /// The database.
    pub async fn fleet_history(&self, query: &FleetQuery) -> Result<FleetHistory, Error> {
        let read = async {
            let mut history = FleetHistory {
                instances: self.pool.fetch_rows("SELECT * FROM instance", vec![]).await?,
                ..FleetHistory::default()
            };
            for (keyring, pairs, from) in &query.keyrings {
                let sql = "SELECT instance, keyring, key_pair, standing, since FROM placement WHERE keyring = $1";
                history.pairs.extend(self.pool.fetch_rows::<HeldPairRow>(sql, values![keyring]).await?);
                let sql = "SELECT * FROM sender WHERE keyring = $1 AND last_seen >= $2 AND (instance = $3 OR instance IN \
                           (SELECT instance FROM placement WHERE keyring = $1 AND key_pair IN \
                           ($5, $6, $7, $8, $9, $10, $11, $12, $13, $14))) ORDER BY last_seen DESC LIMIT $4";
                let limit = i64::try_from(MAX_READ_SENDERS + 1).unwrap_or(i64::MAX);
                let mut values: Vec<SqlValue> = values![keyring, *from, &*self.instance, limit];
                let texts = pairs.iter().map(ToString::to_string).chain(std::iter::repeat(String::new()));
                values.extend(texts.take(MAX_PAIRS).map(SqlValue::from));
                let mut senders: Vec<SenderRow> = self.pool.fetch_rows(sql, values).await?;
                if senders.len() > MAX_READ_SENDERS {
                    senders.truncate(MAX_READ_SENDERS);
                    history.cut.push(keyring.clone());
                }
                history.senders.append(&mut senders);
            }
            let sql = "SELECT * FROM peer WHERE instance = $1 AND side = 'egress' ORDER BY last_seen DESC LIMIT $2";
            history.upstreams = self.pool.fetch_rows(sql, values![&*self.instance, MAX_READ_UPSTREAMS]).await?;
            if let Some(rotated) = query.rotated {
                let sql = "SELECT * FROM history WHERE kind = 'upstream' AND at >= $1 \
                           ORDER BY at DESC, number DESC LIMIT $2";
                history.responses = self.pool.fetch_rows(sql, values![rotated, MAX_READ_UPSTREAMS]).await?;
            }
            Ok(history)
        };
        read.await.map_err(|error| self.wrap_error(&error))
    }
}

static SENDERS: RowStatement = RowStatement::new(
    "INSERT INTO sender (instance, keyring, sender, key_pair, listener, identity, certificate, source, partner, visits, \
     connections, first_seen, last_seen, handshakes, since, chosen_by, proved, unexplained_ends, ended, insisted, reason, \
     because)",
    4,
    "ON CONFLICT (instance, keyring, sender, key_pair) DO UPDATE SET partner = excluded.partner, visits = excluded.visits, \
     connections = excluded.connections, first_seen = excluded.first_seen, last_seen = excluded.last_seen, \
     handshakes = excluded.handshakes, since = excluded.since, chosen_by = excluded.chosen_by, proved = excluded.proved, \
     unexplained_ends = excluded.unexplained_ends, ended = excluded.ended, insisted = excluded.insisted, \
     reason = excluded.reason, because = excluded.because",
);

/// Writes what this instance knows of pairs at senders. A row holds everything, so writing it again changes nothing.
pub(super) async fn write_senders(
    open: &mut DatabaseTransaction,
    instance: &str,
    rows: &[SenderRow],
) -> Result<(), sqlx::Error> {
    SENDERS.write_rows(open, rows.iter().map(|row| sender_values(instance, row)).collect()).await
}

fn sender_values(instance: &str, row: &SenderRow) -> Vec<SqlValue> {
    let seconds = |at: Option<super::super::UnixSeconds>| at.map(|at| at.0);
    values![
        instance,
        &row.keyring,
        &row.sender,
        &row.key_pair,
        &row.listener,
        &row.identity,
        &row.certificate,
        &row.source,
        &row.partner,
        row.visits,
        row.connections,
        row.first_seen,
        row.last_seen,
        row.handshakes,
        seconds(row.since),
        &row.chosen_by,
        seconds(row.proved),
        row.unexplained_ends,
        seconds(row.ended),
        seconds(row.insisted),
        &row.reason,
        &row.because,
    ]
}
