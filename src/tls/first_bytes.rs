//! The first bytes of a handshake, for its explanation, and all of a ClientHello, which is read before it is known who answers it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use super::seen;

/// Passes everything through (vectored writes too) and remembers the first bytes that were read: of a
/// ClientHello those up to its `legacy_version` (RFC 8446 4.1.2).
#[derive(Debug)]
pub struct FirstBytesStream<S> {
    inner: S,
    bytes: [u8; 11],
    count: usize,
    /// The other side has ended its half.
    pub(super) ended: bool,
    /// Everything that was read, where it will be read again.
    recorded: Option<Vec<u8>>,
}

impl<S> FirstBytesStream<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, bytes: [0; 11], count: 0, ended: false, recorded: None }
    }
    /// Likewise, and records everything that is read, until [`Self::take_recorded`].
    pub(super) fn recording(inner: S) -> Self {
        Self { recorded: Some(Vec::new()), ..Self::new(inner) }
    }
    /// What was read up to now; nothing is recorded from then on.
    pub(super) fn take_recorded(&mut self) -> Vec<u8> {
        self.recorded.take().unwrap_or_default()
    }
    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
    pub(super) fn first_bytes(&self) -> Vec<u8> {
        self.bytes[..self.count].to_vec()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstBytesStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, has_room) = (buf.filled().len(), buf.remaining() > 0);
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.ended |= has_room && matches!(polled, Poll::Ready(Ok(()))) && buf.filled().len() == before;
        if let Some(recorded) = &mut self.recorded {
            recorded.extend_from_slice(&buf.filled()[before..]);
        }
        if self.count < self.bytes.len() {
            let this = &mut *self;
            for (slot, byte) in this.bytes[this.count..].iter_mut().zip(&buf.filled()[before..]) {
                *slot = *byte;
                this.count += 1;
            }
            seen::record_observation(|seen| seen.first_bytes = this.first_bytes());
        }
        polled
    }
}

super::passing::passes_writes!(FirstBytesStream.inner);
