//! What sources that refused a pair have taught, for the report. Unconfirmed entries never evict confirmed ones.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::super::learned::RefusalStatus;
use super::fact::LedgerFact;
use super::sender::SenderKey;
use crate::keyring::KeyringName;
use crate::keyring::fit::shift_time;
use crate::pki::Fingerprint;

/// Sources kept: `learned` has its own limit, these are for the report.
pub(super) const MAX_SOURCES: usize = 1024;

/// A source's recorded refusal.
#[derive(Clone, Debug)]
pub(super) struct SourceEntry {
    pub(super) keyring: KeyringName,
    pub(super) refused: Fingerprint,
    pub(super) shown: Fingerprint,
    pub(super) lesson: RefusalStatus,
    pub(super) peer: Option<String>,
    pub(super) since: Timestamp,
    pub(super) reason: &'static str,
    pub(super) explanation: String,
}

/// Refusals by listener and source.
#[derive(Clone, Debug, Default)]
pub(super) struct RefusalSources(BTreeMap<(Arc<str>, String), SourceEntry>);

impl RefusalSources {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Those that a peer with a certificate confirmed: listener, source, refusal.
    pub(super) fn confirmed(&self) -> impl Iterator<Item = (&Arc<str>, &str, &SourceEntry)> {
        let confirmed =
            self.0.iter().filter(|(_, entry)| entry.lesson == RefusalStatus::Confirmed && entry.peer.is_some());
        confirmed.map(|((listener, source), entry)| (listener, source.as_str(), entry))
    }

    /// What this sender itself has confirmed.
    pub(super) fn taught_by(&self, key: &SenderKey) -> Option<(&'static str, String)> {
        let is_its = |(listener, source, entry): &(&Arc<str>, &str, &SourceEntry)| {
            entry.keyring == key.keyring
                && **listener == key.listener
                && entry.peer.as_deref() == Some(key.identity.as_str())
                && key.certificate.is_some()
                && key.comes_from(source)
        };
        self.confirmed().find(is_its).map(|(_, _, entry)| (entry.reason, entry.explanation.clone()))
    }

    /// Those of a keyring: listener, source, refusal.
    pub(super) fn refusals_of<'a>(
        &'a self,
        keyring: &'a KeyringName,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a str, &'a SourceEntry)> {
        let of_keyring = self.0.iter().filter(move |(_, entry)| entry.keyring == *keyring);
        of_keyring.map(|((listener, source), entry)| (listener, source.as_str(), entry))
    }

    /// Why it refused, by its first alert.
    pub(super) fn reason(&self, listener: &Arc<str>, source: &str) -> Option<(Cow<'static, str>, String)> {
        let entry = self.0.get(&(Arc::clone(listener), source.to_owned()))?;
        Some((entry.reason.into(), entry.explanation.clone()))
    }

    /// After a step of the clock all ages are what they were before it.
    pub(super) fn shift_times(&mut self, step: SignedDuration) {
        self.0.values_mut().for_each(|entry| entry.since = shift_time(entry.since, step));
    }

    /// Records a change; returns whether the source's refusal is confirmed now, if it is kept.
    pub(super) fn record_refusal(&mut self, fact: &LedgerFact<'_>, now: Timestamp) -> Option<bool> {
        let LedgerFact::Source { keyring, listener, source, refused, shown, lesson, peer, reason, explanation } = *fact
        else {
            return None;
        };
        let key = (Arc::clone(listener), source.to_owned());
        if lesson == RefusalStatus::Forgotten {
            self.0.remove(&key);
            return None;
        }
        let known = self.0.get(&key).filter(|known| known.refused == refused);
        // Keep the alert as the reason: the later confirmation adds none.
        let (since, reason) = known.map_or((now, reason), |known| (known.since, known.reason));
        if !self.0.contains_key(&key) && self.0.len() >= MAX_SOURCES {
            let weakest =
                self.0.iter().min_by_key(|(_, source)| (source.lesson == RefusalStatus::Confirmed, source.since));
            match weakest.map(|(key, source)| (key.clone(), source.lesson)) {
                Some((_, RefusalStatus::Confirmed)) if lesson == RefusalStatus::Unconfirmed => return None,
                Some((oldest, _)) => drop(self.0.remove(&oldest)),
                None => {}
            }
        }
        let (keyring, peer) = (Arc::clone(keyring), peer.map(str::to_owned));
        let explanation =
            peer.as_deref().map_or_else(|| explanation.to_owned(), |peer| refer_to_peer(explanation, peer, source));
        self.0.insert(key, SourceEntry { keyring, refused, shown, lesson, peer, since, reason, explanation });
        Some(lesson == RefusalStatus::Confirmed)
    }
}

/// What is said of a peer where its name stands before: the report's lines and verdicts begin with it.
fn refer_to_peer(explanation: &str, peer: &str, source: &str) -> String {
    let said = explanation.strip_prefix(peer).and_then(|rest| rest.strip_prefix(" from ")?.strip_prefix(source));
    said.map_or_else(|| explanation.to_owned(), |said| format!("it{said}"))
}
