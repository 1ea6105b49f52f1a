//! The rotation report: what may be removed, and which peers would fail.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::RuntimeViews;
use crate::evidence::report::RotationReport;
use crate::snapshot::TrustUsage;

/// The rotation report of every keyring in overlap, and the use of every trust.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationAnswer {
    /// The snapshot in which it is true.
    pub epoch: u64,
    /// Every keyring in overlap: which peers still need its old pair.
    pub keyrings: Vec<RotationReport>,
    /// Every trust in use: which peers need which of its anchors and pins.
    pub trusts: Vec<TrustUsage>,
}

/// The report as it is now.
pub(crate) fn read_rotation(views: &RuntimeViews) -> RotationAnswer {
    let snapshot = views.reader.latest();
    RotationAnswer {
        epoch: snapshot.epoch.0,
        keyrings: views.events.report(&snapshot.keyrings_in_overlap(), &snapshot.contacts()),
        trusts: snapshot.anchor_usages(),
    }
}

/// The report of one keyring; `None`: it is not in overlap.
pub(crate) fn read_keyring_rotation(views: &RuntimeViews, keyring: &str) -> Option<RotationReport> {
    let snapshot = views.reader.latest();
    let mut overlaps = snapshot.keyrings_in_overlap();
    overlaps.retain(|overlap| *overlap.keyring == *keyring);
    let contacts = snapshot.contacts();
    views.events.report(&overlaps, &contacts).into_iter().next()
}

/// The reports without the trusts, for the status.
pub(super) fn read_reports(views: &RuntimeViews) -> Vec<RotationReport> {
    let snapshot: Arc<_> = views.reader.latest();
    views.events.report(&snapshot.keyrings_in_overlap(), &snapshot.contacts())
}
