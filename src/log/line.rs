//! One log line: a time, a level, a target and fields, as JSON or as text.
//!
//! Whatever a value holds, it can neither break the line nor forge a field: it is made printable, then quoted. A line
//! is at most [`LIMIT`] bytes; where something must go, values are cut (with `…`), never the line, so that JSON stays JSON.

use std::fmt::Write as _;
use std::io::IsTerminal;

use jiff::Timestamp;
use tracing::Level;

use super::Format;
use crate::pki::printable;

/// Bytes of a line, at most.
pub const LIMIT: usize = 8 * 1024;
/// Bytes of one value, at most.
const VALUE_LIMIT: usize = 1024;
/// Bytes of a list, at most, in text.
const LIST_LIMIT: usize = 4 * 1024;
/// The longest end of a line.
const END: &str = ",\"truncated\":true}";

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Text or JSON.
    pub format: Format,
    /// Whether level and outcome are coloured: only ever in text on a terminal.
    pub colour: bool,
}

impl Style {
    /// Of standard output; `NO_COLOR` and a dumb terminal are respected.
    pub fn of_stdout(format: Format) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let able = std::env::var_os("TERM").is_none_or(|value| value != "dumb");
        Self { format, colour: format == Format::Text && wanted && able && std::io::stdout().is_terminal() }
    }
}

/// The colours that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Bad.
    Red,
    /// Fine.
    Green,
    /// Look at it.
    Yellow,
    /// Details.
    Blue,
}

impl Colour {
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
pub struct Line {
    style: Style,
    out: String,
    truncated: bool,
}

impl Line {
    /// Begins a line.
    pub fn new(style: Style, time: Timestamp, level: Level, target: &str) -> Self {
        let mut line = Self { style, out: String::with_capacity(512), truncated: false };
        match style.format {
            Format::Json => {
                let level = level.as_str().to_ascii_lowercase();
                // Writing to a `String` cannot fail.
                let _ = write!(line.out, "{{\"time\":\"{time:.6}\",\"level\":\"{level}\"");
                line.text("target", target);
            }
            Format::Text => {
                let _ = write!(line.out, "{time:.3} ");
                line.coloured(&format!("{:>5}", level.as_str()), colour_of(level));
                line.word(target);
            }
        }
        line
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.style.format
    }

    /// The message: a constant string. In text it stands bare, unless it could pass for a field.
    pub fn message(&mut self, message: &str) -> &mut Self {
        match self.style.format {
            Format::Json => return self.text("message", message),
            Format::Text if message.contains(['=', '"', '\\']) => return self.quoted(message),
            Format::Text => {}
        }
        let (message, cut) = escaped(message, VALUE_LIMIT.min(self.room()));
        self.truncated |= cut;
        self.out.push(' ');
        self.out.push_str(&message);
        self
    }

    /// A field that is text.
    pub fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.value(name, value, VALUE_LIMIT)
    }

    /// A field that is text, if it is known.
    pub fn maybe(&mut self, name: &str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// A field that is a whole number.
    pub fn number(&mut self, name: &str, value: impl std::fmt::Display) -> &mut Self {
        self.bare(name, &value.to_string())
    }

    /// A field that is true or false.
    pub fn flag(&mut self, name: &str, value: bool) -> &mut Self {
        self.bare(name, if value { "true" } else { "false" })
    }

    /// A field that is a list, unless it is empty: an array in JSON, joined with `; ` in text.
    pub fn list<T: AsRef<str>>(&mut self, name: &str, values: &[T]) -> &mut Self {
        if values.is_empty() {
            return self;
        }
        if self.style.format == Format::Text {
            let all: Vec<&str> = values.iter().map(AsRef::as_ref).collect();
            return self.value(name, &all.join("; "), LIST_LIMIT);
        }
        if !self.begin(name, 2) {
            return self;
        }
        self.out.push('[');
        for (index, value) in values.iter().enumerate() {
            // A comma, two quotes and the bracket at the end.
            let room = self.room().saturating_sub(4).min(VALUE_LIMIT);
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
        self.out.push(' ');
        if is_bare(word) {
            self.out.push_str(word);
        } else {
            self.push_quoted(word, VALUE_LIMIT.min(self.room()));
        }
        self
    }

    /// Text only: a sentence without a name, always quoted.
    pub fn quoted(&mut self, sentence: &str) -> &mut Self {
        self.out.push(' ');
        self.push_quoted(sentence, VALUE_LIMIT.min(self.room()));
        self
    }

    /// Text only: a remark in parentheses, about the field before it; names in it come from the configuration.
    pub fn aside(&mut self, remark: &str) -> &mut Self {
        let (remark, cut) = escaped(remark, VALUE_LIMIT.min(self.room()));
        self.truncated |= cut;
        self.out.extend([" (", &remark, ")"]);
        self
    }

    /// Text only: a constant word, coloured on a terminal. Blanks around it stay.
    pub fn coloured(&mut self, word: &str, colour: Colour) -> &mut Self {
        if !self.out.ends_with(' ') {
            self.out.push(' ');
        }
        if self.style.colour {
            let _ = write!(self.out, "\u{1b}[{}m{word}\u{1b}[0m", colour.code());
        } else {
            self.out.push_str(word);
        }
        self
    }

    /// The line, without its end.
    pub fn finish(mut self) -> Vec<u8> {
        match (self.style.format, self.truncated) {
            (Format::Json, true) => self.out.push_str(END),
            (Format::Json, false) => self.out.push('}'),
            (Format::Text, true) => self.out.push_str(" truncated"),
            (Format::Text, false) => {}
        }
        self.out.into_bytes()
    }

    /// Bytes that are left.
    fn room(&self) -> usize {
        LIMIT.saturating_sub(self.out.len() + END.len())
    }

    /// Writes the name if name and `value_size` bytes fit.
    fn begin(&mut self, name: &str, value_size: usize) -> bool {
        // Comma, two quotes and a colon are the most that comes with a name.
        if self.room() < name.len() + 4 + value_size {
            self.truncated = true;
            return false;
        }
        match self.style.format {
            Format::Json => self.out.extend([",\"", name, "\":"]),
            Format::Text => self.out.extend([" ", name, "="]),
        }
        true
    }

    fn bare(&mut self, name: &str, value: &str) -> &mut Self {
        if self.begin(name, value.len()) {
            self.out.push_str(value);
        }
        self
    }

    fn value(&mut self, name: &str, value: &str, limit: usize) -> &mut Self {
        // A value cut shorter than this is useless.
        if self.begin(name, value.len().min(32)) {
            let room = self.room().saturating_sub(2).min(limit);
            if self.style.format == Format::Text && value.len() <= room && is_bare(value) {
                self.out.push_str(value);
            } else {
                self.push_quoted(value, room);
            }
        }
        self
    }

    fn push_quoted(&mut self, value: &str, limit: usize) {
        let (value, cut) = escaped(value, limit);
        self.truncated |= cut;
        self.out.push('"');
        self.out.push_str(&value);
        self.out.push('"');
    }
}

/// The colour of a level.
fn colour_of(level: Level) -> Colour {
    match level {
        Level::ERROR => Colour::Red,
        Level::WARN => Colour::Yellow,
        Level::INFO => Colour::Green,
        _ => Colour::Blue,
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
fn escaped(value: &str, limit: usize) -> (String, bool) {
    let head = &value[..value.floor_char_boundary(limit)];
    let mut cut = head.len() < value.len();
    if !cut && head.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
        return (head.to_owned(), false);
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
    (out, cut)
}

#[cfg(test)]
mod tests;
