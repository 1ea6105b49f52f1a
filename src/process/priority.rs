//! The priority of a thread whose work may wait for that of the others, and the time slice that lets them interrupt it.

/// How much lower: beside a thread of the usual priority on the same processor it gets about a fifteenth of the time, and all of what
/// that thread leaves over. Traffic notices a fifth (a step of 6): where a burst of it meets a batch of the registry's rows, its p99 is
/// half as long again. With less than a fifteenth, or where threads give way within their work (`sched_yield`), a sidecar whose
/// processor is full answers its probes after seconds and calls its registry unavailable.
const STEP: i32 = 12;
/// The lowest priority.
const LOWEST: i32 = 19;
/// Its time slice, in nanoseconds: longer than the kernel's usual one, which is 3 ms at most. Since Linux 6.12 a thread that wakes takes
/// the processor from one with a longer slice, unless it has had more than its share; from any other, whatever the priorities, only
/// when that one's slice or the tick ends. No longer than it must be: before 6.17 a thread that does not wake but has used its own slice up
/// waits for the whole of it.
const SLICE: u64 = 5_000_000;

/// Lowers the priority of the calling thread, and of the threads that it starts: where processors are scarce, the other threads go
/// first, and on Linux 6.12 and newer they interrupt it when they wake. Where that is not allowed, the thread goes on as it is.
pub fn lower_thread_priority() {
    // Both are about the calling thread alone on Linux (setpriority(2)).
    let lowered = rustix::process::getpriority_process(None).and_then(|usual| {
        let lower = (usual + STEP).min(LOWEST);
        rustix::process::setpriority_process(None, lower).map(|()| lower)
    });
    let priority = match lowered {
        Ok(priority) => priority,
        Err(error) => {
            tracing::debug!(target: "process", %error, "cannot lower the priority of a thread");
            return;
        }
    };
    // By a call of its own, since a sandbox may allow the former only.
    if let Err(error) = lengthen_slice(priority) {
        tracing::debug!(target: "process", %error, "cannot lengthen the time slice of a thread");
    }
}

/// Asks for [`SLICE`] and leaves the policy and `priority`, its present one, as they are (sched_setattr(2); 0 is the calling thread).
/// Kernels before 6.12 do not read the slice; a realtime policy, which has none, is an error.
fn lengthen_slice(priority: i32) -> Result<(), uapi::Errno> {
    // Made from nothing, not by sched_getattr: kernels before 5.3 would fill a part of it only.
    let mut attributes: uapi::c::sched_attr = uapi::pod_zeroed();
    attributes.sched_flags = uapi::c::SCHED_FLAG_KEEP_POLICY;
    attributes.sched_nice = priority;
    attributes.sched_runtime = SLICE;
    uapi::sched_setattr(0, &attributes, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_slice() -> u64 {
        uapi::sched_getattr(0, 0).unwrap().sched_runtime
    }

    fn read_priority() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[test]
    fn only_the_calling_thread_and_those_that_it_starts_are_lowered() {
        let (usual, slice) = (read_priority(), read_slice());
        let read = || (read_priority(), read_slice());
        let lowered = std::thread::spawn(move || {
            lower_thread_priority();
            (read(), std::thread::spawn(read).join().unwrap())
        });
        let (own, started) = lowered.join().unwrap();
        assert_eq!(own, started);
        assert_eq!((own.0, read_priority()), ((usual + STEP).min(LOWEST), usual));
        // 0: a kernel before 6.12, which knows no slices of threads.
        assert!(own.1 == SLICE || own.1 == 0 && slice == 0, "{own:?}");
        assert_eq!(read_slice(), slice);
    }
}
