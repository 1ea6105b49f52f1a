//! What must hold: each threshold raises one alert, the last one urgently; a successor ends it; none is raised before
//! it is due; and every alert that the contract lists is raised.

use proptest::prelude::*;

use super::*;
use crate::alerts::conditions::{AlertConditions, KeyPairRefusal, RefusedDrop};
use crate::pki::Validity;
use crate::registry::UnixSeconds;
use crate::snapshot::{ChainEnd, TrustView, sample};
use crate::trust::{AnchorView, CrlView, KeptContent, TrustContents, TrustFileFault};

fn parse_time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    parse_time("2026-11-25T09:00:00Z")
}

fn days_after(time: Timestamp, days: i64) -> Timestamp {
    time + jiff::SignedDuration::from_hours(24 * days)
}

fn pair(byte: u8, standing: Standing, from_days: i64, to_days: i64) -> KeyPairView {
    let validity = Validity { not_before: days_after(now(), from_days), not_after: days_after(now(), to_days) };
    KeyPairView { since: validity.not_before, validity, ..sample::sample_pair(&[byte; 32], standing) }
}

fn keyring_view(key_pairs: Vec<KeyPairView>) -> KeyringView {
    KeyringView { contact: Some("integrations@example.com".to_owned()), ..sample::sample_keyring(key_pairs) }
}

fn peer(byte: u8, identity: &str, from_days: i64, to_days: i64) -> PeerRow {
    PeerRow {
        instance: "one".to_owned(),
        side: "ingress".to_owned(),
        listener: "api".to_owned(),
        certificate: Fingerprint::from_bytes([byte; 32]).to_string(),
        identity: Some(identity.to_owned()),
        partner: Some("acme".to_owned()),
        subject: "CN=etl".to_owned(),
        issuer: "CN=Acme CA".to_owned(),
        serial: "01".to_owned(),
        not_before: days_after(now(), from_days).into(),
        not_after: days_after(now(), to_days).into(),
        public_ca: false.into(),
        address: None,
        keyring: Some("api".to_owned()),
        key_pair: None,
        chosen_by: None,
        handshakes: 1,
        first_seen: UnixSeconds(0),
        last_seen: now().into(),
    }
}

fn evaluate(rings: &[KeyringView], peers: &[PeerRow], conditions: &AlertConditions, time: Timestamp) -> Vec<Alert> {
    let contacts = BTreeMap::from([("acme".into(), "noc@acme.example".to_owned())]);
    due_alerts(&AlertInputs { keyrings: rings, trusts: &[], peers, conditions, contacts: &contacts }, time)
}

fn kinds(alerts: &[Alert]) -> Vec<AlertKind> {
    alerts.iter().map(|alert| alert.kind).collect()
}

fn no_conditions() -> AlertConditions {
    AlertConditions::default()
}

#[test]
fn a_year_long_certificate_is_told_of_five_times_and_the_last_time_urgently() {
    let rings = [keyring_view(vec![pair(1, Standing::Current, -300, 65)])];
    let mut names = Vec::new();
    for day in 0..=65 {
        let alerts = evaluate(&rings, &[], &no_conditions(), days_after(now(), day));
        assert!(alerts.len() <= 1);
        for alert in alerts {
            assert_eq!(alert.contacts, ["integrations@example.com"]);
            if names.last() != Some(&(alert.name.to_string(), alert.urgent)) {
                names.push((alert.name.to_string(), alert.urgent));
            }
        }
    }
    let days: Vec<(u64, bool)> = names
        .iter()
        .map(|(name, urgent)| (name.rsplit(':').next().unwrap().parse::<u64>().unwrap() / 86_400, *urgent))
        .collect();
    assert_eq!(days, [(60, false), (30, false), (14, false), (7, false), (1, true)]);
}

#[test]
fn a_90_day_certificate_does_not_cry_wolf() {
    let rings = [keyring_view(vec![pair(1, Standing::Current, 0, 90)])];
    assert!(evaluate(&rings, &[], &no_conditions(), days_after(now(), 67)).is_empty(), "more than a quarter is left");
    assert_eq!(kinds(&evaluate(&rings, &[], &no_conditions(), days_after(now(), 68))), [AlertKind::Expires]);
    assert!(!evaluate(&rings, &[], &no_conditions(), days_after(now(), 80))[0].urgent);
    assert!(evaluate(&rings, &[], &no_conditions(), days_after(now(), 87))[0].urgent);
}

