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
use crate::event::{Event, Events};
use crate::folder::Contents;
use crate::keyring::{Command, KeyringName};
use crate::pki::{Certificate, Problem, Severity};
use crate::snapshot::{Epoch, Publisher, Reader, Snapshot};
use crate::{keyring, snapshot, trust};

pub use memory::Memory;
pub use state::{Happened, State};

/// Everything the configuration says that a snapshot is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Configured keyrings. A folder without a section is a keyring too.
    pub keyrings: BTreeMap<KeyringName, keyring::Settings>,
    /// Configured trusts.
    pub trusts: BTreeMap<trust::TrustName, trust::Settings>,
    /// Configured partners, in order.
    pub partners: Vec<trust::partner::Settings>,
    /// Ingress listeners, in order.
    pub ingresses: Vec<snapshot::ingress::Settings>,
    /// Egress listeners, in order.
    pub egresses: Vec<snapshot::egress::Settings>,
    /// The default skew of keyrings without a section.
    pub skew: Duration,
    /// `state` is configured: decisions are remembered.
    pub remembers: bool,
    /// The platform's trust anchors, what `"system"` stands for; loaded by a caller that may read files.
    pub system_anchors: Arc<Vec<Arc<Certificate>>>,
}

/// What the writer works through, one after the other.
pub enum Input {
    /// What the folder holds now.
    Folder(Contents),
    /// Other settings, from a reload.
    Settings(Box<Settings>),
    /// Time passes.
    Tick,
    /// The lessons of sources that must survive a restart, all of them; sent also where only live facts are to be saved.
    Learned(Vec<keyring::learned::Remembered>),
    /// An operator's command; the answer carries the epoch in which it is true.
    Command {
        /// Which keyring.
        keyring: KeyringName,
        /// What.
        command: Command,
        /// Its requester, as the history records it.
        by: Arc<str>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<(Epoch, Vec<keyring::Event>), NotDone>>,
    },
    /// A request for what the writer alone knows; nothing changes.
    Look {
        /// Where the answer goes.
        reply: oneshot::Sender<Look>,
    },
}

/// What the writer alone knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Problems of the folder as it is now, by keyring.
    pub problems: Vec<(Option<Arc<str>>, Problem)>,
    /// Why decisions of the last run could not be read.
    pub unreadable: Option<String>,
    /// Why the last save failed.
    pub not_saved: Option<String>,
}

