//! A key pair: one end-entity certificate with its intermediates, and its private key, proved to match.
//!
//! The one place beside `tls` that speaks rustls, because a private key is only useful as something that signs.

pub(super) mod load;

use std::sync::Arc;

use jiff::Timestamp;
use rustls::SignatureScheme;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

use super::pem_writer::{pem_len, write_pem};
use super::{Certificate, FileName, Fingerprint, PrivateKey, Validity, der};
use load::load_key;

/// Every scheme that a key may sign with, best first: short and quick signatures before RSA, PSS before PKCS#1
/// (which TLS 1.3 does not take in handshakes).
const SCHEMES: [SignatureScheme; 10] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];

/// Chain and key. The constructor guarantees: the chain is not empty, the end entity first, each issuer follows its
/// subject, a self-issued root is left out, the key matches and can sign.
pub struct KeyPair {
    chain: Vec<Arc<Certificate>>,
    key: Arc<PrivateKey>,
    origin: PairOrigin,
    schemes: Vec<u16>,
    certified: Arc<CertifiedKey>,
}

/// The files that a pair was read from, and what they say of it. Names are relative to the watched folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairOrigin {
    /// Files with its end entity or its key, sorted: what to take away to be rid of the pair.
    pub own_files: Vec<FileName>,
    /// Files with nothing of it but intermediates of its chain, sorted. Other pairs may share them.
    pub shared_files: Vec<FileName>,
    /// A file that is broken, so that something of the pair may be missing.
    pub broken_file: Option<FileName>,
    /// The pair's file asks that it wait for `promote` (`blocks::STAGED_LINE`).
    pub asks_to_wait: bool,
}

