//! A worker's connections to one backend, or to one upstream with one key pair: idle HTTP/1.1, shared HTTP/2.
//!
//! A request that could not be sent uses another connection. So does one that the server reports as not processed (RFC
//! 9113 8.7), if its content is still there, and an idempotent one without content on a connection that was not new:
//! the server may have closed it in the same moment (RFC 9110 9.2.2, RFC 9112 9.3.1). Nothing else is ever sent twice.

mod spare;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use http::header::UPGRADE;
use http::{Request, Response};
use hyper::body::Incoming;

use super::link::{
    ExchangeFailure, OpenCountGuard, PooledConnection, RequestDestination, SharedConnection, SharedStreamState,
};
use crate::clock::deadlines::{Ticks, WaitTable};
use crate::http::body::OutgoingBody;
use crate::http::error::RequestError as Error;
use spare::RetryCopy;

/// Idle HTTP/1.1 connections of one pool; those beyond it close.
const MAX_IDLE_CONNECTIONS: usize = 256;
/// How often a request may be sent, the first time included.
const MAX_SEND_ATTEMPTS: usize = 3;

/// The connections.
pub(crate) struct ConnectionPool {
    idle: RefCell<Vec<PooledConnection>>,
    shared: RefCell<Vec<SharedConnection>>,
    /// Whether the server speaks HTTP/2; `None` until the first connection.
    http2: Cell<Option<bool>>,
    /// Held while a connection is established that others may share.
    connecting: tokio::sync::Mutex<()>,
    /// Connections that could not be established.
    failures: Cell<u32>,
    /// Connections that are open: idle, lent or shared.
    open: Rc<Cell<usize>>,
    keep: u32,
    waits: Rc<WaitTable>,
}

/// Provides connections for requests: the pool to use now, and how a new connection for it is established.
pub(crate) trait ConnectionProvider {
    /// The pool to take from; called again after waiting, as the result may change.
    fn pool(&self) -> Result<Rc<ConnectionPool>, Error>;
    /// Establishes a connection; with `http1` one that speaks HTTP/1.1, where there is a choice.
    async fn connect(&self, http1: bool) -> Result<PooledConnection, Error>;
    /// How much of a request's content is kept, in bytes, where it may have to be sent again.
    fn replay_limit(&self) -> usize;
    /// Called for every response head.
    fn on_response(&self, link: &PooledConnection, status: http::StatusCode);
    /// Called for a connection on which a request got no response: returns a more precise error, if there is one.
    fn on_failure(&self, link: &PooledConnection) -> Option<Error>;
}

impl ConnectionPool {
    /// An empty pool; idle connections are kept for `keep`. `http2` is the protocol, where it is known.
    pub(crate) fn new(http2: Option<bool>, keep: Duration, waits: &Rc<WaitTable>) -> Rc<Self> {
        Rc::new(Self {
            idle: RefCell::default(),
            shared: RefCell::default(),
            http2: Cell::new(http2),
            connecting: tokio::sync::Mutex::new(()),
            failures: Cell::new(0),
            open: Rc::default(),
            keep: Ticks::from_duration(keep),
            waits: Rc::clone(waits),
        })
    }

    /// The worker's time.
    pub(crate) fn now(&self) -> Ticks {
        self.waits.now()
    }

    /// The worker's deadlines.
    pub(crate) fn waits(&self) -> &Rc<WaitTable> {
        &self.waits
    }

    /// Counts a new connection.
    pub(crate) fn count_connection(&self) -> OpenCountGuard {
        OpenCountGuard::new(&self.open)
    }

    /// How many connections are open.
    pub(crate) fn open_connections(&self) -> usize {
        self.open.get()
    }

    /// Returns an idle connection to the pool.
    pub(crate) fn put_back(&self, link: PooledConnection) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MAX_IDLE_CONNECTIONS {
            idle.push(link);
        }
    }

    /// Adds a connection that requests share.
    pub(crate) fn add_shared(&self, shared: SharedConnection) {
        self.shared.borrow_mut().push(shared);
    }

    /// An existing connection, the one used last first; none that this request avoids.
    pub(crate) fn take_connection(
        self: &Rc<Self>,
        shunned: Option<&Rc<SharedStreamState>>,
    ) -> Option<PooledConnection> {
        let may = |shared: &SharedConnection| {
            shared.is_lendable(self.now(), u32::MAX) && !shunned.is_some_and(|one| shared.has_state(one))
        };
        let lent = self.shared.borrow().iter().find_map(|shared| if may(shared) { shared.lend(self) } else { None });
        if lent.is_some() {
            return lent;
        }
        loop {
            let mut link = self.idle.borrow_mut().pop()?;
            if link.is_alive() {
                return Some(link);
            }
        }
    }

    /// Closes all: requests in progress finish, and the next request opens a new connection.
    pub(crate) fn close_all(&self) {
        // Dropped when nothing is borrowed any more, as in `sweep`.
        let gone = (self.idle.take(), self.shared.take());
        drop(gone);
    }

    /// Removes connections that are closed, draining, or idle for too long.
    pub(crate) fn sweep(&self) {
        let (now, limit) = (self.now(), self.keep);
        // Dropping a connection runs code that may access this pool: nothing is borrowed meanwhile.
        let idle = self.idle.take();
        let (keep, gone): (Vec<_>, Vec<_>) = idle
            .into_iter()
            .map(|mut link| (link.is_alive() && link.idle_for(now) < limit, link))
            .partition(|(keep, _)| *keep);
        drop(gone);
        let mut keep: Vec<_> = keep.into_iter().map(|(_, link)| link).collect();
        let mut idle = self.idle.borrow_mut();
        keep.append(&mut idle);
        *idle = keep;
        drop(idle);
        let shared = self.shared.take();
        let keep: Vec<_> = shared.into_iter().filter(|shared| shared.is_lendable(now, limit)).collect();
        self.shared.borrow_mut().extend(keep);
    }

    /// Whether it holds no connection.
    pub(crate) fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty() && self.shared.borrow().is_empty()
    }
}

