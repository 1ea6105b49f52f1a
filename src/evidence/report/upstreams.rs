//! What upstreams made of our pairs: evidence is about (listener, upstream as configured).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::fact::{LedgerFact, UpstreamResponse};
use super::sender::MAX_PAIRS;
use super::shape::{KeyringOverlap, ReportLine, RotationProgress, SubjectKind};
use crate::keyring::KeyringName;
use crate::keyring::fit::shift_time;
use crate::pki::{Fingerprint, format_minute};

/// Egress listeners kept: those of the configuration, and of former configurations.
const MAX_UPSTREAMS: usize = 1024;

/// One pair that an upstream was shown.
#[derive(Clone, Debug)]
pub(super) struct UpstreamUse {
    pub(super) key_pair: Fingerprint,
    pub(super) keyring: Option<KeyringName>,
    pub(super) said: UpstreamResponse,
    /// Since when it has answered so.
    pub(super) since: Timestamp,
    /// The last handshake.
    pub(super) last: Option<Timestamp>,
    /// Handshakes since the rotation.
    pub(super) count: u64,
    pub(super) reason: Cow<'static, str>,
    pub(super) explanation: String,
    pub(super) next_try: Option<Timestamp>,
}

/// What another instance's upstream said last about the new pair.
#[derive(Clone, Debug)]
pub(super) struct FleetResponse {
    pub(super) keyring: KeyringName,
    pub(super) instance: String,
    pub(super) key_pair: Fingerprint,
    pub(super) said: UpstreamResponse,
    pub(super) since: Timestamp,
    pub(super) reason: String,
    pub(super) explanation: String,
}

/// What one egress leads to.
#[derive(Clone, Debug, Default)]
struct UpstreamEntry {
    /// Host and port, and since which epoch.
    configured: Option<(String, u64)>,
    shown: Vec<UpstreamUse>,
    /// The last handshake in which it asked for no certificate, where no pair was shown since.
    unasked: Option<Timestamp>,
    fleet: Vec<FleetResponse>,
}

/// The upstreams by listener.
#[derive(Clone, Debug, Default)]
pub(super) struct UpstreamTable(BTreeMap<Arc<str>, UpstreamEntry>);

impl UpstreamTable {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn reset_counts(&mut self, keyring: &KeyringName) {
        let shown = self.0.values_mut().flat_map(|entry| &mut entry.shown);
        shown.filter(|shown| shown.keyring.as_ref() == Some(keyring)).for_each(|shown| shown.count = 0);
    }

    /// Drops what is known of a listener whose upstream is another now.
    pub(super) fn set_configured(&mut self, upstreams: &[(Arc<str>, String)], epoch: u64) {
        for (listener, upstream) in upstreams {
            let entry = self.entry(listener);
            let is_same = entry.configured.as_ref().is_some_and(|(known, _)| known == upstream);
            if is_same {
                continue;
            }
            if entry.configured.is_some() {
                (entry.shown, entry.fleet, entry.unasked) = (Vec::new(), Vec::new(), None);
            }
            // Evidence of the first epoch may come before its own Event.
            let since = if entry.configured.is_some() { epoch } else { 0 };
            entry.configured = Some((upstream.clone(), since));
        }
    }

    pub(super) fn record_response(&mut self, fact: &LedgerFact<'_>, now: Timestamp) {
        let LedgerFact::Upstream { listener, keyring, key_pair, said, handshake, reason, explanation, next_try, epoch } =
            *fact
        else {
            return;
        };
        let entry = self.entry(listener);
        if entry.configured.as_ref().is_some_and(|(_, since)| epoch < *since) {
            return;
        }
        // A pair was shown or refused: it asks for one.
        if handshake || said == UpstreamResponse::Refused {
            entry.unasked = None;
        }
        let shown = entry.shown_pair(keyring, key_pair, now);
        if handshake {
            (shown.last, shown.count) = (Some(now), shown.count + 1);
        }
        // A successful handshake revokes neither a proof nor a refusal; a verdict on the upstream does.
        if handshake && said == UpstreamResponse::HandshakeOk && shown.said != UpstreamResponse::HandshakeOk {
            return;
        }
        if shown.said != said {
            (shown.said, shown.since) = (said, now);
        }
        (shown.reason, shown.next_try) = (Cow::Borrowed(reason), next_try);
        explanation.clone_into(&mut shown.explanation);
    }

