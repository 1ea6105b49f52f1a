//! The content of a message, whatever reads it: hyper, `server_connection` a response on HTTP/1.1 to a request without content, or
//! h2 a response on HTTP/2, where hyper's client is not used because it hides interim responses.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::broken::BrokenExchange;
use super::framing::parse_decimal;
use super::response_content::ResponseContent;

/// The content of a message.
pub(crate) enum MessageContent {
    /// Of a request, or of a response on HTTP/1.1 to one with content.
    Hyper(Incoming),
    /// Of a response on HTTP/1.1 to a request without content.
    Http1(ResponseContent),
    /// Of a response on HTTP/2.
    Http2(Http2Content),
}

/// The content of a response on HTTP/2.
pub(crate) struct Http2Content {
    stream: RecvStream,
    /// Bytes that are still to come, where the response says how many.
    left: Option<u64>,
    /// Only trailers can follow.
    ended: bool,
}

impl From<Incoming> for MessageContent {
    fn from(incoming: Incoming) -> Self {
        Self::Hyper(incoming)
    }
}

impl MessageContent {
    /// What `stream` brings of a response with these fields.
    pub(crate) fn from_stream(stream: RecvStream, headers: &HeaderMap) -> Self {
        let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
        let left = lengths.next().and_then(|length| parse_decimal(length.as_bytes()));
        Self::Http2(Http2Content { stream, left: left.filter(|_| lengths.next().is_none()), ended: false })
    }
}

impl Http2Content {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(bytes)) => {
                    let _ = self.stream.flow_control().release_capacity(bytes.len());
                    self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Err(error)) => return Poll::Ready(end_of_reset(error)),
                None => self.ended = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(end_of_reset(error)),
        }
    }
}

/// RFC 9113 8.1: a response that is whole may be followed by a reset without an error, which says that the rest of the request
/// is not wanted.
fn end_of_reset(error: h2::Error) -> Option<Result<Frame<Bytes>, h2::Error>> {
    if error.reason() == Some(Reason::NO_ERROR) { None } else { Some(Err(error)) }
}

impl HttpBody for MessageContent {
    type Data = Bytes;
    type Error = BrokenExchange;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenExchange>>> {
        match self.get_mut() {
            Self::Hyper(incoming) => Pin::new(incoming).poll_frame(cx).map_err(BrokenExchange::from),
            Self::Http1(content) => content.poll_frame(cx).map_err(BrokenExchange::from),
            Self::Http2(content) => content.poll_frame(cx).map_err(BrokenExchange::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(incoming) => incoming.is_end_stream(),
            Self::Http1(content) => content.is_end_stream(),
            Self::Http2(content) => content.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(incoming) => incoming.size_hint(),
            Self::Http1(content) => content.size_hint(),
            Self::Http2(content) => content.left.map(SizeHint::with_exact).unwrap_or_default(),
        }
    }
}
