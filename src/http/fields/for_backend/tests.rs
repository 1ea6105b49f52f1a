use super::*;
use crate::pki::Validity;
use crate::trust::{Partners, Verified};

/// A peer with a certificate that an intermediate issued.
fn peer() -> std::sync::Arc<Peer> {
    use crate::pki::issue::{CertificateAuthority, IssueRequest, NewKeyKind};
    use rustls_pki_types::{CertificateDer, pem::PemObject};

    let day = |text: &str| text.parse().unwrap();
    let validity = Validity { not_before: day("2026-01-01T00:00:00Z"), not_after: day("2027-01-01T00:00:00Z") };
    let authority = CertificateAuthority::new("Root", validity).unwrap();
    let request = IssueRequest {
        common_name: "etl".to_owned(),
        organization: None,
        dns: vec!["etl.example".to_owned()],
        uris: vec!["spiffe://a.example/etl".to_owned()],
        ips: Vec::new(),
        server: false,
        client: true,
        validity,
        key: NewKeyKind::P256,
    };
    let issued = authority.intermediate("Middle", validity).unwrap().issue(&request).unwrap();
    let certificate = |der: Result<CertificateDer<'static>, _>| Certificate::parse(der.unwrap()).unwrap();
    let path = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).map(certificate).collect();
    let verified = Verified {
        path,
        anchor: None,
        pin: None,
        valid_until: validity.not_after,
        expired: None,
        presented: Default::default(),
    };
    Peer::new(std::sync::Arc::new(verified), &Partners::default())
}

#[test]
fn a_peer_is_told_in_the_ways_that_are_configured_and_no_other() {
    let peer = peer();
    let told = |identity: IdentityHeaders| {
        let mut headers = HeaderMap::new();
        BackendFields::new(Some(&peer), None, identity).apply_to(&mut headers, &HeaderValue::from_static("a"));
        headers
    };
    let usual = told(IdentityHeaders::default());
    assert_eq!(usual[PEER], "uri:spiffe://a.example/etl");
    let hash = peer.certificate().fingerprint().hex();
    let expected = format!("Hash={hash};Subject=\"CN=etl\";URI=\"spiffe://a.example/etl\";DNS=\"etl.example\"");
    assert_eq!(usual[XFCC], expected.as_str());
    assert!(!usual.contains_key(CLIENT_CERT) && !usual.contains_key(CLIENT_CERT_CHAIN));

    let rfc_9440 = told(IdentityHeaders { xfcc: false, peer: false, client_cert: true, client_cert_chain: true });
    assert!(!rfc_9440.contains_key(XFCC) && !rfc_9440.contains_key(PEER));
    let sequence = |index: usize| byte_sequences([peer.verified().path[index].der().as_ref()]).unwrap();
    assert_eq!(rfc_9440[CLIENT_CERT], sequence(0).as_str());
    assert_eq!(rfc_9440[CLIENT_CERT_CHAIN], sequence(1).as_str());
}

#[test]
fn forwarded_names_the_host_of_this_request_and_not_of_the_one_before() {
    let for_backend = BackendFields::new(None, Some([127, 0, 0, 1].into()), IdentityHeaders::default());
    for host in ["a.example", "a.example", "b.example", "a.example"] {
        let mut headers = HeaderMap::new();
        for_backend.apply_to(&mut headers, &HeaderValue::from_static(host));
        assert_eq!(headers[FORWARDED], format!("for=127.0.0.1;proto=https;host=\"{host}\"").as_str());
        assert_eq!(headers[FORWARDED_HOST], host);
    }
}

#[test]
fn every_value_from_a_certificate_is_quoted_and_escaped() {
    let names = CertificateNames {
        hash: "ab".repeat(32),
        subject: "CN=a\";URI=\"spiffe://evil, O=Bücher \\ 50%",
        uris: &["spiffe://a.example/b%20c".to_owned()],
        dns: &["a.example".to_owned()],
    };
    assert_eq!(
        xfcc_value(&names),
        format!(
            r#"Hash={};Subject="CN=a\";URI=\"spiffe://evil, O=B%C3%BCcher \\ 50%25";URI="spiffe://a.example/b%20c";DNS="a.example""#,
            "ab".repeat(32)
        )
    );
}

#[test]
fn at_most_sixteen_names_and_8_kib_are_told() {
    let many: Vec<String> = (0..40).map(|i| format!("host{i}.example")).collect();
    let names = |dns| CertificateNames { hash: "0".repeat(64), subject: "CN=a", uris: &[], dns };
    assert_eq!(xfcc_value(&names(&many)).matches(";DNS=").count(), 16);
    let long: Vec<String> = (0..16).map(|_| "ä".repeat(300)).collect();
    let value = xfcc_value(&names(&long));
    assert!(value.len() <= MAX_VALUE_BYTES && value.ends_with('"') && value.contains(";DNS="), "{}", value.len());
}

