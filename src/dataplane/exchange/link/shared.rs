//! An HTTP/2 connection that all requests of its pool share: one stream each, as many as the other side allows.

use std::cell::{Cell, RefCell};
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::spawn_local;

use super::{
    ConnectionParts, HttpTransport, MAX_RESPONSE_HEAD_BYTES, OpenCountGuard, PooledConnection, poll_close_signal,
};
use crate::clock::deadlines::{Ticks, WaitTable};
use crate::dataplane::connection::{ConnectionGuard, ConnectionSignal};
use crate::dataplane::egress::proof::KeyPairProof;
use crate::dataplane::exchange::pool::ConnectionPool;
use crate::dataplane::serve::LocalExecutor;
use crate::http::body::OutgoingBody;
use crate::http::error::RequestError as Error;
use crate::tls::passing::passes_writes;

/// Streams that are opened before the server has announced how many it allows. Further ones wait for its SETTINGS, a
/// round trip at most. Hardly any server allows fewer; one that does refuses the excess, which is sent again.
const INITIAL_SEND_STREAMS: usize = 16;
/// Requests that may wait for these SETTINGS, open streams included: as many as a server should allow (RFC 9113 6.5.2).
const INITIAL_STREAM_LIMIT: usize = 100;

/// The state that a connection and its streams share.
pub(crate) struct SharedStreamState {
    streams: Cell<usize>,
    /// How many the server allows (SETTINGS_MAX_CONCURRENT_STREAMS).
    allowed: Cell<usize>,
    /// It takes no further request; those in progress continue.
    retired: Cell<bool>,
    /// How often something was received.
    heard: Cell<u32>,
    /// Woken when the first bytes arrive: the SETTINGS.
    told: RefCell<Option<Waker>>,
    /// When the last stream ended.
    idle_since: Cell<Ticks>,
    waits: Rc<WaitTable>,
}

impl SharedStreamState {
    fn record_received(&self) {
        self.heard.set(self.heard.get().wrapping_add(1));
        if let Some(told) = self.told.take() {
            told.wake();
        }
    }
}

/// One stream of a connection, until this is dropped.
pub(super) struct StreamGuard(Rc<SharedStreamState>);

impl StreamGuard {
    fn new(common: &Rc<SharedStreamState>) -> Self {
        common.streams.set(common.streams.get() + 1);
        Self(Rc::clone(common))
    }

    /// How often something was received on the connection.
    pub(super) fn received_count(&self) -> u32 {
        self.0.heard.get()
    }

    /// The connection takes no further request.
    pub(super) fn retire(&self) {
        self.0.retired.set(true);
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.idle_since.set(self.0.waits.now());
    }
}

/// Counts how often something is received.
struct ReceiveCounter<S> {
    stream: S,
    common: Rc<SharedStreamState>,
}

impl<S: AsyncRead + Unpin> AsyncRead for ReceiveCounter<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.common.record_received();
        }
        read
    }
}

passes_writes!(ReceiveCounter.stream);

impl PooledConnection {
    /// Starts HTTP/2 with prior knowledge (RFC 9113 3.3) or after ALPN, and adds the connection to its pool.
    pub(crate) async fn handshake_http2<S>(stream: S, ends: ConnectionParts) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let waits = ends.home.waits();
        let common = Rc::new(SharedStreamState {
            streams: Cell::new(0),
            allowed: Cell::new(INITIAL_STREAM_LIMIT),
            retired: Cell::new(false),
            heard: Cell::new(0),
            told: RefCell::default(),
            idle_since: Cell::new(waits.now()),
            waits: Rc::clone(waits),
        });
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .max_header_list_size(u32::try_from(MAX_RESPONSE_HEAD_BYTES).unwrap_or(u32::MAX))
            .initial_max_send_streams(INITIAL_SEND_STREAMS);
        let stream = ReceiveCounter { stream, common: Rc::clone(&common) };
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let open = ends.tracked.as_ref().map(|tracked| Rc::clone(&tracked.open));
        let told_common = Rc::clone(&common);
        let mut connection = Box::pin(connection);
        spawn_local(poll_fn(move |cx| match poll_close_signal(open.as_ref(), cx) {
            Poll::Pending => {
                let polled = connection.as_mut().poll(cx).map(drop);
                if told_common.heard.get() == 0 {
                    *told_common.told.borrow_mut() = Some(cx.waker().clone());
                } else {
                    told_common.allowed.set(connection.current_max_send_streams());
                }
                polled
            }
            closed => closed,
        }));
        ends.home.add_shared(SharedConnection {
            sender: sender.clone(),
            common: Rc::clone(&common),
            tracked: ends.tracked.clone(),
            proof: ends.proof.clone(),
            _counted: ends.home.count_connection(),
        });
        Ok(Self::new(HttpTransport::H2 { sender, stream: StreamGuard::new(&common) }, ends))
    }

    /// Whether this error means that the server has not processed the request (RFC 9113 8.7): it ends the connection,
    /// and the stream is not among those that it still answers, or it refuses the stream.
    ///
    /// h2 gives the error of a GOAWAY only to streams above the last one that it names.
    pub(super) fn is_unprocessed(&self, error: &hyper::Error) -> bool {
        let Some(error) = error.source().and_then(|source| source.downcast_ref::<h2::Error>()) else { return false };
        if error.is_remote() && error.is_go_away() {
            self.retire();
            return true;
        }
        error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
    }

    /// The state that its requests share, on HTTP/2.
    pub(crate) fn shared_state(&self) -> Option<Rc<SharedStreamState>> {
        match &self.wire {
            HttpTransport::H1 { .. } => None,
            HttpTransport::H2 { stream, .. } => Some(Rc::clone(&stream.0)),
        }
    }
}

