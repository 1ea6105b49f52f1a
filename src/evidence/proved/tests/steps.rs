//! Only ages count: a clock that is stepped changes nothing that comes of any order of events.

use proptest::prelude::*;

use super::*;

/// What comes of one step: the pair that is picked and how, the judgement and what it changed, the probe that is due.
type StepOutcome = (
    Option<(RequestSelection, bool)>,
    Option<(AnswerJudgement, Option<UpstreamVerdict>)>,
    Option<UpstreamVerdict>,
    Option<Fingerprint>,
);

fn act(
    (proved, order): (&mut UpstreamProofs, &mut SelectionOrder),
    step: &ProofStep,
    terms: ProofPolicy<'_>,
    now: Timestamp,
) -> StepOutcome {
    let mut outcome: StepOutcome = (None, None, None, None);
    match step {
        ProofStep::Ask(harmless) => {
            let (pick, change) = proved.select(order, *harmless, terms, now);
            // Until when it holds is told by the clock.
            let how = match pick.how {
                SelectionRole::Fallback(until) => SelectionRole::Fallback(until.map(|_| Timestamp::UNIX_EPOCH)),
                how => how,
            };
            outcome.0 = Some((RequestSelection { how, ..pick }, change.is_some()));
        }
        ProofStep::Note(n, shown) => {
            outcome.2 = proved.record(pair(*n), (*shown, node(1)), terms, now).map(|change| change.verdict);
        }
        ProofStep::Answer(n, status, compared, at) => {
            let got =
                AnswerFacts { compared: *compared, node: node(*at), ..answer_with(*n, *status, SelectionRole::Canary) };
            proved.record_node(node(*at), now);
            let (judgement, change) = proved.judge(order, &got, terms, now);
            outcome.1 = Some((judgement, change.map(|change| change.verdict)));
        }
        ProofStep::Release => proved.release_canary(),
        ProofStep::Probe => {
            outcome.3 = proved.probe_due(order, now);
            if let Some(key_pair) = outcome.3 {
                proved.finish_probe(key_pair, terms, now);
            }
        }
        ProofStep::Epoch(pairs) => {
            order.pairs = pairs.iter().copied().map(pair).collect();
            proved.update_pairs(&order.pairs, terms, now);
        }
        ProofStep::Pass(_) => {}
    }
    outcome
}

#[test]
fn a_clock_that_was_put_back_keeps_no_pair_from_its_trial() {
    for step in [-36 * 24 * HOUR, 36 * 24 * HOUR] {
        let (mut proved, order) = rotated_proofs(&ProbeMode::Off);
        record(&mut proved, 2, ProofFact::Alert, 10);
        proved.shift_times(SignedDuration::from_secs(step));
        assert_eq!(select(&mut proved, &order, true, step + 39).key_pair, pair(1), "it rests for thirty seconds");
        assert_eq!(select(&mut proved, &order, true, step + 40).how, SelectionRole::Canary);
    }
}

proptest! {
    #[test]
    fn steps_of_the_clock_change_nothing_that_an_upstream_is_shown(
        steps in proptest::collection::vec(any_step(), 1..60),
        clock_steps in proptest::collection::vec((0..60_usize, -2000..2000_i64), 1..4),
        path: bool,
        probes: bool,
    ) {
        let probe = match (probes, path) {
            (false, _) => ProbeMode::Off,
            (true, false) => ProbeMode::Handshake,
            (true, true) => ProbeMode::Head("/".to_owned()),
        };
        let terms = terms(&probe);
        let (mut steady, mut stepped) = (UpstreamProofs::default(), UpstreamProofs::default());
        let pairs = SelectionOrder { pairs: vec![pair(0), pair(1)], needs_proof: true };
        let (mut one, mut other) = (pairs.clone(), pairs);
        let (mut now, mut wall) = (0, 0);
        steady.update_pairs(&one.pairs, terms, time_at(now));
        stepped.update_pairs(&other.pairs, terms, time_at(wall));
        for (index, step) in steps.iter().enumerate() {
            for (_, hours) in clock_steps.iter().filter(|(at, _)| *at == index) {
                stepped.shift_times(SignedDuration::from_hours(*hours));
                wall += hours * HOUR;
            }
            if let ProofStep::Pass(seconds) = step {
                (now, wall) = (now + seconds, wall + seconds);
            }
            prop_assert_eq!(
                act((&mut steady, &mut one), step, terms, time_at(now)),
                act((&mut stepped, &mut other), step, terms, time_at(wall))
            );
        }
    }
}
