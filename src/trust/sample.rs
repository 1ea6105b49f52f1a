//! Certificates, broken on purpose where a test wants it, and trusts to verify them with. Tests only.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::crl::Crl;
use super::verify::AcceptedAnchor;
use super::{Pin, Trust, TrustSettings};
use crate::pki::der::{BIT_STRING, CONTEXT_0, elements, header, sequence};
use crate::pki::{Certificate, KeyPair, PrivateKey};

/// The time of all tests: 2026-11-25T00:00:00Z.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_795_564_800).unwrap()
}

/// So many days after (before) [`now`].
pub(crate) fn days_from_now(days: i64) -> Timestamp {
    now() + jiff::SignedDuration::from_hours(24 * days)
}

/// An issued certificate: its chain and key.
pub(crate) struct IssuedIdentity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Vec<u8>,
}

impl IssuedIdentity {
    pub(crate) fn certificate(&self) -> Arc<Certificate> {
        Certificate::parse(self.chain[0].clone()).unwrap()
    }
    pub(crate) fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }
    pub(crate) fn pair(&self) -> Arc<KeyPair> {
        let chain = self.chain.iter().map(|der| Certificate::parse(der.clone()).unwrap()).collect();
        KeyPair::new(chain, PrivateKey::from_der(self.key_der()).unwrap(), Vec::new()).unwrap()
    }
    pub(crate) fn pin(&self) -> Pin {
        Pin { spki: self.certificate().spki_hash(), until: None }
    }
}

/// A certificate authority.
pub(crate) struct TestAuthority {
    issuer: Issuer<'static, rcgen::KeyPair>,
    der: CertificateDer<'static>,
    above: Vec<CertificateDer<'static>>,
}

/// What a test changes about a certificate.
pub(crate) type ParamsChange<'a> = &'a dyn Fn(&mut CertificateParams);

fn base_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2027, 1, 1);
    params.key_identifier_method = KeyIdMethod::Sha256;
    params
}

fn ca_params(name: &str, change: ParamsChange<'_>) -> CertificateParams {
    let mut params = base_params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut params);
    params
}

/// A peer's certificate: `name` as a DNS SAN, clientAuth and serverAuth.
pub(crate) fn peer_params(name: &str, change: ParamsChange<'_>) -> CertificateParams {
    let mut params = base_params(name);
    params.subject_alt_names = vec![rcgen::SanType::DnsName(name.try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.is_ca = IsCa::ExplicitNoCa;
    change(&mut params);
    params
}

pub(crate) fn generate_key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

impl TestAuthority {
    pub(crate) fn new(name: &str) -> Self {
        Self::with_params(name, &|_| ())
    }
    pub(crate) fn with_params(name: &str, change: ParamsChange<'_>) -> Self {
        let (params, key) = (ca_params(name, change), generate_key());
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), der, above: Vec::new() }
    }
    pub(crate) fn issue_intermediate(&self, name: &str, change: ParamsChange<'_>) -> Self {
        let (params, key) = (ca_params(name, change), generate_key());
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let mut above = vec![der.clone()];
        above.extend(self.above.iter().cloned());
        Self { issuer: Issuer::new(params, key), der, above }
    }
    pub(crate) fn certificate(&self) -> Arc<Certificate> {
        Certificate::parse(self.der.clone()).unwrap()
    }
    /// A peer with this name.
    pub(crate) fn issue_peer(&self, name: &str, change: ParamsChange<'_>) -> IssuedIdentity {
        self.issue_peer_with_key(name, &generate_key(), change)
    }
    pub(crate) fn issue_peer_with_key(
        &self,
        name: &str,
        key: &rcgen::KeyPair,
        change: ParamsChange<'_>,
    ) -> IssuedIdentity {
        let der = peer_params(name, change).signed_by(key, &self.issuer).unwrap().der().clone();
        let mut chain = vec![der];
        chain.extend(self.above.iter().cloned());
        IssuedIdentity { chain, key: key.serialize_der() }
    }
    /// A CRL with these serial numbers, made a day ago and due in so many days.
    pub(crate) fn issue_crl(&self, revoked: &[u64], due: i64) -> CertificateRevocationListDer<'static> {
        self.issue_crl_for(None, revoked, due)
    }
    /// The same for one distribution point (RFC 5280 5.2.5), end entities only.
    pub(crate) fn issue_crl_for(
        &self,
        point: Option<&str>,
        revoked: &[u64],
        due: i64,
    ) -> CertificateRevocationListDer<'static> {
        let at = |day: Timestamp| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(day.as_second() as u64);
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: at(days_from_now(-3)),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: at(days_from_now(-2)),
            next_update: at(days_from_now(due)),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: point.map(|uri| rcgen::CrlIssuingDistributionPoint {
                distribution_point: rcgen::CrlDistributionPoint { uris: vec![uri.to_owned()] },
                scope: Some(rcgen::CrlScope::UserCertsOnly),
            }),
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().clone()
    }
}

