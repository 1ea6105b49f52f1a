//! Single refusals: what creates, confirms, ends and preserves them.

use super::*;
use crate::keyring::pool::day;

const OFFER: u64 = 7;

pub(super) fn pair(number: u8) -> Fingerprint {
    Fingerprint::from_bytes([number; 32])
}

pub(super) fn source(address: &str) -> PeerSource {
    PeerSource::new("api".into(), address.parse().unwrap(), Some("api.example".into()))
}

fn time_at(seconds: i64) -> Timestamp {
    day(0) + jiff::SignedDuration::from_secs(seconds)
}

fn refuse(learned: &mut RefusalTable, source: &PeerSource, offer: u64, now: Timestamp) -> Vec<RefusalChange> {
    refuse_pair(learned, source, (1, Some(2)), offer, now)
}

fn refuse_pair(
    learned: &mut RefusalTable,
    source: &PeerSource,
    (key_pair, next): (u8, Option<u8>),
    offer: u64,
    now: Timestamp,
) -> Vec<RefusalChange> {
    let keyring = "api".into();
    let refusal = RefusalReport { source, keyring: &keyring, key_pair: pair(key_pair), alert: "unknown_ca", offer };
    learned.record_refusal(&refusal, next.map(pair), now)
}

fn accept(
    learned: &mut RefusalTable,
    source: &PeerSource,
    key_pair: u8,
    peer: u8,
    offer: u64,
    now: Timestamp,
) -> Vec<RefusalChange> {
    let accepted = AcceptanceReport { source, key_pair: pair(key_pair), peer: (pair(peer), "uri:spiffe://a/b"), offer };
    learned.record_acceptance(&accepted, now)
}

fn codes(changes: &[RefusalChange]) -> Vec<(RefusalStatus, &'static str)> {
    changes.iter().map(|change| (change.standing, change.reason)).collect()
}

/// A source with a confirmed refusal of the new pair.
fn confirmed_refusal() -> (RefusalTable, PeerSource) {
    let (mut learned, source) = (RefusalTable::default(), source("192.0.2.1"));
    refuse(&mut learned, &source, OFFER, time_at(0));
    assert_eq!(
        codes(&accept(&mut learned, &source, 2, 100, OFFER, time_at(1))),
        [(RefusalStatus::Confirmed, "verified_on_previous")]
    );
    (learned, source)
}

#[test]
fn a_refusal_is_believed_for_an_hour_and_a_verified_handshake_confirms_it() {
    let (mut learned, source) = (RefusalTable::default(), source("192.0.2.1"));
    assert_eq!(learned.get(&source, time_at(0)), None);
    let changes = refuse(&mut learned, &source, OFFER, time_at(0));
    assert_eq!(codes(&changes), [(RefusalStatus::Unconfirmed, "unknown_ca")]);
    assert!(changes[0].explanation().contains("192.0.2.1 api.example"), "{}", changes[0].explanation());
    let taught = SourceRefusals { refused: vec![pair(1)], shown: Some(pair(2)) };
    assert_eq!(learned.get(&source, time_at(3599)), Some(taught.clone()));
    assert_eq!(learned.get(&source, time_at(3600)), None);
    assert_eq!(learned.revision(), 0);
    accept(&mut learned, &source, 2, 100, OFFER, time_at(10));
    assert_eq!(learned.get(&source, time_at(1_000_000)), Some(taught));
    assert_eq!(learned.entries()[0].peer.as_deref(), Some("uri:spiffe://a/b"));
    assert_eq!(learned.revision(), 1);
}

#[test]
fn other_listeners_names_and_networks_are_other_sources() {
    let (learned, _) = confirmed_refusal();
    let other = |listener: &str, address: &str, name: Option<&str>| {
        let source = PeerSource::new(listener.into(), address.parse().unwrap(), name.map(Into::into));
        learned.get(&source, time_at(2)).is_some()
    };
    assert!(other("api", "192.0.2.1", Some("api.example")));
    assert!(other("api", "::ffff:192.0.2.1", Some("api.example")), "a socket on [::] maps IPv4 addresses");
    assert!(!other("shop", "192.0.2.1", Some("api.example")));
    assert!(!other("api", "192.0.2.2", Some("api.example")));
    assert!(!other("api", "192.0.2.1", None));
    assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
    assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    assert_eq!(source("2001:db8::1").to_string(), "2001:db8::/64 api.example");
}

#[test]
fn a_scanner_behind_the_same_address_holds_back_no_client_that_takes_the_new_pair() {
    let (mut learned, source) = (RefusalTable::default(), source("192.0.2.1"));
    // The peer has taken the new pair before: whatever a scanner says, its handshakes on the old one confirm nothing.
    accept(&mut learned, &source, 1, 100, OFFER, time_at(0));
    refuse(&mut learned, &source, OFFER, time_at(1));
    assert_eq!(accept(&mut learned, &source, 2, 100, OFFER, time_at(2)), []);
    assert_eq!(learned.entries()[0].standing, RefusalStatus::Unconfirmed);
    // The same from a scanner that came first, with a TLS library of its own.
    let mut learned = RefusalTable::default();
    refuse(&mut learned, &source, 1, time_at(0));
    assert_eq!(accept(&mut learned, &source, 2, 100, OFFER, time_at(2)), []);
    // And a handshake on the new pair shows that a client there accepts it.
    assert_eq!(
        codes(&accept(&mut learned, &source, 1, 100, OFFER, time_at(3))),
        [(RefusalStatus::Forgotten, "accepts_it_now")]
    );
}

