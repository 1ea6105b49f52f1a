use super::super::pool::{CLIENT_ONLY_PAIR, OTHER_NAME_PAIR, TEST_PAIRS, api_request, day, issue};
use super::super::{KeyringRoles, KeyringSettings};
use super::*;
use crate::pki::issue::{CertificateAuthority, IssueRequest, NewKeyKind};
use crate::pki::{Validity, blocks};

fn settings() -> KeyringSettings {
    KeyringSettings::with_defaults("api".into())
}

fn refusal_of(pair: &KeyPair, settings: &KeyringSettings) -> FitnessRefusal {
    match assess_fitness(pair, settings, day(20)) {
        KeyPairFitness::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_valid_pair_is_usable_on_its_first_and_last_second() {
    for now in [day(10), day(20), day(50)] {
        assert_eq!(assess_fitness(&TEST_PAIRS[1], &settings(), now), KeyPairFitness::Usable { warning: None });
    }
}

#[test]
fn before_not_before_it_waits_for_not_before_and_skew() {
    let from = add_saturating(day(30), settings().skew);
    assert_eq!(assess_fitness(&TEST_PAIRS[3], &settings(), day(20)), KeyPairFitness::NotYet { from });
}

#[test]
fn an_expired_pair_is_refused_with_its_date() {
    let KeyPairFitness::Refused(refusal) = assess_fitness(&TEST_PAIRS[0], &settings(), day(41)) else {
        panic!("not refused")
    };
    assert_eq!(refusal.reason, "expired");
    assert!(refusal.explanation.contains("2026-02-10T00:00:00Z"), "{}", refusal.explanation);
}

#[test]
fn a_usage_that_excludes_a_role_is_refused_or_warned_about() {
    let mut settings = settings();
    settings.roles = KeyringRoles { server: false, client: true };
    assert_eq!(assess_fitness(&CLIENT_ONLY_PAIR, &settings, day(20)), KeyPairFitness::Usable { warning: None });
    settings.roles.server = true;
    assert_eq!(refusal_of(&CLIENT_ONLY_PAIR, &settings).reason, "usage_excludes_server");
    settings.eku = EkuPolicy::Warn;
    let KeyPairFitness::Usable { warning: Some(warning) } = assess_fitness(&CLIENT_ONLY_PAIR, &settings, day(20))
    else {
        panic!("no warning")
    };
    assert!(warning.contains("serverAuth"), "{warning}");
    settings.eku = EkuPolicy::Enforce;
    settings.roles = KeyringRoles { server: true, client: true };
    let server_only = issue(&IssueRequest { client: false, ..api_request(0, 100) });
    assert_eq!(refusal_of(&server_only, &settings).reason, "usage_excludes_client");
    let no_extension = issue(&IssueRequest { client: false, server: false, ..api_request(0, 100) });
    assert_eq!(assess_fitness(&no_extension, &settings, day(20)), KeyPairFitness::Usable { warning: None });
}

#[test]
fn a_revoked_pair_is_refused_whatever_else_it_is() {
    let mut settings = settings();
    settings.revoked.insert(TEST_PAIRS[0].fingerprint());
    assert_eq!(refusal_of(&TEST_PAIRS[0], &settings).reason, "revoked");
}

#[test]
fn every_key_kind_that_is_issued_here_is_strong_enough() {
    for key in [NewKeyKind::P384, NewKeyKind::Ed25519, NewKeyKind::Rsa(2048)] {
        let pair = issue(&IssueRequest { key, ..api_request(0, 100) });
        assert_eq!(assess_fitness(&pair, &settings(), day(20)), KeyPairFitness::Usable { warning: None }, "{key:?}");
    }
}

#[test]
fn names_are_shared_by_san_or_else_by_subject() {
    let of = |request: IssueRequest| issue(&request);
    let plain = of(api_request(0, 100));
    let same = |one: &KeyPair, other: &KeyPair| shares_name(one.end_entity(), other.end_entity());
    assert!(same(&plain, &of(IssueRequest { common_name: "renamed".into(), ..api_request(0, 100) })));
    assert!(same(&plain, &of(IssueRequest { dns: vec!["*.example".into()], ..api_request(0, 100) })));
    assert!(!same(&plain, &OTHER_NAME_PAIR));
    let uri = |uri: &str| of(IssueRequest { dns: Vec::new(), uris: vec![uri.into()], ..api_request(0, 100) });
    assert!(same(&uri("spiffe://a/api"), &uri("spiffe://a/api")));
    assert!(!same(&uri("spiffe://a/api"), &uri("spiffe://a/other")));
    let bare = |name: &str| of(IssueRequest { dns: Vec::new(), common_name: name.into(), ..api_request(0, 100) });
    assert!(same(&bare("api"), &bare("api")));
    assert!(same(&bare("api"), &plain), "a pair that had only a subject may get names");
    assert!(!same(&bare("api"), &bare("other")));
}

#[test]
fn a_wildcard_covers_one_whole_label() {
    assert!(covers("*.w.test", "a.w.test"));
    assert!(!covers("*.w.test", "w.test"));
    assert!(!covers("*.w.test", "a.b.w.test"));
    assert!(!covers("*.w.test", ".w.test"));
    assert!(!covers("a*.w.test", "ab.w.test"));
    assert!(covers("a.test", "a.test"));
}

fn authority(until: i64) -> CertificateAuthority {
    CertificateAuthority::new("Test CA", Validity { not_before: day(0), not_after: day(until) }).unwrap()
}

fn pair_of(pem: &str) -> std::sync::Arc<KeyPair> {
    let blocks = blocks::read(&zeroize::Zeroizing::new(pem.as_bytes().to_vec()), None);
    KeyPair::new(blocks.certificates, blocks.keys[0].clone(), Vec::new()).unwrap()
}

#[test]
fn an_expired_intermediate_is_warned_about() {
    let intermediate = authority(400).intermediate("Middle", Validity { not_before: day(0), not_after: day(15) });
    let issued = intermediate.unwrap().issue(&api_request(0, 100)).unwrap();
    let pair = pair_of(&format!("{}{}", issued.chain_pem, &*issued.key_pem));
    assert_eq!(assess_fitness(&pair, &settings(), day(15)), KeyPairFitness::Usable { warning: None });
    let KeyPairFitness::Usable { warning: Some(warning) } = assess_fitness(&pair, &settings(), day(20)) else {
        panic!("no warning")
    };
    assert!(warning.contains("Middle") && warning.contains("2026-01-16T00:00:00Z"), "{warning}");
}

#[test]
fn a_ca_certificate_cannot_serve_as_an_end_entity() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["api.example".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let refusal = refusal_of(&pair_of(&format!("{}{}", certificate.pem(), key.serialize_pem())), &settings());
    assert_eq!(refusal.reason, "is_ca");
    assert!(refusal.explanation.contains("CA:FALSE"), "{}", refusal.explanation);
}
