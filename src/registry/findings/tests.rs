//! What must hold: each finding of the contract is derived from the registry's content only, many instances make one
//! finding, and an instance that is gone makes none.

use super::super::{AnchorRow, CrlRow, DeliveryRow, InstanceRow, PeerRow, TrustRow, WaitingKeyRow};
use super::*;
use crate::registry::TextList;

const NOW: i64 = 1_795_600_000; // 2026-11-25

fn days_from_now(days: i64) -> UnixSeconds {
    UnixSeconds(NOW + days * DAY)
}

fn texts(list: &[&str]) -> TextList {
    list.iter().collect()
}

fn keyring_row(instance: &str, keyring: &str) -> KeyringRow {
    KeyringRow {
        instance: instance.to_owned(),
        keyring: keyring.to_owned(),
        purpose: None,
        owner: Some("integrations".to_owned()),
        contact: Some("integrations@example.com".to_owned()),
        rotate_every: None,
        alert_before: None,
        first_seen: days_from_now(-100),
        last_seen: days_from_now(0),
        present: true.into(),
    }
}

fn placement_row(instance: &str, keyring: &str, number: u8) -> PlacementRow {
    PlacementRow {
        instance: instance.to_owned(),
        keyring: keyring.to_owned(),
        key_pair: format!("sha256:{}", format!("{number:02x}").repeat(32)),
        standing: "current".to_owned(),
        since: days_from_now(-60),
        overlap_ends: None,
        sources: texts(&["tls.crt"]),
        why: None,
        first_seen: days_from_now(-60),
        last_seen: days_from_now(0),
        last_used: Some(days_from_now(-1)),
        present: true.into(),
        subject: "CN=api".to_owned(),
        names: texts(&["api.example"]),
        issuer: "CN=Our CA".to_owned(),
        serial: "01".to_owned(),
        key_kind: "ECDSA P-256".to_owned(),
        spki: format!("sha256:{number:064x}"),
        not_before: days_from_now(-60),
        not_after: days_from_now(130),
        weakness: None,
        self_issued: false.into(),
        chain_ends: None,
        chain_issuer: None,
    }
}

fn peer(number: u8) -> PeerRow {
    PeerRow {
        instance: "one".to_owned(),
        side: "ingress".to_owned(),
        listener: "api".to_owned(),
        certificate: format!("sha256:{}", format!("{number:02x}").repeat(32)),
        identity: Some("uri:spiffe://acme/etl".to_owned()),
        partner: Some("acme".to_owned()),
        subject: "CN=etl".to_owned(),
        issuer: "CN=Acme CA".to_owned(),
        serial: "01".to_owned(),
        not_before: days_from_now(-200),
        not_after: days_from_now(165),
        public_ca: false.into(),
        address: None,
        keyring: Some("api".to_owned()),
        key_pair: None,
        chosen_by: None,
        handshakes: 5,
        first_seen: days_from_now(-200),
        last_seen: days_from_now(-1),
    }
}

fn healthy_inventory() -> RegistryInventory {
    let instance = |name: &str, days| InstanceRow {
        instance: name.to_owned(),
        version: "0".to_owned(),
        first_seen: days_from_now(-100),
        last_seen: days_from_now(days),
    };
    RegistryInventory {
        instances: vec![instance("one", 0), instance("two", -1), instance("gone", -30)],
        keyrings: vec![keyring_row("one", "api"), keyring_row("two", "api")],
        key_pairs: vec![placement_row("one", "api", 1), placement_row("two", "api", 1)],
        peers: vec![peer(9)],
        ..RegistryInventory::default()
    }
}

fn now() -> Timestamp {
    UnixSeconds(NOW).time()
}

