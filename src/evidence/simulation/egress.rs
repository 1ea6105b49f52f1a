//! A simulated egress: requests go to a simulated upstream as `dataplane::egress` sends them, over the real verdicts, the real course of
//! a request, and the real ledger.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::random::SeededRandom;
use super::replica::{fingerprint, time_at};
use super::upstream::{NodeAnswer, RequestPath, SimulatedUpstream};
use crate::evidence::UpstreamProofs;
use crate::evidence::proved::{
    AnswerFacts, AnswerJudgement, AttemptEnd, ConnectionSeen, ProbeMode, ProofFact, ProofPolicy, RequestClass,
    RequestCourse, RequestSelection, SelectionOrder, SelectionRole, ShownPair, SuspectFinding, UncertifiedAnswer,
    UpstreamNode, UpstreamVerdict, VerdictChange,
};
use crate::evidence::report::{LedgerFact, RotationLedger, UpstreamResponse};
use crate::pki::Fingerprint;

const REFUSALS: [u16; 5] = [400, 401, 403, 495, 496];

/// A pooled connection: its node, and whether it has proved its pair yet.
#[derive(Clone, Copy, Debug)]
struct PooledLink {
    node: usize,
    open: bool,
}

/// The egress, in an overlap or before it.
pub(super) struct SimulatedEgress {
    pub(super) proved: UpstreamProofs,
    pub(super) ledger: RotationLedger,
    pub(super) upstream: SimulatedUpstream,
    pub(super) order: SelectionOrder,
    pools: [Option<PooledLink>; 3],
    pub(super) listener: Arc<str>,
    pub(super) rotated: Timestamp,
    pub(super) second: i64,
    /// Requests that cannot be sent again, lost at nodes that had shown that they refuse the pair, since the upstream changed its mind.
    pub(super) lost: u64,
    /// The node of the last attempt had shown that it refuses the pair.
    pub(super) is_known: bool,
    pub(super) requests: u64,
    pub(super) lost_in_all: u64,
}

/// The settings of the egress.
pub(super) fn policy() -> ProofPolicy<'static> {
    ProofPolicy { probe: &ProbeMode::Off, prove_within: Duration::from_hours(1), refusals: &REFUSALS }
}

