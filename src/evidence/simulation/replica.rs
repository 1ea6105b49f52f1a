//! One replica of a simulated fleet and what it keeps of a connection, the clock of the simulation, what a sender's hello says, and
//! which pairs it really accepts.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::population::{SenderNature, SimulatedSender};
use crate::evidence::learned::{PeerSource, RefusalChange, RefusalTable, SenderKind};
use crate::evidence::report::{LedgerFact, RotationLedger};
use crate::keyring::{CandidateList, KeyPairCandidate, PeerRequirements};
use crate::pki::Fingerprint;

/// How long a sender counts, in days.
pub(super) const SEEN_WITHIN_DAYS: i64 = 35;
/// The scheme of every pair, and that of the first pair only.
pub(super) const NEW_SCHEME: u16 = 0x0403;
pub(super) const OLD_SCHEME: u16 = 0x0804;

/// One replica.
pub(super) struct SimulatedReplica {
    pub(super) name: String,
    pub(super) ledger: RotationLedger,
    pub(super) refusals: RefusalTable,
    pub(super) epoch: u64,
    pub(super) started: i64,
}

/// A minute of the run, on the wall.
pub(super) fn time_at(minute: i64) -> Timestamp {
    let start = Timestamp::from_second(1_767_225_600).unwrap_or(Timestamp::UNIX_EPOCH);
    start + SignedDuration::from_mins(minute)
}

pub(super) fn fingerprint(pair: usize) -> Fingerprint {
    Fingerprint::from_bytes([u8::try_from(pair + 1).unwrap_or(u8::MAX); 32])
}

/// Which pair a candidate is.
pub(super) fn pair_number(candidate: &KeyPairCandidate) -> usize {
    (0..usize::from(u8::MAX)).find(|pair| fingerprint(*pair) == candidate.key_pair).unwrap_or_default()
}

/// Whether one of the candidates would be accepted.
pub(super) fn accepts_any(sender: &SimulatedSender, candidates: &CandidateList) -> bool {
    candidates.0.iter().any(|candidate| accepts(sender, pair_number(candidate)))
}

/// Whether a sender accepts a pair: only the first is of the old CA, and each has a key of its own.
pub(super) fn accepts(sender: &SimulatedSender, pair: usize) -> bool {
    sender.mended
        || pair <= sender.newest_accepted
        || matches!(sender.nature, SenderNature::Modern | SenderNature::Hostile)
}

/// The offer of a hello with the old schemes only, beside its library's number.
const OLD_OFFER: u64 = 1000;

/// A connection whose handshake is complete, before its first data.
pub(super) struct OpenConnection {
    pub(super) sender: usize,
    pub(super) replica: usize,
    /// When the replica began: another process has no connection of it.
    pub(super) started: i64,
    pub(super) epoch: u64,
    pub(super) kind: SenderKind,
    pub(super) shown: KeyPairCandidate,
    /// How it ends, where the pair is not accepted: the reason, and the pair that could cure it.
    pub(super) refused: Option<(&'static str, Option<Fingerprint>)>,
    /// What is lost with it: of a trial the pair that its kind is held on, whether the issuer is told, and the unfit pairs.
    pub(super) loss: (Option<Fingerprint>, bool, u64),
}

pub(super) fn requirements(sender: &SimulatedSender) -> PeerRequirements {
    let is_old = |nature: SenderNature| sender.nature == nature && !sender.mended;
    let old_schemes = is_old(SenderNature::OldSchemes);
    PeerRequirements {
        schemes: if old_schemes { vec![OLD_SCHEME] } else { vec![NEW_SCHEME, OLD_SCHEME] },
        authorities: if is_old(SenderNature::NamesOldCa) { vec![vec![0]] } else { Vec::new() },
        offer: sender.stack + if old_schemes { OLD_OFFER } else { 0 },
        ..PeerRequirements::default()
    }
}

/// What its hello is told apart by.
pub(super) fn sender_kind(sender: &SimulatedSender, listener: &Arc<str>) -> SenderKind {
    let source = PeerSource::new(Arc::clone(listener), sender.address, None);
    SenderKind { source, offer: requirements(sender).offer }
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
