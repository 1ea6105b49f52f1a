//! Single refusals: what creates, confirms, tries, ends and preserves them.

use super::*;
use crate::keyring::pool::day;

const OFFER: u64 = 7;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

pub(super) fn pair(number: u8) -> Fingerprint {
    Fingerprint::from_bytes([number; 32])
}

pub(super) fn source(address: &str) -> PeerSource {
    PeerSource::new("api".into(), address.parse().unwrap(), Some("api.example".into()))
}

pub(super) fn kind(source: &PeerSource, offer: u64) -> SenderKind {
    SenderKind { source: source.clone(), offer }
}

fn time_at(seconds: i64) -> Timestamp {
    day(0) + jiff::SignedDuration::from_secs(seconds)
}

/// A table, its sender, and the time.
struct Scene {
    learned: RefusalTable,
    sender: SenderKind,
    now: Timestamp,
}

impl Scene {
    fn new() -> Self {
        Self { learned: RefusalTable::default(), sender: kind(&source("192.0.2.1"), OFFER), now: time_at(0) }
    }

    /// With a sender that refused pair 1 and was then served with pair 2.
    fn confirmed() -> Self {
        let mut scene = Self::new();
        scene.refuse(1, Some(2));
        assert_eq!(codes(&scene.prove(2, Some(100))), [(RefusalStatus::Confirmed, "verified_on_previous")]);
        scene
    }

    fn at(&mut self, seconds: i64) -> &mut Self {
        self.now = time_at(seconds);
        self
    }

    /// The same scene, as another sender acts.
    fn by(&mut self, sender: &SenderKind, act: impl FnOnce(&mut Self) -> Vec<RefusalChange>) -> Vec<RefusalChange> {
        let own = std::mem::replace(&mut self.sender, sender.clone());
        let changes = act(self);
        self.sender = own;
        changes
    }

    fn refuse_with(&mut self, reason: &'static str, key_pair: u8, next: Option<u8>) -> Vec<RefusalChange> {
        let (keyring, certificate) = ("api".into(), (reason == "ended_without_data").then(|| pair(100)));
        let (sender, next) = (&self.sender, next.map(pair));
        let refusal = RefusalReport { sender, keyring: &keyring, key_pair: pair(key_pair), reason, certificate, next };
        self.learned.record_refusal(&refusal, self.now)
    }

    fn refuse(&mut self, key_pair: u8, next: Option<u8>) -> Vec<RefusalChange> {
        self.refuse_with("unknown_ca", key_pair, next)
    }

    /// Application data on a connection that showed the pair; pair 1 is the current one.
    fn prove(&mut self, key_pair: u8, peer: Option<u8>) -> Vec<RefusalChange> {
        let identity = if peer == Some(100) { "uri:spiffe://a/b" } else { "uri:spiffe://a/d" };
        let peer = peer.map(|peer| (pair(peer), identity));
        let proof = PeerProofReport { sender: &self.sender, key_pair: pair(key_pair), current: key_pair == 1, peer };
        self.learned.record_proof(&proof, self.now)
    }

    /// The pair that the next handshake is shown for what is known; `None`: by the other rules.
    fn shown(&mut self) -> Option<Fingerprint> {
        self.learned.recall(&self.sender, self.now).and_then(|known| known.shown)
    }
}

fn codes(changes: &[RefusalChange]) -> Vec<(RefusalStatus, &'static str)> {
    changes.iter().map(|change| (change.standing, change.reason)).collect()
}

#[test]
fn a_refusal_is_believed_for_35_days_and_a_request_on_the_other_pair_confirms_it() {
    let mut scene = Scene::new();
    assert_eq!(scene.shown(), None);
    let changes = scene.refuse(1, Some(2));
    assert_eq!(codes(&changes), [(RefusalStatus::Unconfirmed, "unknown_ca")]);
    assert!(changes[0].explanation().contains("192.0.2.1 api.example"), "{}", changes[0].explanation());
    assert_eq!(scene.at(35 * DAY - 1).shown(), Some(pair(2)));
    assert_eq!(scene.at(35 * DAY).shown(), None);
    assert_eq!(scene.learned.revision(), 0);
    assert_eq!(codes(&scene.at(DAY).prove(2, Some(100))), [(RefusalStatus::Confirmed, "verified_on_previous")]);
    let entry = &scene.learned.entries()[0];
    assert_eq!((entry.peer.as_deref(), entry.peer_fingerprint), (Some("uri:spiffe://a/b"), Some(pair(100))));
    assert_eq!(scene.learned.revision(), 1);
}

