//! One connection to a backend or an upstream, lent to a request and returned to its pool.
//!
//! A small HTTP/1.1 exchange polls the connection in the request's own task: nothing is spawned and no other task is
//! woken. As soon as a body of any size flows, the connection gets a task of its own and keeps it, so that both
//! directions move independently. HTTP/2 connections always have one.

mod shape;
mod shared;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::header::HeaderValue;
use http::uri::Scheme;
use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_local;

use super::pool::ConnectionPool;
use crate::clock::deadlines::{Ticks, WaitTable, WaitTimer};
use crate::dataplane::connection::{ConnectionGuard, ConnectionSignal, ConnectionState};
use crate::dataplane::egress::proof::KeyPairProof;
use crate::http::body::{OutgoingBody, UploadProgress};
use crate::http::error::RequestError as Error;
use crate::http::expect::ContinueGateGuard;

pub(crate) use shared::{SharedConnection, SharedStreamState};

/// A response's head may be as large as a request's.
const MAX_RESPONSE_HEAD_BYTES: usize = 64 * 1024;

/// A connection's own future, while it has no task of its own.
type ConnectionFuture = Pin<Box<dyn Future<Output = ()>>>;

/// A connection, and the pool that it returns to.
pub(crate) struct PooledConnection {
    wire: HttpTransport,
    home: Rc<ConnectionPool>,
    /// Connections to upstreams are in the worker's list.
    tracked: Option<Rc<ConnectionGuard>>,
    /// Whether the upstream accepts our key pair, where that is still open.
    proof: Option<Rc<KeyPairProof>>,
    /// Holds the request's body back until it is asked for.
    gatekeeper: Option<ContinueGateGuard>,
    /// It has carried a request before.
    reused: bool,
    /// It carries no further request.
    retired: Cell<bool>,
    idle_since: Ticks,
}

enum HttpTransport {
    H1 {
        sender: http1::SendRequest<OutgoingBody>,
        drive: Option<ConnectionFuture>,
        dead: bool,
        _counted: OpenCountGuard,
    },
    H2 {
        sender: http2::SendRequest<OutgoingBody>,
        stream: shared::StreamGuard,
    },
}

/// Keeps a connection counted in its pool until it is dropped.
pub(crate) struct OpenCountGuard(Rc<Cell<usize>>);

impl OpenCountGuard {
    /// Counts one more.
    pub(crate) fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for OpenCountGuard {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Where a request goes, in both protocols' terms.
pub(crate) struct RequestDestination {
    pub(crate) host: HeaderValue,
    pub(crate) scheme: Scheme,
}

/// The outcome of a request that got no response.
pub(crate) struct ExchangeFailure {
    pub(crate) error: Error,
    /// Nothing of the request was sent: it is still in its place.
    pub(crate) unsent: bool,
    /// The connection was not new: the server may have closed it before it received the request.
    pub(crate) reused: bool,
    /// The server reports that it has not processed the request (RFC 9113 8.7).
    pub(crate) unprocessed: bool,
}

/// What belongs to a new connection.
pub(crate) struct ConnectionParts {
    pub(crate) home: Rc<ConnectionPool>,
    pub(crate) tracked: Option<Rc<ConnectionGuard>>,
    pub(crate) proof: Option<Rc<KeyPairProof>>,
}

impl PooledConnection {
    /// Starts HTTP/1.1 on a connected stream.
    pub(crate) async fn handshake_http1<S>(stream: S, ends: ConnectionParts) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            http1::Builder::new().max_header_size(MAX_RESPONSE_HEAD_BYTES).handshake(TokioIo::new(stream)).await?;
        let mut connection = connection.with_upgrades();
        let open = ends.tracked.as_ref().map(|tracked| Rc::clone(&tracked.open));
        let drive: ConnectionFuture = Box::pin(poll_fn(move |cx| match poll_close_signal(open.as_ref(), cx) {
            // The request that it carried reports how it ended.
            Poll::Pending => Pin::new(&mut connection).poll(cx).map(drop),
            closed => closed,
        }));
        let wire =
            HttpTransport::H1 { sender, drive: Some(drive), dead: false, _counted: ends.home.count_connection() };
        Ok(Self::new(wire, ends))
    }

    fn new(wire: HttpTransport, ends: ConnectionParts) -> Self {
        let ConnectionParts { home, tracked, proof } = ends;
        Self {
            wire,
            home,
            tracked,
            proof,
            gatekeeper: None,
            reused: false,
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
    pub(crate) fn proof(&self) -> Option<&Rc<KeyPairProof>> {
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
        let unanswered = |error| ExchangeFailure { error, unsent: false, reused, unprocessed: false };
        let Some(shaped) = request.as_mut() else { return Err(unanswered(Error::Late)) };
        shape::shape_request(shaped, to, self.is_http2()).map_err(unanswered)?;
        self.gatekeeper = shaped.body().gate().map(|gate| ContinueGateGuard(Arc::clone(gate)));
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
                if let Some(ContinueGateGuard(gate)) = &self.gatekeeper {
                    gate.record_final_response(response.status());
                }
                if !response.body().is_end_stream() && shape::is_large(response.headers()) {
                    self.detach();
                }
                Ok(response)
            }
            Some(Err(mut failed)) => {
                *request = failed.take_message();
                let error = failed.into_error();
                let unprocessed = self.is_unprocessed(&error);
                Err(ExchangeFailure { error: Error::Exchange(error), unsent: request.is_some(), reused, unprocessed })
            }
            None => Err(unanswered(Error::Late)),
        }
    }

    /// Called when the response was read to its end: the connection may carry another request.
    pub(crate) fn finish(mut self) {
        // A body that was never asked for is never sent: where it was announced, nothing else can follow.
        if self.must_close() || self.gatekeeper.as_ref().is_some_and(|keeper| keeper.0.is_shut()) {
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

/// Ready once the connection is told to close.
pub(crate) fn poll_close_signal(open: Option<&Rc<ConnectionState>>, cx: &Context<'_>) -> Poll<()> {
    let Some(open) = open else { return Poll::Pending };
    if open.signal() == ConnectionSignal::Close {
        return Poll::Ready(());
    }
    open.register_waker(cx);
    Poll::Pending
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
