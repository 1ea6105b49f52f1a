//! The pairs that one handshake as a client may show: its connector lists them, its slot answers a CertificateRequest from them.

use std::sync::Arc;

use rustls::sign::CertifiedKey;

use crate::keyring::KeyPairCandidate;

/// A pair that a handshake may show: what the choice needs to know, and what signs.
pub(super) struct OfferedPair {
    pub(super) facts: KeyPairCandidate,
    pub(super) key: Arc<CertifiedKey>,
}
