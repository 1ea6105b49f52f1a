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

use super::access::Record;
use super::expect::{Gate, Held};
use super::fields::{Strip, clean_trailers};
use super::link::Link;
use super::reading::Mark;
use super::replay::Turn;
use super::waits::{Ticks, Wait, Waits};

/// Why a body breaks off.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
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
pub(super) struct Upload {
    /// It timed out: the error that hyper makes of it does not say so in every protocol.
    late: Cell<bool>,
    /// Whether more of it has been asked for and is not there: how long that may take is `body_idle`'s.
    awaited: Cell<bool>,
    /// When a part of it, or its end, was last handed on.
    moved: Cell<Ticks>,
}

impl Upload {
    /// Whether it timed out.
    pub(super) fn is_late(&self) -> bool {
        self.late.get()
    }

    /// Records that a part of it moved, or that it is sent again: earlier waiting does not count.
    pub(super) fn begins(&self, now: Ticks) {
        self.awaited.set(false);
        self.moved.set(now);
    }

    /// Since when only the response is awaited.
    pub(super) fn waits_since(&self, now: Ticks) -> Ticks {
        if self.awaited.get() { now } else { self.moved.get() }
    }
}

/// A body on its way through.
pub(super) struct Relay {
    incoming: Incoming,
    /// Holds it back until it is requested.
    held: Option<Box<Held>>,
    wait: Wait,
    strip: Rc<Strip>,
    /// Where its progress is recorded.
    upload: Option<Rc<Upload>>,
}

impl Relay {
    pub(super) fn new(incoming: Incoming, idle: Duration, waits: &Rc<Waits>, strip: &Rc<Strip>) -> Self {
        Self { incoming, held: None, wait: Wait::new(waits, idle), strip: Rc::clone(strip), upload: None }
    }

    /// Holds it back until it is asked for.
    pub(super) fn hold(mut self, held: Held) -> Self {
        self.held = Some(Box::new(held));
        self
    }

    /// Records its progress in `upload`.
    pub(super) fn telling(mut self, upload: &Rc<Upload>) -> Self {
        self.upload = Some(Rc::clone(upload));
        self
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(held) = &mut self.held {
            if !std::task::ready!(held.poll(cx)) {
                return Poll::Ready(Some(Err(Broken::Unasked)));
            }
            self.held = None;
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.wait.progress();
                if let Some(upload) = &self.upload {
                    upload.begins(self.wait.now());
                }
                Poll::Ready(frame.map(|frame| {
                    let mut frame = frame?;
                    if let Some(trailers) = frame.trailers_mut() {
                        clean_trailers(trailers, &self.strip);
                    }
                    Ok(frame)
                }))
            }
            Poll::Pending if self.wait.late(cx) => {
                if let Some(upload) = &self.upload {
                    upload.late.set(true);
                }
                Poll::Ready(Some(Err(Broken::Late)))
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
pub(super) enum Outgoing {
    /// None.
    Empty,
    /// Streamed.
    Relay(Box<Relay>),
    /// Streamed, and kept so that it can be sent again.
    Kept(Turn),
    /// Made up by a test.
    #[cfg(test)]
    Frames(std::collections::VecDeque<Frame<Bytes>>),
}

impl Outgoing {
    /// What holds the body back, if anything does.
    pub(super) fn gate(&self) -> Option<&Arc<Gate>> {
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
    pub(super) fn upload(&self) -> Option<Rc<Upload>> {
        match self {
            Self::Empty => None,
            Self::Relay(relay) => relay.upload.clone(),
            Self::Kept(turn) => turn.upload(),
            #[cfg(test)]
            Self::Frames(_) => None,
        }
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
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
impl Outgoing {
    /// These frames, and then trailers.
    pub(super) fn frames(data: Vec<Bytes>, trailers: Option<http::HeaderMap>) -> Self {
        Self::Frames(data.into_iter().map(Frame::data).chain(trailers.map(Frame::trailers)).collect())
    }
}

/// A response's body on its way back, with what is accounted for when it ends.
pub(super) struct Body {
    source: Source,
    record: Option<Record>,
}

enum Source {
    Empty,
    Text(Option<Bytes>),
    Relay(Box<Answer>),
}

struct Answer {
    relay: Relay,
    link: Option<Link>,
}

impl Body {
    /// No content.
    pub(super) fn empty(record: Option<Record>) -> Self {
        Self { source: Source::Empty, record }
    }

    /// A line of the sidecar's own.
    pub(super) fn text(text: Bytes, record: Option<Record>) -> Self {
        Self { source: Source::Text(Some(text)), record }
    }

    /// Streamed from `link`, which goes back to its pool at the end.
    pub(super) fn relay(relay: Relay, link: Link, record: Record) -> Self {
        if relay.incoming.is_end_stream() {
            link.finish();
            return Self::empty(Some(record));
        }
        Self { source: Source::Relay(Box::new(Answer { relay, link: Some(link) })), record: Some(record) }
    }
}

impl Answer {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let polled = self.relay.poll(cx);
        if polled.is_ready() {
            return polled;
        }
        // A connection without a task of its own runs only when it is polled; polling for a frame made it read.
        if self.link.as_mut().is_some_and(|link| link.drive(cx)) { self.relay.poll(cx) } else { polled }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        let frame = match &mut this.source {
            Source::Empty => return Poll::Ready(None),
            Source::Text(text) => text.take().map(|text| Ok(Frame::data(text))),
            Source::Relay(answer) => {
                let polled = answer.poll(cx);
                if let Some(record) = &this.record {
                    record.flight().open().mark.set(if polled.is_ready() { Mark::Gave } else { Mark::Waits });
                }
                std::task::ready!(polled)
            }
        };
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(data), Some(record)) = (frame.data_ref(), &mut this.record) {
                    record.sent(data.len());
                }
            }
            Some(Err(broken)) => {
                if let Some(record) = &mut this.record {
                    record.broke(if matches!(broken, Broken::Late) { "body_late" } else { "body_broken" });
                    if matches!(broken, Broken::Late) {
                        record.limited("body_idle");
                    }
                }
                this.source = Source::Empty;
            }
            None => {
                if let Source::Relay(answer) = std::mem::replace(&mut this.source, Source::Empty)
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
            Source::Empty => true,
            Source::Text(text) => text.is_none(),
            Source::Relay(answer) => answer.relay.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Source::Relay(answer) => answer.relay.incoming.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // hyper polls no further once the announced length is out, or where a response has no content to send.
        let Source::Relay(answer) = &mut self.source else { return };
        match answer.link.take() {
            Some(link) if answer.relay.incoming.is_end_stream() => link.finish(),
            Some(_) => {
                if let Some(record) = &mut self.record {
                    let unread = record.flight().open().mark.get() == Mark::Unread;
                    record.broke(if unread { "body_unread" } else { "left" });
                }
            }
            None => {}
        }
    }
}
