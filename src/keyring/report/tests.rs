use jiff::SignedDuration;
use proptest::prelude::*;

use super::ledger::{PEERS, SOURCES};
use super::*;

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600).unwrap() + SignedDuration::from_mins(minute)
}

fn pair(byte: u8) -> Fingerprint {
    Fingerprint::from_bytes([byte; 32])
}

const OLD: u8 = 1;
const NEW: u8 = 2;

fn name(text: &str) -> Arc<str> {
    text.into()
}

/// Rotated at minute 100, from OLD to NEW.
fn overlap() -> InOverlap {
    InOverlap {
        keyring: name("api"),
        owner: Some("integrations".to_owned()),
        contact: Some("integrations@example.com".to_owned()),
        current: pair(NEW),
        rotated: at(100),
        previous: vec![Previous { key_pair: pair(OLD), ends: at(100 + 30 * 1440), survives_restart: true }],
        upstreams: Vec::new(),
    }
}

fn came(ledger: &mut Ledger, who: &str, shown: u8, chosen_by: ChosenBy, minute: i64) {
    let (keyring, listener, partner) = (name("api"), name("api"), name("acme"));
    let fact = Fact::Peer {
        keyring: &keyring,
        listener: &listener,
        identity: who,
        partner: who.starts_with("acme").then_some(&partner),
        source: Some("203.0.113.7".parse().unwrap()),
        key_pair: pair(shown),
        chosen_by,
    };
    ledger.note(&fact, at(minute));
}

fn taught(ledger: &mut Ledger, source: &str, lesson: Lesson, minute: i64) {
    taught_by(ledger, source, None, lesson, minute);
}

fn taught_by(ledger: &mut Ledger, source: &str, peer: Option<&str>, lesson: Lesson, minute: i64) {
    let (keyring, listener) = (name("api"), name("api"));
    let explanation = "unknown CA";
    let (refused, reason) = (pair(NEW), "unknown_ca");
    let (keyring, listener) = (&keyring, &listener);
    let fact = Fact::Source { keyring, listener, source, refused, lesson, peer, reason, explanation };
    ledger.note(&fact, at(minute));
}

fn upstream(ledger: &mut Ledger, shown: u8, said: Said, handshake: bool, minute: i64) {
    let listener = name("salesforce");
    let key_pair = pair(shown);
    let (reason, explanation, next_try) = ("status_403", "it answered 403", None);
    let keyring = name("api");
    let fact = Fact::Upstream {
        listener: &listener,
        keyring: Some(&keyring),
        key_pair,
        said,
        handshake,
        reason,
        explanation,
        next_try,
    };
    ledger.note(&fact, at(minute));
}

fn rotated(ledger: &mut Ledger) {
    let keyring = name("api");
    ledger.note(&Fact::Rotated { keyring: &keyring }, at(100));
}