#[test]
fn a_batch_that_comes_once_a_day_or_a_week_or_every_ten_days_loses_one_handshake_to_the_refusal() {
    for pause in [DAY, 7 * DAY, 10 * DAY] {
        let mut scene = Scene::new();
        scene.refuse(1, Some(2));
        assert_eq!(scene.at(pause).shown(), Some(pair(2)));
        scene.prove(2, Some(100));
        let mut lost = 1;
        for visit in 2..30 * DAY / pause {
            if scene.at(visit * pause).shown().is_none() {
                scene.refuse(1, Some(2));
                lost += 1;
            }
        }
        assert!(lost <= 3, "the refusal and at most two trials a month: {lost}");
    }
}

#[test]
fn other_listeners_names_networks_and_kinds_are_other_senders() {
    let scene = Scene::confirmed();
    let other = |listener: &str, address: &str, name: Option<&str>, offer: u64| {
        let source = PeerSource::new(listener.into(), address.parse().unwrap(), name.map(Into::into));
        scene.learned.get(&kind(&source, offer), time_at(2)).is_some()
    };
    assert!(other("api", "192.0.2.1", Some("api.example"), OFFER));
    assert!(other("api", "::ffff:192.0.2.1", Some("api.example"), OFFER), "a socket on [::] maps IPv4 addresses");
    assert!(!other("api", "192.0.2.1", Some("api.example"), 8), "another library behind the same address");
    assert!(!other("shop", "192.0.2.1", Some("api.example"), OFFER));
    assert!(!other("api", "192.0.2.2", Some("api.example"), OFFER));
    assert!(!other("api", "192.0.2.1", None, OFFER));
    assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
    assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    assert_eq!(source("2001:db8::1").to_string(), "2001:db8::/64 api.example");
}

#[test]
fn no_refusal_moves_a_sender_that_has_proved_the_new_pair() {
    for reason in ["unknown_ca", "certificate_unknown", "ended_in_handshake", "ended_without_data"] {
        let mut scene = Scene::new();
        scene.prove(1, Some(100));
        for _ in 0..5 {
            assert_eq!(scene.refuse_with(reason, 1, Some(2)), [], "{reason}");
        }
        assert_eq!(scene.shown(), None, "{reason}");
    }
    // Without a certificate nothing is proved for others, and what an alert has moved returns with the first proof.
    let mut scene = Scene::new();
    scene.prove(1, None);
    assert_eq!(codes(&scene.refuse(1, Some(2))), [(RefusalStatus::Unconfirmed, "unknown_ca")]);
    assert_eq!(codes(&scene.prove(1, None)), [(RefusalStatus::Forgotten, "accepts_it_now")]);
}

#[test]
fn a_refusal_that_no_other_pair_could_cure_teaches_nothing() {
    let mut scene = Scene::new();
    assert_eq!(scene.refuse(1, None), []);
    assert_eq!(scene.shown(), None);
}

#[test]
fn an_end_without_an_alert_is_a_refusal_only_twice_in_a_row() {
    for reason in SILENT_REASONS {
        let mut scene = Scene::new();
        assert_eq!(scene.refuse_with(reason, 1, Some(2)), []);
        assert_eq!(codes(&scene.refuse_with(reason, 1, Some(2))), [(RefusalStatus::Unconfirmed, reason)]);
        assert_eq!(codes(&scene.prove(2, Some(100))), [(RefusalStatus::Confirmed, "verified_on_previous")]);
        // A health checker that ends so on every pair is shown the new one again, and left alone.
        let mut scene = Scene::new();
        scene.refuse_with(reason, 1, Some(2));
        scene.refuse_with(reason, 1, Some(2));
        scene.refuse_with(reason, 2, None);
        assert_eq!(codes(&scene.refuse_with(reason, 2, None)), [(RefusalStatus::Forgotten, reason)]);
        for _ in 0..4 {
            assert_eq!(scene.refuse_with(reason, 1, Some(2)), [], "{reason}");
        }
    }
}

