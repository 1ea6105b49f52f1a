//! The per-handshake slot: what our verifier and our client resolver saw, for a handshake that fails.
//!
//! Configs are shared, so rustls cannot hand facts to *a* connection, least of all on failure. rustls runs inside
//! `poll`, so a task-local is always the right handshake's.

use rustls_pki_types::CertificateDer;

use crate::keyring::Asked;
use crate::trust::Untrusted;

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The chain that the other side presented.
    pub chain: Vec<CertificateDer<'static>>,
    /// Our verdict on it, if it was bad.
    pub untrusted: Option<Untrusted>,
    /// The chain was fine, the CertificateVerify signature was not.
    pub bad_signature: bool,
    /// `Some(true)` in TLS 1.3, `Some(false)` in TLS 1.2, where it is known.
    pub tls13: Option<bool>,
    /// What a CertificateRequest asked for (egress): `Some` also where it named nothing.
    pub asked: Option<Asked>,
}
