//! The registry's rows, as both databases store them and all readers see them. No behaviour beyond their columns.

mod columns;
mod happenings;
mod holdings;
mod senders;

use serde::Serialize;

pub use columns::{SqlFlag, TextList, UnixSeconds, short_fingerprint};
pub use happenings::{AcknowledgementRow, DeliveryRow, FailureRow, HistoryRow, PeerRow, shown_certificates};
pub use holdings::{AnchorRow, CrlRow, InstanceRow, KeyringRow, PlacementRow, TrustRow, WaitingKeyRow};
pub use senders::{HeldPairRow, SenderRow};

/// Everything except history and failures: the input of findings, export and alerts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RegistryInventory {
    /// The instances.
    pub instances: Vec<InstanceRow>,
    /// Keyrings.
    pub keyrings: Vec<KeyringRow>,
    /// Every key pair ever seen, by keyring and instance.
    pub key_pairs: Vec<PlacementRow>,
    /// Keys without a certificate.
    pub waiting_keys: Vec<WaitingKeyRow>,
    /// Trusts.
    pub trusts: Vec<TrustRow>,
    /// Anchors and pins.
    pub anchors: Vec<AnchorRow>,
    /// CRLs.
    pub crls: Vec<CrlRow>,
    /// Peers and upstreams.
    pub peers: Vec<PeerRow>,
    /// Alerts, by sink.
    pub alerts: Vec<DeliveryRow>,
    /// Acknowledgements.
    pub acknowledgements: Vec<AcknowledgementRow>,
}
