//! What the ledger records: handshakes, proofs, refusals and rotations.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::super::learned::RefusalStatus;
use crate::keyring::{KeyringName, SelectionReason};
use crate::pki::Fingerprint;

/// A fact to record. Epochs are numbers of snapshots: what belongs to an earlier one than the rotation is about the
/// time before it, whatever the clock says.
#[derive(Clone, Copy, Debug)]
pub enum LedgerFact<'a> {
    /// A keyring's current pair changed: evidence is collected anew.
    Rotated {
        /// Which keyring.
        keyring: &'a KeyringName,
        /// In which epoch.
        epoch: u64,
    },
    /// A sender completed a handshake on this pair, which proves nothing.
    Peer {
        /// Which keyring.
        keyring: &'a KeyringName,
        /// The listener that it connected to.
        listener: &'a Arc<str>,
        /// Its identity.
        identity: &'a str,
        /// The partner that it is.
        partner: Option<&'a Arc<str>>,
        /// Its certificate.
        certificate: Option<Fingerprint>,
        /// Its address.
        source: Option<IpAddr>,
        /// The pair that it was shown.
        key_pair: Fingerprint,
        /// Why.
        chosen_by: SelectionReason,
        /// In which epoch.
        epoch: u64,
    },
    /// A connection on which a sender was shown this pair brought data, or ended without any.
    Proof {
        /// Which keyring.
        keyring: &'a KeyringName,
        /// The listener that it connected to.
        listener: &'a Arc<str>,
        /// Its identity.
        identity: &'a str,
        /// Its certificate.
        certificate: Option<Fingerprint>,
        /// Its address.
        source: Option<IpAddr>,
        /// The pair that it was shown.
        key_pair: Fingerprint,
        /// What came.
        outcome: SenderOutcome,
        /// In which epoch the pair was shown.
        epoch: u64,
    },
    /// A handshake with an upstream, or its later answer.
    Upstream {
        /// The listener that leads to it.
        listener: &'a Arc<str>,
        /// The pair's keyring, if known.
        keyring: Option<&'a KeyringName>,
        /// The pair that it was shown.
        key_pair: Fingerprint,
        /// Its answer.
        said: UpstreamResponse,
        /// Whether this is the handshake itself.
        handshake: bool,
        /// Stable code.
        reason: &'static str,
        /// One sentence.
        explanation: &'a str,
        /// After a refusal: when the pair is tried again.
        next_try: Option<Timestamp>,
        /// In which epoch the pair was shown.
        epoch: u64,
    },
    /// A handshake in which the upstream asked for no certificate, so that no pair was shown.
    Unasked {
        /// The listener that leads to it.
        listener: &'a Arc<str>,
        /// In which epoch.
        epoch: u64,
    },
    /// Which upstream each egress leads to: evidence about another one is dropped.
    Configured {
        /// The listener, and host and port.
        upstreams: &'a [(Arc<str>, String)],
        /// From which epoch on.
        epoch: u64,
    },
    /// A source's recorded refusal changed.
    Source {
        /// Which keyring.
        keyring: &'a KeyringName,
        /// The listener that it connected to.
        listener: &'a Arc<str>,
        /// The source.
        source: &'a str,
        /// The pair that it refused.
        refused: Fingerprint,
        /// The pair that it is shown instead.
        shown: Fingerprint,
        /// The refusal's status.
        lesson: RefusalStatus,
        /// The identity of the peer that confirmed it.
        peer: Option<&'a str>,
        /// Stable code.
        reason: &'static str,
        /// One sentence.
        explanation: &'a str,
    },
}

/// What came on a connection of a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderOutcome {
    /// Application data: it accepts the pair that it was shown.
    Proved,
    /// The end, without a byte of application data.
    UnexplainedEnd,
}

/// An upstream's answer to a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamResponse {
    /// The handshake succeeded, which proves nothing.
    HandshakeOk,
    /// It answered a request with a status other than a refusal.
    Proved,
    /// It refuses the pair.
    Refused,
}