#[test]
fn a_successor_silences_once_it_is_current_and_is_named_while_it_waits() {
    let old = |standing| pair(1, standing, -300, 20);
    let staged = keyring_view(vec![old(Standing::Current), pair(2, Standing::Staged, -1, 300)]);
    let alerts = evaluate(&[staged], &[], &no_conditions(), now());
    assert_eq!(kinds(&alerts), [AlertKind::Expires]);
    assert!(alerts[0].remedy.contains("keyring promote api 020202020202"), "{}", alerts[0].remedy);
    let rotated = keyring_view(vec![old(Standing::Previous), pair(2, Standing::Current, -1, 300)]);
    assert!(evaluate(&[rotated], &[], &no_conditions(), now()).is_empty());
}

#[test]
fn an_expired_pair_in_use_is_the_loudest() {
    let alerts = evaluate(&[keyring_view(vec![pair(1, Standing::Current, -300, -1)])], &[], &no_conditions(), now());
    assert_eq!((kinds(&alerts), alerts[0].urgent), (vec![AlertKind::LastResort], true));
}

#[test]
fn a_list_of_ones_own_counts_in_place_of_the_lifetime() {
    let mut ring = keyring_view(vec![pair(1, Standing::Current, -10, 80)]);
    ring.alert_before = Some(vec![DAY * 90, DAY * 2]);
    let alerts = evaluate(&[ring], &[], &no_conditions(), now());
    assert!(alerts[0].name.ends_with(":7776000"), "{}", alerts[0].name);
}

#[test]
fn partners_certificates_are_watched_until_a_newer_one_is_seen() {
    let rings = [keyring_view(vec![pair(1, Standing::Current, -1, 300)])];
    let old = peer(7, "uri:spiffe://acme/etl", -300, 20);
    let alerts = evaluate(&rings, std::slice::from_ref(&old), &no_conditions(), now());
    assert_eq!(kinds(&alerts), [AlertKind::PartnerExpires]);
    assert!(alerts[0].explanation.contains("acme (uri:spiffe://acme/etl)"), "{}", alerts[0].explanation);
    assert!(alerts[0].remedy.starts_with("contact the partner (noc@acme.example)"), "{}", alerts[0].remedy);
    let new = PeerRow { first_seen: now().into(), ..peer(8, "uri:spiffe://acme/etl", -1, 300) };
    assert!(evaluate(&rings, &[old.clone(), new], &no_conditions(), now()).is_empty());
    let machine = peer(9, "uri:spiffe://acme/pod", 0, 1);
    assert!(
        evaluate(&rings, &[machine], &no_conditions(), now()).is_empty(),
        "one-day certificates are renewed automatically"
    );
    // One node was renewed three days ago, and the other was not.
    let new = PeerRow { first_seen: days_after(now(), -3).into(), ..peer(8, "uri:spiffe://acme/etl", -3, 300) };
    let shown = |at: Timestamp| PeerRow { last_seen: at.into(), ..old.clone() };
    let told = |at| evaluate(&rings, &[shown(at), new.clone()], &no_conditions(), now());
    let alerts = told(now());
    assert_eq!(kinds(&alerts), [AlertKind::PartnerExpires]);
    assert!(alerts[0].explanation.contains("a node of it was still using this one on 2026-11-25"), "{alerts:?}");
    assert!(alerts[0].explanation.contains("although another has 080808080808 (valid until"), "{alerts:?}");
    assert!(told(days_after(now(), -3)).is_empty(), "the nodes were renewed one after the other");
    let gone = PeerRow { last_seen: days_after(now(), -31).into(), ..old };
    assert!(evaluate(&rings, &[gone], &no_conditions(), now()).is_empty());
}

#[test]
fn an_overlap_that_ends_with_peers_on_the_old_pair_is_told() {
    let mut old = pair(1, Standing::Previous, -300, 300);
    (old.since, old.overlap_ends) = (days_after(now(), -25), Some(days_after(now(), 5)));
    let rings = [keyring_view(vec![old, pair(2, Standing::Current, -25, 300)])];
    let on = |byte: u8| PeerRow {
        key_pair: Some(Fingerprint::from_bytes([byte; 32]).to_string()),
        ..peer(byte, "dns:etl.example", -10, 300)
    };
    assert!(evaluate(&rings, &[on(2)], &no_conditions(), now()).is_empty());
    let alerts = evaluate(&rings, &[on(1)], &no_conditions(), now());
    assert_eq!(kinds(&alerts), [AlertKind::OverlapEnds]);
    assert!(alerts[0].explanation.contains("acme (dns:etl.example)"), "{}", alerts[0].explanation);
    assert!(
        evaluate(&rings, &[on(1)], &no_conditions(), days_after(now(), -10)).is_empty(),
        "more than a week is left"
    );
}

