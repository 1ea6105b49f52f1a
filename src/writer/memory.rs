//! `state/`: what must survive a restart. `decisions.json` (written aside, fsynced, renamed) and `retained/` (0600).
//!
//! Belongs to the writer alone. Unreadable decisions make the keyrings concerned refuse changes and report it; they are
//! never silently replaced.
//!
//! ```text
//! state/lock                                  held while a sidekey runs on this folder
//! state/decisions.json                        decisions by keyring and by trust; no key
//! state/retained/KEYRING/FINGERPRINT.pem      chain and key of a pair in use, or retired within a week
//! state/retained/trust/NAME/FINGERPRINT.pem   an anchor on its way out
//! ```

mod owner;
mod store;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::state::WriterState;
use crate::keyring::KeyringName;
use crate::pki::{Certificate, Fingerprint, FolderProblem, KeyMaterial, KeyPair, ProblemSeverity, blocks, printable};
use crate::trust::TrustName;
use crate::{evidence, keyring, trust};

use owner::{RetainedOwner, TRUST_FOLDER, chain_fingerprints};

pub use super::remembered::RememberedState;
pub use store::MemoryError;

/// The format version of `decisions.json`.
const DECISIONS_VERSION: u32 = 1;
const DECISIONS_FILE: &str = "decisions.json";
const RETAINED_FOLDER: &str = "retained";

/// The folder `state/`, or nothing: memory only.
pub struct StateMemory(Option<StateRoot>);

struct StateRoot {
    path: PathBuf,
    /// Held while a sidekey works in the folder; not by commands that only read it.
    lock: Option<File>,
    /// The process that this one takes over from still writes there.
    is_beside: bool,
    /// What `decisions.json` holds, as far as we wrote or read it.
    decisions: Option<Vec<u8>>,
    /// Retained files that we wrote or could read, and the chain that is in each.
    retained: BTreeMap<PathBuf, Vec<Fingerprint>>,
    /// Why `decisions.json` could not be read: it is then left alone until the next start.
    unreadable: Option<String>,
    /// That nothing is saved was reported.
    told: bool,
    /// Why the last save failed, or nothing is saved.
    failure: Option<String>,
    /// What is unsafe about the folder, for the first reading.
    unsafe_about: Vec<FolderProblem>,
}

/// `decisions.json`.
#[derive(serde::Serialize, serde::Deserialize)]
struct DecisionsFile {
    version: u32,
    keyrings: BTreeMap<KeyringName, keyring::PersistedKeyring>,
    trusts: BTreeMap<TrustName, trust::anchors::PersistedAnchors>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    learned: Vec<evidence::learned::PersistedRefusal>,
}

impl StateMemory {
    /// In memory only.
    pub fn in_memory() -> Self {
        Self(None)
    }

    /// In this folder, made 0700 where it is missing. Where it cannot be written, what it holds is read all the same, every
    /// save fails, and the folder is tried again each time.
    ///
    /// # Errors
    /// Another process works in it; with `strict_permissions`, others than the owner can change it.
    pub fn open(root: PathBuf, strict_permissions: bool) -> Result<Self, MemoryError> {
        let lock = match store::make_folder(&root).and_then(|()| store::lock_folder(&root)) {
            Ok(lock) => Some(lock),
            Err(error) if error.in_use => return Err(error),
            Err(_) => None,
        };
        Self::new(root, lock, strict_permissions)
    }

    fn new(root: PathBuf, lock: Option<File>, strict_permissions: bool) -> Result<Self, MemoryError> {
        let unsafe_about = store::find_unsafe_places(&root, &root.join(RETAINED_FOLDER));
        if let Some(problem) = unsafe_about.first().filter(|_| strict_permissions) {
            let why = format!("{}, and strict_permissions is set: {}", problem.why, problem.remedy);
            return Err(MemoryError { file: problem.file.to_string(), why, in_use: false });
        }
        Ok(Self(Some(StateRoot { unsafe_about, ..StateRoot::new(root, lock) })))
    }

    /// In this folder, where another sidecar works that this one takes over from: what it holds is read, and nothing is
    /// written before [`StateMemory::begin_writing`].
    ///
    /// # Errors
    /// With `strict_permissions`, others than the owner can change it.
    pub fn open_beside(root: PathBuf, strict_permissions: bool) -> Result<Self, MemoryError> {
        let mut opened = Self::new(root, None, strict_permissions)?;
        if let Some(root) = &mut opened.0 {
            root.is_beside = true;
        }
        Ok(opened)
    }

    /// The other process has let go of the folder: from the next save on this one writes.
    pub fn begin_writing(&mut self) {
        if let Some(root) = &mut self.0 {
            root.is_beside = false;
        }
    }

    /// Why the last save failed, where it did.
    pub fn last_failure(&self) -> Option<&str> {
        self.0.as_ref()?.failure.as_deref()
    }

