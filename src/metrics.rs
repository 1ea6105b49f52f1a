//! Prometheus text: counters in the workers' own cells, added up at each scrape.
//!
//! Labels are names from the configuration or from fixed lists, never peer text. What the snapshot already says (expiry,
//! overlaps, the epoch) is not stored here again: the admin room adds it at scrape time. Names are public: each one is in
//! `docs/metrics.md`, and a test there compares.

mod cells;
mod process;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{EncodeLabelSet, prometheus_text, text as openmetrics_text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use cells::{OpenConnectionGuard, WorkerCounters};

/// How metrics are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetricsFormat {
    /// Prometheus text 0.0.4, which every reader understands.
    #[default]
    Prometheus,
    /// OpenMetrics 1.0, for readers that ask for it.
    OpenMetrics,
}

impl MetricsFormat {
    /// Its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What a reader with this `Accept` field asks for: OpenMetrics where it names it, and likes plain text no better
    /// (RFC 9110 12.5.1).
    pub fn from_accept(accept: &str) -> Self {
        let quality = |wanted: &str| {
            let weights = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let is_it = parts.next()?.eq_ignore_ascii_case(wanted);
                let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
                is_it.then(|| weight.map_or(Some(1.0), |weight| weight.parse::<f32>().ok()).unwrap_or(0.0))
            });
            weights.fold(0.0_f32, f32::max)
        };
        let openmetrics = quality("application/openmetrics-text");
        if openmetrics > 0.0 && openmetrics >= quality("text/plain") { Self::OpenMetrics } else { Self::Prometheus }
    }
}

