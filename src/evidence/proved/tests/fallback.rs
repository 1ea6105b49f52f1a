//! What must hold of the pair that serves while the preferred one is not proved: it may be refused as well.

use super::*;

const FALLBACK: SelectionRole = SelectionRole::Fallback(None);

/// The new pair 3 has replaced 2, which was alone before; 1 is older than both, and proved.
fn three_pairs() -> (UpstreamProofs, SelectionOrder) {
    let mut proved = UpstreamProofs::default();
    let terms = terms(&ProbeMode::Off);
    proved.update_pairs(&[pair(1)], terms, time_at(-200));
    proved.update_pairs(&[pair(2)], terms, time_at(-100));
    proved.update_pairs(&[pair(3), pair(2), pair(1)], terms, time_at(0));
    (proved, SelectionOrder { pairs: vec![pair(3), pair(2), pair(1)], needs_proof: true })
}

fn refused(key_pair: u8, compared: Option<u16>) -> AnswerFacts {
    AnswerFacts { compared, ..answer_with(key_pair, 403, FALLBACK) }
}

#[test]
fn a_once_proved_fallback_that_is_refused_by_a_status_is_compared_and_gives_way_to_the_third_pair() {
    let (mut proved, order) = three_pairs();
    record(&mut proved, 3, ProofFact::Alert, 0);
    assert_eq!(select(&mut proved, &order, false, 1).key_pair, pair(2));
    assert_eq!(judge(&mut proved, &order, refused(2, None), 1), (AnswerJudgement::Compare, None));
    assert_eq!(proved.next(&order, &[pair(2)], time_at(1)), Some(pair(1)));
    let judged = judge(&mut proved, &order, refused(2, Some(200)), 1);
    assert_eq!(judged, (AnswerJudgement::Refuses, Some(UpstreamVerdict::Refused)));
    assert_eq!(select(&mut proved, &order, false, 2).key_pair, pair(1));
}

#[test]
fn a_fallback_is_compared_once_a_minute_and_only_by_requests_that_may_be_sent_again() {
    let (mut proved, order) = three_pairs();
    let once = AnswerFacts { repeatable: false, ..refused(2, None) };
    assert_eq!(judge(&mut proved, &order, once, 1), (AnswerJudgement::Nothing, None));
    assert_eq!(judge(&mut proved, &order, refused(2, None), 1).0, AnswerJudgement::Compare);
    assert_eq!(
        judge(&mut proved, &order, refused(2, Some(403)), 1),
        (AnswerJudgement::Nothing, None),
        "its own answer"
    );
    assert_eq!(judge(&mut proved, &order, refused(2, Some(400)), 1), (AnswerJudgement::Nothing, None), "no better");
    assert_eq!(judge(&mut proved, &order, refused(2, None), 60).0, AnswerJudgement::Nothing);
    assert_eq!(judge(&mut proved, &order, refused(2, None), 61).0, AnswerJudgement::Compare);
    let missing = AnswerFacts { status: 404, ..refused(2, None) };
    assert_ne!(judge(&mut proved, &order, missing, 200).0, AnswerJudgement::Compare);
}

#[test]
fn a_fallback_that_is_refused_is_compared_with_the_preferred_pair_even_where_that_one_rests() {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    record(&mut proved, 2, ProofFact::Alert, 0);
    assert_eq!(judge(&mut proved, &order, refused(1, None), 29).0, AnswerJudgement::Compare);
    assert_eq!(proved.next(&order, &[pair(1)], time_at(29)), Some(pair(2)));
    assert_eq!(prove(&mut proved, &order, 29).map(|change| change.verdict), Some(UpstreamVerdict::Proved));
    let judged = judge(&mut proved, &order, refused(1, Some(200)), 29);
    assert_eq!(judged, (AnswerJudgement::Refuses, Some(UpstreamVerdict::Refused)));
    assert_eq!(select(&mut proved, &order, false, 32), selection(2, SelectionRole::Settled));
    // The upstream goes back: the pair that it refused before serves again.
    assert_eq!(judge(&mut proved, &order, refused(2, None), 40).0, AnswerJudgement::Compare);
    let judged = judge(&mut proved, &order, refused(2, Some(200)), 40);
    assert_eq!(judged, (AnswerJudgement::Refuses, Some(UpstreamVerdict::Refused)));
}

#[test]
fn a_fallback_that_ends_in_silence_gives_way_too() {
    let (mut proved, order) = three_pairs();
    proved.judge(&order, &answer_with(1, 200, FALLBACK), terms(&ProbeMode::Off), time_at(1));
    record(&mut proved, 3, ProofFact::Alert, 1);
    assert_eq!(select(&mut proved, &order, false, 2).key_pair, pair(2));
    record(&mut proved, 2, ProofFact::Silence { compared: true }, 2);
    assert_eq!(select(&mut proved, &order, false, 3).key_pair, pair(1));
}

#[test]
fn a_fallback_that_a_renewed_node_accepts_is_no_longer_refused_by_the_former_one() {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    record(&mut proved, 1, ProofFact::Alert, 0);
    assert_eq!(proved.verdict(pair(1)), Some(UpstreamVerdict::Refused));
    let renewed = UpstreamNode { certificate: pair(200), ..node(1) };
    judge(&mut proved, &order, AnswerFacts { node: renewed, ..answer_with(1, 200, FALLBACK) }, 1);
    assert_eq!(proved.verdict(pair(1)), Some(UpstreamVerdict::Proved));
    // Of the preferred pair only connections that were made to reach it say so.
    record(&mut proved, 2, ProofFact::Alert, 1);
    judge(&mut proved, &order, AnswerFacts { node: renewed, ..answer_with(2, 200, FALLBACK) }, 40);
    assert_eq!(proved.verdict(pair(2)), Some(UpstreamVerdict::Refused));
}