fn told(ledger: &Ledger, keyring: &InOverlap, minute: i64) -> Report {
    let contacts = BTreeMap::from([(name("acme"), "noc@acme.example".to_owned())]);
    let mut all = report(ledger, std::slice::from_ref(keyring), &contacts, at(minute));
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn uses(report: &Report) -> Vec<(&str, Use)> {
    report.lines.iter().map(|line| (line.name.as_str(), line.stands)).collect()
}

#[test]
fn a_keyring_without_previous_pair_has_no_report() {
    let ledger = Ledger::new(at(0));
    let none = InOverlap { previous: Vec::new(), ..overlap() };
    assert!(report(&ledger, &[none], &BTreeMap::new(), at(200)).is_empty());
}

#[test]
fn who_came_on_the_new_pair_has_proved_it_and_who_did_not_come_is_not_seen() {
    let mut ledger = Ledger::new(at(0));
    came(&mut ledger, "a", OLD, ChosenBy::Only, 10);
    came(&mut ledger, "acme-etl", OLD, ChosenBy::Only, 20);
    rotated(&mut ledger);
    came(&mut ledger, "a", NEW, ChosenBy::Prefer, 110);
    let one = told(&ledger, &overlap(), 200);
    assert_eq!(uses(&one), [("acme-etl", Use::NotSeen), ("a", Use::ProvedNew)]);
    assert_eq!((one.verdict.retire, one.seconds_left), (Retire::Wait, (30 * 1440 - 100) * 60));
    let first = one.verdict.first.unwrap();
    assert_eq!((first.partner.as_deref(), first.contact.as_deref()), (Some("acme"), Some("noc@acme.example")));
    came(&mut ledger, "acme-etl", NEW, ChosenBy::Prefer, 210);
    let both = told(&ledger, &overlap(), 220);
    assert_eq!(both.verdict.retire, Retire::Safe, "{}", both.verdict.sentence);
    assert_eq!((both.lines[0].handshakes_new, both.lines[0].handshakes_old), (1, 0), "those before do not count");
}

#[test]
fn who_makes_us_show_the_old_pair_insists_and_who_is_shown_it_by_our_choice_does_not() {
    let table = [
        (ChosenBy::Authorities, Use::InsistsOnOld, Retire::Call),
        (ChosenBy::Learned, Use::InsistsOnOld, Retire::Call),
        (ChosenBy::Only, Use::InsistsOnOld, Retire::Call),
        (ChosenBy::Prefer, Use::StillOnOld, Retire::Wait),
        (ChosenBy::Partner, Use::StillOnOld, Retire::Wait),
    ];
    for (chosen_by, stands, retire) in table {
        let mut ledger = Ledger::new(at(0));
        rotated(&mut ledger);
        came(&mut ledger, "other", NEW, ChosenBy::Prefer, 110);
        came(&mut ledger, "acme-etl", OLD, chosen_by, 120);
        let report = told(&ledger, &overlap(), 200);
        let line = &report.lines[0];
        assert_eq!((line.name.as_str(), line.stands, line.since), ("acme-etl", stands, Some(at(120))));
        assert_eq!(report.verdict.retire, retire);
        assert!(report.verdict.sentence.contains("noc@acme.example"), "{}", report.verdict.sentence);
        // A later handshake on the new pair ends it.
        came(&mut ledger, "acme-etl", NEW, ChosenBy::Prefer, 130);
        assert_eq!(told(&ledger, &overlap(), 200).verdict.retire, Retire::Safe);
        // And one on the old pair begins it again: some machine of theirs still wants it.
        came(&mut ledger, "acme-etl", OLD, chosen_by, 140);
        assert_eq!(told(&ledger, &overlap(), 200).lines[0].stands, stands);
    }
}

#[test]
fn the_busiest_on_the_old_pair_is_called_first() {
    let mut ledger = Ledger::new(at(0));
    rotated(&mut ledger);
    came(&mut ledger, "seldom", OLD, ChosenBy::Authorities, 110);
    for minute in 0..5 {
        came(&mut ledger, "busy", OLD, ChosenBy::Authorities, 111 + minute);
    }
    let report = told(&ledger, &overlap(), 200);
    assert_eq!(report.verdict.first.unwrap().name, "busy");
}

#[test]
fn only_a_confirmed_source_has_a_say_and_a_known_peer_speaks_for_it() {
    let mut ledger = Ledger::new(at(0));
    rotated(&mut ledger);
    came(&mut ledger, "a", NEW, ChosenBy::Prefer, 105);
    taught(&mut ledger, "203.0.113.7 localhost", Lesson::Unconfirmed, 110);
    let alert = told(&ledger, &overlap(), 200);
    assert_eq!((alert.unconfirmed, alert.verdict.retire), (1, Retire::Safe));
    taught(&mut ledger, "203.0.113.7 localhost", Lesson::Confirmed, 120);
    let source = told(&ledger, &overlap(), 200);
    assert_eq!(uses(&source)[0], ("203.0.113.7 localhost", Use::InsistsOnOld));
    assert_eq!((source.unconfirmed, source.verdict.retire), (0, Retire::Call));
    came(&mut ledger, "acme-etl", OLD, ChosenBy::Learned, 121);
    let named = told(&ledger, &overlap(), 200);
    assert_eq!(uses(&named), [("acme-etl", Use::InsistsOnOld), ("a", Use::ProvedNew)]);
    let line = &named.lines[0];
    assert_eq!((line.reason.as_deref(), line.because.as_deref()), (Some("unknown_ca"), Some("unknown CA")));
    assert_eq!(line.since, Some(at(110)), "since its first alert");
    taught(&mut ledger, "203.0.113.7 localhost", Lesson::Forgotten, 130);
    came(&mut ledger, "acme-etl", NEW, ChosenBy::Prefer, 131);
    assert_eq!(told(&ledger, &overlap(), 200).verdict.retire, Retire::Safe);
}

#[test]
fn who_only_shares_an_address_with_one_that_refused_is_not_said_to_insist() {
    let mut ledger = Ledger::new(at(0));
    rotated(&mut ledger);
    taught_by(&mut ledger, "203.0.113.7 localhost", None, Lesson::Unconfirmed, 110);
    taught_by(&mut ledger, "203.0.113.7 localhost", Some("acme-etl"), Lesson::Confirmed, 111);
    came(&mut ledger, "acme-etl", OLD, ChosenBy::Learned, 111);
    came(&mut ledger, "neighbour", OLD, ChosenBy::Learned, 112);
    let report = told(&ledger, &overlap(), 200);
    assert_eq!(uses(&report), [("acme-etl", Use::InsistsOnOld), ("neighbour", Use::StillOnOld)]);
    assert!(report.verdict.sentence.starts_with("1 of 2 peers would fail: call acme"), "{}", report.verdict.sentence);
    let because = report.lines[1].because.as_deref().unwrap();
    assert!(because.contains("the address of acme-etl"), "{because}");
}

#[test]
fn an_upstream_is_proved_by_an_answer_and_by_nothing_else() {
    let mut ledger = Ledger::new(at(0));
    let keyring = InOverlap { upstreams: vec![(name("salesforce"), "sf.example:8443".to_owned())], ..overlap() };
    let stands = |ledger: &Ledger| told(ledger, &keyring, 200).lines[0].stands;
    assert_eq!(stands(&ledger), Use::NotSeen);
    upstream(&mut ledger, OLD, Said::HandshakeOk, true, 50);
    upstream(&mut ledger, OLD, Said::Proved, false, 51);
    rotated(&mut ledger);
    assert_eq!(stands(&ledger), Use::NotSeen);
    upstream(&mut ledger, NEW, Said::HandshakeOk, true, 110);
    assert_eq!(stands(&ledger), Use::Unproved);
    upstream(&mut ledger, NEW, Said::Refused, false, 111);
    upstream(&mut ledger, OLD, Said::HandshakeOk, true, 112);
    assert_eq!(stands(&ledger), Use::InsistsOnOld);
    // A handshake that goes well takes a refusal back as little as a proof.
    upstream(&mut ledger, NEW, Said::HandshakeOk, true, 113);
    let report = told(&ledger, &keyring, 200);
    let line = &report.lines[0];
    assert_eq!((line.stands, line.since), (Use::InsistsOnOld, Some(at(111))));
    assert_eq!((line.reason.as_deref(), report.verdict.retire), (Some("status_403"), Retire::Call));
    upstream(&mut ledger, NEW, Said::Proved, false, 120);
    upstream(&mut ledger, OLD, Said::HandshakeOk, true, 121);
    let report = told(&ledger, &keyring, 200);
    assert_eq!((report.lines[0].stands, report.verdict.retire), (Use::ProvedNew, Retire::Safe));
    let line = &report.lines[0];
    assert_eq!((line.handshakes_new, line.handshakes_old), (2, 2), "those before the rotation do not count");
}

#[test]
fn who_watches_since_after_the_rotation_calls_nothing_safe() {
    let mut ledger = Ledger::new(at(150));
    came(&mut ledger, "a", NEW, ChosenBy::Prefer, 160);
    let report = told(&ledger, &overlap(), 200);
    assert_eq!(report.verdict.retire, Retire::Wait);
    assert!(report.verdict.sentence.contains("are unknown"), "{}", report.verdict.sentence);
    let nobody = told(&Ledger::new(at(0)), &overlap(), 200);
    assert_eq!((nobody.verdict.retire, nobody.lines.len()), (Retire::Wait, 0));
    for (ends, left) in [(201, "60 s left"), (230, "30 min left"), (500, "5 h left")] {
        let mut keyring = overlap();
        keyring.previous[0].ends = at(ends);
        let said = told(&Ledger::new(at(0)), &keyring, 200).verdict.sentence;
        assert_eq!(said, format!("no peer has used this keyring since 2026-01-01 00:00 UTC: wait; {left}"));
    }
}

fn remembered(who: &str, shown: u8, chosen_by: Option<ChosenBy>, minute: i64) -> Recalled {
    Recalled::Peer {
        keyring: name("api"),
        listener: name("api"),
        identity: who.to_owned(),
        partner: who.starts_with("acme").then(|| name("acme")),
        source: Some("203.0.113.7".parse().unwrap()),
        key_pair: pair(shown),
        chosen_by,
        last: at(minute),
        is_after: minute >= 100,
    }
}

#[test]
fn what_the_registry_has_makes_a_restart_forget_nothing() {
    // The process is younger than the rotation.
    let mut ledger = Ledger::new(at(150));
    ledger.await_registry();
    came(&mut ledger, "a", NEW, ChosenBy::Prefer, 160);
    let awaited = told(&ledger, &overlap(), 200);
    assert_eq!((awaited.verdict.retire, awaited.before), (Retire::Wait, Before::Awaited));
    assert!(awaited.verdict.sentence.contains("until the registry answers"), "{}", awaited.verdict.sentence);
    let former =
        vec![remembered("a", OLD, Some(ChosenBy::Authorities), 120), remembered("b", NEW, Some(ChosenBy::Prefer), 130)];
    ledger.recall(former, at(0));
    let safe = told(&ledger, &overlap(), 200);
    assert_eq!((safe.verdict.retire, safe.before, safe.watched_since), (Retire::Safe, Before::Recalled, at(0)));
    assert_eq!(uses(&safe), [("a", Use::ProvedNew), ("b", Use::ProvedNew)], "what this process saw goes first");
    assert_eq!((safe.lines[1].last_new, safe.lines[1].handshakes_new), (Some(at(130)), 0));

    // A peer seen only before the rotation counts as not seen; one on the old pair after it stays, with the reason.
    let former = vec![
        remembered("acme-etl", OLD, Some(ChosenBy::Authorities), 140),
        remembered("old-row", OLD, None, 130),
        remembered("seldom", OLD, Some(ChosenBy::Only), 50),
    ];
    ledger.recall(former, at(0));
    let call = told(&ledger, &overlap(), 200);
    assert_eq!(
        uses(&call)[..3],
        [("acme-etl", Use::InsistsOnOld), ("old-row", Use::StillOnOld), ("seldom", Use::NotSeen)]
    );
    assert_eq!((call.verdict.retire, call.lines[0].since), (Retire::Call, Some(at(140))));
    assert_eq!(call.lines[0].contact.as_deref(), Some("noc@acme.example"));

    // A registry that was created after the rotation cannot know all peers.
    let mut young = Ledger::new(at(190));
    young.recall(vec![remembered("a", NEW, Some(ChosenBy::Prefer), 160)], at(150));
    let half = told(&young, &overlap(), 200);
    assert_eq!((half.verdict.retire, half.watched_since), (Retire::Wait, at(150)));
    assert!(half.verdict.sentence.contains("before the registry was created"), "{}", half.verdict.sentence);
}

#[test]
fn more_than_the_table_holds_is_not_recalled_and_that_is_counted() {
    let mut ledger = Ledger::new(at(150));
    let former = (0..PEERS as i64 + 10).map(|number| remembered(&format!("peer-{number}"), NEW, None, 120));
    ledger.recall(former.collect(), at(0));
    let report = told(&ledger, &overlap(), 200);
    assert_eq!((ledger.size().0, report.forgotten, report.verdict.retire), (PEERS, 10, Retire::Wait));
}

#[test]
fn what_an_upstream_had_made_of_the_new_pair_is_recalled_until_it_says_something_else() {
    let keyring = InOverlap { upstreams: vec![(name("salesforce"), "sf.example:8443".to_owned())], ..overlap() };
    let word = |said| Recalled::Upstream {
        keyring: name("api"),
        listener: name("salesforce"),
        key_pair: pair(NEW),
        said,
        since: at(120),
        reason: "status_401".to_owned(),
        explanation: "it answered 401".to_owned(),
    };
    let shown = |key_pair, minute| Recalled::Shown {
        keyring: name("api"),
        listener: name("salesforce"),
        key_pair: pair(key_pair),
        last: at(minute),
    };
    let mut ledger = Ledger::new(at(150));
    // The probe of this process comes first, as it does.
    upstream(&mut ledger, NEW, Said::HandshakeOk, true, 151);
    ledger.recall(vec![shown(OLD, 140), word(Said::Refused)], at(0));
    let report = told(&ledger, &keyring, 200);
    let line = &report.lines[0];
    assert_eq!(
        (line.stands, line.reason.as_deref(), line.since),
        (Use::InsistsOnOld, Some("status_401"), Some(at(120)))
    );
    assert_eq!((line.last_old, line.last_new), (Some(at(140)), Some(at(151))));
    upstream(&mut ledger, NEW, Said::Proved, false, 160);
    assert_eq!(told(&ledger, &keyring, 200).verdict.retire, Retire::Safe);
    // What it says now goes before what it said.
    ledger.recall(vec![word(Said::Refused)], at(0));
    assert_eq!(told(&ledger, &keyring, 200).lines[0].stands, Use::ProvedNew);
}

#[test]
fn a_fleet_larger_than_the_table_is_counted_and_never_called_safe() {
    let mut ledger = Ledger::new(at(0));
    rotated(&mut ledger);
    for number in 0..PEERS as i64 + 10 {
        came(&mut ledger, &format!("peer-{number}"), NEW, ChosenBy::Prefer, 101);
    }
    let report = told(&ledger, &overlap(), 200);
    assert!(ledger.size().0 <= PEERS && report.forgotten > 0);
    assert_eq!(report.forgotten as usize + ledger.size().0, PEERS + 10);
    assert_eq!(report.verdict.retire, Retire::Wait);
}

#[test]
fn a_source_is_an_address_and_in_ipv6_a_network() {
    let is = |address: &str, source: &str| is_from(address.parse().unwrap(), source);
    assert!(is("203.0.113.7", "203.0.113.7") && is("203.0.113.7", "203.0.113.7 api.example"));
    assert!(!is("203.0.113.7", "203.0.113.70") && !is("203.0.113.7", "") && !is("203.0.113.7", "api.example"));
    assert!(is("2001:db8::1", "2001:db8::/64 api.example") && !is("2001:db8:0:1::1", "2001:db8::/64"));
}

#[test]
fn the_shape_is_public() {
    let mut ledger = Ledger::new(at(0));
    rotated(&mut ledger);
    came(&mut ledger, "acme-etl", OLD, ChosenBy::Authorities, 110);
    let value = serde_json::to_value(told(&ledger, &overlap(), 200)).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        keys(&value),
        "before contact current ends forgotten keyring lines owner previous rotated seconds_left unconfirmed verdict watched_since"
    );
    assert_eq!(
        keys(&value["lines"][0]),
        "because contact handshakes_new handshakes_old kind last_new last_old listener name next_try partner reason since use"
    );
    assert_eq!(
        (value["lines"][0]["use"].as_str(), value["lines"][0]["kind"].as_str()),
        (Some("insists_on_old"), Some("peer"))
    );
    assert_eq!(
        (keys(&value["verdict"]), keys(&value["verdict"]["first"])),
        ("first retire sentence".to_owned(), "contact name partner".to_owned())
    );
    assert_eq!(value["verdict"]["retire"], "call");
    assert_eq!(keys(&value["previous"][0]), "ends key_pair survives_restart");
}

