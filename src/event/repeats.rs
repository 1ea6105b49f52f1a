//! Repeated failures from one source with one certificate: the first few are logged in full, the rest are summed up once a minute
//! ("and 57 more in 60 s").
//!
//! Pure: the caller passes the time. This affects log lines only; counters, memory and followers get every handshake.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use jiff::Timestamp;

use super::handshake::{HandshakeRecord, outcome_colour};
use crate::log::{Level, LineStyle, LogFormat, LogLine};
use crate::pki::Fingerprint;
use crate::snapshot::Side;
use crate::tls::HandshakeOutcome;

/// Failures logged in full before the rest are summed up.
const MAX_FULL_LINES: u32 = 3;
/// Seconds that one summary covers.
const SUMMARY_WINDOW_SECONDS: i64 = 60;
/// Sources that are tracked. Further sources share one summary for each listener and reason.
const MAX_SOURCES: usize = 4096;
/// Certificates of one source, listener and reason that have lines of their own; further ones share one summary, because a
/// source can make as many as it likes.
const MAX_CERTIFICATES: usize = 16;

/// What makes two failures the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RepeatKey {
    side: Side,
    listener: Arc<str>,
    outcome: HandshakeOutcome,
    reason: &'static str,
    source: FailureSource,
    /// The end entity that the peer showed; `None` also beyond [`MAX_CERTIFICATES`].
    certificate: Option<Fingerprint>,
}

impl RepeatKey {
    /// Whether both came from one place for one reason, whatever certificates were shown.
    fn is_beside(&self, other: &Self) -> bool {
        (self.side, &self.listener, self.outcome, self.reason, self.source)
            == (other.side, &other.listener, other.outcome, other.reason, other.source)
    }
}

/// Where a failure came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum FailureSource {
    /// An address; for IPv6 its /64, because one host can use all of it.
    Network(IpAddr),
    /// The address is unknown (a Unix socket, an upstream that did not resolve).
    Unknown,
    /// Sources beyond the limit.
    Others,
}

