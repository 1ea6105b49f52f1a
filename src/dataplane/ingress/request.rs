//! An accepted peer: its requests, checked, allowed, cleaned, and forwarded to the backend with its identity.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use super::jwt;
use crate::clock::deadlines::WaitTable;
use crate::dataplane::admission::PartnerSlot;
use crate::dataplane::connection::{ConnectionGuard, ConnectionLimit, ConnectionState, ConnectionView as OpenView};
use crate::dataplane::exchange::access::{AccessLineTemplate, AccessRecord, ClientFields, RequestContext};
use crate::dataplane::exchange::forward;
use crate::dataplane::exchange::forward::{OutboundRequest, RefusalContext, check_field_count, refuse};
use crate::dataplane::exchange::link::{ConnectionParts, PooledConnection, RequestDestination};
use crate::dataplane::exchange::pool::{ConnectionPool, ConnectionProvider};
use crate::dataplane::listener::WorkerListener;
use crate::dataplane::serve::RequestHandler;
use crate::dataplane::worker::Worker;
use crate::dataplane::workers::ConnectionSlot;
use crate::http::body::ResponseBody;
use crate::http::error::RequestError as Error;
use crate::http::fields::{BackendFields, ForwardingPolicy, StripList, clean_request};
use crate::http::target;
use crate::metrics;
use crate::net::dial::{self, DialOptions};
use crate::net::{BackendAddress, KEEPALIVE_INTERVAL};
use crate::snapshot::ingress::IngressSettings;
use crate::snapshot::{IngressSnapshot, Side};
use crate::tls::ClientAuth;
use crate::trust::{Peer, PeerRole};

/// How long a backend's address is used before it is looked up again.
const BACKEND_DNS_REFRESH: Duration = Duration::from_secs(30);

/// How much of a request's content is kept in case the backend reports that it has not processed it.
const BACKEND_REPLAY_LIMIT: usize = 64 * 1024;

/// What the requests of one connection share, made once per epoch.
pub(crate) struct IngressView {
    ingress: Arc<IngressSnapshot>,
    peer: Option<Arc<Peer>>,
    for_backend: BackendFields,
    strip: Rc<StripList>,
    pool: Rc<ConnectionPool>,
    access: Rc<AccessLineTemplate>,
    host: target::HostCache,
}

/// One connection of a peer.
pub(crate) struct IngressConnection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: Rc<WorkerListener>,
    pub(crate) tracked: Rc<ConnectionGuard>,
    pub(crate) from: Option<SocketAddr>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The server name of the handshake, in lower case.
    pub(crate) server_name: Option<Arc<str>>,
    /// Counted until the connection ends.
    pub(crate) _place: Option<PartnerSlot>,
    pub(crate) _slot: ConnectionSlot,
    pub(crate) _counted: metrics::OpenConnectionGuard,
}

impl IngressConnection {
    /// What requests need from the snapshot: created by an epoch's first request, which verifies the peer again.
    fn view(&self) -> Result<Rc<IngressView>, Error> {
        if let OpenView::Ingress(view) = &*self.tracked.open.view.borrow() {
            return Ok(Rc::clone(view));
        }
        let ingress = self.worker.ingress(&self.listener.id.name).ok_or(Error::NoKeyPair)?;
        let peer = if self.chain.is_empty() && ingress.settings.client_auth == ClientAuth::Optional {
            None
        } else {
            let verified = ingress.trust.verify(&self.chain, &PeerRole::Client, self.worker.clock().now())?;
            Some(Peer::new(verified, &ingress.partners))
        };
        let settings = &ingress.settings;
        let asker = ClientFields {
            side: Side::Ingress,
            listener: &settings.name,
            connection: self.tracked.open.number,
            from: self.from,
            peer: peer.as_deref(),
        };
        let view = Rc::new(IngressView {
            for_backend: BackendFields::new(peer.as_deref(), self.from.map(|from| from.ip()), settings.identity)
                .with_continuation(settings.forwarded_from.iter().any(|matcher| matcher.matches(peer.as_deref()))),
            strip: Rc::new(strip_list(settings)),
            pool: self.worker.backend(&settings.backend),
            access: AccessLineTemplate::new(&self.listener.desk, settings.log_access, &asker),
            peer,
            ingress,
            host: target::HostCache::default(),
        });
        *self.tracked.open.view.borrow_mut() = OpenView::Ingress(Rc::clone(&view));
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
    ) -> Result<(OutboundRequest, RequestDestination), Error> {
        let settings = &view.ingress.settings;
        let host = target::request_host(&request, &view.host)?;
        if settings.keyrings.len() > 1
            && let Some(named) = &self.server_name
            && !target::names_server(&host, named)
        {
            return Err(Error::Misdirected { named: named.to_string() });
        }
        check_field_count(request.headers(), &settings.limits)?;
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
            let (peer, now) = (view.peer.as_deref(), self.worker.clock().now());
            let accepted = jwt::check_token(verifier, peer, request.headers(), now)?;
            self.worker.shared.used.record_use(&settings.name, &accepted, now)?;
        }
        let forwarding =
            if view.for_backend.continues() { ForwardingPolicy::Continue } else { ForwardingPolicy::Strip };
        let cleaned = clean_request(request.headers_mut(), &view.strip, forwarding)?;
        view.for_backend.apply_to(request.headers_mut(), &host);
        let outbound = OutboundRequest::new(request, &host, cleaned, &self.forward_context(view));
        Ok((outbound, RequestDestination { host, scheme: Scheme::HTTP }))
    }

    fn forward_context<'a>(&'a self, view: &'a IngressView) -> forward::ForwardContext<'a> {
        forward::ForwardContext {
            limits: &view.ingress.settings.limits,
            strip: &view.strip,
            waits: self.worker.waits(),
        }
    }
}

