//! Anchors that come, vanish, return and end; files that hold nothing.

use std::time::Duration;

use super::*;
use crate::trust::Role;
use crate::trust::sample::{Ca, days, now, settings};

const DAY: Duration = Duration::from_hours(24);

fn file(until: Option<Timestamp>) -> AnchorSource {
    AnchorSource::File { path: "trust/a.pem".into(), until }
}

fn of(sources: Vec<AnchorSource>, overlap: Duration) -> Settings {
    Settings { anchors: sources, overlap, ..settings(&|_| ()) }
}

fn opened(settings: Settings) -> Anchors {
    Anchors::open(settings, &Remembered::default(), &[])
}

fn holds(cas: &[&Ca]) -> Found {
    Found::Certificates(cas.iter().map(|ca| ca.certificate()).collect())
}

fn arrive(anchors: &mut Anchors, source: &AnchorSource, found: Found, at: Timestamp) -> Vec<Event> {
    anchors.arrive(&BTreeMap::from([(source.clone(), found)]), &BTreeMap::new(), at)
}

/// The events in short form.
fn told(events: &[Event]) -> Vec<String> {
    let short = |event: &Event| match event {
        Event::AnchorAdded { subject, .. } => format!("added {subject}"),
        Event::AnchorLeaving { subject, until, .. } => format!("leaving {subject} {until}"),
        Event::AnchorRemoved { subject, reason, .. } => format!("removed {subject} {reason}"),
        Event::FileKept { file, why, .. } => format!("kept {file}: {why}"),
        Event::CrlsChanged { count, .. } => format!("crls {count}"),
        Event::CrlStale { issuer, due, .. } => format!("stale {issuer} {due}"),
    };
    events.iter().map(short).collect()
}

#[test]
fn the_same_again_changes_nothing() {
    let (ca, source) = (Ca::new("CA"), file(None));
    let mut anchors = opened(of(vec![source.clone()], Duration::ZERO));
    assert!(!anchors.is_usable());
    assert_eq!(told(&arrive(&mut anchors, &source, holds(&[&ca]), now())), ["added CN=CA"]);
    assert_eq!(told(&arrive(&mut anchors, &source, holds(&[&ca]), days(1))), [""; 0]);
    assert!(anchors.is_usable());
    assert_eq!(anchors.next_due(), None);
}

#[test]
fn a_vanished_anchor_goes_at_once_without_an_overlap() {
    let (old, new, source) = (Ca::new("Old"), Ca::new("New"), file(None));
    let mut anchors = opened(of(vec![source.clone()], Duration::ZERO));
    arrive(&mut anchors, &source, holds(&[&old]), now());
    let events = told(&arrive(&mut anchors, &source, holds(&[&new]), now()));
    assert_eq!(events, ["added CN=New", "removed CN=Old vanished"]);
    assert_eq!(anchors.build(now()).holds(), ["CN=New"]);
}

#[test]
fn a_vanished_anchor_stays_for_the_overlap_and_survives_a_restart() {
    let (old, new, source) = (Ca::new("Old"), Ca::new("New"), file(None));
    let mut anchors = opened(of(vec![source.clone()], 3 * DAY));
    arrive(&mut anchors, &source, holds(&[&old]), now());
    let events = told(&arrive(&mut anchors, &source, holds(&[&new]), now()));
    assert!(events.contains(&format!("leaving CN=Old {}", days(3))), "{events:?}");
    let peer = old.peer("a.test", &|_| ());
    assert_eq!(anchors.build(now()).verify(&peer.chain, &Role::Client, now()).unwrap().valid_until, days(3));

    let (remembered, retained) = (anchors.remembered(), anchors.to_retain());
    assert_eq!(retained.len(), 2);
    let mut anchors = Anchors::open(anchors.settings().clone(), &remembered, &retained);
    assert_eq!(told(&arrive(&mut anchors, &source, holds(&[&new]), days(1))), [""; 0]);
    assert_eq!(anchors.next_due(), Some(days(3)));
    assert_eq!(told(&anchors.tick(days(2))), [""; 0]);
    assert_eq!(told(&anchors.tick(days(3))), ["removed CN=Old overlap_ended"]);
    assert_eq!((anchors.remembered().leaving.len(), anchors.to_retain()), (0, vec![new.certificate()]));
    let without = of(vec![source], Duration::ZERO);
    anchors.configure(without, days(4));
    assert_eq!((anchors.remembered(), anchors.to_retain()), (Remembered::default(), Vec::new()));
}

