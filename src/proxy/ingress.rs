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

use super::Error;
use super::access::{Asker, Desk, Prepared, Record};
use super::admission::Place;
use super::body::Body;
use super::fields::{ForBackend, Forwarding, Strip, clean_request};
use super::forward::{self, Asked, Outbound, refuse, within};
use super::jwt;
use super::link::{Destination, Ends, Link};
use super::listener::Listener;
use super::open::{Open, Reached, Tracked, View as OpenView};
use super::pool::{Origin, Pool};
use super::serve::Answers;
use super::target;
use super::waits::Waits;
use super::worker::Worker;
use super::workers::Slot;
use crate::metrics;
use crate::net::dial::{self, Terms};
use crate::net::{Backend, KEEPALIVE};
use crate::snapshot::ingress::Settings;
use crate::snapshot::{Ingress, Side};
use crate::tls::ClientAuth;
use crate::trust::{Peer, Role};

/// How long a backend's address is used before it is looked up again.
const REFRESH: Duration = Duration::from_secs(30);

/// How much of a request's content is kept in case the backend reports that it has not processed it.
const REPLAY_LIMIT: usize = 64 * 1024;

/// What the requests of one connection share, made once per epoch.
pub(super) struct View {
    ingress: Arc<Ingress>,
    peer: Option<Arc<Peer>>,
    for_backend: ForBackend,
    strip: Rc<Strip>,
    pool: Rc<Pool>,
    access: Rc<Prepared>,
    host: target::Known,
}

/// One connection of a peer.
pub(super) struct Connection {
    pub(super) worker: Rc<Worker>,
    pub(super) listener: Rc<Listener>,
    pub(super) tracked: Rc<Tracked>,
    pub(super) from: Option<SocketAddr>,
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The server name of the handshake, in lower case.
    pub(super) server_name: Option<Arc<str>>,
    /// Counted until the connection ends.
    pub(super) _place: Option<Place>,
    pub(super) _slot: Slot,
    pub(super) _counted: metrics::Open,
}

impl Connection {
    /// What requests need from the snapshot: created by an epoch's first request, which verifies the peer again.
    fn view(&self) -> Result<Rc<View>, Error> {
        if let OpenView::Ingress(view) = &*self.tracked.open.view.borrow() {
            return Ok(Rc::clone(view));
        }
        let ingress = self.worker.ingress(&self.listener.id.name).ok_or(Error::NoKeyPair)?;
        let peer = if self.chain.is_empty() && ingress.settings.client_auth == ClientAuth::Optional {
            None
        } else {
            let verified = ingress.trust.verify(&self.chain, &Role::Client, self.worker.clock().now())?;
            Some(Peer::new(verified, &ingress.partners))
        };
        let settings = &ingress.settings;
        let asker = Asker {
            side: Side::Ingress,
            listener: &settings.name,
            connection: self.tracked.open.number,
            from: self.from,
            peer: peer.as_deref(),
        };
        let view = Rc::new(View {
            for_backend: ForBackend::new(peer.as_deref(), self.from.map(|from| from.ip()), settings.identity)
                .continuing(settings.forwarded_from.iter().any(|matcher| matcher.matches(peer.as_deref()))),
            strip: Rc::new(strip(settings)),
            pool: self.worker.backend(&settings.backend),
            access: Prepared::new(&self.listener.desk, settings.log_access, &asker),
            peer,
            ingress,
            host: target::Known::default(),
        });
        *self.tracked.open.view.borrow_mut() = OpenView::Ingress(Rc::clone(&view));
        Ok(view)
    }

    /// The JWK Set, for peers that the rules allow to request its path.
    fn key_set(&self, view: &View, request: &Request<Incoming>, record: &mut Option<Record>) -> Option<Response<Body>> {
        view.ingress.key_set.as_ref()?;
        target::host(request, &view.host).ok()?;
        let method = request.method();
        let rules = &view.ingress.settings.rules;
        let path = rules.decide(view.peer.as_deref(), method.as_str(), request.uri().path()).ok()?;
        jwt::key_set(&view.ingress, method, &path, record)
    }

