//! Makes keys, certificates and certification requests: for `sidekey keyring new`, for `sidekey demo` and for tests.
//!
//! Not a CA: what it signs is a demonstration's or self-signed. Every field that rcgen would default is set here.

mod own;
mod subject;

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, RsaKeySize, SerialNumber,
};
use zeroize::Zeroizing;

use super::Validity;
pub use own::{AltNameError, CertificateTemplate, GeneratedKey, RequestedNames, request_for_key};
pub use subject::{SubjectName, SubjectParseError};

/// What kind of key to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewKeyKind {
    /// ECDSA P-256, the default.
    P256,
    /// ECDSA P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA with this many bits: 2048, 3072 or 4096.
    Rsa(u32),
}

/// What a certificate is made of.
#[derive(Clone, Debug)]
pub struct IssueRequest {
    /// Common name of the subject.
    pub common_name: String,
    /// Organization of the subject, if any.
    pub organization: Option<String>,
    /// DNS names of the SAN.
    pub dns: Vec<String>,
    /// URIs of the SAN.
    pub uris: Vec<String>,
    /// IP addresses of the SAN.
    pub ips: Vec<IpAddr>,
    /// serverAuth in the extended key usage.
    pub server: bool,
    /// clientAuth in the extended key usage. Neither: no extension.
    pub client: bool,
    /// From when to when.
    pub validity: Validity,
    /// What key to make.
    pub key: NewKeyKind,
}

/// Something made: certificate chain (end entity first, root left out) and private key, both PEM.
#[derive(Clone)]
pub struct IssuedKeyPair {
    /// The end entity and its intermediates.
    pub chain_pem: String,
    /// The private key, PKCS#8.
    pub key_pem: Zeroizing<String>,
}

/// A certificate authority for demonstrations and tests. Its key is ECDSA P-256 and never leaves memory.
pub struct CertificateAuthority {
    issuer: Issuer<'static, rcgen::KeyPair>,
    certificate_pem: String,
    /// Its own certificate and those above, without the root: what follows an end entity.
    chain_pem: String,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make {what}: {why}")]
pub struct IssueError {
    /// What was to be made.
    pub what: &'static str,
    /// The library's reason.
    pub why: String,
}

impl CertificateAuthority {
    /// A self-signed root.
    pub fn new(common_name: &str, validity: Validity) -> Result<Self, IssueError> {
        const ISSUED_ITEM: &str = "a root";
        let params = authority_params(common_name, validity, ISSUED_ITEM)?;
        let key = make_key(NewKeyKind::P256)?;
        let certificate = params.self_signed(&key).map_err(issue_error(ISSUED_ITEM))?;
        Ok(Self { issuer: Issuer::new(params, key), certificate_pem: certificate.pem(), chain_pem: String::new() })
    }

    /// An intermediate below this one.
    pub fn intermediate(&self, common_name: &str, validity: Validity) -> Result<Self, IssueError> {
        const ISSUED_ITEM: &str = "an intermediate";
        let params = authority_params(common_name, validity, ISSUED_ITEM)?;
        let key = make_key(NewKeyKind::P256)?;
        let certificate_pem = params.signed_by(&key, &self.issuer).map_err(issue_error(ISSUED_ITEM))?.pem();
        let chain_pem = format!("{certificate_pem}{}", self.chain_pem);
        Ok(Self { issuer: Issuer::new(params, key), certificate_pem, chain_pem })
    }

    /// Its own certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Makes a key and signs a certificate for it; the chain has the intermediates and not the root. RSA keys take
    /// up to half a second.
    pub fn issue(&self, request: &IssueRequest) -> Result<IssuedKeyPair, IssueError> {
        self.certify(request, &make_key(request.key)?)
    }

    /// Another certificate for a key that was issued before: a renewal that keeps the key. `request.key` is not used.
    pub fn renew(&self, request: &IssueRequest, key_pem: &str) -> Result<IssuedKeyPair, IssueError> {
        let key = rcgen::KeyPair::from_pem(key_pem).map_err(issue_error("a renewal"))?;
        self.certify(request, &key)
    }

