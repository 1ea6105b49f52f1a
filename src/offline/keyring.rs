//! Key pairs made, requested, imported and exported offline: what `sidekey keyring new|csr|import|export` does to the
//! watched folder, and what it would do with a file that lies elsewhere.
//!
//! Every answer comes from the rules that a running sidecar applies: the folder is read as it reads it, `state` is read
//! and never written, and a new pair is put through the same state machine before anything is written. How a running
//! sidecar learns that a pair is to wait for `promote` is a line in the pair's own file (`pki::blocks::STAGED_LINE`): it
//! needs no sidecar to be there, and reaches every replica.

mod export;
mod import;
mod make;
mod token;

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

pub use export::ExportFormat;
pub use import::KeyPairImport;
pub use make::{KeyPairCreation, KeySource};
pub use token::TokenOrder;

pub use crate::jwt::SignatureAlgorithm;

use crate::clock::Clock;
use crate::config::Config;
use crate::folder::{self, DEFAULT_KEYRING, FolderContents};
use crate::keyring::{Keyring, KeyringName, Standing};
use crate::pki::blocks::{KeyMaterial, STAGED_LINE};
use crate::pki::{FileName, Fingerprint, KeyPair, SpkiHash, printable};
use crate::writer::memory::{RememberedState, StateMemory};
use crate::writer::{WriterInput, WriterState};

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum OfflineKeyringError {
    /// The arguments do not fit what exists.
    #[error("{0}")]
    Wrong(String),
    /// The rules would refuse the pair.
    #[error("keyring {keyring:?} would refuse this key pair: {why}; nothing was written")]
    Refused {
        /// Which keyring.
        keyring: String,
        /// One sentence.
        why: String,
    },
    /// The key or certificate could not be made.
    #[error(transparent)]
    Make(#[from] crate::pki::issue::IssueError),
    /// PKCS#12.
    #[error(transparent)]
    Pkcs12(#[from] crate::pki::pkcs12::Pkcs12WriteError),
    /// A token.
    #[error(transparent)]
    Token(#[from] crate::jwt::TokenSigningError),
    /// The folder.
    #[error(transparent)]
    Folder(#[from] folder::put::PutFileError),
}

/// One keyring of a watched folder, read offline.
pub struct OfflineKeyrings {
    folder: folder::FolderSettings,
    keyring: KeyringName,
    /// `state` is configured.
    remembers: bool,
    state: WriterState,
    now: Timestamp,
}

/// The result of a command.
#[derive(Debug, Serialize)]
pub struct OfflineOutcome {
    /// Which keyring.
    pub keyring: KeyringName,
    /// The pair, where there is one already.
    pub key_pair: Option<Fingerprint>,
    /// Its standing in a sidecar: `staged`, `current`, `previous`; `waiting` for a key without its certificate.
    pub standing: &'static str,
    /// One sentence: why, and what to do next.
    pub next: String,
    /// What was written.
    pub files: Vec<String>,
    /// The request for a CA, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// What the rules make of a pair.
struct AdmissionForecast {
    standing: Standing,
    why: Option<String>,
}

/// What a keyring would do with a file.
#[derive(Debug, Serialize)]
pub struct KeyringForecast {
    /// Which keyring.
    pub keyring: KeyringName,
    /// Whether everything in it would be accepted.
    pub accepted: bool,
    /// A sentence for each pair and each part.
    pub says: Vec<String>,
}

impl OfflineKeyrings {
    /// Reads the folder and what `state` remembers. The keyring need not exist yet.
    pub fn open(config: &Config, keyring: &str) -> Result<Self, OfflineKeyringError> {
        let keyring = check_name(&config.folder, keyring)?;
        let now = Clock::system().now();
        let remembered =
            config.state.clone().map_or_else(RememberedState::default, |root| StateMemory::peek(root, false));
        let contents = folder::read::read_final(&config.folder);
        let settings = crate::config::platform::with_platform_anchors(config.settings.clone());
        let (mut state, _) =
            WriterState::from_remembered(settings, remembered.clone(), without_waiting(&contents, &remembered), now);
        // Nothing but a command is ever refused.
        let _ = state.apply(&WriterInput::Folder(contents), now);
        Ok(Self { folder: config.folder.clone(), keyring, remembers: config.state.is_some(), state, now })
    }

    fn keyring(&self) -> Option<&Keyring> {
        self.state.keyrings().get(&self.keyring)
    }

    /// The current pair.
    fn current(&self) -> Option<&Arc<KeyPair>> {
        self.keyring().and_then(Keyring::current).map(|held| &held.pair)
    }

    /// Every pair that is known here.
    fn pairs(&self) -> impl Iterator<Item = &Arc<KeyPair>> {
        self.keyring().into_iter().flat_map(|keyring| keyring.pairs()).map(|held| &held.pair)
    }

    /// A new pair has something to wait beside.
    fn has_valid_current(&self) -> bool {
        self.current().is_some_and(|pair| pair.is_valid(self.now))
    }

    fn path(&self) -> PathBuf {
        match self.keyring.as_ref() {
            DEFAULT_KEYRING => self.folder.root.clone(),
            name => self.folder.root.join(name),
        }
    }

    /// A file of the keyring, as the folder's reading names it.
    fn file_name(&self, name: &str) -> FileName {
        match self.keyring.as_ref() {
            DEFAULT_KEYRING => name.into(),
            keyring => format!("{keyring}/{name}").into(),
        }
    }

    /// The folder as if these files were there too.
    fn contents_with(&self, files: Vec<(FileName, KeyMaterial)>) -> FolderContents {
        let extra = files.into_iter().map(|(name, blocks)| (Arc::clone(&self.keyring), name, blocks));
        folder::read::read_final_with(&self.folder, extra.collect())
    }

    /// What the rules make of one pair of these contents.
    fn verdict(&self, contents: FolderContents, key_pair: Fingerprint) -> Option<AdmissionForecast> {
        let mut state = self.state.clone();
        // A folder is never refused.
        state.apply(&WriterInput::Folder(contents), self.now).ok()?;
        let keyring = state.keyrings().get(&self.keyring)?;
        let held = keyring.pairs().into_iter().find(|held| held.pair.fingerprint() == key_pair)?;
        Some(AdmissionForecast { standing: held.standing, why: held.why.clone() })
    }

    /// What this keyring would do with a file, if the operator dropped it here. `requested` are the public
    /// keys of the certification requests in it: nothing is made of these, but the CA's answer may belong here.
    pub fn prospect(&self, name: &str, blocks: KeyMaterial, requested: &[SpkiHash]) -> KeyringForecast {
        let file = self.file_name(name);
        let certificates: Vec<_> = blocks.certificates.iter().map(|certificate| certificate.fingerprint()).collect();
        let keys: Vec<_> = blocks.keys.iter().map(|key| key.spki_hash()).collect();
        let blocks_are_crls = !blocks.crls.is_empty();
        let contents = self.contents_with(vec![(Arc::clone(&file), blocks)]);
        let (mut accepted, mut says) = (true, Vec::new());
        let joined = contents.keyrings.get(&self.keyring).cloned().unwrap_or_default();
        for problem in joined.problems.iter().filter(|problem| problem.file == file) {
            accepted &= problem.severity < crate::pki::ProblemSeverity::Incomplete;
            says.push(format!("{} ({}). {}", problem.why, problem.reason, problem.remedy));
        }
        let is_from_file = |pair: &KeyPair| {
            let end_entity = pair.end_entity();
            certificates.contains(&end_entity.fingerprint()) || keys.contains(&end_entity.spki_hash())
        };
        for pair in joined.pairs.iter().filter(|pair| is_from_file(pair)) {
            let Some(verdict) = self.verdict(contents.clone(), pair.fingerprint()) else { continue };
            accepted &= !matches!(verdict.standing, Standing::Refused | Standing::Revoked);
            let why = verdict.why.map(|why| format!(": {why}")).unwrap_or_default();
            let (short, standing) = (pair.fingerprint().short(), verdict.standing.as_str());
            says.push(format!("key pair {short} ({}) would be {standing}{why}", pair.end_entity().subject()));
        }
        for waiting in joined.waiting.iter().filter(|waiting| waiting.file == file) {
            says.push(format!("private key {} would wait for its certificate to arrive", waiting.spki_hash));
        }
        if let Some(anchors) = joined.anchors.filter(|_| crate::pki::join::is_trust_file(name)) {
            let subjects: Vec<&str> = anchors.iter().map(|anchor| anchor.subject()).collect();
            says.push(format!("the keyring's own trust would hold: {}", subjects.join("; ")));
        }
        for spki_hash in requested {
            match self.key_file(*spki_hash) {
                Some(file) => says.push(format!("the key in {file} made the request: import its certificate here")),
                None => {
                    accepted = false;
                    says.push("no key in this keyring made the request: do not import its certificate here".to_owned());
                }
            }
        }
        if blocks_are_crls {
            says.push("CRLs are not read from a keyring: name the file in `crls` of a trust".to_owned());
        }
        if says.is_empty() {
            accepted = false;
            says.push("the file contains nothing for this keyring".to_owned());
        }
        KeyringForecast { keyring: Arc::clone(&self.keyring), accepted, says }
    }

    /// Writes a certificate with its chain, and first its key where that is new. What the rules would refuse is not written.
    fn write_pair(
        &self,
        pair: &KeyPair,
        key_pem: Option<&str>,
        stem: &str,
        staged: bool,
    ) -> Result<OfflineOutcome, OfflineKeyringError> {
        let mut text = String::new();
        if staged {
            text.push_str(STAGED_LINE);
            text.push('\n');
        }
        pair.chain().iter().for_each(|part| text.push_str(&part.pem()));
        let mut dropped = vec![(self.file_name(&format!("{stem}.crt")), read(text.as_bytes()))];
        dropped.extend(key_pem.map(|key| (self.file_name(&format!("{stem}.key")), read(key.as_bytes()))));
        let verdict = self.verdict(self.contents_with(dropped), pair.fingerprint());
        let refused = |why: Option<String>| OfflineKeyringError::Refused {
            keyring: self.keyring.to_string(),
            why: why.unwrap_or_else(|| "its certificate and key do not form a key pair in this folder".to_owned()),
        };
        let verdict = verdict.ok_or_else(|| refused(None))?;
        if matches!(verdict.standing, Standing::Refused | Standing::Revoked) {
            return Err(refused(verdict.why));
        }
        let folder = self.path();
        folder::put::make_folder(&folder)?;
        // The key first: a key without its certificate only waits, a certificate without its key is half a drop.
        let mut files = Vec::new();
        if let Some(key) = key_pem {
            files.push(folder::put::write_new_file(&folder, &format!("{stem}.key"), key.as_bytes())?);
        }
        match folder::put::write_new_file(&folder, &format!("{stem}.crt"), text.as_bytes()) {
            Ok(path) => files.push(path),
            Err(error) => {
                // The key would wait forever. The error says that it was there for a moment.
                files.iter().for_each(|path| drop(std::fs::remove_file(path)));
                return Err(error.into());
            }
        }
        Ok(OfflineOutcome {
            keyring: Arc::clone(&self.keyring),
            key_pair: Some(pair.fingerprint()),
            standing: verdict.standing.as_str(),
            next: self.next(pair, &verdict, staged),
            files: files.iter().map(|path| printable(&path.to_string_lossy())).collect(),
            request: None,
        })
    }

    fn next(&self, pair: &KeyPair, verdict: &AdmissionForecast, marked: bool) -> String {
        let (keyring, short) = (&self.keyring, pair.fingerprint().short());
        match verdict.standing {
            Standing::Staged => {
                let why = verdict.why.as_deref().unwrap_or("it waits for `promote`");
                let restart = match (marked, self.remembers) {
                    (true, false) => ". Without a state folder, a restart before then makes it current, as the newest",
                    _ => "",
                };
                format!("{why}. When partners are ready: sidekey keyring promote {keyring} {short}{restart}")
            }
            Standing::Current => {
                let warning = verdict.why.as_ref().map(|why| format!(", but: {why}")).unwrap_or_default();
                format!("a running sidecar will show it within a second{warning}")
            }
            _ => {
                let why = verdict.why.as_deref().unwrap_or("another key pair in the folder is newer");
                format!("{why}. To make it current: sidekey keyring promote {keyring} {short}")
            }
        }
    }

    /// A file name that is free with both endings: the one that was asked for, else the date and the public key.
    fn stem(&self, asked: Option<&str>, spki_hash: SpkiHash) -> Result<String, OfflineKeyringError> {
        let stem = match asked {
            Some(name) => name.to_owned(),
            None => format!("{}-{}", crate::pki::format_day(self.now), &spki_hash.short()[..8]),
        };
        let is_plain = stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !is_plain || stem.is_empty() || stem.starts_with('.') || matches!(stem.as_str(), "ca" | "ca-bundle") {
            let why = "use letters, digits, dots, dashes and underscores, no leading dot, and neither ca nor ca-bundle";
            return Err(OfflineKeyringError::Wrong(format!("--name {stem:?} is not a valid file name here: {why}")));
        }
        Ok(stem)
    }
}

/// The folder without the pairs that ask to wait and of which no decision is known: they came after the others, which
/// without `state` only a running sidecar remembers.
fn without_waiting(contents: &FolderContents, remembered: &RememberedState) -> FolderContents {
    let mut contents = contents.clone();
    for (name, joined) in &mut contents.keyrings {
        let decided = remembered.keyrings.get(name);
        let is_decided = |key_pair: &Fingerprint| {
            decided.is_some_and(|decided| {
                decided.current == Some(*key_pair)
                    || decided.previous.contains_key(key_pair)
                    || decided.retired.contains_key(key_pair)
            })
        };
        joined.pairs.retain(|pair| !pair.is_staging_requested() || is_decided(&pair.fingerprint()));
    }
    contents
}

/// A name that can be a sub-folder, and in which the configuration names nothing else.
fn check_name(folder: &folder::FolderSettings, name: &str) -> Result<KeyringName, OfflineKeyringError> {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if name.is_empty() || !is_plain || name.starts_with('.') {
        let why = "it becomes a folder's name: use letters, digits, dots, dashes and underscores, no leading dot";
        return Err(OfflineKeyringError::Wrong(format!("{name:?} is not a valid keyring name: {why}")));
    }
    if let Some(named) = folder.named.iter().find(|path| path.starts_with(name)) {
        let named = printable(&named.to_string_lossy());
        return Err(OfflineKeyringError::Wrong(format!(
            "{name:?} cannot be a keyring: the configuration uses {named} for something else"
        )));
    }
    Ok(name.into())
}

/// Reads text that was just made.
fn read(bytes: &[u8]) -> KeyMaterial {
    crate::pki::blocks::read(&zeroize::Zeroizing::new(bytes.to_vec()), None)
}
