//! What must hold of one upstream's verdicts: trials, pauses, several nodes, comparisons with the previous pair.

mod doubts;
mod fallback;
mod nodes;
mod steps;

use proptest::prelude::*;

use super::*;
use crate::keyring::{CandidateList, KeyPairCandidate, KeyPairSelection, PeerRequirements, SelectionReason, Standing};
use crate::pki::Validity;

const HOUR: i64 = 3600;

fn pair(n: u8) -> Fingerprint {
    Fingerprint::from_bytes([n; 32])
}

fn time_at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn terms(probe: &ProbeMode) -> ProofPolicy<'_> {
    ProofPolicy { probe, prove_within: Duration::from_hours(1), refusals: &[400, 401, 403, 495, 496] }
}

/// The upstream's nodes.
fn node(n: u8) -> UpstreamNode {
    UpstreamNode { address: [127, 0, 0, n].into(), certificate: pair(n ^ 0x80) }
}

/// An answer to a GET from node 1.
fn answer_with(key_pair: u8, status: u16, how: SelectionRole) -> AnswerFacts {
    AnswerFacts {
        key_pair: pair(key_pair),
        how,
        node: node(1),
        class: RequestClass::new("GET", "/orders"),
        status,
        public: UncertifiedAnswer::Unknown,
        repeatable: true,
        compared: None,
        compared_with: None,
    }
}

fn judge(
    proved: &mut UpstreamProofs,
    order: &SelectionOrder,
    got: AnswerFacts,
    now: i64,
) -> (AnswerJudgement, Option<UpstreamVerdict>) {
    let (judgement, change) = proved.judge(order, &got, terms(&ProbeMode::Off), time_at(now));
    (judgement, change.map(|change| change.verdict))
}

/// Pair 2 is answered with a 200 at node 1.
fn prove(proved: &mut UpstreamProofs, order: &SelectionOrder, now: i64) -> Option<VerdictChange> {
    proved.judge(order, &answer_with(2, 200, SelectionRole::Canary), terms(&ProbeMode::Off), time_at(now)).1
}

fn record(proved: &mut UpstreamProofs, key_pair: u8, fact: ProofFact, now: i64) -> Option<VerdictChange> {
    proved.record(pair(key_pair), (fact, node(1)), terms(&ProbeMode::Off), time_at(now))
}

/// The new pair 2 has replaced 1, which was alone before.
fn rotated_proofs(probe: &ProbeMode) -> (UpstreamProofs, SelectionOrder) {
    let mut proved = UpstreamProofs::default();
    proved.update_pairs(&[pair(1)], terms(probe), time_at(-100));
    proved.update_pairs(&[pair(2), pair(1)], terms(probe), time_at(0));
    (proved, SelectionOrder { pairs: vec![pair(2), pair(1)], needs_proof: true })
}

fn select(proved: &mut UpstreamProofs, order: &SelectionOrder, harmless: bool, now: i64) -> RequestSelection {
    proved.select(order, harmless, terms(&ProbeMode::Off), time_at(now)).0
}

fn selection(key_pair: u8, how: SelectionRole) -> RequestSelection {
    RequestSelection { how, ..RequestSelection::settled(pair(key_pair)) }
}

#[test]
fn an_only_pair_needs_no_proof_and_stays_trusted_after_its_rotation() {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    let only = SelectionOrder { pairs: vec![pair(1)], needs_proof: false };
    assert_eq!(select(&mut proved, &only, false, 0), selection(1, SelectionRole::Settled));
    assert_eq!(proved.verdict(pair(1)), Some(UpstreamVerdict::Proved));
    // Rolled back: the pair that is current again has proved itself before.
    let back = SelectionOrder { pairs: vec![pair(1), pair(2)], needs_proof: true };
    assert_eq!(select(&mut proved, &back, false, 0), selection(1, SelectionRole::Settled));
    assert_eq!(select(&mut proved, &order, false, 0).key_pair, pair(1));
}

#[test]
fn one_harmless_request_at_a_time_tries_the_new_pair() {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    assert!(matches!(select(&mut proved, &order, false, 0).how, SelectionRole::Fallback(_)));
    assert_eq!(select(&mut proved, &order, true, 0), selection(2, SelectionRole::Canary));
    assert_eq!(select(&mut proved, &order, true, 0).key_pair, pair(1));
    assert_eq!(proved.claim_canary(pair(2)), None);
    proved.release_canary();
    assert_eq!(select(&mut proved, &order, true, 0), selection(2, SelectionRole::Canary));
    let change = prove(&mut proved, &order, 1);
    assert_eq!(change, Some(VerdictChange { verdict: UpstreamVerdict::Proved, next_try: None }));
    assert_eq!(select(&mut proved, &order, false, 1), selection(2, SelectionRole::Settled));
}

