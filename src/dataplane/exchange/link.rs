//! One connection to a backend or an upstream, lent to a request and returned to its pool.
//!
//! A small HTTP/1.1 exchange polls the connection in the request's own task: nothing is spawned and no other task is
//! woken. As soon as a body of any size flows, the connection gets a task of its own and keeps it, so that both
//! directions move independently. HTTP/2 connections always have one.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body as _;
use hyper::client::conn::http1;
use tokio::task::spawn_local;

use super::home::{ConnectionHome, OpenCountGuard};
use super::proof::ConnectionProof;
use super::request_body::OutgoingBody;
use super::request_stream::{RequestStream, StreamOpener, is_open};
use super::shape::{self, RequestDestination};
use super::streams::{SharedStreamState, StreamGuard};
use crate::clock::deadlines::{Ticks, WaitTable, WaitTimer};
use crate::dataplane::connection::{ConnectionGuard, ConnectionSignal, ConnectionState};
use crate::http::content::MessageContent;
use crate::http::error::RequestError as Error;
use crate::http::expect::ContinueGateGuard;
use crate::http::interim::InterimWatch;
use crate::http::progress::UploadProgress;

/// A connection's own future, while it has no task of its own.
pub(super) type ConnectionFuture = Pin<Box<dyn Future<Output = ()>>>;

/// A connection, and the pool that it returns to.
pub(crate) struct PooledConnection {
    wire: HttpTransport,
    home: Rc<ConnectionHome<PooledConnection>>,
    /// Connections to upstreams are in the worker's list.
    tracked: Option<Rc<ConnectionGuard>>,
    /// Whether the upstream accepts our key pair, where that is still open.
    proof: Option<Rc<ConnectionProof>>,
    /// Holds the request's body back until it is asked for.
    gatekeeper: Option<ContinueGateGuard>,
    /// It has carried a request before.
    reused: bool,
    /// It carries no further request.
    retired: Cell<bool>,
    idle_since: Ticks,
}

/// A connection's end for requests, in either protocol.
pub(super) enum HttpTransport {
    H1 {
        sender: http1::SendRequest<OutgoingBody>,
        drive: Option<ConnectionFuture>,
        dead: bool,
        _counted: OpenCountGuard,
    },
    H2 {
        opener: StreamOpener,
        stream: StreamGuard,
    },
}

/// The outcome of a request that got no response.
pub(crate) struct ExchangeFailure {
    pub(crate) error: Error,
    /// Nothing of the request was sent: it is still in its place.
    pub(crate) unsent: bool,
    /// The connection was not new: the server may have closed it before it received the request.
    pub(crate) reused: bool,
    /// The server reports that it has not processed the request (RFC 9113 8.7), or it was never opened there.
    pub(crate) unprocessed: bool,
    /// The server wants requests over HTTP/1.1 (RFC 9113 7, HTTP_1_1_REQUIRED).
    pub(crate) needs_http1: bool,
}

/// What belongs to a connection besides its transport.
pub(super) struct LinkParts {
    pub(super) home: Rc<ConnectionHome<PooledConnection>>,
    pub(super) tracked: Option<Rc<ConnectionGuard>>,
    pub(super) proof: Option<Rc<ConnectionProof>>,
    /// It has carried a request before.
    pub(super) reused: bool,
}

impl PooledConnection {
    pub(super) fn new(wire: HttpTransport, parts: LinkParts) -> Self {
        let LinkParts { home, tracked, proof, reused } = parts;
        Self {
            wire,
            home,
            tracked,
            proof,
            gatekeeper: None,
            reused,
            retired: Cell::new(false),
            idle_since: Ticks::default(),
        }
    }

