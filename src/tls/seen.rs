//! The per-handshake slot: what our verifier and our client resolver saw, for a handshake that fails.
//!
//! Configs are shared, so rustls cannot hand facts to *a* connection, least of all on failure. rustls runs inside
//! `poll`, so a task-local is always the right handshake's.

use std::cell::RefCell;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

use crate::keyring::PeerRequirements;
use crate::trust::TrustError;

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct HandshakeObservation {
    /// The chain that the other side presented.
    pub chain: Vec<CertificateDer<'static>>,
    /// Our verdict on it, if it was bad.
    pub untrusted: Option<TrustError>,
    /// The chain was fine, the CertificateVerify signature was not.
    pub bad_signature: bool,
    /// `Some(true)` in TLS 1.3, `Some(false)` in TLS 1.2, where it is known.
    pub tls13: Option<bool>,
    /// Until when the other side's path holds: verified in this handshake, or, where it resumes, in the one it goes back to.
    pub path_end: Option<Timestamp>,
    /// What a CertificateRequest asked for (egress): `Some` also where it named nothing.
    pub asked: Option<PeerRequirements>,
    /// The first bytes that came within this handshake, for one that is dropped together with its stream.
    pub(super) first_bytes: Vec<u8>,
}

tokio::task_local! {
    static SLOT: RefCell<HandshakeObservation>;
}

/// Runs a handshake with a slot of its own; gives back what was seen with its outcome, also when the handshake is dropped
/// by its deadline inside `run`.
pub(super) async fn observe_handshake<F: Future>(run: F) -> (F::Output, HandshakeObservation) {
    let mut scoped = std::pin::pin!(SLOT.scope(RefCell::new(HandshakeObservation::default()), run));
    let output = scoped.as_mut().await;
    let seen = scoped.take_value().map(RefCell::into_inner).unwrap_or_default();
    (output, seen)
}

/// Until when the path holds that the handshake which is running has verified, or resumes.
pub(super) fn read_path_end() -> Option<Timestamp> {
    SLOT.try_with(|slot| slot.borrow().path_end).ok().flatten()
}

/// Leaves something in the slot of the handshake that is running; outside one, nothing happens.
pub(super) fn record_observation(write: impl FnOnce(&mut HandshakeObservation)) {
    let _ = SLOT.try_with(|slot| write(&mut slot.borrow_mut()));
}