#[test]
fn a_vanished_anchor_that_returns_stays_for_good() {
    let (old, new, source) = (Ca::new("Old"), Ca::new("New"), file(None));
    let mut anchors = opened(of(vec![source.clone()], 3 * DAY));
    arrive(&mut anchors, &source, holds(&[&old, &new]), now());
    arrive(&mut anchors, &source, holds(&[&new]), now());
    // Reported, so that an epoch without the end is built.
    assert_eq!(told(&arrive(&mut anchors, &source, holds(&[&old, &new]), days(1))), ["added CN=Old"]);
    assert_eq!(anchors.next_due(), None);
}

#[test]
fn a_file_that_holds_nothing_is_no_removal_and_told_once() {
    let (ca, source) = (Ca::new("CA"), file(None));
    let mut anchors = opened(of(vec![source.clone()], Duration::ZERO));
    arrive(&mut anchors, &source, holds(&[&ca]), now());
    let missing = || Found::Nothing("the file is missing".into());
    assert_eq!(told(&arrive(&mut anchors, &source, missing(), now())), ["kept trust/a.pem: the file is missing"]);
    assert_eq!(told(&arrive(&mut anchors, &source, missing(), now())), [""; 0]);
    assert_eq!(told(&arrive(&mut anchors, &source, holds(&[]), now())), ["kept trust/a.pem: it holds no certificate"]);
    assert_eq!(told(&anchors.arrive(&BTreeMap::new(), &BTreeMap::new(), now())), [""; 0]);
    assert_eq!(anchors.build(now()).holds(), ["CN=CA"]);
    arrive(&mut anchors, &source, holds(&[&ca]), now());
    assert_eq!(arrive(&mut anchors, &source, missing(), now()).len(), 1);
}

#[test]
fn until_ends_an_anchor_unless_another_source_holds_it() {
    let (ca, dated) = (Ca::new("CA"), file(Some(days(2))));
    let mut anchors = opened(of(vec![dated.clone()], 9 * DAY));
    arrive(&mut anchors, &dated, holds(&[&ca]), now());
    assert_eq!(anchors.next_due(), Some(days(2)));
    assert_eq!(told(&anchors.tick(days(2))), ["removed CN=CA until"]);
    assert!(!anchors.is_usable());

    let mut anchors = opened(of(vec![dated.clone(), AnchorSource::System], Duration::ZERO));
    let found = BTreeMap::from([(dated, holds(&[&ca])), (AnchorSource::System, holds(&[&ca]))]);
    assert_eq!(anchors.arrive(&found, &BTreeMap::new(), now()).len(), 1);
    assert_eq!(anchors.next_due(), None);
    assert_eq!(told(&anchors.tick(days(2))), [""; 0]);
}

#[test]
fn a_source_that_is_no_longer_named_goes_at_once() {
    let (ca, source) = (Ca::new("CA"), file(None));
    let mut anchors = opened(of(vec![source.clone()], 9 * DAY));
    arrive(&mut anchors, &source, holds(&[&ca]), now());
    let dated = of(vec![file(Some(days(2)))], 9 * DAY);
    assert_eq!(told(&anchors.configure(dated, now())), [format!("leaving CN=CA {}", days(2))]);
    assert_eq!(told(&anchors.configure(of(vec![source], 9 * DAY), now())), ["added CN=CA"]);
    assert_eq!(told(&anchors.configure(of(Vec::new(), 9 * DAY), now())), ["removed CN=CA configured"]);
}

#[test]
fn a_shorter_overlap_shortens_those_that_run() {
    let (old, new, source) = (Ca::new("Old"), Ca::new("New"), file(None));
    let mut anchors = opened(of(vec![source.clone()], 9 * DAY));
    arrive(&mut anchors, &source, holds(&[&old, &new]), now());
    arrive(&mut anchors, &source, holds(&[&new]), now());
    let shorter = anchors.configure(of(vec![source.clone()], 3 * DAY), days(1));
    assert_eq!(told(&shorter), [format!("leaving CN=Old {}", days(3))]);
    let none = anchors.configure(of(vec![source], Duration::ZERO), days(1));
    assert_eq!(told(&none), ["removed CN=Old configured"]);
}

