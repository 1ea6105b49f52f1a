//! Merges a reading of the registry into the ledger: what former processes of this instance knew, once, and what other
//! instances know, anew each time. What this process has seen itself is never overridden.
//!
//! A reading has as many records as a fleet has senders. So what it changes is found out on a copy, while Events go on; the ledger
//! takes it over in parts, so that none of them has to wait for long. Until the last part the ledger says that it was read when it was
//! read before: a verdict that needs this reading waits.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::evidence::PairEvidence;
use super::ledger::RotationLedger;
use super::recalled::{RecalledHistory, RecalledUse};
use super::sender::{SenderKey, SenderUse, merge_pair};
use super::shape::{PriorHistory, ReplicaStatus};
use super::sources::SourceEntry;
use super::upstreams::FleetResponse;
use crate::keyring::KeyringName;
use crate::keyring::fit::shift_time;
use crate::pki::Fingerprint;

/// Senders that one part has at most.
pub(super) const PART_SIZE: usize = 512;

/// What a reading changes in a ledger.
#[derive(Debug)]
pub struct PreparedHistory {
    senders: Vec<PreparedSender>,
    /// The ledger's rotations when this was prepared.
    rotations: BTreeMap<KeyringName, u64>,
    /// When the reading began.
    began: Timestamp,
    /// The steps of the clock that the ledger had followed when this was prepared.
    stepped: SignedDuration,
    is_first: bool,
    since: Timestamp,
    keyrings: Vec<KeyringName>,
    upstreams: Vec<RecalledUse>,
    replicas: Vec<ReplicaStatus>,
    cut: Vec<KeyringName>,
}

/// A sender that the reading changes.
#[derive(Debug)]
struct PreparedSender {
    key: Arc<SenderKey>,
    news: SenderNews,
    /// As it was, and as it is to be if nothing happens meanwhile.
    before: Option<Arc<SenderUse>>,
    after: Arc<SenderUse>,
}

/// What the reading has of a sender.
#[derive(Debug, Default)]
struct SenderNews {
    partner: Option<Arc<str>>,
    /// What former processes of this instance knew.
    former: Vec<PairEvidence>,
    /// What other instances know.
    fleet: Vec<PairEvidence>,
    /// Refusals that it has confirmed: a refusal that `state` remembers is known before the sender whose it is.
    confirmed: Vec<ConfirmedRefusal>,
}

/// A refusal that a sender has confirmed.
#[derive(Clone, Debug)]
struct ConfirmedRefusal {
    shown: Fingerprint,
    since: Timestamp,
    reason: &'static str,
    explanation: String,
}

impl PreparedHistory {
    /// The clock was stepped since this was prepared: what is taken over is as old as what the ledger has. Other instances' times are by
    /// their own clocks.
    fn follow_clock(&mut self, stepped: SignedDuration) {
        let step = stepped.saturating_sub(self.stepped);
        if step.is_zero() {
            return;
        }
        self.began = shift_time(self.began, step);
        for PreparedSender { news, before, after, .. } in &mut self.senders {
            news.former.iter_mut().for_each(|evidence| evidence.shift(step));
            news.confirmed.iter_mut().for_each(|refusal| refusal.since = shift_time(refusal.since, step));
            // The ledger's entry has been moved: it is no longer the one that was copied. What follows is for a sender without one.
            let mut only = SenderUse::default();
            news.merge_into(&mut only);
            (*before, *after) = (None, Arc::new(only));
        }
        self.stepped = stepped;
    }
}

impl SenderNews {
    fn merge_into(&self, sender: &mut SenderUse) {
        if sender.partner.is_none() {
            sender.partner.clone_from(&self.partner);
        }
        self.former.iter().for_each(|evidence| merge_pair(&mut sender.own, evidence.clone()));
        sender.fleet.clone_from(&self.fleet);
        for refusal in &self.confirmed {
            let evidence = sender.own_pair(refusal.shown, refusal.since);
            if evidence.insisted.is_none() {
                evidence.insist(refusal.since, Cow::Borrowed(refusal.reason), refusal.explanation.clone());
            }
        }
    }

