//! A key pair: one end-entity certificate with its intermediates, and its private key, proved to match.
//!
//! The one place beside `tls` that speaks rustls, because a private key is only useful as something that signs.

use std::sync::Arc;

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{Certificate, FileName, Fingerprint, PrivateKey, Validity};

/// Chain and key. The constructor guarantees: the chain is not empty, the end entity first, each issuer follows its
/// subject, a self-issued root is left out, the key matches and can sign.
pub struct KeyPair {
    chain: Vec<Arc<Certificate>>,
    key: Arc<PrivateKey>,
    sources: Vec<FileName>,
}

/// Why chain and key make no key pair.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAPair {
    /// No certificate.
    #[error("no certificate")]
    Empty,
    /// Another key's certificate.
    #[error("the private key does not match the certificate")]
    Mismatch,
    /// Each certificate must be issued by the next.
    #[error("the chain does not link: {subject:?} is followed by {next:?}")]
    DoesNotLink {
        /// Subject of the certificate whose issuer does not follow.
        subject: String,
        /// Subject of the certificate that follows.
        next: String,
    },
    /// The provider cannot sign with it.
    #[error("the key cannot sign: {0}")]
    CannotSign(String),
}

impl KeyPair {
    /// Proves that the parts belong together. `sources` are the files they came from, for people.
    pub fn new(
        chain: Vec<Arc<Certificate>>,
        key: Arc<PrivateKey>,
        sources: Vec<FileName>,
    ) -> Result<Arc<Self>, NotAPair> {
        let _ = (chain, key, sources);
        todo!()
    }
    /// The end entity's fingerprint: the pair's name.
    pub fn fingerprint(&self) -> Fingerprint {
        self.end_entity().fingerprint()
    }
    /// The certificate that is shown.
    pub fn end_entity(&self) -> &Arc<Certificate> {
        &self.chain[0]
    }
    /// End entity first, without a self-issued root.
    pub fn chain(&self) -> &[Arc<Certificate>] {
        &self.chain
    }
    /// The end entity's validity.
    pub fn validity(&self) -> Validity {
        self.end_entity().validity()
    }
    /// Whether the end entity is valid at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.validity().contains(now)
    }
    /// Where it was read from, relative to the watched folder.
    pub fn sources(&self) -> &[FileName] {
        &self.sources
    }
    /// The private key, for retaining.
    pub fn key(&self) -> &Arc<PrivateKey> {
        &self.key
    }
    /// TLS SignatureScheme code points (RFC 8446 4.2.3) that the key can sign with, best first.
    pub fn schemes(&self) -> Vec<u16> {
        todo!()
    }
    /// DER of every issuer name in the chain, the end entity's issuer first: what a certificate_authorities hint is
    /// compared with (RFC 8446 4.2.4).
    pub fn issuer_names(&self) -> Vec<Vec<u8>> {
        todo!()
    }
    /// Chain and key as rustls wants them.
    pub fn certified(&self) -> Arc<rustls::sign::CertifiedKey> {
        todo!()
    }
    /// Chain then key as PEM: the form kept in `state/retained/`.
    pub fn to_pem(&self) -> Zeroizing<String> {
        todo!()
    }
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "KeyPair({:?})", self.fingerprint())
    }
}