#[test]
fn who_refuses_the_new_pair_is_one_alert_for_a_listener() {
    let refused = Fingerprint::from_bytes([2; 32]);
    let mut conditions = no_conditions();
    for who in ["192.0.2.1", "192.0.2.2"] {
        let refusal = KeyPairRefusal { keyring: "api".into(), since: now(), explanation: "unknown CA".to_owned() };
        conditions.refusals.insert(("api".into(), who.to_owned(), refused), refusal);
    }
    let rings = [keyring_view(vec![pair(2, Standing::Current, -1, 300)])];
    let alerts = evaluate(&rings, &[], &conditions, now());
    assert_eq!(kinds(&alerts), [AlertKind::Refuses]);
    assert!(alerts[0].explanation.contains("192.0.2.1, 192.0.2.2"), "{}", alerts[0].explanation);
    let rolled_back = [keyring_view(vec![pair(2, Standing::Previous, -1, 300), pair(1, Standing::Current, -9, 300)])];
    assert!(evaluate(&rolled_back, &[], &conditions, now()).is_empty(), "it is not shown any more");
}

#[test]
fn refused_drops_strangers_and_what_the_folder_holds_in_vain_are_told() {
    let mut conditions = no_conditions();
    let drop = RefusedDrop { at: now(), key_pair: None, why: "a.crt: no key".to_owned(), remedy: "add it".to_owned() };
    conditions.drops.insert(("api".into(), "a.crt".to_owned(), "no_key"), drop);
    let mut rings = [keyring_view(vec![pair(1, Standing::Current, -9, 300), pair(2, Standing::Staged, -1, 300)])];
    rings[0].diverges = Some((Fingerprint::from_bytes([2; 32]), now()));
    assert_eq!(
        kinds(&evaluate(&rings, &[], &conditions, now())),
        [AlertKind::RefusedDrop],
        "it may be promoted any moment"
    );
    conditions.strangers.insert(Fingerprint::from_bytes([2; 32]));
    assert_eq!(kinds(&evaluate(&rings, &[], &conditions, now())), [AlertKind::Diverges, AlertKind::RefusedDrop]);
    conditions = no_conditions();
    assert_eq!(kinds(&evaluate(&rings, &[], &conditions, days_after(now(), 1))), [AlertKind::Diverges]);
    rings[0].key_pairs[1].validity.not_before = days_after(now(), 9);
    assert!(evaluate(&rings, &[], &conditions, days_after(now(), 1)).is_empty(), "it waits for its first day");
}

/// The alerts of a trust that is used by these keyrings.
fn evaluate_trust(anchors: Vec<AnchorView>, crls: Vec<CrlView>, used_by: &[&str]) -> Vec<Alert> {
    let holds = TrustContents {
        name: "partners".into(),
        anchors,
        pins: Vec::new(),
        crls,
        checks_crls: true,
        stale_refuses: false,
        faults: Vec::new(),
    };
    let used_by: Vec<Arc<str>> = used_by.iter().map(|name| (*name).into()).collect();
    let trusts = [TrustView { holds, keyrings: used_by.clone(), used_by }];
    let (rings, contacts, conditions) = ([keyring_view(Vec::new())], BTreeMap::new(), no_conditions());
    due_alerts(
        &AlertInputs { keyrings: &rings, trusts: &trusts, peers: &[], conditions: &conditions, contacts: &contacts },
        now(),
    )
}

fn anchor(byte: u8, to_days: i64) -> AnchorView {
    AnchorView {
        anchor: Fingerprint::from_bytes([byte; 32]),
        subject: "CN=Acme CA".to_owned(),
        validity: Validity { not_before: days_after(now(), -1000), not_after: days_after(now(), to_days) },
        until: None,
        platform: false,
        cannot_vouch: None,
    }
}