#[derive(Clone, Debug)]
enum Step {
    Came { who: u16, shown: u8, chosen_by: ChosenBy },
    Taught { source: u16, lesson: Lesson },
    Upstream { shown: u8, said: Said, handshake: bool },
    Rotated,
}

fn a_step() -> impl Strategy<Value = Step> {
    let chosen_by = prop::sample::select(vec![
        ChosenBy::Only,
        ChosenBy::Authorities,
        ChosenBy::Partner,
        ChosenBy::Learned,
        ChosenBy::Prefer,
    ]);
    let lesson = prop::sample::select(vec![Lesson::Unconfirmed, Lesson::Confirmed, Lesson::Forgotten]);
    let said = prop::sample::select(vec![Said::HandshakeOk, Said::Proved, Said::Refused]);
    prop_oneof![
        6 => (0..6_u16, 1..15_u8, chosen_by).prop_map(|(who, shown, chosen_by)| Step::Came { who, shown, chosen_by }),
        3 => (0..2000_u16, lesson).prop_map(|(source, lesson)| Step::Taught { source, lesson }),
        3 => (1..15_u8, said, any::<bool>()).prop_map(|(shown, said, handshake)| Step::Upstream { shown, said, handshake }),
        1 => Just(Step::Rotated),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_memory_is_bounded_and_safe_means_that_nobody_is_known_to_break(
        steps in prop::collection::vec((a_step(), 0..3_i64), 0..300),
    ) {
        let mut ledger = Ledger::new(at(0));
        let keyring = InOverlap { upstreams: vec![(name("salesforce"), "sf".to_owned())], ..overlap() };
        let mut now = 90;
        for (step, minutes) in steps {
            now += minutes;
            match step {
                Step::Came { who, shown, chosen_by } => came(&mut ledger, &format!("peer-{who}"), shown, chosen_by, now),
                Step::Taught { source, lesson } => taught(&mut ledger, &format!("10.0.{}.{}", source / 256, source % 256), lesson, now),
                Step::Upstream { shown, said, handshake } => upstream(&mut ledger, shown, said, handshake, now),
                Step::Rotated => rotated(&mut ledger),
            }
            let (peers, sources, upstreams) = ledger.size();
            prop_assert!(peers <= PEERS && sources <= SOURCES && upstreams <= 1);
            prop_assert!(ledger.peers.values().all(|peer| peer.pairs.len() <= 10));
        }
        let report = told(&ledger, &keyring, now);
        let proved = report.lines.iter().all(|line| line.stands == Use::ProvedNew);
        let confirmed = report.lines.iter().any(|line| line.stands == Use::InsistsOnOld);
        prop_assert_eq!(report.verdict.retire == Retire::Safe, proved && !report.lines.is_empty());
        prop_assert_eq!(report.verdict.retire == Retire::Call, confirmed);
        prop_assert!(!report.verdict.sentence.is_empty() && !report.verdict.sentence.contains('\n'));
        prop_assert!(report.lines.is_sorted_by_key(|line| line.stands));
        // The same again says the same, and a text of it is the same report.
        prop_assert_eq!(&told(&ledger, &keyring, now), &report);
        let text = serde_json::to_string(&report).unwrap();
        prop_assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}

proptest! {
    /// It does not matter when the registry answers: before this process has seen a peer, or after.
    #[test]
    fn what_is_recalled_late_is_as_if_it_had_been_known_from_the_start(
        former in prop::collection::vec((0..6_u16, 1..5_u8, 50..150_i64), 0..12),
        steps in prop::collection::vec((0..6_u16, 1..5_u8, 0..3_i64), 0..30),
        answered in 0..30_usize,
    ) {
        let all: Vec<Recalled> = former
            .iter()
            .map(|(who, shown, minute)| remembered(&format!("peer-{who}"), *shown, Some(ChosenBy::Only), *minute))
            .collect();
        let tell = |answered: usize| {
            let mut ledger = Ledger::new(at(150));
            let mut now = 150;
            for (number, (who, shown, minutes)) in steps.iter().enumerate() {
                if number == answered {
                    ledger.recall(all.clone(), at(0));
                }
                now += minutes;
                came(&mut ledger, &format!("peer-{who}"), *shown, ChosenBy::Only, now);
            }
            if steps.len() <= answered {
                ledger.recall(all.clone(), at(0));
            }
            told(&ledger, &overlap(), 300)
        };
        prop_assert_eq!(tell(answered), tell(0));
    }
}

#[test]
fn alerts_alone_push_out_no_confirmed_source() {
    let mut ledger = Ledger::new(at(0));
    for source in 0..SOURCES as u32 / 2 {
        taught(&mut ledger, &format!("confirmed-{source}"), Lesson::Confirmed, 100);
    }
    for source in 0..2 * SOURCES {
        taught(&mut ledger, &format!("alert-{source}"), Lesson::Unconfirmed, 110);
    }
    let confirmed = ledger.sources.values().filter(|source| source.lesson == Lesson::Confirmed).count();
    assert_eq!(confirmed, SOURCES / 2);
    assert!(ledger.sources.len() <= SOURCES);
}
