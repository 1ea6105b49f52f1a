//! A simulated fleet: its pairs, its replicas with the real refusal memory and ledger, and the registry between them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::contact::{find_remedy, note_outcome, record_change, record_handshake, record_outcome, requirements};
use super::plan::SimulatedEvent;
use super::population::{Population, SenderNature};
use super::random::SeededRandom;
use super::replica::{
    NEW_SCHEME, OLD_SCHEME, SEEN_WITHIN_DAYS, SimulatedReplica, accepts, accepts_any, fingerprint, pair_number, time_at,
};
use crate::evidence::learned::{
    PeerProofReport, PeerSource, RefusalChange, RefusalClass, RefusalReport, RefusalTable, SenderKind,
};
use crate::evidence::report::{
    ChangedSender, KeyringOverlap, LedgerFact, PreviousPair, RecalledHistory, RecalledUse, ReplicaStatus,
    RotationLedger, RotationReport, SenderKey, SenderOutcome, build_reports,
};
use crate::keyring::choice::PairTraits;
use crate::keyring::{CandidateList, KeyPairCandidate, KeyringName, PeerHints, Standing, choose_with_hints};
use crate::pki::Fingerprint;

/// How long an overlap is.
const OVERLAP_MINUTES: i64 = 30 * 1440;
/// The fleet.
pub(super) struct SimulatedFleet {
    replicas: Vec<SimulatedReplica>,
    busy: usize,
    /// Where there is no registry, a restart forgets everything.
    has_registry: bool,
    rows: BTreeMap<(String, SenderKey), ChangedSender>,
    /// The pairs, by number: which is current, which are previous and until when (on the wall).
    current: usize,
    newest: usize,
    previous: Vec<(usize, i64)>,
    revoked: Vec<usize>,
    /// When it rotated, on the wall.
    rotated: i64,
    /// How far the wall clock is ahead.
    pub(super) ahead: i64,
    pub(super) stepped_back: bool,
    /// Restarts of any replica: a memory of unconfirmed refusals ends with its process.
    pub(super) restarts: u64,
    keyring: KeyringName,
}

