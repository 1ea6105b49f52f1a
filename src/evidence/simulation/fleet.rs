//! A simulated fleet: its pairs, its replicas with the real refusal memory and ledger, and the registry between them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::losses::NeighbourLog;
use super::plan::SimulatedEvent;
use super::population::{Population, SenderNature};
use super::random::SeededRandom;
use super::replica::{
    NEW_SCHEME, OLD_SCHEME, OpenConnection, SEEN_WITHIN_DAYS, SimulatedReplica, accepts, fingerprint, record_change,
    sender_kind, time_at,
};
use crate::evidence::learned::{RefusalChange, RefusalTable};
use crate::evidence::report::{
    ChangedSender, KeyringOverlap, LedgerFact, PreviousPair, RecalledHistory, RecalledUse, ReplicaStatus,
    RotationLedger, RotationReport, SenderKey, build_reports,
};
use crate::keyring::choice::PairTraits;
use crate::keyring::{CandidateList, KeyPairCandidate, KeyringName, Standing};
use crate::pki::Fingerprint;

/// How long an overlap is.
const OVERLAP_MINUTES: i64 = 30 * 1440;

/// The candidates of a current pair and its previous ones, by number.
type ShownCandidates = ((usize, Vec<usize>), Arc<CandidateList>);

/// The fleet.
pub(super) struct SimulatedFleet {
    pub(super) seed: u64,
    pub(super) replicas: Vec<SimulatedReplica>,
    /// Replicas that senders come to: of several, one may see nothing.
    pub(super) busy: usize,
    /// Connections without data yet, and when it comes.
    pub(super) open: Vec<(i64, OpenConnection)>,
    pub(super) neighbours: NeighbourLog,
    /// Where there is no registry, a restart forgets everything.
    has_registry: bool,
    rows: BTreeMap<(String, SenderKey), ChangedSender>,
    /// The pairs, by number: which is current, which are previous and until when (on the wall).
    current: usize,
    newest: usize,
    previous: Vec<(usize, i64)>,
    revoked: Vec<usize>,
    /// The candidates of these pairs, which change seldom.
    shown: Option<ShownCandidates>,
    /// When it rotated, on the wall.
    rotated: i64,
    /// How far the wall clock is ahead.
    pub(super) ahead: i64,
    pub(super) stepped_back: bool,
    pub(super) keyring: KeyringName,
    /// The epoch of each replica's last rotation.
    rotation_epochs: Vec<u64>,
}

impl SimulatedFleet {
    pub(super) fn new(seed: u64, random: &mut SeededRandom) -> Self {
        let has_registry = random.percent(75);
        let count = if has_registry { 1 + random.below(3) } else { 1 };
        let mut fleet = Self {
            seed,
            replicas: Vec::new(),
            open: Vec::new(),
            neighbours: NeighbourLog::default(),
            busy: usize::try_from(if count > 1 && random.percent(50) { count - 1 } else { count }).unwrap_or(1),
            has_registry,
            rows: BTreeMap::new(),
            current: 0,
            newest: 0,
            previous: Vec::new(),
            revoked: Vec::new(),
            shown: None,
            rotated: 0,
            ahead: 0,
            stepped_back: false,
            keyring: "api".into(),
            rotation_epochs: vec![0; usize::try_from(count).unwrap_or(1)],
        };
        for number in 0..count {
            let replica = fleet.begin_replica(format!("replica-{number}"), 0);
            fleet.replicas.push(replica);
        }
        fleet
    }

    pub(super) fn replicas(&self) -> usize {
        self.replicas.len()
    }

    pub(super) fn busy_replicas(&self) -> usize {
        self.busy
    }

    pub(super) fn current(&self) -> (usize, Vec<usize>) {
        (self.current, self.previous.iter().map(|(pair, _)| *pair).collect())
    }

    /// Whether everything that was seen within the window is known: since when the fleet has watched, in true minutes.
    pub(super) fn watched_since(&self) -> i64 {
        if self.has_registry { i64::MIN / 2 } else { self.replicas[0].started }
    }

    fn begin_replica(&self, name: String, minute: i64) -> SimulatedReplica {
        let mut ledger = RotationLedger::new(self.wall(minute));
        if self.has_registry {
            ledger.await_registry();
        }
        SimulatedReplica { name, ledger, refusals: RefusalTable::default(), epoch: 1, started: minute }
    }

    /// The pair that is current now.
    pub(super) fn current_pair(&self) -> Fingerprint {
        fingerprint(self.current)
    }

    /// The epoch since which a replica is in this rotation.
    pub(super) fn rotation_epoch(&self, replica: usize) -> u64 {
        self.rotation_epochs[replica]
    }

