//! The control thread: folder, writer, probes, signals, reloads and the tick of one second, on one small runtime.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::listening::AdminSockets;
use super::watchdog::{WatchdogParts, feed_watchdog};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::control::old_process::{OldProcess, TakeOverError};
use crate::control::server::SocketAccess;
use crate::control::{self, CommandContext, HandOverMeans, LoadedSettings, ReloadOrder};
use crate::event::{Event, EventBus, ReloadRecord};
use crate::evidence::RefusalMemory;
use crate::evidence::learned::RefusalRecord;
use crate::folder::watch::{FolderDelivery, ReadingReceipt};
use crate::net::{BoundSocket, SocketHandle};
use crate::process::{
    self, DrainProgress, ProcessSignal, ProgressEcho, ShutdownController, ShutdownOutcome, ShutdownPhase,
    ShutdownRules, SignalListener, notify,
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
    /// Where it is a process of its own: its signals, the runtime that they came with, and where they go.
    pub(super) signals: Option<(SignalListener, Runtime, mpsc::Sender<ProcessSignal>)>,
    pub(super) told: mpsc::Receiver<ProcessSignal>,
    pub(super) stopping: ShutdownController,
    pub(super) shutdown_rules: ShutdownRules,
    pub(super) progress: Arc<DrainProgress>,
    pub(super) reload: Arc<Notify>,
    pub(super) orders: mpsc::Receiver<ReloadOrder>,
    pub(super) inputs: mpsc::Sender<WriterInput>,
    pub(super) queue: mpsc::Receiver<WriterInput>,
    pub(super) writer: (WriterState, StateMemory, Publisher),
    pub(super) surroundings: (Arc<EventBus>, Clock),
    pub(super) lessons: Arc<RefusalMemory>,
    pub(super) views: RuntimeViews,
    pub(super) admin: AdminSockets,
    pub(super) echo: Arc<ProgressEcho>,
    /// The process that this one takes over from, and the sockets that it then owns.
    pub(super) old: Option<(OldProcess, Vec<SocketHandle>)>,
    pub(super) memories: super::memories::RecorderParts,
    pub(super) config: Config,
}

/// What decides how long a stop takes. `signals`: the sidecar is a process of its own.
pub(super) fn shutdown_rules(config: &Config, views: &RuntimeViews, clock: Clock, signals: bool) -> ShutdownRules {
    ShutdownRules {
        settings: config.shutdown,
        has_egress: !config.settings.egresses.is_empty(),
        on_terminal: signals && std::io::stdout().is_terminal(),
        readiness: Arc::clone(&views.readiness_requests),
        clock,
    }
}

/// What the control socket answers from.
pub(super) fn desk(
    views: &RuntimeViews,
    (inputs, told): (&mpsc::Sender<WriterInput>, &mpsc::Sender<ProcessSignal>),
    reloads: mpsc::Sender<ReloadOrder>,
    (shutdown_rules, hand_over): (ShutdownRules, HandOverMeans),
) -> CommandContext {
    CommandContext {
        views: views.clone(),
        inputs: inputs.clone(),
        told: told.clone(),
        reloads,
        shutdown_rules,
        hand_over,
    }
}

/// Installs the signals of a process of its own, in the runtime of its control thread: from now on none of them ends the process
/// by itself.
pub(super) fn install_signals() -> std::io::Result<(SignalListener, Runtime)> {
    let runtime = make_runtime()?;
    let within = runtime.enter();
    let signals = SignalListener::listen()?;
    drop(within);
    Ok((signals, runtime))
}

