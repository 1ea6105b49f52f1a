//! The blocks of a folder's files → key pairs, trust and problems, matched by public key and never by file name.
//!
//! Pure and independent of the order of files. It proves only that things belong together; what may serve is decided
//! by `keyring::fit`, and when an incomplete folder is refused by `folder::settle`.

mod chain;
mod inventory;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustls_pki_types::CertificateRevocationListDer;

use super::blocks::PKCS12_WITHOUT_KEY;
use super::{
    Certificate, FileName, Fingerprint, KeyMaterial, KeyPair, PairOrigin, PrivateKey, SpkiHash, UnreadablePart,
};
use chain::IssuerLinks;
pub use inventory::is_trust_file;
use inventory::{FoundCertificate, KeyMaterialInventory};

/// The reason of the note about a chain that lacks its issuer.
pub const CHAIN_INCOMPLETE: &str = "chain_incomplete";

/// How bad a [`FolderProblem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemSeverity {
    /// Worth a line, nothing to do.
    Info,
    /// Works, but the operator should look at it.
    Warning,
    /// "Not yet" until the folder has been quiet for `settle`; then refused.
    Incomplete,
    /// Refused.
    Refused,
}

/// One file, or pair, that cannot be used, with what to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct FolderProblem {
    /// Which file.
    pub file: FileName,
    /// Stable snake_case code.
    pub reason: &'static str,
    /// One printable sentence with the values.
    pub why: String,
    /// What to do.
    pub remedy: String,
    /// How bad it is.
    pub severity: ProblemSeverity,
}

/// A private key whose certificate has not come yet (as `keyring csr` leaves it): an info, never a refusal.
#[derive(Clone, Debug)]
pub struct PendingKey {
    /// Where the key is.
    pub file: FileName,
    /// Which certificate it waits for.
    pub spki_hash: SpkiHash,
    /// The key, so that it can be asked for a request.
    pub key: Arc<PrivateKey>,
}

impl PendingKey {
    /// What is reported of it.
    pub fn to_problem(&self) -> FolderProblem {
        FolderProblem {
            file: Arc::clone(&self.file),
            reason: "waiting_for_certificate",
            why: format!("private key {} has no certificate yet", self.file),
            remedy: "add its certificate next to it when it is issued".to_owned(),
            severity: ProblemSeverity::Info,
        }
    }
}

impl PartialEq for PendingKey {
    fn eq(&self, other: &Self) -> bool {
        self.file == other.file && self.spki_hash == other.spki_hash
    }
}
impl Eq for PendingKey {}

/// What one keyring's folder holds.
#[derive(Clone, Default, Debug)]
pub struct KeyringContents {
    /// Every proved pair, sorted by fingerprint; the same end entity twice is one pair.
    pub pairs: Vec<Arc<KeyPair>>,
    /// The certificates of `ca.crt`, `ca.pem`, `ca-bundle.crt`; `None` where there is no such file, or none that holds
    /// a certificate, or one is cut off (a broken file is never a removal).
    pub anchors: Option<Vec<Arc<Certificate>>>,
    /// CRLs, sorted.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// Keys without certificate.
    pub waiting: Vec<PendingKey>,
    /// Everything else, sorted by file.
    pub problems: Vec<FolderProblem>,
}

/// Joins what a keyring's files hold.
pub fn join(files: Vec<(FileName, KeyMaterial)>) -> KeyringContents {
    let inventory = KeyMaterialInventory::from_files(files);
    let mut joined = KeyringContents { crls: inventory.crls.clone(), ..KeyringContents::default() };
    let chains = ChainIndex::from_inventory(&inventory);
    joined.anchors = collect_anchors(&inventory);
    joined.add_pairs(&inventory, &chains);
    joined.add_waiting_keys(&inventory);
    joined.report_certificates(&inventory, &chains);
    let has_pair = !joined.pairs.is_empty();
    let reported = inventory.unreadable.iter().filter(|(file, part)| {
        // The key that such a file lacks may lie beside it.
        part.reason != PKCS12_WITHOUT_KEY || !inventory.has_all_keys(file)
    });
    joined.problems.extend(reported.map(|(file, part)| unreadable_problem(file, part, has_pair)));
    joined.problems.sort();
    joined.problems.dedup();
    joined
}

/// The chain of every end entity that the folder holds.
struct ChainIndex {
    /// Of those whose key is here, by fingerprint of the end entity.
    with_key: BTreeMap<Fingerprint, Vec<Arc<Certificate>>>,
    /// The others: what their chains hold is not superfluous, the key is missing.
    without_key: BTreeMap<Fingerprint, Vec<Arc<Certificate>>>,
    /// Every certificate in a chain, and the roots above.
    used: BTreeSet<Fingerprint>,
    /// End entities with a key whose issuer is nowhere, not even among the trust.
    orphans: BTreeSet<Fingerprint>,
}

