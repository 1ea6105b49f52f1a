//! One X.509 certificate and the facts read from its own bytes (RFC 5280).
//!
//! Everything above asks this type instead of a parser, so that "subject" or "names" mean the same in a log line, a
//! header and a rule. It judges nothing: expiry, strength and usage are weighed in `keyring::fit` and `trust`.

mod algorithm;
mod facts;
mod request;
mod revocations;
mod signature;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use super::pem_writer::write_pem;
use super::{Fingerprint, SpkiHash, Validity, der};
use facts::CertificateFacts;
pub use facts::{ExtendedKeyUsage, KeyKind};
pub use request::CertificationRequest;
pub use revocations::CrlSummary;

/// A certificate whose DER parsed whole, without trailing bytes.
pub struct Certificate {
    der: CertificateDer<'static>,
    facts: CertificateFacts,
}

/// DER that is not a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate: {why}")]
pub struct CertificateParseError {
    /// The parser's reason, printable.
    pub why: String,
}

/// A name in DER, as a CertificateRequest lists it, as printable text.
pub fn name_text(der: &[u8]) -> String {
    facts::name_from_der(der)
}

impl Certificate {
    /// Parses DER; bytes after the certificate are an error.
    pub fn parse(der: CertificateDer<'static>) -> Result<Arc<Self>, CertificateParseError> {
        let facts = CertificateFacts::read(&der).map_err(|why| CertificateParseError { why })?;
        Ok(Arc::new(Self { der, facts }))
    }
    /// The bytes as they came.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }
    /// SHA-256 of the DER.
    pub fn fingerprint(&self) -> Fingerprint {
        self.facts.fingerprint
    }
    /// The SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> &[u8] {
        &self.facts.spki
    }
    /// The public key alone: the content of the SubjectPublicKeyInfo's BIT STRING (RFC 5280 4.1). A point for ECDSA, 32 bytes
    /// for Ed25519, an RSAPublicKey (RFC 8017 A.1.1) for RSA.
    pub fn public_key(&self) -> &[u8] {
        let outer = der::element(&self.facts.spki).map_or(&[][..], |(outer, _)| outer.content);
        let bits = der::elements(outer).nth(1).map_or(&[][..], |bits| bits.content);
        bits.get(1..).unwrap_or_default()
    }
    /// The public modulus and exponent of an RSA key, big-endian without leading zeros; `None` for other keys.
    pub fn rsa_public_key(&self) -> Option<(&[u8], &[u8])> {
        let KeyKind::Rsa(_) = self.key() else { return None };
        let (outer, _) = der::element(self.public_key())?;
        let mut parts = der::elements(outer.content).map(|part| der::trim_leading_zeros(part.content));
        Some((parts.next()?, parts.next()?))
    }
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn spki_hash(&self) -> SpkiHash {
        self.facts.spki_hash
    }
    /// The certificate as one PEM block.
    pub fn pem(&self) -> String {
        let mut out = String::new();
        write_pem("CERTIFICATE", &self.der, &mut out);
        out
    }
    /// Whether `issuer` issued this one: the names match, and the signature is the issuer's. Where the signature's
    /// algorithm cannot be checked (SHA-1 and older), the names decide.
    pub fn is_issued_by(&self, issuer: &Certificate) -> bool {
        self.facts.issuer_der == issuer.facts.subject_der && signature::may_be_signed_by(&self.der, &issuer.facts.spki)
    }
    /// The subject as printable text, RFC 4514 order as x509 tools show it (`CN=…, O=…`); may be empty.
    pub fn subject(&self) -> &str {
        &self.facts.subject
    }
    /// The subject's DER, for comparing names.
    pub fn subject_der(&self) -> &[u8] {
        &self.facts.subject_der
    }
    /// The issuer as printable text.
    pub fn issuer(&self) -> &str {
        &self.facts.issuer
    }
    /// The issuer's DER, for comparing names.
    pub fn issuer_der(&self) -> &[u8] {
        &self.facts.issuer_der
    }
    /// The serial number, lower-case hex without separators.
    pub fn serial(&self) -> &str {
        &self.facts.serial
    }
    /// The validity; ends beyond what [`jiff::Timestamp`] can hold are clamped.
    pub fn validity(&self) -> Validity {
        self.facts.validity
    }
    /// The first common name of the subject, printable. Never used to check a server's name (RFC 9525).
    pub fn common_name(&self) -> Option<&str> {
        self.facts.common_name.as_deref()
    }
    /// The organizations of the subject, printable.
    pub fn organizations(&self) -> &[String] {
        &self.facts.organizations
    }
    /// The organizational units of the subject, printable.
    pub fn units(&self) -> &[String] {
        &self.facts.units
    }
    /// DNS names of the SAN, lower case, printable.
    pub fn dns_names(&self) -> &[String] {
        &self.facts.dns
    }
    /// URIs of the SAN, printable.
    pub fn uris(&self) -> &[String] {
        &self.facts.uris
    }
    /// E-mail addresses of the SAN, printable.
    pub fn emails(&self) -> &[String] {
        &self.facts.emails
    }
    /// IP addresses of the SAN.
    pub fn ips(&self) -> &[IpAddr] {
        &self.facts.ips
    }
    /// Names of every kind that the SAN holds, printable: DNS, URI, IP, e-mail.
    pub fn subject_alt_names(&self) -> Vec<String> {
        let texts = self.dns_names().iter().chain(self.uris()).cloned();
        texts.chain(self.ips().iter().map(ToString::to_string)).chain(self.emails().iter().cloned()).collect()
    }
    /// Whether basicConstraints says CA:TRUE.
    pub fn is_ca(&self) -> bool {
        self.facts.is_ca
    }
    /// Whether subject and issuer are the same name.
    pub fn is_self_issued(&self) -> bool {
        self.facts.subject_der == self.facts.issuer_der
    }
    /// What its extended key usage allows.
    pub fn usage(&self) -> ExtendedKeyUsage {
        self.facts.usage
    }
    /// The kind of its public key.
    pub fn key(&self) -> KeyKind {
        self.facts.key
    }
    /// The version of X.509: 1, 2 or 3.
    pub fn version(&self) -> u32 {
        self.facts.version
    }
    /// Why its key alone is too weak (RSA under 2048 bits), if it is.
    pub fn key_weakness(&self) -> Option<String> {
        facts::key_weakness(self.facts.key)
    }
    /// The algorithm of its signature, by its name in the RFCs; as a dotted object identifier where it has none here.
    pub fn signature_algorithm(&self) -> &str {
        &self.facts.signature
    }
    /// The identifier of its issuer's key (RFC 5280 4.2.1.1), if it names it.
    pub fn authority_key(&self) -> Option<&[u8]> {
        self.facts.authority_key.as_deref()
    }
    /// Why it is too weak to serve or to vouch (RSA under 2048 bits, an MD5 or SHA-1 signature, X.509 v1), if so.
    /// The signature of a self-issued certificate is not counted: no peer relies on it.
    pub fn weakness(&self) -> Option<&str> {
        self.facts.weakness.as_deref()
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Certificate({}, {:?})", self.facts.subject, self.facts.fingerprint)
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.facts.fingerprint == other.facts.fingerprint
    }
}
impl Eq for Certificate {}
