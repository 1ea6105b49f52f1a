//! The rotation report: what may be removed, and which peers would fail. A command gets a new one; the page and the API share
//! one for a second.

use serde::{Deserialize, Serialize};

use super::RuntimeViews;
use super::report_cache::SharedReports;
use crate::evidence::report::RotationReport;
use crate::snapshot::{Snapshot, TrustUsage};

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
pub(crate) fn build_rotation(views: &RuntimeViews) -> RotationAnswer {
    let snapshot = views.reader.latest();
    let keyrings = build_current_reports(views, &snapshot);
    RotationAnswer { epoch: snapshot.epoch.0, keyrings, trusts: snapshot.anchor_usages() }
}

/// The report for the page and the API.
pub(crate) fn read_rotation(views: &RuntimeViews) -> RotationAnswer {
    let snapshot = views.reader.latest();
    let keyrings = read_reports(views).to_vec();
    RotationAnswer { epoch: snapshot.epoch.0, keyrings, trusts: snapshot.anchor_usages() }
}

/// The report of one keyring for the page and the API; `None`: it is not in overlap.
pub(crate) fn read_keyring_rotation(views: &RuntimeViews, keyring: &str) -> Option<RotationReport> {
    read_reports(views).iter().find(|report| *report.keyring == *keyring).cloned()
}

/// The reports for the page and the API, at most a second old.
pub(super) fn read_reports(views: &RuntimeViews) -> SharedReports {
    let snapshot = views.reader.latest();
    let moment = (snapshot.epoch, views.events.now());
    views.reports.get_or_build(moment, || build_current_reports(views, &snapshot))
}

/// The reports as they are now.
pub(crate) fn build_current_reports(views: &RuntimeViews, snapshot: &Snapshot) -> Vec<RotationReport> {
    views.events.report(&snapshot.keyrings_in_overlap(), &snapshot.contacts())
}