#[test]
fn traffic_waits_for_the_probe() {
    let probe = ProbeMode::Handshake;
    let (mut proved, order) = rotated_proofs(&probe);
    assert_eq!(proved.probe_due(&order, time_at(0)), Some(pair(2)));
    let waits = proved.select(&order, true, terms(&probe), time_at(0)).0;
    assert_eq!(waits, selection(1, SelectionRole::Fallback(None)));
    record(&mut proved, 2, ProofFact::Handshake, 0);
    proved.finish_probe(pair(2), terms(&probe), time_at(0));
    assert_eq!(proved.probe_due(&order, time_at(HOUR)), None);
    assert_eq!(proved.select(&order, true, terms(&probe), time_at(0)).0.how, SelectionRole::Canary);
}

#[test]
fn a_probe_that_can_prove_is_made_again_with_growing_pauses() {
    let probe = ProbeMode::Head("/".to_owned());
    let (mut proved, order) = rotated_proofs(&probe);
    let mut now = 0;
    for wait in [30, 60, 120, 240] {
        assert_eq!(proved.probe_due(&order, time_at(now)), Some(pair(2)));
        proved.finish_probe(pair(2), terms(&probe), time_at(now));
        assert_eq!(proved.probe_due(&order, time_at(now + wait - 1)), None);
        now += wait;
    }
    prove(&mut proved, &order, now);
    assert_eq!(proved.probe_due(&order, time_at(now + 10 * HOUR)), None);
}

#[test]
fn a_refused_pair_rests_longer_each_time_and_others_go_on() {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    let mut now = 0;
    for rest in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600] {
        assert_eq!(select(&mut proved, &order, true, now).how, SelectionRole::Canary);
        let change = record(&mut proved, 2, ProofFact::Alert, now).unwrap();
        assert_eq!(change, VerdictChange { verdict: UpstreamVerdict::Refused, next_try: Some(time_at(now + rest)) });
        // Concurrent requests are refused too: that is the same refusal.
        assert_eq!(record(&mut proved, 2, ProofFact::Alert, now), None);
        proved.release_canary();
        assert_eq!(
            select(&mut proved, &order, true, now + rest - 1),
            selection(1, SelectionRole::Fallback(Some(time_at(now + rest))))
        );
        now += rest;
    }
}

#[test]
fn after_prove_within_all_requests_try_until_the_first_refusal() {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    record(&mut proved, 2, ProofFact::Handshake, 0);
    assert_eq!(select(&mut proved, &order, false, HOUR - 1).key_pair, pair(1));
    let (everyone, news) = proved.select(&order, false, terms(&ProbeMode::Off), time_at(HOUR));
    assert_eq!(everyone, selection(2, SelectionRole::Everyone));
    assert_eq!(news, Some(VerdictChange { verdict: UpstreamVerdict::HandshakeOk, next_try: None }));
    assert_eq!(proved.select(&order, false, terms(&ProbeMode::Off), time_at(HOUR)).1, None);
    let refused = AnswerFacts { repeatable: false, ..answer_with(2, 403, SelectionRole::Everyone) };
    assert_eq!(judge(&mut proved, &order, refused, HOUR), (AnswerJudgement::Refuses, Some(UpstreamVerdict::Refused)));
    assert_eq!(select(&mut proved, &order, false, HOUR + 30 + HOUR - 1).key_pair, pair(1));
    assert_eq!(select(&mut proved, &order, false, HOUR + 30 + HOUR), selection(2, SelectionRole::Everyone));
}

#[test]
fn a_handshake_is_news_after_an_alert_and_none_after_a_status() {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    let refused = AnswerFacts { compared: Some(200), ..answer_with(2, 403, SelectionRole::Canary) };
    assert_eq!(judge(&mut proved, &order, refused, 0), (AnswerJudgement::Refuses, Some(UpstreamVerdict::Refused)));
    assert_eq!(record(&mut proved, 2, ProofFact::Handshake, 100), None);
    record(&mut proved, 2, ProofFact::Alert, 100);
    let change = record(&mut proved, 2, ProofFact::Handshake, 1000).unwrap();
    assert_eq!(change.verdict, UpstreamVerdict::HandshakeOk);
    assert_eq!(record(&mut proved, 9, ProofFact::Alert, 0), None);
}

