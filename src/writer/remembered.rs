//! What the last run left: read by `memory`, made into the first state by `state`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::keyring::KeyringName;
use crate::pki::{Certificate, FolderProblem, KeyPair};
use crate::trust::TrustName;
use crate::{evidence, keyring, trust};

/// What the last run left.
#[derive(Clone, Debug, Default)]
pub struct RememberedState {
    /// Decisions by keyring.
    pub keyrings: BTreeMap<KeyringName, keyring::PersistedKeyring>,
    /// Retained pairs by keyring.
    pub retained: BTreeMap<KeyringName, Vec<Arc<KeyPair>>>,
    /// Anchors on their way out, by trust.
    pub trusts: BTreeMap<TrustName, trust::anchors::PersistedAnchors>,
    /// Their certificates.
    pub anchors: BTreeMap<TrustName, Vec<Arc<Certificate>>>,
    /// What was learned from sources about our pairs.
    pub learned: Vec<evidence::learned::PersistedRefusal>,
    /// Why decisions could not be read: every keyring refuses commands until they can.
    pub unreadable: Option<String>,
    /// Retained files that could not be read: what was in them is lost to the overlap.
    pub skipped: Vec<FolderProblem>,
}
