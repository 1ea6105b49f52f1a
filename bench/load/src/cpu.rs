//! CPU time of processes, by thread, from `/proc`: user and system time together, in nanoseconds where the kernel counts them.

use std::collections::BTreeMap;
use std::fs;

/// CPU time of each thread of some processes so far, in nanoseconds.
pub(crate) struct CpuSample(BTreeMap<(u32, u32), u64>);

impl CpuSample {
    /// Now. A process that is gone has none.
    pub(crate) fn take(processes: &[u32]) -> Self {
        let mut threads = BTreeMap::new();
        for process in processes {
            let Ok(entries) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
            let names = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
            for thread in names {
                if let Some(time) = thread_time(*process, thread) {
                    threads.insert((*process, thread), time);
                }
            }
        }
        Self(threads)
    }

    /// Seconds since an earlier sample. The time of threads that have ended in between is missing.
    pub(crate) fn seconds_since(&self, earlier: &Self) -> f64 {
        self.threads_since(earlier).iter().map(|(_, seconds)| seconds).sum()
    }

    /// The same of each thread that ran at all, with its name.
    pub(crate) fn threads_since(&self, earlier: &Self) -> Vec<(String, f64)> {
        let spent = self.0.iter().map(|(key, time)| (key, time - earlier.0.get(key).unwrap_or(&0).min(time)));
        let named = spent.filter(|(_, nanos)| *nanos > 0).map(|((process, thread), nanos)| {
            let name = fs::read_to_string(format!("/proc/{process}/task/{thread}/comm")).unwrap_or_default();
            (name.trim().to_owned(), nanos as f64 / 1e9)
        });
        named.collect()
    }
}

/// The scheduler's own count, or the ticks of `stat` where it keeps none.
fn thread_time(process: u32, thread: u32) -> Option<u64> {
    let folder = format!("/proc/{process}/task/{thread}");
    if let Ok(text) = fs::read_to_string(format!("{folder}/schedstat")) {
        return text.split(' ').next()?.parse().ok();
    }
    let stat = fs::read_to_string(format!("{folder}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second()))
}
