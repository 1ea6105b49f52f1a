//! One connection of a simulated sender: what it is shown, what it makes of that, and what the memory and the ledger are told,
//! as `dataplane` does. Its first data may come long after its handshake.

use jiff::Timestamp;

use super::fleet::SimulatedFleet;
use super::losses::LostHandshake;
use super::population::{Population, RefusalManner, SenderNature, SimulatedSender};
use super::random::SeededRandom;
use super::replica::{
    OpenConnection, SimulatedReplica, accepts, accepts_any, pair_number, record_change, requirements, sender_kind,
};
use crate::evidence::learned::{PeerProofReport, RefusalClass, RefusalReport, SILENT_REASONS};
use crate::evidence::report::{LedgerFact, SenderOutcome};
use crate::keyring::{
    CandidateList, KeyPairCandidate, PeerHints, PeerRequirements, SelectionReason, Standing, choose_with_hints,
};
use crate::pki::Fingerprint;

/// A sender at a replica.
#[derive(Clone, Copy)]
pub(super) struct SenderVisit {
    pub(super) sender: usize,
    pub(super) replica: usize,
    pub(super) minute: i64,
}

impl SimulatedFleet {
    /// One handshake of a sender; returns whether it was lost. Its first data may still be to come.
    ///
    /// # Panics
    /// It was lost without a cause that the rules grant.
    pub(super) fn connect(
        &mut self,
        population: &mut Population,
        index: usize,
        minute: i64,
        random: &mut SeededRandom,
    ) -> bool {
        let (now, candidates) = (self.wall(minute), self.candidates());
        let sender = population.senders[index].clone();
        let any = random.index(self.busy);
        let at = SenderVisit { sender: index, replica: sender.replica.map_or(any, |fixed| fixed % self.busy), minute };
        let replica = &mut self.replicas[at.replica];
        let (asked, kind) = (requirements(&sender), sender_kind(&sender, &self.keyring));
        let in_overlap = candidates.in_overlap();
        let held = replica.refusals.get(&kind, now).filter(|_| in_overlap);
        let taught = in_overlap.then(|| replica.refusals.recall(&kind, now)).flatten();
        let trial = held.as_ref().filter(|_| taught.is_none()).and_then(|held| held.shown);
        assert!(
            held.is_none() || self.neighbours.may_be_moved(at.replica, &kind),
            "seed {}, minute {minute}: {sender:?} is moved by a refusal that is not of its kind, or came after a proof",
            self.seed
        );
        let hints = PeerHints { show: None, taught };
        let served = accepts_any(&sender, &candidates);
        self.neighbours.count_handshake();
        let Some(choice) = choose_with_hints(&candidates, &asked, &hints, now) else {
            return self.note_loss(population, at, &LostHandshake::unfit(&kind, at.replica), served);
        };
        let shown = &candidates.0[choice.index];
        let session = (at.replica, replica.epoch, shown.key_pair);
        let resumed = sender.resumes && sender.session == Some(session);
        let accepted = match sender.nature {
            // Every second one never sends anything.
            SenderNature::Hostile => random.percent(if index.is_multiple_of(2) { 30 } else { 0 }),
            _ => resumed || accepts(&sender, pair_number(shown)),
        };
        let manner = sender.nature.manner(random);
        let (reason, class) = match manner {
            RefusalManner::Alert(alert) => RefusalClass::find(alert).unwrap_or(("", RefusalClass::Vague)),
            RefusalManner::EndInHandshake => (SILENT_REASONS[0], RefusalClass::Vague),
            RefusalManner::EndAfterwards => (SILENT_REASONS[1], RefusalClass::Vague),
        };
        let remedy = || find_remedy(class, &candidates, &asked, &hints, shown, now);
        let refused = (!accepted).then(|| (reason, remedy()));
        let unfit = candidates.0.iter().filter(|one| !accepts(&sender, pair_number(one))).count() as u64;
        let open = OpenConnection {
            sender: index,
            replica: at.replica,
            started: replica.started,
            epoch: replica.epoch,
            kind,
            shown: shown.clone(),
            refused,
            loss: (trial, class == RefusalClass::Issuer, unfit),
        };
        if accepted || manner == RefusalManner::EndAfterwards {
            record_handshake(replica, &sender, shown, choice.chosen_by, now);
            let known = &mut population.senders[index];
            (known.last, known.session) = (Some(minute), accepted.then_some(session));
            if shown.key_pair != self.current_pair() {
                // The report says so at once, however late the first data come.
                known.failed = Some(minute);
            }
        }
        if accepted && sender.lag > 0 && in_overlap {
            self.open.push((minute + sender.lag, open));
            return false;
        }
        self.conclude_connection(population, &open, minute, served)
    }

