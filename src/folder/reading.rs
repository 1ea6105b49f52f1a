//! One reading of the folder: what is there, and of each part whether it is complete.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::FolderContents;
use super::places::WatchPlaces;
use crate::pki::{FileName, FolderProblem, ProblemSeverity, printable};

/// One reading.
pub struct FolderReading {
    /// What is there.
    pub contents: FolderContents,
    /// The folder itself is missing or unreadable: never a removal of anything.
    pub missing: Option<String>,
    /// What settles on its own: digest, and whether it is whole.
    pub parts: BTreeMap<FolderPart, PartObservation>,
    /// Where a change would matter.
    pub places: WatchPlaces,
}

/// What settles on its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FolderPart {
    /// The folder as such: what concerns no keyring.
    Folder,
    /// One keyring.
    Keyring(Arc<str>),
    /// One file that the configuration names.
    Named(PathBuf),
}

/// What a reading saw of one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartObservation {
    /// Equal for equal contents.
    pub digest: [u8; 32],
    /// Nothing is half-written or without its other half.
    pub complete: bool,
}

/// A path below the folder as people see it.
pub(super) fn file_name(relative: &Path) -> FileName {
    if relative.as_os_str().is_empty() { ".".into() } else { printable(&relative.to_string_lossy()).into() }
}

/// What is incomplete is refused from now on.
pub(super) fn refuse_incomplete(problem: &mut FolderProblem) {
    if problem.severity == ProblemSeverity::Incomplete {
        problem.severity = ProblemSeverity::Refused;
    }
}
