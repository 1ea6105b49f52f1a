//! One interface to SQLite and Postgres: a statement, its values, and rows.
//!
//! Two typed pools behind an enum, never sqlx's `Any`, which supports less than both. Values are integers and texts, as
//! are the columns: so the code of the statements is independent of the database.

use std::pin::Pin;

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, PgPool, Postgres, Sqlite, SqlitePool, Transaction};

/// A pool of either database.
#[derive(Clone)]
pub(super) enum DatabasePool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// A transaction of either database. If dropped, it is rolled back.
pub(super) enum DatabaseTransaction {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

/// A parameter of a statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum SqlValue {
    Integer(Option<i64>),
    Text(Option<String>),
}

/// Boxed: the compiler cannot see through sqlx's own futures that they may move to another thread.
type QueryFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'a>>;

/// A row of both databases.
pub(super) trait DatabaseRow:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static
{
}
impl<T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static> DatabaseRow for T {}

/// Binds the values and runs the body, for either database.
macro_rules! on {
    ($on:expr, $query:expr, $values:expr, ($statement:ident, $db:ident) => $body:expr) => {
        match $on {
            Self::Sqlite($db) => {
                let mut $statement = $query;
                for value in $values {
                    $statement = match value {
                        SqlValue::Integer(number) => $statement.bind(number),
                        SqlValue::Text(text) => $statement.bind(text),
                    };
                }
                $body
            }
            Self::Postgres($db) => {
                let mut $statement = $query;
                for value in $values {
                    $statement = match value {
                        SqlValue::Integer(number) => $statement.bind(number),
                        SqlValue::Text(text) => $statement.bind(text),
                    };
                }
                $body
            }
        }
    };
}

impl DatabasePool {
    pub(super) fn begin_transaction(&self) -> QueryFuture<'_, DatabaseTransaction> {
        match self {
            Self::Sqlite(pool) => Box::pin(async move { pool.begin().await.map(DatabaseTransaction::Sqlite) }),
            Self::Postgres(pool) => Box::pin(async move { pool.begin().await.map(DatabaseTransaction::Postgres) }),
        }
    }

    /// How many rows it touched.
    pub(super) fn execute(&self, sql: &'static str, values: Vec<SqlValue>) -> QueryFuture<'_, u64> {
        on!(self, sqlx::query(sql), values, (statement, pool) => {
            Box::pin(async move { Ok(statement.execute(pool).await?.rows_affected()) })
        })
    }

    pub(super) fn fetch_rows<T: DatabaseRow>(
        &self,
        sql: &'static str,
        values: Vec<SqlValue>,
    ) -> QueryFuture<'_, Vec<T>> {
        on!(self, sqlx::query_as::<_, T>(sql), values, (statement, pool) => {
            Box::pin(async move { statement.fetch_all(pool).await })
        })
    }

    pub(super) fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        match self {
            Self::Sqlite(pool) => Box::pin(pool.close()),
            Self::Postgres(pool) => Box::pin(pool.close()),
        }
    }
}

impl DatabaseTransaction {
    /// Whether parameters are to be `$1`, `$2` and so on, else `?` in their order. SQLite takes both, but sqlx asks it for the name of each,
    /// and it searches a numbered one among all: of a statement with hundreds that was three fifths of the time that it took.
    pub(super) const fn numbers_parameters(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// How many rows it touched.
    pub(super) fn execute(&mut self, sql: &'static str, values: Vec<SqlValue>) -> QueryFuture<'_, u64> {
        on!(self, sqlx::query(sql), values, (statement, open) => {
            Box::pin(async move { Ok(statement.execute(&mut **open).await?.rows_affected()) })
        })
    }

    pub(super) fn commit(self) -> QueryFuture<'static, ()> {
        match self {
            Self::Sqlite(open) => Box::pin(open.commit()),
            Self::Postgres(open) => Box::pin(open.commit()),
        }
    }
}

/// Removes NUL, which Postgres does not accept.
fn strip_nul(text: &str) -> String {
    if text.contains('\0') { text.replace('\0', "") } else { text.to_owned() }
}

impl From<i64> for SqlValue {
    fn from(number: i64) -> Self {
        Self::Integer(Some(number))
    }
}
impl From<bool> for SqlValue {
    fn from(flag: bool) -> Self {
        Self::Integer(Some(i64::from(flag)))
    }
}
impl From<Option<i64>> for SqlValue {
    fn from(number: Option<i64>) -> Self {
        Self::Integer(number)
    }
}
impl From<&str> for SqlValue {
    fn from(text: &str) -> Self {
        Self::Text(Some(strip_nul(text)))
    }
}
impl From<&String> for SqlValue {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}
impl From<String> for SqlValue {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}
impl From<Option<&str>> for SqlValue {
    fn from(text: Option<&str>) -> Self {
        Self::Text(text.map(strip_nul))
    }
}
impl From<&Option<String>> for SqlValue {
    fn from(text: &Option<String>) -> Self {
        Self::from(text.as_deref())
    }
}
impl From<Option<String>> for SqlValue {
    fn from(text: Option<String>) -> Self {
        Self::from(text.as_deref())
    }
}
impl From<&crate::registry::TextList> for SqlValue {
    fn from(texts: &crate::registry::TextList) -> Self {
        Self::from(&texts.0)
    }
}
impl From<crate::registry::UnixSeconds> for SqlValue {
    fn from(seconds: crate::registry::UnixSeconds) -> Self {
        Self::from(seconds.0)
    }
}
impl From<jiff::Timestamp> for SqlValue {
    fn from(time: jiff::Timestamp) -> Self {
        Self::from(time.as_second())
    }
}
impl From<Option<jiff::Timestamp>> for SqlValue {
    fn from(time: Option<jiff::Timestamp>) -> Self {
        Self::Integer(time.map(jiff::Timestamp::as_second))
    }
}

/// The values of a statement.
macro_rules! values {
    ($($value:expr),* $(,)?) => { vec![$($crate::registry::store::sql::SqlValue::from($value)),*] };
}
pub(super) use values;
