//! Ready or not, and why: every listener has a pair to show, every ingress listens, and the process is not stopping.
//!
//! Pure. Upstreams and the application never matter: a sidecar that can answer its peers, and show itself to its upstreams,
//! is ready. Stopping is final, because its phase never goes back.

use std::fmt;
use std::sync::Arc;

use crate::net::listen::ListenState;
use crate::process::ShutdownPhase;
use crate::snapshot::{ListenerId, Side, Snapshot};

/// What readiness lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadinessGap {
    /// The process is stopping.
    Stopping,
    /// An ingress has nothing to show.
    Ingress {
        /// Which.
        listener: Arc<str>,
        /// What it waits for.
        waits_for: String,
    },
    /// An egress has nothing to show: it answers 503.
    Egress {
        /// Which.
        listener: Arc<str>,
        /// What it waits for.
        waits_for: String,
    },
    /// An ingress has something to show, and its socket does not listen yet.
    Listening {
        /// Which.
        listener: Arc<str>,
    },
}

impl fmt::Display for ReadinessGap {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopping => out.write_str("stopping"),
            Self::Ingress { listener, waits_for } => write!(out, "ingress {listener:?} waits for {waits_for}"),
            Self::Egress { listener, waits_for } => write!(out, "egress {listener:?} waits for {waits_for}"),
            Self::Listening { listener } => write!(out, "ingress {listener:?} does not listen yet"),
        }
    }
}

impl ReadinessGap {
    /// Without what it waits for, which may name a peer or a file.
    pub(crate) fn without_names(&self) -> String {
        match self {
            Self::Stopping | Self::Listening { .. } => self.to_string(),
            Self::Ingress { listener, .. } => format!("ingress {listener:?} waits"),
            Self::Egress { listener, .. } => format!("egress {listener:?} waits"),
        }
    }
}

/// Everything that is missing; nothing = ready.
///
/// A moment passes between a snapshot with the first key pair and a worker that listens.
pub(crate) fn missing(
    snapshot: &Snapshot,
    phase: ShutdownPhase,
    sockets: &[(ListenerId, ListenState)],
) -> Vec<ReadinessGap> {
    if phase == ShutdownPhase::HandedOver {
        // The new process is ready: it would not have taken over. What is still asked here is asked of both.
        return Vec::new();
    }
    if phase > ShutdownPhase::Running {
        return vec![ReadinessGap::Stopping];
    }
    let waiting = snapshot.waiting.iter().map(|(id, what)| {
        let (listener, waits_for) = (Arc::clone(&id.name), what.clone());
        match id.side {
            Side::Ingress => ReadinessGap::Ingress { listener, waits_for },
            Side::Egress => ReadinessGap::Egress { listener, waits_for },
        }
    });
    let closed = sockets.iter().filter(|(id, opened)| {
        id.side == Side::Ingress && !opened.is_listening() && snapshot.waiting.iter().all(|(waits, _)| waits != id)
    });
    waiting.chain(closed.map(|(id, _)| ReadinessGap::Listening { listener: Arc::clone(&id.name) })).collect()
}
