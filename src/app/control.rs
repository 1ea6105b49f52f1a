//! The control thread: folder, writer, admin, signals, reloads and the tick of one second, on one small runtime.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, watch};

use crate::admin;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::control::server::SocketAccess;
use crate::control::{self, CommandContext};
use crate::event::{Event, EventBus, ReloadRecord};
use crate::evidence::RefusalMemory;
use crate::net::listen::BoundSocket;
use crate::pki::Fingerprint;
use crate::process::{
    self, DrainProgress, ProcessSignal, ShutdownController, ShutdownOutcome, ShutdownPhase, SignalListener, notify,
};
use crate::snapshot::{Publisher, Reader};
use crate::views::RuntimeViews;
use crate::writer::{StateMemory, WriterInput, WriterState};
use crate::{alerts, folder, writer};

/// How often sockets are checked, until they listen.
const OPENING: Duration = Duration::from_millis(50);

/// Everything that the control thread is made of.
pub(super) struct ControlPlane {
    /// What the folder held when the writer began.
    pub(super) first: folder::read::FolderReading,
    pub(super) commands: Option<(BoundSocket, SocketAccess, CommandContext)>,
    pub(super) signals: Option<mpsc::Sender<ProcessSignal>>,
    pub(super) told: mpsc::Receiver<ProcessSignal>,
    pub(super) stopping: ShutdownController,
    pub(super) shutdown_settings: process::ShutdownSettings,
    pub(super) progress: Arc<DrainProgress>,
    pub(super) reload: Arc<Notify>,
    pub(super) inputs: mpsc::Sender<WriterInput>,
    pub(super) queue: mpsc::Receiver<WriterInput>,
    pub(super) writer: (WriterState, StateMemory, Publisher),
    pub(super) surroundings: (Arc<EventBus>, Clock),
    pub(super) lessons: Arc<RefusalMemory>,
    pub(super) views: RuntimeViews,
    pub(super) admin: [(Option<BoundSocket>, admin::AdminListenerKind); 2],
    pub(super) memories: super::memories::RecorderParts,
    pub(super) config: Config,
}

/// What the control socket answers from.
pub(super) fn desk(
    config: &Config,
    views: &RuntimeViews,
    lessons: &Arc<RefusalMemory>,
    (inputs, told): (&mpsc::Sender<WriterInput>, &mpsc::Sender<ProcessSignal>),
    started: Timestamp,
) -> CommandContext {
    CommandContext {
        views: views.clone(),
        inputs: inputs.clone(),
        told: told.clone(),
        lessons: Arc::clone(lessons),
        started,
        remembers: config.state.is_some(),
        longest_stop: config.shutdown.max_duration(),
    }
}

/// Runs until a stop signal has arrived and everything has drained.
pub(super) fn run(plane: ControlPlane) -> ShutdownOutcome {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(target: "process", %error, "the control thread cannot start");
            plane.stopping.advance(ShutdownPhase::Over);
            return ShutdownOutcome::Hurried;
        }
    };
    let ended = runtime.block_on(conduct(plane));
    // A folder on a dead network mount may block a reading forever: the process does not wait for it.
    runtime.shutdown_timeout(Duration::from_millis(200));
    ended
}

async fn conduct(plane: ControlPlane) -> ShutdownOutcome {
    let (events, clock) = plane.surroundings;
    let (state, memory, publisher) = plane.writer;
    let is_process = plane.signals.is_some();
    if let Some(told) = plane.signals {
        match SignalListener::listen() {
            Ok(signals) => drop(tokio::spawn(signals.forward(told))),
            Err(error) => tracing::error!(target: "process", %error, "cannot install the signal handlers"),
        }
    }
    let (folder_settings, folder_watch) = watch::channel(plane.config.folder.clone());
    let (contents, found) = mpsc::channel(4);
    let writing = writer::run_writer(state, plane.queue, memory, publisher, (Arc::clone(&events), clock.clone()));
    tokio::spawn(writing);
    tokio::spawn(folder::watch::watch_folder(folder_watch, Some(plane.first), contents));
    tokio::spawn(forward(found, plane.inputs.clone()));
    tokio::spawn(tick(plane.inputs.clone(), Arc::clone(&events), clock.clone()));
    tokio::spawn(remember(plane.inputs.clone(), plane.lessons, plane.views.reader.clone(), clock.clone()));
    for (bound, kind) in plane.admin {
        if let Some(bound) = bound {
            let serving = admin::serve(bound, kind, plane.views.clone());
            tokio::spawn(async move {
                if let Err(error) = serving.await {
                    tracing::error!(target: "admin", %error, "admin listener failed");
                }
            });
        }
    }
    let (alerts, remembering) = super::memories::start(plane.memories, &plane.config, &plane.views, &clock);
    let mut remembering = tokio::spawn(remembering);
    if let Some((bound, allowed, desk)) = plane.commands {
        tokio::spawn(async move {
            if let Err(error) = control::server::serve(bound, allowed, desk).await {
                tracing::error!(target: "control", %error, "control socket failed");
            }
        });
    }
    let reloading = ReloadState { alerts, config: plane.config, inputs: plane.inputs, folder: folder_settings, events };
    tokio::spawn(reloading.run(Arc::clone(&plane.reload)));
    if is_process {
        tokio::spawn(systemd(plane.views));
    }
    let ended =
        process::run_shutdown(plane.told, plane.stopping, plane.shutdown_settings, plane.progress, plane.reload).await;
    // The registry empties its queue, within its own bounds; a dead database does not delay the exit.
    let _ = tokio::time::timeout(Duration::from_secs(5), &mut remembering).await;
    ended
}

