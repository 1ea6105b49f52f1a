//! What must hold: each finding of the contract is derived from the registry's content only, many instances make one
//! finding, and an instance that is gone makes none.

use super::super::{Anchor, Crl, Delivery, Instance, Peer, Trust, WaitingKey};
use super::*;
use crate::registry::Texts;

const NOW: i64 = 1_795_600_000; // 2026-11-25

fn at(days: i64) -> Seconds {
    Seconds(NOW + days * DAY)
}

fn texts(list: &[&str]) -> Texts {
    list.iter().collect()
}

fn ring(instance: &str, keyring: &str) -> Keyring {
    Keyring {
        instance: instance.to_owned(),
        keyring: keyring.to_owned(),
        purpose: None,
        owner: Some("integrations".to_owned()),
        contact: Some("integrations@example.com".to_owned()),
        rotate_every: None,
        alert_before: None,
        first_seen: at(-100),
        last_seen: at(0),
        present: true.into(),
    }
}

fn placed(instance: &str, keyring: &str, number: u8) -> Placed {
    Placed {
        instance: instance.to_owned(),
        keyring: keyring.to_owned(),
        key_pair: format!("sha256:{}", format!("{number:02x}").repeat(32)),
        standing: "current".to_owned(),
        since: at(-60),
        overlap_ends: None,
        sources: texts(&["tls.crt"]),
        why: None,
        first_seen: at(-60),
        last_seen: at(0),
        last_used: Some(at(-1)),
        present: true.into(),
        subject: "CN=api".to_owned(),
        names: texts(&["api.example"]),
        issuer: "CN=Our CA".to_owned(),
        serial: "01".to_owned(),
        key_kind: "ECDSA P-256".to_owned(),
        spki: format!("sha256:{number:064x}"),
        not_before: at(-60),
        not_after: at(130),
        weakness: None,
        self_issued: false.into(),
        chain_ends: None,
        chain_issuer: None,
    }
}

fn peer(number: u8) -> Peer {
    Peer {
        instance: "one".to_owned(),
        side: "ingress".to_owned(),
        listener: "api".to_owned(),
        certificate: format!("sha256:{}", format!("{number:02x}").repeat(32)),
        identity: Some("uri:spiffe://acme/etl".to_owned()),
        partner: Some("acme".to_owned()),
        subject: "CN=etl".to_owned(),
        issuer: "CN=Acme CA".to_owned(),
        serial: "01".to_owned(),
        not_before: at(-200),
        not_after: at(165),
        public_ca: false.into(),
        address: None,
        keyring: Some("api".to_owned()),
        key_pair: None,
        chosen_by: None,
        handshakes: 5,
        first_seen: at(-200),
        last_seen: at(-1),
    }
}

fn healthy() -> Inventory {
    let instance = |name: &str, days| Instance {
        instance: name.to_owned(),
        version: "0".to_owned(),
        first_seen: at(-100),
        last_seen: at(days),
    };
    Inventory {
        instances: vec![instance("one", 0), instance("two", -1), instance("gone", -30)],
        keyrings: vec![ring("one", "api"), ring("two", "api")],
        key_pairs: vec![placed("one", "api", 1), placed("two", "api", 1)],
        peers: vec![peer(9)],
        ..Inventory::default()
    }
}

fn now() -> Timestamp {
    Seconds(NOW).time()
}

/// The only finding after this change.
fn only(change: impl FnOnce(&mut Inventory)) -> Finding {
    let mut inventory = healthy();
    change(&mut inventory);
    let found = findings(&inventory, now());
    assert_eq!(found.len(), 1, "{found:#?}");
    let finding = found.into_iter().next().unwrap();
    assert!(!finding.explanation.is_empty() && !finding.remedy.is_empty());
    finding
}

#[test]
fn a_healthy_fleet_has_no_findings() {
    assert_eq!(findings(&healthy(), now()), []);
}

#[test]
fn many_instances_make_one_finding_and_one_that_is_gone_makes_none() {
    let both = |inventory: &mut Inventory| inventory.keyrings.iter_mut().for_each(|ring| ring.owner = None);
    assert_eq!(only(both).instances, ["one", "two"]);
    let mut inventory = healthy();
    inventory.keyrings.push(Keyring { owner: None, ..ring("gone", "old") });
    inventory.key_pairs.push(Placed { weakness: Some("SHA-1".to_owned()), ..placed("gone", "old", 1) });
    assert_eq!(findings(&inventory, now()), []);
}

