//! Goes through the tree, shallow folders first: limits for each keyring, links, FIFOs; and reads every file of a keyring.
//!
//! A keyring with too much below it, as a mis-mounted volume or a link to `/` makes, costs itself and no other one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::digest::{self, sha256_of};
use super::places::{self, WatchPlaces};
use super::reading::{FolderPart, FolderReading, PartObservation, file_name};
use super::take::{FileContent, io_problem, read_regular_file};
use super::{DEFAULT_KEYRING, FolderContents, FolderSettings, NamedFile};
use crate::pki::blocks::{self, KeyMaterialKind, UnreadablePart};
use crate::pki::{FileName, FolderProblem, KeyMaterial, ProblemSeverity, join, printable};

/// How deep folders may lie in each other.
pub(super) const MAX_FOLDER_DEPTH: usize = 16;
/// How many files and folders of one keyring are looked at.
pub(super) const MAX_KEYRING_ENTRIES: usize = 8192;
/// How many of all keyrings together.
const MAX_FOLDER_ENTRIES: usize = 8 * MAX_KEYRING_ENTRIES;
/// How many bytes of one keyring's files are read: two CRLs of the largest size, or all else that a keyring may need.
pub(super) const MAX_KEYRING_BYTES: u64 = 128 * 1024 * 1024;

/// What was found of one keyring.
#[derive(Default)]
pub(super) struct FolderEntries {
    pub(super) files: Vec<(FileName, KeyMaterial)>,
    problems: Vec<FolderProblem>,
    /// Path and content of every file with key material and every password, for the digest.
    hashed: Vec<(PathBuf, [u8; 32])>,
    /// How many files and folders were looked at.
    entries: usize,
    bytes: u64,
    /// More than is read; reported.
    is_full: bool,
    /// What links lead to and cannot be reached; reported.
    unreachable: BTreeSet<PathBuf>,
}

pub(super) struct FolderWalk<'s> {
    pub(super) settings: &'s FolderSettings,
    former: &'s BTreeSet<FileName>,
    keyrings: BTreeMap<Arc<str>, FolderEntries>,
    pub(super) named: BTreeMap<PathBuf, NamedFile>,
    pub(super) named_digests: BTreeMap<PathBuf, [u8; 32]>,
    pub(super) problems: Vec<FolderProblem>,
    pub(super) places: WatchPlaces,
    entries: usize,
    /// Files that were deleted or replaced where they really lie.
    pub(super) detached: Vec<FileName>,
}

/// A folder that is to be visited.
struct PendingFolder {
    path: PathBuf,
    /// From the root.
    relative: PathBuf,
    /// `None` for the root only.
    keyring: Option<Arc<str>>,
    /// Device and inode of the folders above.
    above: Vec<(u64, u64)>,
}

impl<'s> FolderWalk<'s> {
    pub(super) fn new(settings: &'s FolderSettings, former: &'s BTreeSet<FileName>) -> Self {
        Self {
            settings,
            former,
            keyrings: BTreeMap::new(),
            named: BTreeMap::new(),
            named_digests: BTreeMap::new(),
            problems: Vec::new(),
            places: WatchPlaces::default(),
            entries: 0,
            detached: Vec::new(),
        }
    }

    /// Visits everything below the root, folder by folder, those nearest to the root first.
    pub(super) fn visit_folder(&mut self, root: &Path) {
        let root = PendingFolder { path: root.to_owned(), relative: PathBuf::new(), keyring: None, above: Vec::new() };
        let mut pending = VecDeque::from([root]);
        while let Some(folder) = pending.pop_front() {
            self.visit_entries(folder, &mut pending);
        }
    }

