//! Records which sender was shown which key pair and what came of it, in bounded memory.
//!
//! Senders without a certificate have a table of their own, so that unauthenticated input evicts no other. `recalled`
//! adds what the registry has; `upstreams` and `sources` keep everything else.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::changed_senders::ChangedSenders;
use super::fact::{LedgerFact, SenderOutcome};
use super::sender::{SenderKey, SenderUse};
use super::sender_table::SenderTable;
use super::shape::{PriorHistory, ReplicaStatus};
use super::sources::RefusalSources;
use super::upstreams::UpstreamTable;
use crate::keyring::fit::shift_time;
use crate::keyring::{KeyringName, SelectionReason};

/// Senders with a certificate, over all keyrings and listeners.
pub(super) const MAX_SENDERS: usize = 20_000;
/// Senders without one.
pub(super) const MAX_ANONYMOUS: usize = 256;

/// Senders that were dropped: until the last of them leaves the window, a report is incomplete.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ForgottenSenders {
    pub(super) count: u64,
    pub(super) last: Option<Timestamp>,
}

/// Which sender was shown which pair.
#[derive(Clone, Debug)]
pub struct RotationLedger {
    pub(super) since: Timestamp,
    pub(super) before: PriorHistory,
    /// When the last reading of the registry began.
    pub(super) read: Option<Timestamp>,
    /// A reading was asked for, and none has ended since.
    pub(super) unanswered: bool,
    /// When the fleet's registry began, if it was read.
    pub(super) recorded_since: Option<Timestamp>,
    pub(super) senders: SenderTable,
    pub(super) anonymous: SenderTable,
    /// Senders that the registry does not have as they are.
    pub(super) changed: ChangedSenders,
    /// The epoch of each keyring's last rotation.
    pub(super) rotations: BTreeMap<KeyringName, u64>,
    pub(super) upstreams: UpstreamTable,
    pub(super) sources: RefusalSources,
    pub(super) forgotten: BTreeMap<KeyringName, ForgottenSenders>,
    pub(super) anonymous_forgotten: u64,
    pub(super) replicas: Vec<ReplicaStatus>,
    /// What other instances wrote last by their clocks, and when that was news by ours.
    pub(super) heard: BTreeMap<String, (Timestamp, Timestamp)>,
    /// The steps of the clock that its times have followed, in all.
    pub(super) stepped: SignedDuration,
}

impl RotationLedger {
    /// An empty ledger that records from now on.
    pub fn new(now: Timestamp) -> Self {
        Self {
            since: now,
            before: PriorHistory::Unknown,
            read: None,
            unanswered: false,
            heard: BTreeMap::new(),
            recorded_since: None,
            senders: SenderTable::default(),
            anonymous: SenderTable::default(),
            changed: ChangedSenders::default(),
            rotations: BTreeMap::new(),
            upstreams: UpstreamTable::default(),
            sources: RefusalSources::default(),
            forgotten: BTreeMap::new(),
            anonymous_forgotten: 0,
            replicas: Vec::new(),
            stepped: SignedDuration::ZERO,
        }
    }

    /// A copy to build reports from, which stays as it is while the ledger goes on. It shares the senders, so that it is taken in
    /// little time, however long a report takes; it does not say which of them changed.
    pub fn copy_for_reports(&self) -> Self {
        Self {
            since: self.since,
            before: self.before,
            read: self.read,
            unanswered: self.unanswered,
            heard: self.heard.clone(),
            recorded_since: self.recorded_since,
            senders: self.senders.clone(),
            anonymous: self.anonymous.clone(),
            changed: ChangedSenders::default(),
            rotations: self.rotations.clone(),
            upstreams: self.upstreams.clone(),
            sources: self.sources.clone(),
            forgotten: self.forgotten.clone(),
            anonymous_forgotten: self.anonymous_forgotten,
            replicas: self.replicas.clone(),
            stepped: self.stepped,
        }
    }

    /// Records a fact.
    pub fn record(&mut self, fact: &LedgerFact<'_>, now: Timestamp) {
        match fact {
            LedgerFact::Rotated { keyring, epoch } => self.begin_rotation(keyring, *epoch),
            LedgerFact::Peer { .. } => self.record_handshake(fact, now),
            LedgerFact::Proof { .. } => self.record_proof(fact, now),
            LedgerFact::Upstream { .. } => self.upstreams.record_response(fact, now),
            LedgerFact::Unasked { listener, epoch } => self.upstreams.record_unasked(listener, *epoch, now),
            LedgerFact::Configured { upstreams, epoch } => self.upstreams.set_configured(upstreams, *epoch),
            LedgerFact::Source { .. } => self.record_refusal(fact, now),
        }
    }