#[test]
fn what_others_of_its_kind_do_in_between_does_not_interrupt_a_silent_sender_s_row() {
    let others: [fn(&mut Scene) -> Vec<RefusalChange>; 3] = [
        |scene| scene.refuse_with(SILENT_REASONS[0], 1, Some(2)),
        |scene| scene.prove(2, Some(101)),
        |scene| scene.prove(1, None),
    ];
    for (number, other) in others.iter().enumerate() {
        let mut scene = Scene::new();
        assert_eq!(scene.refuse_with(SILENT_REASONS[1], 1, Some(2)), []);
        assert_eq!(other(&mut scene), []);
        assert_eq!(scene.refuse_with(SILENT_REASONS[1], 1, Some(2)).len(), 1, "{number}");
    }
}

#[test]
fn what_is_held_is_shown_the_new_pair_again_one_handshake_at_a_time_until_it_proves() {
    let mut scene = Scene::confirmed();
    assert_eq!(scene.at(12 * HOUR - 1).shown(), Some(pair(2)));
    assert_eq!(scene.at(12 * HOUR).shown(), None, "the trial");
    assert_eq!(scene.shown(), Some(pair(2)), "the others meanwhile");
    assert_eq!(scene.refuse(1, Some(2)), [], "it has failed, and what is known stays");
    assert_eq!(scene.at(4 * DAY).shown(), Some(pair(2)));
    assert_eq!(scene.at(5 * DAY).shown(), None);
    // Another peer of the kind accepts it: that says nothing of the one that is held.
    assert_eq!(scene.prove(1, Some(101)), []);
    assert_eq!(scene.shown(), Some(pair(2)));
    assert_eq!(scene.at(10 * DAY).shown(), None);
    assert_eq!(codes(&scene.prove(1, Some(100))), [(RefusalStatus::Forgotten, "accepts_it_now")]);
    assert_eq!(scene.learned.revision(), 2);
    assert_eq!(scene.refuse(1, Some(2)), [], "it has proved the pair");
}

#[test]
fn a_held_sender_whose_trust_changes_is_tried_at_once_and_a_stranger_s_alerts_take_nothing_from_it() {
    let mut scene = Scene::confirmed();
    scene.at(HOUR);
    let stranger = kind(&source("192.0.2.1"), 1);
    assert_eq!(scene.by(&stranger, |scene| scene.refuse(2, Some(1))).len(), 1, "its own kind is all that it moves");
    assert_eq!(scene.refuse(2, Some(1)), []);
    assert_eq!(scene.shown(), Some(pair(2)));
    scene.prove(2, Some(100));
    assert_eq!(scene.refuse(2, Some(1)), []);
    assert_eq!(scene.shown(), Some(pair(2)));
    assert_eq!(scene.refuse(2, Some(1)), []);
    assert_eq!(scene.shown(), None, "twice in a row");
    assert_eq!(codes(&scene.prove(1, Some(100))), [(RefusalStatus::Forgotten, "accepts_it_now")]);
}

#[test]
fn a_sender_without_a_certificate_is_held_and_tried_but_never_confirmed() {
    let mut scene = Scene::new();
    scene.refuse(1, Some(2));
    assert_eq!(scene.prove(2, None), []);
    for visit in 1..4 {
        assert_eq!(scene.at(visit * HOUR).shown(), Some(pair(2)));
        assert_eq!(scene.refuse(2, None), [], "another one's alert");
        scene.prove(2, None);
    }
    assert_eq!(scene.at(13 * HOUR).shown(), None, "the trial");
    assert_eq!(scene.learned.entries()[0].standing, RefusalStatus::Unconfirmed);
    // What only data without a certificate hold gives way to a verified peer that leaves twice.
    scene.refuse_with(SILENT_REASONS[1], 2, Some(3));
    assert_eq!(scene.refuse_with(SILENT_REASONS[1], 2, Some(3))[0].entry.shown, pair(3));
}

