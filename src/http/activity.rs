//! What a served stream records for the worker's tick and for bodies: whether bytes come, whether what we write is read,
//! whether the other side has ended its sending, and when its last PING came.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Waker};

use crate::clock::deadlines::Ticks;

/// What a stream records. All relaxed: one thread writes and reads.
#[derive(Debug, Default)]
pub(crate) struct StreamActivity {
    heard: AtomicBool,
    blocked: AtomicBool,
    written: AtomicBool,
    late: AtomicBool,
    /// The stream with a header block that has begun and is not complete; 0 if none has.
    block: AtomicU32,
    /// A request is being answered.
    answering: AtomicBool,
    /// The other side has ended its sending.
    ended: AtomicBool,
    /// The reader that learns of that end once the request has been answered. `Sync` as hyper wants it; never contended.
    learns: Mutex<Option<Waker>>,
    /// When the last PING came, in ticks.
    pinged: AtomicU32,
}

impl StreamActivity {
    /// Whether bytes have arrived since the last reset.
    pub(crate) fn has_received(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// A request has ended: what comes from now on belongs to the next one.
    pub(crate) fn forget_received(&self) {
        self.heard.store(false, Ordering::Relaxed);
    }

    /// Whether the last write could not be made.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Whether any byte was written since this was asked last, while others could not be.
    pub(crate) fn take_written(&self) -> bool {
        self.written.swap(false, Ordering::Relaxed)
    }

    /// The next read is answered with 408 and the end.
    pub(crate) fn set_late(&self) {
        self.late.store(true, Ordering::Relaxed);
    }

    /// Whether this read is the one to be answered with 408.
    pub(crate) fn take_late(&self) -> bool {
        self.late.load(Ordering::Relaxed) && self.late.swap(false, Ordering::Relaxed)
    }

    /// The stream with a header block that has begun and is not complete (HTTP/2).
    pub(crate) fn open_block(&self) -> Option<u32> {
        Some(self.block.load(Ordering::Relaxed)).filter(|stream| *stream != 0)
    }

    /// Records that stream.
    pub(crate) fn set_open_block(&self, stream: Option<u32>) {
        self.block.store(stream.unwrap_or(0), Ordering::Relaxed);
    }

    /// Whether a request is being answered.
    pub(crate) fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed)
    }

    /// Records whether a request is being answered.
    pub(crate) fn set_answering(&self, answering: bool) {
        self.answering.store(answering, Ordering::Relaxed);
        if !answering
            && self.has_ended()
            && let Some(waker) = self.learns.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            waker.wake();
        }
    }

    /// Wakes this reader once no request is being answered.
    pub(crate) fn await_answer(&self, cx: &Context<'_>) {
        *self.learns.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
    }

    /// Whether the other side has ended its sending.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Records that the other side has ended its sending.
    pub(crate) fn set_ended(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// When the last PING came (HTTP/2); the worker's start if none has.
    pub(crate) fn last_ping(&self) -> Ticks {
        Ticks(self.pinged.load(Ordering::Relaxed))
    }

    /// Records a PING.
    pub(crate) fn record_ping(&self, now: Ticks) {
        self.pinged.store(now.0, Ordering::Relaxed);
    }

    /// Records that bytes have arrived.
    pub(crate) fn set_received(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Records that a write could not be made.
    pub(crate) fn set_blocked(&self) {
        self.blocked.store(true, Ordering::Relaxed);
    }

    /// Records that everything could be written again.
    pub(crate) fn clear_blocked(&self) {
        self.blocked.store(false, Ordering::Relaxed);
    }

    /// Records that bytes were written while others could not be.
    pub(crate) fn set_written(&self) {
        self.written.store(true, Ordering::Relaxed);
    }
}
