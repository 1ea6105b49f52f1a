//! The application's connection: plain HTTP/1.1 in, from loopback or a Unix socket; its requests go to the upstream.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::header::HeaderValue;
use http::uri::Scheme;
use http::{Request, Response};
use hyper::body::Incoming;

use super::resources::{EgressResources, UpstreamRef};
use super::retry;
use super::upstream::UpstreamState;
use crate::dataplane::connection::ConnectionGuard;
use crate::dataplane::connection::view::{ConnectionOwner, ViewSlot};
use crate::dataplane::context::ListenerContext;
use crate::dataplane::exchange::access::{AccessLineTemplate, AccessRecord, ClientFields};
use crate::dataplane::exchange::forward::{ForwardContext, OutboundRequest, RequestFailure, check_head_size};
use crate::dataplane::exchange::response_body::ResponseBody;
use crate::dataplane::exchange::shape::RequestDestination;
use crate::dataplane::serve::{RequestHandler, ServedConnection};
use crate::dataplane::shared::ConnectionSlot;
use crate::http::error::RequestError as Error;
use crate::http::fields::{ForwardingPolicy, StripList, clean_request};
use crate::http::interim::InterimSender;
use crate::http::{cross_site, named_host, target};
use crate::metrics;
use crate::snapshot::{EgressSnapshot, Epoch, Side};

/// What the requests of one connection share, made by the first of an epoch or after a rest.
pub(super) struct EgressView {
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
pub(super) struct EgressConnection {
    pub(super) resources: Rc<EgressResources>,
    pub(super) listener: Rc<ListenerContext>,
    pub(super) tracked: Rc<ConnectionGuard>,
    pub(super) view: ViewSlot<EgressView>,
    pub(super) from: Option<SocketAddr>,
    /// Counted until the connection ends.
    pub(super) _slot: ConnectionSlot,
    pub(super) _counted: metrics::OpenConnectionGuard,
}

impl EgressConnection {
    fn view(&self) -> Result<Rc<EgressView>, Error> {
        let context = &self.resources.context;
        if let Some(view) = self.view.view(context.epoch()) {
            return Ok(view);
        }
        let (egress, epoch) = context.egress(&self.listener.id.name).ok_or_else(|| self.explain_absence())?;
        let settings = &egress.settings;
        let authority = settings.upstream.https_authority();
        let host = (!settings.keep_host).then(|| HeaderValue::try_from(&authority).ok()).flatten();
        let view = Rc::new(EgressView {
            epoch,
            upstream: self.resources.upstream(&settings.name),
            authority,
            host,
            strip: Rc::default(),
            access: self.access_line(settings.log_access),
            known: target::HostCache::default(),
            egress,
        });
        self.view.set_view(epoch, &view);
        Ok(view)
    }

    fn access_line(&self, log: bool) -> Rc<AccessLineTemplate> {
        let asker = ClientFields {
            side: Side::Egress,
            listener: &self.listener.id.name,
            connection: self.tracked.open.number,
            from: self.from,
            peer: None,
        };
        AccessLineTemplate::new(&self.listener.request_context, log, &asker)
    }

    /// What this egress lacks, so that it is in no snapshot.
    fn explain_absence(&self) -> Error {
        let snapshot = self.resources.context.snapshot();
        let waits_for = snapshot.missing_part(&self.listener.id).unwrap_or("a usable key pair");
        Error::EgressWaits { waits_for: waits_for.to_owned() }
    }

    async fn forward(
        &self,
        view: &EgressView,
        mut request: Request<Incoming>,
        interim: Option<InterimSender>,
        record: &mut Option<AccessRecord>,
    ) -> Result<Response<ResponseBody>, Error> {
        let settings = &view.egress.settings;
        let limits = &settings.limits;
        let named = target::request_host(&request, &view.known)?;
        cross_site::check_same_site(request.headers(), &named, &view.authority)?;
        named_host::check_own_host(&named, &settings.listen, settings.own_hosts())?;
        check_head_size(&request, limits)?;
        if request.uri().authority().is_some() {
            *request.uri_mut() = target::origin_form(request.uri(), None)?;
        }
        // The application is trusted: its own statements about a request's origin are forwarded.
        let cleaned = clean_request(request.headers_mut(), &view.strip, ForwardingPolicy::Keep)?;
        let host = view.host.clone().unwrap_or(named);
        let (waits, client) = (self.resources.context.waits(), &self.tracked.open.activity);
        let terms = ForwardContext { limits, strip: &view.strip, waits, client };
        let mut outbound = OutboundRequest::new(request, interim, &host, cleaned, &terms);
        let to = RequestDestination { host, scheme: Scheme::HTTPS };
        let towards = UpstreamRef {
            resources: &self.resources,
            egress: &view.egress,
            epoch: view.epoch,
            upstream: &view.upstream,
        };
        retry::send(towards, &mut outbound, &to, &terms, record).await
    }
}

impl RequestHandler for EgressConnection {
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
        let view = match self.view() {
            Ok(view) => view,
            Err(error) => {
                let record = Some(AccessRecord::start(&self.access_line(true), &request, flight));
                return Err(RequestFailure { error, record });
            }
        };
        let mut record = Some(AccessRecord::start(&view.access, &request, flight));
        self.forward(&view, request, interim, &mut record).await.map_err(|error| RequestFailure { error, record })
    }
}

impl ConnectionOwner for EgressConnection {
    fn forget_view(&self) {
        self.view.clear_view();
    }
}
