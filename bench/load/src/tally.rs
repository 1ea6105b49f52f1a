//! What was counted: requests, errors, latencies, and the CPU time of all sides, between the begin and the end of what is measured.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::LoadError;
use crate::cpu::CpuSample;
use crate::options::Options;

/// When to count, when to end, and what was counted.
pub(crate) struct WorkTally {
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
    slice: Option<Duration>,
    processes: BTreeMap<&'static str, Vec<u32>>,
    /// Requests that may still begin, where their number is given.
    left: Cell<Option<u64>>,
    pub(crate) done: Cell<u64>,
    pub(crate) resumed: Cell<u64>,
    pub(crate) redialled: Cell<u64>,
    pub(crate) failed: Cell<u64>,
    first_failure: RefCell<Option<String>>,
    /// Microseconds from the begin to the planned time, and from the planned time to the end of the response.
    pub(crate) latencies: RefCell<Vec<(u32, u32)>>,
    /// How late the generator itself sent what it could have sent at the planned time, in microseconds.
    lateness: RefCell<Vec<u32>>,
}

impl WorkTally {
    /// Begins after the warm-up.
    pub(crate) fn open(options: &Options) -> Result<Rc<Self>, LoadError> {
        let left = options.number::<u64>("count")?;
        let seconds = |name, otherwise| options.number_or(name, otherwise).map(Duration::from_secs_f64);
        let begin = Instant::now() + seconds("warm", 0.0)?;
        let end = begin + if left.is_some() { Duration::from_secs(3600) } else { seconds("seconds", 1.0)? };
        let groups = [("proxy", options.processes("proxy")?), ("backend", options.processes("backend")?)];
        Ok(Rc::new(Self {
            begin,
            end,
            slice: options.number("slice")?.map(Duration::from_millis),
            processes: groups.into_iter().chain([("load", vec![std::process::id()])]).collect(),
            left: Cell::new(left),
            done: Cell::default(),
            resumed: Cell::default(),
            redialled: Cell::default(),
            failed: Cell::default(),
            first_failure: RefCell::default(),
            latencies: RefCell::default(),
            lateness: RefCell::default(),
        }))
    }

    /// Whether another request may begin.
    pub(crate) fn take_turn(&self) -> bool {
        match self.left.get() {
            None => Instant::now() < self.end,
            Some(left) => {
                self.left.set(Some(left.saturating_sub(1)));
                left > 0
            }
        }
    }

    /// A request that was planned for `since` has been answered (`true`: on a resumed session), or not.
    pub(crate) fn record_outcome(&self, since: Instant, outcome: Result<bool, LoadError>) {
        let now = Instant::now();
        match outcome {
            Err(error) => {
                self.failed.set(self.failed.get() + 1);
                self.first_failure.borrow_mut().get_or_insert_with(|| error.to_string());
            }
            Ok(resumed) if self.counts(since, now) => {
                self.done.set(self.done.get() + 1);
                self.resumed.set(self.resumed.get() + u64::from(resumed));
                let offset = micros(since.saturating_duration_since(self.begin));
                self.latencies.borrow_mut().push((offset, micros(now.duration_since(since))));
            }
            Ok(_) => {}
        }
    }

    /// One that was planned for `planned` is only sent now, though a lane was free.
    pub(crate) fn record_lateness(&self, planned: Instant) {
        self.lateness.borrow_mut().push(micros(planned.elapsed()));
    }

    /// As fast as possible: what ends within the time. At a fixed rate: what was planned within it, so that a late answer counts too.
    fn counts(&self, since: Instant, now: Instant) -> bool {
        let judged = if self.lateness.borrow().is_empty() { now } else { since };
        self.left.get().is_some() || (judged >= self.begin && judged < self.end)
    }

    /// Reads the CPU time at the begin and at the end of what is measured.
    pub(crate) async fn watch_cpu(self: Rc<Self>, announce: bool) -> Value {
        let take = || self.processes.iter().map(|(name, of)| (*name, CpuSample::take(of))).collect::<BTreeMap<_, _>>();
        tokio::time::sleep_until(self.begin.into()).await;
        if announce {
            println!("{}", json!({ "measuring": true }));
        }
        let (earlier, since) = (take(), Instant::now());
        tokio::time::sleep_until(self.end.into()).await;
        let (later, seconds) = (take(), since.elapsed().as_secs_f64());
        let spent = |name| later[name].seconds_since(&earlier[name]);
        json!({
            "seconds": seconds, "proxy": spent("proxy"), "backend": spent("backend"), "load": spent("load"),
            "threads": later["proxy"].threads_since(&earlier["proxy"]),
        })
    }

    /// Prints everything as one line.
    pub(crate) fn print(&self, cpu: Value) {
        let mut line = json!({
            "done": self.done.get(), "failed": self.failed.get(), "first_failure": *self.first_failure.borrow(),
            "resumed": self.resumed.get(), "redialled": self.redialled.get(), "cpu": cpu,
        });
        let latencies = self.latencies.borrow();
        let all = latencies.iter().map(|(_, latency)| *latency).collect();
        line["latency_us"] = quantiles(all);
        line["late_us"] = quantiles(self.lateness.borrow().clone());
        if let Some(slice) = self.slice {
            let mut slices = BTreeMap::<u32, Vec<u32>>::new();
            for (offset, latency) in latencies.iter() {
                slices.entry(offset / micros(slice).max(1)).or_default().push(*latency);
            }
            line["slices"] = slices.into_values().map(quantiles).collect();
        }
        println!("{line}");
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// p50, p99, p99.9 and the greatest; `null` where nothing was counted.
fn quantiles(mut values: Vec<u32>) -> Value {
    values.sort_unstable();
    let rank = |share: f64| ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len()) - 1;
    if values.is_empty() {
        return Value::Null;
    }
    json!({
        "count": values.len(), "p50": values[rank(0.5)], "p99": values[rank(0.99)], "p999": values[rank(0.999)],
        "max": values[values.len() - 1],
    })
}
