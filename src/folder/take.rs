//! One file, taken into a buffer that is zeroised: regular files only, bounded, whole, and without ever blocking.
//!
//! It knows nothing of folders and keyrings; what a file means is seen by `read`.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::pki::{FileName, FolderProblem, ProblemSeverity};

/// The most that one file may hold.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// The most that a file of CRLs may hold.
pub const MAX_CRL_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// How often a file that changes while it is read is read again.
const MAX_READ_ATTEMPTS: usize = 3;

/// What was in a file.
pub struct FileContent {
    /// All its bytes.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Every user of this machine may read it.
    pub readable_by_others: bool,
    /// It was deleted or replaced where it really lies, and still shows here: a single file that is mounted.
    pub detached: bool,
}

/// Takes a file. `Ok(None)`: it is gone. Whether it is regular is asked before opening (opening a device can have
/// effects), and again after (it may have been replaced meanwhile).
pub fn read_regular_file(path: &Path, name: &FileName) -> Result<Option<FileContent>, FolderProblem> {
    for _ in 0..MAX_READ_ATTEMPTS {
        match try_read(path, name) {
            Ok(Some(taken)) => return Ok(Some(taken)),
            Ok(None) => {}
            Err(FileTrouble::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                return report_missing(path, name);
            }
            Err(FileTrouble::Io(error)) => return Err(io_problem(name, &error)),
            Err(FileTrouble::Problem(problem)) => return Err(problem),
        }
    }
    Err(FolderProblem {
        file: name.clone(),
        reason: "changing",
        why: "it changed while it was read".into(),
        remedy: "write a temporary file and rename it into place".into(),
        severity: ProblemSeverity::Incomplete,
    })
}

/// A link whose target is missing is reported; a file that was deleted a moment ago is not.
fn report_missing(path: &Path, name: &FileName) -> Result<Option<FileContent>, FolderProblem> {
    match std::fs::read_link(path) {
        Ok(target) => Err(FolderProblem {
            file: name.clone(),
            reason: "dangling_link",
            why: format!("it is a link to {}, which does not exist", crate::pki::printable(&target.to_string_lossy())),
            remedy: "create the target or remove the link".into(),
            severity: ProblemSeverity::Incomplete,
        }),
        Err(_) => Ok(None),
    }
}

/// What the kernel refused. Lack of permission and loops stay until the operator acts; everything else may pass.
pub fn io_problem(name: &FileName, error: &io::Error) -> FolderProblem {
    let is_loop = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    let (reason, remedy, severity) = match error.kind() {
        _ if is_loop => ("link_loop", "remove the link that leads back to itself", ProblemSeverity::Refused),
        io::ErrorKind::PermissionDenied => {
            ("unreadable", "grant read access to the user that Sidekey runs as", ProblemSeverity::Refused)
        }
        _ => ("unreadable", "check the file system", ProblemSeverity::Incomplete),
    };
    let why =
        if is_loop { "it is a link that leads back to itself".into() } else { format!("cannot be read: {error}") };
    FolderProblem { file: name.clone(), reason, why, remedy: remedy.into(), severity }
}

enum FileTrouble {
    Io(io::Error),
    Problem(FolderProblem),
}

impl From<io::Error> for FileTrouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// `None`: it changed meanwhile.
fn try_read(path: &Path, name: &FileName) -> Result<Option<FileContent>, FileTrouble> {
    check_regular(&std::fs::metadata(path)?, name)?;
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).expect("these flags fit the kernel's int");
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let before = file.metadata()?;
    check_regular(&before, name)?;
    let limit =
        if before.len() > MAX_FILE_BYTES && holds_crls(&mut file, path)? { MAX_CRL_FILE_BYTES } else { MAX_FILE_BYTES };
    if before.len() > limit {
        return Err(FileTrouble::Problem(FolderProblem {
            file: name.clone(),
            reason: "too_large",
            why: format!("it has {} bytes; at most {limit} are read", before.len()),
            remedy: "move it out of the folder".into(),
            severity: ProblemSeverity::Refused,
        }));
    }
    // One byte more than it should have, so that growth shows; never grown, so that no copy is left behind.
    let size = usize::try_from(before.len()).expect("the limit fits a usize");
    let mut bytes = Zeroizing::new(vec![0; size + 1]);
    let filled = fill_buffer(&mut file, &mut bytes)?;
    let after = file.metadata()?;
    let is_same = |one: &Metadata, other: &Metadata| {
        one.len() == other.len() && (one.mtime(), one.mtime_nsec()) == (other.mtime(), other.mtime_nsec())
    };
    if filled != size || !is_same(&before, &after) {
        return Ok(None);
    }
    bytes.truncate(size);
    // A file that is replaced at this moment has the link count 0 too, but the path leads to another one by now.
    let is_still_here = |now: Metadata| (now.dev(), now.ino(), now.nlink()) == (after.dev(), after.ino(), 0);
    let detached = after.nlink() == 0 && std::fs::metadata(path).is_ok_and(is_still_here);
    Ok(Some(FileContent { bytes, readable_by_others: before.mode() & 0o004 != 0, detached }))
}

