//! Writes the Events to the database, in batches. Nothing waits for it, and it waits for everything.
//!
//! Two halves in one future: one only adds Events to the backlog and never awaits anything else, the other writes. The
//! database may be unreachable, slow, full, locked, read-only or damaged: that is logged, counted, retried with growing
//! delays. The snapshot's content is written again after every reconnection, so that recovery fills in what was missed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::backlog::Backlog;
use super::recall::{Former, recalled};
use super::store::{Access, Batch, Observed, Store};
use super::{Error, Place, Settings};
use crate::clock::Clock;
use crate::event::{Event, Events, Follower};
use crate::metrics::Metrics;
use crate::pki::{Fingerprint, printable};
use crate::process::{Phase, Shutdown};
use crate::snapshot::Reader;

/// Events within this time are written in one batch.
const TOGETHER: Duration = Duration::from_millis(200);
/// How often an idle sidecar writes a heartbeat, and so notices that the database is unreachable.
const ALIVE: Duration = Duration::from_secs(15);
/// How often `last_seen` of present rows is updated and old rows are deleted.
const TIDY: Duration = Duration::from_mins(10);
/// The delay after the first failure; it doubles with each failure, up to the maximum.
const PAUSE: Duration = Duration::from_secs(1);
/// The maximum delay.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// A database that has not answered for this long counts as unreachable until it does.
const SLOW: Duration = Duration::from_secs(5);
/// A write that takes longer is aborted and retried.
const GIVE_UP: Duration = Duration::from_mins(1);
/// Timeout of a process's last write.
const LAST: Duration = Duration::from_secs(2);

/// The task's inputs.
pub struct Parts {
    /// Where the registry is.
    pub settings: Settings,
    /// The snapshots.
    pub reader: Reader,
    /// The Events.
    pub follower: Follower,
    /// Where changes of the database's state are emitted.
    pub events: Arc<Events>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
    /// The shutdown of the process.
    pub shutdown: Shutdown,
    /// Reads the platform's trust anchors; it may block.
    pub public: fn() -> HashSet<Fingerprint>,
}

/// The registry while it is connected.
pub type Current = watch::Receiver<Option<Store>>;

