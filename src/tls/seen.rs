//! The per-handshake slot: what our verifier and our client resolver saw, for a handshake that fails.
//!
//! Configs are shared, so rustls cannot hand facts to *a* connection, least of all on failure. rustls runs inside
//! `poll`, so a task-local is always the right handshake's.

use std::cell::RefCell;

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
    /// The first bytes that came within this handshake, for one that is dropped together with its stream.
    pub(super) first_bytes: Vec<u8>,
}

tokio::task_local! {
    static SLOT: RefCell<Seen>;
}

/// Runs a handshake with a slot of its own; gives back what was seen with its outcome, also when the handshake is dropped
/// by its deadline inside `run`.
pub(super) async fn watched<F: Future>(run: F) -> (F::Output, Seen) {
    let mut scoped = std::pin::pin!(SLOT.scope(RefCell::new(Seen::default()), run));
    let output = scoped.as_mut().await;
    let seen = scoped.take_value().map(RefCell::into_inner).unwrap_or_default();
    (output, seen)
}

/// Leaves something in the slot of the handshake that is running; outside one, nothing happens.
pub(super) fn note(write: impl FnOnce(&mut Seen)) {
    let _ = SLOT.try_with(|slot| write(&mut slot.borrow_mut()));
}