#[test]
fn a_source_that_refuses_pair_after_pair_is_shown_the_next_and_in_the_end_the_default() {
    let mut scene = Scene::new();
    scene.refuse(1, Some(2));
    assert_eq!(codes(&scene.refuse(2, Some(3))), [(RefusalStatus::Unconfirmed, "unknown_ca")]);
    assert_eq!(scene.shown(), Some(pair(3)));
    assert_eq!(codes(&scene.refuse(3, None)), [(RefusalStatus::Forgotten, "unknown_ca")]);
    assert_eq!(scene.shown(), None);
}

#[test]
fn lessons_end_with_their_overlap_their_time_or_an_operator() {
    let mut scene = Scene::confirmed();
    let hurried = kind(&source("192.0.2.9"), OFFER);
    scene.by(&hurried, |scene| scene.refuse(1, Some(2)));
    assert_eq!(scene.learned.tick(&|_| None, time_at(1)), []);
    assert_eq!(codes(&scene.learned.tick(&|_| None, time_at(35 * DAY))), [(RefusalStatus::Forgotten, "expired")]);
    assert!(scene.learned.get(&scene.sender, time_at(35 * DAY)).is_some());
    assert_eq!(
        codes(&scene.learned.tick(&|_| Some(vec![pair(1)]), time_at(35 * DAY))),
        [(RefusalStatus::Forgotten, "overlap_ended")]
    );
    assert!(scene.learned.entries().is_empty());
    for (text, meant) in [
        ("192.0.2.1", true),
        ("192.0.2.1 API.example", true),
        ("uri:spiffe://a/b", true),
        ("uri:spiffe://a/c", false),
        ("192.0.2.1 shop.example", false),
        ("192.0.2.2", false),
        ("192.0.2.1 api.example more", false),
        ("nonsense", false),
        ("", false),
    ] {
        let expected: &[_] = if meant { &[(RefusalStatus::Forgotten, "by_command")] } else { &[] };
        assert_eq!(codes(&Scene::confirmed().learned.forget(text)), expected, "{text}");
    }
    let mut scene = Scene::new();
    scene.by(&kind(&source("2001:db8::1"), OFFER), |scene| scene.refuse(1, Some(2)));
    assert_eq!(scene.learned.forget("2001:db8::/64").len(), 1);
}

#[test]
fn confirmed_lessons_survive_a_restart_and_others_do_not() {
    let mut scene = Scene::confirmed();
    let other = kind(&source("192.0.2.9"), OFFER);
    scene.by(&other, |scene| scene.refuse(1, Some(2)));
    let text = serde_json::to_string(&scene.learned.to_persisted()).unwrap();
    let mut again = Scene::new();
    again.learned.restore(&serde_json::from_str::<Vec<PersistedRefusal>>(&text).unwrap());
    assert_eq!(again.learned.entries().len(), 1);
    assert_eq!(again.at(HOUR).shown(), Some(pair(2)));
    assert_eq!(again.at(13 * HOUR).shown(), None, "its trials go on");
    assert_eq!(again.learned.revision(), 0);
}

#[test]
fn lessons_of_a_version_that_told_no_kinds_apart_hold_for_every_kind_of_their_source() {
    let mut scene = Scene::confirmed();
    let mut old = serde_json::to_value(scene.learned.to_persisted()).unwrap();
    assert!(old[0].as_object_mut().unwrap().remove("trial").is_some());
    scene.learned = RefusalTable::default();
    scene.learned.restore(&serde_json::from_value::<Vec<PersistedRefusal>>(old).unwrap());
    let changed = kind(&source("192.0.2.1"), 99);
    assert_eq!(scene.learned.get(&changed, time_at(0)).unwrap().shown, Some(pair(2)));
    assert_eq!(scene.shown(), Some(pair(2)));
    assert_eq!(codes(&scene.prove(1, Some(100))), [(RefusalStatus::Forgotten, "accepts_it_now")]);
}

#[test]
fn forty_hosts_of_a_network_that_come_together_lose_one_handshake_each() {
    let mut scene = Scene::new();
    let hosts: Vec<_> = (1..=40).map(|host| kind(&source(&format!("192.0.2.{host}")), OFFER)).collect();
    for host in &hosts {
        assert_eq!(scene.by(host, |scene| scene.refuse(1, Some(2))).len(), 1);
    }
    assert!(hosts.iter().all(|host| scene.learned.get(host, time_at(1)).is_some()));
}

