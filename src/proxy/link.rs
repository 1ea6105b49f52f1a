//! One connection to a backend or an upstream, lent to a request and given back to its pool.
//!
//! A small HTTP/1.1 exchange polls the connection in the request's own task: nothing is spawned and nobody is woken across
//! tasks. As soon as a body of any size flows, the connection gets a task of its own and keeps it, so that both directions
//! move independently. HTTP/2 connections always have one.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TE, UPGRADE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Request, Response, Uri, Version};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_local;

use super::Error;
use super::body::Outgoing;
use super::open::{Open, Signal, Tracked};
use super::pool::Pool;
use super::proof::Proof;
use super::serve::Local;
use super::waits::{Ticks, Wait, Waits};

/// From this size on a response is worth a task of its own.
const LARGE: u64 = 64 * 1024;

/// A connection's own future, while it has no task of its own.
type Drive = Pin<Box<dyn Future<Output = ()>>>;

/// A connection, and the place it goes back to.
pub(super) struct Link {
    wire: Wire,
    home: Rc<Pool>,
    /// Connections to upstreams are in the worker's list.
    tracked: Option<Rc<Tracked>>,
    /// What an upstream has still to prove about our key pair.
    proof: Option<Rc<Proof>>,
    /// It has carried a request before.
    reused: bool,
    idle_since: Ticks,
}

enum Wire {
    H1 { sender: http1::SendRequest<Outgoing>, drive: Option<Drive>, dead: bool },
    H2 { sender: http2::SendRequest<Outgoing>, _streams: Streams },
}

/// How many streams a shared connection carries; one less when this is dropped.
struct Streams(Rc<Cell<usize>>);

impl Streams {
    fn one_more(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// An HTTP/2 connection that all requests of its pool share.
pub(super) struct Shared {
    sender: http2::SendRequest<Outgoing>,
    streams: Rc<Cell<usize>>,
    /// How many the other side allows (SETTINGS_MAX_CONCURRENT_STREAMS).
    allowed: Rc<Cell<usize>>,
    tracked: Option<Rc<Tracked>>,
    proof: Option<Rc<Proof>>,
    idle_since: Cell<Ticks>,
}

/// Where a request goes, in both protocols' terms.
pub(super) struct Destination {
    pub(super) host: HeaderValue,
    pub(super) scheme: Scheme,
}

/// What comes of a request that got no response.
pub(super) struct Unanswered {
    pub(super) error: Error,
    /// The request, if nothing of it was sent.
    pub(super) unsent: Option<Request<Outgoing>>,
    /// The connection was not new: its other end may have closed it before it saw the request.
    pub(super) reused: bool,
}

/// What a new connection comes with.
pub(super) struct Ends {
    pub(super) home: Rc<Pool>,
    pub(super) tracked: Option<Rc<Tracked>>,
    pub(super) proof: Option<Rc<Proof>>,
}

impl Link {
    /// Speaks HTTP/1.1 on a connected stream.
    pub(super) async fn http1<S>(stream: S, ends: Ends) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new().handshake(TokioIo::new(stream)).await?;
        let mut connection = connection.with_upgrades();
        let open = ends.tracked.as_ref().map(|tracked| Rc::clone(&tracked.open));
        let drive: Drive = Box::pin(poll_fn(move |cx| match told(open.as_ref(), cx) {
            // How it ended is said by the request that was on it.
            Poll::Pending => Pin::new(&mut connection).poll(cx).map(drop),
            closed => closed,
        }));
        let wire = Wire::H1 { sender, drive: Some(drive), dead: false };
        Ok(Self::new(wire, ends))
    }

    /// Speaks HTTP/2 with prior knowledge (RFC 9113 3.3) or after ALPN, and leaves the connection to its pool.
    pub(super) async fn http2<S>(stream: S, ends: Ends) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (sender, connection) = http2::Builder::new(Local).handshake(TokioIo::new(stream)).await?;
        let open = ends.tracked.as_ref().map(|tracked| Rc::clone(&tracked.open));
        let allowed = Rc::new(Cell::new(connection.current_max_send_streams()));
        let told_allowed = Rc::clone(&allowed);
        let mut connection = Box::pin(connection);
        spawn_local(poll_fn(move |cx| match told(open.as_ref(), cx) {
            Poll::Pending => {
                let polled = connection.as_mut().poll(cx).map(drop);
                told_allowed.set(connection.current_max_send_streams());
                polled
            }
            closed => closed,
        }));
        let streams = Rc::new(Cell::new(0));
        let shared = Shared {
            sender: sender.clone(),
            streams: Rc::clone(&streams),
            allowed,
            tracked: ends.tracked.clone(),
            proof: ends.proof.clone(),
            idle_since: Cell::new(Ticks::default()),
        };
        ends.home.share(shared);
        Ok(Self::new(Wire::H2 { sender, _streams: Streams::one_more(&streams) }, ends))
    }

