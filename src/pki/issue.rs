//! Makes keys, certificates and certification requests: for `sidekey demo`, for tests, and later for `keyring new`.
//!
//! Not a CA: what it signs is a demonstration's or self-signed. Every field that rcgen would default is set here.

use std::net::IpAddr;

use zeroize::Zeroizing;

use super::Validity;

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

/// A certificate authority for demonstrations and tests.
pub struct Authority {
    _todo: (),
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
        let _ = (common_name, validity);
        todo!()
    }
    /// An intermediate below this one.
    pub fn intermediate(&self, common_name: &str, validity: Validity) -> Result<Self, CannotIssue> {
        let _ = (common_name, validity);
        todo!()
    }
    /// Its own certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        todo!()
    }
    /// Makes a key and signs a certificate for it; the chain has the intermediates and not the root.
    pub fn issue(&self, request: &Request) -> Result<Issued, CannotIssue> {
        let _ = request;
        todo!()
    }
}

/// A key and a certificate that it signs itself.
pub fn self_signed(request: &Request) -> Result<Issued, CannotIssue> {
    let _ = request;
    todo!()
}
