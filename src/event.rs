//! Events: each is reported once, to the log, the counters, and a bounded queue for each follower.
//!
//! `emit` never blocks. Requests are not Events: one counter and one access line each. `describe` formats Events, and
//! `repeats` decides which failures are summed up.
//!
//! Levels. error: the operator must act (an expired pair in use, a rejected configuration). warn: degraded but serving
//! (a refused drop, a refused handshake, an unusable trust file). info: state changed, a handshake succeeded. debug:
//! single steps, and connections closed without a byte.

// Long because it is one list: every Event, with its fields explained.

mod describe;
mod follower;
pub mod handshake;
mod ledger;
mod recent;
mod repeats;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;

pub use follower::EventFollower;
pub use handshake::HandshakeRecord;

pub use crate::evidence::UpstreamVerdict;
pub use crate::evidence::learned::RefusalStatus;

use crate::clock::Clock;
use crate::evidence::report;
use crate::evidence::report::RotationLedger;
use crate::log::{self, Level, LogFilter, LogQueue};
use crate::metrics::Metrics;
use crate::pki::{Fingerprint, FolderProblem, ProblemSeverity};
use crate::snapshot::Epoch;
use crate::tls::HandshakeOutcome;
use recent::RecentHandshakes;
use repeats::{RepeatSummary, RepeatedFailures};

/// How many Events a follower may lag behind before it misses some.
const FOLLOWER_QUEUE: usize = 1024;