/// Why an input was refused; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// No such keyring.
    #[error("keyring {0:?} does not exist")]
    NoKeyring(String),
    /// The keyring refuses.
    #[error(transparent)]
    Keyring(#[from] keyring::rotation::NotDone),
    /// The keyring's remembered decisions could not be read: it refuses changes until they are.
    #[error("decisions of keyring {0:?} could not be read: {1}")]
    Unreadable(String, String),
    /// No snapshot can be built from it.
    #[error(transparent)]
    Build(#[from] snapshot::build::Error),
}

/// The first epoch: the state that the last run, the settings and the folder make, saved, published and emitted. What
/// follows is [`run`]'s.
///
/// # Errors
/// A TLS config that cannot be built.
pub fn begin(
    settings: Settings,
    found: Contents,
    memory: &mut Memory,
    (events, clock): (&Events, &Clock),
) -> Result<(State, Publisher, Reader), snapshot::build::Error> {
    let (state, happened) = State::open(settings, memory.read(), found, clock.now());
    let snapshot = state.build(Epoch(1), clock)?;
    let saved = memory.save(&state, clock.now());
    let waiting = waiting(&snapshot);
    let (publisher, reader) = snapshot::channel(snapshot);
    not_remembered(events, saved);
    emit(events, happened, None, (Epoch(1), Some(waiting)));
    Ok((state, publisher, reader))
}

/// Works through `inputs` until they end. A tick that finds nothing due publishes nothing.
pub async fn run(
    state: State,
    mut inputs: mpsc::Receiver<Input>,
    memory: Memory,
    publisher: Publisher,
    (events, clock): (Arc<Events>, Clock),
) {
    let mut writer = Writer { state, memory, publisher, events, clock, save_again: None, not_saved: None };
    while let Some(input) = inputs.recv().await {
        writer.take(input).await;
    }
}

/// How long after a failed save the next try is.
const SAVE_AGAIN: Duration = Duration::from_mins(1);

struct Writer {
    state: State,
    memory: Memory,
    publisher: Publisher,
    events: Arc<Events>,
    clock: Clock,
    /// The last save failed: when it is tried again.
    save_again: Option<Timestamp>,
    /// Why it did.
    not_saved: Option<String>,
}

impl Writer {
    async fn take(&mut self, input: Input) {
        let now = self.clock.now();
        if let Input::Look { reply } = input {
            // The requester may be gone.
            let _ = reply.send(Look { not_saved: self.not_saved.clone(), ..self.state.look() });
            return;
        }
        if matches!(input, Input::Tick) && !self.state.is_due(now) {
            self.state.saw(now);
            if self.save_again.is_some_and(|again| again <= now) {
                // This failure was reported; it is reported again only when something changes.
                let _ = self.save(self.state.clone(), now).await;
            }
            return;
        }
        let done = self.steps(&input, now).await;
        match (input, done) {
            (Input::Command { reply, .. }, done) => {
                // The requester may be gone.
                let _ = reply.send(done.map(|(epoch, happened)| (epoch, happened.keyrings)));
            }
            (Input::Settings(_), Err(error)) => {
                self.events.emit(Event::Reloaded { error: Some(error.to_string()), needs_restart: Vec::new() });
            }
            (Input::Folder(_) | Input::Tick | Input::Learned(_), Err(error)) => {
                let why = format!("this change is not served, the previous state stays in use: {error}");
                self.events.emit(Event::Folder { keyring: None, problem: not_served(why) });
            }
            (Input::Settings(_) | Input::Folder(_) | Input::Tick | Input::Learned(_), Ok(_))
            | (Input::Look { .. }, _) => {}
        }
    }

    /// Apply and build on a copy, then save, publish, emit.
    async fn steps(&mut self, input: &Input, now: Timestamp) -> Result<(Epoch, Happened), NotDone> {
        let mut next = self.state.clone();
        let built = next.apply(input, now).and_then(|happened| {
            let epoch = Epoch(self.publisher.epoch().0 + 1);
            let snapshot = happened.needs_epoch().then(|| next.build(epoch, &self.clock)).transpose()?;
            Ok((happened, snapshot))
        });
        let (happened, snapshot) = match built {
            Ok(built) => built,
            Err(error) => {
                // All that the state keeps of an input that changed nothing is its time.
                if let Some(seconds) = self.state.saw(now) {
                    self.events.emit(Event::ClockStep { seconds });
                }
                return Err(error);
            }
        };
        let Some(snapshot) = snapshot else {
            if happened.remember {
                let saved = self.save(next, now).await;
                not_remembered(&self.events, saved);
            } else {
                self.state = next;
            }
            emit(&self.events, happened.clone(), by(input), (self.publisher.epoch(), None));
            return Ok((self.publisher.epoch(), happened));
        };
        let saved = self.save(next, now).await;
        let (epoch, waiting) = (snapshot.epoch, waiting(&snapshot));
        self.publisher.publish(snapshot);
        not_remembered(&self.events, saved);
        emit(&self.events, happened.clone(), by(input), (epoch, Some(waiting)));
        Ok((epoch, happened))
    }

    /// Saves off the runtime: a slow disk must not hold up the probes. Makes `next` the state, saved or not.
    async fn save(&mut self, next: State, now: Timestamp) -> Result<(), memory::Error> {
        let mut memory = std::mem::replace(&mut self.memory, Memory::none());
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
        self.save_again = saved.is_err().then(|| now.saturating_add(SAVE_AGAIN).unwrap_or(Timestamp::MAX));
        saved
    }
}

/// Emits what happened, each with the epoch in which it is true; then that epoch, where one began.
fn emit(events: &Events, happened: Happened, by: Option<&Arc<str>>, (epoch, began): (Epoch, Option<Vec<String>>)) {
    if let Some(seconds) = happened.clock_step {
        events.emit(Event::ClockStep { seconds });
    }
    for (keyring, problem) in happened.problems {
        events.emit(Event::Folder { keyring, problem });
    }
    for event in happened.keyrings {
        events.emit(Event::Keyring { event, by: by.cloned(), epoch });
    }
    for event in happened.trusts {
        events.emit(Event::Trust { event, epoch });
    }
    if let Some(waiting) = began {
        events.emit(Event::Epoch { epoch, waiting });
    }
}

/// The requester of a command.
fn by(input: &Input) -> Option<&Arc<str>> {
    match input {
        Input::Command { by, .. } => Some(by),
        Input::Folder(_) | Input::Settings(_) | Input::Tick | Input::Look { .. } | Input::Learned(_) => None,
    }
}

fn waiting(snapshot: &Snapshot) -> Vec<String> {
    snapshot.waiting.iter().map(|(id, what)| format!("{} {}: {what}", id.side.as_str(), id.name)).collect()
}

fn not_remembered(events: &Events, saved: Result<(), memory::Error>) {
    if let Err(memory::Error { file, why }) = saved {
        events.emit(Event::NotRemembered { file, why });
    }
}

fn not_served(why: String) -> Problem {
    Problem {
        file: ".".into(),
        reason: "not_served",
        why,
        remedy: "remove the key pair that is named from the folder".to_owned(),
        severity: Severity::Refused,
    }
}

#[cfg(test)]
mod tests;
