//! What a certification request (PKCS#10, RFC 2986) asks for: read only to be explained, nothing is made from it.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;

use super::facts::{KeyKind, SubjectAltNames, key_kind, name_text};
use super::signature;
use crate::pki::{SpkiHash, printable};

/// A request, as its DER says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificationRequest {
    /// The subject as printable text.
    pub subject: String,
    /// The names it asks for, typed: `dns:`, `uri:`, `ip:`, `email:`.
    pub names: Vec<String>,
    /// The kind of its public key.
    pub key: KeyKind,
    /// SHA-256 of its public key: which private key it was made with.
    pub spki_hash: SpkiHash,
    /// Whether it is signed with that key, and what is wrong if not.
    pub signature: Result<(), String>,
}

impl CertificationRequest {
    /// Parses DER; bytes after the request are an error.
    pub fn parse(der: &[u8]) -> Result<Self, String> {
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|error| printable(&error.to_string()))?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow the certification request", rest.len()));
        }
        let info = &request.certification_request_info;
        let mut names = SubjectAltNames::default();
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(extension) = extension {
                names.add_all(&extension.general_names);
            }
        }
        Ok(Self {
            subject: name_text(&info.subject),
            names: names.to_typed(),
            key: key_kind(&info.subject_pki),
            spki_hash: SpkiHash::of(info.subject_pki.raw),
            signature: signature::check_signature(der, info.subject_pki.raw),
        })
    }
}
