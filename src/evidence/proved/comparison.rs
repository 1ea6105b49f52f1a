//! Which requests were compared lately: an answer is compared with another pair's at most once a minute for each class of
//! requests, so that what the application refuses to all does not use up the minute of a path that demands a certificate.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::answer::RequestClass;
use crate::keyring::fit::shift_time;

/// How often a refusal status is compared with another pair, for one class of requests at one node.
pub(super) const COMPARISON_INTERVAL: Duration = Duration::from_mins(1);
/// Comparisons of one node within that time, whatever the classes: an upstream that refuses much is not asked twice each time.
const MAX_CLASSES: usize = 64;

/// Whether so much time has not passed since then, in either direction.
pub(super) fn is_within(last: Timestamp, time: Duration, now: Timestamp) -> bool {
    now.duration_since(last).unsigned_abs() < time
}

/// When each class was last compared, within the last minute.
#[derive(Clone, Debug, Default)]
pub(super) struct ComparisonTimes(Vec<(RequestClass, Timestamp)>);

impl ComparisonTimes {
    /// Whether an answer to a request of this class may be compared now.
    pub(super) fn may_compare(&self, class: RequestClass, now: Timestamp) -> bool {
        let mut recent = self.0.iter().filter(|(_, last)| is_within(*last, COMPARISON_INTERVAL, now));
        recent.clone().count() < MAX_CLASSES && recent.all(|(known, _)| *known != class)
    }

    /// Takes a comparison back that has told nothing: the next answer of this class may be compared at once.
    pub(super) fn forget_comparison(&mut self, class: RequestClass) {
        self.0.retain(|(known, _)| *known != class);
    }

    /// After a step of the clock the minute is as far gone as before it.
    pub(super) fn shift_times(&mut self, step: SignedDuration) {
        self.0.iter_mut().for_each(|(_, last)| *last = shift_time(*last, step));
    }

    /// Records that an answer of this class is compared.
    pub(super) fn record_comparison(&mut self, class: RequestClass, now: Timestamp) {
        self.0.retain(|(_, last)| is_within(*last, COMPARISON_INTERVAL, now));
        self.0.push((class, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_is_compared_once_a_minute_and_few_of_them() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let class = |number: usize| RequestClass::new("GET", ["/a", "/b"][number]);
        let mut times = ComparisonTimes::default();
        assert!(times.may_compare(class(0), at(0)));
        times.record_comparison(class(0), at(0));
        assert!(!times.may_compare(class(0), at(59)) && times.may_compare(class(1), at(59)));
        assert!(times.may_compare(class(0), at(60)));
        for letters in 0..1_000_u32 {
            let word: String = letters.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect();
            let class = RequestClass::new("GET", &format!("/{word}"));
            if times.may_compare(class, at(100)) {
                times.record_comparison(class, at(100));
            }
        }
        assert_eq!(times.0.len(), MAX_CLASSES);
    }
}
