//! Writes the Events to the database, in batches. Nothing waits for it, and it waits for everything.
//!
//! Two halves in one future: one only adds Events to the backlog and never awaits anything else, the other writes. The
//! database may be unreachable, slow, full, locked, read-only or damaged: that is logged, counted, retried with growing
//! delays. The snapshot's content is written again after every reconnection, so that recovery fills in what was missed.

mod database_state;
mod job;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::backlog::RegistryBacklog;
use super::recall::{plan_reading, recall_fleet, sender_rows};
use super::store::{ObservedState, RegistryStore};
use super::{Error, RegistryLocation, RegistrySettings};
use crate::clock::Clock;
use crate::event::{Event, EventBus, EventFollower, GATHERING_DELAY, RegistryRecord};
use crate::metrics::Metrics;
use crate::pki::{Fingerprint, printable};
use crate::process::{ShutdownPhase, ShutdownWatch};
use crate::snapshot::Reader;
use database_state::{DatabaseState, report_state};
use job::WriteJob;

/// Events within this time are written in one batch.
const BATCH_WINDOW: Duration = Duration::from_millis(200);
/// How often an idle sidecar writes a heartbeat, and so notices that the database is unreachable.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// How often counts and times are written that have waited long enough, while some wait.
const VISIT_INTERVAL: Duration = Duration::from_secs(1);
/// How often `last_seen` of present rows is updated and old rows are deleted.
const TIDY_INTERVAL: Duration = Duration::from_mins(10);
/// The delay after the first failure; it doubles with each failure, up to the maximum.
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(1);
/// The maximum delay.
const MAX_RETRY_DELAY: Duration = Duration::from_mins(1);
/// A database that has not answered for this long counts as unreachable until it does.
const SLOW_AFTER: Duration = Duration::from_secs(5);
/// A write that takes longer is aborted and retried.
const WRITE_TIMEOUT: Duration = Duration::from_mins(1);
/// How often the rows of all instances are read while an overlap lasts.
const FLEET_INTERVAL: Duration = Duration::from_secs(15);
/// Senders written in one batch.
const MAX_SENDERS: usize = 2_000;
/// Timeout of a process's last write.
const FINAL_WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// The task's inputs.
pub struct RegistryTaskParts {
    /// Where the registry is.
    pub settings: RegistrySettings,
    /// The snapshots.
    pub reader: Reader,
    /// The Events.
    pub follower: EventFollower,
    /// Where changes of the database's state are emitted.
    pub events: Arc<EventBus>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
    /// The shutdown of the process.
    pub shutdown: ShutdownWatch,
    /// Reads the platform's trust anchors; it may block.
    pub public: fn() -> HashSet<Fingerprint>,
}

/// The registry while it is connected.
pub type CurrentStore = watch::Receiver<Option<RegistryStore>>;

/// Returns the task, and a receiver of the registry while it is connected. The task ends with the process and returns
/// the open registry, as others may still use it.
pub fn follow_events(
    parts: RegistryTaskParts,
) -> (CurrentStore, impl Future<Output = Option<RegistryStore>> + Send + 'static) {
    let (current, found) = watch::channel(None);
    let shared = Arc::new(SharedBacklog {
        backlog: Mutex::new(RegistryBacklog::new(Arc::clone(&parts.settings.instance))),
        something: Notify::new(),
    });
    let is_new = parts.settings.place == RegistryLocation::Memory;
    if !is_new {
        parts.events.await_registry();
    }
    if parts.settings.place.is_postgres() {
        parts.events.history_requests().mark_shareable();
    }
    let taking = collect_events(Arc::clone(&shared), parts.follower, parts.events.clone(), parts.public);
    let writing = RegistryWriter {
        settings: parts.settings,
        reader: parts.reader,
        events: parts.events,
        metrics: parts.metrics,
        clock: parts.clock,
        shutdown: parts.shutdown,
        shared,
        current,
        run: run_number(),
        started: Instant::now(),
        written: None,
        state: DatabaseState::Unknown,
        pause: FIRST_RETRY_DELAY,
        tidied: None,
        recalls: !is_new,
        fleet: None,
        answered: 0,
    };
    // The collecting half ends with the Events, the writing half with the process.
    let both = async move {
        tokio::select! {
            store = writing.run() => store,
            store = async { taking.await; std::future::pending().await } => store,
        }
    };
    (found, both)
}

struct SharedBacklog {
    backlog: Mutex<RegistryBacklog>,
    something: Notify,
}

impl SharedBacklog {
    /// A panic elsewhere leaves the backlog consistent.
    fn lock_backlog(&self) -> MutexGuard<'_, RegistryBacklog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number that distinguishes this run's rows from those of other runs.
pub fn run_number() -> i64 {
    let mut bytes = [0; 8];
    // Without randomness the time still distinguishes runs.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        bytes = Clock::system().now().as_nanosecond().to_le_bytes()[..8].try_into().unwrap_or_default();
    }
    i64::from_le_bytes(bytes) & i64::MAX
}