#[test]
fn what_the_contract_lists_about_key_pairs() {
    let first = |change: fn(&mut Placed)| only(move |inventory| change(&mut inventory.key_pairs[0]));
    let of_all = |change: fn(&mut Placed)| only(move |inventory| inventory.key_pairs.iter_mut().for_each(change));
    assert_eq!(first(|pair| pair.weakness = Some("RSA 1024".to_owned())).finding, "weak_key");
    assert!(first(|pair| pair.not_after = at(-1)).explanation.contains("expired on"));
    let soon = of_all(|pair| pair.not_after = at(10));
    assert_eq!((soon.finding, soon.contact.as_deref()), ("no_successor", Some("integrations@example.com")));
    let unused = of_all(|pair| (pair.since, pair.first_seen, pair.last_used) = (at(-120), at(-120), Some(at(-100))));
    assert_eq!(unused.finding, "unused");
    let shared = only(|inventory| {
        inventory.keyrings.push(ring("one", "salesforce"));
        let mut other = placed("one", "salesforce", 2);
        other.spki.clone_from(&inventory.key_pairs[0].spki);
        inventory.key_pairs.push(other);
    });
    assert_eq!(shared.finding, "shared_private_key");
    assert!(shared.explanation.contains("api, salesforce"));
    let chain = of_all(|pair| (pair.chain_ends, pair.chain_issuer) = (Some(at(9)), Some("CN=Issuing CA".to_owned())));
    assert_eq!(chain.finding, "chain_expires");
    assert!(chain.explanation.contains("CN=Issuing CA") && chain.explanation.contains("9 days"), "{chain:?}");
    let late = only(|inventory| inventory.keyrings[0].rotate_every = Some(30 * DAY));
    assert_eq!(late.finding, "past_schedule");
    // Pods come and go: what each of them has seen is the age of the pair.
    let pods = only(|inventory| {
        inventory.keyrings[0].rotate_every = Some(30 * DAY);
        for pair in &mut inventory.key_pairs {
            (pair.since, pair.first_seen, pair.not_before) = (at(-1), at(-1), at(-2));
        }
        inventory.key_pairs.push(Placed {
            present: false.into(),
            first_seen: at(-40),
            since: at(-40),
            ..placed("gone", "api", 1)
        });
    });
    assert_eq!(pods.finding, "past_schedule");
    assert!(pods.explanation.contains("dates from 2026-10-16"), "{}", pods.explanation);
    let waits = only(|inventory| {
        inventory.waiting_keys.push(WaitingKey {
            instance: "one".to_owned(),
            keyring: "api".to_owned(),
            file: "api/new.key".to_owned(),
            spki: "sha256:aa".to_owned(),
            first_seen: at(-8),
            present: true.into(),
        });
    });
    assert_eq!(waits.finding, "waiting_key");
}

#[test]
fn a_staged_successor_is_one_and_is_to_be_promoted_once_it_may_be() {
    let with_staged = |from: i64| {
        move |inventory: &mut Inventory| {
            for pair in &mut inventory.key_pairs {
                pair.not_after = at(10);
            }
            for instance in ["one", "two"] {
                let mut staged = placed(instance, "api", 2);
                (staged.standing, staged.not_before, staged.not_after) =
                    ("staged".to_owned(), at(from), at(from + 180));
                inventory.key_pairs.push(staged);
            }
        }
    };
    let finding = only(with_staged(-1));
    assert!(finding.remedy.contains("promote api 020202020202"), "{}", finding.remedy);
    let mut inventory = healthy();
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
        let mut inventory = healthy();
        inventory.key_pairs.truncate(1);
        let pair = &mut inventory.key_pairs[0];
        pair.not_before = begin.into();
        pair.not_after = Seconds(begin.as_second() + days * DAY - 1);
        let found = findings(&inventory, now());
        let long = found.iter().any(|finding| finding.finding == "long_lifetime");
        assert_eq!(long, is_too_long, "{issued} {days}");
        inventory.key_pairs[0].self_issued = true.into();
        assert!(!findings(&inventory, now()).iter().any(|finding| finding.finding == "long_lifetime"));
    }
}

