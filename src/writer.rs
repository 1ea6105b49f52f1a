//! The writer: the one hand that changes what is served. Five steps: apply, build, save, publish, emit.
//!
//! `apply` and `build` are all that can refuse, and they work on a copy; `save` may fail but only warns; `publish` and
//! `emit` cannot fail. No half-done change exists.

pub mod memory;
pub mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::event::{ClockRecord, EpochRecord, Event, EventBus, FolderRecord, KeyringRecord, SaveFailure, TrustRecord};
use crate::folder::FolderContents;
use crate::keyring::{KeyringCommand, KeyringName};
use crate::pki::{Certificate, FolderProblem, ProblemSeverity};
use crate::snapshot::{Epoch, Publisher, Reader, Snapshot};
use crate::{evidence, keyring, snapshot, trust};

pub use memory::StateMemory;
pub use state::{StateChange, WriterState};

/// Everything the configuration says that a snapshot is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterSettings {
    /// Configured keyrings. A folder without a section is a keyring too.
    pub keyrings: BTreeMap<KeyringName, keyring::KeyringSettings>,
    /// Configured trusts.
    pub trusts: BTreeMap<trust::TrustName, trust::TrustSettings>,
    /// Configured partners, in order.
    pub partners: Vec<trust::partner::PartnerSettings>,
    /// Ingress listeners, in order.
    pub ingresses: Vec<snapshot::ingress::IngressSettings>,
    /// Egress listeners, in order.
    pub egresses: Vec<snapshot::egress::EgressSettings>,
    /// The default skew of keyrings without a section.
    pub skew: Duration,
    /// `state` is configured: decisions are remembered.
    pub remembers: bool,
    /// The platform's trust anchors, what `"system"` stands for; loaded by a caller that may read files.
    pub system_anchors: Arc<Vec<Arc<Certificate>>>,
}

/// What the writer works through, one after the other.
pub enum WriterInput {
    /// What the folder holds now.
    Folder(FolderContents),
    /// Other settings, from a reload; the answer carries the epoch in which they are in use.
    Settings(Box<WriterSettings>, oneshot::Sender<Result<Epoch, CommandRejection>>),
    /// Time passes.
    Tick,
    /// The lessons of sources that must survive a restart, all of them; sent also where only live facts are to be saved.
    Learned(Vec<evidence::learned::PersistedRefusal>),
    /// An operator's command; the answer carries the epoch in which it is true.
    Command {
        /// Which keyring.
        keyring: KeyringName,
        /// What.
        command: KeyringCommand,
        /// Its requester, as the history records it.
        by: Arc<str>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<(Epoch, Vec<keyring::KeyringEvent>), CommandRejection>>,
    },
    /// An operator shows a source the new pair again; the answer carries the epoch in which it is true.
    Forget {
        /// The source, as the rotation report names it.
        source: String,
        /// Where the answer goes: the number of refusals that were forgotten.
        reply: oneshot::Sender<(Epoch, usize)>,
    },
    /// A request for what the writer alone knows; nothing changes.
    Look {
        /// Where the answer goes.
        reply: oneshot::Sender<WriterView>,
    },
}

/// What the writer alone knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterView {
    /// Problems of the folder as it is now, by keyring.
    pub problems: Vec<(Option<Arc<str>>, FolderProblem)>,
    /// Why decisions of the last run could not be read.
    pub unreadable: Option<String>,
    /// Why the last save failed.
    pub not_saved: Option<String>,
    /// Why what the folder holds now is not served; the previous state stays in use.
    pub not_served: Option<String>,
}

