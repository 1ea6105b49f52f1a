use super::*;
use crate::snapshot::sample::{keyring, pair, snapshot};

fn meant(keyring: &KeyringView, change: Change, typed: Option<&str>) -> Result<Fingerprint, Reason> {
    command(keyring, change, typed).map(|(_, key_pair)| key_pair.unwrap()).map_err(|refused| refused.reason)
}

#[test]
fn a_pair_is_named_by_any_beginning_that_only_it_has() {
    let keyring =
        keyring(vec![pair(&[0xab, 0xcd, 0x01], Standing::Current), pair(&[0xab, 0xcd, 0x02], Standing::Previous)]);
    let (one, other) = (keyring.key_pairs[0].key_pair, keyring.key_pairs[1].key_pair);
    for typed in ["abcd01", "sha256:ABCD01", "ab:cd:01", &one.short(), &one.hex(), &one.to_string()] {
        assert_eq!(meant(&keyring, Change::Retire, Some(typed)), Ok(one), "{typed}");
    }
    assert_eq!(meant(&keyring, Change::Revoke, Some("abcd02")), Ok(other));
    assert_eq!(meant(&keyring, Change::Revoke, Some("abcd")), Err(Reason::Ambiguous));
    assert_eq!(meant(&keyring, Change::Revoke, Some("abce")), Err(Reason::NotFound));
    for typed in ["", "abc", "xyzw", "abcd01\u{1b}[31m", "sha256:"] {
        assert_eq!(meant(&keyring, Change::Revoke, Some(typed)), Err(Reason::NotUnderstood), "{typed:?}");
    }
    let long = format!("{}00", one.hex());
    assert_eq!(meant(&keyring, Change::Revoke, Some(&long)), Err(Reason::NotFound));
}

#[test]
fn a_revoked_pair_can_be_named_although_it_is_gone() {
    let gone = pair(&[0xee, 0xee], Standing::Revoked).key_pair;
    let keyring = KeyringView { revoked: vec![gone], ..keyring(Vec::new()) };
    assert_eq!(meant(&keyring, Change::Revoke, Some("eeee")), Ok(gone));
}

#[test]
fn where_only_one_can_be_meant_it_need_not_be_named() {
    let staged = pair(&[1], Standing::Staged);
    let previous = pair(&[2], Standing::Previous);
    let both = keyring(vec![staged.clone(), previous.clone(), pair(&[3], Standing::Current)]);
    assert_eq!(meant(&both, Change::Promote, None), Ok(staged.key_pair));
    assert_eq!(meant(&both, Change::Retire, None), Ok(previous.key_pair));
    assert_eq!(meant(&both, Change::Revoke, None), Err(Reason::NotFound), "revoking is never a guess");
    let two = keyring(vec![staged.clone(), pair(&[4], Standing::Staged)]);
    assert_eq!(meant(&two, Change::Promote, None), Err(Reason::Ambiguous));
    let held = KeyringView { held: vec![previous.key_pair], ..keyring(vec![previous.clone()]) };
    assert_eq!(meant(&held, Change::Promote, None), Ok(previous.key_pair), "what was rolled back from waits too");
    assert_eq!(meant(&keyring(vec![previous]), Change::Promote, None), Err(Reason::NotFound));
}

fn moved(of: &KeyPairView, to: Standing) -> Event {
    Event::Moved {
        keyring: "api".into(),
        key_pair: of.key_pair,
        from: None,
        to,
        reason: "promoted",
        explanation: format!("key pair {} is {}", of.key_pair.short(), to.as_str()),
        replaces: None,
        overlap_ends: None,
        sources: Vec::new(),
    }
}

#[test]
fn every_change_says_what_it_did_and_what_that_means() {
    let (one, other) = (pair(&[1], Standing::Current), pair(&[2], Standing::Previous));
    let both = keyring(vec![one.clone(), other.clone()]);
    let after = snapshot(vec![both.clone()]);
    let say = |change, key_pair, events: &[Event], remembers| {
        done(&Told { change, key_pair, events, before: &both, after: &after }, remembers)
    };
    let promoted = say(Change::Promote, Some(one.key_pair), &[moved(&one, Standing::Current)], true);
    assert_eq!(promoted.did, "promoted 010000000000 in keyring api");
    assert_eq!(promoted.means, "Key pair 010000000000 is current.");
    let back = say(Change::Rollback, None, &[moved(&one, Standing::Current)], true);
    assert_eq!((back.did.as_str(), back.key_pair), ("rolled keyring api back to 010000000000", Some(one.key_pair)));
    let retired = say(Change::Retire, Some(other.key_pair), &[moved(&other, Standing::Retired)], false);
    assert!(retired.means.contains("drained") && retired.means.contains("until sidekey restarts"), "{}", retired.means);
    let revoked = say(Change::Revoke, Some(other.key_pair), &[moved(&other, Standing::Revoked)], true);
    assert!(revoked.means.ends_with("010000000000 stays current."), "{}", revoked.means);
    let none = say(Change::Promote, Some(one.key_pair), &[], true);
    assert_eq!((none.changed, none.did.as_str()), (false, "nothing to do: 010000000000 is current in keyring api"));
}

#[test]
fn that_nothing_is_left_to_show_is_said() {
    let one = pair(&[1], Standing::Revoked);
    let before = keyring(vec![pair(&[1], Standing::Current)]);
    let after = snapshot(vec![keyring(vec![one.clone()])]);
    let events = [moved(&one, Standing::Revoked)];
    let told =
        Told { change: Change::Revoke, key_pair: Some(one.key_pair), events: &events, before: &before, after: &after };
    assert!(done(&told, true).means.contains("nothing left to show"));
}