/// An HTTP/2 connection that all requests of its pool share.
pub(crate) struct SharedConnection {
    sender: http2::SendRequest<OutgoingBody>,
    common: Rc<SharedStreamState>,
    tracked: Option<Rc<ConnectionGuard>>,
    proof: Option<Rc<KeyPairProof>>,
    _counted: OpenCountGuard,
}

impl SharedConnection {
    /// Lends the connection if the server allows one more stream.
    pub(crate) fn lend(&self, home: &Rc<ConnectionPool>) -> Option<PooledConnection> {
        if !self.sender.is_ready() || self.common.streams.get() >= self.common.allowed.get() {
            return None;
        }
        Some(PooledConnection {
            wire: HttpTransport::H2 { sender: self.sender.clone(), stream: StreamGuard::new(&self.common) },
            home: Rc::clone(home),
            tracked: self.tracked.clone(),
            proof: self.proof.clone(),
            gatekeeper: None,
            reused: true,
            retired: Cell::new(false),
            idle_since: Ticks::default(),
        })
    }

    /// Whether it may be lent: not closed, retired or draining, and not idle for longer than `limit`.
    pub(crate) fn is_lendable(&self, now: Ticks, limit: u32) -> bool {
        let told = self.tracked.as_ref().is_some_and(|tracked| tracked.open.signal() != ConnectionSignal::Serve);
        let idle = self.common.streams.get() == 0 && now.ticks_since(self.common.idle_since.get()) >= limit;
        !told && !self.common.retired.get() && !self.sender.is_closed() && !idle
    }

    /// Whether it is the connection with this state.
    pub(crate) fn has_state(&self, common: &Rc<SharedStreamState>) -> bool {
        Rc::ptr_eq(&self.common, common)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::LocalSet;

    use super::*;

    const IDLE_LIFETIME: Duration = Duration::from_secs(50);

    /// A connection to a silent server, and its pool.
    async fn open_connection(waits: &Rc<WaitTable>) -> (Rc<ConnectionPool>, PooledConnection, tokio::io::DuplexStream) {
        let pool = ConnectionPool::new(Some(true), IDLE_LIFETIME, waits);
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let link = PooledConnection::handshake_http2(
            ours,
            ConnectionParts { home: Rc::clone(&pool), tracked: None, proof: None },
        )
        .await
        .unwrap();
        (pool, link, theirs)
    }

    fn ticks_at(seconds: u64) -> Ticks {
        Ticks(Ticks::from_duration(Duration::from_secs(seconds)))
    }

    #[tokio::test]
    async fn a_connection_is_idle_from_the_end_of_its_last_stream() {
        let waits = Rc::new(WaitTable::default());
        let test = async {
            let (pool, link, _theirs) = open_connection(&waits).await;
            drop(link);
            // Never busy when it is checked.
            for seconds in (5..=500).step_by(5) {
                waits.tick(ticks_at(seconds));
                drop(pool.take_connection(None).expect("the connection is pooled"));
                pool.sweep();
            }
            waits.tick(ticks_at(549));
            pool.sweep();
            let link = pool.take_connection(None).expect("the connection is pooled");
            waits.tick(ticks_at(700));
            pool.sweep();
            drop(link);
            assert!(!pool.is_empty(), "its last stream has only just ended");
            waits.tick(ticks_at(750));
            pool.sweep();
            assert!(pool.is_empty());
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_retired_connection_is_lent_no_more_and_what_runs_on_it_goes_on() {
        let waits = Rc::new(WaitTable::default());
        let test = async {
            let (pool, refused, _theirs) = open_connection(&waits).await;
            let runs = pool.take_connection(None).expect("the connection is shared");
            refused.retire();
            drop(refused);
            assert!(pool.take_connection(None).is_none());
            pool.sweep();
            assert!(pool.is_empty());
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert!(matches!(&runs.wire, HttpTransport::H2 { sender, .. } if !sender.is_closed()));
        };
        LocalSet::new().run_until(test).await;
    }
}
