//! How one request goes on: whether it is sent again with another pair after an answer or an end, and which answer the
//! application gets in the end (contract section 4, replay and canary).
//!
//! Pure: `dataplane` sends and says how an attempt ended; `UpstreamProofs` judges each answer and names the next pair.

use super::answer::AnswerJudgement;
use super::nodes::UpstreamNode;
use super::shape::{AnswerFacts, ProofFact, SelectionRole};
use crate::pki::Fingerprint;

/// A pair, and the node that it was shown to.
pub type ShownPair = (Fingerprint, UpstreamNode);

/// After so many pairs with which a request got no answer it goes on with no other.
const MAX_SILENT_ENDS: usize = 2;

/// How an attempt ended that brought no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// By a certificate alert as the first thing after our certificate: nothing was processed.
    Alert,
    /// Without an alert, before anything of the request was sent.
    Unsent,
    /// Without an answer, when the request may have been processed.
    Unanswered,
    /// Within the handshake, for a reason that may be the pair's.
    Handshake,
    /// For a reason that has nothing to do with the pair.
    Unrelated,
}

/// Why a request is sent once more with another pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayCause {
    /// The pair was refused by an alert.
    Alert,
    /// The connection ended without an answer.
    Dropped,
}

impl ReplayCause {
    /// As in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Dropped => "dropped",
        }
    }
}

/// A pair that may have been refused; the answer to another pair shows whether it was.
#[derive(Debug)]
struct SuspectKeyPair<A> {
    shown: ShownPair,
    /// What was answered with it; `None`: it ended without an answer.
    answer: Option<(AnswerFacts, A)>,
}

/// What is found out about a suspect when the last pair has got an answer.
#[derive(Debug)]
pub enum SuspectFinding<'a, A> {
    /// It ended without an answer, and another pair has got one.
    Silence(ShownPair, ProofFact),
    /// Its answer, with what it is compared with: to be judged.
    Answer(AnswerFacts, &'a A),
}

/// One request on its way, with the pairs that it has gone on from. `A` is an answer that is kept meanwhile.
#[derive(Debug)]
pub struct RequestCourse<A> {
    suspects: Vec<SuspectKeyPair<A>>,
    /// It may be processed twice.
    idempotent: bool,
}

impl<A> RequestCourse<A> {
    /// Before the first attempt; `idempotent`: the request may be processed twice.
    pub const fn new(idempotent: bool) -> Self {
        Self { suspects: Vec::new(), idempotent }
    }

    /// Whether its next answer may be compared with that of another pair; `whole`: all of the request is still there.
    pub fn may_compare(&self, whole: bool) -> bool {
        self.idempotent && whole && self.suspects.is_empty()
    }

    /// Whether it goes on after an answer, because only another pair's answer tells more: of a pair that is compared, and of those
    /// that it is compared with, while they are refused as well.
    pub fn continues_after(&self, judgement: AnswerJudgement, is_refusal: bool, whole: bool) -> bool {
        match self.suspects.last() {
            None => judgement == AnswerJudgement::Compare,
            Some(last) => last.answer.is_some() && self.idempotent && whole && is_refusal,
        }
    }

    /// Goes on with another pair, and keeps this answer.
    pub fn keep_answer(&mut self, facts: AnswerFacts, answer: A) {
        self.suspects.push(SuspectKeyPair { shown: (facts.key_pair, facts.node), answer: Some((facts, answer)) });
    }

    /// Why a request that got no answer may be sent once more with another pair, if it may. `how`: the role in which it showed its
    /// pair; `has_other`: there are several pairs.
    pub fn find_replay_cause(&self, end: AttemptEnd, how: SelectionRole, has_other: bool) -> Option<ReplayCause> {
        let is_on_trial = matches!(how, SelectionRole::Canary | SelectionRole::Everyone);
        // An end without an answer may be the pair's fault; what ends so with several pairs is rather the upstream's.
        let is_suspicious = self.suspects.len() < MAX_SILENT_ENDS && has_other;
        match end {
            AttemptEnd::Alert => Some(ReplayCause::Alert),
            // Nothing was sent, so any request may be sent again; the other pair shows whether it was a refusal.
            AttemptEnd::Unsent if is_suspicious => Some(ReplayCause::Dropped),
            AttemptEnd::Unanswered if is_suspicious && self.idempotent => Some(ReplayCause::Dropped),
            AttemptEnd::Handshake if is_on_trial && self.idempotent => Some(ReplayCause::Dropped),
            _ => None,
        }
    }

