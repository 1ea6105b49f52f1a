//! Anchors that come, vanish, return and end; files that hold nothing.

use std::time::Duration;

use super::*;
use crate::trust::sample::{TestAuthority, days_from_now, now, settings};
use crate::trust::{PeerRole, TrustError};

const DAY: Duration = Duration::from_hours(24);

fn file_source(until: Option<Timestamp>) -> AnchorSource {
    AnchorSource::File { path: "trust/a.pem".into(), until }
}

fn settings_with(sources: Vec<AnchorSource>, overlap: Duration) -> TrustSettings {
    TrustSettings { anchors: sources, overlap, ..settings(&|_| ()) }
}

fn open_anchors(settings: TrustSettings) -> Anchors {
    Anchors::open(settings, &PersistedAnchors::default(), &[])
}

fn found_certificates(cas: &[&TestAuthority]) -> FoundAnchors {
    FoundAnchors::Certificates(cas.iter().map(|ca| ca.certificate()).collect())
}

fn arrive(anchors: &mut Anchors, source: &AnchorSource, found: FoundAnchors, at: Timestamp) -> Vec<TrustEvent> {
    anchors.apply_sources(&BTreeMap::from([(source.clone(), found)]), &BTreeMap::new(), at)
}

/// The events in short form.
fn summarise_events(events: &[TrustEvent]) -> Vec<String> {
    let short = |event: &TrustEvent| match event {
        TrustEvent::AnchorAdded { subject, .. } => format!("added {subject}"),
        TrustEvent::AnchorCannotVouch { subject, why, .. } => format!("useless {subject}: {why}"),
        TrustEvent::AnchorLeaving { subject, until, .. } => format!("leaving {subject} {until}"),
        TrustEvent::AnchorRemoved { subject, reason, .. } => format!("removed {subject} {reason}"),
        TrustEvent::FileKept { file, why, .. } => format!("kept {file}: {why}"),
        TrustEvent::FileUsable { file, .. } => format!("usable {file}"),
        TrustEvent::CrlsChanged { count, .. } => format!("crls {count}"),
        TrustEvent::CrlStale { issuer, due, .. } => format!("stale {issuer} {due}"),
    };
    events.iter().map(short).collect()
}

#[test]
fn the_same_again_changes_nothing() {
    let (ca, source) = (TestAuthority::new("CA"), file_source(None));
    let mut anchors = open_anchors(settings_with(vec![source.clone()], Duration::ZERO));
    assert!(!anchors.is_usable());
    assert_eq!(summarise_events(&arrive(&mut anchors, &source, found_certificates(&[&ca]), now())), ["added CN=CA"]);
    assert_eq!(summarise_events(&arrive(&mut anchors, &source, found_certificates(&[&ca]), days_from_now(1))), [""; 0]);
    assert!(anchors.is_usable());
    assert_eq!(anchors.next_due(), None);
}

#[test]
fn a_vanished_anchor_goes_at_once_without_an_overlap() {
    let (old, new, source) = (TestAuthority::new("Old"), TestAuthority::new("New"), file_source(None));
    let mut anchors = open_anchors(settings_with(vec![source.clone()], Duration::ZERO));
    arrive(&mut anchors, &source, found_certificates(&[&old]), now());
    let events = summarise_events(&arrive(&mut anchors, &source, found_certificates(&[&new]), now()));
    assert_eq!(events, ["added CN=New", "removed CN=Old vanished"]);
    assert_eq!(anchors.build(now()).anchor_subjects(), ["CN=New"]);
}

