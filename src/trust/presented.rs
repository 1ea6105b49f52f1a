//! A chain as its peer presents it, hashed once: its verdict is looked up after the handshake, by the first request and in each epoch.

use std::ops::Deref;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls_pki_types::CertificateDer;

/// SHA-256 over the certificates of a chain, each with its length.
pub type ChainHash = [u8; 32];

/// A chain, end entity first; empty: none was presented.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresentedChain {
    certificates: Arc<[CertificateDer<'static>]>,
    hash: ChainHash,
}

impl PresentedChain {
    /// A chain whose hash is known from before. A look-up by it compares the chain as well.
    pub fn with_known_hash(certificates: Arc<[CertificateDer<'static>]>, hash: ChainHash) -> Self {
        Self { certificates, hash }
    }

    /// The certificates, to be shared.
    pub fn certificates(&self) -> &Arc<[CertificateDer<'static>]> {
        &self.certificates
    }

    /// Its hash.
    pub fn hash(&self) -> &ChainHash {
        &self.hash
    }
}

impl<T: Into<Arc<[CertificateDer<'static>]>>> From<T> for PresentedChain {
    fn from(certificates: T) -> Self {
        let certificates = certificates.into();
        let mut context = digest::Context::new(&digest::SHA256);
        for certificate in &*certificates {
            context.update(&(certificate.len() as u64).to_be_bytes());
            context.update(certificate);
        }
        let mut hash = ChainHash::default();
        hash.copy_from_slice(context.finish().as_ref());
        Self { certificates, hash }
    }
}

impl Deref for PresentedChain {
    type Target = [CertificateDer<'static>];

    fn deref(&self) -> &Self::Target {
        &self.certificates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::sample::{TestAuthority, now, trust};
    use crate::trust::{PeerRole, TrustError};

    #[test]
    fn a_verdict_is_never_that_of_another_chain_whatever_its_hash_is_said_to_be() {
        let (ca, other) = (TestAuthority::new("CA"), TestAuthority::new("Other"));
        let trust = trust(&[&ca]);
        let known = PresentedChain::from(ca.issue_peer("a.test", &|_| ()).chain);
        let verify = |chain: &PresentedChain| trust.verify_presented(chain, &PeerRole::Client, now());
        let first = verify(&known).unwrap();
        let copy = PresentedChain::with_known_hash(known.to_vec().into(), *known.hash());
        assert!(Arc::ptr_eq(&first, &verify(&copy).unwrap()), "the verdict is looked up");
        let foreign = other.issue_peer("a.test", &|_| ()).chain;
        let forged = PresentedChain::with_known_hash(foreign.into(), *known.hash());
        assert!(matches!(verify(&forged), Err(TrustError::UnknownIssuer { .. })));
        assert!(Arc::ptr_eq(&first, &verify(&known).unwrap()));
    }
}
