//! The time that facts are recorded with: the wall clock's, but a step of it counts only once it is announced.
//!
//! What keeps recorded times moves them with each step, so that ages stay what they were. Until then facts are recorded as if
//! the clock had not been stepped: so that all of them are moved, and none twice. Pure: both times are arguments.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// What is a step of the clock, and how long it takes to be steady again (contract section 3).
pub const CLOCK_STEP_THRESHOLD: Duration = Duration::from_mins(5);
/// A step that is not announced for so long will not be: facts follow the wall clock again.
const STEP_PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// A reading of this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordingTime {
    /// The time to record.
    pub now: Timestamp,
    /// The sum of the steps that were announced since the process began: what keeps times moves them by what this has grown.
    pub stepped: SignedDuration,
}

/// Tells steps of the wall clock from time that has passed.
#[derive(Debug)]
pub(super) struct TimeAccount {
    /// The last reading of the wall clock that was no step, and that of a clock that is never stepped.
    wall: Timestamp,
    steady: SignedDuration,
    /// When the step that is not announced yet was noticed.
    pending: Option<SignedDuration>,
    stepped: SignedDuration,
}

impl TimeAccount {
    pub(super) fn new(wall: Timestamp, steady: SignedDuration) -> Self {
        Self { wall, steady, pending: None, stepped: SignedDuration::ZERO }
    }

    /// The time to record.
    pub(super) fn read(&mut self, wall: Timestamp, steady: SignedDuration) -> RecordingTime {
        let expected = self.expect_wall(steady);
        let is_step = wall.duration_since(expected).unsigned_abs() > CLOCK_STEP_THRESHOLD;
        if is_step && steady - *self.pending.get_or_insert(steady) < STEP_PATIENCE {
            return RecordingTime { now: expected, stepped: self.stepped };
        }
        (self.wall, self.steady, self.pending) = (wall, steady, None);
        RecordingTime { now: wall, stepped: self.stepped }
    }

    /// A step is announced: from now on the wall clock's time is recorded. Returns by how much it has been stepped.
    pub(super) fn adopt_step(&mut self, wall: Timestamp, steady: SignedDuration) -> SignedDuration {
        let step = wall.duration_since(self.expect_wall(steady));
        (self.wall, self.steady, self.pending) = (wall, steady, None);
        self.stepped = self.stepped.saturating_add(step);
        step
    }

    /// What the wall clock would show had it not been stepped.
    fn expect_wall(&self, steady: SignedDuration) -> Timestamp {
        let passed = steady.saturating_sub(self.steady);
        self.wall.saturating_add(passed).unwrap_or(self.wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    fn read_at(account: &mut TimeAccount, wall: i64, steady: i64) -> (i64, i64) {
        let time = account.read(Timestamp::from_second(wall).unwrap(), SignedDuration::from_secs(steady));
        (time.now.as_second(), time.stepped.as_secs())
    }

    #[test]
    fn a_step_counts_once_it_is_announced_and_exactly() {
        for step in [40 * 24 * HOUR, -36 * HOUR] {
            let mut account = TimeAccount::new(Timestamp::UNIX_EPOCH, SignedDuration::ZERO);
            assert_eq!(read_at(&mut account, 100, 100), (100, 0));
            assert_eq!(read_at(&mut account, 101 + step, 101), (101, 0), "not announced yet");
            assert_eq!(read_at(&mut account, 102 + step, 102), (102, 0));
            let wall = Timestamp::from_second(103 + step).unwrap();
            assert_eq!(account.adopt_step(wall, SignedDuration::from_secs(103)).as_secs(), step);
            assert_eq!(read_at(&mut account, 104 + step, 104), (104 + step, step));
        }
    }

    #[test]
    fn time_that_passes_unread_makes_no_step_and_small_corrections_are_followed_at_once() {
        let mut account = TimeAccount::new(Timestamp::UNIX_EPOCH, SignedDuration::ZERO);
        assert_eq!(read_at(&mut account, 50 * HOUR, 50 * HOUR), (50 * HOUR, 0));
        for correction in 1..10 {
            let (wall, steady) = (50 * HOUR + correction * 300, 50 * HOUR);
            assert_eq!(read_at(&mut account, wall, steady), (wall, 0), "five minutes are not a step, however often");
        }
    }

    #[test]
    fn a_step_that_is_never_announced_is_followed_after_five_minutes() {
        let mut account = TimeAccount::new(Timestamp::UNIX_EPOCH, SignedDuration::ZERO);
        assert_eq!(read_at(&mut account, HOUR, 0), (0, 0));
        assert_eq!(read_at(&mut account, HOUR + 299, 299), (299, 0));
        assert_eq!(read_at(&mut account, HOUR + 300, 300), (HOUR + 300, 0));
    }
}
