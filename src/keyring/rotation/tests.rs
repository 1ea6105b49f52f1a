use std::time::Duration;

use jiff::SignedDuration;

use super::super::pool::{self, CLIENT_ONLY_PAIR, OTHER_NAME_PAIR, TEST_PAIRS, ask_to_wait, day, issue};
use super::super::{EkuPolicy, ExpiryPolicy, KeyringCommand, KeyringRoles, PreferPolicy};
use super::entry::MAX_PREVIOUS;
use super::*;

fn api() -> Keyring {
    Keyring::restore(KeyringSettings::with_defaults("api".into()), &PersistedKeyring::default(), Vec::new())
}

fn keyring_with(change: impl FnOnce(&mut KeyringSettings)) -> Keyring {
    let mut settings = KeyringSettings::with_defaults("api".into());
    change(&mut settings);
    Keyring::restore(settings, &PersistedKeyring::default(), Vec::new())
}

fn folder(which: &[usize]) -> Vec<Arc<KeyPair>> {
    which.iter().map(|at| Arc::clone(&TEST_PAIRS[*at])).collect()
}

fn fingerprint(at: usize) -> Fingerprint {
    TEST_PAIRS[at].fingerprint()
}

/// What moved, as (pair, to, reason).
fn movements(events: &[KeyringEvent]) -> Vec<(Fingerprint, Standing, &'static str)> {
    let one = |event: &KeyringEvent| match event {
        KeyringEvent::Moved { key_pair, to, reason, explanation, .. } => {
            assert!(explanation.len() > 20 && explanation.contains(&key_pair.short()), "{explanation}");
            Some((*key_pair, *to, *reason))
        }
        KeyringEvent::LastResort { .. } => None,
    };
    events.iter().filter_map(one).collect()
}

fn current(keyring: &Keyring) -> Option<Fingerprint> {
    keyring.current().map(|held| held.pair.fingerprint())
}

fn standing(keyring: &Keyring, key_pair: Fingerprint) -> Option<Standing> {
    keyring.pairs().iter().find(|held| held.pair.fingerprint() == key_pair).map(|held| held.standing)
}

use Standing::{Current, Previous, Refused, Retired, Revoked, Staged};

#[test]
fn the_first_pair_is_current_and_the_same_again_changes_nothing() {
    let mut keyring = api();
    assert_eq!(movements(&keyring.arrive(&folder(&[1]), day(20))), [(fingerprint(1), Current, "first")]);
    assert_eq!(keyring.arrive(&folder(&[1]), day(21)), []);
    assert_eq!(keyring.divergence(), None);
}

#[test]
fn a_newer_pair_rotates_and_the_old_one_stays_valid_until_the_overlap_ends() {
    let mut keyring = keyring_with(|settings| settings.overlap = Duration::from_hours(10 * 24));
    keyring.arrive(&folder(&[1]), day(20));
    let events = keyring.arrive(&folder(&[2]), day(25));
    assert_eq!(
        movements(&events),
        [(fingerprint(2), Current, "newer_arrived"), (fingerprint(1), Previous, "newer_arrived")]
    );
    let KeyringEvent::Moved { replaces, explanation, .. } = &events[0] else { panic!() };
    assert_eq!(*replaces, Some(fingerprint(1)));
    assert!(explanation.contains("both are valid until 2026-02-05T00:00:00Z"), "{explanation}");
    assert_eq!(keyring.shown(day(30)).len(), 2);
    assert_eq!(keyring.to_retain(day(30)).len(), 2, "what is in use is kept, its file there or not");
    assert_eq!(keyring.next_due(), Some(day(35)));
    assert_eq!(keyring.tick(day(34), true), []);
    assert_eq!(movements(&keyring.tick(day(35), true)), [(fingerprint(1), Retired, "overlap_ended")]);
    assert_eq!(keyring.shown(day(35)).len(), 1);
    assert_eq!(keyring.to_retain(day(41)).len(), 2, "a week longer for rollback");
    assert_eq!(keyring.tick(day(42), true), []);
    assert_eq!(standing(&keyring, fingerprint(1)), None, "then its key leaves memory");
}

#[test]
fn an_overlap_ends_at_not_after_at_the_latest() {
    let mut keyring = api();
    keyring.arrive(&folder(&[1]), day(20));
    keyring.arrive(&folder(&[1, 3]), day(40));
    assert_eq!(keyring.previous()[0].overlap_ends, Some(day(50)));
    assert_eq!(movements(&keyring.tick(day(50), true)), [(fingerprint(1), Retired, "expired")]);
    assert_eq!(keyring.arrive(&folder(&[1, 3]), day(50)), [], "its file lies there all the same");
}

