//! Bytes that tell when they are taken: a reader that takes a few at a time moves, though it asks for no further frame.
//!
//! HTTP libraries take a whole frame from a body and then send it in parts, as the reader's window allows. What is counted
//! are those parts. One worker's thread writes and reads the mark; hyper wants content that may be sent between threads.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Buf, Bytes};

use crate::clock::deadlines::{Ticks, WaitTable, WorkerTime};

/// When bytes were last taken.
pub(crate) struct TakenMark {
    time: Arc<WorkerTime>,
    at: AtomicU32,
}

impl TakenMark {
    /// None taken yet: it counts from now.
    pub(crate) fn new(waits: &WaitTable) -> Arc<Self> {
        Arc::new(Self { time: Arc::clone(waits.time()), at: AtomicU32::new(waits.now().0) })
    }

    /// When bytes were last taken.
    pub(crate) fn last(&self) -> Ticks {
        Ticks(self.at.load(Ordering::Relaxed))
    }

    /// Bytes are taken now.
    pub(crate) fn record(&self) {
        self.at.store(self.time.now().0, Ordering::Relaxed);
    }
}

/// The content of one frame.
pub(crate) struct CountedBytes {
    bytes: Bytes,
    mark: Option<Arc<TakenMark>>,
}

impl CountedBytes {
    /// Records in `mark` when they are taken.
    pub(crate) fn new(bytes: Bytes, mark: Option<Arc<TakenMark>>) -> Self {
        Self { bytes, mark }
    }

    fn record(&self, count: usize) {
        if let Some(mark) = self.mark.as_ref().filter(|_| count > 0) {
            mark.record();
        }
    }
}

impl Buf for CountedBytes {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }
    fn chunk(&self) -> &[u8] {
        &self.bytes
    }
    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(into)
    }
    fn advance(&mut self, count: usize) {
        self.record(count);
        self.bytes.advance(count);
    }
    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        self.record(count);
        self.bytes.copy_to_bytes(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_taken_move_the_mark_and_bytes_that_wait_do_not() {
        let waits = WaitTable::default();
        let mark = TakenMark::new(&waits);
        let mut counted = CountedBytes::new(Bytes::from_static(b"slowly read"), Some(Arc::clone(&mark)));
        waits.tick(Ticks(7));
        assert_eq!((counted.chunk(), mark.last()), (&b"slowly read"[..], Ticks(0)));
        counted.advance(0);
        assert_eq!(mark.last(), Ticks(0));
        counted.advance(6);
        assert_eq!((counted.chunk(), mark.last()), (&b" read"[..], Ticks(7)));
        waits.tick(Ticks(9));
        assert_eq!((counted.copy_to_bytes(5), mark.last()), (Bytes::from_static(b" read"), Ticks(9)));
    }
}
