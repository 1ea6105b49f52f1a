//! Equal for equal contents: what "the same content again changes nothing" compares.
//!
//! Names, contents and problems count; time stamps, inodes and files without key material do not.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::reading::{FolderPart, PartObservation};
use crate::pki::{FolderProblem, KeyringContents, ProblemSeverity};

/// One digest of all parts: kind, name, digest and verdict of each.
pub(super) fn digest_parts<'p>(parts: impl Iterator<Item = (&'p FolderPart, [u8; 32], bool)>) -> [u8; 32] {
    let digests: Vec<[u8; 32]> = parts
        .map(|(part, digest, refused)| {
            let (kind, name): (&[u8], &[u8]) = match part {
                FolderPart::Folder => (b"folder", b""),
                FolderPart::Keyring(name) => (b"keyring", name.as_bytes()),
                FolderPart::Named(path) => (b"named", path.as_os_str().as_bytes()),
            };
            sha256_of(&[kind, name, &digest, &[u8::from(refused)]])
        })
        .collect();
    let items: Vec<&[u8]> = digests.iter().map(<[u8; 32]>::as_slice).collect();
    sha256_of(&items)
}

/// Names, contents and problems: moving bytes from one file to another is a change, a new time stamp is none.
pub(super) fn digest_keyring(joined: &KeyringContents, mut hashed: Vec<(PathBuf, [u8; 32])>) -> PartObservation {
    hashed.sort();
    let mut items: Vec<&[u8]> = Vec::new();
    for (path, hash) in &hashed {
        items.push(path.as_os_str().as_bytes());
        items.push(hash);
    }
    items.extend(problem_texts(&joined.problems));
    PartObservation { digest: sha256_of(&items), complete: is_whole(&joined.problems) }
}

/// What concerns no keyring.
pub(super) fn digest_folder(problems: &[FolderProblem]) -> PartObservation {
    PartObservation { digest: sha256_of(&problem_texts(problems)), complete: is_whole(problems) }
}

fn problem_texts(problems: &[FolderProblem]) -> Vec<&[u8]> {
    let texts = problems.iter().flat_map(|problem| [&*problem.file, problem.reason, &problem.why, &problem.remedy]);
    texts.map(str::as_bytes).collect()
}

pub(super) fn is_whole(problems: &[FolderProblem]) -> bool {
    problems.iter().all(|problem| problem.severity != ProblemSeverity::Incomplete)
}

/// SHA-256 over items, each with its length before it, so that no two lists of items are one text.
pub(super) fn sha256_of(items: &[&[u8]]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for item in items {
        context.update(&(item.len() as u64).to_be_bytes());
        context.update(item);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}
