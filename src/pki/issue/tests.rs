use super::*;
use crate::pki::{KeyKind, blocks};

fn validity() -> Validity {
    Validity { not_before: "2026-01-01T00:00:00Z".parse().unwrap(), not_after: "2027-01-01T00:00:00Z".parse().unwrap() }
}

fn request(key: NewKeyKind) -> IssueRequest {
    IssueRequest {
        common_name: "api.example.com".to_owned(),
        organization: Some("Example".to_owned()),
        dns: vec!["api.example.com".to_owned()],
        uris: vec!["spiffe://example/api".to_owned()],
        ips: vec!["127.0.0.1".parse().unwrap()],
        server: true,
        client: false,
        validity: validity(),
        key,
    }
}

fn read(pem: &str) -> blocks::KeyMaterial {
    let blocks = blocks::read(&Zeroizing::new(pem.as_bytes().to_vec()), None);
    assert_eq!(blocks.unreadable, []);
    blocks
}

#[test]
fn a_certificate_says_what_was_asked_for() {
    let root = CertificateAuthority::new("Root", validity()).unwrap();
    let issued = root.issue(&request(NewKeyKind::P256)).unwrap();
    let found = read(&format!("{}{}", issued.chain_pem, *issued.key_pem));
    let [certificate] = &found.certificates[..] else { panic!("one certificate") };
    assert_eq!(certificate.subject(), "CN=api.example.com, O=Example");
    assert_eq!(certificate.issuer(), "CN=Root");
    assert_eq!(certificate.dns_names(), ["api.example.com"]);
    assert_eq!(certificate.uris(), ["spiffe://example/api"]);
    assert_eq!(certificate.ips(), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(certificate.validity(), validity());
    assert_eq!(certificate.serial().len(), 32);
    assert!(!certificate.is_ca() && certificate.weakness().is_none());
    let usage = certificate.usage();
    assert!(usage.limited && usage.server && !usage.client);
    assert_eq!(certificate.spki(), found.keys[0].spki());
}

#[test]
fn every_kind_of_key_can_be_made() {
    for (key, kind) in [
        (NewKeyKind::P256, KeyKind::P256),
        (NewKeyKind::P384, KeyKind::P384),
        (NewKeyKind::Ed25519, KeyKind::Ed25519),
        (NewKeyKind::Rsa(2048), KeyKind::Rsa(2048)),
    ] {
        let issued = self_signed(&request(key)).unwrap();
        let found = read(&format!("{}{}", *issued.key_pem, issued.chain_pem));
        assert_eq!(found.certificates[0].key(), kind);
        assert!(found.certificates[0].is_self_issued());
        assert_eq!(found.certificates[0].spki(), found.keys[0].spki());
    }
    assert!(self_signed(&request(NewKeyKind::Rsa(1024))).is_err());
}

#[test]
fn a_chain_has_the_intermediates_and_not_the_root() {
    let root = CertificateAuthority::new("Root", validity()).unwrap();
    let lower = root.intermediate("Upper", validity()).unwrap().intermediate("Lower", validity()).unwrap();
    let found = read(&lower.issue(&request(NewKeyKind::P256)).unwrap().chain_pem);
    let subjects: Vec<&str> = found.certificates.iter().map(|certificate| certificate.subject()).collect();
    assert_eq!(subjects, ["CN=api.example.com, O=Example", "CN=Lower", "CN=Upper"]);
    assert!(found.certificates[1..].iter().all(|certificate| certificate.is_ca()));
}

#[test]
fn a_renewal_keeps_the_key_and_changes_the_serial_number() {
    let root = CertificateAuthority::new("Root", validity()).unwrap();
    let first = root.issue(&request(NewKeyKind::P256)).unwrap();
    let second = root.renew(&request(NewKeyKind::P256), &first.key_pem).unwrap();
    let (first, second) = (read(&first.chain_pem), read(&second.chain_pem));
    assert_eq!(first.certificates[0].spki_hash(), second.certificates[0].spki_hash());
    assert_ne!(first.certificates[0].serial(), second.certificates[0].serial());
}

#[test]
fn a_validity_before_1970_is_refused() {
    let validity = Validity { not_before: Timestamp::MIN, not_after: Timestamp::MAX };
    assert!(CertificateAuthority::new("Old", validity).is_err());
}
