//! What a sender may lose, exactly: each lost handshake must have a cause that the rules of docs/rotation-report.md grant.
//!
//! Rule 1: to learn that it refuses a pair costs one handshake, and two where it refuses without a word; each replica learns by
//! itself, and learns again what a restart has made it forget. Rule 2: a trial of the refused pair costs one. Rule 3: peers with
//! one address and one library cannot be told apart: where another of them has proved the pair, or refused one since, the
//! sender may lose more. A sender that accepts every pair loses nothing, whatever others do.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::evidence::learned::SenderKind;
use crate::keyring::{KeyPairCandidate, Standing};
use crate::pki::Fingerprint;

/// Trials of a refused pair that a replica makes in an overlap of thirty days: after 12 hours and after four days. Where the clock was
/// put back, an overlap is longer, and a third one follows.
const TRIALS: u64 = 2;

/// What one sender lost since the rotation.
#[derive(Clone, Debug, Default)]
pub(super) struct LossAccount {
    /// By replica: handshakes that it was learned from, and trials.
    learned: BTreeMap<usize, u64>,
    tried: BTreeMap<usize, u64>,
    /// By replica: the pairs that it was lost on, also those that have ended since.
    lost_on: BTreeMap<usize, BTreeSet<Fingerprint>>,
    /// Those that were lost because others cannot be told from it.
    shared: u64,
    /// Those that a replica no longer knows of.
    forgotten: u64,
    /// Those of former rotations, and the most of one.
    before: u64,
    most: u64,
    /// By replica: the number of its last handshake there.
    visited: BTreeMap<usize, u64>,
}

impl LossAccount {
    pub(super) fn begin_rotation(&mut self) {
        (self.before, self.most) = self.total();
        (self.learned, self.tried, self.shared, self.forgotten) = (BTreeMap::new(), BTreeMap::new(), 0, 0);
        self.lost_on.clear();
    }

    /// A restart has made this replica forget what it had learned of the sender.
    pub(super) fn forget_replica(&mut self, replica: usize) {
        let lost = [self.learned.remove(&replica), self.tried.remove(&replica)];
        self.forgotten += lost.into_iter().flatten().sum::<u64>();
    }

    /// All that were ever lost, and the most since one rotation.
    pub(super) fn total(&self) -> (u64, u64) {
        (self.before + self.count(), self.most.max(self.count()))
    }

    /// All that were lost since the rotation.
    fn count(&self) -> u64 {
        self.learned.values().sum::<u64>() + self.tried.values().sum::<u64>() + self.shared + self.forgotten
    }
}

/// One lost handshake.
#[derive(Clone, Copy, Debug)]
pub(super) struct LostHandshake<'a> {
    pub(super) replica: usize,
    pub(super) kind: &'a SenderKind,
    pub(super) key_pair: Fingerprint,
    /// It was the trial of the pair that its kind had refused: the one that it is held on.
    pub(super) trial: Option<Fingerprint>,
    /// The sender is known by its certificate.
    pub(super) verified: bool,
    /// The alert tells that the issuer is meant.
    pub(super) tells_issuer: bool,
    /// The pairs that could be shown and that it does not accept.
    pub(super) unfit: u64,
    /// The clock was put back in this run.
    pub(super) stepped_back: bool,
}

impl<'a> LostHandshake<'a> {
    /// No pair of ours fits what its hello asks for.
    pub(super) const fn unfit(kind: &'a SenderKind, replica: usize) -> Self {
        let key_pair = Fingerprint::from_bytes([0; 32]);
        Self {
            replica,
            kind,
            key_pair,
            trial: None,
            verified: false,
            tells_issuer: false,
            unfit: 0,
            stepped_back: false,
        }
    }
}

/// What senders did that others cannot be told from: by replica and kind.
#[derive(Debug, Default)]
pub(super) struct NeighbourLog {
    handshakes: u64,
    refused: BTreeMap<(usize, SenderKind), BTreeMap<usize, u64>>,
    /// Who has sent data on which pair, and whether it has a certificate.
    proved: BTreeMap<(usize, SenderKind, Fingerprint), Vec<(usize, bool)>>,
    /// Kinds that have proved a pair, with a certificate, while it was current.
    settled: BTreeSet<(usize, SenderKind, Fingerprint)>,
    /// Kinds of which a sender has refused a pair that none of the kind had proved.
    movable: BTreeSet<(usize, SenderKind)>,
}

impl NeighbourLog {
    /// Counts a handshake of a sender; returns its number.
    pub(super) fn count_handshake(&mut self) -> u64 {
        self.handshakes += 1;
        self.handshakes
    }