    fn changes(&self, sender: &SenderUse) -> bool {
        let names_partner = sender.partner.is_none() && self.partner.is_some();
        !self.former.is_empty() || !self.confirmed.is_empty() || names_partner || sender.fleet != self.fleet
    }

    /// Of the time before a rotation: only when the sender came.
    fn reset(&mut self) {
        self.former.iter_mut().chain(&mut self.fleet).for_each(PairEvidence::reset);
    }
}

impl RotationLedger {
    /// What a reading that began at `began` changes, found out on a copy of the ledger.
    pub fn prepare_history(&self, history: RecalledHistory, began: Timestamp) -> PreparedHistory {
        let is_first = !self.has_recalled();
        let RecalledHistory { since, keyrings, uses, replicas, cut } = history;
        let mut news: HashMap<Arc<SenderKey>, SenderNews> = HashMap::new();
        // What other instances knew before counts only as far as this reading has it.
        for (key, _) in
            self.senders.iter().filter(|(key, sender)| !sender.fleet.is_empty() && keyrings.contains(&key.keyring))
        {
            news.insert(Arc::clone(key), SenderNews::default());
        }
        let mut upstreams = Vec::new();
        for recalled in uses {
            match recalled {
                // What this process has written since is not news.
                RecalledUse::Sender { is_own: true, .. } | RecalledUse::Upstream { is_own: true, .. } if !is_first => {}
                RecalledUse::Sender { is_own, key, partner, mut evidence } => {
                    // Epochs are numbers of one process.
                    evidence.epoch = 0;
                    let sender = news.entry(Arc::new(key)).or_default();
                    sender.partner = sender.partner.take().or(partner);
                    merge_pair(if is_own { &mut sender.former } else { &mut sender.fleet }, evidence);
                }
                upstream => upstreams.push(upstream),
            }
        }
        self.add_confirmed(&mut news);
        let senders = news.into_iter().filter_map(|(key, news)| {
            let before = self.senders.get(&key).cloned();
            if before.as_ref().is_some_and(|known| !news.changes(known)) {
                return None;
            }
            let mut after = before.as_deref().cloned().unwrap_or_default();
            news.merge_into(&mut after);
            Some(PreparedSender { key, news, before, after: Arc::new(after) })
        });
        let (senders, rotations, stepped) = (senders.collect(), self.rotations.clone(), self.stepped);
        PreparedHistory { senders, rotations, began, stepped, is_first, since, keyrings, upstreams, replicas, cut }
    }

    /// Takes over a part of what was prepared; returns whether that was the last one.
    pub fn merge_history(&mut self, prepared: &mut PreparedHistory) -> bool {
        prepared.follow_clock(self.stepped);
        let PreparedHistory { senders, rotations, .. } = prepared;
        let left = senders.len().saturating_sub(PART_SIZE);
        for sender in senders.drain(left..) {
            self.merge_sender(sender, rotations);
        }
        let is_done = senders.is_empty();
        if is_done {
            self.finish_history(prepared);
        }
        is_done
    }

    /// Adds what the registry had at `began`, at once.
    #[cfg(test)]
    pub(in crate::evidence) fn recall(&mut self, history: RecalledHistory, began: Timestamp) {
        let mut prepared = self.prepare_history(history, began);
        while !self.merge_history(&mut prepared) {}
    }

    fn merge_sender(&mut self, prepared: PreparedSender, rotations: &BTreeMap<KeyringName, u64>) {
        let PreparedSender { key, mut news, before, after } = prepared;
        let is_same_rotation = self.rotations.get(&key.keyring) == rotations.get(&key.keyring);
        let is_untouched = match (self.senders.get(&key), &before) {
            (Some(known), Some(before)) => Arc::ptr_eq(known, before),
            (None, None) => true,
            _ => false,
        };
        if !is_same_rotation {
            news.reset();
        }
        let sender = self.senders.find_or_begin(Arc::clone(&key));
        if is_untouched && is_same_rotation {
            *sender = after;
        } else {
            // Something has happened since the copy was taken.
            news.merge_into(Arc::make_mut(sender));
        }
        if sender.own.is_empty() && sender.fleet.is_empty() {
            self.senders.remove(&key);
        }
    }

