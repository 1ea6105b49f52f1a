//! What was seen of one connection that may prove a key pair: the facts; `egress::proof` judges them.

use std::cell::Cell;
use std::sync::Arc;

use crate::evidence::proved::UpstreamNode;
use crate::pki::Fingerprint;
use crate::snapshot::Epoch;
use crate::tls::HandshakeFacts;
use crate::tls::recorder::RecorderHandle;

/// What one connection proves about our key pair.
pub(crate) struct ConnectionProof {
    pub(crate) listener: Arc<str>,
    /// Its number.
    pub(crate) connection: u64,
    /// The pair that it shows.
    pub(crate) key_pair: Fingerprint,
    /// The node that it reached.
    pub(crate) node: UpstreamNode,
    /// The epoch in which it was made.
    pub(crate) epoch: Epoch,
    pub(crate) facts: HandshakeFacts,
    /// The alerts that it received.
    pub(crate) heard: RecorderHandle,
    /// It has proved nothing yet.
    pub(crate) open: Cell<bool>,
}

impl ConnectionProof {
    /// Whether the handshake leaves open if the pair is accepted: TLS 1.2 would have refused it within.
    pub(crate) fn is_undecided(&self) -> bool {
        self.facts.version == Some("1.3")
    }
}