impl SimulatedFleet {
    pub(super) fn new(random: &mut SeededRandom) -> Self {
        let has_registry = random.percent(75);
        let count = if has_registry { 1 + random.below(3) } else { 1 };
        let mut fleet = Self {
            replicas: Vec::new(),
            busy: if count == 3 && random.percent(50) { 2 } else { usize::try_from(count).unwrap_or(1) },
            has_registry,
            rows: BTreeMap::new(),
            current: 0,
            newest: 0,
            previous: Vec::new(),
            revoked: Vec::new(),
            rotated: 0,
            ahead: 0,
            stepped_back: false,
            restarts: 0,
            keyring: "api".into(),
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

    /// Those that senders come to: of three, one may see nothing.
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

    fn wall(&self, minute: i64) -> Timestamp {
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
            SimulatedEvent::Restart => self.restart(minute, true, random),
            SimulatedEvent::RestartWithoutState => self.restart(minute, false, random),
            SimulatedEvent::StepClock(step) => {
                self.ahead += step;
                self.stepped_back |= step < 0;
                let now = self.wall(minute);
                for replica in &mut self.replicas {
                    replica.ledger.record(&LedgerFact::ClockStep { seconds: step * 60 }, now);
                }
            }
            SimulatedEvent::Flood => {
                let mut flood = Population::of_modern(0, self.replicas.len());
                (0..1000).for_each(|_| flood.add(SenderNature::Hostile, 1440));
                for index in 0..flood.len() {
                    self.connect(&mut flood, index, minute, random);
                }
            }
            SimulatedEvent::Mend => {
                let stubborn: Vec<usize> =
                    (0..population.len()).filter(|index| !accepts(&population.senders[*index], self.current)).collect();
                if let Some(index) =
                    stubborn.get(usize::try_from(random.below(stubborn.len() as u64)).unwrap_or_default())
                {
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
        for replica in &mut self.replicas {
            replica.epoch += 1;
            replica.ledger.record(&LedgerFact::Rotated { keyring: &keyring, epoch: replica.epoch }, now);
        }
    }

    fn restart(&mut self, minute: i64, with_state: bool, random: &mut SeededRandom) {
        // What is written in the last moments of a process is a matter of other tests.
        self.share_registry(minute);
        let index = usize::try_from(random.below(self.replicas.len() as u64)).unwrap_or_default();
        self.restarts += 1;
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
        self.replicas[index] = replica;
        self.share_registry(minute);
    }

    /// Every replica writes what it knows, then every one reads it.
    pub(super) fn share_registry(&mut self, minute: i64) {
        self.retire_pairs(minute);
        let (candidates, now) = (self.candidates(), self.wall(minute));
        let is_shown = |_: &str, pair: Fingerprint| candidates.0.iter().any(|one| one.key_pair == pair);
        for replica in &mut self.replicas {
            for change in replica.refusals.tick(&is_shown, now) {
                record_change(&mut replica.ledger, &change, now);
            }
        }
        if !self.has_registry {
            return;
        }
        for replica in &mut self.replicas {
            for changed in replica.ledger.take_changed(usize::MAX) {
                let known = self.rows.get(&(replica.name.clone(), changed.key.clone()));
                // A process that has just begun reads before it writes.
                if known.is_none() || replica.started < minute {
                    self.rows.insert((replica.name.clone(), changed.key.clone()), changed);
                }
            }
        }
        let from = now - SignedDuration::from_hours(24 * SEEN_WITHIN_DAYS);
        for index in 0..self.replicas.len() {
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

    fn candidates(&self) -> CandidateList {
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

    /// One connection of a sender; returns whether it was lost.
    pub(super) fn connect(
        &mut self,
        population: &mut Population,
        index: usize,
        minute: i64,
        random: &mut SeededRandom,
    ) -> bool {
        let now = self.wall(minute);
        let candidates = self.candidates();
        let sender = population.senders[index].clone();
        let any = usize::try_from(random.below(self.busy as u64)).unwrap_or_default();
        let replica = sender.replica.map_or(any, |fixed| fixed % self.busy);
        let replica = &mut self.replicas[replica];
        let asked = requirements(&sender);
        let source = PeerSource::new(Arc::clone(&self.keyring), sender.address, None);
        let kind = SenderKind { source, offer: asked.offer };
        let in_overlap = candidates.in_overlap();
        let taught = in_overlap.then(|| replica.refusals.recall(&kind, now)).flatten();
        let hints = PeerHints { show: None, taught };
        let served = accepts_any(&sender, &candidates);
        let Some(choice) = choose_with_hints(&candidates, &asked, &hints, now) else {
            return note_outcome(&mut population.senders[index], None, served, minute);
        };
        let shown = &candidates.0[choice.index];
        let mut accepted = accepts(&sender, pair_number(shown));
        if sender.nature == SenderNature::Hostile {
            accepted = random.percent(30);
        }
        let tells = sender.nature.tells() || sender.nature == SenderNature::Hostile && random.percent(50);
        let (reason, class) = match RefusalClass::find("unknown_ca").filter(|_| tells) {
            Some(told) => told,
            None => ("ended_without_data", RefusalClass::Vague),
        };
        let certificate = sender.certificate.filter(|_| !tells);
        let refusal = RefusalReport {
            sender: &kind,
            keyring: &shown.keyring,
            key_pair: shown.key_pair,
            reason,
            certificate,
            next: find_remedy(class, &candidates, &asked, &hints, shown, now),
        };
        let peer = sender.certificate.map(|certificate| (certificate, sender.identity.as_str()));
        let current = shown.standing == Standing::Current;
        let proof = PeerProofReport { sender: &kind, key_pair: shown.key_pair, current, peer };
        // An alert ends the handshake: whose it is, is unknown.
        if accepted || !tells {
            record_handshake(replica, &sender, shown, choice.chosen_by, now);
            population.senders[index].last = Some(minute);
        }
        if in_overlap {
            let changes = match accepted {
                true => replica.refusals.record_proof(&proof, now),
                false => replica.refusals.record_refusal(&refusal, now),
            };
            for change in changes {
                record_change(&mut replica.ledger, &change, now);
            }
            if accepted || !tells {
                let outcome = if accepted { SenderOutcome::Proved } else { SenderOutcome::UnexplainedEnd };
                record_outcome(replica, &sender, shown, outcome, now);
            }
        }
        note_outcome(&mut population.senders[index], accepted.then_some(current), served, minute)
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
