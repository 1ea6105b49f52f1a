//! `keyring export`: a pair's certificate and chain for the partner; its private key only if the operator asks for it.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{OfflineKeyringError, OfflineKeyrings};
use crate::pki::{KeyPair, pkcs12};

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// The end entity and its chain, as text.
    Pem,
    /// The end entity alone: DER holds one certificate.
    Der,
    /// PKCS#12.
    Pkcs12,
}

impl OfflineKeyrings {
    /// The pair with a fingerprint that begins so; `None`: the current one.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn pair(&self, beginning: Option<&str>) -> Result<&Arc<KeyPair>, OfflineKeyringError> {
        let keyring = &self.keyring;
        let Some(beginning) = beginning else {
            return self
                .current()
                .ok_or_else(|| OfflineKeyringError::Wrong(format!("keyring {keyring:?} has no current key pair")));
        };
        let digits = beginning.strip_prefix("sha256:").unwrap_or(beginning).replace(':', "").to_ascii_lowercase();
        let mut found = self.pairs().filter(|pair| pair.fingerprint().hex().starts_with(&digits));
        match (found.next(), found.next()) {
            (Some(pair), None) => Ok(pair),
            (Some(_), Some(_)) => Err(OfflineKeyringError::Wrong(format!(
                "several key pairs in {keyring:?} begin with {beginning:?}: add digits"
            ))),
            (None, _) => Err(OfflineKeyringError::Wrong(format!(
                "keyring {keyring:?} has no key pair that begins with {beginning:?}"
            ))),
        }
    }

    /// The bytes for the partner. A password is for PKCS#12.
    ///
    /// # Errors
    /// The form cannot hold what the operator asked for.
    pub fn export(
        &self,
        pair: &KeyPair,
        form: ExportFormat,
        with_private_key: bool,
        password: Option<&str>,
    ) -> Result<Zeroizing<Vec<u8>>, OfflineKeyringError> {
        let bytes = match (form, with_private_key) {
            (ExportFormat::Pem, false) => pair.chain().iter().map(|part| part.pem()).collect::<String>().into_bytes(),
            (ExportFormat::Pem, true) => pair.to_pem().as_bytes().to_vec(),
            (ExportFormat::Der, false) => pair.end_entity().der().to_vec(),
            (ExportFormat::Der, true) => {
                return Err(OfflineKeyringError::Wrong(
                    "DER holds only the certificate: export the key as pem or p12".to_owned(),
                ));
            }
            (ExportFormat::Pkcs12, _) => {
                let password = password.filter(|password| !password.is_empty());
                let none = || {
                    OfflineKeyringError::Wrong(
                        "PKCS#12 needs a password: write one to a file and pass it with --password-file".to_owned(),
                    )
                };
                pkcs12::write(pair, &self.keyring, with_private_key, password.ok_or_else(none)?)?
            }
        };
        Ok(Zeroizing::new(bytes))
    }
}
