//! The snapshot: everything the data plane needs, immutable, swapped whole, numbered by its epoch.
//!
//! Built by the writer's side (`build`), read by workers (`channel::Reader`). It holds resolved values only: every
//! name that it mentions is there.

pub mod build;
pub mod channel;
pub mod egress;
pub mod ingress;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use build::{Parts, build};
pub use channel::{Publisher, Reader, channel};
pub use egress::Egress;
pub use ingress::Ingress;

/// The number of a snapshot; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Epoch(pub u64);

/// Which side of the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Peers come in.
    Ingress,
    /// The application goes out.
    Egress,
}

impl Side {
    /// As in logs and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// A listener, by side and name; the same in every epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId {
    /// Its side.
    pub side: Side,
    /// Its name.
    pub name: Arc<str>,
}

/// One epoch.
pub struct Snapshot {
    /// Its number.
    pub epoch: Epoch,
    /// Ingress listeners that have a pair to show and a trust to verify with, by name.
    pub ingresses: BTreeMap<Arc<str>, Arc<Ingress>>,
    /// Egress listeners likewise.
    pub egresses: BTreeMap<Arc<str>, Arc<Egress>>,
    /// Listeners that are configured and wait, with what for (one printable sentence).
    pub waiting: Vec<(ListenerId, String)>,
    /// Every keyring's pairs and standings, for metrics and views. No keys.
    pub keyrings: Vec<KeyringView>,
    /// What every trust holds, for the registry and alerts.
    pub trusts: Vec<TrustView>,
}

/// One keyring as people see it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct KeyringView {
    /// Its name.
    pub name: Arc<str>,
    /// Its owner.
    pub owner: Option<String>,
    /// Whom alerts go to.
    pub contact: Option<String>,
    /// What it is for.
    pub purpose: Option<String>,
    /// The schedule that the owner is held to.
    #[serde(skip)]
    pub rotate_every: Option<Duration>,
    /// Private keys whose certificate has not come yet.
    #[serde(skip)]
    pub waiting: Vec<crate::pki::Waiting>,
    /// How long before an expiry the owner is told, the longest first; `None`: by the certificate's lifetime.
    #[serde(skip)]
    pub alert_before: Option<Vec<Duration>>,
    /// Every pair it knows.
    pub key_pairs: Vec<KeyPairView>,
    /// The newest usable pair in the folder that is not current, and since when.
    pub diverges: Option<(crate::pki::Fingerprint, jiff::Timestamp)>,
}

/// One pair as people see it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct KeyPairView {
    /// Its name.
    pub key_pair: crate::pki::Fingerprint,
    /// Where it stands.
    pub standing: crate::keyring::Standing,
    /// Since when.
    pub since: jiff::Timestamp,
    /// Its validity.
    pub validity: crate::pki::Validity,
    /// For `previous`: when its overlap ends.
    pub overlap_ends: Option<jiff::Timestamp>,
    /// Printable subject.
    pub subject: String,
    /// Printable issuer.
    pub issuer: String,
    /// DNS and URI names.
    pub names: Vec<String>,
    /// Files it came from.
    pub sources: Vec<Arc<str>>,
    /// Why it is refused or staged.
    pub why: Option<String>,
    /// Serial number, hex.
    pub serial: String,
    /// The kind of its key.
    pub key: crate::pki::KeyKind,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki: crate::pki::SpkiHash,
    /// Why it is too weak to serve, if it is.
    pub weakness: Option<String>,
    /// It is its own issuer.
    pub self_issued: bool,
}

/// One trust as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustView {
    /// What it holds.
    pub holds: crate::trust::View,
    /// The keyrings of the ingress listeners whose peers it verifies.
    pub keyrings: Vec<Arc<str>>,
}
