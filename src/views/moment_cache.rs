//! The rotation reports that were built last, shared for a second by the readers of the page and the API: building them
//! holds the ledger that the data plane writes to.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::evidence::report::RotationReport;
use crate::snapshot::Epoch;

/// How old reports may be, within their epoch.
const MAX_AGE: SignedDuration = SignedDuration::from_secs(1);

/// Reports of one moment.
pub(super) type SharedReports = Arc<Vec<RotationReport>>;

/// The reports that were built last, with their epoch and when.
#[derive(Clone, Default)]
pub(super) struct ReportCache(Arc<Mutex<Option<(Epoch, Timestamp, SharedReports)>>>);

impl ReportCache {
    /// Whether reports of this epoch and time are there.
    pub(super) fn has_fresh(&self, moment: (Epoch, Timestamp)) -> bool {
        find_fresh(self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref(), moment).is_some()
    }

    /// The last reports, if they are of this epoch and time; else those that `build` makes.
    pub(super) fn get_or_build(
        &self,
        moment: (Epoch, Timestamp),
        build: impl FnOnce() -> Vec<RotationReport>,
    ) -> SharedReports {
        // Held while reports are built: the other readers wait for these rather than build their own.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reports) = find_fresh(last.as_ref(), moment) {
            return Arc::clone(reports);
        }
        let reports = Arc::new(build());
        *last = Some((moment.0, moment.1, Arc::clone(&reports)));
        reports
    }
}

fn find_fresh(
    last: Option<&(Epoch, Timestamp, SharedReports)>,
    (epoch, now): (Epoch, Timestamp),
) -> Option<&SharedReports> {
    let is_fresh = |(of_epoch, built, _): &&(Epoch, Timestamp, SharedReports)| {
        *of_epoch == epoch && now.duration_since(*built).abs() < MAX_AGE
    };
    last.filter(is_fresh).map(|(_, _, reports)| reports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_shared_for_a_second_of_one_epoch() {
        let cache = ReportCache::default();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let mut built = 0;
        for (epoch, second, expected) in [(1, 10, 1), (1, 10, 1), (1, 11, 2), (2, 11, 3), (2, 5, 4), (2, 5, 4)] {
            cache.get_or_build((Epoch(epoch), at(second)), || {
                built += 1;
                Vec::new()
            });
            assert_eq!(built, expected, "epoch {epoch} at {second}");
        }
    }
}
