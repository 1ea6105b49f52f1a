//! What must hold where an upstream has several nodes, changes its mind, or asks for nothing.

use super::*;
use crate::evidence::proved::nodes::MAX_NODES;

const CANARY: SelectionRole = SelectionRole::Canary;
const SETTLED: SelectionRole = SelectionRole::Settled;

fn connect(proved: &mut UpstreamProofs, at: u8, change: impl FnOnce(&mut ConnectionSeen)) -> Option<UpstreamVerdict> {
    let mut seen = ConnectionSeen { node: node(at), asked: Some(true), excludes_current: false, sought: None };
    change(&mut seen);
    let change = proved.record_connection(pair(2), seen, terms(&ProbeMode::Off), time_at(10));
    change.map(|change| change.verdict)
}

/// Pair 2 is proved at node 1.
fn proved_pair() -> (UpstreamProofs, SelectionOrder) {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    connect(&mut proved, 1, |_| {});
    assert_eq!(prove(&mut proved, &order, 1).map(|change| change.verdict), Some(UpstreamVerdict::Proved));
    (proved, order)
}

#[test]
fn a_proof_at_one_node_does_not_speak_for_another() {
    let (mut proved, order) = proved_pair();
    assert_eq!(connect(&mut proved, 1, |_| {}), None);
    assert_eq!(connect(&mut proved, 2, |_| {}), Some(UpstreamVerdict::HandshakeOk));
    // Only a canary goes there, and it seeks that node.
    assert_eq!(select(&mut proved, &order, false, 10 * HOUR), selection(2, SelectionRole::Everyone));
    assert_eq!(select(&mut proved, &order, false, 11).key_pair, pair(1));
    let canary = select(&mut proved, &order, true, 11);
    assert_eq!((canary.how, canary.address), (CANARY, Some(node(2).address)));
    let there = AnswerFacts { node: node(2), ..answer_with(2, 200, CANARY) };
    assert_eq!(judge(&mut proved, &order, there, 12), (AnswerJudgement::Proves, Some(UpstreamVerdict::Proved)));
}

#[test]
fn another_certificate_at_the_same_address_withdraws_the_proof() {
    let (mut proved, order) = proved_pair();
    let renewed = UpstreamNode { certificate: pair(200), ..node(1) };
    assert_eq!(connect(&mut proved, 1, |seen| seen.node = renewed), Some(UpstreamVerdict::HandshakeOk));
    let there = AnswerFacts { node: renewed, ..answer_with(2, 204, CANARY) };
    assert_eq!(judge(&mut proved, &order, there, 12), (AnswerJudgement::Proves, Some(UpstreamVerdict::Proved)));
}

#[test]
fn a_node_that_refuses_decides_for_all_until_it_is_gone() {
    let (mut proved, order) = proved_pair();
    connect(&mut proved, 2, |_| {});
    let there = AnswerFacts { node: node(2), compared: Some(200), ..answer_with(2, 403, CANARY) };
    assert_eq!(judge(&mut proved, &order, there, 12), (AnswerJudgement::Refuses, Some(UpstreamVerdict::Refused)));
    // The other one's answers change nothing.
    assert_eq!(judge(&mut proved, &order, answer_with(2, 200, CANARY), 13).1, None);
    assert_eq!(proved.verdict(pair(2)), Some(UpstreamVerdict::Refused));
    // Connections that were made to reach another one do not count.
    for _ in 0..10 {
        assert_eq!(connect(&mut proved, 1, |seen| seen.sought = Some(node(3).address)), None);
    }
    for _ in 0..7 {
        assert_eq!(connect(&mut proved, 1, |seen| seen.sought = Some(node(2).address)), None);
    }
    assert_eq!(connect(&mut proved, 1, |seen| seen.sought = Some(node(2).address)), Some(UpstreamVerdict::Proved));
    // It comes back.
    assert_eq!(connect(&mut proved, 2, |_| {}), Some(UpstreamVerdict::HandshakeOk));
}

