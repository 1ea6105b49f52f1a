//! Reads a part of the list of peers and upstreams: the database filters, joins the rows of each name, sorts and cuts, so that only
//! rows that are shown are read.

use serde::{Deserialize, Serialize};

use super::super::{Error, PeerRow};
use super::RegistryStore;
use super::sql::{DatabasePool, SqlValue, values};

/// Rows that are read of one part: where its entries have more, it has fewer entries, and the next part begins sooner.
const MOST_ROWS: i64 = 50_000;

/// A column to sort peers by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerOrder {
    /// Identity.
    Identity,
    /// Partner.
    Partner,
    /// The end of the certificate that it showed last.
    NotAfter,
    /// Successful handshakes.
    Handshakes,
    /// Last seen.
    LastSeen,
}

/// Which part of which peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerQuery {
    /// `ingress`: peers; `egress`: upstreams.
    pub side: Option<String>,
    /// Rows of this listener.
    pub listener: Option<String>,
    /// Rows of this partner.
    pub partner: Option<String>,
    /// Rows with this text in identity, subject, partner or address, whatever its case. SQLite knows the case of ASCII only.
    pub text: Option<String>,
    /// The column to sort by; without one, those that came last are first.
    pub sort: Option<PeerOrder>,
    /// The other way round.
    pub descending: bool,
    /// Peers before the part.
    pub offset: usize,
    /// Peers of the part at most.
    pub limit: usize,
}

/// A part of the peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerPart {
    /// How many pass the filter.
    pub total: usize,
    /// The rows of those in the part, in order: the rows of one peer follow each other, the latest first.
    pub rows: Vec<PeerRow>,
}

/// A row, and how many peers there are.
#[derive(sqlx::FromRow)]
struct CountedRow {
    #[sqlx(flatten)]
    row: PeerRow,
    total: i64,
}

/// A row of a peer among those that came last, how many peers those rows are of, and how many rows they are.
#[derive(sqlx::FromRow)]
struct LatestRow {
    #[sqlx(flatten)]
    row: PeerRow,
    total: i64,
    looked_at: i64,
}

/// Whether a row passes: $1 to $5. A text is looked for as it was typed ($5), in lower case ($4), or both ways.
macro_rules! filter {
    () => {
        "($1 IS NULL OR side = $1) AND ($2 IS NULL OR listener = $2) AND ($3 IS NULL OR partner = $3) \
         AND (($4 IS NULL AND $5 IS NULL) OR ($5 IS NOT NULL AND (identity LIKE $5 ESCAPE '!' \
         OR subject LIKE $5 ESCAPE '!' OR partner LIKE $5 ESCAPE '!' OR address LIKE $5 ESCAPE '!')) \
         OR ($4 IS NOT NULL AND (LOWER(identity) LIKE $4 ESCAPE '!' OR LOWER(subject) LIKE $4 ESCAPE '!' \
         OR LOWER(partner) LIKE $4 ESCAPE '!' OR LOWER(address) LIKE $4 ESCAPE '!')))"
    };
}

/// The names that pass.
macro_rules! named {
    () => {
        concat!(
            "WITH passing AS (SELECT side, COALESCE(identity, subject) AS name, partner, not_after, handshakes, last_seen \
             FROM peer WHERE ",
            filter!(),
            "), named AS (SELECT side, name, CAST(SUM(handshakes) AS BIGINT) AS handshakes, MAX(last_seen) AS last_seen \
             FROM passing GROUP BY side, name)"
        )
    };
}

/// The names that pass, with what the latest row of each says.
macro_rules! latest {
    () => {
        concat!(
            named!(),
            ", latest AS (SELECT named.side, named.name, MAX(COALESCE(passing.partner, '')) AS partner, \
             MAX(passing.not_after) AS not_after, MAX(named.last_seen) AS last_seen FROM named JOIN passing \
             ON passing.side = named.side AND passing.name = named.name AND passing.last_seen = named.last_seen \
             GROUP BY named.side, named.name)"
        )
    };
}

/// A total order, `$with` and `$against` the direction; that of the rows of one name does not turn.
macro_rules! order {
    ($with:literal, $against:literal) => {
        concat!(
            "ORDER BY text_key ",
            $with,
            ", number_key ",
            $with,
            ", its_last ",
            $against,
            ", its_side ",
            $with,
            ", its_name ",
            $with
        )
    };
}

