//! What a trust accepts and what it says where it does not.

use super::*;
use crate::pki::SpkiHash;
use crate::trust::sample::{
    IssuedIdentity, TestAuthority, days_from_now, now, self_signed, settings, trust, trust_with, trust_with_anchor,
    version_1_certificates, weak_certificate,
};
use rcgen::{ExtendedKeyUsagePurpose, IsCa, SanType, SerialNumber};

fn verify_client(trust: &Trust, made: &IssuedIdentity) -> Result<Arc<Verified>, TrustError> {
    trust.verify(&made.chain, &PeerRole::Client, now())
}

fn verify_server(trust: &Trust, made: &IssuedIdentity, name: &str) -> Result<Arc<Verified>, TrustError> {
    trust.verify(&made.chain, &PeerRole::ServerName(name.into()), now())
}

#[test]
fn a_path_through_an_intermediate_is_verified_to_its_anchor() {
    let ca = TestAuthority::new("Anchor");
    let below = ca.issue_intermediate("Below", &|params| params.not_after = rcgen::date_time_ymd(2026, 12, 24));
    let peer = below.issue_peer("a.test", &|_| ());
    let verified = verify_client(&trust(&[&TestAuthority::new("Other"), &ca]), &peer).unwrap();
    assert_eq!(verified.path, vec![peer.certificate(), below.certificate()]);
    assert_eq!(verified.anchor, Some((ca.certificate().fingerprint(), "CN=Anchor".to_owned())));
    assert_eq!(verified.valid_until, below.certificate().validity().not_after);
    assert_eq!(verified.pin, None);
}

#[test]
fn old_and_new_anchors_are_accepted_together() {
    let (old, new) = (TestAuthority::new("Old CA"), TestAuthority::new("New CA"));
    let both = trust(&[&old, &new]);
    assert!(verify_client(&both, &old.issue_peer("a.test", &|_| ())).is_ok());
    assert!(verify_client(&both, &new.issue_peer("a.test", &|_| ())).is_ok());
}

#[test]
fn of_two_anchors_with_one_key_the_one_that_lasts_counts() {
    let ca = TestAuthority::new("CA");
    let trust = trust_with(&|_| (), &[&ca], &[]);
    let accepted = |until| AcceptedAnchor { certificate: ca.certificate(), until, platform: false };
    let twice = Trust::new(settings(&|_| ()), vec![accepted(Some(days_from_now(1))), accepted(None)], Vec::new());
    let peer = ca.issue_peer("a.test", &|_| ());
    assert_eq!(verify_client(&twice, &peer).unwrap().valid_until, verify_client(&trust, &peer).unwrap().valid_until);
}

#[test]
fn an_empty_and_a_malformed_chain_are_refused() {
    let trust = trust(&[&TestAuthority::new("CA")]);
    assert_eq!(trust.verify(&[], &PeerRole::Client, now()).unwrap_err(), TrustError::Empty);
    let junk = [CertificateDer::from(vec![0x30, 3, 1, 2, 3])];
    assert!(matches!(trust.verify(&junk, &PeerRole::Client, now()), Err(TrustError::Malformed { index: 0, .. })));
    let long = vec![junk[0].clone(); MAX_CHAIN_LENGTH + 1];
    assert!(matches!(trust.verify(&long, &PeerRole::Client, now()), Err(TrustError::Other { .. })));
}

#[test]
fn expiry_and_early_use_name_the_certificate_and_the_day() {
    let ca = TestAuthority::new("CA");
    let trust = trust(&[&ca]);
    let expired = ca.issue_peer("a.test", &|params| params.not_after = rcgen::date_time_ymd(2026, 11, 20));
    assert_eq!(
        verify_client(&trust, &expired).unwrap_err(),
        TrustError::Expired { subject: "CN=a.test".into(), not_after: days_from_now(-5) }
    );
    let early = ca.issue_peer("a.test", &|params| params.not_before = rcgen::date_time_ymd(2026, 11, 30));
    assert_eq!(
        verify_client(&trust, &early).unwrap_err(),
        TrustError::NotYetValid { subject: "CN=a.test".into(), not_before: days_from_now(5) }
    );
    let below = ca.issue_intermediate("Below", &|params| params.not_after = rcgen::date_time_ymd(2026, 11, 20));
    assert_eq!(
        verify_client(&trust, &below.issue_peer("a.test", &|_| ())).unwrap_err(),
        TrustError::Expired { subject: "CN=Below".into(), not_after: days_from_now(-5) }
    );
}