    pub(super) fn record_unasked(&mut self, listener: &Arc<str>, epoch: u64, now: Timestamp) {
        let entry = self.entry(listener);
        if entry.configured.as_ref().is_none_or(|(_, since)| *since <= epoch) {
            entry.unasked = Some(now);
        }
    }

    /// What this instance's registry rows say; it never overrides what this process has seen.
    pub(super) fn recall_shown(
        &mut self,
        listener: &Arc<str>,
        keyring: &KeyringName,
        key_pair: Fingerprint,
        last: Timestamp,
    ) {
        let shown = self.entry(listener).shown_pair(Some(keyring), key_pair, last);
        shown.last = shown.last.max(Some(last));
    }

    /// This instance's last answer of a former process.
    pub(super) fn recall_response(&mut self, listener: &Arc<str>, former: FleetResponse) {
        let shown = self.entry(listener).shown_pair(Some(&former.keyring), former.key_pair, former.since);
        if shown.said == UpstreamResponse::HandshakeOk {
            (shown.said, shown.since) = (former.said, former.since);
            (shown.reason, shown.explanation) = (Cow::Owned(former.reason), former.explanation);
        }
    }

    pub(super) fn forget_fleet(&mut self, keyring: &KeyringName) {
        self.0.values_mut().for_each(|entry| entry.fleet.retain(|one| one.keyring != *keyring));
    }

    pub(super) fn add_fleet(&mut self, listener: &Arc<str>, response: FleetResponse) {
        self.entry(listener).fleet.push(response);
    }

    pub(super) fn shift_times(&mut self, step: SignedDuration) {
        let moved = |at: Timestamp| shift_time(at, step);
        for shown in self.0.values_mut().flat_map(|entry| &mut entry.shown) {
            (shown.since, shown.last) = (moved(shown.since), shown.last.map(moved));
            shown.next_try = shown.next_try.map(moved);
        }
        self.0.values_mut().for_each(|entry| entry.unasked = entry.unasked.map(moved));
    }

    pub(super) fn line(&self, keyring: &KeyringOverlap, listener: &Arc<str>, name: &str) -> ReportLine {
        let nothing = UpstreamEntry::default();
        let entry = self.0.get(listener).unwrap_or(&nothing);
        let new = entry.shown.iter().find(|shown| shown.key_pair == keyring.current);
        let is_old = |key_pair: Fingerprint| keyring.previous.iter().any(|previous| previous.key_pair == key_pair);
        let old = entry.shown.iter().filter(|shown| is_old(shown.key_pair)).max_by_key(|shown| shown.last);
        let on_old = old.is_some_and(|old| old.count > 0 || old.last.is_some_and(|last| keyring.rotated <= last));
        let fleet = |said: UpstreamResponse| {
            let about = entry.fleet.iter().filter(move |one| one.key_pair == keyring.current && one.said == said);
            about.max_by_key(|one| one.since)
        };
        let elsewhere = fleet(UpstreamResponse::Refused);
        let mut old_answers = entry.shown.iter().filter(|shown| is_old(shown.key_pair)).map(|old| old.said);
        let refuses_old = old.is_some() && old_answers.all(|said| said == UpstreamResponse::Refused);
        let stands = match new.map(|new| new.said) {
            Some(UpstreamResponse::Refused) if refuses_old => RotationProgress::RefusesEvery,
            Some(UpstreamResponse::Refused) => RotationProgress::InsistsOnOld,
            _ if elsewhere.is_some() => RotationProgress::InsistsOnOld,
            Some(UpstreamResponse::Proved) => RotationProgress::ProvedNew,
            _ if on_old => RotationProgress::StillOnOld,
            _ if fleet(UpstreamResponse::Proved).is_some() => RotationProgress::ProvedNew,
            Some(UpstreamResponse::HandshakeOk) => RotationProgress::Unproved,
            None => entry.progress_unasked(keyring.rotated),
        };
        let told = new.filter(|new| new.said == UpstreamResponse::Refused);
        let elsewhere = elsewhere.filter(|_| told.is_none());
        let still = "the upstream has not proved the new key pair yet, so traffic stays on the old one";
        let at_instance = |one: &FleetResponse| format!("{} (at instance {})", one.explanation, one.instance);
        let mut line = ReportLine::new(SubjectKind::Upstream, name, listener, stands);
        line.since = new.map(|new| new.since).filter(|_| stands != RotationProgress::ProvedNew);
        line.since = elsewhere.map(|one| one.since).or(line.since);
        line.last_new = new.and_then(|new| new.last);
        line.last_old = old.and_then(|old| old.last);
        line.handshakes_new = new.map_or(0, |new| new.count);
        line.handshakes_old = entry.shown.iter().filter(|shown| is_old(shown.key_pair)).map(|shown| shown.count).sum();
        line.reason = told.map(|new| new.reason.clone().into_owned()).or(elsewhere.map(|one| one.reason.clone()));
        line.because = match stands {
            RotationProgress::StillOnOld => Some(still.to_owned()),
            RotationProgress::RefusesEvery => told.zip(old).map(|(new, old)| explain_refusals(new, old)),
            RotationProgress::AsksForNone | RotationProgress::Unproved if new.is_none() => entry.explain_unasked(),
            _ => told.map(|new| new.explanation.clone()).or(elsewhere.map(at_instance)),
        };
        line.next_try = told.and_then(|new| new.next_try);
        line
    }

