//! One of our key pairs at one upstream: how far its trial has come.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::answer::{AnswerJudgement, AnswerRole, RequestClass};
use super::comparison::{COMPARISON_INTERVAL, ComparisonTimes, is_within};
use super::nodes::{NodeState, NodeTable, UpstreamNode, UpstreamVerdict};
use super::shape::{AnswerFacts, ConnectionSeen, ProbeMode, ProofPolicy, UncertifiedAnswer, VerdictChange};
use crate::keyring::fit::shift_time;
use crate::pki::Fingerprint;

/// How long a refused pair is not used before the first retry; doubled after each further refusal.
const FIRST_RETRY_PAUSE: Duration = Duration::from_secs(30);
/// The longest such pause.
const MAX_RETRY_PAUSE: Duration = Duration::from_hours(1);
#[derive(Clone, Debug)]
pub(super) struct PairProof {
    pub(super) key_pair: Fingerprint,
    pub(super) nodes: NodeTable,
    /// It was the only pair once: it serves without proof until something speaks against it.
    pub(super) trusted: bool,
    /// What was reported last.
    pub(super) reported: Option<UpstreamVerdict>,
    /// Its last refusal was an alert: then a successful handshake is a change.
    pub(super) by_alert: bool,
    /// When it may be tried; `prove_within` counts from here.
    pub(super) since: Timestamp,
    /// No canary before this.
    pub(super) rests_until: Timestamp,
    /// Refusals in a row.
    pub(super) refusals: u32,
    /// When a probe is due.
    pub(super) probe: Option<Timestamp>,
    /// Traffic must wait for that probe.
    pub(super) probe_first: bool,
    /// Probes in a row without a verdict.
    pub(super) probes: u32,
    /// It has been reported that all requests try it.
    pub(super) announced: bool,
    /// When answers that it got in place of the preferred pair were compared.
    pub(super) compared: ComparisonTimes,
    /// When it was last asked what a caller without a certificate gets.
    asked: Option<Timestamp>,
}

/// How an upstream refuses a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalManner {
    /// By an alert.
    Alert,
    /// By a status, to a request of this class.
    Status(RequestClass),
    /// By an end without an answer.
    Silence,
}

impl PairProof {
    pub(super) fn new(key_pair: Fingerprint, terms: ProofPolicy<'_>, now: Timestamp) -> Self {
        let probes = *terms.probe != ProbeMode::Off;
        Self {
            key_pair,
            nodes: NodeTable::default(),
            trusted: false,
            reported: None,
            by_alert: false,
            since: now,
            rests_until: now,
            refusals: 0,
            probe: probes.then_some(now),
            probe_first: probes,
            probes: 0,
            announced: false,
            compared: ComparisonTimes::default(),
            asked: None,
        }
    }

    pub(super) fn verdict(&self) -> Option<UpstreamVerdict> {
        match self.nodes.verdict() {
            Some(UpstreamVerdict::Refused) => Some(UpstreamVerdict::Refused),
            _ if self.trusted => Some(UpstreamVerdict::Proved),
            verdict => verdict,
        }
    }

    pub(super) fn end_trial(&mut self) {
        (self.refusals, self.probes, self.probe, self.probe_first) = (0, 0, None, false);
    }

    pub(super) fn record_handshake(&mut self, node: UpstreamNode) -> Option<VerdictChange> {
        let is_back = self.by_alert && self.verdict() == Some(UpstreamVerdict::Refused);
        let known = self.nodes.entry(node);
        if is_back && known.state == NodeState::Refused {
            known.state = NodeState::Unproved;
        }
        let news = self.verdict() == Some(UpstreamVerdict::HandshakeOk) && self.reported != self.verdict();
        news.then(|| self.report())
    }

    /// Keeps account of comparisons: an answer of each class is compared at most once a minute, unless that has told nothing.
    pub(super) fn count_comparison(
        &mut self,
        (judgement, role): (AnswerJudgement, AnswerRole),
        got: &AnswerFacts,
        is_preferred: bool,
        now: Timestamp,
    ) {
        let is_elsewhere = got.compared_with.is_some_and(|(_, node)| node != got.node);
        match (judgement, role) {
            (AnswerJudgement::Compare, _) if !is_preferred => self.compared.record_comparison(got.class, now),
            // Only what compares a proof uses up its minute: a proof that has just been found may be compared at once.
            (AnswerJudgement::Compare, AnswerRole::Proved) => {
                self.nodes.entry(got.node).compared.record_comparison(got.class, now);
            }
            (AnswerJudgement::Nothing, _) if is_elsewhere && is_preferred => {
                self.nodes.entry(got.node).compared.forget_comparison(got.class);
            }
            _ => {}
        }
    }

    /// Whether a node has refused the pair by a status, and nothing has cleared that.
    pub(super) fn has_doubts(&self, node: UpstreamNode) -> bool {
        self.nodes.find(node).is_some_and(|known| !known.doubts.is_empty())
    }

