//! The writer's state of one trust: which anchors are accepted and until when (contract section 4, "what we accept from peers").
//!
//! A missing, empty or unparsable file is never a removal: the last good set stays. Anchors that really vanish stay for
//! the trust's `overlap`; `until` ends them at once.

mod lists;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use super::matched::{UsageFacts, UsageTracker};
use super::verify::AcceptedAnchor;
use super::verify::voucher::explain_unusable_key;
use super::{AnchorSource, KeptContent, Partners, Trust, TrustEvent, TrustFileFault, TrustSettings};
use crate::pki::{Certificate, Fingerprint, printable};
use lists::CrlStore;
pub use lists::FoundCrl;

/// What the folder (or the platform) holds for one source of anchors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundAnchors {
    /// At least one certificate.
    Certificates(Vec<Arc<Certificate>>),
    /// No usable certificate, and why (one sentence with what to do).
    Nothing(String),
}

/// What must survive a restart. Certificates as PEM are the writer's to keep (`to_retain`).
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PersistedAnchors {
    /// Anchors scheduled for removal, and when they end.
    pub leaving: BTreeMap<Fingerprint, Timestamp>,
    /// What each source held last, if there is an overlap: anchors that vanish while the process is down get it too.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub held: BTreeMap<String, BTreeSet<Fingerprint>>,
    /// Which anchor and pin last verified each peer.
    #[serde(default, skip_serializing_if = "UsageFacts::is_empty")]
    pub matched: UsageFacts,
}

/// The state of one trust.
#[derive(Clone, Debug)]
pub struct Anchors {
    settings: TrustSettings,
    /// The last good set of every source.
    sources: BTreeMap<AnchorSource, Vec<Arc<Certificate>>>,
    /// Anchors that no source holds any more.
    leaving: BTreeMap<Fingerprint, AcceptedAnchor>,
    /// The accepted anchors of both, as last reported.
    accepted: BTreeMap<Fingerprint, AcceptedAnchor>,
    crls: CrlStore,
    /// Shared by all epochs.
    matched: Arc<UsageTracker>,
    /// Files without usable content, so that each is reported once.
    faults: BTreeMap<String, TrustFileFault>,
}

