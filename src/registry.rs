//! The registry: what was ever seen, in SQLite by default or in a Postgres that many sidecars share (contract section 7).
//!
//! It is memory, never authority: nothing read from it changes a standing, and nothing on the way of traffic waits for it.
//! Private keys never enter it: what it is fed with are Events and the views of a snapshot, and neither has one. What a row
//! is, every other file of the room and the alerts have from `rows`; how they are kept is `store`'s business, how
//! they get there `task`'s.

pub mod backlog;
pub mod export;
pub mod findings;
mod recall;
mod rows;
pub mod store;
pub mod task;

use std::path::PathBuf;
use std::sync::Arc;

pub use findings::{Finding, findings};
pub use recall::Former;
pub use rows::{
    Acknowledgement, Anchor, Crl, Delivery, Entry, Failure, Flag, Instance, Inventory, Keyring, Peer, Placed, Seconds,
    Texts, Trust, WaitingKey, short,
};
pub use store::Store;

/// Where the registry is, and who writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it is.
    pub place: Place,
    /// This sidecar's name in it.
    pub instance: Arc<str>,
}

/// Where a registry is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: it ends with the process (no `state`, no `registry`).
    Memory,
    /// An SQLite file.
    File(PathBuf),
    /// A Postgres, by its URL.
    Postgres(String),
    /// A Postgres whose URL is in this file, read again for each new connection.
    PostgresFile(PathBuf),
}

/// Why the registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database, or the way to it.
    #[error("{place}: {why}")]
    Database {
        /// The file, or host and database; never a password.
        place: String,
        /// Why.
        why: String,
    },
    /// There is no such file.
    #[error("{place} is not there: no sidecar with this configuration has run here yet")]
    Missing {
        /// The file.
        place: String,
    },
    /// The SQLite file is damaged.
    #[error("{place} is damaged: {why}")]
    Damaged {
        /// The file.
        place: String,
        /// What SQLite says.
        why: String,
    },
    /// A later version of Sidekey wrote it.
    #[error("{place} was written by a later version of Sidekey: {why}")]
    Later {
        /// Which.
        place: String,
        /// What is unknown.
        why: String,
    },
    /// An earlier version of Sidekey wrote it, and nobody has brought it up to date: who only reads does not.
    #[error("{place} was written by an earlier version of Sidekey: run a sidecar of this version with it once")]
    Earlier {
        /// Which.
        place: String,
    },
    /// The schema cannot be brought up to date.
    #[error("{place}: the tables cannot be made: {why}")]
    Schema {
        /// Which.
        place: String,
        /// Why.
        why: String,
    },
    /// The file with the URL, or the URL.
    #[error("{file}: {why}")]
    Url {
        /// `registry_file`, or `registry`.
        file: String,
        /// Why; never the URL, which may hold a password.
        why: String,
    },
    /// A file of the registry.
    #[error("{file}: {why}")]
    File {
        /// Which.
        file: String,
        /// Why.
        why: std::io::Error,
    },
    /// Too slow to be waited for.
    #[error("{place} has not answered for {seconds} s")]
    Slow {
        /// Which.
        place: String,
        /// How long it was given.
        seconds: u64,
    },
    /// There is none: commands that read it cannot.
    #[error("there is no registry: set state = \"state\" or registry = \"postgres://…\" in the configuration")]
    None,
    /// No such certificate in it.
    #[error("keyring {keyring:?} has {} in the registry: sidekey registry export says what it has", none(key_pair))]
    Unknown {
        /// The keyring.
        keyring: String,
        /// What was asked for.
        key_pair: String,
    },
    /// More than one begins so.
    #[error("keyring {keyring:?} has several certificates that begin with {key_pair:?}: give more digits")]
    Several {
        /// The keyring.
        keyring: String,
        /// What was asked for.
        key_pair: String,
    },
}

/// What a keyring has not: the pair that was named, or where none was, a current one.
fn none(key_pair: &str) -> String {
    if key_pair.is_empty() { "no current key pair".to_owned() } else { format!("no one key pair {key_pair:?}") }
}
