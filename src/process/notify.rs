//! Notifies systemd (sd_notify): ready, reloading, stopping, and the watchdog.
//!
//! Without systemd (no `NOTIFY_SOCKET`) nothing is sent. A message that cannot be sent does not stop the process.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;

/// Serving: every ingress listens. Also the end of a reload.
pub fn send_ready() {
    send_states(&[NotifyState::Ready]);
}

/// The configuration is read again; [`send_ready`] ends it (`Type=notify-reload` needs the time too).
pub fn send_reloading() {
    let since: io::Result<NotifyState<'_>> = NotifyState::monotonic_usec_now();
    match since {
        Ok(since) => send_states(&[NotifyState::Reloading, since]),
        Err(error) => tracing::debug!(error = %error, "cannot read the monotonic time for systemd"),
    }
}

/// Stopping has begun; it may take this long.
pub fn send_stopping(longest: Duration) {
    let longest = u32::try_from(longest.as_micros()).unwrap_or(u32::MAX);
    send_states(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(longest)]);
}

/// Notifies systemd's watchdog, where it is enabled, twice in each of its periods while this runtime runs. Never
/// ends; to be dropped with the runtime.
pub async fn run_watchdog() {
    let Some(period) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    let mut half = tokio::time::interval((period / 2).max(Duration::from_millis(1)));
    loop {
        half.tick().await;
        send_states(&[NotifyState::Watchdog]);
    }
}

fn send_states(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(error = %error, "cannot notify systemd");
    }
}
