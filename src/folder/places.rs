//! The directories whose changes matter, links followed to where they lead.
//!
//! A watch on a file, or on a link, goes deaf at the first swap; so only directories are watched, by their real paths,
//! and every link counts as one more name to watch in the directory that holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

/// More links than this on one path are a loop, as for the kernel.
const MAX_LINKS: usize = 40;

/// Directories by real path, each with what matters in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchPlaces(BTreeMap<PathBuf, PlaceInterest>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum PlaceInterest {
    Everything,
    Names(BTreeSet<OsString>),
}

impl WatchPlaces {
    /// Everything in this directory matters.
    pub fn add_directory(&mut self, path: &Path) {
        if let Ok(real) = fs::canonicalize(path) {
            self.0.insert(real, PlaceInterest::Everything);
        }
    }

    /// Whatever could make this path lead elsewhere: every link on the way, and its end. Where the path does not exist,
    /// the name that is missing.
    pub fn add_trail(&mut self, path: &Path) {
        walk_trail(path, |directory, name, found| -> Option<()> {
            if found.is_end || found.metadata.as_ref().map_or(true, fs::Metadata::is_symlink) {
                self.add_name(directory, name);
            }
            None
        });
    }

    fn add_name(&mut self, directory: &Path, name: &OsStr) {
        // A part that is missing makes all that follow it missing as well: their directory does not exist yet.
        if !directory.is_dir() {
            return;
        }
        match self.0.entry(directory.to_owned()).or_insert_with(|| PlaceInterest::Names(BTreeSet::new())) {
            PlaceInterest::Everything => {}
            PlaceInterest::Names(names) => drop(names.insert(name.to_owned())),
        }
    }

    /// Whether a change of this path matters.
    pub fn concerns(&self, path: &Path) -> bool {
        if self.0.contains_key(path) {
            return true;
        }
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return false };
        match self.0.get(directory) {
            Some(PlaceInterest::Everything) => true,
            Some(PlaceInterest::Names(names)) => names.contains(name),
            None => false,
        }
    }

    /// The directories.
    pub fn directories(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.keys()
    }
}

/// The first place on the way of this path, links followed, that cannot be looked up, and why.
pub(super) fn find_unreachable(path: &Path) -> Option<(PathBuf, io::Error)> {
    walk_trail(path, |directory, name, found| match found.metadata {
        // It is the folder above that may not be searched.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Some((directory.to_owned(), error)),
        Err(error) => Some((directory.join(name), error)),
        Ok(_) => None,
    })
}

/// One step of a walk.
struct TrailStep {
    /// What is there; links are not followed.
    metadata: io::Result<fs::Metadata>,
    /// No part of the path follows.
    is_end: bool,
}

/// Visits every part of a path with the folder that it is looked up in, links followed, until `visit` returns something. What is
/// missing is passed over; a link that cannot be read, or one too many, ends it.
fn walk_trail<T>(path: &Path, mut visit: impl FnMut(&Path, &OsStr, TrailStep) -> Option<T>) -> Option<T> {
    let mut at = PathBuf::from("/");
    let mut ahead: Vec<OsString> = reversed_components(path);
    let mut hops = 0;
    while let Some(part) = ahead.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let metadata = fs::symlink_metadata(&next);
        let is_link = metadata.as_ref().is_ok_and(fs::Metadata::is_symlink);
        if let Some(found) = visit(&at, &part, TrailStep { metadata, is_end: ahead.is_empty() }) {
            return Some(found);
        }
        if !is_link {
            at = next;
            continue;
        }
        hops += 1;
        let target = fs::read_link(&next).ok().filter(|_| hops <= MAX_LINKS)?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        ahead.extend(reversed_components(&target));
    }
    None
}

/// Whether a folder is one of the kernel's own file systems, without anything that was stored there: proc, sysfs, cgroups, debugfs, devpts.
pub(super) fn is_kernel_file_system(path: &Path) -> bool {
    const KINDS: [u64; 7] = [0x9fa0, 0x6265_6572, 0x0027_e0eb, 0x6367_7270, 0x6462_6720, 0x1cd1, 0x7472_6163];
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| KINDS.contains(&kind)))
}

/// The parts of a path, the last first; `/` and `.` left out.
fn reversed_components(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_trail_names_every_link_and_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir_all(base.join("live")).unwrap();
        fs::create_dir_all(base.join("archive/v1")).unwrap();
        fs::write(base.join("archive/v1/cert.pem"), "").unwrap();
        symlink("v1", base.join("archive/now")).unwrap();
        symlink("../archive/now/cert.pem", base.join("live/cert.pem")).unwrap();
        let mut places = WatchPlaces::default();
        places.add_trail(&base.join("live/cert.pem"));
        assert!(places.concerns(&base.join("live/cert.pem")));
        assert!(places.concerns(&base.join("archive/now")));
        assert!(places.concerns(&base.join("archive/v1/cert.pem")));
        assert!(!places.concerns(&base.join("archive/v1/other.pem")));
        assert!(!places.concerns(&base.join("archive/v2")));
    }

    #[test]
    fn a_missing_path_is_waited_for_where_it_would_appear() {
        let folder = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(folder.path()).unwrap();
        let mut places = WatchPlaces::default();
        places.add_trail(&base.join("a/b/c"));
        assert!(places.concerns(&base.join("a")));
        assert_eq!(places.directories().collect::<Vec<_>>(), [&base]);
    }

    #[test]
    fn a_link_loop_ends() {
        let folder = tempfile::tempdir().unwrap();
        symlink("loop", folder.path().join("loop")).unwrap();
        let mut places = WatchPlaces::default();
        places.add_trail(&folder.path().join("loop"));
        assert!(places.directories().count() > 0);
    }

    #[test]
    fn everything_outweighs_single_names() {
        let folder = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(folder.path()).unwrap();
        let mut places = WatchPlaces::default();
        places.add_trail(&base.join("a"));
        assert!(!places.concerns(&base.join("b")));
        places.add_directory(&base);
        places.add_trail(&base.join("a"));
        assert!(places.concerns(&base.join("b")));
    }
}
