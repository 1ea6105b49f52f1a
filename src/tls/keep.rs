//! Goes on reading, below TLS, after writing has failed: an alert may be waiting behind the reset.
//!
//! An upstream that refuses our key pair in TLS 1.3 sends an alert and closes, while we are still writing a request. The
//! writer then gets a broken pipe and gives up, and the alert, which is already in the socket, is never read. Here the first
//! write error is swallowed; what is written after it vanishes, and the reader finds the alert, or the end.

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long an alert, or the end, may take to come after a write error; then the error is reported.
const ALERT_WAIT_AFTER_WRITE_ERROR: Duration = Duration::from_millis(1500);

/// A stream whose write errors wait for what can still be read.
#[derive(Debug)]
pub struct AlertPreservingStream<S> {
    stream: S,
    broken: Option<WriteFailure>,
    patience: Duration,
}

/// Writing has failed.
#[derive(Debug)]
struct WriteFailure {
    kind: ErrorKind,
    /// Nothing more is expected: the error is reported from now on.
    told: bool,
    patience: Pin<Box<Sleep>>,
}

impl<S> AlertPreservingStream<S> {
    /// Around `stream`.
    pub(super) fn new(stream: S) -> Self {
        Self { stream, broken: None, patience: ALERT_WAIT_AFTER_WRITE_ERROR }
    }

    /// What a writer is told while writing is broken; `None` while it is not.
    fn pretended_result<T>(&self, done: T) -> Option<Poll<io::Result<T>>> {
        let broken = self.broken.as_ref()?;
        Some(Poll::Ready(if broken.told { Err(broken.kind.into()) } else { Ok(done) }))
    }

    /// Swallows a write error.
    fn swallow_error<T>(&mut self, written: Poll<io::Result<T>>, done: T) -> Poll<io::Result<T>> {
        let Poll::Ready(Err(error)) = &written else { return written };
        self.broken = Some(WriteFailure { kind: error.kind(), told: false, patience: Box::pin(sleep(self.patience)) });
        Poll::Ready(Ok(done))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AlertPreservingStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let Some(broken) = &mut this.broken else { return read };
        match &read {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {}
            Poll::Ready(_) => broken.told = true,
            Poll::Pending => {
                std::task::ready!(broken.patience.as_mut().poll(cx));
                broken.told = true;
                return Poll::Ready(Err(broken.kind.into()));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AlertPreservingStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(pretended) = self.pretended_result(buf.len()) {
            return pretended;
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.swallow_error(written, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bufs.iter().map(|buf| buf.len()).sum();
        if let Some(pretended) = self.pretended_result(all) {
            return pretended;
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.swallow_error(written, all)
    }

    // Without it rustls would write a flight in pieces, and an alert could be lost between them.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(pretended) = self.pretended_result(()) {
            return pretended;
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.swallow_error(flushed, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(pretended) = self.pretended_result(()) {
            return pretended;
        }
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.swallow_error(shut, ())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Fails every write, and reads what it was given; then pends or ends.
    struct BrokenPipeStream {
        left: &'static [u8],
        ends: bool,
    }

    impl AsyncRead for BrokenPipeStream {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if self.left.is_empty() && !self.ends {
                return Poll::Pending;
            }
            buf.put_slice(self.left);
            self.left = &[];
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for BrokenPipeStream {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(ErrorKind::BrokenPipe.into()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(ErrorKind::NotConnected.into()))
        }
    }

    #[tokio::test]
    async fn what_is_left_can_be_read_after_a_write_error_and_then_writing_fails() {
        let mut keep = AlertPreservingStream::new(BrokenPipeStream { left: b"alert", ends: true });
        keep.write_all(b"a request").await.unwrap();
        keep.flush().await.unwrap();
        keep.write_all(b"more of it").await.unwrap();
        let mut read = Vec::new();
        keep.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"alert");
        assert_eq!(keep.write_all(b"still more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_failed_shutdown_does_not_hide_what_is_left_either() {
        let mut keep = AlertPreservingStream::new(BrokenPipeStream { left: b"alert", ends: true });
        keep.shutdown().await.unwrap();
        let mut read = [0; 5];
        keep.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"alert");
    }

    #[tokio::test]
    async fn where_nothing_comes_the_write_error_is_told_after_a_moment() {
        let mut keep = AlertPreservingStream::new(BrokenPipeStream { left: b"", ends: false });
        keep.patience = Duration::from_millis(1);
        keep.write_all(b"a request").await.unwrap();
        assert_eq!(keep.read_u8().await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(keep.write_all(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}
