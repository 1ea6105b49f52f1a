//! `state/`: what must survive a restart. `decisions.json` (written aside, fsynced, renamed) and `retained/` (0600).
//!
//! Belongs to the writer alone. Unreadable decisions make the keyrings concerned refuse changes and say so; they are
//! never silently replaced.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use super::State;
use crate::keyring::KeyringName;
use crate::pki::{Certificate, KeyPair};
use crate::trust::TrustName;
use crate::{keyring, trust};

/// The folder `state/`, or nothing: memory only.
pub struct Memory {
    _root: Option<PathBuf>,
}

/// What the last run left.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// Decisions by keyring.
    pub keyrings: BTreeMap<KeyringName, keyring::Remembered>,
    /// Retained pairs by keyring.
    pub retained: BTreeMap<KeyringName, Vec<Arc<KeyPair>>>,
    /// Anchors on their way out, by trust.
    pub trusts: BTreeMap<TrustName, trust::anchors::Remembered>,
    /// Their certificates.
    pub anchors: BTreeMap<TrustName, Vec<Arc<Certificate>>>,
    /// Why decisions could not be read: every keyring refuses commands until they can.
    pub unreadable: Option<String>,
}

/// What could not be saved or read.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {why}")]
pub struct Error {
    /// Which file.
    pub file: String,
    /// Why, with what to do.
    pub why: String,
}

impl Memory {
    /// In memory only.
    pub fn none() -> Self {
        Self { _root: None }
    }
    /// In this folder, made 0700 where it is missing. An error where it cannot be made or written.
    pub fn open(root: PathBuf) -> Result<Self, Error> {
        Ok(Self { _root: Some(root) })
    }
    /// What the last run left.
    pub fn read(&self) -> Remembered {
        todo!()
    }
    /// Saves what must survive: retained pairs in, decisions, ended ones out; in an order that a kill at any moment
    /// leaves a matched pair and readable decisions.
    pub fn save(&mut self, state: &State, now: Timestamp) -> Result<(), Error> {
        let _ = (state, now);
        todo!()
    }
}