#[test]
fn an_anchor_that_expires_is_told_of_until_its_successor_is_there_or_it_is_on_its_way_out() {
    let told = |anchors| evaluate_trust(anchors, Vec::new(), &["api"]);
    let alerts = told(vec![anchor(1, 20)]);
    assert_eq!(kinds(&alerts), [AlertKind::AnchorExpires]);
    let alert = &alerts[0];
    assert_eq!((&*alert.keyring, &alert.contacts[..]), ("partners", &["integrations@example.com".to_owned()][..]));
    assert!(alert.explanation.contains("CN=Acme CA") && alert.explanation.contains("in 20 days"), "{alert:?}");
    assert!(told(vec![anchor(1, -2)])[0].explanation.contains("expired on 2026-11-23"));
    assert!(told(vec![anchor(1, 61)]).is_empty());
    assert!(told(vec![anchor(1, 20), anchor(2, 900)]).is_empty(), "its successor has the same name");
    let other = AnchorView { subject: "CN=Another CA".to_owned(), ..anchor(2, 900) };
    assert_eq!(told(vec![anchor(1, 20), other]).len(), 1);
    assert!(
        told(vec![AnchorView { until: Some(days_after(now(), 3)), ..anchor(1, 20) }]).is_empty(),
        "its removal was scheduled"
    );
    assert!(told(vec![AnchorView { platform: true, ..anchor(1, 20) }]).is_empty());
    assert!(evaluate_trust(vec![anchor(1, 20)], Vec::new(), &[]).is_empty(), "no peer is verified with it");
}

#[test]
fn an_intermediate_that_ends_before_its_pair_is_told_of_in_its_stead() {
    let mut short = pair(1, Standing::Current, -100, 300);
    short.chain_ends = Some(ChainEnd { subject: "CN=Issuing CA".to_owned(), not_after: days_after(now(), 20) });
    let alerts = evaluate(&[keyring_view(vec![short.clone()])], &[], &no_conditions(), now());
    assert_eq!(kinds(&alerts), [AlertKind::Expires]);
    assert!(alerts[0].explanation.contains("CN=Issuing CA") && alerts[0].explanation.contains("20 days"), "{alerts:?}");
    assert!(alerts[0].remedy.contains("next intermediate"), "{}", alerts[0].remedy);
    short.chain_ends = Some(ChainEnd { subject: "CN=Issuing CA".to_owned(), not_after: days_after(now(), 100) });
    assert!(evaluate(&[keyring_view(vec![short])], &[], &no_conditions(), now()).is_empty());
}

#[test]
fn an_intermediate_that_was_renewed_leaves_the_expiry_of_the_pair_untold() {
    let mut short = pair(1, Standing::Current, -100, 20);
    let own = evaluate(&[keyring_view(vec![short.clone()])], &[], &no_conditions(), now()).remove(0);
    short.chain_ends = Some(ChainEnd { subject: "CN=Issuing CA".to_owned(), not_after: days_after(now(), 19) });
    let chain = evaluate(&[keyring_view(vec![short])], &[], &no_conditions(), now()).remove(0);
    assert_ne!(own.name, chain.name);
    assert_eq!((own.ends, chain.ends), (Some(days_after(now(), 20)), Some(days_after(now(), 19))));
}

#[test]
fn every_owner_of_a_shared_pair_is_told_and_it_is_one_alert() {
    let shared = || vec![pair(1, Standing::Current, -300, 20)];
    let other = KeyringView {
        name: "salesforce".into(),
        contact: Some("sales@example.com".to_owned()),
        ..keyring_view(shared())
    };
    let alerts = evaluate(&[keyring_view(shared()), other], &[], &no_conditions(), now());
    assert_eq!(alerts.len(), 1);
    assert_eq!(alerts[0].contacts, ["integrations@example.com", "sales@example.com"]);
    assert_eq!((&*alerts[0].keyring, &*alerts[0].also[0]), ("api", "salesforce"));
    assert!(alerts[0].explanation.ends_with("; also in salesforce"), "{}", alerts[0].explanation);
}

#[test]
fn only_an_instance_with_the_keyring_alerts_about_its_partners() {
    let mut stranger = peer(7, "uri:spiffe://acme/etl", -300, 20);
    stranger.keyring = Some("elsewhere".to_owned());
    assert!(evaluate(&[keyring_view(Vec::new())], &[stranger], &no_conditions(), now()).is_empty());
}

