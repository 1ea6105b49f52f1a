//! The streams of one HTTP/2 connection: how many run, how many the server allows, and whether anything is received.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, ReadBuf};

use crate::clock::deadlines::{Ticks, WaitTable};
use crate::tls::passing::passes_writes;

/// Requests that may wait for these SETTINGS, open streams included: as many as a server should allow (RFC 9113 6.5.2).
const INITIAL_STREAM_LIMIT: usize = 100;

/// The state that a connection and its streams share.
pub(crate) struct SharedStreamState {
    streams: Cell<usize>,
    /// How many the server allows (SETTINGS_MAX_CONCURRENT_STREAMS).
    allowed: Cell<usize>,
    /// It takes no further request; those in progress continue.
    retired: Cell<bool>,
    /// How often something was received, and when that was the last time.
    heard: Cell<u32>,
    heard_at: Cell<Ticks>,
    /// Woken when the first bytes arrive: the SETTINGS.
    told: RefCell<Option<Waker>>,
    /// When the last stream ended.
    idle_since: Cell<Ticks>,
    waits: Rc<WaitTable>,
}

impl SharedStreamState {
    pub(super) fn new(waits: &Rc<WaitTable>) -> Rc<Self> {
        Rc::new(Self {
            streams: Cell::new(0),
            allowed: Cell::new(INITIAL_STREAM_LIMIT),
            retired: Cell::new(false),
            heard: Cell::new(0),
            heard_at: Cell::new(waits.now()),
            told: RefCell::default(),
            idle_since: Cell::new(waits.now()),
            waits: Rc::clone(waits),
        })
    }

    /// Opens one more stream, if the server allows one.
    pub(super) fn try_open_stream(self: &Rc<Self>) -> Option<StreamGuard> {
        (self.streams.get() < self.allowed.get()).then(|| self.open_stream())
    }

    /// Opens one more stream.
    pub(super) fn open_stream(self: &Rc<Self>) -> StreamGuard {
        self.streams.set(self.streams.get() + 1);
        StreamGuard(Rc::clone(self))
    }

    /// Called by the connection's task after each poll, with what the server allows as far as it is known. The task is
    /// woken once for the first bytes: the SETTINGS.
    pub(super) fn record_poll(&self, allowed: usize, cx: &Context<'_>) {
        if self.heard.get() == 0 {
            *self.told.borrow_mut() = Some(cx.waker().clone());
        } else {
            self.allowed.set(allowed);
        }
    }

    /// Whether it takes requests, and has had no stream for less than `limit`.
    pub(super) fn is_lendable(&self, now: Ticks, limit: u32) -> bool {
        let idle = self.streams.get() == 0 && now.ticks_since(self.idle_since.get()) >= limit;
        !self.retired.get() && !idle
    }

    /// It takes no further request.
    pub(super) fn retire(&self) {
        self.retired.set(true);
    }

    /// Whether no request runs on it.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.get() == 0
    }

    /// When something was received the last time.
    pub(super) fn heard_at(&self) -> Ticks {
        self.heard_at.get()
    }

    fn record_received(&self) {
        self.heard.set(self.heard.get().wrapping_add(1));
        self.heard_at.set(self.waits.now());
        if let Some(told) = self.told.take() {
            told.wake();
        }
    }
}

/// One stream of a connection, until this is dropped.
pub(super) struct StreamGuard(Rc<SharedStreamState>);

impl StreamGuard {
    /// The state of its connection.
    pub(super) fn shared_state(&self) -> &Rc<SharedStreamState> {
        &self.0
    }

    /// How often something was received on the connection.
    pub(super) fn received_count(&self) -> u32 {
        self.0.heard.get()
    }

    /// The connection takes no further request.
    pub(super) fn retire(&self) {
        self.0.retire();
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.idle_since.set(self.0.waits.now());
    }
}

/// Counts how often something is received.
pub(super) struct ReceiveCounter<S> {
    pub(super) stream: S,
    pub(super) common: Rc<SharedStreamState>,
}

impl<S: AsyncRead + Unpin> AsyncRead for ReceiveCounter<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.common.record_received();
        }
        read
    }
}

passes_writes!(ReceiveCounter.stream);
