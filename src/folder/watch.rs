//! The directory watch that survives symlink swaps, plus the rescan, as one task of the control plane.
//!
//! A notification means "read everything again" and nothing more. After each reading the watch is armed anew on the
//! directories that this reading went through, and a reading counts as the last one only when the next, made with the
//! watch already armed, says the same: so nothing is lost between reading and arming.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc, watch};

use super::places::Places;
use super::read::{Reading, read};
use super::settle::{Decision, Part, QUIET, Seen, Settle, Settled, When};
use super::{Contents, Settings};

/// Under notifications that never pause, a reading is made this long after the first.
const IMPATIENCE: Duration = Duration::from_millis(400);
/// How often the folder is read where it cannot be watched.
const POLL: Duration = Duration::from_secs(1);

/// Runs until `out` is closed. `settings` may change at a reload; `rescan` on it asks for a reading at once (SIGHUP).
/// Only contents that differ from the last ones are sent. Incomplete parts are sent once they have settled: their
/// problems then have `Severity::Refused`.
///
/// `first` is a reading that was made before and is known to the receiver: the watch goes on from there. Without one
/// the first reading is sent at once, whatever it holds. Incomplete parts of either follow once they settle. A missing
/// folder changes nothing but `problems`.
pub async fn run(mut settings: watch::Receiver<Settings>, first: Option<Reading>, out: mpsc::Sender<Contents>) {
    let mut watched = Watched::new();
    let mut settle = Settle::default();
    let mut settled = Settled::default();
    let mut timing = Timing::new(Instant::now());
    let mut before: Option<(BTreeMap<Part, Seen>, Places)> = None;
    let mut is_first = first.is_none();
    if let Some(first) = first {
        let when = When { now: Instant::now(), noticed: None, settle: settings.borrow().settle };
        let decisions = settle.reading(&first.parts, first.missing.is_some(), when);
        before = Some((first.parts.clone(), first.places.clone()));
        let places = first.places.clone();
        settled.take(first, &decisions);
        // The first reading of this task confirms that one, as every other: with the watch already armed.
        let armed = tokio::task::spawn_blocking(move || {
            watched.arm(&places);
            watched
        });
        watched = match armed.await {
            Ok(watched) => watched,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
    }
    let mut settings_may_change = true;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(timing.due().into()) => {}
            () = watched.bell.rung.notified() => {
                timing.notice(Instant::now());
                continue;
            }
            changed = settings.changed(), if settings_may_change => match changed {
                Ok(()) => {}
                Err(_) => {
                    settings_may_change = false;
                    continue;
                }
            },
            () = out.closed() => return,
        }
        let current = settings.borrow_and_update().clone();
        let (rescan, patience) = (current.rescan, current.settle);
        let when = When { now: Instant::now(), noticed: timing.begin(), settle: patience };
        let joined = tokio::task::spawn_blocking(move || {
            let reading = read(&current);
            watched.arm(&reading.places);
            (watched, reading)
        });
        let reading: Reading;
        (watched, reading) = match joined.await {
            Ok(both) => both,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
        let decisions = settle.reading(&reading.parts, reading.missing.is_some(), when);
        let shape = (reading.parts.clone(), reading.places.clone());
        let is_confirmed = before.as_ref() == Some(&shape);
        before = Some(shape);
        timing.end(Instant::now(), if watched.is_deaf() { rescan.min(POLL) } else { rescan }, is_confirmed, &decisions);
        if settled.take(reading, &decisions) || is_first {
            is_first = false;
            if out.send(settled.contents().clone()).await.is_err() {
                return;
            }
        }
    }
}

/// When to read next.
struct Timing {
    /// The first and the last notice since the last reading began.
    noticed: Option<(Instant, Instant)>,
    /// The rescan, a confirmation, or a part that settles.
    planned: Instant,
}

impl Timing {
    fn new(now: Instant) -> Self {
        Self { noticed: None, planned: now }
    }

    fn notice(&mut self, now: Instant) {
        let first = self.noticed.map_or(now, |(first, _)| first);
        self.noticed = Some((first, now));
    }

    fn due(&self) -> Instant {
        let noticed = self.noticed.map(|(first, last)| (last + QUIET).min(first + IMPATIENCE));
        noticed.map_or(self.planned, |noticed| noticed.min(self.planned))
    }

    /// A reading begins; the last notice before it.
    fn begin(&mut self) -> Option<Instant> {
        self.noticed.take().map(|(_, last)| last)
    }

    fn end(&mut self, now: Instant, rescan: Duration, is_confirmed: bool, decisions: &BTreeMap<Part, Decision>) {
        let settles = decisions.values().filter_map(|decision| match decision {
            Decision::Wait(until) => Some(*until),
            Decision::Act | Decision::Refuse => None,
        });
        let confirmation = (!is_confirmed).then_some(now + QUIET);
        let next = settles.chain(confirmation).min();
        self.planned = next.map_or(now + rescan, |next| next.min(now + rescan));
    }
}

/// What the watcher's thread and the task share.
struct Bell {
    rung: Notify,
    /// Where a change matters.
    places: Mutex<Places>,
    /// The kernel watches no more directories.
    exhausted: AtomicBool,
}

impl Bell {
    fn hear(&self, event: notify::Result<notify::Event>) {
        let matters = match event {
            // Our own reading opens files and directories: that would feed itself.
            Ok(event) => match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => self.concern(&event.paths),
                EventKind::Access(_) => false,
                _ => event.need_rescan() || self.concern(&event.paths),
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

    fn concern(&self, paths: &[PathBuf]) -> bool {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        paths.is_empty() || paths.iter().any(|path| places.concern(path))
    }
}

/// The directories under watch.
struct Watched {
    bell: Arc<Bell>,
    /// `None` where the kernel has no watcher left for us: tried again at each reading.
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of each directory under watch.
    directories: BTreeMap<PathBuf, (u64, u64)>,
    warned: bool,
}

impl Watched {
    fn new() -> Self {
        let bell = Bell { rung: Notify::new(), places: Mutex::default(), exhausted: AtomicBool::new(false) };
        Self { bell: Arc::new(bell), watcher: None, directories: BTreeMap::new(), warned: false }
    }

    /// Whether changes may go unnoticed, so that the folder has to be polled.
    fn is_deaf(&self) -> bool {
        self.watcher.is_none() || self.bell.exhausted.load(Ordering::Relaxed)
    }

    /// Watches exactly these directories. Blocking. A directory that was deleted and made again under the same name is
    /// another one to the kernel, so every one is armed again each time; where nothing changed that has no effect.
    fn arm(&mut self, places: &Places) {
        places.clone_into(&mut self.bell.places.lock().unwrap_or_else(PoisonError::into_inner));
        self.bell.exhausted.store(false, Ordering::Relaxed);
        if self.watcher.is_none() {
            let bell = Arc::clone(&self.bell);
            // Links are followed by `Places`, never by the watcher: it would walk wherever they lead.
            let quiet = notify::Config::default().with_follow_symlinks(false);
            match RecommendedWatcher::new(move |event| bell.hear(event), quiet) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(error) => return self.warn(&error),
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
                Err(error) => refused = Some(error),
            }
        }
        for path in self.directories.keys() {
            // Fails where the directory is gone, and the watch with it.
            let _ = watcher.unwatch(path);
        }
        self.directories = armed;
        if let Some(error) = refused {
            self.bell.exhausted.store(true, Ordering::Relaxed);
            self.warn(&error);
        }
    }

    fn warn(&mut self, error: &notify::Error) {
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