    /// What an answer that proves is worth at a node that has refused the pair by a status: it ends that refusal if it is of the
    /// same class, or if a caller without a certificate does not get it. `may_ask`: the request may be sent without one.
    pub(super) fn weigh_proof(&mut self, got: &AnswerFacts, may_ask: bool, now: Timestamp) -> AnswerJudgement {
        let is_due = self.asked.is_none_or(|last| !is_within(last, COMPARISON_INTERVAL, now));
        let doubts = &mut self.nodes.entry(got.node).doubts;
        if doubts.is_empty() {
            return AnswerJudgement::Proves;
        }
        if got.public.is_refusal_of(got.status) {
            doubts.clear_all();
        }
        doubts.clear_class(got.class);
        if doubts.is_empty() {
            return AnswerJudgement::Proves;
        }
        if may_ask && is_due && got.class.is_read() && got.public == UncertifiedAnswer::Unknown {
            self.asked = Some(now);
            return AnswerJudgement::AskUncertified;
        }
        AnswerJudgement::Nothing
    }

    pub(super) fn record_proof(&mut self, node: UpstreamNode) -> Option<VerdictChange> {
        self.nodes.record_proof(node);
        if self.verdict() != Some(UpstreamVerdict::Proved) {
            return None;
        }
        self.end_trial();
        (self.reported != Some(UpstreamVerdict::Proved)).then(|| self.report())
    }

    /// The pair pauses, and is then tried as if it were new. Concurrent requests count as one refusal.
    pub(super) fn record_refusal(
        &mut self,
        node: UpstreamNode,
        manner: RefusalManner,
        terms: ProofPolicy<'_>,
        now: Timestamp,
    ) -> Option<VerdictChange> {
        let is_same = self.verdict() == Some(UpstreamVerdict::Refused) && now < self.since;
        let known = self.nodes.entry(node);
        known.state = NodeState::Refused;
        if let RefusalManner::Status(class) = manner {
            known.doubts.add(class);
        }
        if is_same {
            return None;
        }
        let refusals = self.refusals.saturating_add(1);
        let since = add_saturating(now, retry_pause(refusals));
        let nodes = std::mem::take(&mut self.nodes);
        let (by_alert, asked) = (manner == RefusalManner::Alert, self.asked);
        let compared = std::mem::take(&mut self.compared);
        *self = Self { nodes, by_alert, refusals, compared, asked, ..Self::new(self.key_pair, terms, since) };
        Some(self.report())
    }

    /// The pair is no longer relied on, and only canaries show it. A change only where it was proved. `class`: that of the
    /// request that a status has left in doubt.
    pub(super) fn record_doubt(
        &mut self,
        (node, class): (UpstreamNode, Option<RequestClass>),
        terms: ProofPolicy<'_>,
        now: Timestamp,
    ) -> Option<VerdictChange> {
        let before = self.verdict();
        let known = self.nodes.entry(node);
        known.state = NodeState::Unproved;
        if let Some(class) = class {
            known.doubts.add(class);
        }
        self.trusted = false;
        self.restart_trial(terms, now);
        (before == Some(UpstreamVerdict::Proved)).then(|| self.report())
    }

    /// A connection was made: another node ends a proof, and so do authorities that exclude the pair.
    pub(super) fn record_connection(
        &mut self,
        seen: ConnectionSeen,
        terms: ProofPolicy<'_>,
        now: Timestamp,
    ) -> Option<VerdictChange> {
        let before = self.verdict();
        self.nodes.record_connection(seen.node, (seen.asked, seen.excludes_current), seen.sought);
        self.trusted &= !seen.excludes_current;
        let after = self.verdict();
        if before == after {
            return None;
        }
        match (before, after) {
            (_, Some(UpstreamVerdict::Refused)) => {
                self.refusals = self.refusals.saturating_add(1);
                self.by_alert = false;
                self.restart_trial(terms, add_saturating(now, retry_pause(self.refusals)));
            }
            (_, Some(UpstreamVerdict::Proved)) => self.end_trial(),
            // The first handshake is reported where it ends a probe.
            (None, _) => return None,
            _ => self.restart_trial(terms, now),
        }
        (after.is_some() && self.reported != after).then(|| self.report())
    }

    /// The pair is tried again from then on: first by a probe, where one can prove it.
    fn restart_trial(&mut self, terms: ProofPolicy<'_>, from: Timestamp) {
        (self.since, self.rests_until, self.announced) = (from, from, false);
        // A connection has been made: only a probe that can prove the pair tells more, and traffic need not wait for it.
        self.probe_first = false;
        self.probe = matches!(terms.probe, ProbeMode::Head(_)).then_some(from);
    }

    /// After a step of the clock its pauses and its trial are as long as before it.
    pub(super) fn shift_times(&mut self, step: SignedDuration) {
        let moved = |at: Timestamp| shift_time(at, step);
        (self.since, self.rests_until) = (moved(self.since), moved(self.rests_until));
        (self.probe, self.asked) = (self.probe.map(moved), self.asked.map(moved));
        self.compared.shift_times(step);
        self.nodes.shift_times(step);
    }

    pub(super) fn report(&mut self) -> VerdictChange {
        let verdict = self.verdict().unwrap_or(UpstreamVerdict::HandshakeOk);
        self.reported = Some(verdict);
        VerdictChange { verdict, next_try: (verdict == UpstreamVerdict::Refused).then_some(self.since) }
    }
}

/// The pause after this many times in a row.
pub(super) fn retry_pause(times: u32) -> Duration {
    let doubled = FIRST_RETRY_PAUSE.saturating_mul(1 << times.saturating_sub(1).min(16));
    doubled.min(MAX_RETRY_PAUSE)
}

pub(super) fn add_saturating(from: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| from.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}
