//! Where a fault is, and what the nearest known word is: the two things that make a configuration error easy to fix.

use std::fmt;
use std::ops::Range;

/// One thing that is wrong with the configuration, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ConfigFault {
    /// The file; `None` where the fault is in a flag or variable.
    pub file: Option<String>,
    /// Line, 1 is the first; 0 without a file.
    pub line: usize,
    /// Column in characters, 1 is the first; 0 without a file.
    pub column: usize,
    /// The key, as in `ingress.limits.head`, or the flag.
    pub key: String,
    /// What is wrong, with the value and what to do.
    pub message: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(out, "{file}:{}:{}: ", self.line, self.column)?;
        }
        if self.key.is_empty() { out.write_str(&self.message) } else { write!(out, "{}: {}", self.key, self.message) }
    }
}

/// A text that faults are in.
#[derive(Clone, Copy, Debug)]
pub(super) struct SourceText<'t> {
    /// Its name for people.
    pub(super) file: &'t str,
    /// Its content.
    pub(super) content: &'t str,
}

impl SourceText<'_> {
    /// A fault at the beginning of `span` (bytes).
    pub(super) fn fault_at(&self, span: &Range<usize>, key: &str, message: String) -> ConfigFault {
        let (line, column) = self.line_and_column(span.start);
        ConfigFault { file: Some(self.file.to_owned()), line, column, key: key.to_owned(), message }
    }

    /// Line and column of a byte, both from 1; a place beyond the end is the end.
    fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.content.len());
        while !self.content.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.content[..offset];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// `; did you mean "…"?`, or the known words. Empty where there are none.
pub(super) fn suggestion<'n>(wrong: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    known.dedup();
    if let Some(near) = nearest_word(wrong, &known) {
        return format!("; did you mean {near:?}?");
    }
    if known.is_empty() {
        return String::new();
    }
    format!("; available: {}", known.join(", "))
}

/// The known word that is a typing error away from `wrong`, if there is one.
fn nearest_word<'n>(wrong: &str, known: &[&'n str]) -> Option<&'n str> {
    let wrong = wrong.to_lowercase().replace('-', "_");
    // Half of the word must be right, else one letter would be near to any other.
    let allowed = (wrong.chars().count() / 2).min(3);
    known
        .iter()
        .map(|name| (edit_distance(&wrong, &name.to_lowercase()), *name))
        .filter(|(distance, name)| *distance <= allowed || is_longer_form(&wrong, name))
        .min()
        .map(|(_, name)| name)
}

/// `timeout` for `response_timeout`, `keyrings` for `keyring`: one holds the other.
fn is_longer_form(wrong: &str, name: &str) -> bool {
    wrong.len() >= 4 && name.len() >= 4 && (name.contains(wrong) || wrong.contains(name))
}

/// Edits between two words, two neighbours exchanged counting as one (Damerau-Levenshtein, restricted).
fn edit_distance(a: &str, b: &str) -> usize {
    // No real key is this long; without a bound a hostile file could make this slow.
    const MAX_WORD_CHARS: usize = 64;
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(MAX_WORD_CHARS).collect(), b.chars().take(MAX_WORD_CHARS).collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            let mut cost = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                cost = cost.min(rows[i - 2][j - 2] + 1);
            }
            row.push(cost);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let text = SourceText { file: "f", content: "a\n\nüb = 1" };
        assert_eq!(text.line_and_column(0), (1, 1));
        assert_eq!(text.line_and_column(1), (1, 2));
        assert_eq!(text.line_and_column(2), (2, 1));
        assert_eq!(text.line_and_column(5), (3, 2));
        assert_eq!(text.line_and_column(4), (3, 1));
        assert_eq!(text.line_and_column(999), (3, 7));
    }

    #[test]
    fn a_slip_of_the_fingers_finds_its_key() {
        let known = ["overlap", "owner", "contact", "prefer", "response_timeout"];
        for (wrong, right) in [
            ("overlp", "overlap"),
            ("onwer", "owner"),
            ("Contact", "contact"),
            ("timeout", "response_timeout"),
            ("pefrer", "prefer"),
        ] {
            assert_eq!(nearest_word(wrong, &known), Some(right));
        }
        assert_eq!(nearest_word("colour", &known), None);
        assert_eq!(suggestion("x", ["b", "a"]), "; available: a, b");
        assert_eq!(suggestion("ovrlap", known), "; did you mean \"overlap\"?");
    }

    #[test]
    fn exchanged_neighbours_are_one_edit() {
        assert_eq!(edit_distance("onwer", "owner"), 1);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }
}
