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

use super::digest::{self, sha256};
use super::places::Places;
use super::settle::{Part, Seen};
use super::take::{io_problem, take};
use super::{Contents, DEFAULT_KEYRING, NamedFile, Settings};
use crate::pki::blocks::{self, Kind};
use crate::pki::{Blocks, FileName, Problem, Severity, join, printable};

/// How deep folders may lie in each other.
const DEPTH: usize = 16;
/// How many files and folders are looked at.
const ENTRIES: usize = 8192;

/// Reads the folder once. Never blocks on a FIFO or device, never follows a link loop; what it skips is a problem with a
/// reason. A folder that cannot be read is a problem too, with everything else empty and `missing` set.
pub fn read(settings: &Settings) -> Reading {
    read_with(settings, Vec::new())
}

/// The same, as if these files lay in the folder too, each in its keyring.
fn read_with(settings: &Settings, extra: Vec<(Arc<str>, FileName, Blocks)>) -> Reading {
    let mut walk = Walk::new(settings);
    extra.into_iter().for_each(|(keyring, name, blocks)| walk.found(keyring).files.push((name, blocks)));
    walk.places.trail(&settings.root);
    let missing = match fs::read_dir(&settings.root) {
        Ok(_) => None,
        Err(error) => Some(format!("folder {} cannot be read: {error}", printable(&settings.root.to_string_lossy()))),
    };
    if let Some(why) = &missing {
        walk.problems.push(Problem {
            file: ".".into(),
            reason: "folder_missing",
            why: why.clone(),
            remedy: "mount or create it; the key pairs in use stay".into(),
            severity: Severity::Incomplete,
        });
    } else {
        walk.directory(&settings.root, Path::new(""), None);
        for path in &settings.named {
            walk.named(path);
        }
    }
    walk.finish(missing)
}

/// Reads the folder once and takes it as final: what is incomplete is refused. For `sidekey check`.
pub fn read_once(settings: &Settings) -> Contents {
    read_once_with(settings, Vec::new())
}

/// The same, as if these files lay in the folder too, each in its keyring: what would come of dropping them.
pub fn read_once_with(settings: &Settings, extra: Vec<(Arc<str>, FileName, Blocks)>) -> Contents {
    let mut contents = read_with(settings, extra).contents;
    let of_keyrings = contents.keyrings.values_mut().flat_map(|joined| &mut joined.problems);
    of_keyrings.chain(&mut contents.problems).for_each(super::settle::refuse);
    contents
}

/// One reading.
pub struct Reading {
    /// What is there.
    pub contents: Contents,
    /// The folder itself is missing or unreadable: never a removal of anything.
    pub missing: Option<String>,
    /// What settles on its own: digest, and whether it is whole.
    pub parts: BTreeMap<Part, Seen>,
    /// Where a change would matter.
    pub places: Places,
}

/// What was found of one keyring.
#[derive(Default)]
struct Found {
    files: Vec<(FileName, Blocks)>,
    problems: Vec<Problem>,
    /// Path and content of every file with key material and every password, for the digest.
    hashed: Vec<(PathBuf, [u8; 32])>,
}

struct Walk<'s> {
    settings: &'s Settings,
    keyrings: BTreeMap<Arc<str>, Found>,
    named: BTreeMap<PathBuf, NamedFile>,
    named_digests: BTreeMap<PathBuf, [u8; 32]>,
    problems: Vec<Problem>,
    places: Places,
    /// Device and inode of the folders above.
    above: Vec<(u64, u64)>,
    entries: usize,
}

impl<'s> Walk<'s> {
    fn new(settings: &'s Settings) -> Self {
        Self {
            settings,
            keyrings: BTreeMap::new(),
            named: BTreeMap::new(),
            named_digests: BTreeMap::new(),
            problems: Vec::new(),
            places: Places::default(),
            above: Vec::new(),
            entries: 0,
        }
    }