    /// The first data of connections that were opened before.
    pub(super) fn conclude_due(&mut self, population: &mut Population, minute: i64) {
        if self.open.is_empty() {
            return;
        }
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.open).into_iter().partition(|(at, _)| *at <= minute);
        self.open = later;
        for (_, open) in due {
            let candidates = self.candidates();
            let is_shown = candidates.0.iter().any(|one| one.key_pair == open.shown.key_pair);
            if is_shown && self.replicas[open.replica].started == open.started {
                self.conclude_connection(population, &open, minute, true);
            }
        }
    }

    /// Its first data, or its end without any; returns whether it was lost.
    fn conclude_connection(
        &mut self,
        population: &mut Population,
        open: &OpenConnection,
        minute: i64,
        served: bool,
    ) -> bool {
        let (now, in_overlap) = (self.wall(minute), self.candidates().in_overlap());
        let sender = population.senders[open.sender].clone();
        let at = SenderVisit { sender: open.sender, replica: open.replica, minute };
        let who = population.numbered_from + open.sender;
        let replica = &mut self.replicas[open.replica];
        let key_pair = open.shown.key_pair;
        let current = open.shown.standing == Standing::Current;
        let certificate =
            sender.certificate.filter(|_| open.refused.is_none_or(|(reason, _)| reason == SILENT_REASONS[1]));
        let changes = match open.refused {
            _ if !in_overlap => Vec::new(),
            None => {
                let peer = sender.certificate.map(|certificate| (certificate, sender.identity.as_str()));
                let proof = PeerProofReport { sender: &open.kind, key_pair, current, peer };
                replica.refusals.record_proof(&proof, now)
            }
            Some((reason, next)) => {
                let keyring = &open.shown.keyring;
                let refusal = RefusalReport { sender: &open.kind, keyring, key_pair, reason, certificate, next };
                replica.refusals.record_refusal(&refusal, now)
            }
        };
        for change in changes {
            record_change(&mut replica.ledger, &change, now);
        }
        let lost = LostHandshake {
            replica: open.replica,
            kind: &open.kind,
            key_pair,
            trial: open.loss.0,
            verified: certificate.is_some(),
            tells_issuer: open.loss.1,
            unfit: open.loss.2,
            stepped_back: self.stepped_back,
        };
        match open.refused {
            None => {
                if in_overlap {
                    record_outcome(replica, &sender, open, SenderOutcome::Proved, now);
                }
                let is_new = key_pair == self.current_pair();
                if in_overlap {
                    let who = (who, sender.certificate.is_some());
                    self.neighbours.record_proof((open.replica, &open.kind), &open.shown, who);
                }
                let number = self.neighbours.count_handshake();
                let known = &mut population.senders[open.sender];
                known.losses.record_visit(open.replica, number);
                // Data on a connection from before the rotation says nothing.
                match is_new && open.epoch >= self.rotation_epoch(open.replica) {
                    true if known.proved <= known.failed => known.proved = Some(minute),
                    true => {}
                    false => known.failed = Some(minute),
                }
                false
            }
            Some((reason, _)) => {
                if in_overlap && reason == SILENT_REASONS[1] {
                    record_outcome(replica, &sender, open, SenderOutcome::UnexplainedEnd, now);
                }
                let lost = self.note_loss(population, at, &lost, served);
                self.neighbours.record_refusal(open.replica, &open.kind, key_pair, who);
                lost
            }
        }
    }

    /// A handshake was lost; `served`: a pair of ours would have done.
    fn note_loss(
        &mut self,
        population: &mut Population,
        at: SenderVisit,
        lost: &LostHandshake<'_>,
        served: bool,
    ) -> bool {
        let numbered_from = population.numbered_from;
        let sender = &mut population.senders[at.sender];
        sender.failed = Some(at.minute);
        let judged = match sender.learning_cost().filter(|_| served) {
            Some(costs) => sender.losses.judge_loss(costs, numbered_from + at.sender, lost, &self.neighbours),
            None => Ok(()),
        };
        sender.losses.record_visit(at.replica, self.neighbours.count_handshake());
        if let Err(why) = judged {
            panic!(
                "seed {}, day {}, minute {}, replica {}: a handshake is lost without a cause: {why}; {lost:?}, {sender:?}",
                self.seed,
                at.minute / 1440,
                at.minute,
                at.replica
            );
        }
        true
    }
}

/// The pair that the rules choose now that `shown` is refused, among those that could cure it, as `dataplane` asks for it.
fn find_remedy(
    class: RefusalClass,
    candidates: &CandidateList,
    asked: &PeerRequirements,
    hints: &PeerHints,
    shown: &KeyPairCandidate,
    now: Timestamp,
) -> Option<Fingerprint> {
    let mut known = hints.clone();
    let taught = known.taught.get_or_insert_default();
    let useless = candidates.0.iter().filter(|other| !class.could_be_cured(shown, other));
    taught.refused.extend(useless.map(|other| other.key_pair).chain([shown.key_pair]));
    taught.shown = taught.shown.filter(|other| !taught.refused.contains(other));
    let choice = choose_with_hints(candidates, asked, &known, now)?;
    let next = candidates.0[choice.index].key_pair;
    known.taught.is_none_or(|taught| !taught.refused.contains(&next)).then_some(next)
}

fn record_handshake(
    replica: &mut SimulatedReplica,
    sender: &SimulatedSender,
    shown: &KeyPairCandidate,
    chosen_by: SelectionReason,
    now: Timestamp,
) {
    let fact = LedgerFact::Peer {
        keyring: &shown.keyring,
        listener: &shown.keyring,
        identity: &sender.identity,
        partner: None,
        certificate: sender.certificate,
        source: Some(sender.address),
        key_pair: shown.key_pair,
        chosen_by,
        epoch: replica.epoch,
    };
    replica.ledger.record(&fact, now);
}

fn record_outcome(
    replica: &mut SimulatedReplica,
    sender: &SimulatedSender,
    open: &OpenConnection,
    outcome: SenderOutcome,
    now: Timestamp,
) {
    let fact = LedgerFact::Proof {
        keyring: &open.shown.keyring,
        listener: &open.shown.keyring,
        identity: &sender.identity,
        certificate: sender.certificate,
        source: Some(sender.address),
        key_pair: open.shown.key_pair,
        outcome,
        epoch: open.epoch,
    };
    replica.ledger.record(&fact, now);
}
