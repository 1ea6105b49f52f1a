//! The writer's state: every keyring, every trust, the settings; and `apply`, which is pure.
//!
//! Each input first lets time pass, then notes what it brings. What the keyrings and trusts make of it is theirs.

mod found;
mod steady;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::input::{CommandRejection, WriterInput, WriterSettings, WriterView};
use super::remembered::RememberedState;
use crate::folder::FolderContents;
use crate::keyring::{Keyring, KeyringName, KeyringRoles};
use crate::pki::FolderProblem;
use crate::snapshot::{Epoch, Snapshot, SnapshotParts};
use crate::tls::TlsTimeSource;
use crate::trust::{Anchors, TrustName};
use crate::{evidence, keyring, snapshot, trust};
use steady::ClockSteadiness;

/// Everything that the next snapshot is made of.
#[derive(Clone)]
pub struct WriterState {
    settings: Arc<WriterSettings>,
    keyrings: BTreeMap<KeyringName, Keyring>,
    trusts: BTreeMap<TrustName, Anchors>,
    contents: Arc<FolderContents>,
    /// Problems of the folder that were reported.
    told: HashSet<(Option<Arc<str>>, FolderProblem)>,
    /// What was learned from sources, for the next start.
    learned: Arc<Vec<evidence::learned::PersistedRefusal>>,
    /// Why decisions could not be read.
    unreadable: Option<String>,
    steady: ClockSteadiness,
    /// The time until which partners' dates have been looked at.
    passed: Timestamp,
}

/// What `apply` changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateChange {
    /// Of keyrings.
    pub keyrings: Vec<keyring::KeyringEvent>,
    /// Of trusts.
    pub trusts: Vec<trust::TrustEvent>,
    /// Problems of the folder that are new (reported once until they change).
    pub problems: Vec<(Option<Arc<str>>, FolderProblem)>,
    /// Problems that were reported and hold no longer.
    pub resolved: Vec<(Option<Arc<str>>, FolderProblem)>,
    /// A step of the clock, in seconds.
    pub clock_step: Option<i64>,
    /// Whether a new snapshot is needed although nothing above shows it (settings, intermediates, partners' anchors).
    pub rebuild: bool,
    /// Whether something must be saved although no epoch follows.
    pub remember: bool,
}

impl StateChange {
    /// Whether an epoch must follow. A problem or a step of the clock is only reported.
    pub fn needs_epoch(&self) -> bool {
        self.rebuild || !self.keyrings.is_empty() || !self.trusts.is_empty()
    }
}

impl WriterState {
    /// What the last run remembered, and what the folder holds now.
    pub fn from_remembered(
        settings: WriterSettings,
        remembered: RememberedState,
        found: FolderContents,
        now: Timestamp,
    ) -> (Self, StateChange) {
        let mut state = Self {
            settings: Arc::new(settings),
            keyrings: BTreeMap::new(),
            trusts: BTreeMap::new(),
            contents: Arc::new(FolderContents::default()),
            told: HashSet::new(),
            learned: Arc::new(remembered.learned),
            unreadable: remembered.unreadable.clone(),
            steady: ClockSteadiness::new(now),
            passed: now,
        };
        for (name, decisions) in &remembered.keyrings {
            let retained = remembered.retained.get(name).cloned().unwrap_or_default();
            let keyring = Keyring::restore(state.keyring_settings(name), decisions, retained);
            state.keyrings.insert(Arc::clone(name), keyring);
        }
        for settings in state.trust_settings() {
            let name = Arc::clone(&settings.name);
            let decisions = remembered.trusts.get(&name).cloned().unwrap_or_default();
            let retained = remembered.anchors.get(&name).cloned().unwrap_or_default();
            state.trusts.insert(name, Anchors::open(settings, &decisions, &retained));
        }
        let mut happened = StateChange { rebuild: true, ..StateChange::default() };
        happened.problems.extend(remembered.skipped.into_iter().map(|problem| (None, problem)));
        state.apply_contents(found, now, &mut happened);
        state.advance_time(now, &mut happened);
        (state, happened)
    }

    /// One input. Nothing but `self` changes; the same input again reports that nothing happened.
    pub fn apply(&mut self, input: &WriterInput, now: Timestamp) -> Result<StateChange, CommandRejection> {
        let before = self.clone();
        let mut happened = StateChange { clock_step: self.observe_time(now), ..StateChange::default() };
        self.advance_time(now, &mut happened);
        match input {
            WriterInput::Tick
            | WriterInput::Look { .. }
            | WriterInput::Forget { .. }
            | WriterInput::HandOver(_)
            | WriterInput::BeginWriting { .. } => {}
            WriterInput::Learned(lessons) => {
                // Which peers anchors verified has changed too, if only that.
                happened.remember = true;
                self.learned = Arc::new(lessons.clone());
            }
            WriterInput::Folder(contents) => self.apply_contents(contents.clone(), now, &mut happened),
            WriterInput::Settings(settings, _) => self.apply_settings(settings, now, &mut happened),
            WriterInput::Command { keyring, command, .. } => {
                if let Some(why) = &self.unreadable {
                    return Err(CommandRejection::Unreadable(keyring.to_string(), why.clone()));
                }
                let Some(ring) = self.keyrings.get_mut(keyring) else {
                    return Err(CommandRejection::NoKeyring(keyring.to_string()));
                };
                happened.keyrings.extend(ring.execute(command, now)?);
            }
        }
        happened.rebuild = self.differs_from(&before);
        Ok(happened)
    }

