use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;

use super::*;
use crate::clock::Clock;
use crate::keyring::pool::{CLIENT_ONLY_PAIR, TEST_PAIRS, authority, day};
use crate::keyring::{KeyringCommand, Standing};
use crate::pki::{KeyPair, KeyringContents};
use crate::snapshot::ingress;
use crate::trust::{AnchorSource, TrustEvent};

/// One ingress with keyring "api" and no trust of its own.
pub(in crate::writer) fn api_settings() -> WriterSettings {
    WriterSettings {
        ingresses: vec![ingress::IngressSettings::for_keyring("default", "api")],
        skew: Duration::from_mins(1),
        ..WriterSettings::default()
    }
}

/// Keyring "api" holds these pairs and a `ca.crt`.
pub(in crate::writer) fn api_contents(which: &[usize]) -> FolderContents {
    let pairs: Vec<Arc<KeyPair>> = which.iter().map(|at| Arc::clone(&TEST_PAIRS[*at])).collect();
    let joined = KeyringContents { pairs, anchors: Some(vec![authority()]), ..KeyringContents::default() };
    FolderContents { keyrings: BTreeMap::from([("api".into(), joined)]), ..FolderContents::default() }
}

fn settings_input(settings: WriterSettings) -> WriterInput {
    WriterInput::Settings(Box::new(settings), tokio::sync::oneshot::channel().0)
}

fn open_state(which: &[usize], at: i64) -> WriterState {
    WriterState::from_remembered(api_settings(), RememberedState::default(), api_contents(which), day(at)).0
}

fn current_pair(state: &WriterState, keyring: &str) -> Option<crate::pki::Fingerprint> {
    state.keyrings()[keyring].current().map(|held| held.pair.fingerprint())
}

fn is_unchanged(happened: &StateChange) -> bool {
    *happened == StateChange::default()
}

#[test]
fn the_same_input_again_says_that_nothing_happened() {
    let (mut state, happened) =
        WriterState::from_remembered(api_settings(), RememberedState::default(), api_contents(&[1]), day(20));
    assert!(happened.needs_epoch());
    let inputs = [WriterInput::Folder(api_contents(&[1])), settings_input(api_settings()), WriterInput::Tick];
    for input in &inputs {
        assert!(is_unchanged(&state.apply(input, day(20)).unwrap()));
    }
    let rotation = WriterInput::Folder(api_contents(&[1, 2]));
    assert_eq!(state.apply(&rotation, day(20) + SignedDuration::from_secs(1)).unwrap().keyrings.len(), 2);
    assert!(is_unchanged(&state.apply(&rotation, day(20) + SignedDuration::from_secs(2)).unwrap()));
}

#[test]
fn listeners_give_a_keyring_its_roles_and_its_own_trust() {
    let mut contents = api_contents(&[1]);
    let usage = KeyringContents { pairs: vec![Arc::clone(&CLIENT_ONLY_PAIR)], ..KeyringContents::default() };
    contents.keyrings.insert("unused".into(), usage.clone());
    contents.keyrings.insert("shown".into(), usage);
    let mut settings = api_settings();
    settings.ingresses.push(ingress::IngressSettings::for_keyring("two", "shown"));
    settings.ingresses.push(ingress::IngressSettings::for_keyring("three", "absent"));
    let (state, _) = WriterState::from_remembered(settings, RememberedState::default(), contents, day(20));
    assert_eq!(
        current_pair(&state, "unused"),
        Some(CLIENT_ONLY_PAIR.fingerprint()),
        "a folder without section is a keyring"
    );
    assert_eq!(state.keyrings()["shown"].pairs()[0].standing, Standing::Refused, "an ingress needs serverAuth");
    assert!(state.keyrings().contains_key("absent"), "what a listener uses is there, and waits");
    let trusts: Vec<_> = state.trusts().keys().map(AsRef::as_ref).collect();
    assert_eq!(trusts, ["own:absent", "own:api", "own:shown"]);
    assert!(state.trusts()["own:api"].is_usable());
    assert_eq!(state.trusts()["own:api"].settings().overlap, Duration::from_hours(30 * 24));
}