    /// `relative` is from the root; `keyring` is `None` for the root only.
    fn directory(&mut self, path: &Path, relative: &Path, keyring: Option<&Arc<str>>) {
        let listed = fs::metadata(path).and_then(|metadata| Ok((identity(&metadata), fs::read_dir(path)?)));
        let (identity, listed) = match listed {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.problems.push(io_problem(&file_name(relative), &error)),
        };
        if self.above.contains(&identity) {
            let why = "the link leads back to a folder above it".to_owned();
            return self.skip(relative, "link_loop", why, "remove the link that leads back");
        }
        if self.above.len() >= DEPTH {
            let why = format!("it is nested more than {DEPTH} folders deep");
            return self.skip(relative, "too_deep", why, "move it further up");
        }
        self.places.directory(path);
        let mut names = Vec::new();
        for entry in listed {
            match entry {
                Ok(entry) => names.push(entry.file_name()),
                Err(error) => self.problems.push(io_problem(&file_name(relative), &error)),
            }
            // One entry more than are looked at, so that `entry` reports it.
            if names.len() + self.entries > ENTRIES {
                break;
            }
        }
        names.sort();
        self.above.push(identity);
        for name in names.iter().filter(|name| !is_passed_over(name)) {
            if !self.entry(&path.join(name), &relative.join(name), keyring) {
                break;
            }
        }
        self.above.pop();
    }

