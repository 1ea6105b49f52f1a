//! One connection of a simulated sender: what its hello says, and what the ledger is told of it, as `dataplane` does.

use jiff::Timestamp;

use super::population::{SenderNature, SimulatedSender};
use super::replica::{NEW_SCHEME, OLD_SCHEME, SimulatedReplica};
use crate::evidence::learned::{RefusalChange, RefusalClass};
use crate::evidence::report::{LedgerFact, RotationLedger, SenderOutcome};
use crate::keyring::{
    CandidateList, KeyPairCandidate, PeerHints, PeerRequirements, SelectionReason, choose_with_hints,
};
use crate::pki::Fingerprint;

pub(super) fn requirements(sender: &SimulatedSender) -> PeerRequirements {
    let is_old = |nature: SenderNature| sender.nature == nature && !sender.mended;
    let hostile = sender.nature == SenderNature::Hostile;
    PeerRequirements {
        schemes: if is_old(SenderNature::OldSchemes) { vec![OLD_SCHEME] } else { vec![NEW_SCHEME, OLD_SCHEME] },
        authorities: if is_old(SenderNature::NamesOldCa) || hostile { vec![vec![0]] } else { Vec::new() },
        offer: u64::from(is_old(SenderNature::OldSchemes)),
        ..PeerRequirements::default()
    }
}

/// What became of a connection: not completed, or on the current pair or not. `served`: a pair of ours would have done.
pub(super) fn note_outcome(sender: &mut SimulatedSender, on_current: Option<bool>, served: bool, minute: i64) -> bool {
    match on_current {
        Some(true) => sender.proved = Some(minute),
        Some(false) => sender.failed = Some(minute),
        None => {
            sender.failed = Some(minute);
            sender.lost += u64::from(served);
            sender.most_lost = sender.most_lost.max(sender.lost);
        }
    }
    on_current.is_none()
}

/// The pair that the rules choose now that `shown` is refused, among those that could cure it, as `dataplane` asks for it.
pub(super) fn find_remedy(
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

pub(super) fn record_change(ledger: &mut RotationLedger, change: &RefusalChange, now: Timestamp) {
    let (source, explanation) = (change.entry.source.to_string(), change.explanation());
    let Some(refused) = change.entry.refused.last().copied() else { return };
    let fact = LedgerFact::Source {
        keyring: &change.entry.keyring,
        listener: &change.entry.source.listener,
        source: &source,
        refused,
        shown: change.entry.shown,
        lesson: change.standing,
        peer: change.entry.peer.as_deref(),
        reason: change.reason,
        explanation: &explanation,
    };
    ledger.record(&fact, now);
}

pub(super) fn record_handshake(
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

pub(super) fn record_outcome(
    replica: &mut SimulatedReplica,
    sender: &SimulatedSender,
    shown: &KeyPairCandidate,
    outcome: SenderOutcome,
    now: Timestamp,
) {
    let fact = LedgerFact::Proof {
        keyring: &shown.keyring,
        listener: &shown.keyring,
        identity: &sender.identity,
        certificate: sender.certificate,
        source: Some(sender.address),
        key_pair: shown.key_pair,
        outcome,
        epoch: replica.epoch,
    };
    replica.ledger.record(&fact, now);
}
