//! Which tokens have been used: a `jti` is accepted once, and remembered until its token expires.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

/// Identifiers that are remembered at once.
pub const MAX_TOKEN_IDS: usize = 100_000;

/// A token's identifier, as its issuer and `jti` make it.
pub type TokenId = [u8; 32];

/// The identifiers that were used and have not expired.
#[derive(Debug, Default)]
pub struct ReplayWindow {
    used: BTreeMap<TokenId, Timestamp>,
    by_end: BTreeSet<(Timestamp, TokenId)>,
    /// Whether the warning that the window is nearly full has been given.
    said: bool,
}

/// How full the window is after an identifier was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowOccupancy {
    /// There is room, or the warning has already been given.
    Quietly,
    /// A quarter of the capacity is left, for the first time since half of it was free.
    NearlyFull,
}

/// Why an identifier was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayRejection {
    /// It was used before.
    Used,
    /// The window is full; forgetting an identifier would let its token be used again.
    Full,
}

impl ReplayWindow {
    /// Records an identifier, which counts as used until `until`.
    ///
    /// # Errors
    /// It was used before, or the window is full.
    pub fn mark_used(
        &mut self,
        id: TokenId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<WindowOccupancy, ReplayRejection> {
        self.mark_used_within(id, until, now, MAX_TOKEN_IDS)
    }

    fn mark_used_within(
        &mut self,
        id: TokenId,
        until: Timestamp,
        now: Timestamp,
        most: usize,
    ) -> Result<WindowOccupancy, ReplayRejection> {
        while let Some(first) = self.by_end.first().copied().filter(|(end, _)| *end < now) {
            self.by_end.remove(&first);
            self.used.remove(&first.1);
        }
        if self.used.contains_key(&id) {
            return Err(ReplayRejection::Used);
        }
        if self.used.len() >= most {
            return Err(ReplayRejection::Full);
        }
        self.used.insert(id, until);
        self.by_end.insert((until, id));
        let (nearly_full, half_empty) = (self.used.len() >= most / 4 * 3, self.used.len() <= most / 2);
        let taken = if nearly_full && !self.said { WindowOccupancy::NearlyFull } else { WindowOccupancy::Quietly };
        self.said = nearly_full || (self.said && !half_empty);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn timestamp(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn an_identifier_is_taken_once_until_it_ends() {
        let mut window = ReplayWindow::default();
        assert_eq!(window.mark_used([1; 32], timestamp(10), timestamp(0)), Ok(WindowOccupancy::Quietly));
        assert_eq!(window.mark_used([1; 32], timestamp(99), timestamp(10)), Err(ReplayRejection::Used));
        assert_eq!(window.mark_used([1; 32], timestamp(20), timestamp(11)), Ok(WindowOccupancy::Quietly));
    }

    #[test]
    fn a_full_window_takes_nothing_rather_than_forget() {
        let mut window = ReplayWindow::default();
        assert!(window.mark_used_within([1; 32], timestamp(10), timestamp(0), 1).is_ok());
        assert_eq!(window.mark_used_within([2; 32], timestamp(10), timestamp(0), 1), Err(ReplayRejection::Full));
        assert_eq!(window.mark_used_within([1; 32], timestamp(10), timestamp(0), 1), Err(ReplayRejection::Used));
        assert!(window.mark_used_within([2; 32], timestamp(30), timestamp(11), 1).is_ok());
    }

    #[test]
    fn a_window_that_is_three_quarters_full_says_so_once_until_half_of_it_is_free_again() {
        let mut window = ReplayWindow::default();
        let mut take = |ids: std::ops::Range<u8>, until, now| {
            let mut said = |id| {
                window.mark_used_within([id; 32], timestamp(until), timestamp(now), 8).unwrap()
                    == WindowOccupancy::NearlyFull
            };
            ids.filter(|id| said(*id)).collect::<Vec<_>>()
        };
        assert!(take(0..3, 10, 0).is_empty());
        assert_eq!(take(3..8, 20, 0), [5]);
        // Five of eight are left: moving around three quarters does not warn again.
        assert!(take(8..11, 30, 11).is_empty());
        // At 21 three of eight are, and it fills again.
        assert_eq!(take(11..15, 40, 21), [13]);
    }

    proptest! {
        /// Against a slow and obvious second version.
        #[test]
        fn it_remembers_exactly_what_has_not_ended(steps in proptest::collection::vec((0u8..6, 0i64..8, 0i64..4), 0..60)) {
            let (mut window, mut all, mut now) = (ReplayWindow::default(), Vec::<(u8, i64)>::new(), 0);
            for (id, length, pass) in steps {
                now += pass;
                all.retain(|(_, until)| *until >= now);
                let expected: Result<(), ReplayRejection> = match () {
                    () if all.iter().any(|(used, _)| *used == id) => Err(ReplayRejection::Used),
                    () if all.len() >= 3 => Err(ReplayRejection::Full),
                    () => {
                        all.push((id, now + length));
                        Ok(())
                    }
                };
                prop_assert_eq!(window.mark_used_within([id; 32], timestamp(now + length), timestamp(now), 3).map(drop), expected);
                prop_assert_eq!(window.used.len(), window.by_end.len());
            }
        }
    }
}
