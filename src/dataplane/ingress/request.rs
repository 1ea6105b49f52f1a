//! An accepted peer: its requests, checked, allowed, cleaned, and forwarded to the backend with its identity.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::jwt;
use super::resources::IngressResources;
use super::view::IngressView;
use crate::dataplane::admission::PartnerSlot;
use crate::dataplane::connection::ConnectionGuard;
use crate::dataplane::connection::view::{ConnectionOwner, ViewSlot};
use crate::dataplane::context::{ListenerContext, WorkerContext};
use crate::dataplane::exchange::access::AccessRecord;
use crate::dataplane::exchange::forward::{self, ForwardContext, OutboundRequest, RequestFailure, check_head_size};
use crate::dataplane::exchange::link::PooledConnection;
use crate::dataplane::exchange::open::{ConnectionParts, open_http1, open_http2};
use crate::dataplane::exchange::origin::{ConnectFuture, ExchangeOrigin};
use crate::dataplane::exchange::response_body::ResponseBody;
use crate::dataplane::exchange::shape::RequestDestination;
use crate::dataplane::serve::{RequestHandler, ServedConnection};
use crate::dataplane::shared::ConnectionSlot;
use crate::http::error::RequestError as Error;
use crate::http::fields::{ForwardingPolicy, clean_request};
use crate::http::interim::InterimSender;
use crate::http::target;
use crate::metrics;
use crate::net::dial::{self, DialOptions};
use crate::net::{BackendAddress, KEEPALIVE_INTERVAL};
use crate::snapshot::Epoch;

/// How long a backend's address is used before it is looked up again.
const BACKEND_DNS_REFRESH: Duration = Duration::from_secs(30);

/// How much of a request's content is kept in case the backend reports that it has not processed it.
const BACKEND_REPLAY_LIMIT: usize = 64 * 1024;

/// One connection of a peer.
pub(super) struct IngressConnection {
    pub(super) resources: Rc<IngressResources>,
    pub(super) listener: Rc<ListenerContext>,
    pub(super) tracked: Rc<ConnectionGuard>,
    pub(super) view: ViewSlot<IngressView>,
    /// The epoch in which it was said which identity fields are left out of its requests.
    pub(super) told_left_out: Cell<Option<Epoch>>,
    pub(super) from: Option<SocketAddr>,
    /// The server name of the handshake, in lower case.
    pub(super) server_name: Option<Arc<str>>,
    /// Counted until the connection ends.
    pub(super) _place: Option<PartnerSlot>,
    pub(super) _slot: ConnectionSlot,
    pub(super) _counted: metrics::OpenConnectionGuard,
}

impl IngressConnection {
    /// What requests need from the snapshot: created by the first request of an epoch or after a rest, which verifies the peer
    /// again.
    fn view(&self) -> Result<Rc<IngressView>, Error> {
        let epoch = self.resources.context.epoch();
        if let Some(view) = self.view.view(epoch) {
            return Ok(view);
        }
        let (number, name) = (self.tracked.open.number, &self.listener.id.name);
        let ingress = self.resources.context.ingress(name).ok_or(Error::NoKeyPair)?;
        let view = Rc::new(IngressView::new(
            &self.resources,
            &self.listener.request_context,
            ingress,
            (number, self.from, &self.tracked.open.facts.chain),
        )?);
        if self.told_left_out.replace(Some(epoch)) != Some(epoch) {
            view.report_left_out(number);
        }
        self.view.set_view(epoch, &view);
        Ok(view)
    }

    /// The JWK Set, for peers that the rules allow to request its path.
    fn key_set(
        &self,
        view: &IngressView,
        request: &Request<Incoming>,
        record: &mut Option<AccessRecord>,
    ) -> Option<Response<ResponseBody>> {
        view.ingress.key_set.as_ref()?;
        target::request_host(request, &view.host).ok()?;
        let method = request.method();
        let rules = &view.ingress.settings.rules;
        let path = rules.decide(view.peer.as_deref(), method.as_str(), request.uri().path()).ok()?;
        jwt::serve_key_set(&view.ingress, method, &path, record)
    }

