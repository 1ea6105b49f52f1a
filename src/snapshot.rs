//! The snapshot: everything the data plane needs, immutable, swapped whole, numbered by its epoch.
//!
//! Built by the writer's side (`build`), read by workers (`channel::Reader`). It holds resolved values only: every
//! name that it mentions is there.

pub mod bearer;
pub mod build;
pub mod channel;
pub mod egress;
pub mod ingress;
#[cfg(test)]
pub(crate) mod sample;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::evidence::report::{KeyringOverlap, PreviousPair};
use crate::keyring::Standing;

pub use crate::trust::usage::{AnchorUsage, TrustUsage};
pub use bearer::EgressBearer;
pub use build::{SnapshotParts, build_snapshot};
pub use channel::{Publisher, Reader, snapshot_channel};
pub use egress::EgressSnapshot;
pub use ingress::IngressSnapshot;

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
    pub ingresses: BTreeMap<Arc<str>, Arc<IngressSnapshot>>,
    /// Egress listeners likewise.
    pub egresses: BTreeMap<Arc<str>, Arc<EgressSnapshot>>,
    /// Listeners that are configured and wait, with what for (one printable sentence).
    pub waiting: Vec<(ListenerId, String)>,
    /// The JWK Set of all that signs tokens (or may), for the admin listener.
    pub key_set: Arc<str>,
    /// Every keyring's pairs and standings, for metrics and views. No keys.
    pub keyrings: Vec<KeyringView>,
    /// What every trust holds, for the registry and alerts.
    pub trusts: Vec<TrustView>,
}

impl Snapshot {
    /// Keyrings in overlap, for the rotation report.
    pub fn keyrings_in_overlap(&self) -> Vec<KeyringOverlap> {
        self.keyrings.iter().filter_map(|keyring| self.keyring_overlap(keyring)).collect()
    }

    /// What a configured listener waits for, if it does (one printable sentence).
    pub fn missing_part(&self, listener: &ListenerId) -> Option<&str> {
        self.waiting.iter().find(|(id, _)| id == listener).map(|(_, what)| &**what)
    }

    /// How to reach partners, by name.
    pub fn contacts(&self) -> BTreeMap<Arc<str>, String> {
        let partners = self.ingresses.values().flat_map(|ingress| &ingress.partners.0);
        let contact = |partner: &crate::trust::Partner| {
            Some((Arc::clone(&partner.settings.name), partner.settings.contact.clone()?))
        };
        partners.filter_map(contact).collect()
    }

    /// Of every trust that a listener verifies with, by name: which peers would fail without which of its anchors and
    /// pins, by what is known now.
    pub fn anchor_usages(&self) -> Vec<TrustUsage> {
        let of_ingresses = self.ingresses.values().map(|ingress| &ingress.trust);
        let of_egresses = self.egresses.values().map(|egress| &egress.trust);
        let trusts: BTreeMap<_, _> = of_ingresses.chain(of_egresses).map(|trust| (trust.name(), trust)).collect();
        trusts.values().map(|trust| TrustUsage::from_trust(trust, &trust.usage_facts())).collect()
    }

    fn keyring_overlap(&self, keyring: &KeyringView) -> Option<KeyringOverlap> {
        let current = keyring.key_pairs.iter().find(|pair| pair.standing == Standing::Current)?;
        let previous = keyring.key_pairs.iter().filter(|pair| pair.standing == Standing::Previous);
        let previous: Vec<PreviousPair> = previous
            .filter_map(|pair| {
                let (key_pair, survives_restart) = (pair.key_pair, pair.survives_restart);
                Some(PreviousPair { key_pair, ends: pair.overlap_ends?, survives_restart })
            })
            .collect();
        let egresses = self.egresses.values().filter(|egress| egress.settings.keyring == keyring.name);
        let shows = |ingress: &Arc<IngressSnapshot>| ingress.settings.keyrings.contains(&keyring.name);
        let waits = self.waiting.iter().any(|(id, _)| id.side == Side::Ingress);
        (!previous.is_empty()).then(|| KeyringOverlap {
            faces_peers: waits || self.ingresses.values().any(shows),
            seen_within: Duration::from_secs(keyring.seen_within_seconds),
            keyring: Arc::clone(&keyring.name),
            owner: keyring.owner.clone(),
            contact: keyring.contact.clone(),
            current: current.key_pair,
            rotated: current.since,
            previous,
            upstreams: egresses
                .map(|egress| (Arc::clone(&egress.settings.name), egress.settings.upstream.to_string()))
                .collect(),
        })
    }
}

