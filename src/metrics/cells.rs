//! What one worker counts for one listener, and the sums over all workers.
//!
//! A worker writes only its own cells, so that counting a request shares no cache line with another worker.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Upper ends in microseconds, included; requests that took longer fall into the last bucket.
const REQUEST_BUCKETS_US: [u64; 16] = [
    500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];
/// The parties that can cause an error.
const FAULT_LABELS: [&str; 4] = ["peer", "backend", "upstream", "sidecar"];
/// Limits that can be reached, by the names of their keys; `partner` is a partner's `max_connections`.
const LIMIT_LABELS: [&str; 18] = [
    "answer_idle",
    "body_idle",
    "connect",
    "connection_age",
    "connections",
    "continue_wait",
    "fields",
    "handshake",
    "handshakes",
    "handshakes_per_source",
    "head",
    "head_size",
    "hello_waiting",
    "idle",
    "partner",
    "response",
    "streams",
    "upload_rate",
];
/// The first status code there is, and how many there are.
const FIRST_STATUS: u16 = 100;
const STATUS_COUNT: usize = 500;

/// What one worker counts for one listener. Relaxed atomics without contention.
pub struct WorkerCounters {
    side: &'static str,
    listener: Arc<str>,
    connections_open: AtomicI64,
    statuses: Box<[AtomicU64]>,
    took: [AtomicU64; REQUEST_BUCKETS_US.len() + 1],
    took_sum_us: AtomicU64,
    errors: [AtomicU64; FAULT_LABELS.len()],
    /// By reason. A lock, as refusals are rare: but for a scrape it is the worker's own.
    refused: Mutex<BTreeMap<&'static str, u64>>,
    limits: [AtomicU64; LIMIT_LABELS.len()],
}

impl WorkerCounters {
    pub(super) fn new(side: &'static str, listener: &str) -> Self {
        Self {
            side,
            listener: Arc::from(listener),
            connections_open: AtomicI64::new(0),
            statuses: (0..STATUS_COUNT).map(|_| AtomicU64::new(0)).collect(),
            took: Default::default(),
            took_sum_us: AtomicU64::new(0),
            errors: Default::default(),
            refused: Mutex::default(),
            limits: Default::default(),
        }
    }

