//! The process: signals, the phases of stopping, and notifications to systemd.
//!
//! Stopping goes one way only. [`run_shutdown`] takes it from phase to phase, as long as [`ShutdownRules`] say; workers follow
//! through their [`ShutdownWatch`] and report through [`DrainProgress`] how many connections are left. Workers decide what a
//! phase means for a listener.

mod drain;
pub mod harden;
pub mod landlock;
pub mod notify;
mod priority;
mod progress;
mod rules;
mod shutdown;

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

pub use drain::{DrainGuard, DrainProgress, SideProgress};
pub use harden::{HardeningReport, harden};
pub use priority::lower_thread_priority;
pub use progress::ProgressEcho;
pub use rules::{ReadinessRequests, ShutdownRules};
pub use shutdown::{ShutdownOutcome, run_shutdown};

/// `[shutdown]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownSettings {
    /// Unready but still accepting.
    pub delay: Duration,
    /// How long connections may finish: those of ingress and then those of egress, together.
    pub drain: Duration,
    /// How long egress stays after ingress is done.
    pub egress_linger: Duration,
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self { delay: Duration::from_secs(5), drain: Duration::from_secs(15), egress_linger: Duration::from_secs(5) }
    }
}

impl ShutdownSettings {
    /// The longest that connections can hold up a stop: both sides share `drain`.
    pub fn max_duration(&self) -> Duration {
        self.delay + self.drain + self.egress_linger
    }
}

/// How far stopping has come. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShutdownPhase {
    /// Serving.
    Running,
    /// A new process has taken over: this one accepts nothing more, and what runs may take `limits.drain_planned`.
    HandedOver,
    /// `/readyz` fails; still accepting.
    Unready,
    /// Ingress drains: finish what runs, take nothing new.
    DrainIngress,
    /// Egress drains too.
    DrainEgress,
    /// Whatever is open is closed.
    Over,
}

/// The write half.
pub struct ShutdownController(watch::Sender<ShutdownPhase>);

/// The read half.
#[derive(Clone)]
pub struct ShutdownWatch(watch::Receiver<ShutdownPhase>);

/// Both halves, running.
pub fn shutdown_channel() -> (ShutdownController, ShutdownWatch) {
    let (sender, receiver) = watch::channel(ShutdownPhase::Running);
    (ShutdownController(sender), ShutdownWatch(receiver))
}

impl ShutdownController {
    /// Goes on to `phase`; going back does nothing.
    pub fn advance(&self, phase: ShutdownPhase) {
        self.0.send_if_modified(|now| {
            let further = phase > *now;
            if further {
                *now = phase;
            }
            further
        });
    }
}

impl ShutdownWatch {
    /// How far it has come.
    pub fn phase(&self) -> ShutdownPhase {
        *self.0.borrow()
    }
    /// Whether a new process has taken over, and no stop has begun since.
    pub fn is_handed_over(&self) -> bool {
        self.phase() == ShutdownPhase::HandedOver
    }
    /// Waits until a new process takes over; for ever, if none does.
    pub async fn wait_until_handed_over(&mut self) {
        if self.0.wait_for(|now| *now == ShutdownPhase::HandedOver).await.is_err() {
            std::future::pending().await
        }
    }
    /// Waits until it is at least `phase`.
    pub async fn wait_for_phase(&mut self, phase: ShutdownPhase) {
        // A sender that is gone has ended: that counts as the last phase too.
        let _ = self.0.wait_for(|now| *now >= phase).await;
    }
}

/// What a signal asks the process to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessSignal {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// A new process serves on our sockets: this one finishes what runs, and ends.
    HandOver,
}

/// The signals that the process handles.
pub struct SignalListener {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl SignalListener {
    /// Installs the handlers; from now on these signals no longer end the process by themselves.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Forwards every signal until the receiver is gone.
    pub async fn forward(mut self, told: mpsc::Sender<ProcessSignal>) {
        loop {
            let next = tokio::select! {
                _ = self.terminate.recv() => ProcessSignal::Stop,
                _ = self.interrupt.recv() => ProcessSignal::Stop,
                _ = self.hangup.recv() => ProcessSignal::Reload,
            };
            if told.send(next).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_never_go_back() {
        let (stopping, shutdown) = shutdown_channel();
        stopping.advance(ShutdownPhase::DrainEgress);
        stopping.advance(ShutdownPhase::Unready);
        assert_eq!(shutdown.phase(), ShutdownPhase::DrainEgress);
    }

    #[test]
    fn a_stop_fits_into_the_grace_period_of_kubelet_by_default() {
        assert!(ShutdownSettings::default().max_duration() <= Duration::from_secs(25));
    }
}
