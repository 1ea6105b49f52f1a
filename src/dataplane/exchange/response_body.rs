//! A response's body on its way back, with what is accounted for when it ends: the access record and the connection.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::access::AccessRecord;
use super::link::PooledConnection;
use crate::dataplane::connection::mark::BodyMark;
use crate::http::body::{BodyError, BodyRelay};
use crate::http::progress::BodyLimit;
use crate::http::taken::CountedBytes;

/// `UNAVAILABLE`: the call may be made again.
const GRPC_UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");

/// A response's body on its way back, with what is accounted for when it ends.
pub(crate) struct ResponseBody {
    source: ResponseSource,
    record: Option<AccessRecord>,
    /// A break becomes trailers with a status (gRPC).
    grpc: bool,
    /// Its trailers are out: nothing can follow.
    trailed: bool,
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
    fn new(source: ResponseSource, record: Option<AccessRecord>) -> Self {
        Self { source, record, grpc: false, trailed: false }
    }

    /// No content.
    pub(crate) fn empty(record: Option<AccessRecord>) -> Self {
        Self::new(ResponseSource::Empty, record)
    }

    /// A line of the sidecar's own.
    pub(crate) fn from_text(text: Bytes, record: Option<AccessRecord>) -> Self {
        Self::new(ResponseSource::Text(Some(text)), record)
    }

    /// Streamed from `link`, which goes back to its pool at the end, while the request's body may still be sent.
    pub(crate) fn from_relay(relay: BodyRelay, link: PooledConnection, record: AccessRecord) -> Self {
        if relay.is_end_stream() {
            link.finish();
            return Self::empty(Some(record));
        }
        let source = ResponseSource::Relay(Box::new(ResponseRelay { relay, link: Some(link) }));
        Self::new(source, Some(record))
    }

    /// Where the client speaks HTTP/2, a break becomes trailers with a gRPC status.
    pub(crate) fn with_grpc_end(mut self) -> Self {
        self.grpc = self.record.as_ref().is_some_and(|record| record.flight().state().is_http2());
        self
    }

    /// Whether the client's connection is about to be closed under it.
    fn is_cut(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.flight().state().is_cut())
    }

    /// The response broke off: its reason, its counts, and its end for the client.
    fn break_off(&mut self, broken: BodyError) -> Result<Frame<CountedBytes>, BodyError> {
        let ended_by = match &self.source {
            ResponseSource::Relay(answer) => answer.relay.upload().and_then(|upload| upload.ended_by()),
            _ => None,
        };
        let (reason, limit) = match (ended_by, &broken) {
            (_, BodyError::Cut) => ("drain_deadline", None),
            // The library reports a broken response where the request's body was late.
            (Some(BodyLimit::Rate), _) => ("body_slow", ended_by),
            (Some(_), _) => ("body_late", ended_by),
            (None, BodyError::Late) => ("answer_late", Some(BodyLimit::Answer)),
            (None, _) => ("body_broken", None),
        };
        if let Some(record) = &mut self.record {
            record.set_break_reason(reason);
            if let Some(limit) = limit {
                record.count_limit(limit.key());
            }
        }
        self.source = ResponseSource::Empty;
        if !self.grpc {
            return Err(broken);
        }
        self.record = None;
        Ok(Frame::trailers(HeaderMap::from_iter([
            (HeaderName::from_static("grpc-status"), GRPC_UNAVAILABLE),
            (HeaderName::from_static("grpc-message"), HeaderValue::from_static(reason)),
        ])))
    }
}

impl ResponseRelay {
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
    type Data = CountedBytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<CountedBytes>, BodyError>>> {
        let this = &mut *self;
        let mut reader = None;
        let frame = match &mut this.source {
            ResponseSource::Empty => return Poll::Ready(None),
            ResponseSource::Text(text) => text.take().map(|text| Ok(Frame::data(text))),
            ResponseSource::Relay(answer) => {
                let polled = answer.poll(cx);
                if let Some(record) = &this.record {
                    let open = record.flight().state();
                    open.mark.set(if polled.is_ready() { BodyMark::Gave } else { BodyMark::Waits });
                    reader = open.reader.borrow().clone();
                }
                if polled.is_pending() && this.is_cut() { Some(Err(BodyError::Cut)) } else { ready!(polled) }
            }
        };
        let frame = match frame {
            Some(Ok(frame)) => {
                this.trailed = frame.is_trailers();
                if let (Some(data), Some(record)) = (frame.data_ref(), &mut this.record) {
                    record.add_bytes(data.len());
                }
                Some(Ok(frame.map_data(|data| CountedBytes::new(data, reader))))
            }
            Some(Err(broken)) => Some(this.break_off(broken)),
            None => {
                if let ResponseSource::Relay(answer) = std::mem::replace(&mut this.source, ResponseSource::Empty)
                    && let Some(link) = answer.link
                {
                    link.finish();
                }
                this.record = None;
                None
            }
        };
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
            Some(link) if self.trailed || answer.relay.is_end_stream() => link.finish(),
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
