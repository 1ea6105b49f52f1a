//! What an operator sees of a running sidecar, read from its snapshot, its Events and its metrics. Read-only: no way to change
//! anything leads through here; the one mark that a reader leaves is when `/readyz` was asked.

pub mod certificates;
pub mod findings;
pub mod gauges;
pub mod handshakes;
pub mod keyrings;
pub mod list_window;
pub mod listeners;
mod moment_cache;
mod peer_totals;
pub mod peers;
pub mod readiness;
pub mod registry;
pub mod registry_reader;
pub mod rotation;
mod rotation_answer;
pub mod status;
pub mod trusts;
pub mod upstreams;
mod writer_look;

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{Mutex, mpsc, watch};

use crate::event::EventBus;
use crate::metrics::{Metrics, MetricsFormat};
use crate::net::listen::ListenState;
use crate::process::{ReadinessRequests, ShutdownWatch};
use crate::registry::{Finding, RegistryStore};
use crate::snapshot::{ListenerId, Reader};
use crate::writer::WriterInput;
use moment_cache::MomentCache;
use peer_totals::PeerTotals;
use registry_reader::RegistryReader;
use rotation_answer::RotationAnswer;
use writer_look::WriterLook;

/// How old an audit for the page and the API may be: it reads nearly the whole registry, which is itself written in batches.
const AUDIT_SECONDS: i64 = 5;

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
    /// When the process started.
    pub started: Timestamp,
    /// `state` is configured: what is decided survives a restart.
    pub remembers: bool,
    /// This sidecar's name in the registry.
    pub instance: Arc<str>,
    writer: WriterLook,
    registry: RegistryReader,
    rotations: MomentCache<RotationAnswer>,
    findings: MomentCache<Vec<Finding>>,
    peer_totals: PeerTotals,
    /// Held by the one that reads the findings anew for later readers.
    auditing: Arc<Mutex<()>>,
}

impl RuntimeViews {
    /// From its parts.
    pub fn new(reader: Reader, metrics: Arc<Metrics>, events: Arc<EventBus>, shutdown: ShutdownWatch) -> Self {
        Self {
            started: events.now(),
            reader,
            metrics,
            events,
            shutdown,
            readiness_requests: Arc::default(),
            sockets: Arc::default(),
            remembers: false,
            instance: Arc::from("sidekey"),
            writer: WriterLook::default(),
            registry: RegistryReader::default(),
            rotations: MomentCache::lasting_seconds(1),
            findings: MomentCache::lasting_seconds(AUDIT_SECONDS),
            peer_totals: PeerTotals::default(),
            auditing: Arc::default(),
        }
    }

    /// What the writer alone knows can then be read too. `remembers`: `state` is configured.
    pub fn asking_writer(mut self, inputs: mpsc::Sender<WriterInput>, remembers: bool) -> Self {
        self.writer = WriterLook::through(inputs);
        self.remembers = remembers;
        self
    }

    /// With the name of this sidecar.
    pub fn with_instance(mut self, instance: Arc<str>) -> Self {
        self.instance = instance;
        self
    }

    /// The registry can then be read while it is connected, by a connection of the thread that reads first.
    pub fn reading_registry(mut self, current: watch::Receiver<Option<RegistryStore>>) -> Self {
        self.registry = RegistryReader::through(current);
        self
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

    /// What is served now, and when that is.
    fn moment(&self) -> moment_cache::ReadMoment {
        (self.reader.latest().epoch, self.events.now())
    }

    pub(crate) fn missing(&self) -> Vec<readiness::ReadinessGap> {
        readiness::missing(&self.reader.latest(), self.shutdown.phase(), &self.sockets)
    }

    /// Ready = every ingress has a pair to show and listens, and the process is not stopping. Upstreams never matter.
    pub fn is_ready(&self) -> bool {
        self.missing().is_empty()
    }

    /// Every metric.
    pub fn metrics_text(&self, format: MetricsFormat) -> String {
        self.metrics.render(
            format,
            Some(Box::new(gauges::SnapshotGauges {
                snapshot: self.reader.latest(),
                now: self.events.now(),
                lines_dropped: self.events.log_lines_dropped(),
                refused_files: self.events.refused_files(),
            })),
        )
    }
}
