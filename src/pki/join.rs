//! The blocks of a folder's files → key pairs, trust and problems, matched by public key and never by file name.
//!
//! Pure and independent of the order of files. It proves only that things belong together; what may serve is decided
//! by `keyring::fit`, and when an incomplete folder is refused by `folder::settle`.

use std::sync::Arc;

use rustls_pki_types::CertificateRevocationListDer;

use super::{Blocks, Certificate, KeyPair, SpkiHash};

/// A file's path relative to the watched folder, with `/`, printable.
pub type FileName = Arc<str>;

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth a line, nothing to do.
    Info,
    /// Works, but somebody should look.
    Warning,
    /// "Not yet" until the folder has been quiet for `settle`; then refused.
    Incomplete,
    /// Refused.
    Refused,
}

/// One file, or pair, that cannot be used, with what to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Problem {
    /// Which file.
    pub file: FileName,
    /// Stable snake_case code.
    pub reason: &'static str,
    /// One printable sentence with the values.
    pub why: String,
    /// What to do.
    pub remedy: String,
    /// How bad it is.
    pub severity: Severity,
}

/// A private key whose certificate has not come yet (as `keyring csr` leaves it): an info, never a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Where the key is.
    pub file: FileName,
    /// Which certificate it waits for.
    pub spki_hash: SpkiHash,
}

/// What one keyring's folder holds.
#[derive(Clone, Default, Debug)]
pub struct Joined {
    /// Every proved pair, sorted by fingerprint; the same end entity twice is one pair.
    pub pairs: Vec<Arc<KeyPair>>,
    /// The certificates of `ca.crt`, `ca.pem`, `ca-bundle.crt`; `None` where there is no such file, or none that holds
    /// a certificate (a broken file is never a removal).
    pub anchors: Option<Vec<Arc<Certificate>>>,
    /// CRLs, sorted.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// Keys without certificate.
    pub waiting: Vec<Waiting>,
    /// Everything else, sorted by file.
    pub problems: Vec<Problem>,
}

/// Whether this file name (its last component) is trust and not chain: `ca.crt`, `ca.pem`, `ca-bundle.crt`.
pub fn is_trust_file(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    matches!(last, "ca.crt" | "ca.pem" | "ca-bundle.crt")
}

/// Joins what a keyring's files hold.
pub fn join(files: Vec<(FileName, Blocks)>) -> Joined {
    let _ = files;
    todo!()
}
