//! The process: signals, the phases of stopping, and notifications to systemd.
//!
//! Stopping goes one way only. [`run_shutdown`] takes it from phase to phase; workers follow through their [`ShutdownWatch`] and
//! report through [`DrainProgress`] how many connections are left. Workers decide what a phase means for a listener.

pub mod harden;
pub mod notify;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep;

pub use harden::{HardeningReport, harden};

/// `[shutdown]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownSettings {
    /// Unready but still accepting.
    pub delay: Duration,
    /// How long connections may finish.
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
    /// The longest that stopping can take: both sides drain, one after the other.
    pub fn max_duration(&self) -> Duration {
        self.delay + self.drain + self.egress_linger + self.drain
    }
}

/// How far stopping has come. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShutdownPhase {
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
    /// Waits until it is at least `phase`.
    pub async fn wait_for_phase(&mut self, phase: ShutdownPhase) {
        // A sender that is gone has ended: that counts as the last phase too.
        let _ = self.0.wait_for(|now| *now >= phase).await;
    }
}

/// The connections that are left, over all workers.
#[derive(Debug, Default)]
pub struct DrainProgress {
    ingress: OpenConnections,
    egress: OpenConnections,
}

#[derive(Debug, Default)]
struct OpenConnections {
    count: AtomicUsize,
    none_left: Notify,
}

/// A connection that stopping waits for, until this is dropped.
#[derive(Debug)]
pub struct DrainGuard {
    progress: Arc<DrainProgress>,
    ingress: bool,
}

impl DrainProgress {
    /// With no open connection.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
    /// Counts an open connection of a peer.
    pub fn ingress(self: &Arc<Self>) -> DrainGuard {
        self.track_connection(true)
    }
    /// Counts an open connection of the application.
    pub fn track_egress(self: &Arc<Self>) -> DrainGuard {
        self.track_connection(false)
    }
    /// Connections of peers that are open.
    pub fn open_ingress_count(&self) -> usize {
        self.ingress.count.load(Ordering::Acquire)
    }
    /// Connections of the application that are open.
    pub fn open_egress_count(&self) -> usize {
        self.egress.count.load(Ordering::Acquire)
    }

    fn track_connection(self: &Arc<Self>, ingress: bool) -> DrainGuard {
        self.connections_of(ingress).count.fetch_add(1, Ordering::AcqRel);
        DrainGuard { progress: Arc::clone(self), ingress }
    }

    fn connections_of(&self, ingress: bool) -> &OpenConnections {
        if ingress { &self.ingress } else { &self.egress }
    }
}

impl OpenConnections {
    async fn wait_until_none(&self) {
        loop {
            // Registered before the count is read: a connection that closes in between still wakes it.
            let none_left = self.none_left.notified();
            if self.count.load(Ordering::Acquire) == 0 {
                return;
            }
            none_left.await;
        }
    }
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        let open = self.progress.connections_of(self.ingress);
        if open.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            open.none_left.notify_waiters();
        }
    }
}

/// What a signal asks the process to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessSignal {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
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

/// Waits for a stop signal, and then takes the process through the phases to [`ShutdownPhase::Over`]. A reload signal wakes
/// `reload`, also while stopping; the writer may then ignore it.
pub async fn run_shutdown(
    mut told: mpsc::Receiver<ProcessSignal>,
    stopping: ShutdownController,
    settings: ShutdownSettings,
    progress: Arc<DrainProgress>,
    reload: Arc<Notify>,
) -> ShutdownOutcome {
    wait_for_stop(&mut told, &reload).await;
    tracing::info!(target: "process", longest_s = settings.max_duration().as_secs(), "stopping");
    notify::send_stopping(settings.max_duration());
    let ended = tokio::select! {
        biased;
        () = wait_for_stop(&mut told, &reload) => ShutdownOutcome::Hurried,
        () = drain(&stopping, settings, &progress) => {
            ShutdownOutcome::Drained { left: progress.open_ingress_count() + progress.open_egress_count() }
        }
    };
    stopping.advance(ShutdownPhase::Over);
    ended
}

async fn wait_for_stop(told: &mut mpsc::Receiver<ProcessSignal>, reload: &Notify) {
    loop {
        match told.recv().await {
            Some(ProcessSignal::Stop) => return,
            Some(ProcessSignal::Reload) => reload.notify_one(),
            // No sender is left: only the phases go on.
            None => std::future::pending().await,
        }
    }
}