/// Seconds; from a resumed handshake on the same machine to the handshake deadline.
const HANDSHAKE_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ListenerLabels {
    side: &'static str,
    listener: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HandshakeLabels {
    side: &'static str,
    listener: String,
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RefusalLabels {
    side: &'static str,
    listener: String,
    alert: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReplayLabels {
    listener: String,
    why: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RotationLabels {
    keyring: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ProofLabels {
    listener: String,
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TokenLabels {
    listener: String,
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AlertLabels {
    kind: String,
    sink: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ActiveLabels {
    kind: &'static str,
    keyring: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// All metrics of the process.
pub struct Metrics {
    cells: Arc<Mutex<Vec<Arc<WorkerCounters>>>>,
    handshakes: Family<HandshakeLabels, Counter>,
    handshake_duration: Family<ListenerLabels, Histogram, fn() -> Histogram>,
    key_pair_refusals: Family<RefusalLabels, Counter>,
    replays: Family<ReplayLabels, Counter>,
    tokens: Family<TokenLabels, Counter>,
    proofs: Family<ProofLabels, Counter>,
    rotations: Family<RotationLabels, Counter>,
    drained: Family<ReasonLabels, Counter>,
    folder_refusals: Counter,
    events_dropped: Counter,
    panics: Counter,
    registry_up: Gauge,
    registry_dropped: Family<KindLabels, Counter>,
    alerts: Family<AlertLabels, Counter>,
    alerts_active: Family<ActiveLabels, Gauge>,
    process: process::ProcessCollector,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty set.
    pub fn new() -> Self {
        Self {
            cells: Arc::default(),
            handshakes: Family::default(),
            handshake_duration: Family::new_with_constructor(|| Histogram::new(HANDSHAKE_BUCKETS)),
            key_pair_refusals: Family::default(),
            replays: Family::default(),
            tokens: Family::default(),
            proofs: Family::default(),
            rotations: Family::default(),
            drained: Family::default(),
            folder_refusals: Counter::default(),
            events_dropped: Counter::default(),
            panics: Counter::default(),
            registry_up: Gauge::default(),
            registry_dropped: Family::default(),
            alerts: Family::default(),
            alerts_active: Family::default(),
            process: process::ProcessCollector::new(crate::clock::Clock::system().now()),
        }
    }

    /// One worker's own cells for one listener: created once, when the worker starts; only that worker writes them.
    pub fn worker_counters(&self, side: &'static str, listener: &str) -> Arc<WorkerCounters> {
        let cells = Arc::new(WorkerCounters::new(side, listener));
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&cells));
        cells
    }

    /// Counts a handshake at a listener, with its outcome and reason.
    pub fn handshake(
        &self,
        (side, listener): (&'static str, &str),
        (outcome, reason): (&'static str, &'static str),
        took: Duration,
    ) {
        let listener = listener.to_owned();
        let labels = ListenerLabels { side, listener: listener.clone() };
        self.handshake_duration.get_or_create(&labels).observe(took.as_secs_f64());
        self.handshakes.get_or_create(&HandshakeLabels { side, listener, outcome, reason }).inc();
    }

    /// Counts a refusal of our key pair by the other side: with this alert, or for this reason where it came later.
    pub fn count_key_pair_refusal(&self, side: &'static str, listener: &str, alert: &'static str) {
        self.key_pair_refusals.get_or_create(&RefusalLabels { side, listener: listener.to_owned(), alert }).inc();
    }

    /// Counts what an upstream made of our key pair after a handshake.
    pub fn count_proof(&self, listener: &str, outcome: &'static str, reason: &'static str) {
        self.proofs.get_or_create(&ProofLabels { listener: listener.to_owned(), outcome, reason }).inc();
    }

    /// Counts a request that was sent again with another key pair.
    pub fn count_replay(&self, listener: &str, why: &'static str) {
        self.replays.get_or_create(&ReplayLabels { listener: listener.to_owned(), why }).inc();
    }

    /// Counts a token request for an upstream, with its outcome.
    pub fn count_token(&self, listener: &str, outcome: &'static str, reason: &'static str) {
        self.tokens.get_or_create(&TokenLabels { listener: listener.to_owned(), outcome, reason }).inc();
    }

    /// Counts a key pair that arrived in a keyring, with its outcome.
    pub fn rotation(&self, keyring: &str, outcome: &'static str) {
        self.rotations.get_or_create(&RotationLabels { keyring: keyring.to_owned(), outcome }).inc();
    }

    /// Counts a connection that the sidecar drains early.
    pub fn count_drained(&self, reason: &'static str) {
        self.drained.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Counts a refusal in the watched folder.
    pub fn count_folder_refusal(&self) {
        self.folder_refusals.inc();
    }

    /// Counts Events that a slow follower missed.
    pub fn count_dropped_events(&self, count: u64) {
        self.events_dropped.inc_by(count);
    }

    /// Whether the registry's database can be written to.
    pub fn set_registry_up(&self, up: bool) {
        self.registry_up.set(i64::from(up));
    }

    /// Counts rows of this kind that were dropped because the registry's database was unavailable for too long.
    pub fn count_dropped_registry_rows(&self, kind: &'static str, count: u64) {
        if count > 0 {
            self.registry_dropped.get_or_create(&KindLabels { kind }).inc_by(count);
        }
    }

    /// Counts an alert of this kind, with its outcome at this sink.
    pub fn count_alert(&self, kind: &str, sink: &'static str, outcome: &'static str) {
        self.alerts.get_or_create(&AlertLabels { kind: kind.to_owned(), sink, outcome }).inc();
    }

    /// Sets the number of active alerts, by kind and keyring; those not named have none.
    pub fn set_active_alerts(&self, active: &std::collections::BTreeMap<(&'static str, String), i64>) {
        self.alerts_active.clear();
        for ((kind, keyring), count) in active {
            let labels = ActiveLabels { kind, keyring: keyring.clone() };
            self.alerts_active.get_or_create(&labels).set(*count);
        }
    }

    /// Counts every panic from now on, and logs it instead of Rust's default message.
    pub fn install_panic_hook(self: &Arc<Self>) {
        let metrics = Arc::clone(self);
        std::panic::set_hook(Box::new(move |panic| {
            metrics.panics.inc();
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!(target: "panic", place, what = panic.payload_as_str().unwrap_or("?"), "panicked");
        }));
    }

    /// Renders all metrics; `also` adds other ones, under the same prefix.
    pub fn render(&self, format: MetricsFormat, also: Option<Box<dyn Collector>>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.process));
        self.register(registry.sub_registry_with_prefix("sidekey"), also);
        let mut text = String::new();
        let written = match format {
            MetricsFormat::Prometheus => prometheus_text::encode(&mut text, &registry),
            MetricsFormat::OpenMetrics => openmetrics_text::encode(&mut text, &registry),
        };
        written.expect("writing to a string cannot fail");
        text
    }

    fn register(&self, ours: &mut Registry, also: Option<Box<dyn Collector>>) {
        ours.register_collector(Box::new(cells::CounterCollector(Arc::clone(&self.cells))));
        ours.register("handshakes", "Handshakes, by outcome and reason", self.handshakes.clone());
        ours.register(
            "handshake_duration_seconds",
            "Time from accept or dial to the end of the handshake",
            self.handshake_duration.clone(),
        );
        ours.register(
            "key_pair_refusals",
            "Key pairs that the other side refused, by alert",
            self.key_pair_refusals.clone(),
        );
        ours.register("replays", "Requests sent again with another key pair, by reason", self.replays.clone());
        ours.register("proofs", "What upstreams made of our key pairs after the handshake", self.proofs.clone());
        ours.register("tokens", "Token requests for upstreams, by outcome", self.tokens.clone());
        ours.register("rotations", "Key pairs that arrived, by outcome", self.rotations.clone());
        ours.register("drained", "Connections drained early, by reason", self.drained.clone());
        ours.register("folder_refusals", "Refusals in the watched folder", self.folder_refusals.clone());
        ours.register("events_dropped", "Events that a slow follower missed", self.events_dropped.clone());
        ours.register("panics", "Panics that ended a connection or a task", self.panics.clone());
        ours.register("registry_up", "Whether the registry's database can be written to", self.registry_up.clone());
        ours.register(
            "registry_events_dropped",
            "Rows dropped because the registry's database was unavailable for too long",
            self.registry_dropped.clone(),
        );
        ours.register("alerts", "Alerts, by outcome at each sink", self.alerts.clone());
        ours.register("alerts_active", "Active alerts", self.alerts_active.clone());
        if let Some(also) = also {
            ours.register_collector(also);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_events_have_their_labels() {
        let metrics = Metrics::new();
        metrics.handshake(("ingress", "api"), ("refused", "unknown_ca"), Duration::from_millis(2));
        metrics.count_key_pair_refusal("ingress", "api", "unknown_ca");
        metrics.count_replay("salesforce", "alert");
        metrics.count_proof("salesforce", "doubted", "status_403");
        metrics.rotation("api", "done");
        metrics.count_drained("overlap_ended");
        metrics.count_dropped_events(4);
        let text = metrics.render(MetricsFormat::Prometheus, None);
        for line in [
            r#"sidekey_handshakes_total{side="ingress",listener="api",outcome="refused",reason="unknown_ca"} 1"#,
            r#"sidekey_handshake_duration_seconds_bucket{side="ingress",listener="api",le="0.0025"} 1"#,
            r#"sidekey_key_pair_refusals_total{side="ingress",listener="api",alert="unknown_ca"} 1"#,
            r#"sidekey_replays_total{listener="salesforce",why="alert"} 1"#,
            r#"sidekey_proofs_total{listener="salesforce",outcome="doubted",reason="status_403"} 1"#,
            r#"sidekey_rotations_total{keyring="api",outcome="done"} 1"#,
            r#"sidekey_drained_total{reason="overlap_ended"} 1"#,
            "sidekey_events_dropped_total 4",
            "sidekey_panics_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_reader_gets_openmetrics_where_it_asks_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, expected) in [
            (prometheus, MetricsFormat::OpenMetrics),
            ("Application/OpenMetrics-Text", MetricsFormat::OpenMetrics),
            ("text/plain;q=0.5, application/openmetrics-text; q=0.5", MetricsFormat::OpenMetrics),
            ("text/plain, application/openmetrics-text;q=0.5", MetricsFormat::Prometheus),
            ("application/openmetrics-text;q=0", MetricsFormat::Prometheus),
            ("application/openmetrics-text;q=much", MetricsFormat::Prometheus),
            ("*/*", MetricsFormat::Prometheus),
            ("", MetricsFormat::Prometheus),
        ] {
            assert_eq!(MetricsFormat::from_accept(accept), expected, "{accept:?}");
        }
        let text = Metrics::new().render(MetricsFormat::OpenMetrics, None);
        assert!(
            text.ends_with("# EOF\n") && text.contains("# TYPE sidekey_panics counter\nsidekey_panics_total 0\n"),
            "{text}"
        );
    }

    #[test]
    fn a_listener_name_cannot_forge_a_label() {
        let metrics = Metrics::new();
        metrics.rotation("a\"\n\\b", "done");
        assert!(metrics.render(MetricsFormat::Prometheus, None).contains(r#"{keyring="a\"\n\\b",outcome="done"} 1"#));
    }
}
