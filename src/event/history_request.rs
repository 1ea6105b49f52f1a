//! Readings of the registry that are asked for: a verdict about a fleet has to rest on what was read after it was asked for.
//!
//! Only numbers: who asks takes the next one and waits until a reading that began afterwards has ended; the registry's task
//! notices a new number, reads, and says up to which number it has answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// How long a command waits for a reading.
const PATIENCE: Duration = Duration::from_secs(2);

/// The readings that were asked for and that have ended, by number.
#[derive(Debug)]
pub struct HistoryRequests {
    asked: watch::Sender<u64>,
    answered: watch::Sender<u64>,
    /// Another instance may write to the registry at any time.
    shareable: AtomicBool,
}

impl Default for HistoryRequests {
    fn default() -> Self {
        Self { asked: watch::Sender::new(0), answered: watch::Sender::new(0), shareable: AtomicBool::new(false) }
    }
}

impl HistoryRequests {
    /// Marks the registry as one that other instances may write to, whether or not one of them has been seen.
    pub fn mark_shareable(&self) {
        self.shareable.store(true, Ordering::Relaxed);
    }

    /// Whether other instances may write to the registry.
    pub(super) fn is_shareable(&self) -> bool {
        self.shareable.load(Ordering::Relaxed)
    }

    /// Asks for a reading and waits for it; returns whether there was one in time.
    pub(super) async fn request_reading(&self) -> bool {
        let mut number = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        let mut answered = self.answered.subscribe();
        timeout(PATIENCE, answered.wait_for(|done| number <= *done)).await.is_ok_and(|done| done.is_ok())
    }

    /// The number of the last reading that was asked for.
    pub fn last_number(&self) -> u64 {
        *self.asked.borrow()
    }

    /// Waits until a later one than this is asked for.
    pub async fn wait_for_later(&self, number: u64) {
        let _ = self.asked.subscribe().wait_for(|asked| number < *asked).await;
    }

    /// Every reading up to this number has ended.
    pub fn record_answer(&self, number: u64) {
        self.answered.send_replace(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_gets_a_reading_that_began_afterwards_and_waits_for_it_a_little() {
        let requests = HistoryRequests::default();
        assert!(!requests.request_reading().await, "the registry does not answer");
        let serving = async {
            requests.wait_for_later(1).await;
            requests.record_answer(requests.last_number());
        };
        let (is_read, ()) = tokio::join!(requests.request_reading(), serving);
        assert!(is_read);
        assert!(!requests.request_reading().await, "a former reading answers no later question");
    }
}