impl FailureSource {
    fn from_handshake(handshake: &HandshakeRecord) -> Self {
        let Some(addr) = handshake.peer_addr else { return Self::Unknown };
        Self::Network(match addr.ip().to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

impl std::fmt::Display for FailureSource {
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
struct RepeatCount {
    since: Timestamp,
    told: u32,
    untold: u64,
}

/// Failures that were not logged one by one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RepeatSummary {
    pub(super) side: Side,
    pub(super) listener: Arc<str>,
    pub(super) outcome: HandshakeOutcome,
    pub(super) reason: &'static str,
    pub(super) source: FailureSource,
    /// The end entity that the peer showed, where it is one and not many.
    pub(super) certificate: Option<Fingerprint>,
    /// How many more.
    pub(super) more: u64,
    /// In how many seconds.
    pub(super) seconds: i64,
}

impl RepeatSummary {
    /// Its line.
    pub(super) fn line(&self, style: LineStyle, now: Timestamp) -> Vec<u8> {
        let mut line = LogLine::new(style, now, Level::WARN, "handshake");
        let message = format!("and {} more in {} s", self.more, self.seconds);
        match style.format {
            LogFormat::Json => {
                line.message(&message)
                    .text("side", self.side.as_str())
                    .text("listener", &self.listener)
                    .text("outcome", self.outcome.as_str());
            }
            LogFormat::Text => {
                line.word(self.side.as_str()).word(&self.listener);
                line.coloured_word(&format!("{:<8}", self.outcome.as_str()), outcome_colour(self.outcome))
                    .message(&message);
            }
        }
        line.text("reason", self.reason).text("source", &self.source.to_string());
        if let Some(certificate) = self.certificate {
            line.text("peer.fingerprint", &certificate.hex());
        }
        line.number("repeats", self.more).number("seconds", self.seconds);
        line.finish()
    }
}

/// Counts failures by source, certificate, listener and reason.
#[derive(Debug, Default)]
pub(super) struct RepeatedFailures(HashMap<RepeatKey, RepeatCount>);

impl RepeatedFailures {
    /// Whether to log this failure in full. If not, it is counted for a later [`RepeatSummary`].
    pub(super) fn should_log(&mut self, handshake: &HandshakeRecord) -> bool {
        let mut key = RepeatKey {
            side: handshake.side,
            listener: Arc::clone(&handshake.listener),
            outcome: handshake.outcome,
            reason: handshake.reason,
            source: FailureSource::from_handshake(handshake),
            certificate: handshake.peer.as_ref().map(|peer| peer.fingerprint),
        };
        if !self.0.contains_key(&key) && self.is_crowded(&key) {
            key.certificate = None;
        }
        if self.0.len() >= MAX_SOURCES && !self.0.contains_key(&key) {
            (key.source, key.certificate) = (FailureSource::Others, None);
        }
        let count = self.0.entry(key).or_insert(RepeatCount { since: handshake.time, told: 0, untold: 0 });
        if count.told < MAX_FULL_LINES {
            count.told += 1;
            true
        } else {
            count.untold += 1;
            false
        }
    }

    /// Whether as many certificates as get lines of their own came from there.
    fn is_crowded(&self, key: &RepeatKey) -> bool {
        key.certificate.is_some() && self.0.keys().filter(|other| other.is_beside(key)).count() >= MAX_CERTIFICATES
    }

    /// The summaries that are due. A failure not seen for a whole window is forgotten and will be logged in full again.
    pub(super) fn tick(&mut self, now: Timestamp) -> Vec<RepeatSummary> {
        let mut sums = Vec::new();
        self.0.retain(|key, count| {
            let seconds = now.as_second() - count.since.as_second();
            // A clock that was set back must not delay a summary for longer than the step.
            if (0..SUMMARY_WINDOW_SECONDS).contains(&seconds) {
                return true;
            }
            sums.extend(summarize(key, count, seconds));
            let again = count.untold > 0;
            *count = RepeatCount { since: now, told: count.told, untold: 0 };
            again
        });
        sums
    }

    /// All summaries now, at the end of the process.
    pub(super) fn finish(&mut self, now: Timestamp) -> Vec<RepeatSummary> {
        let sum =
            |(key, count): (RepeatKey, RepeatCount)| summarize(&key, &count, now.as_second() - count.since.as_second());
        self.0.drain().filter_map(sum).collect()
    }
}

fn summarize(key: &RepeatKey, count: &RepeatCount, seconds: i64) -> Option<RepeatSummary> {
    (count.untold > 0).then(|| RepeatSummary {
        side: key.side,
        listener: Arc::clone(&key.listener),
        outcome: key.outcome,
        reason: key.reason,
        source: key.source,
        certificate: key.certificate,
        more: count.untold,
        // Also where the process ends, or the clock was set back.
        seconds: seconds.max(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::handshake::tests::refused;

    fn time_at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn failure_from(addr: &str, second: i64) -> HandshakeRecord {
        HandshakeRecord { time: time_at(second), ..refused(addr) }
    }

    #[test]
    fn the_first_few_are_told_and_the_rest_summed_up_once_a_minute() {
        let mut repeats = RepeatedFailures::default();
        let told = (0..60).filter(|_| repeats.should_log(&failure_from("203.0.113.7:1000", 0))).count();
        assert_eq!(told, 3);
        assert_eq!(repeats.tick(time_at(59)), []);
        let sums = repeats.tick(time_at(60));
        assert_eq!((sums[0].more, sums[0].seconds), (57, 60));
        // The failure continues: nothing is logged, the next summary follows a minute later.
        assert!(!repeats.should_log(&failure_from("203.0.113.7:1000", 61)));
        assert_eq!(repeats.tick(time_at(119)), []);
        assert_eq!(repeats.tick(time_at(120))[0].more, 1);
        // After a quiet minute it counts as new.
        assert_eq!(repeats.tick(time_at(180)), []);
        assert!(repeats.should_log(&failure_from("203.0.113.7:1000", 181)));
    }

    #[test]
    fn other_sources_and_other_reasons_are_told() {
        let mut repeats = RepeatedFailures::default();
        for _ in 0..10 {
            repeats.should_log(&failure_from("203.0.113.7:1", 0));
        }
        assert!(repeats.should_log(&failure_from("203.0.113.8:1", 0)));
        assert!(repeats.should_log(&HandshakeRecord { reason: "unknown_ca", ..failure_from("203.0.113.7:1", 0) }));
        assert!(!repeats.should_log(&failure_from("[::ffff:203.0.113.7]:9", 0)), "the same host, written differently");
    }

    #[test]
    fn each_peer_behind_one_address_has_its_lines_and_many_share_one_sum() {
        let mut repeats = RepeatedFailures::default();
        let shows = |number: u32| {
            let mut failure = failure_from("203.0.113.7:1", 0);
            let peer = failure.peer.as_mut().unwrap();
            peer.fingerprint = Fingerprint::of(&number.to_be_bytes());
            failure
        };
        for _ in 0..9 {
            for number in 0..3 {
                repeats.should_log(&shows(number));
            }
        }
        assert!(repeats.should_log(&shows(3)), "the fourth peer behind one address");
        let told = (0..1_000).filter(|number| repeats.should_log(&shows(*number))).count();
        // Two more of the fourth, one of each up to the sixteenth, and three of all others.
        assert_eq!((told, repeats.0.len()), (1 + 12 + 3, MAX_CERTIFICATES + 1));
        let sums = repeats.finish(time_at(60));
        assert_eq!(sums.iter().filter(|sum| sum.certificate.is_some()).count(), 3);
        assert_eq!(sums.iter().map(|sum| sum.more).sum::<u64>(), 3 * 7 + 1_000 - 16 - 3 + 3 - 3);
    }

    #[test]
    fn an_ipv6_host_is_its_64_bit_network() {
        let mut repeats = RepeatedFailures::default();
        let told = (0..9).filter(|n| repeats.should_log(&failure_from(&format!("[2001:db8:1:2::{n}]:1"), 0))).count();
        assert_eq!(told, 3);
        assert_eq!(repeats.finish(time_at(5))[0].source.to_string(), "2001:db8:1:2::/64");
    }

    #[test]
    fn many_sources_share_one_sum_and_bounded_memory() {
        let mut repeats = RepeatedFailures::default();
        let told = (0..10_000_u32)
            .filter(|n| repeats.should_log(&failure_from(&format!("10.{}.{}.{}:1", n >> 16, n >> 8 & 255, n & 255), 0)))
            .count();
        assert_eq!(told, MAX_SOURCES + 3);
        assert!(repeats.0.len() <= MAX_SOURCES + 1);
        let sums = repeats.finish(time_at(1));
        assert_eq!(
            (sums.len(), sums[0].source, sums[0].more),
            (1, FailureSource::Others, 10_000 - MAX_SOURCES as u64 - 3)
        );
    }

    #[test]
    fn a_clock_that_is_set_back_ends_the_window() {
        let mut repeats = RepeatedFailures::default();
        for _ in 0..5 {
            repeats.should_log(&failure_from("203.0.113.7:1", 0));
        }
        assert_eq!(repeats.tick(time_at(-3600))[0].more, 2);
    }

    #[test]
    fn fifty_thousand_sources_and_certificates_take_bounded_memory() {
        let mut repeats = RepeatedFailures::default();
        for number in 0..50_000_u32 {
            let mut unnamed = failure_from(&format!("[2001:db8:{:x}:{:x}::1]:1", number >> 16, number & 0xffff), 0);
            unnamed.peer = None;
            repeats.should_log(&unnamed);
            let mut named = failure_from("203.0.113.7:1", 0);
            named.peer.as_mut().unwrap().fingerprint = Fingerprint::of(&number.to_be_bytes());
            repeats.should_log(&named);
        }
        assert!((MAX_SOURCES..=MAX_SOURCES + 1).contains(&repeats.0.len()), "{}", repeats.0.len());
        let of_one = repeats.0.keys().filter(|key| key.certificate.is_some()).count();
        assert_eq!(of_one, MAX_CERTIFICATES);
        assert!(repeats.tick(time_at(60)).len() <= MAX_SOURCES + 1);
    }
}
