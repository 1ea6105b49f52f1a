//! A connected stream becomes a connection of a pool: HTTP/1.1, or HTTP/2 with an entry that all requests share.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_local;

use super::link::{HttpTransport, LinkParts, PooledConnection};
use super::ping_watch::PingWatch;
use super::pool::ConnectionPool;
use super::proof::ConnectionProof;
use super::shared::SharedConnection;
use super::streams::{ReceiveCounter, SharedStreamState};
use crate::dataplane::connection::{ConnectionGuard, poll_close_signal};
use crate::http::broken::BrokenExchange;
use crate::http::error::RequestError as Error;
use crate::http::server_connection::{ByteStream, ServerConnection};

/// A response's head may be as large as a request's.
const MAX_RESPONSE_HEAD_BYTES: usize = 64 * 1024;
/// Streams that are opened before the server has announced how many it allows. Further ones wait for its SETTINGS, a
/// round trip at most. Hardly any server allows fewer; one that does refuses the excess, which is sent again.
const INITIAL_SEND_STREAMS: usize = 16;
/// Bytes that a server may send before we have passed them on: of one response, and of all on a connection.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 5 * 1024 * 1024;
/// Bytes of one request that wait for a server, at most.
const MAX_SEND_BUFFER_BYTES: usize = 1024 * 1024;

/// What belongs to a new connection.
pub(crate) struct ConnectionParts {
    pub(crate) pool: Rc<ConnectionPool>,
    /// Connections to upstreams are in the worker's list.
    pub(crate) tracked: Option<Rc<ConnectionGuard>>,
    pub(crate) proof: Option<Rc<ConnectionProof>>,
}

/// Starts HTTP/1.1 on a connected stream.
pub(crate) fn open_http1(stream: impl ByteStream, parts: ConnectionParts) -> PooledConnection {
    let ConnectionParts { pool, tracked, proof } = parts;
    let home = Rc::clone(pool.home());
    let wire = HttpTransport::Direct(Rc::new(RefCell::new(ServerConnection::new(stream))));
    let counted = Some(home.count_connection());
    PooledConnection::new(wire, LinkParts { home, tracked, proof, reused: false, counted })
}

