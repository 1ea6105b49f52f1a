//! One replica of a simulated fleet, the clock of the simulation, and which pairs a sender really accepts.

use jiff::{SignedDuration, Timestamp};

use super::population::{SenderNature, SimulatedSender};
use crate::evidence::learned::RefusalTable;
use crate::evidence::report::RotationLedger;
use crate::keyring::{CandidateList, KeyPairCandidate};
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

/// Whether a sender accepts a pair: only the first is of the old CA, with the old key.
pub(super) fn accepts(sender: &SimulatedSender, pair: usize) -> bool {
    sender.mended || pair == 0 || matches!(sender.nature, SenderNature::Modern | SenderNature::Hostile)
}
