use proptest::prelude::*;

use super::super::pool::day;
use super::*;

const NOW: i64 = 50;

fn candidate(keyring: &str, at: u8, standing: Standing) -> KeyPairCandidate {
    KeyPairCandidate {
        standing,
        validity: Validity { not_before: day(0), not_after: day(100) },
        dns: vec![format!("{keyring}.example")],
        schemes: vec![0x0403],
        issuers: vec![b"new ca".to_vec()],
        ..KeyPairCandidate::sample(keyring, Fingerprint::from_bytes([at; 32]))
    }
}

/// A keyring in overlap: the new pair from "new ca", the old one from "old ca".
fn overlap(keyring: &str) -> Vec<KeyPairCandidate> {
    let previous = KeyPairCandidate { issuers: vec![b"old ca".to_vec()], ..candidate(keyring, 2, Standing::Previous) };
    vec![candidate(keyring, 1, Standing::Current), previous]
}

fn choose_pair(candidates: Vec<KeyPairCandidate>, asked: &PeerRequirements) -> Option<(usize, SelectionReason)> {
    choose(&CandidateList(candidates), asked, day(NOW)).map(|choice| (choice.index, choice.chosen_by))
}

fn authorities(name: &[u8]) -> PeerRequirements {
    PeerRequirements { authorities: vec![name.to_vec()], ..PeerRequirements::default() }
}

#[test]
fn nothing_to_show_is_none() {
    assert_eq!(choose_pair(Vec::new(), &PeerRequirements::default()), None);
}

#[test]
fn a_lone_pair_is_shown_whatever_is_asked_but_a_scheme_it_cannot_sign() {
    let asked = PeerRequirements { server_name: Some("elsewhere.test".into()), ..authorities(b"unknown ca") };
    assert_eq!(choose_pair(vec![candidate("api", 1, Standing::Current)], &asked), Some((0, SelectionReason::Only)));
    let rsa = PeerRequirements { schemes: vec![0x0804], ..PeerRequirements::default() };
    assert_eq!(choose_pair(vec![candidate("api", 1, Standing::Current)], &rsa), None);
}

#[test]
fn the_peer_s_authorities_come_before_prefer() {
    assert_eq!(choose_pair(overlap("api"), &PeerRequirements::default()), Some((0, SelectionReason::Prefer)));
    assert_eq!(choose_pair(overlap("api"), &authorities(b"old ca")), Some((1, SelectionReason::Authorities)));
    assert_eq!(choose_pair(overlap("api"), &authorities(b"new ca")), Some((0, SelectionReason::Authorities)));
    assert_eq!(choose_pair(overlap("api"), &authorities(b"unknown ca")), Some((0, SelectionReason::Prefer)));
}

#[test]
fn prefer_old_shows_the_previous_pair() {
    let mut candidates = overlap("api");
    candidates.iter_mut().for_each(|candidate| candidate.prefer = PreferPolicy::Old);
    assert_eq!(choose_pair(candidates.clone(), &PeerRequirements::default()), Some((1, SelectionReason::Prefer)));
    assert_eq!(choose_pair(candidates, &authorities(b"new ca")), Some((0, SelectionReason::Authorities)));
}

#[test]
fn a_scheme_that_only_the_previous_pair_signs_decides() {
    let mut candidates = overlap("api");
    candidates[1].schemes = vec![0x0804];
    let asked = PeerRequirements { schemes: vec![0x0804], ..PeerRequirements::default() };
    assert_eq!(choose_pair(candidates, &asked), Some((1, SelectionReason::Only)));
}

#[test]
fn a_cipher_suite_that_only_the_previous_pair_fits_decides() {
    let mut candidates = overlap("api");
    candidates[1].schemes = vec![0x0804, 0x0401];
    for (suites, expected) in [
        (&[0xc02f, 0xc030][..], (1, SelectionReason::Only)),
        (&[0xc02b], (0, SelectionReason::Only)),
        (&[0xc02b, 0xc02f], (0, SelectionReason::Prefer)),
        (&[0x1301, 0xc02f], (0, SelectionReason::Prefer)),
        // Nothing fits: the handshake says so itself.
        (&[0x002f], (0, SelectionReason::Prefer)),
    ] {
        let schemes = vec![0x0403, 0x0804, 0x0401];
        let asked = PeerRequirements { suites: suites.to_vec(), schemes, ..PeerRequirements::default() };
        assert_eq!(choose_pair(candidates.clone(), &asked), Some(expected), "{suites:04x?}");
    }
}

#[test]
fn the_server_name_picks_the_keyring_and_an_unknown_one_the_first() {
    let candidates: Vec<_> = [overlap("api"), overlap("shop")].concat();
    let asked = |name: &str| PeerRequirements { server_name: Some(name.into()), ..PeerRequirements::default() };
    assert_eq!(choose_pair(candidates.clone(), &asked("shop.example")), Some((2, SelectionReason::Prefer)));
    assert_eq!(choose_pair(candidates.clone(), &asked("elsewhere.test")), Some((0, SelectionReason::Prefer)));
    assert_eq!(choose_pair(candidates, &PeerRequirements::default()), Some((0, SelectionReason::Prefer)));
}

