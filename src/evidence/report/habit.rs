//! Says how often a sender used to come and when it is due: "weekly, due on Tuesday 2026-12-01".

use jiff::{SignedDuration, Timestamp};

use super::evidence::VisitHistory;

/// So many visits make a habit, over so long a time.
const MIN_VISITS: u64 = 3;
const MIN_SPAN: SignedDuration = SignedDuration::from_hours(1);

/// Intervals up to so many minutes, and their words.
const WORDS: [(i64, i64, &str); 5] = [
    (0, 1, "all the time"),
    (45, 90, "hourly"),
    (20 * 60, 28 * 60, "daily"),
    (6 * 1440, 8 * 1440, "weekly"),
    (26 * 1440, 35 * 1440, "monthly"),
];

/// How often, and when it should come again after its last visit; `None` where too little is
/// known to call it a habit: fewer than three visits, or all within an hour.
pub(super) fn describe_habit(visits: &VisitHistory, now: Timestamp) -> Option<(String, Timestamp)> {
    let times = if visits.visits > 1 { visits.visits } else { visits.handshakes };
    let span = visits.last.duration_since(visits.first);
    if times < MIN_VISITS || span < MIN_SPAN {
        return None;
    }
    let interval = visits.mean_interval()?;
    let due = visits.last.saturating_add(interval).unwrap_or(Timestamp::MAX);
    let often = describe_interval(interval);
    if interval < SignedDuration::from_hours(1) {
        return Some((often, due));
    }
    let date = due.strftime("%Y-%m-%d");
    let when = match due.duration_since(now).as_hours() {
        i64::MIN..0 => format!("overdue since {date}"),
        0..24 => format!("due by {}", due.strftime("%Y-%m-%d %H:%M UTC")),
        24..168 => format!("due on {}", due.strftime("%A %Y-%m-%d")),
        _ => format!("due on {date}"),
    };
    Some((format!("{often}, {when}"), due))
}

fn describe_interval(interval: SignedDuration) -> String {
    let minutes = interval.as_mins();
    let word = WORDS.iter().find(|(from, to, _)| (*from..=*to).contains(&minutes));
    match (word, minutes) {
        (Some((_, _, word)), _) => (*word).to_owned(),
        (None, ..120) => format!("every {minutes} minutes"),
        (None, 120..2880) => format!("every {} hours", (minutes + 30) / 60),
        (None, _) => format!("every {} days", (minutes + 720) / 1440),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visits(every_minutes: i64, times: i64) -> VisitHistory {
        let start: Timestamp = "2026-11-03T09:00:00Z".parse().unwrap();
        let mut visits = VisitHistory::begin(start);
        for number in 1..times {
            // A batch opens three connections at once.
            for second in 0..3 {
                visits.add_handshake(
                    start + SignedDuration::from_mins(every_minutes * number) + SignedDuration::from_secs(second),
                );
            }
        }
        visits
    }

    #[test]
    fn a_habit_is_told_with_the_day_on_which_the_sender_is_due() {
        let now: Timestamp = "2026-11-26T00:00:00Z".parse().unwrap();
        let table = [
            (visits(7 * 1440, 4), "weekly, due on Tuesday 2026-12-01"),
            (visits(1440, 10), "daily, overdue since 2026-11-13"),
            (visits(1440, 23), "daily, due by 2026-11-26 09:00 UTC"),
            (visits(30 * 1440, 1), ""),
            (visits(10 * 1440, 3), "every 10 days, due on 2026-12-03"),
            (visits(60, 500), "hourly, overdue since 2026-11-24"),
            (visits(10, 500), "every 3 minutes"),
            (visits(1, 500), "all the time"),
            // Within seconds, or twice.
            (visits(0, 500), ""),
            (visits(0, 2), ""),
            (visits(7 * 1440, 2), ""),
        ];
        for (visits, said) in table {
            let habit = describe_habit(&visits, now).map(|(habit, _)| habit).unwrap_or_default();
            assert_eq!(habit, said, "{visits:?}");
        }
    }
}
