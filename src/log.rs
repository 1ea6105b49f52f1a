//! Log lines: formatted by the thread that logs them, handed to one writer thread through a bounded queue.
//!
//! Full or closed: lines are dropped and counted. Nothing ever waits for a log reader. The format, and why no
//! value can break a line or forge a field, is in `line`; the other rooms decide which lines there are.

mod layer;
pub mod line;
mod queue;
mod writer;

use std::io::IsTerminal;
use std::sync::Arc;

pub use line::{LineStyle, LogFormat, LogLine, MAX_LINE_BYTES};
pub use queue::LogQueue;
pub use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};

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
}
