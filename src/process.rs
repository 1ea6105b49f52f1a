//! The process: signals, the phases of stopping, and what systemd wants to hear.

pub mod notify;

use std::time::Duration;

use tokio::sync::watch;

/// `[shutdown]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Unready but still accepting.
    pub delay: Duration,
    /// How long connections may finish.
    pub drain: Duration,
    /// How long egress stays after ingress is done.
    pub egress_linger: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { delay: Duration::from_secs(5), drain: Duration::from_secs(15), egress_linger: Duration::from_secs(5) }
    }
}

/// How far stopping has come. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
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
pub struct Stopping(watch::Sender<Phase>);

/// The read half.
#[derive(Clone)]
pub struct Shutdown(watch::Receiver<Phase>);

/// Both halves, running.
pub fn shutdown() -> (Stopping, Shutdown) {
    let (sender, receiver) = watch::channel(Phase::Running);
    (Stopping(sender), Shutdown(receiver))
}

impl Stopping {
    /// Goes on to `phase`; going back does nothing.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let further = phase > *now;
            if further {
                *now = phase;
            }
            further
        });
    }
}

impl Shutdown {
    /// How far it has come.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }
    /// Waits until it is at least `phase`.
    pub async fn reached(&mut self, phase: Phase) {
        // A writer that is gone without having said so has ended: that is the last phase too.
        let _ = self.0.wait_for(|now| *now >= phase).await;
    }
}
