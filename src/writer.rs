//! The writer: the one hand that changes what is served. Five steps: apply, build, save, publish, emit.
//!
//! `apply` and `build` are all that can refuse, and they work on a copy; `save` may fail but only warns; `publish` and
//! `emit` cannot fail. No half-done change exists.

mod input;
pub mod memory;
mod remembered;
pub mod state;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::event::{ClockRecord, EpochRecord, Event, EventBus, FolderRecord, KeyringRecord, SaveFailure, TrustRecord};
use crate::evidence::RefusalMemory;
use crate::folder::FolderContents;
use crate::pki::{FolderProblem, ProblemSeverity};
use crate::snapshot::{self, Epoch, Publisher, Reader, Snapshot};
use crate::tls::TlsTimeSource;

pub use input::{CommandRejection, HandOverOrder, WriterInput, WriterSettings, WriterView};
pub use memory::StateMemory;
pub use state::{StateChange, WriterState};

/// The first epoch: the state that the last run, the settings and the folder make, saved, published and emitted. What
/// follows is [`run_writer`]'s.
///
/// # Errors
/// A TLS config that cannot be built.
pub fn start_writer(
    settings: WriterSettings,
    found: FolderContents,
    memory: &mut StateMemory,
    (events, clock): (&EventBus, &Clock),
) -> Result<(WriterState, Publisher, Reader), snapshot::build::BuildError> {
    let now = clock.now();
    let (state, happened) = WriterState::from_remembered(settings, memory.read(), found, now);
    let snapshot = state.build_snapshot(Epoch(1), now, &TlsTimeSource::from_clock(clock))?;
    let saved = memory.save(&state, now);
    let began = describe_epoch(&snapshot);
    let (publisher, reader) = snapshot::snapshot_channel(snapshot);
    report_save_failure(events, saved);
    emit_changes(events, happened, None, (Epoch(1), Some(began)));
    Ok((state, publisher, reader))
}

/// Works through `inputs` until they end. A tick that finds nothing due publishes nothing.
pub async fn run_writer(
    state: WriterState,
    mut inputs: mpsc::Receiver<WriterInput>,
    memory: StateMemory,
    publisher: Publisher,
    lessons: Arc<RefusalMemory>,
    (events, clock): (Arc<EventBus>, Clock),
) {
    let time = TlsTimeSource::from_clock(&clock);
    let not_saved = memory.last_failure().map(str::to_owned);
    let save_again = not_saved.as_ref().map(|_| next_save(clock.now()));
    let mut writer =
        Writer { state, memory, publisher, lessons, events, clock, time, save_again, not_saved, not_served: None };
    while let Some(input) = inputs.recv().await {
        writer.handle_input(input).await;
    }
}

/// How long after a failed save the next try is.
const SAVE_RETRY_DELAY: Duration = Duration::from_mins(1);

fn next_save(now: Timestamp) -> Timestamp {
    now.saturating_add(SAVE_RETRY_DELAY).unwrap_or(Timestamp::MAX)
}

struct Writer {
    state: WriterState,
    memory: StateMemory,
    publisher: Publisher,
    lessons: Arc<RefusalMemory>,
    events: Arc<EventBus>,
    clock: Clock,
    /// The same clock, for the TLS configs.
    time: TlsTimeSource,
    /// The last save failed: when it is tried again.
    save_again: Option<Timestamp>,
    /// Why it did.
    not_saved: Option<String>,
    /// The last contents of the folder, where they are not served.
    not_served: Option<UnservedContents>,
}

/// Contents of the folder that no snapshot could be built from with the settings in use: they are tried again with the
/// next ones.
struct UnservedContents {
    contents: FolderContents,
    why: String,
}

