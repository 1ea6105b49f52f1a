//! A served stream as the worker's tick sees it: whether bytes come, and whether what we write is read.
//!
//! The stream only records; `connection` decides what is too long. It also sends the one thing that hyper cannot: 408, to a
//! peer whose request head is late. It lies right above TLS, below the guards that judge the bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::activity::StreamActivity;

/// RFC 9110 15.5.9. Nothing of a response can have been written: it is sent only where no request is in flight.
const TIMEOUT_RESPONSE: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 20\r\n\
connection: close\r\n\r\n408 Request Timeout\n";

/// A stream that records its activity.
pub(crate) struct WatchedStream<S> {
    stream: S,
    activity: Arc<StreamActivity>,
    /// As in `activity`, without the detour for every write that goes through.
    blocked: bool,
}

impl<S> WatchedStream<S> {
    pub(crate) fn new(stream: S, activity: &Arc<StreamActivity>) -> Self {
        Self { stream, activity: Arc::clone(activity), blocked: false }
    }

    /// Records the outcome of a write or a flush; `wrote`: it has moved bytes.
    fn record_outcome<T>(&mut self, polled: &Poll<io::Result<T>>, wrote: bool) {
        if polled.is_pending() {
            self.blocked = true;
            self.activity.set_blocked();
        } else if self.blocked {
            self.activity.set_written();
            // A write that went into a buffer proves nothing while the buffer cannot be flushed.
            if !wrote {
                self.blocked = false;
                self.activity.clear_blocked();
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> WatchedStream<S> {
    /// Answers 408 for the late head, as far as it can be written without waiting.
    fn write_timeout_response(&mut self, cx: &mut Context<'_>) {
        let stream = Pin::new(&mut self.stream);
        if matches!(stream.poll_write(cx, TIMEOUT_RESPONSE), Poll::Ready(Ok(written)) if written == TIMEOUT_RESPONSE.len())
        {
            let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.activity.take_late() {
            self.write_timeout_response(cx);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.set_received();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.record_outcome(&polled, true);
        polled
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.record_outcome(&polled, false);
        polled
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.record_outcome(&polled, true);
        polled
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