/// Why an input was refused; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandRejection {
    /// No such keyring.
    #[error("keyring {0:?} does not exist")]
    NoKeyring(String),
    /// The keyring refuses.
    #[error(transparent)]
    Keyring(#[from] keyring::rotation::CommandError),
    /// The keyring's remembered decisions could not be read: it refuses changes until they are.
    #[error("decisions of keyring {0:?} could not be read: {1}")]
    Unreadable(String, String),
    /// No snapshot can be built from it.
    #[error(transparent)]
    Build(#[from] snapshot::build::BuildError),
}

/// The first epoch: the state that the last run, the settings and the folder make, saved, published and emitted. What
/// follows is [`run`]'s.
///
/// # Errors
/// A TLS config that cannot be built.
pub fn start_writer(
    settings: WriterSettings,
    found: FolderContents,
    memory: &mut StateMemory,
    (events, clock): (&EventBus, &Clock),
) -> Result<(WriterState, Publisher, Reader), snapshot::build::BuildError> {
    let (state, happened) = WriterState::from_remembered(settings, memory.read(), found, clock.now());
    let snapshot = state.build_snapshot(Epoch(1), clock)?;
    let saved = memory.save(&state, clock.now());
    let waiting = waiting_listeners(&snapshot);
    let (publisher, reader) = snapshot::snapshot_channel(snapshot);
    report_save_failure(events, saved);
    emit_changes(events, happened, None, (Epoch(1), Some(waiting)));
    Ok((state, publisher, reader))
}

/// Works through `inputs` until they end. A tick that finds nothing due publishes nothing.
pub async fn run_writer(
    state: WriterState,
    mut inputs: mpsc::Receiver<WriterInput>,
    memory: StateMemory,
    publisher: Publisher,
    lessons: Arc<evidence::RefusalMemory>,
    (events, clock): (Arc<EventBus>, Clock),
) {
    let mut writer = Writer {
        state,
        memory,
        publisher,
        lessons,
        events,
        clock,
        save_again: None,
        not_saved: None,
        not_served: None,
    };
    while let Some(input) = inputs.recv().await {
        writer.handle_input(input).await;
    }
}

/// How long after a failed save the next try is.
const SAVE_RETRY_DELAY: Duration = Duration::from_mins(1);

struct Writer {
    state: WriterState,
    memory: StateMemory,
    publisher: Publisher,
    lessons: Arc<evidence::RefusalMemory>,
    events: Arc<EventBus>,
    clock: Clock,
    /// The last save failed: when it is tried again.
    save_again: Option<Timestamp>,
    /// Why it did.
    not_saved: Option<String>,
    /// Why the last contents of the folder are not served.
    not_served: Option<String>,
}

impl Writer {
    async fn handle_input(&mut self, input: WriterInput) {
        let now = self.clock.now();
        if let WriterInput::Look { reply } = input {
            let (not_saved, not_served) = (self.not_saved.clone(), self.not_served.clone());
            // The requester may be gone.
            let _ = reply.send(WriterView { not_saved, not_served, ..self.state.status() });
            return;
        }
        if let WriterInput::Forget { source, reply } = input {
            let count = self.lessons.forget(&source);
            if let (1.., Some((_, confirmed))) = (count, self.lessons.changed_since(u64::MAX)) {
                // Saved before it is answered: a restart must not bring it back. What fails here is saved with the next input.
                let _ = self.apply_and_publish(&WriterInput::Learned(confirmed), now).await;
            }
            // The requester may be gone.
            let _ = reply.send((self.publisher.epoch(), count));
            return;
        }
        if matches!(input, WriterInput::Tick) && !self.state.is_due(now) {
            self.state.observe_time(now);
            if self.save_again.is_some_and(|again| again <= now) {
                // This failure was reported; it is reported again only when something changes.
                let _ = self.save_state(self.state.clone(), now).await;
            }
            return;
        }
        let done = self.apply_and_publish(&input, now).await;
        if matches!(input, WriterInput::Folder(_)) {
            self.not_served = done.as_ref().err().map(ToString::to_string);
        }
        match (input, done) {
            (WriterInput::Command { reply, .. }, done) => {
                // The requester may be gone.
                let _ = reply.send(done.map(|(epoch, happened)| (epoch, happened.keyrings)));
            }
            (WriterInput::Settings(_, reply), done) => {
                // The requester may be gone.
                let _ = reply.send(done.map(|(epoch, _)| epoch));
            }
            (WriterInput::Folder(_) | WriterInput::Tick | WriterInput::Learned(_), Err(error)) => {
                let why = format!("this change is not served, the previous state stays in use: {error}");
                self.events.emit(Event::Folder(FolderRecord { keyring: None, problem: not_served_problem(why) }));
            }
            (WriterInput::Folder(_) | WriterInput::Tick | WriterInput::Learned(_), Ok(_))
            | (WriterInput::Look { .. } | WriterInput::Forget { .. }, _) => {}
        }
    }

    /// Apply and build on a copy, then save, publish, emit.
    async fn apply_and_publish(
        &mut self,
        input: &WriterInput,
        now: Timestamp,
    ) -> Result<(Epoch, StateChange), CommandRejection> {
        let mut next = self.state.clone();
        let built = next.apply(input, now).and_then(|happened| {
            let epoch = Epoch(self.publisher.epoch().0 + 1);
            let snapshot = happened.needs_epoch().then(|| next.build_snapshot(epoch, &self.clock)).transpose()?;
            Ok((happened, snapshot))
        });
        let (happened, snapshot) = match built {
            Ok(built) => built,
            Err(error) => {
                // All that the state keeps of an input that changed nothing is its time.
                if let Some(seconds) = self.state.observe_time(now) {
                    self.events.emit(Event::ClockStep(ClockRecord { seconds }));
                }
                return Err(error);
            }
        };
        let Some(snapshot) = snapshot else {
            if happened.remember {
                let saved = self.save_state(next, now).await;
                report_save_failure(&self.events, saved);
            } else {
                self.state = next;
            }
            emit_changes(&self.events, happened.clone(), requested_by(input), (self.publisher.epoch(), None));
            return Ok((self.publisher.epoch(), happened));
        };
        let saved = self.save_state(next, now).await;
        let (epoch, waiting) = (snapshot.epoch, waiting_listeners(&snapshot));
        self.publisher.publish(snapshot);
        report_save_failure(&self.events, saved);
        emit_changes(&self.events, happened.clone(), requested_by(input), (epoch, Some(waiting)));
        Ok((epoch, happened))
    }

    /// Saves off the runtime: a slow disk must not hold up the probes. Makes `next` the state, saved or not.
    async fn save_state(&mut self, next: WriterState, now: Timestamp) -> Result<(), memory::MemoryError> {
        let mut memory = std::mem::replace(&mut self.memory, StateMemory::in_memory());
        let work = move || {
            let saved = memory.save(&next, now);
            (memory, next, saved)
        };
        let (memory, next, saved) = match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down, and this task with it.
                Err(_) => std::future::pending().await,
            },
        };
        self.memory = memory;
        self.state = next;
        self.not_saved = saved.as_ref().err().map(ToString::to_string);
        self.save_again = saved.is_err().then(|| now.saturating_add(SAVE_RETRY_DELAY).unwrap_or(Timestamp::MAX));
        saved
    }
}

