//! What a file in `state/retained/` belongs to, by its path: a keyring or a trust.

use std::path::Path;
use std::sync::Arc;

use super::store;
use crate::keyring::KeyringName;
use crate::pki::{Certificate, Fingerprint, KeyMaterial, KeyPair};
use crate::trust::TrustName;
use crate::writer::remembered::RememberedState;

/// The folder of what belongs to trusts.
pub(super) const TRUST_FOLDER: &str = "trust";

/// What a retained file belongs to, by its path.
pub(super) enum RetainedOwner {
    Keyring(KeyringName),
    Trust(TrustName),
}

impl RetainedOwner {
    pub(super) fn from_path(path: &Path) -> Option<Self> {
        let parts: Vec<&str> = path.iter().map(|part| part.to_str()).collect::<Option<_>>()?;
        match parts[..] {
            [name, _] => Some(Self::Keyring(store::decode_name(name)?.into())),
            [TRUST_FOLDER, name, _] => Some(Self::Trust(store::decode_name(name)?.into())),
            _ => None,
        }
    }

    pub(super) fn add_blocks(
        self,
        blocks: KeyMaterial,
        path: &Path,
        out: &mut RememberedState,
    ) -> Result<Vec<Fingerprint>, String> {
        let chain = chain_fingerprints(&blocks.certificates);
        match self {
            Self::Keyring(name) => {
                let key = blocks.keys.into_iter().next().ok_or("it contains no private key")?;
                let pair = KeyPair::new(blocks.certificates, key, vec![store::path_text(path).into()])
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

/// What identifies a chain, end entity first.
pub(super) fn chain_fingerprints(chain: &[Arc<Certificate>]) -> Vec<Fingerprint> {
    chain.iter().map(|certificate| certificate.fingerprint()).collect()
}