/// A connection to send on: an existing one, or a new one. An upgrade needs HTTP/1.1: where the server has chosen
/// HTTP/2, it gets a separate connection.
async fn checkout(
    origin: &impl ConnectionProvider,
    fresh: bool,
    shunned: Option<&Rc<SharedStreamState>>,
    upgrade: bool,
) -> Result<PooledConnection, Error> {
    let pool = origin.pool()?;
    if upgrade && pool.http2.get() != Some(false) {
        return Box::pin(origin.connect(true)).await;
    }
    if !fresh && let Some(link) = pool.take_connection(shunned) {
        return Ok(link);
    }
    if pool.http2.get() == Some(false) {
        return connect(origin, &pool).await;
    }
    // One request connects, and the others wait for a connection that they may share.
    let failures = pool.failures.get();
    let guard = pool.connecting.lock().await;
    let now = origin.pool()?;
    if let Some(link) = now.take_connection(shunned) {
        return Ok(link);
    }
    // Where nothing can be shared, or the previous attempt failed, requests do not wait for each other.
    if now.http2.get() == Some(false) || pool.failures.get() != failures {
        drop(guard);
    }
    connect(origin, &now).await
}

async fn connect(origin: &impl ConnectionProvider, pool: &Rc<ConnectionPool>) -> Result<PooledConnection, Error> {
    // Boxed: a handshake's future is large, and most requests never need it.
    let made = Box::pin(origin.connect(false)).await;
    match &made {
        Ok(link) => pool.http2.set(Some(link.is_http2())),
        Err(_) => pool.failures.set(pool.failures.get().wrapping_add(1)),
    }
    made
}

/// Sends the request in `request` on a connection of `origin` and waits for the head of its response. A request that
/// could not be sent is put back.
pub(crate) async fn exchange(
    origin: &impl ConnectionProvider,
    request: &mut Option<Request<OutgoingBody>>,
    to: &RequestDestination,
    waits: &Rc<WaitTable>,
    limit: Duration,
) -> Result<(Response<Incoming>, PooledConnection), Error> {
    let (mut fresh, mut shunned) = (false, None);
    let upgrade = request.as_ref().is_some_and(|request| request.headers().contains_key(UPGRADE));
    for attempt in 1.. {
        let mut link = checkout(origin, fresh, shunned.as_ref(), upgrade).await?;
        let spare = match request {
            Some(request) if link.is_http2() => RetryCopy::with_content(request, origin.replay_limit()),
            Some(request) if link.is_reused() => RetryCopy::from_idempotent(request),
            _ => None,
        };
        let failed = match link.exchange(request, to, waits, limit).await {
            Ok(response) => {
                origin.on_response(&link, response.status());
                if let Some(spare) = spare {
                    spare.release();
                }
                return Ok((response, link));
            }
            Err(failed) => failed,
        };
        let ExchangeFailure { error, unsent, reused, unprocessed } = failed;
        let told = origin.on_failure(&link);
        if matches!(told, Some(Error::Refused { .. })) {
            // Nothing was processed, but another connection like this one would be refused as well.
            return Err(told.unwrap_or(error));
        }
        if unprocessed {
            *request = spare.and_then(RetryCopy::into_request);
            // A connection that refuses one stream may refuse the next too: use another, if need be a new one.
            shunned = link.shared_state();
        } else if !unsent && reused && matches!(error, Error::Exchange(_)) {
            *request = spare.filter(RetryCopy::is_harmless).and_then(RetryCopy::into_request);
        }
        if request.is_none() || attempt == MAX_SEND_ATTEMPTS {
            return Err(told.unwrap_or(error));
        }
        // The other idle connections have probably been closed too.
        fresh = true;
    }
    Err(Error::Late)
}
