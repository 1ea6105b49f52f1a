//! One upstream's verdicts on our key pairs, and which pair a request shows to it: contract section 4's egress row.
//!
//! A handshake proves nothing in TLS 1.3, and some servers refuse a certificate only by a status, so a new pair is
//! first probed, then tried by one harmless request at a time (the canary), while all others keep using a pair that is
//! known to work. An upstream may have several nodes: the pair is proved where every known one has. Pure: facts come in, `now` is
//! an argument, and changes are returned. `dataplane` decides which bytes on a connection amount to which fact.

mod answer;
mod comparison;
mod course;
mod doubts;
mod history;
mod nodes;
mod order;
mod pair;
mod reached;
mod shape;

use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

pub use self::answer::{AnswerJudgement, RequestClass};
use self::answer::{AnswerRole, PairAnswer, PreviousAnswer, judge_answer};
pub use self::course::{AttemptEnd, ReplayCause, RequestCourse, ShownPair, SuspectFinding};
use self::history::AnswerHistory;
use self::nodes::{NodeState, NodeTable};
pub use self::nodes::{UpstreamNode, UpstreamVerdict};
pub use self::order::{SelectionOrder, excludes_current, selection_order};
use self::pair::{PairProof, RefusalManner, add_saturating, retry_pause};
use self::reached::ReachedNodes;
pub use self::shape::{
    AnswerFacts, ConnectionSeen, ProbeMode, ProofFact, ProofPolicy, RequestSelection, SelectionRole, UncertifiedAnswer,
    VerdictChange,
};
use crate::pki::Fingerprint;

/// How long the next canary waits after one whose answer said nothing.
const CANARY_PAUSE: Duration = Duration::from_mins(1);

/// One upstream's verdicts on the pairs that may be shown to it.
#[derive(Clone, Debug, Default)]
pub struct UpstreamProofs {
    pairs: Vec<PairProof>,
    canary: bool,
    history: AnswerHistory,
    reached: ReachedNodes,
}

impl UpstreamProofs {
    /// Adopts an epoch's pairs: new ones are unproved, missing ones are forgotten. A keyring's only pair needs no
    /// proof, and stays trusted after another one replaces it.
    pub fn update_pairs(&mut self, pairs: &[Fingerprint], terms: ProofPolicy<'_>, now: Timestamp) {
        if self.pairs.len() != pairs.len() || pairs.iter().any(|key_pair| self.get(*key_pair).is_none()) {
            self.history = AnswerHistory::default();
        }
        self.pairs.retain(|known| pairs.contains(&known.key_pair));
        let is_first = self.pairs.is_empty();
        for key_pair in pairs {
            if self.get(*key_pair).is_none() {
                let mut new = PairProof::new(*key_pair, terms, now);
                if !is_first {
                    for node in self.reached.recent(now) {
                        new.nodes.entry(node);
                    }
                }
                self.pairs.push(new);
            }
        }
        if let [only] = self.pairs.as_mut_slice() {
            (only.trusted, only.nodes) = (true, NodeTable::default());
            only.end_trial();
        }
    }

    /// After a step of the clock all ages are what they were before it: no pause and no trial ends sooner or later.
    pub fn shift_times(&mut self, step: SignedDuration) {
        self.pairs.iter_mut().for_each(|pair| pair.shift_times(step));
        self.reached.shift_times(step);
    }

    /// The verdict on a pair, if any.
    pub fn verdict(&self, key_pair: Fingerprint) -> Option<UpstreamVerdict> {
        self.get(key_pair)?.verdict()
    }

