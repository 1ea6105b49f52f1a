//! Log lines: formatted by the thread that has them, handed to one writer thread through a bounded queue.
//!
//! Full or closed: dropped and counted. No path ever waits for a log reader.

use std::sync::Arc;

/// Text for people or JSON for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One readable line.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Settings of `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `format`; `None`: text on a terminal, JSON otherwise.
    pub format: Option<Format>,
    /// `level`, a tracing filter.
    pub level: String,
    /// `access`.
    pub access: bool,
    /// `handshakes`.
    pub handshakes: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { format: None, level: "info".to_owned(), access: true, handshakes: true }
    }
}

/// The queue to the writer thread.
pub struct Lines {
    _todo: (),
}

impl Lines {
    /// Starts the writer thread on standard output. Never blocks a caller afterwards.
    pub fn stdout(format: Format) -> Arc<Self> {
        let _ = format;
        todo!()
    }
    /// Into a channel, for tests and for `demo`: every line as it would be written.
    pub fn channel(format: Format) -> (Arc<Self>, std::sync::mpsc::Receiver<Vec<u8>>) {
        let _ = format;
        todo!()
    }
    /// The format.
    pub fn format(&self) -> Format {
        todo!()
    }
    /// Queues one line (without its end); at most 8 KiB are kept. Returns at once.
    pub fn push(&self, line: Vec<u8>) {
        let _ = line;
        todo!()
    }
    /// Lines that were dropped.
    pub fn dropped(&self) -> u64 {
        todo!()
    }
    /// Waits until everything queued is written, or a second has passed: the end of the process.
    pub fn flush(&self) {
        todo!()
    }
}

/// Makes `lines` where `tracing` events go, in the same format, with the same escaping.
pub fn install(lines: Arc<Lines>, settings: &Settings) {
    let _ = (lines, settings);
    todo!()
}
