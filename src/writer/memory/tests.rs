use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use tempfile::TempDir;

use super::super::state::tests::{api_contents, api_settings};
use super::super::{WriterInput, WriterState};
use super::*;
use crate::folder::FolderContents;
use crate::keyring::pool::{TEST_PAIRS, authority, day};
use crate::keyring::{KeyringCommand, Standing};

fn open_state_store(at: &TempDir) -> StateMemory {
    StateMemory::open(at.path().join("state"), false).unwrap()
}

/// A run that begins with this folder.
fn start_run(memory: &mut StateMemory, contents: FolderContents, at: i64) -> WriterState {
    let state = WriterState::from_remembered(api_settings(), memory.read(), contents, day(at)).0;
    let state = state.with_trusted_clock();
    memory.save(&state, day(at)).unwrap();
    state
}

fn replace_pairs(state: &mut WriterState, memory: &mut StateMemory, which: &[usize], at: i64) {
    state.apply(&WriterInput::Folder(api_contents(which)), day(at)).unwrap();
    memory.save(state, day(at)).unwrap();
}

fn apply_command(state: &mut WriterState, command: KeyringCommand, at: i64) {
    let reply = tokio::sync::oneshot::channel().0;
    state.apply(&WriterInput::Command { keyring: "api".into(), command, by: "uid 0".into(), reply }, day(at)).unwrap();
}

fn all_standings(state: &WriterState) -> Vec<(Fingerprint, Standing, Option<Timestamp>)> {
    let held = state.keyrings()["api"].pairs();
    held.iter().map(|held| (held.pair.fingerprint(), held.standing, held.overlap_ends)).collect()
}

/// Retained key pairs; anchors that would have an overlap are there from the start.
fn retained_key_pairs(at: &TempDir) -> Vec<PathBuf> {
    let all = store::retained_files(&at.path().join("state/retained"), false);
    all.into_iter().filter(|path| !path.starts_with(at.path().join("state/retained/trust"))).collect()
}

#[test]
fn a_restart_goes_on_where_the_last_run_ended() {
    let at = TempDir::new().unwrap();
    let before = {
        let mut memory = open_state_store(&at);
        let mut state = start_run(&mut memory, api_contents(&[1]), 20);
        replace_pairs(&mut state, &mut memory, &[2], 25);
        all_standings(&state)
    };
    let state = start_run(&mut open_state_store(&at), api_contents(&[2]), 26);
    assert_eq!(all_standings(&state), before);
    assert_eq!(state.keyrings()["api"].shown(day(26)).len(), 2, "the vanished pair is shown to peers that need it");
}

#[test]
fn retained_files_are_the_owner_s_alone() {
    let at = TempDir::new().unwrap();
    let mut memory = open_state_store(&at);
    let mut state = start_run(&mut memory, api_contents(&[1]), 20);
    let file = |pair: usize| {
        at.path().join("state/retained/api").join(format!("{}.pem", TEST_PAIRS[pair].fingerprint().hex()))
    };
    assert_eq!(retained_key_pairs(&at), [file(1)], "what is in use is retained from the beginning");
    replace_pairs(&mut state, &mut memory, &[2], 25);
    let files = retained_key_pairs(&at);
    let mut both = [file(1), file(2)];
    both.sort();
    assert_eq!(files, both);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&files[0]), 0o600);
    assert_eq!(mode(&at.path().join("state/decisions.json")), 0o600);
    assert_eq!(mode(&at.path().join("state")), 0o700);
    assert_eq!(mode(files[0].parent().unwrap()), 0o700);
}

#[test]
fn what_is_over_or_revoked_is_deleted() {
    let at = TempDir::new().unwrap();
    let mut memory = open_state_store(&at);
    let mut state = start_run(&mut memory, api_contents(&[1]), 20);
    replace_pairs(&mut state, &mut memory, &[2], 25);
    replace_pairs(&mut state, &mut memory, &[3], 35);
    assert_eq!(retained_key_pairs(&at).len(), 3);
    apply_command(&mut state, KeyringCommand::Revoke(TEST_PAIRS[2].fingerprint()), 36);
    memory.save(&state, day(36)).unwrap();
    assert_eq!(retained_key_pairs(&at).len(), 2);
    for days in [51, 59] {
        state.apply(&WriterInput::Tick, day(days)).unwrap();
        memory.save(&state, day(days)).unwrap();
    }
    assert_eq!(retained_key_pairs(&at).len(), 1, "a week after the end of its overlap only what is current is left");
    drop((memory, state));
    let state = start_run(&mut self::open_state_store(&at), api_contents(&[2, 3]), 59);
    assert_eq!(all_standings(&state).iter().filter(|(_, standing, _)| *standing == Standing::Refused).count(), 1);
}

