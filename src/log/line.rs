//! One log line: a time, a level, a target and fields, as JSON or as text.
//!
//! Whatever a value holds, it can neither break the line nor forge a field: it is made printable, then quoted. A line
//! is at most [`MAX_LINE_BYTES`] bytes; where something must go, values are cut (with `…`), never the line, so that JSON stays JSON.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::IsTerminal;

use jiff::Timestamp;
use tracing::Level;

use crate::pki::printable;

/// Bytes of a line, at most.
pub const MAX_LINE_BYTES: usize = 8 * 1024;
/// Bytes of one value, at most.
const MAX_VALUE_BYTES: usize = 1024;
/// Bytes of a list, at most, in text.
const MAX_LIST_BYTES: usize = 4 * 1024;
/// Of a value at least so many bytes must fit: a beginning that is shorter is useless.
const MIN_VALUE_BYTES: usize = 32;
/// Two quotes around a value.
const QUOTES: usize = 2;
/// The longest end of a line.
const TRUNCATED_LINE_END: &str = ",\"truncated\":true}";

/// Text for people or JSON for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineStyle {
    /// Text or JSON.
    pub format: LogFormat,
    /// Whether level and outcome are coloured: only ever in text on a terminal.
    pub colour: bool,
}

impl LineStyle {
    /// Of standard output; `NO_COLOR` and a dumb terminal are respected.
    pub fn for_stdout(format: LogFormat) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let able = std::env::var_os("TERM").is_none_or(|value| value != "dumb");
        Self { format, colour: format == LogFormat::Text && wanted && able && std::io::stdout().is_terminal() }
    }
}

/// The colours that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineColour {
    /// Bad.
    Red,
    /// Fine.
    Green,
    /// Look at it.
    Yellow,
    /// Details.
    Blue,
}

impl LineColour {
    const fn code(self) -> u8 {
        match self {
            Self::Red => 31,
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Blue => 34,
        }
    }
}

/// A log line under construction. Fields stand in the order in which they are added.
#[derive(Debug)]
pub struct LogLine {
    style: LineStyle,
    out: String,
    truncated: bool,
}

impl LogLine {
    /// Begins a line.
    pub fn new(style: LineStyle, time: Timestamp, level: Level, target: &str) -> Self {
        let mut line = Self { style, out: String::with_capacity(512), truncated: false };
        match style.format {
            LogFormat::Json => {
                let level = level.as_str().to_ascii_lowercase();
                // Writing to a `String` cannot fail.
                let _ = write!(line.out, "{{\"time\":\"{time:.6}\",\"level\":\"{level}\"");
                line.text("target", target);
            }
            LogFormat::Text => {
                let _ = write!(line.out, "{time:.3} ");
                line.coloured_word(&format!("{:>5}", level.as_str()), level_colour(level));
                line.word(target);
            }
        }
        line
    }

    /// The format.
    pub fn format(&self) -> LogFormat {
        self.style.format
    }

    /// The message: a constant string. In text it stands bare, unless it could pass for a field.
    pub fn message(&mut self, message: &str) -> &mut Self {
        match self.style.format {
            LogFormat::Json => return self.text("message", message),
            LogFormat::Text if message.contains(['=', '"', '\\']) => return self.quoted_text(message),
            LogFormat::Text => {}
        }
        if self.reserve_bytes(1 + min_size(message)) {
            let (message, cut) = escape_value(message, MAX_VALUE_BYTES.min(self.remaining_bytes() - 1));
            self.truncated |= cut;
            self.out.extend([" ", &message]);
        }
        self
    }

