//! Walks the tree and reads it whole, blocking: limits, links, modes, FIFOs. Run it off the runtime.
//!
//! It reports what is there and whether it is complete; since when that is so, and what follows, is for `settle`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::digest::{self, sha256_of};
use super::places::WatchPlaces;
use super::reading::{FolderPart, PartObservation, refuse_incomplete};
use super::take::{io_problem, read_regular_file};
use super::{DEFAULT_KEYRING, FolderContents, FolderSettings, NamedFile};
use crate::pki::blocks::{self, KeyMaterialKind};
use crate::pki::{FileName, FolderProblem, KeyMaterial, ProblemSeverity, join, printable};

pub use super::reading::FolderReading;

/// How deep folders may lie in each other.
const MAX_FOLDER_DEPTH: usize = 16;
/// How many files and folders are looked at.
const MAX_FOLDER_ENTRIES: usize = 8192;

/// Reads the folder once. Never blocks on a FIFO or device, never follows a link loop; what it skips is a problem with a
/// reason. A folder that cannot be read is a problem too, with everything else empty and `missing` set.
pub fn read_folder(settings: &FolderSettings) -> FolderReading {
    read_folder_with(settings, Vec::new())
}

/// The same, as if these files lay in the folder too, each in its keyring.
fn read_folder_with(settings: &FolderSettings, extra: Vec<(Arc<str>, FileName, KeyMaterial)>) -> FolderReading {
    let mut walk = FolderWalk::new(settings);
    extra.into_iter().for_each(|(keyring, name, blocks)| walk.keyring_files(keyring).files.push((name, blocks)));
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
        walk.visit_directory(&settings.root, Path::new(""), None);
        for path in &settings.named {
            walk.read_named(path);
        }
    }
    walk.into_reading(missing)
}

/// Reads the folder once and takes it as final: what is incomplete is refused. For `sidekey check`.
pub fn read_final(settings: &FolderSettings) -> FolderContents {
    read_final_with(settings, Vec::new())
}

/// The same, as if these files lay in the folder too, each in its keyring: what would come of dropping them.
pub fn read_final_with(settings: &FolderSettings, extra: Vec<(Arc<str>, FileName, KeyMaterial)>) -> FolderContents {
    let mut contents = read_folder_with(settings, extra).contents;
    let of_keyrings = contents.keyrings.values_mut().flat_map(|joined| &mut joined.problems);
    of_keyrings.chain(&mut contents.problems).for_each(refuse_incomplete);
    contents
}

/// What was found of one keyring.
#[derive(Default)]
struct FolderEntries {
    files: Vec<(FileName, KeyMaterial)>,
    problems: Vec<FolderProblem>,
    /// Path and content of every file with key material and every password, for the digest.
    hashed: Vec<(PathBuf, [u8; 32])>,
}

struct FolderWalk<'s> {
    settings: &'s FolderSettings,
    keyrings: BTreeMap<Arc<str>, FolderEntries>,
    named: BTreeMap<PathBuf, NamedFile>,
    named_digests: BTreeMap<PathBuf, [u8; 32]>,
    problems: Vec<FolderProblem>,
    places: WatchPlaces,
    /// Device and inode of the folders above.
    above: Vec<(u64, u64)>,
    entries: usize,
}

impl<'s> FolderWalk<'s> {
    fn new(settings: &'s FolderSettings) -> Self {
        Self {
            settings,
            keyrings: BTreeMap::new(),
            named: BTreeMap::new(),
            named_digests: BTreeMap::new(),
            problems: Vec::new(),
            places: WatchPlaces::default(),
            above: Vec::new(),
            entries: 0,
        }
    }

    /// `relative` is from the root; `keyring` is `None` for the root only.
    fn visit_directory(&mut self, path: &Path, relative: &Path, keyring: Option<&Arc<str>>) {
        let listed = fs::metadata(path).and_then(|metadata| Ok((file_identity(&metadata), fs::read_dir(path)?)));
        let (identity, listed) = match listed {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.problems.push(io_problem(&file_name(relative), &error)),
        };
        if self.above.contains(&identity) {
            let why = "the link leads back to a folder above it".to_owned();
            return self.skip_entry(relative, "link_loop", why, "remove the link that leads back");
        }
        if self.above.len() >= MAX_FOLDER_DEPTH {
            let why = format!("it is nested more than {MAX_FOLDER_DEPTH} folders deep");
            return self.skip_entry(relative, "too_deep", why, "move it further up");
        }
        self.places.add_directory(path);
        let mut names = Vec::new();
        for entry in listed {
            match entry {
                Ok(entry) => names.push(entry.file_name()),
                Err(error) => self.problems.push(io_problem(&file_name(relative), &error)),
            }
            // One entry more than are looked at, so that `entry` reports it.
            if names.len() + self.entries > MAX_FOLDER_ENTRIES {
                break;
            }
        }
        names.sort();
        self.above.push(identity);
        for name in names.iter().filter(|name| !is_passed_over(name)) {
            if !self.visit_entry(&path.join(name), &relative.join(name), keyring) {
                break;
            }
        }
        self.above.pop();
    }

