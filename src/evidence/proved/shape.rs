//! The words of proofs at upstreams: settings, facts that come in, selections and changes that come out.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

use super::answer::RequestClass;
use super::nodes::{UpstreamNode, UpstreamVerdict};
use crate::pki::Fingerprint;

/// `probe`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProbeMode {
    /// Only traffic shows whether an upstream accepts a new pair.
    Off,
    /// A handshake, before any traffic uses the pair.
    #[default]
    Handshake,
    /// A HEAD of this path, which can prove the pair.
    Head(String),
}

/// An egress's settings for proofs.
#[derive(Clone, Copy, Debug)]
pub struct ProofPolicy<'a> {
    /// `probe`.
    pub probe: &'a ProbeMode,
    /// `prove_within`: after it, all requests try an unproved pair, not only the canary.
    pub prove_within: Duration,
    /// `refusal_statuses`.
    pub refusals: &'a [u16],
}

/// Which pair one request shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestSelection {
    /// The pair.
    pub key_pair: Fingerprint,
    /// The request's role.
    pub how: SelectionRole,
    /// For a canary: the address that it should reach, where the pair is not proved.
    pub address: Option<IpAddr>,
}

impl RequestSelection {
    /// A pair that needs no trial.
    pub const fn settled(key_pair: Fingerprint) -> Self {
        Self { key_pair, how: SelectionRole::Settled, address: None }
    }

    /// Whether an answer to it has to be judged: that of a proved pair, on a connection that has proved it, says nothing new unless it is
    /// a refusal.
    pub fn needs_judgement(self, shows_preferred: bool, is_open: bool, is_refusal: bool) -> bool {
        is_refusal || is_open || !shows_preferred || self.how != SelectionRole::Settled
    }

    /// Whether a new connection may lead to another selection: only where the pair needed no trial, and none was tried before.
    pub fn may_change(self, has_tried: bool) -> bool {
        self.how == SelectionRole::Settled && !has_tried
    }

    /// For a connection that shows this pair: the address that it was made to reach, because the pair is not proved there.
    pub fn sought_address(self, shown: Fingerprint) -> Option<IpAddr> {
        self.address.filter(|_| self.how == SelectionRole::Canary && self.key_pair == shown)
    }
}

/// Why a request shows the pair that it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectionRole {
    /// It is known to work, or no better one exists.
    Settled,
    /// The request tries an unproved pair: the upstream's only canary until [`release_canary`](crate::evidence::UpstreamProofs::release_canary).
    Canary,
    /// `prove_within` has passed: every request tries it.
    Everyone,
    /// The preferred pair is not proved: another one keeps serving, until the given time if known.
    Fallback(Option<Timestamp>),
}

/// A fact about one pair at one node, other than an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofFact {
    /// A successful handshake.
    Handshake,
    /// Refused with an alert, in or right after the handshake.
    Alert,
    /// A connection ended without an answer. `compared`: another pair got one for the same request.
    Silence {
        /// Another pair was answered.
        compared: bool,
    },
}

/// A connection that was made: what its node asked for.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionSeen {
    /// The node.
    pub node: UpstreamNode,
    /// Whether it asked for a certificate; `None`: the session was resumed.
    pub asked: Option<bool>,
    /// The authorities that it names exclude the current pair.
    pub excludes_current: bool,
    /// The address at which the current pair is not proved, where it shows that pair and was made to reach it.
    pub sought: Option<IpAddr>,
}

/// An answer that a pair got.
#[derive(Clone, Copy, Debug)]
pub struct AnswerFacts {
    /// The pair.
    pub key_pair: Fingerprint,
    /// The request's role.
    pub how: SelectionRole,
    /// The node that answered.
    pub node: UpstreamNode,
    /// The request.
    pub class: RequestClass,
    /// The status.
    pub status: u16,
    /// What the same request gets without a certificate.
    pub public: UncertifiedAnswer,
    /// The request may be sent once more.
    pub repeatable: bool,
    /// The status that another pair got for the same request.
    pub compared: Option<u16>,
    /// Which pair that was, and the node that answered; `None`: an accepted one, and the same node.
    pub compared_with: Option<(Fingerprint, UpstreamNode)>,
}

/// What a request gets without a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UncertifiedAnswer {
    /// That was not tried, or it came to nothing: the upstream was not reached, or ended the connection without saying why.
    #[default]
    Unknown,
    /// An alert about certificates: the upstream demands one in TLS.
    Refused,
    /// This status.
    Status(u16),
}

impl UncertifiedAnswer {
    /// Whether a caller without a certificate gets the same status.
    pub fn is_same(self, status: u16) -> bool {
        self == Self::Status(status)
    }

    /// Whether a caller without a certificate is refused what gets this status with one.
    pub(super) fn is_refusal_of(self, status: u16) -> bool {
        match self {
            Self::Unknown => false,
            Self::Refused => true,
            // The server's state of the moment says nothing.
            Self::Status(other) => other != status && !matches!(other, 200..=299 | 408 | 421 | 429 | 500..),
        }
    }
}

/// A change by a fact or by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictChange {
    /// The upstream's verdict on the pair now.
    pub verdict: UpstreamVerdict,
    /// For `Refused`: when the pair is tried again.
    pub next_try: Option<Timestamp>,
}
