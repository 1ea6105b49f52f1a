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
pub(super) enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// A transaction of either database. If dropped, it is rolled back.
pub(super) enum Open {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

/// A parameter of a statement.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Integer(Option<i64>),
    Text(Option<String>),
}

/// Boxed: the compiler cannot see through sqlx's own futures that they may move to another thread.
type Doing<'a, T> = Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'a>>;

/// A row of both databases.
pub(super) trait Row:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static
{
}
impl<T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static> Row for T {}

/// Binds the values and runs the body, for either database.
macro_rules! on {
    ($on:expr, $query:expr, $values:expr, ($statement:ident, $db:ident) => $body:expr) => {
        match $on {
            Self::Sqlite($db) => {
                let mut $statement = $query;
                for value in $values {
                    $statement = match value {
                        Value::Integer(number) => $statement.bind(number),
                        Value::Text(text) => $statement.bind(text),
                    };
                }
                $body
            }
            Self::Postgres($db) => {
                let mut $statement = $query;
                for value in $values {
                    $statement = match value {
                        Value::Integer(number) => $statement.bind(number),
                        Value::Text(text) => $statement.bind(text),
                    };
                }
                $body
            }
        }
    };
}

impl Pool {
    pub(super) fn begin(&self) -> Doing<'_, Open> {
        match self {
            Self::Sqlite(pool) => Box::pin(async move { pool.begin().await.map(Open::Sqlite) }),
            Self::Postgres(pool) => Box::pin(async move { pool.begin().await.map(Open::Postgres) }),
        }
    }

    /// How many rows it touched.
    pub(super) fn execute(&self, sql: &'static str, values: Vec<Value>) -> Doing<'_, u64> {
        on!(self, sqlx::query(sql), values, (statement, pool) => {
            Box::pin(async move { Ok(statement.execute(pool).await?.rows_affected()) })
        })
    }

    pub(super) fn rows<T: Row>(&self, sql: &'static str, values: Vec<Value>) -> Doing<'_, Vec<T>> {
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

impl Open {
    /// How many rows it touched.
    pub(super) fn execute(&mut self, sql: &'static str, values: Vec<Value>) -> Doing<'_, u64> {
        on!(self, sqlx::query(sql), values, (statement, open) => {
            Box::pin(async move { Ok(statement.execute(&mut **open).await?.rows_affected()) })
        })
    }

    pub(super) fn commit(self) -> Doing<'static, ()> {
        match self {
            Self::Sqlite(open) => Box::pin(open.commit()),
            Self::Postgres(open) => Box::pin(open.commit()),
        }
    }
}

/// Removes NUL, which Postgres does not accept.
fn clean(text: &str) -> String {
    if text.contains('\0') { text.replace('\0', "") } else { text.to_owned() }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(Some(number))
    }
}
impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Integer(Some(i64::from(flag)))
    }
}
impl From<Option<i64>> for Value {
    fn from(number: Option<i64>) -> Self {
        Self::Integer(number)
    }
}
impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(clean(text)))
    }
}
impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}
impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}
impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        Self::Text(text.map(clean))
    }
}
impl From<&Option<String>> for Value {
    fn from(text: &Option<String>) -> Self {
        Self::from(text.as_deref())
    }
}
impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Self {
        Self::from(text.as_deref())
    }
}
impl From<&crate::registry::Texts> for Value {
    fn from(texts: &crate::registry::Texts) -> Self {
        Self::from(&texts.0)
    }
}
impl From<crate::registry::Seconds> for Value {
    fn from(seconds: crate::registry::Seconds) -> Self {
        Self::from(seconds.0)
    }
}
impl From<jiff::Timestamp> for Value {
    fn from(time: jiff::Timestamp) -> Self {
        Self::from(time.as_second())
    }
}
impl From<Option<jiff::Timestamp>> for Value {
    fn from(time: Option<jiff::Timestamp>) -> Self {
        Self::Integer(time.map(jiff::Timestamp::as_second))
    }
}

/// The values of a statement.
macro_rules! values {
    ($($value:expr),* $(,)?) => { vec![$($crate::registry::store::sql::Value::from($value)),*] };
}
pub(super) use values;
