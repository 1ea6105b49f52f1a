//! The parts of a keystore's DER one after the other, each asked for by its tag, and what is said where one is missing.
//! What the parts mean is left to those who ask.

use super::super::super::der::{self, DerElement, OID, SEQUENCE};
use crate::pki::printable;

/// Why a keystore was not opened; the texts are printable.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeystoreError {
    /// The MAC, or what was decrypted, says that it is another one.
    WrongPassword,
    /// Well-formed, but not what is read here; a sentence without its end.
    Unsupported(String),
    /// This part is missing.
    Malformed(&'static str),
}

/// An AlgorithmIdentifier (RFC 5280 4.1.1.2).
pub(super) struct NamedAlgorithm<'a> {
    pub(super) oid: &'a [u8],
    pub(super) parameters: TaggedParts<'a>,
}

/// Values in DER that follow each other.
#[derive(Clone, Copy)]
pub(super) struct TaggedParts<'a> {
    rest: &'a [u8],
}

impl<'a> TaggedParts<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next value if it has this tag and is whole; otherwise it stays the next one.
    pub(super) fn read_optional(&mut self, tag: u8) -> Option<DerElement<'a>> {
        let (part, rest) = der::element(self.rest).filter(|(part, _)| part.tag == tag && part.missing == 0)?;
        self.rest = rest;
        Some(part)
    }

    /// The next value, which has to have this tag; `what` it is stands in the error.
    pub(super) fn read_part(&mut self, tag: u8, what: &'static str) -> Result<DerElement<'a>, KeystoreError> {
        self.read_optional(tag).ok_or(KeystoreError::Malformed(what))
    }

    /// The next value, which has to be an AlgorithmIdentifier.
    pub(super) fn read_algorithm(&mut self, what: &'static str) -> Result<NamedAlgorithm<'a>, KeystoreError> {
        let mut parameters = Self::new(self.read_part(SEQUENCE, what)?.content);
        let oid = parameters.read_part(OID, what)?.content;
        Ok(NamedAlgorithm { oid, parameters })
    }
}

/// An identifier with its dots, for sentences.
pub(super) fn write_oid(oid: &[u8]) -> String {
    printable(&x509_parser::asn1_rs::Oid::new(oid.into()).to_string())
}