#[test]
fn a_hold_survives_a_restart_although_the_held_pair_is_retained_too() {
    let at = TempDir::new().unwrap();
    {
        let mut memory = open_state_store(&at);
        let mut state = start_run(&mut memory, api_contents(&[1]), 20);
        replace_pairs(&mut state, &mut memory, &[2], 25);
        apply_command(&mut state, KeyringCommand::Rollback, 26);
        memory.save(&state, day(26)).unwrap();
    }
    // The folder may not be mounted yet: that is not a removal and return.
    for contents in [api_contents(&[2]), FolderContents::default()] {
        let mut memory = open_state_store(&at);
        let mut state = start_run(&mut memory, contents, 27);
        state.apply(&WriterInput::Folder(api_contents(&[2])), day(27)).unwrap();
        assert_eq!(state.keyrings()["api"].current().unwrap().pair.fingerprint(), TEST_PAIRS[1].fingerprint());
    }
}

#[test]
fn what_did_not_change_is_not_written_again() {
    let at = TempDir::new().unwrap();
    let mut memory = open_state_store(&at);
    let mut state = start_run(&mut memory, api_contents(&[1]), 20);
    replace_pairs(&mut state, &mut memory, &[2], 25);
    // Every writing is another file, renamed into place.
    let inodes = || {
        let mut files = retained_key_pairs(&at);
        files.push(at.path().join("state/decisions.json"));
        files.iter().map(|file| std::fs::metadata(file).unwrap().ino()).collect::<Vec<_>>()
    };
    let before = inodes();
    memory.save(&state, day(25)).unwrap();
    drop(memory);
    start_run(&mut self::open_state_store(&at), api_contents(&[2]), 25);
    assert_eq!(inodes(), before);
}

#[test]
fn a_kill_between_the_steps_of_a_save_leaves_the_rotation_whole() {
    let at = TempDir::new().unwrap();
    {
        let mut memory = open_state_store(&at);
        let mut state = start_run(&mut memory, api_contents(&[1]), 20);
        state.apply(&WriterInput::Folder(api_contents(&[2])), day(25)).unwrap();
        let root = memory.0.as_mut().unwrap();
        let wanted = root.files_to_retain(&state, day(25));
        root.write_retained(&wanted).unwrap();
        // Killed here; and in the middle of writing another file.
        std::fs::write(at.path().join("state/retained/api/x.pem.new"), "half a key").unwrap();
    }
    let state = start_run(&mut open_state_store(&at), api_contents(&[2]), 26);
    let standings: Vec<_> =
        all_standings(&state).into_iter().map(|(key_pair, standing, _)| (key_pair, standing)).collect();
    assert!(standings.contains(&(TEST_PAIRS[1].fingerprint(), Standing::Previous)), "{standings:?}");
    assert!(standings.contains(&(TEST_PAIRS[2].fingerprint(), Standing::Current)), "{standings:?}");
    assert!(!at.path().join("state/retained/api/x.pem.new").exists());
}

#[test]
fn an_anchor_on_its_way_out_is_kept_too() {
    let at = TempDir::new().unwrap();
    let other = crate::keyring::pool::issue(&crate::keyring::pool::api_request(0, 400));
    let replaced = |which: &[usize]| {
        let mut contents = api_contents(which);
        contents.keyrings.get_mut("api").unwrap().anchors = Some(vec![Arc::clone(other.end_entity())]);
        contents
    };
    {
        let mut memory = open_state_store(&at);
        let mut state = start_run(&mut memory, api_contents(&[1]), 20);
        state.apply(&WriterInput::Folder(replaced(&[1])), day(21)).unwrap();
        memory.save(&state, day(21)).unwrap();
    }
    let file = format!("state/retained/trust/own%3Aapi/{}.pem", authority().fingerprint().hex());
    assert!(at.path().join(file).exists());
    let state = start_run(&mut open_state_store(&at), replaced(&[1]), 22);
    let holds = state.trusts()["own:api"].build(day(22)).anchor_subjects();
    assert!(holds.contains(&authority().subject().to_owned()), "it is accepted on until the keyring's overlap is over");
}

