//! The senders that have proved a pair: no refusal from their source and kind moves them any more.

use std::collections::HashSet;

use super::source::SenderKind;

/// Senders known to accept one pair: up to twice as many are kept.
const MAX_SENDERS: usize = 8192;

/// Two halves: when the new one is full, the old one is dropped.
#[derive(Debug, Default)]
pub(super) struct SettledSenders {
    new: HashSet<SenderKind>,
    old: HashSet<SenderKind>,
}

impl SettledSenders {
    pub(super) fn insert(&mut self, sender: &SenderKind) {
        if self.new.contains(sender) {
            return;
        }
        if self.new.len() >= MAX_SENDERS {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(sender.clone());
    }

    /// How many are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.new.len() + self.old.len()
    }

    pub(super) fn contains(&self, sender: &SenderKind) -> bool {
        self.new.contains(sender) || self.old.contains(sender)
    }
}
