//! The application's connection: plain HTTP/1.1 in, from loopback or a Unix socket; its requests go to the upstream.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::header::HeaderValue;
use http::uri::Scheme;
use http::{Request, Response};
use hyper::body::Incoming;

use super::Error;
use super::access::{Asker, Desk, Prepared, Record};
use super::body::Body;
use super::cross_site;
use super::fields::{Forwarding, Strip, clean_request};
use super::forward::{self, Asked, Outbound, refuse, within};
use super::link::Destination;
use super::listener::Listener;
use super::open::{Open, Reached, Tracked, View as OpenView};
use super::proof;
use super::serve::Answers;
use super::target;
use super::token;
use super::upstream::{Towards, Upstream};
use super::waits::Waits;
use super::worker::Worker;
use super::workers::Slot;
use crate::metrics;
use crate::net::HostPort;
use crate::snapshot::{Egress, Epoch, Side};

/// The default port of `https`, which an authority omits.
const HTTPS: u16 = 443;

/// What the requests of one connection share, made once per epoch.
pub(super) struct View {
    egress: Arc<Egress>,
    epoch: Epoch,
    upstream: Rc<Upstream>,
    /// The upstream's authority.
    authority: String,
    /// The same as a field, unless the application's own Host is kept.
    host: Option<HeaderValue>,
    strip: Rc<Strip>,
    access: Rc<Prepared>,
    known: target::Known,
}

/// One connection of the application.
pub(super) struct Connection {
    pub(super) worker: Rc<Worker>,
    pub(super) listener: Rc<Listener>,
    pub(super) tracked: Rc<Tracked>,
    pub(super) from: Option<SocketAddr>,
    /// Counted until the connection ends.
    pub(super) _slot: Slot,
    pub(super) _counted: metrics::Open,
}

impl Connection {
    fn view(&self) -> Result<Rc<View>, Error> {
        if let OpenView::Egress(view) = &*self.tracked.open.view.borrow() {
            return Ok(Rc::clone(view));
        }
        let (egress, epoch) = self.worker.egress(&self.listener.id.name).ok_or(Error::NoKeyPair)?;
        let settings = &egress.settings;
        let asker = Asker {
            side: Side::Egress,
            listener: &settings.name,
            connection: self.tracked.open.number,
            from: self.from,
            peer: None,
        };
        let authority = authority(&settings.upstream);
        let host = (!settings.keep_host).then(|| HeaderValue::try_from(&authority).ok()).flatten();
        let view = Rc::new(View {
            epoch,
            upstream: self.worker.upstream(&settings.name),
            authority,
            host,
            strip: Rc::default(),
            access: Prepared::new(&self.listener.desk, settings.log_access, &asker),
            known: target::Known::default(),
            egress,
        });
        *self.tracked.open.view.borrow_mut() = OpenView::Egress(Rc::clone(&view));
        Ok(view)
    }

    async fn forward(
        &self,
        view: &View,
        mut request: Request<Incoming>,
        record: &mut Option<Record>,
    ) -> Result<Response<Body>, Error> {
        let limits = &view.egress.settings.limits;
        let named = target::host(&request, &view.known)?;
        cross_site::check(request.headers(), &named, &view.authority)?;
        within(request.headers(), limits)?;
        if request.uri().authority().is_some() {
            *request.uri_mut() = target::origin_form(request.uri(), None)?;
        }
        // The application is trusted: its own statements about a request's origin are forwarded.
        let cleaned = clean_request(request.headers_mut(), &view.strip, Forwarding::Keep)?;
        let host = view.host.clone().unwrap_or(named);
        let terms = forward::Terms { limits, strip: &view.strip, waits: self.worker.waits() };
        let mut outbound = Outbound::new(request, &host, cleaned, &terms);
        let to = Destination { host, scheme: Scheme::HTTPS };
        let towards =
            Towards { worker: &self.worker, egress: &view.egress, epoch: view.epoch, upstream: &view.upstream };
        match &view.egress.bearer {
            Some(bearer) => token::send(towards, bearer, &mut outbound, (&to, &terms), record).await,
            None => proof::send(towards, &mut outbound, &to, &terms, record).await,
        }
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
        let flight = open.flight();
        let (refused, record) = match self.view() {
            Ok(view) => {
                let mut record = Some(Record::begin(&view.access, &request, flight));
                match self.forward(&view, request, &mut record).await {
                    Ok(response) => return response,
                    Err(error) => (open.notes.explain(error), record),
                }
            }
            Err(error) => (error, None),
        };
        let listener = &self.listener.id.name;
        let asked = Asked { side: Side::Egress, listener, connection: open.number, http2: false };
        refuse(&refused, &asked, record)
    }
}

/// An upstream as a Host field names it.
pub(super) fn authority(upstream: &HostPort) -> String {
    let whole = upstream.to_string();
    match whole.strip_suffix(&format!(":{HTTPS}")) {
        Some(host) if upstream.port == HTTPS => host.to_owned(),
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
