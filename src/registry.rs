//! The registry: what was seen, in SQLite by default or in a Postgres that many sidecars share (contract section 7).
//!
//! It is a record, never an authority: nothing read from it changes a standing, and traffic never waits for it. Private
//! keys never enter it: its sources are Events and a snapshot's views, and neither contains one. `rows` defines rows
//! for every other file of this module and for the alerts, `store` has the statements that
//! read and write them, `task` writes the Events.

pub mod backlog;
pub mod export;
pub mod findings;
mod history;
mod recall;
mod rows;
mod seen;
pub mod store;
pub mod task;
mod trust_tables;

use std::path::PathBuf;
use std::sync::Arc;

pub use export::{KeyPairSummary, summarize_key_pairs};
pub use findings::{Finding, findings};
pub use rows::{
    AcknowledgementRow, AnchorRow, CrlRow, DeliveryRow, FailureRow, HeldPairRow, HistoryRow, InstanceRow, KeyringRow,
    PeerRow, PlacementRow, RegistryInventory, SenderRow, SqlFlag, TextList, TrustRow, UnixSeconds, WaitingKeyRow,
    short_fingerprint, shown_certificates,
};
pub use seen::peer_row;
pub use store::RegistryStore;
pub use trust_tables::{AnchorSummary, CrlTableRow, summarize_anchors, summarize_crls};

/// Where the registry is, and the name of this sidecar in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Where it is.
    pub place: RegistryLocation,
    /// This sidecar's name in it.
    pub instance: Arc<str>,
}

/// Where a registry is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryLocation {
    /// In memory: it ends with the process (no `state`, no `registry`).
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
    /// The database, or the connection to it, failed.
    #[error("{place}: {why}")]
    Database {
        /// The file, or host and database; never a password.
        place: String,
        /// Why.
        why: String,
    },
    /// The file does not exist.
    #[error("{place} does not exist: no sidecar with this configuration has run here yet")]
    Missing {
        /// The file.
        place: String,
    },
    /// The SQLite file is damaged.
    #[error("{place} is damaged: {why}")]
    Damaged {
        /// The file.
        place: String,
        /// SQLite's message.
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
    /// An earlier version of Sidekey wrote it, and it was not migrated: commands that only read do not migrate it.
    #[error("{place} was written by an earlier version of Sidekey: start a sidecar of this version to migrate it")]
    Earlier {
        /// Which.
        place: String,
    },
    /// The schema cannot be migrated.
    #[error("{place}: the tables cannot be created or migrated: {why}")]
    Schema {
        /// Which.
        place: String,
        /// Why.
        why: String,
    },
    /// The file with the URL, or the URL, is not valid.
    #[error("{file}: {why}")]
    Url {
        /// `registry_file`, or `registry`.
        file: String,
        /// Why; never the URL, which may hold a password.
        why: String,
    },
    /// A file of the registry cannot be read or written.
    #[error("{file}: {why}")]
    File {
        /// Which.
        file: String,
        /// Why.
        why: std::io::Error,
    },
    /// The database did not answer in time.
    #[error("{place} has not answered for {seconds} s")]
    Slow {
        /// Which.
        place: String,
        /// The timeout.
        seconds: u64,
    },
    /// No registry is configured: commands cannot read it.
    #[error("no registry configured: set state = \"state\" or registry = \"postgres://…\" in the configuration")]
    None,
    /// The certificate is not in the registry.
    #[error(
        "keyring {keyring:?} has {} in the registry: sidekey registry export lists what it has",
        describe_missing(key_pair)
    )]
    Unknown {
        /// The keyring.
        keyring: String,
        /// What was asked for.
        key_pair: String,
    },
    /// The prefix is ambiguous.
    #[error("keyring {keyring:?} has several certificates that begin with {key_pair:?}: specify more digits")]
    Several {
        /// The keyring.
        keyring: String,
        /// What was asked for.
        key_pair: String,
    },
}

/// What the keyring lacks: the key pair that was given, or if none was, a current one.
fn describe_missing(key_pair: &str) -> String {
    if key_pair.is_empty() { "no current key pair".to_owned() } else { format!("no key pair {key_pair:?}") }
}
