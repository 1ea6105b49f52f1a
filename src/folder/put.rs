//! Writes one file into the watched folder: whole or not at all, and never over an existing one.
//!
//! Only `sidekey keyring` commands that an operator types do this (contract section 3); a running sidecar writes nothing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::pki::printable;

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum PutFileError {
    /// A file of that name exists.
    #[error("{0} already exists; choose another --name, or remove the file")]
    Exists(String),
    /// The file system refused.
    #[error("cannot write {file}: {source}")]
    Io {
        /// Which file.
        file: String,
        /// Why.
        source: io::Error,
    },
}

/// Makes a keyring's folder, and the watched folder above it, where they are missing (mode 0700). New folders belong to
/// the owner of the folder above.
///
/// # Errors
/// The file system's.
pub fn make_folder(folder: &Path) -> Result<(), PutFileError> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent().filter(|above| !above.as_os_str().is_empty()) {
        make_folder(above)?;
    }
    DirBuilder::new().mode(0o700).create(folder).map_err(|source| write_io_error(folder, source))?;
    match_folder_owner(folder, folder)
}

/// Writes a file of mode 0600 beside the others: into a file that a reading of the folder passes over, to disk, then under
/// its name. Typed by the superuser, it belongs to the folder's owner, or the sidecar could not read it.
///
/// # Errors
/// A file of that name exists, or the file system refuses; then nothing is left behind.
pub fn write_new_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, PutFileError> {
    let path = folder.join(name);
    if fs::symlink_metadata(&path).is_ok() {
        return Err(PutFileError::Exists(printable(&path.to_string_lossy())));
    }
    let aside = folder.join(format!(".{name}.{}.new", std::process::id()));
    let written = write_temporary(&aside, bytes)
        .map_err(|source| write_io_error(&path, source))
        .and_then(|()| match_folder_owner(&aside, &path))
        .and_then(|()| fs::rename(&aside, &path).map_err(|source| write_io_error(&path, source)));
    if written.is_err() {
        // It may never have been created; what counts is the first error.
        let _ = fs::remove_file(&aside);
    }
    written?;
    // The name itself, too. Not every file system can do this for a folder, and the file is there in any case.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(path)
}

fn write_temporary(aside: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(aside)?;
    // A umask can only take away; an unusual one must not make the file unreadable for its owner.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// `made` gets the owner of the folder that it lies in, where these differ; only the superuser can, and need, do this.
fn match_folder_owner(made: &Path, named: &Path) -> Result<(), PutFileError> {
    let owner = |path: &Path| fs::metadata(path).map(|metadata| (metadata.uid(), metadata.gid()));
    let above = made.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let give = || {
        let (is, wanted) = (owner(made)?, owner(above)?);
        if is.0 == 0 && wanted.0 != 0 { chown(made, Some(wanted.0), Some(wanted.1)) } else { Ok(()) }
    };
    give().map_err(|source| write_io_error(named, source))
}

fn write_io_error(path: &Path, source: io::Error) -> PutFileError {
    PutFileError::Io { file: printable(&path.to_string_lossy()), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole_for_its_owner_only_and_never_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let keyring = folder.path().join("certs/api");
        make_folder(&keyring).unwrap();
        make_folder(&keyring).unwrap();
        assert_eq!(fs::metadata(&keyring).unwrap().mode() & 0o777, 0o700);
        let path = write_new_file(&keyring, "2026.key", b"secret").unwrap();
        assert_eq!(
            (fs::metadata(&path).unwrap().mode() & 0o777, fs::read(&path).unwrap()),
            (0o600, b"secret".to_vec())
        );
        assert!(matches!(write_new_file(&keyring, "2026.key", b"other"), Err(PutFileError::Exists(_))));
        assert_eq!(fs::read(&path).unwrap(), b"secret");
        assert_eq!(fs::read_dir(&keyring).unwrap().count(), 1, "something was left behind");
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        assert!(matches!(write_new_file(&gone, "a.key", b"x"), Err(PutFileError::Io { .. })));
        fs::write(&gone, "a file").unwrap();
        assert!(make_folder(&gone.join("below")).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
