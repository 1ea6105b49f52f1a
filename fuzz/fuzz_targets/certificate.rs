//! Any bytes as a peer's certificate: facts are printable, and nothing depends on it being well-formed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use sidekey::pki::{Certificate, printable};

fuzz_target!(|bytes: &[u8]| {
    let Ok(certificate) = Certificate::parse(CertificateDer::from(bytes.to_vec())) else {
        return;
    };
    let texts = certificate.dns_names().iter().chain(certificate.uris()).chain(certificate.emails());
    let texts = texts.chain(certificate.organizations()).chain(certificate.units()).map(String::as_str);
    for text in texts.chain([certificate.subject(), certificate.issuer()]).chain(certificate.common_name()) {
        assert_eq!(text, printable(text));
    }
    certificate.is_issued_by(&certificate);
    assert_eq!(certificate.der().as_ref(), bytes);
});