#[test]
fn a_crl_that_is_out_of_date_is_told_once_for_each_due_date() {
    let crl = |days| CrlView {
        issuer: "CN=Acme CA".to_owned(),
        anchors: Vec::new(),
        this_update: days_after(now(), days - 7),
        next_update: days_after(now(), days),
        revoked: 0,
    };
    let told = |crls| evaluate_trust(Vec::new(), crls, &["api"]);
    assert_eq!(told(vec![crl(-1)])[0].contacts, ["integrations@example.com"]);
    assert!(told(vec![crl(2), crl(-1)]).is_empty(), "the newest of an issuer counts");
    let soon = &told(vec![crl(1)])[0];
    assert!(soon.explanation.contains("will be out of date in 24 h") && !soon.urgent, "{}", soon.explanation);
}

#[test]
fn a_crl_warns_a_quarter_of_its_period_before_it_is_stale_and_at_least_a_day() {
    let before = |period_hours: i64| {
        let crl = CrlView {
            issuer: "CN=Acme CA".to_owned(),
            anchors: Vec::new(),
            this_update: now() - jiff::SignedDuration::from_hours(period_hours),
            next_update: now(),
            revoked: 0,
        };
        now().duration_since(crl.warned_from()).as_hours()
    };
    assert_eq!([before(24 * 30), before(48), before(24 * 3), before(24), before(4)], [180, 24, 24, 6, 1]);
}

#[test]
fn a_file_of_a_trust_that_cannot_be_used_is_told_with_what_follows_from_it() {
    let fault = |kept| TrustFileFault {
        file: "trust/partners.crl".to_owned(),
        why: "the file is empty".to_owned(),
        kept,
        since: now(),
    };
    for (kept, urgent, says) in [
        (KeptContent::LastUsable, false, "what it held last stays in use"),
        (KeptContent::NoCrls, true, "are refused (revocation_unknown)"),
    ] {
        let mut trust = sample::sample_trust(pair(1, Standing::Current, -9, 300).validity);
        (trust.holds.faults, trust.used_by) = (vec![fault(kept)], vec!["api".into()]);
        let (rings, contacts, conditions) = ([keyring_view(Vec::new())], BTreeMap::new(), no_conditions());
        let trusts = [trust];
        let inputs =
            AlertInputs { keyrings: &rings, trusts: &trusts, peers: &[], conditions: &conditions, contacts: &contacts };
        let alerts = due_alerts(&inputs, now());
        assert_eq!((kinds(&alerts), alerts[0].urgent), (vec![AlertKind::TrustFileUnusable], urgent));
        assert!(alerts[0].explanation.contains(says), "{}", alerts[0].explanation);
        assert_eq!(alerts[0].contacts, ["integrations@example.com"]);
    }
}

proptest! {
    /// Against a slow and obvious second version: the thresholds that lie behind us, and of these the shortest.
    #[test]
    fn the_last_threshold_that_has_passed_is_told(
        left_hours in 0i64..3000,
        list in proptest::collection::btree_set(1u64..2000, 1..6),
    ) {
        let mut list: Vec<Duration> = list.into_iter().map(Duration::from_hours).collect();
        list.reverse();
        let end = now() + jiff::SignedDuration::from_hours(left_hours);
        let behind: Vec<Duration> =
            list.iter().copied().filter(|one| end - jiff::SignedDuration::try_from(*one).unwrap() <= now()).collect();
        let expected = behind.iter().min().map(|one| (*one, behind.len() == list.len()));
        prop_assert_eq!(passed_threshold(end, &list, now()), expected);
    }

    /// As time goes by the names only ever move on, urgency never ends before the expiry, and asking twice is asking once.
    #[test]
    fn an_expiry_is_told_in_order_and_never_twice(lifetime in 1i64..1000, step_hours in 1i64..200) {
        let rings = [keyring_view(vec![pair(1, Standing::Current, 0, lifetime)])];
        let mut names: Vec<String> = Vec::new();
        let mut urgent = false;
        let mut time = now();
        while time <= days_after(now(), lifetime) {
            let alerts = evaluate(&rings, &[], &no_conditions(), time);
            prop_assert_eq!(&alerts, &evaluate(&rings, &[], &no_conditions(), time));
            for alert in alerts {
                prop_assert!(alert.urgent || !urgent);
                urgent |= alert.urgent;
                if names.last().is_none_or(|last| **last != *alert.name) {
                    prop_assert!(!names.contains(&alert.name.to_string()));
                    names.push(alert.name.to_string());
                }
            }
            time += jiff::SignedDuration::from_hours(step_hours);
        }
        prop_assert!(names.len() <= 5);
    }
}
