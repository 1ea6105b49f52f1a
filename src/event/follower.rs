//! A follower receives every Event from now on, through a bounded queue that never blocks the sender.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::broadcast;

use super::list::Event;
use crate::clock::Clock;
use crate::metrics::Metrics;

/// A follower's end of the queue. A slow follower misses Events; they are counted.
pub struct EventFollower {
    receiver: broadcast::Receiver<Event>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl EventFollower {
    pub(super) fn new(receiver: broadcast::Receiver<Event>, metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self { receiver, metrics, clock }
    }

    /// The time by the clock that stamps Events.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The next Event; `None` after the last sender is gone.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.receiver.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => self.metrics.count_dropped_events(missed),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}