    fn finish_history(&mut self, prepared: &mut PreparedHistory) {
        let now = prepared.began;
        self.before = PriorHistory::Recalled;
        (self.read, self.unanswered) = (Some(now), false);
        self.record_heartbeats(&prepared.replicas, now);
        self.recorded_since = Some(self.recorded_since.map_or(prepared.since, |since| since.min(prepared.since)));
        self.since = self.since.min(prepared.since);
        self.replicas = std::mem::take(&mut prepared.replicas);
        for keyring in &prepared.keyrings {
            self.upstreams.forget_fleet(keyring);
        }
        for recalled in prepared.upstreams.drain(..) {
            self.recall_upstream(recalled, prepared.is_first);
        }
        for keyring in prepared.keyrings.drain(..) {
            self.trim(&keyring);
            if prepared.cut.contains(&keyring) {
                let forgotten = self.forgotten.entry(keyring).or_default();
                (forgotten.count, forgotten.last) = (forgotten.count.max(1), Some(now));
            }
        }
    }

    /// Clocks of instances may differ: what counts is when a heartbeat was news here.
    fn record_heartbeats(&mut self, replicas: &[ReplicaStatus], now: Timestamp) {
        let news = replicas.iter().map(|replica| {
            let known = self.heard.get(&replica.instance).filter(|(last, _)| *last == replica.last_heard);
            let unknown = || if self.heard.is_empty() { replica.last_heard.min(now) } else { now };
            (replica.instance.clone(), (replica.last_heard, known.map_or_else(unknown, |(_, news)| *news)))
        });
        self.heard = news.collect();
    }

    fn recall_upstream(&mut self, recalled: RecalledUse, is_first: bool) {
        match recalled {
            RecalledUse::Shown { keyring, listener, key_pair, last } if is_first => {
                self.upstreams.recall_shown(&listener, &keyring, key_pair, last);
            }
            RecalledUse::Upstream {
                is_own,
                instance,
                keyring,
                listener,
                key_pair,
                said,
                since,
                reason,
                explanation,
            } => {
                let response = FleetResponse { keyring, instance, key_pair, said, since, reason, explanation };
                if is_own {
                    self.upstreams.recall_response(&listener, response);
                } else {
                    self.upstreams.add_fleet(&listener, response);
                }
            }
            RecalledUse::Shown { .. } | RecalledUse::Sender { .. } => {}
        }
    }

    /// Adds the refusals that senders have confirmed and that are not known of them yet.
    fn add_confirmed(&self, news: &mut HashMap<Arc<SenderKey>, SenderNews>) {
        let mut confirmed: HashMap<(&str, &str), Vec<(&str, &SourceEntry)>> = HashMap::new();
        for (listener, source, entry) in self.sources.confirmed() {
            let peer = entry.peer.as_deref().unwrap_or_default();
            confirmed.entry((listener, peer)).or_default().push((source, entry));
        }
        if confirmed.is_empty() {
            return;
        }
        let new = news.keys().filter(|key| self.senders.get(key).is_none()).cloned();
        let keys: Vec<Arc<SenderKey>> = self.senders.keys().cloned().chain(new).collect();
        for key in keys {
            let Some(entries) = confirmed.get(&(&*key.listener, key.identity.as_str())) else { continue };
            for (_, entry) in
                entries.iter().filter(|(source, entry)| entry.keyring == key.keyring && key.comes_from(source))
            {
                let is_known = self.senders.get(&key).is_some_and(|sender| {
                    sender.own.iter().any(|one| one.key_pair == entry.shown && one.insisted.is_some())
                });
                if is_known {
                    continue;
                }
                let refusal = ConfirmedRefusal {
                    shown: entry.shown,
                    since: entry.since,
                    reason: entry.reason,
                    explanation: entry.explanation.clone(),
                };
                let sender = news.entry(Arc::clone(&key)).or_insert_with(|| SenderNews {
                    fleet: self.senders.get(&key).map(|sender| sender.fleet.clone()).unwrap_or_default(),
                    ..SenderNews::default()
                });
                sender.confirmed.push(refusal);
            }
        }
    }
}