    /// The folder as people see it.
    pub fn folder_text(&self) -> String {
        self.0.as_ref().map(|root| store::path_text(&root.path)).unwrap_or_default()
    }

    /// What a run left, or has written so far, in this folder: for commands that only look, also beside a running sidecar.
    /// What a run would report of its places and files is among `skipped`; what it would refuse to start with, as refused.
    pub fn peek(root: PathBuf, strict_permissions: bool) -> RememberedState {
        let mut unsafe_about = store::find_unsafe_places(&root, &root.join(RETAINED_FOLDER));
        if strict_permissions {
            unsafe_about.iter_mut().for_each(|problem| problem.severity = ProblemSeverity::Refused);
        }
        unsafe_about.extend(store::find_unusable_files(&root, &["lock", DECISIONS_FILE]));
        Self(Some(StateRoot { unsafe_about, ..StateRoot::new(root, None) })).read()
    }

    /// What the last run left. Once, before the first `save`.
    pub fn read(&mut self) -> RememberedState {
        let mut out = RememberedState::default();
        if let Some(root) = &mut self.0 {
            out.skipped.append(&mut root.unsafe_about);
            root.read_decisions(&mut out);
            root.read_retained(&mut out);
        }
        out
    }

    /// Saves what must survive: retained pairs in, decisions, ended ones out; in an order that a kill at any moment
    /// leaves a matched pair and readable decisions. What did not change is not written again.
    ///
    /// # Errors
    /// Something could not be written; what is there already stays. Where decisions could not be read, it is reported
    /// once that nothing is saved.
    pub fn save(&mut self, state: &WriterState, now: Timestamp) -> Result<(), MemoryError> {
        let Some(root) = self.0.as_mut().filter(|root| !root.is_beside) else { return Ok(()) };
        let saved = root.save_all(state, now);
        match &saved {
            Err(error) => root.failure = Some(error.to_string()),
            // What could not be read is reported once, and nothing is saved meanwhile.
            Ok(()) if root.unreadable.is_some() => {}
            Ok(()) => root.failure = None,
        }
        saved
    }
}

impl StateRoot {
    fn save_all(&mut self, state: &WriterState, now: Timestamp) -> Result<(), MemoryError> {
        let root = self;
        root.take_folder()?;
        let wanted = root.files_to_retain(state, now);
        root.write_retained(&wanted)?;
        if let Some(why) = &root.unreadable {
            if std::mem::replace(&mut root.told, true) {
                return Ok(());
            }
            return Err(MemoryError {
                file: store::path_text(&root.path.join(DECISIONS_FILE)),
                why: why.clone(),
                in_use: false,
            });
        }
        root.write_decisions(state)?;
        root.delete_unneeded(&wanted)
    }

    /// Takes a folder that could not be written at the start, unless it turns out to hold what was not read then.
    fn take_folder(&mut self) -> Result<(), MemoryError> {
        if self.lock.is_some() {
            return Ok(());
        }
        store::make_folder(&self.path)?;
        let lock = store::lock_folder(&self.path)?;
        let path = self.path.join(DECISIONS_FILE);
        let found = store::read_own_file(&path).ok();
        if self.unreadable.is_none() && found != self.decisions {
            let why =
                "it can be written now, but holds decisions that were not there at the start: restart to use them";
            return Err(MemoryError { file: store::path_text(&path), why: why.to_owned(), in_use: false });
        }
        self.lock = Some(lock);
        Ok(())
    }
}

/// What is to be retained: file, the chain in it, and how its text is made.
struct RetainedFiles {
    chain: Vec<Fingerprint>,
    what: RetainedPair,
}

enum RetainedPair {
    Pair(Arc<KeyPair>),
    Anchor(Arc<Certificate>),
}

impl RetainedFiles {
    fn to_pem(&self) -> Zeroizing<String> {
        match &self.what {
            RetainedPair::Pair(pair) => pair.to_pem(),
            RetainedPair::Anchor(certificate) => Zeroizing::new(certificate.pem()),
        }
    }
}

impl StateRoot {
    fn new(path: PathBuf, lock: Option<File>) -> Self {
        Self {
            path,
            lock,
            is_beside: false,
            decisions: None,
            retained: BTreeMap::new(),
            unreadable: None,
            told: false,
            failure: None,
            unsafe_about: Vec::new(),
        }
    }

    fn files_to_retain(&self, state: &WriterState, now: Timestamp) -> BTreeMap<PathBuf, RetainedFiles> {
        let folder = self.path.join(RETAINED_FOLDER);
        let mut wanted = BTreeMap::new();
        for (name, keyring) in state.keyrings() {
            for pair in keyring.to_retain(now) {
                let chain = chain_fingerprints(pair.chain());
                let path = retained_path(&folder.join(store::encode_name(name)), pair.fingerprint());
                wanted.insert(path, RetainedFiles { chain, what: RetainedPair::Pair(pair) });
            }
        }
        for (name, anchors) in state.trusts() {
            for certificate in anchors.certificates_to_retain() {
                let path =
                    retained_path(&folder.join(TRUST_FOLDER).join(store::encode_name(name)), certificate.fingerprint());
                wanted.insert(
                    path,
                    RetainedFiles { chain: vec![certificate.fingerprint()], what: RetainedPair::Anchor(certificate) },
                );
            }
        }
        wanted
    }

