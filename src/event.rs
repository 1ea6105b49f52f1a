//! Events: what happened, told once, to everybody who listens: log line, counters, and a bounded queue to followers.
//!
//! `emit` returns at once, always. Requests are not Events: one counter and one access line each. How an Event reads is
//! `describe`'s business, which failures are summed up `repeats`'.
//!
//! Levels. error: someone must act (an expired pair in use, settings that are refused). warn: degraded but serving (a
//! refused drop, a refused handshake, a trust file that went bad). info: state changed, a handshake served. debug: per
//! step, and connections that closed without a byte.

// Long because it is one list: every Event there is, each with its fields explained.

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

pub use follower::Follower;
pub use handshake::Handshake;

pub use crate::keyring::Verdict;
pub use crate::keyring::learned::Lesson;

use crate::clock::Clock;
use crate::keyring::report::{self, Ledger};
use crate::log::{self, Filter, Level, Lines};
use crate::metrics::Metrics;
use crate::pki::{Fingerprint, Problem, Severity};
use crate::snapshot::Epoch;
use crate::tls::Outcome;
use recent::Recent;
use repeats::{Repeats, Sum};

/// Events that a follower may lag behind before it misses some.
const QUEUE: usize = 1024;

/// Anything worth telling.
#[derive(Clone, Debug)]
pub enum Event {
    /// A handshake ended, one way or the other.
    Handshake(Arc<Handshake>),
    /// Egress in TLS 1.3: it is known now whether the upstream accepts our key pair.
    Proof {
        /// Listener.
        listener: Arc<str>,
        /// The connection of the handshake that was `unproved`.
        connection: u64,
        /// The pair.
        key_pair: Fingerprint,
        /// `Accepted` or `Refused`.
        outcome: Outcome,
        /// Stable code.
        reason: &'static str,
        /// One printable sentence.
        explanation: String,
        /// The snapshot that chose the pair.
        epoch: Epoch,
    },
    /// What a source has taught us about our pairs changed (ingress; contract section 4, rule 4).
    Learned {
        /// Listener.
        listener: Arc<str>,
        /// Who: address (IPv6 by /64) and server name, printable.
        source: String,
        /// The keyring it is about.
        keyring: crate::keyring::KeyringName,
        /// The pair that it refused.
        refused: Fingerprint,
        /// The pair that it is shown instead.
        shown: Fingerprint,
        /// How sure this is now.
        standing: Lesson,
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
    /// What an upstream makes of one of our pairs changed (egress; contract section 4).
    Upstream {
        /// Listener.
        listener: Arc<str>,
        /// Host and port.
        upstream: String,
        /// The keyring it is about.
        keyring: crate::keyring::KeyringName,
        /// The pair it is about.
        key_pair: Fingerprint,
        /// What it makes of it.
        verdict: Verdict,
        /// Stable code: the alert's name, `status_NNN`, `response`, `probe`, `prove_within`, `tried_again`, …
        reason: &'static str,
        /// One printable sentence.
        explanation: String,
        /// For `Refused`: when the pair is tried again.
        next_try: Option<Timestamp>,
        /// In which epoch.
        epoch: Epoch,
    },
    /// A token was fetched for an upstream, or not (egress; `[egress.jwt_bearer]`). The token itself is nowhere.
    Token {
        /// Listener.
        listener: Arc<str>,
        /// The token endpoint, or the upstream itself: host and port.
        endpoint: String,
        /// Whose pairs sign.
        keyring: crate::keyring::KeyringName,
        /// The pair that signed.
        key_pair: Fingerprint,
        /// What became of it.
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
        event: crate::keyring::Event,
        /// Who asked for it, where somebody did: `uid 1000` over the control socket.
        by: Option<Arc<str>>,
        /// In which epoch it is true.
        epoch: Epoch,
    },
    /// A trust changed.
    Trust {
        /// What happened.
        event: crate::trust::Event,
        /// In which epoch it is true.
        epoch: Epoch,
    },
    /// Something in the watched folder cannot be used, or is worth a line.
    Folder {
        /// Which keyring; `None` for trust files and the folder itself.
        keyring: Option<Arc<str>>,
        /// What.
        problem: Problem,
    },
    /// An epoch was published.
    Epoch {
        /// Its number.
        epoch: Epoch,
        /// Listeners that wait, and for what.
        waiting: Vec<String>,
    },
    /// The clock was stepped.
    ClockStep {
        /// By how many seconds, forwards positive.
        seconds: i64,
    },
    /// A connection is drained before its time.
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
    /// State could not be saved: what was decided is not remembered across a restart.
    NotRemembered {
        /// Which file.
        file: String,
        /// Why.
        why: String,
    },
    /// The registry's database came, went, or was found damaged. Traffic and rotations do not mind.
    Registry {
        /// Whether it can be written to now.
        up: bool,
        /// Its file was damaged: it was set aside, and somebody should look at it.
        damaged: bool,
        /// One printable sentence.
        explanation: String,
    },
    /// Whoever answers for something should act. Told by every instance that sees it, whatever the registry says.
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
        /// Whom to ask.
        contact: Option<String>,
        /// One printable sentence.
        explanation: String,
        /// What to do.
        remedy: String,
    },
    /// What became of an alert at a webhook or by mail.
    Delivery {
        /// Its name.
        alert: Arc<str>,
        /// Its stable code.
        kind: String,
        /// `webhook` or `mail`.
        sink: &'static str,
        /// `sent`, `failed` (it is tried again), `given_up`, `silenced` (it has nothing more to say).
        outcome: &'static str,
        /// Why it could not be sent.
        error: Option<String>,
    },
    /// Settings were taken over from a reload, or refused.
    Reloaded {
        /// `None` = taken over; else why not, with file, line and column.
        error: Option<String>,
        /// What needs a restart to change.
        needs_restart: Vec<String>,
    },
}

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenOutcome {
    /// It is there.
    Fetched,
    /// This pair's assertions are refused, and another pair's are taken instead.
    Refused,
    /// There is none.
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
pub struct Events {
    lines: Arc<Lines>,
    filter: Filter,
    handshakes: bool,
    metrics: Arc<Metrics>,
    clock: Clock,
    recent: Mutex<Recent>,
    reload_error: Mutex<Option<String>>,
    repeats: Mutex<Repeats>,
    ledger: Mutex<Ledger>,
    followers: broadcast::Sender<Event>,
}

impl Events {
    /// Events to these lines and metrics, and to whoever follows.
    ///
    /// # Errors
    /// A log level that is not known.
    pub fn new(
        lines: Arc<Lines>,
        metrics: Arc<Metrics>,
        settings: &log::Settings,
        clock: Clock,
    ) -> Result<Self, log::Error> {
        Ok(Self {
            lines,
            filter: Filter::parse(&settings.level)?,
            handshakes: settings.handshakes,
            metrics,
            ledger: Mutex::new(Ledger::new(clock.now())),
            clock,
            recent: Mutex::default(),
            reload_error: Mutex::default(),
            repeats: Mutex::default(),
            followers: broadcast::Sender::new(QUEUE),
        })
    }

    /// Tells everybody. Returns at once, always.
    pub fn emit(&self, event: Event) {
        self.count(&event);
        ledger::note(&mut lock(&self.ledger), &event, self.clock.now());
        if let Event::Reloaded { error, .. } = &event {
            lock(&self.reload_error).clone_from(error);
        }
        match &event {
            Event::Handshake(handshake) => self.handshake(handshake),
            Event::Proof { .. } if !self.handshakes => {}
            event => {
                let level = describe::level(event);
                if self.filter.enabled(event.target(), level) {
                    self.lines.push(describe::line(event, self.lines.style(), self.clock.now(), level));
                }
            }
        }
        // No follower is not an error.
        let _ = self.followers.send(event);
    }

    /// The last 2,000 handshakes, the oldest first; connections that closed without a byte are not among them.
    pub fn recent(&self) -> Vec<Arc<Handshake>> {
        lock(&self.recent).all()
    }

    /// The rotation report of these keyrings; `contacts` are those of partners.
    pub fn report(&self, keyrings: &[report::InOverlap], contacts: &BTreeMap<Arc<str>, String>) -> Vec<report::Report> {
        report::report(&lock(&self.ledger), keyrings, contacts, self.clock.now())
    }

    /// A lesson of the last run, for the rotation report.
    pub fn recall(&self, entry: &crate::keyring::learned::Entry) {
        ledger::recall(&mut lock(&self.ledger), entry);
    }

    /// There is a registry that may know who used which pair before this process began: the rotation report says that it
    /// waits for it.
    pub fn await_registry(&self) {
        lock(&self.ledger).await_registry();
    }

    /// Who used which pair before this process began, as the registry has had it since `since`.
    pub fn recall_uses(&self, recalled: Vec<report::Recalled>, since: Timestamp) {
        lock(&self.ledger).recall(recalled, since);
    }

    /// Why the settings that were read last are not in use, if they are not.
    pub fn reload_error(&self) -> Option<String> {
        lock(&self.reload_error).clone()
    }

    /// Follows what is emitted from now on.
    pub fn subscribe(&self) -> Follower {
        Follower::new(self.followers.subscribe(), Arc::clone(&self.metrics), self.clock.clone())
    }

    /// Writes the sums of repeated failures that are due. To be called once a second.
    pub fn tick(&self, now: Timestamp) {
        let sums = lock(&self.repeats).tick(now);
        self.tell(&sums, now);
    }

    /// Writes what is left to sum up, and waits a second at most until the log is written: the end of the process.
    pub fn finish(&self) {
        let now = self.clock.now();
        let sums = lock(&self.repeats).finish(now);
        self.tell(&sums, now);
        self.lines.flush();
    }

    /// The time by the clock that Events are told by.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Log lines that were dropped.
    pub fn log_lines_dropped(&self) -> u64 {
        self.lines.dropped()
    }

    fn handshake(&self, handshake: &Arc<Handshake>) {
        if !handshake.is_silent() {
            lock(&self.recent).push(Arc::clone(handshake));
        }
        if !self.handshakes || !self.filter.enabled("handshake", handshake.level()) {
            return;
        }
        if !handshake.is_failure() || lock(&self.repeats).tell(handshake) {
            self.lines.push(handshake.line(self.lines.style()));
        }
    }

    fn tell(&self, sums: &[Sum], now: Timestamp) {
        for sum in sums {
            self.lines.push(describe::sum(sum, self.lines.style(), now));
        }
    }

    fn count(&self, event: &Event) {
        match event {
            Event::Handshake(handshake) => {
                let (side, listener) = (handshake.side.as_str(), &handshake.listener);
                self.metrics.handshake(
                    (side, listener),
                    (handshake.outcome.as_str(), handshake.reason),
                    std::time::Duration::from_micros(handshake.duration_us),
                );
                if let Some(alert) = handshake.alert_received.filter(|alert| refuses_key_pair(alert)) {
                    self.metrics.key_pair_refused(side, listener, alert);
                }
            }
            Event::Proof { listener, outcome: Outcome::Refused, reason, .. } => {
                self.metrics.key_pair_refused("egress", listener, reason);
            }
            Event::Keyring { event, .. } => {
                if let Some((keyring, outcome)) = describe::rotation(event) {
                    self.metrics.rotation(keyring, outcome);
                }
            }
            Event::Folder { problem, .. } if problem.severity == Severity::Refused => self.metrics.folder_refused(),
            Event::Drained { reason, .. } => self.metrics.drained(reason),
            Event::Registry { up, .. } => self.metrics.registry_up(*up),
            Event::Alert { kind, .. } => self.metrics.alert(kind, "log", "sent"),
            Event::Delivery { kind, sink, outcome, .. } => self.metrics.alert(kind, sink, outcome),
            Event::Token { listener, outcome, reason, .. } => self.metrics.token(listener, outcome.as_str(), reason),
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

/// A panic elsewhere leaves lists like ours whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
