//! How long before an expiry the owner is alerted (contract section 5, `alert_before`): one rule for alerts, findings
//! and `status`. Pure.

use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);
/// `alert_before = "auto"` for long lifetimes.
const AUTO_THRESHOLDS: [Duration; 5] = [
    Duration::from_hours(60 * 24),
    Duration::from_hours(30 * 24),
    Duration::from_hours(14 * 24),
    Duration::from_hours(7 * 24),
    DAY,
];
/// Lifetimes of at least this are long.
const LONG_LIFETIME: Duration = Duration::from_hours(180 * 24);

/// The thresholds for a certificate with this lifetime, longest first.
pub fn thresholds(alert_before: Option<&[Duration]>, lifetime: Duration) -> Vec<Duration> {
    match alert_before {
        Some(list) => list.to_vec(),
        None if lifetime >= LONG_LIFETIME => AUTO_THRESHOLDS.to_vec(),
        None => vec![lifetime / 4, lifetime / 8, lifetime / 30],
    }
}

/// The longest threshold: before it an expiry is not reported.
pub fn longest_threshold(alert_before: Option<&[Duration]>, lifetime: Duration) -> Duration {
    thresholds(alert_before, lifetime).into_iter().max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn auto_goes_by_the_lifetime_and_a_list_of_ones_own_by_nothing() {
        let days = |days| DAY * days;
        assert_eq!(thresholds(None, days(180)), [60, 30, 14, 7, 1].map(days));
        assert_eq!(thresholds(None, days(90)), [days(90) / 4, days(90) / 8, days(3)]);
        assert_eq!(thresholds(Some(&[days(9)]), days(90)), [days(9)]);
    }

    proptest! {
        #[test]
        fn they_fall_from_the_longest_and_lie_within_the_lifetime(hours in 1u64..200_000) {
            let lifetime = Duration::from_hours(hours);
            let all = thresholds(None, lifetime);
            prop_assert!(all.is_sorted_by(|one, next| one > next));
            prop_assert!(longest_threshold(None, lifetime) == all[0] && all[0] < lifetime);
        }
    }
}