    /// Writes what is not there yet.
    fn write_retained(&mut self, wanted: &BTreeMap<PathBuf, RetainedFiles>) -> Result<(), MemoryError> {
        for (path, wanted) in wanted {
            if self.retained.get(path) != Some(&wanted.chain) {
                if let Some(folder) = path.parent() {
                    store::make_folder(folder)?;
                }
                store::write_file(path, wanted.to_pem().as_bytes())?;
                self.retained.insert(path.clone(), wanted.chain.clone());
            }
        }
        Ok(())
    }

    fn write_decisions(&mut self, state: &WriterState) -> Result<(), MemoryError> {
        let keyrings = state.keyrings().iter().map(|(name, keyring)| (Arc::clone(name), keyring.to_persisted()));
        let trusts = state.trusts().iter().map(|(name, anchors)| (Arc::clone(name), anchors.persisted_state()));
        let decisions = DecisionsFile {
            version: DECISIONS_VERSION,
            keyrings: keyrings.collect(),
            trusts: trusts.collect(),
            learned: state.learned_refusals().to_vec(),
        };
        let path = self.path.join(DECISIONS_FILE);
        let text = serde_json::to_vec_pretty(&decisions).map_err(|error| MemoryError {
            file: store::path_text(&path),
            why: error.to_string(),
            in_use: false,
        })?;
        if self.decisions.as_ref() != Some(&text) {
            store::write_file(&path, &text)?;
            self.decisions = Some(text);
        }
        Ok(())
    }

    /// Deletes what no decision needs any more. A file that could not be read has no known owner, and stays.
    fn delete_unneeded(&mut self, wanted: &BTreeMap<PathBuf, RetainedFiles>) -> Result<(), MemoryError> {
        let ended: Vec<PathBuf> = self.retained.keys().filter(|path| !wanted.contains_key(*path)).cloned().collect();
        for path in ended {
            store::delete_file(&path)?;
            self.retained.remove(&path);
        }
        Ok(())
    }

    fn read_decisions(&mut self, out: &mut RememberedState) {
        let path = self.path.join(DECISIONS_FILE);
        let read = match store::read_own_file(&path) {
            Ok(text) => parse_decisions(&text).map(|decisions| (text, decisions)),
            // Below a file there is none either.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return,
            Err(error) => Err(error.to_string()),
        };
        match read {
            Ok((text, decisions)) => {
                self.decisions = Some(text);
                out.keyrings = decisions.keyrings;
                out.trusts = decisions.trusts;
                out.learned = decisions.learned;
            }
            Err(why) => {
                let why = format!(
                    "cannot be read ({}): the folder alone decides, revocations by command are unknown, and no \
                     decision is saved; repair it, or move it away to start afresh, then restart",
                    printable(&why)
                );
                self.unreadable = Some(why.clone());
                out.unreadable = Some(format!("{}: {why}", store::path_text(&path)));
            }
        }
    }

    fn read_retained(&mut self, out: &mut RememberedState) {
        let folder = self.path.join(RETAINED_FOLDER);
        for path in store::retained_files(&folder, self.lock.is_some()) {
            let Some(of) = path.strip_prefix(&folder).ok().and_then(RetainedOwner::from_path) else { continue };
            match read_blocks(&path).and_then(|blocks| of.add_blocks(blocks, &path, out)) {
                Ok(chain) => drop(self.retained.insert(path, chain)),
                Err(why) => out.skipped.push(FolderProblem {
                    file: store::path_text(&path).into(),
                    reason: "retained_unreadable",
                    why: format!("this retained file cannot be read: {}", printable(&why)),
                    remedy: "its overlap does not survive this restart; delete the file".to_owned(),
                    severity: ProblemSeverity::Warning,
                }),
            }
        }
    }
}

fn read_blocks(path: &Path) -> Result<KeyMaterial, String> {
    let bytes = Zeroizing::new(store::read_own_file(path).map_err(|error| error.to_string())?);
    Ok(blocks::read(&bytes, None))
}

fn parse_decisions(text: &[u8]) -> Result<DecisionsFile, String> {
    let decisions: DecisionsFile = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if decisions.version != DECISIONS_VERSION {
        return Err(format!(
            "its version is {}, but this Sidekey reads version {DECISIONS_VERSION}",
            decisions.version
        ));
    }
    Ok(decisions)
}

fn retained_path(folder: &Path, of: Fingerprint) -> PathBuf {
    folder.join(format!("{}.pem", of.hex()))
}

#[cfg(test)]
mod tests;
