//! Plans requests ahead at a fixed rate, whatever the answers do. A timer of the kernel: that of tokio rounds to milliseconds.

use std::time::Instant;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::LoadError;

/// The times that requests are planned for.
pub(crate) struct RequestPace {
    /// The timer's descriptor, which is read as a pipe's is.
    timer: Receiver,
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
        Ok(Self { timer: Receiver::from_owned_fd_unchecked(timer)?, start, gap_ns, planned: 0 })
    }

    /// Waits until requests are due; the times that they were planned for.
    pub(crate) async fn wait_due(&mut self) -> Result<impl Iterator<Item = Instant> + use<>, LoadError> {
        let mut expirations = [0; 8];
        self.timer.read_exact(&mut expirations).await?;
        let (from, start, gap) = (self.planned, self.start, self.gap_ns);
        self.planned += u64::from_ne_bytes(expirations);
        Ok((from + 1..=self.planned).map(move |number| start + std::time::Duration::from_nanos(number * gap)))
    }
}
