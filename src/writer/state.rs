//! The writer's state: every keyring, every trust, the settings; and `apply`, which is pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::memory::Remembered;
use super::{Input, NotDone, Settings};
use crate::folder::Contents;
use crate::keyring::{Keyring, KeyringName};
use crate::trust::{Anchors, TrustName};
use crate::{keyring, trust};

/// Everything that the next snapshot is made of.
#[derive(Clone)]
pub struct State {
    settings: Arc<Settings>,
    // private state: yours (keyrings, anchors by trust, the last contents, the clock's steadiness)
}

/// What `apply` says happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Happened {
    /// Of keyrings.
    pub keyrings: Vec<keyring::Event>,
    /// Of trusts.
    pub trusts: Vec<trust::Event>,
    /// Problems of the folder that are new (said once until they change).
    pub problems: Vec<(Option<Arc<str>>, crate::pki::Problem)>,
    /// A step of the clock, in seconds.
    pub clock_step: Option<i64>,
    /// Whether a new snapshot is needed although nothing above says so (settings, standings, validity).
    pub rebuild: bool,
}

impl State {
    /// What the last run remembered, and what the folder holds now.
    pub fn open(settings: Settings, remembered: Remembered, found: Contents, now: Timestamp) -> (Self, Happened) {
        let _ = (settings, remembered, found, now);
        todo!()
    }
    /// One input. Nothing but `self` changes; the same input again says that nothing happened.
    pub fn apply(&mut self, input: &Input, now: Timestamp) -> Result<Happened, NotDone> {
        let _ = (input, now);
        todo!()
    }
    /// The settings.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }
    /// Keyrings by name (configured ones and those that the folder holds).
    pub fn keyrings(&self) -> &BTreeMap<KeyringName, Keyring> {
        todo!()
    }
    /// Trusts by name; a keyring's own `ca.crt`, where a listener uses it, under `own:KEYRING`.
    pub fn trusts(&self) -> &BTreeMap<TrustName, Anchors> {
        todo!()
    }
    /// The last contents, for partner anchors and `ca_names` files.
    pub fn contents(&self) -> &Contents {
        todo!()
    }
}

/// The name under which a keyring's own `ca.crt` is a trust.
pub fn own_trust(keyring: &str) -> TrustName {
    format!("own:{keyring}").into()
}