    /// One name of a folder. `false`: there are too many.
    fn entry(&mut self, path: &Path, relative: &Path, keyring: Option<&Arc<str>>) -> bool {
        if self.entries == ENTRIES {
            let why = format!("the folder holds more than {ENTRIES} entries; the entries from here on are ignored");
            self.skip(relative, "too_many", why, "keep only key material in it");
        }
        self.entries += 1;
        if self.entries > ENTRIES {
            return false;
        }
        if self.is_named(relative) {
            return true;
        }
        if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
            self.places.trail(path);
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
            self.directory(path, relative, Some(keyring));
        } else {
            let keyring = keyring.cloned().unwrap_or_else(|| DEFAULT_KEYRING.into());
            self.file(path, relative, keyring);
        }
        true
    }

    fn file(&mut self, path: &Path, relative: &Path, keyring: Arc<str>) {
        let name = file_name(relative);
        let taken = match take(path, &name) {
            Ok(Some(taken)) => taken,
            Ok(None) => return,
            Err(problem) => return self.found(keyring).problems.push(problem),
        };
        if taken.bytes.is_empty() {
            if is_key_material(relative) {
                self.found(keyring).problems.push(empty(name));
            }
            return;
        }
        let password = if is_pkcs12(relative, &taken.bytes) { self.password(path, relative, &keyring) } else { None };
        let mut read = blocks::read(&taken.bytes, password.as_ref().map(|password| password.as_str()));
        let strict = self.settings.strict_permissions;
        let found = self.found(keyring);
        if is_material(&read) {
            found.hashed.push((relative.to_owned(), sha256(&[&taken.bytes])));
            if !read.keys.is_empty() && taken.readable_by_others {
                found.problems.push(exposed(name.clone(), strict));
                if strict {
                    read.keys.clear();
                }
            }
            found.files.push((name, read));
        }
    }

    /// `NAME.p12.pass` beside the file, else the keyring's password file; one line end at the end is not part of it.
    fn password(&mut self, path: &Path, relative: &Path, keyring: &Arc<str>) -> Option<Zeroizing<String>> {
        let beside = |of: &Path| PathBuf::from([of.as_os_str(), OsStr::new(".pass")].join(OsStr::new("")));
        let mut places = vec![(beside(path), file_name(&beside(relative)))];
        if let Some(configured) = self.settings.pkcs12_passwords.get(keyring) {
            places.push((configured.clone(), printable(&configured.to_string_lossy()).into()));
            self.places.trail(configured);
        }
        for (path, name) in places {
            match take(&path, &name) {
                Ok(None) => {}
                Ok(Some(taken)) => {
                    let found = self.found(keyring.clone());
                    found.hashed.push((path, sha256(&[&taken.bytes])));
                    match std::str::from_utf8(&taken.bytes) {
                        Ok(text) => return Some(Zeroizing::new(blocks::password(text).to_owned())),
                        Err(_) => found.problems.push(Problem {
                            file: name,
                            reason: "password_not_text",
                            why: "the password is not UTF-8".into(),
                            remedy: "write the password as UTF-8 text".into(),
                            severity: Severity::Refused,
                        }),
                    }
                }
                Err(problem) => self.found(keyring.clone()).problems.push(problem),
            }
        }
        None
    }

    /// A file that the configuration names, wherever it lies.
    fn named(&mut self, relative: &Path) {
        let (path, name) = (self.settings.root.join(relative), file_name(relative));
        self.places.trail(&path);
        let (mut file, mut digest) = (NamedFile::default(), [0; 32]);
        match take(&path, &name) {
            Ok(None) => file.problem = Some(format!("{name} is missing: add this file")),
            Err(problem) => file.problem = Some(format!("{name}: {}; {}", problem.why, problem.remedy)),
            Ok(Some(taken)) => {
                digest = sha256(&[&taken.bytes]);
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
                    self.named_leftovers(&name, &read);
                    file.certificates = read.certificates;
                    file.crls = read.crls;
                }
            }
        }
        self.named.insert(relative.to_owned(), file);
        self.named_digests.insert(relative.to_owned(), digest);
    }

    /// What a named file holds beside what it is named for.
    fn named_leftovers(&mut self, name: &FileName, read: &Blocks) {
        self.problems.extend(read.unreadable.iter().map(|unreadable| Problem {
            file: name.clone(),
            reason: unreadable.reason,
            why: unreadable.why.clone(),
            remedy: unreadable.remedy_for(name),
            severity: Severity::Refused,
        }));
        if !read.keys.is_empty() {
            self.problems.push(Problem {
                file: name.clone(),
                reason: "key_in_named_file",
                why: "it contains a private key, but the configuration names it for its certificates".into(),
                remedy: "remove the key from it".into(),
                severity: Severity::Warning,
            });
        }
    }

    fn found(&mut self, keyring: Arc<str>) -> &mut Found {
        self.keyrings.entry(keyring).or_default()
    }

    fn skip(&mut self, relative: &Path, reason: &'static str, why: String, remedy: &str) {
        let (file, remedy, severity) = (file_name(relative), remedy.into(), Severity::Warning);
        self.problems.push(Problem { file, reason, why, remedy, severity });
    }

    fn is_named(&self, relative: &Path) -> bool {
        // `./a` and `a` are one file.
        let plain = |path: &Path| path.components().filter(|part| *part != Component::CurDir).collect::<PathBuf>();
        self.settings.named.contains(relative) || self.settings.named.iter().any(|named| plain(named) == relative)
    }

    fn finish(mut self, missing: Option<String>) -> Reading {
        let mut parts = BTreeMap::new();
        let mut keyrings = BTreeMap::new();
        for (keyring, found) in self.keyrings {
            // A folder of which nothing could be read is not a keyring; the reason goes where operators look for it.
            if found.files.is_empty() && !found.problems.iter().any(|problem| problem.severity == Severity::Incomplete)
            {
                self.problems.extend(found.problems);
                continue;
            }
            let Found { files, problems, hashed } = found;
            let mut joined = join::join(files);
            joined.problems.extend(problems);
            joined.problems.sort_by(|one, other| (&one.file, one.reason).cmp(&(&other.file, other.reason)));
            parts.insert(Part::Keyring(keyring.clone()), digest::keyring(&joined, hashed));
            keyrings.insert(keyring, joined);
        }
        for (path, file) in &self.named {
            let problem = file.problem.as_deref().unwrap_or_default();
            let digest = sha256(&[&self.named_digests[path], problem.as_bytes()]);
            parts.insert(Part::Named(path.clone()), Seen { digest, complete: file.problem.is_none() });
        }
        self.problems.sort_by(|one, other| (&one.file, one.reason).cmp(&(&other.file, other.reason)));
        parts.insert(Part::Folder, digest::folder(&self.problems));
        let digest = digest::parts(parts.iter().map(|(part, seen)| (part, seen.digest, false)));
        let contents = Contents { keyrings, named: self.named, problems: self.problems, digest };
        Reading { contents, missing, parts, places: self.places }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
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

fn is_material(read: &Blocks) -> bool {
    !(read.certificates.is_empty() && read.keys.is_empty() && read.crls.is_empty() && read.unreadable.is_empty())
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|has| extensions.iter().any(|extension| has.eq_ignore_ascii_case(extension)))
}

fn is_pkcs12(path: &Path, bytes: &[u8]) -> bool {
    has_extension(path, &["p12", "pfx"]) || blocks::kind(bytes) == Kind::Pkcs12
}

/// A file whose extension promises key material: empty, it is half-written. An empty README is just that.
fn is_key_material(path: &Path) -> bool {
    has_extension(path, &["pem", "crt", "cer", "cert", "der", "key", "p12", "pfx", "crl"])
}

fn empty(file: FileName) -> Problem {
    Problem {
        file,
        reason: "empty",
        why: "it is empty".into(),
        remedy: "write the complete file or remove it".into(),
        severity: Severity::Incomplete,
    }
}

fn exposed(file: FileName, strict: bool) -> Problem {
    let (why, severity) = if strict {
        ("its private key is readable by every user, and strict_permissions is set", Severity::Refused)
    } else {
        ("its private key is readable by every user", Severity::Warning)
    };
    Problem { file, reason: "permissions", why: why.into(), remedy: "chmod o-r".into(), severity }
}

#[cfg(test)]
mod tests;
