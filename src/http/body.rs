//! A body on its way through, in either direction: streamed frame by frame, with an idle timeout and trailers cleaned.
//!
//! Back-pressure is the absence of a buffer here: a frame is taken from one side when the other asks for it. A body that
//! breaks off ends in an error, never cleanly, so that half a message is never taken for a whole one.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::expect::{BodyHold, ContinueGate};
use super::fields::{StripList, clean_trailers};
use crate::clock::deadlines::{Ticks, WaitTable, WaitTimer};

/// Why a body breaks off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The side it comes from broke it off.
    #[error(transparent)]
    Source(#[from] hyper::Error),
    /// No part of it came for too long.
    #[error("the body timed out")]
    Late,
    /// The other side never asked for it.
    #[error("the body was never requested")]
    Unasked,
    /// The request is sent again on another connection.
    #[error("the request is being retried on another connection")]
    SentAgain,
}

/// The progress of a request's body, for the task that waits for the response.
#[derive(Default)]
pub(crate) struct UploadProgress {
    /// It timed out: the error that hyper makes of it does not say so in every protocol.
    late: Cell<bool>,
    /// Whether more of it has been asked for and is not there: how long that may take is `body_idle`'s.
    awaited: Cell<bool>,
    /// When a part of it, or its end, was last handed on.
    moved: Cell<Ticks>,
}

impl UploadProgress {
    /// Whether it timed out.
    pub(crate) fn is_late(&self) -> bool {
        self.late.get()
    }

    /// Records that a part of it moved, or that it is sent again: earlier waiting does not count.
    pub(crate) fn record_progress(&self, now: Ticks) {
        self.awaited.set(false);
        self.moved.set(now);
    }

    /// Since when only the response is awaited.
    pub(crate) fn response_awaited_since(&self, now: Ticks) -> Ticks {
        if self.awaited.get() { now } else { self.moved.get() }
    }
}

/// A body on its way through.
pub(crate) struct BodyRelay {
    incoming: Incoming,
    /// Holds it back until it is requested.
    held: Option<Box<BodyHold>>,
    wait: WaitTimer,
    strip: Rc<StripList>,
    /// Where its progress is recorded.
    upload: Option<Rc<UploadProgress>>,
}

impl BodyRelay {
    pub(crate) fn new(incoming: Incoming, idle: Duration, waits: &Rc<WaitTable>, strip: &Rc<StripList>) -> Self {
        Self { incoming, held: None, wait: WaitTimer::new(waits, idle), strip: Rc::clone(strip), upload: None }
    }

    /// Holds it back until it is asked for.
    pub(crate) fn with_hold(mut self, held: BodyHold) -> Self {
        self.held = Some(Box::new(held));
        self
    }

    /// Records its progress in `upload`.
    pub(crate) fn with_progress(mut self, upload: &Rc<UploadProgress>) -> Self {
        self.upload = Some(Rc::clone(upload));
        self
    }

    /// What holds the body back, if anything does.
    pub(crate) fn gate(&self) -> Option<&Arc<ContinueGate>> {
        self.held.as_ref().map(|held| held.gate())
    }

    /// Where its progress is recorded.
    pub(crate) fn upload(&self) -> Option<&Rc<UploadProgress>> {
        self.upload.as_ref()
    }
}

impl HttpBody for BodyRelay {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(held) = &mut this.held {
            if !ready!(held.poll(cx)) {
                return Poll::Ready(Some(Err(BodyError::Unasked)));
            }
            this.held = None;
        }
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                this.wait.reset();
                if let Some(upload) = &this.upload {
                    upload.record_progress(this.wait.now());
                }
                Poll::Ready(frame.map(|frame| {
                    let mut frame = frame?;
                    if let Some(trailers) = frame.trailers_mut() {
                        clean_trailers(trailers, &this.strip);
                    }
                    Ok(frame)
                }))
            }
            Poll::Pending if this.wait.check_late(cx) => {
                if let Some(upload) = &this.upload {
                    upload.late.set(true);
                }
                Poll::Ready(Some(Err(BodyError::Late)))
            }
            Poll::Pending => {
                if let Some(upload) = &this.upload {
                    upload.awaited.set(true);
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