    /// One name of a folder. `false`: there are too many.
    fn visit_entry(&mut self, path: &Path, relative: &Path, keyring: Option<&Arc<str>>) -> bool {
        if self.entries == MAX_FOLDER_ENTRIES {
            let why = format!(
                "the folder holds more than {MAX_FOLDER_ENTRIES} entries; the entries from here on are ignored"
            );
            self.skip_entry(relative, "too_many", why, "keep only key material in it");
        }
        self.entries += 1;
        if self.entries > MAX_FOLDER_ENTRIES {
            return false;
        }
        if self.is_named(relative) {
            return true;
        }
        if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
            self.places.add_trail(path);
        }
        // A path that cannot be read is left to `file`, which reports why.
        if fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
            let own;
            let keyring = match keyring {
                Some(keyring) => keyring,
                None => {
                    own = Arc::from(&*file_name(relative));
                    &own
                }
            };
            self.visit_directory(path, relative, Some(keyring));
        } else {
            let keyring = keyring.cloned().unwrap_or_else(|| DEFAULT_KEYRING.into());
            self.visit_file(path, relative, keyring);
        }
        true
    }

    fn visit_file(&mut self, path: &Path, relative: &Path, keyring: Arc<str>) {
        let name = file_name(relative);
        let taken = match read_regular_file(path, &name) {
            Ok(Some(taken)) => taken,
            Ok(None) => return,
            Err(problem) => return self.keyring_files(keyring).problems.push(problem),
        };
        if taken.bytes.is_empty() {
            if is_key_material(relative) {
                self.keyring_files(keyring).problems.push(empty_problem(name));
            }
            return;
        }
        let password =
            if is_pkcs12(relative, &taken.bytes) { self.read_password(path, relative, &keyring) } else { None };
        let mut read = blocks::read(&taken.bytes, password.as_ref().map(|password| password.as_str()));
        let strict = self.settings.strict_permissions;
        let found = self.keyring_files(keyring);
        if is_material(&read) {
            found.hashed.push((relative.to_owned(), sha256_of(&[&taken.bytes])));
            if !read.keys.is_empty() && taken.readable_by_others {
                found.problems.push(exposed_problem(name.clone(), strict));
                if strict {
                    read.keys.clear();
                }
            }
            found.files.push((name, read));
        }
    }

    /// `NAME.p12.pass` beside the file, else the keyring's password file; one line end at the end is not part of it.
    fn read_password(&mut self, path: &Path, relative: &Path, keyring: &Arc<str>) -> Option<Zeroizing<String>> {
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
                    let found = self.keyring_files(keyring.clone());
                    found.hashed.push((path, sha256_of(&[&taken.bytes])));
                    match std::str::from_utf8(&taken.bytes) {
                        Ok(text) => return Some(Zeroizing::new(blocks::trim_password(text).to_owned())),
                        Err(_) => found.problems.push(FolderProblem {
                            file: name,
                            reason: "password_not_text",
                            why: "the password is not UTF-8".into(),
                            remedy: "write the password as UTF-8 text".into(),
                            severity: ProblemSeverity::Refused,
                        }),
                    }
                }
                Err(problem) => self.keyring_files(keyring.clone()).problems.push(problem),
            }
        }
        None
    }

    /// A file that the configuration names, wherever it lies.
    fn read_named(&mut self, relative: &Path) {
        let (path, name) = (self.settings.root.join(relative), file_name(relative));
        self.places.add_trail(&path);
        let (mut file, mut digest) = (NamedFile::default(), [0; 32]);
        match read_regular_file(&path, &name) {
            Ok(None) => file.problem = Some(format!("{name} is missing: add this file")),
            Err(problem) => file.problem = Some(format!("{name}: {}; {}", problem.why, problem.remedy)),
            Ok(Some(taken)) => {
                digest = sha256_of(&[&taken.bytes]);
                let read = blocks::read(&taken.bytes, None);
                let cut_off = read.unreadable.iter().find(|unreadable| unreadable.incomplete);
                // A file that is cut off may have held more: to take what is left would remove the rest.
                if let Some(cut_off) = cut_off {
                    file.problem = Some(format!("{name}: {}; {}", cut_off.why, cut_off.remedy_for(&name)));
                } else if read.certificates.is_empty() && read.crls.is_empty() {
                    file.problem = Some(match read.unreadable.first() {
                        Some(unreadable) => format!("{name}: {}; {}", unreadable.why, unreadable.remedy_for(&name)),
                        None => format!("{name} contains neither a certificate nor a CRL: add one"),
                    });
                } else {
                    self.report_named_leftovers(&name, &read);
                    file.certificates = read.certificates;
                    file.crls = read.crls;
                }
            }
        }
        self.named.insert(relative.to_owned(), file);
        self.named_digests.insert(relative.to_owned(), digest);
    }

    /// What a named file holds beside what it is named for.
    fn report_named_leftovers(&mut self, name: &FileName, read: &KeyMaterial) {
        self.problems.extend(read.unreadable.iter().map(|unreadable| FolderProblem {
            file: name.clone(),
            reason: unreadable.reason,
            why: unreadable.why.clone(),
            remedy: unreadable.remedy_for(name),
            severity: ProblemSeverity::Refused,
        }));
        if !read.keys.is_empty() {
            self.problems.push(FolderProblem {
                file: name.clone(),
                reason: "key_in_named_file",
                why: "it contains a private key, but the configuration names it for its certificates".into(),
                remedy: "remove the key from it".into(),
                severity: ProblemSeverity::Warning,
            });
        }
    }

    fn keyring_files(&mut self, keyring: Arc<str>) -> &mut FolderEntries {
        self.keyrings.entry(keyring).or_default()
    }

    fn skip_entry(&mut self, relative: &Path, reason: &'static str, why: String, remedy: &str) {
        let (file, remedy, severity) = (file_name(relative), remedy.into(), ProblemSeverity::Warning);
        self.problems.push(FolderProblem { file, reason, why, remedy, severity });
    }

    fn is_named(&self, relative: &Path) -> bool {
        // `./a` and `a` are one file.
        let plain = |path: &Path| path.components().filter(|part| *part != Component::CurDir).collect::<PathBuf>();
        self.settings.named.contains(relative) || self.settings.named.iter().any(|named| plain(named) == relative)
    }

    fn into_reading(mut self, missing: Option<String>) -> FolderReading {
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
            let FolderEntries { files, problems, hashed } = found;
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

fn file_name(relative: &Path) -> FileName {
    if relative.as_os_str().is_empty() { ".".into() } else { printable(&relative.to_string_lossy()).into() }
}

/// Names that begin with a dot (`..data` is only followed), editors' backups, and what file systems put there.
fn is_passed_over(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b".") || name.ends_with(b"~") || name == b"lost+found"
}