/// The part: of the names with these keys, the rows. $6: offset, $7: limit, $8: the column, $9: the most rows.
macro_rules! part {
    ($names:expr, $of:literal, $text:literal, $number:literal, $order:expr) => {
        concat!(
            $names,
            ", part AS (SELECT side AS its_side, name AS its_name, last_seen AS its_last, CASE $8 ",
            $text,
            " ELSE '' END AS text_key, CASE $8 ",
            $number,
            " ELSE 0 END AS number_key FROM ",
            $of,
            " ",
            $order,
            " LIMIT $7 OFFSET $6) SELECT peer.*, (SELECT COUNT(*) FROM named) AS total FROM part JOIN peer \
             ON substr(COALESCE(peer.identity, peer.subject), 1, 200) = substr(its_name, 1, 200) \
             AND COALESCE(peer.identity, peer.subject) = its_name AND peer.side = its_side WHERE ",
            filter!(),
            " ",
            $order,
            ", last_seen DESC, listener, certificate, instance LIMIT $9"
        )
    };
}

/// By what all rows of a name say together.
macro_rules! part_of_named {
    ($order:expr) => {
        part!(
            named!(),
            "named",
            "WHEN 'identity' THEN name",
            "WHEN 'handshakes' THEN handshakes WHEN 'last_seen' THEN last_seen",
            $order
        )
    };
}

/// By what the latest row of a name says.
macro_rules! part_of_latest {
    ($order:expr) => {
        part!(latest!(), "latest", "WHEN 'partner' THEN partner", "WHEN 'not_after' THEN not_after", $order)
    };
}

const BY_NAME: [&str; 2] = [part_of_named!(order!("ASC", "DESC")), part_of_named!(order!("DESC", "ASC"))];
const BY_LATEST: [&str; 2] = [part_of_latest!(order!("ASC", "DESC")), part_of_latest!(order!("DESC", "ASC"))];
/// By the rows that came last, $8 at most: grouping all of them takes most of the time. Where they are of enough names, or all rows
/// there are, the part is the same. Its counts are made by windows: SQLite would read the rows once more for each subquery.
const LATEST: &str = concat!(
    "WITH passing AS (SELECT side, COALESCE(identity, subject) AS name, last_seen FROM peer WHERE ",
    filter!(),
    " ORDER BY last_seen DESC, side, COALESCE(identity, subject) LIMIT $8), named AS (SELECT side, name, MAX(last_seen) AS \
     last_seen, COUNT(*) AS row_count FROM passing GROUP BY side, name), part AS (SELECT side AS its_side, name AS its_name, \
     last_seen AS its_last, COUNT(*) OVER () AS total, CAST(SUM(row_count) OVER () AS BIGINT) AS looked_at FROM named \
     ORDER BY its_last DESC, its_side, its_name LIMIT $7 OFFSET $6) SELECT peer.*, total, looked_at FROM part JOIN peer \
     ON substr(COALESCE(peer.identity, peer.subject), 1, 200) = substr(its_name, 1, 200) \
     AND COALESCE(peer.identity, peer.subject) = its_name AND peer.side = its_side WHERE ",
    filter!(),
    " ORDER BY its_last DESC, its_side, its_name, last_seen DESC, listener, certificate, instance LIMIT $9"
);
const COUNT: &str = concat!(named!(), " SELECT COUNT(*) FROM named");

impl RegistryStore {
    /// A part of the peers and upstreams, in a total order: as long as nothing changes, parts neither overlap nor leave one out.
    /// Who knows the total from a moment ago, and asks for those that came last, has the part sooner, with that total.
    ///
    /// # Errors
    /// The database.
    pub async fn peer_part(&self, asked: &PeerQuery, known_total: Option<usize>) -> Result<PeerPart, Error> {
        if let (None, false, Some(total)) = (asked.sort, asked.descending, known_total)
            && let Some(part) = self.latest_part(asked, total).await?
        {
            return Ok(part);
        }
        self.whole_part(asked).await
    }

    /// A part of those that came last; `None`: too few rows were looked at.
    async fn latest_part(&self, asked: &PeerQuery, known_total: usize) -> Result<Option<PeerPart>, Error> {
        let end = asked.offset.saturating_add(asked.limit);
        let window = bound_number(end.saturating_mul(4).saturating_add(64));
        let mut values = self.filter_values(asked);
        values.extend(values![bound_number(asked.offset), bound_number(asked.limit), window, MOST_ROWS]);
        let read = self.pool.fetch_rows(LATEST, values).await;
        let rows: Vec<LatestRow> = read.map_err(|error| self.wrap_error(&error))?;
        let Some(first) = rows.first() else { return Ok(None) };
        let total = usize::try_from(first.total).unwrap_or_default();
        let is_all = first.looked_at < window;
        if !is_all && total < end || bound_number(rows.len()) == MOST_ROWS {
            return Ok(None);
        }
        let total = if is_all { total } else { known_total.max(end) };
        Ok(Some(PeerPart { total, rows: rows.into_iter().map(|latest| latest.row).collect() }))
    }