    /// Goes on with another pair after an attempt that got no answer.
    pub fn keep_end(&mut self, cause: ReplayCause, shown: ShownPair) {
        if cause == ReplayCause::Dropped && self.suspects.len() < MAX_SILENT_ENDS {
            self.suspects.push(SuspectKeyPair { shown, answer: None });
        }
    }

    /// What the end of the last attempt says, after which it does not go on: of the first pair, where that ended without an answer at
    /// another node, so that its proof is withdrawn; and of the last one, where it is `relied_on`: the preferred one, or proved.
    pub fn silences_at_end(
        &self,
        end: AttemptEnd,
        last: ShownPair,
        relied_on: bool,
    ) -> impl Iterator<Item = (ShownPair, ProofFact)> + use<A> {
        let counts = end == AttemptEnd::Unanswered;
        let first = self.suspects.first().filter(|first| first.answer.is_none() && first.shown.1 != last.1);
        let first = first.map(|first| (first.shown, ProofFact::Silence { compared: true }));
        let last = relied_on.then_some((last, ProofFact::Silence { compared: false }));
        first.into_iter().chain(last).filter(move |_| counts)
    }

    /// No pair got a better result: the answer that there was, if there was one.
    pub fn into_best_answer(self) -> Option<A> {
        self.suspects.into_iter().find_map(|suspect| suspect.answer).map(|(_, answer)| answer)
    }