    /// Checks, allows and cleans a request. Nothing here waits.
    fn prepare(
        &self,
        view: &IngressView,
        mut request: Request<Incoming>,
        interim: Option<InterimSender>,
    ) -> Result<(OutboundRequest, RequestDestination), Error> {
        let settings = &view.ingress.settings;
        let host = target::request_host(&request, &view.host)?;
        if settings.keyrings.len() > 1
            && let Some(named) = &self.server_name
            && !target::names_server(&host, named)
        {
            return Err(Error::Misdirected { named: named.to_string() });
        }
        check_head_size(&request, &settings.limits)?;
        let decided = settings.rules.decide(view.peer.as_deref(), request.method().as_str(), request.uri().path())?;
        let uri = match (decided, request.uri().authority()) {
            (std::borrow::Cow::Borrowed(_), None) => None,
            (std::borrow::Cow::Borrowed(_), Some(_)) => Some(target::origin_form(request.uri(), None)?),
            (std::borrow::Cow::Owned(path), _) => Some(target::origin_form(request.uri(), Some(&path))?),
        };
        if let Some(uri) = uri {
            *request.uri_mut() = uri;
        }
        if let Some(verifier) = &view.ingress.jwt {
            let (peer, now) = (view.peer.as_deref(), self.resources.context.clock().now());
            let accepted = jwt::check_token(verifier, peer, request.headers(), now)?;
            let client = view.peer.as_deref().map(|peer| peer.certificate().fingerprint());
            let client = client.unwrap_or(accepted.certificate);
            self.resources.used.record_use(&settings.name, &accepted, client, now)?;
        }
        let forwarding =
            if view.for_backend.continues() { ForwardingPolicy::Continue } else { ForwardingPolicy::Strip };
        let cleaned = clean_request(request.headers_mut(), &view.strip, forwarding)?;
        view.for_backend.apply_to(request.headers_mut(), &host);
        let outbound = OutboundRequest::new(request, interim, &host, cleaned, &self.forward_context(view));
        Ok((outbound, RequestDestination { host, scheme: Scheme::HTTP }))
    }

    fn forward_context<'a>(&'a self, view: &'a IngressView) -> ForwardContext<'a> {
        ForwardContext {
            limits: &view.ingress.settings.limits,
            strip: &view.strip,
            waits: self.resources.context.waits(),
            client: &self.tracked.open.activity,
        }
    }
}

impl RequestHandler for IngressConnection {
    fn connection(&self) -> ServedConnection<'_> {
        ServedConnection {
            state: &self.tracked.open,
            requests: &self.listener.request_context,
            worker: &self.resources.context,
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        interim: Option<InterimSender>,
    ) -> Result<Response<ResponseBody>, RequestFailure> {
        let flight = self.tracked.open.begin_flight();
        let view = self.view().map_err(|error| RequestFailure { error, record: None })?;
        let mut record = Some(AccessRecord::start(&view.access, &request, flight));
        if let Some(answer) = self.key_set(&view, &request, &mut record) {
            return Ok(answer);
        }
        let sent = match self.prepare(&view, request, interim) {
            Ok((mut outbound, to)) => {
                let pool = || Ok(Rc::clone(&view.pool));
                let connect = |http1| -> ConnectFuture<'_> { Box::pin(connect(&self.resources.context, &view, http1)) };
                let origin =
                    ExchangeOrigin { pool, connect: &connect, replay_limit: BACKEND_REPLAY_LIMIT, explain_end: None };
                forward::send(&origin, &mut outbound, &to, &self.forward_context(&view), &mut record).await
            }
            Err(error) => Err(error),
        };
        sent.map_err(|error| RequestFailure { error, record })
    }
}

impl ConnectionOwner for IngressConnection {
    fn forget_view(&self) {
        self.view.clear_view();
    }
}

/// Establishes a connection to the backend.
async fn connect(context: &WorkerContext, view: &IngressView, http1: bool) -> Result<PooledConnection, Error> {
    let settings = &view.ingress.settings;
    if http1 && matches!(settings.backend, BackendAddress::H2c(_)) {
        return Err(Error::UpgradeNeedsHttp1);
    }
    let most = context.shared.connection_share(settings.limits.connections);
    if view.pool.open_connections() >= most {
        return Err(Error::UsedUp(format!("{most} are open, this worker's share of limits.connections")));
    }
    let deadline = Instant::now() + settings.limits.connect;
    let terms =
        DialOptions { deadline, keepalive: Some(KEEPALIVE_INTERVAL), refresh: BACKEND_DNS_REFRESH, prefer: None };
    let parts = ConnectionParts { pool: Rc::clone(&view.pool), tracked: None, proof: None };
    let stream = match &settings.backend {
        BackendAddress::Http(to) | BackendAddress::H2c(to) => context.dialler().connect_tcp(to, terms).await,
        BackendAddress::Unix(path) => dial::connect_unix(path, deadline).await,
    };
    let stream = stream.map_err(Error::from_dial_error)?;
    match &settings.backend {
        BackendAddress::Http(_) | BackendAddress::Unix(_) => Ok(open_http1(stream, parts)),
        BackendAddress::H2c(_) => open_http2(stream, parts).await,
    }
}
