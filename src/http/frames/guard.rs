//! The scanner's place between a stream and hyper. In place of a frame that is too much hyper reads one that h2 answers
//! with GOAWAY, so that the connection ends as HTTP/2 wants it and everything that waits in it goes at once.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::fault::spoil_frame;
use super::number::{FIELD_BYTES, insert_stream_number, number_requests};
use super::{BlockFault, FrameFlood, FrameScanner, FrameStep, StreamRefusals};
use crate::clock::deadlines::{TICK, WaitTable};
use crate::http::activity::StreamActivity;
use crate::http::framing::held::HeldBytes;
use crate::http::interim::InterimQueue;

/// A `WINDOW_UPDATE` of the connection by zero, which is an error of the connection (RFC 9113 6.9).
const GO_AWAY: &[u8] = &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What was found on a connection, for the task that serves it.
#[derive(Default)]
pub(crate) struct FrameFindings {
    /// The client sent too much of this.
    pub(crate) flood: Cell<Option<FrameFlood>>,
    /// Streams that were refused as too many, and not reported yet.
    pub(crate) refused: Cell<u64>,
    /// Rules that header blocks have broken, and that are not reported yet.
    pub(crate) faults: RefCell<Vec<BlockFault>>,
}

/// A stream from which no more frames of a kind can be read than is in order.
pub(crate) struct FrameGuard<S> {
    stream: S,
    scanner: FrameScanner,
    held: HeldBytes,
    sent: u64,
    refusals: StreamRefusals,
    waits: Rc<WaitTable>,
    activity: Arc<StreamActivity>,
    found: Rc<FrameFindings>,
    interim: Arc<InterimQueue>,
}

impl<S> FrameGuard<S> {
    /// Around `stream`, whose header blocks may have `block_limit` bytes; `activity` records header blocks that are not
    /// whole, the rest is left in `found`, and what `interim` holds is written between two frames.
    pub(crate) fn new(
        stream: S,
        block_limit: usize,
        waits: &Rc<WaitTable>,
        (activity, found, interim): (&Arc<StreamActivity>, &Rc<FrameFindings>, &Arc<InterimQueue>),
    ) -> Self {
        Self {
            stream,
            scanner: FrameScanner::new(block_limit, elapsed(waits)),
            held: HeldBytes::default(),
            sent: 0,
            refusals: StreamRefusals::default(),
            waits: Rc::clone(waits),
            activity: Arc::clone(activity),
            found: Rc::clone(found),
            interim: Arc::clone(interim),
        }
    }

    fn scan(&mut self, bytes: &[u8]) -> FrameStep {
        let pings = self.scanner.ping_count();
        let step = self.scanner.scan(bytes, self.sent, elapsed(&self.waits));
        if self.scanner.ping_count() != pings {
            self.activity.record_ping(self.waits.now());
        }
        self.found.flood.set(step.flood);
        self.activity.set_open_block(self.scanner.open_block());
        if self.scanner.small_table {
            self.interim.close();
        }
        step
    }

    /// Numbers the requests among what may pass, from `before` on, where it is read into; false where there is no room.
    fn number_in_place(&self, buf: &mut ReadBuf<'_>, before: usize) -> bool {
        let blocks = self.scanner.request_blocks();
        if buf.remaining() < blocks.len() * FIELD_BYTES {
            return false;
        }
        for block in blocks.iter().rev() {
            buf.initialize_unfilled_to(FIELD_BYTES);
            buf.advance(FIELD_BYTES);
            insert_stream_number(&mut buf.filled_mut()[before..], block);
        }
        true
    }

    /// Goes on behind a header block that breaks a rule: what hyper reads instead of `bytes`, and how many of them that is for.
    fn replace_faulty_blocks(&mut self, bytes: &[u8], first: FrameStep) -> (Vec<u8>, usize) {
        let (mut cleared, mut at, mut step) = (Vec::with_capacity(bytes.len()), 0, first);
        loop {
            cleared.extend(number_requests(&bytes[at..at + step.pass], self.scanner.request_blocks()));
            at += step.pass;
            let Some(found) = step.fault else { return (cleared, at) };
            self.found.faults.borrow_mut().push(found.fault);
            let frame = &bytes[at..at + found.frame];
            if found.by_h2 {
                cleared.extend_from_slice(frame);
            } else {
                cleared.extend(spoil_frame(frame));
            }
            at += found.frame;
            step = self.scan(&bytes[at..]);
        }
    }

    /// These bytes have gone out.
    fn count_written(&mut self, bytes: &[u8]) {
        self.sent += bytes.len() as u64;
        let refused = self.refusals.count(bytes);
        if refused > 0 {
            self.found.refused.set(self.found.refused.get() + refused);
        }
    }
}

/// The worker's time.
fn elapsed(waits: &WaitTable) -> Duration {
    TICK * waits.now().0
}

impl<S: AsyncRead + Unpin> AsyncRead for FrameGuard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 || this.held.drain_into(buf) {
            return Poll::Ready(Ok(()));
        }
        if this.found.flood.get().is_some() {
            // Nothing more is read; h2 is about to close.
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
                let step = this.scan(arrived);
                let given = if step.fault.is_some() {
                    let (cleared, at) = this.replace_faulty_blocks(arrived, step);
                    this.held.hold(cleared, &arrived[at..]);
                    0
                } else {
                    if step.flood.is_none() && step.pass < arrived.len() {
                        this.held.push(&arrived[step.pass..]);
                    }
                    step.pass
                };
                buf.set_filled(before + given);
                if given > 0 && !this.number_in_place(buf, before) {
                    let numbered = number_requests(&buf.filled()[before..], this.scanner.request_blocks());
                    let rest = this.held.take_all();
                    this.held.hold(numbered, &rest);
                    buf.set_filled(before);
                }
            } else {
                this.held.push(arrived);
                buf.set_filled(before);
                let held = this.held.take_all();
                let step = this.scan(&held);
                let (cleared, at) = if step.fault.is_some() {
                    this.replace_faulty_blocks(&held, step)
                } else {
                    (number_requests(&held[..step.pass], this.scanner.request_blocks()), step.pass)
                };
                this.held.hold(cleared, &held[at..]);
            }
            if this.found.flood.get().is_some() {
                this.held.replace_rest(GO_AWAY);
            }
            if buf.filled().len() > before || this.held.drain_into(buf) {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> FrameGuard<S> {
    /// Writes interim responses, if what h2 has written so far ends with a frame.
    fn poll_write_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.interim.poll_write_heads(&mut self.stream, cx, self.refusals.is_between_frames())
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FrameGuard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_write_interim(cx))?;
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        this.count_written(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_interim(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_write_interim(cx))?;
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let part = left.min(buf.len());
            this.count_written(&buf[..part]);
            left -= part;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
