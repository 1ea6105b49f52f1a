//! Whether upstreams accept our key pairs: one small table for all workers, so that what one learns holds for all.
//!
//! It is read only where a keyring is in overlap, and a worker caches a result until the table changes.
//! `evidence::proved` has the rules; `retry` decides what counts as a fact.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::clock::{Clock, RecordingTime};
use crate::evidence::proved::{
    AnswerFacts, AnswerJudgement, ConnectionSeen, ProofFact, RequestSelection, SelectionOrder, SelectionRole,
    UpstreamNode, VerdictChange,
};
use crate::evidence::{UpstreamProofs, UpstreamVerdict};
use crate::net::HostPort;
use crate::pki::Fingerprint;
use crate::snapshot::{EgressSnapshot, Epoch};

/// The table.
#[derive(Default)]
pub(crate) struct VerdictTable {
    known: Mutex<BTreeMap<Arc<str>, UpstreamEntry>>,
    version: AtomicU64,
}

struct UpstreamEntry {
    epoch: Epoch,
    upstream: HostPort,
    proved: UpstreamProofs,
    /// The steps of the clock that its times have followed, in all.
    stepped: SignedDuration,
}

/// Which entry, and the clock that its times are of.
#[derive(Clone, Copy)]
pub(crate) struct VerdictKey<'a> {
    pub(crate) egress: &'a EgressSnapshot,
    pub(crate) epoch: Epoch,
    pub(crate) clock: &'a Clock,
}

impl VerdictTable {
    /// Grows with every change; claiming and releasing the canary is not one.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Brings the entry up to the pairs of an epoch, unless it is already.
    pub(crate) fn sync_epoch(&self, of: VerdictKey<'_>) {
        self.with_entry(of, |_, _| ());
    }

    /// Chooses a pair for a request.
    pub(crate) fn pick(
        &self,
        of: VerdictKey<'_>,
        order: &SelectionOrder,
        harmless: bool,
    ) -> (RequestSelection, Option<VerdictChange>) {
        self.with_entry(of, |proved, now| proved.select(order, harmless, of.egress.settings.proof_terms(), now))
    }

    /// How a request goes on where `tried` have been refused; `compared`: whose answer is compared.
    pub(crate) fn next_selection(
        &self,
        of: VerdictKey<'_>,
        order: &SelectionOrder,
        tried: &[Fingerprint],
        compared: Option<UpstreamNode>,
    ) -> Option<RequestSelection> {
        self.with_entry(of, |proved, now| proved.next_selection(order, tried, compared, now))
    }

    /// What is known of this pair.
    pub(crate) fn verdict(&self, of: VerdictKey<'_>, key_pair: Fingerprint) -> Option<UpstreamVerdict> {
        self.with_entry(of, |proved, _| proved.verdict(key_pair))
    }

    /// Judges an answer; also what it has changed.
    pub(crate) fn judge(
        &self,
        of: VerdictKey<'_>,
        order: &SelectionOrder,
        got: &AnswerFacts,
    ) -> (AnswerJudgement, Option<VerdictChange>) {
        let judged = self.with_entry(of, |proved, now| proved.judge(order, got, of.egress.settings.proof_terms(), now));
        self.bump_version_for(judged.1);
        judged
    }

    /// Records which node a connection has reached, where there is only one pair to show.
    pub(crate) fn record_node(&self, of: VerdictKey<'_>, node: UpstreamNode) {
        self.with_entry(of, |proved, now| proved.record_node(node, now));
    }

    /// Records a connection, for the pair that is current. Returns the verdict before it, and what it has changed.
    pub(crate) fn record_connection(
        &self,
        of: VerdictKey<'_>,
        current: Fingerprint,
        seen: ConnectionSeen,
    ) -> (Option<UpstreamVerdict>, Option<VerdictChange>) {
        let terms = of.egress.settings.proof_terms();
        let (before, change) = self.with_entry(of, |proved, now| {
            (proved.verdict(current), proved.record_connection(current, seen, terms, now))
        });
        self.bump_version_for(change);
        (before, change)
    }

    /// Whether this pair is proved.
    pub(crate) fn is_proved(&self, of: VerdictKey<'_>, key_pair: Fingerprint) -> bool {
        self.verdict(of, key_pair) == Some(UpstreamVerdict::Proved)
    }

    /// Whether this pair is refused.
    pub(crate) fn is_refused(&self, of: VerdictKey<'_>, key_pair: Fingerprint) -> bool {
        self.with_entry(of, |proved, _| proved.verdict(key_pair) == Some(UpstreamVerdict::Refused))
    }

    /// Records a fact and returns what it has changed.
    pub(crate) fn record_fact(
        &self,
        of: VerdictKey<'_>,
        key_pair: Fingerprint,
        shown: (ProofFact, UpstreamNode),
    ) -> Option<VerdictChange> {
        let change =
            self.with_entry(of, |proved, now| proved.record(key_pair, shown, of.egress.settings.proof_terms(), now));
        self.bump_version_for(change);
        change
    }

    /// The pair that has to be probed now, if one has.
    pub(crate) fn probe_due(&self, of: VerdictKey<'_>, order: &SelectionOrder) -> Option<Fingerprint> {
        self.with_entry(of, |proved, now| proved.probe_due(order, now))
    }

