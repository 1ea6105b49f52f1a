//! The process itself, under the names that every Prometheus client library uses: read from `/proc` when scraped.
//!
//! What cannot be read is left out.

use std::fmt;
use std::fs;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
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
        encode_gauge(encoder, "process_resident_memory_bytes", "Resident memory size in bytes", resident_bytes())?;
        let Some(seconds) = cpu_seconds() else { return Ok(()) };
        let help = "User and system CPU time spent";
        let metric = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        ConstCounter::new(seconds).encode(metric)
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

fn cpu_seconds() -> Option<f64> {
    parse_cpu_seconds(&fs::read_to_string("/proc/self/stat").ok()?)
}

/// Fields 14 and 15 (`utime`, `stime`) in hundredths of a second, which Linux shows on every architecture; the second field
/// is the program's name in parentheses, which may hold anything.
fn parse_cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map_while(|field| field.parse::<u32>().ok());
    Some(f64::from(ticks.next()?) / 100.0 + f64::from(ticks.next()?) / 100.0)
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
    fn cpu_time_is_read_behind_the_name_of_the_program() {
        let stat = "7 (a) 1 2 (b) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0 9 1000 200";
        assert_eq!(parse_cpu_seconds(stat), Some(3.0));
        assert_eq!(parse_cpu_seconds("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_descriptors_and_memory() {
        let text = super::super::Metrics::new().render(super::super::MetricsFormat::Prometheus, None);
        for name in ["start_time_seconds", "open_fds", "max_fds", "resident_memory_bytes", "cpu_seconds_total"] {
            assert!(text.lines().any(|line| line.starts_with(&format!("process_{name} "))), "{name}\n{text}");
        }
    }
}
