//! The rotation report: what may be removed, and which peers would fail. A command gets a new one; the page and the API share
//! one for a second.

use std::sync::Arc;

use super::RuntimeViews;
pub use super::rotation_answer::RotationAnswer;
use crate::evidence::report::RotationReport;
use crate::snapshot::Snapshot;

/// The report as it is now.
pub(crate) async fn build_rotation(views: &RuntimeViews) -> RotationAnswer {
    views.events.refresh_history().await;
    build_answer(views)
}

/// The report for the page and the API, at most a second old.
pub(crate) fn read_rotation(views: &RuntimeViews) -> Arc<RotationAnswer> {
    views.rotations.get_or_build(views.moment(), || build_answer(views))
}

/// The report of one keyring for the page and the API; `None`: it is not in overlap.
pub(crate) fn read_keyring_rotation(views: &RuntimeViews, keyring: &str) -> Option<RotationReport> {
    read_rotation(views).keyrings.iter().find(|report| *report.keyring == *keyring).cloned()
}

/// The keyrings' reports for the page and the API, at most a second old.
pub(super) fn read_reports(views: &RuntimeViews) -> Arc<Vec<RotationReport>> {
    Arc::clone(&read_rotation(views).keyrings)
}

/// Has a shared registry read anew, unless the reports of this second are there: what the page and the API show of other
/// instances is at most as old as these.
pub(crate) async fn refresh_reports(views: &RuntimeViews) {
    if views.rotations.find_fresh(views.moment()).is_none() {
        views.events.refresh_history().await;
    }
}

/// The reports as they are now, after a shared registry was read anew.
pub(crate) async fn build_current_reports(views: &RuntimeViews) -> Arc<Vec<RotationReport>> {
    views.events.refresh_history().await;
    build_reports(views, &views.reader.latest())
}

fn build_answer(views: &RuntimeViews) -> RotationAnswer {
    let snapshot = views.reader.latest();
    let keyrings = build_reports(views, &snapshot);
    RotationAnswer { epoch: snapshot.epoch.0, keyrings, trusts: snapshot.anchor_usages() }
}

fn build_reports(views: &RuntimeViews, snapshot: &Snapshot) -> Arc<Vec<RotationReport>> {
    Arc::new(views.events.report(&snapshot.keyrings_in_overlap(), &snapshot.contacts()))
}
