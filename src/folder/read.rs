//! Reads the folder whole, blocking: what is there, and of each part whether it is complete. Run it off the runtime.
//!
//! `walk` goes through it; since when something is so, and what follows, is for `settle`.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use super::reading::refuse_incomplete;
use super::walk::FolderWalk;
use super::{FolderContents, FolderSettings};
use crate::pki::{FileName, FolderProblem, KeyMaterial, ProblemSeverity, printable};

pub use super::reading::FolderReading;

/// Reads the folder once. Never blocks on a FIFO or device, never follows a link loop; what it skips is a problem with a
/// reason. A folder that cannot be read is a problem too, with everything else empty and `missing` set.
pub fn read_folder(settings: &FolderSettings) -> FolderReading {
    reread_folder(settings, &BTreeSet::new())
}

/// The same, where these files are known to have been part of a key pair: whatever their names, they are refused where
/// nothing in them can be read.
pub fn reread_folder(settings: &FolderSettings, former: &BTreeSet<FileName>) -> FolderReading {
    read_folder_with(settings, former, Vec::new())
}

/// The same, as if these files lay in the folder too, each in its keyring.
fn read_folder_with(
    settings: &FolderSettings,
    former: &BTreeSet<FileName>,
    extra: Vec<(Arc<str>, FileName, KeyMaterial)>,
) -> FolderReading {
    let mut walk = FolderWalk::new(settings, former);
    extra.into_iter().for_each(|(keyring, name, blocks)| walk.keyring_files(&keyring).files.push((name, blocks)));
    walk.places.add_trail(&settings.root);
    let missing = match fs::read_dir(&settings.root) {
        Ok(_) => None,
        Err(error) => Some(format!("folder {} cannot be read: {error}", printable(&settings.root.to_string_lossy()))),
    };
    if let Some(why) = &missing {
        walk.problems.push(FolderProblem {
            file: ".".into(),
            reason: "folder_missing",
            why: why.clone(),
            remedy: "mount or create it; the key pairs in use stay".into(),
            severity: ProblemSeverity::Incomplete,
        });
    } else {
        walk.visit_folder(&settings.root);
        for path in &settings.named {
            walk.read_named(path);
        }
        walk.report_detached();
    }
    walk.into_reading(missing)
}

/// Reads the folder once and takes it as final: what is incomplete is refused. For `sidekey check`.
pub fn read_final(settings: &FolderSettings) -> FolderContents {
    read_final_with(settings, Vec::new())
}

/// The same, as if these files lay in the folder too, each in its keyring: what would come of dropping them.
pub fn read_final_with(settings: &FolderSettings, extra: Vec<(Arc<str>, FileName, KeyMaterial)>) -> FolderContents {
    let mut contents = read_folder_with(settings, &BTreeSet::new(), extra).contents;
    let of_keyrings = contents.keyrings.values_mut().flat_map(|joined| &mut joined.problems);
    of_keyrings.chain(&mut contents.problems).for_each(refuse_incomplete);
    contents
}

#[cfg(test)]
mod tests;
