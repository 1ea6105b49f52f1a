//! What must hold of a refusal by a status: which answers end it, and with what an answer is compared.

use super::*;

const CANARY: SelectionRole = SelectionRole::Canary;
const SETTLED: SelectionRole = SelectionRole::Settled;

fn answer_to(path: &str, status: u16, how: SelectionRole) -> AnswerFacts {
    AnswerFacts { class: RequestClass::new("GET", path), ..answer_with(2, status, how) }
}

/// Pair 2 was proved by a public path, and refused at /orders.
fn refused_pair() -> (UpstreamProofs, SelectionOrder) {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    judge(&mut proved, &order, answer_to("/healthz", 200, CANARY), 1);
    assert_eq!(judge(&mut proved, &order, answer_to("/orders", 403, SETTLED), 2).0, AnswerJudgement::Compare);
    let differs = AnswerFacts { compared: Some(200), ..answer_to("/orders", 403, SETTLED) };
    assert_eq!(judge(&mut proved, &order, differs, 2), (AnswerJudgement::Refuses, Some(UpstreamVerdict::Refused)));
    (proved, order)
}

const PROVES: (AnswerJudgement, Option<UpstreamVerdict>) = (AnswerJudgement::Proves, Some(UpstreamVerdict::Proved));

#[test]
fn a_public_path_lifts_no_refusal_that_another_path_met() {
    let (mut proved, order) = refused_pair();
    let healthy = answer_to("/healthz", 200, CANARY);
    assert_eq!(judge(&mut proved, &order, healthy, 40), (AnswerJudgement::AskUncertified, None));
    let public = AnswerFacts { public: UncertifiedAnswer::Status(200), ..healthy };
    assert_eq!(judge(&mut proved, &order, public, 40), (AnswerJudgement::Nothing, None));
    assert_eq!(proved.verdict(pair(2)), Some(UpstreamVerdict::Refused));
    assert_eq!(select(&mut proved, &order, true, 99).key_pair, pair(1), "the next canary pauses");
    assert_eq!(judge(&mut proved, &order, answer_to("/orders", 200, CANARY), 100), PROVES);
}

#[test]
fn an_answer_that_a_caller_without_a_certificate_does_not_get_lifts_every_refusal() {
    for public in [UncertifiedAnswer::Refused, UncertifiedAnswer::Status(403), UncertifiedAnswer::Status(302)] {
        let (mut proved, order) = refused_pair();
        let answer = AnswerFacts { public, ..answer_to("/users/anna", 200, CANARY) };
        assert_eq!(judge(&mut proved, &order, answer, 40), PROVES, "{public:?}");
    }
    for public in [UncertifiedAnswer::Status(503), UncertifiedAnswer::Status(204)] {
        let (mut proved, order) = refused_pair();
        let answer = AnswerFacts { public, ..answer_to("/users/anna", 200, CANARY) };
        assert_eq!(judge(&mut proved, &order, answer, 40), (AnswerJudgement::Nothing, None), "{public:?}");
    }
}

#[test]
fn only_what_reads_is_asked_for_without_a_certificate_and_once_a_minute() {
    let (mut proved, order) = refused_pair();
    let put = AnswerFacts { class: RequestClass::new("PUT", "/users/anna"), ..answer_with(2, 200, CANARY) };
    assert_eq!(judge(&mut proved, &order, put, 40), (AnswerJudgement::Nothing, None));
    assert_eq!(select(&mut proved, &order, true, 40).how, CANARY, "the next one may tell more");
    proved.release_canary();
    let once = AnswerFacts { repeatable: false, ..answer_to("/users/anna", 200, CANARY) };
    assert_eq!(judge(&mut proved, &order, once, 40), (AnswerJudgement::Nothing, None));
    for (second, expected) in
        [(40, AnswerJudgement::AskUncertified), (99, AnswerJudgement::Nothing), (100, AnswerJudgement::AskUncertified)]
    {
        assert_eq!(judge(&mut proved, &order, answer_to("/users/anna", 200, CANARY), second).0, expected, "{second}");
    }
}

