//! Plans requests ahead at a fixed rate, whatever the answers do, and gives each to a lane that is free. A timer of the kernel: that of
//! tokio rounds to milliseconds.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;

use crate::LoadError;
use crate::tally::WorkTally;

/// How long answers are waited for after the end.
const PATIENCE: Duration = Duration::from_secs(20);

/// The times that requests are planned for.
pub(crate) struct RequestPace {
    /// The timer's descriptor, which is read as a pipe's is.
    timer: pipe::Receiver,
    start: Instant,
    gap_ns: u64,
    planned: u64,
}

impl RequestPace {
    /// So many a second, from now on.
    pub(crate) fn start(rate: f64) -> Result<Self, LoadError> {
        let gap_ns = (1e9 / rate) as u64;
        if gap_ns == 0 || rate <= 0.0 {
            return Err("--rate is out of range".into());
        }
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let gap = Timespec { tv_sec: (gap_ns / 1_000_000_000) as i64, tv_nsec: (gap_ns % 1_000_000_000) as _ };
        let start = Instant::now();
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: gap, it_value: gap })?;
        Ok(Self { timer: pipe::Receiver::from_owned_fd_unchecked(timer)?, start, gap_ns, planned: 0 })
    }

    /// Waits until requests are due; the times that they were planned for.
    pub(crate) async fn wait_due(&mut self) -> Result<impl Iterator<Item = Instant> + use<>, LoadError> {
        let mut expirations = [0; 8];
        self.timer.read_exact(&mut expirations).await?;
        let (from, start, gap) = (self.planned, self.start, self.gap_ns);
        self.planned += u64::from_ne_bytes(expirations);
        Ok((from + 1..=self.planned).map(move |number| start + Duration::from_nanos(number * gap)))
    }
}

/// Does one thing after the other.
pub(crate) trait PacedLane {
    /// One that was planned for this time, recorded; whether the lane can go on.
    async fn run_planned(&mut self, planned: Instant) -> bool;
}

/// What is due, and lanes that are free: each lane in its turn, so that thousands of connections are all used.
#[derive(Default)]
struct DueQueue {
    due: VecDeque<Instant>,
    free: VecDeque<usize>,
}

/// So many a second, until the end of what is measured.
pub(crate) async fn run_paced<L: PacedLane + 'static>(
    lanes: Vec<L>,
    tally: &Rc<WorkTally>,
    rate: f64,
) -> Result<(), LoadError> {
    let queue = Rc::new(RefCell::new(DueQueue::default()));
    let (mut tasks, mut senders) = (JoinSet::new(), Vec::<Sender<Instant>>::new());
    for (index, lane) in lanes.into_iter().enumerate() {
        let (sender, given) = channel(1);
        senders.push(sender);
        tasks.spawn_local(run_lane(lane, index, given, Rc::clone(&queue), Rc::clone(tally)));
    }
    tokio::task::yield_now().await;
    let mut pace = RequestPace::start(rate)?;
    while Instant::now() < tally.end && !tasks.is_empty() {
        for planned in pace.wait_due().await?.filter(|planned| *planned < tally.end) {
            let mut queue = queue.borrow_mut();
            let free =
                std::iter::from_fn(|| queue.free.pop_front()).find(|index| senders[*index].try_send(planned).is_ok());
            if free.is_none() {
                queue.due.push_back(planned);
            }
        }
        while tasks.try_join_next().is_some() {}
    }
    // Lanes that wait end; those that work go on with what is still due.
    drop(senders);
    let all = async { while tasks.join_next().await.is_some() {} };
    let in_time = tokio::time::timeout(PATIENCE, all).await;
    let left = queue.borrow_mut().due.drain(..).collect::<Vec<_>>();
    for planned in left {
        tally.record_outcome(planned, Err("a planned request was never sent".into()));
    }
    in_time.map_err(|_| format!("requests were not answered {} s after the end", PATIENCE.as_secs()).into())
}

async fn run_lane(
    mut lane: impl PacedLane,
    index: usize,
    mut given: Receiver<Instant>,
    queue: Rc<RefCell<DueQueue>>,
    tally: Rc<WorkTally>,
) {
    loop {
        let due = queue.borrow_mut().due.pop_front();
        let planned = match due {
            Some(planned) => planned,
            None => {
                queue.borrow_mut().free.push_back(index);
                let Some(planned) = given.recv().await else { return };
                tally.record_lateness(planned);
                planned
            }
        };
        if !lane.run_planned(planned).await {
            return;
        }
    }
}
