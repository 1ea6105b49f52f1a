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
    /// It was made to reach an address at which the pair is not proved, and shows the current pair.
    pub sought: bool,
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
    /// The status without a certificate, where that was tried.
    pub public: Option<u16>,
    /// The request may be sent once more.
    pub repeatable: bool,
    /// The status that another pair got for the same request.
    pub compared: Option<u16>,
}

/// A change by a fact or by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictChange {
    /// The upstream's verdict on the pair now.
    pub verdict: UpstreamVerdict,
    /// For `Refused`: when the pair is tried again.
    pub next_try: Option<Timestamp>,
}