#[test]
fn an_older_arrival_is_previous_until_it_is_promoted() {
    let mut keyring = api();
    keyring.arrive(&folder(&[2]), day(25));
    assert_eq!(
        movements(&keyring.arrive(&folder(&[1, 2]), day(26))),
        [(fingerprint(1), Previous, "older_than_current")]
    );
    let events = keyring.execute(&KeyringCommand::Promote(fingerprint(1)), day(27)).unwrap();
    assert_eq!(movements(&events), [(fingerprint(1), Current, "promoted"), (fingerprint(2), Previous, "promoted")]);
    assert_eq!(keyring.arrive(&folder(&[2, 1]), day(28)), [], "a rescan does not undo it");
    assert_eq!(keyring.divergence(), Some((fingerprint(2), day(27))));
    assert_eq!(keyring.execute(&KeyringCommand::Promote(fingerprint(1)), day(28)), Ok(Vec::new()));
}

#[test]
fn a_folder_put_back_makes_the_former_pair_current_again() {
    let mut keyring = api();
    keyring.arrive(&folder(&[1]), day(20));
    keyring.arrive(&folder(&[2]), day(25));
    let events = keyring.arrive(&folder(&[1]), day(26));
    assert_eq!(movements(&events), [(fingerprint(1), Current, "returned"), (fingerprint(2), Previous, "returned")]);
}

#[test]
fn an_empty_folder_takes_nothing_away() {
    let mut keyring = api();
    keyring.arrive(&folder(&[1]), day(20));
    keyring.arrive(&folder(&[2]), day(25));
    assert_eq!(keyring.arrive(&[], day(26)), []);
    assert_eq!((current(&keyring), keyring.shown(day(26)).len()), (Some(fingerprint(2)), 2));
    assert_eq!(keyring.to_retain(day(26)).len(), 2);
}

#[test]
fn a_pair_that_comes_before_its_time_is_staged_until_not_before_and_skew() {
    let mut keyring = api();
    keyring.arrive(&folder(&[1]), day(20));
    assert_eq!(movements(&keyring.arrive(&folder(&[1, 3]), day(25))), [(fingerprint(3), Staged, "not_yet_valid")]);
    assert_eq!(keyring.divergence(), Some((fingerprint(3), day(25))));
    let due = day(30) + SignedDuration::from_mins(1);
    assert_eq!(keyring.next_due(), Some(due));
    assert!(keyring.execute(&KeyringCommand::Promote(fingerprint(3)), day(26)).is_err());
    assert_eq!(keyring.tick(day(30), true), []);
    assert_eq!(
        movements(&keyring.tick(due, true)),
        [(fingerprint(3), Current, "due"), (fingerprint(1), Previous, "due")]
    );
}

#[test]
fn a_pair_of_another_name_waits_for_promote() {
    let mut keyring = api();
    keyring.arrive(&folder(&[1]), day(36));
    let both = [Arc::clone(&TEST_PAIRS[1]), Arc::clone(&OTHER_NAME_PAIR)];
    let stranger = OTHER_NAME_PAIR.fingerprint();
    assert_eq!(movements(&keyring.arrive(&both, day(37))), [(stranger, Staged, "shares_no_name")]);
    assert!(keyring.pairs().iter().any(|held| held.why.as_deref().is_some_and(|why| why.contains("shares no name"))));
    keyring.execute(&KeyringCommand::Promote(stranger), day(38)).unwrap();
    assert_eq!(current(&keyring), Some(stranger));
}

#[test]
fn without_a_pair_to_keep_nothing_is_staged() {
    let mut keyring = keyring_with(|settings| settings.activate = ActivationPolicy::Manual);
    let both = [Arc::clone(&TEST_PAIRS[1]), Arc::clone(&OTHER_NAME_PAIR)];
    keyring.arrive(&both, day(37));
    assert_eq!((current(&keyring), keyring.previous().len()), (Some(OTHER_NAME_PAIR.fingerprint()), 1));
}

#[test]
fn manual_activation_waits_for_promote_and_auto_ends_the_wait() {
    let mut keyring = keyring_with(|settings| settings.activate = ActivationPolicy::Manual);
    keyring.arrive(&folder(&[1]), day(20));
    assert_eq!(movements(&keyring.arrive(&folder(&[2]), day(25))), [(fingerprint(2), Staged, "activate_manual")]);
    assert_eq!(current(&keyring), Some(fingerprint(1)));
    let events = keyring.configure(KeyringSettings::with_defaults("api".into()), day(26));
    assert_eq!(
        movements(&events),
        [(fingerprint(2), Current, "newer_arrived"), (fingerprint(1), Previous, "newer_arrived")]
    );
}