/// Anything worth reporting.
#[derive(Clone, Debug)]
pub enum Event {
    /// A handshake succeeded or failed.
    Handshake(Arc<HandshakeRecord>),
    /// Egress in TLS 1.3: the upstream has accepted or refused our key pair after the handshake.
    Proof {
        /// Listener.
        listener: Arc<str>,
        /// The connection of the handshake that was `unproved`.
        connection: u64,
        /// The pair.
        key_pair: Fingerprint,
        /// `Accepted` or `Refused`.
        outcome: HandshakeOutcome,
        /// Stable code.
        reason: &'static str,
        /// One printable sentence.
        explanation: String,
        /// The snapshot that chose the pair.
        epoch: Epoch,
    },
    /// A source's refusal of a pair of ours was recorded, confirmed or forgotten (ingress; contract section 4, rule 4).
    Learned {
        /// Listener.
        listener: Arc<str>,
        /// The source: address (IPv6 by /64) and server name, printable.
        source: String,
        /// The keyring it is about.
        keyring: crate::keyring::KeyringName,
        /// The pair that it refused.
        refused: Fingerprint,
        /// The pair that it is shown instead.
        shown: Fingerprint,
        /// Its status now.
        standing: RefusalStatus,
        /// The identity of the peer that confirmed it.
        peer: Option<Arc<str>>,
        /// Stable code: the alert's name, `verified_on_previous`, `accepts_it_now`, `overlap_ended`, `by_command`, `expired`,
        /// `evicted`.
        reason: &'static str,
        /// One printable sentence.
        explanation: String,
        /// In which epoch.
        epoch: Epoch,
    },
    /// An upstream's verdict on one of our pairs changed (egress; contract section 4).
    Upstream {
        /// Listener.
        listener: Arc<str>,
        /// Host and port.
        upstream: String,
        /// The keyring it is about.
        keyring: crate::keyring::KeyringName,
        /// The pair it is about.
        key_pair: Fingerprint,
        /// The upstream's verdict.
        verdict: UpstreamVerdict,
        /// Stable code: the alert's name, `status_NNN`, `response`, `probe`, `prove_within`, `tried_again`, …
        reason: &'static str,
        /// One printable sentence.
        explanation: String,
        /// For `Refused`: when the sidecar tries the pair again.
        next_try: Option<Timestamp>,
        /// In which epoch.
        epoch: Epoch,
    },
    /// Fetching a token for an upstream succeeded or failed (egress; `[egress.jwt_bearer]`). Never holds the token.
    Token {
        /// Listener.
        listener: Arc<str>,
        /// The token endpoint, or the upstream itself: host and port.
        endpoint: String,
        /// The keyring that signs.
        keyring: crate::keyring::KeyringName,
        /// The pair that signed.
        key_pair: Fingerprint,
        /// The outcome.
        outcome: TokenOutcome,
        /// Stable code: `ok`, `token_refused`, `status_401`, `token_unreachable`, `token_late`, …
        reason: &'static str,
        /// One printable sentence.
        explanation: String,
        /// In which epoch.
        epoch: Epoch,
    },
    /// A keyring changed.
    Keyring {
        /// What happened.
        event: crate::keyring::KeyringEvent,
        /// The operator behind it, if any: `uid 1000` over the control socket.
        by: Option<Arc<str>>,
        /// In which epoch it is true.
        epoch: Epoch,
    },
    /// A trust changed.
    Trust {
        /// What happened.
        event: crate::trust::TrustEvent,
        /// In which epoch it is true.
        epoch: Epoch,
    },
    /// A file in the watched folder is unusable, or deserves a log line.
    Folder {
        /// Which keyring; `None` for trust files and the folder itself.
        keyring: Option<Arc<str>>,
        /// What.
        problem: FolderProblem,
    },
    /// An epoch was published.
    Epoch {
        /// Its number.
        epoch: Epoch,
        /// Listeners that are not ready, and what each waits for.
        waiting: Vec<String>,
    },
    /// The clock was stepped.
    ClockStep {
        /// By how many seconds, forwards positive.
        seconds: i64,
    },
    /// A connection is drained early.
    Drained {
        /// Side.
        side: crate::snapshot::Side,
        /// Listener.
        listener: Arc<str>,
        /// Its number.
        connection: u64,
        /// `overlap_ended`, `peer_certificate_expired`, `trust_removed`, `revoked`, `stopping`, …
        reason: &'static str,
        /// One printable sentence.
        explanation: String,
    },
    /// State could not be saved: the decisions do not survive a restart.
    NotRemembered {
        /// Which file.
        file: String,
        /// Why.
        why: String,
    },
    /// The registry's database connected, disconnected, or is damaged. Traffic and rotations are not affected.
    Registry {
        /// Whether it can be written to now.
        up: bool,
        /// Its file was damaged and has been set aside; an operator should inspect it.
        damaged: bool,
        /// One printable sentence.
        explanation: String,
    },
    /// The owner should act. Reported by every instance that sees it, whatever the registry says.
    Alert {
        /// Its name, the same on every instance.
        alert: Arc<str>,
        /// Stable code.
        kind: &'static str,
        /// The last threshold has passed.
        urgent: bool,
        /// The keyring, or the trust.
        keyring: Arc<str>,
        /// The pair or certificate it is about.
        key_pair: Option<Fingerprint>,
        /// The owner's contact.
        contact: Option<String>,
        /// One printable sentence.
        explanation: String,
        /// What to do.
        remedy: String,
    },
    /// The outcome of delivering an alert by webhook or mail.
    Delivery {
        /// Its name.
        alert: Arc<str>,
        /// Its stable code.
        kind: String,
        /// `webhook` or `mail`.
        sink: &'static str,
        /// `sent`, `failed` (it is retried), `given_up`, `silenced` (the alert no longer applies).
        outcome: &'static str,
        /// Why delivery failed.
        error: Option<String>,
    },
    /// A reload changed the configuration, or was rejected.
    Reloaded {
        /// `None` = reloaded; else the error, with file, line and column.
        error: Option<String>,
        /// Settings that take effect only after a restart.
        needs_restart: Vec<String>,
    },
}

/// The outcome of a token request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenOutcome {
    /// The token was fetched.
    Fetched,
    /// The endpoint refuses this pair's assertions; another pair signs instead.
    Refused,
    /// No token could be fetched.
    Failed,
}

