//! Everything that the files of a keyring hold, sorted, each thing once, with the files it was found in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustls_pki_types::CertificateRevocationListDer;

use crate::pki::{Certificate, FileName, Fingerprint, KeyMaterial, PairOrigin, PrivateKey, SpkiHash, UnreadablePart};

/// Whether this file name (its last component) is trust and not chain: `ca.crt`, `ca.pem`, `ca-bundle.crt`.
pub fn is_trust_file(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    matches!(last, "ca.crt" | "ca.pem" | "ca-bundle.crt")
}

/// A certificate and where it was found; one of the two sets is not empty.
pub(super) struct FoundCertificate {
    pub(super) certificate: Arc<Certificate>,
    /// Files that hold chains.
    pub(super) chain_files: BTreeSet<FileName>,
    /// Files that hold trust.
    trust_files: BTreeSet<FileName>,
    /// A chain file asks that it wait for `promote`.
    pub(super) staged: bool,
}

impl FoundCertificate {
    pub(super) fn is_chain(&self) -> bool {
        !self.chain_files.is_empty()
    }

    pub(super) fn is_trust(&self) -> bool {
        !self.trust_files.is_empty()
    }

    pub(super) fn first_file(&self) -> &FileName {
        self.chain_files.iter().chain(&self.trust_files).next().expect("a certificate was found somewhere")
    }
}

#[derive(Default)]
pub(super) struct KeyMaterialInventory {
    pub(super) certificates: BTreeMap<Fingerprint, FoundCertificate>,
    pub(super) keys: BTreeMap<SpkiHash, (Arc<PrivateKey>, BTreeSet<FileName>)>,
    /// Sorted.
    pub(super) crls: Vec<CertificateRevocationListDer<'static>>,
    pub(super) unreadable: Vec<(FileName, UnreadablePart)>,
}

impl KeyMaterialInventory {
    pub(super) fn from_files(mut files: Vec<(FileName, KeyMaterial)>) -> Self {
        // One key may be there in two encodings: the first file's is kept, whatever order the files came in.
        files.sort_by(|a, b| a.0.cmp(&b.0));
        let mut inventory = Self::default();
        for (file, blocks) in files {
            let is_trust = is_trust_file(&file);
            for certificate in blocks.certificates {
                let found =
                    inventory.certificates.entry(certificate.fingerprint()).or_insert_with(|| FoundCertificate {
                        certificate,
                        chain_files: BTreeSet::new(),
                        trust_files: BTreeSet::new(),
                        staged: false,
                    });
                found.staged |= blocks.staged && !is_trust;
                let files = if is_trust { &mut found.trust_files } else { &mut found.chain_files };
                files.insert(Arc::clone(&file));
            }
            for key in blocks.keys {
                let entry = inventory.keys.entry(key.spki_hash()).or_insert_with(|| (key, BTreeSet::new()));
                entry.1.insert(Arc::clone(&file));
            }
            inventory.crls.extend(blocks.crls);
            inventory.unreadable.extend(blocks.unreadable.into_iter().map(|part| (Arc::clone(&file), part)));
        }
        inventory.crls.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        inventory.crls.dedup();
        inventory
    }

    /// Whether it makes a key pair. An authority that only a trust file holds does not, even if its key is here.
    pub(super) fn is_end_entity(&self, found: &FoundCertificate) -> bool {
        let has_key = self.keys.contains_key(&found.certificate.spki_hash());
        has_key && (found.is_chain() || !found.certificate.is_ca())
    }

    /// Whether an end entity and its key were put into a trust file: it is a pair's, and trusting it would mean
    /// to trust oneself. A self-signed one can only be meant as both.
    pub(super) fn is_misplaced(&self, found: &FoundCertificate) -> bool {
        !found.is_chain() && self.is_end_entity(found) && !found.certificate.is_self_issued()
    }