    pub(super) fn record_refusal(&mut self, replica: usize, kind: &SenderKind, key_pair: Fingerprint, who: usize) {
        let number = self.handshakes;
        if !self.settled.contains(&(replica, kind.clone(), key_pair)) {
            self.movable.insert((replica, kind.clone()));
        }
        self.refused.entry((replica, kind.clone())).or_default().insert(who, number);
    }

    /// Records that a sender has sent data on a pair: the current one or a previous one, with a certificate or without.
    pub(super) fn record_proof(
        &mut self,
        (replica, kind): (usize, &SenderKind),
        shown: &KeyPairCandidate,
        who: (usize, bool),
    ) {
        let key = (replica, kind.clone(), shown.key_pair);
        if shown.standing == Standing::Current && who.1 {
            self.settled.insert(key.clone());
        }
        let all = self.proved.entry(key).or_default();
        if !all.contains(&who) {
            all.push(who);
        }
    }

    /// A restart has made a replica forget everything but what it `knows` of kinds.
    pub(super) fn forget_replica(&mut self, replica: usize, knows: impl Fn(&SenderKind) -> bool) {
        self.settled.retain(|(of, ..)| *of != replica);
        self.refused.retain(|(of, kind), _| *of != replica || knows(kind));
        self.proved.retain(|(of, kind, _), _| *of != replica || knows(kind));
    }

    /// What was proved of pairs that are no longer in overlap is forgotten, as the replicas do.
    pub(super) fn retain_pairs(&mut self, in_overlap: &HashSet<Fingerprint>) {
        self.settled.retain(|(.., key_pair)| in_overlap.contains(key_pair));
        self.proved.retain(|(.., key_pair), _| in_overlap.contains(key_pair));
    }

    /// Whether senders of this kind may be shown another pair than the default: not for what other kinds did, and not for
    /// refusals after one of them had proved the pair. What a replica has learned may outlive it.
    pub(super) fn may_be_moved(&self, replica: usize, kind: &SenderKind) -> bool {
        self.movable.contains(&(replica, kind.clone()))
    }

    /// Whether another sender of this kind has proved the pair, or the one that both are held on, or refused one since then.
    /// Data without a certificate count only against a refusal without one.
    fn has_interfered(&self, lost: &LostHandshake<'_>, who: usize, since: u64) -> bool {
        let (replica, kind) = (lost.replica, lost.kind);
        let counts = |(other, verified): &(usize, bool)| *other != who && (*verified || !lost.verified);
        let is_kept = |key_pair: Fingerprint| {
            let proved = self.proved.get(&(replica, kind.clone(), key_pair));
            proved.is_some_and(|all| all.iter().any(counts))
        };
        let refused = self.refused.get(&(replica, kind.clone()));
        is_kept(lost.key_pair)
            || lost.trial.is_some_and(is_kept)
            || refused.is_some_and(|all| all.iter().any(|(other, number)| *other != who && since <= *number))
    }
}

impl LossAccount {
    /// Records that the sender came to a replica.
    pub(super) fn record_visit(&mut self, replica: usize, number: u64) {
        self.visited.insert(replica, number);
    }

    /// Judges a lost handshake of a sender that one of our pairs would have served; `costs`: what learning of it costs.
    ///
    /// # Errors
    /// The rules do not grant it: what they do grant.
    pub(super) fn judge_loss(
        &mut self,
        costs: u64,
        who: usize,
        lost: &LostHandshake<'_>,
        neighbours: &NeighbourLog,
    ) -> Result<(), String> {
        let lost_on = self.lost_on.entry(lost.replica).or_default();
        lost_on.insert(lost.key_pair);
        let granted = costs * if lost.tells_issuer { 1 } else { lost.unfit.max(lost_on.len() as u64) };
        let since = self.visited.get(&lost.replica).copied().unwrap_or_default();
        let is_shared = costs > 0 && neighbours.has_interfered(lost, who, since);
        let (counted, limit) = if lost.trial.is_some() {
            (self.tried.entry(lost.replica).or_default(), costs.min(1) * (TRIALS + u64::from(lost.stepped_back)))
        } else {
            (self.learned.entry(lost.replica).or_default(), granted)
        };
        if *counted < limit {
            *counted += 1;
            return Ok(());
        }
        if is_shared {
            self.shared += 1;
            return Ok(());
        }
        Err(format!("{counted} handshakes lost before, of {limit} that are granted"))
    }
}
