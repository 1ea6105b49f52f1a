//! The process itself, under the names that every Prometheus client library uses: read from `/proc` when scraped.
//!
//! What cannot be read is left out.

use std::fmt;
use std::fs;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue};
use prometheus_client::metrics::MetricType;
use rustix::process::{Resource, getrlimit};

/// Metrics of the process, and when it started.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProcessCollector {
    started: Timestamp,
}

impl ProcessCollector {
    /// A process that started then.
    pub(super) fn new(started: Timestamp) -> Self {
        Self { started }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        let started = self.started.as_second();
        encode_gauge(encoder, "process_start_time_seconds", "Start time of the process", Some(started))?;
        encode_gauge(encoder, "process_open_fds", "Open file descriptors", open_descriptors())?;
        encode_gauge(encoder, "process_max_fds", "File descriptor limit", getrlimit(Resource::Nofile).current)?;
        encode_gauge(encoder, "process_resident_memory_bytes", "Resident memory size in bytes", resident_bytes())
    }
}

fn encode_gauge<V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    value: Option<V>,
) -> fmt::Result {
    let Some(value) = value else { return Ok(()) };
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

fn open_descriptors() -> Option<u64> {
    // The one that reads the folder is among them.
    let count = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    Some(count.saturating_sub(1))
}

fn resident_bytes() -> Option<u64> {
    parse_resident_bytes(&fs::read_to_string("/proc/self/status").ok()?)
}

/// `VmRSS:     1234 kB`.
fn parse_resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_status() {
        assert_eq!(parse_resident_bytes("Name:\tx\nVmRSS:\t    1234 kB\nThreads:\t1\n"), Some(1_263_616));
        assert_eq!(parse_resident_bytes("VmRSS: many\n"), None);
    }

    #[test]
    fn this_process_has_descriptors_and_memory() {
        let text = super::super::Metrics::new().render(super::super::MetricsFormat::Prometheus, None);
        for name in ["start_time_seconds", "open_fds", "max_fds", "resident_memory_bytes"] {
            assert!(text.lines().any(|line| line.starts_with(&format!("process_{name} "))), "{name}\n{text}");
        }
    }
}
