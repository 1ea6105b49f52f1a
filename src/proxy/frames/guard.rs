//! The scanner's place between a stream and hyper. In place of a frame that is too much hyper reads one that h2 answers
//! with GOAWAY, so that the connection ends as HTTP/2 wants it and everything that waits in it goes at once.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Flood, Scanner};
use crate::proxy::framing::held::Held;
use crate::proxy::waits::{TICK, Waits};

/// A `WINDOW_UPDATE` of the connection by nothing, which is an error of the connection (RFC 9113 6.9).
const GO_AWAY: &[u8] = &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A stream from which no more frames of a kind can be read than is in order.
pub(in crate::proxy) struct Guard<S> {
    stream: S,
    scanner: Scanner,
    held: Held,
    sent: u64,
    waits: Rc<Waits>,
    flood: Rc<Cell<Option<Flood>>>,
}

impl<S> Guard<S> {
    /// Around `stream`; what there is too much of is left in `flood`.
    pub(in crate::proxy) fn new(
        stream: S,
        head_size: usize,
        waits: &Rc<Waits>,
        flood: Rc<Cell<Option<Flood>>>,
    ) -> Self {
        let scanner = Scanner::new(head_size, elapsed(waits));
        Self { stream, scanner, held: Held::default(), sent: 0, waits: Rc::clone(waits), flood }
    }

    fn judge(&mut self, bytes: &[u8]) -> usize {
        let step = self.scanner.scan(bytes, self.sent, elapsed(&self.waits));
        self.flood.set(step.flood);
        step.pass
    }
}

/// The worker's time.
fn elapsed(waits: &Waits) -> Duration {
    TICK * waits.now().0
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 || this.held.give(buf) {
            return Poll::Ready(Ok(()));
        }
        if this.flood.get().is_some() {
            // Nothing more is heard; h2 is about to close.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        loop {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let arrived = &buf.filled()[before..];
            if arrived.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if this.held.is_empty() {
                let pass = this.judge(arrived);
                if this.flood.get().is_none() && pass < arrived.len() {
                    this.held.push(&arrived[pass..]);
                }
                buf.set_filled(before + pass);
            } else {
                this.held.push(arrived);
                buf.set_filled(before);
                let mut held = std::mem::take(&mut this.held);
                held.judge(|bytes| this.judge(bytes));
                this.held = held;
            }
            if this.flood.get().is_some() {
                this.held.replace_rest(GO_AWAY);
            }
            if buf.filled().len() > before || this.held.give(buf) {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.sent += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.sent += written as u64;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