async fn collect_events(
    shared: Arc<SharedBacklog>,
    mut follower: EventFollower,
    events: Arc<EventBus>,
    public: fn() -> HashSet<Fingerprint>,
) {
    let reading = tokio::task::spawn_blocking(public);
    tokio::pin!(reading);
    let mut known = false;
    loop {
        tokio::select! {
            anchors = &mut reading, if !known => {
                known = true;
                shared.lock_backlog().set_public_anchors(anchors.unwrap_or_default());
            }
            event = follower.next() => {
                let Some(event) = event else { return };
                let is_news = shared.lock_backlog().record_event(&event, events.now());
                if is_news || events.has_sender_news() {
                    shared.something.notify_one();
                }
            }
        }
    }
}

struct RegistryWriter {
    settings: RegistrySettings,
    reader: Reader,
    events: Arc<EventBus>,
    metrics: Arc<Metrics>,
    clock: Clock,
    shutdown: ShutdownWatch,
    shared: Arc<SharedBacklog>,
    current: watch::Sender<Option<RegistryStore>>,
    run: i64,
    started: Instant,
    /// What the database holds of the snapshot; `None`: unknown.
    written: Option<ObservedState>,
    state: DatabaseState,
    pause: Duration,
    tidied: Option<Instant>,
    /// There may be rows of earlier processes and of other instances.
    recalls: bool,
    /// When rows were last read, and the rotations that were known then.
    fleet: Option<(Instant, Vec<Timestamp>)>,
    /// Up to which number readings that were asked for have ended.
    answered: u64,
}

impl RegistryWriter {
    async fn run(mut self) -> Option<RegistryStore> {
        let mut shutdown = self.shutdown.clone();
        let mut store = None;
        loop {
            let second = self.started.elapsed().as_secs();
            let done = self.write_once(&mut store, second).await;
            let ended = match done {
                Ok(()) => {
                    self.pause = FIRST_RETRY_DELAY;
                    self.wait_for_work(&mut shutdown).await
                }
                Err(()) => {
                    let pause = self.pause;
                    self.pause = (pause * 2).min(MAX_RETRY_DELAY);
                    tokio::select! {
                        () = sleep(pause) => false,
                        () = shutdown.wait_for_phase(ShutdownPhase::Over) => true,
                    }
                }
            };
            if ended {
                // Events during shutdown are worth one last attempt, and no wait but for those that are being gathered.
                sleep(GATHERING_DELAY * 2).await;
                let last = async {
                    // What is news first.
                    self.write_once(&mut store, second).await?;
                    self.write_once(&mut store, u64::MAX).await
                };
                let _ = timeout(FINAL_WRITE_TIMEOUT, last).await;
                return store;
            }
        }
    }

    /// Waits for something to write; returns whether the process is over.
    async fn wait_for_work(&self, shutdown: &mut ShutdownWatch) -> bool {
        let has_waiting = self.shared.lock_backlog().has_waiting_times();
        let longest = if has_waiting { VISIT_INTERVAL } else { HEARTBEAT_INTERVAL };
        let something = async {
            tokio::select! {
                _ = timeout(longest, self.shared.something.notified()) => {}
                () = self.events.history_requests().wait_for_later(self.answered) => {}
            }
            sleep(BATCH_WINDOW).await;
        };
        tokio::select! {
            () = something => false,
            () = shutdown.wait_for_phase(ShutdownPhase::Over) => true,
        }
    }