/// The only finding after this change.
fn single_finding(change: impl FnOnce(&mut RegistryInventory)) -> Finding {
    let mut inventory = healthy_inventory();
    change(&mut inventory);
    let found = findings(&inventory, now());
    assert_eq!(found.len(), 1, "{found:#?}");
    let finding = found.into_iter().next().unwrap();
    assert!(!finding.explanation.is_empty() && !finding.remedy.is_empty());
    finding
}

#[test]
fn a_healthy_fleet_has_no_findings() {
    assert_eq!(findings(&healthy_inventory(), now()), []);
}

#[test]
fn many_instances_make_one_finding_and_one_that_is_gone_makes_none() {
    let both = |inventory: &mut RegistryInventory| inventory.keyrings.iter_mut().for_each(|ring| ring.owner = None);
    assert_eq!(single_finding(both).instances, ["one", "two"]);
    let mut inventory = healthy_inventory();
    inventory.keyrings.push(KeyringRow { owner: None, ..keyring_row("gone", "old") });
    inventory.key_pairs.push(PlacementRow { weakness: Some("SHA-1".to_owned()), ..placement_row("gone", "old", 1) });
    assert_eq!(findings(&inventory, now()), []);
}

#[test]
fn what_the_contract_lists_about_key_pairs() {
    let first = |change: fn(&mut PlacementRow)| single_finding(move |inventory| change(&mut inventory.key_pairs[0]));
    let of_all = |change: fn(&mut PlacementRow)| {
        single_finding(move |inventory| inventory.key_pairs.iter_mut().for_each(change))
    };
    assert_eq!(first(|pair| pair.weakness = Some("RSA 1024".to_owned())).finding, "weak_key");
    assert!(first(|pair| pair.not_after = days_from_now(-1)).explanation.contains("expired on"));
    let soon = of_all(|pair| pair.not_after = days_from_now(10));
    assert_eq!((soon.finding, soon.contact.as_deref()), ("no_successor", Some("integrations@example.com")));
    let unused = of_all(|pair| {
        (pair.since, pair.first_seen, pair.last_used) =
            (days_from_now(-120), days_from_now(-120), Some(days_from_now(-100)))
    });
    assert_eq!(unused.finding, "unused");
    let shared = single_finding(|inventory| {
        inventory.keyrings.push(keyring_row("one", "salesforce"));
        let mut other = placement_row("one", "salesforce", 2);
        other.spki.clone_from(&inventory.key_pairs[0].spki);
        inventory.key_pairs.push(other);
    });
    assert_eq!(shared.finding, "shared_private_key");
    assert!(shared.explanation.contains("api, salesforce"));
    let chain = of_all(|pair| {
        (pair.chain_ends, pair.chain_issuer) = (Some(days_from_now(9)), Some("CN=Issuing CA".to_owned()))
    });
    assert_eq!(chain.finding, "chain_expires");
    assert!(chain.explanation.contains("CN=Issuing CA") && chain.explanation.contains("9 days"), "{chain:?}");
    let late = single_finding(|inventory| inventory.keyrings[0].rotate_every = Some(30 * DAY));
    assert_eq!(late.finding, "past_schedule");
    // Pods come and go: what each of them has seen is the age of the pair.
    let pods = single_finding(|inventory| {
        inventory.keyrings[0].rotate_every = Some(30 * DAY);
        for pair in &mut inventory.key_pairs {
            (pair.since, pair.first_seen, pair.not_before) = (days_from_now(-1), days_from_now(-1), days_from_now(-2));
        }
        inventory.key_pairs.push(PlacementRow {
            present: false.into(),
            first_seen: days_from_now(-40),
            since: days_from_now(-40),
            ..placement_row("gone", "api", 1)
        });
    });
    assert_eq!(pods.finding, "past_schedule");
    assert!(pods.explanation.contains("dates from 2026-10-16"), "{}", pods.explanation);
    let waits = single_finding(|inventory| {
        inventory.waiting_keys.push(WaitingKeyRow {
            instance: "one".to_owned(),
            keyring: "api".to_owned(),
            file: "api/new.key".to_owned(),
            spki: "sha256:aa".to_owned(),
            first_seen: days_from_now(-8),
            present: true.into(),
        });
    });
    assert_eq!(waits.finding, "waiting_key");
}