#[test]
fn an_anchor_that_vanishes_while_nothing_runs_has_its_overlap_too_and_a_missing_file_does_not_remove_it() {
    let at = TempDir::new().unwrap();
    let other = crate::keyring::pool::issue(&crate::keyring::pool::api_request(0, 400));
    let holding = |anchors: Option<Vec<Arc<Certificate>>>| {
        let mut contents = api_contents(&[1]);
        contents.keyrings.get_mut("api").unwrap().anchors = anchors;
        contents
    };
    drop(start_run(&mut open_state_store(&at), api_contents(&[1]), 20));
    let holds = |state: &WriterState, days| {
        let mut holds = state.trusts()["own:api"].build(day(days)).anchor_subjects();
        holds.sort();
        holds
    };
    let mut both = vec![authority().subject().to_owned(), other.end_entity().subject().to_owned()];
    both.sort();
    assert_eq!(
        holds(&start_run(&mut open_state_store(&at), holding(None), 21), 21),
        [authority().subject()],
        "no ca.crt for a moment"
    );
    {
        let replaced = start_run(&mut open_state_store(&at), holding(Some(vec![Arc::clone(other.end_entity())])), 22);
        assert_eq!(holds(&replaced, 22), both);
    }
    let mut later = start_run(&mut open_state_store(&at), holding(Some(vec![Arc::clone(other.end_entity())])), 40);
    assert_eq!(holds(&later, 40), both, "counted from the start that found it gone");
    later.apply(&WriterInput::Tick, day(53)).unwrap();
    assert_eq!(holds(&later, 53), [other.end_entity().subject()]);
}

#[test]
fn decisions_that_cannot_be_read_are_left_alone_and_reported_once() {
    let at = TempDir::new().unwrap();
    {
        let mut memory = open_state_store(&at);
        let mut state = start_run(&mut memory, api_contents(&[1]), 20);
        replace_pairs(&mut state, &mut memory, &[2], 25);
    }
    let path = at.path().join("state/decisions.json");
    for torn in ["{\"version\": 1, \"keyrings\": {", r#"{"version": 9, "keyrings": {}, "trusts": {}}"#] {
        std::fs::write(&path, torn).unwrap();
        let mut memory = open_state_store(&at);
        let remembered = memory.read();
        let why = remembered.unreadable.clone().unwrap();
        assert!(why.contains("decisions.json") && why.contains("repair it"), "{why}");
        let state = WriterState::from_remembered(api_settings(), remembered, api_contents(&[2]), day(26)).0;
        assert_eq!(state.keyrings()["api"].shown(day(26)).len(), 1, "the folder serves");
        assert!(memory.save(&state, day(26)).unwrap_err().to_string().contains("no decision is saved"));
        assert!(memory.save(&state, day(26)).is_ok(), "reported once");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), torn);
        assert_eq!(retained_key_pairs(&at).len(), 2, "and what it spoke of is still there");
    }
}

#[test]
fn a_retained_file_that_cannot_be_read_is_skipped_and_stays() {
    let at = TempDir::new().unwrap();
    {
        let mut memory = open_state_store(&at);
        let mut state = start_run(&mut memory, api_contents(&[1]), 20);
        replace_pairs(&mut state, &mut memory, &[2], 25);
    }
    let stranger = at.path().join("state/retained/api/stranger.pem");
    std::fs::write(&stranger, "no key").unwrap();
    let mut memory = open_state_store(&at);
    let remembered = memory.read();
    assert_eq!(remembered.skipped.len(), 1);
    assert!(remembered.skipped[0].why.contains("no private key"), "{:?}", remembered.skipped);
    let (state, happened) = WriterState::from_remembered(api_settings(), remembered, api_contents(&[2]), day(26));
    assert_eq!(happened.problems.len(), 1);
    memory.save(&state, day(26)).unwrap();
    assert!(stranger.exists());
}

