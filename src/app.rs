//! Wiring: the only room that sees every area. It starts them in order, passes each what it needs, and stops them.
//!
//! Three kinds of thread: one control thread with everything that may wait (folder, writer, probes, signals), one admin thread
//! where the page and the API are made, and the data plane's workers. They meet in the snapshot, the events and the phases of
//! stopping, nowhere else.

mod admin_thread;
mod confinement;
mod control;
mod listening;
pub mod memories;
mod socket;
mod take_over;
mod watchdog;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use crate::clock::Clock;
use crate::config::Config;
use crate::control::HandOverMeans;
use crate::control::old_process::{OldProcess, TakeOverError};
use crate::event::EventBus;
use crate::evidence::RefusalMemory;
use crate::log::{self, LogQueue};
use crate::metrics::{Metrics, MetricsFormat};
use crate::process::{self, DrainProgress, ProcessSignal, ProgressEcho, ShutdownOutcome, ShutdownPhase};
use crate::snapshot::{ListenerId, Reader, Side, Snapshot};
use crate::views::RuntimeViews;
use crate::writer::{self, StateMemory, WriterInput};
use crate::{dataplane, folder, net, snapshot};
use confinement::ConfinementReport;
use listening::{ListeningParts, addresses};
use take_over::ProcessOrigin;

/// How many inputs may wait for the writer.
const INPUTS: usize = 64;

