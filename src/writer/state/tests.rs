use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;

use super::*;
use crate::keyring::pool::{CLIENT_ONLY, PAIRS, authority, day};
use crate::keyring::{Command, Standing};
use crate::pki::{Joined, KeyPair};
use crate::snapshot::ingress;
use crate::trust::{AnchorSource, Event as TrustEvent};

/// One ingress with keyring "api" and no trust of its own.
pub(in crate::writer) fn settings() -> Settings {
    Settings {
        ingresses: vec![ingress::Settings::showing("default", "api")],
        skew: Duration::from_mins(1),
        ..Settings::default()
    }
}

/// Keyring "api" holds these pairs and a `ca.crt`.
pub(in crate::writer) fn folder(which: &[usize]) -> Contents {
    let pairs: Vec<Arc<KeyPair>> = which.iter().map(|at| Arc::clone(&PAIRS[*at])).collect();
    let joined = Joined { pairs, anchors: Some(vec![authority()]), ..Joined::default() };
    Contents { keyrings: BTreeMap::from([("api".into(), joined)]), ..Contents::default() }
}

fn open(which: &[usize], at: i64) -> State {
    State::open(settings(), Remembered::default(), folder(which), day(at)).0
}

fn current(state: &State, keyring: &str) -> Option<crate::pki::Fingerprint> {
    state.keyrings()[keyring].current().map(|held| held.pair.fingerprint())
}

fn nothing(happened: &Happened) -> bool {
    *happened == Happened::default()
}

#[test]
fn the_same_input_again_says_that_nothing_happened() {
    let (mut state, happened) = State::open(settings(), Remembered::default(), folder(&[1]), day(20));
    assert!(happened.needs_epoch());
    let inputs = [Input::Folder(folder(&[1])), Input::Settings(Box::new(settings())), Input::Tick];
    for input in &inputs {
        assert!(nothing(&state.apply(input, day(20)).unwrap()));
    }
    let rotation = Input::Folder(folder(&[1, 2]));
    assert_eq!(state.apply(&rotation, day(20) + SignedDuration::from_secs(1)).unwrap().keyrings.len(), 2);
    assert!(nothing(&state.apply(&rotation, day(20) + SignedDuration::from_secs(2)).unwrap()));
}

#[test]
fn listeners_give_a_keyring_its_roles_and_its_own_trust() {
    let mut contents = folder(&[1]);
    let usage = Joined { pairs: vec![Arc::clone(&CLIENT_ONLY)], ..Joined::default() };
    contents.keyrings.insert("unused".into(), usage.clone());
    contents.keyrings.insert("shown".into(), usage);
    let mut settings = settings();
    settings.ingresses.push(ingress::Settings::showing("two", "shown"));
    settings.ingresses.push(ingress::Settings::showing("three", "absent"));
    let (state, _) = State::open(settings, Remembered::default(), contents, day(20));
    assert_eq!(current(&state, "unused"), Some(CLIENT_ONLY.fingerprint()), "a folder without section is a keyring");
    assert_eq!(state.keyrings()["shown"].held()[0].standing, Standing::Refused, "an ingress needs serverAuth");
    assert!(state.keyrings().contains_key("absent"), "what a listener uses is there, and waits");
    let trusts: Vec<_> = state.trusts().keys().map(AsRef::as_ref).collect();
    assert_eq!(trusts, ["own:absent", "own:api", "own:shown"]);
    assert!(state.trusts()["own:api"].is_usable());
    assert_eq!(state.trusts()["own:api"].settings().overlap, Duration::from_hours(30 * 24));
}

#[test]
fn a_listener_with_a_pair_and_its_own_anchors_is_in_the_snapshot() {
    let state = open(&[1, 0], 20);
    let (clock, _) = Clock::manual(day(20));
    let snapshot = state.build(Epoch(1), &clock).unwrap();
    assert_eq!(snapshot.ingresses["default"].candidates.0.len(), 2);
    let empty = State::open(settings(), Remembered::default(), Contents::default(), day(20)).0;
    let snapshot = empty.build(Epoch(1), &clock).unwrap();
    assert_eq!((snapshot.ingresses.len(), snapshot.waiting.len()), (0, 1));
}

#[test]
fn a_vanished_ca_crt_is_not_a_removal() {
    let mut state = open(&[1], 20);
    let mut contents = folder(&[1]);
    contents.keyrings.get_mut("api").unwrap().anchors = None;
    let happened = state.apply(&Input::Folder(contents), day(20)).unwrap();
    assert!(matches!(happened.trusts[..], [TrustEvent::FileKept { .. }]), "{happened:?}");
    assert!(state.trusts()["own:api"].is_usable());
}

#[test]
fn other_intermediates_or_file_names_are_a_new_snapshot_without_a_rotation() {
    let mut state = open(&[1], 20);
    let mut contents = folder(&[1]);
    let pair = &PAIRS[1];
    let renamed = KeyPair::new(pair.chain().to_vec(), Arc::clone(pair.key()), vec!["api/2027.pem".into()]).unwrap();
    contents.keyrings.get_mut("api").unwrap().pairs = vec![renamed];
    let happened = state.apply(&Input::Folder(contents), day(20)).unwrap();
    assert!(happened.rebuild && happened.keyrings.is_empty());
}