    /// The certificates that chains are built from, sorted. Trust is not chain, except in a trust file that holds the
    /// pair itself.
    pub(super) fn chain_pool(&self) -> Vec<Arc<Certificate>> {
        let mixed: BTreeSet<&FileName> = self
            .certificates
            .values()
            .filter(|found| self.is_misplaced(found))
            .flat_map(|found| &found.trust_files)
            .collect();
        self.certificates
            .values()
            .filter(|found| found.is_chain() || found.trust_files.iter().any(|file| mixed.contains(file)))
            .map(|found| Arc::clone(&found.certificate))
            .collect()
    }

    /// The files that a pair of this chain and key comes from.
    pub(super) fn find_origin(&self, chain: &[Arc<Certificate>], key_files: &BTreeSet<FileName>) -> PairOrigin {
        // Where a chain file holds it, the trust file that holds it too is not the source.
        let files_of = |part: &Arc<Certificate>| match self.certificates.get(&part.fingerprint()) {
            Some(found) if found.is_chain() => found.chain_files.clone(),
            Some(found) => found.trust_files.clone(),
            None => BTreeSet::new(),
        };
        let end_entity = chain.first().map(files_of).unwrap_or_default();
        let own: BTreeSet<FileName> = end_entity.union(key_files).cloned().collect();
        let above: BTreeSet<FileName> = chain.iter().skip(1).flat_map(files_of).collect();
        let broken_half = [&end_entity, key_files].into_iter().find_map(|half| self.broken_half(half));
        PairOrigin {
            broken_file: broken_half.or_else(|| self.broken_neighbour(chain, &own)),
            shared_files: above.difference(&own).cloned().collect(),
            own_files: own.into_iter().collect(),
            asks_to_wait: false,
        }
    }

    /// Of the files that hold one half of a pair, the first, where every one of them is broken.
    fn broken_half(&self, files: &BTreeSet<FileName>) -> Option<FileName> {
        files.iter().all(|file| self.is_broken(file)).then(|| files.first().cloned()).flatten()
    }

    /// Where an end entity is alone and its issuer nowhere: a file in the same folder in which a certificate is cut off,
    /// because that may be the issuer.
    fn broken_neighbour(&self, chain: &[Arc<Certificate>], own: &BTreeSet<FileName>) -> Option<FileName> {
        let [end_entity] = chain else { return None };
        let is_issuer = |found: &FoundCertificate| found.certificate.subject_der() == end_entity.issuer_der();
        if end_entity.is_self_issued() || self.certificates.values().any(is_issuer) {
            return None;
        }
        let is_near = |file: &FileName| own.iter().any(|other| folder_of(other) == folder_of(file));
        let cut_off = |part: &UnreadablePart| part.incomplete && !part.hides_key && !part.keystore;
        let found = self.unreadable.iter().find(|(file, part)| cut_off(part) && is_near(file) && !is_trust_file(file));
        found.map(|(file, _)| Arc::clone(file))
    }

    /// Whether something that was meant to be key material is damaged or cut off in this file.
    fn is_broken(&self, file: &FileName) -> bool {
        let is_damage = |part: &UnreadablePart| part.incomplete || part.reason.ends_with("_malformed");
        self.unreadable.iter().any(|(of, part)| of == file && is_damage(part))
    }

    /// The file beside this one that may hold the private key that is missed, because it cannot be read.
    pub(super) fn hidden_key(&self, beside: &FileName) -> Option<&FileName> {
        let is_near = |file: &FileName| folder_of(file) == folder_of(beside);
        self.unreadable.iter().find(|(file, part)| part.hides_key && is_near(file)).map(|(file, _)| file)
    }

    /// Whether every end entity of this file has its private key, wherever that lies.
    pub(super) fn has_all_keys(&self, file: &FileName) -> bool {
        let of_file = self.certificates.values().filter(|found| found.chain_files.contains(file));
        let end_entities = of_file.filter(|found| !found.certificate.is_ca());
        end_entities.into_iter().all(|found| self.keys.contains_key(&found.certificate.spki_hash()))
    }
}

/// The folder that a file lies in, as its name says.
fn folder_of(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(folder, _)| folder)
}
