//! The watched folder: notices changes, reads everything off the runtime, decides when it is complete enough to use.
//!
//! What goes on is always *everything the folder holds*, never a difference, so a lost or doubled notification changes
//! nothing. It writes nothing but what an operator types (`put`), and judges no pair.

mod digest;
#[cfg(test)]
mod fixture;
mod named;
pub mod places;
pub mod put;
pub mod read;
mod reading;
pub mod settle;
pub mod take;
mod walk;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateRevocationListDer;

use crate::pki::{Certificate, FolderProblem, KeyringContents};

/// The keyring of the files at the top of the folder.
pub const DEFAULT_KEYRING: &str = "default";

/// What the folder needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderSettings {
    /// The folder, absolute.
    pub root: PathBuf,
    /// Rescan at least this often.
    pub rescan: Duration,
    /// How long an incomplete folder must be quiet before it is refused.
    pub settle: Duration,
    /// A key file readable by others is refused instead of warned about.
    pub strict_permissions: bool,
    /// Files (relative) that trust, partner, jwt or crls name: a folder that holds only such files is not a keyring.
    pub named: BTreeSet<PathBuf>,
    /// PKCS#12 password files by keyring, absolute.
    pub pkcs12_passwords: BTreeMap<Arc<str>, PathBuf>,
}

/// Everything the folder holds.
#[derive(Clone, Debug, Default)]
pub struct FolderContents {
    /// By keyring name: `default` for the files at the top, else the first sub-folder's name. A folder without any key
    /// material is not among them: that is the same as an empty [`KeyringContents`].
    pub keyrings: BTreeMap<Arc<str>, KeyringContents>,
    /// By named file (relative path, as in [`FolderSettings::named`]).
    pub named: BTreeMap<PathBuf, NamedFile>,
    /// What concerns no keyring (unreadable folder, link loops, …).
    pub problems: Vec<FolderProblem>,
    /// Equal for equal contents: what "the same content again changes nothing" compares.
    pub digest: [u8; 32],
}

/// A file that the configuration names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedFile {
    /// Its certificates.
    pub certificates: Vec<Arc<Certificate>>,
    /// Its CRLs.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// Why it holds nothing usable: missing, empty, unparsable (one sentence with what to do).
    pub problem: Option<String>,
}