impl TestAuthority {
    /// A CRL with or without version 2, the next update and extensions: as `openssl ca -gencrl` makes it without
    /// `crl_extensions`.
    pub(crate) fn issue_bare_crl(
        &self,
        revoked: &[u64],
        (version_2, next_update, extensions): (bool, bool, bool),
    ) -> CertificateRevocationListDer<'static> {
        let whole = self.issue_crl(revoked, 30);
        let whole = elements(&whole).next().unwrap().content;
        let [tbs, algorithm, _] = elements(whole).collect::<Vec<_>>().try_into().ok().unwrap();
        // Version, algorithm, issuer, this update, next update, where it revokes the list, extensions.
        let parts: Vec<_> = elements(tbs.content).collect();
        let kept = parts.iter().enumerate().filter(|(index, part)| match (index, part.tag) {
            (0, _) => version_2,
            (4, _) => next_update,
            (_, CONTEXT_0) => extensions,
            _ => true,
        });
        let kept: Vec<&[u8]> = kept.map(|(_, part)| part.whole).collect();
        let tbs = sequence(&kept);
        let signature = rcgen::SigningKey::sign(self.issuer.key(), &tbs).unwrap();
        let mut bits = header(BIT_STRING, signature.len() + 1);
        bits.push(0);
        bits.extend(signature);
        CertificateRevocationListDer::from(sequence(&[&tbs, algorithm.whole, &bits]).to_vec())
    }
}

/// A peer that signs itself.
pub(crate) fn self_signed(name: &str, change: ParamsChange<'_>) -> IssuedIdentity {
    let key = generate_key();
    let der = peer_params(name, change).self_signed(&key).unwrap().der().clone();
    IssuedIdentity { chain: vec![der], key: key.serialize_der() }
}

/// A trust named `partners`.
pub(crate) fn settings(change: &dyn Fn(&mut TrustSettings)) -> TrustSettings {
    let mut settings = TrustSettings::with_anchors("partners".into(), Vec::new());
    change(&mut settings);
    settings
}

/// A trust with these anchors, no CRLs and no further settings.
pub(crate) fn trust(anchors: &[&TestAuthority]) -> Arc<Trust> {
    Arc::new(trust_with(&|_| (), anchors, &[]))
}

pub(crate) fn trust_with(
    change: &dyn Fn(&mut TrustSettings),
    anchors: &[&TestAuthority],
    crls: &[CertificateRevocationListDer<'static>],
) -> Trust {
    let anchors = anchors
        .iter()
        .map(|ca| AcceptedAnchor { certificate: ca.certificate(), until: None, platform: false })
        .collect();
    let crls = crls.iter().map(|der| Arc::new(Crl::parse(der.clone()).unwrap())).collect();
    Trust::new(settings(change), anchors, crls)
}

/// A certificate with an RSA key of 1024 bits, which rcgen cannot make; signed by itself, valid until 2036.
pub(crate) fn weak_certificate() -> CertificateDer<'static> {
    use rustls_pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(WEAK_CERTIFICATE.as_bytes()).unwrap()
}

/// An X.509 v1 certificate, which rcgen cannot make: a root of old, signed by itself, valid until 2036; and what it issued
/// in version 3 to `a.test`.
pub(crate) fn version_1_certificates() -> [CertificateDer<'static>; 2] {
    use rustls_pki_types::pem::PemObject as _;
    [V1_ROOT, ISSUED_BY_V1_ROOT].map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
}

/// A root with an RSASSA-PSS key, which rcgen cannot make, valid until 2036; and what it issued to `a.test`.
pub(crate) fn pss_certificates() -> [CertificateDer<'static>; 2] {
    use rustls_pki_types::pem::PemObject as _;
    [PSS_ROOT, ISSUED_BY_PSS_ROOT].map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
}

/// A trust of these settings with this anchor.
pub(crate) fn trust_with_anchor(change: &dyn Fn(&mut TrustSettings), anchor: &CertificateDer<'static>) -> Trust {
    let certificate = Certificate::parse(anchor.clone()).unwrap();
    Trust::new(settings(change), vec![AcceptedAnchor { certificate, until: None, platform: false }], Vec::new())
}

