//! Events: what happened, told once, to everybody who listens: log line, counters, and a bounded queue to followers.
//!
//! `emit` returns at once, always. Requests are not Events: one counter and one access line each.

pub mod handshake;

use std::sync::Arc;

pub use handshake::Handshake;

use crate::pki::Problem;
use crate::snapshot::Epoch;

/// Anything worth telling.
#[derive(Clone, Debug)]
pub enum Event {
    /// A handshake ended, one way or the other.
    Handshake(Arc<Handshake>),
    /// A keyring changed.
    Keyring {
        /// What happened.
        event: crate::keyring::Event,
        /// In which epoch it is true.
        epoch: Epoch,
    },
    /// A trust changed.
    Trust {
        /// What happened.
        event: crate::trust::Event,
        /// In which epoch it is true.
        epoch: Epoch,
    },
    /// Something in the watched folder cannot be used, or is worth a line.
    Folder {
        /// Which keyring; `None` for trust files and the folder itself.
        keyring: Option<Arc<str>>,
        /// What.
        problem: Problem,
    },
    /// An epoch was published.
    Epoch {
        /// Its number.
        epoch: Epoch,
        /// Listeners that wait, and for what.
        waiting: Vec<String>,
    },
    /// The clock was stepped.
    ClockStep {
        /// By how many seconds, forwards positive.
        seconds: i64,
    },
    /// A connection is drained before its time.
    Drained {
        /// Side.
        side: crate::snapshot::Side,
        /// Listener.
        listener: Arc<str>,
        /// Its number.
        connection: u64,
        /// `overlap_ended`, `peer_certificate_expired`, `trust_removed`, `revoked`, `stopping`, …
        reason: &'static str,
        /// One printable sentence.
        explanation: String,
    },
    /// State could not be saved: what was decided is not remembered across a restart.
    NotRemembered {
        /// Which file.
        file: String,
        /// Why.
        why: String,
    },
    /// Settings were taken over from a reload, or refused.
    Reloaded {
        /// `None` = taken over; else why not, with file, line and column.
        error: Option<String>,
        /// What needs a restart to change.
        needs_restart: Vec<String>,
    },
}

/// Where Events go.
pub struct Events {
    _todo: (),
}

impl Events {
    /// Tells everybody. Returns at once, always.
    pub fn emit(&self, event: Event) {
        let _ = event;
        todo!()
    }
}