/// Why a sidecar does not start, or did not end cleanly.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration or the folder: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// `[log] level`.
    #[error(transparent)]
    Log(#[from] log::LogError),
    /// A listener.
    #[error(transparent)]
    Net(#[from] net::SocketError),
    /// `state`.
    #[error(transparent)]
    Memory(#[from] writer::memory::MemoryError),
    /// The first snapshot.
    #[error(transparent)]
    Build(#[from] snapshot::build::BuildError),
    /// A thread or a runtime.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
    /// A second stop signal arrived, and it closed what was open.
    #[error("stopped immediately by a second signal")]
    Hurried,
    /// It did not take over from the process before it, which goes on.
    #[error(transparent)]
    TakeOver(#[from] TakeOverError),
    /// It did not get ready in time.
    #[error("still waiting for {0}")]
    NotReady(String),
}

/// What comes from outside: the time, and where lines go.
pub struct AppEnvironment {
    /// The time.
    pub clock: Clock,
    /// Where log lines go.
    pub lines: Arc<LogQueue>,
}

/// A running sidecar. Dropping it closes everything at once.
pub struct Application {
    addresses: BTreeMap<ListenerId, SocketAddr>,
    admin: Option<SocketAddr>,
    views: RuntimeViews,
    lessons: Arc<RefusalMemory>,
    told: mpsc::Sender<ProcessSignal>,
    inputs: mpsc::Sender<WriterInput>,
    control: Option<JoinHandle<Result<ShutdownOutcome, TakeOverError>>>,
    workers: Option<dataplane::WorkerThreads>,
}

/// Runs a sidecar as a process of its own: signals, standard output, systemd. Returns when it has ended. `take_over`: it takes
/// over from the sidecar that answers at its control socket, if there is one.
pub fn run(mut config: Config, take_over: bool) -> Result<(), AppError> {
    let hardened = process::harden::harden();
    let confined = confinement::confine_process(&mut config);
    let lines = LogQueue::stdout(config.log.resolved_format());
    log::install(Arc::clone(&lines), &config.log)?;
    process::harden::start_allocator_thread();
    hardened.log_failures();
    process::harden::warn_of_root();
    confined.iter().for_each(ConfinementReport::log_level);
    told_start(&config);
    let origin = take_over::find_origin(&config, take_over)?;
    let app = Application::launch(config, AppEnvironment { clock: Clock::system(), lines }, Some(origin))?;
    app.wait()
}

/// The first line: which program this is, its configuration, and where it will listen once it has a key pair to show.
fn told_start(config: &Config) {
    let settings = &config.settings;
    let ingresses = settings.ingresses.iter().map(|one| format!("ingress {} on {}", one.name, one.listen));
    let egresses = settings.egresses.iter().map(|one| format!("egress {} on {}", one.name, one.listen));
    let admin = [("admin", &config.admin.listen), ("probes", &config.admin.probes)];
    let admin = admin.into_iter().filter_map(|(name, listen)| Some(format!("{name} on {}", listen.as_ref()?)));
    let path = |path: Option<&std::path::Path>, none: &str| {
        path.map_or(none.to_owned(), |path| crate::pki::printable(&path.display().to_string()))
    };
    tracing::info!(
        target: "process",
        version = env!("CARGO_PKG_VERSION"),
        process = std::process::id(),
        configuration = path(config.source.as_deref(), "flags"),
        certs = path(Some(&config.folder.root), ""),
        state = path(config.state.as_deref(), "memory only"),
        listeners = ingresses.chain(egresses).chain(admin).collect::<Vec<_>>().join(", "),
        "starting"
    );
}

impl Application {
    /// Starts a sidecar inside this process; it ignores signals.
    pub fn start(config: Config, surroundings: AppEnvironment) -> Result<Self, AppError> {
        Self::launch(config, surroundings, None)
    }

    /// `origin`: it is a process of its own, and handles signals.
    fn launch(
        config: Config,
        AppEnvironment { clock, lines }: AppEnvironment,
        origin: Option<ProcessOrigin>,
    ) -> Result<Self, AppError> {
        let is_process = origin.is_some();
        let ProcessOrigin { sockets, mut old } = origin.unwrap_or_default();
        // Ports first: one that is taken is an error before anything else has happened.
        let ListeningParts { listeners, admin, control, handles } = listening::bind_all(&config, is_process, sockets)?;
        let signals = if is_process { Some(control::install_signals()?) } else { None };
        let metrics = Arc::new(Metrics::new());
        if is_process {
            // A process of its own: a panic is a line and a count, wherever it happens.
            metrics.install_panic_hook();
        }
        let events = Arc::new(EventBus::new(Arc::clone(&lines), Arc::clone(&metrics), &config.log, clock.clone())?);
        // From the first Event on: what begin() tells is history too.
        let followers = [events.subscribe().gathering(), events.subscribe().gathering()];
        let first = folder::read::read_folder(&config.folder);
        let settings = crate::config::platform::with_platform_anchors(config.settings.clone());
        // What takes long is done: the old process changes nothing from here on.
        old.as_mut().map(OldProcess::hold_state).transpose()?;
        let mut memory = open_memory(&config, old.is_some())?;
        let (state, publisher, reader) =
            writer::start_writer(settings, first.contents.clone(), &mut memory, (&events, &clock))?;
        let state = if clock.is_manual() { state.with_trusted_clock() } else { state };
        check_take_over(old.as_ref(), &reader.latest())?;
        let lessons = dataplane::new_refusal_memory(state.learned_refusals(), &events, &reader);
        lessons.entries().iter().for_each(|entry| events.recall(entry));
        let (stopping, shutdown) = process::shutdown_channel();
        let progress = DrainProgress::new();
        let (inputs, queue) = mpsc::channel(INPUTS);
        let views = RuntimeViews::new(reader.clone(), Arc::clone(&metrics), Arc::clone(&events), shutdown.clone())
            .watching(listeners.iter().map(|(id, bound)| (id.clone(), bound.listen_state())))
            .asking_writer(inputs.clone(), config.state.is_some());
        let (addresses, admin_address) = (addresses(&listeners), listening::admin_address(&admin));
        let echo = ProgressEcho::new(config.workers.max(1));
        let workers = dataplane::start(dataplane::DataPlaneParts {
            listeners,
            workers: config.workers,
            reader,
            events: Arc::clone(&events),
            metrics,
            lines,
            clock: clock.clone(),
            lessons: Arc::clone(&lessons),
            shutdown: shutdown.clone(),
            progress: Arc::clone(&progress),
            drain: config.shutdown.drain,
            echo: Arc::clone(&echo),
        })?;
        let ((told, telling), (reloads, orders)) = (mpsc::channel(4), mpsc::channel(4));
        let rules = control::shutdown_rules(&config, &views, clock.clone(), is_process);
        let (recorded, is_recorded) = watch::channel(false);
        let means = HandOverMeans::new(handles.clone(), is_recorded, Arc::clone(&progress));
        let desk = control::desk(&views, (&inputs, &told), reloads, (rules.clone(), means));
        let plane = control::ControlPlane {
            first,
            commands: control.map(|(bound, allowed)| (bound, allowed, desk)),
            signals: signals.map(|(signals, runtime)| (signals, runtime, told.clone())),
            told: telling,
            stopping,
            shutdown_rules: rules,
            progress,
            reload: Arc::new(Notify::new()),
            orders,
            inputs: inputs.clone(),
            queue,
            writer: (state, memory, publisher),
            surroundings: (events, clock),
            lessons: Arc::clone(&lessons),
            views: views.clone(),
            memories: memories::RecorderParts { followers, shutdown, recorded },
            admin,
            echo,
            old: old.map(|old| (old, handles)),
            config,
        };
        let control = std::thread::Builder::new().name("control".to_owned()).spawn(move || control::run(plane))?;
        Ok(Self {
            addresses,
            admin: admin_address,
            views,
            lessons,
            told,
            inputs,
            control: Some(control),
            workers: Some(workers),
        })
    }

    /// Where a listener listens, if it is TCP.
    pub fn address(&self, side: Side, name: &str) -> Option<SocketAddr> {
        self.addresses.get(&ListenerId { side, name: name.into() }).copied()
    }

    /// Where the admin listener listens, if it is TCP.
    pub const fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// What happens.
    pub fn events(&self) -> &Arc<EventBus> {
        &self.views.events
    }

    /// What is served.
    pub fn reader(&self) -> &Reader {
        &self.views.reader
    }

    /// Which sources have refused our pairs.
    pub fn lessons(&self) -> &Arc<RefusalMemory> {
        &self.lessons
    }

    /// The metrics as Prometheus reads them.
    pub fn metrics_text(&self) -> String {
        self.views.metrics_text(MetricsFormat::Prometheus)
    }

    /// How far stopping has come.
    pub fn phase(&self) -> ShutdownPhase {
        self.views.shutdown.phase()
    }

    /// Waits until every listener has something to show and listens.
    ///
    /// # Errors
    /// What it still waits for.
    pub async fn ready(&self, patience: Duration) -> Result<(), AppError> {
        let mut reader = self.views.reader.clone();
        let all = async {
            while !reader.latest().waiting.is_empty() {
                if reader.changed().await.is_none() {
                    return;
                }
            }
            if let Some(workers) = &self.workers {
                workers.wait_until_listening(&reader.latest()).await;
            }
        };
        tokio::time::timeout(patience, all).await.map_err(|_| AppError::NotReady(waiting(&self.views.reader.latest())))
    }

    /// Makes the writer look at the clock now rather than at the next second.
    pub fn tick(&self) {
        // A full queue wakes the writer anyway.
        let _ = self.inputs.try_send(WriterInput::Tick);
    }

    /// Begins to stop, as SIGTERM does.
    pub fn begin_stop(&self) {
        let _ = self.told.try_send(ProcessSignal::Stop);
    }

    /// Closes everything at once and waits for the end.
    pub async fn stop_now(mut self) {
        self.hurry();
        let (control, workers) = (self.control.take(), self.workers.take());
        let _ = tokio::task::spawn_blocking(move || join(control, workers)).await;
    }

    /// Waits for the end.
    fn wait(mut self) -> Result<(), AppError> {
        let ended = join(self.control.take(), self.workers.take());
        if let Some(Ok(ShutdownOutcome::Drained { left })) = ended {
            tracing::info!(target: "process", closed_at_the_deadline = left, "stopped");
        }
        self.views.events.finish();
        match ended {
            Some(Ok(ShutdownOutcome::Drained { .. })) => Ok(()),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(ShutdownOutcome::Hurried)) | None => Err(AppError::Hurried),
        }
    }

    fn hurry(&self) {
        for _ in 0..2 {
            let _ = self.told.try_send(ProcessSignal::Stop);
        }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        if self.control.is_some() {
            self.hurry();
        }
    }
}

fn join(
    control: Option<JoinHandle<Result<ShutdownOutcome, TakeOverError>>>,
    workers: Option<dataplane::WorkerThreads>,
) -> Option<Result<ShutdownOutcome, TakeOverError>> {
    // Workers first: the control thread sends them the last phase, and then ends by itself.
    if let Some(workers) = workers {
        workers.join();
    }
    control.and_then(|control| control.join().ok())
}

/// What survives a restart. `is_beside`: the process that this one takes over from still writes there.
fn open_memory(config: &Config, is_beside: bool) -> Result<StateMemory, writer::memory::MemoryError> {
    let strict = config.folder.strict_permissions;
    match config.state.clone() {
        Some(folder) if is_beside => StateMemory::open_beside(folder, strict),
        Some(folder) => StateMemory::open(folder, strict),
        None => Ok(StateMemory::in_memory()),
    }
}

/// A new process takes over only where it has something to show on every listener.
fn check_take_over(old: Option<&OldProcess>, snapshot: &Snapshot) -> Result<(), TakeOverError> {
    let is_short = old.is_some() && !snapshot.waiting.is_empty();
    if is_short { Err(TakeOverError::NotReady(waiting(snapshot))) } else { Ok(()) }
}

fn waiting(snapshot: &Snapshot) -> String {
    let all: Vec<String> = snapshot.waiting.iter().map(|(id, what)| format!("{} ({what})", id.name)).collect();
    if all.is_empty() { "its listeners".to_owned() } else { all.join(", ") }
}
