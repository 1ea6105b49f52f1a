//! A worker's connections to one backend, or to one upstream with one key pair: idle HTTP/1.1, shared HTTP/2.
//!
//! A request that could not be sent goes to another connection. So does one that the other side says it has not processed (RFC 9113
//! 8.7), if its content is still there, and an idempotent one without content whose connection was not new: its other end may
//! have closed it in the same moment (RFC 9110 9.2.2, RFC 9112 9.3.1). Nothing else is ever sent twice.

mod spare;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use http::header::UPGRADE;
use http::{Request, Response};
use hyper::body::Incoming;

use super::Error;
use super::body::Outgoing;
use super::link::{Common, Counted, Destination, Link, Shared, Unanswered};
use super::waits::{Ticks, Waits};
use spare::Spare;

/// Idle HTTP/1.1 connections of one pool; those beyond it close.
const IDLE: usize = 256;
/// How often a request may be sent, the first time included.
const ATTEMPTS: usize = 3;

/// The connections.
pub(super) struct Pool {
    idle: RefCell<Vec<Link>>,
    shared: RefCell<Vec<Shared>>,
    /// What the other side has chosen to speak; `None` until the first connection.
    http2: Cell<Option<bool>>,
    /// Held while a connection is made that others may share.
    connecting: tokio::sync::Mutex<()>,
    /// Connections that could not be made.
    failures: Cell<u32>,
    /// Connections that are open: idle, lent or shared.
    open: Rc<Cell<usize>>,
    keep: u32,
    waits: Rc<Waits>,
}

/// Where requests go: which pool now, and how a connection for it is made.
pub(super) trait Origin {
    /// The pool to take from; asked again after waiting, as the answer may change.
    fn pool(&self) -> Result<Rc<Pool>, Error>;
    /// Makes a connection; with `http1` one that speaks HTTP/1.1, where there is a choice.
    async fn connect(&self, http1: bool) -> Result<Link, Error>;
    /// How much of a request's content is kept, in bytes, where it may have to be sent again.
    fn replay_limit(&self) -> usize;
    /// Told of every response head.
    fn answered(&self, link: &Link, status: http::StatusCode);
    /// Told of a connection on which a request got no response: what it means, if more than the error says.
    fn failed(&self, link: &Link) -> Option<Error>;
}

impl Pool {
    /// Empty; idle connections are kept for `keep`. `http2` is what will be spoken, where it is known.
    pub(super) fn new(http2: Option<bool>, keep: Duration, waits: &Rc<Waits>) -> Rc<Self> {
        Rc::new(Self {
            idle: RefCell::default(),
            shared: RefCell::default(),
            http2: Cell::new(http2),
            connecting: tokio::sync::Mutex::new(()),
            failures: Cell::new(0),
            open: Rc::default(),
            keep: Ticks::of(keep),
            waits: Rc::clone(waits),
        })
    }

    /// The worker's time.
    pub(super) fn now(&self) -> Ticks {
        self.waits.now()
    }

    /// The worker's deadlines.
    pub(super) fn waits(&self) -> &Rc<Waits> {
        &self.waits
    }

    /// Counts a connection in.
    pub(super) fn count(&self) -> Counted {
        Counted::one_more(&self.open)
    }

    /// How many connections are open.
    pub(super) fn open(&self) -> usize {
        self.open.get()
    }

    /// Takes an idle connection back.
    pub(super) fn put(&self, link: Link) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE {
            idle.push(link);
        }
    }

    /// Takes a connection in that everybody shares.
    pub(super) fn share(&self, shared: Shared) {
        self.shared.borrow_mut().push(shared);
    }

    /// A connection that is there, the one used last first; none that this request shuns.
    pub(super) fn take(self: &Rc<Self>, shunned: Option<&Rc<Common>>) -> Option<Link> {
        let may = |shared: &Shared| shared.keeps(self.now(), u32::MAX) && !shunned.is_some_and(|one| shared.is(one));
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

    /// Lets go of all: what runs ends, and the next request makes a new connection.
    pub(super) fn let_go(&self) {
        // Dropped when nothing is borrowed any more, as in `sweep`.
        let gone = (self.idle.take(), self.shared.take());
        drop(gone);
    }

    /// Lets go of what is closed, told to leave, or idle for too long.
    pub(super) fn sweep(&self) {
        let (now, limit) = (self.now(), self.keep);
        // Dropping a connection runs code that may look at this pool: nothing is borrowed meanwhile.
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
        let keep: Vec<_> = shared.into_iter().filter(|shared| shared.keeps(now, limit)).collect();
        self.shared.borrow_mut().extend(keep);
    }

    /// Whether nothing is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty() && self.shared.borrow().is_empty()
    }
}

