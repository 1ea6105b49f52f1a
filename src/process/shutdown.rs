//! From the first stop signal to the end, phase by phase, with a line for each that waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::drain::{DrainProgress, SideProgress};
use super::rules::ShutdownRules;
use super::{ProcessSignal, ShutdownController, ShutdownPhase, ShutdownSettings, notify};

/// What is written last, to the registry, has this long, however long connections took.
const LAST_WRITE_MIN: Duration = Duration::from_secs(2);
/// And at most this long, if they were quick.
const LAST_WRITE_MAX: Duration = Duration::from_secs(5);

/// After a new process has taken over, what probes and commands have asked here is still answered for so long.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// How stopping ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownOutcome {
    /// Normally. Connections that were still open at the deadline were closed.
    Drained {
        /// How many.
        left: usize,
    },
    /// After a second stop signal: everything was closed at once.
    Hurried,
}

/// Waits for a stop signal, or for a new process that takes over, and then takes the process through the phases to [`ShutdownPhase::Over`]; `last_write` may
/// then end within its bounds. A reload signal wakes `reload`, also while stopping; the writer may then ignore it.
pub async fn run_shutdown(
    mut told: mpsc::Receiver<ProcessSignal>,
    stopping: ShutdownController,
    rules: ShutdownRules,
    progress: Arc<DrainProgress>,
    reload: Arc<Notify>,
    last_write: impl Future<Output = ()>,
) -> ShutdownOutcome {
    let is_handed_over = wait_for_end(&mut told, &reload).await == ProcessSignal::HandOver;
    if is_handed_over && finish_what_runs(&stopping, &progress, (&mut told, &reload)).await {
        stopping.advance(ShutdownPhase::Over);
        let _ = timeout(LAST_WRITE_MAX, last_write).await;
        return ShutdownOutcome::Drained { left: 0 };
    }
    let (mut plan, begun) = (rules.plan(), Instant::now());
    if is_handed_over {
        // Clients and the application have the new process.
        plan = ShutdownSettings { delay: Duration::ZERO, egress_linger: Duration::ZERO, ..plan };
    }
    let longest = plan.max_duration();
    let waits_for = describe_waits(plan, &progress);
    tracing::info!(
        target: "process",
        waits_for = waits_for.as_str(),
        longest_s = round_up(longest),
        second_signal = "stops immediately",
        "stopping"
    );
    if !is_handed_over {
        notify::send_status(&format!("stopping: waits for {waits_for}"));
        notify::send_stopping(longest + LAST_WRITE_MIN);
    }
    let ended = tokio::select! {
        biased;
        () = wait_for_stop(&mut told, &reload) => ShutdownOutcome::Hurried,
        () = drain(&stopping, plan, &progress) => ShutdownOutcome::Drained { left: progress.closed_at_deadline() },
    };
    stopping.advance(ShutdownPhase::Over);
    let left = longest.saturating_sub(begun.elapsed()).clamp(LAST_WRITE_MIN, LAST_WRITE_MAX);
    let _ = timeout(left, last_write).await;
    ended
}

async fn wait_for_stop(told: &mut mpsc::Receiver<ProcessSignal>, reload: &Notify) {
    // A new process cannot take over while this one stops.
    while wait_for_end(told, reload).await != ProcessSignal::Stop {}
}

/// The signal that ends the process: a stop, or a new process that takes over.
async fn wait_for_end(told: &mut mpsc::Receiver<ProcessSignal>, reload: &Notify) -> ProcessSignal {
    loop {
        match told.recv().await {
            Some(ProcessSignal::Reload) => reload.notify_one(),
            Some(end) => return end,
            // No sender is left: only the phases go on.
            None => std::future::pending().await,
        }
    }
}

/// Lets what runs come to its end after a new process has taken over; false if a stop signal comes first.
async fn finish_what_runs(
    stopping: &ShutdownController,
    progress: &DrainProgress,
    (told, reload): (&mut mpsc::Receiver<ProcessSignal>, &Notify),
) -> bool {
    let connections = progress.open_connections();
    tracing::info!(
        target: "process", connections,
        "a new process has taken over; this one finishes what runs and exits, a stop signal shortens that"
    );
    stopping.advance(ShutdownPhase::HandedOver);
    let finished = async {
        sleep(ANSWER_GRACE).await;
        progress.wait_until_answered().await;
        for side in [&progress.ingress, &progress.egress] {
            side.wait_until_closed().await;
        }
        for side in [&progress.ingress, &progress.egress] {
            side.wait_until_drained().await;
        }
    };
    tokio::select! {
        () = finished => true,
        () = wait_for_stop(told, reload) => false,
    }
}

async fn drain(stopping: &ShutdownController, plan: ShutdownSettings, progress: &DrainProgress) {
    stopping.advance(ShutdownPhase::Unready);
    wait_out(plan.delay, "readiness delay: /readyz fails, connections are still accepted").await;
    stopping.advance(ShutdownPhase::DrainIngress);
    let begun = Instant::now();
    drain_side(&progress.ingress, plan.drain, "ingress drains").await;
    // What ingress has left of it.
    let left = plan.drain.saturating_sub(begun.elapsed());
    wait_out(plan.egress_linger, "egress linger: the application can still reach its upstreams").await;
    stopping.advance(ShutdownPhase::DrainEgress);
    drain_side(&progress.egress, left, "egress drains").await;
}

async fn wait_out(wait: Duration, message: &str) {
    if !wait.is_zero() {
        tracing::info!(target: "process", seconds = round_up(wait), "{message}");
        sleep(wait).await;
    }
}

async fn drain_side(side: &SideProgress, at_most: Duration, message: &str) {
    if at_most.is_zero() {
        return;
    }
    let drained = async {
        side.wait_until_closed().await;
        let connections = side.open_connections();
        if connections > 0 {
            tracing::info!(target: "process", connections, at_most_s = round_up(at_most), "{message}");
            side.wait_until_drained().await;
        }
    };
    let _ = timeout(at_most, drained).await;
}

fn describe_waits(plan: ShutdownSettings, progress: &DrainProgress) -> String {
    let wait = |name: &str, wait: Duration| (!wait.is_zero()).then(|| format!("{name} of {} s", round_up(wait)));
    let connections = |side: &str, count: usize| match count {
        0 => None,
        1 => Some(format!("1 {side} connection")),
        many => Some(format!("{many} {side} connections")),
    };
    let all = [
        wait("readiness delay", plan.delay),
        connections("ingress", progress.ingress.open_connections()),
        wait("egress linger", plan.egress_linger),
        connections("egress", progress.egress.open_connections()),
    ];
    let all: Vec<String> = all.into_iter().flatten().collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}

/// In whole seconds.
fn round_up(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests;
