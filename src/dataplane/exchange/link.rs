//! One connection to a backend or an upstream, lent to a request and returned to its pool.
//!
//! A small HTTP/1.1 exchange polls the connection in the request's own task: nothing is spawned and no other task is
//! woken. As soon as a body of any size flows, the connection gets a task of its own and keeps it, so that both
//! directions move independently. HTTP/2 connections always have one.

use std::cell::Cell;
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{http1, http2};
use tokio::task::spawn_local;

use super::home::{ConnectionHome, OpenCountGuard};
use super::proof::ConnectionProof;
use super::request_body::OutgoingBody;
use super::shape::{self, RequestDestination};
use super::streams::{SharedStreamState, StreamGuard};
use crate::clock::deadlines::{Ticks, WaitTable, WaitTimer};
use crate::dataplane::connection::{ConnectionGuard, ConnectionSignal, ConnectionState};
use crate::http::error::RequestError as Error;
use crate::http::expect::ContinueGateGuard;
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
        sender: http2::SendRequest<OutgoingBody>,
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
    ) -> Result<Response<Incoming>, ExchangeFailure> {
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
        let Some(shaped) = request.take() else { return Err(unanswered(Error::Late)) };
        let mut wait = ResponseWait { wait: WaitTimer::new(waits, limit), upload };
        if let Some(upload) = &wait.upload {
            upload.record_progress(waits.now());
        }
        let sent = match &mut self.wire {
            HttpTransport::H1 { sender, drive, dead, .. } => {
                let mut response = std::pin::pin!(sender.try_send_request(shaped));
                poll_fn(|cx| {
                    if let Some(running) = drive
                        && running.as_mut().poll(cx).is_ready()
                    {
                        *drive = None;
                        *dead = true;
                    }
                    poll_before_deadline(response.as_mut().poll(cx), &mut wait, cx)
                })
                .await
            }
            HttpTransport::H2 { sender, stream } => {
                let heard = stream.received_count();
                let mut response = std::pin::pin!(sender.try_send_request(shaped));
                let answered = poll_fn(|cx| poll_before_deadline(response.as_mut().poll(cx), &mut wait, cx)).await;
                if answered.is_none() && stream.received_count() == heard {
                    // The server may have vanished silently: the next request must not wait for it too.
                    stream.retire();
                }
                answered
            }
        };
        match sent {
            Some(Ok(response)) => {
                if let Some(keeper) = &self.gatekeeper {
                    keeper.record_final_response(response.status());
                }
                if !response.body().is_end_stream() && shape::is_large(response.headers()) {
                    self.detach();
                }
                Ok(response)
            }
            Some(Err(mut failed)) => {
                *request = failed.take_message();
                let error = failed.into_error();
                let unsent = request.is_some();
                let needs_http1 = self.needs_http1(&error, unsent);
                let unprocessed = needs_http1 || self.is_unprocessed(&error);
                Err(ExchangeFailure { error: Error::Exchange(error), unsent, reused, unprocessed, needs_http1 })
            }
            None => Err(unanswered(Error::Late)),
        }
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

    /// Whether this error means that the server has not processed the request (RFC 9113 8.7): it ends the connection,
    /// and the stream is not among those that it still answers, or it refuses the stream.
    ///
    /// h2 gives the error of a GOAWAY only to streams above the last one that it names. A request that still waited to be
    /// opened when the connection ended is dropped by hyper without a word: none of it was sent.
    fn is_unprocessed(&self, error: &hyper::Error) -> bool {
        let Some(remote) = remote_error(error) else { return self.is_http2() && error.is_user() };
        if remote.is_go_away() {
            self.retire();
            return true;
        }
        remote.reason() == Some(h2::Reason::REFUSED_STREAM)
    }

    /// Whether the server wants the request over HTTP/1.1 (RFC 9113 7): it says so of this stream, or with the GOAWAY
    /// that ended the connection. Clients send such a request again whatever its method is, as no server acts on it.
    fn needs_http1(&self, error: &hyper::Error, unsent: bool) -> bool {
        let HttpTransport::H2 { stream, .. } = &self.wire else { return false };
        match remote_error(error) {
            Some(error) => error.reason() == Some(h2::Reason::HTTP_1_1_REQUIRED),
            None => (unsent || error.is_user()) && stream.shared_state().needs_http1(),
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
        let open = match &self.wire {
            HttpTransport::H1 { sender, dead, .. } => !dead && !sender.is_closed() && sender.is_ready(),
            HttpTransport::H2 { sender, .. } => !sender.is_closed(),
        };
        open && !self.must_close()
    }

    /// How long it has been idle.
    pub(crate) fn idle_for(&self, now: Ticks) -> u32 {
        now.ticks_since(self.idle_since)
    }
}

/// What the server itself said of a stream or of its connection on HTTP/2.
fn remote_error(error: &hyper::Error) -> Option<&h2::Error> {
    error.source().and_then(|source| source.downcast_ref::<h2::Error>()).filter(|error| error.is_remote())
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