    pub(super) fn wall(&self, minute: i64) -> Timestamp {
        time_at(minute + self.ahead)
    }

    pub(super) fn apply_event(
        &mut self,
        event: SimulatedEvent,
        minute: i64,
        population: &mut Population,
        random: &mut SeededRandom,
    ) {
        match event {
            SimulatedEvent::Rotate => {
                self.newest += 1;
                self.make_current(self.newest, minute, population);
            }
            SimulatedEvent::RollBack => {
                if let Some((former, _)) = self.previous.last().copied() {
                    self.make_current(former, minute, population);
                }
            }
            SimulatedEvent::Promote => {
                let newest = self.newest;
                if self.previous.iter().any(|(pair, _)| *pair == newest) {
                    self.make_current(newest, minute, population);
                }
            }
            SimulatedEvent::Revoke => {
                if let Some((former, _)) = self.previous.last().copied() {
                    let revoked = self.current;
                    self.make_current(former, minute, population);
                    self.previous.retain(|(pair, _)| *pair != revoked);
                    self.revoked.push(revoked);
                }
            }
            SimulatedEvent::RevokePrevious => {
                self.previous.pop();
                self.replicas.iter_mut().for_each(|replica| replica.epoch += 1);
            }
            SimulatedEvent::Restart => self.restart(minute, true, population, random),
            SimulatedEvent::RestartWithoutState => self.restart(minute, false, population, random),
            SimulatedEvent::StepClock(step) => {
                self.ahead += step;
                self.stepped_back |= step < 0;
                let step = SignedDuration::from_mins(step);
                for replica in &mut self.replicas {
                    replica.ledger.shift_times(step);
                    replica.refusals.shift_times(step);
                }
            }
            SimulatedEvent::Flood => {
                let mut flood = Population::of_modern(0, self.replicas.len());
                flood.numbered_from = population.len();
                (0..1000).for_each(|_| flood.add(SenderNature::Hostile, 1440));
                for index in 0..flood.len() {
                    self.connect(&mut flood, index, minute, random);
                }
            }
            // Where the newest pair is current, nothing but its next visit could tell.
            SimulatedEvent::Regress if self.current < self.newest => {
                let newest = self.newest;
                let modern: Vec<usize> = (0..population.len())
                    .filter(|index| population.senders[*index].certificate.is_some())
                    .filter(|index| accepts(&population.senders[*index], newest))
                    .collect();
                if let Some(index) = modern.get(random.index(modern.len())) {
                    population.regress(*index, self.current);
                }
            }
            SimulatedEvent::Regress => {}
            SimulatedEvent::Mend => {
                let stubborn: Vec<usize> =
                    (0..population.len()).filter(|index| !accepts(&population.senders[*index], self.current)).collect();
                if let Some(index) = stubborn.get(random.index(stubborn.len())) {
                    population.mend(*index);
                }
            }
        }
    }

    fn make_current(&mut self, pair: usize, minute: i64, population: &mut Population) {
        let wall = minute + self.ahead;
        self.previous.retain(|(other, _)| *other != pair);
        self.previous.push((self.current, wall + OVERLAP_MINUTES));
        (self.current, self.rotated) = (pair, wall);
        population.begin_rotation();
        let (now, keyring) = (self.wall(minute), Arc::clone(&self.keyring));
        for (replica, rotated) in self.replicas.iter_mut().zip(&mut self.rotation_epochs) {
            replica.epoch += 1;
            *rotated = replica.epoch;
            replica.ledger.record(&LedgerFact::Rotated { keyring: &keyring, epoch: replica.epoch }, now);
        }
    }

    fn restart(&mut self, minute: i64, with_state: bool, population: &mut Population, random: &mut SeededRandom) {
        // What is written in the last moments of a process is a matter of other tests.
        self.share_registry(minute);
        let index = random.index(self.replicas.len());
        let remembered = self.replicas[index].refusals.to_persisted();
        let mut replica = self.begin_replica(self.replicas[index].name.clone(), minute);
        let now = self.wall(minute);
        if with_state && self.has_registry {
            replica.refusals.restore(&remembered);
            for entry in replica.refusals.entries() {
                let change = RefusalChange { standing: entry.standing, reason: entry.reason, entry };
                record_change(&mut replica.ledger, &change, now);
            }
        }
        self.neighbours.forget_replica(index, |kind| replica.refusals.get(kind, now).is_some());
        for sender in &mut population.senders {
            if replica.refusals.get(&sender_kind(sender, &self.keyring), now).is_none() {
                sender.losses.forget_replica(index);
            }
        }
        self.replicas[index] = replica;
        self.rotation_epochs[index] = 0;
        self.share_registry(minute);
    }