#[test]
fn a_staged_successor_is_one_and_is_to_be_promoted_once_it_may_be() {
    let with_staged = |from: i64| {
        move |inventory: &mut RegistryInventory| {
            for pair in &mut inventory.key_pairs {
                pair.not_after = days_from_now(10);
            }
            for instance in ["one", "two"] {
                let mut staged = placement_row(instance, "api", 2);
                (staged.standing, staged.not_before, staged.not_after) =
                    ("staged".to_owned(), days_from_now(from), days_from_now(from + 180));
                inventory.key_pairs.push(staged);
            }
        }
    };
    let finding = single_finding(with_staged(-1));
    assert!(finding.remedy.contains("promote api 020202020202"), "{}", finding.remedy);
    let mut inventory = healthy_inventory();
    with_staged(5)(&mut inventory);
    assert_eq!(findings(&inventory, now()), []);
}

#[test]
fn lifetimes_are_measured_by_the_rules_of_their_issue_date() {
    for (issued, days, is_too_long) in [
        ("2026-11-01T00:00:00Z", 200, false),
        ("2026-11-01T00:00:00Z", 201, true),
        ("2026-03-14T00:00:00Z", 398, false),
        ("2026-03-14T00:00:00Z", 399, true),
        ("2019-01-01T00:00:00Z", 825, false),
        ("2011-01-01T00:00:00Z", 4000, false),
    ] {
        let begin: Timestamp = issued.parse().unwrap();
        let mut inventory = healthy_inventory();
        inventory.key_pairs.truncate(1);
        let pair = &mut inventory.key_pairs[0];
        pair.not_before = begin.into();
        pair.not_after = UnixSeconds(begin.as_second() + days * DAY - 1);
        let found = findings(&inventory, now());
        let long = found.iter().any(|finding| finding.finding == "long_lifetime");
        assert_eq!(long, is_too_long, "{issued} {days}");
        inventory.key_pairs[0].self_issued = true.into();
        assert!(!findings(&inventory, now()).iter().any(|finding| finding.finding == "long_lifetime"));
    }
}

#[test]
fn an_upstream_that_was_shown_no_pair_is_not_mutual() {
    let unasked = |side: &'static str| {
        move |inventory: &mut RegistryInventory| {
            let peer = &mut inventory.peers[0];
            (peer.side, peer.key_pair, peer.keyring) = (side.to_owned(), None, None);
        }
    };
    let finding = single_finding(unasked("egress"));
    assert_eq!(finding.finding, "upstream_not_mutual");
    let mut inventory = healthy_inventory();
    unasked("ingress")(&mut inventory);
    assert_eq!(findings(&inventory, now()), []);
}

#[test]
fn what_the_contract_lists_about_partners() {
    let expiring = single_finding(|inventory| inventory.peers[0].not_after = days_from_now(20));
    assert_eq!(expiring.finding, "partner_certificate_expires");
    let mut renewed = healthy_inventory();
    renewed.peers[0].not_after = days_from_now(20);
    renewed.peers.push(PeerRow { first_seen: days_from_now(-1), ..peer(8) });
    assert_eq!(findings(&renewed, now()), [], "a newer certificate of the same peer was seen");
    renewed.peers[1].first_seen = days_from_now(-3);
    let beside: Vec<_> = findings(&renewed, now()).into_iter().map(|finding| finding.finding).collect();
    assert_eq!(beside, ["partner_certificate_expires"], "a node goes on showing the old one");
    let public = single_finding(|inventory| inventory.peers[0].public_ca = true.into());
    assert_eq!(public.finding, "peer_uses_public_ca");
}

