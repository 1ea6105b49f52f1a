//! What a probe finds: what the partner offers, asks for and shows, and its answer to each of our key pairs.

use std::sync::Arc;

use serde::Serialize;

use crate::keyring::{KeyringName, Standing};
use crate::pki::{Fingerprint, KeyPair};
use crate::tls;
use crate::trust::{TrustName, describe_trust};

/// A key pair to show: its keyring and its standing.
pub(super) type ProbePair = (KeyringName, Standing, Arc<KeyPair>);

/// Why nothing was probed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The arguments do not fit what exists.
    #[error("{0}")]
    Wrong(String),
    /// A TLS config.
    #[error(transparent)]
    Tls(#[from] tls::TlsConfigError),
    /// The partner cannot be reached.
    #[error(transparent)]
    NotReached(#[from] crate::net::SocketError),
    /// No runtime.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct ProbeReport {
    /// The partner.
    pub upstream: String,
    /// By which trust.
    pub trust: TrustName,
    /// What it offers, version by version.
    pub offers: Vec<ServerOffer>,
    /// The chain that it shows.
    pub shows: Vec<String>,
    /// Why that is not trusted; `None`: it is.
    pub not_trusted: Option<String>,
    /// What it asks for; `None`: no certificate.
    pub asks: Option<CertificateDemand>,
    /// How it responds to each key pair, and to none.
    pub answers: Vec<ProbeAnswer>,
}

impl ProbeReport {
    /// The trust in a sentence.
    pub fn describe_trust(&self) -> String {
        describe_trust(&self.trust)
    }
}

/// One version of TLS.
#[derive(Debug, Serialize)]
pub struct ServerOffer {
    /// `1.3` or `1.2`.
    pub version: &'static str,
    /// It speaks it.
    pub spoken: bool,
    /// Cipher suite, group and protocol; or why not.
    pub says: String,
}

/// A CertificateRequest.
#[derive(Debug, Serialize)]
pub struct CertificateDemand {
    /// The authorities that it names; none: any.
    pub authorities: Vec<String>,
    /// The signature schemes that it takes.
    pub schemes: Vec<String>,
}

/// How it responds to one key pair.
#[derive(Debug, Serialize)]
pub struct ProbeAnswer {
    /// The keyring; empty: no key pair was shown.
    pub keyring: KeyringName,
    /// The key pair.
    pub key_pair: Option<Fingerprint>,
    /// Where it stands.
    pub standing: Option<Standing>,
    /// Its subject.
    pub subject: String,
    /// `taken`, `refused`, `silent` or `failed`.
    pub verdict: ProbeVerdict,
    /// One sentence.
    pub says: String,
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeVerdict {
    /// The handshake is done and the other side goes on.
    Taken,
    /// It refuses.
    Refused,
    /// It neither accepts nor refuses before the first request.
    Silent,
    /// There was no such answer: not reached, not trusted, not TLS.
    Failed,
}

impl ProbeVerdict {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Failed => "failed",
        }
    }
}