    /// Counts an answered request. A status beyond 100 to 599 counts as the nearest of them.
    pub fn request(&self, status: u16, took: Duration) {
        let status = usize::from(status.saturating_sub(FIRST_STATUS)).min(STATUS_COUNT - 1);
        self.statuses[status].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.took[REQUEST_BUCKETS_US.partition_point(|end| *end < micros)].fetch_add(1, Ordering::Relaxed);
        self.took_sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// Counts a failed request; `fault` is one of `peer`, `backend`, `upstream`, `sidecar`.
    pub fn error(&self, fault: &'static str) {
        // A fault outside the list is a bug of the sidecar, and counts as its fault.
        let index = FAULT_LABELS.iter().position(|known| *known == fault).unwrap_or(FAULT_LABELS.len() - 1);
        self.errors[index].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a refused request or connection; the reason comes from a fixed list.
    pub fn count_refusal(&self, reason: &'static str) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    /// Counts a limit that was reached, so that a connection was closed or refused; `limit` is the name of its key.
    pub fn count_limit(&self, limit: &'static str) {
        let index = LIMIT_LABELS.iter().position(|known| *known == limit);
        debug_assert!(index.is_some(), "{limit} is not in the list");
        if let Some(index) = index {
            self.limits[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts an open connection until the guard is dropped.
    pub fn open_connection(self: &Arc<Self>) -> OpenConnectionGuard {
        self.connections_open.fetch_add(1, Ordering::Relaxed);
        OpenConnectionGuard(Arc::clone(self))
    }
}

/// An open connection, counted until this is dropped.
pub struct OpenConnectionGuard(Arc<WorkerCounters>);

impl Drop for OpenConnectionGuard {
    fn drop(&mut self) {
        self.0.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The sums over all workers' cells.
pub(super) struct CounterCollector(pub(super) Arc<Mutex<Vec<Arc<WorkerCounters>>>>);

impl fmt::Debug for CounterCollector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Sums")
    }
}

struct CounterSum {
    connections_open: i64,
    statuses: Vec<u64>,
    took: [u64; REQUEST_BUCKETS_US.len() + 1],
    took_sum_us: u64,
    errors: [u64; FAULT_LABELS.len()],
    refused: BTreeMap<&'static str, u64>,
    limits: [u64; LIMIT_LABELS.len()],
}

impl Default for CounterSum {
    fn default() -> Self {
        Self {
            connections_open: 0,
            statuses: vec![0; STATUS_COUNT],
            took: Default::default(),
            took_sum_us: 0,
            errors: Default::default(),
            refused: BTreeMap::new(),
            limits: Default::default(),
        }
    }
}

impl CounterSum {
    fn add(&mut self, cells: &WorkerCounters) {
        let add_each = |sums: &mut [u64], counts: &[AtomicU64]| {
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count.load(Ordering::Relaxed);
            }
        };
        self.connections_open += cells.connections_open.load(Ordering::Relaxed);
        add_each(&mut self.statuses, &cells.statuses);
        add_each(&mut self.took, &cells.took);
        add_each(&mut self.errors, &cells.errors);
        for (reason, count) in cells.refused.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            *self.refused.entry(reason).or_default() += count;
        }
        add_each(&mut self.limits, &cells.limits);
        self.took_sum_us = self.took_sum_us.wrapping_add(cells.took_sum_us.load(Ordering::Relaxed));
    }
}

type SumsByListener = BTreeMap<(&'static str, Arc<str>), CounterSum>;

impl CounterCollector {
    fn sum_by_listener(&self) -> SumsByListener {
        let mut sums = SumsByListener::new();
        for cells in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            sums.entry((cells.side, Arc::clone(&cells.listener))).or_default().add(cells);
        }
        sums
    }
}

impl Collector for CounterCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let sums = self.sum_by_listener();
        if sums.is_empty() {
            return Ok(());
        }
        encode_open_connections(&mut encoder, &sums)?;
        encode_requests(&mut encoder, &sums)?;
        encode_durations(&mut encoder, &sums)?;
        encode_errors(&mut encoder, &sums)?;
        encode_refusals(&mut encoder, &sums)?;
        encode_limits(&mut encoder, &sums)
    }
}

fn encode_open_connections(encoder: &mut DescriptorEncoder, sums: &SumsByListener) -> fmt::Result {
    let mut metric = encoder.encode_descriptor("connections_open", "Open connections", None, MetricType::Gauge)?;
    for ((side, listener), sum) in sums {
        let labels = [("side", *side), ("listener", listener)];
        metric.encode_family(&labels)?.encode_gauge(&sum.connections_open)?;
    }
    Ok(())
}

fn encode_requests(encoder: &mut DescriptorEncoder, sums: &SumsByListener) -> fmt::Result {
    let mut metric =
        encoder.encode_descriptor("requests", "Requests answered, by status", None, MetricType::Counter)?;
    for ((side, listener), sum) in sums {
        for (status, count) in (FIRST_STATUS..).zip(&sum.statuses).filter(|(_, count)| **count > 0) {
            let status = status.to_string();
            let labels = [("side", *side), ("listener", listener), ("status", &status)];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(count, None)?;
        }
    }
    Ok(())
}

fn encode_durations(encoder: &mut DescriptorEncoder, sums: &SumsByListener) -> fmt::Result {
    let help = "Time from a request's head to the end of its response";
    let mut metric = encoder.encode_descriptor("request_duration_seconds", help, None, MetricType::Histogram)?;
    for ((side, listener), sum) in sums {
        let ends = REQUEST_BUCKETS_US.iter().map(|micros| micros_to_seconds(*micros)).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = ends.zip(sum.took).collect();
        let labels = [("side", *side), ("listener", listener)];
        metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
            micros_to_seconds(sum.took_sum_us),
            sum.took.iter().sum(),
            &buckets,
            None,
        )?;
    }
    Ok(())
}

fn encode_errors(encoder: &mut DescriptorEncoder, sums: &SumsByListener) -> fmt::Result {
    let help = "Requests that failed, by the party at fault";
    let mut metric = encoder.encode_descriptor("errors", help, None, MetricType::Counter)?;
    for ((side, listener), sum) in sums {
        for (fault, count) in FAULT_LABELS.iter().zip(&sum.errors) {
            let labels = [("side", *side), ("listener", listener), ("fault", fault)];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(count, None)?;
        }
    }
    Ok(())
}

fn encode_refusals(encoder: &mut DescriptorEncoder, sums: &SumsByListener) -> fmt::Result {
    let help = "Requests and connections refused, by reason";
    let mut metric = encoder.encode_descriptor("refused", help, None, MetricType::Counter)?;
    for ((side, listener), sum) in sums {
        for (reason, count) in &sum.refused {
            let labels = [("side", *side), ("listener", listener), ("reason", *reason)];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(count, None)?;
        }
    }
    Ok(())
}

fn encode_limits(encoder: &mut DescriptorEncoder, sums: &SumsByListener) -> fmt::Result {
    let help = "How often a limit was reached, so that a connection or request was closed or refused";
    let mut metric = encoder.encode_descriptor("limit_reached", help, None, MetricType::Counter)?;
    for ((side, listener), sum) in sums {
        for (limit, count) in LIMIT_LABELS.iter().zip(&sum.limits).filter(|(_, count)| **count > 0) {
            let labels = [("side", *side), ("listener", listener), ("limit", limit)];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(count, None)?;
        }
    }
    Ok(())
}

fn micros_to_seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::super::{Metrics, MetricsFormat};
    use super::*;

