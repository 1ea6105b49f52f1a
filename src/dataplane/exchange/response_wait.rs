//! Waits for the head of a response, within the limit for it: over any protocol alike.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::clock::deadlines::{WaitTable, WaitTimer};
use crate::http::progress::UploadProgress;

/// Waits for a response head. Its time does not run while the client is still sending: an upload takes as long as it
/// takes, and `body_idle` limits one that stalls.
pub(super) struct ResponseWait {
    wait: WaitTimer,
    upload: Option<Rc<UploadProgress>>,
}

impl ResponseWait {
    /// From now on, `limit` at most; `upload` is the progress of the request's content, if it has any.
    pub(super) fn begin(waits: &Rc<WaitTable>, limit: Duration, upload: Option<Rc<UploadProgress>>) -> Self {
        if let Some(upload) = &upload {
            upload.record_progress(waits.now());
        }
        Self { wait: WaitTimer::new(waits, limit), upload }
    }

    /// What was polled; `None` where it does not come in time.
    pub(super) fn poll_within<T>(&mut self, polled: Poll<T>, cx: &Context<'_>) -> Poll<Option<T>> {
        match polled {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending if self.is_late(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_late(&mut self, cx: &Context<'_>) -> bool {
        match &self.upload {
            None => self.wait.check_late(cx),
            Some(upload) => self.wait.check_late_since(|now| upload.response_awaited_since(now), cx),
        }
    }
}
