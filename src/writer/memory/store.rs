//! Files that are whole or not there: written aside, synced, renamed; only the owner may read them.
//!
//! What is in them is `memory`'s business.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::pki::{FolderProblem, ProblemSeverity, printable};

/// How deep `retained/` is: `trust/NAME/FILE`.
const RETAINED_DEPTH: usize = 3;
/// The most that a file of the state may hold.
const MAX_STATE_BYTES: u64 = 64 * 1024 * 1024;
/// What a file that is being written ends with.
const TEMPORARY_SUFFIX: &str = ".new";

/// What could not be saved or read.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {why}")]
pub struct MemoryError {
    /// Which file.
    pub file: String,
    /// Why, with what to do.
    pub why: String,
    /// Another process works in the folder.
    pub in_use: bool,
}

/// Makes a folder and those above it, 0700 where they are missing.
pub(super) fn make_folder(path: &Path) -> Result<(), MemoryError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| io_failure("be made", path, &error))
}

/// Keeps every other process out of the folder, until the file that is returned is closed.
pub(super) fn lock_folder(folder: &Path) -> Result<File, MemoryError> {
    let path = folder.join("lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = open_own_file(&path, &mut options).map_err(|error| io_failure("be written", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(MemoryError {
            file: path_text(folder),
            why: "another Sidekey process uses this state folder: stop it, or give each its own folder".to_owned(),
            in_use: true,
        }),
        Err(TryLockError::Error(error)) => Err(io_failure("be locked", folder, &error)),
    }
}

/// Writes a file so that after a kill at any moment either the old or the new content is there, whole. 0600.
pub(super) fn write_file(path: &Path, content: &[u8]) -> Result<(), MemoryError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(TEMPORARY_SUFFIX);
    let aside = PathBuf::from(aside);
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = open_own_file(&aside, options.write(true).create(true).truncate(true).mode(0o600))?;
        // One that a kill left there keeps the mode that it had.
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&aside, path)?;
        sync_folder_of(path)
    };
    write().map_err(|error| io_failure("be written", path, &error))
}

/// Opens a file of the state without ever waiting for another process: a FIFO, a device and another user's file are errors.
pub(super) fn open_own_file(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let not_regular = || io::Error::other("it is not a regular file: remove it");
    // Asked before, because to open a device can have effects, and again after.
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(not_regular());
    }
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file =
        options.custom_flags(i32::try_from(flags.bits()).expect("these flags fit the kernel's int")).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(not_regular());
    }
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own && metadata.uid() != 0 {
        let why = format!("it belongs to user {}, not to ours ({own}): remove it, or change its owner", metadata.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(file)
}

/// The content of a file of the state, whole.
pub(super) fn read_own_file(path: &Path) -> io::Result<Vec<u8>> {
    let file = open_own_file(path, OpenOptions::new().read(true))?;
    // Room for all of it at once: growing would leave copies of a key behind.
    let size = file.metadata()?.len().min(MAX_STATE_BYTES);
    let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or_default() + 1);
    file.take(MAX_STATE_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_STATE_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_STATE_BYTES} bytes")));
    }
    Ok(content)
}

/// What others than the owner could change about the state: each is a warning, and with `strict_permissions` a refusal.
pub(super) fn find_unsafe_places(folder: &Path, retained: &Path) -> Vec<FolderProblem> {
    let problem = |path: &Path, why: &str, remedy: &str| FolderProblem {
        file: path_text(path).into(),
        reason: "state_unsafe",
        why: why.to_owned(),
        remedy: remedy.to_owned(),
        severity: ProblemSeverity::Warning,
    };
    let mut found = Vec::new();
    for path in [folder, retained] {
        if std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o002 != 0) {
            found.push(problem(
                path,
                "every user can write into this folder of the state",
                "chmod o-w on it; in a volume that is open to every user, such as an emptyDir, name a folder inside",
            ));
        }
    }
    if std::fs::symlink_metadata(retained).is_ok_and(|metadata| metadata.is_symlink()) {
        found.push(problem(
            retained,
            "the folder of retained key pairs is a link, which leads out of the state",
            "remove the link; a folder is made in its place",
        ));
    }
    found
}

/// What of the state cannot be what it is for, by its kind alone: a folder that is a file, a file that is a FIFO.
pub(super) fn find_unusable_files(folder: &Path, files: &[&str]) -> Vec<FolderProblem> {
    let problem = |path: &Path, why: &str, remedy: &str| FolderProblem {
        file: path_text(path).into(),
        reason: "state_unusable",
        why: why.to_owned(),
        remedy: remedy.to_owned(),
        severity: ProblemSeverity::Refused,
    };
    let is = |path: &Path, good: fn(&std::fs::Metadata) -> bool| {
        std::fs::metadata(path).map_or(true, |metadata| good(&metadata))
    };
    if !is(folder, std::fs::Metadata::is_dir) {
        let (why, remedy) = ("the state is a file, not a folder: nothing is remembered", "name a folder, or remove it");
        return vec![problem(folder, why, remedy)];
    }
    let unusable = files.iter().map(|file| folder.join(file)).filter(|path| !is(path, std::fs::Metadata::is_file));
    unusable
        .map(|path| problem(&path, "this file of the state is not a regular file: nothing is remembered", "remove it"))
        .collect()
}

/// Deletes a file; one that is gone already is fine.
pub(super) fn delete_file(path: &Path) -> Result<(), MemoryError> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_folder_of(path).map_err(|error| io_failure("be synced", path, &error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_failure("be deleted", path, &error)),
    }
}

/// Every `.pem` below the folder, sorted. What a kill left half-written is deleted where the folder is `ours` to work in: it
/// may hold a key. To a command that only reads it may be a file that is being written.
pub(super) fn retained_files(folder: &Path, ours: bool) -> Vec<PathBuf> {
    let mut out = Vec::new();
    collect_files(folder, (RETAINED_DEPTH, ours), &mut out);
    out.sort();
    out
}

fn collect_files(folder: &Path, (depth, ours): (usize, bool), out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth > 1 {
            collect_files(&path, (depth - 1, ours), out);
        } else if kind.is_file() && path.to_string_lossy().ends_with(TEMPORARY_SUFFIX) {
            if !ours {
                continue;
            }
            // Failing, it is overwritten or lies there as it did.
            let _ = std::fs::remove_file(&path);
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "pem") {
            out.push(path);
        }
    }
}

/// A name as one component of a path: what is not a letter, digit, `-`, `_` or an inner `.` becomes `%XX`.
pub(super) fn encode_name(name: &str) -> String {
    let plain =
        |at: usize, byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && at > 0);
    let one = |(at, byte): (usize, u8)| {
        if plain(at, byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    name.bytes().enumerate().map(one).collect()
}

/// The name that was encoded.
pub(super) fn decode_name(component: &str) -> Option<String> {
    let mut parts = component.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

/// A path for people.
pub(super) fn path_text(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn io_failure(what: &str, path: &Path, error: &io::Error) -> MemoryError {
    let why = format!("cannot {what} ({error}): give this user write access and free space, or leave out `state`");
    MemoryError { file: path_text(path), why, in_use: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_component_and_comes_back() {
        for name in ["api", "own:api", "..", ".", "a/b", "a b.c", "über", "100%", "%41"] {
            let encoded = encode_name(name);
            assert!(!encoded.contains('/') && !encoded.starts_with('.'), "{encoded}");
            assert_eq!(decode_name(&encoded).as_deref(), Some(name));
        }
        assert_eq!(decode_name("%4"), None);
        assert_eq!(decode_name("%ff"), None);
    }
}