#[test]
fn a_flood_neither_evicts_what_is_confirmed_nor_takes_more_than_its_share() {
    let mut scene = Scene::confirmed();
    let named = |address: &str, number: usize| {
        let name = Some(format!("{number}.example").into());
        kind(&PeerSource::new("api".into(), address.parse().unwrap(), name), OFFER)
    };
    let first = kind(&source("198.51.100.1"), OFFER);
    scene.by(&first, |scene| scene.refuse(1, Some(2)));
    let mut told = 0;
    for number in 0..100 {
        told += scene.by(&named("198.51.100.2", number), |scene| scene.refuse(1, Some(2))).len();
    }
    assert_eq!(
        (told, scene.learned.entries().len()),
        (UNCONFIRMED_LIMITS.of_address, 2 + UNCONFIRMED_LIMITS.of_address)
    );
    // After an hour the oldest of the address gives way.
    scene.at(HOUR);
    assert_eq!(
        codes(&scene.by(&named("198.51.100.2", 200), |scene| scene.refuse(1, Some(2)))),
        [(RefusalStatus::Forgotten, "evicted"), (RefusalStatus::Unconfirmed, "unknown_ca")]
    );
    for host in 2..100 {
        for number in 0..UNCONFIRMED_LIMITS.of_address {
            scene.by(&named(&format!("198.51.100.{host}"), number), |scene| scene.refuse(1, Some(2)));
        }
    }
    assert_eq!(scene.learned.entries().len(), 1 + UNCONFIRMED_LIMITS.of_network);
    for net in 0..20 {
        for number in 0..UNCONFIRMED_LIMITS.of_network {
            scene.by(&named(&format!("10.0.{net}.{}", number / 16), number), |scene| scene.refuse(1, Some(2)));
        }
    }
    assert_eq!(scene.learned.entries().len(), 1 + UNCONFIRMED_LIMITS.all);
    assert_eq!(scene.shown(), Some(pair(2)), "what is confirmed stays");
}

/// A source of a flood: most come from one network, which uses up its share; the others compete for the table.
fn flooding_source(number: u32) -> PeerSource {
    let network = if number < 45_000 { 0 } else { 1 + number % 20 };
    let bits = 0x2001_0db8 << 96 | u128::from(network) << 80 | u128::from(number) << 64;
    source(&std::net::Ipv6Addr::from_bits(bits).to_string())
}

#[test]
fn fifty_thousand_sources_that_refuse_end_and_prove_take_no_more_than_their_tables_hold() {
    let mut scene = Scene::confirmed();
    for number in 0..50_000 {
        let sender = kind(&flooding_source(number), OFFER);
        scene.by(&sender, |scene| scene.refuse(1, Some(2)));
        scene.by(&sender, |scene| scene.refuse_with("ended_without_data", 2, Some(1)));
        let settled = kind(&source(&format!("10.{}.{}.1", number >> 8, number & 255)), OFFER);
        scene.by(&settled, |scene| scene.prove(1, Some(100)));
    }
    let learned = &scene.learned;
    let settled = learned.settled.values().map(SettledSenders::len).sum::<usize>();
    assert_eq!((learned.entries.len(), learned.silent.len()), (1 + UNCONFIRMED_LIMITS.all, 4096));
    assert!(learned.settled.len() == 1 && (8192..=2 * 8192).contains(&settled), "{settled}");
    assert_eq!(scene.shown(), Some(pair(2)), "what is confirmed stays");
}

#[test]
fn fifty_thousand_confirmed_refusals_keep_within_their_limit() {
    let mut scene = Scene::new();
    for number in 0..50_000 {
        let sender = kind(&flooding_source(number), OFFER);
        scene.by(&sender, |scene| scene.refuse(1, Some(2)));
        scene.by(&sender, |scene| scene.prove(2, Some(100)));
    }
    assert_eq!(scene.learned.entries.len(), CONFIRMED_LIMITS.all);
    assert_eq!(scene.learned.to_persisted().len(), CONFIRMED_LIMITS.all);
}