#[test]
fn an_expired_anchor_vouches_for_no_peer() {
    let ca = TestAuthority::with_params("CA", &|params| params.not_after = rcgen::date_time_ymd(2026, 11, 20));
    let refused = verify_client(&trust(&[&ca]), &ca.issue_peer("a.test", &|_| ())).unwrap_err();
    assert_eq!(refused, TrustError::Expired { subject: "CN=CA".into(), not_after: days_from_now(-5) });
}

#[test]
fn an_anchor_ends_with_its_until() {
    let ca = TestAuthority::new("CA");
    let accepted = |until| vec![AcceptedAnchor { certificate: ca.certificate(), until: Some(until), platform: false }];
    let peer = ca.issue_peer("a.test", &|_| ());
    let soon = Trust::new(settings(&|_| ()), accepted(days_from_now(3)), Vec::new());
    assert_eq!(verify_client(&soon, &peer).unwrap().valid_until, days_from_now(3));
    let over = Trust::new(settings(&|_| ()), accepted(now()), Vec::new());
    assert!(matches!(verify_client(&over, &peer), Err(TrustError::UnknownIssuer { .. })));
}

#[test]
fn an_unknown_issuer_is_named_with_what_the_trust_holds() {
    let stranger = TestAuthority::new("Stranger").issue_intermediate("Below", &|_| ());
    let refused =
        verify_client(&trust(&[&TestAuthority::new("Ours")]), &stranger.issue_peer("a.test", &|_| ())).unwrap_err();
    assert_eq!(
        refused,
        TrustError::UnknownIssuer {
            issuer: "CN=Stranger".into(),
            trust: "partners".into(),
            holds: vec!["CN=Ours".into()],
            self_signed: false,
            sent: 2,
            incomplete: true,
        }
    );
    let own = verify_client(&trust(&[&TestAuthority::new("Ours")]), &self_signed("a.test", &|_| ())).unwrap_err();
    assert!(matches!(own, TrustError::UnknownIssuer { self_signed: true, .. }));
    let many: Vec<_> = (0..10).map(|number| TestAuthority::new(&format!("CA {number}"))).collect();
    let many = trust(&many.iter().collect::<Vec<_>>());
    let Err(TrustError::UnknownIssuer { holds, .. }) = verify_client(&many, &self_signed("a.test", &|_| ())) else {
        unreachable!("refused for another reason");
    };
    assert_eq!((holds.len(), holds[8].as_str()), (9, "and 2 more"));
}

#[test]
fn another_key_of_the_same_issuer_name_is_a_bad_signature() {
    let forged = TestAuthority::new("CA").issue_peer("a.test", &|_| ());
    assert_eq!(
        verify_client(&trust(&[&TestAuthority::new("CA")]), &forged).unwrap_err(),
        TrustError::BadSignature { subject: "CN=a.test".into(), issuer: "CN=CA".into() }
    );
}

