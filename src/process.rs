//! The process: signals, the phases of stopping, and notifications to systemd.
//!
//! Stopping goes one way only. [`conduct`] takes it from phase to phase; workers follow through their [`Shutdown`] and
//! report through [`Progress`] how many connections are left. Workers decide what a phase means for a listener.

pub mod harden;
pub mod notify;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep;

pub use harden::{Hardened, harden};

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

impl Settings {
    /// The longest that stopping can take: both sides drain, one after the other.
    pub fn longest(&self) -> Duration {
        self.delay + self.drain + self.egress_linger + self.drain
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
        // A sender that is gone has ended: that counts as the last phase too.
        let _ = self.0.wait_for(|now| *now >= phase).await;
    }
}

/// The connections that are left, over all workers.
#[derive(Debug, Default)]
pub struct Progress {
    ingress: Open,
    egress: Open,
}

#[derive(Debug, Default)]
struct Open {
    count: AtomicUsize,
    none_left: Notify,
}

/// A connection that stopping waits for, until this is dropped.
#[derive(Debug)]
pub struct Busy {
    progress: Arc<Progress>,
    ingress: bool,
}

impl Progress {
    /// With no open connection.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
    /// Counts an open connection of a peer.
    pub fn ingress(self: &Arc<Self>) -> Busy {
        self.busy(true)
    }
    /// Counts an open connection of the application.
    pub fn egress(self: &Arc<Self>) -> Busy {
        self.busy(false)
    }
    /// Connections of peers that are open.
    pub fn ingress_open(&self) -> usize {
        self.ingress.count.load(Ordering::Acquire)
    }
    /// Connections of the application that are open.
    pub fn egress_open(&self) -> usize {
        self.egress.count.load(Ordering::Acquire)
    }

    fn busy(self: &Arc<Self>, ingress: bool) -> Busy {
        self.side(ingress).count.fetch_add(1, Ordering::AcqRel);
        Busy { progress: Arc::clone(self), ingress }
    }

    fn side(&self, ingress: bool) -> &Open {
        if ingress { &self.ingress } else { &self.egress }
    }
}

impl Open {
    async fn none(&self) {
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

impl Drop for Busy {
    fn drop(&mut self) {
        let open = self.progress.side(self.ingress);
        if open.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            open.none_left.notify_waiters();
        }
    }
}

/// What a signal asks the process to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// The signals that the process handles.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
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
    pub async fn forward(mut self, told: mpsc::Sender<Told>) {
        loop {
            let next = tokio::select! {
                _ = self.terminate.recv() => Told::Stop,
                _ = self.interrupt.recv() => Told::Stop,
                _ = self.hangup.recv() => Told::Reload,
            };
            if told.send(next).await.is_err() {
                return;
            }
        }
    }
}

/// How stopping ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Normally. Connections that were still open at the deadline were closed.
    Drained {
        /// How many.
        left: usize,
    },
    /// After a second stop signal: everything was closed at once.
    Hurried,
}

/// Waits for a stop signal, and then takes the process through the phases to [`Phase::Over`]. A reload signal wakes
/// `reload`, also while stopping; the writer may then ignore it.
pub async fn conduct(
    mut told: mpsc::Receiver<Told>,
    stopping: Stopping,
    settings: Settings,
    progress: Arc<Progress>,
    reload: Arc<Notify>,
) -> Ended {
    until_stop(&mut told, &reload).await;
    tracing::info!(target: "process", longest_s = settings.longest().as_secs(), "stopping");
    notify::stopping(settings.longest());
    let ended = tokio::select! {
        biased;
        () = until_stop(&mut told, &reload) => Ended::Hurried,
        () = drain(&stopping, settings, &progress) => {
            Ended::Drained { left: progress.ingress_open() + progress.egress_open() }
        }
    };
    stopping.advance(Phase::Over);
    ended
}