fn make_runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Runs until a stop signal has arrived and everything has drained.
pub(super) fn run(mut plane: ControlPlane) -> Result<ShutdownOutcome, TakeOverError> {
    // Traffic goes first. The threads of the page and of SQLite are started from here and have this priority too.
    process::lower_thread_priority();
    let (signals, runtime) = match plane.signals.take() {
        Some((signals, runtime, told)) => (Some((signals, told)), Ok(runtime)),
        None => (None, make_runtime()),
    };
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(target: "process", %error, "the control thread cannot start");
            plane.stopping.advance(ShutdownPhase::Over);
            return Ok(ShutdownOutcome::Hurried);
        }
    };
    let ended = runtime.block_on(conduct(plane, signals));
    // A folder on a dead network mount may block a reading forever: the process does not wait for it.
    runtime.shutdown_timeout(Duration::from_millis(200));
    ended
}

async fn conduct(
    mut plane: ControlPlane,
    signals: Option<(SignalListener, mpsc::Sender<ProcessSignal>)>,
) -> Result<ShutdownOutcome, TakeOverError> {
    let (events, clock) = plane.surroundings;
    let (state, memory, publisher) = plane.writer;
    let stop = signals.as_ref().map(|(_, told)| told.clone());
    let is_process = signals.is_some();
    if let Some((signals, told)) = signals {
        tokio::spawn(signals.forward(told));
    }
    let (folder_settings, folder_watch) = watch::channel(plane.config.folder.clone());
    let ((deliveries, found), (readings, ordered)) = (mpsc::channel(4), mpsc::channel(READINGS));
    let lessons = Arc::clone(&plane.lessons);
    let surroundings = (Arc::clone(&events), clock.clone());
    tokio::spawn(writer::run_writer(state, plane.queue, memory, publisher, lessons, surroundings));
    tokio::spawn(folder::watch::watch_folder(folder_watch, ordered, Some(plane.first), deliveries));
    tokio::spawn(forward(found, plane.inputs.clone()));
    tokio::spawn(tick(plane.inputs.clone(), Arc::clone(&events), clock.clone()));
    tokio::spawn(remember(plane.inputs.clone(), plane.lessons, plane.views.reader.clone(), clock.clone()));
    if let Some((old, sockets)) = plane.old.take() {
        // Until then the old process answers probes and commands, and writes the registry.
        if let Err(error) = super::take_over::complete(old, &plane.views, &plane.inputs, &sockets).await {
            tracing::error!(target: "process", %error, "did not take over: stopping");
            if let Some(stop) = stop {
                let _ = stop.try_send(ProcessSignal::Stop);
            }
            let (rules, progress) = (plane.shutdown_rules, plane.progress);
            let nothing = std::future::ready(());
            process::run_shutdown(plane.told, plane.stopping, rules, progress, plane.reload, nothing).await;
            return Err(error);
        }
    }
    let (alerts, current, remembering) = super::memories::start(plane.memories, &plane.config, &plane.views, &clock);
    let remembering = tokio::spawn(remembering);
    let instance = crate::offline::registry::registry_settings(&plane.config).instance;
    super::admin_thread::start_admin(
        plane.admin,
        &plane.views.clone().reading_registry(current).with_instance(instance),
    );
    if let Some((bound, allowed, desk)) = plane.commands {
        tokio::spawn(async move {
            if let Err(error) = control::server::serve(bound, allowed, desk).await {
                tracing::error!(target: "control", %error, "control socket failed");
            }
        });
    }
    let announced = Arc::new(AtomicBool::new(false));
    let inputs = plane.inputs.clone();
    let reloading = ReloadState {
        announced: Arc::clone(&announced),
        config: plane.config,
        inputs: plane.inputs,
        folder: folder_settings,
        readings,
        orders: plane.orders,
        events,
        alerts,
    };
    tokio::spawn(reloading.run(Arc::clone(&plane.reload)));
    if is_process {
        let watched = WatchdogParts { echo: plane.echo, inputs, shutdown: plane.views.shutdown.clone() };
        tokio::spawn(announce_readiness(plane.views, announced, watched));
    }
    // The registry empties its queue, within bounds: a dead database must not hold up the exit.
    let last_write = async { drop(remembering.await) };
    let (rules, progress) = (plane.shutdown_rules, plane.progress);
    Ok(process::run_shutdown(plane.told, plane.stopping, rules, progress, plane.reload, last_write).await)
}

