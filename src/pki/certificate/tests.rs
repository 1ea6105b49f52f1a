//! Odd certificates are made by openssl at test time, or by changing the bytes of good ones.

use std::process::{Command, Stdio};

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::pki::blocks;
use crate::pki::issue::{CertificateAuthority, IssueRequest, NewKeyKind};

/// A self-signed certificate of openssl's with these options of `req -x509`.
fn make_with_openssl(options: &[&str]) -> Arc<Certificate> {
    let folder = tempfile::tempdir().unwrap();
    let done = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            "k",
            "-out",
            "out",
        ])
        .args(options)
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .output()
        .unwrap();
    assert!(done.status.success(), "{options:?}: {}", String::from_utf8_lossy(&done.stderr));
    first_certificate(std::fs::read(folder.path().join("out")).unwrap())
}

fn first_certificate(pem: Vec<u8>) -> Arc<Certificate> {
    let mut blocks = blocks::read(&Zeroizing::new(pem), None);
    assert_eq!(blocks.unreadable, []);
    blocks.certificates.remove(0)
}

fn validity() -> Validity {
    Validity { not_before: "2026-01-01T00:00:00Z".parse().unwrap(), not_after: "2027-01-01T00:00:00Z".parse().unwrap() }
}

fn request(name: &str) -> IssueRequest {
    IssueRequest {
        common_name: name.to_owned(),
        organization: None,
        dns: vec!["A.Example.com".to_owned()],
        uris: vec![],
        ips: vec![],
        server: false,
        client: false,
        validity: validity(),
        key: NewKeyKind::P256,
    }
}

#[test]
fn names_are_shown_as_rfc_4514_writes_them() {
    let certificate = make_with_openssl(&["-subj", "/C=DE/O=Acme, Inc./OU=a+OU=b/CN=#x", "-multivalue-rdn"]);
    assert_eq!(certificate.subject(), "CN=\\#x, OU=a+OU=b, O=Acme\\, Inc., C=DE");
    assert_eq!(certificate.issuer(), certificate.subject());
    assert_eq!(certificate.common_name(), Some("#x"));
    assert_eq!(certificate.organizations(), ["Acme, Inc."]);
    assert_eq!(certificate.units(), ["a", "b"]);
}

#[test]
fn nothing_in_a_name_can_break_a_line() {
    let issued = crate::pki::issue::self_signed(&request("a\nb\u{202e}c\u{1b}[31m")).unwrap();
    let certificate = first_certificate(issued.chain_pem.into_bytes());
    assert_eq!(certificate.subject(), "CN=a\\u{a}b\\u{202e}c\\u{1b}[31m");
    assert_eq!(certificate.common_name(), Some("a\\u{a}b\\u{202e}c\\u{1b}[31m"));
}

#[test]
fn the_san_is_read_by_kind() {
    let certificate = make_with_openssl(&[
        "-subj",
        "/CN=x",
        "-addext",
        "subjectAltName=DNS:A.example,URI:spiffe://a/b,email:a@b.c,IP:10.0.0.1,IP:::1,RID:1.2.3",
    ]);
    assert_eq!(certificate.dns_names(), ["a.example"]);
    assert_eq!(certificate.uris(), ["spiffe://a/b"]);
    assert_eq!(certificate.emails(), ["a@b.c"]);
    let ips: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    assert_eq!(certificate.ips(), ips);
}

#[test]
fn usage_without_the_extension_is_unlimited() {
    let all = ExtendedKeyUsage { limited: false, server: true, client: true };
    assert_eq!(make_with_openssl(&["-subj", "/CN=x"]).usage(), all);
    let server = make_with_openssl(&["-subj", "/CN=x", "-addext", "extendedKeyUsage=serverAuth"]).usage();
    assert_eq!(server, ExtendedKeyUsage { limited: true, server: true, client: false });
    let any = make_with_openssl(&["-subj", "/CN=x", "-addext", "extendedKeyUsage=anyExtendedKeyUsage"]).usage();
    assert_eq!(any, ExtendedKeyUsage { limited: true, server: true, client: true });
    let other = make_with_openssl(&["-subj", "/CN=x", "-addext", "extendedKeyUsage=codeSigning"]).usage();
    assert_eq!(other, ExtendedKeyUsage { limited: true, server: false, client: false });
}