impl ChainIndex {
    fn from_inventory(inventory: &KeyMaterialInventory) -> Self {
        let mut links = IssuerLinks::new(inventory.chain_pool());
        let (mut with_key, mut without_key) = (BTreeMap::new(), BTreeMap::new());
        let (mut used, mut orphans) = (BTreeSet::new(), BTreeSet::new());
        let end_entities = inventory.certificates.iter().filter(|(_, found)| inventory.is_end_entity(found));
        for (fingerprint, found) in end_entities {
            let chain = links.best_chain(&found.certificate);
            used.extend(chain.iter().map(|part| part.fingerprint()));
            let mut all = inventory.certificates.values();
            let is_alone = chain.len() == 1 && !found.certificate.is_self_issued();
            if is_alone && !all.any(|other| links.is_issued(&found.certificate, &other.certificate)) {
                orphans.insert(*fingerprint);
            }
            with_key.insert(*fingerprint, chain);
        }
        let roots: Vec<_> =
            inventory.certificates.values().filter(|found| found.certificate.is_self_issued()).collect();
        let mut keyless: Vec<&FoundCertificate> = Vec::new();
        for (fingerprint, found) in &inventory.certificates {
            // An old root may lack the CA flag; what has issued others is not an end entity.
            let is_end_entity = found.is_chain() && !found.certificate.is_ca() && !used.contains(fingerprint);
            if is_end_entity
                && !inventory.certificates.values().any(|other| links.is_issued(&other.certificate, &found.certificate))
            {
                keyless.push(found);
            }
        }
        for found in keyless {
            let chain = links.best_chain(&found.certificate);
            used.extend(chain.iter().map(|part| part.fingerprint()));
            without_key.insert(found.certificate.fingerprint(), chain);
        }
        for root in roots {
            let mut parts = with_key.values().chain(without_key.values()).flatten();
            if parts.any(|part| links.is_issued(part, &root.certificate)) {
                used.insert(root.certificate.fingerprint());
            }
        }
        Self { with_key, without_key, used, orphans }
    }

    /// Where an end entity's own file holds authorities, none of which is in any chain, and its issuer is nowhere: the
    /// chain was put together wrongly.
    fn unlinked_authority<'a>(
        &self,
        inventory: &'a KeyMaterialInventory,
        found: &FoundCertificate,
    ) -> Option<&'a FoundCertificate> {
        if !self.orphans.contains(&found.certificate.fingerprint()) {
            return None;
        }
        inventory.certificates.iter().find_map(|(fingerprint, other)| {
            let is_beside = other.chain_files.iter().any(|file| found.chain_files.contains(file));
            let is_stranger = is_beside
                && other.certificate.is_ca()
                && !other.certificate.is_self_issued()
                && !self.used.contains(fingerprint);
            is_stranger.then_some(other)
        })
    }
}

fn collect_anchors(inventory: &KeyMaterialInventory) -> Option<Vec<Arc<Certificate>>> {
    let anchors: Vec<_> = inventory
        .certificates
        .values()
        .filter(|found| found.is_trust() && !inventory.is_misplaced(found))
        .map(|found| Arc::clone(&found.certificate))
        .collect();
    let is_cut_off = inventory.unreadable.iter().any(|(file, part)| part.incomplete && is_trust_file(file));
    (!anchors.is_empty() && !is_cut_off).then_some(anchors)
}

impl KeyringContents {
    fn add_pairs(&mut self, inventory: &KeyMaterialInventory, chains: &ChainIndex) {
        for (fingerprint, chain) in &chains.with_key {
            let found = &inventory.certificates[fingerprint];
            let (key, key_files) = &inventory.keys[&found.certificate.spki_hash()];
            if let Some(stranger) = chains.unlinked_authority(inventory, found) {
                let why = format!(
                    "the chain does not link: \"{}\" is issued by \"{}\", but its file holds \"{}\" instead",
                    found.certificate.subject(),
                    found.certificate.issuer(),
                    stranger.certificate.subject()
                );
                let remedy = "add the issuer's certificate to the file, or remove the others";
                self.add_problem(found.first_file(), "chain_does_not_link", why, remedy, ProblemSeverity::Refused);
                continue;
            }
            if chains.orphans.contains(fingerprint) {
                self.report_missing_issuer(found);
            }
            let origin = PairOrigin { asks_to_wait: found.staged, ..inventory.find_origin(chain, key_files) };
            match KeyPair::new(chain.clone(), Arc::clone(key), Vec::new()) {
                Ok(pair) => self.pairs.push(pair.with_origin(origin)),
                Err(error) => {
                    let remedy = "make a new key and have a certificate issued for it";
                    self.add_problem(
                        found.first_file(),
                        "not_a_pair",
                        error.to_string(),
                        remedy,
                        ProblemSeverity::Refused,
                    );
                }
            }
        }
    }