#[test]
fn a_command_is_for_a_known_keyring() {
    let mut state = open(&[1, 2], 25);
    let ask = |keyring: &str| Input::Command {
        keyring: keyring.into(),
        by: "uid 0".into(),
        command: Command::Rollback,
        reply: tokio::sync::oneshot::channel().0,
    };
    assert_eq!(state.apply(&ask("nowhere"), day(25)), Err(NotDone::NoKeyring("nowhere".into())));
    assert_eq!(state.apply(&ask("api"), day(25)).unwrap().keyrings.len(), 2);
    let remembered = Remembered { unreadable: Some("torn".into()), ..Remembered::default() };
    let (mut state, _) = State::open(settings(), remembered, folder(&[1, 2]), day(25));
    assert!(current(&state, "api").is_some(), "it serves all the same");
    assert!(matches!(state.apply(&ask("api"), day(25)), Err(NotDone::Unreadable(..))));
}

#[test]
fn a_step_of_the_clock_retires_nothing_until_it_has_been_steady() {
    let mut state = open(&[1, 2], 25);
    let second = |seconds| day(49) + SignedDuration::from_secs(seconds);
    assert!(!state.is_due(day(25)));
    assert!(state.is_due(second(0)));
    let mut state_after = |now, contents: Option<Contents>| {
        let input = contents.map_or(Input::Tick, Input::Folder);
        state.apply(&input, now).unwrap()
    };
    let stepped = state_after(day(55), None);
    assert_eq!(stepped.clock_step, Some(30 * 86400));
    assert!(!stepped.needs_epoch(), "{stepped:?}");
    let minute = |minutes| day(55) + SignedDuration::from_mins(minutes);
    assert!(nothing(&state_after(minute(4), Some(folder(&[1, 2])))));
    let retired = state_after(minute(5), None);
    assert!(matches!(&retired.keyrings[..], [keyring::Event::Moved { reason: "expired", .. }, ..]), "{retired:?}");
}

#[test]
fn a_trusted_clock_walks_past_an_overlap_in_one_stride() {
    let mut state = open(&[1, 2], 25).trusting_clock();
    let happened = state.apply(&Input::Tick, day(52)).unwrap();
    assert_eq!((happened.clock_step, happened.keyrings.len()), (None, 1));
}

#[test]
fn problems_are_told_once_until_they_change() {
    let problem = Problem {
        file: "api/tls.crt".into(),
        reason: "truncated",
        why: "it ends in the middle".into(),
        remedy: "copy it again".into(),
        severity: crate::pki::Severity::Refused,
    };
    let mut contents = folder(&[1]);
    contents.keyrings.get_mut("api").unwrap().problems.push(problem.clone());
    let key = Arc::clone(PAIRS[0].key());
    let waiting = crate::pki::Waiting { file: "api/next.key".into(), spki_hash: key.spki_hash(), key };
    contents.keyrings.get_mut("api").unwrap().waiting.push(waiting);
    let (mut state, happened) = State::open(settings(), Remembered::default(), contents.clone(), day(20));
    let reasons: Vec<_> = happened.problems.iter().map(|(_, problem)| problem.reason).collect();
    assert_eq!(reasons, ["truncated", "waiting_for_certificate"]);
    assert!(nothing(&state.apply(&Input::Folder(contents.clone()), day(20)).unwrap()));
    state.apply(&Input::Folder(folder(&[1])), day(20)).unwrap();
    assert_eq!(state.apply(&Input::Folder(contents), day(20)).unwrap().problems.len(), 2, "they came back");
}

#[test]
fn a_named_file_that_went_bad_keeps_what_it_held() {
    let path = PathBuf::from("trust/acme.pem");
    let of = |certificates: Vec<Arc<crate::pki::Certificate>>| {
        let mut contents = folder(&[1]);
        let file = contents.named.entry(path.clone()).or_default();
        file.problem = certificates.is_empty().then(|| "it is empty".into());
        file.certificates = certificates;
        contents
    };
    let (good, bad) = (of(vec![authority()]), of(Vec::new()));
    let mut state = State::open(settings(), Remembered::default(), good, day(20)).0;
    let happened = state.apply(&Input::Folder(bad), day(20)).unwrap();
    assert_eq!(happened.problems.len(), 1, "no trust names it, so nothing else would report it");
    assert!(!happened.needs_epoch());
    assert_eq!(state.contents().named[&path].certificates.len(), 1);
    let mut partners = settings();
    let trust = trust::Settings {
        name: "partners".into(),
        anchors: vec![AnchorSource::File { path: path.clone(), until: None }],
        ..found::own_trust_settings(&"x".into(), Duration::ZERO)
    };
    partners.trusts.insert("partners".into(), trust);
    let happened = state.apply(&Input::Settings(Box::new(partners)), day(20)).unwrap();
    assert!(happened.rebuild);
    assert!(!state.trusts()["partners"].is_usable(), "what partners knew is not an anchor of a new trust");
}

#[test]
fn a_reload_configures_what_changed_and_drops_trusts_that_are_named_no_more() {
    let mut state = open(&[1, 2], 25);
    let mut next = settings();
    let api = keyring::Settings { overlap: Duration::from_hours(24), ..keyring::Settings::of("api".into()) };
    next.keyrings.insert("api".into(), api);
    next.ingresses[0].trust = Some("partners".into());
    let system = trust::Settings {
        name: "partners".into(),
        anchors: vec![AnchorSource::System],
        ..found::own_trust_settings(&"x".into(), Duration::ZERO)
    };
    next.trusts.insert("partners".into(), system);
    next.system_anchors = Arc::new(vec![authority()]);
    assert!(state.apply(&Input::Settings(Box::new(next)), day(25)).unwrap().rebuild);
    assert_eq!(state.trusts().keys().map(AsRef::as_ref).collect::<Vec<_>>(), ["partners"]);
    assert!(state.trusts()["partners"].is_usable());
    assert_eq!(state.next_due(), Some(day(26)), "the overlap that runs is shorter now");
}