#[test]
fn a_confirmed_lesson_is_put_in_doubt_only_by_one_that_looks_like_its_peer() {
    let (mut learned, source) = confirmed_refusal();
    assert_eq!(refuse_pair(&mut learned, &source, (2, Some(1)), 1, time_at(5)), []);
    assert_eq!(refuse_pair(&mut learned, &source, (1, Some(2)), OFFER, time_at(5)), [], "this refusal is known");
    assert_eq!(accept(&mut learned, &source, 1, 101, OFFER, time_at(6)), [], "another peer behind the address");
    assert_eq!(
        codes(&refuse_pair(&mut learned, &source, (2, Some(1)), OFFER, time_at(7))),
        [(RefusalStatus::Forgotten, "unknown_ca")]
    );
    assert_eq!(learned.revision(), 2);
    let (mut learned, source) = confirmed_refusal();
    assert_eq!(
        codes(&accept(&mut learned, &source, 1, 100, OFFER, time_at(6))),
        [(RefusalStatus::Forgotten, "accepts_it_now")]
    );
}

#[test]
fn a_source_that_refuses_pair_after_pair_is_shown_the_next_and_in_the_end_the_default() {
    let (mut learned, source) = (RefusalTable::default(), source("192.0.2.1"));
    refuse_pair(&mut learned, &source, (1, Some(2)), OFFER, time_at(0));
    let changes = refuse_pair(&mut learned, &source, (2, Some(3)), OFFER, time_at(1));
    assert_eq!(codes(&changes), [(RefusalStatus::Unconfirmed, "unknown_ca")]);
    assert_eq!(learned.get(&source, time_at(1)).unwrap().shown, Some(pair(3)));
    let changes = refuse_pair(&mut learned, &source, (3, None), OFFER, time_at(2));
    assert_eq!(codes(&changes), [(RefusalStatus::Forgotten, "unknown_ca")]);
    assert_eq!(refuse_pair(&mut learned, &source, (1, None), OFFER, time_at(3)), [], "there is nothing else to show");
}

#[test]
fn lessons_end_with_their_overlap_their_hour_or_an_operator() {
    let (mut learned, kept) = confirmed_refusal();
    let hurried = source("192.0.2.9");
    refuse(&mut learned, &hurried, OFFER, time_at(1));
    assert_eq!(learned.tick(&|_, _| true, time_at(1)), []);
    assert_eq!(codes(&learned.tick(&|_, _| true, time_at(3601))), [(RefusalStatus::Forgotten, "expired")]);
    assert!(learned.get(&kept, time_at(3601)).is_some());
    assert_eq!(
        codes(&learned.tick(&|_, key_pair| key_pair != pair(2), time_at(4000))),
        [(RefusalStatus::Forgotten, "overlap_ended")]
    );
    assert!(learned.entries().is_empty());

    for (text, meant) in [
        ("192.0.2.1", true),
        ("192.0.2.1 API.example", true),
        ("192.0.2.1 shop.example", false),
        ("192.0.2.2", false),
        ("192.0.2.1 api.example more", false),
        ("nonsense", false),
        ("", false),
    ] {
        let (mut learned, _) = confirmed_refusal();
        let expected: &[_] = if meant { &[(RefusalStatus::Forgotten, "by_command")] } else { &[] };
        assert_eq!(codes(&learned.forget(text)), expected, "{text}");
    }
    let mut learned = RefusalTable::default();
    refuse(&mut learned, &source("2001:db8::1"), OFFER, time_at(0));
    assert_eq!(learned.forget("2001:db8::/64").len(), 1);
}

#[test]
fn confirmed_lessons_survive_a_restart_and_others_do_not() {
    let (mut learned, kept) = confirmed_refusal();
    refuse(&mut learned, &source("192.0.2.9"), OFFER, time_at(1));
    let text = serde_json::to_string(&learned.to_persisted()).unwrap();
    let mut again = RefusalTable::default();
    again.restore(&serde_json::from_str::<Vec<PersistedRefusal>>(&text).unwrap());
    assert_eq!(again.entries(), learned.entries().into_iter().filter(|entry| entry.source == kept).collect::<Vec<_>>());
    assert_eq!(again.revision(), 0);
}

#[test]
fn a_flood_neither_evicts_what_is_confirmed_nor_takes_more_than_its_networks_share() {
    let (mut learned, kept) = confirmed_refusal();
    let named = |address: &str, number: usize| {
        PeerSource::new("api".into(), address.parse().unwrap(), Some(format!("{number}.example").into()))
    };
    let first = source("198.51.100.1");
    refuse(&mut learned, &first, OFFER, time_at(0));
    for number in 0..100 {
        refuse(&mut learned, &named("198.51.100.2", number), OFFER, time_at(1));
    }
    assert_eq!(learned.entries().len(), 1 + UNCONFIRMED_LIMITS.of_network);
    assert!(learned.get(&first, time_at(1)).is_some(), "the first source stays");
    for net in 0..200 {
        for number in 0..UNCONFIRMED_LIMITS.of_network {
            refuse(&mut learned, &named(&format!("10.0.{net}.1"), number), OFFER, time_at(2));
        }
    }
    assert_eq!(learned.entries().len(), 1 + UNCONFIRMED_LIMITS.all);
    assert!(learned.get(&kept, time_at(2)).is_some());
}