/// One keyring as people see it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct KeyringView {
    /// Its name.
    pub name: Arc<str>,
    /// Its owner.
    pub owner: Option<String>,
    /// Where alerts go.
    pub contact: Option<String>,
    /// What it is for.
    pub purpose: Option<String>,
    /// The schedule that the owner is held to.
    #[serde(skip)]
    pub rotate_every: Option<Duration>,
    /// Private keys whose certificate has not come yet.
    #[serde(skip)]
    pub waiting: Vec<crate::pki::PendingKey>,
    /// How long before an expiry the owner is alerted, the longest first; `None`: by the certificate's lifetime.
    #[serde(skip)]
    pub alert_before: Option<Vec<Duration>>,
    /// Every pair it knows.
    pub key_pairs: Vec<KeyPairView>,
    /// The newest usable pair in the folder that is not current, and since when.
    pub diverges: Option<(crate::pki::Fingerprint, jiff::Timestamp)>,
    /// How long a replaced pair stays valid beside its successor, in seconds.
    pub overlap_seconds: u64,
    /// Senders seen in so many seconds before now have a say in the rotation report.
    #[serde(default)]
    pub seen_within_seconds: u64,
    /// Which pair is shown when nothing else decides.
    pub prefer: crate::keyring::PreferPolicy,
    /// Whether an arrival becomes current by itself.
    pub activate: crate::keyring::ActivationPolicy,
    /// Pairs that were rolled back from: not current again until `promote` or new content.
    pub held: Vec<crate::pki::Fingerprint>,
    /// Pairs that never serve again, by command or configuration.
    pub revoked: Vec<crate::pki::Fingerprint>,
}

impl KeyringView {
    /// Its pairs of one standing.
    pub fn pairs_with_standing(&self, standing: crate::keyring::Standing) -> impl Iterator<Item = &KeyPairView> {
        self.key_pairs.iter().filter(move |pair| pair.standing == standing)
    }
}

/// One pair as people see it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
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
    /// Serial, hex.
    pub serial: String,
    /// Kind and size of its key.
    pub key: String,
    /// DNS and URI names.
    pub names: Vec<String>,
    /// Files with its end entity or its key.
    pub sources: Vec<Arc<str>>,
    /// Files with nothing of it but intermediates of its chain, which other pairs may share.
    #[serde(default)]
    pub chain_sources: Vec<Arc<str>>,
    /// Whether the folder holds it now.
    pub in_folder: bool,
    /// Whether a restart would still find it: in the folder, or retained in `state`.
    pub survives_restart: bool,
    /// Why it is refused or staged.
    pub why: Option<String>,
    /// Its certificates, the end entity first.
    #[serde(skip)]
    pub chain: Vec<Arc<crate::pki::Certificate>>,
    /// The kind of its key; in JSON `key` holds it.
    #[serde(skip, default = "unknown_key_kind")]
    pub key_kind: crate::pki::KeyKind,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki: crate::pki::SpkiHash,
    /// Why it is too weak to serve, if it is.
    pub weakness: Option<String>,
    /// It is its own issuer.
    pub self_issued: bool,
    /// Where an intermediate of its chain ends before it: the first one that does.
    #[serde(default)]
    pub chain_ends: Option<ChainEnd>,
}

/// An intermediate that ends before the end entity that it certifies: peers refuse the chain from then on.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ChainEnd {
    /// Its subject, printable.
    pub subject: String,
    /// Its end.
    pub not_after: jiff::Timestamp,
}

impl KeyPairView {
    /// Until when peers can verify it, as far as its own chain shows.
    pub fn ends(&self) -> jiff::Timestamp {
        self.chain_ends.as_ref().map_or(self.validity.not_after, |chain| chain.not_after)
    }
}

/// What a view that came over the control socket leaves out.
fn unknown_key_kind() -> crate::pki::KeyKind {
    crate::pki::KeyKind::Other
}

/// One trust as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustView {
    /// What it holds.
    pub holds: crate::trust::TrustContents,
    /// The keyrings of the ingress listeners whose peers it verifies.
    pub keyrings: Vec<Arc<str>>,
    /// Keyrings of every listener that verifies peers with it, upstreams too.
    pub used_by: Vec<Arc<str>>,
}