    /// Claims the canary's place for a probe with this pair.
    pub(crate) fn claim_canary(&self, of: VerdictKey<'_>, key_pair: Fingerprint) -> Option<RequestSelection> {
        self.with_entry(of, |proved, _| proved.claim_canary(key_pair))
    }

    /// Records that a probe has ended.
    pub(crate) fn finish_probe(&self, of: VerdictKey<'_>, key_pair: Fingerprint) {
        self.with_entry(of, |proved, now| proved.finish_probe(key_pair, of.egress.settings.proof_terms(), now));
        self.bump_version();
    }

    fn release_canary(&self, name: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get_mut(name) {
            known.proved.release_canary();
        }
    }

    fn bump_version_for(&self, change: Option<VerdictChange>) {
        if change.is_some() {
            self.bump_version();
        }
    }

    fn bump_version(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Runs `act` on an entry, brought up to the caller's epoch, never back to an earlier one, and to the clock's steps. Another upstream starts
    /// anew, and what a former one still answers is not recorded.
    fn with_entry<T>(&self, of: VerdictKey<'_>, act: impl FnOnce(&mut UpstreamProofs, Timestamp) -> T) -> T {
        let settings = &of.egress.settings;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let RecordingTime { now, stepped } = of.clock.read_recording_time();
        if !known.contains_key(&settings.name) {
            let new = UpstreamEntry {
                epoch: Epoch(0),
                upstream: settings.upstream.clone(),
                proved: UpstreamProofs::default(),
                stepped,
            };
            known.insert(Arc::clone(&settings.name), new);
        }
        let known = known.get_mut(&settings.name).expect("the entry exists or was just inserted");
        if known.stepped != stepped {
            known.proved.shift_times(stepped.saturating_sub(known.stepped));
            known.stepped = stepped;
            self.bump_version();
        }
        if known.epoch < of.epoch {
            known.epoch = of.epoch;
            if known.upstream != settings.upstream {
                known.upstream = settings.upstream.clone();
                known.proved = UpstreamProofs::default();
            }
            let pairs: Vec<_> = of.egress.candidates.0.iter().map(|candidate| candidate.key_pair).collect();
            known.proved.update_pairs(&pairs, settings.proof_terms(), now);
            self.bump_version();
        }
        if known.upstream != settings.upstream {
            return act(&mut UpstreamProofs::default(), now);
        }
        act(&mut known.proved, now)
    }
}

/// The canary's place at one upstream, until this is dropped.
pub(crate) struct CanaryGuard {
    verdicts: Arc<VerdictTable>,
    name: Arc<str>,
}

impl CanaryGuard {
    /// Holds the place that a pick has taken, if it has.
    pub(crate) fn from_pick(pick: RequestSelection, verdicts: &Arc<VerdictTable>, name: &Arc<str>) -> Option<Self> {
        (pick.how == SelectionRole::Canary).then(|| Self { verdicts: Arc::clone(verdicts), name: Arc::clone(name) })
    }
}

impl Drop for CanaryGuard {
    fn drop(&mut self) {
        self.verdicts.release_canary(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::proved::{RequestClass, UncertifiedAnswer};
    use crate::snapshot::sample::sample_egress;

    fn pair(n: u8) -> Fingerprint {
        Fingerprint::from_bytes([n; 32])
    }

    /// An egress with pairs 2 (the new one) and 1, to this host.
    fn egress_to(host: &str) -> EgressSnapshot {
        let mut egress = sample_egress("out", pair(2));
        let mut settings = (*egress.settings).clone();
        settings.upstream.host = host.into();
        egress.settings = Arc::new(settings);
        let first = egress.candidates.0[0].clone();
        let with = |n| crate::keyring::KeyPairCandidate { key_pair: pair(n), ..first.clone() };
        egress.candidates.0 = vec![with(2), with(1)];
        egress
    }

    fn answer(table: &VerdictTable, egress: &EgressSnapshot, epoch: u64) -> AnswerJudgement {
        let clock = Clock::manual(Timestamp::UNIX_EPOCH).0;
        let of = VerdictKey { egress, epoch: Epoch(epoch), clock: &clock };
        let order = SelectionOrder { pairs: vec![pair(2), pair(1)], needs_proof: true };
        let got = AnswerFacts {
            key_pair: pair(2),
            how: SelectionRole::Canary,
            node: UpstreamNode::from_address(None),
            class: RequestClass::new("GET", "/"),
            status: 200,
            public: UncertifiedAnswer::Unknown,
            repeatable: true,
            compared: None,
            compared_with: None,
        };
        table.judge(of, &order, &got).0
    }

    #[test]
    fn another_upstream_inherits_no_proof_not_even_by_a_late_answer_of_the_former_one() {
        let (table, former, present) = (VerdictTable::default(), egress_to("a.example"), egress_to("b.example"));
        assert_eq!(answer(&table, &former, 1), AnswerJudgement::Proves);
        let clock = Clock::manual(Timestamp::UNIX_EPOCH).0;
        let verdict = |egress, epoch| table.verdict(VerdictKey { egress, epoch: Epoch(epoch), clock: &clock }, pair(2));
        assert_eq!(verdict(&former, 1), Some(UpstreamVerdict::Proved));
        assert_eq!(verdict(&present, 2), None);
        answer(&table, &former, 1);
        assert_eq!(verdict(&present, 2), None);
        assert_eq!(answer(&table, &present, 2), AnswerJudgement::Proves);
        assert_eq!(verdict(&present, 2), Some(UpstreamVerdict::Proved));
    }
}