    /// Selects a pair for one request; `harmless`: it is idempotent and can be replayed. The second value is a change
    /// to report: from now on all requests try the preferred pair.
    pub fn select(
        &mut self,
        order: &SelectionOrder,
        harmless: bool,
        terms: ProofPolicy<'_>,
        now: Timestamp,
    ) -> (RequestSelection, Option<VerdictChange>) {
        let first = order.pairs[0];
        let pick = |key_pair, how| (RequestSelection { key_pair, how, address: None }, None);
        let Some(fallback) = self.find_fallback(&order.pairs[1..]) else {
            let selection = self.seek_refusing_node(first, harmless && order.needs_proof, now);
            return (selection.unwrap_or(RequestSelection::settled(first)), None);
        };
        let busy = self.canary;
        let Some(pair) = self.get_mut(first) else { return pick(fallback, SelectionRole::Fallback(None)) };
        match pair.verdict() {
            Some(UpstreamVerdict::Proved) => return pick(first, SelectionRole::Settled),
            Some(UpstreamVerdict::Refused) => {}
            _ if order.needs_proof && !pair.nodes.asks_for_nothing() => {}
            _ => return pick(first, SelectionRole::Settled),
        }
        if now < pair.since {
            return pick(fallback, SelectionRole::Fallback(Some(pair.since)));
        }
        if pair.probe_first {
            return pick(fallback, SelectionRole::Fallback(None));
        }
        if now >= add_saturating(pair.since, terms.prove_within) {
            let is_first = !std::mem::replace(&mut pair.announced, true);
            // A refusal by a status follows a successful handshake.
            if !pair.by_alert {
                pair.nodes.forget_refusals();
            }
            let news = is_first && pair.verdict() == Some(UpstreamVerdict::HandshakeOk);
            let news = news.then(|| pair.report());
            let seeks = harmless && news.is_none();
            let everyone = RequestSelection { key_pair: first, how: SelectionRole::Everyone, address: None };
            return (self.seek_refusing_node(first, seeks, now).unwrap_or(everyone), news);
        }
        if !harmless || busy || now < pair.rests_until {
            return pick(fallback, SelectionRole::Fallback(Some(pair.rests_until.max(now))));
        }
        let address = pair.nodes.sought_address();
        self.canary = true;
        (RequestSelection { key_pair: first, how: SelectionRole::Canary, address }, None)
    }

    /// All requests show the preferred pair, because none other is known to work, or `prove_within` has passed. Now and then one that can
    /// be replayed seeks a node that has not accepted it: that node may accept it by now, or be gone.
    fn seek_refusing_node(&mut self, first: Fingerprint, harmless: bool, now: Timestamp) -> Option<RequestSelection> {
        if !harmless || self.canary {
            return None;
        }
        let pair = self.get_mut(first).filter(|pair| pair.since.max(pair.rests_until) <= now)?;
        let address = pair.nodes.sought_address()?;
        pair.rests_until = add_saturating(now, CANARY_PAUSE);
        self.canary = true;
        Some(RequestSelection { key_pair: first, how: SelectionRole::Canary, address: Some(address) })
    }

    /// The pair to retry with after those in `tried` were refused: for a request that was not processed, or may be
    /// processed twice.
    fn next(&self, order: &SelectionOrder, tried: &[Fingerprint], now: Timestamp) -> Option<Fingerprint> {
        let left: Vec<_> = order.pairs.iter().copied().filter(|pair| !tried.contains(pair)).collect();
        let rested = || left.iter().copied().find(|pair| !self.is_resting(*pair, now));
        self.find_fallback(&left).or_else(rested).or_else(|| left.first().copied())
    }

    /// How a request goes on after those in `tried`. `compared`: whose answer is compared; of several nodes the next pair is shown to the
    /// same one.
    pub fn next_selection(
        &self,
        order: &SelectionOrder,
        tried: &[Fingerprint],
        compared: Option<UpstreamNode>,
        now: Timestamp,
    ) -> Option<RequestSelection> {
        let next = self.next(order, tried, now)?;
        let address = compared.and_then(|node| self.comparison_address(order, node));
        Some(RequestSelection { address, ..RequestSelection::settled(next) })
    }

    /// The address at which another pair's answer may be compared with that of `node`, where the upstream has several: what another
    /// node answers tells nothing.
    fn comparison_address(&self, order: &SelectionOrder, node: UpstreamNode) -> Option<IpAddr> {
        let nodes = &self.get(order.pairs[0])?.nodes;
        (nodes.len() > 1 && nodes.find(node).is_some()).then_some(node.address)
    }

    /// Claims the canary role for a probe with this pair; `None` if another request has it.
    pub fn claim_canary(&mut self, key_pair: Fingerprint) -> Option<RequestSelection> {
        let address = self.get(key_pair).and_then(|pair| pair.nodes.sought_address());
        let is_free = !std::mem::replace(&mut self.canary, true);
        is_free.then_some(RequestSelection { key_pair, how: SelectionRole::Canary, address })
    }

    /// Ends the canary, whatever its result.
    pub fn release_canary(&mut self) {
        self.canary = false;
    }

    /// Records which node a connection has reached, while there is only one pair to show: the next one has to be proved there.
    pub fn record_node(&mut self, node: UpstreamNode, now: Timestamp) {
        self.reached.record(node, now);
    }

