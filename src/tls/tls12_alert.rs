//! The alert for a missing certificate in TLS 1.2, corrected on its way out: rustls sends certificate_required (116), which
//! only TLS 1.3 has (RFC 8446 6); TLS 1.2 has handshake_failure (40) for it (RFC 5246 7.4.6), and some clients know no other.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::seen;

/// The record as rustls writes it before anything is encrypted, which TLS 1.3 never does with this alert.
const CERTIFICATE_REQUIRED: [u8; 7] = [21, 3, 3, 0, 2, 2, 116];
/// The record that takes its place.
const HANDSHAKE_FAILURE: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

/// Passes everything through but that one record.
#[derive(Debug)]
pub struct CertificateAlertStream<S> {
    inner: S,
    written: bool,
}

impl<S> CertificateAlertStream<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, written: false }
    }

    /// Whether anything was written to it.
    pub(super) fn has_written(&self) -> bool {
        self.written
    }

    fn note_write(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.written |= matches!(written, Poll::Ready(Ok(1..)));
        written
    }
}

/// The bytes to write in place of these.
fn corrected(bytes: &[u8]) -> &[u8] {
    if bytes != CERTIFICATE_REQUIRED {
        return bytes;
    }
    seen::record_observation(|seen| seen.tls13 = Some(false));
    &HANDSHAKE_FAILURE
}

impl<S: AsyncRead + Unpin> AsyncRead for CertificateAlertStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CertificateAlertStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, corrected(buf));
        self.note_write(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // rustls hands over one slice for each record.
        let written = match bufs {
            [first @ .., last] if **last == CERTIFICATE_REQUIRED => {
                let last = IoSlice::new(corrected(last));
                let all: Vec<_> = first.iter().map(|slice| IoSlice::new(slice)).chain([last]).collect();
                Pin::new(&mut self.inner).poll_write_vectored(cx, &all)
            }
            _ => Pin::new(&mut self.inner).poll_write_vectored(cx, bufs),
        };
        self.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