#[test]
fn a_vanished_anchor_stays_for_the_overlap_and_survives_a_restart() {
    let (old, new, source) = (TestAuthority::new("Old"), TestAuthority::new("New"), file_source(None));
    let mut anchors = open_anchors(settings_with(vec![source.clone()], 3 * DAY));
    arrive(&mut anchors, &source, found_certificates(&[&old]), now());
    let events = summarise_events(&arrive(&mut anchors, &source, found_certificates(&[&new]), now()));
    assert!(events.contains(&format!("leaving CN=Old {}", days_from_now(3))), "{events:?}");
    let peer = old.issue_peer("a.test", &|_| ());
    assert_eq!(
        anchors.build(now()).verify(&peer.chain, &PeerRole::Client, now()).unwrap().valid_until,
        days_from_now(3)
    );

    let (remembered, retained) = (anchors.persisted_state(), anchors.certificates_to_retain());
    assert_eq!(retained.len(), 2);
    let mut anchors = Anchors::open(anchors.settings().clone(), &remembered, &retained);
    assert_eq!(
        summarise_events(&arrive(&mut anchors, &source, found_certificates(&[&new]), days_from_now(1))),
        [""; 0]
    );
    assert_eq!(anchors.next_due(), Some(days_from_now(3)));
    assert_eq!(summarise_events(&anchors.tick(days_from_now(2))), [""; 0]);
    assert_eq!(summarise_events(&anchors.tick(days_from_now(3))), ["removed CN=Old overlap_ended"]);
    assert_eq!(
        (anchors.persisted_state().leaving.len(), anchors.certificates_to_retain()),
        (0, vec![new.certificate()])
    );
    let without = settings_with(vec![source], Duration::ZERO);
    anchors.configure(without, days_from_now(4));
    assert_eq!(
        (anchors.persisted_state(), anchors.certificates_to_retain()),
        (PersistedAnchors::default(), Vec::new())
    );
}

#[test]
fn a_vanished_anchor_that_returns_stays_for_good() {
    let (old, new, source) = (TestAuthority::new("Old"), TestAuthority::new("New"), file_source(None));
    let mut anchors = open_anchors(settings_with(vec![source.clone()], 3 * DAY));
    arrive(&mut anchors, &source, found_certificates(&[&old, &new]), now());
    arrive(&mut anchors, &source, found_certificates(&[&new]), now());
    // Reported, so that an epoch without the end is built.
    assert_eq!(
        summarise_events(&arrive(&mut anchors, &source, found_certificates(&[&old, &new]), days_from_now(1))),
        ["added CN=Old"]
    );
    assert_eq!(anchors.next_due(), None);
}

#[test]
fn an_empty_file_removes_nothing_and_is_reported_once() {
    let (ca, source) = (TestAuthority::new("CA"), file_source(None));
    let mut anchors = open_anchors(settings_with(vec![source.clone()], Duration::ZERO));
    arrive(&mut anchors, &source, found_certificates(&[&ca]), now());
    let missing = || FoundAnchors::Nothing("the file is missing".into());
    assert_eq!(
        summarise_events(&arrive(&mut anchors, &source, missing(), now())),
        ["kept trust/a.pem: the file is missing"]
    );
    assert_eq!(summarise_events(&arrive(&mut anchors, &source, missing(), now())), [""; 0]);
    assert_eq!(
        summarise_events(&arrive(&mut anchors, &source, found_certificates(&[]), now())),
        ["kept trust/a.pem: it holds no certificate"]
    );
    assert_eq!(summarise_events(&anchors.apply_sources(&BTreeMap::new(), &BTreeMap::new(), now())), [""; 0]);
    assert_eq!(anchors.build(now()).anchor_subjects(), ["CN=CA"]);
    arrive(&mut anchors, &source, found_certificates(&[&ca]), now());
    assert_eq!(arrive(&mut anchors, &source, missing(), now()).len(), 1);
}

#[test]
fn until_ends_an_anchor_unless_another_source_holds_it() {
    let (ca, dated) = (TestAuthority::new("CA"), file_source(Some(days_from_now(2))));
    let mut anchors = open_anchors(settings_with(vec![dated.clone()], 9 * DAY));
    arrive(&mut anchors, &dated, found_certificates(&[&ca]), now());
    assert_eq!(anchors.next_due(), Some(days_from_now(2)));
    assert_eq!(summarise_events(&anchors.tick(days_from_now(2))), ["removed CN=CA until"]);
    assert!(!anchors.is_usable());

    let mut anchors = open_anchors(settings_with(vec![dated.clone(), AnchorSource::System], Duration::ZERO));
    let found =
        BTreeMap::from([(dated, found_certificates(&[&ca])), (AnchorSource::System, found_certificates(&[&ca]))]);
    assert_eq!(anchors.apply_sources(&found, &BTreeMap::new(), now()).len(), 1);
    assert_eq!(anchors.next_due(), None);
    assert_eq!(summarise_events(&anchors.tick(days_from_now(2))), [""; 0]);
}

