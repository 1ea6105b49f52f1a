//! Keyrings, trusts and settings → a snapshot. All that can fail before it is published.
//!
//! Pure but for the key pairs' own cryptography. It resolves names; it decides nothing.

use super::{Epoch, Snapshot};
use crate::clock::Clock;

/// What a snapshot is built from: views into the writer's state.
pub struct Parts<'a> {
    /// The settings' listeners and partners.
    pub ingresses: &'a [super::ingress::Settings],
    /// Egress listeners.
    pub egresses: &'a [super::egress::Settings],
    /// Partners in order.
    pub partners: &'a [crate::trust::partner::Settings],
    /// Keyrings by name.
    pub keyrings: &'a std::collections::BTreeMap<std::sync::Arc<str>, crate::keyring::Keyring>,
    /// Trusts by name; a keyring's own `ca.crt` under `own:KEYRING`.
    pub trusts: &'a std::collections::BTreeMap<std::sync::Arc<str>, crate::trust::Anchors>,
    /// Certificates of a file that the configuration names.
    pub named: &'a dyn Fn(&std::path::Path) -> Vec<std::sync::Arc<crate::pki::Certificate>>,
}

/// Why no snapshot could be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A TLS config.
    #[error("{listener}: {source}")]
    Tls {
        /// Which listener.
        listener: String,
        /// Why.
        source: crate::tls::Error,
    },
}

/// Builds one.
pub fn build(epoch: Epoch, parts: &Parts<'_>, clock: &Clock) -> Result<Snapshot, Error> {
    let _ = (epoch, parts, clock);
    todo!()
}
