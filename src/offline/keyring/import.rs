//! `keyring import`: what a CA or a colleague sent (PEM, DER, PKCS#12), joined to its key and put into the folder.

use std::sync::Arc;

use super::{OfflineKeyringError, OfflineKeyrings, OfflineOutcome};
use crate::pki::{Certificate, KeyMaterial, KeyPair};
use zeroize::Zeroizing;

/// What is imported, and how.
pub struct KeyPairImport {
    /// What the files hold, by file name.
    pub files: Vec<(String, KeyMaterial)>,
    /// The files' name in the folder, without ending.
    pub name: Option<String>,
    /// Current at once, and not staged beside a current pair.
    pub activate: bool,
}

impl OfflineKeyrings {
    /// Joins certificates to the key that waits for them in the folder, or to the one that came with them.
    ///
    /// # Errors
    /// No certificate, no key that fits, a part that cannot be read, or the rules would refuse the pair.
    pub fn import(&self, import: KeyPairImport) -> Result<OfflineOutcome, OfflineKeyringError> {
        for (file, blocks) in &import.files {
            if let Some(part) = blocks.unreadable.first() {
                return Err(OfflineKeyringError::Wrong(format!(
                    "{file}: {} ({}); {}",
                    part.why,
                    part.reason,
                    part.remedy_for(file)
                )));
            }
        }
        let brought: Vec<_> = import.files.iter().flat_map(|(_, blocks)| &blocks.keys).map(Arc::clone).collect();
        let certificates: Vec<Arc<Certificate>> =
            import.files.iter().flat_map(|(_, blocks)| &blocks.certificates).map(Arc::clone).collect();
        let extra = import.files.into_iter().map(|(name, blocks)| (self.file_name(&name), blocks)).collect();
        let joined = self.contents_with(extra).keyrings.remove(&self.keyring).unwrap_or_default();
        let is_ours = |pair: &&Arc<KeyPair>| certificates.contains(pair.end_entity());
        let mut pairs = joined.pairs.iter().filter(is_ours);
        let Some(pair) = pairs.next() else { return Err(self.no_pair(&certificates)) };
        if let Some(other) = pairs.next() {
            let (one, other) = (pair.end_entity().subject(), other.end_entity().subject());
            let why = format!("these files hold several key pairs ({one:?} and {other:?}): import them one at a time");
            return Err(OfflineKeyringError::Wrong(why));
        }
        if self.pairs().any(|known| known.fingerprint() == pair.fingerprint()) {
            let short = pair.fingerprint().short();
            return Err(OfflineKeyringError::Wrong(format!("keyring {:?} already has key pair {short}", self.keyring)));
        }
        let spki_hash = pair.end_entity().spki_hash();
        // The folder's key stays where it is; one that was brought along is written beside its certificate.
        let in_folder = self.key_file(spki_hash);
        let stem = match (&import.name, &in_folder) {
            (Some(name), _) => self.stem(Some(name), spki_hash)?,
            (None, Some(file)) => self.beside(file, pair),
            (None, None) => self.stem(None, spki_hash)?,
        };
        let key_pem = match in_folder {
            Some(_) => None,
            None => brought.iter().find(|key| key.spki_hash() == spki_hash).map(|key| key.pem()),
        };
        let staged = !import.activate && self.has_valid_current();
        self.write_pair(pair, key_pem.as_ref().map(|key: &Zeroizing<String>| key.as_str()), &stem, staged)
    }

    /// The file in the folder that this key lies in.
    pub(super) fn key_file(&self, spki_hash: crate::pki::SpkiHash) -> Option<String> {
        let joined = self.state.contents().keyrings.get(&self.keyring)?;
        let waiting = joined.waiting.iter().find(|waiting| waiting.spki_hash == spki_hash);
        let renewed = || joined.pairs.iter().find(|pair| pair.end_entity().spki_hash() == spki_hash);
        match waiting {
            Some(waiting) => Some(waiting.file.to_string()),
            None => renewed().and_then(|pair| pair.sources().last()).map(ToString::to_string),
        }
    }

    /// `2026.crt` beside `2026.key`; where that name is taken, with the certificate's own.
    fn beside(&self, key_file: &str, pair: &KeyPair) -> String {
        let name = key_file.rsplit('/').next().unwrap_or(key_file);
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        let is_free = !self.path().join(format!("{stem}.crt")).exists() && !matches!(stem, "ca" | "ca-bundle");
        if is_free { stem.to_owned() } else { format!("{stem}-{}", &pair.fingerprint().short()[..8]) }
    }

    fn no_pair(&self, certificates: &[Arc<Certificate>]) -> OfflineKeyringError {
        let keyring = &self.keyring;
        let Some(first) = certificates.iter().find(|certificate| !certificate.is_ca()).or(certificates.first()) else {
            return OfflineKeyringError::Wrong("no certificate found in these files".to_owned());
        };
        let waiting = self.state.contents().keyrings.get(keyring).map(|joined| &joined.waiting[..]).unwrap_or_default();
        let waits = match waiting {
            [] => "no key is waiting for a certificate there".to_owned(),
            several => {
                let files: Vec<&str> = several.iter().map(|waiting| waiting.file.as_ref()).collect();
                format!("the waiting key ({}) belongs to another certificate", files.join(", "))
            }
        };
        OfflineKeyringError::Wrong(format!(
            "no private key in keyring {keyring:?} matches the certificate {:?} (public key {}): {waits}; import it \
             into the keyring that made its request, or import its key together with it",
            first.subject(),
            first.spki_hash()
        ))
    }
}
