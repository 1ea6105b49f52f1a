//! What answering a command needs of a running sidecar.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::{CommandRefusal, RefusalReason};
use crate::net::SocketHandle;
use crate::process::{DrainProgress, ProcessSignal, ShutdownRules};
use crate::snapshot::Snapshot;
use crate::views::RuntimeViews;
use crate::writer::{WriterInput, WriterView};

/// What a reading of the configuration brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadedSettings {
    /// Something in use is other than before.
    pub changed: bool,
    /// Keys whose new values wait for a restart.
    pub needs_restart: Vec<String>,
}

/// A request to read the configuration and the folder again, and where its two answers go.
pub struct ReloadOrder {
    /// Once the settings are in use, or refused, with the reason: the old ones stay.
    pub settings: oneshot::Sender<Result<LoadedSettings, String>>,
    /// Once the folder has settled and the writer has what it holds.
    pub folder: oneshot::Sender<()>,
}

/// What handing over to a new process needs of a running sidecar.
pub struct HandOverMeans {
    /// Every socket that it listens on.
    pub sockets: Vec<SocketHandle>,
    /// Turns true, or ends, with the last write to the registry.
    pub recorded: watch::Receiver<bool>,
    /// The process does not end before the new one has its answer.
    pub progress: Arc<DrainProgress>,
    /// One new process at a time.
    pub(super) place: Semaphore,
}

impl HandOverMeans {
    /// From its parts.
    pub fn new(sockets: Vec<SocketHandle>, recorded: watch::Receiver<bool>, progress: Arc<DrainProgress>) -> Self {
        Self { sockets, recorded, progress, place: Semaphore::new(1) }
    }
}

/// What the answers need.
pub struct CommandContext {
    /// What may be read.
    pub views: RuntimeViews,
    /// The writer's queue.
    pub inputs: mpsc::Sender<WriterInput>,
    /// Conducts the process.
    pub told: mpsc::Sender<ProcessSignal>,
    /// Reads the configuration and the folder again.
    pub reloads: mpsc::Sender<ReloadOrder>,
    /// What decides how long a stop takes.
    pub shutdown_rules: ShutdownRules,
    /// What a new process takes over.
    pub hand_over: HandOverMeans,
}

impl CommandContext {
    /// What is served now.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.views.reader.latest()
    }

    /// What the writer answers to an input, behind everything that it was sent before.
    pub(super) async fn ask_writer<T>(
        &self,
        input: impl FnOnce(oneshot::Sender<T>) -> WriterInput,
    ) -> Result<T, CommandRefusal> {
        let (reply, answer) = oneshot::channel();
        self.inputs.send(input(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// What the writer alone knows.
    pub(super) async fn look(&self) -> Result<WriterView, CommandRefusal> {
        self.ask_writer(|reply| WriterInput::Look { reply }).await
    }
}

/// An answer that must come by a deadline; `awaited` says what has not been done until then.
pub(super) async fn wait_until<T>(
    deadline: Instant,
    answer: impl Future<Output = Result<T, CommandRefusal>>,
    awaited: &str,
) -> Result<T, CommandRefusal> {
    timeout_at(deadline, answer).await.unwrap_or_else(|_| Err(CommandRefusal::new(RefusalReason::Failed, awaited)))
}

/// The sidecar ends before it can answer.
pub(super) fn stopping() -> CommandRefusal {
    CommandRefusal::new(RefusalReason::NotNow, "sidekey is stopping")
}