#[test]
fn two_sidekeys_do_not_share_a_state_folder() {
    let at = TempDir::new().unwrap();
    let first = open_state_store(&at);
    let error = StateMemory::open(at.path().join("state"), false).err().unwrap().to_string();
    assert!(error.contains(&*at.path().to_string_lossy()) && error.contains("another Sidekey process"), "{error}");
    drop(first);
    open_state_store(&at);
}

#[test]
fn a_folder_that_cannot_be_written_stops_nothing_and_is_taken_once_it_can_be() {
    let at = TempDir::new().unwrap();
    // A file where the folder must be: no user, not even root, can write there.
    std::fs::write(at.path().join("state"), "a file").unwrap();
    let mut memory = open_state_store(&at);
    let state = WriterState::from_remembered(api_settings(), memory.read(), api_contents(&[1]), day(20)).0;
    let error = memory.save(&state, day(20)).unwrap_err().to_string();
    assert!(error.contains("cannot be made") && error.contains("write access"), "{error}");
    assert_eq!(memory.last_failure(), Some(&*error));
    std::fs::remove_file(at.path().join("state")).unwrap();
    memory.save(&state, day(20)).unwrap();
    assert_eq!((memory.last_failure(), retained_key_pairs(&at).len()), (None, 1));
}

#[test]
fn a_folder_that_appears_later_with_decisions_of_its_own_is_not_overwritten() {
    let at = TempDir::new().unwrap();
    start_run(&mut open_state_store(&at), api_contents(&[1]), 20);
    let (state, aside) = (at.path().join("state"), at.path().join("aside"));
    std::fs::rename(&state, &aside).unwrap();
    std::fs::write(&state, "a file").unwrap();
    let mut memory = open_state_store(&at);
    let other = WriterState::from_remembered(api_settings(), memory.read(), api_contents(&[2]), day(26)).0;
    assert!(memory.save(&other, day(26)).is_err());
    std::fs::remove_file(&state).unwrap();
    std::fs::rename(&aside, &state).unwrap();
    let before = std::fs::read(state.join("decisions.json")).unwrap();
    let error = memory.save(&other, day(26)).unwrap_err().to_string();
    assert!(error.contains("restart to use them"), "{error}");
    assert_eq!(std::fs::read(state.join("decisions.json")).unwrap(), before);
}

#[test]
fn files_of_the_state_that_are_fifos_are_errors_and_never_waited_for() {
    let fifo = |path: &Path| {
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    };
    let at = TempDir::new().unwrap();
    std::fs::create_dir(at.path().join("state")).unwrap();
    for name in ["lock", "decisions.json"] {
        fifo(&at.path().join("state").join(name));
    }
    let mut memory = open_state_store(&at);
    let remembered = memory.read();
    let why = remembered.unreadable.clone().unwrap();
    assert!(why.contains("not a regular file"), "{why}");
    let state = WriterState::from_remembered(api_settings(), remembered, api_contents(&[1]), day(20)).0;
    assert!(memory.save(&state, day(20)).unwrap_err().to_string().contains("lock"));
    // The file that is written aside.
    let other = TempDir::new().unwrap();
    let mut memory = open_state_store(&other);
    fifo(&other.path().join("state/decisions.json.new"));
    let state = WriterState::from_remembered(api_settings(), memory.read(), api_contents(&[1]), day(20)).0;
    assert!(memory.save(&state, day(20)).is_err());
}

#[test]
fn a_state_that_others_can_change_is_a_warning_and_with_strict_permissions_a_refusal() {
    let at = TempDir::new().unwrap();
    let state = at.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let warnings = || open_state_store(&at).read().skipped;
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(warnings().len(), 1);
    assert!(StateMemory::open(state.clone(), true).err().unwrap().to_string().contains("every user can write"));
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink(at.path(), state.join("retained")).unwrap();
    assert!(warnings()[0].why.contains("is a link"));
    assert!(StateMemory::open(state.clone(), true).is_err());
    std::fs::remove_file(state.join("retained")).unwrap();
    assert_eq!(warnings(), []);
    assert!(StateMemory::open(state, true).is_ok());
}

#[test]
fn without_a_folder_nothing_is_kept() {
    let mut memory = StateMemory::in_memory();
    let state = start_run(&mut memory, api_contents(&[1]), 20);
    assert!(memory.save(&state, day(20)).is_ok());
}
