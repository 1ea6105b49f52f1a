//! One connection to a backend or an upstream, lent to a request and returned to its pool.
//!
//! Over HTTP/1.1 a request without content is exchanged in its own task (`direct`); the first one with content, or with an
//! upgrade, hands the connection to hyper (`hyper_client`) for the rest of its life. HTTP/2 connections have a task.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use http::header::UPGRADE;
use http::{Request, Response};
use http_body::Body as _;
use tokio::task::spawn_local;

use super::direct::exchange_directly;
use super::home::{ConnectionHome, OpenCountGuard};
use super::hyper_client::HyperClient;
use super::proof::ConnectionProof;
use super::request_body::OutgoingBody;
use super::request_stream::{RequestStream, StreamOpener, is_open};
use super::response_wait::ResponseWait;
use super::shape::{self, RequestDestination};
use super::streams::{SharedStreamState, StreamGuard};
use crate::clock::deadlines::{Ticks, WaitTable};
use crate::dataplane::connection::{ConnectionGuard, ConnectionSignal, ConnectionState, poll_close_signal};
use crate::http::content::MessageContent;
use crate::http::error::RequestError as Error;
use crate::http::expect::ContinueGateGuard;
use crate::http::server_connection::ServerConnection;
use crate::http::server_connection::fault::ResponseFault;

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
    /// A shared connection is counted where it is shared from.
    _counted: Option<OpenCountGuard>,
}

/// A connection's end for requests, in either protocol.
pub(super) enum HttpTransport {
    /// HTTP/1.1 that has carried no content and no upgrade.
    Direct(Rc<RefCell<ServerConnection>>),
    /// HTTP/1.1 through hyper.
    Hyper(Box<HyperClient>),
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
    /// The request, where it may have been sent and is still whole.
    pub(crate) sent: Option<Box<Request<OutgoingBody>>>,
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
    /// Its place among the open connections of the pool, unless it is shared.
    pub(super) counted: Option<OpenCountGuard>,
}