    /// A field that is text.
    pub fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.text_field(name, value, MAX_VALUE_BYTES)
    }

    /// A field that is text, if it is known.
    pub fn optional_text(&mut self, name: &str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// A field that is a whole number.
    pub fn number(&mut self, name: &str, value: impl std::fmt::Display) -> &mut Self {
        self.bare_field(name, &value.to_string())
    }

    /// A field that is true or false.
    pub fn flag(&mut self, name: &str, value: bool) -> &mut Self {
        self.bare_field(name, if value { "true" } else { "false" })
    }

    /// A field that is a list, unless it is empty: an array in JSON, joined with `; ` in text.
    pub fn list<T: AsRef<str>>(&mut self, name: &str, values: &[T]) -> &mut Self {
        if values.is_empty() {
            return self;
        }
        if self.style.format == LogFormat::Text {
            let all: Vec<&str> = values.iter().map(AsRef::as_ref).collect();
            return self.text_field(name, &all.join("; "), MAX_LIST_BYTES);
        }
        if !self.begin_field(name, 2) {
            return self;
        }
        self.out.push('[');
        for (index, value) in values.iter().enumerate() {
            // A comma, two quotes and the bracket at the end.
            let room = self.remaining_bytes().saturating_sub(4).min(MAX_VALUE_BYTES);
            if room < 16 {
                self.truncated = true;
                break;
            }
            if index > 0 {
                self.out.push(',');
            }
            self.push_quoted(value.as_ref(), room);
        }
        self.out.push(']');
        self
    }

    /// Text only: a word without a name, quoted where it could be taken for more than one.
    pub fn word(&mut self, word: &str) -> &mut Self {
        if !(is_bare(word) && word.len() <= MAX_VALUE_BYTES) {
            return self.quoted_text(word);
        }
        if self.reserve_bytes(1 + word.len()) {
            self.out.extend([" ", word]);
        }
        self
    }

    /// Text only: a sentence without a name, always quoted.
    pub fn quoted_text(&mut self, sentence: &str) -> &mut Self {
        if self.reserve_bytes(1 + QUOTES + min_size(sentence)) {
            self.out.push(' ');
            self.push_quoted(sentence, MAX_VALUE_BYTES.min(self.remaining_bytes() - QUOTES));
        }
        self
    }

    /// Text only: a remark in parentheses, about the field before it; names in it come from the configuration.
    pub fn remark(&mut self, remark: &str) -> &mut Self {
        if self.reserve_bytes(3 + min_size(remark)) {
            let (remark, cut) = escape_value(remark, MAX_VALUE_BYTES.min(self.remaining_bytes() - 3));
            self.truncated |= cut;
            self.out.extend([" (", &remark, ")"]);
        }
        self
    }

    /// Text only: a constant word, coloured on a terminal. Blanks around it stay.
    pub fn coloured_word(&mut self, word: &str, colour: LineColour) -> &mut Self {
        let gap = if self.out.ends_with(' ') { "" } else { " " };
        let (begin, end) =
            if self.style.colour { (format!("\u{1b}[{}m", colour.code()), "\u{1b}[0m") } else { (String::new(), "") };
        let parts = [gap, &begin, word, end];
        if self.reserve_bytes(parts.iter().map(|part| part.len()).sum()) {
            self.out.extend(parts);
        }
        self
    }

    /// The line, without its end.
    pub fn finish(mut self) -> Vec<u8> {
        match (self.style.format, self.truncated) {
            (LogFormat::Json, true) => self.out.push_str(TRUNCATED_LINE_END),
            (LogFormat::Json, false) => self.out.push('}'),
            (LogFormat::Text, true) => self.out.push_str(" truncated"),
            (LogFormat::Text, false) => {}
        }
        self.out.into_bytes()
    }

    /// Bytes that are left.
    fn remaining_bytes(&self) -> usize {
        MAX_LINE_BYTES.saturating_sub(self.out.len() + TRUNCATED_LINE_END.len())
    }

    /// Whether so many bytes fit; if not, the line will say that something is missing.
    fn reserve_bytes(&mut self, size: usize) -> bool {
        let fits = size <= self.remaining_bytes();
        self.truncated |= !fits;
        fits
    }

    /// Writes the name if name and `value_size` bytes fit.
    fn begin_field(&mut self, name: &str, value_size: usize) -> bool {
        // Comma, two quotes and a colon are the most that comes with a name.
        if !self.reserve_bytes(name.len() + 4 + value_size) {
            return false;
        }
        match self.style.format {
            LogFormat::Json => self.out.extend([",\"", name, "\":"]),
            LogFormat::Text => self.out.extend([" ", name, "="]),
        }
        true
    }

    fn bare_field(&mut self, name: &str, value: &str) -> &mut Self {
        if self.begin_field(name, value.len()) {
            self.out.push_str(value);
        }
        self
    }

    fn text_field(&mut self, name: &str, value: &str, limit: usize) -> &mut Self {
        if self.begin_field(name, QUOTES + min_size(value)) {
            let room = (self.remaining_bytes() - QUOTES).min(limit);
            if self.style.format == LogFormat::Text && value.len() <= room && is_bare(value) {
                self.out.push_str(value);
            } else {
                self.push_quoted(value, room);
            }
        }
        self
    }

    fn push_quoted(&mut self, value: &str, limit: usize) {
        let (value, cut) = escape_value(value, limit);
        self.truncated |= cut;
        self.out.push('"');
        self.out.push_str(&value);
        self.out.push('"');
    }
}

/// What a value needs at least, without quotes.
fn min_size(value: &str) -> usize {
    value.len().min(MIN_VALUE_BYTES)
}

/// The colour of a level.
fn level_colour(level: Level) -> LineColour {
    match level {
        Level::ERROR => LineColour::Red,
        Level::WARN => LineColour::Yellow,
        Level::INFO => LineColour::Green,
        _ => LineColour::Blue,
    }
}

/// Whether a value may stand without quotes: only then can no blank of whatever script divide it.
fn is_bare(value: &str) -> bool {
    !value.is_empty()
        && !value.starts_with('(')
        && value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

/// Printable, quotes and backslashes escaped (the same way in JSON and in text), at most `limit` bytes; and whether
/// something was cut.
fn escape_value(value: &str, limit: usize) -> (Cow<'_, str>, bool) {
    let head = &value[..value.floor_char_boundary(limit)];
    let mut cut = head.len() < value.len();
    if !cut && head.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
        return (Cow::Borrowed(head), false);
    }
    let mut out = String::with_capacity(head.len() + 8);
    // Room for the ellipsis, which is three bytes.
    let mut keep = 0;
    for c in printable(head).chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
        if out.len() + 3 <= limit {
            keep = out.len();
        }
        if out.len() > limit {
            cut = true;
            break;
        }
    }
    if cut {
        out.truncate(keep);
        if limit >= 3 {
            out.push('…');
        }
    }
    (Cow::Owned(out), cut)
}

#[cfg(test)]
mod tests;