#[test]
fn weakness_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let line = "openssl req -x509 -newkey rsa:1024 -nodes -keyout k -out small -subj /CN=small; \
        openssl req -x509 -newkey rsa:2048 -sha1 -nodes -keyout ca.k -out ca -subj /CN=ca; \
        openssl req -new -newkey rsa:2048 -nodes -keyout k -out r -subj /CN=end_entity; \
        openssl x509 -req -in r -CA ca -CAkey ca.k -CAcreateserial -sha1 -out v1; \
        printf 'basicConstraints=CA:FALSE' > e; \
        openssl x509 -req -in r -CA ca -CAkey ca.k -CAcreateserial -sha1 -extfile e -out sha1; \
        openssl x509 -req -in r -CA ca -CAkey ca.k -CAcreateserial -extfile e -sigopt rsa_padding_mode:pss -sha1 -out pss";
    let done = Command::new("sh").args(["-ec", line]).current_dir(folder.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let weakness = |name: &str| {
        first_certificate(std::fs::read(folder.path().join(name)).unwrap())
            .weakness()
            .map(str::to_owned)
            .unwrap_or_default()
    };
    assert!(weakness("small").contains("1024 bits"));
    assert!(weakness("v1").contains("X.509 v1"));
    assert_eq!(weakness("sha1"), "it is signed with SHA-1");
    assert_eq!(weakness("pss"), "it is signed with SHA-1");
    assert_eq!(weakness("ca"), "", "no peer relies on a root's own signature");
}

#[test]
fn trailing_bytes_and_doubled_extensions_are_rejected() {
    let certificate = make_with_openssl(&[
        "-subj",
        "/CN=x",
        "-addext",
        "subjectAltName=DNS:a",
        "-addext",
        "extendedKeyUsage=serverAuth",
    ]);
    let mut longer = certificate.der().to_vec();
    longer.push(0);
    assert!(Certificate::parse(longer.into()).unwrap_err().to_string().contains("1 bytes follow"));
    // The extended key usage's OID becomes the SAN's.
    let mut doubled = certificate.der().to_vec();
    let at = memchr::memmem::find(&doubled, &[0x55, 0x1d, 0x25]).unwrap();
    doubled[at + 2] = 0x11;
    assert!(Certificate::parse(doubled.into()).is_err());
}

#[test]
fn validity_beyond_the_calendar_is_clamped() {
    let forever = Validity { not_before: validity().not_before, not_after: jiff::Timestamp::MAX };
    let issued = crate::pki::issue::self_signed(&IssueRequest { validity: forever, ..request("x") }).unwrap();
    let mut der = first_certificate(issued.chain_pem.into_bytes()).der().to_vec();
    // What RFC 5280 4.1.2.5 writes for "no end".
    let at = memchr::memmem::find(&der, b"99991230").unwrap();
    der[at..at + 14].copy_from_slice(b"99991231235959");
    let parsed = Certificate::parse(der.into()).unwrap();
    assert_eq!(parsed.validity().not_after.as_second(), jiff::Timestamp::MAX.as_second());
}

#[test]
fn an_issuer_is_known_by_name_and_signature() {
    let (root, twin) = (
        CertificateAuthority::new("Root", validity()).unwrap(),
        CertificateAuthority::new("Root", validity()).unwrap(),
    );
    let end_entity = first_certificate(root.issue(&request("end_entity")).unwrap().chain_pem.into_bytes());
    let root = first_certificate(root.certificate_pem().as_bytes().to_vec());
    let twin = first_certificate(twin.certificate_pem().as_bytes().to_vec());
    assert!(end_entity.is_issued_by(&root));
    assert!(!end_entity.is_issued_by(&twin));
    assert!(!root.is_issued_by(&end_entity));
    assert!(root.is_issued_by(&root));
    assert_eq!(first_certificate(end_entity.pem().into_bytes()), end_entity);
}

proptest! {
    #[test]
    fn no_damage_makes_it_panic(at in 0usize..2000, to in any::<u8>()) {
        static GOOD: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let good = GOOD.get_or_init(|| make_with_openssl(&["-subj", "/C=DE/CN=x", "-addext", "subjectAltName=DNS:a"]).der().to_vec());
        let mut bytes = good.clone();
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(certificate) = Certificate::parse(bytes.into()) {
            certificate.is_issued_by(&certificate);
        }
    }
}

#[test]
fn its_signature_has_the_name_of_the_algorithm() {
    for (hash, name) in [("-sha256", "ecdsa-with-SHA256"), ("-sha384", "ecdsa-with-SHA384")] {
        assert_eq!(make_with_openssl(&["-subj", "/CN=a", hash]).signature_algorithm(), name);
    }
}
