//! A certificate authority for tests, and the key pairs it makes, good and broken on purpose.

use jiff::{SignedDuration, Timestamp};
use sidekey::pki::issue::{CertificateAuthority, IssueRequest, IssuedKeyPair, NewKeyKind};
use sidekey::pki::{Fingerprint, Validity, blocks};

/// The real time in whole seconds: where manual clocks begin, because peers judge by the real time.
pub fn today() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "real peers judge by the real time")]
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).expect("a date")
}

/// So many days later.
pub fn later(now: Timestamp, days: i64) -> Timestamp {
    now + SignedDuration::from_hours(24 * days)
}

/// `days` before and after `now`.
pub fn around(now: Timestamp, before_days: i64, after_days: i64) -> Validity {
    Validity {
        not_before: now - SignedDuration::from_hours(24 * before_days),
        not_after: now + SignedDuration::from_hours(24 * after_days),
    }
}

/// A CA whose certificates are dated around `now`.
pub struct Ca {
    pub authority: CertificateAuthority,
    pub now: Timestamp,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let now = today();
        Self { authority: CertificateAuthority::new(name, around(now, 3650, 3650)).expect("a CA"), now }
    }

    pub fn pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// A request that is valid from 30 days ago for 90 days.
    pub fn request(&self, name: &str) -> IssueRequest {
        IssueRequest {
            common_name: name.to_owned(),
            organization: None,
            dns: vec![name.to_owned()],
            uris: vec![],
            ips: vec![],
            server: true,
            client: true,
            validity: around(self.now, 30, 60),
            key: NewKeyKind::P256,
        }
    }

    pub fn issue(&self, request: &IssueRequest) -> IssuedKeyPair {
        self.authority.issue(request).expect("a key pair")
    }

    /// A server's pair for `localhost` and 127.0.0.1, issued `days` ago (fewer days: newer).
    pub fn server(&self, days: i64) -> IssuedKeyPair {
        let mut request = self.request("localhost");
        request.ips = vec![std::net::Ipv4Addr::LOCALHOST.into()];
        request.validity = around(self.now, days, 90 - days);
        self.issue(&request)
    }

    /// A client's pair with a SPIFFE identity, issued `days` ago.
    pub fn client(&self, name: &str, days: i64) -> IssuedKeyPair {
        let mut request = self.request(&format!("{name}.example"));
        request.uris = vec![format!("spiffe://{name}.example/app")];
        request.server = false;
        request.validity = around(self.now, days, 90 - days);
        self.issue(&request)
    }
}

/// The fingerprint of the end entity.
pub fn fingerprint(issued: &IssuedKeyPair) -> Fingerprint {
    certificate(issued).fingerprint()
}

/// The end entity.
pub fn certificate(issued: &IssuedKeyPair) -> std::sync::Arc<sidekey::pki::Certificate> {
    let bytes = zeroize(&issued.chain_pem);
    std::sync::Arc::clone(blocks::read(&bytes, None).certificates.first().expect("a certificate"))
}

fn zeroize(text: &str) -> zeroize::Zeroizing<Vec<u8>> {
    zeroize::Zeroizing::new(text.as_bytes().to_vec())
}
