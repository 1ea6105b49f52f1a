//! Which waits of `[shutdown]` have a use in this process, now.
//!
//! The readiness delay is for clients that watch `/readyz`: they learn from it to send no more. Where none has asked lately,
//! and on a terminal, nothing would come of it but silence. The linger is for the application, which uses an egress.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use super::ShutdownSettings;
use crate::clock::Clock;

/// A client that has asked `/readyz` within this time watches it.
const READINESS_WINDOW_SECONDS: i64 = 60;
/// No client has asked.
const NEVER: i64 = i64::MIN;

/// When a client last asked `/readyz`.
#[derive(Debug)]
pub struct ReadinessRequests(AtomicI64);

impl Default for ReadinessRequests {
    fn default() -> Self {
        Self(AtomicI64::new(NEVER))
    }
}

impl ReadinessRequests {
    /// A client asks now.
    pub fn record_request(&self, now: Timestamp) {
        self.0.store(now.as_second(), Ordering::Relaxed);
    }

    /// Whether a client has asked within the last minute. A clock that was set back counts as that too.
    pub fn is_recent(&self, now: Timestamp) -> bool {
        now.as_second().saturating_sub(self.0.load(Ordering::Relaxed)) <= READINESS_WINDOW_SECONDS
    }
}

/// What decides how long a stop takes.
#[derive(Clone, Debug)]
pub struct ShutdownRules {
    /// `[shutdown]`.
    pub settings: ShutdownSettings,
    /// There is an egress listener.
    pub has_egress: bool,
    /// Standard output is a terminal: an operator has typed Ctrl-C, and waits.
    pub on_terminal: bool,
    /// Whether a client watches `/readyz`.
    pub readiness: Arc<ReadinessRequests>,
    /// The time.
    pub clock: Clock,
}

impl ShutdownRules {
    /// The settings for a stop that begins now: without the waits that have no use.
    pub fn plan(&self) -> ShutdownSettings {
        let is_watched = self.readiness.is_recent(self.clock.now());
        let keep_if = |useful: bool, wait: Duration| if useful { wait } else { Duration::ZERO };
        ShutdownSettings {
            delay: keep_if(is_watched && !self.on_terminal, self.settings.delay),
            egress_linger: keep_if(self.has_egress, self.settings.egress_linger),
            ..self.settings
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_is_for_clients_that_have_asked_readyz_within_a_minute() {
        let now = "2026-11-25T09:00:00Z".parse().unwrap();
        let (clock, hand) = Clock::manual(now);
        let settings = ShutdownSettings::default();
        let mut rules =
            ShutdownRules { settings, has_egress: true, on_terminal: false, readiness: Arc::default(), clock };
        let unwatched = ShutdownSettings { delay: Duration::ZERO, ..settings };
        assert_eq!(rules.plan(), unwatched);
        rules.readiness.record_request(now);
        assert_eq!(rules.plan(), settings);
        hand.advance(Duration::from_secs(60));
        assert_eq!(rules.plan(), settings);
        rules.on_terminal = true;
        assert_eq!(rules.plan(), unwatched);
        rules.on_terminal = false;
        hand.advance(Duration::from_secs(1));
        assert_eq!(rules.plan(), unwatched);
        hand.set("2026-11-24T09:00:00Z".parse().unwrap());
        assert_eq!(rules.plan(), settings, "the clock was set back");
    }

    #[test]
    fn the_linger_is_for_an_egress() {
        let (clock, _) = Clock::manual("2026-11-25T09:00:00Z".parse().unwrap());
        let settings = ShutdownSettings::default();
        let rules = ShutdownRules { settings, has_egress: false, on_terminal: false, readiness: Arc::default(), clock };
        assert_eq!(rules.plan().egress_linger, Duration::ZERO);
        assert_eq!(rules.plan().max_duration(), settings.drain);
    }
}