    /// Notes the time of an input that is not applied; a step of the clock, in seconds.
    pub(super) fn observe_time(&mut self, now: Timestamp) -> Option<i64> {
        self.steady.observe_time(now)
    }

    /// Whether a tick at this time would do anything.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.steady.is_due(now) || self.next_due().is_some_and(|due| due <= now)
    }

    /// When something is due next in any keyring or trust.
    pub fn next_due(&self) -> Option<Timestamp> {
        let keyrings = self.keyrings.values().filter_map(Keyring::next_due);
        let dates = self.partner_dates().filter(|date| self.passed < *date);
        keyrings.chain(self.trusts.values().filter_map(Anchors::next_due)).chain(dates).min()
    }

    /// When partners become others than they were.
    fn partner_dates(&self) -> impl Iterator<Item = Timestamp> {
        self.settings.partners.iter().flat_map(|partner| partner.change_dates())
    }

    /// The clock is moved by hand and is right, however far it jumps: no jump is a step. For the clock of a test or of
    /// a demonstration, which walks past an overlap in one stride; a system's clock is never trusted like that.
    #[must_use]
    pub fn with_trusted_clock(mut self) -> Self {
        self.steady.trust_clock();
        self
    }

    /// The settings.
    pub fn settings(&self) -> &Arc<WriterSettings> {
        &self.settings
    }

    /// Keyrings by name (configured ones, those that a listener uses, those that the folder holds or held).
    pub fn keyrings(&self) -> &BTreeMap<KeyringName, Keyring> {
        &self.keyrings
    }

    /// Trusts by name; a keyring's own `ca.crt`, where a listener uses it, under `own:KEYRING`.
    pub fn trusts(&self) -> &BTreeMap<TrustName, Anchors> {
        &self.trusts
    }

    /// What is wrong with the folder and with decisions, in a stable order; whether they are saved or served is not known
    /// here.
    pub(super) fn status(&self) -> WriterView {
        let mut problems: Vec<_> = self.told.iter().cloned().collect();
        problems.sort();
        WriterView { problems, unreadable: self.unreadable.clone(), ..WriterView::default() }
    }

    /// What was learned from sources, as it was reported last.
    pub fn learned_refusals(&self) -> &[evidence::learned::PersistedRefusal] {
        &self.learned
    }

    /// The last contents, for partner anchors and `ca_names` files. A named file that went bad still has the
    /// certificates that it held last.
    pub fn contents(&self) -> &FolderContents {
        &self.contents
    }

    /// The snapshot of this state at `now`; `time` is what its TLS configs will go by.
    ///
    /// # Errors
    /// A TLS config that cannot be built.
    pub fn build_snapshot(
        &self,
        epoch: Epoch,
        now: Timestamp,
        time: &TlsTimeSource,
    ) -> Result<Snapshot, snapshot::build::BuildError> {
        let named = |path: &std::path::Path| {
            self.contents.named.get(path).map(|file| file.certificates.clone()).unwrap_or_default()
        };
        let waiting =
            |name: &str| self.contents.keyrings.get(name).map(|joined| joined.waiting.clone()).unwrap_or_default();
        let parts = SnapshotParts {
            ingresses: &self.settings.ingresses,
            egresses: &self.settings.egresses,
            partners: &self.settings.partners,
            keyrings: &self.keyrings,
            trusts: &self.trusts,
            named: &named,
            waiting: &waiting,
            remembers: self.settings.remembers,
        };
        snapshot::build_snapshot(epoch, &parts, now, time)
    }

    /// Time passes. While the clock is not steady nothing is retired, and no trust ends either.
    fn advance_time(&mut self, now: Timestamp, happened: &mut StateChange) {
        let steady = self.steady.is_steady(now);
        for keyring in self.keyrings.values_mut() {
            happened.keyrings.extend(keyring.tick(now, steady));
        }
        if steady {
            self.passed = now;
            for anchors in self.trusts.values_mut() {
                happened.trusts.extend(anchors.tick(now));
            }
        }
    }

    fn apply_contents(&mut self, contents: FolderContents, now: Timestamp, happened: &mut StateChange) {
        let problems = found::folder_problems(&self.settings, &contents);
        happened.problems.extend(problems.iter().filter(|problem| !self.told.contains(problem)).cloned());
        happened.resolved.extend(found::resolved_problems(&self.told, &problems));
        self.told = problems.into_iter().collect();
        self.contents = Arc::new(found::keep_usable_files(&self.contents, contents));
        self.update_keyrings(now, happened);
        let none = Vec::new();
        for (name, keyring) in &mut self.keyrings {
            let pairs = self.contents.keyrings.get(name).map_or(&none, |joined| &joined.pairs);
            happened.keyrings.extend(keyring.arrive(pairs, now));
        }
        self.update_trusts(now, happened);
    }

    fn apply_settings(&mut self, settings: &WriterSettings, now: Timestamp, happened: &mut StateChange) {
        if *self.settings == *settings {
            return;
        }
        self.settings = Arc::new(settings.clone());
        self.update_keyrings(now, happened);
        let names: Vec<_> = self.keyrings.keys().cloned().collect();
        for name in names {
            let settings = self.keyring_settings(&name);
            if let Some(keyring) = self.keyrings.get_mut(&name).filter(|keyring| *keyring.settings() != settings) {
                happened.keyrings.extend(keyring.configure(settings, now));
            }
        }
        let wanted = self.trust_settings();
        let names: BTreeSet<_> = wanted.iter().map(|settings| Arc::clone(&settings.name)).collect();
        self.trusts.retain(|name, _| names.contains(name));
        for settings in wanted {
            match self.trusts.get_mut(&settings.name) {
                Some(anchors) if *anchors.settings() == settings => {}
                Some(anchors) => happened.trusts.extend(anchors.configure(settings, now)),
                None => {
                    let name = Arc::clone(&settings.name);
                    self.trusts
                        .insert(name, Anchors::open(settings, &trust::anchors::PersistedAnchors::default(), &[]));
                }
            }
        }
        self.update_trusts(now, happened);
    }

    fn update_trusts(&mut self, now: Timestamp, happened: &mut StateChange) {
        for anchors in self.trusts.values_mut() {
            let (found, crls) = found::trust_contents(anchors.settings(), &self.settings, &self.contents);
            happened.trusts.extend(anchors.apply_sources(&found, &crls, now));
        }
    }

    /// Makes the keyrings that are configured, used or in the folder; lets go of those that are nothing of this any more
    /// and hold nothing.
    fn update_keyrings(&mut self, now: Timestamp, happened: &mut StateChange) {
        let mut names: BTreeSet<KeyringName> = self.settings.keyrings.keys().cloned().collect();
        names.extend(self.settings.ingresses.iter().flat_map(|ingress| ingress.keyrings.iter().cloned()));
        names.extend(self.settings.egresses.iter().map(|egress| Arc::clone(&egress.keyring)));
        let bearers = self.settings.egresses.iter().filter_map(|egress| egress.bearer.as_ref());
        names.extend(bearers.map(|bearer| Arc::clone(&bearer.keyring)));
        names.extend(self.contents.keyrings.keys().cloned());
        self.keyrings.retain(|name, keyring| {
            names.contains(name) || !keyring.pairs().is_empty() || keyring.to_persisted() != Default::default()
        });
        for name in names {
            if !self.keyrings.contains_key(&name) {
                let settings = self.keyring_settings(&name);
                let mut keyring = Keyring::restore(settings, &keyring::PersistedKeyring::default(), Vec::new());
                happened.keyrings.extend(keyring.tick(now, self.steady.is_steady(now)));
                self.keyrings.insert(name, keyring);
            }
        }
    }

    /// What the configuration says of a keyring, with the roles that listeners and upstreams give it.
    fn keyring_settings(&self, name: &KeyringName) -> keyring::KeyringSettings {
        let configured = self.settings.keyrings.get(name).cloned();
        let roles = KeyringRoles {
            server: self.settings.ingresses.iter().any(|ingress| ingress.keyrings.contains(name)),
            client: self.settings.egresses.iter().any(|egress| egress.keyring == *name),
        };
        let without_section = || keyring::KeyringSettings {
            skew: self.settings.skew,
            ..keyring::KeyringSettings::with_defaults(Arc::clone(name))
        };
        keyring::KeyringSettings { roles, ..configured.unwrap_or_else(without_section) }
    }

    /// Every configured trust, and the `ca.crt` of every keyring whose listener or upstream names no trust.
    fn trust_settings(&self) -> Vec<trust::TrustSettings> {
        let ingresses = self.settings.ingresses.iter().filter(|ingress| ingress.trust.is_none());
        let egresses = self.settings.egresses.iter().filter(|egress| egress.trust.is_none());
        let own: BTreeSet<&KeyringName> = ingresses
            .filter_map(|ingress| ingress.keyrings.first())
            .chain(egresses.map(|egress| &egress.keyring))
            .collect();
        let own = own.into_iter().map(|name| found::own_trust_settings(name, self.keyring_settings(name).overlap));
        self.settings.trusts.values().cloned().chain(own).collect()
    }

    fn differs_from(&self, before: &Self) -> bool {
        let keyrings = |state: &Self| state.keyrings.keys().cloned().collect::<Vec<_>>();
        let passed = |state: &Self| state.partner_dates().filter(|date| *date <= state.passed).count();
        self.settings != before.settings
            || passed(self) != passed(before)
            || keyrings(self) != keyrings(before)
            || self.keyrings.iter().any(|(name, keyring)| keyring.differs_from(&before.keyrings[name]))
            || found::named_certificates(&self.contents) != found::named_certificates(&before.contents)
    }
}

#[cfg(test)]
pub(super) mod tests;
