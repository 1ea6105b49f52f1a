//! What an operator sees of a running sidecar, read from its snapshot, its Events and its metrics. Read-only: no way to change
//! anything leads through here; the one mark that a reader leaves is when `/readyz` was asked.

pub mod gauges;
pub mod handshakes;
pub mod readiness;
pub mod status;

use std::sync::Arc;

use crate::event::EventBus;
use crate::metrics::Metrics;
use crate::net::listen::ListenState;
use crate::process::{ReadinessRequests, ShutdownWatch};
use crate::snapshot::{ListenerId, Reader};

/// What the admin listener and the commands may read.
#[derive(Clone)]
pub struct RuntimeViews {
    /// What is served.
    pub reader: Reader,
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// What happened.
    pub events: Arc<EventBus>,
    /// How far stopping has come.
    pub shutdown: ShutdownWatch,
    /// When a client last asked `/readyz`.
    pub readiness_requests: Arc<ReadinessRequests>,
    /// The sockets of the listeners.
    sockets: Arc<[(ListenerId, ListenState)]>,
}

impl RuntimeViews {
    /// From its parts.
    pub fn new(reader: Reader, metrics: Arc<Metrics>, events: Arc<EventBus>, shutdown: ShutdownWatch) -> Self {
        Self { reader, metrics, events, shutdown, readiness_requests: Arc::default(), sockets: Arc::default() }
    }

    /// Readiness then also requires that these sockets listen.
    pub fn watching(mut self, sockets: impl IntoIterator<Item = (ListenerId, ListenState)>) -> Self {
        self.sockets = sockets.into_iter().collect();
        self
    }

    /// Whether every listener accepts.
    pub fn is_listening(&self) -> bool {
        self.sockets.iter().all(|(_, opened)| opened.is_listening())
    }

    pub(crate) fn missing(&self) -> Vec<readiness::ReadinessGap> {
        readiness::missing(&self.reader.latest(), self.shutdown.phase(), &self.sockets)
    }

    /// Ready = every ingress has a pair to show and listens, and the process is not stopping. Upstreams never matter.
    pub fn is_ready(&self) -> bool {
        self.missing().is_empty()
    }

    /// Everything as Prometheus text ([`crate::metrics::CONTENT_TYPE`]).
    pub fn metrics_text(&self) -> String {
        self.metrics.render(Some(Box::new(gauges::SnapshotGauges {
            snapshot: self.reader.latest(),
            now: self.events.now(),
            lines_dropped: self.events.log_lines_dropped(),
            refused_files: self.events.refused_files(),
        })))
    }
}
