//! Any bytes as a file of the watched folder: read, joined, and what was read is written and read again.
//!
//! The password is the empty one, so that PKCS#12 made with it is opened.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidekey::pki::certificate::CrlSummary;
use sidekey::pki::{blocks, join};
use zeroize::Zeroizing;

fuzz_target!(|bytes: &[u8]| {
    let bytes = Zeroizing::new(bytes.to_vec());
    blocks::detect_kind(&bytes);
    for request in blocks::read_requests(&bytes).into_iter().flatten() {
        assert!(!request.subject.chars().any(char::is_control));
    }
    let found = blocks::read(&bytes, Some(""));
    for crl in &found.crls {
        let _ = CrlSummary::parse(crl);
    }
    for part in &found.unreadable {
        assert!(!part.why.is_empty() && !part.why.chars().any(char::is_control));
    }
    let joined = join::join(vec![("tls.pem".into(), found), ("ca.crt".into(), blocks::read(&bytes, None))]);
    for pair in &joined.pairs {
        let again = blocks::read(&Zeroizing::new(pair.to_pem().as_bytes().to_vec()), None);
        assert_eq!(again.certificates, pair.chain());
        assert_eq!(again.keys.len(), 1);
    }
});
