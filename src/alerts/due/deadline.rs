//! How near an end is: the threshold that has passed, and the words for the time that is left.

use std::time::Duration;

use jiff::Timestamp;

use crate::pki::format_day;

/// The last threshold that has passed, and whether it is the last of all.
pub(super) fn passed_threshold(end: Timestamp, thresholds: &[Duration], now: Timestamp) -> Option<(Duration, bool)> {
    let left = if end < now { Duration::ZERO } else { end.duration_since(now).unsigned_abs() };
    let index = thresholds.iter().rposition(|threshold| left <= *threshold)?;
    Some((thresholds[index], index + 1 == thresholds.len()))
}

/// `60 days`, `5 hours`, `3 minutes`.
pub(super) fn time_left(end: Timestamp, now: Timestamp) -> String {
    let left = if end < now { Duration::ZERO } else { end.duration_since(now).unsigned_abs() };
    let (count, unit) = match left.as_secs() {
        seconds @ 0..3_600 => (seconds / 60, "minute"),
        seconds @ 3_600..172_800 => (seconds / 3_600, "hour"),
        seconds => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// `expires in 60 days (2026-03-01)`, `expired on 2026-03-01`.
pub(super) fn expiry_text(end: Timestamp, now: Timestamp) -> String {
    if end < now {
        format!("expired on {}", format_day(end))
    } else {
        format!("expires in {} ({})", time_left(end, now), format_day(end))
    }
}
