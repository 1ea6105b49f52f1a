//! What was built or read last, shared for some seconds by the readers of the page and the API: however often they ask, rotation
//! reports are built and the registry is audited once in that time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::snapshot::Epoch;

/// When content was true: the epoch, and the time.
pub(super) type ReadMoment = (Epoch, Timestamp);

/// Content with its moment.
type DatedContent<T> = (ReadMoment, Arc<T>);

/// The content that was built or read last.
pub(super) struct MomentCache<T> {
    /// How old content may be, within its epoch.
    max_age: SignedDuration,
    last: Arc<Mutex<Option<DatedContent<T>>>>,
}

impl<T> Clone for MomentCache<T> {
    fn clone(&self) -> Self {
        Self { max_age: self.max_age, last: Arc::clone(&self.last) }
    }
}

impl<T> MomentCache<T> {
    /// Content may be so many seconds old.
    pub(super) fn lasting_seconds(seconds: i64) -> Self {
        Self { max_age: SignedDuration::from_secs(seconds), last: Arc::default() }
    }

    /// The last content, if it is of this epoch and time.
    pub(super) fn find_fresh(&self, moment: ReadMoment) -> Option<Arc<T>> {
        self.select_fresh(self.lock_last().as_ref(), moment)
    }

    /// The last content of this epoch, if it is younger than this: for readers who need not wait until it is read anew.
    pub(super) fn find_recent(&self, moment: ReadMoment, max_age: SignedDuration) -> Option<Arc<T>> {
        select_within(self.lock_last().as_ref(), moment, max_age)
    }

    /// What follows is read anew.
    pub(super) fn forget_content(&self) {
        *self.lock_last() = None;
    }

    /// The last content, if it is of this epoch and time; else what `build` makes.
    pub(super) fn get_or_build(&self, moment: ReadMoment, build: impl FnOnce() -> T) -> Arc<T> {
        // Held while content is built: the other readers wait for it rather than build their own.
        let mut last = self.lock_last();
        if let Some(content) = self.select_fresh(last.as_ref(), moment) {
            return content;
        }
        let content = Arc::new(build());
        *last = Some((moment, Arc::clone(&content)));
        content
    }

    /// Keeps content that was read at this moment.
    pub(super) fn store_content(&self, moment: ReadMoment, content: T) -> Arc<T> {
        let content = Arc::new(content);
        *self.lock_last() = Some((moment, Arc::clone(&content)));
        content
    }

    fn select_fresh(&self, last: Option<&DatedContent<T>>, moment: ReadMoment) -> Option<Arc<T>> {
        select_within(last, moment, self.max_age)
    }

    fn lock_last(&self) -> MutexGuard<'_, Option<DatedContent<T>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn select_within<T>(
    last: Option<&DatedContent<T>>,
    (epoch, now): ReadMoment,
    max_age: SignedDuration,
) -> Option<Arc<T>> {
    let ((of_epoch, built), content) = last?;
    let is_within = *of_epoch == epoch && now.duration_since(*built).abs() < max_age;
    is_within.then(|| Arc::clone(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_shared_for_its_seconds_of_one_epoch() {
        let cache = MomentCache::lasting_seconds(1);
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let mut built = 0;
        for (epoch, second, expected) in [(1, 10, 1), (1, 10, 1), (1, 11, 2), (2, 11, 3), (2, 5, 4), (2, 5, 4)] {
            let moment = (Epoch(epoch), at(second));
            let content = cache.get_or_build(moment, || {
                built += 1;
                built
            });
            assert_eq!((*content, built), (expected, expected), "epoch {epoch} at {second}");
            assert!(Arc::ptr_eq(&content, &cache.find_fresh(moment).unwrap()), "readers share it");
        }
        assert_eq!(cache.find_fresh((Epoch(2), at(6))), None);
        cache.store_content((Epoch(2), at(6)), 9);
        assert_eq!(cache.find_fresh((Epoch(2), at(6))).as_deref(), Some(&9));
        let half_minute = SignedDuration::from_secs(30);
        let recent = |epoch, second| cache.find_recent((Epoch(epoch), at(second)), half_minute).as_deref().copied();
        assert_eq!([recent(2, 35), recent(2, 36), recent(3, 7)], [Some(9), None, None]);
        cache.forget_content();
        assert_eq!(recent(2, 6), None);
    }
}
