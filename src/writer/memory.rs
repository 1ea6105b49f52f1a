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

mod store;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::State;
use crate::keyring::KeyringName;
use crate::pki::{Blocks, Certificate, Fingerprint, KeyPair, Problem, Severity, blocks, printable};
use crate::trust::TrustName;
use crate::{keyring, trust};

/// The format version of `decisions.json`.
const VERSION: u32 = 1;
const DECISIONS: &str = "decisions.json";
const RETAINED: &str = "retained";
const TRUST: &str = "trust";

/// The folder `state/`, or nothing: memory only.
pub struct Memory(Option<Root>);

struct Root {
    path: PathBuf,
    /// Held while a sidekey works in the folder; not by commands that only read it.
    lock: Option<File>,
    /// What `decisions.json` holds, as far as we wrote or read it.
    decisions: Option<Vec<u8>>,
    /// Retained files that we wrote or could read, and the chain that is in each.
    retained: BTreeMap<PathBuf, Vec<Fingerprint>>,
    /// Why `decisions.json` could not be read: it is then left alone until the next start.
    unreadable: Option<String>,
    /// That nothing is saved was reported.
    told: bool,
}

/// What the last run left.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// Decisions by keyring.
    pub keyrings: BTreeMap<KeyringName, keyring::Remembered>,
    /// Retained pairs by keyring.
    pub retained: BTreeMap<KeyringName, Vec<Arc<KeyPair>>>,
    /// Anchors on their way out, by trust.
    pub trusts: BTreeMap<TrustName, trust::anchors::Remembered>,
    /// Their certificates.
    pub anchors: BTreeMap<TrustName, Vec<Arc<Certificate>>>,
    /// What was learned from sources about our pairs.
    pub learned: Vec<keyring::learned::Remembered>,
    /// Why decisions could not be read: every keyring refuses commands until they can.
    pub unreadable: Option<String>,
    /// Retained files that could not be read: what was in them is lost to the overlap.
    pub skipped: Vec<Problem>,
}

/// What could not be saved or read.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {why}")]
pub struct Error {
    /// Which file.
    pub file: String,
    /// Why, with what to do.
    pub why: String,
}

/// `decisions.json`.
#[derive(serde::Serialize, serde::Deserialize)]
struct Decisions {
    version: u32,
    keyrings: BTreeMap<KeyringName, keyring::Remembered>,
    trusts: BTreeMap<TrustName, trust::anchors::Remembered>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    learned: Vec<keyring::learned::Remembered>,
}

impl Memory {
    /// In memory only.
    pub fn none() -> Self {
        Self(None)
    }

    /// In this folder, made 0700 where it is missing.
    ///
    /// # Errors
    /// It cannot be made or written, or another process works in it.
    pub fn open(root: PathBuf) -> Result<Self, Error> {
        store::make_folder(&root)?;
        let lock = store::lock(&root)?;
        Ok(Self(Some(Root::new(root, Some(lock)))))
    }

    /// What a run left, or has written so far, in this folder: for commands that only look, also beside a running sidecar.
    pub fn peek(root: PathBuf) -> Remembered {
        Self(Some(Root::new(root, None))).read()
    }

