//! The priority of a thread whose work may wait for that of the others.

/// How much lower: beside a thread of the usual priority on the same processor it gets about a fifteenth of the time, and all of what
/// that thread leaves over. Traffic notices a fifth (a step of 6): where a burst of it meets a batch of the registry's rows, its p99 is
/// half as long again. With less than a fifteenth, or where threads give way within their work (`sched_yield`), a sidecar whose
/// processor is full answers its probes after seconds and calls its registry unavailable.
const STEP: i32 = 12;
/// The lowest priority.
const LOWEST: i32 = 19;

/// Lowers the priority of the calling thread, and of the threads that it starts: where processors are scarce, the other threads go
/// first. Where that is not allowed, the thread goes on as it is.
pub fn lower_thread_priority() {
    // Both are about the calling thread alone on Linux (setpriority(2)).
    let lowered = rustix::process::getpriority_process(None)
        .and_then(|usual| rustix::process::setpriority_process(None, (usual + STEP).min(LOWEST)));
    if let Err(error) = lowered {
        tracing::debug!(target: "process", %error, "cannot lower the priority of a thread");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_calling_thread_is_lowered() {
        let read_priority = || rustix::process::getpriority_process(None).unwrap();
        let usual = read_priority();
        let lowered = std::thread::spawn(move || {
            lower_thread_priority();
            read_priority()
        });
        assert_eq!((lowered.join().unwrap(), read_priority()), ((usual + STEP).min(LOWEST), usual));
    }
}