/// Why chain and key do not make a key pair.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyPairError {
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
    /// Proves that the parts belong together. `sources` are the files with the end entity or the key, for people.
    pub fn new(
        chain: Vec<Arc<Certificate>>,
        key: Arc<PrivateKey>,
        sources: Vec<FileName>,
    ) -> Result<Arc<Self>, KeyPairError> {
        let end_entity = chain.first().ok_or(KeyPairError::Empty)?;
        if end_entity.spki() != key.spki() {
            return Err(KeyPairError::Mismatch);
        }
        let signing = load_key(&key.der()).map_err(KeyPairError::CannotSign)?;
        let schemes = schemes(&*signing);
        if schemes.is_empty() {
            return Err(KeyPairError::CannotSign("it supports no TLS signature scheme".to_owned()));
        }
        let chain = link_chain(chain)?;
        let ders = chain.iter().map(|certificate| certificate.der().clone()).collect();
        let certified = Arc::new(CertifiedKey::new(ders, signing));
        let origin = PairOrigin { own_files: sources, ..PairOrigin::default() };
        Ok(Arc::new(Self { chain, key, origin, schemes, certified }))
    }
    /// The same pair, from these files.
    pub fn with_origin(&self, origin: PairOrigin) -> Arc<Self> {
        Arc::new(Self {
            chain: self.chain.clone(),
            key: Arc::clone(&self.key),
            origin,
            schemes: self.schemes.clone(),
            certified: Arc::clone(&self.certified),
        })
    }
    /// Where it was read from.
    pub fn origin(&self) -> &PairOrigin {
        &self.origin
    }
    /// Whether its file asks that it wait for `promote`.
    pub fn is_staging_requested(&self) -> bool {
        self.origin.asks_to_wait
    }
    /// Whether a file that it needs is broken: it does not go into use while a whole pair is there.
    pub fn is_broken(&self) -> bool {
        self.origin.broken_file.is_some()
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
    /// The intermediate that ends first, where one ends before the end entity: with it the chain is worth nothing
    /// (RFC 5280 6.1.3).
    pub fn ends_early(&self) -> Option<&Arc<Certificate>> {
        let end = |certificate: &&Arc<Certificate>| certificate.validity().not_after;
        let first = self.chain[1..].iter().min_by_key(end)?;
        (end(&first) < self.validity().not_after).then_some(first)
    }
    /// Whether the end entity is valid at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.validity().contains(now)
    }
    /// The files with its end entity or its key.
    pub fn sources(&self) -> &[FileName] {
        &self.origin.own_files
    }
    /// The private key, for retaining.
    pub fn key(&self) -> &Arc<PrivateKey> {
        &self.key
    }
    /// TLS SignatureScheme code points (RFC 8446 4.2.3) that the key can sign with, best first.
    pub fn schemes(&self) -> Vec<u16> {
        self.schemes.clone()
    }
    /// DER of every issuer name in the chain, the end entity's issuer first: what a certificate_authorities hint is
    /// compared with (RFC 8446 4.2.4).
    pub fn issuer_names(&self) -> Vec<Vec<u8>> {
        self.chain.iter().map(|certificate| certificate.issuer_der().to_vec()).collect()
    }
    /// Signs with the private key, under one of [`Self::schemes`]: a TLS signature (RFC 8446 4.2.3), ECDSA as DER.
    ///
    /// # Errors
    /// The key has no such scheme, or the provider fails.
    pub fn sign(&self, scheme: u16, message: &[u8]) -> Result<Vec<u8>, String> {
        let signer = self.certified.key.choose_scheme(&[SignatureScheme::from(scheme)]);
        let signer = signer.ok_or_else(|| format!("the key does not sign with 0x{scheme:04x}"))?;
        signer.sign(message).map_err(|error| error.to_string())
    }
    /// The same in the form of JWS (RFC 7518 3.4): an ECDSA signature as two numbers of `width` bytes each; others as they are.
    ///
    /// # Errors
    /// As for [`Self::sign`].
    pub fn sign_fixed(&self, scheme: u16, width: Option<usize>, message: &[u8]) -> Result<Vec<u8>, String> {
        let signature = self.sign(scheme, message)?;
        let Some(width) = width else { return Ok(signature) };
        let fixed =
            der::ecdsa_numbers(&signature).filter(|(r, s)| r.len() <= width && s.len() <= width).map(|(r, s)| {
                let mut fixed = vec![0; 2 * width];
                fixed[width - r.len()..width].copy_from_slice(r);
                fixed[2 * width - s.len()..].copy_from_slice(s);
                fixed
            });
        fixed.ok_or_else(|| "the provider's signature is not in the form of ECDSA".to_owned())
    }
    /// Chain and key as rustls wants them.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
    /// Chain then key as PEM: the form kept in `state/retained/`.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let key = self.key.der();
        let label = match key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        let certificates: usize = self.chain.iter().map(|certificate| pem_len("CERTIFICATE", certificate.der())).sum();
        // Room for all of it at once: growing would leave copies of the key behind.
        let mut out = Zeroizing::new(String::with_capacity(certificates + pem_len(label, key.secret_der())));
        for certificate in &self.chain {
            write_pem("CERTIFICATE", certificate.der(), &mut out);
        }
        write_pem(label, key.secret_der(), &mut out);
        out
    }
}

/// Checks that each certificate is issued by the next, and leaves out a root at the end.
fn link_chain(mut chain: Vec<Arc<Certificate>>) -> Result<Vec<Arc<Certificate>>, KeyPairError> {
    for pair in chain.windows(2) {
        if !pair[0].is_issued_by(&pair[1]) {
            let (subject, next) = (pair[0].subject().to_owned(), pair[1].subject().to_owned());
            return Err(KeyPairError::DoesNotLink { subject, next });
        }
    }
    if chain.len() > 1 && chain.last().is_some_and(|last| last.is_self_issued()) {
        chain.pop();
    }
    Ok(chain)
}

fn schemes(key: &dyn SigningKey) -> Vec<u16> {
    SCHEMES.iter().filter(|scheme| key.choose_scheme(&[**scheme]).is_some()).map(|scheme| u16::from(*scheme)).collect()
}

#[cfg(test)]
mod tests;

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "KeyPair({:?})", self.fingerprint())
    }
}