fn fill_buffer(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Whether a large file is one of CRLs: by its name, or by its first PEM block.
fn holds_crls(file: &mut File, path: &Path) -> io::Result<bool> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("crl")) {
        return Ok(true);
    }
    let mut head = Zeroizing::new([0; 4096]);
    let filled = fill_buffer(file, head.as_mut())?;
    io::Seek::rewind(file)?;
    let begin = memchr::memmem::find(&head[..filled], b"-----BEGIN ");
    Ok(begin.is_some_and(|at| head[at..filled].starts_with(b"-----BEGIN X509 CRL-----")))
}

fn check_regular(metadata: &Metadata, name: &FileName) -> Result<(), FileTrouble> {
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () if kind.is_dir() => "a directory",
        () => "a device",
    };
    Err(FileTrouble::Problem(FolderProblem {
        file: name.clone(),
        reason: "not_a_file",
        why: format!("it is {what}, not a file"),
        remedy: "remove it from the folder".into(),
        severity: ProblemSeverity::Warning,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_name() -> FileName {
        "it".into()
    }

    #[test]
    fn large_files_are_taken_only_as_crls() {
        let folder = tempfile::tempdir().unwrap();
        let big = vec![b'x'; usize::try_from(MAX_FILE_BYTES).unwrap() + 1];
        let at = |file: &str| folder.path().join(file);
        std::fs::write(at("a.pem"), &big).unwrap();
        std::fs::write(at("a.crl"), &big).unwrap();
        std::fs::write(at("b.pem"), [b"text\n-----BEGIN X509 CRL-----\n", &big[..]].concat()).unwrap();
        assert_eq!(read_regular_file(&at("a.pem"), &test_name()).err().unwrap().reason, "too_large");
        assert_eq!(read_regular_file(&at("a.crl"), &test_name()).unwrap().unwrap().bytes.len(), big.len());
        assert!(read_regular_file(&at("b.pem"), &test_name()).unwrap().unwrap().bytes.starts_with(b"text"));
    }

    #[test]
    fn a_crl_beyond_its_limit_is_refused_by_its_size_before_a_byte_of_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.crl");
        // A hole of that size: reading it would take as much memory.
        File::create(&path).unwrap().set_len(MAX_CRL_FILE_BYTES + 1).unwrap();
        let refused = read_regular_file(&path, &test_name()).err().unwrap();
        assert_eq!(refused.reason, "too_large");
        assert!(refused.why.contains(&MAX_CRL_FILE_BYTES.to_string()), "{}", refused.why);
    }

    #[test]
    fn other_things_than_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |file: &str| folder.path().join(file);
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        std::os::unix::fs::symlink("loop", at("loop")).unwrap();
        let reason = |file: &str| read_regular_file(&at(file), &test_name()).err().map(|problem| problem.reason);
        assert_eq!(reason("fifo"), Some("not_a_file"));
        assert_eq!(
            read_regular_file(Path::new("/dev/null"), &test_name()).err().unwrap().why,
            "it is a device, not a file"
        );
        assert_eq!(reason("dangling"), Some("dangling_link"));
        assert_eq!(reason("loop"), Some("link_loop"));
        assert!(read_regular_file(&at("missing"), &test_name()).unwrap().is_none());
    }
}