#[test]
fn authorities_that_exclude_the_pair_refuse_it_until_they_no_longer_do() {
    let (mut proved, order) = proved_pair();
    assert_eq!(connect(&mut proved, 1, |seen| seen.excludes_current = true), Some(UpstreamVerdict::Refused));
    assert_eq!(connect(&mut proved, 1, |seen| seen.excludes_current = true), None);
    assert_eq!(select(&mut proved, &order, true, 11).key_pair, pair(1));
    assert_eq!(connect(&mut proved, 1, |_| {}), Some(UpstreamVerdict::HandshakeOk));
    assert_eq!(select(&mut proved, &order, true, 11).how, CANARY);
}

#[test]
fn an_upstream_that_asks_for_no_certificate_proves_nothing_and_needs_no_trial() {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    connect(&mut proved, 1, |seen| seen.asked = Some(false));
    assert_eq!(select(&mut proved, &order, false, 1), selection(2, SETTLED));
    for (status, compared) in [(200, None), (403, Some(200)), (404, Some(404))] {
        let got = AnswerFacts { compared, ..answer_with(2, status, SETTLED) };
        assert_eq!(judge(&mut proved, &order, got, 2), (AnswerJudgement::Nothing, None));
    }
    assert_eq!(proved.verdict(pair(2)), None);
    // It asks for one from now on.
    connect(&mut proved, 1, |_| {});
    assert_eq!(select(&mut proved, &order, false, 3).key_pair, pair(1));
}

#[test]
fn a_refusal_status_on_a_proved_pair_is_compared_once_a_minute_and_node() {
    let (mut proved, order) = proved_pair();
    let refused = answer_with(2, 403, SETTLED);
    assert_eq!(judge(&mut proved, &order, refused, 20), (AnswerJudgement::Compare, None));
    let other = AnswerFacts { repeatable: false, ..answer_with(1, 403, SETTLED) };
    assert_eq!(judge(&mut proved, &order, other, 20), (AnswerJudgement::Nothing, None));
    let both = AnswerFacts { compared: Some(403), repeatable: false, ..refused };
    assert_eq!(judge(&mut proved, &order, both, 20), (AnswerJudgement::Nothing, None));
    assert_eq!(judge(&mut proved, &order, refused, 79), (AnswerJudgement::Nothing, None));
    let elsewhere = AnswerFacts { node: node(2), ..refused };
    connect(&mut proved, 2, |_| {});
    let there = AnswerFacts { node: node(2), ..answer_with(2, 200, CANARY) };
    judge(&mut proved, &order, there, 79);
    assert_eq!(judge(&mut proved, &order, elsewhere, 79), (AnswerJudgement::Compare, None));
    assert_eq!(judge(&mut proved, &order, refused, 80), (AnswerJudgement::Compare, None));
    let differs = AnswerFacts { compared: Some(200), repeatable: false, ..refused };
    assert_eq!(judge(&mut proved, &order, differs, 80), (AnswerJudgement::Refuses, Some(UpstreamVerdict::Refused)));
}

#[test]
fn a_proof_by_comparison_is_compared_at_once_when_a_refusal_follows() {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    connect(&mut proved, 1, |_| {});
    let missing = answer_with(2, 404, CANARY);
    assert_eq!(judge(&mut proved, &order, missing, 20), (AnswerJudgement::Compare, None));
    let both = AnswerFacts { compared: Some(404), repeatable: false, ..missing };
    assert_eq!(judge(&mut proved, &order, both, 20), (AnswerJudgement::Proves, Some(UpstreamVerdict::Proved)));
    let refused = answer_with(2, 403, SETTLED);
    assert_eq!(judge(&mut proved, &order, refused, 21), (AnswerJudgement::Compare, None));
    let differs = AnswerFacts { compared: Some(200), repeatable: false, ..refused };
    assert_eq!(judge(&mut proved, &order, differs, 21), (AnswerJudgement::Refuses, Some(UpstreamVerdict::Refused)));
}

#[test]
fn an_answer_of_an_unknown_node_that_decides_nothing_ends_no_proof() {
    let (mut proved, order) = proved_pair();
    let moved = AnswerFacts { node: node(3), ..answer_with(2, 302, CANARY) };
    assert_eq!(judge(&mut proved, &order, moved, 20), (AnswerJudgement::Compare, None));
    assert_eq!(proved.verdict(pair(2)), Some(UpstreamVerdict::Proved));
}