    /// The senders with a certificate, those without one, sources and upstreams: how many.
    pub fn size(&self) -> (usize, usize, usize, usize) {
        (self.senders.len(), self.anonymous.len(), self.sources.len(), self.upstreams.len())
    }

    fn begin_rotation(&mut self, keyring: &KeyringName, epoch: u64) {
        let known = self.rotations.entry(Arc::clone(keyring)).or_default();
        *known = (*known).max(epoch);
        for (key, sender) in
            self.senders.iter_mut().chain(self.anonymous.iter_mut()).filter(|(key, _)| key.keyring == *keyring)
        {
            for evidence in Arc::make_mut(sender).own.iter_mut().filter(|one| one.epoch < epoch) {
                evidence.reset();
                if key.certificate.is_some() {
                    self.changed.add_news(Arc::clone(key));
                }
            }
        }
        self.upstreams.reset_counts(keyring);
    }

    fn record_handshake(&mut self, fact: &LedgerFact<'_>, now: Timestamp) {
        let LedgerFact::Peer { keyring, listener, identity, partner, certificate, source, key_pair, chosen_by, epoch } =
            *fact
        else {
            return;
        };
        let is_after = self.is_after_rotation(keyring, epoch);
        let key = SenderKey::new((keyring, listener), identity, certificate, source);
        let taught =
            (is_after && chosen_by == SelectionReason::Learned).then(|| self.sources.taught_by(&key)).flatten();
        let (key, sender) = self.find_sender(key);
        let mut is_news = sender.partner.as_ref() != partner;
        if is_news {
            sender.partner = partner.cloned();
        }
        let evidence = sender.own_pair(key_pair, now);
        let before = evidence.clone();
        evidence.visits.add_handshake(now);
        if is_after {
            evidence.handshakes += 1;
            evidence.since = evidence.since.or(Some(now));
            evidence.chosen_by = Some(chosen_by);
            evidence.epoch = epoch;
            if let Some(because) = explain_insistence(chosen_by) {
                evidence.insist(now, chosen_by.as_str().into(), because.to_owned());
            } else if let Some((reason, because)) = taught {
                evidence.insist(now, reason.into(), because);
            }
        }
        is_news |= before.visits.handshakes == 0 || !before.says_same(evidence);
        self.mark_changed(key, is_news);
        self.trim(keyring);
    }

    fn record_proof(&mut self, fact: &LedgerFact<'_>, now: Timestamp) {
        let LedgerFact::Proof { keyring, listener, identity, certificate, source, key_pair, outcome, epoch } = *fact
        else {
            return;
        };
        // Of a connection from before the rotation: it showed the pair under other circumstances.
        if !self.is_after_rotation(keyring, epoch) {
            return;
        }
        let key = SenderKey::new((keyring, listener), identity, certificate, source);
        let (key, sender) = self.find_sender(key);
        let evidence = sender.own_pair(key_pair, now);
        let before = evidence.clone();
        evidence.epoch = epoch;
        match outcome {
            SenderOutcome::Proved => evidence.record_proof(now),
            SenderOutcome::UnexplainedEnd => evidence.record_end(now),
        }
        let is_news = !before.says_same(evidence);
        self.mark_changed(key, is_news);
        self.trim(keyring);
    }

    fn record_refusal(&mut self, fact: &LedgerFact<'_>, now: Timestamp) {
        let LedgerFact::Source { keyring, listener, source, shown, peer: Some(peer), reason, explanation, .. } = *fact
        else {
            self.sources.record_refusal(fact, now);
            return;
        };
        let entry = self.sources.record_refusal(fact, now);
        if !entry.is_some_and(|confirmed| confirmed) {
            return;
        }
        let (reason, explanation) =
            self.sources.reason(listener, source).unwrap_or_else(|| (reason.into(), explanation.to_owned()));
        let epoch = self.rotations.get(keyring).copied().unwrap_or_default();
        for (key, sender) in self.senders.iter_mut() {
            let is_it = key.keyring == *keyring && key.listener == *listener && key.identity == peer;
            if is_it && key.comes_from(source) {
                let evidence = Arc::make_mut(sender).own_pair(shown, now);
                evidence.epoch = evidence.epoch.max(epoch);
                evidence.insist(now, reason.clone(), explanation.clone());
                self.changed.add_news(Arc::clone(key));
            }
        }
    }

    fn is_after_rotation(&self, keyring: &KeyringName, epoch: u64) -> bool {
        self.rotations.get(keyring).is_none_or(|rotated| *rotated <= epoch)
    }

