use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::keyring::report::Previous;
use crate::snapshot::sample;

const OLD: u8 = 1;
const NEW: u8 = 2;

fn pair(byte: u8) -> Fingerprint {
    sample::pair(&[byte], Standing::Current).key_pair
}

/// When the keyring rotated.
fn rotated() -> Timestamp {
    sample::pair(&[NEW], Standing::Current).since
}

fn after(hours: i64) -> Seconds {
    (rotated() + SignedDuration::from_hours(hours)).into()
}

fn keyrings() -> Vec<KeyringView> {
    vec![sample::keyring(vec![sample::pair(&[NEW], Standing::Current), sample::pair(&[OLD], Standing::Previous)])]
}

fn overlap() -> InOverlap {
    InOverlap {
        keyring: "api".into(),
        owner: None,
        contact: None,
        current: pair(NEW),
        rotated: rotated(),
        previous: vec![Previous { key_pair: pair(OLD), ends: Timestamp::MAX, survives_restart: true }],
        upstreams: vec![("out".into(), "sf.example:443".to_owned())],
    }
}

fn peer(side: Side, shown: u8, hours: i64) -> Peer {
    Peer {
        instance: "one".to_owned(),
        side: side.as_str().to_owned(),
        listener: "out".to_owned(),
        certificate: Fingerprint::of(b"theirs").to_string(),
        identity: Some("uri:spiffe://acme/etl".to_owned()),
        partner: Some("acme".to_owned()),
        subject: "CN=etl".to_owned(),
        issuer: "CN=Acme CA".to_owned(),
        serial: "01".to_owned(),
        not_before: after(-2000),
        not_after: after(2000),
        public_ca: false.into(),
        address: Some("203.0.113.7".to_owned()),
        keyring: Some("api".to_owned()),
        key_pair: Some(pair(shown).to_string()),
        chosen_by: Some("authorities".to_owned()),
        handshakes: 5,
        first_seen: after(-2000),
        last_seen: after(hours),
    }
}

fn told(key_pair: u8, verdict: Verdict, hours: i64) -> Entry {
    Entry {
        instance: "one".to_owned(),
        at: after(hours),
        kind: "upstream".to_owned(),
        name: upstream_name("api", "sf.example:443", "out"),
        key_pair: Some(pair(key_pair).to_string()),
        was: None,
        becomes: Some(verdict.as_str().to_owned()),
        who: "upstream".to_owned(),
        reason: "status_403".to_owned(),
        why: "it answered 403".to_owned(),
    }
}

fn all(peers: Vec<Peer>, upstreams: Vec<Entry>) -> Vec<Recalled> {
    recalled(Former { since: after(-2000), peers, upstreams }, &keyrings(), &[overlap()])
}

#[test]
fn a_peer_is_recalled_with_the_pair_that_it_was_shown_last_and_why() {
    let got = all(vec![peer(Side::Ingress, OLD, 3)], Vec::new());
    assert_eq!(
        got,
        [Recalled::Peer {
            keyring: "api".into(),
            listener: "out".into(),
            identity: "uri:spiffe://acme/etl".to_owned(),
            partner: Some("acme".into()),
            source: Some("203.0.113.7".parse().unwrap()),
            key_pair: pair(OLD),
            chosen_by: Some(ChosenBy::Authorities),
            last: after(3).time(),
            is_after: true,
        }]
    );
    let before = all(vec![peer(Side::Ingress, OLD, -3)], Vec::new());
    assert!(matches!(before[..], [Recalled::Peer { is_after: false, .. }]), "{before:?}");
}

#[test]
fn rows_that_are_about_nothing_of_ours_are_passed_over() {
    let mut retired = peer(Side::Ingress, 9, 3);
    let mut foreign = peer(Side::Ingress, OLD, 3);
    foreign.keyring = Some("other".to_owned());
    let mut anonymous = peer(Side::Ingress, OLD, 3);
    anonymous.identity = None;
    let mut broken = peer(Side::Ingress, OLD, 3);
    broken.key_pair = Some("sha256:xyz".to_owned());
    assert!(all(vec![retired.clone(), foreign, anonymous, broken], Vec::new()).is_empty());
    retired.side = Side::Egress.as_str().to_owned();
    assert!(all(vec![retired], Vec::new()).is_empty());
}

#[test]
fn an_upstream_is_recalled_with_its_last_word_about_the_new_pair_since_the_rotation() {
    let history = vec![told(OLD, Verdict::Refused, 9), told(NEW, Verdict::Proved, 8), told(NEW, Verdict::Refused, 7)];
    let got = all(vec![peer(Side::Egress, NEW, 9)], history);
    let [Recalled::Shown { key_pair, last, .. }, Recalled::Upstream { said, since, key_pair: about, .. }] = &got[..]
    else {
        panic!("{got:?}");
    };
    assert_eq!((*key_pair, *last), (pair(NEW), after(9).time()));
    assert_eq!((*said, *since, *about), (Said::Proved, after(8).time(), pair(NEW)));
    assert!(all(Vec::new(), vec![told(NEW, Verdict::Proved, -1)]).is_empty(), "said before the rotation");
    let mut elsewhere = told(NEW, Verdict::Proved, 1);
    elsewhere.name = upstream_name("api", "other.example:443", "out");
    assert!(all(Vec::new(), vec![elsewhere]).is_empty());
}

#[test]
fn every_reason_and_verdict_that_is_written_is_read_back() {
    for verdict in [Verdict::HandshakeOk, Verdict::Proved, Verdict::Refused] {
        assert!(said(verdict.as_str()).is_some(), "{verdict:?}");
    }
    for chosen_by in [
        ChosenBy::Only,
        ChosenBy::Authorities,
        ChosenBy::Partner,
        ChosenBy::Learned,
        ChosenBy::Prefer,
        ChosenBy::LastResort,
    ] {
        assert_eq!(ChosenBy::parse(chosen_by.as_str()), Some(chosen_by));
    }
    assert_eq!((said("else"), ChosenBy::parse("else")), (None, None));
}

#[test]
fn what_came_in_the_very_second_of_the_rotation_came_after_it_unless_there_was_no_choice() {
    let mut keyrings = keyrings();
    keyrings[0].key_pairs[0].since += SignedDuration::from_millis(500);
    let is_after = |shown: u8, chosen_by: &str| {
        let mut row = peer(Side::Ingress, shown, 0);
        row.chosen_by = Some(chosen_by.to_owned());
        let former = Former { since: after(-2000), peers: vec![row], upstreams: Vec::new() };
        match &recalled(former, &keyrings, &[])[..] {
            [Recalled::Peer { is_after, last, .. }] => {
                assert_eq!(*is_after, keyrings[0].key_pairs[0].since <= *last);
                *is_after
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(is_after(NEW, "prefer") && is_after(OLD, "learned") && is_after(OLD, "prefer"));
    assert!(!is_after(OLD, "only"));
}
