//! Writes many rows with few statements: one costs SQLite's thread two hand-overs, and Postgres a round trip, each of them more than
//! the row itself.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::OnceLock;

use super::sql::{DatabaseTransaction, SqlValue};

/// How many rows a statement writes. Few sizes, since the databases keep each statement prepared; 64 rows of our widest table are
/// 1,408 parameters, of 32,766 that SQLite takes.
const STATEMENT_ROWS: [usize; 3] = [64, 8, 1];

/// How rows of one table are inserted or updated.
pub(super) struct RowStatement {
    /// What stands before the rows: `INSERT INTO table (column, …)`, or `UPDATE table SET … FROM (`.
    head: &'static str,
    /// How many columns of a row, from the first on, are the key.
    key: usize,
    /// What stands behind them: `ON CONFLICT …`, or `) AS … WHERE …`.
    tail: &'static str,
    /// With the parameters of SQLite and with those of Postgres.
    statements: [[OnceLock<String>; STATEMENT_ROWS.len()]; 2],
}

impl RowStatement {
    pub(super) const fn new(head: &'static str, key: usize, tail: &'static str) -> Self {
        Self { head, key, tail, statements: [const { [const { OnceLock::new() }; STATEMENT_ROWS.len()] }; 2] }
    }

    /// Writes the rows, those of one key in their order.
    pub(super) async fn write_rows(
        &'static self,
        open: &mut DatabaseTransaction,
        mut rows: Vec<Vec<SqlValue>>,
    ) -> Result<(), sqlx::Error> {
        while !rows.is_empty() {
            let (first, again) = split_repeated_keys(rows, self.key);
            let columns = first[0].len();
            let mut values = first.into_iter();
            while values.len() > 0 {
                let size =
                    STATEMENT_ROWS.iter().position(|rows| *rows <= values.len()).unwrap_or(STATEMENT_ROWS.len() - 1);
                let some = values.by_ref().take(STATEMENT_ROWS[size]).flatten().collect();
                open.execute(self.statement(size, columns, open.numbers_parameters()), some).await?;
            }
            rows = again;
        }
        Ok(())
    }

    pub(super) fn statement(&'static self, size: usize, columns: usize, is_numbered: bool) -> &'static str {
        self.statements[usize::from(is_numbered)][size].get_or_init(|| {
            let mut sql = format!("{} VALUES ", self.head);
            for row in 0..STATEMENT_ROWS[size] {
                sql.push_str(if row == 0 { "(" } else { "), (" });
                for column in 1..=columns {
                    let separator = if column == 1 { "" } else { ", " };
                    sql.push_str(separator);
                    if is_numbered {
                        let _ = write!(sql, "${}", row * columns + column);
                    } else {
                        sql.push('?');
                    }
                }
            }
            sql + ") " + self.tail
        })
    }
}

/// The rows whose key comes for the first time, and the others: Postgres updates no row twice in one statement.
fn split_repeated_keys(rows: Vec<Vec<SqlValue>>, key: usize) -> (Vec<Vec<SqlValue>>, Vec<Vec<SqlValue>>) {
    let mut known = HashSet::new();
    let is_new: Vec<bool> = rows.iter().map(|row| known.insert(&row[..key])).collect();
    drop(known);
    let mut is_new = is_new.into_iter();
    rows.into_iter().partition(|_| is_new.next().unwrap_or(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::store::sql::values;

    #[test]
    fn rows_of_one_key_are_written_one_after_the_other() {
        let (first, again) = split_repeated_keys(vec![values!["a", 1], values!["b", 2], values!["a", 3]], 1);
        assert_eq!((first, again), (vec![values!["a", 1], values!["b", 2]], vec![values!["a", 3]]));
    }

    #[test]
    fn a_statement_has_a_parameter_for_each_column_of_each_row() {
        static SOME: RowStatement = RowStatement::new("INSERT INTO t (a, b)", 1, "ON CONFLICT (a) DO NOTHING");
        assert_eq!(SOME.statement(2, 2, true), "INSERT INTO t (a, b) VALUES ($1, $2) ON CONFLICT (a) DO NOTHING");
        assert!(SOME.statement(0, 2, true).contains("($1, $2), ($3, $4), "));
        assert!(SOME.statement(0, 2, true).contains("($127, $128) ON CONFLICT"));
        assert_eq!(SOME.statement(2, 2, false), "INSERT INTO t (a, b) VALUES (?, ?) ON CONFLICT (a) DO NOTHING");
        assert_eq!(SOME.statement(0, 2, false).matches('?').count(), 128);
    }
}
