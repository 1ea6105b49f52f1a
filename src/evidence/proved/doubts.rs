//! The classes of requests in which a pair was refused by a status at one node, until an answer clears them.
//!
//! A path that needs no certificate answers a refused pair too, so its 2xx does not end a refusal that another path met. What
//! ends it: an answer of the same class that proves, or one that a caller without a certificate does not get.

use super::answer::RequestClass;

/// Classes kept for one node and pair.
const MAX_CLASSES: usize = 16;

/// The classes, bounded. One that finds no place is not named, and only an answer that clears all of them clears it.
#[derive(Clone, Debug, Default)]
pub(super) struct DoubtList {
    classes: Vec<RequestClass>,
    is_crowded: bool,
}

impl DoubtList {
    /// Adds a class in which the pair was refused.
    pub(super) fn add(&mut self, class: RequestClass) {
        if self.classes.contains(&class) {
            return;
        }
        if self.classes.len() == MAX_CLASSES {
            self.is_crowded = true;
        } else {
            self.classes.push(class);
        }
    }

    /// Clears one class; true if it was there.
    pub(super) fn clear_class(&mut self, class: RequestClass) -> bool {
        let before = self.classes.len();
        self.classes.retain(|known| *known != class);
        self.classes.len() < before
    }

    /// Clears all classes.
    pub(super) fn clear_all(&mut self) {
        *self = Self::default();
    }

    /// Whether nothing speaks against the pair.
    pub(super) fn is_empty(&self) -> bool {
        self.classes.is_empty() && !self.is_crowded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_found_no_place_is_cleared_only_with_all_others() {
        let mut doubts = DoubtList::default();
        let class = |number: usize| RequestClass::new("GET", &format!("/{}", "x".repeat(number + 1)));
        (0..=MAX_CLASSES).for_each(|number| doubts.add(class(number)));
        assert!(!doubts.clear_class(class(MAX_CLASSES)));
        assert!((0..MAX_CLASSES).all(|number| doubts.clear_class(class(number))));
        assert!(!doubts.is_empty());
        doubts.clear_all();
        assert!(doubts.is_empty());
    }
}
