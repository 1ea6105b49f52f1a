//! A peer's chain → [`Verified`] or [`Untrusted`]: path, usage, names, pins, CRLs, at a time that is given (RFC 5280 6, RFC 9525).
//!
//! The one way to a [`Verified`]. rustls' verifiers (`tls::verifier`) call it during a full handshake; the connection
//! itself calls it after every handshake, resumed ones included, and again at each epoch.

use std::sync::Arc;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

use super::{Settings, TrustName};
use crate::pki::{Certificate, Fingerprint, SpkiHash};

/// In which role the peer showed the chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A client: usage clientAuth.
    Client,
    /// A server that must have this DNS name or IP address in its SAN (never the CN).
    ServerName(Arc<str>),
    /// A server that must have exactly this URI SAN (SPIFFE).
    ServerUri(Arc<str>),
}

/// What an epoch verifies with. Anchors, pins and CRLs are accepted together.
pub struct Trust {
    settings: Settings,
    // private state: yours (anchors parsed for webpki, CRLs, the cache of verified chains)
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
}

/// Why a chain is not trusted. Values are printable; `tls::explain` makes reason and sentence of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
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
        /// Whose.
        subject: String,
        /// When.
        not_after: Timestamp,
    },
    /// Not valid yet.
    #[error("{subject:?} is not valid before {not_before}")]
    NotYetValid {
        /// Whose.
        subject: String,
        /// From when.
        not_before: Timestamp,
    },
    /// No path to an anchor of this trust.
    #[error("issued by {issuer:?}, which trust {trust:?} does not hold")]
    UnknownIssuer {
        /// The issuer at the end of what was sent.
        issuer: String,
        /// The trust.
        trust: TrustName,
        /// Subjects of the anchors it holds.
        holds: Vec<String>,
        /// The end entity signed itself.
        self_signed: bool,
    },
    /// The issuer's name is known, its key is another.
    #[error("the signature on {subject:?} does not verify with the key of {issuer:?}")]
    BadSignature {
        /// Whose.
        subject: String,
        /// By whom, allegedly.
        issuer: String,
    },
    /// Weak key or signature algorithm.
    #[error("{subject:?} is too weak: {why}")]
    Weak {
        /// Whose.
        subject: String,
        /// Why.
        why: String,
    },
    /// The extended key usage excludes the role.
    #[error("the extended key usage of {subject:?} does not allow {needed}")]
    WrongUsage {
        /// Whose.
        subject: String,
        /// clientAuth or serverAuth.
        needed: &'static str,
    },
    /// An end entity with CA:TRUE, or another shape that RFC 5280 forbids here.
    #[error("{subject:?} cannot be an end entity: {why}")]
    NotAnEndEntity {
        /// Whose.
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
    #[error("no pin of trust {trust:?} is on the path")]
    NoPin {
        /// The trust.
        trust: TrustName,
        /// The end entity's own SPKI hash.
        spki: SpkiHash,
    },
    /// Revoked by a CRL.
    #[error("{subject:?} was revoked")]
    Revoked {
        /// Whose.
        subject: String,
        /// Its serial number.
        serial: String,
    },
    /// A CRL is needed and missing, stale or unusable.
    #[error("revocation of {subject:?} cannot be checked: {why}")]
    RevocationUnknown {
        /// Whose.
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

impl Trust {
    /// Its name.
    pub fn name(&self) -> &TrustName {
        &self.settings.name
    }
    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
    /// Subjects (DER) of its anchors: the list of certificate authorities to send (RFC 8446 4.2.4).
    pub fn authorities(&self) -> Vec<Vec<u8>> {
        todo!()
    }
    /// Subjects of its anchors, printable, for explanations.
    pub fn holds(&self) -> Vec<String> {
        todo!()
    }
    /// The anchors.
    pub fn anchors(&self) -> &[Arc<Certificate>] {
        todo!()
    }
    /// Verifies a chain, end entity first. Cached until the earliest end; the cache is bounded.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'static>],
        role: &Role,
        now: Timestamp,
    ) -> Result<Arc<Verified>, Untrusted> {
        let _ = (chain, role, now);
        todo!()
    }
}