#[test]
fn a_refused_previous_pair_leaves_the_preferred_one_to_all() {
    let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
    record(&mut proved, 1, ProofFact::Alert, 0);
    assert_eq!(select(&mut proved, &order, false, 0), selection(2, SelectionRole::Settled));
    assert_eq!(proved.next(&order, &[pair(2)], time_at(0)), Some(pair(1)));
    assert_eq!(proved.next(&order, &[pair(2), pair(1)], time_at(0)), None);
}

// ---- the order

fn candidate(n: u8, standing: Standing, issuer: &str) -> KeyPairCandidate {
    KeyPairCandidate {
        standing,
        validity: Validity { not_before: time_at(-HOUR), not_after: time_at(HOUR) },
        schemes: vec![0x0403],
        issuers: vec![issuer.as_bytes().to_vec()],
        ..KeyPairCandidate::sample("out", pair(n))
    }
}

#[test]
fn the_order_is_the_choice_then_what_the_upstream_names_then_the_rest() {
    let candidates = CandidateList(vec![
        candidate(3, Standing::Current, "new"),
        candidate(2, Standing::Previous, "old"),
        candidate(1, Standing::Previous, "new"),
    ]);
    let choice = KeyPairSelection { index: 0, chosen_by: SelectionReason::Prefer };
    let of = |names: &[&str]| {
        let authorities = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        selection_order(
            &candidates,
            &PeerRequirements { authorities, ..PeerRequirements::default() },
            choice,
            time_at(0),
        )
    };
    assert_eq!(of(&[]), (vec![0, 1, 2], true));
    assert_eq!(of(&["new"]), (vec![0, 2, 1], true));
    assert_eq!(of(&["new", "old"]), (vec![0, 1, 2], true));
    let rsa = PeerRequirements { schemes: vec![0x0804], ..PeerRequirements::default() };
    assert_eq!(selection_order(&candidates, &rsa, choice, time_at(0)).0, [0]);
    // Named alone: no other would serve as well, but it is there for a replay.
    let two = CandidateList(candidates.0[..2].to_vec());
    let asked = PeerRequirements { authorities: vec![b"new".to_vec()], ..PeerRequirements::default() };
    assert_eq!(selection_order(&two, &asked, choice, time_at(0)), (vec![0, 1], false));
    assert_eq!(selection_order(&two, &asked, KeyPairSelection { index: 1, ..choice }, time_at(0)), (vec![1, 0], false));
    assert_eq!(selection_order(&two, &PeerRequirements::default(), choice, time_at(2 * HOUR)).0, [0]);
}

// ---- whatever happens

#[derive(Clone, Debug)]
enum ProofStep {
    Pass(i64),
    Ask(bool),
    Note(u8, ProofFact),
    Answer(u8, u16, Option<u16>, u8),
    Release,
    Probe,
    Epoch(Vec<u8>),
}

fn any_step() -> impl Strategy<Value = ProofStep> {
    let shown = prop_oneof![
        Just(ProofFact::Handshake),
        Just(ProofFact::Alert),
        any::<bool>().prop_map(|compared| ProofFact::Silence { compared })
    ];
    prop_oneof![
        (0i64..7200).prop_map(ProofStep::Pass),
        any::<bool>().prop_map(ProofStep::Ask),
        (0u8..4, shown).prop_map(|(pair, shown)| ProofStep::Note(pair, shown)),
        (0u8..4, any_status(), proptest::option::of(any_status()), 1u8..4)
            .prop_map(|(pair, status, compared, node)| ProofStep::Answer(pair, status, compared, node)),
        Just(ProofStep::Release),
        Just(ProofStep::Probe),
        proptest::sample::subsequence(vec![0u8, 1, 2, 3], 1..4).prop_map(ProofStep::Epoch),
    ]
}

fn any_status() -> impl Strategy<Value = u16> {
    proptest::sample::select(vec![200, 302, 401, 403, 404, 503])
}

