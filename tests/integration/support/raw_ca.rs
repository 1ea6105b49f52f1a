//! A certificate authority that makes whatever it is told, and revokes it: for what no sensible one would issue.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use sidekey::pki::issue::IssuedKeyPair;

use super::ca::{later, today};

/// What a test changes about a certificate.
pub type Change<'a> = &'a dyn Fn(&mut CertificateParams);

/// The authority.
pub struct RawCa {
    issuer: Issuer<'static, rcgen::KeyPair>,
    pub pem: String,
    /// Its certificate and those above, without the root.
    chain: String,
}

/// A time as rcgen takes it: its type is of a crate that we do not name.
macro_rules! date {
    ($at:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from($at.as_second()).expect("after 1970"))
    };
}

/// Makes a certificate end then.
pub fn ends(params: &mut CertificateParams, at: Timestamp) {
    params.not_after = date!(at);
}

/// Makes a certificate begin then.
pub fn begins(params: &mut CertificateParams, at: Timestamp) {
    params.not_before = date!(at);
}

fn params(name: &str, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    begins(&mut params, later(today(), -30));
    ends(&mut params, later(today(), days));
    params.key_identifier_method = KeyIdMethod::Sha256;
    params
}

fn authority(name: &str, change: Change<'_>) -> CertificateParams {
    let mut params = params(name, 3650);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut params);
    params
}

fn end_entity(name: &str, change: Change<'_>) -> CertificateParams {
    let mut params = params(name, 60);
    params.is_ca = IsCa::ExplicitNoCa;
    params.subject_alt_names = vec![SanType::DnsName(name.try_into().expect("a name"))];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    change(&mut params);
    params
}

pub fn key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key")
}

impl RawCa {
    pub fn new(name: &str) -> Self {
        Self::with(name, &|_| ())
    }

    pub fn with(name: &str, change: Change<'_>) -> Self {
        Self::keyed(name, key(), change)
    }

    /// With this key: another certificate of the same authority, or another authority of the same name.
    pub fn keyed(name: &str, key: rcgen::KeyPair, change: Change<'_>) -> Self {
        let params = authority(name, change);
        let pem = params.self_signed(&key).expect("a root").pem();
        Self { issuer: Issuer::new(params, key), pem, chain: String::new() }
    }

    /// An intermediate below it.
    pub fn below(&self, name: &str, change: Change<'_>) -> Self {
        let (params, key) = (authority(name, change), key());
        let pem = params.signed_by(&key, &self.issuer).expect("an intermediate").pem();
        let chain = format!("{pem}{}", self.chain);
        Self { issuer: Issuer::new(params, key), pem, chain }
    }

    /// A pair for this DNS name, for both roles.
    pub fn issue(&self, name: &str, change: Change<'_>) -> IssuedKeyPair {
        self.issue_for(&key(), name, change)
    }

    /// The same for a key that is there.
    pub fn issue_for(&self, key: &rcgen::KeyPair, name: &str, change: Change<'_>) -> IssuedKeyPair {
        let certificate = end_entity(name, change).signed_by(key, &self.issuer).expect("a certificate");
        IssuedKeyPair { chain_pem: format!("{}{}", certificate.pem(), self.chain), key_pem: key.serialize_pem().into() }
    }

    /// A CRL with these serial numbers, due in so many days.
    pub fn crl(&self, revoked: &[u64], due: i64) -> String {
        let now = today();
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date!(now - SignedDuration::from_hours(2)),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date!(now - SignedDuration::from_hours(1)),
            next_update: date!(later(now, due)),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a CRL").pem().expect("PEM")
    }
}

/// A pair that signs itself.
pub fn self_signed(name: &str, change: Change<'_>) -> IssuedKeyPair {
    let key = key();
    let certificate = end_entity(name, change).self_signed(&key).expect("a certificate");
    IssuedKeyPair { chain_pem: certificate.pem(), key_pem: key.serialize_pem().into() }
}

/// The pin of its end entity, as the configuration takes it.
pub fn pin(issued: &IssuedKeyPair) -> String {
    let bytes = zeroize::Zeroizing::new(issued.chain_pem.as_bytes().to_vec());
    sidekey::pki::blocks::read(&bytes, None).certificates.first().expect("a certificate").spki_hash().to_string()
}
