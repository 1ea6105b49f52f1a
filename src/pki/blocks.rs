//! Bytes of one file → the certificates, private keys and CRLs in it: PEM, DER and PKCS#12 (RFC 7468, 5958, 8017, 5915, 7292).
//!
//! Tolerates what people really have (contract section 3) and names what it refuses together with the command that
//! converts it. It sees one file at a time; what belongs together is found by `join`.

use std::sync::Arc;

use rustls_pki_types::{CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::{Certificate, SpkiHash};

/// A private key in PKCS#8, PKCS#1 or SEC1 that rustls' provider could load; its bytes are zeroised when dropped.
pub struct PrivateKey {
    _todo: (),
}

impl PrivateKey {
    /// Loads it; the error says what kind of key it is and why it cannot be used (printable).
    pub fn from_der(der: PrivateKeyDer<'static>) -> Result<Arc<Self>, String> {
        let _ = der;
        todo!()
    }
    /// The matching SubjectPublicKeyInfo, DER: what keys and certificates are joined by.
    pub fn spki(&self) -> &[u8] {
        todo!()
    }
    /// SHA-256 of [`Self::spki`].
    pub fn spki_hash(&self) -> SpkiHash {
        SpkiHash::of(self.spki())
    }
    /// The key's bytes. For signing and for `state/retained/` only.
    pub fn der(&self) -> PrivateKeyDer<'_> {
        todo!()
    }
}

/// Everything that one file holds.
#[derive(Default)]
pub struct Blocks {
    /// In the order of the file.
    pub certificates: Vec<Arc<Certificate>>,
    /// In the order of the file.
    pub keys: Vec<Arc<PrivateKey>>,
    /// Parsed far enough to know that they are CRLs.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// Parts of the file that could not be used, the rest was.
    pub unreadable: Vec<Unreadable>,
}

/// A file, or a part of one, that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Unreadable {
    /// Stable snake_case code: `truncated`, `key_encrypted`, `key_unsupported`, `jks`, `pkcs7`, `pkcs12_password`, `certificate_malformed`, `key_malformed`, `too_large`, …
    pub reason: &'static str,
    /// One sentence with the values, printable.
    pub why: String,
    /// What to do: the one-line command that converts it, where there is one.
    pub remedy: String,
    /// More bytes may still come (cut off, empty section): "not yet" rather than "refused" until the folder is quiet.
    pub incomplete: bool,
    /// A keystore (JKS, PKCS#12) that could not be opened: beside a usable pair only an info.
    pub keystore: bool,
}

/// Reads a whole file. A file without any key material (a README, a `.pass`) gives empty [`Blocks`].
/// `password` is for PKCS#12 only.
pub fn read(bytes: &Zeroizing<Vec<u8>>, password: Option<&str>) -> Blocks {
    let _ = (bytes, password);
    todo!()
}

/// Every kind of thing that a person may be sent, told apart for `sidekey inspect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// PEM text with at least one block.
    Pem,
    /// One DER certificate.
    DerCertificate,
    /// One DER private key.
    DerKey,
    /// One DER CRL.
    DerCrl,
    /// PKCS#12.
    Pkcs12,
    /// Java KeyStore (JKS or JCEKS).
    Jks,
    /// PKCS#7, DER.
    Pkcs7,
    /// A certification request (PKCS#10), DER.
    Csr,
    /// No key material.
    Unknown,
}

/// What kind of file these bytes are.
pub fn kind(bytes: &[u8]) -> Kind {
    let _ = bytes;
    todo!()
}