async fn until_stop(told: &mut mpsc::Receiver<Told>, reload: &Notify) {
    loop {
        match told.recv().await {
            Some(Told::Stop) => return,
            Some(Told::Reload) => reload.notify_one(),
            // No sender is left: only the phases go on.
            None => std::future::pending().await,
        }
    }
}

async fn drain(stopping: &Stopping, settings: Settings, progress: &Progress) {
    stopping.advance(Phase::Unready);
    sleep(settings.delay).await;
    stopping.advance(Phase::DrainIngress);
    at_most(settings.drain, progress.ingress.none()).await;
    sleep(settings.egress_linger).await;
    stopping.advance(Phase::DrainEgress);
    at_most(settings.drain, progress.egress.none()).await;
}

async fn at_most(limit: Duration, done: impl Future<Output = ()>) {
    let _ = tokio::time::timeout(limit, done).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Settings =
        Settings { delay: Duration::ZERO, drain: Duration::from_secs(3600), egress_linger: Duration::ZERO };

    struct Stage {
        told: mpsc::Sender<Told>,
        shutdown: Shutdown,
        progress: Arc<Progress>,
        reload: Arc<Notify>,
    }

    fn stage(settings: Settings) -> (Stage, impl Future<Output = Ended>) {
        let (told, receiver) = mpsc::channel(4);
        let (stopping, shutdown) = shutdown();
        let (progress, reload) = (Progress::new(), Arc::new(Notify::new()));
        let end = conduct(receiver, stopping, settings, Arc::clone(&progress), Arc::clone(&reload));
        (Stage { told, shutdown, progress, reload }, end)
    }

    #[tokio::test]
    async fn stopping_waits_for_ingress_then_for_egress() {
        let (mut stage, end) = stage(AT_ONCE);
        let (peer, application) = (stage.progress.ingress(), stage.progress.egress());
        let follow = async {
            stage.told.send(Told::Stop).await.unwrap();
            stage.shutdown.reached(Phase::DrainIngress).await;
            assert_eq!(stage.shutdown.phase(), Phase::DrainIngress);
            assert_eq!(stage.progress.ingress_open(), 1);
            drop(peer);
            stage.shutdown.reached(Phase::DrainEgress).await;
            assert_eq!(stage.shutdown.phase(), Phase::DrainEgress);
            drop(application);
            stage.shutdown.reached(Phase::Over).await;
        };
        let (ended, ()) = tokio::join!(end, follow);
        assert_eq!(ended, Ended::Drained { left: 0 });
    }

    #[tokio::test]
    async fn a_second_signal_leaves_at_once() {
        let (stage, end) = stage(Settings { delay: Duration::from_secs(3600), ..AT_ONCE });
        let _peer = stage.progress.ingress();
        stage.told.send(Told::Stop).await.unwrap();
        stage.told.send(Told::Stop).await.unwrap();
        assert_eq!(end.await, Ended::Hurried);
        assert_eq!(stage.shutdown.phase(), Phase::Over);
    }

    #[tokio::test]
    async fn the_deadline_closes_what_is_left() {
        let (stage, end) = stage(Settings { drain: Duration::ZERO, ..AT_ONCE });
        let _peer = stage.progress.ingress();
        stage.told.send(Told::Stop).await.unwrap();
        assert_eq!(end.await, Ended::Drained { left: 1 });
    }

    #[tokio::test]
    async fn a_reload_is_passed_on_and_stops_nothing() {
        let (stage, end) = stage(AT_ONCE);
        stage.told.send(Told::Reload).await.unwrap();
        let follow = async {
            stage.reload.notified().await;
            assert_eq!(stage.shutdown.phase(), Phase::Running);
            stage.told.send(Told::Stop).await.unwrap();
        };
        assert_eq!(tokio::join!(end, follow).0, Ended::Drained { left: 0 });
    }

    #[test]
    fn phases_never_go_back() {
        let (stopping, shutdown) = shutdown();
        stopping.advance(Phase::DrainEgress);
        stopping.advance(Phase::Unready);
        assert_eq!(shutdown.phase(), Phase::DrainEgress);
    }
}
