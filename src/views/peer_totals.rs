//! How many peers passed which filter a moment ago: to count them anew takes most of the time that their list takes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::registry::store::PeerQuery;

/// How old the number of peers may be that a list says beside those that it shows.
const TOTAL_AGE: SignedDuration = SignedDuration::from_secs(30);
/// Filters of which it is kept.
const MOST_TOTALS: usize = 16;

/// The number of peers by filter.
#[derive(Clone, Default)]
pub(super) struct PeerTotals(Arc<Mutex<VecDeque<(PeerQuery, Timestamp, usize)>>>);

impl PeerTotals {
    /// The total of this filter, if it is not too old.
    pub(super) fn find_recent(&self, filter: &PeerQuery, now: Timestamp) -> Option<usize> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, at, total) = known.iter().find(|(of, ..)| of == filter)?;
        (now.duration_since(*at).abs() < TOTAL_AGE).then_some(*total)
    }

    /// Keeps the total of this filter.
    pub(super) fn store_total(&self, filter: PeerQuery, now: Timestamp, total: usize) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(of, ..)| *of != filter);
        known.truncate(MOST_TOTALS - 1);
        known.push_front((filter, now, total));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_is_kept_for_half_a_minute_and_for_few_filters() {
        let totals = PeerTotals::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        let of = |number: usize| PeerQuery { text: Some(number.to_string()), ..PeerQuery::default() };
        totals.store_total(of(1), at(100), 7);
        totals.store_total(of(1), at(101), 8);
        assert_eq!([129, 130, 131].map(|second| totals.find_recent(&of(1), at(second))), [Some(8), Some(8), None]);
        assert_eq!(totals.find_recent(&PeerQuery::default(), at(101)), None);
        for number in 2..2 + MOST_TOTALS {
            totals.store_total(of(number), at(102), number);
        }
        assert_eq!(
            [1, 2, MOST_TOTALS + 1].map(|number| totals.find_recent(&of(number), at(102))),
            [None, Some(2), Some(MOST_TOTALS + 1)]
        );
    }
}
