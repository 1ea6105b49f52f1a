//! The one thread that writes log lines, and the counts of written and dropped ones.
//!
//! Only this thread ever waits for the log's reader. A reader that is gone costs lines, never the process.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// After a batch the thread waits this long before it looks again: lines gather, and a caller that pushes one meanwhile
/// need not wake the thread.
const BATCH_DELAY: Duration = Duration::from_millis(5);
/// A descriptor that another process made non-blocking is tried again after this pause.
const WOULD_BLOCK_RETRY_DELAY: Duration = Duration::from_millis(5);
/// About how many bytes are written at once.
const BATCH_BYTES: usize = 64 * 1024;
/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How many lines were written, and how many dropped.
#[derive(Default)]
pub(super) struct WriterProgress {
    dropped: AtomicU64,
    /// Lines taken from the queue, and written or lost.
    done: Mutex<u64>,
    changed: Condvar,
}

impl WriterProgress {
    pub(super) fn drop_lines(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until `queued` lines are done, for at most a second.
    pub(super) fn wait_for(&self, queued: u64) {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.changed.wait_timeout_while(done, FLUSH_TIMEOUT, |done| *done < queued);
    }

    fn add_finished(&self, lines: u64) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) += lines;
        self.changed.notify_all();
    }
}

/// Starts the thread on standard output. It ends when the last sender is gone.
pub(super) fn spawn_writer(queue: Receiver<Vec<u8>>, progress: Arc<WriterProgress>) {
    // Its own descriptor: no line buffering, and no lock that a `println` could hold.
    let Ok(out) = std::io::stdout().as_fd().try_clone_to_owned() else { return };
    let run = move || write_lines(&queue, File::from(out), &progress);
    // Without the thread the queue is closed, and every line counts as dropped.
    drop(thread::Builder::new().name("log".to_owned()).spawn(run));
}

fn write_lines(queue: &Receiver<Vec<u8>>, mut out: impl Write, progress: &WriterProgress) {
    let mut batch = Vec::with_capacity(BATCH_BYTES);
    // The last write stopped inside a line: the next one begins with an end of line.
    let mut torn = false;
    while let Ok(lines) = collect_batch(queue, &mut batch, torn) {
        let written = write_whole(&mut out, &batch);
        let lost = &batch[written..];
        progress.drop_lines(memchr::memchr_iter(b'\n', lost).count() as u64);
        torn = if written == 0 { torn } else { batch[written - 1] != b'\n' };
        progress.add_finished(lines);
        pause(BATCH_DELAY);
    }
}

/// Waits for a line, then takes what else is queued. Returns how many lines `batch` holds.
fn collect_batch(queue: &Receiver<Vec<u8>>, batch: &mut Vec<u8>, torn: bool) -> Result<u64, RecvError> {
    batch.clear();
    let mut next = Some(queue.recv()?);
    if torn {
        batch.push(b'\n');
    }
    let mut lines = 0;
    while let Some(line) = next {
        batch.extend_from_slice(&line);
        batch.push(b'\n');
        lines += 1;
        next = if batch.len() < BATCH_BYTES { queue.try_recv().ok() } else { None };
    }
    Ok(lines)
}

/// Writes as many bytes as the output accepts, and returns how many.
fn write_whole(out: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => break,
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => pause(WOULD_BLOCK_RETRY_DELAY),
            Err(_) => break,
        }
    }
    written
}

#[expect(clippy::disallowed_methods, reason = "this thread exists to wait, so that no other one does")]
fn pause(pause: Duration) {
    thread::sleep(pause);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    /// Takes `room` bytes, then is closed; opened again it takes everything.
    struct FailingPipe<'a> {
        taken: &'a mut Vec<u8>,
        room: usize,
        closed_once: bool,
    }

    impl Write for FailingPipe<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.room == 0 && !self.closed_once {
                self.closed_once = true;
                self.room = usize::MAX;
                return Err(ErrorKind::BrokenPipe.into());
            }
            let some = bytes.len().min(self.room);
            self.room -= some;
            self.taken.extend_from_slice(&bytes[..some]);
            Ok(some)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_in_order_with_their_ends() {
        let (sender, receiver) = sync_channel(10);
        let progress = WriterProgress::default();
        for line in ["a", "b", "c"] {
            sender.send(line.as_bytes().to_vec()).unwrap();
        }
        drop(sender);
        let mut out = Vec::new();
        write_lines(&receiver, &mut out, &progress);
        assert_eq!(out, b"a\nb\nc\n");
        assert_eq!(progress.dropped(), 0);
        progress.wait_for(3);
    }

    #[test]
    fn a_closed_reader_costs_lines_and_nothing_else() {
        let (sender, receiver) = sync_channel(10);
        let progress = WriterProgress::default();
        let mut taken = Vec::new();
        let pipe = FailingPipe { taken: &mut taken, room: 6, closed_once: false };
        // The first batch is larger than the room, the last line comes in a batch of its own.
        sender.send(b"1234".to_vec()).unwrap();
        sender.send(vec![b'x'; BATCH_BYTES]).unwrap();
        sender.send(b"5678".to_vec()).unwrap();
        drop(sender);
        write_lines(&receiver, pipe, &progress);
        assert_eq!(taken, b"1234\nx\n5678\n");
        assert_eq!(progress.dropped(), 1);
    }
}