    fn visit_entries(&mut self, folder: PendingFolder, pending: &mut VecDeque<PendingFolder>) {
        let PendingFolder { path, relative, keyring, mut above } = folder;
        let counted = keyring.clone().unwrap_or_else(|| DEFAULT_KEYRING.into());
        if self.keyrings.get(&counted).is_some_and(|found| found.is_full) {
            return;
        }
        let listed = fs::metadata(&path).and_then(|metadata| Ok((file_identity(&metadata), fs::read_dir(&path)?)));
        let (identity, listed) = match listed {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.problems.push(io_problem(&file_name(&relative), &error)),
        };
        if above.contains(&identity) {
            let why = "the link leads back to a folder above it".to_owned();
            return self.skip_entry(&relative, "link_loop", why, "remove the link that leads back");
        }
        if above.len() >= MAX_FOLDER_DEPTH {
            let why = format!("it is nested more than {MAX_FOLDER_DEPTH} folders deep");
            return self.skip_entry(&relative, "too_deep", why, "move it further up");
        }
        if places::is_kernel_file_system(&path) {
            let why =
                "it is a file system of the kernel (proc, sysfs or the like), in which nothing is read".to_owned();
            return self.skip_entry(&relative, "kernel_file_system", why, "remove the link or mount that leads there");
        }
        self.places.add_directory(&path);
        let mut names = Vec::new();
        for entry in listed.take(MAX_FOLDER_ENTRIES) {
            match entry {
                Ok(entry) => names.push(entry.file_name()),
                Err(error) => self.problems.push(io_problem(&file_name(&relative), &error)),
            }
        }
        names.retain(|name| !is_passed_over(name));
        // Where there are too many, those that are named like key material are looked at first.
        names.sort_by_cached_key(|name| (!is_key_material(Path::new(name)), name.clone()));
        above.push(identity);
        for name in names {
            if !self.count_entry(&counted, keyring.as_ref()) {
                return;
            }
            self.visit_entry((&path.join(&name), relative.join(&name)), keyring.as_ref(), (&above, pending));
        }
    }

    /// Counts one entry of a keyring; `false`: no more are looked at.
    fn count_entry(&mut self, counted: &Arc<str>, keyring: Option<&Arc<str>>) -> bool {
        let found = self.keyrings.entry(Arc::clone(counted)).or_default();
        if found.entries < MAX_KEYRING_ENTRIES && self.entries < MAX_FOLDER_ENTRIES {
            (found.entries, self.entries) = (found.entries + 1, self.entries + 1);
            return true;
        }
        let why = if found.entries >= MAX_KEYRING_ENTRIES {
            format!("the folder holds more than {MAX_KEYRING_ENTRIES} entries; those that lie deepest are not read")
        } else {
            format!(
                "all keyrings together hold more than {MAX_FOLDER_ENTRIES} entries; the rest of this one is not read"
            )
        };
        self.report_full(counted, keyring, why);
        false
    }

    fn report_full(&mut self, counted: &Arc<str>, keyring: Option<&Arc<str>>, why: String) {
        let found = self.keyrings.entry(Arc::clone(counted)).or_default();
        found.is_full = true;
        found.problems.push(FolderProblem {
            file: keyring.map_or_else(|| ".".into(), Arc::clone),
            reason: "too_many",
            why,
            remedy: "keep only key material in it: look for a mis-mounted volume or a link that leads out of it".into(),
            severity: ProblemSeverity::Refused,
        });
    }