    fn new(wire: Wire, ends: Ends) -> Self {
        let Ends { home, tracked, proof } = ends;
        Self { wire, home, tracked, proof, reused: false, idle_since: Ticks::default() }
    }

    /// Whether it speaks HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        matches!(self.wire, Wire::H2 { .. })
    }

    /// Its place in the worker's list, if it has one.
    pub(super) fn open(&self) -> Option<&Rc<Open>> {
        self.tracked.as_ref().map(|tracked| &tracked.open)
    }

    /// Whether it has carried a request before.
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// What the upstream has still to prove.
    pub(super) fn proof(&self) -> Option<&Rc<Proof>> {
        self.proof.as_ref()
    }

    /// Runs the connection within the caller's task; false if it has a task of its own.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        let Wire::H1 { drive: slot, dead, .. } = &mut self.wire else { return false };
        let Some(drive) = slot else { return false };
        if drive.as_mut().poll(cx).is_ready() {
            *slot = None;
            *dead = true;
        }
        true
    }

    /// Gives the connection a task of its own.
    pub(super) fn detach(&mut self) {
        if let Wire::H1 { drive, .. } = &mut self.wire
            && let Some(drive) = drive.take()
        {
            spawn_local(drive);
        }
    }

    /// Sends one request and waits for the head of its response.
    pub(super) async fn exchange(
        &mut self,
        mut request: Request<Outgoing>,
        to: &Destination,
        waits: &Rc<Waits>,
        limit: Duration,
    ) -> Result<Response<Incoming>, Unanswered> {
        let reused = self.reused;
        self.reused = true;
        if let Err(error) = shape(&mut request, to, self.is_http2()) {
            return Err(Unanswered { error, unsent: None, reused });
        }
        if !request.body().is_end_stream() {
            self.detach();
        }
        let mut wait = Wait::new(waits, limit);
        let sent = match &mut self.wire {
            Wire::H1 { sender, drive, dead } => {
                let mut response = std::pin::pin!(sender.try_send_request(request));
                poll_fn(|cx| {
                    if let Some(running) = drive
                        && running.as_mut().poll(cx).is_ready()
                    {
                        *drive = None;
                        *dead = true;
                    }
                    in_time(response.as_mut().poll(cx), &mut wait, cx)
                })
                .await
            }
            Wire::H2 { sender, .. } => {
                let mut response = std::pin::pin!(sender.try_send_request(request));
                poll_fn(|cx| in_time(response.as_mut().poll(cx), &mut wait, cx)).await
            }
        };
        match sent {
            Some(Ok(response)) => {
                if !response.body().is_end_stream() && is_large(response.headers()) {
                    self.detach();
                }
                Ok(response)
            }
            Some(Err(mut failed)) => {
                let unsent = failed.take_message();
                Err(Unanswered { error: Error::Exchange(failed.into_error()), unsent, reused })
            }
            None => Err(Unanswered { error: Error::Late, unsent: None, reused: false }),
        }
    }

    /// The response was read to its end: the connection may carry another request.
    pub(super) fn finish(mut self) {
        if self.must_go() {
            return;
        }
        // The last frame may have been read without the connection having been run since.
        self.drive(&mut Context::from_waker(Waker::noop()));
        match &self.wire {
            Wire::H1 { dead: true, .. } => {}
            Wire::H1 { sender, .. } if sender.is_ready() => self.give_back(),
            Wire::H1 { sender, .. } if sender.is_closed() => {}
            Wire::H1 { .. } => {
                self.detach();
                spawn_local(async move {
                    if let Wire::H1 { sender, .. } = &mut self.wire
                        && sender.ready().await.is_ok()
                    {
                        self.give_back();
                    }
                });
            }
            Wire::H2 { .. } => {}
        }
    }

    fn give_back(mut self) {
        if self.must_go() {
            return;
        }
        let home = Rc::clone(&self.home);
        self.idle_since = home.now();
        home.put(self);
    }

    /// Whether it was told to leave: it takes no further request then.
    fn must_go(&self) -> bool {
        self.tracked.as_ref().is_some_and(|tracked| tracked.open.signal() != Signal::Serve)
    }

    /// Whether an idle connection can carry a request: not told to leave, and not closed by its other end.
    pub(super) fn is_alive(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        let open = match &self.wire {
            Wire::H1 { sender, dead, .. } => !dead && !sender.is_closed() && sender.is_ready(),
            Wire::H2 { sender, .. } => !sender.is_closed(),
        };
        open && !self.must_go()
    }

    /// How long it has been idle.
    pub(super) fn idle_for(&self, now: Ticks) -> u32 {
        now.since(self.idle_since)
    }
}