    /// Writes what is pending in this second, opening the database first if it is not open.
    async fn write_once(&mut self, store: &mut Option<RegistryStore>, second: u64) -> Result<(), ()> {
        if let Some(gone) = store.take_if(|open| !open.is_in_place()) {
            // Others that have it are told: they would go on with a file that has no name any more.
            self.current.send_replace(None);
            gone.close().await;
            self.written = None;
            self.shared.lock_backlog().forget_written();
        }
        let (requests, began) = (self.events.history_requests().last_number(), self.clock.now());
        let snapshot = self.reader.latest();
        let observed = ObservedState { keyrings: snapshot.keyrings.clone(), trusts: snapshot.trusts.clone() };
        let mut batch = self.shared.lock_backlog().take_batch(second);
        let overlaps = snapshot.keyrings_in_overlap();
        let rotations: Vec<Timestamp> = overlaps.iter().map(|overlap| overlap.rotated).collect();
        let query = self
            .needs_fleet(&rotations)
            .then(|| plan_reading(&snapshot.keyrings, &overlaps, self.fleet.is_none(), self.clock.now()));
        // Rows of this instance are written over: they have to be read before.
        let is_known = self.recalls && self.fleet.is_some();
        let takes_senders = is_known || !self.recalls;
        let mut senders =
            if takes_senders { self.events.take_changed_senders(MAX_SENDERS, second) } else { Vec::new() };
        if !self.recalls {
            // No other process will read them.
            senders.clear();
        }
        batch.senders = senders.iter().flat_map(|sender| sender_rows(sender, &self.settings.instance)).collect();
        let tidy = self.tidied.is_none_or(|tidied| tidied.elapsed() >= TIDY_INTERVAL);
        let job = WriteJob {
            settings: &self.settings,
            store: store.take(),
            observed: &observed,
            written: self.written.as_ref(),
            batch: (self.run, &batch),
            tidy,
            query: query.as_ref(),
            now: self.clock.now(),
        };
        let mut work = Box::pin(job.execute());
        let done = match timeout(SLOW_AFTER, &mut work).await {
            Ok(done) => done,
            Err(_) => {
                let explanation =
                    format!("it has not answered for {} s; events are queued, traffic continues", SLOW_AFTER.as_secs());
                report_state(&self.events, &mut self.state, DatabaseState::Down(explanation));
                self.current.send_replace(None);
                let slow = || Error::Slow { place: "the database".to_owned(), seconds: WRITE_TIMEOUT.as_secs() };
                timeout(WRITE_TIMEOUT - SLOW_AFTER, &mut work).await.unwrap_or_else(|_| Err(slow()))
            }
        };
        drop(work);
        match done {
            Ok((open, read)) => {
                if let (Some(fleet), Some(query)) = (read, &query) {
                    self.fleet = Some((Instant::now(), rotations));
                    self.events.recall_history(recall_fleet(fleet, query, &self.settings.instance, &overlaps), began);
                    self.shared.something.notify_one();
                } else if senders.len() == MAX_SENDERS {
                    self.shared.something.notify_one();
                }
                self.answered = requests;
                self.events.history_requests().record_answer(requests);
                self.written = Some(observed);
                self.shared.lock_backlog().record_written(&batch.peers);
                if tidy {
                    self.tidied = Some(Instant::now());
                    self.shared.lock_backlog().forget_written();
                }
                self.report_up(&open);
                *store = Some(open);
                Ok(())
            }
            Err(error) => {
                self.shared.lock_backlog().restore_batch(batch);
                self.events.restore_changed_senders(senders);
                self.written = None;
                self.current.send_replace(None);
                self.report_failure(&error);
                Err(())
            }
        }
    }

    /// Whether rows of other instances and former processes are to be read now.
    fn needs_fleet(&self, rotations: &[Timestamp]) -> bool {
        let is_due = |(read, known): &(Instant, Vec<Timestamp>)| {
            let is_asked = self.answered < self.events.history_requests().last_number();
            !rotations.is_empty() && (is_asked || known != rotations || FLEET_INTERVAL <= read.elapsed())
        };
        self.recalls && self.fleet.as_ref().is_none_or(is_due)
    }

    fn report_up(&mut self, store: &RegistryStore) {
        let place = match self.settings.place {
            RegistryLocation::Memory => "in memory: its content is lost on restart".to_owned(),
            _ => store.location().to_owned(),
        };
        let given_up = self.count_dropped();
        let explanation = if given_up == 0 {
            place
        } else {
            format!("{place}; it was unreachable for so long that {given_up} queued rows were dropped")
        };
        if given_up > 0 {
            self.state = DatabaseState::Unknown;
        }
        report_state(&self.events, &mut self.state, DatabaseState::Up(explanation));
        if self.current.borrow().is_none() {
            self.current.send_replace(Some(store.clone()));
        }
    }

    fn report_failure(&mut self, error: &Error) {
        self.count_dropped();
        if let (Error::Damaged { .. }, RegistryLocation::File(path)) = (error, &self.settings.place) {
            let explanation = match RegistryStore::set_aside(path, self.clock.now()) {
                Ok(aside) => {
                    self.pause = FIRST_RETRY_DELAY;
                    let kept = aside.kept.display();
                    format!("{error}; set aside as {kept}, and a new one is created: recover data from the old one")
                }
                Err(refused) => format!("{error}, and it cannot be set aside: {refused}"),
            };
            self.state = DatabaseState::Down(explanation.clone());
            self.events.emit(Event::Registry(RegistryRecord {
                up: false,
                damaged: true,
                explanation: printable(&explanation),
            }));
            return;
        }
        report_state(&self.events, &mut self.state, DatabaseState::Down(error.to_string()));
    }

    /// Counts the rows that the backlog dropped; returns how many.
    fn count_dropped(&self) -> u64 {
        let dropped = self.shared.lock_backlog().take_dropped();
        self.metrics.count_dropped_registry_rows("failure", dropped.failures);
        self.metrics.count_dropped_registry_rows("peer", dropped.peers);
        self.metrics.count_dropped_registry_rows("history", dropped.history);
        dropped.total()
    }
}
