//! Asks an upstream without a certificate: what it answers alike to everyone proves no key pair.
//!
//! A probe asks for its path, and a request that only reads for its own where a refusal is open. The handshake shows no certificate
//! on purpose, so it leaves no handshake event: a refusal is the good outcome. Only an answer or an alert about certificates decides; an end
//! of the connection may have any other reason.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use http::Request;
use tokio::time::{Instant, timeout_at};

use super::resources::UpstreamRef;
use crate::dataplane::exchange::link::PooledConnection;
use crate::dataplane::exchange::open::{ConnectionParts, open_http1, open_http2};
use crate::dataplane::exchange::origin::{self, ConnectFuture, ExchangeOrigin};
use crate::dataplane::exchange::pool::ConnectionPool;
use crate::dataplane::exchange::request_body::OutgoingBody;
use crate::dataplane::exchange::shape::RequestDestination;
use crate::evidence::proved::UncertifiedAnswer;
use crate::http::error::RequestError as Error;
use crate::net::dial::DialOptions;
use crate::tls::handshake::connect;
use crate::tls::recorder::{AlertRecorder, RecorderHandle};
use crate::tls::{AlpnProtocol, HandshakeFacts};

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The one connection that shows no certificate.
struct UncertifiedConnection<'a> {
    towards: UpstreamRef<'a>,
    deadline: Instant,
    prefer: Option<IpAddr>,
    pool: Rc<ConnectionPool>,
    /// The handshake has failed with an alert about certificates.
    demanded: Cell<bool>,
    /// In TLS 1.3 such an alert comes after the handshake.
    heard: RefCell<Option<(RecorderHandle, HandshakeFacts)>>,
}

/// What this request gets without a certificate, at this address first. Unknown where the upstream is not reached, is late, is not the
/// one that is meant, or ends the connection without saying why.
pub(super) async fn ask_without_certificate(
    towards: UpstreamRef<'_>,
    request: Request<OutgoingBody>,
    to: &RequestDestination,
    prefer: Option<IpAddr>,
) -> UncertifiedAnswer {
    let (waits, deadline) = (towards.context().waits(), Instant::now() + LIMIT);
    let pool = ConnectionPool::new(None, LIMIT, waits);
    let (demanded, heard) = (Cell::default(), RefCell::default());
    let asking = UncertifiedConnection { towards, deadline, prefer, pool, demanded, heard };
    let connect = |http1| -> ConnectFuture<'_> { Box::pin(asking.connect(http1)) };
    let pool = || Ok(Rc::clone(&asking.pool));
    let origin = ExchangeOrigin { pool, connect: &connect, replay_limit: 0, explain_end: None };
    let mut request = Some(request);
    let exchanged = timeout_at(deadline, origin::exchange(&origin, &mut request, to, waits, LIMIT)).await;
    let answer = match exchanged {
        Ok(Ok((response, _))) => UncertifiedAnswer::Status(response.status().as_u16()),
        _ if asking.demands_certificate() => UncertifiedAnswer::Refused,
        _ => UncertifiedAnswer::Unknown,
    };
    asking.pool.close_all();
    answer
}

impl UncertifiedConnection<'_> {
    /// Dials, performs the handshake and starts HTTP, in the version that ALPN selected.
    async fn connect(&self, http1: bool) -> Result<PooledConnection, Error> {
        let (towards, settings) = (self.towards, &self.towards.egress.settings);
        let Some(connector) = towards.egress.without_key_pair.as_ref() else { return Err(Error::Late) };
        let (deadline, prefer) = (self.deadline, self.prefer);
        let terms = DialOptions { deadline, keepalive: None, refresh: settings.dns_refresh, prefer };
        let dialled = towards.context().dialler().connect_tcp(&settings.upstream, terms).await;
        let stream = dialled.map_err(|_| Error::Late)?;
        let connector = if http1 { connector.http1() } else { connector.clone() };
        let tls = connect(stream, &connector, deadline).await.map_err(|failed| {
            self.demanded.set(failed.demands_certificate());
            Error::Late
        })?;
        if towards.egress.trust.verify_presented(&tls.chain, &settings.expects, towards.now()).is_err() {
            return Err(Error::Late);
        }
        let http2 = tls.facts.alpn == Some(AlpnProtocol::H2);
        let (stream, heard) = AlertRecorder::new(tls.stream);
        self.heard.replace(Some((heard, tls.facts)));
        let parts = ConnectionParts { pool: Rc::clone(&self.pool), tracked: None, proof: None };
        if http2 { open_http2(stream, parts).await } else { Ok(open_http1(stream, parts)) }
    }

    fn demands_certificate(&self) -> bool {
        let heard = self.heard.borrow();
        let failed = heard.as_ref().and_then(|(heard, facts)| heard.failure(facts));
        self.demanded.get() || failed.is_some_and(|failed| failed.demands_certificate())
    }
}
