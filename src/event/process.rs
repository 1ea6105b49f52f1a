//! The process itself: an epoch, a reload, a step of the clock, a connection drained early, state or registry lost.

use std::sync::Arc;

use serde::Serialize;

use super::fields::EventDescription;
use crate::log::Level;
use crate::snapshot::{Epoch, Side};

/// An epoch was published.
#[derive(Clone, Debug, Serialize)]
pub struct EpochRecord {
    /// Its number.
    pub epoch: Epoch,
    /// Listeners that are not ready, and what each waits for.
    pub waiting: Vec<String>,
    /// The upstream of every egress that serves: the listener, and host and port.
    #[serde(skip)]
    pub upstreams: Vec<(Arc<str>, String)>,
}

impl EventDescription for EpochRecord {
    fn target(&self) -> &'static str {
        "writer"
    }

    fn level(&self) -> Level {
        if self.waiting.is_empty() { Level::INFO } else { Level::WARN }
    }

    fn message(&self) -> &'static str {
        if self.waiting.is_empty() { "snapshot published" } else { "not ready: listeners are waiting" }
    }
}

/// The clock was stepped.
#[derive(Clone, Debug, Serialize)]
pub struct ClockRecord {
    /// By how many seconds, forwards positive.
    pub seconds: i64,
}

impl EventDescription for ClockRecord {
    fn target(&self) -> &'static str {
        "clock"
    }

    fn level(&self) -> Level {
        Level::WARN
    }

    fn message(&self) -> &'static str {
        "clock_step"
    }
}

/// A connection is drained early.
#[derive(Clone, Debug, Serialize)]
pub struct DrainRecord {
    /// Side.
    pub side: Side,
    /// Listener.
    pub listener: Arc<str>,
    /// Its number.
    pub connection: u64,
    /// `overlap_ended`, `peer_certificate_expired`, `trust_removed`, `revoked`, `stopping`, …
    pub reason: &'static str,
    /// One printable sentence.
    pub explanation: String,
}

impl EventDescription for DrainRecord {
    fn target(&self) -> &'static str {
        "drain"
    }

    fn level(&self) -> Level {
        Level::INFO
    }

    fn message(&self) -> &'static str {
        "draining a connection"
    }
}

/// State could not be saved: the decisions do not survive a restart.
#[derive(Clone, Debug, Serialize)]
pub struct SaveFailure {
    /// Which file.
    pub file: String,
    /// Why.
    #[serde(rename = "error", skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// It failed before, and now everything is saved.
    #[serde(skip)]
    pub over: bool,
}

impl EventDescription for SaveFailure {
    fn target(&self) -> &'static str {
        "writer"
    }

    fn level(&self) -> Level {
        if self.over { Level::INFO } else { Level::WARN }
    }

    fn message(&self) -> &'static str {
        if self.over { "state saved again" } else { "state not saved; it would be lost on restart" }
    }
}

/// The registry's database connected, disconnected, or is damaged. Traffic and rotations are not affected.
#[derive(Clone, Debug, Serialize)]
pub struct RegistryRecord {
    /// Whether it can be written to now.
    #[serde(skip)]
    pub up: bool,
    /// Its file was damaged and has been set aside; an operator should inspect it.
    #[serde(skip)]
    pub damaged: bool,
    /// One printable sentence.
    pub explanation: String,
}

impl EventDescription for RegistryRecord {
    fn target(&self) -> &'static str {
        "registry"
    }

    fn level(&self) -> Level {
        match (self.damaged, self.up) {
            (true, _) => Level::ERROR,
            (false, false) => Level::WARN,
            (false, true) => Level::INFO,
        }
    }

    fn message(&self) -> &'static str {
        if self.up { "registry connected" } else { "registry unavailable" }
    }
}

/// A reload changed the configuration, or was rejected.
#[derive(Clone, Debug, Serialize)]
pub struct ReloadRecord {
    /// `None` = reloaded; else the error, with file, line and column.
    pub error: Option<String>,
    /// Settings that take effect only after a restart.
    pub needs_restart: Vec<String>,
}

impl EventDescription for ReloadRecord {
    fn target(&self) -> &'static str {
        "config"
    }

    fn level(&self) -> Level {
        match (&self.error, self.needs_restart.is_empty()) {
            (Some(_), _) => Level::ERROR,
            (None, false) => Level::WARN,
            (None, true) => Level::INFO,
        }
    }

    fn message(&self) -> &'static str {
        match self.error {
            Some(_) => "configuration rejected; keeping the previous one",
            None => "configuration reloaded",
        }
    }
}