const PSS_ROOT: &str = "-----BEGIN CERTIFICATE-----
MIIDbzCCAiKgAwIBAgIUHWfBFHc8JgUAj/r3iOCSrRmACdYwQgYJKoZIhvcNAQEK
MDWgDzANBglghkgBZQMEAgEFAKEcMBoGCSqGSIb3DQEBCDANBglghkgBZQMEAgEF
AKIEAgIA3jATMREwDwYDVQQDDAhQU1MgUm9vdDAeFw0yNjExMjkwNjI4MDRaFw0z
NjExMjYwNjI4MDRaMBMxETAPBgNVBAMMCFBTUyBSb290MIIBIDALBgkqhkiG9w0B
AQoDggEPADCCAQoCggEBANwraKW1Xm+MMtHKMwzGQEISWY3d7nZeaFf71dFt+NqI
cSonxsVYS8x9JykBgZ0EMWGXBCr8F6dBP55QHQUfEL9zv8NvauI982g78QBlo39F
f3r3liwVU0lrdrnm7owm+TVfM0TALLGyjjAvF7C2ZAgFcvAMFYdIiJ2oo7R+fk0t
zTI0loQXiYSzIOtvC6sQqxcaUk1S4uYtApEgXxu+Me8s+eJiBae01bIKp/Faj8Yr
bshyZqrYx8OvNsLaIgxVowlA7WPpeeYrlfdqsMyNAI2LwZ2lkYMm/CEPwq13BTYH
NifWj8T+HjHUZ+V8WWy3TVCSJ0OSmo9ZmZsmrCx6mkUCAwEAAaNTMFEwHQYDVR0O
BBYEFM7PmIdJo7WuKaomDkRX4xxzEaBAMB8GA1UdIwQYMBaAFM7PmIdJo7WuKaom
DkRX4xxzEaBAMA8GA1UdEwEB/wQFMAMBAf8wQgYJKoZIhvcNAQEKMDWgDzANBglg
hkgBZQMEAgEFAKEcMBoGCSqGSIb3DQEBCDANBglghkgBZQMEAgEFAKIEAgIA3gOC
AQEAixKPNs7nGRkTLQgCiBNrxqcUbUjQW9km9aneQ+ScGl1hwbhm+PGvFoFIegny
M7lPO6kK84UbY2HPllv6bdSUGN9hXXoXRFN06NnTBy2/8ijr/aO3WXDK45o8laL8
k3j2VhXEfo/1Eyo1y5seUfrIdLQE1paI7Q6kML95+NXN1OJya+Q315OwPX/VB7wz
QMlPDbTnW4aQv45VCZxfytAn+mKdnPjXX7K6j565Lcv4vQAy6vFW0+rxCg6qG1lQ
bH+BdGs6o0FerIQ1+wt2HRbGukKEQlPur9EpcmrIP4Lw5ILrygzNqeMowT3HD90x
J3EBztr410BHI6kCRc0p0rvdNQ==
-----END CERTIFICATE-----
";
const ISSUED_BY_PSS_ROOT: &str = "-----BEGIN CERTIFICATE-----
MIICpDCCAVegAwIBAgIUXUlUzYcntH+MzQFh/QTQiSnRaokwQgYJKoZIhvcNAQEK
MDWgDzANBglghkgBZQMEAgEFAKEcMBoGCSqGSIb3DQEBCDANBglghkgBZQMEAgEF
AKIEAgIA3jATMREwDwYDVQQDDAhQU1MgUm9vdDAeFw0yNjExMjkwNjI4MDRaFw0z
NjEwMDcwNjI4MDRaMA8xDTALBgNVBAMMBHBlZXIwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASw50U+RcijoyJrA+rUT6X4ZPrx/ovLhzDJsZbjElmyADIXX2r2qZPu
etFEM/K2yKlBPO3/TIVq8tiBrCbli66Fo1UwUzARBgNVHREECjAIggZhLnRlc3Qw
HQYDVR0OBBYEFA2inN7fzQQFfq77EiDg6uZmtkKSMB8GA1UdIwQYMBaAFM7PmIdJ
o7WuKaomDkRX4xxzEaBAMEIGCSqGSIb3DQEBCjA1oA8wDQYJYIZIAWUDBAIBBQCh
HDAaBgkqhkiG9w0BAQgwDQYJYIZIAWUDBAIBBQCiBAICAN4DggEBADDtWKFBniDI
dT9Rcu4QAAugvhqWn/Fa1r8wrbc1KIbo9+NTdOa3fYgJF16ypRSUoGR18WZRhSit
+0XQ2O3JlzYry3fRTFefDuvTUf6mgT1ugXwZ/vBHA8DOFVviuz/KULcOqm4NFTI1
RLKp7uC/uD85dgHdA/x6CSE3+ooC2axWjxrlTzH3JprRl4/7JLZNl0Y7ZgI3apGb
eWd26GNlVb2KD0b+hLWdT9CyhR1iBAc9qmVNGOI4TLP69vC8T69KT7rRRMvnKO3/
RQFoS4r9hkYRPCIqWu8hobzK6LAdTaGJSGcmsrjVB72IcEjrsiCetqQF54CPLBmi
X11+RXVGasE=
-----END CERTIFICATE-----
";

