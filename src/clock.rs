//! The one source of wall-clock time, so that a test can walk past an expiry without sleeping.
//!
//! Rules take `now` as an argument; only the edges ask this clock. Deadlines inside `net`, `tls` and `dataplane` use
//! [`std::time::Instant`] instead and have no business here.

pub(crate) mod deadlines;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;

/// Wall-clock time: the system's, or one that a test moves by hand.
#[derive(Clone, Debug)]
pub struct Clock(ClockSource);

#[derive(Clone, Debug)]
enum ClockSource {
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(ClockSource::System)
    }

    /// A clock that stands still at `start` until [`ManualClock::set`] moves it.
    pub fn manual(start: Timestamp) -> (Self, ManualClock) {
        let cell = Arc::new(AtomicI64::new(start.as_second()));
        (Self(ClockSource::Manual(Arc::clone(&cell))), ManualClock(cell))
    }

    /// Whether a test moves this clock by hand; a time step then does not come from the host.
    pub fn is_manual(&self) -> bool {
        matches!(self.0, ClockSource::Manual(_))
    }

    /// The time now, in whole microseconds: what people and most tools read has no nanoseconds. A manual clock has whole seconds only.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that may read the system's clock")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            ClockSource::System => {
                let now = Timestamp::now();
                Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
            }
            ClockSource::Manual(cell) => Timestamp::from_second(cell.load(Ordering::SeqCst)).unwrap_or(Timestamp::MAX),
        }
    }
}

/// Moves the [`Clock`] that was made with it.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// Sets the clock, forwards or backwards.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_second(), Ordering::SeqCst);
    }

    /// Moves the clock forward by whole seconds.
    pub fn advance(&self, by: std::time::Duration) {
        let seconds = i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
        self.0.fetch_add(seconds, Ordering::SeqCst);
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
