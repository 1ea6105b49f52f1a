//! Bodies: streamed both ways, frame by frame, with an idle timeout and trailers cleaned.
//!
//! Back-pressure is the absence of a buffer here: a frame is taken from one side when the other asks for it. A body that
//! breaks off ends in an error, never cleanly, so that half a message is never taken for a whole one.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::expect::{BodyHold, ContinueGate};
use super::fields::{StripList, clean_trailers};
use crate::clock::deadlines::{Ticks, WaitTable, WaitTimer};
use crate::dataplane::exchange::access::AccessRecord;
use crate::dataplane::exchange::link::PooledConnection;
use crate::dataplane::exchange::replay::ReplayBody;
use crate::dataplane::reading::BodyMark;

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

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(held) = &mut self.held {
            if !std::task::ready!(held.poll(cx)) {
                return Poll::Ready(Some(Err(BodyError::Unasked)));
            }
            self.held = None;
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.wait.reset();
                if let Some(upload) = &self.upload {
                    upload.record_progress(self.wait.now());
                }
                Poll::Ready(frame.map(|frame| {
                    let mut frame = frame?;
                    if let Some(trailers) = frame.trailers_mut() {
                        clean_trailers(trailers, &self.strip);
                    }
                    Ok(frame)
                }))
            }
            Poll::Pending if self.wait.check_late(cx) => {
                if let Some(upload) = &self.upload {
                    upload.late.set(true);
                }
                Poll::Ready(Some(Err(BodyError::Late)))
            }
            Poll::Pending => {
                if let Some(upload) = &self.upload {
                    upload.awaited.set(true);
                }
                Poll::Pending
            }
        }
    }
}

/// A request's body on its way to the backend or upstream.
pub(crate) enum OutgoingBody {
    /// None.
    Empty,
    /// Streamed.
    Relay(Box<BodyRelay>),
    /// Streamed, and kept so that it can be sent again.
    Kept(ReplayBody),
    /// Made up by a test.
    #[cfg(test)]
    Frames(std::collections::VecDeque<Frame<Bytes>>),
}

impl OutgoingBody {
    /// What holds the body back, if anything does.
    pub(crate) fn gate(&self) -> Option<&Arc<ContinueGate>> {
        match self {
            Self::Empty => None,
            Self::Relay(relay) => relay.held.as_ref().map(|held| held.gate()),
            // Sent again, it may be wanted after all: only a 100 or the timeout requests it.
            Self::Kept(_) => None,
            #[cfg(test)]
            Self::Frames(_) => None,
        }
    }

    /// Its progress, if it comes in pieces.
    pub(crate) fn upload(&self) -> Option<Rc<UploadProgress>> {
        match self {
            Self::Empty => None,
            Self::Relay(relay) => relay.upload.clone(),
            Self::Kept(turn) => turn.upload(),
            #[cfg(test)]
            Self::Frames(_) => None,
        }
    }
}

impl HttpBody for OutgoingBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Relay(relay) => relay.poll(cx),
            Self::Kept(turn) => Pin::new(turn).poll_frame(cx),
            #[cfg(test)]
            Self::Frames(frames) => Poll::Ready(frames.pop_front().map(Ok)),
        }
    }
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Relay(relay) => relay.incoming.is_end_stream(),
            Self::Kept(turn) => turn.is_end_stream(),
            #[cfg(test)]
            Self::Frames(frames) => frames.is_empty(),
        }
    }
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Relay(relay) => relay.incoming.size_hint(),
            Self::Kept(turn) => turn.size_hint(),
            #[cfg(test)]
            Self::Frames(frames) => {
                SizeHint::with_exact(frames.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum())
            }
        }
    }
}

#[cfg(test)]
impl OutgoingBody {
    /// These frames, and then trailers.
    pub(crate) fn from_frames(data: Vec<Bytes>, trailers: Option<http::HeaderMap>) -> Self {
        Self::Frames(data.into_iter().map(Frame::data).chain(trailers.map(Frame::trailers)).collect())
    }
}

/// A response's body on its way back, with what is accounted for when it ends.
pub(crate) struct ResponseBody {
    source: ResponseSource,
    record: Option<AccessRecord>,
}

enum ResponseSource {
    Empty,
    Text(Option<Bytes>),
    Relay(Box<ResponseRelay>),
}

struct ResponseRelay {
    relay: BodyRelay,
    link: Option<PooledConnection>,
}

impl ResponseBody {
    /// No content.
    pub(crate) fn empty(record: Option<AccessRecord>) -> Self {
        Self { source: ResponseSource::Empty, record }
    }

    /// A line of the sidecar's own.
    pub(crate) fn from_text(text: Bytes, record: Option<AccessRecord>) -> Self {
        Self { source: ResponseSource::Text(Some(text)), record }
    }

    /// Streamed from `link`, which goes back to its pool at the end.
    pub(crate) fn from_relay(relay: BodyRelay, link: PooledConnection, record: AccessRecord) -> Self {
        if relay.incoming.is_end_stream() {
            link.finish();
            return Self::empty(Some(record));
        }
        Self {
            source: ResponseSource::Relay(Box::new(ResponseRelay { relay, link: Some(link) })),
            record: Some(record),
        }
    }
}

impl ResponseRelay {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.relay.poll(cx);
        if polled.is_ready() {
            return polled;
        }
        // A connection without a task of its own runs only when it is polled; polling for a frame made it read.
        if self.link.as_mut().is_some_and(|link| link.poll_connection(cx)) { self.relay.poll(cx) } else { polled }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let frame = match &mut this.source {
            ResponseSource::Empty => return Poll::Ready(None),
            ResponseSource::Text(text) => text.take().map(|text| Ok(Frame::data(text))),
            ResponseSource::Relay(answer) => {
                let polled = answer.poll(cx);
                if let Some(record) = &this.record {
                    record.flight().state().mark.set(if polled.is_ready() { BodyMark::Gave } else { BodyMark::Waits });
                }
                std::task::ready!(polled)
            }
        };
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(data), Some(record)) = (frame.data_ref(), &mut this.record) {
                    record.add_bytes(data.len());
                }
            }
            Some(Err(broken)) => {
                if let Some(record) = &mut this.record {
                    record.set_break_reason(if matches!(broken, BodyError::Late) {
                        "body_late"
                    } else {
                        "body_broken"
                    });
                    if matches!(broken, BodyError::Late) {
                        record.count_limit("body_idle");
                    }
                }
                this.source = ResponseSource::Empty;
            }
            None => {
                if let ResponseSource::Relay(answer) = std::mem::replace(&mut this.source, ResponseSource::Empty)
                    && let Some(link) = answer.link
                {
                    link.finish();
                }
                this.record = None;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            ResponseSource::Empty => true,
            ResponseSource::Text(text) => text.is_none(),
            ResponseSource::Relay(answer) => answer.relay.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            ResponseSource::Empty => SizeHint::with_exact(0),
            ResponseSource::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            ResponseSource::Relay(answer) => answer.relay.incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // hyper polls no further once the announced length is out, or where a response has no content to send.
        let ResponseSource::Relay(answer) = &mut self.source else { return };
        match answer.link.take() {
            Some(link) if answer.relay.incoming.is_end_stream() => link.finish(),
            Some(_) => {
                if let Some(record) = &mut self.record {
                    let unread = record.flight().state().mark.get() == BodyMark::Unread;
                    record.set_break_reason(if unread { "body_unread" } else { "left" });
                }
            }
            None => {}
        }
    }
}