#[test]
fn a_client_needs_client_auth_unless_any_will_do() {
    let ca = TestAuthority::new("CA");
    let usage = |usages: Vec<ExtendedKeyUsagePurpose>| {
        ca.issue_peer("a.test", &|params| params.extended_key_usages = usages.clone())
    };
    let server_only = usage(vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let refused = TrustError::WrongUsage { subject: "CN=a.test".into(), needed: "clientAuth" };
    assert_eq!(verify_client(&trust(&[&ca]), &server_only).unwrap_err(), refused);
    let any = trust_with(&|settings| settings.client_eku_required = false, &[&ca], &[]);
    assert!(verify_client(&any, &server_only).is_ok());
    let client_only = usage(vec![ExtendedKeyUsagePurpose::ClientAuth]);
    let refused = TrustError::WrongUsage { subject: "CN=a.test".into(), needed: "serverAuth" };
    assert_eq!(verify_server(&any, &client_only, "a.test").unwrap_err(), refused);
    assert!(verify_client(&trust(&[&ca]), &usage(Vec::new())).is_ok());
    assert!(verify_client(&trust(&[&ca]), &usage(vec![ExtendedKeyUsagePurpose::Any])).is_ok());
}

#[test]
fn a_ca_certificate_is_refused_as_an_end_entity() {
    let ca = TestAuthority::new("CA");
    let peer = ca.issue_peer("a.test", &|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    assert!(matches!(verify_client(&trust(&[&ca]), &peer), Err(TrustError::NotAnEndEntity { .. })));
}

#[test]
fn a_server_is_known_by_its_san_only() {
    let ca = TestAuthority::new("CA");
    let trust = trust(&[&ca]);
    let peer = ca.issue_peer("cn.test", &|params| {
        params.subject_alt_names = vec![
            SanType::DnsName("*.w.test".try_into().unwrap()),
            SanType::IpAddress("192.0.2.1".parse().unwrap()),
            SanType::URI("spiffe://a.test/x".try_into().unwrap()),
        ];
    });
    for name in ["a.w.test", "A.W.test", "192.0.2.1"] {
        assert!(verify_server(&trust, &peer, name).is_ok(), "{name}");
    }
    for name in ["cn.test", "w.test", "a.b.w.test", "192.0.2.2", "not a name"] {
        assert!(matches!(verify_server(&trust, &peer, name), Err(TrustError::WrongName { .. })), "{name}");
    }
    assert_eq!(
        verify_server(&trust, &peer, "cn.test").unwrap_err(),
        TrustError::WrongName {
            expected: "cn.test".into(),
            has: vec!["dns:*.w.test".into(), "ip:192.0.2.1".into(), "uri:spiffe://a.test/x".into()]
        }
    );
}

#[test]
fn a_server_uri_must_be_the_only_one() {
    let ca = TestAuthority::new("CA");
    let trust = trust(&[&ca]);
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let role = PeerRole::ServerUri("spiffe://a.test/x".into());
    let verify = |uris: &[&str]| {
        let peer =
            ca.issue_peer("a.test", &|params| params.subject_alt_names = uris.iter().map(|one| uri(one)).collect());
        trust.verify(&peer.chain, &role, now()).is_ok()
    };
    assert!(verify(&["spiffe://a.test/x"]));
    assert!(!verify(&["spiffe://a.test/y"]));
    assert!(!verify(&["spiffe://a.test/X"]));
    assert!(!verify(&["spiffe://a.test/x", "spiffe://a.test/y"]));
}

#[test]
fn pins_need_a_valid_chain_as_well() {
    let ca = TestAuthority::new("CA");
    let below = ca.issue_intermediate("Below", &|_| ());
    let peer = below.issue_peer("a.test", &|_| ());
    let pin = Pin { spki: below.certificate().spki_hash(), until: Some(days_from_now(7)) };
    let pinned = |anchor: &TestAuthority, pin: Pin| trust_with(&|settings| settings.pins = vec![pin], &[anchor], &[]);
    let verified = verify_client(&pinned(&ca, pin), &peer).unwrap();
    assert_eq!((verified.pin, verified.valid_until), (Some(pin.spki), days_from_now(7)));
    assert!(matches!(
        verify_client(&pinned(&TestAuthority::new("X"), pin), &peer),
        Err(TrustError::UnknownIssuer { .. })
    ));
    let other = verify_client(&pinned(&ca, Pin { spki: SpkiHash::of(b""), until: None }), &peer).unwrap_err();
    assert_eq!(other, TrustError::NoPin { trust: "partners".into(), spki: peer.certificate().spki_hash() });
    assert!(matches!(
        verify_client(&pinned(&ca, Pin { until: Some(now()), ..pin }), &peer),
        Err(TrustError::NoPin { .. })
    ));
}

#[test]
fn pin_only_takes_a_pinned_end_entity_of_any_issuer() {
    let only = |made: &IssuedIdentity| {
        let pin = made.pin();
        trust_with(&|settings| (settings.pin_only, settings.pins) = (true, vec![pin]), &[], &[])
    };
    let own = self_signed("a.test", &|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    let verified = verify_client(&only(&own), &own).unwrap();
    assert_eq!((&verified.anchor, verified.pin), (&None, Some(own.pin().spki)));
    assert!(verify_server(&only(&own), &own, "a.test").is_ok());
    assert!(matches!(verify_server(&only(&own), &own, "b.test"), Err(TrustError::WrongName { .. })));
    let other = self_signed("a.test", &|_| ());
    assert!(matches!(verify_client(&only(&own), &other), Err(TrustError::NoPin { .. })));
    let expired = self_signed("a.test", &|params| params.not_after = rcgen::date_time_ymd(2026, 11, 20));
    assert!(matches!(verify_client(&only(&expired), &expired), Err(TrustError::Expired { .. })));
    let server =
        self_signed("a.test", &|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert!(matches!(verify_client(&only(&server), &server), Err(TrustError::WrongUsage { .. })));
    let nameless = self_signed("a.test", &|params| params.subject_alt_names.clear());
    assert!(verify_server(&only(&nameless), &nameless, "b.test").is_ok());
    assert!(only(&own).authorities().is_empty());
}

fn peer_with_serial(ca: &TestAuthority, serial: u64) -> IssuedIdentity {
    ca.issue_peer("a.test", &|params| params.serial_number = Some(SerialNumber::from(serial)))
}

#[test]
fn a_revoked_peer_is_refused_and_others_are_not() {
    let ca = TestAuthority::new("CA");
    let trust = trust_with(&|_| (), &[&ca], &[ca.issue_crl(&[7, 0x80], 30)]);
    for serial in [7, 0x80] {
        let refused = verify_client(&trust, &peer_with_serial(&ca, serial)).unwrap_err();
        assert!(matches!(refused, TrustError::Revoked { .. }), "{refused}");
    }
    assert!(verify_client(&trust, &peer_with_serial(&ca, 8)).is_ok());
}

#[test]
fn the_chain_is_looked_up_only_where_it_is_asked_for() {
    let ca = TestAuthority::new("CA");
    let below = ca.issue_intermediate("Below", &|params| params.serial_number = Some(SerialNumber::from(9)));
    let peer = below.issue_peer("a.test", &|_| ());
    let crl = [ca.issue_crl(&[9], 30)];
    assert!(verify_client(&trust_with(&|_| (), &[&ca], &crl), &peer).is_ok());
    let chain = trust_with(&|settings| settings.crl_whole_chain = true, &[&ca], &crl);
    assert!(matches!(verify_client(&chain, &peer), Err(TrustError::Revoked { .. })));
}

#[test]
fn a_missing_crl_is_allowed_unless_required() {
    let (ca, other) = (TestAuthority::new("CA"), TestAuthority::new("Other"));
    let peer = ca.issue_peer("a.test", &|_| ());
    assert!(verify_client(&trust_with(&|_| (), &[&ca], &[other.issue_crl(&[], 30)]), &peer).is_ok());
    for crls in [vec![], vec![other.issue_crl(&[], 30)]] {
        let required = trust_with(&|settings| settings.crl_required = true, &[&ca], &crls);
        assert!(matches!(verify_client(&required, &peer), Err(TrustError::RevocationUnknown { .. })));
    }
}

#[test]
fn a_stale_crl_still_counts_and_refuses_where_asked_to() {
    let ca = TestAuthority::new("CA");
    let crl = [ca.issue_crl(&[7], -1)];
    let lenient = trust_with(&|_| (), &[&ca], &crl);
    assert!(verify_client(&lenient, &peer_with_serial(&ca, 8)).is_ok());
    assert!(matches!(verify_client(&lenient, &peer_with_serial(&ca, 7)), Err(TrustError::Revoked { .. })));
    let strict = trust_with(&|settings| settings.crl_stale_refuses = true, &[&ca], &crl);
    assert!(matches!(verify_client(&strict, &peer_with_serial(&ca, 8)), Err(TrustError::RevocationUnknown { .. })));
}

#[test]
fn two_keys_of_one_issuer_name_have_a_crl_each() {
    let (old, new) = (TestAuthority::new("CA"), TestAuthority::new("CA"));
    let trust = trust_with(
        &|settings| settings.crl_required = true,
        &[&old, &new],
        &[old.issue_crl(&[7], 30), new.issue_crl(&[8], 30)],
    );
    assert!(matches!(verify_client(&trust, &peer_with_serial(&old, 7)), Err(TrustError::Revoked { .. })));
    assert!(matches!(verify_client(&trust, &peer_with_serial(&new, 8)), Err(TrustError::Revoked { .. })));
    assert!(verify_client(&trust, &peer_with_serial(&old, 8)).is_ok());
    assert!(verify_client(&trust, &peer_with_serial(&new, 7)).is_ok());
}

#[test]
fn a_crl_without_what_binds_its_issuer_is_used() {
    let ca = TestAuthority::new("CA");
    for (version_2, next_update, extensions) in
        [(true, true, false), (false, true, false), (true, false, true), (false, false, false)]
    {
        let bare = ca.issue_bare_crl(&[7, 0x80], (version_2, next_update, extensions));
        let trust = trust_with(&|settings| settings.crl_required = true, &[&ca], &[bare]);
        let refused = verify_client(&trust, &peer_with_serial(&ca, 0x80)).unwrap_err();
        let TrustError::Revoked { since, .. } = refused else { panic!("{refused}") };
        assert_eq!(since, days_from_now(-3));
        assert!(verify_client(&trust, &peer_with_serial(&ca, 8)).is_ok());
        assert_eq!(trust.view().crls[0].next_update == Timestamp::MAX, !next_update);
    }
    let none =
        trust_with(&|settings| settings.crl_required = true, &[&ca], &[ca.issue_bare_crl(&[], (false, true, false))]);
    assert!(verify_client(&none, &peer_with_serial(&ca, 7)).is_ok());
}

#[test]
fn a_partitioned_crl_counts_for_its_own_part_only() {
    let ca = TestAuthority::new("CA");
    let crls = [
        ca.issue_crl_for(Some("http://crl.test/1"), &[7, 8], 30),
        ca.issue_crl_for(Some("http://crl.test/2"), &[], 30),
    ];
    let trust = trust_with(&|settings| settings.crl_required = true, &[&ca], &crls);
    let peer = |serial: u64, point: Option<&str>| {
        let point = point.map(|uri| rcgen::CrlDistributionPoint { uris: vec![uri.to_owned()] });
        let made = ca.issue_peer("a.test", &|params| {
            params.serial_number = Some(SerialNumber::from(serial));
            params.crl_distribution_points = point.iter().cloned().collect();
        });
        verify_client(&trust, &made).map(|_| ())
    };
    assert!(matches!(peer(7, Some("http://crl.test/1")), Err(TrustError::Revoked { .. })));
    assert!(matches!(peer(8, None), Err(TrustError::Revoked { .. })));
    assert_eq!(peer(7, Some("http://crl.test/2")), Ok(()));
    assert!(matches!(peer(7, Some("http://crl.test/3")), Err(TrustError::RevocationUnknown { .. })));
}

#[test]
fn a_verdict_is_remembered_and_ends_with_the_path() {
    let ca = TestAuthority::new("CA");
    let trust = trust(&[&ca]);
    let peer = ca.issue_peer("a.test", &|_| ());
    let first = verify_client(&trust, &peer).unwrap();
    assert!(Arc::ptr_eq(&first, &verify_client(&trust, &peer).unwrap()));
    let after = first.valid_until + jiff::SignedDuration::from_secs(1);
    assert!(matches!(trust.verify(&peer.chain, &PeerRole::Client, after), Err(TrustError::Expired { .. })));
}

#[test]
fn a_weak_key_is_called_weak() {
    let refused = trust(&[&TestAuthority::new("CA")])
        .verify(&[weak_certificate()], &PeerRole::Client, days_from_now(30))
        .unwrap_err();
    assert!(matches!(refused, TrustError::Weak { .. }), "{refused}");
}

/// RFC 8446 4.4.2.2 for what is shown, RFC 5280 6.1.1 for what vouches.
#[test]
fn a_root_of_x509_v1_vouches_for_others_and_cannot_be_shown_itself_pinned_or_not() {
    let [root, below] = version_1_certificates();
    let trust = trust_with_anchor(&|_| (), &root);
    assert!(trust.verify(std::slice::from_ref(&below), &PeerRole::Client, days_from_now(30)).is_ok());
    assert!(
        trust.verify(&[below, root.clone()], &PeerRole::Client, days_from_now(30)).is_ok(),
        "the root is sent along"
    );
    let pin = Pin { spki: Certificate::parse(root.clone()).unwrap().spki_hash(), until: None };
    let pinned = trust_with_anchor(&|settings| (settings.pin_only, settings.pins) = (true, vec![pin]), &root);
    for trust in [trust, pinned] {
        let Err(TrustError::NotAnEndEntity { why, .. }) =
            trust.verify(std::slice::from_ref(&root), &PeerRole::Client, days_from_now(30))
        else {
            panic!("not refused for its version")
        };
        assert!(why.starts_with("it is an X.509 v1 certificate"), "{why}");
    }
}

#[test]
fn authorities_are_the_anchors_names_once_each() {
    let (one, two) = (TestAuthority::new("CA"), TestAuthority::new("CA"));
    let trust = trust(&[&one, &two]);
    assert_eq!(trust.authorities(), vec![one.certificate().subject_der().to_vec()]);
    assert_eq!(trust.anchor_subjects().len(), 2);
}