    /// Every replica writes what it knows, then every one reads it.
    pub(super) fn share_registry(&mut self, minute: i64) {
        self.retire_pairs(minute);
        let (candidates, now) = (self.candidates(), self.wall(minute));
        let all: Vec<Fingerprint> = candidates.0.iter().map(|one| one.key_pair).collect();
        let shown = candidates.0.iter().filter(|_| candidates.in_overlap());
        let in_overlap: HashSet<Fingerprint> = shown.map(|one| one.key_pair).collect();
        self.neighbours.retain_pairs(&in_overlap);
        for replica in &mut self.replicas {
            for change in replica.refusals.tick(&|_| Some(all.clone()), now) {
                record_change(&mut replica.ledger, &change, now);
            }
            replica.refusals.retain_pairs(&in_overlap);
        }
        if !self.has_registry {
            return;
        }
        for replica in &mut self.replicas {
            for changed in replica.ledger.take_changed(usize::MAX, u64::MAX) {
                let known = self.rows.get(&(replica.name.clone(), changed.key.clone()));
                // A process that has just begun reads before it writes.
                if known.is_none() || replica.started < minute {
                    self.rows.insert((replica.name.clone(), changed.key.clone()), changed);
                }
            }
        }
        // Rows are read while an overlap lasts, and by a process that has just begun.
        let reads = !self.previous.is_empty();
        let from = now - SignedDuration::from_hours(24 * SEEN_WITHIN_DAYS);
        for index in 0..self.replicas.len() {
            if !reads && self.replicas[index].started < minute {
                continue;
            }
            let own = self.replicas[index].name.clone();
            let replicas = self.replicas.iter().filter(|replica| replica.name != own);
            let replicas = replicas.map(|one| ReplicaStatus { instance: one.name.clone(), last_heard: now }).collect();
            let uses = self.rows.iter().flat_map(|((instance, key), row)| {
                let recent = row.pairs.iter().filter(move |evidence| from <= evidence.visits.last);
                let is_own = *instance == own;
                recent.map(move |evidence| RecalledUse::Sender {
                    is_own,
                    key: key.clone(),
                    partner: row.partner.clone(),
                    evidence: evidence.clone(),
                })
            });
            let keyrings = vec![Arc::clone(&self.keyring)];
            let history =
                RecalledHistory { since: time_at(0), keyrings, uses: uses.collect(), replicas, cut: Vec::new() };
            self.replicas[index].ledger.recall(history, now);
        }
    }

    /// Ends overlaps that are over.
    fn retire_pairs(&mut self, minute: i64) {
        let wall = minute + self.ahead;
        self.previous.retain(|(_, ends)| wall < *ends);
    }

    /// What a listener of the fleet may show now.
    pub(super) fn candidates(&mut self) -> Arc<CandidateList> {
        let shown = (self.current, self.previous.iter().map(|(pair, _)| *pair).collect());
        if self.shown.as_ref().is_none_or(|(known, _)| *known != shown) {
            self.shown = Some((shown, Arc::new(self.build_candidates())));
        }
        self.shown.as_ref().map(|(_, candidates)| Arc::clone(candidates)).unwrap_or_default()
    }

    fn build_candidates(&self) -> CandidateList {
        let candidate = |pair: usize, standing: Standing| KeyPairCandidate {
            standing,
            schemes: if pair == 0 { vec![NEW_SCHEME, OLD_SCHEME] } else { vec![NEW_SCHEME] },
            issuers: vec![vec![u8::from(pair > 0)]],
            traits: PairTraits { public_key: vec![u8::try_from(pair).unwrap_or(u8::MAX)], ..PairTraits::default() },
            ..KeyPairCandidate::sample(&self.keyring, fingerprint(pair))
        };
        let previous = self.previous.iter().rev().map(|(pair, _)| candidate(*pair, Standing::Previous));
        CandidateList([candidate(self.current, Standing::Current)].into_iter().chain(previous).collect())
    }

    pub(super) fn report(&mut self, replica: usize, minute: i64) -> Option<RotationReport> {
        self.retire_pairs(minute);
        let previous = self.previous.iter().map(|(pair, ends)| PreviousPair {
            key_pair: fingerprint(*pair),
            ends: time_at(*ends),
            survives_restart: true,
        });
        let overlap = KeyringOverlap {
            keyring: Arc::clone(&self.keyring),
            owner: None,
            contact: None,
            current: fingerprint(self.current),
            rotated: time_at(self.rotated),
            previous: previous.collect(),
            upstreams: Vec::new(),
            seen_within: std::time::Duration::from_hours(24 * SEEN_WITHIN_DAYS.unsigned_abs()),
            faces_peers: true,
        };
        build_reports(&self.replicas[replica].ledger, &[overlap], &BTreeMap::new(), self.wall(minute)).pop()
    }
}
