//! The bus: reports an Event to the log, the counters and every follower, and keeps what is asked about later.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;

use super::alert::AlertRecord;
use super::doubts::{UpstreamDoubt, UpstreamDoubts};
use super::follower::EventFollower;
use super::handshake::HandshakeRecord;
use super::history_request::HistoryRequests;
use super::ledger;
use super::list::Event;
use super::proof::ProofRecord;
use super::recent::RecentHandshakes;
use super::refused_files::RefusedFiles;
use super::repeats::{RepeatSummary, RepeatedFailures};
use crate::clock::Clock;
use crate::evidence::learned::RefusalRecord;
use crate::evidence::report::{self, RotationLedger};
use crate::log::{self, LogFilter, LogQueue};
use crate::metrics::Metrics;
use crate::pki::{Fingerprint, ProblemSeverity};
use crate::tls::HandshakeOutcome;

/// How many Events a follower may lag behind before it misses some.
const FOLLOWER_QUEUE: usize = 1024;
/// How many senders are taken or marked at once: who reports an Event waits for so many at most, also where a thread of lower priority
/// takes them.
const TAKEN_AT_ONCE: usize = 64;

/// Where Events go. One for the process, shared.
pub struct EventBus {
    lines: Arc<LogQueue>,
    filter: LogFilter,
    handshakes: bool,
    metrics: Arc<Metrics>,
    clock: Clock,
    recent: Mutex<RecentHandshakes>,
    reload_error: Mutex<Option<String>>,
    active_alerts: Mutex<Vec<AlertRecord>>,
    repeats: Mutex<RepeatedFailures>,
    ledger: Mutex<RotationLedger>,
    /// The ledger has news of a sender, and not only how often it came.
    has_sender_news: AtomicBool,
    refused_files: Mutex<RefusedFiles>,
    doubts: Mutex<UpstreamDoubts>,
    followers: broadcast::Sender<Event>,
    requests: HistoryRequests,
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
            has_sender_news: AtomicBool::new(false),
            clock,
            recent: Mutex::default(),
            reload_error: Mutex::default(),
            active_alerts: Mutex::default(),
            repeats: Mutex::default(),
            refused_files: Mutex::default(),
            doubts: Mutex::default(),
            followers: broadcast::Sender::new(FOLLOWER_QUEUE),
            requests: HistoryRequests::default(),
        })
    }

    /// Reports an Event to the log, the metrics and all followers. Never blocks.
    pub fn emit(&self, mut event: Event) {
        self.update_metrics(&event);
        {
            let (mut ledger, now) = self.lock_ledger();
            ledger::record_event(&mut ledger, &event, now);
            if ledger.has_news() {
                self.has_sender_news.store(true, Ordering::Relaxed);
            }
        }
        if let Event::Folder(file) = &event {
            lock(&self.refused_files).record_file(file, self.clock.now());
        }
        lock(&self.doubts).record_event(&event, self.clock.now());
        if let Event::Proof(proof) = &mut event {
            proof.handshake = lock(&self.recent).amend(proof);
        }
        if let Event::Reloaded(reload) = &event {
            lock(&self.reload_error).clone_from(&reload.error);
        }
        match &event {
            Event::Handshake(handshake) => self.log_handshake(handshake),
            Event::Proof(proof) if !self.handshakes || !self.should_log(proof) => {}
            event if self.filter.enabled(event.target(), event.level()) => {
                self.lines.push(event.line(self.lines.style(), self.clock.now()));
            }
            _ => {}
        }
        // No follower is not an error.
        let _ = self.followers.send(event);
    }

    /// The last 2,000 handshakes, the oldest first; connections that closed without a byte are not among them.
    pub fn recent(&self) -> Vec<Arc<HandshakeRecord>> {
        let mut places = lock(&self.recent).places();
        let mut copy = Vec::with_capacity(usize::try_from(places.end - places.start).unwrap_or_default());
        while !places.is_empty() {
            lock(&self.recent).copy_part(&mut places, &mut copy);
        }
        copy
    }

    /// The files that are refused now, by keyring (empty: the folder itself): how many, and since when the first is.
    pub fn refused_files(&self) -> BTreeMap<Arc<str>, (usize, Timestamp)> {
        lock(&self.refused_files).count_by_keyring()
    }

    /// What upstreams make of our pairs, as far as the operator has to act on it.
    pub fn upstream_doubts(&self) -> Vec<UpstreamDoubt> {
        lock(&self.doubts).to_vec()
    }

    /// Whether the last that is known of this pair at this egress' upstream is a refusal or a doubt.
    pub fn is_doubted(&self, listener: &Arc<str>, key_pair: Fingerprint) -> bool {
        lock(&self.doubts).is_doubted(listener, key_pair)
    }

    /// The rotation report of these keyrings; `contacts` are those of partners.
    pub fn report(
        &self,
        keyrings: &[report::KeyringOverlap],
        contacts: &BTreeMap<Arc<str>, String>,
    ) -> Vec<report::RotationReport> {
        if keyrings.is_empty() {
            return Vec::new();
        }
        let (ledger, now) = self.copy_ledger();
        report::build_reports(&ledger, keyrings, contacts, now)
    }

    /// The ledger as it is now, and the time by which it records. Who reports Events waits for the copy only, not for what is built
    /// from it.
    fn copy_ledger(&self) -> (RotationLedger, Timestamp) {
        let (ledger, now) = self.lock_ledger();
        (ledger.copy_for_reports(), now)
    }

    /// The ledger, moved by the steps of the clock that were announced, and the time to record.
    fn lock_ledger(&self) -> (MutexGuard<'_, RotationLedger>, Timestamp) {
        let mut ledger = lock(&self.ledger);
        let time = self.clock.read_recording_time();
        ledger.follow_clock(time.stepped);
        (ledger, time.now)
    }

    /// Restores a recorded refusal of the last run, for the rotation report.
    pub fn recall(&self, entry: &RefusalRecord) {
        ledger::recall_refusal(&mut self.lock_ledger().0, entry);
    }

    /// A registry may know which peer used which pair before this process started: the rotation report says that it
    /// waits for it.
    pub fn await_registry(&self) {
        lock(&self.ledger).await_registry();
    }

    /// Adds what the registry knew of former processes and of other instances when the reading began. It is made ready on a copy and
    /// taken over in parts: who reports Events waits for one part at most.
    pub fn recall_history(&self, history: report::RecalledHistory, began: Timestamp) {
        let mut prepared = self.copy_ledger().0.prepare_history(history, began);
        while !self.lock_ledger().0.merge_history(&mut prepared) {}
    }

    /// Has the registry read anew where other instances share it, and waits for that a little: a verdict that is asked for
    /// rests on nothing older. Where the registry does not answer, the report says that it waits for it.
    pub async fn refresh_history(&self) {
        // An instance that has just begun to write is known by such a reading only.
        let is_shared = {
            let ledger = lock(&self.ledger);
            ledger.is_shared() || (ledger.has_recalled() && self.requests.is_shareable())
        };
        if is_shared && !self.requests.request_reading().await {
            lock(&self.ledger).record_unanswered();
        }
    }

    /// The readings of the registry that were asked for; waits for one that is asked for next.
    pub const fn history_requests(&self) -> &HistoryRequests {
        &self.requests
    }

    /// The senders of which the registry does not have all that is known and that are to be written in this second of the writer, at
    /// most `limit`.
    pub fn take_changed_senders(&self, limit: usize, second: u64) -> Vec<report::ChangedSender> {
        let mut taken = Vec::new();
        loop {
            let part = TAKEN_AT_ONCE.min(limit - taken.len());
            let mut ledger = lock(&self.ledger);
            let some = ledger.take_changed(part, second);
            self.has_sender_news.store(ledger.has_news(), Ordering::Relaxed);
            drop(ledger);
            let is_last = some.len() < TAKEN_AT_ONCE;
            taken.extend(some);
            if is_last {
                return taken;
            }
        }
    }

    /// Whether the registry lacks something of a sender beside how often and when it came.
    pub fn has_sender_news(&self) -> bool {
        self.has_sender_news.load(Ordering::Relaxed)
    }

    /// Marks senders that could not be written.
    pub fn restore_changed_senders(&self, senders: Vec<report::ChangedSender>) {
        let mut keys = senders.into_iter().map(|sender| sender.key).peekable();
        while keys.peek().is_some() {
            lock(&self.ledger).restore_changed(keys.by_ref().take(TAKEN_AT_ONCE));
        }
    }

    /// Why the configuration that was read last was rejected, if it was.
    pub fn reload_error(&self) -> Option<String> {
        lock(&self.reload_error).clone()
    }

    /// The alerts that are active now, as they were evaluated last.
    pub fn active_alerts(&self) -> Vec<AlertRecord> {
        lock(&self.active_alerts).clone()
    }

    /// Replaces the active alerts; each was emitted as an Event when it began.
    pub fn set_active_alerts(&self, alerts: Vec<AlertRecord>) {
        *lock(&self.active_alerts) = alerts;
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

    /// The time to record facts with, over a step of the clock that is not announced yet.
    pub fn recording_now(&self) -> Timestamp {
        self.clock.read_recording_time().now
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

    /// Repeated refusals after the handshake are summed up like failed handshakes.
    fn should_log(&self, proof: &ProofRecord) -> bool {
        let handshake = proof.handshake.as_ref().filter(|_| proof.is_adverse());
        handshake.is_none_or(|handshake| lock(&self.repeats).should_log(handshake))
    }

    fn write_summaries(&self, sums: &[RepeatSummary], now: Timestamp) {
        for sum in sums {
            self.lines.push(sum.line(self.lines.style(), now));
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
                if let Some(alert) = handshake.refused_by_alert() {
                    self.metrics.count_key_pair_refusal(side, listener, alert);
                }
            }
            Event::Proof(proof) => {
                self.metrics.count_proof(&proof.listener, proof.outcome.as_str(), proof.reason);
                if proof.outcome == HandshakeOutcome::Refused {
                    self.metrics.count_key_pair_refusal("egress", &proof.listener, proof.reason);
                }
            }
            Event::Keyring(change) => {
                if let Some((keyring, outcome)) = change.rotation_outcome() {
                    self.metrics.rotation(keyring, outcome);
                }
            }
            Event::Folder(file) if file.problem.severity == ProblemSeverity::Refused && !file.over => {
                self.metrics.count_folder_refusal();
            }
            Event::Drained(drain) => self.metrics.count_drained(drain.reason),
            Event::Registry(registry) => self.metrics.set_registry_up(registry.up),
            Event::Alert(alert) => self.metrics.count_alert(alert.kind, "log", "sent"),
            Event::Delivery(delivery) => self.metrics.count_alert(&delivery.kind, delivery.sink, delivery.outcome),
            Event::Token(token) => {
                self.metrics.count_token(&token.listener, token.outcome.as_str(), token.reason);
            }
            _ => {}
        }
    }
}

/// A panic elsewhere leaves these lists consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
