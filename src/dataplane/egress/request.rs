//! The application's connection: plain HTTP/1.1 in, from loopback or a Unix socket; its requests go to the upstream.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::header::HeaderValue;
use http::uri::Scheme;
use http::{Request, Response};
use hyper::body::Incoming;

use super::proof;
use super::token;
use super::upstream::{UpstreamRef, UpstreamState};
use crate::clock::deadlines::WaitTable;
use crate::dataplane::connection::{ConnectionGuard, ConnectionLimit, ConnectionState, ConnectionView as OpenView};
use crate::dataplane::exchange::access::{AccessLineTemplate, AccessRecord, ClientFields, RequestContext};
use crate::dataplane::exchange::forward;
use crate::dataplane::exchange::forward::{OutboundRequest, RefusalContext, check_field_count, refuse};
use crate::dataplane::exchange::link::RequestDestination;
use crate::dataplane::listener::WorkerListener;
use crate::dataplane::serve::RequestHandler;
use crate::dataplane::worker::Worker;
use crate::dataplane::workers::ConnectionSlot;
use crate::http::body::ResponseBody;
use crate::http::cross_site;
use crate::http::error::RequestError as Error;
use crate::http::fields::{ForwardingPolicy, StripList, clean_request};
use crate::http::target;
use crate::metrics;
use crate::net::HostPort;
use crate::snapshot::{EgressSnapshot, Epoch, Side};

/// The default port of `https`, which an authority omits.
const HTTPS_PORT: u16 = 443;

/// What the requests of one connection share, made once per epoch.
pub(crate) struct EgressView {
    egress: Arc<EgressSnapshot>,
    epoch: Epoch,
    upstream: Rc<UpstreamState>,
    /// The upstream's authority.
    authority: String,
    /// The same as a field, unless the application's own Host is kept.
    host: Option<HeaderValue>,
    strip: Rc<StripList>,
    access: Rc<AccessLineTemplate>,
    known: target::HostCache,
}

/// One connection of the application.
pub(crate) struct EgressConnection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: Rc<WorkerListener>,
    pub(crate) tracked: Rc<ConnectionGuard>,
    pub(crate) from: Option<SocketAddr>,
    /// Counted until the connection ends.
    pub(crate) _slot: ConnectionSlot,
    pub(crate) _counted: metrics::OpenConnectionGuard,
}

impl EgressConnection {
    fn view(&self) -> Result<Rc<EgressView>, Error> {
        if let OpenView::Egress(view) = &*self.tracked.open.view.borrow() {
            return Ok(Rc::clone(view));
        }
        let (egress, epoch) = self.worker.egress(&self.listener.id.name).ok_or(Error::NoKeyPair)?;
        let settings = &egress.settings;
        let asker = ClientFields {
            side: Side::Egress,
            listener: &settings.name,
            connection: self.tracked.open.number,
            from: self.from,
            peer: None,
        };
        let authority = authority(&settings.upstream);
        let host = (!settings.keep_host).then(|| HeaderValue::try_from(&authority).ok()).flatten();
        let view = Rc::new(EgressView {
            epoch,
            upstream: self.worker.upstream(&settings.name),
            authority,
            host,
            strip: Rc::default(),
            access: AccessLineTemplate::new(&self.listener.desk, settings.log_access, &asker),
            known: target::HostCache::default(),
            egress,
        });
        *self.tracked.open.view.borrow_mut() = OpenView::Egress(Rc::clone(&view));
        Ok(view)
    }

    async fn forward(
        &self,
        view: &EgressView,
        mut request: Request<Incoming>,
        record: &mut Option<AccessRecord>,
    ) -> Result<Response<ResponseBody>, Error> {
        let limits = &view.egress.settings.limits;
        let named = target::request_host(&request, &view.known)?;
        cross_site::check_same_site(request.headers(), &named, &view.authority)?;
        check_field_count(request.headers(), limits)?;
        if request.uri().authority().is_some() {
            *request.uri_mut() = target::origin_form(request.uri(), None)?;
        }
        // The application is trusted: its own statements about a request's origin are forwarded.
        let cleaned = clean_request(request.headers_mut(), &view.strip, ForwardingPolicy::Keep)?;
        let host = view.host.clone().unwrap_or(named);
        let terms = forward::ForwardContext { limits, strip: &view.strip, waits: self.worker.waits() };
        let mut outbound = OutboundRequest::new(request, &host, cleaned, &terms);
        let to = RequestDestination { host, scheme: Scheme::HTTPS };
        let towards =
            UpstreamRef { worker: &self.worker, egress: &view.egress, epoch: view.epoch, upstream: &view.upstream };
        match &view.egress.bearer {
            Some(bearer) => token::send(towards, bearer, &mut outbound, (&to, &terms), record).await,
            None => proof::send(towards, &mut outbound, &to, &terms, record).await,
        }
    }
}

impl RequestHandler for EgressConnection {
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
        let flight = open.begin_flight();
        let (refused, record) = match self.view() {
            Ok(view) => {
                let mut record = Some(AccessRecord::start(&view.access, &request, flight));
                match self.forward(&view, request, &mut record).await {
                    Ok(response) => return response,
                    Err(error) => (open.notes.explain(error), record),
                }
            }
            Err(error) => (error, None),
        };
        let listener = &self.listener.id.name;
        let asked = RefusalContext { side: Side::Egress, listener, connection: open.number, http2: false };
        refuse(&refused, &asked, record)
    }
}

/// An upstream as a Host field names it.
pub(crate) fn authority(upstream: &HostPort) -> String {
    let whole = upstream.to_string();
    match whole.strip_suffix(&format!(":{HTTPS_PORT}")) {
        Some(host) if upstream.port == HTTPS_PORT => host.to_owned(),
        _ => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_port_is_left_out_of_the_host() {
        let named = |host: &str, port| authority(&HostPort { host: host.into(), port });
        assert_eq!(named("api.example", 443), "api.example");
        assert_eq!(named("api.example", 8443), "api.example:8443");
        assert_eq!(named("2001:db8::1", 443), "[2001:db8::1]");
        assert_eq!(named("2001:db8::1", 4433), "[2001:db8::1]:4433");
    }
}
