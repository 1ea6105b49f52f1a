//! What a served stream records for the worker's tick: whether bytes come, and whether what we write is read.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// What a stream records. All relaxed: one thread writes and reads.
#[derive(Debug, Default)]
pub(crate) struct StreamActivity {
    heard: AtomicBool,
    blocked: AtomicBool,
    written: AtomicBool,
    late: AtomicBool,
    /// The stream with a header block that has begun and is not complete; 0 if none has.
    block: AtomicU32,
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
