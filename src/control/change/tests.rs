use super::*;
use crate::snapshot::KeyPairView;
use crate::snapshot::sample::{sample_keyring, sample_pair, sample_snapshot};

fn meant(keyring: &KeyringView, change: PairChange, typed: Option<&str>) -> Result<Fingerprint, RefusalReason> {
    command(keyring, change, typed).map(|(_, key_pair)| key_pair.unwrap()).map_err(|refused| refused.reason)
}

#[test]
fn a_pair_is_named_by_any_beginning_that_only_it_has() {
    let keyring = sample_keyring(vec![
        sample_pair(&[0xab, 0xcd, 0x01], Standing::Current),
        sample_pair(&[0xab, 0xcd, 0x02], Standing::Previous),
    ]);
    let (one, other) = (keyring.key_pairs[0].key_pair, keyring.key_pairs[1].key_pair);
    for typed in ["abcd01", "sha256:ABCD01", "ab:cd:01", &one.short(), &one.hex(), &one.to_string()] {
        assert_eq!(meant(&keyring, PairChange::Retire, Some(typed)), Ok(one), "{typed}");
    }
    assert_eq!(meant(&keyring, PairChange::Revoke, Some("abcd02")), Ok(other));
    assert_eq!(meant(&keyring, PairChange::Revoke, Some("abcd")), Err(RefusalReason::Ambiguous));
    assert_eq!(meant(&keyring, PairChange::Revoke, Some("abce")), Err(RefusalReason::NotFound));
    for typed in ["", "abc", "xyzw", "abcd01\u{1b}[31m", "sha256:"] {
        assert_eq!(meant(&keyring, PairChange::Revoke, Some(typed)), Err(RefusalReason::NotUnderstood), "{typed:?}");
    }
    let long = format!("{}00", one.hex());
    assert_eq!(meant(&keyring, PairChange::Revoke, Some(&long)), Err(RefusalReason::NotFound));
}

#[test]
fn a_revoked_pair_can_be_named_although_it_is_gone() {
    let gone = sample_pair(&[0xee, 0xee], Standing::Revoked).key_pair;
    let keyring = KeyringView { revoked: vec![gone], ..sample_keyring(Vec::new()) };
    assert_eq!(meant(&keyring, PairChange::Revoke, Some("eeee")), Ok(gone));
}

#[test]
fn where_only_one_can_be_meant_it_need_not_be_named() {
    let staged = sample_pair(&[1], Standing::Staged);
    let previous = sample_pair(&[2], Standing::Previous);
    let both = sample_keyring(vec![staged.clone(), previous.clone(), sample_pair(&[3], Standing::Current)]);
    assert_eq!(meant(&both, PairChange::Promote, None), Ok(staged.key_pair));
    assert_eq!(meant(&both, PairChange::Retire, None), Ok(previous.key_pair));
    assert_eq!(meant(&both, PairChange::Revoke, None), Err(RefusalReason::NotFound), "revoking is never a guess");
    let two = sample_keyring(vec![staged.clone(), sample_pair(&[4], Standing::Staged)]);
    assert_eq!(meant(&two, PairChange::Promote, None), Err(RefusalReason::Ambiguous));
    let held = KeyringView { held: vec![previous.key_pair], ..sample_keyring(vec![previous.clone()]) };
    assert_eq!(meant(&held, PairChange::Promote, None), Ok(previous.key_pair), "what was rolled back from waits too");
    assert_eq!(meant(&sample_keyring(vec![previous]), PairChange::Promote, None), Err(RefusalReason::NotFound));
}

fn moved(of: &KeyPairView, to: Standing) -> KeyringEvent {
    KeyringEvent::Moved {
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
    let (one, other) = (sample_pair(&[1], Standing::Current), sample_pair(&[2], Standing::Previous));
    let both = sample_keyring(vec![one.clone(), other.clone()]);
    let after = sample_snapshot(vec![both.clone()]);
    let say = |change, key_pair, events: &[KeyringEvent], remembers| {
        done(&ChangeReport { change, key_pair, events, before: &both, after: &after }, remembers)
    };
    let promoted = say(PairChange::Promote, Some(one.key_pair), &[moved(&one, Standing::Current)], true);
    assert_eq!(promoted.did, "promoted 010000000000 in keyring api");
    assert_eq!(promoted.means, "Key pair 010000000000 is current.");
    let back = say(PairChange::Rollback, None, &[moved(&one, Standing::Current)], true);
    assert_eq!((back.did.as_str(), back.key_pair), ("rolled keyring api back to 010000000000", Some(one.key_pair)));
    let retired = say(PairChange::Retire, Some(other.key_pair), &[moved(&other, Standing::Retired)], false);
    assert!(retired.means.contains("drained") && retired.means.contains("until sidekey restarts"), "{}", retired.means);
    let revoked = say(PairChange::Revoke, Some(other.key_pair), &[moved(&other, Standing::Revoked)], true);
    assert!(revoked.means.ends_with("010000000000 stays current."), "{}", revoked.means);
    let none = say(PairChange::Promote, Some(one.key_pair), &[], true);
    assert_eq!((none.changed, none.did.as_str()), (false, "nothing to do: 010000000000 is current in keyring api"));
}

#[test]
fn that_nothing_is_left_to_show_is_said() {
    let one = sample_pair(&[1], Standing::Revoked);
    let before = sample_keyring(vec![sample_pair(&[1], Standing::Current)]);
    let after = sample_snapshot(vec![sample_keyring(vec![one.clone()])]);
    let events = [moved(&one, Standing::Revoked)];
    let told = ChangeReport {
        change: PairChange::Revoke,
        key_pair: Some(one.key_pair),
        events: &events,
        before: &before,
        after: &after,
    };
    assert!(done(&told, true).means.contains("no key pair left to show"));
}
