//! The platform's trust anchors: what `trust = "system"` stands for. Reading the platform's store is not for the rules, which
//! get it filled in.

use std::collections::HashSet;
use std::sync::Arc;

use crate::pki::{Certificate, Fingerprint};
use crate::trust::AnchorSource;
use crate::writer::WriterSettings;

/// Fills in what `trust = "system"` stands for, where it is used: reading the platform's store is not for the rules.
pub fn with_platform_anchors(mut settings: WriterSettings) -> WriterSettings {
    if settings.trusts.values().any(|trust| trust.anchors.contains(&AnchorSource::System)) {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(target: "trust", %error, "cannot read some of the platform's trust anchors");
        }
        // A store holds odd ones too; one that does not parse verifies no peer.
        let parsed = found.certs.into_iter().filter_map(|der| Certificate::parse(der).ok()).collect();
        settings.system_anchors = Arc::new(parsed);
    }
    settings
}

/// The fingerprints of the platform's trust anchors: a peer whose path ends at one of them uses a public CA.
pub fn platform_anchors() -> HashSet<Fingerprint> {
    let found = rustls_native_certs::load_native_certs().certs;
    found.into_iter().filter_map(|der| Certificate::parse(der).ok()).map(|anchor| anchor.fingerprint()).collect()
}
