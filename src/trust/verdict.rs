//! What comes of verifying a chain: [`Verified`], or a [`TrustError`] with the values that an operator needs.

use std::sync::Arc;

use jiff::Timestamp;
use webpki::Error;

use super::{PresentedChain, TrustName, quote_trust};
use crate::pki::{Certificate, Fingerprint, SpkiHash};

/// The role in which the peer showed the chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerRole {
    /// A client: usage clientAuth.
    Client,
    /// A server that must have this DNS name or IP address in its SAN (never the CN).
    ServerName(Arc<str>),
    /// A server that must have exactly this URI SAN (SPIFFE).
    ServerUri(Arc<str>),
}

/// The proof that a chain was verified; carries what vouched for it and until when it holds.
#[derive(Debug)]
pub struct Verified {
    /// The path from the end entity, without the anchor.
    pub path: Vec<Arc<Certificate>>,
    /// The anchor that vouched: its fingerprint and subject; `None` in `pin_only`.
    pub anchor: Option<(Fingerprint, String)>,
    /// The pin that matched, where the trust has pins.
    pub pin: Option<SpkiHash>,
    /// The earliest `not_after` of the path, the anchor's included: no connection outlives it.
    pub valid_until: Timestamp,
    /// When the end entity expired, where it is accepted all the same (`accept_expired_until` of its partner).
    pub expired: Option<Timestamp>,
    /// The chain as it was presented: one copy for all connections of its peer.
    pub presented: PresentedChain,
}

/// Why a chain is not trusted. Values are printable; `tls::explain` makes reason and sentence of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// No certificate.
    #[error("no certificate")]
    Empty,
    /// A certificate of the chain does not parse.
    #[error("certificate {index} of the chain does not parse: {why}")]
    Malformed {
        /// 0 = end entity.
        index: usize,
        /// The parser's reason.
        why: String,
    },
    /// Expired.
    #[error("{subject:?} expired on {not_after}")]
    Expired {
        /// The certificate's subject.
        subject: String,
        /// When.
        not_after: Timestamp,
    },
    /// Not valid yet.
    #[error("{subject:?} is not valid before {not_before}")]
    NotYetValid {
        /// The certificate's subject.
        subject: String,
        /// From when.
        not_before: Timestamp,
    },
    /// No path to an anchor of this trust.
    #[error("issued by {issuer:?}, which {} does not hold", quote_trust(trust))]
    UnknownIssuer {
        /// The issuer at the end of what was sent.
        issuer: String,
        /// The trust.
        trust: TrustName,
        /// Subjects of the anchors it holds.
        holds: Vec<String>,
        /// The end entity signed itself.
        self_signed: bool,
        /// How many certificates were sent.
        sent: usize,
        /// The chain does not end with a certificate that signed itself: that issuer was not among those sent.
        incomplete: bool,
    },
    /// The issuer's name is known, but its key differs.
    #[error("the signature on {subject:?} does not verify with the key of {issuer:?}")]
    BadSignature {
        /// The certificate's subject.
        subject: String,
        /// The issuer that it names.
        issuer: String,
    },
    /// Weak key or signature algorithm.
    #[error("{subject:?} is too weak: {why}")]
    Weak {
        /// The certificate's subject.
        subject: String,
        /// Why.
        why: String,
    },
    /// The extended key usage excludes the role.
    #[error("the extended key usage of {subject:?} does not allow {needed}")]
    WrongUsage {
        /// The certificate's subject.
        subject: String,
        /// clientAuth or serverAuth.
        needed: &'static str,
    },
    /// An end entity with CA:TRUE, or another shape that RFC 5280 forbids here.
    #[error("{subject:?} cannot be an end entity: {why}")]
    NotAnEndEntity {
        /// The certificate's subject.
        subject: String,
        /// Why.
        why: String,
    },
    /// A server without the expected name.
    #[error("certificate is for {has:?}, not for {expected:?}")]
    WrongName {
        /// What was expected.
        expected: String,
        /// The names it has, as in `dns:a`, `ip:1.2.3.4`, `uri:…`.
        has: Vec<String>,
    },
    /// Pins are configured and none is on the verified path.
    #[error("no pin of {} is on the path", quote_trust(trust))]
    NoPin {
        /// The trust.
        trust: TrustName,
        /// The end entity's own SPKI hash.
        spki: SpkiHash,
    },
    /// Revoked by a CRL.
    #[error("{subject:?} was revoked on {since}")]
    Revoked {
        /// The certificate's subject.
        subject: String,
        /// Its serial number.
        serial: String,
        /// When, by its issuer's CRL.
        since: Timestamp,
    },
    /// A CRL is needed and missing, stale or unusable.
    #[error("revocation of {subject:?} cannot be checked: {why}")]
    RevocationUnknown {
        /// The certificate's subject.
        subject: String,
        /// Why.
        why: String,
    },
    /// Anything else that the path validation refuses.
    #[error("{why}")]
    Other {
        /// Its reason.
        why: String,
    },
}

/// `CaUsedAsEndEntity` as "ca used as end entity", without the values that some variants print at length.
pub(super) fn describe_error(error: &Error) -> String {
    let debug = format!("{error:?}");
    let name = debug.split([' ', '(', '{']).next().unwrap_or_default();
    let mut out = String::with_capacity(name.len() + 8);
    for c in name.trim_end_matches("Context").chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
