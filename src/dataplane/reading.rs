//! Whether the other side reads its response: on HTTP/2 a reader can hold back one stream and keep the connection alive.
//!
//! hyper gives each stream a task, and that task waits for the reader without asking the response body for more. So the
//! body marks what it had to give when it was polled, and a task that is pending with a frame still to be sent waits for
//! its reader, as long as that takes no byte: for so long, then the stream is reset. A reader that holds back the whole
//! connection is `watched`'s.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::spawn_local;

use crate::clock::deadlines::{WaitTable, WaitTimer};
use crate::dataplane::connection::ConnectionState;
use crate::dataplane::connection::mark::BodyMark;
use crate::http::taken::TakenMark;

/// Runs the tasks of one connection's streams on this worker's thread.
#[derive(Clone)]
pub(crate) struct StreamExecutor {
    pub(crate) open: Rc<ConnectionState>,
    pub(crate) waits: Rc<WaitTable>,
    /// How long a reader may read nothing.
    pub(crate) limit: Duration,
    /// Called for every stream that is reset for it.
    pub(crate) unread: Rc<dyn Fn()>,
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        let (open, taken) = (Rc::clone(&self.open), TakenMark::new(&self.waits));
        let mut reader = StreamReader { open, wait: WaitTimer::new(&self.waits, self.limit), owed: false, taken };
        let unread = Rc::clone(&self.unread);
        // In a box: it is large, and moved several times before its task runs and when that ends.
        let mut future = Box::pin(future);
        spawn_local(async move {
            let ended = poll_fn(|cx| reader.poll(future.as_mut(), cx)).await;
            // Dropping what it runs resets the stream.
            drop(future);
            if ended == StreamEnd::Unread {
                unread();
            }
        });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamEnd {
    Whole,
    Unread,
}

/// The reader of one stream.
struct StreamReader {
    open: Rc<ConnectionState>,
    wait: WaitTimer,
    /// Whether a frame is on its way to it.
    owed: bool,
    /// When it last took a part of one.
    taken: Arc<TakenMark>,
}

impl StreamReader {
    fn poll<F: Future>(&mut self, task: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<StreamEnd> {
        self.open.mark.set(BodyMark::Untouched);
        self.open.reader.replace(Some(Arc::clone(&self.taken)));
        let polled = task.poll(cx);
        self.open.reader.take();
        if polled.is_ready() {
            return Poll::Ready(StreamEnd::Whole);
        }
        let mark = self.open.mark.get();
        if mark != BodyMark::Untouched {
            self.owed = mark == BodyMark::Gave;
            self.wait.reset();
        }
        if !self.owed || !self.wait.check_late_since(|_| self.taken.last(), cx) {
            return Poll::Pending;
        }
        self.open.mark.set(BodyMark::Unread);
        Poll::Ready(StreamEnd::Unread)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::clock::deadlines::Ticks;
    use crate::dataplane::connection::ConnectionTimeouts;
    use crate::dataplane::connection::tests::new_connection_within;

    /// Polls a task that marks what `marks` says, one for each tick; the tick at which it was given up.
    fn tick_of_giving_up(marks: &[BodyMark]) -> Option<usize> {
        tick_of_giving_up_a_reader(marks, &[])
    }

    /// The same, of a reader that takes bytes at these ticks.
    fn tick_of_giving_up_a_reader(marks: &[BodyMark], takes: &[usize]) -> Option<usize> {
        let waits = Rc::new(WaitTable::default());
        let day = Duration::from_secs(86_400);
        let patience = ConnectionTimeouts {
            head: None,
            http2: true,
            idle: None,
            unread: day,
            age: None,
            drain: day,
            drain_planned: day,
        };
        let open = new_connection_within(&waits, patience);
        let (mut marks, marked) = (marks.iter(), Rc::clone(&open));
        let mut task = Box::pin(poll_fn(move |_| {
            if let Some(mark) = marks.next().filter(|mark| **mark != BodyMark::Untouched) {
                marked.mark.set(*mark);
            }
            Poll::<()>::Pending
        }));
        let wait = WaitTimer::new(&waits, crate::clock::deadlines::TICK * 2);
        let taken = TakenMark::new(&waits);
        let mut reader = StreamReader { open, wait, owed: false, taken: Arc::clone(&taken) };
        (0..20).find(|tick| {
            waits.tick(Ticks(u32::try_from(*tick).unwrap()));
            if takes.contains(tick) {
                taken.record();
            }
            reader.poll(task.as_mut(), &mut Context::from_waker(Waker::noop())).is_ready()
        })
    }

    #[test]
    fn only_a_frame_that_is_not_read_is_given_up() {
        use BodyMark::{Gave, Untouched, Waits};
        assert_eq!(tick_of_giving_up(&[]), None, "a request that is being answered has its own deadlines");
        assert_eq!(tick_of_giving_up(&[Waits]), None);
        assert_eq!(tick_of_giving_up(&[Gave]), Some(3));
        assert_eq!(tick_of_giving_up(&[Gave, Untouched, Gave]), Some(5));
        assert_eq!(tick_of_giving_up(&[Gave, Untouched, Waits]), None);
        assert_eq!(tick_of_giving_up(&[Waits, Untouched, Gave, Untouched]), Some(5));
    }

    #[test]
    fn a_reader_that_takes_a_few_bytes_of_a_frame_at_a_time_is_waited_for() {
        assert_eq!(tick_of_giving_up_a_reader(&[BodyMark::Gave], &[2, 4, 6, 8]), Some(11));
        let always: Vec<usize> = (0..20).collect();
        assert_eq!(tick_of_giving_up_a_reader(&[BodyMark::Gave], &always), None);
    }
}