impl Writer {
    async fn handle_input(&mut self, input: WriterInput) {
        let now = self.clock.now();
        if let WriterInput::Look { reply } = input {
            let not_served = self.not_served.as_ref().map(|unserved| unserved.why.clone());
            let not_saved = self.not_saved.clone();
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
        let input = match input {
            // What was queued before a `Forget` may name what that has forgotten.
            WriterInput::Learned(queued) => {
                WriterInput::Learned(self.lessons.changed_since(u64::MAX).map_or(queued, |(_, confirmed)| confirmed))
            }
            WriterInput::HandOver(order) => return self.hand_over(order, now).await,
            WriterInput::BeginWriting { reply } => return self.begin_writing(reply, now).await,
            input => input,
        };
        if matches!(input, WriterInput::Tick) && !self.state.is_due(now) {
            self.state.observe_time(now);
            if self.save_again.is_some_and(|again| again <= now) {
                // This failure was reported; it is reported again only when something changes.
                let _ = self.save_state(self.state.clone(), now).await;
            }
            return;
        }
        if let WriterInput::Folder(contents) = input {
            self.serve_contents(contents, now).await;
            return;
        }
        let done = self.apply_and_publish(&input, now).await;
        match (input, done) {
            (WriterInput::Command { reply, .. }, done) => {
                // The requester may be gone.
                let _ = reply.send(done.map(|(epoch, happened)| (epoch, happened.keyrings)));
            }
            (WriterInput::Settings(_, reply), done) => {
                if done.is_ok()
                    && let Some(contents) = self.not_served.as_ref().map(|unserved| unserved.contents.clone())
                {
                    // These settings may have corrected what the contents failed by. The answer is true of both.
                    self.serve_contents(contents, now).await;
                }
                // The requester may be gone.
                let _ = reply.send(done.map(|_| self.publisher.epoch()));
            }
            (WriterInput::Tick | WriterInput::Learned(_), Err(error)) => self.report_not_served(&error),
            (WriterInput::Tick | WriterInput::Learned(_), Ok(_))
            | (
                WriterInput::Folder(_)
                | WriterInput::Look { .. }
                | WriterInput::Forget { .. }
                | WriterInput::HandOver(_)
                | WriterInput::BeginWriting { .. },
                _,
            ) => {}
        }
    }

    /// Holds still until a new process serves, and then leaves the state to it; or goes on, where it does not.
    async fn hand_over(&mut self, order: HandOverOrder, now: Timestamp) {
        if let Some((_, confirmed)) = self.lessons.changed_since(u64::MAX) {
            // What fails here is saved with the next input, by whichever process that is.
            let _ = self.apply_and_publish(&WriterInput::Learned(confirmed), now).await;
        }
        // A new process that is gone has not decided either.
        let _ = order.held.send(());
        if order.decided.await.is_ok() {
            self.memory = StateMemory::in_memory();
            self.save_again = None;
            let _ = order.released.send(());
        }
    }

    /// From now on this process is the one that writes.
    async fn begin_writing(&mut self, reply: tokio::sync::oneshot::Sender<()>, now: Timestamp) {
        self.memory.begin_writing();
        let saved = self.save_state(self.state.clone(), now).await;
        report_save_failure(&self.events, saved);
        // The requester may be gone.
        let _ = reply.send(());
    }

    /// Serves what the folder holds; where that cannot be, reports why and keeps it for the next settings.
    async fn serve_contents(&mut self, contents: FolderContents, now: Timestamp) {
        let input = WriterInput::Folder(contents);
        let done = self.apply_and_publish(&input, now).await;
        if done.is_ok()
            && let Some(before) = self.not_served.take()
        {
            let problem = not_served_problem(before.why);
            self.events.emit(Event::Folder(FolderRecord { keyring: None, problem, over: true }));
        }
        self.not_served = match (input, done) {
            (WriterInput::Folder(contents), Err(error)) => {
                self.report_not_served(&error);
                Some(UnservedContents { contents, why: error.to_string() })
            }
            _ => None,
        };
    }

    fn report_not_served(&self, error: &CommandRejection) {
        let why = format!("this change is not served, the previous state stays in use: {error}");
        self.events.emit(Event::Folder(FolderRecord { keyring: None, problem: not_served_problem(why), over: false }));
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
            let snapshot = happened.needs_epoch().then(|| next.build_snapshot(epoch, now, &self.time)).transpose()?;
            Ok((happened, snapshot))
        });
        let (happened, snapshot) = match built {
            Ok(built) => built,
            Err(error) => {
                // All that the state keeps of an input that changed nothing is its time.
                if let Some(seconds) = self.state.observe_time(now) {
                    self.follow_step();
                    self.events.emit(Event::ClockStep(ClockRecord { seconds }));
                }
                return Err(error);
            }
        };
        if happened.clock_step.is_some() {
            self.follow_step();
        }
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
        let (epoch, began) = (snapshot.epoch, describe_epoch(&snapshot));
        self.publisher.publish(snapshot);
        report_save_failure(&self.events, saved);
        emit_changes(&self.events, happened.clone(), requested_by(input), (epoch, Some(began)));
        Ok((epoch, happened))
    }

    /// The clock was stepped: facts are recorded with its time again, and what was learned of senders is as old as before.
    fn follow_step(&self) {
        self.lessons.shift_times(self.clock.adopt_step());
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
        // A failure that is reported once only is one for as long as it lasts.
        let failed_before = std::mem::replace(&mut self.not_saved, self.memory.last_failure().map(str::to_owned));
        self.save_again = saved.is_err().then(|| next_save(now));
        if failed_before.is_some() && self.not_saved.is_none() {
            let file = self.memory.folder_text();
            self.events.emit(Event::NotRemembered(SaveFailure { file, why: String::new(), over: true }));
        }
        saved
    }
}

