//! One request, exchanged for the head of its response over a connection to where it goes: an existing one or a new one.
//!
//! A request that could not be sent uses another connection. So does one that the server reports as not processed (RFC
//! 9113 8.7), or wants over HTTP/1.1, if its content is still there; and an idempotent one without content on a connection
//! that was not new: the server may have closed it in the same moment (RFC 9110 9.2.2, RFC 9112 9.3.1). Nothing else is
//! ever sent twice.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use http::header::UPGRADE;
use http::{Request, Response};

use super::link::{ExchangeFailure, PooledConnection};
use super::pool::ConnectionPool;
use super::request_body::OutgoingBody;
use super::shape::RequestDestination;
use super::spare::RetryCopy;
use super::streams::SharedStreamState;
use crate::clock::deadlines::WaitTable;
use crate::http::content::MessageContent;
use crate::http::error::RequestError as Error;

/// How often a request may be sent, the first time included.
const MAX_SEND_ATTEMPTS: usize = 5;
/// From this time on it is the first on a connection of its own: a server that answers one request on each connection and
/// leaves (nginx with `keepalive_requests 1`) answers that one.
const OWN_CONNECTION_FROM: usize = 3;

/// A connection on its way. Boxed: a handshake's future is large, and most requests never need it.
pub(crate) type ConnectFuture<'a> = Pin<Box<dyn Future<Output = Result<PooledConnection, Error>> + 'a>>;

/// The more precise error of a connection on which a request got no response, if there is one; without an error where the
/// server says that it has not processed the request.
type EndExplanation<'a> = &'a dyn Fn(&PooledConnection, Option<&Error>) -> Option<Error>;

/// Where a request goes: the pool to use now, and how a new connection for it is established.
pub(crate) struct ExchangeOrigin<'a, P> {
    /// The pool to take from; called again after waiting, as the result may change.
    pub(crate) pool: P,
    /// Establishes a connection; with `true` one that speaks HTTP/1.1, where there is a choice.
    pub(crate) connect: &'a dyn Fn(bool) -> ConnectFuture<'a>,
    /// How much of a request's content is kept, in bytes, where it may have to be sent again.
    pub(crate) replay_limit: usize,
    /// Called for a connection on which a request got no response.
    pub(crate) explain_end: Option<EndExplanation<'a>>,
}

/// A connection to send on: an existing one, or a new one. An upgrade needs HTTP/1.1: where the server has chosen
/// HTTP/2, it gets a separate connection.
async fn checkout<P: Fn() -> Result<Rc<ConnectionPool>, Error>>(
    origin: &ExchangeOrigin<'_, P>,
    attempt: usize,
    shunned: Option<&Rc<SharedStreamState>>,
    upgrade: bool,
) -> Result<PooledConnection, Error> {
    let pool = (origin.pool)()?;
    if upgrade && pool.protocol() != Some(false) {
        return (origin.connect)(true).await;
    }
    if attempt == 1
        && let Some(link) = pool.take_connection(shunned)
    {
        return Ok(link);
    }
    if pool.protocol() == Some(false) || attempt >= OWN_CONNECTION_FROM {
        return connect(origin, &pool).await;
    }
    // One request connects, and the others wait for a connection that they may share.
    let failures = pool.failures.get();
    let guard = pool.connecting.lock().await;
    let now = (origin.pool)()?;
    if let Some(link) = now.take_connection(shunned) {
        return Ok(link);
    }
    // Where nothing can be shared, or the previous attempt failed, requests do not wait for each other.
    if now.protocol() == Some(false) || pool.failures.get() != failures {
        drop(guard);
    }
    connect(origin, &now).await
}

async fn connect<P: Fn() -> Result<Rc<ConnectionPool>, Error>>(
    origin: &ExchangeOrigin<'_, P>,
    pool: &Rc<ConnectionPool>,
) -> Result<PooledConnection, Error> {
    let made = (origin.connect)(pool.offers_http1_only()).await;
    match &made {
        Ok(link) => pool.record_protocol(link.is_http2()),
        Err(_) => pool.failures.set(pool.failures.get().wrapping_add(1)),
    }
    made
}