    /// Records a connection to a node, for the pair that is to be proved.
    pub fn record_connection(
        &mut self,
        current: Fingerprint,
        seen: ConnectionSeen,
        terms: ProofPolicy<'_>,
        now: Timestamp,
    ) -> Option<VerdictChange> {
        if seen.asked != Some(false) {
            self.reached.record(seen.node, now);
        }
        self.get_mut(current)?.record_connection(seen, terms, now)
    }

    /// Judges an answer. `order` says which pair is to be proved; the others' answers are what it is compared with.
    pub fn judge(
        &mut self,
        order: &SelectionOrder,
        got: &AnswerFacts,
        terms: ProofPolicy<'_>,
        now: Timestamp,
    ) -> (AnswerJudgement, Option<VerdictChange>) {
        let is_preferred = got.key_pair == order.pairs[0];
        let has_other = order.pairs.iter().any(|other| *other != got.key_pair && !self.is_resting(*other, now));
        let previous = self.find_previous_answer(got, terms);
        if !is_preferred && !self.is_refused_at(got.key_pair, got.node) {
            self.history.record(got.class, got.status);
        }
        let Some(pair) = self.get_mut(got.key_pair) else { return (AnswerJudgement::Nothing, None) };
        let is_trusted = pair.trusted;
        // A node that is not known yet gets its entry from what is decided about it: an answer that decides nothing must not end
        // a proof unseen.
        let node = pair.nodes.find(got.node);
        let role = match got.how {
            _ if is_trusted || node.is_some_and(|node| node.state == NodeState::Proved) => AnswerRole::Proved,
            SelectionRole::Canary => AnswerRole::Canary,
            _ => AnswerRole::Everyone,
        };
        let answer = PairAnswer {
            status: got.status,
            role,
            asked: node.is_none_or(|node| node.state != NodeState::Unasked),
            is_public: got.public.is_same(got.status),
            comparable: got.repeatable
                && order.pairs.len() > 1
                && if is_preferred {
                    role == AnswerRole::Canary || node.is_none_or(|node| node.compared.may_compare(got.class, now))
                } else {
                    // What serves meanwhile is compared only where it may be refused itself.
                    terms.refusals.contains(&got.status) && pair.compared.may_compare(got.class, now)
                },
            previous,
        };
        let mut judgement = judge_answer(&answer, terms.refusals);
        let is_proof = judgement == AnswerJudgement::Proves;
        if is_proof && is_preferred {
            judgement = pair.weigh_proof(got, got.repeatable, now);
        }
        pair.count_comparison((judgement, role), got, is_preferred, now);
        match judgement {
            AnswerJudgement::Proves => {
                let was_proved = pair.verdict() == Some(UpstreamVerdict::Proved);
                if !is_preferred {
                    pair.nodes.forget_former(got.node);
                }
                (judgement, pair.record_proof(got.node).filter(|_| is_preferred || !was_proved))
            }
            AnswerJudgement::Compare | AnswerJudgement::AskUncertified => (judgement, None),
            _ if !has_other && got.compared.is_none() => (AnswerJudgement::Nothing, None),
            // Of the others only a comparison speaks, with a pair that fares better: they need no proof.
            AnswerJudgement::Refuses
                if !is_preferred && got.compared.is_none_or(|other| terms.refusals.contains(&other)) =>
            {
                (AnswerJudgement::Nothing, None)
            }
            AnswerJudgement::Doubts | AnswerJudgement::Nothing if !is_preferred => (AnswerJudgement::Nothing, None),
            AnswerJudgement::Refuses => {
                (judgement, pair.record_refusal(got.node, RefusalManner::Status(got.class), terms, now))
            }
            AnswerJudgement::Doubts | AnswerJudgement::Nothing => {
                let is_doubt = judgement == AnswerJudgement::Doubts;
                let change = if is_doubt { pair.record_doubt((got.node, Some(got.class)), terms, now) } else { None };
                // The probe's request, which an answer without a certificate has made worthless, delays no other; nor does one that
                // was accepted and cannot be asked for without a certificate.
                let is_delaying = if is_proof { got.class.is_read() } else { !answer.is_public };
                if role == AnswerRole::Canary && (is_delaying || answer.is_public && pair.has_doubts(got.node)) {
                    pair.rests_until = add_saturating(now, CANARY_PAUSE);
                }
                (judgement, change)
            }
        }
    }

