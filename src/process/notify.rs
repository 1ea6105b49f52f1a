//! Notifies systemd (sd_notify): ready, reloading, stopping, its state in words, and which process is the main one.
//!
//! Without systemd (no `NOTIFY_SOCKET`) nothing is sent. A message that cannot be sent does not stop the process. A process
//! that has taken over notifies the supervisor of the one before it, wherever it was started.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::OnceLock;
use std::time::Duration;

use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};

/// How the supervisor of this process is notified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorAccess {
    /// `NOTIFY_SOCKET`: a path, or an abstract name behind `@`.
    pub socket: Option<String>,
    /// How often it wants a sign of life; `None`: not at all.
    pub watchdog: Option<Duration>,
}

/// That of the process that was taken over.
static ADOPTED: OnceLock<SupervisorAccess> = OnceLock::new();

/// How the supervisor is notified: as the process before said, else as the environment does.
pub fn supervisor_access() -> SupervisorAccess {
    let own = || SupervisorAccess {
        socket: std::env::var("NOTIFY_SOCKET").ok().filter(|socket| !socket.is_empty()),
        watchdog: sd_notify::watchdog_enabled(),
    };
    ADOPTED.get().cloned().unwrap_or_else(own)
}

/// From now on the supervisor of the process that was taken over is ours.
pub fn adopt_supervisor(access: SupervisorAccess) {
    if access.socket.is_some() {
        // A process takes over once.
        let _ = ADOPTED.set(access);
    }
}

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

/// A new process has taken over and is the main one: the supervisor stops and watches that one from now on.
pub fn send_main_process(process: u32) {
    send_states(&[NotifyState::MainPid(process)]);
}

/// What the process does, for `systemctl status`.
pub fn send_status(status: &str) {
    send_states(&[NotifyState::Status(status)]);
}

/// The process makes progress.
pub fn send_alive() {
    send_states(&[NotifyState::Watchdog]);
}

fn send_states(states: &[NotifyState<'_>]) {
    if let Some(socket) = supervisor_access().socket {
        let message: Vec<String> = states.iter().map(ToString::to_string).collect();
        if let Err(error) = send_message(&socket, &message.join("\n")) {
            tracing::debug!(error = %error, "cannot notify systemd");
        }
    }
}

fn send_message(socket: &str, message: &str) -> io::Result<()> {
    let to = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &to).map(drop)
}
