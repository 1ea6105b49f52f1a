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
pub use own::{Names, NotAName, OwnKey, Wanted, request};
pub use subject::{NotASubject, Subject};

/// What kind of key to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewKey {
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
pub struct Request {
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
    pub key: NewKey,
}

/// Something made: certificate chain (end entity first, root left out) and private key, both PEM.
#[derive(Clone)]
pub struct Issued {
    /// The end entity and its intermediates.
    pub chain_pem: String,
    /// The private key, PKCS#8.
    pub key_pem: Zeroizing<String>,
}

/// A certificate authority for demonstrations and tests. Its key is ECDSA P-256 and never leaves memory.
pub struct Authority {
    issuer: Issuer<'static, rcgen::KeyPair>,
    certificate_pem: String,
    /// Its own certificate and those above, without the root: what follows an end entity.
    chain_pem: String,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make {what}: {why}")]
pub struct CannotIssue {
    /// What was to be made.
    pub what: &'static str,
    /// The library's reason.
    pub why: String,
}

impl Authority {
    /// A self-signed root.
    pub fn new(common_name: &str, validity: Validity) -> Result<Self, CannotIssue> {
        const WHAT: &str = "a root";
        let params = authority_params(common_name, validity, WHAT)?;
        let key = make_key(NewKey::P256)?;
        let certificate = params.self_signed(&key).map_err(cannot(WHAT))?;
        Ok(Self { issuer: Issuer::new(params, key), certificate_pem: certificate.pem(), chain_pem: String::new() })
    }

    /// An intermediate below this one.
    pub fn intermediate(&self, common_name: &str, validity: Validity) -> Result<Self, CannotIssue> {
        const WHAT: &str = "an intermediate";
        let params = authority_params(common_name, validity, WHAT)?;
        let key = make_key(NewKey::P256)?;
        let certificate_pem = params.signed_by(&key, &self.issuer).map_err(cannot(WHAT))?.pem();
        let chain_pem = format!("{certificate_pem}{}", self.chain_pem);
        Ok(Self { issuer: Issuer::new(params, key), certificate_pem, chain_pem })
    }

    /// Its own certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Makes a key and signs a certificate for it; the chain has the intermediates and not the root. RSA keys take
    /// up to half a second.
    pub fn issue(&self, request: &Request) -> Result<Issued, CannotIssue> {
        self.certify(request, &make_key(request.key)?)
    }

    /// Another certificate for a key that was issued before: a renewal that keeps the key. `request.key` is not used.
    pub fn renew(&self, request: &Request, key_pem: &str) -> Result<Issued, CannotIssue> {
        let key = rcgen::KeyPair::from_pem(key_pem).map_err(cannot("a renewal"))?;
        self.certify(request, &key)
    }

    fn certify(&self, request: &Request, key: &rcgen::KeyPair) -> Result<Issued, CannotIssue> {
        const WHAT: &str = "a certificate";
        let params = end_entity_params(request, WHAT)?;
        let certificate = params.signed_by(key, &self.issuer).map_err(cannot(WHAT))?;
        Ok(Issued {
            chain_pem: format!("{}{}", certificate.pem(), self.chain_pem),
            key_pem: key.serialize_pem().into(),
        })
    }
}

/// A key and a certificate that it signs itself.
pub fn self_signed(request: &Request) -> Result<Issued, CannotIssue> {
    const WHAT: &str = "a self-signed certificate";
    let key = make_key(request.key)?;
    let certificate = end_entity_params(request, WHAT)?.self_signed(&key).map_err(cannot(WHAT))?;
    Ok(Issued { chain_pem: certificate.pem(), key_pem: key.serialize_pem().into() })
}

fn cannot(what: &'static str) -> impl Fn(rcgen::Error) -> CannotIssue {
    move |error| CannotIssue { what, why: error.to_string() }
}

fn make_key(kind: NewKey) -> Result<rcgen::KeyPair, CannotIssue> {
    const WHAT: &str = "a key";
    let key = match kind {
        NewKey::P256 => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        NewKey::P384 => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
        NewKey::Ed25519 => rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519),
        NewKey::Rsa(bits) => {
            let size = match bits {
                2048 => RsaKeySize::_2048,
                3072 => RsaKeySize::_3072,
                4096 => RsaKeySize::_4096,
                other => {
                    let why = format!("an RSA key must have 2048, 3072 or 4096 bits, not {other}");
                    return Err(CannotIssue { what: WHAT, why });
                }
            };
            rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size)
        }
    };
    key.map_err(cannot(WHAT))
}

/// What every certificate here has, each field set: the library's defaults are neither random nor bounded.
fn params(subject: &Subject, validity: Validity, what: &'static str) -> Result<CertificateParams, CannotIssue> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject.name();
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
) -> Result<CertificateParams, CannotIssue> {
    let mut params = params(&Subject::common_name(common_name), validity, what)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn end_entity_params(request: &Request, what: &'static str) -> Result<CertificateParams, CannotIssue> {
    let wanted = Wanted {
        subject: Subject::common_name(&request.common_name).with_organization(request.organization.as_deref()),
        names: Names { dns: request.dns.clone(), uris: request.uris.clone(), ips: request.ips.clone() },
        server: request.server,
        client: request.client,
    };
    wanted.params(request.validity, what)
}

/// 126 random bits, always positive and always as long (RFC 5280 4.1.2.2).
fn random_serial(what: &'static str) -> Result<SerialNumber, CannotIssue> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial)
        .map_err(|_| CannotIssue { what, why: "the system returned no random bytes".to_owned() })?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&serial))
}

fn since_epoch(time: Timestamp, what: &'static str) -> Result<Duration, CannotIssue> {
    u64::try_from(time.as_second())
        .map(Duration::from_secs)
        .map_err(|_| CannotIssue { what, why: format!("the validity reaches before 1970 ({time})") })
}

#[cfg(test)]
mod tests;