#[test]
fn a_listener_with_a_pair_and_its_own_anchors_is_in_the_snapshot() {
    let state = open_state(&[1, 0], 20);
    let time = TlsTimeSource::from_clock(&Clock::manual(day(20)).0);
    let snapshot = state.build_snapshot(Epoch(1), day(20), &time).unwrap();
    assert_eq!(snapshot.ingresses["default"].candidates.0.len(), 2);
    let empty =
        WriterState::from_remembered(api_settings(), RememberedState::default(), FolderContents::default(), day(20)).0;
    let snapshot = empty.build_snapshot(Epoch(1), day(20), &time).unwrap();
    assert_eq!((snapshot.ingresses.len(), snapshot.waiting.len()), (0, 1));
}

#[test]
fn a_vanished_ca_crt_is_not_a_removal() {
    let mut state = open_state(&[1], 20);
    let mut contents = api_contents(&[1]);
    contents.keyrings.get_mut("api").unwrap().anchors = None;
    let happened = state.apply(&WriterInput::Folder(contents), day(20)).unwrap();
    assert!(matches!(happened.trusts[..], [TrustEvent::FileKept { .. }]), "{happened:?}");
    assert!(state.trusts()["own:api"].is_usable());
}

#[test]
fn other_intermediates_or_file_names_are_a_new_snapshot_without_a_rotation() {
    let mut state = open_state(&[1], 20);
    let mut contents = api_contents(&[1]);
    let pair = &TEST_PAIRS[1];
    let renamed = KeyPair::new(pair.chain().to_vec(), Arc::clone(pair.key()), vec!["api/2027.pem".into()]).unwrap();
    contents.keyrings.get_mut("api").unwrap().pairs = vec![renamed];
    let happened = state.apply(&WriterInput::Folder(contents), day(20)).unwrap();
    assert!(happened.rebuild && happened.keyrings.is_empty());
}

#[test]
fn a_command_is_for_a_known_keyring() {
    let mut state = open_state(&[1, 2], 25);
    let ask = |keyring: &str| WriterInput::Command {
        keyring: keyring.into(),
        by: "uid 0".into(),
        command: KeyringCommand::Rollback,
        reply: tokio::sync::oneshot::channel().0,
    };
    assert_eq!(state.apply(&ask("nowhere"), day(25)), Err(CommandRejection::NoKeyring("nowhere".into())));
    assert_eq!(state.apply(&ask("api"), day(25)).unwrap().keyrings.len(), 2);
    let remembered = RememberedState { unreadable: Some("torn".into()), ..RememberedState::default() };
    let (mut state, _) = WriterState::from_remembered(api_settings(), remembered, api_contents(&[1, 2]), day(25));
    assert!(current_pair(&state, "api").is_some(), "it serves all the same");
    assert!(matches!(state.apply(&ask("api"), day(25)), Err(CommandRejection::Unreadable(..))));
}

#[test]
fn a_step_of_the_clock_retires_nothing_until_it_has_been_steady() {
    let mut state = open_state(&[1, 2], 25);
    let second = |seconds| day(49) + SignedDuration::from_secs(seconds);
    assert!(!state.is_due(day(25)));
    assert!(state.is_due(second(0)));
    let mut state_after = |now, contents: Option<FolderContents>| {
        let input = contents.map_or(WriterInput::Tick, WriterInput::Folder);
        state.apply(&input, now).unwrap()
    };
    let stepped = state_after(day(55), None);
    assert_eq!(stepped.clock_step, Some(30 * 86400));
    assert!(!stepped.needs_epoch(), "{stepped:?}");
    let minute = |minutes| day(55) + SignedDuration::from_mins(minutes);
    assert!(is_unchanged(&state_after(minute(4), Some(api_contents(&[1, 2])))));
    let retired = state_after(minute(5), None);
    assert!(
        matches!(&retired.keyrings[..], [keyring::KeyringEvent::Moved { reason: "expired", .. }, ..]),
        "{retired:?}"
    );
}