impl SimulatedEgress {
    pub(super) fn new(upstream: SimulatedUpstream) -> Self {
        let mut proved = UpstreamProofs::default();
        proved.update_pairs(&[fingerprint(0)], policy(), time_at(0));
        Self {
            proved,
            ledger: RotationLedger::new(time_at(0)),
            upstream,
            order: SelectionOrder { pairs: vec![fingerprint(0)], needs_proof: false },
            pools: [None; 3],
            listener: "out".into(),
            rotated: time_at(0),
            second: 0,
            lost: 0,
            is_known: false,
            requests: 0,
            lost_in_all: 0,
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        time_at(0) + jiff::SignedDuration::from_secs(self.second)
    }

    /// The newest of these pairs is current from now on.
    pub(super) fn rotate(&mut self, pairs: &[usize]) {
        let pairs: Vec<Fingerprint> = pairs.iter().map(|pair| fingerprint(*pair)).collect();
        self.proved.update_pairs(&pairs, policy(), self.now());
        self.order = SelectionOrder { pairs, needs_proof: true };
        self.rotated = self.now();
        self.upstream.nodes.iter_mut().for_each(|node| node.shown = [false; 3]);
        self.lost = 0;
    }

    pub(super) fn current(&self) -> usize {
        self.pair_number(self.order.pairs[0])
    }

    pub(super) fn pair_number(&self, key_pair: Fingerprint) -> usize {
        (0..3).find(|pair| fingerprint(*pair) == key_pair).unwrap_or_default()
    }

    fn record_change(&mut self, key_pair: Fingerprint, change: Option<VerdictChange>) {
        let Some(change) = change else { return };
        let said = match change.verdict {
            UpstreamVerdict::Proved => UpstreamResponse::Proved,
            UpstreamVerdict::HandshakeOk => UpstreamResponse::HandshakeOk,
            UpstreamVerdict::Refused => UpstreamResponse::Refused,
        };
        self.record_response(key_pair, said, false);
    }

    fn record_response(&mut self, key_pair: Fingerprint, said: UpstreamResponse, handshake: bool) {
        let fact = LedgerFact::Upstream {
            listener: &self.listener,
            keyring: Some(&self.listener),
            key_pair,
            said,
            handshake,
            reason: "simulated",
            explanation: "simulated",
            next_try: None,
            epoch: 1,
        };
        let now = self.now();
        self.ledger.record(&fact, now);
    }

    fn select(&mut self, harmless: bool) -> RequestSelection {
        let now = self.now();
        if self.order.pairs.len() == 1 {
            return RequestSelection::settled(self.order.pairs[0]);
        }
        let (pick, change) = self.proved.select(&self.order, harmless, policy(), now);
        self.record_change(pick.key_pair, change);
        if pick.how == SelectionRole::Canary {
            let pair = self.pair_number(pick.key_pair);
            self.pools[pair] = None;
        }
        pick
    }

    /// The connection that a request goes on; a new one may lead to another pick.
    fn connect(
        &mut self,
        pick: &mut RequestSelection,
        is_first: bool,
        harmless: bool,
        random: &mut SeededRandom,
    ) -> usize {
        for attempt in 0..2 {
            let pair = self.pair_number(pick.key_pair);
            if self.pools[pair].is_some() && !random.percent(20) {
                return pair;
            }
            let sought = pick.address.and_then(|address| {
                (0..self.upstream.nodes.len()).find(|node| self.upstream.seen(*node).address == address)
            });
            let node = sought.unwrap_or_else(|| random.index(self.upstream.nodes.len()));
            self.pools[pair] = Some(PooledLink { node, open: true });
            let (seen, now) = (self.upstream.seen(node), self.now());
            self.record_response(pick.key_pair, UpstreamResponse::HandshakeOk, true);
            if self.order.pairs.len() == 1 {
                self.proved.record_node(seen, now);
                return pair;
            }
            let current = self.order.pairs[0];
            let sought = pick.sought_address(current);
            let seen = ConnectionSeen { node: seen, asked: Some(true), excludes_current: false, sought };
            let change = self.proved.record_connection(current, seen, policy(), now);
            self.record_change(current, change);
            if attempt > 0 || !pick.may_change(!is_first) {
                return pair;
            }
            let before = pick.key_pair;
            *pick = self.select(harmless);
            if pick.key_pair == before {
                // The canary closes what its pair had open.
                self.pools[pair].get_or_insert(PooledLink { node, open: true });
                return pair;
            }
        }
        self.pair_number(pick.key_pair)
    }

    /// One request, as `egress::retry` sends it; what the application gets.
    pub(super) fn send(&mut self, path: RequestPath, harmless: bool, random: &mut SeededRandom) -> Option<u16> {
        let class = RequestClass::new(if harmless { "GET" } else { "POST" }, path.as_str());
        let mut pick = self.select(harmless);
        let mut canary = pick.how == SelectionRole::Canary;
        let mut tried: Vec<Fingerprint> = Vec::new();
        let mut course = RequestCourse::<(u16, usize)>::new(harmless);
        let several = self.order.pairs.len() > 1;
        let answer = loop {
            let pair = self.connect(&mut pick, tried.is_empty(), harmless, random);
            canary |= pick.how == SelectionRole::Canary;
            let Some(link) = self.pools[pair] else { break None };
            let shown = (pick.key_pair, self.upstream.seen(link.node));
            let answer = self.upstream.answer(link.node, pair, path, self.second);
            self.expose(link.node, pair, (path, harmless), answer);
            let end = match answer {
                NodeAnswer::Status(status) => {
                    let is_refusal = REFUSALS.contains(&status);
                    let is_judged = pick.needs_judgement(pick.key_pair == self.order.pairs[0], link.open, is_refusal);
                    let facts = (is_judged && several).then_some(AnswerFacts {
                        key_pair: pick.key_pair,
                        how: pick.how,
                        node: shown.1,
                        class,
                        status,
                        public: UncertifiedAnswer::Unknown,
                        repeatable: course.may_compare(true),
                        compared: None,
                        compared_with: None,
                    });
                    let goes_on = facts.filter(|facts| {
                        let judged = self.judge_answer(facts, link.node, path);
                        course.continues_after(judged, is_refusal, true)
                    });
                    if let Some(facts) = goes_on
                        && self.advance(&mut pick, &mut tried, Some(facts.node))
                    {
                        course.keep_answer(facts, (status, link.node));
                        continue;
                    }
                    break Some(self.judge_suspects(course, status, shown));
                }
                NodeAnswer::Alert => AttemptEnd::Alert,
                NodeAnswer::Silence => AttemptEnd::Unanswered,
            };
            self.pools[pair] = None;
            if end == AttemptEnd::Alert && several {
                self.record_fact(shown, ProofFact::Alert);
            }
            let cause = course.find_replay_cause(end, pick.how, several);
            if let Some(cause) = cause.filter(|_| self.advance(&mut pick, &mut tried, None)) {
                course.keep_end(cause, shown);
                continue;
            }
            let is_proved = self.proved.verdict(shown.0) == Some(UpstreamVerdict::Proved);
            let relied_on = several && (shown.0 == self.order.pairs[0] || is_proved);
            for (shown, silence) in course.silences_at_end(end, shown, relied_on) {
                self.record_fact(shown, silence);
            }
            break course.into_best_answer().map(|(status, _)| status);
        };
        if canary {
            self.proved.release_canary();
        }
        answer
    }

    /// Goes on with the next pair, if one is left.
    fn advance(
        &mut self,
        pick: &mut RequestSelection,
        tried: &mut Vec<Fingerprint>,
        compared: Option<UpstreamNode>,
    ) -> bool {
        tried.push(pick.key_pair);
        let Some(next) = self.proved.next_selection(&self.order, tried, compared, self.now()) else { return false };
        *pick = next;
        if next.address.is_some() {
            let pair = self.pair_number(next.key_pair);
            self.pools[pair] = None;
        }
        true
    }

    fn judge_answer(&mut self, facts: &AnswerFacts, node: usize, path: RequestPath) -> AnswerJudgement {
        let judged = self.judge(facts, node);
        if judged != AnswerJudgement::AskUncertified {
            return judged;
        }
        let public = self.upstream.answer_uncertified(node, path, self.second);
        self.judge(&AnswerFacts { public, ..*facts }, node)
    }

    /// The last pair got this answer; what the application gets.
    fn judge_suspects(&mut self, course: RequestCourse<(u16, usize)>, status: u16, last: ShownPair) -> u16 {
        let kept = course.conclude(status, Some(last), &REFUSALS, |finding| match finding {
            SuspectFinding::Silence(shown, silence) => {
                self.record_fact(shown, silence);
                AnswerJudgement::Nothing
            }
            SuspectFinding::Answer(facts, (_, node)) => self.judge(&facts, *node),
        });
        kept.map_or(status, |(status, _)| status)
    }

    fn judge(&mut self, facts: &AnswerFacts, node: usize) -> AnswerJudgement {
        let (judged, change) = self.proved.judge(&self.order, facts, policy(), self.now());
        self.record_change(facts.key_pair, change);
        let pair = self.pair_number(facts.key_pair);
        match (judged, &mut self.pools[pair]) {
            (AnswerJudgement::Proves, Some(link)) if link.node == node => link.open = false,
            (AnswerJudgement::Refuses | AnswerJudgement::Doubts, pool) => *pool = None,
            _ => {}
        }
        judged
    }

    fn record_fact(&mut self, (key_pair, node): ShownPair, fact: ProofFact) {
        let change = self.proved.record(key_pair, (fact, node), policy(), self.now());
        self.record_change(key_pair, change);
    }

    /// Whether it can be known from now on that a node refuses this pair: a request that may be sent again was refused where an accepted
    /// caller is not, or TLS said so.
    fn expose(&mut self, index: usize, pair: usize, (path, harmless): (RequestPath, bool), answer: NodeAnswer) {
        let is_public = self.upstream.is_public(path);
        let node = &mut self.upstream.nodes[index];
        self.is_known = node.shown[pair];
        let tells = match answer {
            NodeAnswer::Status(_) => harmless && !REFUSALS.contains(&path.accepted_status()) && !is_public,
            NodeAnswer::Alert => true,
            NodeAnswer::Silence => harmless,
        };
        node.shown[pair] |= tells && !node.accepts[pair] && node.down_until <= self.second;
    }
}
