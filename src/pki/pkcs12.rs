//! Writes PKCS#12 (RFC 7292) for a partner: certificates alone as a trust store, or a pair with its key. Reading is `blocks`\'.

use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};

use super::KeyPair;

/// Why nothing was written, printable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot write PKCS#12: {0}")]
pub struct Pkcs12WriteError(String);

/// The pair as PKCS#12 under this password: AES-256 and HMAC-SHA-256, which OpenSSL 3, Java 8u301 and Windows 10 1709 and
/// later read. `name` is the alias. Without `with_key` only the certificates, each as one that is trusted.
pub fn write(pair: &KeyPair, name: &str, with_key: bool, password: &str) -> Result<Vec<u8>, Pkcs12WriteError> {
    let certificates = pair.chain().iter().map(|part| Certificate::from_der(part.der()));
    let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(write_error)?;
    let mut store = KeyStore::new();
    if with_key {
        let key = PrivateKey::from_der(&pair.key().to_pkcs8()).map_err(write_error)?;
        let id = pair.fingerprint().as_bytes()[..20].to_vec();
        let chain = PrivateKeyChain::new(id, key, certificates);
        store.add_entry(name, KeyStoreEntry::PrivateKeyChain(chain));
    } else {
        for (at, certificate) in certificates.into_iter().enumerate() {
            let alias = if at == 0 { name.to_owned() } else { format!("{name}-{at}") };
            store.add_entry(&alias, KeyStoreEntry::Certificate(certificate));
        }
    }
    store.writer(password).write().map_err(write_error)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn write_error(error: p12_keystore::error::Error) -> Pkcs12WriteError {
    Pkcs12WriteError(super::printable(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::pki::issue::{CertificateAuthority, IssueRequest, NewKeyKind};
    use crate::pki::{Validity, blocks};

    /// A chain of two.
    fn pair() -> std::sync::Arc<KeyPair> {
        let validity = Validity {
            not_before: "2026-01-01T00:00:00Z".parse().unwrap(),
            not_after: "2027-01-01T00:00:00Z".parse().unwrap(),
        };
        let request = IssueRequest {
            common_name: "api".into(),
            organization: None,
            dns: vec!["api.example".into()],
            uris: Vec::new(),
            ips: Vec::new(),
            server: true,
            client: true,
            validity,
            key: NewKeyKind::P256,
        };
        let root = CertificateAuthority::new("Root", validity).unwrap();
        let issued = root.intermediate("Issuing", validity).unwrap().issue(&request).unwrap();
        let both = Zeroizing::new(format!("{}{}", issued.chain_pem, *issued.key_pem).into_bytes());
        let read = blocks::read(&both, None);
        KeyPair::new(read.certificates, std::sync::Arc::clone(&read.keys[0]), Vec::new()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_with_its_password_only() {
        let pair = pair();
        for with_key in [true, false] {
            let bytes = Zeroizing::new(write(&pair, "api", with_key, "secret").unwrap());
            let read = blocks::read(&bytes, Some("secret"));
            assert_eq!(read.certificates, pair.chain());
            let keys: Vec<_> = read.keys.iter().map(|key| key.spki_hash()).collect();
            assert_eq!(keys, if with_key { vec![pair.end_entity().spki_hash()] } else { vec![] });
            assert_eq!(blocks::read(&bytes, Some("wrong")).unreadable[0].reason, "pkcs12_password");
        }
    }
}
