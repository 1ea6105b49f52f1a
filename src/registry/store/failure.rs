//! What an error of the database means for the registry.

use super::super::Error;
use crate::pki::printable;

/// An error with its location; damage is a separate error, as it needs other action.
pub(super) fn classify_error(place: &str, source: &sqlx::Error) -> Error {
    // SQLITE_CORRUPT and SQLITE_NOTADB; the upper bits hold the extended code.
    let damaged = source.as_database_error().and_then(|error| {
        let code: i64 = error.try_downcast_ref::<sqlx::sqlite::SqliteError>().and(error.code())?.parse().ok()?;
        matches!(code & 0xff, 11 | 26).then(|| error.message().to_owned())
    });
    match damaged {
        Some(why) => Error::Damaged { place: place.to_owned(), why },
        None => {
            let why = match source {
                sqlx::Error::Database(error) => error.message().to_owned(),
                other => other.to_string(),
            };
            Error::Database { place: place.to_owned(), why: printable(&why) }
        }
    }
}