#[test]
fn every_class_that_was_refused_has_to_be_answered_again() {
    let (mut proved, order) = refused_pair();
    let other = AnswerFacts { compared: Some(200), ..answer_to("/stock", 403, CANARY) };
    assert_eq!(judge(&mut proved, &order, other, 40).0, AnswerJudgement::Refuses);
    assert_eq!(judge(&mut proved, &order, answer_to("/orders", 200, CANARY), 140).1, None);
    assert_eq!(judge(&mut proved, &order, answer_to("/stock", 200, CANARY), 200), PROVES);
}

#[test]
fn the_answer_of_a_proved_pair_is_compared_with_a_pair_that_rests() {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    prove(&mut proved, &order, 1);
    record(&mut proved, 1, ProofFact::Alert, 10);
    assert_eq!(judge(&mut proved, &order, answer_to("/orders", 403, SETTLED), 11).0, AnswerJudgement::Compare);
    assert_eq!(proved.next(&order, &[pair(2)], time_at(11)), Some(pair(1)));
    let differs = AnswerFacts { compared: Some(200), ..answer_to("/orders", 403, SETTLED) };
    assert_eq!(judge(&mut proved, &order, differs, 11), (AnswerJudgement::Refuses, Some(UpstreamVerdict::Refused)));
}

#[test]
fn each_class_of_requests_is_compared_for_itself() {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    prove(&mut proved, &order, 1);
    for (path, second, expected) in [
        ("/admin", 2, AnswerJudgement::Compare),
        ("/orders", 3, AnswerJudgement::Compare),
        ("/admin", 4, AnswerJudgement::Nothing),
        ("/admin", 62, AnswerJudgement::Compare),
    ] {
        assert_eq!(judge(&mut proved, &order, answer_to(path, 403, SETTLED), second).0, expected, "{path} {second}");
    }
}

#[test]
fn what_a_refused_pair_or_another_node_answers_proves_nothing_by_being_the_same() {
    let missing = |with: Option<(Fingerprint, UpstreamNode)>| AnswerFacts {
        compared: Some(302),
        compared_with: with,
        ..answer_to("/orders", 302, CANARY)
    };
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    assert_eq!(judge(&mut proved, &order, missing(Some((pair(1), node(2)))), 1), (AnswerJudgement::Nothing, None));
    record(&mut proved, 1, ProofFact::Alert, 2);
    assert_eq!(judge(&mut proved, &order, missing(Some((pair(1), node(1)))), 3), (AnswerJudgement::Nothing, None));
    // Nor does the status by which the previous pair was refused, to the next request of the class.
    judge(&mut proved, &order, answer_with(1, 302, SelectionRole::Fallback(None)), 4);
    let alone = AnswerFacts { repeatable: false, ..answer_to("/orders", 302, CANARY) };
    assert_eq!(judge(&mut proved, &order, alone, 5).0, AnswerJudgement::Nothing);
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    assert_eq!(judge(&mut proved, &order, missing(Some((pair(1), node(1)))), 1), PROVES);
}

#[test]
fn a_comparison_that_ended_at_another_node_is_made_again_at_once() {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    prove(&mut proved, &order, 1);
    let refused = answer_to("/orders", 403, SETTLED);
    assert_eq!(judge(&mut proved, &order, refused, 2).0, AnswerJudgement::Compare);
    let elsewhere = AnswerFacts { compared: Some(403), compared_with: Some((pair(1), node(2))), ..refused };
    assert_eq!(judge(&mut proved, &order, elsewhere, 2), (AnswerJudgement::Nothing, None));
    assert_eq!(judge(&mut proved, &order, refused, 3).0, AnswerJudgement::Compare);
    let same = AnswerFacts { compared_with: Some((pair(1), node(1))), ..elsewhere };
    judge(&mut proved, &order, same, 3);
    assert_eq!(judge(&mut proved, &order, refused, 4).0, AnswerJudgement::Nothing);
}

#[test]
fn a_comparison_seeks_the_same_node_where_several_are_known() {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    prove(&mut proved, &order, 1);
    assert_eq!(proved.comparison_address(&order, node(1)), None);
    let seen = ConnectionSeen { node: node(2), asked: Some(true), excludes_current: false, sought: None };
    proved.record_connection(pair(2), seen, terms(&ProbeMode::Off), time_at(2));
    assert_eq!(proved.comparison_address(&order, node(1)), Some(node(1).address));
}
