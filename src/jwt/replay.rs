//! Which tokens have been used: a `jti` is taken once, and remembered until its token expires anyway.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

/// Identifiers that are remembered at once.
const MOST: usize = 100_000;

/// A token's identifier, as its issuer and `jti` make it.
pub type Id = [u8; 32];

/// The identifiers that were used and have not expired.
#[derive(Debug, Default)]
pub struct Window {
    used: BTreeMap<Id, Timestamp>,
    by_end: BTreeSet<(Timestamp, Id)>,
}

/// Why an identifier was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// It was used before.
    Used,
    /// No more can be remembered; to forget one would let it be used again.
    Full,
}

impl Window {
    /// Takes an identifier, which counts as used until `until`.
    ///
    /// # Errors
    /// It was used before, or so many are that no other can be remembered.
    pub fn take(&mut self, id: Id, until: Timestamp, now: Timestamp) -> Result<(), NotTaken> {
        self.take_within(id, until, now, MOST)
    }

    fn take_within(&mut self, id: Id, until: Timestamp, now: Timestamp, most: usize) -> Result<(), NotTaken> {
        while let Some(first) = self.by_end.first().copied().filter(|(end, _)| *end < now) {
            self.by_end.remove(&first);
            self.used.remove(&first.1);
        }
        if self.used.contains_key(&id) {
            return Err(NotTaken::Used);
        }
        if self.used.len() >= most {
            return Err(NotTaken::Full);
        }
        self.used.insert(id, until);
        self.by_end.insert((until, id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn an_identifier_is_taken_once_until_it_ends() {
        let mut window = Window::default();
        assert_eq!(window.take([1; 32], at(10), at(0)), Ok(()));
        assert_eq!(window.take([1; 32], at(99), at(10)), Err(NotTaken::Used));
        assert_eq!(window.take([1; 32], at(20), at(11)), Ok(()));
    }

    #[test]
    fn a_full_window_takes_nothing_rather_than_forget() {
        let mut window = Window::default();
        assert_eq!(window.take_within([1; 32], at(10), at(0), 1), Ok(()));
        assert_eq!(window.take_within([2; 32], at(10), at(0), 1), Err(NotTaken::Full));
        assert_eq!(window.take_within([1; 32], at(10), at(0), 1), Err(NotTaken::Used));
        assert_eq!(window.take_within([2; 32], at(30), at(11), 1), Ok(()));
    }

    proptest! {
        /// Against a slow and obvious second version.
        #[test]
        fn it_remembers_exactly_what_has_not_ended(steps in proptest::collection::vec((0u8..6, 0i64..8, 0i64..4), 0..60)) {
            let (mut window, mut all, mut now) = (Window::default(), Vec::<(u8, i64)>::new(), 0);
            for (id, length, pass) in steps {
                now += pass;
                all.retain(|(_, until)| *until >= now);
                let expected = match () {
                    () if all.iter().any(|(used, _)| *used == id) => Err(NotTaken::Used),
                    () if all.len() >= 3 => Err(NotTaken::Full),
                    () => {
                        all.push((id, now + length));
                        Ok(())
                    }
                };
                prop_assert_eq!(window.take_within([id; 32], at(now + length), at(now), 3), expected);
                prop_assert_eq!(window.used.len(), window.by_end.len());
            }
        }
    }
}