#[test]
fn a_staged_pair_that_leaves_the_folder_is_withdrawn() {
    let mut keyring = keyring_with(|settings| settings.activate = ActivationPolicy::Manual);
    keyring.arrive(&folder(&[1]), day(20));
    keyring.arrive(&folder(&[1, 2]), day(25));
    assert_eq!(movements(&keyring.arrive(&folder(&[1]), day(26))), [(fingerprint(2), Retired, "withdrawn")]);
    assert_eq!(standing(&keyring, fingerprint(2)), None);
}

#[test]
fn rollback_holds_the_pair_until_it_is_promoted_or_comes_again() {
    let mut keyring = api();
    keyring.arrive(&folder(&[1]), day(20));
    keyring.arrive(&folder(&[1, 2]), day(25));
    let events = keyring.execute(&KeyringCommand::Rollback, day(26)).unwrap();
    assert_eq!(
        movements(&events),
        [(fingerprint(1), Current, "rolled_back"), (fingerprint(2), Previous, "rolled_back")]
    );
    assert_eq!(keyring.arrive(&folder(&[1, 2]), day(27)), []);
    assert!(keyring.execute(&KeyringCommand::Rollback, day(27)).is_err(), "a second rollback does not roll forward");
    let mut other = keyring.clone();
    other.execute(&KeyringCommand::Promote(fingerprint(2)), day(28)).unwrap();
    assert_eq!(current(&other), Some(fingerprint(2)));
    keyring.arrive(&folder(&[1]), day(28));
    assert_eq!(current(&keyring), Some(fingerprint(1)));
    keyring.arrive(&folder(&[1, 2]), day(29));
    assert_eq!(current(&keyring), Some(fingerprint(2)), "taken out and put in again is new content");
}

#[test]
fn rollback_reaches_a_pair_whose_file_is_gone_and_whose_overlap_is_over() {
    let mut keyring = keyring_with(|settings| settings.overlap = Duration::from_hours(24));
    keyring.arrive(&folder(&[1]), day(20));
    keyring.arrive(&folder(&[2]), day(25));
    keyring.tick(day(26), true);
    assert_eq!(standing(&keyring, fingerprint(1)), Some(Retired));
    keyring.execute(&KeyringCommand::Rollback, day(27)).unwrap();
    assert_eq!(current(&keyring), Some(fingerprint(1)));
    assert_eq!(keyring.arrive(&folder(&[2]), day(27)), []);
    let prefers = |keyring: &Keyring| keyring.shown(day(27))[0].0.prefer;
    let mut old = keyring.settings().clone();
    old.prefer = PreferPolicy::Old;
    keyring.configure(old, day(27));
    assert_eq!(prefers(&keyring), PreferPolicy::New, "prefer = old does not bring back what was rolled back from");
}

#[test]
fn a_revoked_pair_never_serves_again() {
    let mut keyring = api();
    keyring.arrive(&folder(&[1]), day(20));
    keyring.arrive(&folder(&[1, 2]), day(25));
    let events = keyring.execute(&KeyringCommand::Revoke(fingerprint(2)), day(26)).unwrap();
    assert_eq!(movements(&events), [(fingerprint(1), Current, "revoked"), (fingerprint(2), Revoked, "revoked")]);
    assert!(keyring.execute(&KeyringCommand::Promote(fingerprint(2)), day(26)).is_err());
    keyring.arrive(&folder(&[1]), day(27));
    assert_eq!(standing(&keyring, fingerprint(2)), None, "its key left memory");
    assert_eq!(movements(&keyring.arrive(&folder(&[1, 2]), day(28))), [(fingerprint(2), Refused, "revoked")]);
    assert_eq!(keyring.divergence(), None);
    keyring.execute(&KeyringCommand::Revoke(fingerprint(1)), day(29)).unwrap();
    assert_eq!((current(&keyring), keyring.shown(day(29)).len()), (None, 0));
}

#[test]
fn a_revocation_in_the_configuration_is_one_too() {
    let mut keyring = api();
    keyring.arrive(&folder(&[1, 2]), day(25));
    let mut settings = keyring.settings().clone();
    settings.revoked.insert(fingerprint(2));
    keyring.configure(settings.clone(), day(26));
    assert_eq!(current(&keyring), Some(fingerprint(1)));
    settings.revoked.clear();
    assert_eq!(keyring.configure(settings, day(27)), [], "nothing leaves revoked while the process runs");
}

