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
    /// What the upstream's CertificateRequest says about that pair.
    pub(crate) request: RequestSummary,
    /// It has proved nothing yet.
    pub(crate) open: Cell<bool>,
    /// It has answered a request.
    pub(crate) answered: Cell<bool>,
    /// The code of the doubt that its answers leave, until one of them accepts the pair.
    pub(crate) doubt: Cell<Option<&'static str>>,
}

/// What a CertificateRequest says about the pair that answered it.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestSummary {
    /// Whether it came: without one no pair is shown, and nothing is proved.
    pub(crate) asked: bool,
    /// It names authorities, and the pair chains to none of them.
    pub(crate) excluded: bool,
    /// A half sentence that names them; empty where it names none.
    pub(crate) remark: String,
}

impl ConnectionProof {
    /// Whether the handshake leaves open if the pair is accepted: TLS 1.2 would have refused it within.
    pub(crate) fn is_undecided(&self) -> bool {
        self.facts.version == Some("1.3")
    }
}