impl Shared {
    /// Lends the connection if the other side allows one more stream.
    pub(super) fn lend(&self, home: &Rc<Pool>) -> Option<Link> {
        if !self.sender.is_ready() || self.streams.get() >= self.allowed.get() {
            return None;
        }
        Some(Link {
            wire: Wire::H2 { sender: self.sender.clone(), _streams: Streams::one_more(&self.streams) },
            home: Rc::clone(home),
            tracked: self.tracked.clone(),
            proof: self.proof.clone(),
            reused: true,
            idle_since: Ticks::default(),
        })
    }

    /// Whether it may be lent: not closed, not told to leave, not idle for longer than `limit`.
    pub(super) fn keeps(&self, now: Ticks, limit: u32) -> bool {
        if self.streams.get() > 0 {
            self.idle_since.set(now);
        }
        let told = self.tracked.as_ref().is_some_and(|tracked| tracked.open.signal() != Signal::Serve);
        !told && !self.sender.is_closed() && now.since(self.idle_since.get()) < limit
    }

    /// It has just been made.
    pub(super) fn begins(&self, now: Ticks) {
        self.idle_since.set(now);
    }
}

/// Ready once the connection was told to close.
pub(super) fn told(open: Option<&Rc<Open>>, cx: &Context<'_>) -> Poll<()> {
    let Some(open) = open else { return Poll::Pending };
    if open.signal() == Signal::Close {
        return Poll::Ready(());
    }
    open.listen(cx);
    Poll::Pending
}

fn in_time<T>(polled: Poll<T>, wait: &mut Wait, cx: &Context<'_>) -> Poll<Option<T>> {
    match polled {
        Poll::Ready(response) => Poll::Ready(Some(response)),
        Poll::Pending if wait.late(cx) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    }
}

fn is_large(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    length.is_none_or(|length| length > LARGE)
}

/// Gives a request the shape of the protocol: origin form and Host, or an absolute URI without. Either can be made of the
/// other, because a request that was not sent may go to another connection.
fn shape(request: &mut Request<Outgoing>, to: &Destination, http2: bool) -> Result<(), Error> {
    if !http2 {
        if *request.version_mut() == Version::HTTP_2 {
            *request.uri_mut() = super::target::origin_form(request.uri(), None)?;
            request.headers_mut().insert(HOST, to.host.clone());
        }
        *request.version_mut() = Version::HTTP_11;
        if request.headers().contains_key(TE) {
            // RFC 9110 10.1.4: TE is for this hop only, so it is named.
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("te"));
        }
        return Ok(());
    }
    if request.headers().contains_key(UPGRADE) {
        return Err(Error::UpgradeNeedsHttp1);
    }
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.remove(HOST);
    headers.remove(CONNECTION);
    let authority = Authority::try_from(to.host.as_bytes()).map_err(|_| Error::Malformed("bad Host"))?;
    let path = request.uri().path_and_query().cloned();
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(to.scheme.clone());
    parts.authority = Some(authority);
    parts.path_and_query = Some(path.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/")));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Error::Malformed("bad target"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_takes_the_shape_of_either_protocol_and_back() {
        let to = Destination { host: HeaderValue::from_static("api.example"), scheme: Scheme::HTTPS };
        let mut request = Request::builder()
            .uri("/a?b")
            .header(HOST, "api.example")
            .header(TE, "trailers")
            .body(Outgoing::Empty)
            .unwrap();
        shape(&mut request, &to, true).unwrap();
        assert_eq!(request.uri(), "https://api.example/a?b");
        assert!(!request.headers().contains_key(HOST) && !request.headers().contains_key(CONNECTION));
        shape(&mut request, &to, false).unwrap();
        assert_eq!((request.uri().to_string().as_str(), request.version()), ("/a?b", Version::HTTP_11));
        assert_eq!(request.headers()[HOST], "api.example");
        assert_eq!(request.headers()[CONNECTION], "te");
    }

    #[test]
    fn only_a_short_announced_response_is_small() {
        let mut headers = HeaderMap::new();
        assert!(is_large(&headers));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("65536"));
        assert!(!is_large(&headers));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("65537"));
        assert!(is_large(&headers));
    }
}
