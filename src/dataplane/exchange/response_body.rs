//! A response's body on its way back, with what is accounted for when it ends: the access record and the connection.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::access::AccessRecord;
use super::link::PooledConnection;
use crate::dataplane::connection::mark::BodyMark;
use crate::http::body::{BodyError, BodyRelay, UploadProgress};

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
    /// The request's body, which may still be on its way.
    upload: Option<Rc<UploadProgress>>,
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

    /// Streamed from `link`, which goes back to its pool at the end, while the request's body may still be sent.
    pub(crate) fn from_relay(
        relay: BodyRelay,
        link: PooledConnection,
        record: AccessRecord,
        upload: Option<Rc<UploadProgress>>,
    ) -> Self {
        if relay.is_end_stream() {
            link.finish();
            return Self::empty(Some(record));
        }
        Self {
            source: ResponseSource::Relay(Box::new(ResponseRelay { relay, link: Some(link), upload })),
            record: Some(record),
        }
    }
}

impl ResponseRelay {
    /// Whether `body_idle` ended it. Where the request's body was late, the library reports a broken response.
    fn is_late(&self, broken: &BodyError) -> bool {
        matches!(broken, BodyError::Late) || self.upload.as_ref().is_some_and(|upload| upload.is_late())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.relay).poll_frame(cx);
        if polled.is_ready() {
            return polled;
        }
        // A connection without a task of its own runs only when it is polled; polling for a frame made it read.
        if self.link.as_mut().is_some_and(|link| link.poll_connection(cx)) {
            Pin::new(&mut self.relay).poll_frame(cx)
        } else {
            polled
        }
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
                ready!(polled)
            }
        };
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(data), Some(record)) = (frame.data_ref(), &mut this.record) {
                    record.add_bytes(data.len());
                }
            }
            Some(Err(broken)) => {
                let late = matches!(&this.source, ResponseSource::Relay(answer) if answer.is_late(broken));
                if let Some(record) = &mut this.record {
                    record.set_break_reason(if late { "body_late" } else { "body_broken" });
                    if late {
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
            ResponseSource::Relay(answer) => answer.relay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            ResponseSource::Empty => SizeHint::with_exact(0),
            ResponseSource::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            ResponseSource::Relay(answer) => answer.relay.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // hyper polls no further once the announced length is out, or where a response has no content to send.
        let ResponseSource::Relay(answer) = &mut self.source else { return };
        match answer.link.take() {
            Some(link) if answer.relay.is_end_stream() => link.finish(),
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
