//! A connected stream becomes a connection of a pool: HTTP/1.1, or HTTP/2 with an entry that all requests share.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_local;

use super::link::{ConnectionFuture, HttpTransport, LinkParts, PooledConnection};
use super::pool::ConnectionPool;
use super::proof::ConnectionProof;
use super::shared::SharedConnection;
use super::streams::{ReceiveCounter, SharedStreamState};
use crate::dataplane::connection::{ConnectionGuard, poll_close_signal};
use crate::dataplane::executor::LocalExecutor;
use crate::http::error::RequestError as Error;

/// A response's head may be as large as a request's.
const MAX_RESPONSE_HEAD_BYTES: usize = 64 * 1024;
/// Streams that are opened before the server has announced how many it allows. Further ones wait for its SETTINGS, a
/// round trip at most. Hardly any server allows fewer; one that does refuses the excess, which is sent again.
const INITIAL_SEND_STREAMS: usize = 16;
/// A PING goes to a server from which nothing has come for so long while a request runs: servers of gRPC end a connection
/// for one that comes after less than five minutes.
const PING_INTERVAL: Duration = Duration::from_secs(310);
/// How long its answer may take; then the connection is taken for dead.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What belongs to a new connection.
pub(crate) struct ConnectionParts {
    pub(crate) pool: Rc<ConnectionPool>,
    /// Connections to upstreams are in the worker's list.
    pub(crate) tracked: Option<Rc<ConnectionGuard>>,
    pub(crate) proof: Option<Rc<ConnectionProof>>,
}

/// Starts HTTP/1.1 on a connected stream.
pub(crate) async fn open_http1<S>(stream: S, parts: ConnectionParts) -> Result<PooledConnection, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_header_size(MAX_RESPONSE_HEAD_BYTES)
        // RFC 9112 5.1: a proxy removes the blank between name and colon of a response.
        .allow_spaces_after_header_name_in_responses(true)
        .handshake(TokioIo::new(stream))
        .await?;
    let mut connection = connection.with_upgrades();
    let open = parts.tracked.as_ref().map(|tracked| Rc::clone(&tracked.open));
    let drive: ConnectionFuture = Box::pin(poll_fn(move |cx| match poll_close_signal(open.as_ref(), cx) {
        // The request that it carried reports how it ended.
        Poll::Pending => Pin::new(&mut connection).poll(cx).map(drop),
        closed => closed,
    }));
    let ConnectionParts { pool, tracked, proof } = parts;
    let home = Rc::clone(pool.home());
    let wire = HttpTransport::H1 { sender, drive: Some(drive), dead: false, _counted: home.count_connection() };
    Ok(PooledConnection::new(wire, LinkParts { home, tracked, proof, reused: false }))
}

/// Starts HTTP/2 with prior knowledge (RFC 9113 3.3) or after ALPN, and adds the connection to its pool.
pub(crate) async fn open_http2<S>(stream: S, parts: ConnectionParts) -> Result<PooledConnection, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    start_http2(stream, parts, (PING_INTERVAL, PING_TIMEOUT)).await
}

/// The same, with the interval and the timeout of its PINGs.
async fn start_http2<S>(
    stream: S,
    parts: ConnectionParts,
    pings: (Duration, Duration),
) -> Result<PooledConnection, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let ConnectionParts { pool, tracked, proof } = parts;
    let home = Rc::clone(pool.home());
    let common = SharedStreamState::new(home.waits());
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .max_header_list_size(u32::try_from(MAX_RESPONSE_HEAD_BYTES).unwrap_or(u32::MAX))
        .initial_max_send_streams(INITIAL_SEND_STREAMS)
        .timer(TokioTimer::new())
        .keep_alive_interval(pings.0)
        .keep_alive_timeout(pings.1);
    let stream = ReceiveCounter { stream, common: Rc::clone(&common) };
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let open = tracked.as_ref().map(|tracked| Rc::clone(&tracked.open));
    let told = Rc::clone(&common);
    let mut connection = Box::pin(connection);
    spawn_local(poll_fn(move |cx| match poll_close_signal(open.as_ref(), cx) {
        Poll::Pending => {
            let polled = connection.as_mut().poll(cx);
            told.record_poll(connection.current_max_send_streams(), cx);
            polled.map(|ended| {
                if let Err(error) = ended {
                    told.record_end(&error)
                }
            })
        }
        closed => closed,
    }));
    pool.add_shared(SharedConnection {
        sender: sender.clone(),
        common: Rc::clone(&common),
        tracked: tracked.clone(),
        proof: proof.clone(),
        _counted: home.count_connection(),
    });
    let wire = HttpTransport::H2 { sender, stream: common.open_stream() };
    Ok(PooledConnection::new(wire, LinkParts { home, tracked, proof, reused: false }))
}

#[cfg(test)]
mod tests {
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
        open_with_pings(waits, (PING_INTERVAL, PING_TIMEOUT)).await
    }

    async fn open_with_pings(
        waits: &Rc<WaitTable>,
        pings: (Duration, Duration),
    ) -> (Rc<ConnectionPool>, PooledConnection, tokio::io::DuplexStream) {
        let pool = ConnectionPool::new(Some(true), IDLE_LIFETIME, waits);
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let parts = ConnectionParts { pool: Rc::clone(&pool), tracked: None, proof: None };
        let link = start_http2(ours, parts, pings).await.unwrap();
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
            let short = Duration::from_millis(20);
            let (_pool, mut link, mut theirs) = open_with_pings(&waits, (short, short)).await;
            // Its SETTINGS; from then on nothing comes.
            theirs.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let to = RequestDestination { host: HeaderValue::from_static("api.example"), scheme: Scheme::HTTP };
            let mut request = Some(Request::get("/events").body(OutgoingBody::Empty).unwrap());
            // The worker's clock stands still: only the missing answer to a PING can end this.
            let Err(failed) = link.exchange(&mut request, &to, &waits, IDLE_LIFETIME).await else {
                panic!("a silent server has answered")
            };
            assert!(matches!(failed.error, Error::Exchange(_)) && !failed.unprocessed);
            drop(link);
            let mut said = [0; 4096];
            let count = theirs.read(&mut said).await.unwrap();
            // RFC 9113 6.7: eight bytes on stream 0, and no acknowledgement.
            assert!(said[..count].windows(9).any(|frame| frame == [0, 0, 8, 6, 0, 0, 0, 0, 0]));
        };
        LocalSet::new().run_until(test).await;
    }
}
