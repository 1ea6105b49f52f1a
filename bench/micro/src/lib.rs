//! What the micro-benchmarks are given: a trust with a peer that it verifies, candidates to choose from, and a request head.
//!
//! Made through the product's public rooms alone; what is timed is left to `benches/hot.rs`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sidekey::keyring::choice::{CandidateList, KeyPairCandidate, PairTraits, PeerRequirements};
use sidekey::keyring::{PreferPolicy, Standing};
use sidekey::pki::issue::{CertificateAuthority, IssueRequest, NewKeyKind};
use sidekey::pki::{Certificate, Fingerprint, Validity};
use sidekey::trust::anchors::{Anchors, FoundAnchors};
use sidekey::trust::{AnchorSource, Trust, TrustSettings};

/// A head as browsers and HTTP libraries send it.
pub const HEAD: &[u8] = b"GET /v1/orders?state=open HTTP/1.1\r\nHost: api.example:8443\r\nUser-Agent: etl/4.2\r\n\
Accept: application/json\r\nAccept-Encoding: gzip\r\nAuthorization: Bearer 0123456789abcdef0123456789abcdef\r\n\
X-Request-Id: 7c0d6a1e-3f1b-4c41-9a49-1c53bb1b5c77\r\nX-Forwarded-For: 192.0.2.1\r\nConnection: keep-alive\r\n\r\n";

/// Any time: everything here is valid around it.
pub fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("a time")
}

/// The fields of that head.
pub fn fields() -> HeaderMap {
    let text = std::str::from_utf8(HEAD).expect("a head");
    let lines = text.lines().skip(1).filter_map(|line| line.split_once(": "));
    lines
        .map(|(name, value)| {
            (name.parse::<HeaderName>().expect("a name"), value.parse::<HeaderValue>().expect("a value"))
        })
        .collect()
}

/// A trust of one root, and the chain of a peer that an issuer below it has certified.
pub fn trust_and_chain() -> (Arc<Trust>, Vec<CertificateDer<'static>>) {
    let day = SignedDuration::from_hours(24);
    let validity = Validity { not_before: now() - 30 * day, not_after: now() + 30 * day };
    let root = CertificateAuthority::new("Root", validity).expect("a root");
    let issuer = root.intermediate("Issuer", validity).expect("an issuer");
    let request = IssueRequest {
        common_name: "etl".to_owned(),
        organization: None,
        dns: vec!["etl.example".to_owned()],
        uris: vec!["spiffe://example/etl".to_owned()],
        ips: vec![],
        server: false,
        client: true,
        validity,
        key: NewKeyKind::P256,
    };
    let chain = issuer.issue(&request).expect("a pair").chain_pem;
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>().expect("a chain");
    let source = AnchorSource::File { path: PathBuf::from("ca.pem"), until: None };
    let der = CertificateDer::from_pem_slice(root.certificate_pem().as_bytes()).expect("a certificate");
    let found = FoundAnchors::Certificates(vec![Certificate::parse(der).expect("a certificate")]);
    let mut anchors =
        Anchors::open(TrustSettings::with_anchors("peers".into(), vec![source.clone()]), &Default::default(), &[]);
    anchors.apply_sources(&BTreeMap::from([(source, found)]), &BTreeMap::new(), now());
    (anchors.build(now()), chain)
}

/// What a ClientHello asks for, and a listener's pairs: two of a keyring in overlap.
pub fn candidates() -> (CandidateList, PeerRequirements) {
    let candidate = |number: u8, standing: Standing| KeyPairCandidate {
        keyring: "api".into(),
        key_pair: Fingerprint::from_bytes([number; 32]),
        standing,
        validity: Validity { not_before: Timestamp::MIN, not_after: Timestamp::MAX },
        dns: vec!["api.example".to_owned(), "*.internal.example".to_owned()],
        schemes: vec![0x0403],
        issuers: vec![vec![number; 60], vec![9; 60]],
        traits: PairTraits::default(),
        prefer: PreferPolicy::New,
        last_resort: false,
        sent_alone: None,
        in_overlap: true,
    };
    let asked = PeerRequirements {
        server_name: Some("api.example".into()),
        schemes: vec![0x0804, 0x0403, 0x0503],
        suites: vec![0x1301, 0x1302, 0x1303],
        groups: vec![0x11ec, 29, 23],
        ..PeerRequirements::default()
    };
    (CandidateList(vec![candidate(1, Standing::Current), candidate(2, Standing::Previous)]), asked)
}
