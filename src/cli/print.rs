//! Printing: data to standard output, talk to standard error. The only file that may.

use std::io::{IsTerminal, Write};

/// One line of data.
pub(super) fn line(text: &str) {
    // A closed pipe (`| head`) is no reason to panic: nobody is left to tell.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
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

/// One line of talk.
pub(super) fn talk(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// An error with its causes.
pub(super) fn error(error: &anyhow::Error) {
    talk(&format!("sidekey: {error:#}"));
}

/// Whether standard error is a terminal: progress bars and colours only there.
pub(super) fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
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