impl TokenOutcome {
    /// As in logs and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl Event {
    /// The log target.
    pub fn target(&self) -> &'static str {
        match self {
            Self::Handshake(_) => "handshake",
            Self::Proof { .. } | Self::Upstream { .. } => "proof",
            Self::Learned { .. } => "learned",
            Self::Token { .. } => "token",
            Self::Keyring { .. } => "keyring",
            Self::Trust { .. } => "trust",
            Self::Folder { .. } => "folder",
            Self::Epoch { .. } | Self::NotRemembered { .. } => "writer",
            Self::ClockStep { .. } => "clock",
            Self::Drained { .. } => "drain",
            Self::Registry { .. } => "registry",
            Self::Alert { .. } | Self::Delivery { .. } => "alert",
            Self::Reloaded { .. } => "config",
        }
    }
}

/// Where Events go. One for the process, shared.
pub struct EventBus {
    lines: Arc<LogQueue>,
    filter: LogFilter,
    handshakes: bool,
    metrics: Arc<Metrics>,
    clock: Clock,
    recent: Mutex<RecentHandshakes>,
    reload_error: Mutex<Option<String>>,
    repeats: Mutex<RepeatedFailures>,
    ledger: Mutex<RotationLedger>,
    followers: broadcast::Sender<Event>,
}

impl EventBus {
    /// Sends Events to these lines and metrics, and to all followers.
    ///
    /// # Errors
    /// The log level is unknown.
    pub fn new(
        lines: Arc<LogQueue>,
        metrics: Arc<Metrics>,
        settings: &log::LogSettings,
        clock: Clock,
    ) -> Result<Self, log::LogError> {
        Ok(Self {
            lines,
            filter: LogFilter::parse(&settings.level)?,
            handshakes: settings.handshakes,
            metrics,
            ledger: Mutex::new(RotationLedger::new(clock.now())),
            clock,
            recent: Mutex::default(),
            reload_error: Mutex::default(),
            repeats: Mutex::default(),
            followers: broadcast::Sender::new(FOLLOWER_QUEUE),
        })
    }

    /// Reports an Event to the log, the metrics and all followers. Never blocks.
    pub fn emit(&self, event: Event) {
        self.update_metrics(&event);
        ledger::record_event(&mut lock(&self.ledger), &event, self.clock.now());
        if let Event::Reloaded { error, .. } = &event {
            lock(&self.reload_error).clone_from(error);
        }
        match &event {
            Event::Handshake(handshake) => self.log_handshake(handshake),
            Event::Proof { .. } if !self.handshakes => {}
            event => {
                let level = describe::level(event);
                if self.filter.enabled(event.target(), level) {
                    self.lines.push(describe::format_line(event, self.lines.style(), self.clock.now(), level));
                }
            }
        }
        // No follower is not an error.
        let _ = self.followers.send(event);
    }

    /// The last 2,000 handshakes, the oldest first; connections that closed without a byte are not among them.
    pub fn recent(&self) -> Vec<Arc<HandshakeRecord>> {
        lock(&self.recent).to_vec()
    }

    /// The rotation report of these keyrings; `contacts` are those of partners.
    pub fn report(
        &self,
        keyrings: &[report::KeyringOverlap],
        contacts: &BTreeMap<Arc<str>, String>,
    ) -> Vec<report::RotationReport> {
        report::build_reports(&lock(&self.ledger), keyrings, contacts, self.clock.now())
    }

    /// Restores a recorded refusal of the last run, for the rotation report.
    pub fn recall(&self, entry: &crate::evidence::learned::RefusalRecord) {
        ledger::recall_refusal(&mut lock(&self.ledger), entry);
    }

    /// A registry may know which peer used which pair before this process started: the rotation report says that it
    /// waits for it.
    pub fn await_registry(&self) {
        lock(&self.ledger).await_registry();
    }

