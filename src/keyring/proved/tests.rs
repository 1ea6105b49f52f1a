use proptest::prelude::*;

use super::super::{ChosenBy, Prefer};
use super::*;
use crate::pki::Validity;

const HOUR: i64 = 3600;

fn pair(n: u8) -> Fingerprint {
    Fingerprint::from_bytes([n; 32])
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn terms(probe: &Probe) -> Terms<'_> {
    Terms { probe, prove_within: Duration::from_hours(1) }
}

/// The new pair 2 has replaced 1, which was alone before.
fn rotated(probe: &Probe) -> (Proved, Order) {
    let mut proved = Proved::default();
    proved.take(&[pair(1)], terms(probe), at(-100));
    proved.take(&[pair(2), pair(1)], terms(probe), at(0));
    (proved, Order { pairs: vec![pair(2), pair(1)], needs_proof: true })
}

fn pick(proved: &mut Proved, order: &Order, harmless: bool, now: i64) -> Pick {
    proved.pick(order, harmless, terms(&Probe::Off), at(now)).0
}

fn shows(key_pair: u8, how: How) -> Pick {
    Pick { key_pair: pair(key_pair), how }
}

#[test]
fn an_only_pair_needs_no_proof_and_stays_trusted_after_its_rotation() {
    let (mut proved, order) = rotated(&Probe::Off);
    let only = Order { pairs: vec![pair(1)], needs_proof: false };
    assert_eq!(pick(&mut proved, &only, false, 0), shows(1, How::Settled));
    assert_eq!(proved.verdict(pair(1)), Some(Verdict::Proved));
    // Rolled back: the pair that is current again has proved itself before.
    let back = Order { pairs: vec![pair(1), pair(2)], needs_proof: true };
    assert_eq!(pick(&mut proved, &back, false, 0), shows(1, How::Settled));
    assert_eq!(pick(&mut proved, &order, false, 0).key_pair, pair(1));
}

#[test]
fn one_harmless_request_at_a_time_tries_the_new_pair() {
    let (mut proved, order) = rotated(&Probe::Off);
    assert!(matches!(pick(&mut proved, &order, false, 0).how, How::Fallback(_)));
    assert_eq!(pick(&mut proved, &order, true, 0), shows(2, How::Canary));
    assert_eq!(pick(&mut proved, &order, true, 0).key_pair, pair(1));
    assert!(!proved.claim());
    proved.release();
    assert_eq!(pick(&mut proved, &order, true, 0), shows(2, How::Canary));
    let change = proved.note(pair(2), Shown::Response, terms(&Probe::Off), at(1));
    assert_eq!(change, Some(Change { verdict: Verdict::Proved, next_try: None }));
    assert_eq!(pick(&mut proved, &order, false, 1), shows(2, How::Settled));
}

#[test]
fn traffic_waits_for_the_probe() {
    let probe = Probe::Handshake;
    let (mut proved, order) = rotated(&probe);
    assert_eq!(proved.probe_due(&order, at(0)), Some(pair(2)));
    let waits = proved.pick(&order, true, terms(&probe), at(0)).0;
    assert_eq!(waits, shows(1, How::Fallback(None)));
    proved.note(pair(2), Shown::Handshake, terms(&probe), at(0));
    proved.probed(pair(2), terms(&probe), at(0));
    assert_eq!(proved.probe_due(&order, at(HOUR)), None);
    assert_eq!(proved.pick(&order, true, terms(&probe), at(0)).0, shows(2, How::Canary));
}

#[test]
fn a_probe_that_can_prove_is_made_again_with_growing_pauses() {
    let probe = Probe::Head("/".to_owned());
    let (mut proved, order) = rotated(&probe);
    let mut now = 0;
    for wait in [30, 60, 120, 240] {
        assert_eq!(proved.probe_due(&order, at(now)), Some(pair(2)));
        proved.probed(pair(2), terms(&probe), at(now));
        assert_eq!(proved.probe_due(&order, at(now + wait - 1)), None);
        now += wait;
    }
    proved.note(pair(2), Shown::Response, terms(&probe), at(now));
    assert_eq!(proved.probe_due(&order, at(now + 10 * HOUR)), None);
}

