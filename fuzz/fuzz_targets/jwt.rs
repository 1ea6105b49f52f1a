//! Any text as a partner's token, and any bytes as a token endpoint's answer: read without a panic, and never accepted,
//! because nobody has the key.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use sidekey::jwt::verify::{TokenPresenter, TokenVerifierSettings};
use sidekey::jwt::{TokenVerifier, grant};
use sidekey::pki::issue::{CertificateTemplate, GeneratedKey, NewKeyKind, RequestedNames, SubjectName};
use sidekey::pki::{Fingerprint, Validity, blocks};
use zeroize::Zeroizing;

static VERIFIER: LazyLock<TokenVerifier> = LazyLock::new(|| {
    let wanted = CertificateTemplate {
        subject: SubjectName::common_name("acme"),
        names: RequestedNames::default(),
        server: false,
        client: false,
    };
    let validity = Validity { not_before: Timestamp::UNIX_EPOCH, not_after: "2100-01-01T00:00:00Z".parse().unwrap() };
    let certificates: Vec<_> = [NewKeyKind::P256, NewKeyKind::P384, NewKeyKind::Ed25519, NewKeyKind::Rsa(2048)]
        .into_iter()
        .flat_map(|kind| {
            let pem = GeneratedKey::new(kind).unwrap().self_signed(&wanted, validity).unwrap();
            blocks::read(&Zeroizing::new(pem.into_bytes()), None).certificates
        })
        .collect();
    let settings = TokenVerifierSettings {
        partner: Arc::from("acme"),
        certificates: Vec::new(),
        audience: "a".to_owned(),
        issuer: None,
        max_lifetime: Duration::from_secs(u64::from(u32::MAX)),
    };
    TokenVerifier::new(settings, &certificates)
});

fuzz_target!(|bytes: &[u8]| {
    let from = TokenPresenter { partner: Some("acme"), certificate: Fingerprint::from_bytes([0; 32]) };
    let now = "2026-11-25T12:00:00Z".parse().unwrap();
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(VERIFIER.verify(text, from, now).is_err());
    }
    // The parts, so that the fuzzer gets past the base64.
    let encode = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes);
    let parts: Vec<String> = bytes.splitn(3, |byte| *byte == b'.').map(encode).collect();
    let refused = VERIFIER.verify(&parts.join("."), from, now).unwrap_err();
    assert!(!refused.to_string().chars().any(char::is_control), "{refused}");
    for status in [200, 302, 400, 500] {
        match grant::parse_response(status, bytes, &["Bearer".to_owned()]) {
            Ok(granted) => assert!(status == 200 && granted.access_token.bytes().all(|byte| byte.is_ascii_graphic())),
            Err(answer) => assert!(!answer.to_string().chars().any(char::is_control), "{answer}"),
        }
    }
});