impl Anchors {
    /// Restores the state of the last run; `retained` are the certificates that it kept.
    pub fn open(settings: TrustSettings, remembered: &PersistedAnchors, retained: &[Arc<Certificate>]) -> Self {
        let leaving = retained.iter().filter_map(|certificate| {
            let until = remembered.leaving.get(&certificate.fingerprint()).copied()?;
            let certificate = Arc::clone(certificate);
            let leaving = AcceptedAnchor { certificate, until: Some(until), platform: false };
            Some((leaving.certificate.fingerprint(), leaving))
        });
        let held = |source: &AnchorSource| {
            let held = remembered.held.get(&file_name(source))?;
            let of = retained.iter().filter(|certificate| held.contains(&certificate.fingerprint()));
            let of: Vec<_> = of.cloned().collect();
            (!of.is_empty()).then(|| (source.clone(), of))
        };
        let mut anchors = Self {
            sources: settings.anchors.iter().filter_map(held).collect(),
            leaving: leaving.collect(),
            settings,
            accepted: BTreeMap::new(),
            crls: CrlStore::default(),
            matched: Arc::new(UsageTracker::from_facts(remembered.matched.clone())),
            faults: BTreeMap::new(),
        };
        // Already known, so nothing to report; what has ended meanwhile is removed with the first arrival.
        let _ = anchors.refresh_accepted(Timestamp::MIN, "remembered");
        anchors
    }
    /// Its settings.
    pub fn settings(&self) -> &TrustSettings {
        &self.settings
    }
    /// Applies settings from a reload: sources that are no longer named are removed at once (`configured`). A shorter
    /// `overlap` shortens those that run.
    pub fn configure(&mut self, settings: TrustSettings, now: Timestamp) -> Vec<TrustEvent> {
        let shorter = self.settings.overlap.saturating_sub(settings.overlap);
        for leaving in self.leaving.values_mut() {
            leaving.until = leaving.until.map(|until| until.checked_sub(shorter).unwrap_or(now));
        }
        // The same file with another `until` is the same source.
        let mut before = std::mem::take(&mut self.sources);
        for source in &settings.anchors {
            let same = before.keys().find(|other| is_same_source(other, source)).cloned();
            if let Some(certificates) = same.and_then(|same| before.remove(&same)) {
                self.sources.insert(source.clone(), certificates);
            }
        }
        self.faults.retain(|file, _| {
            settings.anchors.iter().any(|source| file_name(source) == *file)
                || settings.crls.iter().any(|path| path.display().to_string() == *file)
        });
        let count = self.crls.count();
        self.crls.retain(&settings.crls);
        self.settings = settings;
        let mut events = self.refresh_accepted(now, "configured");
        events.extend(self.crls_changed_event(self.crls.count() != count));
        events
    }
    /// What every source holds now. Called with all sources each time; the same again changes nothing.
    pub fn apply_sources(
        &mut self,
        found: &BTreeMap<AnchorSource, FoundAnchors>,
        crls: &BTreeMap<PathBuf, FoundCrl>,
        now: Timestamp,
    ) -> Vec<TrustEvent> {
        let mut events = Vec::new();
        for source in self.settings.anchors.clone() {
            let file = file_name(&source);
            match found.get(&source) {
                Some(FoundAnchors::Certificates(certificates)) if !certificates.is_empty() => {
                    events.extend(self.clear_fault(&file));
                    self.replace_source(&source, certificates, now);
                }
                Some(FoundAnchors::Nothing(why)) => {
                    events.extend(self.keep_anchors(&source, why.clone(), now));
                }
                Some(FoundAnchors::Certificates(_)) => {
                    events.extend(self.keep_anchors(&source, "it holds no certificate".to_owned(), now));
                }
                None => {}
            }
        }
        events.extend(self.refresh_accepted(now, "vanished"));
        let mut changed = false;
        for path in self.settings.crls.clone() {
            let Some(found) = crls.get(&path) else { continue };
            let anchors: Vec<_> = self.accepted.values().map(|anchor| &anchor.certificate).collect();
            match self.crls.parse_file(&path, found, &anchors) {
                Ok(lists) => {
                    events.extend(self.clear_fault(&path.display().to_string()));
                    changed |= self.crls.replace_file(path, lists);
                }
                // A keyring's folder need not hold lists; their absence is reported only if it held some before.
                Err(_) if self.is_keyring_trust() && !self.crls.has_file(&path) => {}
                Err(why) => {
                    let kept = if self.crls.has_file(&path) { KeptContent::LastUsable } else { KeptContent::NoCrls };
                    let file = path.display().to_string();
                    events.extend(self.record_fault(TrustFileFault { file, why, kept, since: now }));
                }
            }
        }
        events.extend(self.crls_changed_event(changed));
        events.extend(self.crls.report_stale(&self.settings.name, now));
        events
    }
    /// Time passes: `until` and overlaps end, lists go out of date.
    pub fn tick(&mut self, now: Timestamp) -> Vec<TrustEvent> {
        if self.next_due().is_none_or(|due| now < due) {
            return Vec::new();
        }
        let mut events = self.refresh_accepted(now, "until");
        events.extend(self.crls.report_stale(&self.settings.name, now));
        events
    }
    /// When something ends next.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.accepted.values().filter_map(|anchor| anchor.until).chain(self.crls.next_due()).min()
    }
    /// Whether it can verify any peer: at least one anchor, or pins in `pin_only`.
    pub fn is_usable(&self) -> bool {
        if self.settings.pin_only { !self.settings.pins.is_empty() } else { !self.accepted.is_empty() }
    }
    /// What must survive a restart.
    pub fn persisted_state(&self) -> PersistedAnchors {
        let ends = self.leaving.iter().filter_map(|(fingerprint, anchor)| Some((*fingerprint, anchor.until?)));
        let held = self.sources_with_overlap().map(|(source, all)| {
            (file_name(source), all.iter().map(|certificate| certificate.fingerprint()).collect())
        });
        let pins = &self.settings.pins;
        PersistedAnchors {
            leaving: ends.collect(),
            held: held.collect(),
            matched: self.matched.persistable_facts(
                |anchor| self.accepted.contains_key(anchor),
                |spki| pins.iter().any(|pin| pin.spki == *spki),
            ),
        }
    }
    /// Anchors to be kept: those scheduled for removal, and those that would be if they vanished.
    pub fn certificates_to_retain(&self) -> Vec<Arc<Certificate>> {
        let leaving = self.leaving.values().map(|anchor| &anchor.certificate);
        let held = self.sources_with_overlap().flat_map(|(_, all)| all);
        let all: BTreeMap<_, _> = leaving.chain(held).map(|one| (one.fingerprint(), Arc::clone(one))).collect();
        all.into_values().collect()
    }
    /// Which anchor and pin last verified each peer.
    pub fn usage_facts(&self) -> UsageFacts {
        self.matched.facts()
    }
    /// Builds the trust of an epoch without partners.
    pub fn build(&self, now: Timestamp) -> Arc<Trust> {
        self.build_with_partners(&Arc::default(), now)
    }
    /// Builds the trust of an epoch.
    pub fn build_with_partners(&self, partners: &Arc<Partners>, now: Timestamp) -> Arc<Trust> {
        let accepted = self.accepted.values().filter(|anchor| anchor.until.is_none_or(|until| now < until));
        let trust = Trust::new(self.settings.clone(), accepted.cloned().collect(), self.crls.crls());
        // A keyring's folder without a usable ca.crt is what its listener waits for.
        let awaited = |fault: &&TrustFileFault| self.is_keyring_trust() && fault.kept == KeptContent::NoAnchors;
        let faults = self.faults.values().filter(|fault| !awaited(fault)).cloned().collect();
        let trust = trust.with_file_faults(faults, self.unread_crls());
        Arc::new(trust.with_partners(Arc::clone(partners), Arc::clone(&self.matched)))
    }

    /// Sources with an overlap for anchors that vanish, except the platform's, which are read again at every start.
    fn sources_with_overlap(&self) -> impl Iterator<Item = (&AnchorSource, &Vec<Arc<Certificate>>)> {
        let overlaps = !self.settings.overlap.is_zero();
        self.sources.iter().filter(move |(source, _)| overlaps && **source != AnchorSource::System)
    }

    /// Whether this is the trust of a keyring's own folder.
    fn is_keyring_trust(&self) -> bool {
        self.settings.anchors.iter().any(|source| matches!(source, AnchorSource::Own(_)))
    }

    /// Replaces a source's certificates: those that are no longer in it are scheduled for removal.
    fn replace_source(&mut self, source: &AnchorSource, certificates: &[Arc<Certificate>], now: Timestamp) {
        let before = self.sources.insert(source.clone(), certificates.to_vec()).unwrap_or_default();
        if self.settings.overlap.is_zero() {
            return;
        }
        let end = now.checked_add(self.settings.overlap).unwrap_or(Timestamp::MAX);
        let end = source_until(source).map_or(end, |until| until.min(end));
        for certificate in before {
            if !certificates.contains(&certificate) {
                let leaving =
                    AcceptedAnchor { certificate, until: Some(end), platform: *source == AnchorSource::System };
                self.leaving.insert(leaving.certificate.fingerprint(), leaving);
            }
        }
    }

    /// Works out what is accepted now and reports the difference to the last report. `reason` is why an anchor that is
    /// gone was removed, unless a date ended it.
    fn refresh_accepted(&mut self, now: Timestamp, reason: &'static str) -> Vec<TrustEvent> {
        let mut next: BTreeMap<Fingerprint, AcceptedAnchor> = BTreeMap::new();
        for (source, certificates) in &self.sources {
            let until = source_until(source);
            if until.is_some_and(|until| until <= now) {
                continue;
            }
            let platform = *source == AnchorSource::System;
            for certificate in certificates {
                let new = AcceptedAnchor { certificate: Arc::clone(certificate), until, platform };
                let known = next.entry(certificate.fingerprint()).or_insert_with(|| new.clone());
                // Of several sources the one that lasts longest counts; no date is for ever.
                known.until = known.until.zip(until).map(|(one, other)| one.max(other));
                known.platform &= platform;
            }
        }
        let held = |fingerprint: &Fingerprint| next.contains_key(fingerprint);
        self.leaving.retain(|fingerprint, anchor| !held(fingerprint) && anchor.until.is_some_and(|until| now < until));
        next.extend(self.leaving.iter().map(|(fingerprint, anchor)| (*fingerprint, anchor.clone())));

        let before = std::mem::replace(&mut self.accepted, next);
        let mut events = Vec::new();
        for (fingerprint, anchor) in &self.accepted {
            events.extend(self.anchor_event(*fingerprint, anchor, before.get(fingerprint)));
            if !anchor.platform && !before.contains_key(fingerprint) {
                events.extend(self.voucher_event(*fingerprint, anchor));
            }
        }
        for (fingerprint, anchor) in &before {
            if !self.accepted.contains_key(fingerprint) {
                let dated = anchor.until.is_some_and(|until| until <= now);
                let in_source = self.sources.values().flatten().any(|other| *other == anchor.certificate);
                let reason = match (dated, in_source) {
                    (true, true) => "until",
                    (true, false) if reason != "configured" => "overlap_ended",
                    _ => reason,
                };
                events.push(TrustEvent::AnchorRemoved {
                    trust: Arc::clone(&self.settings.name),
                    anchor: *fingerprint,
                    subject: anchor.certificate.subject().to_owned(),
                    reason,
                });
            }
        }
        events
    }

    /// The event for an anchor with which no peer can be verified.
    fn voucher_event(&self, anchor: Fingerprint, accepted: &AcceptedAnchor) -> Option<TrustEvent> {
        let why = explain_unusable_key(&accepted.certificate)?;
        let subject = accepted.certificate.subject().to_owned();
        Some(TrustEvent::AnchorCannotVouch { trust: Arc::clone(&self.settings.name), anchor, subject, why })
    }

    /// The event for one accepted anchor; none if it is unchanged.
    fn anchor_event(
        &self,
        fingerprint: Fingerprint,
        now: &AcceptedAnchor,
        before: Option<&AcceptedAnchor>,
    ) -> Option<TrustEvent> {
        let trust = Arc::clone(&self.settings.name);
        let subject = now.certificate.subject().to_owned();
        let end = |anchor: &AcceptedAnchor| anchor.until.unwrap_or(Timestamp::MAX);
        match (before, now.until) {
            (Some(before), _) if end(before) == end(now) => None,
            (Some(before), Some(until)) if until < end(before) => {
                Some(TrustEvent::AnchorLeaving { trust, anchor: fingerprint, subject, until })
            }
            _ => Some(TrustEvent::AnchorAdded { trust, anchor: fingerprint, subject }),
        }
    }

    /// Keeps the last good set of a source.
    fn keep_anchors(&mut self, source: &AnchorSource, why: String, now: Timestamp) -> Option<TrustEvent> {
        let kept = if self.sources.contains_key(source) { KeptContent::LastUsable } else { KeptContent::NoAnchors };
        self.record_fault(TrustFileFault { file: file_name(source), why, kept, since: now })
    }

    /// Records that a file cannot be used; reports each reason once.
    fn record_fault(&mut self, fault: TrustFileFault) -> Option<TrustEvent> {
        if self.faults.get(&fault.file).is_some_and(|known| (&known.why, known.kept) == (&fault.why, fault.kept)) {
            return None;
        }
        self.faults.insert(fault.file.clone(), fault.clone());
        let TrustFileFault { file, why, kept, .. } = fault;
        Some(TrustEvent::FileKept { trust: Arc::clone(&self.settings.name), file, why, kept })
    }

    /// A file can be used; reported where it could not be before.
    fn clear_fault(&mut self, file: &str) -> Option<TrustEvent> {
        let fault = self.faults.remove(file)?;
        Some(TrustEvent::FileUsable { trust: Arc::clone(&self.settings.name), file: fault.file })
    }

    /// CRL files that the settings name and that were never read. A keyring's folder need not hold lists.
    fn unread_crls(&self) -> Vec<String> {
        let named = self.settings.crls.iter().filter(|path| !self.is_keyring_trust() && !self.crls.has_file(path));
        named.map(|path| printable(&path.display().to_string())).collect()
    }

    fn crls_changed_event(&self, changed: bool) -> Option<TrustEvent> {
        let trust = || Arc::clone(&self.settings.name);
        changed.then(|| TrustEvent::CrlsChanged { trust: trust(), count: self.crls.count() })
    }
}

fn source_until(source: &AnchorSource) -> Option<Timestamp> {
    match source {
        AnchorSource::File { until, .. } => *until,
        AnchorSource::System | AnchorSource::Own(_) => None,
    }
}

fn is_same_source(one: &AnchorSource, other: &AnchorSource) -> bool {
    match (one, other) {
        (AnchorSource::File { path, .. }, AnchorSource::File { path: other, .. }) => path == other,
        _ => one == other,
    }
}

/// The name of a source in reports.
fn file_name(source: &AnchorSource) -> String {
    match source {
        AnchorSource::File { path, .. } => path.display().to_string(),
        AnchorSource::System => "system".to_owned(),
        AnchorSource::Own(keyring) => format!("ca.crt of keyring {keyring}"),
    }
}
