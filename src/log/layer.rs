//! `tracing` events → lines: the same shape and the same escaping as every other line.
//!
//! Messages are constant strings and values are fields, so spans add nothing that an event lacks: they are not shown.

use std::fmt;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::line::LogLine;
use super::queue::LogQueue;
use crate::clock::Clock;

/// The layer.
pub(super) struct LineLayer {
    lines: Arc<LogQueue>,
    clock: Clock,
}

impl LineLayer {
    pub(super) fn new(lines: Arc<LogQueue>) -> Self {
        Self { lines, clock: Clock::system() }
    }
}

impl<S: Subscriber> Layer<S> for LineLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut line =
            LogLine::new(self.lines.style(), self.clock.now(), *metadata.level(), target_area(metadata.target()));
        // The message comes first, wherever it stands among the fields.
        event.record(&mut FieldVisitor { line: &mut line, message: true });
        event.record(&mut FieldVisitor { line: &mut line, message: false });
        self.lines.push(line.finish());
    }
}

/// The area's name where the target is one of our modules.
fn target_area(target: &str) -> &str {
    match target.strip_prefix("sidekey::") {
        Some(path) => path.split("::").next().unwrap_or(path),
        None => target,
    }
}

/// Adds either the message, or every other field.
struct FieldVisitor<'a> {
    line: &'a mut LogLine,
    message: bool,
}

impl FieldVisitor<'_> {
    fn is_wanted(&self, field: &Field) -> bool {
        self.message == (field.name() == "message")
    }
}

impl Visit for FieldVisitor<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if self.is_wanted(field) {
            self.line.number(field.name(), value);
        }
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        if self.is_wanted(field) {
            self.line.number(field.name(), value);
        }
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        if self.is_wanted(field) {
            self.line.flag(field.name(), value);
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.is_wanted(field) {
            if self.message {
                self.line.message(value);
            } else {
                self.line.text(field.name(), value);
            }
        }
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.is_wanted(field) {
            self.record_str(field, &format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LogFormat;
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn events_become_lines_with_their_message_first() {
        let (lines, receiver) = LogQueue::channel(LogFormat::Text);
        let subscriber = tracing_subscriber::registry().with(LineLayer::new(lines));
        tracing::subscriber::with_default(subscriber, || {
            let error = "no\nroute forged=1";
            tracing::warn!(target: "folder", error = %error, count = 3, whole = true, "cannot watch");
            tracing::info!("from this module");
        });
        let line = String::from_utf8(receiver.recv().unwrap()).unwrap();
        assert!(
            line.ends_with(r#" WARN folder cannot watch error="no\\u{a}route forged=1" count=3 whole=true"#),
            "{line}"
        );
        let line = String::from_utf8(receiver.recv().unwrap()).unwrap();
        assert!(line.ends_with(" INFO log from this module"), "{line}");
    }
}