async fn forward(mut found: mpsc::Receiver<FolderDelivery>, inputs: mpsc::Sender<WriterInput>) {
    while let Some(delivery) = found.recv().await {
        match delivery {
            FolderDelivery::Contents(contents) => {
                if inputs.send(WriterInput::Folder(contents)).await.is_err() {
                    return;
                }
            }
            // What the reading found is in the writer's queue: an input that follows is worked through after it. The
            // requester may be gone.
            FolderDelivery::Receipt(receipt) => drop(receipt.send(())),
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

/// How long a reload waits for the writer, which may be saving: longer than a healthy disk takes.
const WRITER_PATIENCE: Duration = Duration::from_secs(30);
/// How often what changes with every handshake (the last peer that an anchor vouched for) is saved.
const REMEMBER: Duration = Duration::from_mins(10);

/// Once a second, and at each epoch: expired refusals end, and confirmed ones go to the writer to be saved.
async fn remember(inputs: mpsc::Sender<WriterInput>, lessons: Arc<RefusalMemory>, mut reader: Reader, clock: Clock) {
    // What the last run left is saved already.
    let mut known = 0;
    let mut told = Instant::now();
    loop {
        if let Ok(None) = tokio::time::timeout(Duration::from_secs(1), reader.changed()).await {
            return;
        }
        let snapshot = reader.latest();
        let shown = |refusal: &RefusalRecord| {
            let candidates = &snapshot.ingresses.get(&refusal.source.listener)?.candidates.0;
            let of_keyring = candidates.iter().filter(|candidate| candidate.keyring == refusal.keyring);
            Some(of_keyring.map(|candidate| candidate.key_pair).collect())
        };
        let in_overlap = || {
            let ingresses = snapshot.ingresses.values().filter(|ingress| ingress.candidates.in_overlap());
            ingresses.flat_map(|ingress| &ingress.candidates.0).map(|candidate| candidate.key_pair).collect()
        };
        lessons.tick(&shown, in_overlap, clock.read_recording_time().now);
        let due = told.elapsed() >= REMEMBER;
        if let Some((revision, confirmed)) = lessons.changed_since(if due { u64::MAX } else { known }) {
            (known, told) = (revision, Instant::now());
            if inputs.send(WriterInput::Learned(confirmed)).await.is_err() {
                return;
            }
        }
    }
}

/// Reports readiness to systemd, and what it waits for until then; sets `announced` then, and feeds the watchdog.
async fn announce_readiness(views: RuntimeViews, announced: Arc<AtomicBool>, watched: WatchdogParts) {
    if let Some(period) = notify::supervisor_access().watchdog {
        tokio::spawn(feed_watchdog(watched, period));
    }
    let (mut reader, mut told) = (views.reader.clone(), String::new());
    while !views.is_ready() {
        let missing: Vec<String> = views.missing().iter().map(ToString::to_string).collect();
        let missing = crate::pki::printable(&missing.join(", "));
        if told != missing {
            notify::send_status(&format!("not ready: {missing}"));
            told = missing;
        }
        // A new snapshot, or a moment later the socket that listens because of it.
        if let Ok(None) = tokio::time::timeout(OPENING, reader.changed()).await {
            return;
        }
    }
    announced.store(true, Ordering::Relaxed);
    notify::send_status("ready: every listener accepts");
    notify::send_ready();
}

/// How many ordered readings of the folder may wait.
const READINGS: usize = 64;
/// How often the configuration file is looked at.
const CONFIG_INTERVAL: Duration = Duration::from_secs(1);

/// Applies a changed configuration file, atomically or not at all.
struct ReloadState {
    /// systemd has been told that the process is ready: before that the end of a reload must not say it.
    announced: Arc<AtomicBool>,
    config: Config,
    inputs: mpsc::Sender<WriterInput>,
    folder: watch::Sender<folder::FolderSettings>,
    readings: mpsc::Sender<ReadingReceipt>,
    orders: mpsc::Receiver<ReloadOrder>,
    events: Arc<EventBus>,
    alerts: watch::Sender<alerts::AlertSettings>,
}

impl ReloadState {
    /// On `reload` (SIGHUP), on an order (`sidekey reload`), and when the file's content changes: looked at once a second,
    /// through links, so that a mounted ConfigMap is noticed too.
    async fn run(mut self, reload: Arc<Notify>) {
        let source = self.config.source.clone();
        let read = async |source: &Option<PathBuf>| match source {
            Some(source) => tokio::fs::read(source).await.ok(),
            None => None,
        };
        // What was loaded, not what the file holds by now: it may have changed since.
        let mut before = self.config.content.take().map(String::into_bytes);
        loop {
            let (asked, order) = tokio::select! {
                Some(order) = self.orders.recv() => (true, Some(order)),
                () = reload.notified() => (true, None),
                () = tokio::time::sleep(CONFIG_INTERVAL), if source.is_some() => (false, None),
            };
            let now = read(&source).await;
            // A file that is being replaced may be missing for a moment: that does not count as a change yet.
            if !asked && (now.is_none() || now == before) {
                continue;
            }
            before = now;
            let announced = self.announced.load(Ordering::Relaxed);
            if announced {
                notify::send_reloading();
            }
            let loaded = match &source {
                Some(source) => self.apply_config(config::load(source)).await,
                // Flags and environment cannot change; the folder is still read again.
                None => Ok(LoadedSettings::default()),
            };
            if announced {
                notify::send_ready();
            }
            let (error, settings) = match &loaded {
                Ok(settings) => (None, settings.clone()),
                Err(error) => (Some(error.clone()), LoadedSettings::default()),
            };
            self.events.emit(Event::Reloaded(ReloadRecord { error, needs_restart: settings.needs_restart }));
            let receipt = order.map_or_else(
                || oneshot::channel().0,
                |order| {
                    // The requester may be gone.
                    let _ = order.settings.send(loaded.clone());
                    order.folder
                },
            );
            // A folder on a dead mount may hold a reading for ever. What does not fit is answered as still awaited.
            if loaded.is_ok() {
                drop(self.readings.try_send(receipt));
            }
        }
    }

    /// Gives the writer what was loaded; only what it takes over counts from now on.
    async fn apply_config(&mut self, loaded: Result<Config, config::ConfigErrors>) -> Result<LoadedSettings, String> {
        let new = loaded.map_err(|error| error.to_string())?;
        let change = config::plan_reload(&self.config, &new);
        let settings = Box::new(crate::config::platform::with_platform_anchors(change.settings.clone()));
        let (reply, answer) = oneshot::channel();
        let stopping = "the writer has ended";
        self.inputs.send(WriterInput::Settings(settings, reply)).await.map_err(|_| stopping)?;
        let answer = tokio::time::timeout(WRITER_PATIENCE, answer).await;
        let answer = answer.map_err(|_| "the writer does not answer: is `state` on a file system that hangs?")?;
        answer.map_err(|_| stopping)?.map_err(|error| error.to_string())?;
        let same = (&self.config.settings, &self.config.folder) == (&change.settings, &change.folder);
        let alerts_differ =
            self.alerts.send_if_modified(|alerts| std::mem::replace(alerts, new.alerts.clone()) != new.alerts);
        self.folder.send_if_modified(|folder| std::mem::replace(folder, change.folder.clone()) != change.folder);
        self.config.settings = change.settings;
        self.config.folder = change.folder;
        Ok(LoadedSettings { changed: alerts_differ || !same, needs_restart: change.needs_restart })
    }
}