#[test]
fn an_answer_that_needs_no_certificate_delays_no_canary() {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    connect(&mut proved, 1, |_| {});
    let public = AnswerFacts { public: UncertifiedAnswer::Status(200), ..answer_with(2, 200, CANARY) };
    assert_eq!(judge(&mut proved, &order, public, 20), (AnswerJudgement::Nothing, None));
    assert_eq!(select(&mut proved, &order, true, 21).how, CANARY);
}

#[test]
fn a_request_that_cannot_be_sent_again_ends_a_proof_only_where_the_previous_pair_fared_better() {
    let post =
        AnswerFacts { class: RequestClass::new("POST", "/orders"), repeatable: false, ..answer_with(2, 403, SETTLED) };
    let (mut proved, order) = proved_pair();
    assert_eq!(judge(&mut proved, &order, post, 20), (AnswerJudgement::Nothing, None));
    judge(&mut proved, &order, AnswerFacts { key_pair: pair(1), status: 201, ..post }, 20);
    assert_eq!(judge(&mut proved, &order, post, 21), (AnswerJudgement::Doubts, Some(UpstreamVerdict::HandshakeOk)));
    assert_eq!(select(&mut proved, &order, false, 22).key_pair, pair(1));
    let (mut proved, order) = proved_pair();
    for status in [201, 403] {
        judge(&mut proved, &order, AnswerFacts { key_pair: pair(1), status, ..post }, 20);
    }
    assert_eq!(judge(&mut proved, &order, post, 21), (AnswerJudgement::Nothing, None));
}

#[test]
fn a_status_that_the_previous_pair_got_for_the_same_class_proves_unless_it_refuses() {
    let post = |key_pair, status, path: &str| AnswerFacts {
        class: RequestClass::new("POST", path),
        repeatable: false,
        ..answer_with(key_pair, status, SelectionRole::Everyone)
    };
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    for status in [422, 401, 503] {
        judge(&mut proved, &order, post(1, status, "/orders/17/lines"), 0);
    }
    for (status, path) in
        [(401, "/orders/18/lines"), (503, "/orders/18/lines"), (422, "/orders"), (422, "/v2/orders/18/lines")]
    {
        assert_eq!(
            judge(&mut proved, &order, post(2, status, path), 1),
            (AnswerJudgement::Nothing, None),
            "{status} {path}"
        );
    }
    let proves = (AnswerJudgement::Proves, Some(UpstreamVerdict::Proved));
    assert_eq!(judge(&mut proved, &order, post(2, 422, "/orders/18/lines"), 1), proves);
    // Another rotation: what an earlier pair got says nothing of this overlap.
    proved.update_pairs(&[pair(3), pair(2), pair(1)], terms(&ProbeMode::Off), time_at(2));
    let order = SelectionOrder { pairs: vec![pair(3), pair(2), pair(1)], needs_proof: true };
    assert_eq!(judge(&mut proved, &order, post(3, 422, "/orders/18/lines"), 3), (AnswerJudgement::Nothing, None));
}

#[test]
fn connections_that_end_without_an_answer_withdraw_a_proof() {
    let (mut proved, order) = proved_pair();
    let silence = |compared| ProofFact::Silence { compared };
    // A POST that ended so may have brought the server down: the second one in a row counts.
    assert_eq!(record(&mut proved, 2, silence(false), 20), None);
    let change = record(&mut proved, 2, silence(false), 21).unwrap();
    assert_eq!(change.verdict, UpstreamVerdict::HandshakeOk);
    assert_eq!(select(&mut proved, &order, false, 22).key_pair, pair(1));
    assert_eq!(record(&mut proved, 2, silence(true), 23).unwrap().verdict, UpstreamVerdict::Refused);
    // The previous pair got an answer to the same request.
    let (mut proved, _) = proved_pair();
    assert_eq!(record(&mut proved, 2, silence(true), 20).unwrap().verdict, UpstreamVerdict::HandshakeOk);
}