/// Starts HTTP/2 with prior knowledge (RFC 9113 3.3) or after ALPN, and adds the connection to its pool.
pub(crate) async fn open_http2<S>(stream: S, parts: ConnectionParts) -> Result<PooledConnection, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let ConnectionParts { pool, tracked, proof } = parts;
    let home = Rc::clone(pool.home());
    let common = SharedStreamState::new(home.waits());
    let mut builder = h2::client::Builder::new();
    builder
        .max_header_list_size(u32::try_from(MAX_RESPONSE_HEAD_BYTES).unwrap_or(u32::MAX))
        .initial_max_send_streams(INITIAL_SEND_STREAMS)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(MAX_SEND_BUFFER_BYTES)
        .enable_push(false);
    let stream = ReceiveCounter { stream, common: Rc::clone(&common) };
    let (opener, mut connection) = builder.handshake(stream).await.map_err(BrokenExchange::from)?;
    let mut pings = connection.ping_pong().map(|pings| PingWatch::new(pings, home.waits()));
    let open = tracked.as_ref().map(|tracked| Rc::clone(&tracked.open));
    let told = Rc::clone(&common);
    let mut connection = Box::pin(connection);
    spawn_local(poll_fn(move |cx| match poll_close_signal(open.as_ref(), cx) {
        Poll::Pending => {
            let polled = connection.as_mut().poll(cx);
            told.record_poll(connection.max_concurrent_send_streams(), cx);
            let dead = pings.as_mut().is_some_and(|pings| pings.poll_dead(&told, cx));
            if polled.is_ready() || dead {
                told.retire();
                return Poll::Ready(());
            }
            Poll::Pending
        }
        closed => closed,
    }));
    pool.add_shared(SharedConnection {
        opener: opener.clone(),
        common: Rc::clone(&common),
        tracked: tracked.clone(),
        proof: proof.clone(),
        _counted: home.count_connection(),
    });
    let wire = HttpTransport::H2 { opener, stream: common.open_stream() };
    Ok(PooledConnection::new(wire, LinkParts { home, tracked, proof, reused: false, counted: None }))
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::time::Duration;

    use http::uri::Scheme;
    use http::{HeaderValue, Request};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::LocalSet;

    use super::super::request_body::OutgoingBody;
    use super::super::shape::RequestDestination;
    use super::*;
    use crate::clock::deadlines::{Ticks, WaitTable};

    const IDLE_LIFETIME: Duration = Duration::from_secs(50);

    /// A connection to a silent server, and its pool.
    async fn open_connection(waits: &Rc<WaitTable>) -> (Rc<ConnectionPool>, PooledConnection, tokio::io::DuplexStream) {
        let pool = ConnectionPool::new(Some(true), IDLE_LIFETIME, waits);
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let parts = ConnectionParts { pool: Rc::clone(&pool), tracked: None, proof: None };
        let link = open_http2(ours, parts).await.unwrap();
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
            let mut runs = pool.take_connection(None).expect("the connection is shared");
            refused.retire();
            drop(refused);
            assert!(pool.take_connection(None).is_none());
            pool.sweep();
            assert!(pool.is_empty());
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert!(runs.is_alive());
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_a_ping_is_dead_and_a_request_on_it_fails() {
        let waits = Rc::new(WaitTable::default());
        let test = async {
            let (_pool, mut link, mut theirs) = open_connection(&waits).await;
            // Its SETTINGS; from then on nothing comes.
            theirs.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let to = RequestDestination { host: HeaderValue::from_static("api.example"), scheme: Scheme::HTTP };
            let mut request = Some(Request::get("/events").body(OutgoingBody::Empty).unwrap());
            let long = Duration::from_secs(24 * 60 * 60);
            let mut answer = std::pin::pin!(link.exchange(&mut request, &to, &waits, long));
            for (seconds, asked) in [(0, false), (309, false), (312, true)] {
                waits.tick(ticks_at(seconds));
                assert!(settle(answer.as_mut()).await.is_pending());
                let mut said = [0; 4096];
                let read = settle(std::pin::pin!(theirs.read(&mut said))).await;
                let count = if let Poll::Ready(count) = read { count.unwrap() } else { 0 };
                // RFC 9113 6.7: eight bytes on stream 0, and no acknowledgement.
                let ping = said[..count].windows(9).any(|frame| frame == [0, 0, 8, 6, 0, 0, 0, 0, 0]);
                assert_eq!(ping, asked, "after {seconds} s");
            }
            waits.tick(ticks_at(334));
            let Poll::Ready(Err(failed)) = settle(answer).await else { panic!("a silent server is waited for") };
            assert!(matches!(failed.error, Error::Exchange(_)) && !failed.unprocessed);
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_server_that_answers_each_ping_or_sends_anything_is_alive_for_hours() {
        let waits = Rc::new(WaitTable::default());
        let test = async {
            let (_pool, mut link, theirs) = open_connection(&waits).await;
            let builder = h2::server::Builder::new();
            let mut server = builder.handshake::<_, bytes::Bytes>(theirs);
            let to = RequestDestination { host: HeaderValue::from_static("api.example"), scheme: Scheme::HTTP };
            let mut request = Some(Request::get("/events").body(OutgoingBody::Empty).unwrap());
            let long = Duration::from_secs(24 * 60 * 60);
            let mut answer = std::pin::pin!(link.exchange(&mut request, &to, &waits, long));
            assert!(settle(answer.as_mut()).await.is_pending());
            let mut server = (&mut server).await.unwrap();
            let (_, mut respond) = server.accept().await.unwrap().unwrap();
            spawn_local(async move { while server.accept().await.is_some() {} });
            for seconds in (15..2 * 60 * 60).step_by(15) {
                waits.tick(ticks_at(seconds));
                assert!(settle(answer.as_mut()).await.is_pending(), "after {seconds} s");
            }
            respond.send_response(http::Response::new(()), true).unwrap();
            let Poll::Ready(Ok(response)) = settle(answer).await else { panic!("no answer") };
            assert_eq!(response.status(), 200);
        };
        LocalSet::new().run_until(test).await;
    }

    /// Polls while the other tasks do what they can.
    async fn settle<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
        for _ in 0..100 {
            if let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
                return Poll::Ready(output);
            }
            tokio::task::yield_now().await;
        }
        Poll::Pending
    }
}