/// Emits what happened, each with the epoch in which it is true; then that epoch, where one began.
fn emit_changes(
    events: &EventBus,
    happened: StateChange,
    by: Option<&Arc<str>>,
    (epoch, began): (Epoch, Option<Vec<String>>),
) {
    if let Some(seconds) = happened.clock_step {
        events.emit(Event::ClockStep(ClockRecord { seconds }));
    }
    for (keyring, problem) in happened.problems {
        events.emit(Event::Folder(FolderRecord { keyring, problem }));
    }
    for event in happened.keyrings {
        events.emit(Event::Keyring(KeyringRecord { event, by: by.cloned(), epoch }));
    }
    for event in happened.trusts {
        events.emit(Event::Trust(TrustRecord { event, epoch }));
    }
    if let Some(waiting) = began {
        events.emit(Event::Epoch(EpochRecord { epoch, waiting }));
    }
}

/// The requester of a command.
fn requested_by(input: &WriterInput) -> Option<&Arc<str>> {
    match input {
        WriterInput::Command { by, .. } => Some(by),
        WriterInput::Folder(_)
        | WriterInput::Settings(..)
        | WriterInput::Tick
        | WriterInput::Look { .. }
        | WriterInput::Forget { .. }
        | WriterInput::Learned(_) => None,
    }
}

fn waiting_listeners(snapshot: &Snapshot) -> Vec<String> {
    snapshot.waiting.iter().map(|(id, what)| format!("{} {}: {what}", id.side.as_str(), id.name)).collect()
}

fn report_save_failure(events: &EventBus, saved: Result<(), memory::MemoryError>) {
    if let Err(memory::MemoryError { file, why }) = saved {
        events.emit(Event::NotRemembered(SaveFailure { file, why }));
    }
}

fn not_served_problem(why: String) -> FolderProblem {
    FolderProblem {
        file: ".".into(),
        reason: "not_served",
        why,
        remedy: "remove the key pair that is named from the folder".to_owned(),
        severity: ProblemSeverity::Refused,
    }
}

#[cfg(test)]
mod tests;
