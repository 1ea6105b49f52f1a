//! Which candidate to show in one handshake, and why: `choose`, contract section 4's rule as one pure function.
//!
//! The same function serves both sides: an ingress asks with what the ClientHello said, an egress with what the
//! CertificateRequest said. Facts only; configs and keys stay with the snapshot, which finds them by index.

use std::sync::Arc;

use jiff::Timestamp;

use super::{KeyringName, Prefer, Standing};
use crate::pki::{Fingerprint, Validity};

/// What the other side said about the certificate it wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// SNI, lower case (ingress only).
    pub server_name: Option<Arc<str>>,
    /// SignatureScheme code points it accepts; empty = nothing said.
    pub schemes: Vec<u16>,
    /// DER of the certificate authorities it names; empty = nothing said.
    pub authorities: Vec<Vec<u8>>,
}

/// One pair that could be shown: facts only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its keyring.
    pub keyring: KeyringName,
    /// Its name.
    pub key_pair: Fingerprint,
    /// `Current` or `Previous`.
    pub standing: Standing,
    /// When it is valid.
    pub validity: Validity,
    /// DNS names it covers, wildcards included, lower case.
    pub dns: Vec<String>,
    /// SignatureSchemes its key can sign with.
    pub schemes: Vec<u16>,
    /// DER of the issuer names in its chain.
    pub issuers: Vec<Vec<u8>>,
    /// Its keyring's `prefer`.
    pub prefer: Prefer,
    /// Expired, and shown all the same because nothing else is left.
    pub last_resort: bool,
}

/// All candidates of one listener or upstream: keyrings in the order of the configuration, in each the current pair
/// first, then the previous ones, the latest replaced first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates(pub Vec<Candidate>);

/// Why a pair was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChosenBy {
    /// There was no other that fits.
    Only,
    /// The peer named certificate authorities.
    Authorities,
    /// The partner's `show`.
    Partner,
    /// What this source has shown before.
    Learned,
    /// The keyring's `prefer`.
    Prefer,
    /// Expired, but nothing else is left.
    LastResort,
}

impl ChosenBy {
    /// As in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Only => "only",
            Self::Authorities => "authorities",
            Self::Partner => "partner",
            Self::Learned => "learned",
            Self::Prefer => "prefer",
            Self::LastResort => "last_resort",
        }
    }
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Index into [`Candidates`].
    pub index: usize,
    /// Why.
    pub chosen_by: ChosenBy,
}

/// Chooses (contract section 4, rules 1, 2 and 5; rules 3 and 4 take their place between 2 and 5 when they come).
/// With several keyrings the SNI picks the keyring first: one whose certificate covers the name, else the first.
/// `None` only when no candidate fits the peer's signature schemes, or there is none at all.
pub fn choose(candidates: &Candidates, asked: &Asked, now: Timestamp) -> Option<Choice> {
    let _ = (candidates, asked, now);
    todo!()
}
