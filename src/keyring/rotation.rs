//! The state machine of one keyring: what arrives, what time does, what an operator commands (contract sections 3 and 4).
//!
//! Pure. It holds every pair it still needs, also those whose files vanished; what survives a restart is handed out as
//! [`Remembered`] and kept by `writer::memory`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::{Command, Event, Settings, Standing};
use crate::pki::{Fingerprint, KeyPair};

/// One pair and where it stands.
#[derive(Clone, Debug)]
pub struct Held {
    /// The pair.
    pub pair: Arc<KeyPair>,
    /// Where it stands.
    pub standing: Standing,
    /// Since when.
    pub since: Timestamp,
    /// For `previous`: when its overlap ends.
    pub overlap_ends: Option<Timestamp>,
    /// Whether the folder holds it now.
    pub in_folder: bool,
    /// For `refused` and `staged`: why, one sentence.
    pub why: Option<String>,
}

/// What must survive a restart: no key, only decisions. The keys of vanished pairs are in `state/retained/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Remembered {
    /// The current pair.
    pub current: Option<Fingerprint>,
    /// When each pair became current, by pair.
    pub activated: BTreeMap<Fingerprint, Timestamp>,
    /// Previous pairs: when each one was replaced, and when its overlap ends.
    pub previous: BTreeMap<Fingerprint, Overlap>,
    /// Staged pairs.
    pub staged: BTreeSet<Fingerprint>,
    /// Pairs rolled back from: not current again until `promote` or new file content.
    pub held: BTreeSet<Fingerprint>,
    /// Retired pairs and when: retained a week longer for `rollback`.
    pub retired: BTreeMap<Fingerprint, Timestamp>,
    /// Revoked by command.
    pub revoked: BTreeSet<Fingerprint>,
}

/// A previous pair's overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Overlap {
    /// The rotation that replaced it.
    pub replaced: Timestamp,
    /// When it ends.
    pub ends: Timestamp,
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// No such pair here.
    #[error("keyring {keyring:?} has no key pair {key_pair:?}")]
    Unknown {
        /// The keyring.
        keyring: String,
        /// The pair.
        key_pair: Fingerprint,
    },
    /// The pair's standing forbids it.
    #[error("{0}")]
    NotNow(String),
}

/// One keyring. At most one pair is `current`; each pair has one standing; a revoked fingerprint never leaves
/// `revoked`; no overlap ends after its pair's `not_after`.
#[derive(Clone, Debug)]
pub struct Keyring {
    settings: Settings,
    // private state: yours
}

impl Keyring {
    /// A keyring as the last run left it. `retained` are pairs that were kept although their files vanished.
    pub fn open(settings: Settings, remembered: &Remembered, retained: Vec<Arc<KeyPair>>) -> Self {
        let _ = (remembered, retained);
        Self { settings }
    }
    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
    /// Other settings, from a reload.
    pub fn configure(&mut self, settings: Settings, now: Timestamp) -> Vec<Event> {
        let _ = (settings, now);
        todo!()
    }
    /// All pairs that the folder holds now, in any order. Arriving twice is arriving once.
    pub fn arrive(&mut self, pairs: &[Arc<KeyPair>], now: Timestamp) -> Vec<Event> {
        let _ = (pairs, now);
        todo!()
    }
    /// Time passes: staged pairs become due, overlaps end, pairs expire. `retire` is false while the clock is not
    /// steady (contract section 3, clock step): then nothing is retired.
    pub fn tick(&mut self, now: Timestamp, retire: bool) -> Vec<Event> {
        let _ = (now, retire);
        todo!()
    }
    /// An operator asks.
    pub fn command(&mut self, command: &Command, now: Timestamp) -> Result<Vec<Event>, NotDone> {
        let _ = (command, now);
        todo!()
    }
    /// The current pair.
    pub fn current(&self) -> Option<&Held> {
        todo!()
    }
    /// The previous pairs, the latest replaced first.
    pub fn previous(&self) -> Vec<&Held> {
        todo!()
    }
    /// Every pair it knows, refused and retired ones too, in a stable order.
    pub fn held(&self) -> Vec<&Held> {
        todo!()
    }
    /// The pairs that may be shown: current then previous, as [`super::Candidates`] wants them; with nothing valid
    /// left the pair in use as a last resort (unless `on_expiry = "refuse"`).
    pub fn shown(&self, now: Timestamp) -> Vec<(super::Candidate, Arc<KeyPair>)> {
        let _ = now;
        todo!()
    }
    /// What must survive a restart.
    pub fn remembered(&self) -> Remembered {
        todo!()
    }
    /// Pairs whose files vanished and that must be kept on disk: previous ones, and retired ones for a week.
    pub fn to_retain(&self, now: Timestamp) -> Vec<Arc<KeyPair>> {
        let _ = now;
        todo!()
    }
    /// When something is due next, if anything is: a staged pair, the end of an overlap, an expiry.
    pub fn next_due(&self) -> Option<Timestamp> {
        todo!()
    }
    /// How the folder and what is shown differ: the newest pair in the folder is not current, and since when.
    pub fn divergence(&self) -> Option<(Fingerprint, Timestamp)> {
        todo!()
    }
}
