//! A failed handshake → one reason code and one sentence that says what happened, with the values, and what to do.
//!
//! Pure. The codes are public and listed in `docs/handshakes.md`; a test holds both lists together ([`REASONS`]).

use jiff::Timestamp;

use super::Failed;
use crate::keyring::Standing;
use crate::pki::Fingerprint;
use crate::trust::{Trust, Untrusted};

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It served.
    Accepted,
    /// One side refused the other's certificate, name or offer.
    Refused,
    /// Anything else.
    Failed,
    /// Egress in TLS 1.3: whether the upstream accepts our pair is not known yet.
    Unproved,
}

impl Outcome {
    /// As in logs and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Unproved => "unproved",
        }
    }
}

/// What an explanation needs to know beside the failure.
pub struct Context<'a> {
    /// True on ingress.
    pub ingress: bool,
    /// Listener or upstream name.
    pub listener: &'a str,
    /// The trust that the peer was verified against.
    pub trust: &'a Trust,
    /// What we showed.
    pub shown: Option<(Fingerprint, Standing)>,
    /// Now.
    pub now: Timestamp,
}

/// The explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// `Refused` or `Failed`.
    pub outcome: Outcome,
    /// One of [`REASONS`].
    pub reason: &'static str,
    /// One printable sentence with the values and what to do.
    pub explanation: String,
    /// The alert we sent (snake_case name of RFC 8446 6).
    pub alert_sent: Option<&'static str>,
    /// The alert the other side sent.
    pub alert_received: Option<&'static str>,
}

/// Every reason code there is.
pub const REASONS: &[&str] = &[];

/// Explains a failed handshake.
pub fn explain(failed: &Failed, context: &Context<'_>) -> Explained {
    let _ = (failed, context);
    todo!()
}

/// Explains a chain that a finished (resumed) handshake carried and that no longer verifies; also used for chains of open
/// connections at a new epoch.
pub fn explain_untrusted(untrusted: &Untrusted, context: &Context<'_>) -> Explained {
    let _ = (untrusted, context);
    todo!()
}
