//! Real key pairs for tests, made once: a property test that issued its own would spend its time generating keys.
//!
//! Times are days after [`day`]`(0)`, 2026-01-01.

use std::sync::{Arc, LazyLock};

use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use crate::pki::issue::{CertificateAuthority, IssueRequest, NewKeyKind};
use crate::pki::{Certificate, KeyPair, PairOrigin, Validity, blocks};

static TEST_AUTHORITY: LazyLock<CertificateAuthority> = LazyLock::new(|| {
    CertificateAuthority::new("Test CA", Validity { not_before: day(-1000), not_after: day(5000) }).unwrap()
});

/// Ten pairs of `api.example`: `PAIRS[i]` is valid from day `10 * i` to day `10 * i + 40`, but for the last, which
/// begins with the first and outlives all.
pub(crate) static TEST_PAIRS: LazyLock<Vec<Arc<KeyPair>>> = LazyLock::new(|| {
    let mut pairs: Vec<_> = (0..9).map(|at| issue(&api_request(10 * at, 10 * at + 40))).collect();
    pairs.push(issue(&api_request(0, 400)));
    pairs
});

/// A pair of another name, valid from day 35 to day 100.
pub(crate) static OTHER_NAME_PAIR: LazyLock<Arc<KeyPair>> = LazyLock::new(|| {
    issue(&IssueRequest { common_name: "other".into(), dns: vec!["other.example".into()], ..api_request(35, 100) })
});

/// A pair of `api.example` with clientAuth usage only, valid from day 5 to day 100.
pub(crate) static CLIENT_ONLY_PAIR: LazyLock<Arc<KeyPair>> =
    LazyLock::new(|| issue(&IssueRequest { server: false, ..api_request(5, 100) }));

/// That many days after 2026-01-01.
pub(crate) fn day(days: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600).unwrap() + SignedDuration::from_hours(24 * days)
}

/// A request for `api.example`, valid on these days.
pub(crate) fn api_request(from: i64, until: i64) -> IssueRequest {
    IssueRequest {
        common_name: "api".into(),
        organization: None,
        dns: vec!["api.example".into()],
        uris: Vec::new(),
        ips: Vec::new(),
        server: true,
        client: true,
        validity: Validity { not_before: day(from), not_after: day(until) },
        key: NewKeyKind::P256,
    }
}

/// Issues the pair that a request describes.
pub(crate) fn issue(request: &IssueRequest) -> Arc<KeyPair> {
    let issued = TEST_AUTHORITY.issue(request).unwrap();
    let text = format!("{}{}", issued.chain_pem, &*issued.key_pem);
    let blocks = blocks::read(&Zeroizing::new(text.into_bytes()), None);
    KeyPair::new(blocks.certificates, Arc::clone(&blocks.keys[0]), vec!["api/tls.crt".into()]).unwrap()
}

/// The same pair, whose file asks that it wait for `promote`.
pub(crate) fn ask_to_wait(pair: &KeyPair) -> Arc<KeyPair> {
    pair.with_origin(PairOrigin { asks_to_wait: true, ..pair.origin().clone() })
}

/// The certificate of the authority that issued every pair here.
pub(crate) fn authority() -> Arc<Certificate> {
    let blocks = blocks::read(&Zeroizing::new(TEST_AUTHORITY.certificate_pem().as_bytes().to_vec()), None);
    Arc::clone(&blocks.certificates[0])
}