#[test]
fn what_the_contract_lists_about_partners() {
    let expiring = only(|inventory| inventory.peers[0].not_after = at(20));
    assert_eq!(expiring.finding, "partner_certificate_expires");
    let mut renewed = healthy();
    renewed.peers[0].not_after = at(20);
    renewed.peers.push(peer(8));
    assert_eq!(findings(&renewed, now()), [], "a newer certificate of the same peer was seen");
    let public = only(|inventory| inventory.peers[0].public_ca = true.into());
    assert_eq!(public.finding, "peer_uses_public_ca");
}

#[test]
fn what_the_contract_lists_about_trusts() {
    let trust = |inventory: &mut Inventory, checks: bool| {
        inventory.trusts.push(Trust {
            instance: "one".to_owned(),
            trust: "partners".to_owned(),
            keyrings: texts(&["api"]),
            checks_crls: checks.into(),
            present: true.into(),
        });
    };
    let anchor = |subject: &str| Anchor {
        instance: "one".to_owned(),
        trust: "partners".to_owned(),
        kind: "anchor".to_owned(),
        anchor: "sha256:aa".to_owned(),
        subject: Some(subject.to_owned()),
        not_before: Some(at(-900)),
        not_after: Some(at(900)),
        accepted_until: None,
        first_seen: at(0),
        last_seen: at(0),
        last_matched: None,
        present: true.into(),
    };
    let own = only(|inventory| {
        trust(inventory, false);
        inventory.anchors.push(anchor("CN=Our CA"));
    });
    assert_eq!(own.finding, "trust_is_own_issuer");
    let expiring = |change: fn(&mut Anchor)| {
        let mut inventory = healthy();
        trust(&mut inventory, false);
        let mut ends = Anchor { not_after: Some(at(20)), ..anchor("CN=Acme CA") };
        change(&mut ends);
        inventory.anchors.push(ends);
        inventory
    };
    let ends = &findings(&expiring(|_| ()), now())[0];
    assert_eq!((ends.finding, &*ends.about), ("anchor_expires", "partners"));
    assert!(ends.explanation.contains("expires in 20 days"), "{}", ends.explanation);
    for change in [
        |anchor: &mut Anchor| anchor.not_after = Some(at(61)),
        |anchor: &mut Anchor| anchor.accepted_until = Some(at(3)),
        |anchor: &mut Anchor| anchor.kind = "platform".to_owned(),
        |anchor: &mut Anchor| anchor.present = false.into(),
    ] {
        assert_eq!(findings(&expiring(change), now()), []);
    }
    let mut renewed = expiring(|_| ());
    renewed.anchors.push(Anchor { anchor: "sha256:bb".to_owned(), ..anchor("CN=Acme CA") });
    assert_eq!(findings(&renewed, now()), [], "its successor is accepted too");
    let missing = only(|inventory| {
        trust(inventory, true);
        inventory.anchors.push(anchor("CN=Acme CA"));
    });
    assert_eq!(missing.finding, "crl_missing");
    let stale = only(|inventory| {
        trust(inventory, true);
        inventory.anchors.push(anchor("CN=Acme CA"));
        inventory.crls.push(Crl {
            instance: "one".to_owned(),
            trust: "partners".to_owned(),
            issuer: "CN=Acme CA".to_owned(),
            anchors: texts(&["sha256:aa"]),
            this_update: at(-8),
            next_update: at(-1),
            present: true.into(),
        });
    });
    assert_eq!(stale.finding, "crl_stale");
}

#[test]
fn an_alert_that_was_given_up_is_a_finding() {
    let finding = only(|inventory| {
        inventory.alerts.push(Delivery {
            alert: "expires:aa:60".to_owned(),
            sink: "webhook:1".to_owned(),
            kind: "expires".to_owned(),
            keyring: "api".to_owned(),
            key_pair: None,
            urgent: false.into(),
            recipient: None,
            summary: "expires".to_owned(),
            remedy: "order".to_owned(),
            raised_by: "one".to_owned(),
            raised: at(-2),
            state: "given_up".to_owned(),
            attempts: 16,
            next_try: at(-1),
            error: Some("refused".to_owned()),
        });
    });
    assert_eq!(finding.finding, "alert_given_up");
}