    fn visit_entry(
        &mut self,
        (path, relative): (&Path, PathBuf),
        keyring: Option<&Arc<str>>,
        (above, pending): (&[(u64, u64)], &mut VecDeque<PendingFolder>),
    ) {
        if self.is_named(&relative) {
            return;
        }
        if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
            self.places.add_trail(path);
        }
        // A path that cannot be read is left to `visit_file`, which reports why.
        if fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
            let keyring = keyring.cloned().unwrap_or_else(|| Arc::from(&*file_name(&relative)));
            let (path, above) = (path.to_owned(), above.to_vec());
            pending.push_back(PendingFolder { path, relative, keyring: Some(keyring), above });
        } else {
            let keyring = keyring.cloned().unwrap_or_else(|| DEFAULT_KEYRING.into());
            self.visit_file(path, &relative, &keyring);
        }
    }

    fn visit_file(&mut self, path: &Path, relative: &Path, keyring: &Arc<str>) {
        let name = file_name(relative);
        if self.keyring_files(keyring).is_full {
            return;
        }
        let taken = match read_regular_file(path, &name) {
            Ok(Some(taken)) => taken,
            Ok(None) => return,
            Err(problem) => return self.report_unreachable(path, keyring, problem),
        };
        self.note_detached(&name, &taken);
        let password =
            if is_pkcs12(relative, &taken.bytes) { self.read_password(path, relative, keyring) } else { None };
        let mut read = blocks::read(&taken.bytes, password.as_ref().map(|password| password.as_str()));
        if read.is_empty() && (is_key_material(relative) || self.former.contains(&name)) {
            read.unreadable.extend(blocks::recognize_foreign(&taken.bytes));
        }
        let strict = self.settings.strict_permissions;
        let found = self.keyring_files(keyring);
        found.bytes = found.bytes.saturating_add(taken.bytes.len() as u64);
        let is_full = found.bytes > MAX_KEYRING_BYTES;
        if !read.is_empty() {
            found.hashed.push((relative.to_owned(), sha256_of(&[&taken.bytes])));
            if !read.keys.is_empty() && taken.readable_by_others {
                if strict {
                    read.keys.clear();
                    read.unreadable.push(exposed_key());
                } else {
                    found.problems.push(exposed_problem(name.clone()));
                }
            }
            found.files.push((name, read));
        }
        if is_full {
            let why = format!("its files have more than {MAX_KEYRING_BYTES} bytes; the rest is not read");
            self.report_full(keyring, Some(keyring), why);
        }
    }

    /// Several links may lead to the same place that cannot be reached: it is named, once.
    fn report_unreachable(&mut self, path: &Path, keyring: &Arc<str>, mut problem: FolderProblem) {
        let found = self.keyring_files(keyring);
        if matches!(problem.reason, "dangling_link" | "unreadable")
            && let Some((target, error)) = places::find_unreachable(path)
        {
            if !found.unreachable.insert(target.clone()) {
                return;
            }
            if target != path {
                let what = match error.kind() {
                    std::io::ErrorKind::NotFound => "which does not exist".to_owned(),
                    _ => format!("which cannot be read: {error}"),
                };
                problem.why = format!("it leads to {}, {what}", printable(&target.to_string_lossy()));
            }
        }
        found.problems.push(problem);
    }

    pub(super) fn note_detached(&mut self, name: &FileName, taken: &FileContent) {
        if taken.detached {
            self.detached.push(name.clone());
        }
    }

    /// One warning, however many files there are.
    pub(super) fn report_detached(&mut self) {
        self.detached.sort();
        let Some(first) = self.detached.first().cloned() else { return };
        let names: Vec<String> = self.detached.iter().map(ToString::to_string).collect();
        self.problems.push(FolderProblem {
            file: first,
            reason: "mounted_file",
            why: format!(
                "the link count is 0: what is mounted here was replaced or deleted where it really lies, which cannot be \
                 seen from here, so that a renewal goes unnoticed ({})",
                crate::pki::first_few(&names, 8)
            ),
            remedy: "mount the folder that holds it, not the single file, and restart".into(),
            severity: ProblemSeverity::Warning,
        });
    }

    /// `NAME.p12.pass` beside the file, else the keyring's password file.
    pub(super) fn read_password(
        &mut self,
        path: &Path,
        relative: &Path,
        keyring: &Arc<str>,
    ) -> Option<Zeroizing<String>> {
        let beside = |of: &Path| PathBuf::from([of.as_os_str(), OsStr::new(".pass")].join(OsStr::new("")));
        let mut places = vec![(beside(path), file_name(&beside(relative)))];
        if let Some(configured) = self.settings.pkcs12_passwords.get(keyring) {
            places.push((configured.clone(), printable(&configured.to_string_lossy()).into()));
            self.places.add_trail(configured);
        }
        for (path, name) in places {
            match read_regular_file(&path, &name) {
                Ok(None) => {}
                Ok(Some(taken)) => {
                    let found = self.keyring_files(keyring);
                    found.hashed.push((path, sha256_of(&[&taken.bytes])));
                    match blocks::read_password(&taken.bytes) {
                        Ok(password) => return Some(password),
                        Err(_) => found.problems.push(FolderProblem {
                            file: name,
                            reason: "password_not_text",
                            why: "the password is not UTF-8".into(),
                            remedy: "write the password as UTF-8 text".into(),
                            severity: ProblemSeverity::Refused,
                        }),
                    }
                }
                Err(problem) => self.keyring_files(keyring).problems.push(problem),
            }
        }
        None
    }

    pub(super) fn keyring_files(&mut self, keyring: &Arc<str>) -> &mut FolderEntries {
        self.keyrings.entry(Arc::clone(keyring)).or_default()
    }

    fn skip_entry(&mut self, relative: &Path, reason: &'static str, why: String, remedy: &str) {
        let (file, remedy, severity) = (file_name(relative), remedy.into(), ProblemSeverity::Warning);
        self.problems.push(FolderProblem { file, reason, why, remedy, severity });
    }

    pub(super) fn into_reading(mut self, missing: Option<String>) -> FolderReading {
        let mut parts = BTreeMap::new();
        let mut keyrings = BTreeMap::new();
        for (keyring, found) in self.keyrings {
            // A folder of which nothing could be read is not a keyring; the reason goes where operators look for it.
            if found.files.is_empty()
                && !found.problems.iter().any(|problem| problem.severity == ProblemSeverity::Incomplete)
            {
                self.problems.extend(found.problems);
                continue;
            }
            let FolderEntries { files, problems, hashed, .. } = found;
            let mut joined = join::join(files);
            joined.problems.extend(problems);
            joined.problems.sort_by(|one, other| (&one.file, one.reason).cmp(&(&other.file, other.reason)));
            parts.insert(FolderPart::Keyring(keyring.clone()), digest::digest_keyring(&joined, hashed));
            keyrings.insert(keyring, joined);
        }
        for (path, file) in &self.named {
            let problem = file.problem.as_deref().unwrap_or_default();
            let digest = sha256_of(&[&self.named_digests[path], problem.as_bytes()]);
            parts.insert(FolderPart::Named(path.clone()), PartObservation { digest, complete: file.problem.is_none() });
        }
        self.problems.sort_by(|one, other| (&one.file, one.reason).cmp(&(&other.file, other.reason)));
        parts.insert(FolderPart::Folder, digest::digest_folder(&self.problems));
        let digest = digest::digest_parts(parts.iter().map(|(part, seen)| (part, seen.digest, false)));
        let contents = FolderContents { keyrings, named: self.named, problems: self.problems, digest };
        FolderReading { contents, missing, parts, places: self.places }
    }
}