fn is_material(read: &KeyMaterial) -> bool {
    !(read.certificates.is_empty() && read.keys.is_empty() && read.crls.is_empty() && read.unreadable.is_empty())
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|has| extensions.iter().any(|extension| has.eq_ignore_ascii_case(extension)))
}

fn is_pkcs12(path: &Path, bytes: &[u8]) -> bool {
    has_extension(path, &["p12", "pfx"]) || blocks::detect_kind(bytes) == KeyMaterialKind::Pkcs12
}

/// A file whose extension promises key material: empty, it is half-written. An empty README is just that.
fn is_key_material(path: &Path) -> bool {
    has_extension(path, &["pem", "crt", "cer", "cert", "der", "key", "p12", "pfx", "crl"])
}

fn empty_problem(file: FileName) -> FolderProblem {
    FolderProblem {
        file,
        reason: "empty",
        why: "it is empty".into(),
        remedy: "write the complete file or remove it".into(),
        severity: ProblemSeverity::Incomplete,
    }
}

fn exposed_problem(file: FileName, strict: bool) -> FolderProblem {
    let (why, severity) = if strict {
        ("its private key is readable by every user, and strict_permissions is set", ProblemSeverity::Refused)
    } else {
        ("its private key is readable by every user", ProblemSeverity::Warning)
    };
    FolderProblem { file, reason: "permissions", why: why.into(), remedy: "chmod o-r".into(), severity }
}

#[cfg(test)]
mod tests;