impl PooledConnection {
    pub(super) fn new(wire: HttpTransport, parts: LinkParts) -> Self {
        let LinkParts { home, tracked, proof, reused, counted } = parts;
        Self {
            wire,
            home,
            tracked,
            proof,
            gatekeeper: None,
            reused,
            retired: Cell::new(false),
            idle_since: Ticks::default(),
            _counted: counted,
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

    /// Whether a request is exchanged directly on it, and so stays whole when it is sent.
    pub(super) fn is_direct_for(&self, request: &Request<OutgoingBody>) -> bool {
        matches!(self.wire, HttpTransport::Direct(_))
            && request.body().is_end_stream()
            && !request.headers().contains_key(UPGRADE)
    }

    /// Polls the connection within the caller's task; false if that moves nothing.
    pub(crate) fn poll_connection(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.wire {
            HttpTransport::Direct(connection) => {
                let closes = poll_close_signal(self.tracked.as_ref().map(|tracked| &tracked.open), cx).is_ready();
                if closes {
                    connection.borrow_mut().close();
                }
                closes
            }
            HttpTransport::Hyper(client) => client.poll_drive(cx),
            HttpTransport::H2 { .. } => false,
        }
    }

    /// Gives a connection that hyper has a task of its own.
    pub(crate) fn detach(&mut self) {
        if let HttpTransport::Hyper(client) = &mut self.wire {
            client.detach();
        }
    }

    /// Hands the stream to hyper.
    async fn start_hyper(&mut self) -> Result<(), Error> {
        let HttpTransport::Direct(connection) = &self.wire else { return Ok(()) };
        let stream = connection.borrow_mut().release_stream().ok_or(ResponseFault::Ended);
        let open = self.tracked.as_ref().map(|tracked| Rc::clone(&tracked.open));
        let client = HyperClient::start(stream.map_err(|ended| Error::Exchange(ended.into()))?, open).await?;
        self.wire = HttpTransport::Hyper(Box::new(client));
        Ok(())
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
        let failure = |error| ExchangeFailure::unanswered(error, reused);
        let Some(shaped) = request.as_mut() else { return Err(failure(Error::Late)) };
        shape::shape_request(shaped, to, self.is_http2()).map_err(failure)?;
        self.gatekeeper = shaped.body().gate().map(ContinueGateGuard::begin_turn);
        let upload = shaped.body().upload();
        let has_content = !shaped.body().is_end_stream();
        if !self.is_direct_for(shaped) {
            self.start_hyper().await.map_err(|error| ExchangeFailure { unsent: true, ..failure(error) })?;
        }
        if has_content {
            self.detach();
        }
        let mut wait = ResponseWait::begin(waits, limit, upload);
        let answered = match &mut self.wire {
            HttpTransport::Direct(connection) => {
                let Some(shaped) = request.as_mut() else { return Err(failure(Error::Late)) };
                let open = self.tracked.as_ref().map(|tracked| &tracked.open);
                let sent = exchange_directly(connection, open, shaped, &mut wait).await;
                let unsent = matches!(sent, Some(Err(_))) && !connection.borrow().has_sent();
                let shaped = if unsent { None } else { request.take() };
                sent.map(|answer| answer.map_err(|fault| ExchangeFailure::of_fault(fault, shaped, reused)))
            }
            HttpTransport::Hyper(client) => {
                let sent = client.exchange(request, &mut wait).await;
                let unsent = request.is_some();
                sent.map(|answer| answer.map_err(|error| ExchangeFailure { unsent, ..failure(error) }))
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
        let response = answered.unwrap_or_else(|| Err(failure(Error::Late)))?;
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
        if let HttpTransport::Hyper(client) = &mut self.wire
            && !client.is_ready()
        {
            // The last frame may have been read without the connection having been run since.
            client.poll_drive(&mut Context::from_waker(Waker::noop()));
        }
        match &mut self.wire {
            HttpTransport::Direct(connection) if connection.borrow().is_reusable() => {}
            HttpTransport::Hyper(client) if client.is_ready() => {}
            HttpTransport::Direct(_) | HttpTransport::H2 { .. } => return,
            HttpTransport::Hyper(client) if client.is_closed() => return,
            HttpTransport::Hyper(client) => {
                client.detach();
                spawn_local(async move {
                    if let HttpTransport::Hyper(client) = &mut self.wire
                        && client.await_ready().await
                    {
                        self.return_to_pool();
                    }
                });
                return;
            }
        }
        self.return_to_pool();
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
            HttpTransport::H2 { stream, .. } => Some(Rc::clone(stream.shared_state())),
            _ => None,
        }
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
        let unused = self.idle_since != self.home.now();
        let mut cx = Context::from_waker(Waker::noop());
        let open = match &mut self.wire {
            HttpTransport::Direct(connection) if unused => connection.borrow_mut().poll_silent(&mut cx),
            HttpTransport::Direct(connection) => connection.borrow().is_reusable(),
            HttpTransport::Hyper(client) => {
                if unused {
                    client.poll_drive(&mut cx);
                }
                client.is_ready() && !client.is_closed()
            }
            HttpTransport::H2 { opener, .. } => is_open(opener),
        };
        open && !self.must_close()
    }

    /// How long it has been idle.
    pub(crate) fn idle_for(&self, now: Ticks) -> u32 {
        now.ticks_since(self.idle_since)
    }
}

impl ExchangeFailure {
    /// No response came.
    fn unanswered(error: Error, reused: bool) -> Self {
        Self { error, unsent: false, sent: None, reused, unprocessed: false, needs_http1: false }
    }

    /// For this fault of the response to `sent`, which is `None` where nothing of it was sent.
    fn of_fault(fault: ResponseFault, sent: Option<Request<OutgoingBody>>, reused: bool) -> Self {
        // Of a request that got a malformed response its fields may be gone; an end is what sending again is for.
        let (unsent, malformed) = (sent.is_none(), matches!(fault, ResponseFault::Malformed(_)));
        let sent = sent.filter(|_| !malformed).map(Box::new);
        Self { unsent, sent, ..Self::unanswered(Error::Exchange(fault.into()), reused) }
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
        let failure = ExchangeFailure::unanswered(Error::Exchange(error.into()), reused);
        ExchangeFailure { unsent, unprocessed, needs_http1, ..failure }
    }
}

/// Sends a request on a stream of its own; `None` where its time is over. Beside an error: whether the server had allowed the
/// stream. A request of which nothing was sent is left in its place.
async fn exchange_on_stream(
    opener: &mut StreamOpener,
    request: &mut Option<Request<OutgoingBody>>,
    wait: &mut ResponseWait,
) -> Option<Result<Response<MessageContent>, (h2::Error, bool)>> {
    if let Err(error) = poll_fn(|cx| wait.poll_within(opener.poll_ready(cx), cx)).await? {
        return Some(Err((error, false)));
    }
    let mut sent = match RequestStream::start(opener, request.take()?) {
        Ok(sent) => sent,
        Err(error) => return Some(Err((error, true))),
    };
    let answer = poll_fn(|cx| wait.poll_within(sent.poll_response(opener, cx), cx)).await?;
    Some(answer.map_err(|error| (error, sent.is_opened())))
}
