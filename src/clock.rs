//! The one source of wall-clock time, so that a test can walk past an expiry without sleeping.
//!
//! Rules take `now` as an argument; only the edges ask this clock. Deadlines inside `net`, `tls` and `dataplane` use
//! [`std::time::Instant`] instead and have no business here.

pub(crate) mod deadlines;
mod recording;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

use recording::TimeAccount;
pub use recording::{CLOCK_STEP_THRESHOLD, RecordingTime};

/// Wall-clock time: the system's, or one that a test moves by hand.
#[derive(Clone, Debug)]
pub struct Clock {
    source: ClockSource,
    account: Arc<Mutex<TimeAccount>>,
}

#[derive(Clone, Debug)]
enum ClockSource {
    /// Since when it is read.
    System(Instant),
    Manual(Arc<Mutex<ManualTime>>),
}

/// What a test has set, in seconds.
#[derive(Clone, Copy, Debug)]
struct ManualTime {
    wall: i64,
    /// How far it was stepped.
    stepped: i64,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::from_source(ClockSource::System(Instant::now()))
    }

    /// A clock that stands still at `start` until [`ManualClock::set`] moves it.
    pub fn manual(start: Timestamp) -> (Self, ManualClock) {
        let time = Arc::new(Mutex::new(ManualTime { wall: start.as_second(), stepped: 0 }));
        (Self::from_source(ClockSource::Manual(Arc::clone(&time))), ManualClock(time))
    }

    fn from_source(source: ClockSource) -> Self {
        let (wall, steady) = source.read_both();
        Self { source, account: Arc::new(Mutex::new(TimeAccount::new(wall, steady))) }
    }

    /// Whether a test moves this clock by hand; a time step then does not come from the host.
    pub fn is_manual(&self) -> bool {
        matches!(self.source, ClockSource::Manual(_))
    }

    /// The time now, in whole microseconds: what people and most tools read has no nanoseconds. A manual clock has whole seconds only.
    pub fn now(&self) -> Timestamp {
        self.source.read_wall()
    }

    /// The time to record facts with, and how far it was stepped: a step counts once it is announced ([`Clock::adopt_step`]).
    pub fn read_recording_time(&self) -> RecordingTime {
        let mut account = lock(&self.account);
        let (wall, steady) = self.source.read_both();
        account.read(wall, steady)
    }

    /// Announces a step to all clones of this clock. Returns by how much it has been stepped, forwards positive.
    pub fn adopt_step(&self) -> SignedDuration {
        let mut account = lock(&self.account);
        let (wall, steady) = self.source.read_both();
        account.adopt_step(wall, steady)
    }
}

impl ClockSource {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that may read the system's clock")]
    fn read_wall(&self) -> Timestamp {
        match self {
            Self::System(_) => {
                let now = Timestamp::now();
                Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
            }
            Self::Manual(time) => to_timestamp(lock(time).wall),
        }
    }

    /// The wall clock, and one that is never stepped.
    fn read_both(&self) -> (Timestamp, SignedDuration) {
        match self {
            Self::System(began) => {
                let steady = SignedDuration::try_from(began.elapsed()).unwrap_or(SignedDuration::MAX);
                (self.read_wall(), steady)
            }
            Self::Manual(time) => {
                let ManualTime { wall, stepped } = *lock(time);
                (to_timestamp(wall), SignedDuration::from_secs(wall.saturating_sub(stepped)))
            }
        }
    }
}

fn to_timestamp(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
}

/// A panic elsewhere leaves no partial update here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Moves the [`Clock`] that was made with it.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<ManualTime>>);

impl ManualClock {
    /// Sets the clock, forwards or backwards, as if that time had passed.
    pub fn set(&self, now: Timestamp) {
        lock(&self.0).wall = now.as_second();
    }

    /// Moves the clock forward by whole seconds.
    pub fn advance(&self, by: std::time::Duration) {
        let seconds = i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
        let mut time = lock(&self.0);
        time.wall = time.wall.saturating_add(seconds);
    }

    /// Steps the clock: it is wrong from now on, or right again, but no time has passed.
    pub fn step_to(&self, now: Timestamp) {
        let mut time = lock(&self.0);
        time.stepped = time.stepped.saturating_add(now.as_second().saturating_sub(time.wall));
        time.wall = now.as_second();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_without_nanoseconds() {
        let clock = Clock::system();
        assert!((0..20).all(|_| clock.now().subsec_nanosecond() % 1000 == 0));
    }
}
