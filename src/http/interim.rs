//! Interim responses (`100`, `102`, `103`; RFC 9110 15.2) on their way to the client: hyper's server has no way to write one,
//! so they wait in a queue from which the guard of the connection's bytes writes them between two messages or frames.
//!
//! The final response of a request waits until its interim ones are written. What one looks like is `head`'s; which bytes it
//! may stand between is the guards'. `Sync`, because hyper wants that of its callback; all ends are on one thread.

mod head;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::{HeaderMap, Request, StatusCode};
use tokio::io::AsyncWrite;

use super::expect::ContinueGate;
use super::framing::FramingLimits;
use crate::clock::deadlines::{WaitTable, WaitTimer};

/// Interim responses of one request, at most.
const MAX_INTERIM_RESPONSES: usize = 16;
/// Bytes that wait on one connection, at most.
const MAX_QUEUED_BYTES: usize = 256 * 1024;

/// The interim responses of one connection that are not written yet.
#[derive(Debug, Default)]
pub(crate) struct InterimQueue {
    /// How many wait: read at every write, so that a connection without them takes no lock.
    waiting: AtomicUsize,
    /// The client cannot be sent any.
    closed: AtomicBool,
    state: Mutex<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    heads: VecDeque<QueuedHead>,
    /// Bytes of the first one that are written, and of all together.
    written: usize,
    bytes: usize,
    /// The task that writes, and the requests that wait for it.
    writer: Option<Waker>,
    requests: Vec<Waker>,
}

#[derive(Debug)]
struct QueuedHead {
    request: Arc<InterimRequest>,
    bytes: Vec<u8>,
}

/// One request whose interim responses may be passed on.
#[derive(Debug)]
struct InterimRequest {
    /// Its stream on HTTP/2.
    stream: Option<u32>,
    /// How many have come.
    received: AtomicUsize,
    /// The final response is there, or the request is gone.
    over: AtomicBool,
}

impl InterimQueue {
    /// The client cannot be sent any from now on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Wakes this task where something is to be written.
    pub(crate) fn register_writer(&self, cx: &Context<'_>) {
        let mut state = self.lock();
        if !state.writer.as_ref().is_some_and(|writer| writer.will_wake(cx.waker())) {
            state.writer = Some(cx.waker().clone());
        }
    }

