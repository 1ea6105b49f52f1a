//! A key of one's own, and what is asked for it: a certificate that it signs itself, or a request for one (PKCS#10, RFC 2986).
//! What `sidekey keyring new` and `csr` make.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls_pki_types::PrivateKeyDer;

use super::{IssueError, NewKeyKind, SubjectName, base_params, issue_error, make_key};
use crate::pki::{PrivateKey, SpkiHash, Validity};

/// The names of a SAN, each checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestedNames {
    /// DNS names, lower case; `*` as the whole first label allowed.
    pub dns: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
}

/// What a certificate is to say.
#[derive(Clone, Debug)]
pub struct CertificateTemplate {
    /// The subject; may be empty where there are names.
    pub subject: SubjectName,
    /// The names of the SAN.
    pub names: RequestedNames,
    /// serverAuth in the extended key usage.
    pub server: bool,
    /// clientAuth in the extended key usage. Neither: no extension.
    pub client: bool,
}

/// A name that a certificate may not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a valid {kind} name for a certificate: {why}")]
pub struct AltNameError {
    name: String,
    kind: &'static str,
    why: &'static str,
}

impl RequestedNames {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.uris.is_empty() && self.ips.is_empty()
    }

    /// Adds a DNS name (RFC 5280 4.2.1.6; RFC 9525 6.3 for the wildcard).
    pub fn add_dns(&mut self, name: &str) -> Result<(), AltNameError> {
        let refuse = |why| AltNameError { name: name.to_owned(), kind: "DNS", why };
        let plain = name.strip_prefix("*.").unwrap_or(name);
        let labels = || plain.split('.');
        if !name.is_ascii() {
            return Err(refuse("it is not ASCII; use its xn-- form"));
        }
        if name.len() > 253 || labels().any(|label| label.is_empty() || label.len() > 63) {
            return Err(refuse("a label is empty or too long"));
        }
        if plain.parse::<IpAddr>().is_ok() {
            return Err(refuse("it is an IP address; add it as an IP address"));
        }
        let is_label = |label: &str| {
            label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if !labels().all(is_label) {
            return Err(refuse("only letters, digits and - are allowed, and one * as the whole first label"));
        }
        self.dns.push(name.to_ascii_lowercase());
        Ok(())
    }

    /// Adds a URI with a scheme and something after it (RFC 3986 3).
    pub fn add_uri(&mut self, uri: &str) -> Result<(), AltNameError> {
        let refuse = |why| AltNameError { name: uri.to_owned(), kind: "URI", why };
        let scheme = uri.split_once(':').filter(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
        let (scheme, _) = scheme.ok_or_else(|| refuse("it has no scheme; an example is spiffe://example.com/app"))?;
        let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(in_scheme) {
            return Err(refuse("its scheme is invalid; an example is spiffe://example.com/app"));
        }
        if !uri.bytes().all(|byte| (b'!'..=b'~').contains(&byte) && !b"\"<>\\^`{|}".contains(&byte)) {
            return Err(refuse("it has characters that a URI must escape"));
        }
        self.uris.push(uri.to_owned());
        Ok(())
    }
}

/// A new key.
pub struct GeneratedKey(rcgen::KeyPair);

impl GeneratedKey {
    /// Makes one. RSA keys take up to half a second.
    pub fn new(kind: NewKeyKind) -> Result<Self, IssueError> {
        make_key(kind).map(Self)
    }

    /// The key as others read it.
    pub fn key(&self) -> Result<Arc<PrivateKey>, IssueError> {
        let der = PrivateKeyDer::Pkcs8(self.0.serialized_der().to_vec().into());
        PrivateKey::from_der(der).map_err(|why| IssueError { what: "a key", why })
    }

    /// SHA-256 of its public key.
    pub fn spki_hash(&self) -> SpkiHash {
        use rcgen::PublicKeyData as _;
        SpkiHash::of(&self.0.subject_public_key_info())
    }

    /// A certificate that it signs itself, PEM.
    pub fn self_signed(&self, wanted: &CertificateTemplate, validity: Validity) -> Result<String, IssueError> {
        const ISSUED_ITEM: &str = "a self-signed certificate";
        let params = wanted.params(validity, ISSUED_ITEM)?;
        Ok(params.self_signed(&self.0).map_err(issue_error(ISSUED_ITEM))?.pem())
    }

    /// A certification request, PEM.
    pub fn request(&self, wanted: &CertificateTemplate) -> Result<String, IssueError> {
        wanted.sign_request(&self.0)
    }
}

/// A certification request for a key that is there already, PEM.
pub fn request_for_key(key: &PrivateKey, wanted: &CertificateTemplate) -> Result<String, IssueError> {
    let key = rcgen::KeyPair::try_from(&key.der()).map_err(issue_error("a request for this key"))?;
    wanted.sign_request(&key)
}

impl CertificateTemplate {
    pub(super) fn params(&self, validity: Validity, what: &'static str) -> Result<CertificateParams, IssueError> {
        let mut params = base_params(&self.subject, validity, what)?;
        params.is_ca = IsCa::ExplicitNoCa;
        self.extend_params(&mut params, what)?;
        Ok(params)
    }

    /// It asks for no serial number and no validity: these are the CA's.
    fn sign_request(&self, key: &rcgen::KeyPair) -> Result<String, IssueError> {
        const ISSUED_ITEM: &str = "a certification request";
        let mut params = CertificateParams::default();
        params.distinguished_name = self.subject.to_distinguished_name();
        params.is_ca = IsCa::NoCa;
        self.extend_params(&mut params, ISSUED_ITEM)?;
        params.serialize_request(key).and_then(|request| request.pem()).map_err(issue_error(ISSUED_ITEM))
    }

    fn extend_params(&self, params: &mut CertificateParams, what: &'static str) -> Result<(), IssueError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if self.server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if self.client {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        for dns in &self.names.dns {
            params.subject_alt_names.push(SanType::DnsName(dns.as_str().try_into().map_err(issue_error(what))?));
        }
        for uri in &self.names.uris {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().map_err(issue_error(what))?));
        }
        params.subject_alt_names.extend(self.names.ips.iter().copied().map(SanType::IpAddress));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::pki::blocks;
    use crate::pki::certificate::CertificationRequest;

    fn template() -> CertificateTemplate {
        let mut names = RequestedNames::default();
        names.add_dns("API.example.com").unwrap();
        names.add_dns("*.api.example.com").unwrap();
        names.add_uri("spiffe://example.com/api").unwrap();
        names.ips.push("127.0.0.1".parse().unwrap());
        CertificateTemplate { subject: "CN=api, O=Example, C=DE".parse().unwrap(), names, server: true, client: true }
    }

    #[test]
    fn every_kind_of_key_makes_a_certificate_and_a_request_that_say_what_was_wanted() {
        let validity = Validity {
            not_before: "2026-01-01T00:00:00Z".parse().unwrap(),
            not_after: "2027-01-01T00:00:00Z".parse().unwrap(),
        };
        for kind in [NewKeyKind::P256, NewKeyKind::P384, NewKeyKind::Ed25519, NewKeyKind::Rsa(2048)] {
            let key = GeneratedKey::new(kind).unwrap();
            let both = format!("{}{}", key.self_signed(&template(), validity).unwrap(), *key.key().unwrap().pem());
            let read = blocks::read(&Zeroizing::new(both.into_bytes()), None);
            assert_eq!(read.unreadable, []);
            let certificate = &read.certificates[0];
            assert_eq!(certificate.subject(), "CN=api, O=Example, C=DE");
            assert_eq!(certificate.dns_names(), ["api.example.com", "*.api.example.com"]);
            assert!(!certificate.is_ca() && certificate.usage().limited && certificate.weakness().is_none());
            assert_eq!((read.keys[0].spki_hash(), certificate.spki_hash()), (key.spki_hash(), key.spki_hash()));
            // From the key as the folder holds it, too.
            for pem in [key.request(&template()).unwrap(), request_for_key(&read.keys[0], &template()).unwrap()] {
                let [request] = &blocks::read_requests(pem.as_bytes())[..] else { panic!("one request") };
                let request: &CertificationRequest = request.as_ref().unwrap();
                assert_eq!(request.subject, "CN=api, O=Example, C=DE");
                assert_eq!(request.spki_hash, key.spki_hash());
                assert_eq!(request.signature, Ok(()));
                assert_eq!(
                    request.names,
                    ["dns:api.example.com", "dns:*.api.example.com", "uri:spiffe://example.com/api", "ip:127.0.0.1"]
                );
            }
        }
    }

    #[test]
    fn names_that_no_certificate_may_have_are_refused() {
        let mut names = RequestedNames::default();
        for dns in ["", "a..b", "10.0.0.1", "a b", "*.*.a", "a.*.b", "-a.b", "ä.de", &"a".repeat(64)] {
            assert!(names.add_dns(dns).is_err(), "{dns}");
        }
        for uri in ["", "example", ":x", "1a:b", "spiffe://a b", "spiffe://ä"] {
            assert!(names.add_uri(uri).is_err(), "{uri}");
        }
        assert!(names.is_empty());
    }
}