    /// What is known of the previous pair's answer to such a request. What a refused pair gets says nothing, nor does another node.
    fn find_previous_answer(&self, got: &AnswerFacts, terms: ProofPolicy<'_>) -> PreviousAnswer {
        let says_nothing = |(key_pair, node): (Fingerprint, UpstreamNode)| {
            got.compared == Some(got.status) && (node != got.node || self.is_refused_at(key_pair, node))
        };
        match got.compared {
            Some(_) if got.compared_with.is_some_and(says_nothing) => PreviousAnswer::Incomparable,
            Some(other) => PreviousAnswer::Compared(other),
            None => self.history.recall(got.class, got.status, terms.refusals),
        }
    }

    /// Whether a node refuses a pair.
    fn is_refused_at(&self, key_pair: Fingerprint, node: UpstreamNode) -> bool {
        let known = self.get(key_pair).and_then(|pair| pair.nodes.find(node));
        known.is_some_and(|known| known.state == NodeState::Refused)
    }

    /// Records a fact. `None`: nothing changed.
    pub fn record(
        &mut self,
        key_pair: Fingerprint,
        (shown, node): (ProofFact, UpstreamNode),
        terms: ProofPolicy<'_>,
        now: Timestamp,
    ) -> Option<VerdictChange> {
        let pair = self.get_mut(key_pair)?;
        let is_proved = pair.trusted || pair.nodes.find(node).is_some_and(|known| known.state == NodeState::Proved);
        match shown {
            ProofFact::Handshake => pair.record_handshake(node),
            ProofFact::Alert => pair.record_refusal(node, RefusalManner::Alert, terms, now),
            ProofFact::Silence { .. } if !is_proved => pair.record_refusal(node, RefusalManner::Silence, terms, now),
            ProofFact::Silence { compared } => {
                let is_second = pair.nodes.entry(node).record_silence();
                if compared || is_second { pair.record_doubt((node, None), terms, now) } else { None }
            }
        }
    }

    /// The pair to probe now, if any.
    pub fn probe_due(&self, order: &SelectionOrder, now: Timestamp) -> Option<Fingerprint> {
        self.find_fallback(&order.pairs[1..])?;
        let pair = self.get(order.pairs[0])?;
        let verdict = pair.verdict();
        let due = verdict != Some(UpstreamVerdict::Proved) && pair.probe.is_some_and(|probe| now >= probe);
        (due && (order.needs_proof || verdict == Some(UpstreamVerdict::Refused))).then_some(pair.key_pair)
    }

    /// Ends a probe; its result has been recorded. A probe that can prove the pair is repeated until it does.
    pub fn finish_probe(&mut self, key_pair: Fingerprint, terms: ProofPolicy<'_>, now: Timestamp) {
        let Some(pair) = self.get_mut(key_pair) else { return };
        if now < pair.since || pair.verdict() == Some(UpstreamVerdict::Proved) {
            return;
        }
        pair.probe_first = false;
        pair.probe = match terms.probe {
            ProbeMode::Head(_) => {
                pair.probes = pair.probes.saturating_add(1);
                Some(add_saturating(now, retry_pause(pair.probes)))
            }
            ProbeMode::Off | ProbeMode::Handshake => None,
        };
    }

    /// The best of these: one that is proved, else the first that is not refused.
    fn find_fallback(&self, pairs: &[Fingerprint]) -> Option<Fingerprint> {
        let with = |wanted: fn(Option<UpstreamVerdict>) -> bool| {
            pairs.iter().copied().find(|key_pair| wanted(self.verdict(*key_pair)))
        };
        with(|verdict| verdict == Some(UpstreamVerdict::Proved))
            .or_else(|| with(|verdict| verdict != Some(UpstreamVerdict::Refused)))
    }

    /// Whether a pair was refused and is not to be tried yet.
    fn is_resting(&self, key_pair: Fingerprint, now: Timestamp) -> bool {
        self.get(key_pair).is_some_and(|pair| pair.verdict() == Some(UpstreamVerdict::Refused) && now < pair.since)
    }

    fn get(&self, key_pair: Fingerprint) -> Option<&PairProof> {
        self.pairs.iter().find(|pair| pair.key_pair == key_pair)
    }

    fn get_mut(&mut self, key_pair: Fingerprint) -> Option<&mut PairProof> {
        self.pairs.iter_mut().find(|pair| pair.key_pair == key_pair)
    }
}

#[cfg(test)]
mod tests;