#[test]
fn a_source_removed_from_the_settings_goes_at_once() {
    let (ca, source) = (TestAuthority::new("CA"), file_source(None));
    let mut anchors = open_anchors(settings_with(vec![source.clone()], 9 * DAY));
    arrive(&mut anchors, &source, found_certificates(&[&ca]), now());
    let dated = settings_with(vec![file_source(Some(days_from_now(2)))], 9 * DAY);
    assert_eq!(summarise_events(&anchors.configure(dated, now())), [format!("leaving CN=CA {}", days_from_now(2))]);
    assert_eq!(summarise_events(&anchors.configure(settings_with(vec![source], 9 * DAY), now())), ["added CN=CA"]);
    assert_eq!(
        summarise_events(&anchors.configure(settings_with(Vec::new(), 9 * DAY), now())),
        ["removed CN=CA configured"]
    );
}

#[test]
fn a_shorter_overlap_shortens_those_that_run() {
    let (old, new, source) = (TestAuthority::new("Old"), TestAuthority::new("New"), file_source(None));
    let mut anchors = open_anchors(settings_with(vec![source.clone()], 9 * DAY));
    arrive(&mut anchors, &source, found_certificates(&[&old, &new]), now());
    arrive(&mut anchors, &source, found_certificates(&[&new]), now());
    let shorter = anchors.configure(settings_with(vec![source.clone()], 3 * DAY), days_from_now(1));
    assert_eq!(summarise_events(&shorter), [format!("leaving CN=Old {}", days_from_now(3))]);
    let none = anchors.configure(settings_with(vec![source], Duration::ZERO), days_from_now(1));
    assert_eq!(summarise_events(&none), ["removed CN=Old configured"]);
}

#[test]
fn a_crl_with_a_wrong_signature_is_kept_out() {
    let (ca, source, path) = (TestAuthority::new("CA"), file_source(None), PathBuf::from("trust/a.crl"));
    let mut settings = settings_with(vec![source.clone()], Duration::ZERO);
    settings.crls = vec![path.clone()];
    let mut anchors = open_anchors(settings);
    let anchor = BTreeMap::from([(source, found_certificates(&[&ca]))]);
    let mut with = |crl: FoundCrl| {
        summarise_events(&anchors.apply_sources(&anchor, &BTreeMap::from([(path.clone(), crl)]), now()))
    };

    let good = ca.issue_crl(&[7], 30);
    assert_eq!(with(Ok(vec![good.clone()])), ["added CN=CA", "crls 1"]);
    assert_eq!(with(Ok(vec![good.clone()])), [""; 0]);
    let forged = with(Ok(vec![TestAuthority::new("CA").issue_crl(&[], 30)]));
    assert!(forged[0].contains("is not signed with the key"), "{forged:?}");
    assert!(with(Ok(Vec::new()))[0].starts_with("kept trust/a.crl"));
    assert!(with(Err("the file is missing".into()))[0].starts_with("kept trust/a.crl"));
    assert!(with(Ok(vec![vec![0x30, 0].into()]))[0].contains("invalid CRL"));
    let both = with(Ok(vec![good, TestAuthority::new("Other").issue_crl(&[], 30)]));
    assert_eq!(both, ["usable trust/a.crl", "crls 2"]);
    let revoked: Vec<usize> = anchors.build(now()).view().crls.iter().map(|crl| crl.revoked).collect();
    assert_eq!(revoked.iter().sum::<usize>(), 1, "one list revokes one certificate, the other none: {revoked:?}");

    let peer = ca.issue_peer("a.test", &|params| params.serial_number = Some(7.into()));
    assert!(anchors.build(now()).verify(&peer.chain, &PeerRole::Client, now()).is_err());
    let mut without = anchors.settings().clone();
    without.crls.clear();
    assert_eq!(summarise_events(&anchors.configure(without, now())), ["crls 0"]);
}

