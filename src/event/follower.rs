//! A follower receives every Event from now on, through a bounded queue that never blocks the sender.
//!
//! A sender that wakes a follower of another thread pays for that with a system call. A follower that need not know at once
//! gathers: after an Event it looks at the queue again a moment later, and asks to be woken only when it finds nothing then.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::sleep;

use super::list::Event;
use crate::clock::Clock;
use crate::metrics::Metrics;

/// How long a follower gathers: the queue has room for what a busy process reports in this time.
pub(crate) const GATHERING_DELAY: Duration = Duration::from_millis(20);

/// A follower's end of the queue. A slow follower misses Events; they are counted.
pub struct EventFollower {
    receiver: broadcast::Receiver<Event>,
    metrics: Arc<Metrics>,
    clock: Clock,
    gathers: bool,
    /// An Event was received since the last moment of gathering.
    received: bool,
}

impl EventFollower {
    pub(super) fn new(receiver: broadcast::Receiver<Event>, metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self { receiver, metrics, clock, gathers: false, received: false }
    }

    /// Gathers Events, and so receives some a moment later.
    pub fn gathering(mut self) -> Self {
        self.gathers = true;
        self
    }

    /// The time by the clock that stamps Events.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The next Event; `None` after the last sender is gone.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let received = match self.receiver.try_recv() {
                Err(TryRecvError::Empty) if self.gathers && self.received => {
                    sleep(GATHERING_DELAY).await;
                    self.received = false;
                    continue;
                }
                Err(TryRecvError::Empty) => self.receiver.recv().await,
                Err(TryRecvError::Lagged(missed)) => Err(RecvError::Lagged(missed)),
                Err(TryRecvError::Closed) => Err(RecvError::Closed),
                Ok(event) => Ok(event),
            };
            self.received = true;
            match received {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(missed)) => self.metrics.count_dropped_events(missed),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use super::*;
    use crate::event::ClockRecord;

    #[derive(Default)]
    struct WakeCount(AtomicU32);

    impl Wake for WakeCount {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_gathering_follower_is_woken_once_for_many_events_and_receives_them_all() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (events, receiver) = broadcast::channel(64);
        let mut follower = EventFollower::new(receiver, Arc::new(Metrics::new()), Clock::system()).gathering();
        let wakes = Arc::new(WakeCount::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let emit = |seconds| drop(events.send(Event::ClockStep(ClockRecord { seconds })));
        let entered = runtime.enter();
        {
            let mut next = pin!(follower.next());
            assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            emit(0);
            assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "the first is received at once");
            assert!(matches!(next.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Ready(Some(_))));
        }
        {
            let mut next = pin!(follower.next());
            assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            (1..50).for_each(emit);
            assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        }
        drop((entered, events));
        let received = runtime.block_on(async {
            let mut count = 0;
            while follower.next().await.is_some() {
                count += 1;
            }
            count
        });
        assert_eq!(received, 49);
    }
}
