use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::evidence::report::PreviousPair;
use crate::snapshot::sample;

const OLD: u8 = 1;
const NEW: u8 = 2;

fn pair(byte: u8) -> Fingerprint {
    sample::sample_pair(&[byte], Standing::Current).key_pair
}

/// When the keyring rotated.
fn rotation_time() -> Timestamp {
    sample::sample_pair(&[NEW], Standing::Current).since
}

fn hours_after(hours: i64) -> UnixSeconds {
    (rotation_time() + SignedDuration::from_hours(hours)).into()
}

fn keyrings() -> Vec<KeyringView> {
    vec![sample::sample_keyring(vec![
        sample::sample_pair(&[NEW], Standing::Current),
        sample::sample_pair(&[OLD], Standing::Previous),
    ])]
}

fn overlap() -> KeyringOverlap {
    KeyringOverlap {
        keyring: "api".into(),
        owner: None,
        contact: None,
        current: pair(NEW),
        rotated: rotation_time(),
        previous: vec![PreviousPair { key_pair: pair(OLD), ends: Timestamp::MAX, survives_restart: true }],
        upstreams: vec![("out".into(), "sf.example:443".to_owned())],
    }
}

fn peer(side: Side, shown: u8, hours: i64) -> PeerRow {
    PeerRow {
        instance: "one".to_owned(),
        side: side.as_str().to_owned(),
        listener: "out".to_owned(),
        certificate: Fingerprint::of(b"theirs").to_string(),
        identity: Some("uri:spiffe://acme/etl".to_owned()),
        partner: Some("acme".to_owned()),
        subject: "CN=etl".to_owned(),
        issuer: "CN=Acme CA".to_owned(),
        serial: "01".to_owned(),
        not_before: hours_after(-2000),
        not_after: hours_after(2000),
        public_ca: false.into(),
        address: Some("203.0.113.7".to_owned()),
        keyring: Some("api".to_owned()),
        key_pair: Some(pair(shown).to_string()),
        chosen_by: Some("authorities".to_owned()),
        handshakes: 5,
        first_seen: hours_after(-2000),
        last_seen: hours_after(hours),
    }
}

fn upstream_row(key_pair: u8, verdict: UpstreamVerdict, hours: i64) -> HistoryRow {
    HistoryRow {
        instance: "one".to_owned(),
        at: hours_after(hours),
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

fn recall_all(peers: Vec<PeerRow>, upstreams: Vec<HistoryRow>) -> Vec<RecalledUse> {
    recall_usage(InstanceHistory { since: hours_after(-2000), peers, upstreams }, &keyrings(), &[overlap()])
}

#[test]
fn a_peer_is_recalled_with_the_pair_that_it_was_shown_last_and_why() {
    let got = recall_all(vec![peer(Side::Ingress, OLD, 3)], Vec::new());
    assert_eq!(
        got,
        [RecalledUse::Peer {
            keyring: "api".into(),
            listener: "out".into(),
            identity: "uri:spiffe://acme/etl".to_owned(),
            partner: Some("acme".into()),
            source: Some("203.0.113.7".parse().unwrap()),
            key_pair: pair(OLD),
            chosen_by: Some(SelectionReason::Authorities),
            last: hours_after(3).time(),
            is_after: true,
        }]
    );
    let before = recall_all(vec![peer(Side::Ingress, OLD, -3)], Vec::new());
    assert!(matches!(before[..], [RecalledUse::Peer { is_after: false, .. }]), "{before:?}");
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
    assert!(recall_all(vec![retired.clone(), foreign, anonymous, broken], Vec::new()).is_empty());
    retired.side = Side::Egress.as_str().to_owned();
    assert!(recall_all(vec![retired], Vec::new()).is_empty());
}

#[test]
fn an_upstream_is_recalled_with_its_last_word_about_the_new_pair_since_the_rotation() {
    let history = vec![
        upstream_row(OLD, UpstreamVerdict::Refused, 9),
        upstream_row(NEW, UpstreamVerdict::Proved, 8),
        upstream_row(NEW, UpstreamVerdict::Refused, 7),
    ];
    let got = recall_all(vec![peer(Side::Egress, NEW, 9)], history);
    let [RecalledUse::Shown { key_pair, last, .. }, RecalledUse::Upstream { said, since, key_pair: about, .. }] =
        &got[..]
    else {
        panic!("{got:?}");
    };
    assert_eq!((*key_pair, *last), (pair(NEW), hours_after(9).time()));
    assert_eq!((*said, *since, *about), (UpstreamResponse::Proved, hours_after(8).time(), pair(NEW)));
    assert!(
        recall_all(Vec::new(), vec![upstream_row(NEW, UpstreamVerdict::Proved, -1)]).is_empty(),
        "said before the rotation"
    );
    let mut elsewhere = upstream_row(NEW, UpstreamVerdict::Proved, 1);
    elsewhere.name = upstream_name("api", "other.example:443", "out");
    assert!(recall_all(Vec::new(), vec![elsewhere]).is_empty());
}

#[test]
fn every_reason_and_verdict_that_is_written_is_read_back() {
    for verdict in [UpstreamVerdict::HandshakeOk, UpstreamVerdict::Proved, UpstreamVerdict::Refused] {
        assert!(parse_verdict(verdict.as_str()).is_some(), "{verdict:?}");
    }
    for chosen_by in [
        SelectionReason::Only,
        SelectionReason::Authorities,
        SelectionReason::Partner,
        SelectionReason::Learned,
        SelectionReason::Prefer,
        SelectionReason::LastResort,
    ] {
        assert_eq!(SelectionReason::parse(chosen_by.as_str()), Some(chosen_by));
    }
    assert_eq!((parse_verdict("else"), SelectionReason::parse("else")), (None, None));
}

#[test]
fn what_came_in_the_very_second_of_the_rotation_came_after_it_unless_there_was_no_choice() {
    let mut keyrings = keyrings();
    keyrings[0].key_pairs[0].since += SignedDuration::from_millis(500);
    let is_after = |shown: u8, chosen_by: &str| {
        let mut row = peer(Side::Ingress, shown, 0);
        row.chosen_by = Some(chosen_by.to_owned());
        let former = InstanceHistory { since: hours_after(-2000), peers: vec![row], upstreams: Vec::new() };
        match &recall_usage(former, &keyrings, &[])[..] {
            [RecalledUse::Peer { is_after, last, .. }] => {
                assert_eq!(*is_after, keyrings[0].key_pairs[0].since <= *last);
                *is_after
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(is_after(NEW, "prefer") && is_after(OLD, "learned") && is_after(OLD, "prefer"));
    assert!(!is_after(OLD, "only"));
}