impl RequestHandler for IngressConnection {
    fn state(&self) -> &Rc<ConnectionState> {
        &self.tracked.open
    }

    fn request_context(&self) -> &RequestContext {
        &self.listener.desk
    }

    fn waits(&self) -> &Rc<WaitTable> {
        self.worker.waits()
    }

    fn record_unread(&self) {
        self.worker.report_limit(&self.tracked.open, ConnectionLimit::Unread);
    }

    async fn answer(self: Rc<Self>, request: Request<Incoming>) -> Response<ResponseBody> {
        let open = &self.tracked.open;
        let listener = &self.listener.id.name;
        let http2 = request.version() == Version::HTTP_2;
        let asked = RefusalContext { side: Side::Ingress, listener, connection: open.number, http2 };
        let flight = open.begin_flight();
        let view = match self.view() {
            Ok(view) => view,
            Err(error) => return refuse(&open.notes.explain(error), &asked, None),
        };
        let mut record = Some(AccessRecord::start(&view.access, &request, flight));
        if let Some(answer) = self.key_set(&view, &request, &mut record) {
            return answer;
        }
        let sent = match self.prepare(&view, request) {
            Ok((mut outbound, to)) => {
                let towards = BackendRef { worker: &self.worker, view: &view };
                forward::send(&towards, &mut outbound, &to, &self.forward_context(&view), &mut record).await
            }
            Err(error) => Err(error),
        };
        sent.unwrap_or_else(|error| refuse(&open.notes.explain(error), &asked, record))
    }
}

/// What is stripped besides the fixed names: where rules name paths or methods, also the fields by which some
/// frameworks let a request override the one in its first line.
fn strip_list(settings: &IngressSettings) -> StripList {
    let mut names = settings.also_strip.clone();
    let mut also = |more: &[&str]| names.extend(more.iter().map(|name| (*name).to_owned()));
    if settings.rules.name_paths() {
        also(&["x-original-url", "x-rewrite-url", "x-original-uri"]);
    }
    if settings.rules.rules.iter().any(|rule| !rule.methods.is_empty()) {
        also(&["x-http-method-override", "x-http-method", "x-method-override"]);
    }
    StripList::new(&names)
}

/// The backend, as a request's destination.
struct BackendRef<'a> {
    worker: &'a Rc<Worker>,
    view: &'a IngressView,
}

impl ConnectionProvider for BackendRef<'_> {
    fn pool(&self) -> Result<Rc<ConnectionPool>, Error> {
        Ok(Rc::clone(&self.view.pool))
    }

    async fn connect(&self, http1: bool) -> Result<PooledConnection, Error> {
        let settings = &self.view.ingress.settings;
        if http1 && matches!(settings.backend, BackendAddress::H2c(_)) {
            return Err(Error::UpgradeNeedsHttp1);
        }
        let most = self.worker.connection_share(settings.limits.connections);
        if self.view.pool.open_connections() >= most {
            return Err(Error::UsedUp(format!("{most} are open, this worker's share of limits.connections")));
        }
        let deadline = Instant::now() + settings.limits.connect;
        let terms = DialOptions { deadline, keepalive: Some(KEEPALIVE_INTERVAL), refresh: BACKEND_DNS_REFRESH };
        let ends = ConnectionParts { home: Rc::clone(&self.view.pool), tracked: None, proof: None };
        let stream = match &settings.backend {
            BackendAddress::Http(to) | BackendAddress::H2c(to) => self.worker.dialler().connect_tcp(to, terms).await,
            BackendAddress::Unix(path) => dial::connect_unix(path, deadline).await,
        };
        let stream = stream.map_err(Error::from_dial_error)?;
        match &settings.backend {
            BackendAddress::Http(_) | BackendAddress::Unix(_) => PooledConnection::handshake_http1(stream, ends).await,
            BackendAddress::H2c(_) => PooledConnection::handshake_http2(stream, ends).await,
        }
    }

    fn replay_limit(&self) -> usize {
        BACKEND_REPLAY_LIMIT
    }

    fn on_response(&self, _: &PooledConnection, _: http::StatusCode) {}

    fn on_failure(&self, _: &PooledConnection) -> Option<Error> {
        None
    }
}