    /// Checks, allows and cleans a request. Nothing here waits.
    fn prepare(&self, view: &View, mut request: Request<Incoming>) -> Result<(Outbound, Destination), Error> {
        let settings = &view.ingress.settings;
        let host = target::host(&request, &view.host)?;
        if settings.keyrings.len() > 1
            && let Some(named) = &self.server_name
            && !target::is_for(&host, named)
        {
            return Err(Error::Misdirected { named: named.to_string() });
        }
        within(request.headers(), &settings.limits)?;
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
            let accepted = jwt::check(verifier, peer, request.headers(), now)?;
            self.worker.shared.used.take(&settings.name, &accepted, now)?;
        }
        let forwarding = if view.for_backend.continues() { Forwarding::Continue } else { Forwarding::Strip };
        let cleaned = clean_request(request.headers_mut(), &view.strip, forwarding)?;
        view.for_backend.set(request.headers_mut(), &host);
        let outbound = Outbound::new(request, &host, cleaned, &self.terms(view));
        Ok((outbound, Destination { host, scheme: Scheme::HTTP }))
    }

    fn terms<'a>(&'a self, view: &'a View) -> forward::Terms<'a> {
        forward::Terms { limits: &view.ingress.settings.limits, strip: &view.strip, waits: self.worker.waits() }
    }
}

impl Answers for Connection {
    fn open(&self) -> &Rc<Open> {
        &self.tracked.open
    }

    fn desk(&self) -> &Desk {
        &self.listener.desk
    }

    fn waits(&self) -> &Rc<Waits> {
        self.worker.waits()
    }

    fn unread(&self) {
        self.worker.limited(&self.tracked.open, Reached::Unread);
    }

    async fn answer(self: Rc<Self>, request: Request<Incoming>) -> Response<Body> {
        let open = &self.tracked.open;
        let listener = &self.listener.id.name;
        let http2 = request.version() == Version::HTTP_2;
        let asked = Asked { side: Side::Ingress, listener, connection: open.number, http2 };
        let flight = open.flight();
        let view = match self.view() {
            Ok(view) => view,
            Err(error) => return refuse(&open.notes.explain(error), &asked, None),
        };
        let mut record = Some(Record::begin(&view.access, &request, flight));
        if let Some(answer) = self.key_set(&view, &request, &mut record) {
            return answer;
        }
        let sent = match self.prepare(&view, request) {
            Ok((mut outbound, to)) => {
                let towards = Towards { worker: &self.worker, view: &view };
                forward::send(&towards, &mut outbound, &to, &self.terms(&view), &mut record).await
            }
            Err(error) => Err(error),
        };
        sent.unwrap_or_else(|error| refuse(&open.notes.explain(error), &asked, record))
    }
}

/// What is stripped besides the fixed names: where rules name paths or methods, also the fields by which some
/// frameworks let a request override the one in its first line.
fn strip(settings: &Settings) -> Strip {
    let mut names = settings.also_strip.clone();
    let mut also = |more: &[&str]| names.extend(more.iter().map(|name| (*name).to_owned()));
    if settings.rules.name_paths() {
        also(&["x-original-url", "x-rewrite-url", "x-original-uri"]);
    }
    if settings.rules.rules.iter().any(|rule| !rule.methods.is_empty()) {
        also(&["x-http-method-override", "x-http-method", "x-method-override"]);
    }
    Strip::new(&names)
}

/// The backend, as a request's destination.
struct Towards<'a> {
    worker: &'a Rc<Worker>,
    view: &'a View,
}

impl Origin for Towards<'_> {
    fn pool(&self) -> Result<Rc<Pool>, Error> {
        Ok(Rc::clone(&self.view.pool))
    }

    async fn connect(&self, http1: bool) -> Result<Link, Error> {
        let settings = &self.view.ingress.settings;
        if http1 && matches!(settings.backend, Backend::H2c(_)) {
            return Err(Error::UpgradeNeedsHttp1);
        }
        let most = self.worker.share_of(settings.limits.connections);
        if self.view.pool.open() >= most {
            return Err(Error::UsedUp(format!("{most} are open, this worker's share of limits.connections")));
        }
        let deadline = Instant::now() + settings.limits.connect;
        let terms = Terms { deadline, keepalive: Some(KEEPALIVE), refresh: REFRESH };
        let ends = Ends { home: Rc::clone(&self.view.pool), tracked: None, proof: None };
        let stream = match &settings.backend {
            Backend::Http(to) | Backend::H2c(to) => self.worker.dialler().tcp(to, terms).await,
            Backend::Unix(path) => dial::unix(path, deadline).await,
        };
        let stream = stream.map_err(Error::dialling)?;
        match &settings.backend {
            Backend::Http(_) | Backend::Unix(_) => Link::http1(stream, ends).await,
            Backend::H2c(_) => Link::http2(stream, ends).await,
        }
    }

    fn replay_limit(&self) -> usize {
        REPLAY_LIMIT
    }

    fn answered(&self, _: &Link, _: http::StatusCode) {}

    fn failed(&self, _: &Link) -> Option<Error> {
        None
    }
}
