//! Which senders the registry does not have as they are, and how soon they are to be written: what a verdict may depend on at once,
//! what is only counted some seconds later, so that a sender that comes often is written once in that time.

use std::collections::{BTreeMap, HashMap, HashSet, btree_map};
use std::sync::Arc;

use super::sender::SenderKey;

/// What is only counted waits so many seconds: reports of this instance have it anyway.
const VISIT_DELAY_SECONDS: u64 = 30;

/// Senders to be written. To take some of them costs little more than they are, however many wait: who records handshakes waits for it.
#[derive(Clone, Debug, Default)]
pub(super) struct ChangedSenders {
    /// Those with news that a verdict may depend on.
    news: HashSet<Arc<SenderKey>>,
    /// Those of which only the number and the times of their visits are new, each with the second since when.
    visits: HashMap<Arc<SenderKey>, u64>,
    /// The same by that second.
    by_second: BTreeMap<u64, HashSet<Arc<SenderKey>>>,
    /// The second of the writer in which some were taken last.
    second: u64,
}

impl ChangedSenders {
    /// How many are to be written.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.news.len() + self.visits.len()
    }

    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// It is to be written soon.
    pub(super) fn add_news(&mut self, key: Arc<SenderKey>) {
        self.remove_visit(&key);
        self.news.insert(key);
    }

    /// It came once more.
    pub(super) fn add_visit(&mut self, key: Arc<SenderKey>) {
        if !self.news.contains(&key) && !self.visits.contains_key(&key) {
            self.visits.insert(Arc::clone(&key), self.second);
            self.by_second.entry(self.second).or_default().insert(key);
        }
    }

    pub(super) fn remove(&mut self, key: &SenderKey) {
        self.news.remove(key);
        self.remove_visit(key);
    }

    fn remove_visit(&mut self, key: &SenderKey) {
        if let Some(since) = self.visits.remove(key)
            && let btree_map::Entry::Occupied(mut all) = self.by_second.entry(since)
        {
            all.get_mut().remove(key);
            if all.get().is_empty() {
                all.remove();
            }
        }
    }

    /// Takes at most `limit` of those to be written in this second of the writer, news first.
    pub(super) fn take_due(&mut self, limit: usize, second: u64) -> Vec<Arc<SenderKey>> {
        self.second = second;
        let is_due = |since: &u64| since.saturating_add(VISIT_DELAY_SECONDS) <= second;
        let visits = self.by_second.iter().take_while(|(since, _)| is_due(since)).flat_map(|(_, all)| all);
        let due: Vec<Arc<SenderKey>> = self.news.iter().chain(visits).take(limit).map(Arc::clone).collect();
        due.iter().for_each(|key| self.remove(key));
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Fingerprint;

    fn key(name: &str) -> Arc<SenderKey> {
        let certificate = Some(Fingerprint::of(name.as_bytes()));
        Arc::new(SenderKey::new((&"api".into(), &"in".into()), name, certificate, None))
    }

    #[test]
    fn news_are_written_at_once_and_visits_some_seconds_later() {
        let mut changed = ChangedSenders::default();
        assert!(changed.take_due(10, 100).is_empty());
        changed.add_visit(key("often"));
        changed.add_visit(key("moved"));
        changed.add_news(key("moved"));
        changed.add_news(key("new"));
        // Nothing makes news wait.
        changed.add_visit(key("new"));
        assert_eq!((changed.len(), changed.has_news()), (3, true));
        assert_eq!(changed.take_due(1, 101).len(), 1);
        assert!(changed.has_news(), "the other one");
        assert_eq!(changed.take_due(10, 102).len(), 1);
        assert_eq!((changed.len(), changed.has_news()), (1, false));
        assert!(changed.take_due(10, 129).is_empty());
        assert_eq!(changed.take_due(10, 130), [key("often")]);
        changed.add_visit(key("often"));
        assert!(changed.take_due(10, 159).is_empty());
        changed.add_visit(key("late"));
        assert_eq!(changed.take_due(10, u64::MAX).len(), 2, "the last writing leaves none");
    }

    #[test]
    fn what_is_dropped_is_not_counted() {
        let mut changed = ChangedSenders::default();
        changed.add_news(key("new"));
        changed.add_news(key("new"));
        changed.remove(&key("new"));
        changed.remove(&key("new"));
        assert_eq!((changed.len(), changed.has_news()), (0, false));
    }
}