    /// The note about an end entity that comes alone, while its issuer is nowhere in the folder.
    fn report_missing_issuer(&mut self, found: &FoundCertificate) {
        let file = found.first_file();
        let (issuer, subject) = (found.certificate.issuer(), found.certificate.subject());
        let why = format!(
            "it holds \"{subject}\" alone, and its issuer \"{issuer}\" is not in the folder: peers that trust only an \
             authority above that issuer will refuse it (unknown CA)"
        );
        let remedy = format!(
            "append the certificate of \"{issuer}\" to {file}; where peers trust \"{issuer}\" itself, no action is needed"
        );
        self.add_problem(file, CHAIN_INCOMPLETE, why, &remedy, ProblemSeverity::Info);
    }

    fn add_waiting_keys(&mut self, inventory: &KeyMaterialInventory) {
        for (spki_hash, (key, files)) in &inventory.keys {
            let mut certificates =
                inventory.certificates.values().filter(|found| found.certificate.spki_hash() == *spki_hash).peekable();
            let Some(file) = files.first() else { continue };
            if certificates.peek().is_none() {
                let (file, key) = (Arc::clone(file), Arc::clone(key));
                self.waiting.push(PendingKey { file, spki_hash: *spki_hash, key });
            } else if certificates.all(|found| !inventory.is_end_entity(found)) {
                let why = "this is the private key of a certificate authority, which can issue any certificate";
                let remedy = "remove this key from the folder";
                self.add_problem(file, "ca_key_present", why.to_owned(), remedy, ProblemSeverity::Warning);
            }
        }
        self.waiting.sort_by(|a, b| (&a.file, a.spki_hash).cmp(&(&b.file, b.spki_hash)));
    }

    fn report_certificates(&mut self, inventory: &KeyMaterialInventory, chains: &ChainIndex) {
        let strangers = match &self.waiting[..] {
            [] => String::new(),
            [waiting, ..] => format!("; the key in {} belongs to another certificate", waiting.file),
        };
        for (fingerprint, found) in &inventory.certificates {
            let (subject, short) = (found.certificate.subject(), fingerprint.short());
            if chains.without_key.contains_key(fingerprint)
                && let Some(hidden) = inventory.hidden_key(found.first_file())
            {
                let why = format!(
                    "the private key of the certificate \"{subject}\" ({short}) may be in {hidden}, which cannot be read"
                );
                let remedy = format!("correct {hidden} first");
                self.add_problem(found.first_file(), "key_unreadable", why, &remedy, ProblemSeverity::Info);
            } else if chains.without_key.contains_key(fingerprint) {
                let why = format!("no private key here matches the certificate \"{subject}\" ({short}){strangers}");
                let remedy = "add the private key it was requested with; if it is meant as trust, name the file ca.crt";
                self.add_problem(
                    found.first_file(),
                    "certificate_without_key",
                    why,
                    remedy,
                    ProblemSeverity::Incomplete,
                );
            } else if found.is_chain() && !chains.used.contains(fingerprint) {
                let why = format!("the certificate \"{subject}\" ({short}) does not belong to any key pair here");
                let remedy = "no action needed; if it is meant as trust, name the file ca.crt";
                self.add_problem(found.first_file(), "certificate_unused", why, remedy, ProblemSeverity::Info);
            }
        }
    }

    fn add_problem(
        &mut self,
        file: &FileName,
        reason: &'static str,
        why: String,
        remedy: &str,
        severity: ProblemSeverity,
    ) {
        self.problems.push(FolderProblem { file: Arc::clone(file), reason, why, remedy: remedy.to_owned(), severity });
    }
}

fn unreadable_problem(file: &FileName, part: &UnreadablePart, has_pair: bool) -> FolderProblem {
    let severity = match part {
        UnreadablePart { keystore: true, .. } if has_pair => ProblemSeverity::Info,
        UnreadablePart { incomplete: true, .. } => ProblemSeverity::Incomplete,
        _ => ProblemSeverity::Refused,
    };
    let remedy = part.remedy_for(file);
    FolderProblem { file: Arc::clone(file), reason: part.reason, why: part.why.clone(), remedy, severity }
}
