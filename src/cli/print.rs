//! Printing: data to standard output, messages to standard error. The only file that may.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Standard output is closed: its reader has gone.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// One line of data.
pub(super) fn line(text: &str) {
    // A closed pipe (`| head`) must not panic: its reader has gone.
    if writeln!(std::io::stdout().lock(), "{text}").is_err() {
        CLOSED.store(true, Ordering::Relaxed);
    }
}

/// Whether the reader of standard output has gone: then the command ends.
pub(super) fn is_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

/// Whether standard output is a terminal that takes colours.
pub(super) fn has_colour() -> bool {
    crate::log::LineStyle::for_stdout(crate::log::LogFormat::Text).colour
}

/// Bytes of data as they are.
pub(super) fn bytes(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(bytes);
    let _ = out.flush();
}

/// Data as JSON, indented.
pub(super) fn json(value: &impl serde::Serialize) {
    line(&serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}")));
}

/// One named value below a headline, where there is one.
pub(super) fn field(name: &str, value: &str) {
    if !value.is_empty() {
        line(&format!("  {name:<12} {value}"));
    }
}

/// One message.
pub(super) fn talk(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// An error with its causes, each named once: some errors include theirs.
pub(super) fn error(error: &anyhow::Error) {
    talk(&format!("sidekey: {}", causes(error)));
}

/// An error and its causes in one line. Some of our errors include their cause, since a log line shows nothing
/// else; it is not repeated.
pub(super) fn causes(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if said.is_empty() {
            said = cause;
        } else if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

/// `in 29 days`, `3 h ago`, `now`; `29 days`, `3 h`, `12 min`, `5 s`.
pub(super) use crate::pki::{format_distance as in_time, format_length as length, format_minute};

/// Stands for an absent value.
pub(super) fn dash() -> String {
    "-".to_owned()
}

/// Every line two blanks further in.
pub(super) fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// Whether standard error is a terminal: progress bars and colours only there.
pub(super) fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Whether standard output is a terminal: binary data does not go there.
pub(super) fn is_out_a_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Columns, left-aligned, two blanks apart; the first row is the head.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut text = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}