    /// The sender's entry, begun where there is none.
    fn find_sender(&mut self, key: SenderKey) -> (Arc<SenderKey>, &mut SenderUse) {
        let is_anonymous = key.certificate.is_none();
        let all = if is_anonymous { &mut self.anonymous } else { &mut self.senders };
        let known = all.get_key_value(&key).map(|(known, _)| Arc::clone(known));
        let key = known.unwrap_or_else(|| Arc::new(key));
        let sender = Arc::make_mut(all.find_or_begin(Arc::clone(&key)));
        (key, sender)
    }

    /// The sender is to be written to the registry: soon, or some seconds later where only counts and times are new.
    fn mark_changed(&mut self, key: Arc<SenderKey>, is_news: bool) {
        if key.certificate.is_none() {
            return;
        }
        if is_news {
            self.changed.add_news(key);
        } else {
            self.changed.add_visit(key);
        }
    }

    pub(super) fn trim(&mut self, keyring: &KeyringName) {
        if self.anonymous.len() > MAX_ANONYMOUS {
            self.anonymous_forgotten += drop_silent(&mut self.anonymous, MAX_ANONYMOUS, |_| true).len() as u64;
        }
        if self.senders.len() <= MAX_SENDERS {
            return;
        }
        let mut counts: BTreeMap<&KeyringName, usize> = BTreeMap::new();
        self.senders.keys().for_each(|key| *counts.entry(&key.keyring).or_default() += 1);
        let largest = counts.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| Arc::clone(name));
        let largest = largest.unwrap_or_else(|| Arc::clone(keyring));
        let gone = drop_silent(&mut self.senders, MAX_SENDERS, |key| key.keyring == largest);
        let forgotten = self.forgotten.entry(largest).or_default();
        forgotten.count += gone.len() as u64;
        forgotten.last = forgotten.last.max(gone.iter().map(|(_, last)| *last).max());
        for (key, _) in &gone {
            self.changed.remove(key);
        }
    }

    /// Follows the steps of the clock; `stepped`: all of them since the process began. What is recorded next goes by the stepped clock.
    pub fn follow_clock(&mut self, stepped: SignedDuration) {
        if self.stepped != stepped {
            self.shift_times(stepped.saturating_sub(self.stepped));
        }
    }

    /// After a step of the clock all ages are what they were before it.
    pub(in crate::evidence) fn shift_times(&mut self, step: SignedDuration) {
        self.stepped = self.stepped.saturating_add(step);
        self.since = shift_time(self.since, step);
        self.read = self.read.map(|read| shift_time(read, step));
        self.heard.values_mut().for_each(|(_, news)| *news = shift_time(*news, step));
        for (key, sender) in self.senders.iter_mut().chain(self.anonymous.iter_mut()) {
            Arc::make_mut(sender).own.iter_mut().for_each(|evidence| evidence.shift(step));
            if key.certificate.is_some() {
                self.changed.add_news(Arc::clone(key));
            }
        }
        self.upstreams.shift_times(step);
        self.sources.shift_times(step);
        for forgotten in self.forgotten.values_mut() {
            forgotten.last = forgotten.last.map(|last| shift_time(last, step));
        }
    }
}

/// Drops an eighth of those that are meant, the longest silent first, so that a flood costs little.
fn drop_silent(
    all: &mut SenderTable,
    limit: usize,
    is_meant: impl Fn(&SenderKey) -> bool,
) -> Vec<(Arc<SenderKey>, Timestamp)> {
    let mut seen: Vec<(Timestamp, Arc<SenderKey>)> =
        all.iter().filter(|(key, _)| is_meant(key)).map(|(key, sender)| (sender.last(), Arc::clone(key))).collect();
    let count = (limit / 8 + 1).min(seen.len());
    if count == 0 {
        return Vec::new();
    }
    seen.select_nth_unstable(count - 1);
    seen.truncate(count);
    seen.into_iter().filter_map(|(last, key)| all.remove(&key).map(|_| (key, last))).collect()
}

/// Why the sender itself caused the old pair to be shown, if it did: what it says of itself in its hello.
const fn explain_insistence(chosen_by: SelectionReason) -> Option<&'static str> {
    match chosen_by {
        SelectionReason::Authorities => Some("it names certificate authorities that only the old key pair chains to"),
        SelectionReason::Only => {
            Some("only the old key pair fits the server name, cipher suites or signature schemes that it offers")
        }
        SelectionReason::Learned | SelectionReason::Partner | SelectionReason::Prefer | SelectionReason::LastResort => {
            None
        }
    }
}