#[test]
fn what_a_named_crl_should_cover_is_refused_until_it_was_read_once() {
    let (ca, other, source) = (TestAuthority::new("CA"), TestAuthority::new("Other"), file_source(None));
    let (one, two) = (PathBuf::from("trust/a.crl"), PathBuf::from("trust/b.crl"));
    let mut settings = settings_with(vec![source.clone()], Duration::ZERO);
    settings.crls = vec![one.clone(), two.clone()];
    let mut anchors = open_anchors(settings);
    let found = BTreeMap::from([(source, found_certificates(&[&ca, &other]))]);
    let missing = || Err("the file is missing".to_owned());
    let mut apply = |first: FoundCrl, second: FoundCrl| {
        let lists = BTreeMap::from([(one.clone(), first), (two.clone(), second)]);
        anchors.apply_sources(&found, &lists, now());
        let verify = |ca: &TestAuthority| {
            let peer = ca.issue_peer("a.test", &|_| ());
            anchors.build(now()).verify(&peer.chain, &PeerRole::Client, now()).map(|_| ())
        };
        (verify(&ca), verify(&other), anchors.build(now()).view().faults)
    };
    let unknown = |verdict: &Result<(), TrustError>| matches!(verdict, Err(TrustError::RevocationUnknown { .. }));
    let (of_ca, of_other, faults) = apply(missing(), missing());
    assert!(unknown(&of_ca) && unknown(&of_other));
    assert_eq!(faults.iter().map(|fault| fault.kept).collect::<Vec<_>>(), [KeptContent::NoCrls; 2]);
    let (of_ca, of_other, faults) = apply(Ok(vec![ca.issue_crl(&[], 30)]), missing());
    assert_eq!((of_ca, unknown(&of_other), faults.len()), (Ok(()), true, 1));
    let (of_ca, of_other, faults) = apply(missing(), Ok(vec![ca.issue_crl(&[], 30)]));
    assert_eq!((of_ca, of_other, faults.len()), (Ok(()), Ok(()), 1), "both were read once");
    assert_eq!(faults[0].kept, KeptContent::LastUsable);
}

#[test]
fn pin_only_is_usable_with_pins_alone() {
    let pinned = |pins: Vec<crate::trust::Pin>| {
        open_anchors(settings(&|settings| (settings.pin_only, settings.pins) = (true, pins.clone())))
    };
    assert!(!pinned(Vec::new()).is_usable());
    let pin = crate::trust::Pin { spki: crate::pki::SpkiHash::of(b"key"), until: None };
    assert!(pinned(vec![pin]).is_usable());
}

#[test]
fn an_outdated_list_is_told_once_and_a_renewed_one_silences_it() {
    let (ca, source, path) = (TestAuthority::new("CA"), file_source(None), PathBuf::from("trust/a.crl"));
    let mut settings = settings_with(vec![source.clone()], Duration::ZERO);
    settings.crls = vec![path.clone()];
    let mut anchors = open_anchors(settings);
    let with = |crl| BTreeMap::from([(path.clone(), Ok(vec![crl]))]);
    anchors.apply_sources(&BTreeMap::from([(source, found_certificates(&[&ca]))]), &with(ca.issue_crl(&[], 3)), now());
    assert_eq!(anchors.next_due(), Some(days_from_now(3)));
    assert_eq!(summarise_events(&anchors.tick(days_from_now(2))), [""; 0]);
    assert_eq!(summarise_events(&anchors.tick(days_from_now(3))), [format!("stale CN=CA {}", days_from_now(3))]);
    assert_eq!((summarise_events(&anchors.tick(days_from_now(4))), anchors.next_due()), (Vec::new(), None));
    assert_eq!(
        summarise_events(&anchors.apply_sources(&BTreeMap::new(), &with(ca.issue_crl(&[], 9)), days_from_now(4))),
        ["crls 1"]
    );
    assert_eq!(anchors.next_due(), Some(days_from_now(9)));
}

#[test]
fn lists_in_a_keyrings_own_folder_count_and_are_missed_only_where_there_were_some() {
    let (ca, source) = (TestAuthority::new("CA"), AnchorSource::Own("api".into()));
    let mut settings = settings_with(vec![source.clone()], Duration::ZERO);
    settings.crls = vec![PathBuf::from("api")];
    let mut anchors = open_anchors(settings);
    let anchor = BTreeMap::from([(source, found_certificates(&[&ca]))]);
    let mut with = |crl: FoundCrl| {
        summarise_events(&anchors.apply_sources(&anchor, &BTreeMap::from([("api".into(), crl)]), now()))
    };
    assert_eq!(with(Err("none there".into())), ["added CN=CA"]);
    assert_eq!(with(Ok(vec![ca.issue_crl(&[7], 30)])), ["crls 1"]);
    assert_eq!(with(Err("none there any more".into())), ["kept api: none there any more"]);
    let peer = ca.issue_peer("a.test", &|params| params.serial_number = Some(7.into()));
    assert!(anchors.build(now()).verify(&peer.chain, &PeerRole::Client, now()).is_err(), "the last good list stays");
}