/// Sends the request in `request` on a connection of `origin` and waits for the head of its response. A request that
/// could not be sent is put back.
pub(crate) async fn exchange<P: Fn() -> Result<Rc<ConnectionPool>, Error>>(
    origin: &ExchangeOrigin<'_, P>,
    request: &mut Option<Request<OutgoingBody>>,
    to: &RequestDestination,
    waits: &Rc<WaitTable>,
    limit: Duration,
) -> Result<(Response<MessageContent>, PooledConnection), Error> {
    let mut shunned = None;
    let upgrade = request.as_ref().is_some_and(|request| request.headers().contains_key(UPGRADE));
    for attempt in 1.. {
        let mut link = checkout(origin, attempt, shunned.as_ref(), upgrade).await?;
        let spare = match request {
            Some(request) if link.is_http2() => RetryCopy::with_content(request, origin.replay_limit),
            // A request that is exchanged directly stays whole, and needs no copy.
            Some(request) if link.is_reused() && !link.is_direct_for(request) => RetryCopy::from_idempotent(request),
            _ => None,
        };
        let failed = match link.exchange(request, to, waits, limit).await {
            Ok(response) => {
                if let Some(spare) = spare {
                    spare.release();
                }
                return Ok((response, link));
            }
            Err(failed) => failed,
        };
        let ExchangeFailure { error, unsent, sent, reused, unprocessed, needs_http1 } = failed;
        let explain = |error| origin.explain_end.and_then(|explain| explain(&link, error));
        let told = explain(None);
        if matches!(told, Some(Error::Refused { .. })) {
            // Nothing was processed, but another connection like this one would be refused as well.
            return Err(told.unwrap_or(error));
        }
        if needs_http1 && !(origin.pool)()?.require_http1() {
            return Err(Error::Http1Required);
        }
        if unprocessed {
            // A request that was not sent at all is still in its place.
            *request = request.take().or_else(|| spare.and_then(RetryCopy::into_request));
            // A connection that refuses one stream may refuse the next too: use another, if need be a new one.
            shunned = link.shared_state();
        } else if !unsent && reused && matches!(error, Error::Exchange(_)) {
            let copy = || spare.filter(RetryCopy::is_harmless).and_then(RetryCopy::into_request);
            *request = sent.filter(|sent| sent.method().is_idempotent()).map(|sent| *sent).or_else(copy);
        }
        if request.is_none() || attempt == MAX_SEND_ATTEMPTS {
            // An end without a word says something of our key pair only where no other connection gets an answer.
            let told = told.or_else(|| explain((!unprocessed).then_some(&error)));
            return Err(told.unwrap_or(error));
        }
        // The other idle connections have probably been closed too: from now on a new one is used.
    }
    Err(Error::Late)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use http::header::{HOST, HeaderValue};
    use http::uri::Scheme;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::task::{LocalSet, spawn_local};

    use super::super::forward::IDLE_CONNECTION_LIFETIME;
    use super::super::open::{ConnectionParts, open_http1};
    use super::*;

    /// A server that answers so many requests, reads one more, and ends.
    async fn answer_some(mut stream: DuplexStream, count: usize) {
        let mut seen = [0; 1024];
        for _ in 0..count {
            assert!(stream.read(&mut seen).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        }
        let _ = stream.read(&mut seen).await;
    }

    /// What is asked about the ends of connections when two requests go to servers that answer so many each: whether with the
    /// error.
    async fn explained_ends(counts: [usize; 2]) -> Vec<bool> {
        let (waits, dialled, explained) =
            (Rc::new(WaitTable::default()), Cell::new(0), RefCell::<Vec<bool>>::default());
        let pool = ConnectionPool::new(Some(false), IDLE_CONNECTION_LIFETIME, &waits);
        let connect = |_| -> ConnectFuture<'_> {
            let (ours, theirs) = tokio::io::duplex(4096);
            spawn_local(answer_some(theirs, counts[dialled.replace(dialled.get() + 1)]));
            let parts = ConnectionParts { pool: Rc::clone(&pool), tracked: None, proof: None };
            Box::pin(std::future::ready(Ok(open_http1(ours, parts))))
        };
        let explain = |_: &PooledConnection, error: Option<&Error>| {
            explained.borrow_mut().push(error.is_some());
            None
        };
        let origin = ExchangeOrigin {
            pool: || Ok(Rc::clone(&pool)),
            connect: &connect,
            replay_limit: 0,
            explain_end: Some(&explain),
        };
        let to = RequestDestination { host: HeaderValue::from_static("api.example"), scheme: Scheme::HTTP };
        for _ in 0..2 {
            let request = Request::get("/").header(HOST, "api.example").body(OutgoingBody::Empty).unwrap();
            let answered = exchange(&origin, &mut Some(request), &to, &waits, IDLE_CONNECTION_LIFETIME).await;
            if let Ok((response, link)) = answered {
                drop(response);
                link.finish();
            }
        }
        explained.take()
    }

    #[tokio::test]
    async fn an_end_without_a_word_is_explained_only_where_no_other_connection_answers() {
        let test = async {
            // The first connection ends after one answer; the request that met its end is sent again.
            assert_eq!(explained_ends([1, 1]).await, [false]);
            assert_eq!(explained_ends([1, 0]).await, [false, false, true]);
        };
        LocalSet::new().run_until(test).await;
    }
}
