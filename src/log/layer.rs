//! `tracing` events → lines: the same shape and the same escaping as every other line.
//!
//! Messages are constant strings and values are fields, so spans add nothing that an event lacks: they are not shown.

use std::fmt;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::{Line, Lines};
use crate::clock::Clock;

/// The layer.
pub(super) struct ToLines {
    lines: Arc<Lines>,
    clock: Clock,
}

impl ToLines {
    pub(super) fn new(lines: Arc<Lines>) -> Self {
        Self { lines, clock: Clock::system() }
    }
}

impl<S: Subscriber> Layer<S> for ToLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut line = Line::new(self.lines.style(), self.clock.now(), *metadata.level(), area(metadata.target()));
        // The message comes first, wherever it stands among the fields.
        event.record(&mut Part { line: &mut line, message: true });
        event.record(&mut Part { line: &mut line, message: false });
        self.lines.push(line.finish());
    }
}

/// The area's name where the target is one of our modules.
fn area(target: &str) -> &str {
    match target.strip_prefix("sidekey::") {
        Some(path) => path.split("::").next().unwrap_or(path),
        None => target,
    }
}

/// Adds either the message, or every other field.
struct Part<'a> {
    line: &'a mut Line,
    message: bool,
}

impl Part<'_> {
    fn wants(&self, field: &Field) -> bool {
        self.message == (field.name() == "message")
    }
}

impl Visit for Part<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if self.wants(field) {
            self.line.number(field.name(), value);
        }
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        if self.wants(field) {
            self.line.number(field.name(), value);
        }
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        if self.wants(field) {
            self.line.flag(field.name(), value);
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.wants(field) {
            if self.message {
                self.line.message(value);
            } else {
                self.line.text(field.name(), value);
            }
        }
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.wants(field) {
            self.record_str(field, &format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn events_become_lines_with_their_message_first() {
        let (lines, receiver) = Lines::channel(Format::Text);
        let subscriber = tracing_subscriber::registry().with(ToLines::new(lines));
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