    #[test]
    fn workers_cells_are_added_up() {
        let metrics = Metrics::new();
        let (first, second) = (metrics.worker_counters("ingress", "api"), metrics.worker_counters("ingress", "api"));
        let other = metrics.worker_counters("egress", "salesforce");
        first.request(200, Duration::from_micros(500));
        second.request(200, Duration::from_micros(501));
        second.request(599, Duration::from_secs(100));
        second.request(7000, Duration::ZERO);
        other.error("upstream");
        first.count_refusal("bare_line_feed");
        second.count_refusal("bare_line_feed");
        second.count_limit("head");
        let (_kept, gone) = (first.open_connection(), second.open_connection());
        drop(gone);
        let text = metrics.render(MetricsFormat::Prometheus, None);
        for line in [
            r#"sidekey_connections_open{side="ingress",listener="api"} 1"#,
            r#"sidekey_requests_total{side="ingress",listener="api",status="200"} 2"#,
            r#"sidekey_requests_total{side="ingress",listener="api",status="599"} 2"#,
            r#"sidekey_request_duration_seconds_bucket{side="ingress",listener="api",le="0.0005"} 2"#,
            r#"sidekey_request_duration_seconds_bucket{side="ingress",listener="api",le="0.001"} 3"#,
            r#"sidekey_request_duration_seconds_bucket{side="ingress",listener="api",le="60"} 3"#,
            r#"sidekey_request_duration_seconds_bucket{side="ingress",listener="api",le="+Inf"} 4"#,
            r#"sidekey_request_duration_seconds_count{side="ingress",listener="api"} 4"#,
            r#"sidekey_limit_reached_total{side="ingress",listener="api",limit="head"} 1"#,
            r#"sidekey_errors_total{side="egress",listener="salesforce",fault="upstream"} 1"#,
            r#"sidekey_refused_total{side="ingress",listener="api",reason="bare_line_feed"} 2"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
