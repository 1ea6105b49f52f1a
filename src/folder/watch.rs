//! The directory watch that survives symlink swaps, plus the rescan, as one task of the control plane.
//!
//! A notification means "read everything again" and nothing more. After each reading the watch is armed anew on the
//! directories that this reading went through, and a reading counts as the last one only when the next, made with the
//! watch already armed, says the same: so nothing is lost between reading and arming.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::places::WatchPlaces;
use super::read::reread_folder;
use super::reading::{FolderPart, FolderReading, PartObservation};
use super::settle::{ArrivalTime, FolderVerdict, QUIET_PERIOD, SettleDecision, SettleState};
use super::{FolderContents, FolderSettings};

/// Under notifications that never pause, a reading is made this long after the first.
const MAX_READ_DELAY: Duration = Duration::from_millis(400);
/// How often the folder is read where it cannot be watched.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Answered once everything that the folder held when it was ordered has settled and was sent.
pub type ReadingReceipt = oneshot::Sender<()>;

/// What the watch sends, in order.
#[derive(Debug)]
pub enum FolderDelivery {
    /// What the folder holds now.
    Contents(FolderContents),
    /// An ordered reading is complete: whatever it found was sent before.
    Receipt(ReadingReceipt),
}

/// Runs until `out` is closed. `settings` may change at a reload; a change of it asks for a reading at once (SIGHUP), as an
/// order does, which is also answered.
/// Only contents that differ from the last ones are sent. Incomplete parts are sent once they have settled: their
/// problems then have `ProblemSeverity::Refused`.
///
/// `first` is a reading that was made before and is known to the receiver: the watch goes on from there. Without one
/// the first reading is sent at once, whatever it holds. Incomplete parts of either follow once they settle. A missing
/// folder changes nothing but `problems`.
pub async fn watch_folder(
    mut settings: watch::Receiver<FolderSettings>,
    mut orders: mpsc::Receiver<ReadingReceipt>,
    first: Option<FolderReading>,
    out: mpsc::Sender<FolderDelivery>,
) {
    let mut watched = WatchedPlaces::new();
    let mut settle = SettleState::default();
    let mut settled = FolderVerdict::default();
    let mut timing = WatchTiming::new(Instant::now());
    let mut before: Option<(BTreeMap<FolderPart, PartObservation>, WatchPlaces)> = None;
    let mut is_first = first.is_none();
    if let Some(first) = first {
        let when = ArrivalTime { now: Instant::now(), noticed: None, settle: settings.borrow().settle };
        let decisions = settle.decide(&first.parts, first.missing.is_some(), when);
        before = Some((first.parts.clone(), first.places.clone()));
        let places = first.places.clone();
        settled.apply_decisions(first, &decisions);
        // The first reading of this task confirms that one, as every other: with the watch already armed.
        let armed = tokio::task::spawn_blocking(move || {
            watched.watch_exactly(&places);
            watched
        });
        let Some(armed) = join_blocking(armed).await else { return };
        watched = armed;
    }
    let mut settings_may_change = true;
    let mut awaited = Vec::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(timing.next_read().into()) => {}
            () = watched.bell.rung.notified() => {
                timing.record_notice(Instant::now());
                continue;
            }
            changed = settings.changed(), if settings_may_change => match changed {
                Ok(()) => {}
                Err(_) => {
                    settings_may_change = false;
                    continue;
                }
            },
            Some(order) = orders.recv() => awaited.push(order),
            () = out.closed() => return,
        }
        awaited.extend(std::iter::from_fn(|| orders.try_recv().ok()));
        // In a folder that never comes to rest, only orders that are still waited for may pile up.
        awaited.retain(|order| !order.is_closed());
        let current = settings.borrow_and_update().clone();
        let (rescan, patience) = (current.rescan, current.settle);
        let when = ArrivalTime { now: Instant::now(), noticed: timing.begin_reading(), settle: patience };
        let former = settled.former_files();
        let joined = tokio::task::spawn_blocking(move || {
            let reading = reread_folder(&current, &former);
            watched.watch_exactly(&reading.places);
            (watched, reading)
        });
        let reading: FolderReading;
        let Some(both) = join_blocking(joined).await else { return };
        (watched, reading) = both;
        let decisions = settle.decide(&reading.parts, reading.missing.is_some(), when);
        let shape = (reading.parts.clone(), reading.places.clone());
        let is_confirmed = before.as_ref() == Some(&shape);
        before = Some(shape);
        timing.finish_reading(
            Instant::now(),
            if watched.needs_polling() { rescan.min(POLL_INTERVAL) } else { rescan },
            is_confirmed,
            &decisions,
        );
        if settled.apply_decisions(reading, &decisions) || is_first {
            is_first = false;
            if out.send(FolderDelivery::Contents(settled.contents().clone())).await.is_err() {
                return;
            }
        }
        if !decisions.values().any(|decision| matches!(decision, SettleDecision::Wait(_))) {
            for order in awaited.drain(..) {
                if out.send(FolderDelivery::Receipt(order)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The result of work off the runtime, whose panic goes on here; `None` while the runtime ends.
async fn join_blocking<T>(work: tokio::task::JoinHandle<T>) -> Option<T> {
    match work.await {
        Ok(result) => Some(result),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

/// When to read next.
struct WatchTiming {
    /// The first and the last notice since the last reading began.
    noticed: Option<(Instant, Instant)>,
    /// The rescan, a confirmation, or a part that settles.
    planned: Instant,
}

impl WatchTiming {
    fn new(now: Instant) -> Self {
        Self { noticed: None, planned: now }
    }

    fn record_notice(&mut self, now: Instant) {
        let first = self.noticed.map_or(now, |(first, _)| first);
        self.noticed = Some((first, now));
    }

    fn next_read(&self) -> Instant {
        let noticed = self.noticed.map(|(first, last)| (last + QUIET_PERIOD).min(first + MAX_READ_DELAY));
        noticed.map_or(self.planned, |noticed| noticed.min(self.planned))
    }

    /// A reading begins; the last notice before it.
    fn begin_reading(&mut self) -> Option<Instant> {
        self.noticed.take().map(|(_, last)| last)
    }

    fn finish_reading(
        &mut self,
        now: Instant,
        rescan: Duration,
        is_confirmed: bool,
        decisions: &BTreeMap<FolderPart, SettleDecision>,
    ) {
        let settles = decisions.values().filter_map(|decision| match decision {
            SettleDecision::Wait(until) => Some(*until),
            SettleDecision::Act | SettleDecision::Refuse => None,
        });
        let confirmation = (!is_confirmed).then_some(now + QUIET_PERIOD);
        let next = settles.chain(confirmation).min();
        self.planned = next.map_or(now + rescan, |next| next.min(now + rescan));
    }
}

/// What the watcher's thread and the task share.
struct ChangeNotifier {
    rung: Notify,
    /// Where a change matters.
    places: Mutex<WatchPlaces>,
    /// The kernel watches no more directories.
    exhausted: AtomicBool,
}

impl ChangeNotifier {
    fn handle_event(&self, event: notify::Result<notify::Event>) {
        let matters = match event {
            // Our own reading opens files and directories: that would feed itself.
            Ok(event) => match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => self.concerns(&event.paths),
                EventKind::Access(_) => false,
                _ => event.need_rescan() || self.concerns(&event.paths),
            },
            Err(error) => {
                if matches!(error.kind, notify::ErrorKind::MaxFilesWatch) {
                    self.exhausted.store(true, Ordering::Relaxed);
                }
                true
            }
        };
        if matters {
            self.rung.notify_one();
        }
    }

    fn concerns(&self, paths: &[PathBuf]) -> bool {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        paths.is_empty() || paths.iter().any(|path| places.concerns(path))
    }
}

/// The directories under watch.
struct WatchedPlaces {
    bell: Arc<ChangeNotifier>,
    /// `None` where the kernel has no watcher left for us: tried again at each reading.
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of each directory under watch.
    directories: BTreeMap<PathBuf, (u64, u64)>,
    warned: bool,
}

impl WatchedPlaces {
    fn new() -> Self {
        let bell = ChangeNotifier { rung: Notify::new(), places: Mutex::default(), exhausted: AtomicBool::new(false) };
        Self { bell: Arc::new(bell), watcher: None, directories: BTreeMap::new(), warned: false }
    }

    /// Whether changes may go unnoticed, so that the folder has to be polled.
    fn needs_polling(&self) -> bool {
        self.watcher.is_none() || self.bell.exhausted.load(Ordering::Relaxed)
    }

    /// Watches exactly these directories. Blocking. A directory that was deleted and made again under the same name is
    /// another one to the kernel, so every one is armed again each time; where nothing changed that has no effect.
    fn watch_exactly(&mut self, places: &WatchPlaces) {
        places.clone_into(&mut self.bell.places.lock().unwrap_or_else(PoisonError::into_inner));
        self.bell.exhausted.store(false, Ordering::Relaxed);
        if self.watcher.is_none() {
            let bell = Arc::clone(&self.bell);
            // Links are followed by `Places`, never by the watcher: it would walk wherever they lead.
            let quiet = notify::Config::default().with_follow_symlinks(false);
            match RecommendedWatcher::new(move |event| bell.handle_event(event), quiet) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(error) => return self.warn_once(&error),
            }
        }
        let Some(watcher) = &mut self.watcher else { return };
        let mut armed = BTreeMap::new();
        let mut refused = None;
        for path in places.directories() {
            let Ok(metadata) = fs::metadata(path) else { continue };
            let identity = (metadata.dev(), metadata.ino());
            if self.directories.remove(path).is_some_and(|former| former != identity) {
                // The kernel still watches the former directory, wherever it went.
                let _ = watcher.unwatch(path);
            }
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => drop(armed.insert(path.clone(), identity)),
                // It went away meanwhile; the directory above reports that.
                Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
                Err(error) => refused = Some((path.clone(), error)),
            }
        }
        for path in self.directories.keys() {
            // Fails where the directory is gone, and the watch with it.
            let _ = watcher.unwatch(path);
        }
        self.directories = armed;
        if let Some((path, error)) = refused {
            self.bell.exhausted.store(true, Ordering::Relaxed);
            match error.kind {
                notify::ErrorKind::MaxFilesWatch => self.warn_once(&error),
                _ => self.warn_of_path(&path, &error),
            }
        }
    }

    /// Names a folder that cannot be watched, once.
    fn warn_of_path(&mut self, path: &Path, error: &notify::Error) {
        if !std::mem::replace(&mut self.warned, true) {
            let shown = crate::pki::printable(&path.to_string_lossy());
            tracing::warn!(
                path = %shown,
                %error,
                "cannot watch this folder, reading everything every second instead: grant read access to the user that Sidekey runs as"
            );
        }
    }

    fn warn_once(&mut self, error: &notify::Error) {
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                %error,
                "cannot watch the folder, reading it every second instead: raise fs.inotify.max_user_instances and max_user_watches"
            );
        }
    }
}

#[cfg(test)]
mod tests;