async fn forward(mut found: mpsc::Receiver<folder::FolderContents>, inputs: mpsc::Sender<WriterInput>) {
    while let Some(contents) = found.recv().await {
        if inputs.send(WriterInput::Folder(contents)).await.is_err() {
            return;
        }
    }
}

async fn tick(inputs: mpsc::Sender<WriterInput>, events: Arc<EventBus>, clock: Clock) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        second.tick().await;
        events.tick(clock.now());
        if inputs.send(WriterInput::Tick).await.is_err() {
            return;
        }
    }
}

/// How often what changes with every handshake (when an anchor last verified a peer) is saved.
const REMEMBER: Duration = Duration::from_mins(10);

/// Once a second, and at each epoch: expires refusals that are over, and passes confirmed ones to the writer to save.
async fn remember(inputs: mpsc::Sender<WriterInput>, lessons: Arc<RefusalMemory>, mut reader: Reader, clock: Clock) {
    // What the last run left is saved already.
    let mut known = 0;
    let mut told = Instant::now();
    loop {
        if let Ok(None) = tokio::time::timeout(Duration::from_secs(1), reader.changed()).await {
            return;
        }
        let snapshot = reader.latest();
        let candidates = |listener: &str| snapshot.ingresses.get(listener).map(|ingress| &ingress.candidates.0);
        let is_shown = |listener: &str, key_pair: Fingerprint| {
            // A listener that waits for something will show its pairs again.
            candidates(listener).is_none_or(|all| all.iter().any(|candidate| candidate.key_pair == key_pair))
        };
        let in_overlap = || {
            let ingresses = snapshot.ingresses.values().filter(|ingress| ingress.candidates.in_overlap());
            ingresses.flat_map(|ingress| &ingress.candidates.0).map(|candidate| candidate.key_pair).collect()
        };
        lessons.tick(&is_shown, in_overlap, clock.now());
        let due = told.elapsed() >= REMEMBER;
        if let Some((revision, confirmed)) = lessons.changed_since(if due { u64::MAX } else { known }) {
            (known, told) = (revision, Instant::now());
            if inputs.send(WriterInput::Learned(confirmed)).await.is_err() {
                return;
            }
        }
    }
}

/// Reports readiness to systemd, and feeds its watchdog.
async fn systemd(views: RuntimeViews) {
    tokio::spawn(notify::run_watchdog());
    let mut reader = views.reader.clone();
    while !views.is_ready() {
        // A new snapshot, or a moment later the socket that listens because of it.
        if let Ok(None) = tokio::time::timeout(OPENING, reader.changed()).await {
            return;
        }
    }
    notify::send_ready();
}

/// Applies a changed configuration file, atomically or not at all.
struct ReloadState {
    config: Config,
    inputs: mpsc::Sender<WriterInput>,
    folder: watch::Sender<folder::FolderSettings>,
    events: Arc<EventBus>,
    alerts: watch::Sender<alerts::AlertSettings>,
}

impl ReloadState {
    /// On `reload` (SIGHUP), and when the file's content changes: read once a second, through links, so that a
    /// mounted ConfigMap is noticed too.
    async fn run(mut self, reload: Arc<Notify>) {
        let Some(source) = self.config.source.clone() else {
            // Flags and environment cannot change; a SIGHUP still makes it read the folder again.
            loop {
                reload.notified().await;
                self.folder.send_modify(|_| {});
                self.events.emit(Event::Reloaded(ReloadRecord { error: None, needs_restart: Vec::new() }));
            }
        };
        let mut before = tokio::fs::read(&source).await.ok();
        loop {
            let asked = tokio::time::timeout(Duration::from_secs(1), reload.notified()).await.is_ok();
            let now = tokio::fs::read(&source).await.ok();
            // A file that is being replaced may be missing for a moment: that is not a change yet.
            if !asked && (now.is_none() || now == before) {
                continue;
            }
            before = now;
            notify::send_reloading();
            self.apply_config(config::load(&source)).await;
            notify::send_ready();
        }
    }

    async fn apply_config(&mut self, loaded: Result<Config, config::ConfigErrors>) {
        let new = match loaded {
            Ok(new) => new,
            Err(error) => {
                self.events
                    .emit(Event::Reloaded(ReloadRecord { error: Some(error.to_string()), needs_restart: Vec::new() }));
                return;
            }
        };
        let change = config::plan_reload(&self.config, &new);
        self.alerts.send_if_modified(|alerts| std::mem::replace(alerts, new.alerts.clone()) != new.alerts);
        let settings = crate::config::platform::with_platform_anchors(change.settings.clone());
        if self.inputs.send(WriterInput::Settings(Box::new(settings))).await.is_err() {
            return;
        }
        self.folder.send_replace(change.folder.clone());
        self.config.settings = change.settings;
        self.config.folder = change.folder;
        self.events.emit(Event::Reloaded(ReloadRecord { error: None, needs_restart: change.needs_restart }));
    }
}
