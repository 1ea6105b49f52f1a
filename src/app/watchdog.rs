//! Feeds systemd's watchdog while the process really makes progress: every worker answers, and so does the writer.
//!
//! A writer that cannot save for a whole period counts as one that hangs: it applies no rotation and no revocation. While a new
//! process takes over it stands still by order, which has its own deadline.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::process::{ProgressEcho, ShutdownWatch, notify};
use crate::writer::WriterInput;

/// What must answer.
pub(super) struct WatchdogParts {
    pub(super) echo: Arc<ProgressEcho>,
    pub(super) inputs: mpsc::Sender<WriterInput>,
    pub(super) shutdown: ShutdownWatch,
}

/// Until a new process has taken over, which then feeds it. To be dropped with the runtime.
pub(super) async fn feed_watchdog(parts: WatchdogParts, period: Duration) {
    let half = (period / 2).max(Duration::from_millis(1));
    let mut beat = interval(half);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut handed_over = parts.shutdown.clone();
    loop {
        tokio::select! {
            () = handed_over.wait_until_handed_over() => return,
            _ = beat.tick() => {}
        }
        match find_stalled(&parts, half).await {
            None => notify::send_alive(),
            Some(stalled) => {
                tracing::error!(target: "process", stalled, "makes no progress: systemd's watchdog is not fed");
            }
        }
    }
}

/// What does not answer within this time.
async fn find_stalled(parts: &WatchdogParts, patience: Duration) -> Option<String> {
    if timeout(patience, parts.echo.call_workers()).await.is_err() {
        return Some(
            parts.echo.silent_worker().map_or_else(|| "a worker".to_owned(), |worker| format!("worker {worker}")),
        );
    }
    let (reply, answer) = oneshot::channel();
    let echo = async {
        parts.inputs.send(WriterInput::Look { reply }).await.ok()?;
        answer.await.ok()
    };
    match timeout(patience, echo).await {
        Ok(Some(_)) => None,
        Ok(None) | Err(_) => Some("the writer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::shutdown_channel;

    const NO_TIME: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn a_worker_or_a_writer_that_hangs_is_found() {
        let (inputs, mut queue) = mpsc::channel(1);
        let echo = ProgressEcho::new(1);
        let parts = WatchdogParts { echo: Arc::clone(&echo), inputs, shutdown: shutdown_channel().1 };
        assert_eq!(find_stalled(&parts, NO_TIME).await.as_deref(), Some("worker 0"));
        tokio::spawn(echo.answer_calls(0));
        let answering = async {
            while let Some(WriterInput::Look { reply }) = queue.recv().await {
                let _ = reply.send(crate::writer::WriterView::default());
            }
        };
        tokio::select! {
            stalled = find_stalled(&parts, LONG) => assert_eq!(stalled, None),
            () = answering => unreachable!("its sender is there"),
        }
        // The worker goes on, the writer does not.
        parts.echo.call_workers().await;
        assert_eq!(find_stalled(&parts, Duration::from_millis(50)).await.as_deref(), Some("the writer"));
        drop(queue);
        assert_eq!(find_stalled(&parts, LONG).await.as_deref(), Some("the writer"), "it has ended");
    }
}