    fn entry(&mut self, listener: &Arc<str>) -> &mut UpstreamEntry {
        if !self.0.contains_key(listener) && self.0.len() == MAX_UPSTREAMS {
            self.0.pop_first();
        }
        self.0.entry(Arc::clone(listener)).or_default()
    }
}

/// By their codes: the sentence of the first refusal may say that the other pair is accepted.
fn explain_refusals(new: &UpstreamUse, old: &UpstreamUse) -> String {
    format!(
        "it refuses every key pair of ours that it was shown: the new one {} ({}) and the old one {} ({}); ask its \
         operator what it trusts",
        new.key_pair.short(),
        new.reason,
        old.key_pair.short(),
        old.reason
    )
}

impl UpstreamEntry {
    /// Of an upstream that was not shown a pair since the rotation. Where one was shown to it before, another node of it
    /// may still ask for it.
    fn progress_unasked(&self, rotated: Timestamp) -> RotationProgress {
        match self.unasked.filter(|at| rotated <= *at) {
            Some(_) if self.shown.is_empty() => RotationProgress::AsksForNone,
            Some(_) => RotationProgress::Unproved,
            None => RotationProgress::NotSeen,
        }
    }

    fn explain_unasked(&self) -> Option<String> {
        let at = format_minute(self.unasked?);
        let said = format!("it asked for no certificate in its last handshake, at {at}");
        Some(if self.shown.is_empty() {
            format!("{said}: this is not mutual TLS, and no key pair is shown to it")
        } else {
            format!("{said}, but was shown a key pair before: one of its nodes may still ask for it")
        })
    }

    fn shown_pair(&mut self, keyring: Option<&KeyringName>, key_pair: Fingerprint, now: Timestamp) -> &mut UpstreamUse {
        let all = &mut self.shown;
        let index = all.iter().position(|shown| shown.key_pair == key_pair).unwrap_or_else(|| {
            if all.len() == MAX_PAIRS
                && let Some((oldest, _)) =
                    all.iter().enumerate().min_by_key(|(_, shown)| shown.last.unwrap_or(shown.since))
            {
                all.remove(oldest);
            }
            all.push(UpstreamUse {
                key_pair,
                keyring: keyring.cloned(),
                said: UpstreamResponse::HandshakeOk,
                since: now,
                last: None,
                count: 0,
                reason: Cow::Borrowed("ok"),
                explanation: String::new(),
                next_try: None,
            });
            all.len() - 1
        });
        &mut all[index]
    }
}