#[test]
fn a_crl_with_a_wrong_signature_is_kept_out() {
    let (ca, source, path) = (Ca::new("CA"), file(None), PathBuf::from("trust/a.crl"));
    let mut settings = of(vec![source.clone()], Duration::ZERO);
    settings.crls = vec![path.clone()];
    let mut anchors = opened(settings);
    let anchor = BTreeMap::from([(source, holds(&[&ca]))]);
    let mut with = |crl: FoundCrl| told(&anchors.arrive(&anchor, &BTreeMap::from([(path.clone(), crl)]), now()));

    let good = ca.crl(&[7], 30);
    assert_eq!(with(Ok(vec![good.clone()])), ["added CN=CA", "crls 1"]);
    assert_eq!(with(Ok(vec![good.clone()])), [""; 0]);
    let forged = with(Ok(vec![Ca::new("CA").crl(&[], 30)]));
    assert!(forged[0].contains("is not signed with the key"), "{forged:?}");
    assert!(with(Ok(Vec::new()))[0].starts_with("kept trust/a.crl"));
    assert!(with(Err("the file is missing".into()))[0].starts_with("kept trust/a.crl"));
    assert!(with(Ok(vec![vec![0x30, 0].into()]))[0].contains("invalid CRL"));
    assert_eq!(with(Ok(vec![good, Ca::new("Other").crl(&[], 30)])), ["crls 2"]);

    let peer = ca.peer("a.test", &|params| params.serial_number = Some(7.into()));
    assert!(anchors.build(now()).verify(&peer.chain, &Role::Client, now()).is_err());
    let mut without = anchors.settings().clone();
    without.crls.clear();
    assert_eq!(told(&anchors.configure(without, now())), ["crls 0"]);
}

#[test]
fn pin_only_is_usable_with_pins_alone() {
    let pinned = |pins: Vec<crate::trust::Pin>| {
        opened(settings(&|settings| (settings.pin_only, settings.pins) = (true, pins.clone())))
    };
    assert!(!pinned(Vec::new()).is_usable());
    let pin = crate::trust::Pin { spki: crate::pki::SpkiHash::of(b"key"), until: None };
    assert!(pinned(vec![pin]).is_usable());
}

#[test]
fn an_outdated_list_is_told_once_and_a_renewed_one_silences_it() {
    let (ca, source, path) = (Ca::new("CA"), file(None), PathBuf::from("trust/a.crl"));
    let mut settings = of(vec![source.clone()], Duration::ZERO);
    settings.crls = vec![path.clone()];
    let mut anchors = opened(settings);
    let with = |crl| BTreeMap::from([(path.clone(), Ok(vec![crl]))]);
    anchors.arrive(&BTreeMap::from([(source, holds(&[&ca]))]), &with(ca.crl(&[], 3)), now());
    assert_eq!(anchors.next_due(), Some(days(3)));
    assert_eq!(told(&anchors.tick(days(2))), [""; 0]);
    assert_eq!(told(&anchors.tick(days(3))), [format!("stale CN=CA {}", days(3))]);
    assert_eq!((told(&anchors.tick(days(4))), anchors.next_due()), (Vec::new(), None));
    assert_eq!(told(&anchors.arrive(&BTreeMap::new(), &with(ca.crl(&[], 9)), days(4))), ["crls 1"]);
    assert_eq!(anchors.next_due(), Some(days(9)));
}

#[test]
fn lists_in_a_keyrings_own_folder_count_and_are_missed_only_where_there_were_some() {
    let (ca, source) = (Ca::new("CA"), AnchorSource::Own("api".into()));
    let mut settings = of(vec![source.clone()], Duration::ZERO);
    settings.crls = vec![PathBuf::from("api")];
    let mut anchors = opened(settings);
    let anchor = BTreeMap::from([(source, holds(&[&ca]))]);
    let mut with = |crl: FoundCrl| told(&anchors.arrive(&anchor, &BTreeMap::from([("api".into(), crl)]), now()));
    assert_eq!(with(Err("none there".into())), ["added CN=CA"]);
    assert_eq!(with(Ok(vec![ca.crl(&[7], 30)])), ["crls 1"]);
    assert_eq!(with(Err("none there any more".into())), ["kept api: none there any more"]);
    let peer = ca.peer("a.test", &|params| params.serial_number = Some(7.into()));
    assert!(anchors.build(now()).verify(&peer.chain, &Role::Client, now()).is_err(), "the last good list stays");
}