const V1_ROOT: &str = "-----BEGIN CERTIFICATE-----
MIIBHzCBxwIUPDreqZO87S7xydrnsF3Y7W9iOj4wCgYIKoZIzj0EAwIwEzERMA8G
A1UEAwwIT2xkIFJvb3QwHhcNMjYxMTI4MDY1ODU1WhcNMzYxMTI1MDY1ODU1WjAT
MREwDwYDVQQDDAhPbGQgUm9vdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABGtb
GpD7WoXTXzUG8TTTjPJG9BgJDdyAJzKX19dqcDBgWZWIpG0t5OX9oc5Jfev1jeew
4NOQY7BlQn5QL/oNd4swCgYIKoZIzj0EAwIDRwAwRAIgQnt0NNTDRurLzDCxQFGA
QiGHkhdzQYq7t0+a8nTuD3MCIGR9RS6Fg96Fwu94jcJQ/9mwhLv7n9KaksucG5+m
NPou
-----END CERTIFICATE-----
";
const ISSUED_BY_V1_ROOT: &str = "-----BEGIN CERTIFICATE-----
MIIBfzCCASWgAwIBAgIBTTAKBggqhkjOPQQDAjATMREwDwYDVQQDDAhPbGQgUm9v
dDAeFw0yNjExMjgwNjU4NTVaFw0zNjExMjQwNjU4NTVaMA8xDTALBgNVBAMMBHBl
ZXIwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARl0bh0Th4ZSdgwvfUDyxU551Jr
ubGvnSLE9lnlIZNkxVEHcwRdfkNAUBBlzINI9Q0+PcUI5/uU0tAx+RfL/d8Po24w
bDARBgNVHREECjAIggZhLnRlc3QwHQYDVR0OBBYEFGBJslcfe41cJweUcjmE4sk2
Y82GMDgGA1UdIwQxMC+hF6QVMBMxETAPBgNVBAMMCE9sZCBSb290ghQ8Ot6pk7zt
LvHJ2uewXdjtb2I6PjAKBggqhkjOPQQDAgNIADBFAiEA3pODqgc4rEsF8pdIqdhE
mnj/nCgYVD69bo5RIEwraAgCIFmLj1f2hP5tronDmh9eLLhuAEaxY+OMCsvGHJqX
AR80
-----END CERTIFICATE-----
";

const WEAK_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIICBDCCAW2gAwIBAgIUKChXclXb6G0Y/QiDaXW1oE2w4SQwDQYJKoZIhvcNAQELBQAwFDESMBAGA1UEAwwJd2Vhay50ZXN0MB4X
DTI2MTEyNTEwNDMzMVoXDTM2MTEyMjEwNDMzMVowFDESMBAGA1UEAwwJd2Vhay50ZXN0MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCB
iQKBgQCtUPgzB74xON2Dh6oQ6Sh+iWR1/mlPYrXT5NC/UEqKrJG3Y03t4tz42XvDQDXxOwyDMUSRRe5gIsLE5fOcZ/gnD99gWaKe
lvdvv4fguq+Rcz51Rd0zIAKOOTGX5KcB3QeMeyyL8aX49Y4eFQfGdJhst/GGHlDE0PkQ2x5Era/lPwIDAQABo1MwUTAdBgNVHQ4E
FgQURjotzdjRmZyoZMNPYJVUAhbsnAcwHwYDVR0jBBgwFoAURjotzdjRmZyoZMNPYJVUAhbsnAcwDwYDVR0TAQH/BAUwAwEB/zAN
BgkqhkiG9w0BAQsFAAOBgQBGBGTtaXlKC6VWi1R1/OsLBVkt77jNhnk0/f325E3s94rYyR4LJjB9SDazORQsJW+23uMJh9u5XOh9
S4EIG4J1xgrwpbOgFQLU9oO9CrSkH5jqw+xHHIelyMnd9YbFdgQUCiLSu6XfQbS/WZ3OK13+q0Ki66yH9nid08jvSdknZA==
-----END CERTIFICATE-----
";
