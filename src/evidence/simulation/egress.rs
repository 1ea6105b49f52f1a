//! A simulated egress: requests go to a simulated upstream as `dataplane::egress` sends them, over the real verdicts and ledger.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::random::SeededRandom;
use super::replica::{fingerprint, time_at};
use super::upstream::{NodeAnswer, RequestPath, SimulatedUpstream};
use crate::evidence::UpstreamProofs;
use crate::evidence::proved::{
    AnswerFacts, AnswerJudgement, ConnectionSeen, ProbeMode, ProofFact, ProofPolicy, RequestClass, RequestSelection,
    SelectionOrder, SelectionRole, UncertifiedAnswer, UpstreamNode, UpstreamVerdict, VerdictChange,
};
use crate::evidence::report::{LedgerFact, RotationLedger, UpstreamResponse};
use crate::pki::Fingerprint;

const REFUSALS: [u16; 5] = [400, 401, 403, 495, 496];
/// As in `egress::retry`.
const MAX_SILENT_ENDS: usize = 2;

/// A pooled connection: its node, and whether it has proved its pair yet.
#[derive(Clone, Copy, Debug)]
struct PooledLink {
    node: usize,
    open: bool,
}

/// What one pair of several got for a request.
#[derive(Clone, Copy, Debug)]
struct SuspectAnswer {
    key_pair: Fingerprint,
    node: usize,
    /// `None`: it ended without an answer.
    facts: Option<AnswerFacts>,
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
            let sought = pick.address.filter(|_| pick.how == SelectionRole::Canary && pick.key_pair == current);
            let seen = ConnectionSeen { node: seen, asked: Some(true), excludes_current: false, sought };
            let change = self.proved.record_connection(current, seen, policy(), now);
            self.record_change(current, change);
            if attempt > 0 || !is_first || pick.how != SelectionRole::Settled {
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
        let mut suspects: Vec<SuspectAnswer> = Vec::new();
        let several = self.order.pairs.len() > 1;
        let answer = loop {
            let pair = self.connect(&mut pick, tried.is_empty(), harmless, random);
            canary |= pick.how == SelectionRole::Canary;
            let Some(link) = self.pools[pair] else { break None };
            let (key_pair, node) = (pick.key_pair, self.upstream.seen(link.node));
            let answer = self.upstream.answer(link.node, pair, path, self.second);
            self.expose(link.node, pair, (path, harmless), answer);
            let suspect = SuspectAnswer { key_pair, node: link.node, facts: None };
            match answer {
                NodeAnswer::Status(status) => {
                    let is_settled =
                        pick.how == SelectionRole::Settled && key_pair == self.order.pairs[0] && !link.open;
                    let says_nothing = !several || is_settled && !REFUSALS.contains(&status);
                    let facts = (!says_nothing).then_some(AnswerFacts {
                        key_pair,
                        how: pick.how,
                        node,
                        class,
                        status,
                        public: UncertifiedAnswer::Unknown,
                        repeatable: suspects.is_empty() && harmless,
                        compared: None,
                        compared_with: None,
                    });
                    let judged =
                        facts.map_or(AnswerJudgement::Nothing, |facts| self.judge_answer(&facts, link.node, path));
                    let goes_on = match suspects.last() {
                        None => judged == AnswerJudgement::Compare,
                        Some(last) => last.facts.is_some() && harmless && REFUSALS.contains(&status),
                    };
                    if goes_on && self.advance(&mut pick, &mut tried, Some(node)) {
                        suspects.push(SuspectAnswer { facts, ..suspect });
                        continue;
                    }
                    break Some(self.judge_suspects(&suspects, (status, key_pair, node)));
                }
                NodeAnswer::Alert => {
                    self.pools[pair] = None;
                    if several {
                        self.record_fact(key_pair, link.node, ProofFact::Alert);
                    }
                    if several && self.advance(&mut pick, &mut tried, None) {
                        continue;
                    }
                }
                NodeAnswer::Silence => {
                    self.pools[pair] = None;
                    let is_suspicious = suspects.len() < MAX_SILENT_ENDS && several;
                    if is_suspicious && harmless && self.advance(&mut pick, &mut tried, None) {
                        suspects.push(suspect);
                        continue;
                    }
                    self.record_last_silence(&suspects, suspect);
                }
            }
            break suspects.iter().find_map(|suspect| suspect.facts).map(|facts| facts.status);
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
        let Some(next) = self.proved.next(&self.order, tried, self.now()) else { return false };
        let address = compared.and_then(|node| self.proved.comparison_address(&self.order, node));
        *pick = RequestSelection { address, ..RequestSelection::settled(next) };
        if address.is_some() {
            let pair = self.pair_number(next);
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
    fn judge_suspects(
        &mut self,
        suspects: &[SuspectAnswer],
        (status, last, at): (u16, Fingerprint, UpstreamNode),
    ) -> u16 {
        let mut kept = None;
        for (index, suspect) in suspects.iter().enumerate() {
            let Some(facts) = suspect.facts else {
                self.record_fact(suspect.key_pair, suspect.node, ProofFact::Silence { compared: true });
                continue;
            };
            let compared = AnswerFacts { compared: Some(status), compared_with: Some((last, at)), ..facts };
            let judged = self.judge(&compared, suspect.node);
            let is_on_trial = matches!(facts.how, SelectionRole::Canary | SelectionRole::Everyone);
            let fares_worse = matches!(judged, AnswerJudgement::Refuses | AnswerJudgement::Doubts);
            let gets_further = REFUSALS.contains(&status) && !REFUSALS.contains(&facts.status) && facts.status < 500;
            if index == 0 && !fares_worse && (!is_on_trial || gets_further) {
                kept = Some(facts.status);
            }
        }
        kept.unwrap_or(status)
    }

    fn record_last_silence(&mut self, suspects: &[SuspectAnswer], last: SuspectAnswer) {
        if let Some(first) = suspects.first().filter(|first| first.facts.is_none() && first.node != last.node) {
            self.record_fact(first.key_pair, first.node, ProofFact::Silence { compared: true });
        }
        let is_proved = self.proved.verdict(last.key_pair) == Some(UpstreamVerdict::Proved);
        if self.order.pairs.len() > 1 && (last.key_pair == self.order.pairs[0] || is_proved) {
            self.record_fact(last.key_pair, last.node, ProofFact::Silence { compared: false });
        }
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

    fn record_fact(&mut self, key_pair: Fingerprint, node: usize, fact: ProofFact) {
        let change = self.proved.record(key_pair, (fact, self.upstream.seen(node)), policy(), self.now());
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