#[test]
fn an_identity_is_whole_or_absent() {
    assert_eq!(peer_value("uri:spiffe://a/b%20c").as_deref(), Some("uri:spiffe://a/b%20c"));
    assert_eq!(peer_value("subject:CN=ä%, O=b ").as_deref(), Some("subject:CN=%C3%A4%25, O=b%20"));
    assert_eq!(peer_value(&format!("dns:{}", "a".repeat(MAX_VALUE_BYTES))), None);
}

#[test]
fn certificates_are_byte_sequences() {
    assert_eq!(byte_sequences([]), None);
    assert_eq!(
        byte_sequences([&b"f"[..], b"fo", b"foo", b"foob"]).as_deref(),
        Some(":Zg==:, :Zm8=:, :Zm9v:, :Zm9vYg==:")
    );
    assert_eq!(byte_sequences([&[0xff, 0xfe, 0xfd][..]]).as_deref(), Some("://79:"));
    assert_eq!(byte_sequences([&[0; MAX_CERTIFICATE_BYTES][..]]), None);
}

#[test]
fn forwarding_fields_of_a_believed_peer_are_extended() {
    let mut headers = HeaderMap::new();
    headers.append(FORWARDED_FOR, HeaderValue::from_static("198.51.100.1"));
    headers.append(FORWARDED_FOR, HeaderValue::from_static("10.0.0.1, 10.0.0.2"));
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    headers.insert(FORWARDED, HeaderValue::from_static("for=198.51.100.1"));
    let host = HeaderValue::from_static("api.example");
    let ours = BackendFields::new(None, "192.0.2.1".parse().ok(), IdentityHeaders::default()).with_continuation(true);
    ours.apply_to(&mut headers, &host);
    let all = |name| headers.get_all(name).iter().collect::<Vec<_>>();
    assert_eq!(all(FORWARDED_FOR), ["198.51.100.1, 10.0.0.1, 10.0.0.2, 192.0.2.1"]);
    assert_eq!(all(FORWARDED_PROTO), ["http"]);
    assert_eq!(all(FORWARDED_HOST), ["api.example"]);
    assert_eq!(all(FORWARDED), ["for=198.51.100.1, for=192.0.2.1;proto=https;host=\"api.example\""]);

    let mut none = HeaderMap::new();
    ours.apply_to(&mut none, &host);
    assert_eq!(
        (&none[FORWARDED_FOR], &none[FORWARDED_PROTO]),
        (&"192.0.2.1".parse().unwrap(), &"https".parse().unwrap())
    );
}

#[test]
fn forwarding_fields_name_the_peer_and_replace_what_was_there() {
    let mut headers = HeaderMap::new();
    headers.insert(FORWARDED_FOR, HeaderValue::from_static("10.0.0.1"));
    let from = "2001:db8::1".parse().ok();
    let host = HeaderValue::from_static("api.example:8443");
    BackendFields::new(None, from, IdentityHeaders::default()).apply_to(&mut headers, &host);
    assert_eq!(headers[FORWARDED_FOR], "2001:db8::1");
    assert_eq!(headers[FORWARDED_PROTO], "https");
    assert_eq!(headers[FORWARDED_HOST], "api.example:8443");
    assert_eq!(headers[FORWARDED], "for=\"[2001:db8::1]\";proto=https;host=\"api.example:8443\"");
    assert!(!headers.contains_key(PEER) && !headers.contains_key(XFCC));

    BackendFields::new(None, "::ffff:192.0.2.1".parse().ok(), IdentityHeaders::default()).apply_to(&mut headers, &host);
    assert_eq!(headers[FORWARDED_FOR], "192.0.2.1");
    assert_eq!(headers[FORWARDED], "for=192.0.2.1;proto=https;host=\"api.example:8443\"");
    BackendFields::new(None, None, IdentityHeaders::default())
        .apply_to(&mut headers, &HeaderValue::from_static("a\"b"));
    assert_eq!(headers[FORWARDED], "for=unknown;proto=https");
}

#[test]
fn an_identity_that_is_too_long_for_its_field_is_left_out_and_told() {
    use crate::trust::sample::{TestAuthority, now, trust};
    use crate::trust::{Partners, Peer, PeerRole};
    let ca = TestAuthority::new("CA");
    for (length, expected) in [(100, Vec::new()), (9_000, vec![("x-sidekey-peer", MAX_VALUE_BYTES)])] {
        let uri = format!("spiffe://acme.test/{}", "a".repeat(length));
        let issued = ca.issue_peer("a.test", &|params| {
            params.subject_alt_names = vec![rcgen::SanType::URI(uri.clone().try_into().unwrap())];
        });
        let verified = trust(&[&ca]).verify(&issued.chain, &PeerRole::Client, now()).unwrap();
        let peer = Peer::new(verified, &Partners::default());
        let identity = IdentityHeaders { xfcc: true, peer: true, client_cert: true, client_cert_chain: true };
        let fields = BackendFields::new(Some(&peer), None, identity);
        assert_eq!(fields.left_out().collect::<Vec<_>>(), expected);
    }
}