#[test]
fn what_the_contract_lists_about_trusts() {
    let trust = |inventory: &mut RegistryInventory, checks: bool| {
        inventory.trusts.push(TrustRow {
            instance: "one".to_owned(),
            trust: "partners".to_owned(),
            keyrings: texts(&["api"]),
            checks_crls: checks.into(),
            present: true.into(),
        });
    };
    let anchor = |subject: &str| AnchorRow {
        instance: "one".to_owned(),
        trust: "partners".to_owned(),
        kind: "anchor".to_owned(),
        anchor: "sha256:aa".to_owned(),
        subject: Some(subject.to_owned()),
        not_before: Some(days_from_now(-900)),
        not_after: Some(days_from_now(900)),
        accepted_until: None,
        first_seen: days_from_now(0),
        last_seen: days_from_now(0),
        last_matched: None,
        present: true.into(),
    };
    let own = single_finding(|inventory| {
        trust(inventory, false);
        inventory.anchors.push(anchor("CN=Our CA"));
    });
    assert_eq!(own.finding, "trust_is_own_issuer");
    let expiring = |change: fn(&mut AnchorRow)| {
        let mut inventory = healthy_inventory();
        trust(&mut inventory, false);
        let mut ends = AnchorRow { not_after: Some(days_from_now(20)), ..anchor("CN=Acme CA") };
        change(&mut ends);
        inventory.anchors.push(ends);
        inventory
    };
    let ends = &findings(&expiring(|_| ()), now())[0];
    assert_eq!((ends.finding, &*ends.about), ("anchor_expires", "partners"));
    assert!(ends.explanation.contains("expires in 20 days"), "{}", ends.explanation);
    for change in [
        |anchor: &mut AnchorRow| anchor.not_after = Some(days_from_now(61)),
        |anchor: &mut AnchorRow| anchor.accepted_until = Some(days_from_now(3)),
        |anchor: &mut AnchorRow| anchor.kind = "platform".to_owned(),
        |anchor: &mut AnchorRow| anchor.present = false.into(),
    ] {
        assert_eq!(findings(&expiring(change), now()), []);
    }
    let mut renewed = expiring(|_| ());
    renewed.anchors.push(AnchorRow { anchor: "sha256:bb".to_owned(), ..anchor("CN=Acme CA") });
    assert_eq!(findings(&renewed, now()), [], "its successor is accepted too");
    let missing = single_finding(|inventory| {
        trust(inventory, true);
        inventory.anchors.push(anchor("CN=Acme CA"));
    });
    assert_eq!(missing.finding, "crl_missing");
    let stale = single_finding(|inventory| {
        trust(inventory, true);
        inventory.anchors.push(anchor("CN=Acme CA"));
        inventory.crls.push(CrlRow {
            instance: "one".to_owned(),
            trust: "partners".to_owned(),
            issuer: "CN=Acme CA".to_owned(),
            anchors: texts(&["sha256:aa"]),
            this_update: days_from_now(-8),
            next_update: days_from_now(-1),
            revoked: Some(2),
            present: true.into(),
        });
    });
    assert_eq!(stale.finding, "crl_stale");
}

#[test]
fn an_alert_that_was_given_up_is_a_finding() {
    let finding = single_finding(|inventory| {
        inventory.alerts.push(DeliveryRow {
            alert: "expires:aa:60".to_owned(),
            sink: "webhook:1".to_owned(),
            kind: "expires".to_owned(),
            keyring: "api".to_owned(),
            key_pair: None,
            urgent: false.into(),
            recipient: None,
            summary: "expires".to_owned(),
            remedy: "order".to_owned(),
            owner: None,
            contact: None,
            ends: None,
            raised_by: "one".to_owned(),
            raised: days_from_now(-2),
            state: "given_up".to_owned(),
            attempts: 16,
            next_try: days_from_now(-1),
            error: Some("refused".to_owned()),
        });
    });
    assert_eq!(finding.finding, "alert_given_up");
}