proptest! {
    #[test]
    fn whatever_happens_the_rules_of_the_canary_hold(
        steps in proptest::collection::vec(any_step(), 1..60), path: bool, probes: bool,
    ) {
        let probe = match (probes, path) {
            (false, _) => ProbeMode::Off,
            (true, false) => ProbeMode::Handshake,
            (true, true) => ProbeMode::Head("/".to_owned()),
        };
        let terms = terms(&probe);
        let (mut proved, mut now, mut canaries) = (UpstreamProofs::default(), 0, 0);
        let mut order = SelectionOrder { pairs: vec![pair(0), pair(1)], needs_proof: true };
        proved.update_pairs(&order.pairs, terms, time_at(now));
        for step in steps {
            match step {
                ProofStep::Pass(seconds) => now += seconds,
                ProofStep::Ask(harmless) => {
                    let (pick, _) = proved.select(&order, harmless, terms, time_at(now));
                    prop_assert!(order.pairs.contains(&pick.key_pair));
                    let verdict = proved.verdict(pick.key_pair);
                    let better = order.pairs.iter().any(|other| {
                        *other != pick.key_pair && proved.verdict(*other) != Some(UpstreamVerdict::Refused)
                    });
                    match pick.how {
                        SelectionRole::Canary => {
                            canaries += 1;
                            prop_assert!(harmless && canaries == 1, "two canaries");
                            prop_assert_eq!(pick.key_pair, order.pairs[0]);
                        }
                        SelectionRole::Settled => {
                            prop_assert!(verdict == Some(UpstreamVerdict::Proved) || !better || !order.needs_proof);
                            prop_assert!(verdict != Some(UpstreamVerdict::Refused) || !better, "a refused pair is shown");
                        }
                        SelectionRole::Everyone => prop_assert!(now >= HOUR && verdict != Some(UpstreamVerdict::Proved)),
                        SelectionRole::Fallback(_) => {
                            prop_assert!(pick.key_pair != order.pairs[0]);
                            prop_assert!(verdict != Some(UpstreamVerdict::Refused), "the fallback is refused");
                        }
                    }
                }
                ProofStep::Note(n, shown) => {
                    let before = proved.verdict(pair(n));
                    let change = proved.record(pair(n), (shown, node(1)), terms, time_at(now));
                    let after = proved.verdict(pair(n));
                    prop_assert!(after != Some(UpstreamVerdict::Proved) || before == after, "proved without an answer");
                    if let Some(VerdictChange { verdict: UpstreamVerdict::Refused, next_try }) = change {
                        let rest = next_try.unwrap().as_second() - time_at(now).as_second();
                        prop_assert!((30..=HOUR).contains(&rest), "{}", rest);
                    }
                    // The same again changes nothing.
                    if !matches!(shown, ProofFact::Silence { .. }) {
                        prop_assert_eq!(proved.record(pair(n), (shown, node(1)), terms, time_at(now)), None);
                    }
                }
                ProofStep::Answer(n, status, compared, at) => {
                    let before = proved.verdict(pair(n));
                    let got = AnswerFacts { compared, node: node(at), ..answer_with(n, status, SelectionRole::Canary) };
                    let (judgement, change) = proved.judge(&order, &got, terms, time_at(now));
                    let after = proved.verdict(pair(n));
                    if after == Some(UpstreamVerdict::Proved) && before != after {
                        prop_assert_eq!(judgement, AnswerJudgement::Proves);
                        let is_old = pair(n) != order.pairs[0];
                        prop_assert!(change.is_some() || is_old || proved.get(pair(n)).is_some_and(|pair| pair.trusted));
                    }
                    prop_assert!(!matches!(status, 401 | 403 | 503) || judgement != AnswerJudgement::Proves);
                }
                ProofStep::Release => {
                    proved.release_canary();
                    canaries = 0;
                }
                ProofStep::Probe => {
                    if let Some(key_pair) = proved.probe_due(&order, time_at(now)) {
                        prop_assert_eq!(key_pair, order.pairs[0]);
                        prop_assert!(proved.verdict(key_pair) != Some(UpstreamVerdict::Proved));
                        proved.finish_probe(key_pair, terms, time_at(now));
                        prop_assert_eq!(proved.probe_due(&order, time_at(now)), None, "probed for ever");
                    }
                }
                ProofStep::Epoch(pairs) => {
                    order.pairs = pairs.into_iter().map(pair).collect();
                    proved.update_pairs(&order.pairs, terms, time_at(now));
                    prop_assert!(order.pairs.len() > 1 || proved.verdict(order.pairs[0]) == Some(UpstreamVerdict::Proved));
                }
            }
        }
    }
}