    fn filter_values(&self, asked: &PeerQuery) -> Vec<SqlValue> {
        filter_values(asked, matches!(self.pool, DatabasePool::Sqlite(_)))
    }

    async fn whole_part(&self, asked: &PeerQuery) -> Result<PeerPart, Error> {
        let filter = self.filter_values(asked);
        let mut values = filter.clone();
        values.extend(values![bound_number(asked.offset), bound_number(asked.limit), column_of(asked.sort), MOST_ROWS]);
        let statements = match asked.sort {
            Some(PeerOrder::Partner | PeerOrder::NotAfter) => BY_LATEST,
            None | Some(PeerOrder::Identity | PeerOrder::Handshakes | PeerOrder::LastSeen) => BY_NAME,
        };
        let read = async {
            let rows: Vec<CountedRow> = self.pool.fetch_rows(statements[usize::from(asked.descending)], values).await?;
            let total = match rows.first() {
                Some(first) => first.total,
                // Behind the end, where no row says it.
                None => self.pool.fetch_rows::<(i64,)>(COUNT, filter).await?.first().map_or(0, |(count,)| *count),
            };
            let mut rows: Vec<PeerRow> = rows.into_iter().map(|counted| counted.row).collect();
            if i64::try_from(rows.len()) == Ok(MOST_ROWS) {
                let names: Vec<_> = rows.iter().map(|row| (&*row.side, row.identity_or_subject())).collect();
                rows.truncate(count_whole(&names));
            }
            Ok(PeerPart { total: usize::try_from(total).unwrap_or_default(), rows })
        };
        read.await.map_err(|error| self.wrap_error(&error))
    }
}

/// The values of a filter, for either database.
fn filter_values(asked: &PeerQuery, is_sqlite: bool) -> Vec<SqlValue> {
    let [lowered, typed] = [asked.text.as_ref().map(|text| text.to_lowercase()), asked.text.clone()];
    let [lowered, typed] = [lowered, typed].map(|text| text.map(|text| containing(&text)));
    // Of other scripts a database may not know the case. In ASCII one way is enough: SQLite's LIKE passes over case by itself.
    let is_ascii = asked.text.as_ref().is_some_and(|text| text.is_ascii());
    let (lowered, typed) = (lowered.filter(|_| !(is_ascii && is_sqlite)), typed.filter(|_| is_sqlite || !is_ascii));
    values![&asked.side, &asked.listener, &asked.partner, lowered, typed]
}

fn bound_number(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A pattern of LIKE, whose escape is `!`.
fn containing(text: &str) -> String {
    format!("%{}%", text.replace('!', "!!").replace('%', "!%").replace('_', "!_"))
}

const fn column_of(order: Option<PeerOrder>) -> &'static str {
    match order {
        None => "",
        Some(PeerOrder::Identity) => "identity",
        Some(PeerOrder::Partner) => "partner",
        Some(PeerOrder::NotAfter) => "not_after",
        Some(PeerOrder::Handshakes) => "handshakes",
        Some(PeerOrder::LastSeen) => "last_seen",
    }
}

/// How many rows belong to names that were read whole, given the name of each: the last name may have more rows. Alone it stays, with
/// the rows that came last.
fn count_whole(names: &[(&str, &str)]) -> usize {
    let before = names.iter().rposition(|name| Some(name) != names.last());
    before.map_or(names.len(), |before| before + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::store::read::tests::check_query_plan;

    #[tokio::test]
    async fn the_rows_of_a_part_are_found_by_an_index() {
        for sql in BY_NAME.iter().chain(&BY_LATEST).chain([&LATEST]) {
            check_query_plan(sql, "SEARCH peer USING INDEX peer_name ").await;
        }
    }

    #[test]
    fn a_text_is_searched_for_as_it_is_typed() {
        assert_eq!(containing("50%_of!"), "%50!%!_of!!%");
    }

    #[test]
    fn a_name_that_was_read_in_part_is_left_to_the_next_part() {
        let count = |names: &[&str]| count_whole(&names.iter().map(|name| ("ingress", *name)).collect::<Vec<_>>());
        assert_eq!((count(&["a", "a", "b", "b"]), count(&["a", "a"]), count(&[])), (2, 2, 0));
        assert_eq!(count_whole(&[("egress", "a"), ("ingress", "a")]), 1);
    }
}