/// Emits what happened, each with the epoch in which it is true; then that epoch, where one began.
fn emit_changes(
    events: &EventBus,
    happened: StateChange,
    by: Option<&Arc<str>>,
    (epoch, began): (Epoch, Option<EpochRecord>),
) {
    if let Some(seconds) = happened.clock_step {
        events.emit(Event::ClockStep(ClockRecord { seconds }));
    }
    for (keyring, problem) in happened.problems {
        events.emit(Event::Folder(FolderRecord { keyring, problem, over: false }));
    }
    for (keyring, problem) in happened.resolved {
        events.emit(Event::Folder(FolderRecord { keyring, problem, over: true }));
    }
    for event in happened.keyrings {
        events.emit(Event::Keyring(KeyringRecord { event, by: by.cloned(), epoch }));
    }
    for event in happened.trusts {
        events.emit(Event::Trust(TrustRecord { event, epoch }));
    }
    if let Some(began) = began {
        events.emit(Event::Epoch(began));
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
        | WriterInput::HandOver(_)
        | WriterInput::BeginWriting { .. }
        | WriterInput::Learned(_) => None,
    }
}

fn describe_epoch(snapshot: &Snapshot) -> EpochRecord {
    let waiting = snapshot.waiting.iter().map(|(id, what)| format!("{} {}: {what}", id.side.as_str(), id.name));
    let upstreams = snapshot
        .egresses
        .values()
        .map(|egress| (Arc::clone(&egress.settings.name), egress.settings.upstream.to_string()));
    EpochRecord { epoch: snapshot.epoch, waiting: waiting.collect(), upstreams: upstreams.collect() }
}

fn report_save_failure(events: &EventBus, saved: Result<(), memory::MemoryError>) {
    if let Err(memory::MemoryError { file, why, .. }) = saved {
        events.emit(Event::NotRemembered(SaveFailure { file, why, over: false }));
    }
}

fn not_served_problem(why: String) -> FolderProblem {
    FolderProblem {
        file: ".".into(),
        reason: "not_served",
        why,
        remedy: "correct the listener's settings and run `sidekey reload`, or remove the key pair from the folder"
            .to_owned(),
        severity: ProblemSeverity::Refused,
    }
}

#[cfg(test)]
mod tests;