#[test]
fn a_refused_pair_rests_longer_each_time_and_others_go_on() {
    let (mut proved, order) = rotated(&Probe::Off);
    let mut now = 0;
    for rest in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600] {
        assert_eq!(pick(&mut proved, &order, true, now), shows(2, How::Canary));
        let change = proved.note(pair(2), Shown::Alert, terms(&Probe::Off), at(now)).unwrap();
        assert_eq!(change, Change { verdict: Verdict::Refused, next_try: Some(at(now + rest)) });
        // Concurrent requests are refused too: that is the same refusal.
        assert_eq!(proved.note(pair(2), Shown::Alert, terms(&Probe::Off), at(now)), None);
        proved.release();
        assert_eq!(pick(&mut proved, &order, true, now + rest - 1), shows(1, How::Fallback(Some(at(now + rest)))));
        now += rest;
    }
}

#[test]
fn after_prove_within_everybody_tries_until_the_first_refusal() {
    let (mut proved, order) = rotated(&Probe::Off);
    proved.note(pair(2), Shown::Handshake, terms(&Probe::Off), at(0));
    assert_eq!(pick(&mut proved, &order, false, HOUR - 1).key_pair, pair(1));
    let (everyone, news) = proved.pick(&order, false, terms(&Probe::Off), at(HOUR));
    assert_eq!(everyone, shows(2, How::Everyone));
    assert_eq!(news, Some(Change { verdict: Verdict::HandshakeOk, next_try: None }));
    assert_eq!(proved.pick(&order, false, terms(&Probe::Off), at(HOUR)).1, None);
    proved.note(pair(2), Shown::Status, terms(&Probe::Off), at(HOUR));
    assert_eq!(pick(&mut proved, &order, false, HOUR + 30 + HOUR - 1).key_pair, pair(1));
    assert_eq!(pick(&mut proved, &order, false, HOUR + 30 + HOUR), shows(2, How::Everyone));
}

#[test]
fn a_handshake_is_news_after_an_alert_and_none_after_a_status() {
    let (mut proved, _) = rotated(&Probe::Off);
    proved.note(pair(2), Shown::Status, terms(&Probe::Off), at(0));
    assert_eq!(proved.note(pair(2), Shown::Handshake, terms(&Probe::Off), at(100)), None);
    proved.note(pair(2), Shown::Alert, terms(&Probe::Off), at(100));
    let change = proved.note(pair(2), Shown::Handshake, terms(&Probe::Off), at(1000)).unwrap();
    assert_eq!(change.verdict, Verdict::HandshakeOk);
    assert_eq!(proved.note(pair(9), Shown::Alert, terms(&Probe::Off), at(0)), None);
}

#[test]
fn a_refused_previous_pair_leaves_the_preferred_one_to_all() {
    let (mut proved, order) = rotated(&Probe::Off);
    proved.note(pair(1), Shown::Alert, terms(&Probe::Off), at(0));
    assert_eq!(pick(&mut proved, &order, false, 0), shows(2, How::Settled));
    assert_eq!(proved.next(&order, &[pair(2)]), Some(pair(1)));
    assert_eq!(proved.next(&order, &[pair(2), pair(1)]), None);
}

// ---- the order

fn candidate(n: u8, standing: Standing, issuer: &str) -> Candidate {
    Candidate {
        keyring: "out".into(),
        key_pair: pair(n),
        standing,
        validity: Validity { not_before: at(-HOUR), not_after: at(HOUR) },
        dns: Vec::new(),
        schemes: vec![0x0403],
        issuers: vec![issuer.as_bytes().to_vec()],
        prefer: Prefer::New,
        last_resort: false,
    }
}

#[test]
fn the_order_is_the_choice_then_what_the_upstream_names_then_the_rest() {
    let candidates = Candidates(vec![
        candidate(3, Standing::Current, "new"),
        candidate(2, Standing::Previous, "old"),
        candidate(1, Standing::Previous, "new"),
    ]);
    let choice = Choice { index: 0, chosen_by: ChosenBy::Prefer };
    let of = |names: &[&str]| {
        let authorities = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        order(&candidates, &Asked { authorities, ..Asked::default() }, choice, at(0))
    };
    assert_eq!(of(&[]), (vec![0, 1, 2], true));
    assert_eq!(of(&["new"]), (vec![0, 2, 1], true));
    assert_eq!(of(&["new", "old"]), (vec![0, 1, 2], true));
    let rsa = Asked { schemes: vec![0x0804], ..Asked::default() };
    assert_eq!(order(&candidates, &rsa, choice, at(0)).0, [0]);
    // Named alone: no other would serve as well, but it is there for a replay.
    let two = Candidates(candidates.0[..2].to_vec());
    let asked = Asked { authorities: vec![b"new".to_vec()], ..Asked::default() };
    assert_eq!(order(&two, &asked, choice, at(0)), (vec![0, 1], false));
    assert_eq!(order(&two, &asked, Choice { index: 1, ..choice }, at(0)), (vec![1, 0], false));
    assert_eq!(order(&two, &Asked::default(), choice, at(2 * HOUR)).0, [0]);
}

