//! Is the clock steady? A step over five minutes is reported, and nothing is retired until it has been steady as long
//! (contract section 3).
//!
//! Inputs come at least once a second, so a longer way between two of them is a step: of the clock, or of a machine that
//! was suspended, whose wall clock is as little to be trusted right away.

use jiff::{SignedDuration, Timestamp};

use crate::clock::CLOCK_STEP_THRESHOLD;

#[derive(Clone, Copy, Debug)]
pub(super) struct ClockSteadiness {
    last: Timestamp,
    /// While set: a step was seen, and until then nothing is retired.
    unsteady_until: Option<Timestamp>,
    trusted: bool,
}

impl ClockSteadiness {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { last: now, unsteady_until: None, trusted: false }
    }

    /// No jump is a step from now on.
    pub(super) fn trust_clock(&mut self) {
        self.trusted = true;
    }

    /// Notes the time; the step since it was noted last, in seconds.
    pub(super) fn observe_time(&mut self, now: Timestamp) -> Option<i64> {
        let by = now.duration_since(std::mem::replace(&mut self.last, now));
        if self.is_step(by) {
            self.unsteady_until = Some(now.saturating_add(CLOCK_STEP_THRESHOLD).unwrap_or(Timestamp::MAX));
            return Some(by.as_secs());
        }
        if self.is_steady(now) {
            self.unsteady_until = None;
        }
        None
    }

    pub(super) fn is_steady(&self, now: Timestamp) -> bool {
        self.unsteady_until.is_none_or(|until| until <= now)
    }

    /// Whether seeing this time would report something: a step, or that the clock is steady again.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.is_step(now.duration_since(self.last)) || self.unsteady_until.is_some_and(|until| until <= now)
    }

    fn is_step(&self, by: SignedDuration) -> bool {
        !self.trusted && by.unsigned_abs() > CLOCK_STEP_THRESHOLD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time_at_second(second: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + second).unwrap()
    }

    #[test]
    fn a_step_either_way_is_told_once_and_steady_after_five_minutes() {
        for step in [3600, -3600] {
            let mut steady = ClockSteadiness::new(time_at_second(0));
            assert_eq!(steady.observe_time(time_at_second(300)), None, "five minutes are not a step");
            assert!(steady.is_due(time_at_second(300 + step)));
            assert_eq!(steady.observe_time(time_at_second(300 + step)), Some(step));
            assert_eq!(steady.observe_time(time_at_second(301 + step)), None);
            assert!(!steady.is_steady(time_at_second(599 + step)) && steady.is_steady(time_at_second(600 + step)));
            assert!(steady.is_due(time_at_second(600 + step)), "a tick then retires what is over");
            assert_eq!(steady.observe_time(time_at_second(600 + step)), None);
            assert!(!steady.is_due(time_at_second(601 + step)));
        }
    }

    #[test]
    fn a_trusted_clock_jumps_as_it_likes() {
        let mut steady = ClockSteadiness::new(time_at_second(0));
        steady.trust_clock();
        assert_eq!(steady.observe_time(time_at_second(1_000_000)), None);
        assert!(steady.is_steady(time_at_second(1_000_000)));
    }
}
