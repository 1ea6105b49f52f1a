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
pub(crate) async fn build_rotation(views: &RuntimeViews) -> RotationAnswer {
    let keyrings = build_current_reports(views).await;
    let snapshot = views.reader.latest();
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
    views.reports.get_or_build(moment, || build_reports(views, &snapshot))
}

/// Has a shared registry read anew, unless the reports of this second are there: what the page and the API show of other
/// instances is at most as old as these.
pub(crate) async fn refresh_reports(views: &RuntimeViews) {
    let moment = (views.reader.latest().epoch, views.events.now());
    if !views.reports.has_fresh(moment) {
        views.events.refresh_history().await;
    }
}

/// The reports as they are now, after a shared registry was read anew.
pub(crate) async fn build_current_reports(views: &RuntimeViews) -> Vec<RotationReport> {
    views.events.refresh_history().await;
    build_reports(views, &views.reader.latest())
}

fn build_reports(views: &RuntimeViews, snapshot: &Snapshot) -> Vec<RotationReport> {
    views.events.report(&snapshot.keyrings_in_overlap(), &snapshot.contacts())
}
