//! A part of a long list: where it begins, how long it is, and how long the whole list is.

use serde::{Deserialize, Serialize};

/// Entries of a part, where a reader does not say how many.
const USUAL: usize = 100;
/// The most entries of a part.
pub const MOST_ENTRIES: usize = 1_000;

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListWindow {
    /// Entries before it.
    pub offset: usize,
    /// Its entries at most; more than [`MOST_ENTRIES`] are that many.
    pub limit: usize,
}

impl Default for ListWindow {
    fn default() -> Self {
        Self { offset: 0, limit: USUAL }
    }
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListPart<T> {
    /// Entries of the whole list, as far as the filter lets them pass.
    pub total: usize,
    /// Entries before this part.
    pub offset: usize,
    /// The entries.
    pub entries: Vec<T>,
}

impl ListWindow {
    /// The part of a whole list.
    pub fn cut<T>(self, all: Vec<T>) -> ListPart<T> {
        let total = all.len();
        let entries = all.into_iter().skip(self.offset).take(self.limit.min(MOST_ENTRIES)).collect();
        ListPart { total, offset: self.offset, entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_says_how_long_the_list_is() {
        let cut = |offset, limit| ListWindow { offset, limit }.cut((0..2_000).collect::<Vec<_>>());
        assert_eq!(cut(5, 2), ListPart { total: 2_000, offset: 5, entries: vec![5, 6] });
        assert_eq!(cut(1_999, 5).entries, [1_999]);
        assert_eq!(cut(usize::MAX, usize::MAX).entries, [0; 0]);
        assert_eq!(cut(0, usize::MAX).entries.len(), MOST_ENTRIES);
    }
}
