use super::super::pool::{CLIENT_ONLY, PAIRS, STRANGER, api, day, issue};
use super::super::{Roles, Settings};
use super::*;
use crate::pki::issue::{NewKey, Request};

fn settings() -> Settings {
    Settings::of("api".into())
}

fn refused(pair: &KeyPair, settings: &Settings) -> Refusal {
    match fit(pair, settings, day(20)) {
        Fit::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_valid_pair_is_usable_on_its_first_and_last_second() {
    for now in [day(10), day(20), day(50)] {
        assert_eq!(fit(&PAIRS[1], &settings(), now), Fit::Usable { warning: None });
    }
}

#[test]
fn before_not_before_it_waits_for_not_before_and_skew() {
    let from = later(day(30), settings().skew);
    assert_eq!(fit(&PAIRS[3], &settings(), day(20)), Fit::NotYet { from });
}

#[test]
fn an_expired_pair_is_refused_with_its_date() {
    let Fit::Refused(refusal) = fit(&PAIRS[0], &settings(), day(41)) else { panic!("not refused") };
    assert_eq!(refusal.reason, "expired");
    assert!(refusal.explanation.contains("2026-02-10T00:00:00Z"), "{}", refusal.explanation);
}

#[test]
fn a_usage_that_excludes_a_role_is_refused_or_warned_about() {
    let mut settings = settings();
    settings.roles = Roles { server: false, client: true };
    assert_eq!(fit(&CLIENT_ONLY, &settings, day(20)), Fit::Usable { warning: None });
    settings.roles.server = true;
    assert_eq!(refused(&CLIENT_ONLY, &settings).reason, "usage_excludes_server");
    settings.eku = Eku::Warn;
    let Fit::Usable { warning: Some(warning) } = fit(&CLIENT_ONLY, &settings, day(20)) else { panic!("no warning") };
    assert!(warning.contains("serverAuth"), "{warning}");
    settings.eku = Eku::Enforce;
    settings.roles = Roles { server: true, client: true };
    let server_only = issue(&Request { client: false, ..api(0, 100) });
    assert_eq!(refused(&server_only, &settings).reason, "usage_excludes_client");
    let no_extension = issue(&Request { client: false, server: false, ..api(0, 100) });
    assert_eq!(fit(&no_extension, &settings, day(20)), Fit::Usable { warning: None });
}

#[test]
fn a_revoked_pair_is_refused_whatever_else_it_is() {
    let mut settings = settings();
    settings.revoked.insert(PAIRS[0].fingerprint());
    assert_eq!(refused(&PAIRS[0], &settings).reason, "revoked");
}

#[test]
fn every_key_kind_that_is_issued_here_is_strong_enough() {
    for key in [NewKey::P384, NewKey::Ed25519, NewKey::Rsa(2048)] {
        let pair = issue(&Request { key, ..api(0, 100) });
        assert_eq!(fit(&pair, &settings(), day(20)), Fit::Usable { warning: None }, "{key:?}");
    }
}

#[test]
fn names_are_shared_by_san_or_else_by_subject() {
    let of = |request: Request| issue(&request);
    let plain = of(api(0, 100));
    let same = |one: &KeyPair, other: &KeyPair| shares_a_name(one.end_entity(), other.end_entity());
    assert!(same(&plain, &of(Request { common_name: "renamed".into(), ..api(0, 100) })));
    assert!(same(&plain, &of(Request { dns: vec!["*.example".into()], ..api(0, 100) })));
    assert!(!same(&plain, &STRANGER));
    let uri = |uri: &str| of(Request { dns: Vec::new(), uris: vec![uri.into()], ..api(0, 100) });
    assert!(same(&uri("spiffe://a/api"), &uri("spiffe://a/api")));
    assert!(!same(&uri("spiffe://a/api"), &uri("spiffe://a/other")));
    let bare = |name: &str| of(Request { dns: Vec::new(), common_name: name.into(), ..api(0, 100) });
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