    /// Writes what has been begun, and, where a head may stand here, all that waits.
    pub(crate) fn poll_write_heads<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        cx: &mut Context<'_>,
        may_begin: bool,
    ) -> Poll<io::Result<()>> {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut state = self.lock();
        while let Some(first) = state.heads.front() {
            if state.written == 0 && !may_begin {
                return Poll::Ready(Ok(()));
            }
            let count = ready!(Pin::new(&mut *stream).poll_write(cx, &first.bytes[state.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let whole = state.written + count == first.bytes.len();
            state.written += count;
            if whole {
                state.remove_first();
            }
        }
        self.wake_requests(state);
        Poll::Ready(Ok(()))
    }

    /// Takes one in; false where there is no room.
    fn queue_head(&self, request: &Arc<InterimRequest>, bytes: Vec<u8>) -> bool {
        let mut state = self.lock();
        if state.bytes + bytes.len() > MAX_QUEUED_BYTES {
            return false;
        }
        state.bytes += bytes.len();
        state.heads.push_back(QueuedHead { request: Arc::clone(request), bytes });
        self.waiting.store(state.heads.len(), Ordering::Relaxed);
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
        true
    }

    /// Forgets those of one request; one that is begun is written to its end.
    fn forget_request(&self, request: &Arc<InterimRequest>) {
        let mut state = self.lock();
        let begun = if state.written > 0 { state.heads.pop_front() } else { None };
        state.heads.retain(|head| !Arc::ptr_eq(&head.request, request));
        if let Some(begun) = begun {
            state.heads.push_front(begun);
        }
        state.bytes = state.heads.iter().map(|head| head.bytes.len()).sum();
        self.wake_requests(state);
    }

    /// Records how many wait, and wakes the requests.
    fn wake_requests(&self, mut state: MutexGuard<'_, QueueState>) {
        self.waiting.store(state.heads.len(), Ordering::Relaxed);
        let requests = std::mem::take(&mut state.requests);
        drop(state);
        requests.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn remove_first(&mut self) {
        if let Some(first) = self.heads.pop_front() {
            self.bytes -= first.bytes.len();
        }
        self.written = 0;
    }
}

/// The end of the backend or upstream; it travels with the request.
#[derive(Clone)]
pub(crate) struct InterimSender {
    queue: Arc<InterimQueue>,
    request: Arc<InterimRequest>,
}

impl InterimSender {
    /// Passes one on, within the limits: what is larger, or one too many, is left out.
    fn pass_interim(&self, status: StatusCode, headers: &HeaderMap, limits: FramingLimits) {
        let closed = self.request.over.load(Ordering::Relaxed) || self.queue.closed.load(Ordering::Relaxed);
        if closed || self.request.received.load(Ordering::Relaxed) == MAX_INTERIM_RESPONSES {
            return;
        }
        let Some(fields) = head::clean_interim(headers, limits) else { return };
        let bytes = match self.request.stream {
            None => head::encode_http1(status, &fields),
            Some(stream) => head::encode_http2(stream, status, &fields),
        };
        if self.queue.queue_head(&self.request, bytes) {
            self.request.received.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The end of the client's request: while it is there, interim responses are passed on.
pub(crate) struct InterimScope {
    sender: InterimSender,
}

impl InterimScope {
    /// Lets interim responses pass to a request, whose number on HTTP/2 is `stream`.
    pub(crate) fn open(queue: &Arc<InterimQueue>, stream: Option<u32>) -> Self {
        let (received, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let sender =
            InterimSender { queue: Arc::clone(queue), request: Arc::new(InterimRequest { stream, received, over }) };
        Self { sender }
    }

    /// The end that goes with the request.
    pub(crate) fn sender(&self) -> InterimSender {
        self.sender.clone()
    }

    /// Waits until those that have come are written, so that the final response may follow; for a client that does not read,
    /// for so long, and those that are left are dropped.
    pub(crate) async fn await_written(self, waits: &Rc<WaitTable>, limit: Duration) {
        let InterimSender { queue, request } = &self.sender;
        request.over.store(true, Ordering::Relaxed);
        if queue.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut wait = WaitTimer::new(waits, limit);
        poll_fn(|cx| {
            let mut state = queue.lock();
            if !state.heads.iter().any(|head| Arc::ptr_eq(&head.request, request)) || wait.check_late(cx) {
                return Poll::Ready(());
            }
            state.requests.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for InterimScope {
    fn drop(&mut self) {
        let InterimSender { queue, request } = &self.sender;
        request.over.store(true, Ordering::Relaxed);
        if queue.waiting.load(Ordering::Relaxed) > 0 {
            queue.forget_request(request);
        }
    }
}

/// What becomes of the interim responses to one request; it travels with the request, to the connection that carries it.
#[derive(Clone)]
pub(crate) struct InterimWatch {
    sender: Option<InterimSender>,
    gate: Option<Arc<ContinueGate>>,
    limits: FramingLimits,
}

impl InterimWatch {
    /// Watches for those to `request`, if any can be passed on or has a meaning here.
    pub(crate) fn set_on<B>(
        request: &mut Request<B>,
        sender: Option<InterimSender>,
        gate: Option<Arc<ContinueGate>>,
        limits: FramingLimits,
    ) {
        if sender.is_some() || gate.is_some() {
            request.extensions_mut().insert(Self { sender, gate, limits });
        }
    }

    /// Has hyper's client call for each of them, on HTTP/1.1.
    pub(crate) fn hand_to_hyper<B>(request: &mut Request<B>) {
        if let Some(watch) = request.extensions_mut().remove::<Self>() {
            hyper::ext::on_informational(request, move |response| {
                watch.pass_interim(response.status(), response.headers());
            });
        }
    }

    /// One has come: a 100 opens the gate of a body that is held back, and hyper asks the client for it; every other one is
    /// passed on, if the client can take it. A 101 is none (RFC 9113 8.6: HTTP/2 has none).
    pub(crate) fn pass_interim(&self, status: StatusCode, headers: &HeaderMap) {
        match (&self.gate, &self.sender) {
            (Some(gate), _) if status == StatusCode::CONTINUE => gate.record_continue(),
            (_, Some(sender)) if status != StatusCode::SWITCHING_PROTOCOLS => {
                sender.pass_interim(status, headers, self.limits);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes at a time.
    struct NarrowPipe {
        taken: Vec<u8>,
        room: usize,
    }

    impl AsyncWrite for NarrowPipe {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let count = buf.len().min(self.room);
            if count == 0 {
                return Poll::Pending;
            }
            self.room -= count;
            self.taken.extend_from_slice(&buf[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    const LIMITS: FramingLimits = FramingLimits { head_size: 1000, fields: 10 };
    const PROCESSING: &str = "HTTP/1.1 102 Processing\r\n\r\n";

    fn pass_on(scope: &InterimScope, count: usize) {
        for _ in 0..count {
            scope.sender.pass_interim(StatusCode::PROCESSING, &HeaderMap::new(), LIMITS);
        }
    }

    fn write(queue: &InterimQueue, pipe: &mut NarrowPipe, room: usize, may_begin: bool) -> bool {
        pipe.room = room;
        queue.poll_write_heads(pipe, &mut Context::from_waker(Waker::noop()), may_begin).is_ready()
    }

    #[test]
    fn a_head_that_is_begun_is_written_to_its_end_and_no_other_where_none_may_stand() {
        let queue = Arc::<InterimQueue>::default();
        let scope = InterimScope::open(&queue, None);
        pass_on(&scope, 2);
        let mut pipe = NarrowPipe { taken: Vec::new(), room: 0 };
        assert!(write(&queue, &mut pipe, 100, false), "nothing is begun");
        assert!(!write(&queue, &mut pipe, 5, true));
        // The request goes: what is begun stays.
        drop(scope);
        assert!(write(&queue, &mut pipe, 100, false));
        assert_eq!(String::from_utf8_lossy(&pipe.taken), PROCESSING);
        assert_eq!((queue.waiting.load(Ordering::Relaxed), queue.lock().bytes), (0, 0));
    }

    #[test]
    fn a_final_response_waits_for_its_own_interim_responses_and_for_so_long() {
        let (queue, waits) = (Arc::<InterimQueue>::default(), Rc::<WaitTable>::default());
        let mut pipe = NarrowPipe { taken: Vec::new(), room: 0 };
        let mut cx = Context::from_waker(Waker::noop());
        let scope = InterimScope::open(&queue, Some(1));
        let other = InterimScope::open(&queue, Some(3));
        pass_on(&scope, 1);
        let mut waiting = Box::pin(scope.await_written(&waits, Duration::from_secs(5)));
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        assert!(Box::pin(other.await_written(&waits, Duration::from_secs(5))).as_mut().poll(&mut cx).is_ready());
        assert!(write(&queue, &mut pipe, 1000, true));
        assert!(waiting.as_mut().poll(&mut cx).is_ready());

        let scope = InterimScope::open(&queue, Some(5));
        pass_on(&scope, 1);
        let mut waiting = Box::pin(scope.await_written(&waits, Duration::from_secs(5)));
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        waits.tick(crate::clock::deadlines::Ticks(1000));
        assert!(waiting.as_mut().poll(&mut cx).is_ready());
        drop(waiting);
        assert_eq!(queue.waiting.load(Ordering::Relaxed), 0, "what is left is dropped");
    }

    #[test]
    fn interim_responses_are_bounded_in_number_and_in_bytes_and_end_with_their_request() {
        let queue = Arc::<InterimQueue>::default();
        let scope = InterimScope::open(&queue, None);
        pass_on(&scope, 100);
        assert_eq!(queue.waiting.load(Ordering::Relaxed), MAX_INTERIM_RESPONSES);
        drop(scope);
        assert_eq!(queue.waiting.load(Ordering::Relaxed), 0);

        let scopes: Vec<_> = (0..1000).map(|_| InterimScope::open(&queue, Some(1))).collect();
        let headers = HeaderMap::from_iter([(http::header::LINK, "y".repeat(800).parse().unwrap())]);
        for scope in &scopes {
            scope.sender.pass_interim(StatusCode::EARLY_HINTS, &headers, LIMITS);
        }
        assert!(queue.lock().bytes <= MAX_QUEUED_BYTES && queue.waiting.load(Ordering::Relaxed) > 100);
        drop(scopes);
        let late = InterimScope::open(&queue, None);
        late.sender.request.over.store(true, Ordering::Relaxed);
        pass_on(&late, 1);
        queue.close();
        pass_on(&InterimScope::open(&queue, None), 1);
        assert_eq!((queue.waiting.load(Ordering::Relaxed), queue.lock().bytes), (0, 0));
    }
}