#[test]
fn within_a_keyring_a_pair_that_covers_the_name_is_shown() {
    let mut candidates = overlap("api");
    candidates[0].dns = vec!["renamed.example".into()];
    let asked = PeerRequirements { server_name: Some("api.example".into()), ..PeerRequirements::default() };
    assert_eq!(choose_pair(candidates, &asked), Some((1, SelectionReason::Only)));
}

#[test]
fn an_expired_pair_is_shown_only_when_nothing_else_is_left() {
    let mut candidates = overlap("api");
    candidates[0].validity.not_after = day(NOW - 1);
    assert_eq!(choose_pair(candidates.clone(), &PeerRequirements::default()), Some((1, SelectionReason::Only)));
    candidates[1].validity.not_after = day(NOW - 2);
    assert_eq!(choose_pair(candidates, &PeerRequirements::default()), Some((0, SelectionReason::LastResort)));
}

fn hints(show: Option<ShowPolicy>, taught: Option<(&[u8], Option<u8>)>) -> PeerHints {
    let name = |at: &u8| Fingerprint::from_bytes([*at; 32]);
    let taught = taught.map(|(refused, shown)| SourceRefusals {
        refused: refused.iter().map(name).collect(),
        shown: shown.map(|at| name(&at)),
    });
    PeerHints { show, taught }
}

#[test]
fn rules_are_asked_in_the_order_of_the_contract() {
    use SelectionReason::{Authorities, Learned, Only, Partner, Prefer};
    let silent = PeerRequirements::default();
    let lesson: Option<(&[u8], Option<u8>)> = Some((&[1], Some(2)));
    for (asked, known, expected) in [
        (&silent, hints(None, None), (0, Prefer)),
        (&silent, hints(None, lesson), (1, Learned)),
        (&silent, hints(Some(ShowPolicy::New), lesson), (0, Partner)),
        (&silent, hints(Some(ShowPolicy::Old), None), (1, Partner)),
        (&authorities(b"new ca"), hints(Some(ShowPolicy::Old), lesson), (0, Authorities)),
        (&authorities(b"old ca"), hints(Some(ShowPolicy::New), None), (1, Authorities)),
        (&authorities(b"unknown ca"), hints(Some(ShowPolicy::Old), None), (1, Partner)),
        (&authorities(b"unknown ca"), hints(None, lesson), (1, Learned)),
        // Refused, and nothing decided yet: the first that was not.
        (&silent, hints(None, Some((&[1], None))), (1, Learned)),
        (&silent, hints(None, Some((&[2], None))), (0, Learned)),
        // Everything refused, or a refusal of pairs that are gone: the default.
        (&silent, hints(None, Some((&[1, 2], None))), (0, Prefer)),
        (&silent, hints(None, Some((&[7], Some(8)))), (0, Prefer)),
    ] {
        let choice = choose_with_hints(&CandidateList(overlap("api")), asked, &known, day(NOW)).unwrap();
        assert_eq!((choice.index, choice.chosen_by), expected, "{asked:?} {known:?}");
    }
    let alone = CandidateList(vec![candidate("api", 1, Standing::Current)]);
    let choice = choose_with_hints(&alone, &silent, &hints(Some(ShowPolicy::Old), lesson), day(NOW)).unwrap();
    assert_eq!((choice.index, choice.chosen_by), (0, Only));
}

#[test]
fn a_lesson_goes_on_showing_what_worked_when_a_third_pair_comes() {
    let mut candidates = overlap("api");
    candidates.insert(0, candidate("api", 3, Standing::Current));
    candidates[1].standing = Standing::Previous;
    let known = hints(None, Some((&[1], Some(2))));
    let choice =
        choose_with_hints(&CandidateList(candidates.clone()), &PeerRequirements::default(), &known, day(NOW)).unwrap();
    assert_eq!((choice.index, choice.chosen_by), (2, SelectionReason::Learned));
    candidates[2].validity.not_after = day(NOW - 1);
    let choice = choose_with_hints(&CandidateList(candidates), &PeerRequirements::default(), &known, day(NOW)).unwrap();
    assert_eq!(choice.index, 0, "what worked is over: the newest that was not refused");
}