#[test]
fn the_last_pair_is_not_taken_away_when_it_expires() {
    let mut keyring = api();
    keyring.arrive(&folder(&[1]), day(20));
    let events = keyring.tick(day(51), true);
    let name_of = keyring.settings().name.clone();
    assert_eq!(
        events,
        [KeyringEvent::LastResort { keyring: name_of, key_pair: fingerprint(1), expired: day(50), served: true }]
    );
    assert_eq!(keyring.tick(day(52), true), [], "told once");
    assert!(keyring.shown(day(52))[0].0.last_resort);
    let mut settings = keyring.settings().clone();
    settings.on_expiry = ExpiryPolicy::Refuse;
    assert!(matches!(keyring.configure(settings, day(52))[..], [KeyringEvent::LastResort { served: false, .. }]));
    assert_eq!(keyring.shown(day(52)).len(), 0);
    let events = keyring.arrive(&folder(&[1, 4]), day(53));
    assert_eq!(movements(&events), [(fingerprint(4), Current, "newer_arrived"), (fingerprint(1), Retired, "expired")]);
}

#[test]
fn an_expired_pair_gives_way_to_a_valid_previous_one() {
    let mut keyring = api();
    keyring.arrive(&folder(&[9]), day(5));
    keyring.arrive(&folder(&[1]), day(35));
    let events = keyring.tick(day(51), true);
    assert_eq!(movements(&events), [(fingerprint(9), Current, "expired"), (fingerprint(1), Retired, "expired")]);
}

#[test]
fn refused_pairs_are_told_once_and_weighed_again_with_other_settings() {
    let mut keyring = keyring_with(|settings| settings.roles = KeyringRoles { server: true, client: false });
    keyring.arrive(&folder(&[0]), day(20));
    let both = [Arc::clone(&TEST_PAIRS[0]), Arc::clone(&CLIENT_ONLY_PAIR)];
    let client_only = CLIENT_ONLY_PAIR.fingerprint();
    assert_eq!(movements(&keyring.arrive(&both, day(21))), [(client_only, Refused, "usage_excludes_server")]);
    assert_eq!(keyring.arrive(&both, day(22)), []);
    assert_eq!(keyring.divergence(), Some((client_only, day(21))));
    let mut settings = keyring.settings().clone();
    settings.eku = EkuPolicy::Warn;
    let events = keyring.configure(settings, day(23));
    assert_eq!(movements(&events)[0], (client_only, Current, "newer_arrived"));
    let KeyringEvent::Moved { explanation, .. } = &events[0] else { panic!() };
    assert!(explanation.contains("warning: "), "{explanation}");
}

#[test]
fn nothing_is_retired_while_the_clock_is_not_steady() {
    let mut keyring = keyring_with(|settings| settings.overlap = Duration::from_hours(24));
    keyring.arrive(&folder(&[1]), day(20));
    keyring.arrive(&folder(&[1, 2]), day(25));
    assert_eq!(keyring.tick(day(40), false), []);
    assert_eq!(keyring.arrive(&folder(&[2]), day(40)), [], "by no other input either");
    assert_eq!(movements(&keyring.tick(day(40), true)), [(fingerprint(1), Retired, "overlap_ended")]);
}

#[test]
fn the_configuration_names_the_current_pair() {
    let mut keyring = keyring_with(|settings| settings.current = Some(fingerprint(1)));
    keyring.arrive(&folder(&[1, 2]), day(25));
    assert_eq!(current(&keyring), Some(fingerprint(1)));
    assert_eq!(keyring.divergence(), None);
    assert!(keyring.execute(&KeyringCommand::Rollback, day(25)).is_err());
    assert!(keyring.execute(&KeyringCommand::Promote(fingerprint(2)), day(25)).is_err());
    let mut settings = keyring.settings().clone();
    settings.current = Some(fingerprint(3));
    assert_eq!(keyring.configure(settings, day(26)), [], "a pair that is not here changes nothing");
    assert_eq!(movements(&keyring.arrive(&folder(&[1, 2, 3]), day(35)))[0], (fingerprint(3), Current, "configured"));
}

