//! Coarse deadlines of one worker: what is late is noticed at the next tick.
//!
//! A request waits for its response head and its bodies on every exchange; a timer for each would cost more than the
//! access line. Here waiting costs a slot in a table that the worker's tick walks, and not waiting costs nothing.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

/// How fine the worker's time is.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// A time of one worker, counted in ticks since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticks(pub(crate) u32);

impl Ticks {
    /// Ticks that a duration takes, rounded up.
    pub(crate) fn from_duration(duration: Duration) -> u32 {
        u32::try_from(duration.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX)
    }

    /// Ticks since `earlier`.
    pub(crate) fn ticks_since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The time of one worker, for what a library wants to be sent between threads. One thread writes and reads it.
#[derive(Debug, Default)]
pub(crate) struct WorkerTime(AtomicU32);

impl WorkerTime {
    /// The time.
    pub(crate) fn now(&self) -> Ticks {
        Ticks(self.0.load(Ordering::Relaxed))
    }
}

/// The table of a worker's deadlines.
#[derive(Default)]
pub(crate) struct WaitTable {
    time: Arc<WorkerTime>,
    slots: RefCell<WaitSlots>,
}

#[derive(Default)]
struct WaitSlots {
    all: Vec<WaitSlot>,
    free: Vec<usize>,
}

struct WaitSlot {
    due: Ticks,
    waker: Option<Waker>,
}

impl WaitTable {
    /// The worker's time.
    pub(crate) fn now(&self) -> Ticks {
        self.time.now()
    }

    /// The same, to be kept.
    pub(crate) fn time(&self) -> &Arc<WorkerTime> {
        &self.time
    }

    /// Moves the time on and wakes the tasks that are late.
    pub(crate) fn tick(&self, now: Ticks) {
        self.time.0.store(now.0, Ordering::Relaxed);
        for slot in &mut self.slots.borrow_mut().all {
            if slot.due <= now
                && let Some(waker) = slot.waker.take()
            {
                waker.wake();
            }
        }
    }

    /// Wakes every task that waits, late or not.
    pub(crate) fn wake_all(&self) {
        for slot in &mut self.slots.borrow_mut().all {
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
    }

    /// Whether no task waits.
    pub(crate) fn is_empty(&self) -> bool {
        let slots = self.slots.borrow();
        slots.all.len() == slots.free.len()
    }
}

/// One thing that may take `limit` at a time.
pub(crate) struct WaitTimer {
    waits: Rc<WaitTable>,
    limit: u32,
    slot: Option<usize>,
}

impl WaitTimer {
    /// Not waiting yet.
    pub(crate) fn new(waits: &Rc<WaitTable>, limit: Duration) -> Self {
        Self { waits: Rc::clone(waits), limit: Ticks::from_duration(limit), slot: None }
    }

    /// Called where a poll is about to return `Pending`: true if it has been late. Else the task is woken when it is.
    pub(crate) fn check_late(&mut self, cx: &Context<'_>) -> bool {
        let now = self.waits.now();
        let mut slots = self.waits.slots.borrow_mut();
        if let Some(index) = self.slot {
            let slot = &mut slots.all[index];
            if slot.due <= now {
                return true;
            }
            if !slot.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                slot.waker = Some(cx.waker().clone());
            }
            return false;
        }
        // The tick in which it begins has partly passed.
        let due = Ticks(now.0.saturating_add(self.limit).saturating_add(1));
        let slot = WaitSlot { due, waker: Some(cx.waker().clone()) };
        self.slot = Some(match slots.free.pop() {
            Some(index) => {
                slots.all[index] = slot;
                index
            }
            None => {
                slots.all.push(slot);
                slots.all.len() - 1
            }
        });
        false
    }

    /// The worker's time.
    pub(crate) fn now(&self) -> Ticks {
        self.waits.now()
    }

    /// As [`Wait::late`], where the awaited thing may have begun anew meanwhile: `since` returns when.
    pub(crate) fn check_late_since(&mut self, since: impl FnOnce(Ticks) -> Ticks, cx: &Context<'_>) -> bool {
        if !self.check_late(cx) {
            return false;
        }
        let now = self.waits.now();
        let due = Ticks(since(now).0.saturating_add(self.limit).saturating_add(1));
        if due <= now {
            return true;
        }
        if let Some(index) = self.slot {
            self.waits.slots.borrow_mut().all[index] = WaitSlot { due, waker: Some(cx.waker().clone()) };
        }
        false
    }

    /// It made progress: the next wait begins anew.
    pub(crate) fn reset(&mut self) {
        if let Some(index) = self.slot.take() {
            let mut slots = self.waits.slots.borrow_mut();
            slots.all[index] = WaitSlot { due: Ticks(u32::MAX), waker: None };
            slots.free.push(index);
        }
    }
}

impl Drop for WaitTimer {
    fn drop(&mut self) {
        self.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct WakeCount(AtomicUsize);
    impl Wake for WakeCount {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_wait_is_late_only_after_its_whole_limit_and_wakes_once() {
        let (waits, count) = (Rc::new(WaitTable::default()), Arc::new(WakeCount::default()));
        let waker = Waker::from(Arc::clone(&count));
        let cx = Context::from_waker(&waker);
        let mut wait = WaitTimer::new(&waits, TICK * 4);
        assert!(!wait.check_late(&cx));
        waits.tick(Ticks(4));
        assert!(!wait.check_late(&cx) && count.0.load(Ordering::Relaxed) == 0);
        waits.tick(Ticks(5));
        waits.tick(Ticks(6));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(wait.check_late(&cx));
    }

    #[test]
    fn progress_begins_the_limit_anew() {
        let waits = Rc::new(WaitTable::default());
        let cx = Context::from_waker(Waker::noop());
        let mut wait = WaitTimer::new(&waits, TICK * 4);
        assert!(!wait.check_late(&cx));
        waits.tick(Ticks(4));
        wait.reset();
        assert!(!wait.check_late(&cx));
        waits.tick(Ticks(8));
        assert!(!wait.check_late(&cx));
    }

    #[test]
    fn what_has_begun_anew_is_late_a_whole_limit_after_that() {
        let (waits, count) = (Rc::new(WaitTable::default()), Arc::new(WakeCount::default()));
        let waker = Waker::from(Arc::clone(&count));
        let cx = Context::from_waker(&waker);
        let mut wait = WaitTimer::new(&waits, TICK * 4);
        assert!(!wait.check_late_since(|_| Ticks(0), &cx));
        waits.tick(Ticks(5));
        assert!(!wait.check_late_since(|_| Ticks(3), &cx), "it is looked at when the first limit is over");
        waits.tick(Ticks(7));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        waits.tick(Ticks(8));
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        assert!(wait.check_late_since(|_| Ticks(3), &cx));
        assert!(!wait.check_late_since(|now| now, &cx));
    }

    #[test]
    fn slots_are_used_again_and_given_back() {
        let waits = Rc::new(WaitTable::default());
        let cx = Context::from_waker(Waker::noop());
        for _ in 0..100 {
            let mut wait = WaitTimer::new(&waits, TICK);
            assert!(!wait.check_late(&cx));
        }
        assert!(waits.is_empty());
        assert_eq!(waits.slots.borrow().all.len(), 1);
    }
}