/// Slow and obvious: every candidate gets the list of what speaks for it, in the contract's order, and the best wins;
/// of equals the first.
fn choose_slowly(
    candidates: &CandidateList,
    asked: &PeerRequirements,
    known: &PeerHints,
    now: Timestamp,
) -> Option<usize> {
    let all = &candidates.0;
    let signs =
        |one: &KeyPairCandidate| asked.schemes.is_empty() || one.schemes.iter().any(|s| asked.schemes.contains(s));
    let valid = |one: &KeyPairCandidate| one.validity.not_before <= now && now <= one.validity.not_after;
    let covers = |one: &KeyPairCandidate| {
        asked.server_name.as_ref().is_some_and(|name| one.dns.iter().any(|dns| **dns == **name))
    };
    let vouched = |one: &KeyPairCandidate| one.issuers.iter().any(|issuer| asked.authorities.contains(issuer));
    let preferred = |one: &KeyPairCandidate| one.prefer == PreferPolicy::New || one.standing == Standing::Previous;
    let mut keyring: Option<(&KeyringName, u8)> = None;
    for one in all.iter().filter(|one| signs(one)) {
        let speaks = 2 * u8::from(covers(one)) + u8::from(valid(one));
        if keyring.is_none_or(|(_, most)| most < speaks) {
            keyring = Some((&one.keyring, speaks));
        }
    }
    let keyring = keyring?.0;
    // With no valid pair left, preferences are ignored.
    let nothing = PeerHints::default();
    let known =
        if all.iter().any(|one| one.keyring == *keyring && signs(one) && valid(one)) { known } else { &nothing };
    let partner = |one: &KeyPairCandidate| match known.show {
        Some(ShowPolicy::New) => one.standing == Standing::Current,
        Some(ShowPolicy::Old) => one.standing == Standing::Previous,
        None => false,
    };
    let taught =
        |one: &KeyPairCandidate| known.taught.as_ref().is_some_and(|taught| taught.shown == Some(one.key_pair));
    let untold =
        |one: &KeyPairCandidate| known.taught.as_ref().is_none_or(|taught| !taught.refused.contains(&one.key_pair));
    // A refusal overrides `prefer` among those that are left: the first that was not refused.
    let mut best: Option<(usize, [bool; 6])> = None;
    let left = |one: &&KeyPairCandidate| one.keyring == *keyring && signs(one);
    let before = |one: &KeyPairCandidate| [valid(one), covers(one), vouched(one), partner(one)];
    let top = all.iter().filter(left).map(before).max();
    let of_top = |told: bool| all.iter().filter(left).any(|one| Some(before(one)) == top && untold(one) == told);
    let refuses_some = of_top(true) && of_top(false);
    for (at, one) in all.iter().enumerate() {
        let lesson = if refuses_some { untold(one) } else { preferred(one) };
        let speaks = [valid(one), covers(one), vouched(one), partner(one), taught(one), lesson];
        if one.keyring == *keyring && signs(one) && best.is_none_or(|(_, most)| most < speaks) {
            best = Some((at, speaks));
        }
    }
    Some(best?.0)
}

fn any_candidate() -> impl Strategy<Value = (bool, bool, u8, u8, u8)> {
    (any::<bool>(), any::<bool>(), 0..3_u8, 0..3_u8, 0..3_u8)
}

proptest! {
    #[test]
    fn it_chooses_as_the_obvious_version_does(
        first in prop::collection::vec(any_candidate(), 0..4),
        second in prop::collection::vec(any_candidate(), 0..4),
        (old_first, old_second) in any::<(bool, bool)>(),
        (name, scheme, authority) in (0..4_u8, 0..4_u8, 0..4_u8),
        show in 0..3_usize,
        taught in prop::option::of((any::<u8>(), 0..12_u8)),
    ) {
        let make = |keyring: &str, old: bool, parts: &[(bool, bool, u8, u8, u8)]| -> Vec<KeyPairCandidate> {
            let of = |(at, (current, valid, name, scheme, issuer)): (usize, &(bool, bool, u8, u8, u8))| KeyPairCandidate {
                standing: if *current && at == 0 { Standing::Current } else { Standing::Previous },
                validity: Validity { not_before: day(0), not_after: day(if *valid { 100 } else { 10 }) },
                dns: vec![format!("{name}.example")],
                schemes: vec![u16::from(*scheme)],
                issuers: vec![vec![*issuer]],
                prefer: if old { PreferPolicy::Old } else { PreferPolicy::New },
                ..candidate(keyring, at as u8 + if keyring == "a" { 0 } else { 4 }, Standing::Current)
            };
            parts.iter().enumerate().map(of).collect()
        };
        let candidates = CandidateList([make("a", old_first, &first), make("b", old_second, &second)].concat());
        let asked = PeerRequirements {
            server_name: (name < 3).then(|| format!("{name}.example").into()),
            schemes: if scheme < 3 { vec![u16::from(scheme)] } else { Vec::new() },
            authorities: if authority < 3 { vec![vec![authority]] } else { Vec::new() },
            ..PeerRequirements::default()
        };
        let known = PeerHints {
            show: [None, Some(ShowPolicy::New), Some(ShowPolicy::Old)][show],
            taught: taught.map(|(refused, shown)| SourceRefusals {
                refused: (0..8).filter(|at| refused & (1 << at) != 0).map(|at| Fingerprint::from_bytes([at; 32])).collect(),
                shown: (shown < 8).then(|| Fingerprint::from_bytes([shown; 32])),
            }),
        };
        let choice = choose_with_hints(&candidates, &asked, &known, day(NOW));
        prop_assert_eq!(choice.map(|choice| choice.index), choose_slowly(&candidates, &asked, &known, day(NOW)));
        if let Some(choice) = choice {
            let valid = candidates.0[choice.index].validity.contains(day(NOW));
            prop_assert_eq!(choice.chosen_by == SelectionReason::LastResort, !valid);
        }
    }
}