    /// Whether it speaks HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.wire, HttpTransport::H2 { .. })
    }

    /// Its place in the worker's list, if it has one.
    pub(crate) fn connection_state(&self) -> Option<&Rc<ConnectionState>> {
        self.tracked.as_ref().map(|tracked| &tracked.open)
    }

    /// Whether it has carried a request before.
    pub(crate) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Whether the upstream accepts our key pair, where that is still open.
    pub(crate) fn proof(&self) -> Option<&Rc<ConnectionProof>> {
        self.proof.as_ref()
    }

    /// Polls the connection within the caller's task; false if it has a task of its own.
    pub(crate) fn poll_connection(&mut self, cx: &mut Context<'_>) -> bool {
        let HttpTransport::H1 { drive: slot, dead, .. } = &mut self.wire else { return false };
        let Some(drive) = slot else { return false };
        if drive.as_mut().poll(cx).is_ready() {
            *slot = None;
            *dead = true;
        }
        true
    }

    /// Gives the connection a task of its own.
    pub(crate) fn detach(&mut self) {
        if let HttpTransport::H1 { drive, .. } = &mut self.wire
            && let Some(drive) = drive.take()
        {
            spawn_local(drive);
        }
    }

    /// Sends one request and waits for the head of its response: `limit` at most, from when the body moved last. A
    /// request that could not be sent is put back.
    pub(crate) async fn exchange(
        &mut self,
        request: &mut Option<Request<OutgoingBody>>,
        to: &RequestDestination,
        waits: &Rc<WaitTable>,
        limit: Duration,
    ) -> Result<Response<MessageContent>, ExchangeFailure> {
        let reused = std::mem::replace(&mut self.reused, true);
        let unanswered =
            |error| ExchangeFailure { error, unsent: false, reused, unprocessed: false, needs_http1: false };
        let Some(shaped) = request.as_mut() else { return Err(unanswered(Error::Late)) };
        shape::shape_request(shaped, to, self.is_http2()).map_err(unanswered)?;
        self.gatekeeper = shaped.body().gate().map(ContinueGateGuard::begin_turn);
        let upload = shaped.body().upload();
        if !shaped.body().is_end_stream() {
            self.detach();
        }
        let mut wait = ResponseWait { wait: WaitTimer::new(waits, limit), upload };
        if let Some(upload) = &wait.upload {
            upload.record_progress(waits.now());
        }
        let answered = match &mut self.wire {
            HttpTransport::H1 { sender, drive, dead, .. } => {
                let Some(mut shaped) = request.take() else { return Err(unanswered(Error::Late)) };
                InterimWatch::hand_to_hyper(&mut shaped);
                let mut response = std::pin::pin!(sender.try_send_request(shaped));
                let sent = poll_fn(|cx| {
                    if let Some(running) = drive
                        && running.as_mut().poll(cx).is_ready()
                    {
                        *drive = None;
                        *dead = true;
                    }
                    poll_before_deadline(response.as_mut().poll(cx), &mut wait, cx)
                })
                .await;
                sent.map(|answer| {
                    answer.map(|response| response.map(MessageContent::from)).map_err(|mut failed| {
                        *request = failed.take_message();
                        let error = Error::Exchange(failed.into_error().into());
                        ExchangeFailure { unsent: request.is_some(), ..unanswered(error) }
                    })
                })
            }
            HttpTransport::H2 { opener, stream } => {
                let heard = stream.received_count();
                let sent = exchange_on_stream(opener, request, &mut wait).await;
                if sent.is_none() && stream.received_count() == heard {
                    // The server may have vanished silently: the next request must not wait for it too.
                    stream.retire();
                }
                let unsent = request.is_some();
                sent.map(|answer| {
                    answer.map_err(|(error, opened)| {
                        StreamEnd::judge(&error, opened, stream).into_failure(error, unsent, reused)
                    })
                })
            }
        };
        let response = answered.unwrap_or_else(|| Err(unanswered(Error::Late)))?;
        if let Some(keeper) = &self.gatekeeper {
            keeper.record_final_response(response.status());
        }
        if !response.body().is_end_stream() && shape::is_large(response.headers()) {
            self.detach();
        }
        Ok(response)
    }

    /// Called when the response was read to its end: the connection may carry another request.
    pub(crate) fn finish(mut self) {
        // A body that was never asked for is never sent: where it was announced, nothing else can follow.
        if self.must_close() || self.gatekeeper.as_ref().is_some_and(ContinueGateGuard::is_shut) {
            return;
        }
        if !self.is_ready() {
            // The last frame may have been read without the connection having been run since.
            self.poll_connection(&mut Context::from_waker(Waker::noop()));
        }
        match &self.wire {
            HttpTransport::H1 { dead: true, .. } => {}
            HttpTransport::H1 { sender, .. } if sender.is_ready() => self.return_to_pool(),
            HttpTransport::H1 { sender, .. } if sender.is_closed() => {}
            HttpTransport::H1 { .. } => {
                self.detach();
                spawn_local(async move {
                    if let HttpTransport::H1 { sender, .. } = &mut self.wire
                        && sender.ready().await.is_ok()
                    {
                        self.return_to_pool();
                    }
                });
            }
            HttpTransport::H2 { .. } => {}
        }
    }

    /// Takes no further request. Those in progress continue for as long as they take.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        if let HttpTransport::H2 { stream, .. } = &self.wire {
            stream.retire();
        }
    }

    /// The state that its requests share, on HTTP/2.
    pub(super) fn shared_state(&self) -> Option<Rc<SharedStreamState>> {
        match &self.wire {
            HttpTransport::H1 { .. } => None,
            HttpTransport::H2 { stream, .. } => Some(Rc::clone(stream.shared_state())),
        }
    }

    fn is_ready(&self) -> bool {
        matches!(&self.wire, HttpTransport::H1 { sender, dead: false, .. } if sender.is_ready())
    }

    fn return_to_pool(mut self) {
        if self.must_close() {
            return;
        }
        let home = Rc::clone(&self.home);
        self.gatekeeper = None;
        self.idle_since = home.now();
        home.put_back(self);
    }

    /// Whether it takes no further request: it is draining, or was retired.
    fn must_close(&self) -> bool {
        self.retired.get()
            || self.tracked.as_ref().is_some_and(|tracked| tracked.open.signal() != ConnectionSignal::Serve)
    }

    /// Whether an idle connection can carry a request: not draining, and not closed by the server.
    ///
    /// One that was used within this tick is not checked again: the next request's first step is that check, and a
    /// request that finds its connection closed, or with unexpected bytes on it, is not sent but uses another.
    pub(crate) fn is_alive(&mut self) -> bool {
        if self.idle_since != self.home.now() {
            self.poll_connection(&mut Context::from_waker(Waker::noop()));
        }
        let open = match &mut self.wire {
            HttpTransport::H1 { sender, dead, .. } => !*dead && !sender.is_closed() && sender.is_ready(),
            HttpTransport::H2 { opener, .. } => is_open(opener),
        };
        open && !self.must_close()
    }

    /// How long it has been idle.
    pub(crate) fn idle_for(&self, now: Ticks) -> u32 {
        now.ticks_since(self.idle_since)
    }
}

