//! Repeated failures from one source: the first few are logged in full, the rest are summed up once a minute
//! ("and 57 more in 60 s").
//!
//! Pure: the caller passes the time. This affects log lines only; counters, memory and followers get every handshake.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use jiff::Timestamp;

use super::Handshake;
use crate::snapshot::Side;
use crate::tls::Outcome;

/// Failures logged in full before the rest are summed up.
const IN_FULL: u32 = 3;
/// Seconds that one summary covers.
const WINDOW: i64 = 60;
/// Sources that are tracked. Further sources share one summary for each listener and reason.
const SOURCES: usize = 4096;

/// What makes two failures the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    side: Side,
    listener: Arc<str>,
    outcome: Outcome,
    reason: &'static str,
    source: Source,
}

/// Where a failure came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// An address; for IPv6 its /64, because one host can use all of it.
    Network(IpAddr),
    /// The address is unknown (a Unix socket, an upstream that did not resolve).
    Unknown,
    /// Sources beyond the limit.
    Others,
}

impl Source {
    fn of(handshake: &Handshake) -> Self {
        let Some(addr) = handshake.peer_addr else { return Self::Unknown };
        Self::Network(match addr.ip().to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Network(IpAddr::V4(v4)) => v4.fmt(out),
            Self::Network(IpAddr::V6(v6)) => write!(out, "{v6}/64"),
            Self::Unknown => out.write_str("unknown"),
            Self::Others => out.write_str("others"),
        }
    }
}

#[derive(Debug)]
struct Count {
    since: Timestamp,
    told: u32,
    untold: u64,
}

/// Failures that were not logged one by one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) side: Side,
    pub(super) listener: Arc<str>,
    pub(super) outcome: Outcome,
    pub(super) reason: &'static str,
    pub(super) source: Source,
    /// How many more.
    pub(super) more: u64,
    /// In how many seconds.
    pub(super) seconds: i64,
}

/// Counts failures by source, listener and reason.
#[derive(Debug, Default)]
pub(super) struct Repeats(HashMap<Key, Count>);

impl Repeats {
    /// Whether to log this failure in full. If not, it is counted for a later [`Sum`].
    pub(super) fn tell(&mut self, handshake: &Handshake) -> bool {
        let mut key = Key {
            side: handshake.side,
            listener: Arc::clone(&handshake.listener),
            outcome: handshake.outcome,
            reason: handshake.reason,
            source: Source::of(handshake),
        };
        if self.0.len() >= SOURCES && !self.0.contains_key(&key) {
            key.source = Source::Others;
        }
        let count = self.0.entry(key).or_insert(Count { since: handshake.time, told: 0, untold: 0 });
        if count.told < IN_FULL {
            count.told += 1;
            true
        } else {
            count.untold += 1;
            false
        }
    }

    /// The summaries that are due. A failure not seen for a whole window is forgotten and will be logged in full again.
    pub(super) fn tick(&mut self, now: Timestamp) -> Vec<Sum> {
        let mut sums = Vec::new();
        self.0.retain(|key, count| {
            let seconds = now.as_second() - count.since.as_second();
            // A clock that was set back must not delay a summary for longer than the step.
            if (0..WINDOW).contains(&seconds) {
                return true;
            }
            sums.extend(sum(key, count, seconds));
            let again = count.untold > 0;
            *count = Count { since: now, told: count.told, untold: 0 };
            again
        });
        sums
    }

    /// All summaries now, at the end of the process.
    pub(super) fn finish(&mut self, now: Timestamp) -> Vec<Sum> {
        let sum = |(key, count): (Key, Count)| sum(&key, &count, now.as_second() - count.since.as_second());
        self.0.drain().filter_map(sum).collect()
    }
}

fn sum(key: &Key, count: &Count, seconds: i64) -> Option<Sum> {
    (count.untold > 0).then(|| Sum {
        side: key.side,
        listener: Arc::clone(&key.listener),
        outcome: key.outcome,
        reason: key.reason,
        source: key.source,
        more: count.untold,
        // Also where the process ends, or the clock was set back.
        seconds: seconds.max(1),
    })
}

#[cfg(test)]
mod tests {
    use super::super::handshake::tests::refused;
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn from(addr: &str, second: i64) -> Handshake {
        Handshake { time: at(second), ..refused(addr) }
    }

    #[test]
    fn the_first_few_are_told_and_the_rest_summed_up_once_a_minute() {
        let mut repeats = Repeats::default();
        let told = (0..60).filter(|_| repeats.tell(&from("203.0.113.7:1000", 0))).count();
        assert_eq!(told, 3);
        assert_eq!(repeats.tick(at(59)), []);
        let sums = repeats.tick(at(60));
        assert_eq!((sums[0].more, sums[0].seconds), (57, 60));
        // The failure continues: nothing is logged, the next summary follows a minute later.
        assert!(!repeats.tell(&from("203.0.113.7:1000", 61)));
        assert_eq!(repeats.tick(at(119)), []);
        assert_eq!(repeats.tick(at(120))[0].more, 1);
        // After a quiet minute it counts as new.
        assert_eq!(repeats.tick(at(180)), []);
        assert!(repeats.tell(&from("203.0.113.7:1000", 181)));
    }

    #[test]
    fn other_sources_and_other_reasons_are_told() {
        let mut repeats = Repeats::default();
        for _ in 0..10 {
            repeats.tell(&from("203.0.113.7:1", 0));
        }
        assert!(repeats.tell(&from("203.0.113.8:1", 0)));
        assert!(repeats.tell(&Handshake { reason: "unknown_ca", ..from("203.0.113.7:1", 0) }));
        assert!(!repeats.tell(&from("[::ffff:203.0.113.7]:9", 0)), "the same host, written differently");
    }

    #[test]
    fn an_ipv6_host_is_its_64_bit_network() {
        let mut repeats = Repeats::default();
        let told = (0..9).filter(|n| repeats.tell(&from(&format!("[2001:db8:1:2::{n}]:1"), 0))).count();
        assert_eq!(told, 3);
        assert_eq!(repeats.finish(at(5))[0].source.to_string(), "2001:db8:1:2::/64");
    }

    #[test]
    fn many_sources_share_one_sum_and_bounded_memory() {
        let mut repeats = Repeats::default();
        let told = (0..10_000_u32)
            .filter(|n| repeats.tell(&from(&format!("10.{}.{}.{}:1", n >> 16, n >> 8 & 255, n & 255), 0)))
            .count();
        assert_eq!(told, SOURCES + 3);
        assert!(repeats.0.len() <= SOURCES + 1);
        let sums = repeats.finish(at(1));
        assert_eq!((sums.len(), sums[0].source, sums[0].more), (1, Source::Others, 10_000 - SOURCES as u64 - 3));
    }

    #[test]
    fn a_clock_that_is_set_back_ends_the_window() {
        let mut repeats = Repeats::default();
        for _ in 0..5 {
            repeats.tell(&from("203.0.113.7:1", 0));
        }
        assert_eq!(repeats.tick(at(-3600))[0].more, 2);
    }
}