#[test]
fn at_most_eight_are_previous_and_the_oldest_retire_first() {
    let mut keyring = api();
    let pairs: Vec<_> = (0..10).map(|at| issue(&pool::api_request(at, 100))).collect();
    let events = keyring.arrive(&pairs, day(20));
    assert_eq!(movements(&events)[0], (pairs[9].fingerprint(), Current, "first"));
    assert!(movements(&events).contains(&(pairs[0].fingerprint(), Retired, "more_than_eight_previous")));
    assert_eq!(keyring.previous().len(), MAX_PREVIOUS);
    assert_eq!(keyring.arrive(&pairs, day(20)), []);
}

#[test]
fn a_drop_while_down_is_a_rotation_at_the_next_start() {
    let mut keyring = api();
    keyring.arrive(&folder(&[1]), day(20));
    let mut next = Keyring::restore(KeyringSettings::with_defaults("api".into()), &keyring.to_persisted(), Vec::new());
    assert_eq!(next.arrive(&[], day(25)), [], "the folder comes late");
    let events = next.arrive(&folder(&[1, 2]), day(25));
    assert_eq!(
        movements(&events),
        [(fingerprint(2), Current, "newer_arrived"), (fingerprint(1), Previous, "newer_arrived")]
    );
}

#[test]
fn a_command_for_an_unknown_pair_names_it() {
    let error = api().execute(&KeyringCommand::Retire(fingerprint(1)), day(20)).unwrap_err();
    assert_eq!(error, CommandError::Unknown { keyring: "api".into(), key_pair: fingerprint(1) });
}

#[test]
fn a_pair_whose_file_asks_for_it_waits_until_it_is_promoted_or_the_line_is_gone() {
    let marked = |at: usize| ask_to_wait(&TEST_PAIRS[at]);
    // With nothing to keep there is nothing to wait beside.
    let mut keyring = api();
    assert_eq!(movements(&keyring.arrive(&[marked(1)], day(20))), [(fingerprint(1), Current, "first")]);
    let both = [marked(1), marked(2)];
    assert_eq!(movements(&keyring.arrive(&both, day(25))), [(fingerprint(2), Staged, "marked_staged")]);
    assert_eq!(keyring.arrive(&both, day(26)), []);
    // The next start remembers it, and so does one whose folder comes late.
    let mut again = Keyring::restore(KeyringSettings::with_defaults("api".into()), &keyring.to_persisted(), Vec::new());
    again.arrive(&both, day(27));
    assert_eq!((current(&again), standing(&again, fingerprint(2))), (Some(fingerprint(1)), Some(Staged)));
    assert_eq!(
        movements(&again.execute(&KeyringCommand::Promote(fingerprint(2)), day(28)).unwrap())[0],
        (fingerprint(2), Current, "promoted")
    );
    assert_eq!(again.arrive(&both, day(29)), [], "the line staged it again");
    let unmarked = [marked(1), Arc::clone(&TEST_PAIRS[2])];
    assert_eq!(movements(&keyring.arrive(&unmarked, day(27)))[0], (fingerprint(2), Current, "newer_arrived"));
}

#[test]
fn without_the_line_activate_manual_still_holds_a_pair_back() {
    let mut keyring = keyring_with(|settings| settings.activate = ActivationPolicy::Manual);
    keyring.arrive(&folder(&[1]), day(20));
    keyring.arrive(&[Arc::clone(&TEST_PAIRS[1]), ask_to_wait(&TEST_PAIRS[2])], day(25));
    keyring.arrive(&folder(&[1, 2]), day(26));
    assert_eq!(standing(&keyring, fingerprint(2)), Some(Staged));
}

#[test]
fn of_the_retired_pairs_whose_files_are_gone_the_last_eight_are_kept() {
    let mut keyring = keyring_with(|settings| settings.overlap = Duration::ZERO);
    let pairs: Vec<_> =
        (0..12).map(|at| crate::keyring::pool::issue(&crate::keyring::pool::api_request(at, 400))).collect();
    for (at, pair) in pairs.iter().enumerate() {
        keyring.arrive(std::slice::from_ref(pair), day(20) + jiff::SignedDuration::from_mins(at as i64));
        keyring.tick(day(20) + jiff::SignedDuration::from_mins(at as i64), true);
    }
    let kept: Vec<_> = keyring.pairs().iter().map(|held| held.pair.fingerprint()).collect();
    assert_eq!(kept.len(), 9);
    assert!(pairs[3..].iter().all(|pair| kept.contains(&pair.fingerprint())), "the latest ones");
    keyring.execute(&KeyringCommand::Rollback, day(21)).unwrap();
    assert_eq!(keyring.current().unwrap().pair.fingerprint(), pairs[10].fingerprint());
}