// ---- whatever happens

#[derive(Clone, Debug)]
enum Step {
    Pass(i64),
    Ask(bool),
    Note(u8, Shown),
    Release,
    Probe,
    Epoch(Vec<u8>),
}

fn a_step() -> impl Strategy<Value = Step> {
    let shown = prop_oneof![
        Just(Shown::Handshake),
        Just(Shown::Response),
        Just(Shown::Alert),
        Just(Shown::Status),
        Just(Shown::Dropped)
    ];
    prop_oneof![
        (0i64..7200).prop_map(Step::Pass),
        any::<bool>().prop_map(Step::Ask),
        (0u8..4, shown).prop_map(|(pair, shown)| Step::Note(pair, shown)),
        Just(Step::Release),
        Just(Step::Probe),
        proptest::sample::subsequence(vec![0u8, 1, 2, 3], 1..4).prop_map(Step::Epoch),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_rules_of_the_canary_hold(
        steps in proptest::collection::vec(a_step(), 1..60), path: bool, probes: bool,
    ) {
        let probe = match (probes, path) {
            (false, _) => Probe::Off,
            (true, false) => Probe::Handshake,
            (true, true) => Probe::Head("/".to_owned()),
        };
        let terms = terms(&probe);
        let (mut proved, mut now, mut canaries) = (Proved::default(), 0, 0);
        let mut order = Order { pairs: vec![pair(0), pair(1)], needs_proof: true };
        proved.take(&order.pairs, terms, at(now));
        for step in steps {
            match step {
                Step::Pass(seconds) => now += seconds,
                Step::Ask(harmless) => {
                    let (pick, _) = proved.pick(&order, harmless, terms, at(now));
                    prop_assert!(order.pairs.contains(&pick.key_pair));
                    let verdict = proved.verdict(pick.key_pair);
                    let better = order.pairs.iter().any(|other| {
                        *other != pick.key_pair && proved.verdict(*other) != Some(Verdict::Refused)
                    });
                    match pick.how {
                        How::Canary => {
                            canaries += 1;
                            prop_assert!(harmless && canaries == 1, "two canaries");
                            prop_assert_eq!(pick.key_pair, order.pairs[0]);
                        }
                        How::Settled => {
                            prop_assert!(verdict == Some(Verdict::Proved) || !better || !order.needs_proof);
                            prop_assert!(verdict != Some(Verdict::Refused) || !better, "a refused pair is shown");
                        }
                        How::Everyone => prop_assert!(now >= HOUR && verdict != Some(Verdict::Proved)),
                        How::Fallback(_) => {
                            prop_assert!(pick.key_pair != order.pairs[0]);
                            prop_assert!(verdict != Some(Verdict::Refused), "the fallback is refused");
                        }
                    }
                }
                Step::Note(n, shown) => {
                    let before = proved.verdict(pair(n));
                    let change = proved.note(pair(n), shown, terms, at(now));
                    let after = proved.verdict(pair(n));
                    prop_assert_eq!(change.is_some() && before != after, before != after);
                    if after == Some(Verdict::Proved) && before != after {
                        prop_assert_eq!(shown, Shown::Response);
                    }
                    if let Some(Change { verdict: Verdict::Refused, next_try }) = change {
                        let rest = next_try.unwrap().as_second() - at(now).as_second();
                        prop_assert!((30..=HOUR).contains(&rest), "{}", rest);
                    }
                    // The same again changes nothing.
                    prop_assert_eq!(proved.note(pair(n), shown, terms, at(now)), None);
                }
                Step::Release => {
                    proved.release();
                    canaries = 0;
                }
                Step::Probe => {
                    if let Some(key_pair) = proved.probe_due(&order, at(now)) {
                        prop_assert_eq!(key_pair, order.pairs[0]);
                        prop_assert!(proved.verdict(key_pair) != Some(Verdict::Proved));
                        proved.probed(key_pair, terms, at(now));
                        prop_assert_eq!(proved.probe_due(&order, at(now)), None, "probed for ever");
                    }
                }
                Step::Epoch(pairs) => {
                    order.pairs = pairs.into_iter().map(pair).collect();
                    proved.take(&order.pairs, terms, at(now));
                    prop_assert!(order.pairs.len() > 1 || proved.verdict(order.pairs[0]) == Some(Verdict::Proved));
                }
            }
        }
    }
}
