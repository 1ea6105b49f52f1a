//! Does the process make progress? An echo through each worker: what a thread that hangs cannot answer.
//!
//! What else must answer, and what comes of silence, is for `app` to say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, watch};

/// A call that every worker answers.
pub struct ProgressEcho {
    call: watch::Sender<u64>,
    answered: Vec<AtomicU64>,
    heard: Notify,
}

impl ProgressEcho {
    /// For so many workers.
    pub fn new(workers: usize) -> Arc<Self> {
        let answered = (0..workers).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { call: watch::Sender::new(0), answered, heard: Notify::new() })
    }

    /// Answers for one worker, for ever: to be run in its event loop.
    pub async fn answer_calls(self: Arc<Self>, worker: usize) {
        let mut calls = self.call.subscribe();
        loop {
            let call = *calls.borrow_and_update();
            if let Some(answered) = self.answered.get(worker) {
                answered.store(call, Ordering::Release);
                self.heard.notify_waiters();
            }
            if calls.changed().await.is_err() {
                return;
            }
        }
    }

    /// Calls, and waits until each worker has answered.
    pub async fn call_workers(&self) {
        self.call.send_modify(|call| *call += 1);
        loop {
            let mut heard = std::pin::pin!(self.heard.notified());
            heard.as_mut().enable();
            if self.silent_worker().is_none() {
                return;
            }
            heard.await;
        }
    }

    /// A worker that has not answered the last call.
    pub fn silent_worker(&self) -> Option<usize> {
        let call = *self.call.borrow();
        self.answered.iter().position(|answered| answered.load(Ordering::Acquire) != call)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_worker_that_hangs_is_named_and_the_others_do_not_answer_for_it() {
        let echo = ProgressEcho::new(2);
        let first = tokio::spawn(Arc::clone(&echo).answer_calls(0));
        let second = tokio::spawn(Arc::clone(&echo).answer_calls(1));
        for _ in 0..3 {
            echo.call_workers().await;
        }
        second.abort();
        assert!(second.await.is_err());
        assert!(timeout(Duration::from_millis(1), echo.call_workers()).await.is_err());
        while echo.silent_worker() != Some(1) {
            tokio::task::yield_now().await;
        }
        first.abort();
    }
}