    /// What the last run left. Once, before the first `save`.
    pub fn read(&mut self) -> Remembered {
        let mut out = Remembered::default();
        if let Some(root) = &mut self.0 {
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
    pub fn save(&mut self, state: &State, now: Timestamp) -> Result<(), Error> {
        let Some(root) = &mut self.0 else { return Ok(()) };
        let wanted = root.wanted(state, now);
        root.retain(&wanted)?;
        if let Some(why) = &root.unreadable {
            if std::mem::replace(&mut root.told, true) {
                return Ok(());
            }
            return Err(Error { file: store::name(&root.path.join(DECISIONS)), why: why.clone() });
        }
        root.decide(state)?;
        root.release(&wanted)
    }
}

/// What is to be retained: file, the chain in it, and how its text is made.
struct Wanted {
    chain: Vec<Fingerprint>,
    what: Kept,
}

enum Kept {
    Pair(Arc<KeyPair>),
    Anchor(Arc<Certificate>),
}

impl Wanted {
    fn pem(&self) -> Zeroizing<String> {
        match &self.what {
            Kept::Pair(pair) => pair.to_pem(),
            Kept::Anchor(certificate) => Zeroizing::new(certificate.pem()),
        }
    }
}

impl Root {
    fn new(path: PathBuf, lock: Option<File>) -> Self {
        Self { path, lock, decisions: None, retained: BTreeMap::new(), unreadable: None, told: false }
    }

    fn wanted(&self, state: &State, now: Timestamp) -> BTreeMap<PathBuf, Wanted> {
        let folder = self.path.join(RETAINED);
        let mut wanted = BTreeMap::new();
        for (name, keyring) in state.keyrings() {
            for pair in keyring.to_retain(now) {
                let chain = fingerprints(pair.chain());
                let path = file(&folder.join(store::encode(name)), pair.fingerprint());
                wanted.insert(path, Wanted { chain, what: Kept::Pair(pair) });
            }
        }
        for (name, anchors) in state.trusts() {
            for certificate in anchors.to_retain() {
                let path = file(&folder.join(TRUST).join(store::encode(name)), certificate.fingerprint());
                wanted.insert(path, Wanted { chain: vec![certificate.fingerprint()], what: Kept::Anchor(certificate) });
            }
        }
        wanted
    }

    /// Writes what is not there yet.
    fn retain(&mut self, wanted: &BTreeMap<PathBuf, Wanted>) -> Result<(), Error> {
        for (path, wanted) in wanted {
            if self.retained.get(path) != Some(&wanted.chain) {
                if let Some(folder) = path.parent() {
                    store::make_folder(folder)?;
                }
                store::write(path, wanted.pem().as_bytes())?;
                self.retained.insert(path.clone(), wanted.chain.clone());
            }
        }
        Ok(())
    }

    fn decide(&mut self, state: &State) -> Result<(), Error> {
        let keyrings = state.keyrings().iter().map(|(name, keyring)| (Arc::clone(name), keyring.remembered()));
        let trusts = state.trusts().iter().map(|(name, anchors)| (Arc::clone(name), anchors.remembered()));
        let decisions = Decisions {
            version: VERSION,
            keyrings: keyrings.collect(),
            trusts: trusts.collect(),
            learned: state.learned().to_vec(),
        };
        let path = self.path.join(DECISIONS);
        let text = serde_json::to_vec_pretty(&decisions)
            .map_err(|error| Error { file: store::name(&path), why: error.to_string() })?;
        if self.decisions.as_ref() != Some(&text) {
            store::write(&path, &text)?;
            self.decisions = Some(text);
        }
        Ok(())
    }

    /// Deletes what no decision needs any more. A file that could not be read has no known owner, and stays.
    fn release(&mut self, wanted: &BTreeMap<PathBuf, Wanted>) -> Result<(), Error> {
        let ended: Vec<PathBuf> = self.retained.keys().filter(|path| !wanted.contains_key(*path)).cloned().collect();
        for path in ended {
            store::delete(&path)?;
            self.retained.remove(&path);
        }
        Ok(())
    }

    fn read_decisions(&mut self, out: &mut Remembered) {
        let path = self.path.join(DECISIONS);
        let read = match std::fs::read(&path) {
            Ok(text) => parse(&text).map(|decisions| (text, decisions)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
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
                out.unreadable = Some(format!("{}: {why}", store::name(&path)));
            }
        }
    }

    fn read_retained(&mut self, out: &mut Remembered) {
        let folder = self.path.join(RETAINED);
        for path in store::files(&folder, self.lock.is_some()) {
            let Some(of) = path.strip_prefix(&folder).ok().and_then(Of::path) else { continue };
            match read_file(&path).and_then(|blocks| of.take(blocks, &path, out)) {
                Ok(chain) => drop(self.retained.insert(path, chain)),
                Err(why) => out.skipped.push(Problem {
                    file: store::name(&path).into(),
                    reason: "retained_unreadable",
                    why: format!("this retained file cannot be read: {}", printable(&why)),
                    remedy: "its overlap does not survive this restart; delete the file".to_owned(),
                    severity: Severity::Warning,
                }),
            }
        }
    }
}

/// What a retained file belongs to, by its path.
enum Of {
    Keyring(KeyringName),
    Trust(TrustName),
}

impl Of {
    fn path(path: &Path) -> Option<Self> {
        let parts: Vec<&str> = path.iter().map(|part| part.to_str()).collect::<Option<_>>()?;
        match parts[..] {
            [name, _] => Some(Self::Keyring(store::decode(name)?.into())),
            [TRUST, name, _] => Some(Self::Trust(store::decode(name)?.into())),
            _ => None,
        }
    }

    fn take(self, blocks: Blocks, path: &Path, out: &mut Remembered) -> Result<Vec<Fingerprint>, String> {
        let chain = fingerprints(&blocks.certificates);
        match self {
            Self::Keyring(name) => {
                let key = blocks.keys.into_iter().next().ok_or("it contains no private key")?;
                let pair = KeyPair::new(blocks.certificates, key, vec![store::name(path).into()])
                    .map_err(|error| error.to_string())?;
                out.retained.entry(name).or_default().push(pair);
            }
            Self::Trust(name) => {
                let certificate = blocks.certificates.into_iter().next().ok_or("it contains no certificate")?;
                out.anchors.entry(name).or_default().push(certificate);
            }
        }
        Ok(chain)
    }
}

fn read_file(path: &Path) -> Result<Blocks, String> {
    let bytes = Zeroizing::new(std::fs::read(path).map_err(|error| error.to_string())?);
    Ok(blocks::read(&bytes, None))
}

fn parse(text: &[u8]) -> Result<Decisions, String> {
    let decisions: Decisions = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if decisions.version != VERSION {
        return Err(format!("its version is {}, but this Sidekey reads version {VERSION}", decisions.version));
    }
    Ok(decisions)
}

fn fingerprints(chain: &[Arc<Certificate>]) -> Vec<Fingerprint> {
    chain.iter().map(|certificate| certificate.fingerprint()).collect()
}

fn file(folder: &Path, of: Fingerprint) -> PathBuf {
    folder.join(format!("{}.pem", of.hex()))
}

#[cfg(test)]
mod tests;