/// Returns the task, and a receiver of the registry while it is connected. The task ends with the process and returns
/// the open registry, as others may still use it.
pub fn follow(parts: Parts) -> (Current, impl Future<Output = Option<Store>> + Send + 'static) {
    let (current, found) = watch::channel(None);
    let shared = Arc::new(Shared {
        backlog: Mutex::new(Backlog::new(Arc::clone(&parts.settings.instance))),
        something: Notify::new(),
    });
    let is_new = parts.settings.place == Place::Memory;
    if !is_new {
        parts.events.await_registry();
    }
    let taking = take(Arc::clone(&shared), parts.follower, parts.events.clone(), parts.public);
    let writing = Writing {
        settings: parts.settings,
        reader: parts.reader,
        events: parts.events,
        metrics: parts.metrics,
        clock: parts.clock,
        shutdown: parts.shutdown,
        shared,
        current,
        run: run_number(),
        written: None,
        state: State::Unknown,
        pause: PAUSE,
        tidied: None,
        recalls: !is_new,
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

struct Shared {
    backlog: Mutex<Backlog>,
    something: Notify,
}

impl Shared {
    /// A panic elsewhere leaves the backlog consistent.
    fn backlog(&self) -> MutexGuard<'_, Backlog> {
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

async fn take(shared: Arc<Shared>, mut follower: Follower, events: Arc<Events>, public: fn() -> HashSet<Fingerprint>) {
    let reading = tokio::task::spawn_blocking(public);
    tokio::pin!(reading);
    let mut known = false;
    loop {
        tokio::select! {
            anchors = &mut reading, if !known => {
                known = true;
                shared.backlog().knows_public(anchors.unwrap_or_default());
            }
            event = follower.next() => {
                let Some(event) = event else { return };
                if shared.backlog().take(&event, events.now()) {
                    shared.something.notify_one();
                }
            }
        }
    }
}

/// The last reported state of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    Up(String),
    Down(String),
}

struct Writing {
    settings: Settings,
    reader: Reader,
    events: Arc<Events>,
    metrics: Arc<Metrics>,
    clock: Clock,
    shutdown: Shutdown,
    shared: Arc<Shared>,
    current: watch::Sender<Option<Store>>,
    run: i64,
    /// What the database holds of the snapshot; `None`: unknown.
    written: Option<Observed>,
    state: State,
    pause: Duration,
    tidied: Option<Instant>,
    /// The rows of earlier processes have not been read yet.
    recalls: bool,
}

impl Writing {
    async fn run(mut self) -> Option<Store> {
        let mut shutdown = self.shutdown.clone();
        let mut store = None;
        loop {
            let done = self.once(&mut store).await;
            let ended = match done {
                Ok(()) => {
                    self.pause = PAUSE;
                    self.wait(&mut shutdown).await
                }
                Err(()) => {
                    let pause = self.pause;
                    self.pause = (pause * 2).min(LONGEST_PAUSE);
                    tokio::select! {
                        () = sleep(pause) => false,
                        () = shutdown.reached(Phase::Over) => true,
                    }
                }
            };
            if ended {
                // Events during shutdown are worth one last attempt, but no wait.
                let _ = timeout(LAST, self.once(&mut store)).await;
                return store;
            }
        }
    }

    /// Waits for something to write; returns whether the process is over.
    async fn wait(&self, shutdown: &mut Shutdown) -> bool {
        let something = async {
            let _ = timeout(ALIVE, self.shared.something.notified()).await;
            sleep(TOGETHER).await;
        };
        tokio::select! {
            () = something => false,
            () = shutdown.reached(Phase::Over) => true,
        }
    }

    /// Writes what is pending, opening the database first if it is not open.
    async fn once(&mut self, store: &mut Option<Store>) -> Result<(), ()> {
        if let Some(gone) = store.take_if(|open| !open.is_in_place()) {
            gone.close().await;
            self.written = None;
        }
        let snapshot = self.reader.take();
        let observed = Observed { keyrings: snapshot.keyrings.clone(), trusts: snapshot.trusts.clone() };
        let batch = self.shared.backlog().batch();
        let overlaps = snapshot.in_overlap();
        let former = self.recalls.then(|| overlaps.iter().map(|overlap| overlap.rotated).min());
        let tidy = self.tidied.is_none_or(|tidied| tidied.elapsed() >= TIDY);
        let job = Job {
            settings: &self.settings,
            store: store.take(),
            observed: &observed,
            written: self.written.as_ref(),
            batch: (self.run, &batch),
            tidy,
            former,
            now: self.clock.now(),
        };
        let mut work = Box::pin(job.work());
        let done = match timeout(SLOW, &mut work).await {
            Ok(done) => done,
            Err(_) => {
                let explanation =
                    format!("it has not answered for {} s; events are queued, traffic continues", SLOW.as_secs());
                told(&self.events, &mut self.state, State::Down(explanation));
                self.current.send_replace(None);
                let slow = || Error::Slow { place: "the database".to_owned(), seconds: GIVE_UP.as_secs() };
                timeout(GIVE_UP - SLOW, &mut work).await.unwrap_or_else(|_| Err(slow()))
            }
        };
        drop(work);
        match done {
            Ok((open, former)) => {
                if let Some(former) = former {
                    self.recalls = false;
                    let since = former.since.time();
                    self.events.recall_uses(recalled(former, &snapshot.keyrings, &overlaps), since);
                }
                self.written = Some(observed);
                if tidy {
                    self.tidied = Some(Instant::now());
                }
                self.up(&open);
                *store = Some(open);
                Ok(())
            }
            Err(error) => {
                self.shared.backlog().put_back(batch);
                self.written = None;
                self.current.send_replace(None);
                self.failed(&error);
                Err(())
            }
        }
    }

    fn up(&mut self, store: &Store) {
        let place = match self.settings.place {
            Place::Memory => "in memory: its content is lost on restart".to_owned(),
            _ => store.place().to_owned(),
        };
        let given_up = self.count_dropped();
        let explanation = if given_up == 0 {
            place
        } else {
            format!("{place}; it was unreachable for so long that {given_up} queued rows were dropped")
        };
        if given_up > 0 {
            self.state = State::Unknown;
        }
        told(&self.events, &mut self.state, State::Up(explanation));
        if self.current.borrow().is_none() {
            self.current.send_replace(Some(store.clone()));
        }
    }

    fn failed(&mut self, error: &Error) {
        self.count_dropped();
        if let (Error::Damaged { .. }, Place::File(path)) = (error, &self.settings.place) {
            let explanation = match Store::set_aside(path, self.clock.now()) {
                Ok(aside) => {
                    self.pause = PAUSE;
                    let kept = aside.kept.display();
                    format!(
                        "{error}; set aside as {kept}, and a new one is created: recover data from the old one"
                    )
                }
                Err(refused) => format!("{error}, and it cannot be set aside: {refused}"),
            };
            self.state = State::Down(explanation.clone());
            self.events.emit(Event::Registry { up: false, damaged: true, explanation: printable(&explanation) });
            return;
        }
        told(&self.events, &mut self.state, State::Down(error.to_string()));
    }

    /// Counts the rows that the backlog dropped; returns how many.
    fn count_dropped(&self) -> u64 {
        let dropped = self.shared.backlog().dropped();
        self.metrics.registry_dropped("failure", dropped.failures);
        self.metrics.registry_dropped("peer", dropped.peers);
        self.metrics.registry_dropped("history", dropped.history);
        dropped.total()
    }
}

/// Emits a change of the database's state, once.
fn told(events: &Events, state: &mut State, now: State) {
    let same = match (&*state, &now) {
        (State::Up(_), State::Up(_)) => true,
        (before, now) => before == now,
    };
    if same {
        return;
    }
    let (up, explanation) = match &now {
        State::Unknown => return,
        State::Up(explanation) => (true, explanation),
        State::Down(explanation) => (false, explanation),
    };
    events.emit(Event::Registry { up, damaged: false, explanation: printable(explanation) });
    *state = now;
}

/// One write.
struct Job<'a> {
    settings: &'a Settings,
    store: Option<Store>,
    observed: &'a Observed,
    written: Option<&'a Observed>,
    batch: (i64, &'a Batch),
    tidy: bool,
    /// Set if the rows of earlier processes are to be read, with the start of the first overlap.
    former: Option<Option<Timestamp>>,
    now: Timestamp,
}

impl Job<'_> {
    async fn work(self) -> Result<(Store, Option<Former>), Error> {
        let (store, written) = match self.store {
            Some(store) => (store, self.written),
            None => (Store::open(self.settings, Access::Write).await?, None),
        };
        store.write((self.observed, written), self.batch, self.now).await?;
        if self.tidy {
            store.tidy(self.now).await?;
            store.forget_alerts(self.now).await?;
        }
        let former = match self.former {
            Some(rotated) => Some(store.former(rotated).await?),
            None => None,
        };
        Ok((store, former))
    }
}
