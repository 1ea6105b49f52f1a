//! Ready or not, and what for: every ingress has a pair to show, and the process is not stopping.
//!
//! Pure. Upstreams, the application and what is configured for egress never matter: a sidecar that can answer its peers
//! is ready. Stopping is final, because its phase never goes back.

use std::fmt;
use std::sync::Arc;

use crate::process::Phase;
use crate::snapshot::{Side, Snapshot};

/// What readiness lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// The process is stopping.
    Stopping,
    /// An ingress has nothing to show.
    Ingress {
        /// Which.
        listener: Arc<str>,
        /// What it waits for.
        waits_for: String,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopping => out.write_str("stopping"),
            Self::Ingress { listener, waits_for } => write!(out, "ingress {listener:?} waits for {waits_for}"),
        }
    }
}

impl Missing {
    /// Without what it waits for, which may say the name of a peer or of a file.
    pub(super) fn without_names(&self) -> String {
        match self {
            Self::Stopping => self.to_string(),
            Self::Ingress { listener, .. } => format!("ingress {listener:?} waits"),
        }
    }
}

/// Everything that is missing; nothing = ready.
pub(super) fn missing(snapshot: &Snapshot, phase: Phase) -> Vec<Missing> {
    if phase > Phase::Running {
        return vec![Missing::Stopping];
    }
    let waiting = snapshot.waiting.iter().filter(|(id, _)| id.side == Side::Ingress);
    waiting.map(|(id, what)| Missing::Ingress { listener: Arc::clone(&id.name), waits_for: what.clone() }).collect()
}
