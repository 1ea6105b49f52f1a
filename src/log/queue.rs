//! The bounded queue to the writer thread: a line that finds it full or closed is dropped and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::line::{LineStyle, LogFormat, MAX_LINE_BYTES};
use super::writer;

/// Lines that may wait for the writer thread; beyond it they are dropped and counted.
const MAX_QUEUED_LINES: usize = 4096;

/// The queue to the writer thread.
pub struct LogQueue {
    style: LineStyle,
    queue: SyncSender<Vec<u8>>,
    queued: AtomicU64,
    progress: Arc<writer::WriterProgress>,
}

impl LogQueue {
    /// Starts the writer thread on standard output. Logging never blocks a caller afterwards.
    ///
    /// Where the thread cannot be started every line counts as dropped.
    pub fn stdout(format: LogFormat) -> Arc<Self> {
        let (lines, receiver) = Self::with_style(LineStyle::for_stdout(format));
        writer::spawn_writer(receiver, Arc::clone(&lines.progress));
        lines
    }

    /// Into a channel, for tests and for `demo`: every line as it would be written, without its end.
    pub fn channel(format: LogFormat) -> (Arc<Self>, Receiver<Vec<u8>>) {
        Self::with_style(LineStyle { format, colour: false })
    }

    fn with_style(style: LineStyle) -> (Arc<Self>, Receiver<Vec<u8>>) {
        let (queue, receiver) = sync_channel(MAX_QUEUED_LINES);
        let progress = Arc::default();
        (Arc::new(Self { style, queue, queued: AtomicU64::new(0), progress }), receiver)
    }

    /// The format.
    pub fn format(&self) -> LogFormat {
        self.style.format
    }

    /// The format, and whether there are colours: what a [`super::LogLine`] is begun with.
    pub fn style(&self) -> LineStyle {
        self.style
    }

    /// Queues one line (without its end); at most 8 KiB are kept. Returns at once.
    ///
    /// A [`super::LogLine`] is short enough. Other text lines are cut; a JSON object cannot be cut, and counts as dropped.
    pub fn push(&self, mut line: Vec<u8>) {
        if line.len() > MAX_LINE_BYTES {
            if self.style.format == LogFormat::Json {
                self.progress.drop_lines(1);
                return;
            }
            line.truncate(MAX_LINE_BYTES);
        }
        if memchr::memchr2(b'\n', b'\r', &line).is_some() {
            for byte in line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
                *byte = b' ';
            }
        }
        if self.queue.try_send(line).is_ok() {
            self.queued.fetch_add(1, Ordering::Relaxed);
        } else {
            self.progress.drop_lines(1);
        }
    }

    /// Lines that were dropped.
    pub fn dropped(&self) -> u64 {
        self.progress.dropped()
    }

    /// Waits until everything queued is written, for at most a second; called at the end of the process.
    pub fn flush(&self) {
        self.progress.wait_for(self.queued.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_and_counts_and_never_waits() {
        let (lines, receiver) = LogQueue::channel(LogFormat::Text);
        for _ in 0..MAX_QUEUED_LINES + 3 {
            lines.push(b"x".to_vec());
        }
        assert_eq!(lines.dropped(), 3);
        drop(receiver);
        lines.push(b"x".to_vec());
        assert_eq!(lines.dropped(), 4);
    }

    #[test]
    fn a_pushed_line_stays_one_line_and_short() {
        let (lines, receiver) = LogQueue::channel(LogFormat::Text);
        lines.push(b"a\nb\rc".to_vec());
        lines.push(vec![b'x'; MAX_LINE_BYTES + 100]);
        assert_eq!(receiver.recv().unwrap(), b"a b c");
        assert_eq!(receiver.recv().unwrap().len(), MAX_LINE_BYTES);
        let (lines, receiver) = LogQueue::channel(LogFormat::Json);
        lines.push(vec![b'x'; MAX_LINE_BYTES + 1]);
        assert!(receiver.try_recv().is_err());
        assert_eq!(lines.dropped(), 1);
    }
}