    fn certify(&self, request: &IssueRequest, key: &rcgen::KeyPair) -> Result<IssuedKeyPair, IssueError> {
        const ISSUED_ITEM: &str = "a certificate";
        let params = end_entity_params(request, ISSUED_ITEM)?;
        let certificate = params.signed_by(key, &self.issuer).map_err(issue_error(ISSUED_ITEM))?;
        Ok(IssuedKeyPair {
            chain_pem: format!("{}{}", certificate.pem(), self.chain_pem),
            key_pem: key.serialize_pem().into(),
        })
    }
}

/// A key and a certificate that it signs itself.
pub fn self_signed(request: &IssueRequest) -> Result<IssuedKeyPair, IssueError> {
    const ISSUED_ITEM: &str = "a self-signed certificate";
    let key = make_key(request.key)?;
    let certificate = end_entity_params(request, ISSUED_ITEM)?.self_signed(&key).map_err(issue_error(ISSUED_ITEM))?;
    Ok(IssuedKeyPair { chain_pem: certificate.pem(), key_pem: key.serialize_pem().into() })
}

fn issue_error(what: &'static str) -> impl Fn(rcgen::Error) -> IssueError {
    move |error| IssueError { what, why: error.to_string() }
}

fn make_key(kind: NewKeyKind) -> Result<rcgen::KeyPair, IssueError> {
    const ISSUED_ITEM: &str = "a key";
    let key = match kind {
        NewKeyKind::P256 => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        NewKeyKind::P384 => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
        NewKeyKind::Ed25519 => rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519),
        NewKeyKind::Rsa(bits) => {
            let size = match bits {
                2048 => RsaKeySize::_2048,
                3072 => RsaKeySize::_3072,
                4096 => RsaKeySize::_4096,
                other => {
                    let why = format!("an RSA key must have 2048, 3072 or 4096 bits, not {other}");
                    return Err(IssueError { what: ISSUED_ITEM, why });
                }
            };
            rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size)
        }
    };
    key.map_err(issue_error(ISSUED_ITEM))
}

/// What every certificate here has, each field set: the library's defaults are neither random nor bounded.
fn base_params(subject: &SubjectName, validity: Validity, what: &'static str) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject.to_distinguished_name();
    params.serial_number = Some(random_serial(what)?);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(validity.not_before, what)?;
    params.not_after = epoch + since_epoch(validity.not_after, what)?;
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = KeyIdMethod::Sha256;
    Ok(params)
}

fn authority_params(
    common_name: &str,
    validity: Validity,
    what: &'static str,
) -> Result<CertificateParams, IssueError> {
    let mut params = base_params(&SubjectName::common_name(common_name), validity, what)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn end_entity_params(request: &IssueRequest, what: &'static str) -> Result<CertificateParams, IssueError> {
    let wanted = CertificateTemplate {
        subject: SubjectName::common_name(&request.common_name).with_organization(request.organization.as_deref()),
        names: RequestedNames { dns: request.dns.clone(), uris: request.uris.clone(), ips: request.ips.clone() },
        server: request.server,
        client: request.client,
    };
    wanted.params(request.validity, what)
}

/// 126 random bits, always positive and always as long (RFC 5280 4.1.2.2).
fn random_serial(what: &'static str) -> Result<SerialNumber, IssueError> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial)
        .map_err(|_| IssueError { what, why: "the system returned no random bytes".to_owned() })?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&serial))
}

fn since_epoch(time: Timestamp, what: &'static str) -> Result<Duration, IssueError> {
    u64::try_from(time.as_second())
        .map(Duration::from_secs)
        .map_err(|_| IssueError { what, why: format!("the validity reaches before 1970 ({time})") })
}

#[cfg(test)]
mod tests;
