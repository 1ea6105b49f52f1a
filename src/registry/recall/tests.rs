//! Rows to evidence and back: what counts for the rotation that an instance is in, and whose rows are the fleet's.

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::evidence::report::PreviousPair;
use crate::registry::InstanceRow;
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
        seen_within: std::time::Duration::from_hours(24),
        faces_peers: true,
    }
}

/// A sender that was shown this pair for the last time at that hour, and proved it then or caused it to be shown.
fn sender(shown: u8, hours: i64) -> ChangedSender {
    let at = hours_after(hours).time();
    let (keyring, listener) = ("api".into(), "in".into());
    let mut evidence = PairEvidence::new(pair(shown), VisitHistory::begin(at));
    (evidence.since, evidence.handshakes) = (Some(at), 3);
    evidence.chosen_by = Some(SelectionReason::Authorities);
    if shown == NEW {
        evidence.proved = Some(at);
    } else {
        let (reason, because) = ("unknown_ca".into(), "unknown CA".to_owned());
        evidence.insisted = Some(PairInsistence { at, reason, because });
    }
    (evidence.unexplained_ends, evidence.ended) = (1, Some(at));
    ChangedSender {
        key: SenderKey::new((&keyring, &listener), "dns:etl", Some(pair(9)), "2001:db8::7".parse().ok()),
        partner: Some("acme".into()),
        pairs: vec![evidence],
    }
}

fn held(instance: &str, key_pair: u8, standing: Standing, hours: i64) -> HeldPairRow {
    HeldPairRow {
        instance: instance.to_owned(),
        keyring: "api".to_owned(),
        key_pair: pair(key_pair).to_string(),
        standing: standing.as_str().to_owned(),
        since: hours_after(hours),
    }
}

fn instance(name: &str, hours: i64) -> InstanceRow {
    InstanceRow {
        instance: name.to_owned(),
        version: "0".to_owned(),
        first_seen: hours_after(hours),
        last_seen: hours_after(5),
    }
}

fn recall(fleet: FleetHistory) -> RecalledHistory {
    let query = plan_reading(&keyrings(), &[overlap()], true, hours_after(6).time());
    recall_fleet(fleet, &query, "one", &[overlap()])
}

#[test]
fn what_is_written_of_a_sender_is_read_back_as_it_was() {
    for (shown, own) in [(NEW, true), (OLD, false)] {
        let written = sender(shown, 3);
        let instance = if own { "one" } else { "two" };
        let pairs = vec![held(instance, NEW, Standing::Current, 0), held(instance, OLD, Standing::Previous, -900)];
        let fleet = FleetHistory { pairs, senders: sender_rows(&written, instance), ..FleetHistory::default() };
        let [RecalledUse::Sender { is_own, key, partner, evidence }] = &recall(fleet).uses[..] else { panic!() };
        assert_eq!((*is_own, key, partner), (own, &written.key, &written.partner));
        assert_eq!(*evidence, written.pairs[0]);
    }
}

#[test]
fn evidence_from_before_an_instances_own_rotation_only_says_when_the_sender_came() {
    // It rotated later than we did, or shows another current pair, or its pairs are unknown.
    let tables = [
        vec![held("two", NEW, Standing::Current, 4)],
        vec![held("two", OLD, Standing::Current, -900)],
        vec![held("two", NEW, Standing::Staged, 0), held("two", OLD, Standing::Current, 0)],
        Vec::new(),
    ];
    for pairs in tables {
        let senders = [sender(NEW, 3), sender(OLD, 3)].iter().flat_map(|one| sender_rows(one, "two")).collect();
        let history = recall(FleetHistory { pairs, senders, ..FleetHistory::default() });
        for (number, recalled) in history.uses.iter().enumerate() {
            let RecalledUse::Sender { evidence, .. } = recalled else { panic!("{recalled:?}") };
            let visits = VisitHistory::begin(hours_after(3).time());
            assert_eq!(*evidence, PairEvidence::new(pair([NEW, OLD][number]), visits));
        }
    }
}

#[test]
fn instances_of_the_fleet_are_those_that_hold_one_of_our_pairs() {
    let fleet = FleetHistory {
        instances: vec![instance("one", -5), instance("two", -700), instance("other", -9000)],
        pairs: vec![
            held("one", NEW, Standing::Current, 0),
            held("two", OLD, Standing::Current, -900),
            held("other", 9, Standing::Current, -900),
        ],
        ..FleetHistory::default()
    };
    let history = recall(fleet);
    assert_eq!(history.since, hours_after(-700).time());
    let replica = ReplicaStatus { instance: "two".to_owned(), last_heard: hours_after(5).time() };
    assert_eq!(history.replicas, [replica]);
}

#[test]
fn a_reading_is_of_all_keyrings_at_first_and_of_those_in_overlap_later() {
    let now = hours_after(6).time();
    let first = plan_reading(&keyrings(), &[], true, now);
    assert_eq!((first.keyrings.len(), first.rotated), (1, None));
    assert_eq!(first.keyrings[0].1, [pair(NEW), pair(OLD)], "the current pair first");
    assert_eq!(first.keyrings[0].2, now - SignedDuration::from_hours(35 * 24));
    assert!(plan_reading(&keyrings(), &[], false, now).keyrings.is_empty());
    let later = plan_reading(&keyrings(), &[overlap()], false, now);
    assert_eq!((later.keyrings.len(), later.rotated), (1, Some(rotation_time())));
}

#[test]
fn rows_that_cannot_be_read_are_passed_over() {
    let mut rows = sender_rows(&sender(NEW, 3), "one");
    rows[0].key_pair = "sha256:xyz".to_owned();
    let mut others = sender_rows(&sender(NEW, 3), "one");
    others[0].certificate = String::new();
    rows.append(&mut others);
    assert!(recall(FleetHistory { senders: rows, ..FleetHistory::default() }).uses.is_empty());
}

fn upstream_row(instance: &str, key_pair: u8, verdict: UpstreamVerdict, hours: i64) -> HistoryRow {
    HistoryRow {
        instance: instance.to_owned(),
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

#[test]
fn an_upstream_is_recalled_with_each_instances_last_word_about_the_new_pair_since_the_rotation() {
    let responses = vec![
        upstream_row("one", OLD, UpstreamVerdict::Refused, 9),
        upstream_row("one", NEW, UpstreamVerdict::Proved, 8),
        upstream_row("two", NEW, UpstreamVerdict::Refused, 7),
        upstream_row("one", NEW, UpstreamVerdict::Refused, 6),
        upstream_row("stranger", NEW, UpstreamVerdict::Refused, 5),
        upstream_row("two", NEW, UpstreamVerdict::Proved, -1),
    ];
    let mut elsewhere = upstream_row("three", NEW, UpstreamVerdict::Proved, 1);
    elsewhere.name = upstream_name("api", "other.example:443", "out");
    let fleet = FleetHistory {
        instances: vec![instance("one", -5), instance("two", -5), instance("stranger", -5)],
        pairs: vec![held("two", NEW, Standing::Current, 0)],
        responses: responses.into_iter().chain([elsewhere]).collect(),
        ..FleetHistory::default()
    };
    let said: Vec<(String, bool, UpstreamResponse)> = recall(fleet)
        .uses
        .into_iter()
        .map(|one| match one {
            RecalledUse::Upstream { instance, is_own, said, .. } => (instance, is_own, said),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        said,
        [("one".to_owned(), true, UpstreamResponse::Proved), ("two".to_owned(), false, UpstreamResponse::Refused)]
    );
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
