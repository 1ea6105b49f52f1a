//! Log lines: formatted by the thread that logs them, handed to one writer thread through a bounded queue.
//!
//! Full or closed: lines are dropped and counted. Nothing ever waits for a log reader. The format, and why no
//! value can break a line or forge a field, is in `line`; the other rooms decide which lines there are.

mod layer;
pub mod line;
mod writer;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

pub use line::{LineStyle, LogLine, MAX_LINE_BYTES};
pub use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};

/// Lines that may wait for the writer thread; beyond it they are dropped and counted.
const MAX_QUEUED_LINES: usize = 4096;

/// Text for people or JSON for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Settings of `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `format`; `None`: text on a terminal, JSON otherwise.
    pub format: Option<LogFormat>,
    /// `level`, a tracing filter: `info`, or `info,handshake=debug`.
    pub level: String,
    /// `access`.
    pub access: bool,
    /// `handshakes`.
    pub handshakes: bool,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: None, level: "info".to_owned(), access: true, handshakes: true }
    }
}

impl LogSettings {
    /// The format to use: what the settings say, else text on a terminal and JSON otherwise.
    pub fn resolved_format(&self) -> LogFormat {
        let terminal = || std::io::stdout().is_terminal();
        self.format.unwrap_or_else(|| if terminal() { LogFormat::Text } else { LogFormat::Json })
    }
}

/// A log that cannot be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// `level` is not a valid filter.
    #[error(
        "unknown log level {level:?}: use off, error, warn, info, debug or trace, \
         or add targets, as in \"info,handshake=debug\""
    )]
    Level {
        /// The configured value.
        level: String,
    },
    /// Another subscriber was installed before: the events of `tracing` go there.
    #[error("another tracing subscriber is already installed")]
    Installed,
}

/// Which lines are written: a level, and levels for single targets.
#[derive(Clone, Debug)]
pub struct LogFilter(Targets);

impl LogFilter {
    /// Reads `level` of the settings.
    ///
    /// `Targets` reads a misspelt level as the name of a target and then logs nothing, so each part is checked here.
    pub fn parse(level: &str) -> Result<Self, LogError> {
        let unknown = || LogError::Level { level: level.to_owned() };
        for part in level.split(',') {
            let (target, part_level) = part.rsplit_once('=').unwrap_or(("-", part));
            let part_level = part_level.trim();
            // An empty level parses too, as error.
            if target.is_empty() || part_level.is_empty() || part_level.parse::<LevelFilter>().is_err() {
                return Err(unknown());
            }
        }
        let tidy: String = level.chars().filter(|c| !c.is_whitespace()).collect();
        tidy.parse().map(Self).map_err(|_| unknown())
    }

    /// Whether a line of this target and level is written.
    pub fn enabled(&self, target: &str, level: Level) -> bool {
        self.0.would_enable(target, &level)
    }
}

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

    /// The format, and whether there are colours: what a [`Line`] is begun with.
    pub fn style(&self) -> LineStyle {
        self.style
    }

    /// Queues one line (without its end); at most 8 KiB are kept. Returns at once.
    ///
    /// A [`Line`] is short enough. Other text lines are cut; a JSON object cannot be cut, and counts as dropped.
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

/// Makes `lines` where `tracing` events go, in the same format, with the same escaping.
///
/// # Errors
/// An unknown level, or a subscriber that was installed before.
pub fn install(lines: Arc<LogQueue>, settings: &LogSettings) -> Result<(), LogError> {
    let filter = LogFilter::parse(&settings.level)?;
    let subscriber = tracing_subscriber::registry().with(layer::LineLayer::new(lines).with_filter(filter.0));
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Installed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_an_error() {
        for bad in ["inof", "", "info,", "info,handshake=loud", "=debug", "info;debug", "handshake"] {
            assert!(LogFilter::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_level_may_differ_for_single_targets() {
        let filter = LogFilter::parse("WARN, handshake=debug").unwrap();
        assert!(filter.enabled("handshake", Level::DEBUG));
        assert!(!filter.enabled("keyring", Level::INFO));
        assert!(filter.enabled("keyring", Level::WARN));
    }

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