#[test]
fn a_trusted_clock_walks_past_an_overlap_in_one_stride() {
    let mut state = open_state(&[1, 2], 25).with_trusted_clock();
    let happened = state.apply(&WriterInput::Tick, day(52)).unwrap();
    assert_eq!((happened.clock_step, happened.keyrings.len()), (None, 1));
}

#[test]
fn problems_are_reported_once_until_they_change() {
    let problem = FolderProblem {
        file: "api/tls.crt".into(),
        reason: "truncated",
        why: "it ends in the middle".into(),
        remedy: "copy it again".into(),
        severity: crate::pki::ProblemSeverity::Refused,
    };
    let mut contents = api_contents(&[1]);
    contents.keyrings.get_mut("api").unwrap().problems.push(problem.clone());
    let key = Arc::clone(TEST_PAIRS[0].key());
    let waiting = crate::pki::PendingKey { file: "api/next.key".into(), spki_hash: key.spki_hash(), key };
    contents.keyrings.get_mut("api").unwrap().waiting.push(waiting);
    let (mut state, happened) =
        WriterState::from_remembered(api_settings(), RememberedState::default(), contents.clone(), day(20));
    let reasons: Vec<_> = happened.problems.iter().map(|(_, problem)| problem.reason).collect();
    assert_eq!(reasons, ["truncated", "waiting_for_certificate"]);
    assert!(is_unchanged(&state.apply(&WriterInput::Folder(contents.clone()), day(20)).unwrap()));
    state.apply(&WriterInput::Folder(api_contents(&[1])), day(20)).unwrap();
    assert_eq!(state.apply(&WriterInput::Folder(contents), day(20)).unwrap().problems.len(), 2, "they came back");
}

#[test]
fn a_named_file_that_went_bad_keeps_what_it_held() {
    let path = PathBuf::from("trust/acme.pem");
    let of = |certificates: Vec<Arc<crate::pki::Certificate>>| {
        let mut contents = api_contents(&[1]);
        let file = contents.named.entry(path.clone()).or_default();
        file.problem = certificates.is_empty().then(|| "it is empty".into());
        file.certificates = certificates;
        contents
    };
    let (good, bad) = (of(vec![authority()]), of(Vec::new()));
    let mut state = WriterState::from_remembered(api_settings(), RememberedState::default(), good, day(20)).0;
    let happened = state.apply(&WriterInput::Folder(bad), day(20)).unwrap();
    assert_eq!(happened.problems.len(), 1, "no trust names it, so nothing else would report it");
    assert!(!happened.needs_epoch());
    assert_eq!(state.contents().named[&path].certificates.len(), 1);
    let mut partners = api_settings();
    let trust = trust::TrustSettings {
        name: "partners".into(),
        anchors: vec![AnchorSource::File { path: path.clone(), until: None }],
        ..found::own_trust_settings(&"x".into(), Duration::ZERO)
    };
    partners.trusts.insert("partners".into(), trust);
    let happened = state.apply(&settings_input(partners), day(20)).unwrap();
    assert!(happened.rebuild);
    assert!(!state.trusts()["partners"].is_usable(), "what partners knew is not an anchor of a new trust");
}

#[test]
fn a_reload_configures_what_changed_and_drops_trusts_that_are_named_no_more() {
    let mut state = open_state(&[1, 2], 25);
    let mut next = api_settings();
    let api = keyring::KeyringSettings {
        overlap: Duration::from_hours(24),
        ..keyring::KeyringSettings::with_defaults("api".into())
    };
    next.keyrings.insert("api".into(), api);
    next.ingresses[0].trust = Some("partners".into());
    let system = trust::TrustSettings {
        name: "partners".into(),
        anchors: vec![AnchorSource::System],
        ..found::own_trust_settings(&"x".into(), Duration::ZERO)
    };
    next.trusts.insert("partners".into(), system);
    next.system_anchors = Arc::new(vec![authority()]);
    assert!(state.apply(&settings_input(next), day(25)).unwrap().rebuild);
    assert_eq!(state.trusts().keys().map(AsRef::as_ref).collect::<Vec<_>>(), ["partners"]);
    assert!(state.trusts()["partners"].is_usable());
    assert_eq!(state.next_due(), Some(day(26)), "the overlap that runs is shorter now");
}
