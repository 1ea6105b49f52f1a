//! When a sender that is held on the previous pair is shown the refused one again (contract section 4, rule 4).
//!
//! A success on the previous pair is one that any peer would have had, so what is held is tried again: one handshake at a
//! time, with pauses that grow, because each trial costs a sender that really refuses the pair a handshake.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::keyring::fit::{add_saturating, shift_time};

/// The first pause: a sender that is held for another one's alert is free again within a day.
const FIRST_PAUSE: Duration = Duration::from_hours(12);
/// Each further pause is so many times as long as the one before.
const PAUSE_GROWTH: u32 = 8;
/// How long one handshake may take to show what it makes of the pair.
const TRIAL_PATIENCE: Duration = Duration::from_mins(10);
/// Refusals in a row of the pair that a sender was held on, after which its trust may have changed.
const DOUBTS_THAT_COUNT: u8 = 2;
/// Doubts bring a trial about at most this often, and less often after each one that failed: they are not authenticated, so they may be
/// a stranger's.
const DOUBT_PAUSE: Duration = Duration::from_hours(1);

/// The trials of one held sender.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TrialSchedule {
    /// When the next one may begin; `None`: nothing is held yet.
    due: Option<Timestamp>,
    pause: Duration,
    /// When the one that is running began.
    running: Option<Timestamp>,
    /// When the last one ended.
    ended: Option<Timestamp>,
    doubts: u8,
    /// Doubts have brought a trial about: it may begin at once.
    hurried: bool,
    /// The one that is running was brought about so.
    hasty: bool,
    /// The pause after the last such trial that failed.
    doubt_pause: Duration,
}

/// A schedule in its persisted form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct PersistedTrial {
    due: Timestamp,
    pause_seconds: u64,
}

impl TrialSchedule {
    /// The sender has completed a request on the pair it is held on: from now on it is tried, if it was not before.
    pub(super) fn hold_sender(&mut self, now: Timestamp) {
        (self.doubts, self.hurried) = (0, false);
        if self.due.is_none() {
            self.pause = self.pause.max(FIRST_PAUSE);
            self.due = Some(add_saturating(now, self.pause));
        }
    }

    /// The pair that it was held on is no longer shown: its trials go on as they were once it is held on another one.
    pub(super) fn release(&mut self) {
        (self.due, self.running, self.doubts, self.hurried) = (None, None, 0, false);
    }

    /// Whether its sender has completed a request on the pair it is held on.
    pub(super) fn is_held(&self) -> bool {
        self.due.is_some()
    }

    /// Whether this handshake is the next trial: then it is running from now on.
    pub(super) fn begin_if_due(&mut self, now: Timestamp) -> bool {
        let idle = self.running.is_none_or(|since| now < since || add_saturating(since, TRIAL_PATIENCE) <= now);
        let is_due = self.due.is_some_and(|due| due <= now);
        let begins = idle && (is_due || self.hurried);
        if begins {
            (self.running, self.hasty) = (Some(now), !is_due);
        }
        begins
    }

    /// The refused pair was refused again: if that was the trial, the next one is far.
    pub(super) fn fail(&mut self, now: Timestamp) {
        if self.running.take().is_some() {
            if self.hasty {
                self.doubt_pause = self.doubt_pause.max(DOUBT_PAUSE).saturating_mul(PAUSE_GROWTH);
            }
            self.pause = self.pause.saturating_mul(PAUSE_GROWTH);
            self.postpone(now);
        }
    }

    /// Another sender of the same kind has accepted the pair: that says nothing of the one that is held.
    pub(super) fn pass(&mut self, now: Timestamp) {
        if self.running.take().is_some() {
            self.postpone(now);
        }
    }

    /// The pair that the sender is held on was refused: again and again, its trust may have changed.
    pub(super) fn doubt(&mut self, now: Timestamp) {
        self.doubts = self.doubts.saturating_add(1);
        let pause = self.doubt_pause.max(DOUBT_PAUSE);
        let rested = self.ended.is_none_or(|ended| now < ended || add_saturating(ended, pause) <= now);
        self.hurried |= self.doubts >= DOUBTS_THAT_COUNT && rested;
    }

