//! What must hold of pairs whose files are broken: nothing of them goes into use while a whole pair is there.

use super::super::pool::{TEST_PAIRS, day};
use super::Standing::{Current, Previous, Refused};
use super::*;
use crate::pki::PairOrigin;

fn api() -> Keyring {
    Keyring::restore(KeyringSettings::with_defaults("api".into()), &PersistedKeyring::default(), Vec::new())
}

fn whole(at: usize) -> Arc<KeyPair> {
    Arc::clone(&TEST_PAIRS[at])
}

fn broken(at: usize) -> Arc<KeyPair> {
    let origin = TEST_PAIRS[at].origin().clone();
    TEST_PAIRS[at].with_origin(PairOrigin { broken_file: Some("api/tls.crt".into()), ..origin })
}

fn standing(keyring: &Keyring, at: usize) -> Option<Standing> {
    let key_pair = TEST_PAIRS[at].fingerprint();
    keyring.pairs().iter().find(|held| held.pair.fingerprint() == key_pair).map(|held| held.standing)
}

#[test]
fn a_newer_pair_of_a_broken_file_is_refused_while_a_whole_one_is_in_use() {
    let mut keyring = api();
    keyring.arrive(&[whole(1)], day(20));
    // The file was overwritten: the whole pair is in memory only.
    keyring.arrive(&[broken(2)], day(21));
    assert_eq!((standing(&keyring, 1), standing(&keyring, 2)), (Some(Current), Some(Refused)));
    let why = keyring.pairs().iter().find_map(|held| held.why.clone()).unwrap();
    assert!(why.contains("api/tls.crt is broken") && why.contains("copy"), "{why}");
    keyring.arrive(&[whole(2)], day(22));
    assert_eq!((standing(&keyring, 1), standing(&keyring, 2)), (Some(Previous), Some(Current)));
}

#[test]
fn at_a_start_the_whole_pair_is_chosen_and_without_one_the_broken_file_serves() {
    let mut both = api();
    both.arrive(&[whole(1), broken(2)], day(21));
    assert_eq!((standing(&both, 1), standing(&both, 2)), (Some(Current), Some(Refused)));
    let mut alone = api();
    alone.arrive(&[broken(2)], day(21));
    assert_eq!(standing(&alone, 2), Some(Current));
    alone.arrive(&[broken(2), whole(1)], day(22));
    assert_eq!((standing(&alone, 1), standing(&alone, 2)), (Some(Current), Some(Previous)));
}

#[test]
fn what_is_left_of_a_broken_file_does_not_take_the_place_of_the_same_pair_that_was_whole() {
    let mut keyring = api();
    keyring.arrive(&[whole(1)], day(20));
    assert_eq!(keyring.arrive(&[broken(1)], day(21)), []);
    assert!(!keyring.current().unwrap().pair.is_broken());
}