    /// Restores which peer used which pair before this process started, from the registry's records since `since`.
    pub fn recall_uses(&self, recalled: Vec<report::RecalledUse>, since: Timestamp) {
        lock(&self.ledger).recall(recalled, since);
    }

    /// Why the configuration that was read last was rejected, if it was.
    pub fn reload_error(&self) -> Option<String> {
        lock(&self.reload_error).clone()
    }

    /// Follows all Events emitted from now on.
    pub fn subscribe(&self) -> EventFollower {
        EventFollower::new(self.followers.subscribe(), Arc::clone(&self.metrics), self.clock.clone())
    }

    /// Logs the summaries of repeated failures that are due. Call once a second.
    pub fn tick(&self, now: Timestamp) {
        let sums = lock(&self.repeats).tick(now);
        self.write_summaries(&sums, now);
    }

    /// Logs the remaining summaries and waits at most a second for the log to be written: at the end of the process.
    pub fn finish(&self) {
        let now = self.clock.now();
        let sums = lock(&self.repeats).finish(now);
        self.write_summaries(&sums, now);
        self.lines.flush();
    }

    /// The time by the clock that stamps Events.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The number of dropped log lines.
    pub fn log_lines_dropped(&self) -> u64 {
        self.lines.dropped()
    }

    fn log_handshake(&self, handshake: &Arc<HandshakeRecord>) {
        if !handshake.is_silent() {
            lock(&self.recent).push(Arc::clone(handshake));
        }
        if !self.handshakes || !self.filter.enabled("handshake", handshake.level()) {
            return;
        }
        if !handshake.is_failure() || lock(&self.repeats).should_log(handshake) {
            self.lines.push(handshake.line(self.lines.style()));
        }
    }

    fn write_summaries(&self, sums: &[RepeatSummary], now: Timestamp) {
        for sum in sums {
            self.lines.push(describe::summary_line(sum, self.lines.style(), now));
        }
    }

    fn update_metrics(&self, event: &Event) {
        match event {
            Event::Handshake(handshake) => {
                let (side, listener) = (handshake.side.as_str(), &handshake.listener);
                self.metrics.handshake(
                    (side, listener),
                    (handshake.outcome.as_str(), handshake.reason),
                    std::time::Duration::from_micros(handshake.duration_us),
                );
                if let Some(alert) = handshake.alert_received.filter(|alert| refuses_key_pair(alert)) {
                    self.metrics.count_key_pair_refusal(side, listener, alert);
                }
            }
            Event::Proof { listener, outcome: HandshakeOutcome::Refused, reason, .. } => {
                self.metrics.count_key_pair_refusal("egress", listener, reason);
            }
            Event::Keyring { event, .. } => {
                if let Some((keyring, outcome)) = describe::rotation_outcome(event) {
                    self.metrics.rotation(keyring, outcome);
                }
            }
            Event::Folder { problem, .. } if problem.severity == ProblemSeverity::Refused => {
                self.metrics.count_folder_refusal()
            }
            Event::Drained { reason, .. } => self.metrics.count_drained(reason),
            Event::Registry { up, .. } => self.metrics.set_registry_up(*up),
            Event::Alert { kind, .. } => self.metrics.count_alert(kind, "log", "sent"),
            Event::Delivery { kind, sink, outcome, .. } => self.metrics.count_alert(kind, sink, outcome),
            Event::Token { listener, outcome, reason, .. } => {
                self.metrics.count_token(listener, outcome.as_str(), reason)
            }
            _ => {}
        }
    }
}

/// Whether this alert is about the certificate that we showed (RFC 8446 6.2; contract section 4).
fn refuses_key_pair(alert: &str) -> bool {
    matches!(
        alert,
        "bad_certificate"
            | "unsupported_certificate"
            | "certificate_revoked"
            | "certificate_expired"
            | "certificate_unknown"
            | "unknown_ca"
            | "access_denied"
    )
}

/// A panic elsewhere leaves these lists consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