    /// After a step of the clock the next trial is as far away as before.
    pub(super) fn shift_times(&mut self, step: SignedDuration) {
        for at in [&mut self.due, &mut self.running, &mut self.ended] {
            *at = at.map(|at| shift_time(at, step));
        }
    }

    pub(super) fn to_persisted(&self) -> Option<PersistedTrial> {
        self.due.map(|due| PersistedTrial { due, pause_seconds: self.pause.as_secs() })
    }

    pub(super) fn from_persisted(persisted: Option<PersistedTrial>) -> Self {
        let Some(PersistedTrial { due, pause_seconds }) = persisted else { return Self::default() };
        Self { due: Some(due), pause: Duration::from_secs(pause_seconds).max(FIRST_PAUSE), ..Self::default() }
    }

    fn postpone(&mut self, now: Timestamp) {
        (self.doubts, self.hurried) = (0, false);
        self.ended = Some(now);
        self.due = Some(add_saturating(now, self.pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hour(hours: i64) -> Timestamp {
        crate::keyring::pool::day(0) + jiff::SignedDuration::from_hours(hours)
    }

    #[test]
    fn pauses_between_trials_grow_and_one_runs_at_a_time() {
        let mut trials = TrialSchedule::default();
        assert!(!trials.begin_if_due(hour(1000)), "nothing is held yet");
        trials.hold_sender(hour(0));
        trials.hold_sender(hour(5));
        assert!(!trials.begin_if_due(hour(11)));
        assert!(trials.begin_if_due(hour(12)));
        assert!(!trials.begin_if_due(hour(12)), "one at a time");
        trials.fail(hour(12));
        trials.fail(hour(12));
        assert!(!trials.begin_if_due(hour(107)));
        assert!(trials.begin_if_due(hour(108)), "four days later");
        trials.pass(hour(108));
        assert!(!trials.begin_if_due(hour(203)));
        assert!(trials.begin_if_due(hour(204)), "another one's success makes the pause no longer");
        assert!(trials.begin_if_due(hour(205)), "a trial that came to nothing ends by itself");
    }

    #[test]
    fn a_sender_that_refuses_what_it_is_held_on_is_tried_soon_but_not_again_and_again() {
        let mut trials = TrialSchedule::default();
        trials.hold_sender(hour(0));
        trials.doubt(hour(1));
        trials.hold_sender(hour(1));
        trials.doubt(hour(1));
        assert!(!trials.begin_if_due(hour(1)), "it has used the pair in between");
        trials.doubt(hour(1));
        assert!(trials.begin_if_due(hour(1)));
        trials.fail(hour(1));
        trials.doubt(hour(1));
        trials.doubt(hour(1));
        assert!(!trials.begin_if_due(hour(1)));
        trials.doubt(hour(8));
        assert!(!trials.begin_if_due(hour(8)));
        trials.doubt(hour(9));
        assert!(trials.begin_if_due(hour(9)));
    }

    #[test]
    fn a_stranger_s_doubts_bring_few_trials_and_none_once_the_sender_has_used_its_pair() {
        let mut trials = TrialSchedule::default();
        trials.hold_sender(hour(0));
        let doubt_twice = |trials: &mut TrialSchedule, at| (0..2).for_each(|_| trials.doubt(hour(at)));
        doubt_twice(&mut trials, 1);
        trials.hold_sender(hour(2));
        assert!(!trials.begin_if_due(hour(2)), "it has used the pair that it is held on since");
        let mut lost = Vec::new();
        for at in 3..500 {
            doubt_twice(&mut trials, at);
            if trials.begin_if_due(hour(at)) {
                trials.fail(hour(at));
                lost.push(at);
            }
            trials.hold_sender(hour(at));
        }
        assert_eq!(lost, [3, 11, 75], "of five hundred hours");
    }

    #[test]
    fn a_schedule_survives_a_restart_and_one_of_an_older_version_begins_anew() {
        let mut trials = TrialSchedule::default();
        trials.hold_sender(hour(0));
        let mut again = TrialSchedule::from_persisted(trials.to_persisted());
        assert_eq!(again, trials);
        assert!(again.begin_if_due(hour(12)));
        assert_eq!(TrialSchedule::from_persisted(None), TrialSchedule::default());
    }
}