/// A connection to send on: one that is there, or a new one. For an upgrade that is one of HTTP/1.1: where the other side has
/// chosen HTTP/2, a connection beside the others.
async fn checkout(
    origin: &impl Origin,
    fresh: bool,
    shunned: Option<&Rc<Common>>,
    upgrade: bool,
) -> Result<Link, Error> {
    let pool = origin.pool()?;
    if upgrade && pool.http2.get() != Some(false) {
        return Box::pin(origin.connect(true)).await;
    }
    if !fresh && let Some(link) = pool.take(shunned) {
        return Ok(link);
    }
    if pool.http2.get() == Some(false) {
        return connect(origin, &pool).await;
    }
    // One connects, and the others wait for what they may share.
    let failures = pool.failures.get();
    let guard = pool.connecting.lock().await;
    let now = origin.pool()?;
    if let Some(link) = now.take(shunned) {
        return Ok(link);
    }
    // Where nothing can be shared, or the one before had no luck, nobody waits for anybody.
    if now.http2.get() == Some(false) || pool.failures.get() != failures {
        drop(guard);
    }
    connect(origin, &now).await
}

async fn connect(origin: &impl Origin, pool: &Rc<Pool>) -> Result<Link, Error> {
    // Boxed: a handshake's future is large, and most requests never need it.
    let made = Box::pin(origin.connect(false)).await;
    match &made {
        Ok(link) => pool.http2.set(Some(link.is_http2())),
        Err(_) => pool.failures.set(pool.failures.get().wrapping_add(1)),
    }
    made
}

/// Sends the request in `request` where `origin` says and waits for the head of its response. If it could not be sent, it
/// is in its place again.
pub(super) async fn exchange(
    origin: &impl Origin,
    request: &mut Option<Request<Outgoing>>,
    to: &Destination,
    waits: &Rc<Waits>,
    limit: Duration,
) -> Result<(Response<Incoming>, Link), Error> {
    let (mut fresh, mut shunned) = (false, None);
    let upgrade = request.as_ref().is_some_and(|request| request.headers().contains_key(UPGRADE));
    for attempt in 1.. {
        let mut link = checkout(origin, fresh, shunned.as_ref(), upgrade).await?;
        let spare = match request {
            Some(request) if link.is_http2() => Spare::whole(request, origin.replay_limit()),
            Some(request) if link.is_reused() => Spare::of(request),
            _ => None,
        };
        let failed = match link.exchange(request, to, waits, limit).await {
            Ok(response) => {
                origin.answered(&link, response.status());
                if let Some(spare) = spare {
                    spare.let_go();
                }
                return Ok((response, link));
            }
            Err(failed) => failed,
        };
        let Unanswered { error, unsent, reused, unprocessed } = failed;
        let told = origin.failed(&link);
        if matches!(told, Some(Error::Refused { .. })) {
            // Nothing was processed, but another connection like this one would be refused as well.
            return Err(told.unwrap_or(error));
        }
        if unprocessed {
            *request = spare.and_then(Spare::into_request);
            // What refuses a stream may refuse the next one too: another connection, if need be a new one.
            shunned = link.common();
        } else if !unsent && reused && matches!(error, Error::Exchange(_)) {
            *request = spare.filter(Spare::is_harmless).and_then(Spare::into_request);
        }
        if request.is_none() || attempt == ATTEMPTS {
            return Err(told.unwrap_or(error));
        }
        // What was idle beside a connection that is gone has probably gone too.
        fresh = true;
    }
    Err(Error::Late)
}
