//! Equal for equal contents: what "the same content again changes nothing" compares.
//!
//! Names, contents and problems count; time stamps, inodes and files without key material do not.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::settle::{Part, Seen};
use crate::pki::{Joined, Problem, Severity};

/// One digest of all parts: kind, name, digest and verdict of each.
pub(super) fn parts<'p>(parts: impl Iterator<Item = (&'p Part, [u8; 32], bool)>) -> [u8; 32] {
    let digests: Vec<[u8; 32]> = parts
        .map(|(part, digest, refused)| {
            let (kind, name): (&[u8], &[u8]) = match part {
                Part::Folder => (b"folder", b""),
                Part::Keyring(name) => (b"keyring", name.as_bytes()),
                Part::Named(path) => (b"named", path.as_os_str().as_bytes()),
            };
            sha256(&[kind, name, &digest, &[u8::from(refused)]])
        })
        .collect();
    let items: Vec<&[u8]> = digests.iter().map(<[u8; 32]>::as_slice).collect();
    sha256(&items)
}

/// Names, contents and problems: moving bytes from one file to another is a change, a new time stamp is none.
pub(super) fn keyring(joined: &Joined, mut hashed: Vec<(PathBuf, [u8; 32])>) -> Seen {
    hashed.sort();
    let mut items: Vec<&[u8]> = Vec::new();
    for (path, hash) in &hashed {
        items.push(path.as_os_str().as_bytes());
        items.push(hash);
    }
    items.extend(texts(&joined.problems));
    Seen { digest: sha256(&items), complete: is_whole(&joined.problems) }
}

/// What concerns no keyring.
pub(super) fn folder(problems: &[Problem]) -> Seen {
    Seen { digest: sha256(&texts(problems)), complete: is_whole(problems) }
}

fn texts(problems: &[Problem]) -> Vec<&[u8]> {
    let texts = problems.iter().flat_map(|problem| [&*problem.file, problem.reason, &problem.why, &problem.remedy]);
    texts.map(str::as_bytes).collect()
}

pub(super) fn is_whole(problems: &[Problem]) -> bool {
    problems.iter().all(|problem| problem.severity != Severity::Incomplete)
}

/// SHA-256 over items, each with its length before it, so that no two lists of items are one text.
pub(super) fn sha256(items: &[&[u8]]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for item in items {
        context.update(&(item.len() as u64).to_be_bytes());
        context.update(item);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}