    /// The last pair got this status: has each suspect judged. Returns the answer that the application gets instead: the first suspect's
    /// own, where it is not on trial, unless the last one fares better; and where the last one is a refusal alone. `compared_with`: the
    /// last pair and its node, if known.
    pub fn conclude(
        self,
        status: u16,
        compared_with: Option<ShownPair>,
        refusals: &[u16],
        mut judge: impl FnMut(SuspectFinding<'_, A>) -> AnswerJudgement,
    ) -> Option<A> {
        let mut kept = None;
        for (index, suspect) in self.suspects.into_iter().enumerate() {
            let Some((facts, answer)) = suspect.answer else {
                judge(SuspectFinding::Silence(suspect.shown, ProofFact::Silence { compared: true }));
                continue;
            };
            let compared = AnswerFacts { compared: Some(status), compared_with, ..facts };
            let judgement = judge(SuspectFinding::Answer(compared, &answer));
            let is_on_trial = matches!(facts.how, SelectionRole::Canary | SelectionRole::Everyone);
            let fares_worse = matches!(judgement, AnswerJudgement::Refuses | AnswerJudgement::Doubts);
            let gets_further = refusals.contains(&status) && !refusals.contains(&facts.status) && facts.status < 500;
            if index == 0 && !fares_worse && (!is_on_trial || gets_further) {
                kept = Some(answer);
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::RequestClass;
    use super::super::shape::UncertifiedAnswer;
    use super::*;

    const SILENCE: ProofFact = ProofFact::Silence { compared: true };

    fn shown(pair: u8, node: u8) -> ShownPair {
        (Fingerprint::from_bytes([pair; 32]), UpstreamNode::from_address(Some([192, 0, 2, node].into())))
    }

    fn answer_facts(pair: u8, status: u16, how: SelectionRole) -> AnswerFacts {
        let (key_pair, node) = shown(pair, 1);
        AnswerFacts {
            key_pair,
            how,
            node,
            class: RequestClass::new("GET", "/"),
            status,
            public: UncertifiedAnswer::Unknown,
            repeatable: true,
            compared: None,
            compared_with: None,
        }
    }

    #[test]
    fn a_request_that_got_no_answer_goes_on_by_how_it_ended_its_method_and_the_pairs_before() {
        use AttemptEnd::{Alert, Handshake, Unanswered, Unrelated, Unsent};
        let dropped = Some(ReplayCause::Dropped);
        let (canary, settled) = (SelectionRole::Canary, SelectionRole::Settled);
        // The end, its role, whether it may be processed twice, whether there are several pairs; after none, and after two.
        for (end, how, idempotent, has_other, first, third) in [
            (Alert, settled, false, false, Some(ReplayCause::Alert), Some(ReplayCause::Alert)),
            (Unsent, settled, false, true, dropped, None),
            (Unsent, settled, true, false, None, None),
            (Unanswered, settled, true, true, dropped, None),
            (Unanswered, settled, false, true, None, None),
            (Unanswered, canary, true, false, None, None),
            (Handshake, canary, true, true, dropped, dropped),
            (Handshake, settled, true, true, None, None),
            (Handshake, canary, false, true, None, None),
            (Unrelated, canary, true, true, None, None),
        ] {
            let mut course = RequestCourse::<()>::new(idempotent);
            assert_eq!(course.find_replay_cause(end, how, has_other), first, "{end:?} {how:?} {idempotent}");
            course.keep_end(ReplayCause::Alert, shown(1, 1));
            for pair in 1..4 {
                course.keep_end(ReplayCause::Dropped, shown(pair, 1));
            }
            assert_eq!(course.suspects.len(), MAX_SILENT_ENDS);
            assert_eq!(course.find_replay_cause(end, how, has_other), third, "{end:?} {how:?} {idempotent}");
        }
    }

    #[test]
    fn an_answer_is_compared_once_and_then_only_refusals_go_on() {
        let mut course = RequestCourse::new(true);
        assert!(course.may_compare(true) && !course.may_compare(false));
        assert!(!RequestCourse::<()>::new(false).may_compare(true));
        assert!(course.continues_after(AnswerJudgement::Compare, false, true));
        assert!(!course.continues_after(AnswerJudgement::Refuses, true, true));
        course.keep_answer(answer_facts(1, 404, SelectionRole::Canary), ());
        assert!(!course.may_compare(true));
        assert!(course.continues_after(AnswerJudgement::Nothing, true, true));
        assert!(!course.continues_after(AnswerJudgement::Compare, false, true), "only a refusal goes on");
        assert!(!course.continues_after(AnswerJudgement::Nothing, true, false), "its body is gone");
        course.keep_end(ReplayCause::Dropped, shown(2, 1));
        assert!(!course.continues_after(AnswerJudgement::Nothing, true, true), "after an end");
    }

    #[test]
    fn the_application_gets_the_first_answer_unless_the_last_one_fares_better() {
        use AnswerJudgement::{Nothing, Refuses};
        let (canary, settled) = (SelectionRole::Canary, SelectionRole::Settled);
        for (first, how, judgement, last, expected) in [
            (404, settled, Nothing, 404, Some(404)),
            (403, settled, Refuses, 200, None),
            (404, canary, Nothing, 404, None),
            (404, canary, Nothing, 403, Some(404)),
            (403, canary, Nothing, 403, None),
            (503, canary, Nothing, 403, None),
        ] {
            let mut course = RequestCourse::new(true);
            course.keep_answer(answer_facts(1, first, how), first);
            course.keep_end(ReplayCause::Dropped, shown(2, 1));
            let mut found = Vec::new();
            let kept = course.conclude(last, Some(shown(3, 1)), &[403], |finding| match finding {
                SuspectFinding::Silence(whose, fact) => {
                    found.push((whose, fact));
                    Nothing
                }
                SuspectFinding::Answer(facts, answer) => {
                    assert_eq!((facts.compared, facts.compared_with, *answer), (Some(last), Some(shown(3, 1)), first));
                    judgement
                }
            });
            assert_eq!((kept, found.as_slice()), (expected, [(shown(2, 1), SILENCE)].as_slice()), "{first} {last}");
        }
    }

    #[test]
    fn an_end_at_another_node_withdraws_what_the_first_pair_had_and_the_last_one_is_doubted_where_it_is_relied_on() {
        let mut course = RequestCourse::<()>::new(true);
        course.keep_end(ReplayCause::Dropped, shown(1, 1));
        let told =
            |end, node, relied_on| -> Vec<_> { course.silences_at_end(end, shown(2, node), relied_on).collect() };
        let last = |node| (shown(2, node), ProofFact::Silence { compared: false });
        assert_eq!(told(AttemptEnd::Unanswered, 2, true), [(shown(1, 1), SILENCE), last(2)]);
        assert_eq!(told(AttemptEnd::Unanswered, 1, true), [last(1)]);
        assert_eq!(told(AttemptEnd::Unanswered, 1, false), []);
        assert_eq!(told(AttemptEnd::Handshake, 2, true), []);
        assert_eq!(course.into_best_answer(), None);
    }
}
