//! The per-handshake slot: what our verifier and our client resolver saw, for a handshake that fails.
//!
//! Configs are shared, so rustls cannot hand facts to *a* connection, least of all on failure. rustls runs inside
//! `poll`, so a task-local is always the right handshake's.

use std::cell::RefCell;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::sign::CertifiedKey;

use super::offer::OfferedPair;
use crate::keyring::PeerRequirements;
use crate::keyring::demand::answer_request;
use crate::pki::Fingerprint;
use crate::trust::{ChainHash, PresentedChain, TrustError};

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct HandshakeObservation {
    /// The chain that the other side presented.
    pub chain: PresentedChain,
    /// Our verdict on it, if it was bad.
    pub untrusted: Option<TrustError>,
    /// The chain was fine, the CertificateVerify signature was not.
    pub bad_signature: bool,
    /// `Some(true)` in TLS 1.3, `Some(false)` in TLS 1.2, where it is known.
    pub tls13: Option<bool>,
    /// Until when the other side's path holds: verified in this handshake, or, where it resumes, in the one it goes back to.
    pub path_end: Option<Timestamp>,
    /// The hash of the chain in the ticket that is resumed.
    pub(super) ticket_chain: Option<ChainHash>,
    /// What a CertificateRequest asked for (egress): `Some` also where it named nothing.
    pub asked: Option<PeerRequirements>,
    /// The pair that was shown instead of the config's own, because the CertificateRequest led to it.
    pub shown_instead: Option<Fingerprint>,
    /// The first bytes that came within this handshake, for one that is dropped together with its stream.
    pub(super) first_bytes: Vec<u8>,
}

/// What one handshake's hooks share.
#[derive(Default)]
struct HandshakeSlot {
    seen: HandshakeObservation,
    /// The pairs that it may show, the planned one first; empty: only its config's own.
    offered: Arc<[OfferedPair]>,
}

tokio::task_local! {
    static SLOT: RefCell<HandshakeSlot>;
}

/// Runs a handshake with a slot of its own; gives back what was seen with its outcome, also when the handshake is dropped
/// by its deadline inside `run`.
pub(super) async fn observe_handshake<F: Future>(run: F) -> (F::Output, HandshakeObservation) {
    observe_with_offer(Arc::default(), run).await
}

/// Likewise, for a handshake that may show any of `offered`.
pub(super) async fn observe_with_offer<F: Future>(
    offered: Arc<[OfferedPair]>,
    run: F,
) -> (F::Output, HandshakeObservation) {
    let slot = HandshakeSlot { offered, ..HandshakeSlot::default() };
    let mut scoped = std::pin::pin!(SLOT.scope(RefCell::new(slot), run));
    let output = scoped.as_mut().await;
    let slot = scoped.take_value().map(RefCell::into_inner).unwrap_or_default();
    (output, slot.seen)
}

/// Until when the path holds that the handshake which is running has verified, or resumes.
pub(super) fn read_path_end() -> Option<Timestamp> {
    SLOT.try_with(|slot| slot.borrow().seen.path_end).ok().flatten()
}

/// The hash of the chain that a ticket leaves out, which `name` finds in what this handshake has seen.
pub(super) fn read_ticket_chain(name: impl FnOnce(&HandshakeObservation) -> Option<ChainHash>) -> Option<ChainHash> {
    SLOT.try_with(|slot| name(&slot.borrow().seen)).ok().flatten()
}

/// Leaves something in the slot of the handshake that is running; outside one, nothing happens.
pub(super) fn record_observation(write: impl FnOnce(&mut HandshakeObservation)) {
    let _ = SLOT.try_with(|slot| write(&mut slot.borrow_mut().seen));
}

/// Leaves what a CertificateRequest asks for in the slot, and returns the pair that it leads to where that is not the config's own.
pub(super) fn record_request(asked: PeerRequirements) -> Option<Arc<CertifiedKey>> {
    let answer = |slot: &RefCell<HandshakeSlot>| {
        let slot = &mut *slot.borrow_mut();
        let order: Vec<_> = slot.offered.iter().map(|pair| &pair.facts).collect();
        let other = answer_request(&order, &asked).filter(|at| *at > 0).map(|at| &slot.offered[at]);
        slot.seen.asked = Some(asked);
        slot.seen.shown_instead = other.map(|pair| pair.facts.key_pair);
        other.map(|pair| Arc::clone(&pair.key))
    };
    SLOT.try_with(answer).ok().flatten()
}