#[test]
fn a_canary_whose_answer_says_nothing_is_followed_by_a_pause() {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    assert_eq!(select(&mut proved, &order, true, 0).how, CANARY);
    assert_eq!(judge(&mut proved, &order, answer_with(2, 401, CANARY), 0), (AnswerJudgement::Compare, None));
    let both = AnswerFacts { compared: Some(401), ..answer_with(2, 401, CANARY) };
    assert_eq!(judge(&mut proved, &order, both, 0), (AnswerJudgement::Nothing, None));
    proved.release_canary();
    assert_eq!(select(&mut proved, &order, true, 59), selection(1, SelectionRole::Fallback(Some(time_at(60)))));
    assert_eq!(select(&mut proved, &order, true, 60).how, CANARY);
}

#[test]
fn nodes_and_classes_are_bounded() {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    for n in 0..=254 {
        connect(&mut proved, n, |_| {});
        let class = |key_pair, m: u8| AnswerFacts {
            class: RequestClass::new("GET", &format!("/{}", char::from(m).to_string().repeat(usize::from(n) % 30 + 1))),
            node: node(n),
            ..answer_with(key_pair, 200, CANARY)
        };
        for m in b'a'..=b'y' {
            judge(&mut proved, &order, class(1, m), 0);
        }
        judge(&mut proved, &order, class(2, b'z'), 0);
    }
    assert_eq!(proved.get(pair(2)).unwrap().nodes.len(), MAX_NODES);
    assert_eq!(proved.history.len(), 256);
}

#[test]
fn a_new_pair_has_to_be_proved_at_every_address_that_was_reached_the_day_before() {
    let mut proved = UpstreamProofs::default();
    let terms = terms(&ProbeMode::Off);
    proved.update_pairs(&[pair(1)], terms, time_at(-2 * 24 * HOUR));
    proved.record_node(node(3), time_at(-25 * HOUR));
    proved.record_node(node(2), time_at(-HOUR));
    proved.record_node(node(1), time_at(-HOUR));
    proved.update_pairs(&[pair(2), pair(1)], terms, time_at(0));
    let order = SelectionOrder { pairs: vec![pair(2), pair(1)], needs_proof: true };
    assert_eq!(select(&mut proved, &order, true, 1).address, Some(node(2).address));
    connect(&mut proved, 1, |_| {});
    assert_eq!(prove(&mut proved, &order, 1), None, "the other one is not proved");
    connect(&mut proved, 2, |_| {});
    let there = AnswerFacts { node: node(2), ..answer_with(2, 200, CANARY) };
    assert_eq!(judge(&mut proved, &order, there, 12), (AnswerJudgement::Proves, Some(UpstreamVerdict::Proved)));
}

#[test]
fn two_silent_ends_in_a_row_end_a_proof_however_far_apart() {
    let (mut proved, order) = proved_pair();
    assert_eq!(record(&mut proved, 2, ProofFact::Silence { compared: false }, 20), None);
    judge(&mut proved, &order, answer_with(2, 200, SETTLED), 30);
    assert_eq!(record(&mut proved, 2, ProofFact::Silence { compared: false }, 40), None, "it was answered in between");
    let change = record(&mut proved, 2, ProofFact::Silence { compared: false }, 40 + 168 * HOUR);
    assert_eq!(change.map(|change| change.verdict), Some(UpstreamVerdict::HandshakeOk));
}

#[test]
fn an_upstream_that_has_dropped_the_old_pair_takes_no_proof_of_the_new_one_back_by_its_own_403() {
    let (mut proved, order) = proved_pair();
    let own = answer_with(2, 403, SETTLED);
    assert_eq!(judge(&mut proved, &order, own, 20), (AnswerJudgement::Compare, None));
    let both = AnswerFacts { compared: Some(400), repeatable: false, ..own };
    assert_eq!(judge(&mut proved, &order, both, 20), (AnswerJudgement::Nothing, None));
    assert_eq!(proved.verdict(pair(2)), Some(UpstreamVerdict::Proved));
}
