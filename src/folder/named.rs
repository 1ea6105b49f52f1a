//! The files that the configuration names: trust anchors, CRLs, certificates of partners, wherever they lie.

use std::path::{Component, Path, PathBuf};

use super::NamedFile;
use super::digest::sha256_of;
use super::reading::file_name;
use super::take::read_regular_file;
use super::walk::FolderWalk;
use crate::pki::blocks;
use crate::pki::{FileName, FolderProblem, KeyMaterial, ProblemSeverity};

impl FolderWalk<'_> {
    /// Reads one of them.
    pub(super) fn read_named(&mut self, relative: &Path) {
        let (path, name) = (self.settings.root.join(relative), file_name(relative));
        self.places.add_trail(&path);
        let (mut file, mut digest) = (NamedFile::default(), [0; 32]);
        match read_regular_file(&path, &name) {
            // By the whole path: named files count from the watched folder, where those who wrote the name may not have put it.
            Ok(None) => {
                file.problem = Some(format!("{name} is missing: {} does not exist; add this file", path.display()));
            }
            Err(problem) => file.problem = Some(format!("{name}: {}; {}", problem.why, problem.remedy)),
            Ok(Some(taken)) => {
                self.note_detached(&name, &taken);
                digest = sha256_of(&[&taken.bytes]);
                let read = blocks::read(&taken.bytes, None);
                let cut_off = read.unreadable.iter().find(|unreadable| unreadable.incomplete);
                // A file that is cut off may have held more: to take what is left would remove the rest.
                if let Some(cut_off) = cut_off {
                    file.problem = Some(format!("{name}: {}; {}", cut_off.why, cut_off.remedy_for(&name)));
                } else if read.certificates.is_empty() && read.crls.is_empty() {
                    file.problem = Some(match read.unreadable.first() {
                        Some(unreadable) => format!("{name}: {}; {}", unreadable.why, unreadable.remedy_for(&name)),
                        None => match blocks::recognize_foreign(&taken.bytes).filter(|_| read.is_empty()) {
                            Some(foreign) => format!("{name}: {}; {}", foreign.why, foreign.remedy_for(&name)),
                            None => format!("{name} contains neither a certificate nor a CRL: add one"),
                        },
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

    /// Whether the configuration names this path.
    pub(super) fn is_named(&self, relative: &Path) -> bool {
        // `./a` and `a` are one file.
        let plain = |path: &Path| path.components().filter(|part| *part != Component::CurDir).collect::<PathBuf>();
        self.settings.named.contains(relative) || self.settings.named.iter().any(|named| plain(named) == relative)
    }
}