fn file_identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Names that begin with a dot (`..data` is only followed), editors' backups, and what file systems put there.
fn is_passed_over(name: &OsString) -> bool {
    let name = name.as_bytes();
    name.starts_with(b".") || name.ends_with(b"~") || name == b"lost+found"
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|has| extensions.iter().any(|extension| has.eq_ignore_ascii_case(extension)))
}

fn is_pkcs12(path: &Path, bytes: &[u8]) -> bool {
    has_extension(path, &["p12", "pfx"]) || blocks::detect_kind(bytes) == KeyMaterialKind::Pkcs12
}

/// A file whose extension promises key material. A README that is empty, or holds prose, is just that.
fn is_key_material(path: &Path) -> bool {
    has_extension(path, &["pem", "crt", "cer", "cert", "der", "key", "p12", "pfx", "crl"])
}

/// A private key that `strict_permissions` refuses.
fn exposed_key() -> UnreadablePart {
    UnreadablePart {
        reason: "permissions",
        why: "its private key is readable by every user, and strict_permissions is set".into(),
        remedy: "chmod o-r FILE".into(),
        incomplete: false,
        keystore: false,
        hides_key: true,
    }
}

fn exposed_problem(file: FileName) -> FolderProblem {
    FolderProblem {
        file,
        reason: "permissions",
        why: "its private key is readable by every user".into(),
        remedy: "chmod o-r".into(),
        severity: ProblemSeverity::Warning,
    }
}