/// What the end of a stream without a response says of its request.
struct StreamEnd {
    unprocessed: bool,
    needs_http1: bool,
}

impl StreamEnd {
    /// Whether the server says that it has not processed the request (RFC 9113 8.7), or wants it over HTTP/1.1 (RFC 9113 7),
    /// which clients send again whatever its method is, as no server acts on it. `opened`: it had allowed the stream.
    ///
    /// h2 gives the error of a GOAWAY only to streams above the last one that it names. Of a request that still waited to be
    /// opened nothing was sent.
    fn judge(error: &h2::Error, opened: bool, stream: &StreamGuard) -> Self {
        let reason = error.reason().filter(|_| error.is_remote());
        let leaves = error.is_remote() && error.is_go_away();
        if leaves {
            stream.retire();
        }
        let needs_http1 = reason == Some(h2::Reason::HTTP_1_1_REQUIRED);
        let unprocessed = needs_http1 || leaves || !opened || reason == Some(h2::Reason::REFUSED_STREAM);
        Self { unprocessed, needs_http1 }
    }

    fn into_failure(self, error: h2::Error, unsent: bool, reused: bool) -> ExchangeFailure {
        let Self { unprocessed, needs_http1 } = self;
        ExchangeFailure { error: Error::Exchange(error.into()), unsent, reused, unprocessed, needs_http1 }
    }
}

/// Sends a request on a stream of its own; `None` where its time is over. Beside an error: whether the server had allowed the
/// stream. A request of which nothing was sent is left in its place.
async fn exchange_on_stream(
    opener: &mut StreamOpener,
    request: &mut Option<Request<OutgoingBody>>,
    wait: &mut ResponseWait,
) -> Option<Result<Response<MessageContent>, (h2::Error, bool)>> {
    if let Err(error) = poll_fn(|cx| poll_before_deadline(opener.poll_ready(cx), wait, cx)).await? {
        return Some(Err((error, false)));
    }
    let mut sent = match RequestStream::start(opener, request.take()?) {
        Ok(sent) => sent,
        Err(error) => return Some(Err((error, true))),
    };
    let answer = poll_fn(|cx| poll_before_deadline(sent.poll_response(opener, cx), wait, cx)).await?;
    Some(answer.map_err(|error| (error, sent.is_opened())))
}

/// Waits for a response head. Its time does not run while the client is still sending: an upload takes as long as it
/// takes, and `body_idle` limits one that stalls.
struct ResponseWait {
    wait: WaitTimer,
    upload: Option<Rc<UploadProgress>>,
}

impl ResponseWait {
    fn is_late(&mut self, cx: &Context<'_>) -> bool {
        match &self.upload {
            None => self.wait.check_late(cx),
            Some(upload) => self.wait.check_late_since(|now| upload.response_awaited_since(now), cx),
        }
    }
}

fn poll_before_deadline<T>(polled: Poll<T>, wait: &mut ResponseWait, cx: &Context<'_>) -> Poll<Option<T>> {
    match polled {
        Poll::Ready(response) => Poll::Ready(Some(response)),
        Poll::Pending if wait.is_late(cx) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    }
}
