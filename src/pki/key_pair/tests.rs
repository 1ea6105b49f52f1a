use super::*;
use crate::pki::blocks;
use crate::pki::issue::{CertificateAuthority, IssueRequest, IssuedKeyPair, NewKeyKind, self_signed};

fn validity() -> Validity {
    Validity { not_before: "2026-01-01T00:00:00Z".parse().unwrap(), not_after: "2027-01-01T00:00:00Z".parse().unwrap() }
}

fn request(key: NewKeyKind) -> IssueRequest {
    IssueRequest {
        common_name: "api".to_owned(),
        organization: None,
        dns: vec!["api.example.com".to_owned()],
        uris: vec![],
        ips: vec![],
        server: true,
        client: true,
        validity: validity(),
        key,
    }
}

fn parts(issued: &IssuedKeyPair) -> (Vec<Arc<Certificate>>, Arc<PrivateKey>) {
    let text = format!("{}{}", issued.chain_pem, issued.key_pem.as_str());
    let mut blocks = blocks::read(&Zeroizing::new(text.into_bytes()), None);
    (blocks.certificates, blocks.keys.remove(0))
}

fn pair(issued: &IssuedKeyPair) -> Result<Arc<KeyPair>, KeyPairError> {
    let (chain, key) = parts(issued);
    KeyPair::new(chain, key, vec!["tls.crt".into()])
}

#[test]
fn schemes_are_those_of_the_key_best_first() {
    for (key, schemes) in [
        (NewKeyKind::P256, &[0x0403][..]),
        (NewKeyKind::P384, &[0x0503]),
        (NewKeyKind::Ed25519, &[0x0807]),
        (NewKeyKind::Rsa(2048), &[0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601]),
    ] {
        let pair = pair(&self_signed(&request(key)).unwrap()).unwrap();
        assert_eq!(pair.schemes(), schemes, "{key:?}");
        assert!(pair.certified_key().key.choose_scheme(&[SignatureScheme::from(schemes[0])]).is_some());
    }
}

#[test]
fn a_pair_survives_its_own_pem() {
    let root = CertificateAuthority::new("Root", validity()).unwrap();
    let issued = root.intermediate("Intermediate", validity()).unwrap().issue(&request(NewKeyKind::P256)).unwrap();
    let pair = pair(&issued).unwrap();
    let mut blocks = blocks::read(&Zeroizing::new(pair.to_pem().as_bytes().to_vec()), None);
    let again = KeyPair::new(blocks.certificates, blocks.keys.remove(0), vec![]).unwrap();
    assert_eq!(again.chain(), pair.chain());
    assert_eq!(again.key().der().secret_der(), pair.key().der().secret_der());
    assert_eq!(again.to_pem(), pair.to_pem());
    assert_eq!(pair.chain().len(), 2);
    let issuers: Vec<_> = pair.issuer_names();
    assert_eq!(issuers, [pair.chain()[1].subject_der().to_vec(), pair.chain()[1].issuer_der().to_vec()]);
}

#[test]
fn mismatched_parts_are_not_a_pair() {
    let root = CertificateAuthority::new("Root", validity()).unwrap();
    let (chain, key) = parts(&root.issue(&request(NewKeyKind::P256)).unwrap());
    let (other_chain, other_key) = parts(&self_signed(&request(NewKeyKind::P256)).unwrap());
    let new = |chain: &[&Arc<Certificate>], key: &Arc<PrivateKey>| {
        KeyPair::new(chain.iter().map(|part| Arc::clone(part)).collect(), Arc::clone(key), vec![])
    };
    assert_eq!(new(&[], &key).unwrap_err(), KeyPairError::Empty);
    assert_eq!(new(&[&chain[0]], &other_key).unwrap_err(), KeyPairError::Mismatch);
    let unlinked = new(&[&chain[0], &other_chain[0]], &key).unwrap_err();
    assert!(matches!(unlinked, KeyPairError::DoesNotLink { .. }), "{unlinked}");
}

#[test]
fn a_root_at_the_end_is_left_out_but_a_self_signed_pair_keeps_itself() {
    let root = CertificateAuthority::new("Root", validity()).unwrap();
    let mut issued = root.issue(&request(NewKeyKind::P256)).unwrap();
    issued.chain_pem.push_str(root.certificate_pem());
    assert_eq!(pair(&issued).unwrap().chain().len(), 1);
    assert_eq!(pair(&self_signed(&request(NewKeyKind::P256)).unwrap()).unwrap().chain().len(), 1);
}

#[test]
fn nothing_of_the_key_is_shown() {
    let pair = pair(&self_signed(&request(NewKeyKind::P256)).unwrap()).unwrap();
    assert_eq!(format!("{pair:?}"), format!("KeyPair({})", pair.fingerprint().short()));
}

#[test]
fn an_intermediate_that_ends_before_its_pair_is_known() {
    let root = CertificateAuthority::new("Root", validity()).unwrap();
    let until = |not_after: &str| Validity { not_after: not_after.parse().unwrap(), ..validity() };
    let of = |ends: &str| {
        let issuing = root.intermediate("Issuing", until(ends)).unwrap();
        let pair = pair(&issuing.issue(&request(NewKeyKind::P256)).unwrap()).unwrap();
        pair.ends_early().map(|intermediate| intermediate.validity().not_after.to_string())
    };
    assert_eq!(of("2026-12-01T00:00:00Z").as_deref(), Some("2026-12-01T00:00:00Z"));
    assert_eq!(of("2027-01-01T00:00:00Z"), None);
    assert_eq!(pair(&self_signed(&request(NewKeyKind::P256)).unwrap()).unwrap().ends_early(), None);
}