async fn drain(stopping: &ShutdownController, settings: ShutdownSettings, progress: &DrainProgress) {
    stopping.advance(ShutdownPhase::Unready);
    sleep(settings.delay).await;
    stopping.advance(ShutdownPhase::DrainIngress);
    wait_at_most(settings.drain, progress.ingress.wait_until_none()).await;
    sleep(settings.egress_linger).await;
    stopping.advance(ShutdownPhase::DrainEgress);
    wait_at_most(settings.drain, progress.egress.wait_until_none()).await;
}

async fn wait_at_most(limit: Duration, done: impl Future<Output = ()>) {
    let _ = tokio::time::timeout(limit, done).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMMEDIATE_SHUTDOWN: ShutdownSettings =
        ShutdownSettings { delay: Duration::ZERO, drain: Duration::from_secs(3600), egress_linger: Duration::ZERO };

    struct ShutdownFixture {
        told: mpsc::Sender<ProcessSignal>,
        shutdown: ShutdownWatch,
        progress: Arc<DrainProgress>,
        reload: Arc<Notify>,
    }

    fn shutdown_fixture(settings: ShutdownSettings) -> (ShutdownFixture, impl Future<Output = ShutdownOutcome>) {
        let (told, receiver) = mpsc::channel(4);
        let (stopping, shutdown) = shutdown_channel();
        let (progress, reload) = (DrainProgress::new(), Arc::new(Notify::new()));
        let end = run_shutdown(receiver, stopping, settings, Arc::clone(&progress), Arc::clone(&reload));
        (ShutdownFixture { told, shutdown, progress, reload }, end)
    }

    #[tokio::test]
    async fn stopping_waits_for_ingress_then_for_egress() {
        let (mut stage, end) = shutdown_fixture(IMMEDIATE_SHUTDOWN);
        let (peer, application) = (stage.progress.ingress(), stage.progress.track_egress());
        let follow = async {
            stage.told.send(ProcessSignal::Stop).await.unwrap();
            stage.shutdown.wait_for_phase(ShutdownPhase::DrainIngress).await;
            assert_eq!(stage.shutdown.phase(), ShutdownPhase::DrainIngress);
            assert_eq!(stage.progress.open_ingress_count(), 1);
            drop(peer);
            stage.shutdown.wait_for_phase(ShutdownPhase::DrainEgress).await;
            assert_eq!(stage.shutdown.phase(), ShutdownPhase::DrainEgress);
            drop(application);
            stage.shutdown.wait_for_phase(ShutdownPhase::Over).await;
        };
        let (ended, ()) = tokio::join!(end, follow);
        assert_eq!(ended, ShutdownOutcome::Drained { left: 0 });
    }

    #[tokio::test]
    async fn a_second_signal_leaves_at_once() {
        let (stage, end) =
            shutdown_fixture(ShutdownSettings { delay: Duration::from_secs(3600), ..IMMEDIATE_SHUTDOWN });
        let _peer = stage.progress.ingress();
        stage.told.send(ProcessSignal::Stop).await.unwrap();
        stage.told.send(ProcessSignal::Stop).await.unwrap();
        assert_eq!(end.await, ShutdownOutcome::Hurried);
        assert_eq!(stage.shutdown.phase(), ShutdownPhase::Over);
    }

    #[tokio::test]
    async fn the_deadline_closes_what_is_left() {
        let (stage, end) = shutdown_fixture(ShutdownSettings { drain: Duration::ZERO, ..IMMEDIATE_SHUTDOWN });
        let _peer = stage.progress.ingress();
        stage.told.send(ProcessSignal::Stop).await.unwrap();
        assert_eq!(end.await, ShutdownOutcome::Drained { left: 1 });
    }

    #[tokio::test]
    async fn a_reload_is_passed_on_and_stops_nothing() {
        let (stage, end) = shutdown_fixture(IMMEDIATE_SHUTDOWN);
        stage.told.send(ProcessSignal::Reload).await.unwrap();
        let follow = async {
            stage.reload.notified().await;
            assert_eq!(stage.shutdown.phase(), ShutdownPhase::Running);
            stage.told.send(ProcessSignal::Stop).await.unwrap();
        };
        assert_eq!(tokio::join!(end, follow).0, ShutdownOutcome::Drained { left: 0 });
    }

    #[test]
    fn phases_never_go_back() {
        let (stopping, shutdown) = shutdown_channel();
        stopping.advance(ShutdownPhase::DrainEgress);
        stopping.advance(ShutdownPhase::Unready);
        assert_eq!(shutdown.phase(), ShutdownPhase::DrainEgress);
    }
}
